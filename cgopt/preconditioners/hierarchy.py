"""Levels of algebraic multigrid, set up on the host: coarsening, products of sparse matrices, and the stack of levels.

Smoothed aggregation: P. Vanek, J. Mandel and M. Brezina, Computing 56, 1996. Classical: J. W. Ruge and K. Stueben in
"Multigrid Methods", SIAM 1987, set up by PyAMG.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ..arrays import Array
from ..kernels import cpu
from ..kernels.cpu import aggregation as setup
from ..kernels.cpu import multigrid as cycle
from ..kernels.layouts import CSR, Hierarchy, Work
from ..operators.formats import csr_arrays
from .spectrum import ends_of_spectrum

COARSEST = 300  # unknowns that are solved for by Cholesky's factor, dense
SINGULAR = 1e-5  # a square of its diagonal below which the matrix, of unit diagonal, is singular in single precision
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
    """Cholesky's factor of the coarsest matrix; where single precision cannot tell that from singular, shifted upwards.

    (A singular A, such as a Laplacian without boundary, has its null space on all levels, and a pivot of 1e-11 would
    blow up what rounding puts there.)
    """
    m = level.scale.size
    dense = to_scipy(level.A, m).toarray()
    dense[np.diag_indices(m)] += level.scale == 0.0  # unknowns that do nothing
    dense = 0.5 * (dense + dense.T)
    shift = 0.0
    while m:
        try:
            factor = np.linalg.cholesky(dense + shift * np.eye(m))
            if factor.diagonal().min() ** 2 >= SINGULAR:
                return factor
        except np.linalg.LinAlgError:
            pass
        shift = max(100.0 * shift, SINGULAR)
    return np.empty((0, 0))


def largest_eigenvalue(level: Level) -> float:
    """A bound of the largest eigenvalue of a level's matrix, from ten steps of Lanczos' method."""
    n = level.scale.size

    def product(x: Array, out: Array) -> None:
        cpu.multiply(level.A, x, out, level.work)

    return min(ends_of_spectrum(product, n).bound, float(abs(to_scipy(level.A, n)).sum(axis=1).max()))
