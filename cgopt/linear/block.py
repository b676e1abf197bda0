"""Block conjugate gradients: k right-hand sides that search one space together.

D. P. O'Leary, The block conjugate gradient algorithm and related methods, Linear Algebra Appl. 29, 1980. Each iteration
minimises every column's error over the sum of all Krylov spaces: the k smallest eigenvalues cease to matter. The
residual is kept as an orthonormal block times a small matrix (A. A. Dubrulle, Retooling the method of block conjugate
gradients, ETNA 12, 2001, the variant BCGrQ), which keeps the method stable, and tells when columns become dependent:
the block then shrinks (H. Ji and Y. Li, A breakdown-free block conjugate gradient method, BIT 57, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..arrays import (
    Array,
    as_array_there,
    contiguous,
    first_nonfinite,
    in_host_memory,
    kernels_for,
    like,
    on_device,
    require_together,
)
from ..kernels import loops
from ..operators import DeviceMatrix, MatrixOperator, Operator, as_operator
from ..preconditioners import as_preconditioner
from ..status import OF_CODE, Status, info_of
from .stopping import check_maxiter, check_tolerance
from .workspace import checked_system, scale_rows, workspace_for

# Relative to unit diagonal, the eigenvalues of a Gram matrix are known to about s u. Directions below DEPENDENT are
# rounding; above SECURE one orthogonalisation leaves an error below 1e-10, between them it takes a second.
DEPENDENT = 1e-13
SECURE = 1e-5


class BlockResult:
    """The answer for k right-hand sides; unpacks as ``x, info``.

    Attributes
    ----------
    x : (n, k) array
    statuses : list of Status
        One for each column.
    iterations : int
        Iterations of the block, each one product with k vectors.
    column_iterations : (k,) array
        The iteration from which on each column's recursive residual met its tolerance.
    residual_norm : (k,) array
        ``|b_j - A x_j|``, computed from x.
    history : (iterations + 1, k) array
        Residual norms from iteration 0 on, recursive.
    block_sizes : (iterations,) array
        Vectors that were multiplied in each iteration: fewer than k once columns have become dependent.
    negative_curvature : (n,) array or None
        A direction d with d'Ad <= 0, if one was found.
    """

    def __init__(
        self,
        x: Any,
        statuses: list[Status],
        column_iterations: Array,
        residual_norm: Array,
        history: Array,
        block_sizes: Array,
        negative_curvature: Array | None,
    ) -> None:
        self.x, self.statuses, self.column_iterations = x, statuses, column_iterations
        self.residual_norm, self.history, self.block_sizes = residual_norm, history, block_sizes
        self.negative_curvature = negative_curvature
        self.iterations = int(block_sizes.size)

    @property
    def status(self) -> Status:
        """CONVERGED if every column converged, otherwise that of the first column that did not."""
        return next((status for status in self.statuses if not status.converged), Status.CONVERGED)

    @property
    def converged(self) -> bool:
        """Whether every column converged."""
        return self.status.converged

    @property
    def info(self) -> int:
        """SciPy's integer: 0 converged, > 0 iterations used up, < 0 breakdown."""
        return info_of(self.status, self.iterations)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))

    def __repr__(self) -> str:
        done = sum(status.converged for status in self.statuses)
        return (
            f"BlockResult({done} of {len(self.statuses)} converged, iterations={self.iterations})\n"
            f"  {self.status.value}"
        )


