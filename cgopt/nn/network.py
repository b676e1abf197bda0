"""What networks share: functions of one flat parameter vector.

A layer maps h to f(W'h + b). Its parameters lie in the flat vector as one row-major block ``[W; b]`` of n_in + 1 rows,
and its input is kept as rows ``[h 1]``: so the forward pass, its derivative and the gradient are each one matrix
product that reads a parameter vector, or writes one, where it lies, without a copy and without a pass for the biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arguments import Seed, float_dtype, generator
from ..arrays import Array, as_array_there, contiguous, first_nonfinite, on_device
from . import initialize


class Block(NamedTuple):
    """One layer's place in the flat vector: ``[W; b]``, (inputs + 1, units), W without b where there is no bias."""

    weight: str
    bias: str | None
    start: int
    inputs: int
    units: int

    @property
    def rows(self) -> int:
        """Rows of the block."""
        return self.inputs + (self.bias is not None)

    @property
    def stop(self) -> int:
        """End of the block in the flat vector."""
        return self.start + self.rows * self.units

    def of(self, theta: Array) -> Array:
        """The block of a flat vector, (rows, units), or of k of them as columns, (rows, units, k): a view."""
        return theta[self.start : self.stop].reshape(self.rows, self.units, *theta.shape[1:])

    def columns(self, v: Array) -> Array:
        """The block of (n,) or (n, k) as (rows, k * units), ready to be multiplied from the left."""
        return self.of(v).reshape(self.rows, self.units, -1).transpose(0, 2, 1).reshape(self.rows, -1)

    def write(self, out: Array, product: Array) -> None:
        """Write (rows, k * units) to the block of (n,) or (n, k)."""
        whole = self.of(out).reshape(self.rows, self.units, -1)
        whole[...] = product.reshape(self.rows, -1, self.units).transpose(0, 2, 1)

    def transposed_weights(self, v: Array) -> Array:
        """The weights of (n,) or (n, k), as (units, k * inputs), to be multiplied from the left by adjoints."""
        weights = self.of(v)[: self.inputs].reshape(self.inputs, self.units, -1)
        return weights.transpose(1, 2, 0).reshape(self.units, -1)

    def add_to_weights(self, out: Array, product: Array) -> None:
        """Add (k * inputs, units) to the weights of (n,) or (n, k)."""
        weights = self.of(out)[: self.inputs].reshape(self.inputs, self.units, -1)
        weights += product.reshape(-1, self.inputs, self.units).transpose(1, 2, 0)


def lay_out(blocks: Sequence[tuple[str, str | None, int, int]]) -> tuple[Block, ...]:
    """Blocks (weight, bias, inputs, units) one after the other."""
    out: list[Block] = []
    for weight, bias, inputs, units in blocks:
        out.append(Block(weight, bias, out[-1].stop if out else 0, inputs, units))
    return tuple(out)


