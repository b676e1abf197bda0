"""Storage layouts: the bundles of arrays that kernels multiply by.

A layout is a `NamedTuple` of arrays and nothing else, so that compiled code takes it as it is. Which
layout suits a matrix is decided one floor up, in `cgopt.operators.formats`; the kernels only promise
that each layout has its products in every backend. Index arrays are unsigned: a signed index costs a
test for negative values in each access, which takes 40 % of the time of a sparse product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NO_WEIGHT = 2**62
WINDOW = 64  # rows that `SortedCSR` sorts among themselves; `place` fits a byte up to 256

Array = npt.NDArray[Any]


class Dense(NamedTuple):
    """A Hermitian matrix, C-contiguous ``(n, >= n)``; what is to the right of column n is not read."""

    values: Array


class DenseLower(NamedTuple):
    """A real symmetric matrix, C-contiguous ``(n, >= n)``, of which only the lower triangle is read."""

    values: Array


class CSR(NamedTuple):
    """Compressed sparse rows: row i holds ``data[indptr[i]:indptr[i+1]]`` at columns ``indices[...]``."""

    indptr: Array
    indices: Array
    data: Array


class SortedCSR(NamedTuple):
    """CSR whose rows stand in order of length within windows of 64 rows.

    Stored row ``i`` is row ``(i - i % 64) + place[i]`` of the matrix. Neighbouring rows then have the same
    length nearly always, the inner loop's end is predicted, and a product with short uneven rows takes
    half the time. Only the order of the stored rows changes: vectors keep the user's numbering.
    """

    indptr: Array
    indices: Array
    data: Array
    place: Array


class DIA(NamedTuple):
    """Diagonals: ``data[d, i]`` is the entry in row i, column ``i + offsets[d]`` (zero outside)."""

    offsets: Array
    data: Array


class HalfDIA(NamedTuple):
    """The main diagonal of a real symmetric matrix, and those above it with positive offsets in rising order.

    ``data[d, i]`` is the entry in row i, column ``i + offsets[d]``, and the one in row ``i + offsets[d]``, column i.
    """

    offsets: Array
    data: Array
    diagonal: Array


class HalfCSR(NamedTuple):
    """A real symmetric matrix by its diagonal and, in compressed rows with rising columns, what lies below it."""

    indptr: Array
    indices: Array
    data: Array
    diagonal: Array


class RoundedCSR(NamedTuple):
    """`SortedCSR` without the diagonal, which stands apart, so that it can be of higher precision than the rest."""

    indptr: Array
    indices: Array
    data: Array
    place: Array
    diagonal: Array


Layout = Dense | DenseLower | CSR | SortedCSR | DIA | HalfDIA | HalfCSR | RoundedCSR


class Work(NamedTuple):
    """How rows are shared out: chunk t is rows ``bounds[t]:bounds[t+1]``, its partial sums ``sums[t]``.

    ``spill[t]`` is what chunk t adds to rows of a product that other chunks own; empty for layouts that keep to their
    own rows. The number of chunks, not the number of threads that happen to run, fixes the order of every sum:
    the same input gives the same bits.

    ``own`` is the chunk of a thread that is one of a team, -1 for one that works all chunks off; ``meetings`` is where
    a team meets, ``weight`` what a pass over the rows costs (entries and four times rows), ``NO_WEIGHT`` if nobody
    asks.
    """

    bounds: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    spill: Array = np.empty((0, 0))
    own: int = -1
    meetings: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    weight: int = NO_WEIGHT


class Hierarchy(NamedTuple):
    """The levels of a multigrid cycle, stacked: level l has the unknowns ``rows[l]:rows[l+1]`` of all the levels'.

    Row and column numbers are those of the stack, so that each kind of matrix is one of compressed rows for all levels.
    Each level's matrix is scaled to unit diagonal (which is not stored) and cut by chunks of rows: entries below the
    diagonal in the row's own chunk, those above, and those between chunks, of the rows that have such.

    Attributes
    ----------
    rows : (levels + 1,) int64
    bounds : (levels - 1, chunks + 1) int64
        Chunks of rows of each level but the coarsest.
    lower, upper : (ptr, columns, values)
        Entries below and above the diagonal.
    between : (bounds, rows, ptr, columns, values)
        Entries in other chunks, of the rows listed in ``between_rows``; ``between_bounds[l, t]`` is where level l's
        chunk t begins in that list. The diagonal is among them where it is not one.
    prolongation : (ptr, columns, values)
        Row i of a level holds columns of the next.
    restriction : (ptr, columns, values)
        Its transpose; the first row is ``rows[1]``.
    factor : (m, m) float64
        Cholesky's factor of the coarsest matrix.
    schedule : (passes, 2) int64
        The passes of a cycle in their order: which, and on which level.
    x, b, r, y
        Vectors to work in.
    """

    rows: Array
    bounds: Array
    lower_ptr: Array
    lower_columns: Array
    lower: Array
    upper_ptr: Array
    upper_columns: Array
    upper: Array
    between_bounds: Array
    between_rows: Array
    between_ptr: Array
    between_columns: Array
    between: Array
    prolongation_ptr: Array
    prolongation_columns: Array
    prolongation: Array
    restriction_ptr: Array
    restriction_columns: Array
    restriction: Array
    factor: Array
    schedule: Array
    x: Array
    b: Array
    r: Array
    y: Array


class Factor(NamedTuple):
    """A triangular factorisation ``A ~ C^-1 (I + L)(I + L') C^-1`` of some A, as sweeps with it want it.

    Row i of the factor is row ``order[i]`` of the matrix. The order is cut into independent parts, part t the rows
    ``parts[t]:parts[t+1]``, and separators after them that alone link the parts.

    Attributes
    ----------
    order : (n,) uint32 or uint64
    parts : (parts + 1,) int64
    scale : (n,)
        Diagonal of C, in the factor's order.
    indptr, indices, data
        Rows of L, which has no diagonal.
    y : (n,)
        To work in.
    sums : (parts + 1, SUMS) float64
        Partial sums of the parts and of the separators.
    """

    order: Array
    parts: Array
    scale: Array
    indptr: Array
    indices: Array
    data: Array
    y: Array
    sums: Array


class Eisenstat(NamedTuple):
    """A factorisation with A's own off-diagonal entries: ``A ~ W (I + L)(I + L') W``, A being ``W (L + I + D + L') W``.

    The order and its parts are as in `Factor`.

    Attributes
    ----------
    weight, inverse : (n,)
        Diagonal of W, and its inverse.
    shift : (n,)
        Diagonal of D.
    lower_ptr, lower_columns, lower
        Rows of L.
    upper_ptr, upper_columns, upper
        Rows of L'.
    y, q : (n,)
        To work in; q holds the product with the direction, in the factor's order and scale.
    """

    order: Array
    parts: Array
    weight: Array
    inverse: Array
    shift: Array
    lower_ptr: Array
    lower_columns: Array
    lower: Array
    upper_ptr: Array
    upper_columns: Array
    upper: Array
    y: Array
    q: Array
    sums: Array