def block_cg(
    A: Any,
    B: Any,
    X0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    check: bool = True,
    format: str | None = None,
) -> BlockResult:
    """Solve ``A X = B`` for k right-hand sides by block conjugate gradients.

    Takes fewer iterations than `cgopt.cg`, whose columns do not know of each other, and more work in each: 6 k^2 n
    multiplications beside the product. It pays where the condition is bad because of few small eigenvalues, and where
    products are dear.

    Parameters
    ----------
    A : anything that `cgopt.cg` takes, real
        With A and B on a GPU the solve runs there, but for what is done with k by k matrices.
    B : (n, k) array
        Columns may be dependent, or zero.
    X0 : (n, k) array, optional
        Initial guess; zero by default.
    rtol, atol : float
        Column j has converged when ``|b_j - A x_j| <= max(rtol |b_j|, atol)``, the residual computed from x.
    maxiter : int, optional
        Iterations allowed; 10 n by default.
    M : optional
        Preconditioner, as for `cgopt.cg`.
    check : bool
        Test with two products that A (and M) is symmetric.
    format : {"csr", "sorted", "half_csr", "dia", "half_dia", "dense"}, optional
        Force the storage layout of a sparse A.

    Returns
    -------
    BlockResult

    Raises
    ------
    ValueError, TypeError
        For input that is no such system, before any iteration.

    References
    ----------
    D. P. O'Leary, Linear Algebra Appl. 29, 1980.
    A. A. Dubrulle, ETNA 12, 2001.
    H. Ji and Y. Li, BIT Numer. Math. 57, 2017.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((40, 40))
    >>> B = np.random.default_rng(0).standard_normal((1600, 8))
    >>> together = cgopt.block_cg(A, B, rtol=1e-8)
    >>> together.status.name, together.iterations < 0.6 * cgopt.cg(A, B, rtol=1e-8).iterations
    ('CONVERGED', True)
    """
    if isinstance(A, np.ndarray) or sp.issparse(A) or on_device(A):  # (a function goes where B is)
        require_together(A=A, B=B, X0=X0)
    else:
        require_together(B=B, X0=X0)
    right = as_array_there(B, "B")
    if right.ndim != 2:
        raise ValueError(f"B must have shape (n, k), got {right.shape}; for one right-hand side use cgopt.cg")
    operator = as_operator(A, n=right.shape[0], dtype=right.dtype, format=format, device=on_device(right))
    n, k = right.shape
    if operator.shape[0] != n:
        raise ValueError(f"B must have shape ({operator.shape[0]}, k) to go with A of shape {operator.shape}")
    dtype = np.result_type(operator.dtype, right.dtype)
    if dtype.kind == "c":
        raise TypeError("A and B must be real for block_cg; cgopt.cg takes complex ones, column by column")
    for name, array in (("B", right), ("X0", X0)):
        where = None if array is None else first_nonfinite(as_array_there(array, name))
        if where is not None:
            raise ValueError(f"{name} holds NaN or infinity at index {where}; every entry must be finite")
    x = np.zeros((k, n), dtype, like=right)
    if X0 is not None:
        start = as_array_there(X0, "X0")
        if start.shape != (n, k):
            raise ValueError(f"X0 must have the shape of B, {(n, k)}, got {start.shape}")
        x[...] = start.T
    rtol, atol = check_tolerance(rtol, "rtol"), check_tolerance(atol, "atol")
    own = np.empty((k, n), dtype, like=right)  # scaled in place
    own[...] = right.T
    solve = _Block(operator, as_preconditioner(M, operator), check, own, x, rtol, atol)
    solve.run(check_maxiter(maxiter, n))
    return solve.result(B)


