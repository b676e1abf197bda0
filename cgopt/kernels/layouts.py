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

WINDOW = 64  # rows that `SortedCSR` sorts among themselves; `place` fits a byte up to 256

Array = npt.NDArray[Any]


class Dense(NamedTuple):
    """A Hermitian matrix, C-contiguous ``(n, n)``."""

    values: Array


class DenseLower(NamedTuple):
    """A real symmetric matrix, C-contiguous ``(n, n)``, of which only the lower triangle is read."""

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


Layout = Dense | DenseLower | CSR | SortedCSR | DIA


class Work(NamedTuple):
    """How rows are shared out: chunk t is rows ``bounds[t]:bounds[t+1]``, its partial sums ``sums[t]``.

    ``spill[t]`` is what chunk t adds to rows of a product that other chunks own; empty for layouts that keep to their
    own rows. The number of chunks, not the number of threads that happen to run, fixes the order of every sum:
    the same input gives the same bits.
    """

    bounds: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    spill: Array
