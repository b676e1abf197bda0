"""What the gallery's files share: checked arguments, and sparse matrices that are symmetric bit for bit."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse import csr_array

Shape: TypeAlias = int | Iterable[int]
Seed: TypeAlias = int | np.random.Generator | None

REAL_DTYPES = ("float32", "float64")
FLOAT_DTYPES = (*REAL_DTYPES, "complex64", "complex128")


def whole_number(name: str, value: object, *, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`; the argument's `name` is for the message."""
    # True is 1 to Python, but a flag where a size belongs is a slip.
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
    try:
        number = operator.index(value)
    except TypeError:  # an array of floats has __index__ too, and refuses only when asked
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def real_number(name: str, value: object, *, above: float = -math.inf, below: float = math.inf) -> float:
    """`value` as a float strictly between `above` and `below` (so never NaN or infinite)."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type(value).__name__})")
    number = float(value)
    if not above < number < below:
        raise ValueError(f"{name} must be between {above:g} and {below:g}, exclusive; got {number:g}")
    return number


def grid_shape(shape: Shape, *, dimensions: Collection[int], unit: str) -> tuple[int, ...]:
    """`shape` as a tuple of positive ints, one per dimension; an int is a grid of one dimension."""
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if len(sizes) not in dimensions:
        wanted = " or ".join(str(d) for d in dimensions)
        raise ValueError(f"shape must give the number of {unit} in {wanted} dimensions, got {shape!r}")
    return tuple(whole_number(f"shape[{axis}]", size) for axis, size in enumerate(sizes))


def float_dtype(dtype: npt.DTypeLike, *, allowed: Collection[str]) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype, one of the `allowed` names."""
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be one of {', '.join(allowed)}, got {dtype!r}") from error
    if found.name not in allowed:
        raise ValueError(f"dtype must be one of {', '.join(allowed)}, got {found.name}")
    return found


def generator(rng: Seed) -> np.random.Generator:
    """The random generator that `rng` (None, a seed, or a generator) stands for."""
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(whole_number("rng", rng, minimum=0))
    except TypeError:
        raise TypeError(f"rng must be None, an int or a numpy.random.Generator, got {rng!r}") from None


def nearest_names(name: str, names: Iterable[str]) -> str:
    """The sentence that helps after a misspelt `name`, or nothing where none of `names` is near it."""
    lowered = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=3)
    return f" Nearest: {', '.join(lowered[n] for n in near)}." if near else ""


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
