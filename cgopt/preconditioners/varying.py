"""A preconditioner that is not the same in every iteration."""

from __future__ import annotations

from typing import Any

from ..arrays import Array
from ..operators import as_operator
from .base import Preconditioner


class Varying(Preconditioner):
    """Marks a preconditioner that changes from one application to the next, so that CG becomes flexible.

    An inner iteration to a tolerance, a nonlinear or a randomised method is no fixed matrix: the new direction has to
    be made conjugate to the last one with the z of now (Polak and Ribiere's beta, ``(r - r_old)'z / r_old'z_old``)
    instead of by a formula that takes M for constant. That costs one dot product an iteration. Each application should
    still be close to a symmetric positive definite one; that it is symmetric is not tested.

    Parameters
    ----------
    M : anything `cgopt.operators.as_operator` takes
        The residual r to an approximation of ``A^-1 r``.
    n : int, optional
        The size, where M is a function.
    dtype : dtype, optional
        Of what a function returns.

    References
    ----------
    G. H. Golub and Q. Ye, SIAM J. Sci. Comput. 21, 1999; Y. Notay, SIAM J. Sci. Comput. 22, 2000.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((40, 40))
    >>> def inner(r):  # six or so iterations, to a tolerance
    ...     return cgopt.cg(A, r, rtol=0.3).x
    >>> M = cgopt.preconditioners.Varying(inner, n=1600)
    >>> b = np.random.default_rng(0).standard_normal(1600)
    >>> cgopt.cg(A, b, rtol=1e-8, M=M).converged
    True
    """

    varies = True

    def __init__(self, M: Any, n: int | None = None, dtype: Any = None) -> None:
        self.M = as_operator(M, n=n, dtype=dtype, name="M")
        self.on_device = self.M.on_device
        self.shape, self.dtype = self.M.shape, self.M.dtype

    def _matvec(self, x: Array, out: Array) -> None:
        self.M.matvec(x, out=out)

    def _matmat(self, X: Array, out: Array) -> None:
        self.M.matmat(X, out=out)

    @property
    def nbytes(self) -> int:
        """Bytes held by what is wrapped."""
        return self.M.nbytes

    def __repr__(self) -> str:
        return f"Varying({self.M!r})"
