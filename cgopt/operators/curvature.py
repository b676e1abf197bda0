"""Curvature of a mean loss in a network's parameters, by products: Gauss-Newton, Fisher, and Hessian matrices.

All of them take a linearisation, which has run the forward pass once: an object with ``n``, ``dtype``, ``output``,
``jvp(v, out)`` and ``vjp(u, out)``, such as `cgopt.nn.MLP.linearize` returns. One product is J v, the loss's own
curvature M in the outputs, and J' of the result; M may come from a loss or from a policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import Seed, generator, one_of, real_number, whole_number
from ..arrays import Array, as_array, contiguous, on_device
from .base import Operator


class JacobianOperator(Operator):
    """``J' M J`` for a linearisation and a symmetric matrix M in its outputs.

    Parameters
    ----------
    linearization : object with n, dtype, output, jvp, vjp
    M : OutputCurvature
        Multiplies in place, by ``M.multiply(U)``.
    """

    def __init__(self, linearization: Any, M: Any) -> None:
        self.linearization, self.M = linearization, M
        self.shape, self.dtype = (linearization.n, linearization.n), np.dtype(linearization.dtype)
        self.on_device = self.capturable = on_device(linearization.output)
        self._u: dict[int, Array] = {}

    def _outputs(self, k: int) -> Array:
        """A buffer of the outputs' shape, for k > 0 vectors at once with k before the last axis."""
        if k not in self._u:
            shape = self.linearization.output.shape
            u: Array = np.empty((*shape[:-1], k, shape[-1]) if k else shape, self.dtype, like=self.linearization.output)
            self._u[k] = u
        return self._u[k]

    def _product(self, v: Array, out: Array, u: Array) -> None:
        direct = out.dtype == self.dtype and out.flags.c_contiguous
        self.linearization.jvp(v, out=u)  # J v
        self.M.multiply(u)  # M J v
        if direct:
            self.linearization.vjp(u, out=out)  # J' M J v
        else:
            out[...] = self.linearization.vjp(u)

    def _matvec(self, x: Array, out: Array) -> None:
        self._product(x, out, self._outputs(0))

    def _matmat(self, X: Array, out: Array) -> None:
        self._product(X, out, self._outputs(X.shape[1]))

    def diagonal(self) -> Array | None:
        """The diagonal, exactly, by one squared backward pass for each output; None where there is none.

        M is a sum of outer products, sample by sample, and so the diagonal a sum of squares of ``J_i' g_i``.
        """
        squared = getattr(self.linearization, "squared_vjp", None)
        factor = getattr(self.M, "factor", None)
        if squared is None or factor is None:
            return None
        total: Array = sum(squared(g) for g in factor())
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of the linearisation and the buffers."""
        return int(self.linearization.nbytes) + sum(u.nbytes for u in self._u.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.linearization!r})"


class GaussNewton(JacobianOperator):
    """The generalised Gauss-Newton matrix of a mean loss, ``J' H J``, H the loss's Hessian in the outputs.

    Positive semi-definite where the loss is convex in the outputs (Schraudolph 2002). The mean is over samples, and any
    damping added to it is relative to the mean loss.

    Parameters
    ----------
    linearization : object with n, dtype, output, jvp, vjp
        Of the network at theta on the batch, as `cgopt.nn.MLP.linearize` returns.
    loss : Loss
        Anything with ``output_hessian(outputs, Y, weights)``.
    Y : array
        Targets, as the loss takes them.
    weights : array, optional
        Of the samples.
    structural : float
        For recurrent networks: so many times the Gauss-Newton matrix of a distance between hidden states is added,
        summed over steps and averaged over samples (structural damping, Martens and Sutskever 2011, section 4).

    Attributes
    ----------
    structural : float
        May be set between solves.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([3, 4, 2])
    >>> at = network.linearize(network.init(0), np.eye(3))
    >>> G = cgopt.operators.GaussNewton(at, cgopt.nn.SoftmaxCrossEntropy(), [0, 1, 1])
    >>> G.shape, bool(np.ones(26) @ (G @ np.ones(26)) >= 0)
    ((26, 26), True)
    """

    def __init__(self, linearization: Any, loss: Any, Y: Any, *, weights: Any = None, structural: float = 0.0) -> None:
        super().__init__(linearization, loss.output_hessian(linearization.output, Y, weights))
        self.loss = loss
        self.structural = real_number("structural", structural)
        if self.structural < 0.0:
            raise ValueError(f"structural must not be negative, got {structural!r}")
        if self.structural and not hasattr(linearization, "gauss_newton"):
            raise ValueError("structural damping is of the hidden states of a recurrent network; leave structural at 0")

    def _product(self, v: Array, out: Array, u: Array) -> None:
        if not self.structural:
            super()._product(v, out, u)
            return
        product = np.empty(out.shape, self.dtype)
        self.linearization.gauss_newton(v, self.M, self.structural, product)
        out[...] = product

    def diagonal(self) -> Array | None:
        """As that of `JacobianOperator`; not known with structural damping."""
        return None if self.structural else super().diagonal()

    def __repr__(self) -> str:
        return f"GaussNewton({self.linearization!r}, {self.loss!r})"


class Fisher(JacobianOperator):
    """The Fisher matrix of the distribution whose -log p is the loss, ``J' F J``, as a mean over the samples.

    Parameters
    ----------
    linearization : object with n, dtype, output, jvp, vjp
    model : Loss, or a policy
        Exact products ask for ``model.output_fisher(outputs, weights)`` only.
    kind : {"exact", "monte-carlo", "empirical"}
        The expectation over targets y from the model itself, in closed form or by `samples` draws for each input, or
        the targets Y that were seen in its place. The empirical matrix is not an approximation of the others away
        from a good fit, and is named so for that reason (Kunstner, Balles and Hennig 2019).
    Y : array, optional
        Targets; for "empirical" only.
    samples : int
        Draws for each input; for "monte-carlo" only. They are drawn once: all products are of one matrix.
    rng : None, int or numpy.random.Generator
    weights : array, optional
        Of the samples, not negative.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([3, 2])
    >>> at = network.linearize(network.init(0), np.eye(3))
    >>> loss = cgopt.nn.SoftmaxCrossEntropy()
    >>> F, G = cgopt.operators.Fisher(at, loss), cgopt.operators.GaussNewton(at, loss, [0, 1, 1])
    >>> np.allclose(F @ np.eye(8), G @ np.eye(8))
    True
    """

    def __init__(
        self,
        linearization: Any,
        model: Any,
        *,
        kind: str = "exact",
        Y: Any = None,
        samples: int = 1,
        rng: Seed = None,
        weights: Any = None,
    ) -> None:
        self.model, self.kind = model, one_of("kind", kind, ("exact", "monte-carlo", "empirical"))
        if (Y is not None) != (kind == "empirical"):
            raise ValueError(f"Y must be given for kind='empirical', and for no other kind; kind is {kind!r}")
        Z = linearization.output
        if kind == "exact":
            M = model.output_fisher(Z, weights)
        elif kind == "empirical":
            M = model.empirical_fisher(Z, [Y], weights)
        else:
            draw = generator(rng)
            draws = [model.sample(Z, draw) for _ in range(whole_number("samples", samples))]
            M = model.empirical_fisher(Z, draws, weights)
        super().__init__(linearization, M)

    def __repr__(self) -> str:
        return f"Fisher({self.linearization!r}, {self.model!r}, kind={self.kind!r})"


class Hessian(Operator):
    """The Hessian of a mean loss in a network's parameters, exactly (Pearlmutter 1994). It may be indefinite.

    Parameters
    ----------
    linearization : object with n, dtype, output, second_order
    loss : Loss
    Y : array
        Targets, as the loss takes them.
    weights : array, optional
        Of the samples.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([3, 4, 2])
    >>> at = network.linearize(network.init(0), np.eye(3))
    >>> H = cgopt.operators.Hessian(at, cgopt.nn.SquaredError(), np.zeros((3, 2)))
    >>> dense = H @ np.eye(26)
    >>> np.allclose(dense, dense.T)
    True
    """

    def __init__(self, linearization: Any, loss: Any, Y: Any, *, weights: Any = None) -> None:
        self.linearization, self.loss = linearization, loss
        self.shape, self.dtype = (linearization.n, linearization.n), np.dtype(linearization.dtype)
        self.on_device = on_device(linearization.output)
        self.M = loss.output_hessian(linearization.output, Y, weights)
        self._second = linearization.second_order(loss.gradient(linearization.output, Y, weights))

    def _matmat(self, X: Array, out: Array) -> None:
        X = contiguous(X, self.dtype)
        direct = out.dtype == self.dtype and out.flags.c_contiguous
        product = out if direct else np.empty(X.shape, self.dtype, like=X)
        self._second.product(X, self.M, product)
        if not direct:
            out[...] = product

    def _matvec(self, x: Array, out: Array) -> None:
        self._matmat(x, out)

    @property
    def nbytes(self) -> int:
        """Bytes of the linearisation, and of the back-propagated gradients."""
        return int(self.linearization.nbytes) + int(self._second.nbytes)

    def __repr__(self) -> str:
        return f"Hessian({self.linearization!r}, {self.loss!r})"


class Linearization:
    """Your own function's outputs at a point, with its Jacobian's products, for `GaussNewton` and `Fisher`.

    Parameters
    ----------
    output : (samples, units) array
    jvp : callable
        (n,) array v to J v, of the outputs' shape.
    vjp : callable
        Array u of the outputs' shape to J'u, (n,).
    n : int
        Number of parameters.

    Examples
    --------
    Nonlinear least squares on a plain function, ``f(x) = (x0^2, x0 x1)`` at (1, 2):

    >>> import numpy as np, cgopt
    >>> J = np.array([[2.0, 0.0], [2.0, 1.0]])
    >>> at = cgopt.operators.Linearization(np.array([[1.0, 2.0]]), lambda v: J @ v, lambda u: J.T @ u.ravel(), n=2)
    >>> cgopt.operators.GaussNewton(at, cgopt.nn.SquaredError(), np.zeros((1, 2))) @ np.eye(2)
    array([[8., 2.],
           [2., 1.]])
    """

    def __init__(self, output: Any, jvp: Callable[[Array], Any], vjp: Callable[[Array], Any], *, n: int) -> None:
        self.output = np.ascontiguousarray(as_array(output, "output"))
        if self.output.ndim < 2:
            raise ValueError(f"output must have shape (samples, units), got {self.output.shape}")
        self.n, self.dtype = whole_number("n", n), self.output.dtype
        self._jvp, self._vjp = jvp, vjp

    def jvp(self, v: Array, out: Array | None = None) -> Array:
        """``J v`` for (n,) v; for (n, k) v column by column, k before the outputs' last axis."""
        shape = self.output.shape
        if v.ndim == 1:
            product = np.asarray(self._jvp(np.asarray(v, self.dtype))).reshape(shape)
        else:
            columns = [np.asarray(self._jvp(column)).reshape(shape) for column in np.ascontiguousarray(v.T, self.dtype)]
            product = np.stack(columns, axis=-2)
        return _given(product, out)

    def vjp(self, u: Array, out: Array | None = None) -> Array:
        """``J'u`` for u of the outputs' shape, or with k before the last axis."""
        if u.ndim == self.output.ndim:
            product = np.asarray(self._vjp(np.asarray(u, self.dtype))).reshape(self.n)
        else:
            rows = np.ascontiguousarray(np.moveaxis(u, -2, 0), self.dtype)
            product = np.stack([np.asarray(self._vjp(row)).reshape(self.n) for row in rows], axis=-1)
        return _given(product, out)

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs; what the functions hold is not known."""
        return int(self.output.nbytes)

    def __repr__(self) -> str:
        return f"Linearization(n={self.n}, outputs {self.output.shape}, {self.dtype})"


def _given(product: Array, out: Array | None) -> Array:
    if out is None:
        return product
    out[...] = product
    return out
