"""Curvature and gradients over data that come in batches, and are never all in memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..arrays import Array
from .base import Operator
from .curvature import GaussNewton

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


class Streamed(Operator):
    """The mean of an operator over batches of samples: each product runs over the data once.

    The batches come in their own order, the same in each product, or the products are not of one matrix: each batch's
    fingerprint is kept from the first pass and compared in every other. What the gradient or the loss is computed on is
    another matter: make a gradient of other batches with `streamed_gradient`.

    Parameters
    ----------
    network : MLP or RNN
        Or anything whose ``linearize(theta, X)`` returns a linearisation.
    theta : (n,) array
    loss : Loss
    batches : iterable, or function that returns one
        Of (X, Y) or (X, Y, weights). It is gone through in every product, so that a generator will not do: pass the
        function that makes it.
    operator : callable
        ``operator(linearization, loss, Y, weights=weights)`` of one batch: `GaussNewton` (the default), `Hessian`, ...
    check : bool
        Whether to take fingerprints (CRC-32 of the bytes).

    Attributes
    ----------
    samples : int
        Number of samples, known after the first pass, which is made at once.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network, loss = cgopt.nn.MLP([3, 2]), cgopt.nn.SquaredError()
    >>> X, Y = np.eye(3), np.zeros((3, 2))
    >>> G = cgopt.operators.Streamed(network, np.zeros(8), loss, [(X[:2], Y[:2]), (X[2:], Y[2:])])
    >>> whole = cgopt.operators.GaussNewton(network.linearize(np.zeros(8), X), loss, Y)
    >>> np.allclose(G @ np.ones(8), whole @ np.ones(8))
    True
    """

    def __init__(
        self,
        network: Any,
        theta: Array,
        loss: Any,
        batches: Batches,
        *,
        operator: Callable[..., Operator] = GaussNewton,
        check: bool = True,
    ) -> None:
        if isinstance(batches, Iterator):
            raise TypeError(
                f"batches is a {type(batches).__name__}, which can be gone through once only; pass a list, or the "
                "function that makes it"
            )
        self.network, self.theta, self.loss = network, theta, loss
        self.batches, self.operator = batches, operator
        self.shape, self.dtype = (theta.size, theta.size), theta.dtype
        self._prints = [_fingerprint(batch, check) for batch in _once(batches)]
        if not self._prints:
            raise ValueError("batches holds no batch")
        self.samples = sum(size for size, _ in self._prints)
        self.check = check

    def _parts(self) -> Iterator[tuple[float, Operator]]:
        """Each batch's operator with its share of the samples."""
        count = 0
        for count, batch in enumerate(_once(self.batches), start=1):
            found = _fingerprint(batch, self.check)
            if count > len(self._prints) or found != self._prints[count - 1]:
                raise ValueError(
                    f"batches changed: number {count} is not what it was in the first pass, so the products would be "
                    "of different matrices; fix the order, the augmentation and the seed, or pass a list"
                )
            X, Y, weights = _parted(batch)
            at = self.network.linearize(self.theta, X)
            yield X.shape[0] / self.samples, self.operator(at, self.loss, Y, weights=weights)
        if count < len(self._prints):
            raise ValueError(f"batches changed: {count} came, and {len(self._prints)} in the first pass; pass a list")

    def _matmat(self, X: Array, out: Array) -> None:
        out[...] = 0.0
        for share, A in self._parts():
            out += self.dtype.type(share) * (A @ X)

    def _matvec(self, x: Array, out: Array) -> None:
        self._matmat(x, out)

    def diagonal(self) -> Array | None:
        """The diagonal, where the batches' operators know theirs."""
        total: Array = np.zeros(self.shape[0], self.dtype)
        for share, A in self._parts():
            part = A.diagonal()
            if part is None:
                return None
            total += self.dtype.type(share) * part
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of theta; a batch at a time is held beside it during a product."""
        return int(self.theta.nbytes)

    def __repr__(self) -> str:
        what = getattr(self.operator, "__name__", type(self.operator).__name__)
        return f"Streamed({what}, {self.network!r}, {self.samples} samples in {len(self._prints)} batches)"


def streamed_gradient(network: Any, theta: Array, loss: Any, batches: Batches) -> tuple[float, Array]:
    """The mean loss over batches and its gradient, in one pass.

    Parameters
    ----------
    network, theta, loss, batches
        As for `Streamed`; here a generator will do.

    Returns
    -------
    value : float
    gradient : (n,) array

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network, loss = cgopt.nn.MLP([2, 1]), cgopt.nn.SquaredError()
    >>> batches = [([[1.0, 0.0]], [[1.0]]), ([[0.0, 1.0]], [[3.0]])]
    >>> cgopt.operators.streamed_gradient(network, np.zeros(3), loss, batches)
    (2.5, array([-0.5, -1.5, -2. ]))
    """
    total, value, samples = np.zeros_like(theta), 0.0, 0
    for batch in _once(batches):
        X, Y, weights = _parted(batch)
        of_batch, gradient = network.loss_and_gradient(theta, X, loss, Y, weights)
        value += X.shape[0] * of_batch
        total += theta.dtype.type(X.shape[0]) * gradient
        samples += X.shape[0]
    if samples == 0:
        raise ValueError("batches holds no batch")
    return value / samples, total / theta.dtype.type(samples)


def _once(batches: Batches) -> Iterable[Any]:
    return batches() if callable(batches) else batches


def _parted(batch: Any) -> tuple[Array, Any, Any]:
    """A batch as inputs, targets, and weights or None."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise TypeError(f"batches must yield (X, Y) or (X, Y, weights), got {type(batch).__name__}")
    return np.asarray(batch[0]), batch[1], batch[2] if len(batch) == 3 else None


def _fingerprint(batch: Any, check: bool) -> tuple[int, int]:
    """Number of samples and a digest of the bytes."""
    X, Y, weights = _parted(batch)
    digest = 0
    for part in (X, Y, weights) if check else ():
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes() if part is not None else b"-", digest)
    return X.shape[0], digest
