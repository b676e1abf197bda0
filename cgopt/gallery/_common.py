"""What the gallery's files share: grid shapes, and sparse matrices that are symmetric bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse import csr_array

from cgopt.arguments import FLOAT_DTYPES as FLOAT_DTYPES
from cgopt.arguments import REAL_DTYPES as REAL_DTYPES
from cgopt.arguments import Seed as Seed
from cgopt.arguments import float_dtype as float_dtype
from cgopt.arguments import generator as generator
from cgopt.arguments import nearest_names as nearest_names
from cgopt.arguments import real_number as real_number
from cgopt.arguments import whole_number as whole_number

Shape: TypeAlias = int | Iterable[int]


def grid_shape(shape: Shape, *, dimensions: Collection[int], unit: str) -> tuple[int, ...]:
    """`shape` as a tuple of positive ints, one per dimension; an int is a grid of one dimension."""
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if len(sizes) not in dimensions:
        wanted = " or ".join(str(d) for d in dimensions)
        raise ValueError(f"shape must give the number of {unit} in {wanted} dimensions, got {shape!r}")
    return tuple(whole_number(f"shape[{axis}]", size) for axis, size in enumerate(sizes))


def sorted_csr(matrix: Any) -> csr_array:
    """Any SciPy sparse matrix as a CSR array without duplicates, indices sorted, and int32 where they fit."""
    result = csr_array(matrix)
    result.sum_duplicates()
    index_dtype = sp.get_index_dtype(maxval=max(result.nnz, *result.shape))
    result.indices = result.indices.astype(index_dtype, copy=False)
    result.indptr = result.indptr.astype(index_dtype, copy=False)
    return result


def mirror_lower(lower: Any) -> csr_array:
    """The Hermitian matrix L + tril(L, -1)^H whose lower triangle is `lower`."""
    lower = sorted_csr(lower)
    return sorted_csr(lower + sp.tril(lower, -1).conj().T.tocsr())


def symmetric_csr(
    rows: npt.NDArray[np.integer[Any]],
    columns: npt.NDArray[np.integer[Any]],
    values: npt.NDArray[Any],
    n: int,
) -> csr_array:
    """The symmetric matrix of order `n` whose lower triangle is the sum of the given entries.

    Both triangles summed separately would differ in the last bit, because SciPy adds duplicates in the order
    of an unstable sort; one triangle is summed and mirrored, which also halves the work.
    """
    return mirror_lower(sp.coo_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(n, n)))
