"""An array module that stands in for CuPy where there is no device, for tests of everything but speed.

Its arrays lie in host memory, and are as shy as CuPy's: they do not become NumPy arrays by themselves, do not mix with
them, and know the functions and arguments that CuPy's know (compared with the source of CuPy 14.2) and no others. While
launches are recorded, nothing may wait for the device, come from the host, or ask cuBLAS. Its kernels are the real
ones, compiled for the CPU by `emulation`.
"""

from __future__ import annotations

import contextlib
import types

import numpy as np

from . import emulation

WARP, BLOCK, PROCESSORS = 4, 8, 1
AT_ONCE = 2  # blocks of a multiprocessor
SHARED_BYTES, SHARED_BYTES_OPTIN = 8192, 16384  # of a block: without asking, and at the most

# What NumPy hands to CuPy: functions with their parameters, universal functions, methods with their keywords.
FUNCTIONS = {
    "argwhere": "a",
    "array_equal": "a1 a2 equal_nan",
    "asarray": "a dtype order",
    "atleast_2d": "a",
    "broadcast_to": "array shape",
    "clip": "a a_min a_max out",
    "dot": "a b out",
    "empty": "shape dtype order",
    "empty_like": "prototype dtype order",
    "linalg.norm": "x ord axis keepdims",
    "max": "a axis out keepdims",
    "ones": "shape dtype order",
    "put_along_axis": "arr indices values axis",
    "shape": "a",
    "sum": "a axis dtype out keepdims",
    "take_along_axis": "a indices axis",
    "vdot": "a b",
    "where": "condition x y",
    "zeros": "shape dtype order",
    "zeros_like": "a dtype order",
}
UFUNCS = """absolute add bitwise_or divide exp greater greater_equal invert isfinite less less_equal log logaddexp
    matmul maximum minimum multiply negative not_equal power sqrt square subtract tanh""".split()
METHODS = {
    "all": "axis out keepdims",
    "any": "axis out keepdims",
    "argmax": "axis out",
    "astype": "order copy",
    "copy": "order",
    "max": "axis out keepdims",
    "mean": "axis dtype out keepdims",
    "min": "axis out keepdims",
    "ravel": "order",
    "reshape": "order",
    "sum": "axis dtype out keepdims",
    "transpose": "",
    "view": "",
}
BLAS = "matmul", "dot", "vdot", "linalg.norm"
SCALARS = (int, float, bool, complex, np.generic)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    __array_priority__ = 100

    def __init__(self, host):
        self._host = host

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(
        lambda self: types.SimpleNamespace(
            c_contiguous=self._host.flags.c_contiguous, f_contiguous=self._host.flags.f_contiguous
        )
    )
    T = property(lambda self: ndarray(self._host.T))
    real = property(lambda self: ndarray(self._host.real))

    def get(self):
        Launches.refuse("a copy to the host")
        return self._host.copy()

    def set(self, host):
        Launches.refuse("a copy from the host")
        assert isinstance(host, np.ndarray)
        assert (host.dtype, host.shape) == (self.dtype, self.shape)
        assert self._host.flags.forc
        self._host[...] = host

    def fill(self, v):
        self._host.fill(v)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method != "__call__" or ufunc.__name__ not in UFUNCS:
            return NotImplemented
        if any(isinstance(a, np.ndarray) for a in inputs):
            raise TypeError(f"Unsupported type {np.ndarray}")
        if not all(isinstance(a, (ndarray, *SCALARS)) for a in inputs):
            return NotImplemented
        if kwargs.keys() - {"dtype", "casting"}:
            raise TypeError(f"Wrong arguments {kwargs}")
        Launches.refuse("cuBLAS", ufunc.__name__ in BLAS)
        if out is not None:
            assert all(isinstance(o, ndarray) for o in out)
            kwargs["out"] = tuple(o._host for o in out)
        answer = getattr(ufunc, method)(*map(unwrapped, inputs), **kwargs)
        return out[0] if out is not None else wrapped(answer)

    def __array_function__(self, function, types_, args, kwargs):
        name = f"{function.__module__}.{function.__name__}".removeprefix("numpy.")
        if name not in FUNCTIONS:
            return NotImplemented
        known = FUNCTIONS[name].split()
        if kwargs.keys() - {*known[len(args) :]} or len(args) > len(known):
            raise TypeError(f"cupy.{name}({FUNCTIONS[name]}) got {len(args)} arguments and {[*kwargs]}")
        assert not any(isinstance(a, np.ndarray) for a in (*args, *kwargs.values())), function
        Launches.refuse("cuBLAS", name in BLAS)
        return wrapped(function(*map(unwrapped, args), **{k: unwrapped(v) for k, v in kwargs.items()}))

    def __getitem__(self, key):
        if isinstance(key, np.ndarray):
            raise TypeError("an array of the host as an index")
        return wrapped(self._host[unwrapped(key)])

    def __setitem__(self, key, v):
        if not isinstance(v, (ndarray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(v)}")
        self._host[unwrapped(key)] = unwrapped(v)

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __format__(self, spec):
        return format(self.get(), spec)

    def tolist(self):
        return self.get().tolist()

    def item(self):
        return self.get().item()

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (wrapped(row) for row in self._host)

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **kwargs):
        raise NotImplementedError

    def __getattr__(self, name):
        if name not in METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        method = getattr(self._host, name)

        def called(*args, **kwargs):
            if kwargs.keys() - set(METHODS[name].split()):
                raise TypeError(f"{name}() got {[*kwargs]}")
            return wrapped(method(*map(unwrapped, args), **kwargs))

        return called


