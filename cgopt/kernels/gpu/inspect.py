"""What is looked at once in a matrix, and its diagonals taken from its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layouts import CSR, DIA
from .device import blocks_for, c_type, cupy, kernels
from .vectors import matrix_arguments, matrix_options


def look(A: Any, n: int) -> tuple[Any, Any]:
    """The diagonal of a layout, and the sums of its rows' absolute values in fp64, both (n,) on the device."""
    xp = cupy()
    diagonal, row_sum = xp.empty(n, A[-1].dtype), xp.empty(n, np.float64)
    args = (np.uint64(n), *matrix_arguments(A), diagonal, row_sum)
    kernels("inspect", **matrix_options(A)).launch("look", blocks_for(n), args)
    return diagonal, row_sum


def diagonals_of(A: CSR, most: int) -> DIA | None:
    """The same matrix by its diagonals, None if there are more than `most` of them."""
    xp, n = cupy(), A.indptr.size - 1
    group, blocks = kernels("diagonals", value=c_type(A.data.dtype)), blocks_for(n)
    offset = xp.empty(A.data.size, np.int64)
    group.launch("offsets_of_entries", blocks, (np.uint64(n), A.indptr, A.indices, offset))
    offsets = xp.unique(offset)
    if not 0 < offsets.size <= most:
        return None
    data = xp.zeros((offsets.size, n), A.data.dtype)
    group.launch("fill_dia", blocks, (np.uint64(n), *A, offsets, np.uint32(offsets.size), data))
    return DIA(offsets, data)