class _Block:
    """A solve: ``R = C'Q`` are the residuals, rows throughout, Q orthonormal (in the inner product of M)."""

    def __init__(
        self,
        operator: Operator,
        preconditioner: Operator | None,
        check: bool,
        b: Array,
        x: Array,
        rtol: float,
        atol: float,
    ) -> None:
        self.k, self.n = b.shape
        self.system = checked_system(operator, preconditioner, check)
        self.operator, self.x = operator, x
        self.space = workspace_for(self.system, b.dtype, max(2, self.k))
        self.kernels, self.work = kernels_for(b), self.space.work
        self.M = self.space.M
        # As in `many`: solved is 2^eA A x' = 2^e b with each column's norm about one.
        largest = in_host_memory(abs(b).max(axis=1) if b.size else np.zeros(self.k))
        self.exponents = np.where(largest > 0.0, -np.frexp(largest)[1].astype(np.int64), 0)
        self.shifts = self.system.exponent - self.exponents
        self.b = b
        scale_rows(self.b, self.exponents)
        scale_rows(self.x, -self.shifts)
        norms = lengths(self.b)
        for j in np.flatnonzero(norms == 0.0):
            self.x[j] = 0.0
        with np.errstate(over="ignore"):
            self.targets = np.maximum(rtol * norms, np.ldexp(atol, self.exponents))
        self.code, self.failed, self.best = loops.RUNNING, 0, math.inf
        self.direction: Array | None = None
        self.met = np.full(self.k, -1)
        self.norms: list[Array] = []
        self.sizes: list[int] = []

    def _run(self, name: str, *args: Array) -> None:
        self.kernels.run(getattr(self.kernels, name), self.work, *args, self.work)

    def multiply(self, P: Array) -> Array:
        """``P A``, for the rows of P."""
        if isinstance(self.operator, MatrixOperator | DeviceMatrix):
            T = np.empty_like(P)
            self.kernels.multiply_many(self.operator.layout, P, T, self.work)
            return T
        T = contiguous(self.system.exact.matmat(contiguous(P.T)).T)
        return T

    def precondition(self, Q: Array) -> Array:
        """``Q M``, for the rows of Q; Q itself without M."""
        if self.M is None:
            return Q
        if not hasattr(self.M, "matmat"):  # the inverse of a diagonal
            return Q * self.M
        Z = np.empty_like(Q)
        self.M.matmat(Q, Z, np.arange(Q.shape[0]))
        return Z

    def gram(self, P: Array, T: Array) -> Array:
        """``P T'``, symmetric but for rounding, which is averaged away."""
        G = np.empty((P.shape[0], T.shape[0]))
        self._run("block_gram", P, T, G)
        return 0.5 * (G + G.T)

    def true_residual(self) -> Array:
        """``B - A X``, for the rows of X."""
        return self.b - self.multiply(self.x)

    def start(self) -> None:
        """Begin, or begin again, from the true residual; decides whether that is an end."""
        R = self.true_residual() if bool(self.x.any()) else self.b.copy()
        norms = lengths(R)
        self.norms[-1:] = [norms] if self.norms else []
        if not self.norms:
            self.norms.append(norms)
        if not np.isfinite(norms).all():
            self.code = loops.NONFINITE
            return
        left = norms > self.targets
        self.met[~left & (self.met < 0)] = len(self.sizes)
        self.met[left] = -1
        if not left.any():
            self.code = loops.CONVERGED
            return
        worst = float(np.max(norms[left] / np.maximum(self.targets[left], np.finfo(float).tiny)))
        self.failed = self.failed + 1 if worst > 0.5 * self.best else 0
        self.best = min(self.best, worst)
        if self.failed >= 2:
            self.code = loops.STAGNATED
            return
        self.Q = R
        L = self.orthonormalise(floor=0.0)
        if self.code == loops.RUNNING and L.shape[1] == 0:
            self.code = loops.STAGNATED
        self.C, self.P = L.T, self.Z.copy()

    def orthonormalise(self, floor: float) -> Array:
        """Make the rows of Q orthonormal in the inner product of M, and Z = Q M; returns L such that Q was ``L Q``.

        Rows that depend on others, or are not longer than `floor`, are given up: there are fewer rows of Q then.
        """
        L: Array = np.eye(self.Q.shape[0])
        self.Z = self.precondition(self.Q)
        dependent = max(DEPENDENT, 64.0 * self.k * self.space.unit**2)
        for _ in range(2):
            G = self.gram(self.Q, self.Z)
            if not np.isfinite(G).all() or np.min(np.diag(G)) < 0.0:
                self.code = loops.NONFINITE if not np.isfinite(G).all() else loops.INDEFINITE_M
                return L
            more, inverse, weakest = factor(G, floor, dependent)
            L = L @ more
            m = inverse.shape[0]
            for block in (self.Q,) if self.M is None else (self.Q, self.Z):
                self._run("block_turn", inverse, block)
            self.Q, self.Z = self.Q[:m], self.Q[:m] if self.M is None else self.Z[:m]
            if weakest > SECURE or m == 0:
                break
        return L

    def step(self) -> None:
        """One iteration."""
        T = self.multiply(self.P)  # T = P A
        curvature = self.gram(self.P, T)  # P A P'
        gamma = inverse_of(curvature)
        if gamma is None:
            self.note_direction(curvature)
            return
        K = self.C.T @ gamma
        self._run("block_reduce", gamma, T, self.Q)  # W = Q - (P A P')^-1 T
        L = self.orthonormalise(floor=8.0 * self.space.unit)  # W = L Q,  Z = Q M
        if self.code != loops.RUNNING:
            return
        self.sizes.append(self.P.shape[0])
        # X += C' (P A P')^-1 P,  P = Z + L'P
        self._run("block_advance", K, L, self.Z, self.P, self.x)
        self.P, self.C = self.P[: L.shape[1]], L.T @ self.C  # R = C'Q

    def residual_norms(self) -> Array:
        """Norms of the recursive residuals: |C'Q| row by row, which is |C'| without M."""
        if self.M is None:
            return np.asarray(np.linalg.norm(self.C, axis=0))
        squares = np.einsum("ij,ij->j", self.C, self.gram(self.Q, self.Q) @ self.C)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))

    def note_direction(self, curvature: Array) -> None:
        """The curvature is not positive definite: the combination of P that shows it."""
        if not np.isfinite(curvature).all():
            self.code = loops.NONFINITE
            return
        values, vectors = np.linalg.eigh(curvature)
        self.code = loops.INDEFINITE if values[0] < -self.space.unit * values[-1] * self.k else loops.SINGULAR
        combination = np.zeros_like(self.P[0])
        for weight, p in zip(vectors[:, 0], self.P, strict=True):
            combination += self.P.dtype.type(weight) * p
        self.direction = combination

    def run(self, maxiter: int) -> None:
        """Iterate until every column has converged, or none can."""
        if self.n == 0 or self.k == 0:
            self.code = loops.CONVERGED
            return
        if self.system.bad_row >= 0 and bool(self.b.any()):
            self.code, self.direction = loops.INDEFINITE, self.system.bad_direction(self.b.dtype)
            return
        self.start()
        while self.code == loops.RUNNING:
            if len(self.sizes) == maxiter:
                self.code = loops.MAXITER
                break
            self.step()
            if self.code != loops.RUNNING:
                break
            norms = self.residual_norms()
            self.norms.append(norms)
            below = norms <= self.targets
            self.met[below & (self.met < 0)] = len(self.sizes)
            self.met[~below] = -1
            if below.all():
                self.start()

    def result(self, B: Any) -> BlockResult:
        """What there is at the end, in the user's units."""
        norms = np.zeros(self.k)
        codes = np.full(self.k, self.code)
        if self.n and self.k:
            norms = lengths(self.true_residual())
            codes[norms <= self.targets] = loops.CONVERGED
            codes[(norms > self.targets) & (codes == loops.CONVERGED)] = loops.STAGNATED
            scale_rows(self.x, self.shifts)
            codes[~(in_host_memory(np.isfinite(self.x).all(axis=1)) & np.isfinite(norms))] = loops.NONFINITE
        self.met[self.met < 0] = len(self.sizes)
        history = np.array(self.norms) if self.norms else norms[None, :]
        with np.errstate(over="ignore", under="ignore"):
            norms, history = np.ldexp(norms, -self.exponents), np.ldexp(history, -self.exponents)
        return BlockResult(
            like(self.x.T, B),
            [OF_CODE[int(code)] for code in codes],
            self.met,
            norms,
            history,
            np.array(self.sizes, dtype=np.int64),
            self.direction,
        )


