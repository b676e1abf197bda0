"""Deflation: a subspace that is solved exactly; and recycling one from solve to solve.

R. A. Nicolaides, SIAM J. Numer. Anal. 24, 1987; compared by J. M. Tang, R. Nabben, C. Vuik and Y. A. Erlangga, J. Sci.
Comput. 39, 2009, whose form BNN this is (J. Mandel's balancing, Comm. Numer. Methods Eng. 9, 1993).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.linalg

from ..arrays import Array, as_array, first_nonfinite
from ..operators import Operator, as_operator
from .base import Preconditioner, Scratch
from .choose import as_preconditioner
from .spectrum import ends_of_spectrum

DEPENDENT = 1e-10  # part of a direction's own size in the A-norm below which it counts as spanned by the others


class Deflation(Preconditioner):
    r"""A preconditioner M with a subspace taken out, which is solved exactly instead.

    .. math:: P^T M P + W W^T, \qquad P = I - A W W^T,

    where the columns of W are made A-orthonormal, :math:`W^T A W = I`. If they span eigenvectors of MA, those
    eigenvalues become one and the others stay as they are; in general no eigenvalue of the others leaves the interval
    that those of MA lie in. Good for a few eigenvalues that stand apart, small or large: domains of very
    different coefficients, slow modes that a cheap M does not see.

    An application costs one of M's and reads W and AW twice: 4 n k numbers.

    Parameters
    ----------
    A : anything `cgopt.operators.as_operator` takes
    W : (n, k) array
        Spans the subspace. Columns that depend on the others are dropped.
    M : optional
        As for `cgopt.cg`. By default Jacobi's, or if A does not tell its diagonal a multiple of the identity.

    Attributes
    ----------
    W, AW : (n, k) arrays
        The A-orthonormal basis, and its products with A.

    Raises
    ------
    ValueError
        If W has another number of rows, holds NaN, has no column that is not zero, or shows that A is not positive
        definite.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = np.diag(np.r_[1e-6, 1e-5, np.linspace(1, 2, 98)]) + 0.0
    >>> b = np.random.default_rng(0).standard_normal(100)
    >>> M = cgopt.preconditioners.Deflation(A, np.eye(100)[:, :2], M=np.eye(100))
    >>> cgopt.cg(A, b, M=M, rtol=1e-8).iterations < 15
    True
    """

    def __init__(self, A: Any, W: Any, M: Any = None) -> None:
        start = time.perf_counter()
        basis = as_array(W, "W")
        basis = basis[:, None] if basis.ndim == 1 else basis
        self._prepare(A, M)
        n = self.shape[0]
        if basis.ndim != 2 or basis.shape[0] != n:
            raise ValueError(f"W must have shape ({n}, k) to go with A of shape {self.shape}, got {basis.shape}")
        if basis.dtype.kind == "c" and self.dtype.kind != "c":
            raise TypeError("W is complex but A is real; pass real vectors")
        if first_nonfinite(basis) is not None:
            raise ValueError("W holds NaN or infinity; every entry must be finite")
        if not basis.any():
            raise ValueError("W spans nothing: it has no column that is not zero")
        self._take(*a_orthonormal(self.operator, basis))
        self.setup_time = time.perf_counter() - start

    def _prepare(self, A: Any, M: Any) -> None:
        """Keep A, and M or what stands for it."""
        self.operator = as_operator(A, device=False)
        self.shape, self.dtype = self.operator.shape, self.operator.dtype
        if M is None and self.operator.diagonal() is not None:
            M = "jacobi"
        self.M = as_preconditioner(M, self.operator)
        self._factor = 1.0
        self._scratch = Scratch(2, self.shape[0])
        if M is None:

            def product(x: Array, out: Array) -> None:
                self.operator.matvec(x, out=out)

            dtype = np.result_type(self.dtype, np.float64)
            self._factor = 1.0 / ends_of_spectrum(product, self.shape[0], dtype=dtype).bound

    def _take(self, W: Array, AW: Array) -> None:
        self.W, self.AW = W.astype(self.dtype), AW.astype(self.dtype)

    @property
    def working_dtype(self) -> np.dtype[Any]:
        """That of M."""
        return np.dtype(getattr(self.M, "working_dtype", self.dtype))

    def _matvec(self, x: Array, out: Array) -> None:
        with self._scratch.lock:
            r, t = self._scratch.vectors(np.result_type(self.dtype, x))
            c = inner(self.W, x)  # W' r
            np.subtract(x, np.matmul(self.AW, c, out=t), out=r)  # P r = r - A W W' r
            if self.M is None:
                np.multiply(self._factor, r, out=out)
            else:
                self.M.matvec(r, out=out)  # y = M P r
            c -= inner(self.AW, out)
            out += np.matmul(self.W, c, out=t)  # P' y + W W' r,  P' y = y - W (A W)' y

    def guess(self, b: Any, x0: Any = None) -> Array:
        """The best initial guess in ``x0 + span(W)``: its error is the least in the A-norm.

        Parameters
        ----------
        b : (n,) array
        x0 : (n,) array, optional
            Zero by default.

        Returns
        -------
        (n,) array
            ``x0 + W W'(b - A x0)``.
        """
        rhs = as_array(b, "b")
        start = np.zeros_like(rhs) if x0 is None else as_array(x0, "x0")
        for name, vector in (("b", rhs), ("x0", start)):
            if vector.shape != (self.shape[0],):
                raise ValueError(f"{name} must have shape ({self.shape[0]},), got {vector.shape}")
        best: Array = start + self.W @ inner(self.W, rhs - self.operator @ start)
        return best

    @property
    def nbytes(self) -> int:
        """Bytes of W, AW and M."""
        return int(self.W.nbytes + self.AW.nbytes) + (0 if self.M is None else self.M.nbytes)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.W.shape[1]} vectors, M={self.M!r}, {self.nbytes / 1e6:.3g} MB, "
            f"setup_time={self.setup_time:.2g} s)"
        )


class Recycling(Deflation):
    r"""Deflation with a subspace that is learned from one solve for the next.

    `observe`, given to a solve as its callback, keeps iterates at even distances; `recycle` then takes from their
    differences and from the subspace so far the k Ritz vectors with the smallest Ritz values, of A scaled to unit
    diagonal (of A as it is where the diagonal is not known), and the next solve goes without those. (Differences of
    iterates rather than residuals: they hold each eigenvector by the inverse of its eigenvalue.) For sequences of
    systems with one matrix, or with matrices that change slowly: hand `W` on to the next one's object.

    Parameters
    ----------
    A : anything `cgopt.operators.as_operator` takes
    k : int
        Vectors to deflate by.
    M : optional
        As for `Deflation`.
    window : int, optional
        Differences to keep of a solve: 2 k by default. `recycle` costs as many products with A.
    W : (n, j) array, optional
        A subspace to begin with, such as the `W` of the preconditioner of a similar matrix.

    Attributes
    ----------
    ritz_values : (k,) array
        Of :math:`D^{-1} A`, rising, from the last `recycle`; empty before.

    References
    ----------
    M. L. Parks, E. de Sturler, G. Mackey, D. D. Johnson and S. Maiti, SIAM J. Sci. Comput. 28, 2006 (recycling);
    K. Carlberg, V. Forstall and R. Tuminaro, SIAM J. Matrix Anal. Appl. 37, 2016 (compressing what CG has found).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((60, 60))
    >>> M = cgopt.preconditioners.Recycling(A, k=10)
    >>> solver = cgopt.CGSolver(A, M=M)
    >>> rng, iterations = np.random.default_rng(0), []
    >>> for _ in range(3):
    ...     b = rng.standard_normal(3600)
    ...     iterations.append(solver.solve(b, rtol=1e-8, callback=M.observe).iterations)
    ...     M.recycle()
    >>> iterations[2] < 0.7 * iterations[0]
    True
    """

    def __init__(self, A: Any, k: int = 10, M: Any = None, *, window: int | None = None, W: Any = None) -> None:
        start = time.perf_counter()
        window = 2 * k if window is None and isinstance(k, int) else window
        for name, value in (("k", k), ("window", window)):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        if W is None:
            self._prepare(A, M)
            empty = np.empty((self.shape[0], 0))
            self._take(empty, empty)
        else:
            super().__init__(A, W, M)
        self.k = int(k)
        self.ritz_values: Array = np.empty(0)
        self._iterates = np.empty((int(window) + 1, self.shape[0]), self.dtype)  # type: ignore[arg-type]
        self._forget()
        self.setup_time = time.perf_counter() - start

    def _forget(self) -> None:
        self._seen, self._kept, self._stride = 0, 0, 1

    def observe(self, x: Array) -> None:
        """Take note of an iterate: to be passed as a solve's ``callback``."""
        if x.shape != (self.shape[0],):
            raise ValueError(f"x must have shape ({self.shape[0]},), got {x.shape}; observe single right-hand sides")
        if self._seen % self._stride == 0 and (x.dtype.kind == "c") <= (self.dtype.kind == "c"):
            if self._kept == self._iterates.shape[0]:  # full: every other one will do, from here on too
                half = self._iterates[::2].copy()
                self._kept, self._stride = half.shape[0], 2 * self._stride
                self._iterates[: self._kept] = half
            if self._seen % self._stride == 0:
                self._iterates[self._kept] = x
                self._kept += 1
        self._seen += 1

    def recycle(self) -> None:
        """Learn from what was observed since the last time; without effect if nothing was."""
        start = time.perf_counter()
        differences = np.diff(self._iterates[: self._kept], axis=0).T
        self._forget()
        differences = differences[:, np.isfinite(differences).all(axis=0)]
        if not differences.any():
            return
        U, AU = a_orthonormal(self.operator, np.concatenate([self.W, differences], axis=1))
        # D^-1 A u = theta u on the subspace, U'AU = I:  y = theta (U'DU) y
        diagonal = self.operator.diagonal()
        G = U.conj().T @ (U if diagonal is None else np.asarray(diagonal).real[:, None] * U)
        inverse_theta, Y = scipy.linalg.eigh((G + G.conj().T) / 2.0)
        smallest = slice(None, -1 - self.k, -1)
        self.ritz_values = 1.0 / inverse_theta[smallest]
        self._take(U @ Y[:, smallest], AU @ Y[:, smallest])
        self.setup_time += time.perf_counter() - start

    @property
    def nbytes(self) -> int:
        """Bytes of W, AW, M and the iterates kept."""
        return super().nbytes + int(self._iterates.nbytes)