class csr_matrix:
    """What is asked of `cupyx.scipy.sparse.csr_matrix`."""

    def __init__(self, host):
        host = host.tocsr()
        self.shape, self.dtype, self.ndim = host.shape, host.dtype, 2
        self.data, self.indices, self.indptr = (ndarray(a) for a in (host.data, host.indices, host.indptr))

    def tocsr(self):
        return self


def unwrapped(a):
    if isinstance(a, ndarray):
        return a._host
    if isinstance(a, (tuple, list)):
        return type(a)(map(unwrapped, a))
    return a


def wrapped(a):
    if isinstance(a, np.ndarray):
        return ndarray(a)
    if isinstance(a, np.generic):
        return ndarray(np.asarray(a))
    return a


class Launches:
    """What was launched, and the graph that is being recorded."""

    count = 0
    recording = None

    @classmethod
    def reset(cls):
        cls.count, cls.recording = 0, None

    @classmethod
    def refuse(cls, what, it_is=True):
        if it_is and cls.recording is not None:
            raise RuntimeError(f"{what} while the stream is capturing")


class RawKernel:
    max_dynamic_shared_size_bytes = SHARED_BYTES

    def __init__(self, code, name, cooperative):
        self.code, self.name, self.cooperative = code, name, cooperative
        self.kernel = types.SimpleNamespace(ptr=0)

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert all(a is None or isinstance(a, (ndarray, np.generic)) for a in args), args
        assert ("grid_barrier(arrived)" not in self.code or self.name != "cg_steps") or self.cooperative
        assert not self.cooperative or grid[0] <= AT_ONCE * PROCESSORS
        assert 0 <= shared_mem <= self.max_dynamic_shared_size_bytes <= SHARED_BYTES_OPTIN
        assert all(type(size) is int and size > 0 for size in (*grid, *block))
        hosts = [unwrapped(a) for a in args]

        def go():
            emulation.launch(self.code, self.name, grid[0], block[0], hosts, shared_mem, WARP)

        if Launches.recording is not None:
            Launches.recording.append(go)
        else:
            Launches.count += 1
            go()


class RawModule:
    def __init__(self, *, code, options=(), enable_cooperative_groups=False):
        self.code, self.cooperative = code, enable_cooperative_groups

    def get_function(self, name):
        return RawKernel(self.code, name, self.cooperative)


class Graph:  # (passes of the array module itself are not recorded here: those of a recording are launches only)
    def __init__(self, launches):
        self.launches = launches

    def launch(self, stream=None):
        Launches.count += 1
        for go in self.launches:
            go()


class Stream:
    def __init__(self, non_blocking=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def begin_capture(self):
        Launches.recording = []

    def end_capture(self):
        recorded, Launches.recording = Launches.recording, None
        return Graph(recorded)

    def synchronize(self):
        pass


class MemoryPool:
    malloc = None


class Device:
    attributes = {"WarpSize": WARP, "MultiProcessorCount": PROCESSORS}  # noqa: RUF012
    attributes["MaxSharedMemoryPerBlockOptin"] = SHARED_BYTES_OPTIN

    def __init__(self, id=0):
        self.id = id


def asarray(a, dtype=None):
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    Launches.refuse("a copy from the host")
    return ndarray(np.array(a, dtype))


def making(function):
    return lambda *args, **kwargs: ndarray(function(*args, **kwargs))


def module():
    """The module, to be put in place of `cupy`."""
    out = types.ModuleType("cupy")
    out.__version__ = "stand-in"
    out.ndarray, out.RawModule = ndarray, RawModule
    out.asarray = asarray
    out.ascontiguousarray = lambda a, dtype=None: ndarray(np.ascontiguousarray(unwrapped(a), dtype))
    for name in ("empty", "zeros", "ones"):
        setattr(out, name, making(getattr(np, name)))
    out.unique = lambda a: ndarray(np.unique(a._host))
    out.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        MemoryPool=MemoryPool,
        get_current_stream=Stream,
        using_allocator=lambda allocator: contextlib.nullcontext(),
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1),
        driver=types.SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=lambda pointer, block, shared: AT_ONCE),
    )
    return out


def sparse_module():
    """The module to be put in place of `cupyx.scipy.sparse`."""
    out = types.ModuleType("cupyx.scipy.sparse")
    out.csr_matrix = csr_matrix
    out.issparse = lambda a: isinstance(a, csr_matrix)
    return out
