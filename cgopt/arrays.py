"""Arrays in and out: whose array an input is, and a NumPy view of it.

NumPy arrays pass through. Anything else that speaks DLPack (a torch or jax tensor) is viewed without a copy, as a NumPy
array if it lies in host memory and as a CuPy array if it lies on a GPU; answers go back to the library they came from.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from .kernels import cpu, gpu

Array = npt.NDArray[Any]
VECTOR_DTYPES = tuple(np.dtype(c) for c in "fdFD")


HOST, CUDA = (1, 3), (2, 13)  # DLPack's device types: host and pinned host memory, device and managed memory


def is_foreign(a: Any) -> bool:
    """Whether `a` is an array of another library that speaks DLPack."""
    return hasattr(a, "__dlpack__") and not isinstance(a, np.ndarray)


def is_csr_tensor(a: Any) -> bool:
    """Whether `a` is one of torch's sparse tensors in compressed rows, which do not speak DLPack."""
    return hasattr(a, "crow_indices") and str(getattr(a, "layout", "")) == "torch.sparse_csr"


def on_device(a: Any) -> bool:
    """Whether `a` is an array or a sparse matrix on a GPU."""
    if isinstance(a, np.ndarray) or a is None:
        return False
    if gpu.is_array(a) or gpu.is_sparse(a):
        return True
    if is_csr_tensor(a):
        return bool(getattr(a, "is_cuda", False))
    try:
        return hasattr(a, "__dlpack_device__") and int(a.__dlpack_device__()[0]) in CUDA
    except Exception:  # what cannot be exported says so when it is viewed
        return False


def kernels_for(a: Any) -> Any:
    """The backend whose kernels take the array: `cgopt.kernels.cpu` or `cgopt.kernels.gpu`."""
    return gpu if gpu.is_array(a) else cpu


def require_device(name: str) -> None:
    """Raise if there is nothing to solve with for the argument `name`, which is on a device."""
    reason = gpu.available()
    if reason is not None:
        raise RuntimeError(f"{name} lies on a device, and {reason}; to solve in host memory pass {name}.cpu()")


def to_host(a: Any, name: str) -> str:
    """How to bring an array from the device to the host, as one writes it."""
    return f"{name}.get()" if gpu.is_array(a) or gpu.is_sparse(a) else f"{name}.cpu()"


def as_device_array(a: Any, name: str) -> Any:
    """`a`, on a GPU, as a CuPy array of float32 or float64; no copy unless the type must change.

    Raises
    ------
    TypeError
        If it is complex, or cannot be exported.
    RuntimeError
        If CuPy is missing, or a device that it can use.
    """
    if not gpu.is_array(a):
        require_device(name)
        try:
            a = gpu.from_dlpack(a)
        except Exception as error:
            raise TypeError(f"{name} could not be viewed through DLPack ({error}): {_remedy(a, name)}") from error
    dtype = supported_dtype(a.dtype, name)
    if dtype.kind == "c":
        raise TypeError(f"{name} is complex, which is solved for in host memory only: pass {to_host(a, name)}")
    return a.astype(dtype, copy=False)


def as_array_there(a: Any, name: str) -> Any:
    """`as_array`, or `as_device_array` of what lies on the GPU."""
    return as_device_array(a, name) if on_device(a) else as_array(a, name)


def filled(shape: tuple[int, ...], v: Any, dtype: Any, like: Any) -> Any:
    """An array of v where another lies. (NumPy's `full` with `like` sends CuPy's a `device` that it does not know.)"""
    out = np.empty(shape, dtype, like=like)
    out.fill(v)
    return out


def copied(a: Any) -> Any:
    """A copy of an array where it lies."""
    return a.copy() if gpu.is_array(a) else np.array(a)


def in_host_memory(a: Any) -> Array:
    """A NumPy array, or a copy of a CuPy array as one: for what is small."""
    host: Array = a.get() if gpu.is_array(a) else a
    return host


def contiguous(a: Any, dtype: Any = None) -> Any:
    """`a` in C order and of the type, where it lies; no copy where it is so already."""
    if not gpu.is_array(a):
        return np.ascontiguousarray(a, dtype)
    dtype = a.dtype if dtype is None else dtype
    return a if a.dtype == dtype and a.flags.c_contiguous else a.astype(dtype, order="C")


def require_together(**arrays: Any) -> bool:
    """Whether arrays (None is none) lie on the GPU, all of them or none.

    Raises
    ------
    TypeError
        If some do and some do not.
    """
    there = {name: on_device(a) for name, a in arrays.items() if a is not None}
    if len(set(there.values())) > 1:
        host = next(name for name, lies_there in there.items() if not lies_there)
        device = next(name for name, lies_there in there.items() if lies_there)
        there_from = "cupyx.scipy.sparse.csr_matrix" if hasattr(arrays[host], "tocsr") else "cupy.asarray"
        raise TypeError(
            f"{device} lies on a device and {host} in host memory: pass {host} as {there_from}({host}), or "
            f"{to_host(arrays[device], device)}"
        )
    return any(there.values())


def from_foreign(a: Any, name: str) -> Array:
    """NumPy view of a foreign array in host memory, without a copy.

    Raises
    ------
    TypeError
        If the array lies on a device, or cannot be exported (a torch tensor that requires a gradient).
    """
    try:
        device = a.__dlpack_device__() if hasattr(a, "__dlpack_device__") else (1, 0)
        if int(device[0]) in HOST:
            return np.from_dlpack(a)
    except Exception as error:  # the libraries raise what they like: BufferError, RuntimeError, ValueError, TypeError
        raise TypeError(
            f"{name} of type {type(a).__name__} could not be viewed through DLPack ({error}): {_remedy(a, name)}"
        ) from error
    raise TypeError(
        f"{name} lies on a device ({getattr(a, 'device', device)}); this works in host memory: pass {to_host(a, name)}"
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
    if not is_foreign(model) or type(model) is type(x):
        return x
    if hasattr(model, "__array_namespace__"):  # (jax's arrays say that they are of jaxlib)
        return model.__array_namespace__().from_dlpack(x)
    return sys.modules[type(model).__module__.partition(".")[0]].from_dlpack(x)


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
