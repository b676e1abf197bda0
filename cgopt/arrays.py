"""Arrays in and out: whose array an input is, and a NumPy view of it.

NumPy arrays pass through. Anything else that speaks DLPack (a torch or jax tensor) is viewed without a copy when it
lies in host memory, and answers go back to the library they came from.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
VECTOR_DTYPES = tuple(np.dtype(c) for c in "fdFD")


def is_foreign(a: Any) -> bool:
    """Whether `a` is an array of another library that speaks DLPack."""
    return hasattr(a, "__dlpack__") and not isinstance(a, np.ndarray)


def from_foreign(a: Any, name: str) -> Array:
    """NumPy view of a foreign array in host memory, without a copy.

    Raises
    ------
    TypeError
        If the array lies on a device, or cannot be exported (a torch tensor that requires a gradient).
    """
    try:
        device = a.__dlpack_device__() if hasattr(a, "__dlpack_device__") else (1, 0)
        if int(device[0]) in (1, 3):  # kDLCPU, kDLCUDAHost
            return np.from_dlpack(a)
    except Exception as error:  # the libraries raise what they like: BufferError, RuntimeError, ValueError, TypeError
        raise TypeError(
            f"{name} of type {type(a).__name__} could not be viewed through DLPack ({error}): {_remedy(a, name)}"
        ) from error
    raise TypeError(
        f"{name} lies on a device ({getattr(a, 'device', device)}); this solver works in host memory: pass {name}.cpu()"
    )


def _remedy(a: Any, name: str) -> str:
    """What to do about a foreign array that cannot be exported."""
    if "sparse" in str(getattr(a, "layout", "")):
        return f"pass {name}.to_sparse_csr()"
    if getattr(a, "requires_grad", False):
        return f"pass {name}.detach()"
    if callable(getattr(a, "is_conj", None)) and a.is_conj():
        return f"pass {name}.resolve_conj()"
    return f"pass {name} as a NumPy array, or with entries of type float32 or float64 in host memory"


def like(x: Array, model: Any) -> Any:
    """`x` as an array of the library that `model` belongs to, without a copy."""
    if not is_foreign(model):
        return x
    library = sys.modules[type(model).__module__.partition(".")[0]]
    if hasattr(library, "from_dlpack"):
        return library.from_dlpack(x)
    return library.dlpack.from_dlpack(x)  # jax before its array-API release


def supported_dtype(dtype: Any, name: str) -> np.dtype[Any]:
    """The floating-point type that solvers compute in for entries of `dtype`.

    Integers and booleans become float64. float16 and extended precision are refused: the first is too coarse
    for dot products to mean anything, the second would silently lose what it was chosen for.
    """
    dtype = np.dtype(dtype)
    if dtype.newbyteorder("=") in VECTOR_DTYPES:
        return dtype.newbyteorder("=")
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    hint = "convert it with .astype(numpy.float64)"
    if dtype.kind == "O":
        hint = "object arrays hold arbitrary Python objects; " + hint
    raise TypeError(f"{name} has dtype {dtype}; float32, float64, complex64, complex128 or integers are wanted: {hint}")


def as_array(a: Any, name: str) -> Array:
    """`a` as a NumPy array of a supported floating-point type; no copy unless the type must change."""
    if is_foreign(a):
        a = from_foreign(a, name)
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill its missing values first: {name}.filled(0)")
    array = np.asarray(a)
    return array.astype(supported_dtype(array.dtype, name), copy=False)


def real_view(a: Array) -> Array:
    """A contiguous complex array as a real one of twice the length; a real array as it is."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a


def first_nonfinite(a: Array) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity of `a`, or None."""
    bad = ~np.isfinite(a)
    return tuple(int(i) for i in np.argwhere(bad)[0]) if bad.any() else None
