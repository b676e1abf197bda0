"""Curvature of a mean loss in a network's parameters, by products: Gauss-Newton, Fisher, and Hessian matrices.

All of them take a linearisation, which has run the forward pass once: an object with ``n``, ``dtype``, ``output``,
``jvp(v, out)`` and ``vjp(u, out)``, such as `cgopt.nn.MLP.linearize` returns. One product is J v, the loss's own
curvature M in the outputs, and J' of the result; M may come from a loss or from a policy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
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
        self._u: dict[int, Array] = {}

    def _outputs(self, k: int) -> Array:
        """A buffer of the outputs' shape, for k > 0 vectors at once with k before the last axis."""
        if k not in self._u:
            shape = self.linearization.output.shape
            self._u[k] = np.empty((*shape[:-1], k, shape[-1]) if k else shape, self.dtype)
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

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([3, 4, 2])
    >>> at = network.linearize(network.init(0), np.eye(3))
    >>> G = cgopt.operators.GaussNewton(at, cgopt.nn.SoftmaxCrossEntropy(), [0, 1, 1])
    >>> G.shape, bool(np.ones(26) @ (G @ np.ones(26)) >= 0)
    ((26, 26), True)
    """

    def __init__(self, linearization: Any, loss: Any, Y: Any, *, weights: Any = None) -> None:
        super().__init__(linearization, loss.output_hessian(linearization.output, Y, weights))
        self.loss = loss

    def __repr__(self) -> str:
        return f"GaussNewton({self.linearization!r}, {self.loss!r})"