def inner(W: Array, x: Array) -> Array:
    """``W'x``, without a copy of W."""
    c: Array = W.T @ x if W.dtype.kind != "c" else (W.T @ x.conj()).conj()
    return c


def a_orthonormal(A: Operator, S: Array) -> tuple[Array, Array]:
    """A basis U of the columns of S with ``U'AU = I``, and ``A U``, in double precision.

    Raises
    ------
    ValueError
        If A is not positive definite on the subspace.
    """
    S = S.astype(np.result_type(S, np.float64))
    lengths = np.abs(S).max(axis=0)
    U = S[:, lengths > 0.0] / lengths[lengths > 0.0]
    AU = A @ U
    for _ in range(2):  # once more for what rounding leaves when the columns nearly depend on each other
        G = U.conj().T @ AU
        sizes = np.sqrt(np.maximum(G.diagonal().real, 0.0))
        if not sizes.all():
            raise ValueError("A is not positive definite: a vector w of the subspace W has w'Aw <= 0")
        values, vectors = scipy.linalg.eigh((G + G.conj().T) / 2.0 / sizes[:, None] / sizes)
        if not values[0] > -DEPENDENT * values[-1]:
            raise ValueError("A is not positive definite: it is not on the subspace W")
        kept = values > DEPENDENT * values[-1]
        T = vectors[:, kept] / np.sqrt(values[kept]) / sizes[:, None]
        U, AU = U @ T, AU @ T
    return U, AU
