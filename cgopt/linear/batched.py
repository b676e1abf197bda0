"""Many small systems at once: one call, and an end of its own for each.

Hestenes and Stiefel's method for each system of a batch, in first-level cache, the systems shared over the threads. The
loop is in `cgopt.kernels.batch`; systems with entries so extreme that squares leave the range go to `CGSolver`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from ..arrays import Array, as_array_there, contiguous, first_nonfinite, like, on_device, require_together
from ..kernels import batch, cpu, gpu, loops
from ..kernels.layouts import CSR, Dense, Work
from ..status import OF_CODE, Status, info_of
from .cg import CGSolver
from .stopping import check_maxiter, check_tolerance
from .workspace import PATIENCE

CHUNKS = 16  # pieces a slice is cut into, a multiple of the threads: systems need not take equally long
SLICE_ENTRIES = 20_000_000  # entries of the systems between two looks at signals: some tenths of a second


class BatchResult:
    """The answers of a batch; unpacks as ``x, info``.

    Attributes
    ----------
    x : (m, n) array
    codes : (m,) array
        What the statuses are made of.
    iterations : (m,) array of int
    residual_norm : (m,) array
        ``|b_k - A_k x_k|``, computed from x.
    """

    def __init__(self, x: Any, codes: Array, iterations: Array, residual_norm: Array) -> None:
        self.x, self.iterations, self.residual_norm = x, iterations, residual_norm
        self._codes = codes

    @property
    def statuses(self) -> list[Status]:
        """How each system ended."""
        return [OF_CODE[int(code)] for code in self._codes]

    @property
    def converged(self) -> Array:
        """Which systems converged, (m,) booleans."""
        done: Array = self._codes == loops.CONVERGED
        return done

    @property
    def info(self) -> Array:
        """SciPy's integer for each system, (m,): 0 converged, > 0 iterations used up, < 0 breakdown."""
        pairs = zip(self.statuses, self.iterations, strict=True)
        return np.array([info_of(status, int(count)) for status, count in pairs], dtype=np.int64)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))

    def __repr__(self) -> str:
        m = self._codes.size
        worst = "" if self.converged.all() else f"\n  {self.statuses[int(np.argmin(self.converged))].value}"
        return (
            f"BatchResult({int(self.converged.sum())} of {m} converged, "
            f"iterations={int(self.iterations.max(initial=0))} at most){worst}"
        )


class _Batch(NamedTuple):
    """Matrices as the kernels take them, and single ones for where those do not go."""

    layout: Dense | CSR
    mirror: Array
    shape: tuple[int, int]
    entries: int

    def slice(self, low: int, high: int) -> Dense | CSR:
        if isinstance(self.layout, Dense):
            return Dense(self.layout.values[low:high])
        return self.layout._replace(data=self.layout.data[low:high])

    def on_device(self) -> tuple[Dense | CSR, Any]:
        """The matrices on the GPU, where the values are already, and the places of mirrored entries."""
        asarray = gpu.cupy().asarray
        if isinstance(self.layout, Dense):
            return self.layout, None
        indptr, indices, data = self.layout
        return CSR(asarray(indptr), asarray(indices), data), asarray(self.mirror)

    def matrix(self, k: int) -> Any:
        if on_device(self.layout[-1]):
            values = self.layout[-1][k]
            if isinstance(self.layout, Dense):
                return values
            dense = np.zeros(self.shape[1] ** 2, values.dtype, like=values)
            lengths: Array = np.diff(self.layout.indptr.astype(np.int64))
            rows = np.repeat(np.arange(self.shape[1]), lengths)
            dense[gpu.cupy().asarray(rows * self.shape[1] + self.layout.indices)] = values
            return dense.reshape(self.shape[1], self.shape[1])
        if isinstance(self.layout, Dense):
            return self.layout.values[k]
        indptr, indices, data = self.layout
        return sp.csr_array((data[k], indices.astype(np.int64), indptr.astype(np.int64)), shape=(self.shape[1],) * 2)


