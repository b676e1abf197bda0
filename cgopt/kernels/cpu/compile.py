"""How this backend compiles: flags, cache, threads.

Each kernel text is compiled twice when asked for: serial, and with its chunks on threads. Nothing is
compiled at import.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

# Reassociation lets sums be vectorised; `nnan` and `ninf`, part of plain fastmath, are left out because with
# them the tests for NaN and infinity are compiled away.
REASSOCIATE = {"reassoc", "contract", "arcp", "nsz"}
CONTRACT = {"contract", "nsz"}
KERNELS = Path(__file__).resolve().parent.parent
ONLY_PRANGE = {
    "prange": True,
    "comprehension": False,
    "numpy": False,
    "reduction": False,
    "inplace_binop": False,
    "setitem": False,
    "stencil": False,
    "fusion": False,
}


@functools.cache
def _sources_stamp(folder: Path) -> str:
    """Digest of every kernel source: compiled code calls kernels of other files, and numba looks at one only.

    The sources are those of this package, and of the `kernels` folder of another package that builds on them.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for kernels in dict.fromkeys((KERNELS, folder)):
        for path in sorted(kernels.rglob("*.py")):
            if path.parent.name != "gpu":  # those call none of these
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _kernels_folder(file: str | None) -> Path:
    """The nearest folder called `kernels` that a source file lies in; this package's if there is none."""
    above = Path(file).resolve().parents if file else ()
    return next((path for path in above if path.name == KERNELS.name), KERNELS)


def _stamped(locator: type) -> type:
    class Stamped(locator):  # type: ignore[misc, valid-type]
        def get_source_stamp(self) -> Any:
            return _sources_stamp(_kernels_folder(getattr(self, "_py_file", None)))

    return Stamped


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = tuple(_stamped(c) for c in caching.CompileResultCacheImpl._locator_classes)


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl


def compiled(text: Callable[..., Any], *, threaded: bool, fastmath: set[str] | None = None, merged: bool = True) -> Any:
    """Compile a kernel lazily, with its machine code kept on disk.

    Kernels that call it merge its code into theirs; with `merged` false they call it, which compiles long kernels once
    instead of once in each caller. That is for kernels without `fastmath`, whose copies all round alike.

    Where no folder can be written (neither beside the package nor in the user's cache), the kernel is
    compiled anew in each process.
    """
    # Kernels are merged into the loops that call them (`forceinline`). As calls they would be copies, in each loop that
    # is loaded, of which the linker takes the first it meets; optimised once or twice, those round differently, and
    # what had been solved before would decide the last bit.
    options: dict[str, Any] = {"nogil": True, "forceinline": merged, "error_model": "numpy"}
    options["fastmath"] = fastmath or False
    if threaded:
        options["parallel"] = ONLY_PRANGE
    kernel = numba.njit(**options)(text)
    try:
        kernel._cache = _KernelCache(text)
    except RuntimeError:  # no locator: nowhere to write
        pass
    return kernel


def pair(fastmath: set[str]) -> Callable[[Callable[..., Any]], tuple[Any, Any]]:
    """Decorator: the serial and the threaded form of one kernel text, as a tuple."""

    def decorate(text: Callable[..., Any]) -> tuple[Any, Any]:
        return (
            compiled(named(text, "serial"), threaded=False, fastmath=fastmath),
            compiled(named(text, "threaded"), threaded=True, fastmath=fastmath),
        )

    return decorate


def named(text: Callable[..., Any], suffix: str) -> Callable[..., Any]:
    """Copy of a function under a name of its own, which is what the disk cache tells functions apart by."""
    import types

    copy = types.FunctionType(
        text.__code__, text.__globals__, f"{text.__name__}_{suffix}", text.__defaults__, text.__closure__
    )
    copy.__qualname__ = copy.__name__
    copy.__module__ = text.__module__
    return copy


def inline(text: Callable[..., Any]) -> Any:
    """A small helper for use inside kernels only, merged into its caller before types are inferred.

    (As a call, each use would count references of its array arguments, atomically. Merged after type inference, by
    numba's other decorator for this, each helper would be compiled by itself as well: 5 s instead of 1 for diagonals.)
    """
    return numba.njit(inline="always", error_model="numpy")(text)


def chunk(fastmath: set[str]) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: what a kernel does to one chunk of rows, merged into it after compilation.

    The kernel's own code, which numba takes through many passes where it is threaded, then stays small.
    """
    return numba.njit(fastmath=fastmath, error_model="numpy", forceinline=True)


def helper(text: Callable[..., Any]) -> Any:
    """A small function that kernels call once a pass."""
    return numba.extending.register_jitable(text)
