"""Which storage layout suits a matrix.

The choice is by bytes read in one product and by what a row loop can run at: diagonals where few of them hold
nearly everything (no indices, vector loads), rows sorted by length where lengths vary (the inner loop's end is
predicted), plain compressed rows otherwise. All are lossless. `docs/performance.md` has the measurements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import CSR, DIA, Dense, DenseLower, Layout, SortedCSR

FORMATS = ("csr", "sorted", "dia", "dense")
MOST_DIAGONALS = 64
WORTH_SEARCHING = 1_000  # stored entries below which the choice could not pay for itself
WORTH_SORTING = 20_000  # stored entries; below, branch predictors learn the rows' lengths by heart
WORTH_HALVING = 48  # rows of a dense matrix from which reading half of it pays (n = 100: 1.1 times, 2000: 2.7)
WORTH_ALIGNING = 200  # rows of a dense matrix up to which a copy in aligned rows pays (10 % of a product at n = 100)
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
    """Store as diagonals with the given offsets."""
    offsets = np.sort(offsets).astype(np.int64)
    out = DIA(offsets, np.zeros((offsets.size, A.indptr.size - 1), A.data.dtype))
    cpu.fill_dia(A.indptr, A.indices, A.data, offsets, out.data)
    return out


def to_csr(A: Layout) -> CSR:
    """Any layout as compressed rows; a new matrix unless it is one already."""
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


def choose(A: CSR, wanted: str | None = None) -> tuple[Dense | CSR | SortedCSR | DIA, str]:
    """Pick a layout for a sparse matrix.

    Parameters
    ----------
    A : CSR
    wanted : {"csr", "sorted", "dia", "dense"}, optional
        Force one.

    Returns
    -------
    layout : Layout
    why : str
        The reason in a few words.

    Raises
    ------
    ValueError
        If `wanted` is not a format, or diagonals are wanted of a matrix that has too many.
    """
    if wanted is not None and wanted not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)} or None, got {wanted!r}")
    n, entries = A.indptr.size - 1, A.data.size
    if wanted == "csr":
        return A, "asked for"
    if wanted == "sorted":
        return to_sorted(A), "asked for"
    if wanted == "dense":
        full = sp.csr_array((A.data, A.indices.view(f"i{A.indices.itemsize}"), A.indptr), shape=(n, n)).toarray()
        return Dense(full), "asked for"
    if wanted is None and entries < WORTH_SEARCHING:
        return A, "small"
    offsets = np.empty(MOST_DIAGONALS, np.int64)
    same, diagonals = cpu.survey(A.indptr, A.indices, offsets)
    if wanted == "dia" and diagonals < 0:
        raise ValueError(f"format='dia' needs a matrix with at most {MOST_DIAGONALS} diagonals; leave the format open")
    if wanted == "dia":
        return to_dia(A, offsets[:diagonals]), "asked for"
    value, index = A.data.itemsize, A.indices.itemsize
    if 0 < diagonals and value * diagonals * n <= (value + index) * entries:
        return to_dia(A, offsets[:diagonals]), f"{diagonals} diagonals hold it in fewer bytes than rows"
    if entries >= WORTH_SORTING and entries < LONG_ROWS * n and same < 0.95 * n:
        return to_sorted(A), f"short rows of uneven length ({1 - same / n:.0%} differ from the row before)"
    return (
        A,
        "rows of even length" if same >= 0.95 * n else "long rows" if entries >= LONG_ROWS * n else "small",
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


def aligned(values: Array) -> Array:
    """A copy of a matrix whose rows begin on cache lines, with room after each."""
    n, line = values.shape[0], 64 // values.itemsize
    wide = -(-n // line) * line
    room = np.zeros(n * wide + line, values.dtype)
    first = -(room.ctypes.data // values.itemsize) % line
    copy = room[first : first + n * wide].reshape(n, wide)
    copy[:, :n] = values
    return copy


def product_bytes(A: Layout, n: int) -> int:
    """Bytes of the matrix that one product reads."""
    return sum(int(a.nbytes) for a in A)