def lengths(R: Array) -> Array:
    """Norms of the rows, summed in double precision; in host memory, as all small arrays are."""
    return in_host_memory(np.linalg.norm(R.astype(np.float64), axis=1))


def factor(G: Array, floor: float, dependent: float) -> tuple[Array, Array, float]:
    """A Gram matrix as ``G = L L'``, and the left inverse of L.

    Parameters
    ----------
    G : (s, s) array
    floor : float
        Vectors not longer than this are left out.
    dependent : float
        Eigenvalues of G, scaled to unit diagonal, below this share of the largest are left out too.

    Returns
    -------
    L : (s, m) array
    inverse : (m, s) array
    weakest : float
        Smallest eigenvalue kept, relative to the largest.
    """
    lengths = np.sqrt(np.diag(G))
    live = np.flatnonzero(lengths > floor)
    L, inverse = np.zeros((G.shape[0], 0)), np.zeros((0, G.shape[0]))
    if live.size == 0:
        return L, inverse, 0.0
    D = lengths[live]
    values, vectors = np.linalg.eigh(G[np.ix_(live, live)] / np.outer(D, D))
    keep = values > dependent * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    L, inverse = np.zeros((G.shape[0], values.size)), np.zeros((values.size, G.shape[0]))
    L[live] = D[:, None] * vectors * np.sqrt(values)
    inverse[:, live] = (vectors / np.sqrt(values)).T / D
    return L, inverse, float(values[0] / values[-1])


def inverse_of(G: Array) -> Array | None:
    """The inverse of a symmetric matrix, or None if it is not positive definite."""
    diagonal = np.diag(G)
    if not (diagonal > 0.0).all() or not np.isfinite(G).all():
        return None
    D = np.sqrt(diagonal)
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(G / np.outer(D, D)))
    except np.linalg.LinAlgError:
        return None
    return np.asarray(inverse.T @ inverse) / np.outer(D, D)