def batched_cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: str | None = None,
    check: bool = True,
) -> BatchResult:
    """Solve ``A[k] x[k] = b[k]`` for many small symmetric positive definite systems.

    Parameters
    ----------
    A : (m, n, n) array, or (pattern, values)
        The matrices, real: dense, or with one sparsity pattern, a sparse (n, n) array whose own values do not matter,
        and an (m, entries) array of values in the order of ``pattern.tocsr().data``. The pattern is SciPy's; arrays may
        lie on a GPU, all of them, and are solved for there, a block of threads for each system.
    b : (m, n) or (n,) array
        Right-hand sides; one of shape (n,) serves all.
    x0 : (m, n) array, optional
        Initial guesses; zero by default.
    rtol, atol : float
        System k has converged when ``|b - A x| <= max(rtol |b|, atol)`` for it, the residual computed from x.
    maxiter : int, optional
        Iterations allowed for each; 10 n by default.
    M : {None, "jacobi"}
        Precondition each system by its diagonal.
    check : bool
        Test that each matrix is symmetric.

    Returns
    -------
    BatchResult

    Raises
    ------
    ValueError, TypeError
        Naming the argument, and the system where it is one of them.

    See Also
    --------
    cg : one system, large or small, with a history and with estimates; many right-hand sides for one matrix.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> rng = np.random.default_rng(0)
    >>> A = np.stack([cgopt.gallery.prescribed_spectrum(np.geomspace(1, c, 8), rng=rng) for c in (1.0, 10.0, 100.0)])
    >>> result = cgopt.batched_cg(A, rng.standard_normal((3, 8)), rtol=1e-10)
    >>> result.converged, result.iterations
    (array([ True,  True,  True]), array([1, 8, 9]))

    With one pattern, and values of its own for each system:

    >>> pattern = cgopt.gallery.poisson(50)
    >>> values = np.outer([1.0, 2.0, 4.0], pattern.data)
    >>> x, info = cgopt.batched_cg((pattern, values), np.ones(50), M="jacobi")
    >>> info, bool(np.allclose(x[0], 4 * x[2]))
    (array([0, 0, 0]), True)
    """
    if M not in (None, "jacobi"):
        raise ValueError(
            f"M must be None or 'jacobi' for a batch, got {M!r}; for another, solve one by one with cgopt.cg"
        )
    device = require_together(A=A[1] if isinstance(A, tuple) and len(A) == 2 else A, b=b, x0=x0)
    rhs = as_array_there(b, "b")
    matrices = _matrices(A, rhs.dtype)
    m, n = matrices.shape
    if rhs.shape not in ((m, n), (n,)):
        raise ValueError(f"b must have shape ({m}, {n}) or ({n},) to go with A, got {rhs.shape}")
    where = first_nonfinite(rhs)
    if where is not None:
        raise ValueError(f"b holds NaN or infinity at index {where}; every entry must be finite")
    dtype = matrices.layout[-1].dtype
    rhs = contiguous(np.broadcast_to(rhs, (m, n)), dtype)
    x = np.zeros((m, n), dtype, like=rhs)
    if x0 is not None:
        start = as_array_there(x0, "x0")
        if start.shape != (m, n):
            raise ValueError(f"x0 must have shape ({m}, {n}), got {start.shape}")
        if first_nonfinite(start) is not None:
            raise ValueError(f"x0 holds NaN or infinity at index {first_nonfinite(start)}; every entry must be finite")
        x[...] = start
    rtol, atol, limit = check_tolerance(rtol, "rtol"), check_tolerance(atol, "atol"), check_maxiter(maxiter, n)
    codes, iterations, rr = np.zeros(m, np.int64), np.zeros(m, np.int64), np.zeros(m)
    if n == 0:
        codes[:] = loops.CONVERGED
        return BatchResult(like(x, b), codes, iterations, rr)
    unit = float(np.finfo(dtype).eps) / 2.0
    if device:
        layout, mirror = matrices.on_device()
        options = M == "jacobi", check
        gpu.solve_batch(layout, mirror, *options, rhs, x, rtol, atol, limit, unit, PATIENCE, codes, iterations, rr)
    else:
        _solve_slices(matrices, M == "jacobi", check, rhs, x, rtol, atol, limit, unit, codes, iterations, rr)
    _raise_for(codes, matrices)
    norms = np.sqrt(rr)
    for k in np.flatnonzero(codes == batch.EXTREME):
        single = CGSolver(matrices.matrix(int(k)), M=M, check=check).solve(
            rhs[k], None if x0 is None else x[k], rtol=rtol, atol=atol, maxiter=limit
        )
        x[k], iterations[k], norms[k] = single.x, single.iterations, single.residual_norm
        codes[k] = next(code for code, status in OF_CODE.items() if status is single.status)
    return BatchResult(like(x, b), codes, iterations, norms)