class Network:
    """What networks share: the flat vector and its views, starting points, and gradients by way of `linearize`.

    Attributes
    ----------
    n : int
        Number of parameters.
    n_inputs, n_outputs : int
    blocks : tuple of Block
        Where each layer lies in the flat vector.
    """

    blocks: tuple[Block, ...]
    n_inputs: int
    n_outputs: int

    @property
    def n(self) -> int:
        """Number of parameters."""
        return self.blocks[-1].stop

    def views(self, theta: Array) -> dict[str, Array]:
        """Named views of a flat vector: writing to them writes to it.

        Parameters
        ----------
        theta : (n,) array

        Returns
        -------
        dict of str to array
            Weights (inputs, units) and biases (units,), in the order in which they lie.

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.MLP([3, 5, 2])
        >>> {name: view.shape for name, view in network.views(np.zeros(network.n)).items()}
        {'W0': (3, 5), 'b0': (5,), 'W1': (5, 2), 'b1': (2,)}
        """
        if not (isinstance(theta, np.ndarray) or on_device(theta)) or theta.shape != (self.n,):
            raise ValueError(f"theta must be an array of shape ({self.n},), got {np.shape(theta)}")
        named = {}
        for block in self.blocks:
            whole = block.of(theta)
            named[block.weight] = whole[: block.inputs]
            if block.bias is not None:
                named[block.bias] = whole[block.inputs]
        return named

    def init(self, rng: Seed = None, *, scheme: str = "scaled", dtype: Any = np.float64, **options: Any) -> Array:
        """A starting point.

        Parameters
        ----------
        rng : None, int or numpy.random.Generator
        scheme : {"scaled", "sparse", "orthogonal", "zero"}
            See `cgopt.nn.initialize`.
        dtype : {float32, float64}
        **options
            Of the scheme.

        Returns
        -------
        (n,) array

        Examples
        --------
        >>> import cgopt
        >>> cgopt.nn.MLP([4, 8, 2]).init(0, scheme="orthogonal").shape
        (58,)
        """
        fill = initialize.scheme(scheme, options)
        theta = np.zeros(self.n, float_dtype(dtype, allowed=("float32", "float64")))
        rng = generator(rng)
        for block in self.blocks:
            whole = block.of(theta)
            bias = whole[block.inputs] if block.bias is not None else np.zeros(block.units)
            fill(whole[: block.inputs], bias, rng)
        return theta

    def parameters(self, theta: Any) -> Array:
        """`theta` as a contiguous float32 or float64 vector, checked; a copy only where it must be one."""
        theta = as_array_there(theta, "theta")
        if theta.shape != (self.n,):
            raise ValueError(f"theta must have shape ({self.n},), the parameters of {self!r}; got {theta.shape}")
        if theta.dtype.kind != "f":
            raise TypeError(f"theta must be real, got {theta.dtype}")
        require_finite(theta, "theta")
        return contiguous(theta)

    def linearize(self, theta: Array, X: Array) -> Any:
        """The network at theta on a batch; see the subclasses."""
        raise NotImplementedError

    def loss_and_gradient(self, theta: Array, X: Array, loss: Any, Y: Any, weights: Any = None) -> tuple[float, Array]:
        """The mean loss on a batch, and its gradient.

        Parameters
        ----------
        theta : (n,) array
        X : array
            Inputs, as `linearize` takes them.
        loss : Loss
        Y : array
            Targets, as the loss takes them.
        weights : array, optional
            Of the samples.

        Returns
        -------
        value : float
        gradient : (n,) array

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.MLP([2, 1])
        >>> X, Y = np.eye(2), np.array([[1.0], [3.0]])
        >>> network.loss_and_gradient(np.zeros(3), X, cgopt.nn.SquaredError(), Y)
        (2.5, array([-0.5, -1.5, -2. ]))
        """
        linearization = self.linearize(theta, X)
        gradient: Array = linearization.vjp(loss.gradient(linearization.output, Y, weights))
        return loss.value(linearization.output, Y, weights), gradient

    def description(self) -> dict[str, Any]:
        """What makes the network, for the header of a file."""
        raise NotImplementedError

    def gradient(self, theta: Array, X: Array, output_gradient: Array) -> Array:
        """``J'u``: the gradient in theta of what has the gradient `output_gradient` in the outputs.

        Parameters
        ----------
        theta : (n,) array
        X : array
            Inputs, as `linearize` takes them.
        output_gradient : array of the outputs' shape

        Returns
        -------
        (n,) array
        """
        gradient: Array = self.linearize(theta, X).vjp(output_gradient)
        return gradient


def as_inputs(X: Any, ndim: int, n_inputs: int) -> Array:
    """`X` as a real array of `ndim` dimensions, the last of them the network's inputs, finite."""
    X = as_array_there(X, "X")
    if X.ndim != ndim or X.shape[-1] != n_inputs or 0 in X.shape:
        axes = "samples, " if ndim == 2 else "samples, steps, "
        raise ValueError(f"X must have shape ({axes}{n_inputs}), with at least one sample; got {X.shape}")
    if X.dtype.kind != "f":
        raise TypeError(f"X must be real, got {X.dtype}")
    require_finite(X, "X")
    return X


def require_finite(a: Array, name: str) -> None:
    """Refuse NaN and infinities. The sum shows most arrays to be finite in one pass."""
    with np.errstate(all="ignore"):
        if np.isfinite(a.sum()):
            return
    where = first_nonfinite(a)
    if where is not None:
        raise ValueError(f"{name} holds NaN or infinity, first at {where}; all entries must be finite")


def require_buffer(a: Array, shape: tuple[int, ...], dtype: Any, name: str) -> Array:
    """`a`, if it can be read and written in place as it is."""
    if a.shape != shape or a.dtype != dtype or not a.flags.c_contiguous:
        raise ValueError(f"{name} must be a contiguous {dtype} array of shape {shape}, got {a.dtype}, {a.shape}")
    return a


def as_direction(v: Any, n: int, dtype: Any) -> Array:
    """`v` as a contiguous (n,) or (n, k) array of the linearisation's type."""
    v = contiguous(v, dtype)
    if v.ndim not in (1, 2) or v.shape[0] != n:
        raise ValueError(f"v must have shape ({n},) or ({n}, k), got {v.shape}")
    return v


def as_output_direction(u: Any, output: tuple[int, ...], dtype: Any) -> Array:
    """`u` as a contiguous array of the outputs' shape, or with k vectors before its last axis."""
    u = contiguous(u, dtype)
    if u.shape != output and (u.ndim != len(output) + 1 or (*u.shape[:-2], u.shape[-1]) != output):
        raise ValueError(
            f"u must have the outputs' shape {output}, or {(*output[:-1], 'k', output[-1])}; got {u.shape}"
        )
    return u
