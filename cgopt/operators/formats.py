"""Which storage layout suits a matrix.

The choice is by bytes read in one product and by what a row loop can run at: diagonals where few of them hold
nearly everything (no indices, vector loads; of a real symmetric matrix the upper ones alone), rows sorted by length
where lengths vary (the inner loop's end is predicted), plain compressed rows otherwise. Values of a large matrix that
single precision holds exactly are kept in it. All are lossless. `docs/performance.md` has the measurements.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import CSR, DIA, Dense, DenseLower, HalfCSR, HalfDIA, Layout, RoundedCSR, SortedCSR

FORMATS = ("csr", "sorted", "half_csr", "dia", "half_dia", "dense", "float32")
MOST_DIAGONALS = 64
WORTH_SEARCHING = 1_000  # stored entries below which the choice could not pay for itself
WORTH_NARROWING = 100_000  # values that fill a second-level cache; beyond, diagonals of narrow ones are twice as fast
WORTH_SORTING = 12_000  # rows; below, branch predictors learn their lengths by heart
EVEN = 0.6  # share of rows as long as the one before from which a loop's end is predicted well enough
WORTH_SHARING = 20_000  # stored entries below which half the rows are no faster than all
SAMPLE = 1000  # values that are looked at before all are
ROWS_TO_HALVE = (12, 100)  # mean row lengths for which half the rows are faster: 1.2 to 1.45 times on one thread
WINDOW_SHARE = 8  # one part in this many of the rows is what a chunk may reach back over
WORTH_HALVING = 48  # rows of a dense matrix from which reading half of it pays (n = 100: 1.1 times, 2000: 2.7)
WORTH_ALIGNING = 200  # rows of a dense matrix up to which a copy in aligned rows pays (10 % of a product at n = 100)
NARROW = 32  # unknowns across a grid up to which factors have little fill in some order
LONG_ROWS = 48  # mean row length from which the end of a row no longer matters


def csr_arrays(A: Any) -> CSR:
    """The arrays of a SciPy CSR matrix, indices unsigned and 32 bit wide where they fit; copied only to narrow."""
    indptr, indices = A.indptr, A.indices
    if indptr.dtype.itemsize == 8 and A.nnz < 2**32:
        indptr = indptr.astype(np.uint32)
    if indices.dtype.itemsize == 8 and A.shape[1] < 2**32:
        indices = indices.astype(np.uint32)
    return CSR(_unsigned(indptr), _unsigned(indices), np.ascontiguousarray(A.data))


def _unsigned(a: Array) -> Array:
    return np.ascontiguousarray(a).view(np.uint32 if a.dtype.itemsize == 4 else np.uint64)


def to_sorted(A: CSR) -> SortedCSR:
    """Sort the rows by length within windows."""
    n = A.indptr.size - 1
    out = SortedCSR(np.empty_like(A.indptr), np.empty_like(A.indices), np.empty_like(A.data), np.empty(n, np.uint8))
    cpu.sort_rows(A.indptr, A.indices, A.data, *out)
    return out


def to_dia(A: CSR, offsets: Array) -> DIA:
    """Store as diagonals with the given sorted offsets."""
    out = DIA(offsets, np.zeros((offsets.size, A.indptr.size - 1), A.data.dtype))
    cpu.fill_dia(A.indptr, A.indices, A.data, offsets, out.data)
    return out


def to_half_dia(A: CSR, offsets: Array, found: Inspected | None) -> HalfDIA | None:
    """Store the main diagonal and those above it, of a matrix whose diagonals have these sorted offsets.

    None if it is not real and exactly symmetric, or has no main diagonal.
    """
    count, n = offsets.size // 2, A.indptr.size - 1
    if A.data.dtype.kind != "f" or not np.array_equal(offsets, -offsets[::-1]) or offsets.size != 2 * count + 1:
        return None
    above = offsets[count + 1 :].copy()
    if found is not None:
        half = HalfDIA(above, np.zeros((count, n), A.data.dtype), found.diagonal)
        if count:
            cpu.fill_half_dia(A.indptr, A.indices, A.data, above, half.data)
        return half
    data = to_dia(A, offsets).data  # rows may be unsorted, with entries that add up
    for k, offset in enumerate(offsets[count:]):
        if not np.array_equal(data[count + k, : n - offset], data[count - k, offset:]):
            return None
    return HalfDIA(above, data[count + 1 :].copy(), data[count].copy())


def all_diagonals(A: HalfDIA) -> DIA:
    """The diagonals above the main one and their mirror images below it."""
    count, n = A.offsets.size, A.diagonal.size
    out = DIA(np.concatenate((-A.offsets[::-1], [0], A.offsets)), np.zeros((2 * count + 1, n), A.diagonal.dtype))
    out.data[count] = A.diagonal
    out.data[count + 1 :] = A.data
    for k, offset in enumerate(A.offsets):
        out.data[count - 1 - k, offset:] = A.data[k, : n - offset]
    return out


def narrowed(A: Any) -> Any:
    """The same with its values in single precision, where that is exact and the matrix large; else A itself."""
    parts = {name: getattr(A, name) for name in ("data", "diagonal") if hasattr(A, name)}
    if A.data.dtype != np.float64 or sum(part.size for part in parts.values()) < WORTH_NARROWING:
        return A
    with np.errstate(over="ignore", under="ignore"):
        first = A.data.reshape(-1)[:SAMPLE]
        if not np.array_equal(first.astype(np.float32), first):
            return A
        narrow = {name: part.astype(np.float32) for name, part in parts.items()}
    return A._replace(**narrow) if all(np.array_equal(narrow[name], parts[name]) for name in parts) else A


def count_entries(A: Any) -> tuple[int, int]:
    """How many entries of a sparse matrix are not zero, and how many are positive."""
    nonzero, positive = int(np.count_nonzero(A.data)), int(np.count_nonzero(A.data > 0.0))
    if isinstance(A, HalfDIA):
        main = A.diagonal
        return 2 * nonzero + int(np.count_nonzero(main)), 2 * positive + int(np.count_nonzero(main > 0.0))
    return nonzero, positive


def is_wide_grid(A: Layout) -> bool:
    """Whether A is by diagonals, those of a grid so wide that in no order factors have little fill."""
    if not isinstance(A, DIA | HalfDIA):
        return False
    n, reach = A.data.shape[1], int(np.abs(A.offsets).max(initial=0))
    return reach > 0 and min(reach, n // reach) >= NARROW


def to_csr(A: Dense | DenseLower | CSR | SortedCSR | DIA | HalfDIA) -> CSR:
    """A layout as compressed rows; a new matrix unless it is one already."""
    if isinstance(A, HalfDIA):
        return to_csr(all_diagonals(A))
    if isinstance(A, CSR):
        return A
    if isinstance(A, Dense | DenseLower):
        return csr_arrays(sp.csr_array(A.values[:, : A.values.shape[0]]))
    if isinstance(A, SortedCSR):
        out = CSR(np.empty_like(A.indptr), np.empty_like(A.indices), np.empty_like(A.data))
        cpu.unsort_rows(*A, *out)
        return out
    count, n = int(np.count_nonzero(A.data)), A.data.shape[1]
    kind = np.uint32 if max(count, n) < 2**32 else np.uint64
    out = CSR(np.empty(n + 1, kind), np.empty(count, kind), np.empty(count, A.data.dtype))
    cpu.rows_of_dia(A.offsets, A.data, *out)
    return out


Rows = Dense | CSR | SortedCSR | DIA | HalfDIA


class Inspected(NamedTuple):
    """What one pass over a real matrix has found that is symmetric to the last bit, its columns rising in each row.

    Attributes
    ----------
    norm : float
        Largest row sum of absolute values.
    bad_row : int
        First row whose diagonal entry is not positive, or -1.
    diagonal : (n,) array
    half : HalfCSR or None
        What is on and below the diagonal, where a solver's loop is faster with it, or it is asked for.
    """

    norm: float
    bad_row: int
    diagonal: Array
    half: HalfCSR | None


class Pattern(NamedTuple):
    """How regular the rows are: how many are as long as the one before, and the diagonals, if few hold everything."""

    same: int
    offsets: Array | None


def look_at_pattern(A: CSR, wanted: str | None) -> Pattern:
    """Look for diagonals, as many as are worth it or asked for.

    Raises
    ------
    ValueError
        If `wanted` is not a format, or diagonals are wanted of a matrix that has too many.
    """
    if wanted is not None and wanted not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)} or None, got {wanted!r}")
    n, entries = A.indptr.size - 1, A.data.size
    forced = wanted in ("dia", "half_dia")
    if not forced and (wanted not in (None, "float32") or entries < WORTH_SEARCHING):
        return Pattern(0, None)
    value, index = A.data.itemsize, A.indices.itemsize
    fewer_bytes = MOST_DIAGONALS if forced else (value + index) * entries // (value * n)
    offsets = np.empty(min(MOST_DIAGONALS, fewer_bytes), np.int64)
    same, count = cpu.survey(A.indptr, A.indices, offsets)
    if forced and count < 0:
        raise ValueError(
            f"format={wanted!r} needs a matrix with at most {MOST_DIAGONALS} diagonals; leave the format open"
        )
    return Pattern(same, np.sort(offsets[:count]) if count > 0 or forced else None)


def inspect(A: CSR, wanted: str | None, pattern: Pattern) -> Inspected | None:
    """Look at the values; None if the matrix is complex, not exactly symmetric, its rows unsorted, or not finite."""
    indptr, indices, data = A
    if data.dtype.kind != "f":
        return None
    n, keep = indptr.size - 1, pattern.offsets is None and worth_halving(A, wanted)
    most = data.size // 2 + 1 if keep else 0
    diagonal = np.zeros(n, data.dtype)
    half = (np.empty(n + 1 if keep else 0, indptr.dtype), np.empty(most, indices.dtype), np.empty(most, data.dtype))
    symmetric, norm, bad_row = cpu.inspect_symmetric(indptr, indices, data, indptr[:n].copy(), diagonal, *half)
    if not symmetric or not norm < np.inf:
        return None
    if not keep:
        return Inspected(norm, bad_row, diagonal, None)
    rows, columns, values = half
    return Inspected(norm, bad_row, diagonal, HalfCSR(rows, columns[: rows[n]], values[: rows[n]], diagonal))


def look(A: CSR, wanted: str | None) -> tuple[Pattern, Inspected | None]:
    """Look at the pattern and the values; for a positive diagonal there is a shorter way."""
    n = A.indptr.size - 1
    if wanted is None and A.data.size == n >= WORTH_SEARCHING and A.data.dtype.kind == "f":
        smallest, largest = float(A.data.min()), float(A.data.max())
        if 0.0 < smallest and largest < np.inf and cpu.is_main_diagonal(A.indptr, A.indices):
            return Pattern(n, np.zeros(1, np.int64)), Inspected(largest, -1, A.data, None)
    pattern = look_at_pattern(A, wanted)
    return pattern, inspect(A, wanted, pattern)


def worth_halving(A: CSR, wanted: str | None) -> bool:
    """Whether the lower triangle is asked for, or rows are of a length at which a loop is faster with it."""
    n, entries = A.indptr.size - 1, A.data.size
    if wanted == "half_csr":
        return True
    short, long = ROWS_TO_HALVE
    if wanted not in (None, "float32") or entries < WORTH_SHARING or not short * n <= entries <= long * n:
        return False
    return cpu.back_reach(A.indptr, A.indices, cpu.share_rows(n, entries, A.indptr).bounds) * WINDOW_SHARE <= n


def choose(A: CSR, wanted: str | None, pattern: Pattern, found: Inspected | None) -> tuple[Rows, str]:
    """Pick a layout for a sparse matrix, and the type of its values.

    Parameters
    ----------
    A : CSR
    wanted : {"csr", "sorted", "half_csr", "dia", "half_dia", "dense", "float32"}, optional
        Force one. (With "float32" the choice is free: see `rounded`.)
    pattern : Pattern
    found : Inspected or None
        None where the matrix is not known to be symmetric.

    Returns
    -------
    layout : Layout
    why : str
        The reason in a few words.

    Raises
    ------
    ValueError
        If a half is wanted of a matrix that is not symmetric.
    """
    layout, why = _choose_layout(A, wanted, pattern, found)
    if isinstance(layout, Dense):
        return layout, why
    narrow = narrowed(layout)
    return narrow, why if narrow is layout else f"{why}; values exact in fp32"


def _choose_layout(A: CSR, wanted: str | None, pattern: Pattern, found: Inspected | None) -> tuple[Rows, str]:
    n, entries = A.indptr.size - 1, A.data.size
    if wanted in ("csr", "half_csr"):  # (halved for a solver's loop only)
        return A, "asked for"
    if wanted == "sorted":
        return to_sorted(A), "asked for"
    if wanted == "dense":
        full = sp.csr_array((A.data, A.indices.view(f"i{A.indices.itemsize}"), A.indptr), shape=(n, n)).toarray()
        return Dense(full), "asked for"
    if wanted == "dia" and pattern.offsets is not None:
        return to_dia(A, pattern.offsets), "asked for"
    if pattern.offsets is not None:
        half = to_half_dia(A, pattern.offsets, found)
        if wanted == "half_dia" and half is None:
            raise ValueError(
                "format='half_dia' needs a real, exactly symmetric matrix; use (A + A.T) / 2, or format='dia'"
            )
        count = pattern.offsets.size
        if half is not None:
            why = f"symmetric: {half.offsets.size + 1} of {count} diagonals hold it"
            return half, "asked for" if wanted == "half_dia" else why
        return to_dia(A, pattern.offsets), f"{count} diagonals hold it in fewer bytes than rows"
    if entries < WORTH_SEARCHING:
        return A, "small"
    if found is not None and found.half is not None:
        return A, "for true residuals only"
    if n >= WORTH_SORTING and entries < LONG_ROWS * n and pattern.same < EVEN * n:
        return to_sorted(A), f"short rows of uneven length ({1 - pattern.same / n:.0%} differ from the row before)"
    return (
        A,
        "rows of even length" if pattern.same >= EVEN * n else "long rows" if entries >= LONG_ROWS * n else "small",
    )


def for_loop(A: Layout) -> Layout:
    """The layout that a solver's loop multiplies by, where A is known to be symmetric.

    (Products outside the loop use all of A: it is from them that a matrix is seen not to be symmetric.)
    """
    if not isinstance(A, Dense):
        return A
    n = A.values.shape[0]
    values = A.values if n > WORTH_ALIGNING else aligned(A.values)
    return DenseLower(values) if values.dtype.kind == "f" and n >= WORTH_HALVING else Dense(values)


def rounded(A: Layout) -> Layout | None:
    """A real symmetric or Hermitian matrix with its values rounded to single precision; None if that changes nothing.

    Where the diagonal is stored apart, it stays as precise as it was, and what rounding took from the rest of a row is
    added to it. The sums of rows thus are A's, and what is smooth is multiplied as by A. Of a matrix of rows dominated
    by their diagonals, with no positive entries beside it, this is ``A' = A + E`` with ``|x'E x| <= u x'A x`` for
    every x (u = 2^-24), whatever the condition number: with ``w_ij = -a_ij`` and ``s_i >= 0`` the sums of rows,

        x'A x = sum_i s_i x_i^2 + sum_{i<j} w_ij (x_i - x_j)^2,

    and rounding changes each w_ij by ``u w_ij`` at the most. Rounding the diagonal too would change the small
    eigenvalues by u times the largest one.
    """
    field = "values" if isinstance(A, Dense | DenseLower) else "data"
    given = getattr(A, field)
    kind = np.dtype(np.complex64 if given.dtype.kind == "c" else np.float32)
    if given.dtype == kind:
        return None
    if isinstance(A, CSR | SortedCSR):
        A = without_diagonal(to_csr(A))
        given = A.data
    with np.errstate(under="ignore"):  # what vanishes is nothing beside the row, which keeps it in its diagonal
        narrow = given.astype(kind)
    if np.array_equal(narrow, given):
        return None
    if isinstance(A, Dense | DenseLower | DIA):
        return A._replace(**{field: narrow})
    n = A.diagonal.size
    lost = A._replace(data=given - narrow, diagonal=np.zeros_like(A.diagonal))
    work = cpu.share_half(lost, given.dtype) if isinstance(lost, HalfCSR) else cpu.share_rows(n, given.size)
    sums = np.empty(n, given.dtype)
    cpu.multiply(lost, np.ones(n, given.dtype), sums, work)
    return A._replace(data=narrow, diagonal=A.diagonal + sums.real)


def without_diagonal(A: CSR) -> RoundedCSR:
    """The same in rows sorted by length, with the diagonal apart."""
    n = A.indptr.size - 1
    row = np.repeat(np.arange(n, dtype=A.indices.dtype), np.diff(A.indptr))
    beside = A.indices != row
    indptr = np.zeros_like(A.indptr)
    np.cumsum(np.bincount(row[beside].astype(np.int64), minlength=n), out=indptr[1:])
    rows = to_sorted(CSR(indptr, A.indices[beside], A.data[beside]))
    return RoundedCSR(*rows, cpu.diagonal(A, n))


def aligned(values: Array) -> Array:
    """A copy of a matrix whose rows begin on cache lines, with room after each."""
    n, line = values.shape[0], 64 // values.itemsize
    wide = -(-n // line) * line
    room = np.zeros(n * wide + line, values.dtype)
    first = -(room.ctypes.data // values.itemsize) % line
    copy = room[first : first + n * wide].reshape(n, wide)
    copy[:, :n] = values
    return copy
