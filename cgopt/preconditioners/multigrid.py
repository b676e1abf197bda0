"""Algebraic multigrid: one V-cycle of smoothed aggregation or classical coarsening, in fp32 and compiled whole.

Smoothed aggregation: P. Vanek, J. Mandel and M. Brezina, Computing 56, 1996. Classical: J. W. Ruge and K. Stueben in
"Multigrid Methods", SIAM 1987, set up by PyAMG. The cycle itself is `cgopt.kernels.cpu.multigrid`.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp

from ..arrays import Array, as_array, first_nonfinite
from ..kernels import cpu, gpu
from ..kernels.cpu import aggregation as setup
from ..kernels.cpu import multigrid as cycle
from ..kernels.layouts import CSR, Hierarchy, Work
from ..operators import DeviceMatrix, MatrixOperator, as_operator
from ..operators.formats import csr_arrays
from .base import Preconditioner
from .block_jacobi import detect_block_size
from .spectrum import ends_of_spectrum

KINDS = ("smoothed_aggregation", "classical")
COARSEST = 300  # unknowns that are solved for by Cholesky's factor, dense
MOST_LEVELS = 25
WORTH_THREADS = 400_000  # entries plus 4 times rows of a level below which one thread sweeps as fast as two
STALLED = 0.8  # a coarse level with more than this part of the unknowns is not worth having
M_MATRIX = 2.2  # row sums up to here: unit diagonal and (nearly) diagonally dominant, where Gershgorin's bound is sharp


class Level(NamedTuple):
    """One level: ``A`` scaled to ``S A S`` with nearly unit diagonal, how its rows are cut, and ``scale`` = diag S."""

    A: CSR
    scale: Array
    excess: Array
    work: Work


class Multigrid(Preconditioner):
    r"""One V-cycle of algebraic multigrid.

    Made for the discretisations of second-order elliptic problems: diffusion, elasticity, graph Laplacians of low
    dimension. There the number of iterations hardly grows with the number of unknowns.

    The levels are kept in single precision whatever the type of A, each scaled to unit diagonal (so that nothing
    depends on the units of A). The smoother is one sweep of Gauss-Seidel down and, after the coarse correction, one up,
    each thread in its own rows; the coarsest level is solved by Cholesky's factor. The cycle is therefore

    .. math:: M_l = \bar S_l + (I - S_l A_l)^T P_l M_{l+1} P_l^T (I - A_l S_l)

    with a positive definite symmetrised smoother: symmetric positive definite for every symmetric positive definite A,
    up to rounding in single precision.

    Parameters
    ----------
    A : sparse or dense matrix, or a `MatrixOperator`
        Real, with a positive diagonal.
    kind : {"smoothed_aggregation", "classical"}
        How to coarsen. Classical coarsening (Ruge and Stueben) is set up by PyAMG (``pip install cgopt[amg]``). It
        takes fewer iterations on M-matrices, and longer to set up.
    B : (n, k) array, optional
        Vectors that A nearly maps to zero, and that coarse levels must represent: for elasticity the rigid body modes
        (`rigid_body_modes`). By default the constant, or one constant for each of the `block_size` unknowns of a node.
        For smoothed aggregation only.
    block_size : int, optional
        Unknowns of a node, numbered next to each other; aggregates hold whole nodes. By default what the pattern of A
        shows: that of 2 to 6 whose blocks are mostly full where they are not empty, otherwise 1.
    strength : float
        Nodes i and j of level l (0, 1, ...) are aggregated when ``|a_ij| > strength 2**-l sqrt(a_ii a_jj)``.

    Attributes
    ----------
    sizes : list of int
        Unknowns of each level.
    operator_complexity : float
        Stored entries of all levels' matrices, relative to the first.

    Raises
    ------
    ValueError, TypeError
        For a complex matrix, one with a diagonal entry that is not positive, B of a wrong shape, an unknown kind.
    ImportError
        If PyAMG is needed and missing.

    References
    ----------
    P. Vanek, J. Mandel and M. Brezina, Computing 56, 1996. A. H. Baker, R. D. Falgout, T. V. Kolev and U. M. Yang,
    SIAM J. Sci. Comput. 33, 2011 (Gauss-Seidel in each thread's rows).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((100, 100))
    >>> M = cgopt.preconditioners.Multigrid(A)
    >>> M.sizes
    [10000, 1700, 197]
    >>> cgopt.cg(A, np.ones(10000), M=M, rtol=1e-8).iterations < 15
    True
    >>> cgopt.cg(A, np.ones(10000), rtol=1e-8).iterations > 150
    True
    """

    working_dtype = np.dtype(np.float32)

    def __init__(
        self,
        A: Any,
        *,
        kind: str = "smoothed_aggregation",
        B: Any = None,
        block_size: int | None = None,
        strength: float = 0.08,
    ) -> None:
        start = time.perf_counter()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
        operator = as_operator(A)
        self.on_device = self.capturable = operator.on_device
        exponent = 0
        if isinstance(operator, DeviceMatrix):  # levels are made on the host
            exponent, operator = operator.exponent, MatrixOperator(operator.to_host())
        if not isinstance(operator, MatrixOperator):
            raise TypeError("A must be a matrix: multigrid needs its entries, not products with it only")
        if operator.dtype.kind == "c":
            raise TypeError("A is complex, and multigrid is for real matrices; use another preconditioner")
        if operator.bad_row >= 0:
            raise ValueError(
                f"diagonal entry {operator.bad_row} of A is not positive; A is not positive definite, as it must be"
            )
        self.shape, self.dtype, self.kind = operator.shape, operator.dtype, kind
        self._exponent = exponent + operator.exponent  # the hierarchy is that of 2^exponent A
        rows = operator.rows()
        rows = CSR(rows.indptr, rows.indices, rows.data.astype(np.float64))
        if kind == "classical":
            if B is not None or block_size is not None:
                raise ValueError("B and block_size are for kind='smoothed_aggregation'; leave them out")
            levels, transfers = classical_levels(rows, strength=0.25)
        else:
            size = check_block_size(block_size, self.shape[0]) if block_size is not None else detect_block_size(rows)
            candidates = near_nullspace(B, size, self.shape[0])
            levels, transfers = aggregation_levels(rows, candidates, size, check_strength(strength))
        self._take(levels, transfers)
        self.setup_time = time.perf_counter() - start

    @classmethod
    def from_hierarchy(cls, hierarchy: Any) -> Multigrid:
        """Cycle the levels of a hierarchy that another program has set up.

        Parameters
        ----------
        hierarchy : object with ``levels``
            Such as PyAMG's `MultilevelSolver`: each level has a matrix A, each but the last a prolongator P. Its
            own smoothers and coarse solver are not used.

        Examples
        --------
        >>> import cgopt, pyamg
        >>> A = cgopt.gallery.poisson((60, 60))
        >>> M = cgopt.preconditioners.Multigrid.from_hierarchy(pyamg.smoothed_aggregation_solver(A))
        >>> M.shape
        (3600, 3600)
        """
        start = time.perf_counter()
        M = cls.__new__(cls)
        operator = MatrixOperator(hierarchy.levels[0].A.tocsr())
        if operator.dtype.kind == "c":
            raise TypeError("the hierarchy is complex, and these cycles are for real matrices")
        M.shape, M.dtype, M.kind, M._exponent = operator.shape, operator.dtype, "given", operator.exponent
        levels, transfers = given_levels(hierarchy, 2.0**operator.exponent)
        M._take(levels, transfers)
        M.setup_time = time.perf_counter() - start
        return M

    def _take(self, levels: list[Level], transfers: list[CSR]) -> None:
        if self.on_device:
            self._take_there(levels, transfers)
            return
        self.hierarchy = stack(levels, transfers)
        self._scale = single_if_in_range(levels[0].scale)
        self._work = levels[0].work
        self._lock = threading.Lock()  # the hierarchy holds the vectors that a cycle works in
        self.sizes = [int(m) for m in np.diff(self.hierarchy.rows)]
        self.operator_complexity = sum(level.A.data.size for level in levels) / max(1, levels[0].A.data.size)

    def _take_there(self, levels: list[Level], transfers: list[CSR]) -> None:
        """The same levels for the cycle on the GPU, which has a smoother of its own: see `cgopt.kernels.gpu`."""
        levels, transfers = ended(levels, transfers)
        self.sizes = [level.scale.size for level in levels]
        self.operator_complexity = sum(level.A.data.size for level in levels) / max(1, levels[0].A.data.size)
        down = [scale_columns(P, levels[l + 1].scale) for l, P in enumerate(transfers)]
        up = [transpose(P, levels[l + 1].scale.size) for l, P in enumerate(down)]
        factor = coarsest_factor(levels[-1])
        inverse = scipy.linalg.cho_solve((factor, True), np.eye(factor.shape[0])) if factor.size else factor
        largest = [largest_eigenvalue(level) for level in levels[:-1]]
        smoothed = [level.A for level in levels[:-1]]
        self._scale = levels[0].scale
        self.cycle = gpu.Cycle(smoothed, largest, down, up, inverse, self._scale)

    def _matvec(self, x: Array, out: Array) -> None:
        if self.on_device:
            self.cycle.apply(x, out, 2.0**self._exponent)
            return
        if x.dtype.kind == "c":  # the cycle is real
            out.real, out.imag = self.matvec(x.real), self.matvec(x.imag)
        elif not (out.flags.c_contiguous and x.dtype == out.dtype and x.flags.c_contiguous):
            out[...] = self.matvec(np.ascontiguousarray(x, dtype=np.result_type(self.dtype, x)))
        else:
            with self._lock:
                self._cycle(x, out)

    def _cycle(self, x: Array, out: Array) -> None:
        # Residuals are brought to about one, so that whatever their size they are in the range of single precision.
        largest = cpu.run(cycle.largest_scaled, self._work, self._scale, x, self._work)
        if not 0.0 < largest < math.inf:
            out[...] = 0.0 if largest == 0.0 else math.nan
            return
        sigma = 2.0 ** -max(-1000, min(1000, math.frexp(largest)[1]))
        H, w = self.hierarchy, self._work
        cpu.run(cycle.scale_vector, w, self._scale, sigma, x, H.b, w)
        cpu.run(cycle.v_cycle, w, H)
        cpu.run(cycle.scale_vector, w, self._scale, 1.0 / sigma, H.x, out, w)
        if self._exponent:
            np.ldexp(out, self._exponent, out=out)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the levels and of the vectors that a cycle works in."""
        if self.on_device:
            return int(self.cycle.nbytes)
        return sum(int(a.nbytes) for a in self.hierarchy) + int(self._scale.nbytes)

    def __repr__(self) -> str:
        sizes = " > ".join(map(str, self.sizes))
        return (
            f"Multigrid({self.kind}, levels {sizes}, operator_complexity={self.operator_complexity:.3g}, "
            f"{self.nbytes / 1e6:.3g} MB, setup_time={self.setup_time:.2g} s)"
        )


def largest_eigenvalue(level: Level) -> float:
    """A bound of the largest eigenvalue of a level's matrix, from ten steps of Lanczos' method."""
    n = level.scale.size

    def product(x: Array, out: Array) -> None:
        cpu.multiply(level.A, x, out, level.work)

    return min(ends_of_spectrum(product, n).bound, float(abs(to_scipy(level.A, n)).sum(axis=1).max()))


def rigid_body_modes(coordinates: Any) -> Array:
    """The motions of a rigid body, which no elastic energy resists: for `Multigrid`'s argument B.

    Parameters
    ----------
    coordinates : (nodes, d) array
        Of the nodes, d = 2 or 3; the d displacements of a node stand next to each other.

    Returns
    -------
    (d nodes, 3 or 6) array
        Translations, then infinitesimal rotations about the centre, which have entries of about one.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> m = 30
    >>> A = cgopt.gallery.elasticity((m, m))
    >>> nodes = np.stack(np.meshgrid(np.arange(1, m + 1), np.arange(m + 1), indexing="ij"), -1).reshape(-1, 2)
    >>> B = cgopt.preconditioners.rigid_body_modes(nodes)
    >>> M = cgopt.preconditioners.Multigrid(A, B=B, block_size=2)
    >>> cgopt.cg(A, np.ones(A.shape[0]), M=M, rtol=1e-8).iterations < 25
    True
    """
    points = as_array(coordinates, "coordinates").astype(np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"coordinates must have shape (nodes, 2) or (nodes, 3), got {points.shape}")
    if first_nonfinite(points) is not None:
        raise ValueError("coordinates hold NaN or infinity; every entry must be finite")
    nodes, d = points.shape
    points = points - points.mean(axis=0)
    points /= max(float(np.abs(points).max(initial=0.0)), np.finfo(float).tiny)
    turns = [(0, 1)] if d == 2 else [(0, 1), (1, 2), (2, 0)]
    modes = np.zeros((nodes, d, d + len(turns)))
    modes[:, np.arange(d), np.arange(d)] = 1.0
    for column, (i, j) in enumerate(turns, start=d):  # u_i = -x_j,  u_j = x_i
        modes[:, i, column], modes[:, j, column] = -points[:, j], points[:, i]
    return modes.reshape(nodes * d, -1)


# --- what the user passes -----------------------------------------------------------------------------------


def check_strength(strength: Any) -> float:
    """The strength threshold as a float."""
    if not np.isscalar(strength) or not np.isreal(strength) or not 0.0 <= strength < 1.0:  # type: ignore[operator]
        raise ValueError(f"strength must be a number from 0 up to 1, got {strength!r}")
    return float(strength)  # type: ignore[arg-type]


def check_block_size(block_size: Any, n: int) -> int:
    """The size of a node's blocks as an int."""
    if not isinstance(block_size, (int, np.integer)) or isinstance(block_size, bool) or block_size < 1:
        raise ValueError(f"block_size must be a positive whole number, got {block_size!r}")
    if n % block_size:
        raise ValueError(f"block_size={block_size} does not divide the {n} rows of A")
    return int(block_size)


def near_nullspace(B: Any, block_size: int, n: int) -> Array:
    """The candidates as an (n, k) array of float64."""
    if B is None:
        return np.tile(np.eye(block_size), (n // block_size, 1))
    candidates = as_array(B, "B")
    candidates = candidates[:, None] if candidates.ndim == 1 else candidates
    if candidates.ndim != 2 or candidates.shape[0] != n or candidates.shape[1] == 0:
        raise ValueError(f"B must have shape ({n}, k), k at least 1, got {candidates.shape}")
    if candidates.dtype.kind == "c":
        raise TypeError("B is complex; pass real vectors")
    if first_nonfinite(candidates) is not None:
        raise ValueError("B holds NaN or infinity; every entry must be finite")
    candidates = candidates.astype(np.float64)
    largest = np.abs(candidates).max(axis=0)
    return candidates / np.where(largest > 0.0, largest, 1.0)


# --- levels -------------------------------------------------------------------------------------------------


def make_level(A: CSR, finest: Level | None = None, own: bool = True) -> Level:
    """Scale a matrix to unit diagonal, in place if `own`; no coarser level is cut into more chunks than the finest."""
    n = A.indptr.size - 1
    threads = finest.work.bounds.size - 1 if finest else None
    if A.data.size + 4 * n < WORTH_THREADS:
        threads = 1
    work = cpu.share_rows(n, A.data.size, A.indptr, threads=threads)
    diagonal = np.zeros(n)
    cpu.diagonal_csr(*A, diagonal)
    scale, excess = np.empty(n), np.empty(n)
    cpu.run(setup.smoother_scale, work, *A, diagonal, scale, excess, work)
    data = A.data if own else np.empty_like(A.data)
    cpu.run(setup.scale_symmetrically, work, *A, scale, data, work)
    return Level(CSR(A.indptr, A.indices, data), scale, excess, work)


def aggregation_levels(A: CSR, B: Array, size: int, strength: float) -> tuple[list[Level], list[CSR]]:
    """Levels of smoothed aggregation, and the prolongators between them in the scaled unknowns."""
    levels = [make_level(A, own=False)]
    transfers: list[CSR] = []
    while levels[-1].scale.size > COARSEST and len(levels) < MOST_LEVELS:
        fine = levels[-1]
        n = fine.scale.size
        inverse = np.divide(1.0, fine.scale, out=np.zeros(n), where=fine.scale > 0.0)
        T, coarse_B = tentative(fine.A, B * inverse[:, None], size, strength * 0.5 ** len(transfers))
        m = coarse_B.shape[0]
        if m == 0 or m > STALLED * n:
            break
        P = multiply(smoothing(fine.A, finest=not transfers), T, m)  # P = (I - omega A) T
        transfers.append(P)
        coarse = multiply(transpose(P, m), multiply(fine.A, P, m), m)  # P' A P
        levels.append(make_level(coarse, levels[0]))
        B, size = coarse_B, B.shape[1]
    return levels, transfers


def tentative(A: CSR, B: Array, size: int, theta: float) -> tuple[CSR, Array]:
    """The tentative prolongator T with ``B = T coarse`` on every aggregated node, and coarse."""
    n, k = B.shape
    graph = A
    if size > 1:
        graph = CSR(np.empty(n // size + 1, A.indptr.dtype), np.empty_like(A.indices), np.empty_like(A.data))
        entries = setup.block_norms(*A, size, *graph)
        graph = CSR(graph.indptr, graph.indices[:entries], graph.data[:entries])
        own = np.zeros(n // size)
        cpu.diagonal_csr(*graph, own)
        own = np.divide(1.0, np.sqrt(own), out=np.zeros_like(own), where=own > 0.0)
        work = cpu.share_rows(n // size, entries, graph.indptr)
        cpu.run(setup.scale_symmetrically, work, *graph, own, graph.data, work)
    members = np.empty(n // size, np.int64)
    count = setup.aggregate(*graph, theta, members)
    values, coarse = np.zeros((n, k)), np.zeros((count * k, k))
    setup.orthonormalize(members, count, size, B, values, coarse)
    held = np.repeat(members >= 0, size)
    indptr = np.zeros(n + 1, np.uint32)
    np.cumsum(held * k, out=indptr[1:])
    columns = (np.repeat(members, size)[held, None] * k + np.arange(k)).astype(np.uint32)
    return CSR(indptr, columns.ravel(), values[held].ravel()), coarse


def smoothing(A: CSR, finest: bool) -> CSR:
    """``I - omega A`` with omega = 4 / (3 rho), rho the largest eigenvalue (Vanek, Mandel and Brezina 1996).

    On the finest level a bound saves the products of an estimate, where it is known to be good; on the others, cheaper,
    the estimate saves iterations (2-D Poisson: 10 instead of 12).
    """
    n = A.indptr.size - 1
    rho = cpu.scan_csr(*A)[0] if finest else math.inf  # largest row sum
    if rho > M_MATRIX:
        work = cpu.share_rows(n, A.data.size, A.indptr)
        rho = ends_of_spectrum(lambda x, out: cpu.multiply(A, x, out, work), n, steps=8).largest
    S = CSR(A.indptr, A.indices, A.data * (-4.0 / (3.0 * rho)))
    setup.add_to_diagonal(*S, 1.0)
    return S


def classical_levels(A: CSR, strength: float) -> tuple[list[Level], list[CSR]]:
    """Levels of Ruge and Stueben's coarsening, by PyAMG."""
    try:
        import pyamg
    except ImportError as error:
        raise ImportError("kind='classical' needs PyAMG: pip install 'cgopt[amg]'") from error
    hierarchy = pyamg.ruge_stuben_solver(
        to_scipy(A, A.indptr.size - 1), strength=("classical", {"theta": strength}), max_coarse=COARSEST
    )
    return given_levels(hierarchy, 1.0)


def given_levels(hierarchy: Any, factor: float) -> tuple[list[Level], list[CSR]]:
    """Levels and prolongators of another program's hierarchy, its matrices times a factor."""
    levels: list[Level] = []
    transfers: list[CSR] = []
    for given in hierarchy.levels:
        A = csr_arrays(given.A.tocsr().astype(np.float64))
        levels.append(make_level(A._replace(data=factor * A.data), levels[0] if levels else None))
    for given, fine in zip(hierarchy.levels[:-1], levels, strict=False):
        P = csr_arrays(given.P.tocsr().astype(np.float64))
        inverse = np.divide(1.0, fine.scale, out=np.zeros_like(fine.scale), where=fine.scale > 0.0)
        transfers.append(P._replace(data=P.data * np.repeat(inverse, row_lengths(P))))
    return levels, transfers


# --- products of sparse matrices ----------------------------------------------------------------------------


def to_scipy(A: CSR, width: int) -> Any:
    """A SciPy array on the same memory."""
    signed = [a.view(f"i{a.itemsize}") for a in (A.indptr, A.indices)]
    return sp.csr_array((A.data, signed[1], signed[0]), shape=(A.indptr.size - 1, width))


def transpose(A: CSR, width: int) -> CSR:
    """``A'``, A having `width` columns."""
    return csr_arrays(to_scipy(A, width).T.tocsr())


def row_lengths(A: CSR) -> npt.NDArray[np.int64]:
    """Entries in each row."""
    return (A.indptr[1:] - A.indptr[:-1]).astype(np.int64)


def pointers(counts: Array) -> Array:
    """Row pointers from the numbers of entries."""
    total = int(counts.sum())
    out = np.zeros(counts.size + 1, np.uint32 if total < 2**32 else np.uint64)
    np.cumsum(counts, out=out[1:])
    return out


def multiply(A: CSR, B: CSR, width: int) -> CSR:
    """``A B``, B having `width` columns; columns of a row in no particular order."""
    n = A.indptr.size - 1
    work = cpu.share_rows(n, 4 * A.data.size, A.indptr)
    most = np.empty(work.bounds.size - 1, np.int64)
    cpu.run(setup.bound_product, work, A.indptr, A.indices, B.indptr, most, work)
    starts = np.append(0, np.cumsum(most))
    counts = np.empty(n, np.int64)
    # What is not written of these costs address space, and no memory.
    columns, values = np.empty(int(starts[-1]), np.uint32), np.empty(int(starts[-1]))
    cpu.run(setup.multiply_rows, work, *A, *B, width, starts, counts, columns, values, work)
    indptr = pointers(counts)
    parts = [
        slice(start, start + int(indptr[high]) - int(indptr[low]))
        for start, low, high in zip(starts, work.bounds[:-1], work.bounds[1:], strict=False)
    ]
    return CSR(indptr, np.concatenate([columns[p] for p in parts]), np.concatenate([values[p] for p in parts]))


# --- the stack ----------------------------------------------------------------------------------------------


def single_if_in_range(scale: Array) -> Array:
    """The scaling in fp32, where that neither overflows nor loses digits."""
    used = scale[scale > 0.0]
    if used.size and (used.max() > 1e30 or used.min() < 1e-30):
        return scale
    return scale.astype(np.float32)


def ended(levels: list[Level], transfers: list[CSR]) -> tuple[list[Level], list[CSR]]:
    """Levels of which the last is small enough to be solved: where coarsening has stalled, one without unknowns."""
    n = levels[-1].scale.size
    if len(levels) != len(transfers) + 1 or n <= COARSEST:
        return levels, transfers
    nothing = make_level(CSR(np.zeros(1, np.uint32), np.empty(0, np.uint32), np.empty(0)))
    to_nothing = CSR(np.zeros(n + 1, np.uint32), np.empty(0, np.uint32), np.empty(0))
    return [*levels, nothing], [*transfers, to_nothing]


def stack(levels: list[Level], transfers: list[CSR]) -> Hierarchy:
    """All levels in one set of arrays, as the cycle takes them."""
    levels, transfers = ended(levels, transfers)
    sizes = [level.scale.size for level in levels]
    rows = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    chunks = levels[0].work.bounds.size
    bounds = np.empty((len(levels) - 1, chunks), np.int64)
    lower, upper, between, listed = [], [], [], []
    for l, level in enumerate(levels[:-1]):
        bounds[l] = rows[l] + np.append(level.work.bounds, [sizes[l]] * (chunks - level.work.bounds.size))
        own_lower, own_upper, own_between = split(level, int(rows[l]))
        lower.append(own_lower)
        upper.append(own_upper)
        listed.append(own_between[0])
        between.append(own_between[1])
    down = [scale_columns(P, levels[l + 1].scale) for l, P in enumerate(transfers)]
    up = [transpose(P, sizes[l + 1]) for l, P in enumerate(down)]
    all_listed = np.concatenate([np.empty(0, np.int64), *listed])
    return Hierarchy(
        rows,
        bounds,
        *joined(lower),
        *joined(upper),
        np.searchsorted(all_listed, bounds).astype(np.int64),
        all_listed,
        *joined(between),
        *joined([shifted(P, rows[l + 1]) for l, P in enumerate(down)]),
        *joined([shifted(R, rows[l]) for l, R in enumerate(up)]),
        coarsest_factor(levels[-1]),
        cycle.schedule(len(levels)),
        np.zeros(int(rows[-1]), np.float32),
        np.zeros(int(rows[-1]), np.float32),
        np.zeros(int(rows[-1]), np.float32),
        np.zeros(sizes[-1]),
    )


def split(level: Level, first: int) -> tuple[CSR, CSR, tuple[Array, CSR]]:
    """A level's entries below and above the diagonal, and between chunks with the rows that have such."""
    A, work = level.A, level.work
    n = level.scale.size
    counts = np.empty((3, n), np.int64)
    cpu.run(setup.count_parts, work, *A, counts, work)
    lower, upper = (empty_rows(pointers(c)) for c in counts[:2])
    cpu.run(setup.fill_parts, work, *A, first, *lower, *upper, work)
    counts[2] += level.excess > 0.0
    listed = np.flatnonzero(counts[2])
    between = empty_rows(pointers(counts[2, listed]))
    setup.fill_between(*A, work.bounds, first, listed, *between, level.excess)
    return lower, upper, (listed + first, between)


def empty_rows(indptr: Array) -> CSR:
    """Rows of the given lengths, to be filled."""
    return CSR(indptr, np.empty(int(indptr[-1]), np.uint32), np.empty(int(indptr[-1]), np.float32))


def scale_columns(P: CSR, scale: Array) -> CSR:
    """``P S``."""
    return P._replace(data=P.data * scale[P.indices])


def shifted(A: CSR, first: int) -> CSR:
    """Columns counted from `first`, values in fp32."""
    return CSR(A.indptr, A.indices + np.uint32(first), A.data.astype(np.float32))


def joined(parts: list[CSR]) -> tuple[Array, Array, Array]:
    """Matrices below each other: one set of row pointers, columns and values."""
    if not parts:
        return np.zeros(1, np.uint32), np.empty(0, np.uint32), np.empty(0, np.float32)
    kind = np.uint32 if sum(part.data.size for part in parts) < 2**32 else np.uint64
    indptr = np.zeros(sum(part.indptr.size - 1 for part in parts) + 1, kind)
    row = entry = 0
    for part in parts:
        n = part.indptr.size - 1
        np.add(part.indptr[1:], kind(entry), out=indptr[row + 1 : row + 1 + n])
        row, entry = row + n, entry + part.data.size
    return (
        indptr,
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.data for part in parts]),
    )


def coarsest_factor(level: Level) -> Array:
    """Cholesky's factor of the coarsest matrix; where rounding has made that indefinite, of one shifted upwards."""
    m = level.scale.size
    dense = to_scipy(level.A, m).toarray()
    dense[np.diag_indices(m)] += level.scale == 0.0  # unknowns that do nothing
    dense = 0.5 * (dense + dense.T)
    shift = 0.0
    while True:
        try:
            return np.linalg.cholesky(dense + shift * np.eye(m)) if m else np.empty((0, 0))
        except np.linalg.LinAlgError:
            shift = max(100.0 * shift, m * float(np.finfo(float).eps))