def _solve_slices(
    matrices: _Batch,
    jacobi: bool,
    check: bool,
    rhs: Array,
    x: Array,
    rtol: float,
    atol: float,
    limit: int,
    unit: float,
    codes: Array,
    iterations: Array,
    rr: Array,
) -> None:
    """Solve on the CPU, so many systems at a time that signals are looked at now and then."""
    (m, n), dtype = x.shape, x.dtype
    threads = cpu.get_num_threads()
    V, S = np.empty((CHUNKS, 4, n), dtype), np.empty((CHUNKS, loops.SCALARS))
    kernel = cpu.solve_batch("dense" if isinstance(matrices.layout, Dense) else "csr")
    stride = max(CHUNKS, SLICE_ENTRIES // max(1, matrices.entries))
    for low in range(0, m, stride):
        part = slice(low, min(m, low + stride))
        bounds = np.linspace(0, part.stop - low, min(CHUNKS, part.stop - low) + 1).astype(np.int64)
        alone = threads == 1 or (part.stop - low) * matrices.entries < cpu.SMALL
        work = Work(bounds, np.empty((1 if alone else threads, 1)), np.empty((0, 0)))
        cpu.run(
            kernel,
            work,
            matrices.slice(low, part.stop),
            matrices.mirror,
            jacobi,
            check,
            rhs[part],
            x[part],
            rtol,
            atol,
            limit,
            unit,
            PATIENCE,
            bounds,
            V,
            S,
            codes[part],
            iterations[part],
            rr[part],
        )


def _matrices(A: Any, dtype: Any) -> _Batch:
    """The matrices of a batch in the type that is computed in."""
    none = np.empty(0, np.int64)
    if not isinstance(A, tuple):
        values = as_array_there(A, "A")
        if values.ndim != 3 or values.shape[1] != values.shape[2]:
            raise ValueError(
                f"A must have shape (m, n, n), or be a pair (pattern, values) of sparse matrices; got {values.shape}"
            )
        _require_real(values.dtype, dtype)
        values = contiguous(values, np.result_type(values.dtype, dtype))
        return _Batch(Dense(values), none, values.shape[:2], values.shape[1] ** 2)
    if len(A) != 2 or not sp.issparse(A[0]):
        raise TypeError("A as a tuple must be (pattern, values): a sparse (n, n) array, and an (m, entries) array")
    pattern, values = A[0].tocsr(), as_array_there(A[1], "the values of A")
    if pattern.ndim != 2 or pattern.shape[0] != pattern.shape[1]:
        raise ValueError(f"the pattern of A must be square, got {pattern.shape}")
    if values.ndim != 2 or values.shape[1] != pattern.nnz:
        raise ValueError(
            f"the values of A must have shape (m, {pattern.nnz}) to go with {pattern.nnz} entries of the pattern, got "
            f"{values.shape}"
        )
    _require_real(values.dtype, dtype)
    n = pattern.shape[0]
    rows = np.repeat(np.arange(n), np.diff(pattern.indptr))
    # Where entry (i, j) has its mirror image (j, i): entries are looked up by the number i n + j.
    keys, mirrored = rows * n + pattern.indices, pattern.indices.astype(np.int64) * n + rows
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        raise ValueError("the pattern of A holds an entry twice; call sum_duplicates() and give one value for each")
    place = np.minimum(np.searchsorted(keys[order], mirrored), max(keys.size - 1, 0))
    mirror = np.where(keys[order][place] == mirrored, order[place], -1)
    values = contiguous(values, np.result_type(values.dtype, dtype))
    layout = CSR(pattern.indptr.astype(np.uint32), pattern.indices.astype(np.uint32), values)
    return _Batch(layout, mirror, (values.shape[0], n), pattern.nnz)


def _require_real(*dtypes: Any) -> None:
    if any(dtype.kind == "c" for dtype in dtypes):
        raise TypeError("A and b must be real for a batch; solve complex systems one by one with cgopt.cg")


def _raise_for(codes: Array, matrices: _Batch) -> None:
    """Raise for the first system that is none."""
    wrong = np.flatnonzero((codes == batch.NOT_FINITE) | (codes == batch.NOT_SYMMETRIC))
    if wrong.size == 0:
        return
    k = int(wrong[0])
    if codes[k] == batch.NOT_FINITE and not np.isfinite(matrices.layout[-1][k]).all():
        raise ValueError(f"A[{k}] holds NaN or infinity; every entry must be finite")
    if codes[k] == batch.NOT_FINITE:
        codes[k] = batch.EXTREME  # finite, but its row sums are not
        return _raise_for(codes, matrices)
    raise ValueError(f"A[{k}] is not symmetric; use (A[{k}] + A[{k}].T) / 2 if the difference is an artefact")
