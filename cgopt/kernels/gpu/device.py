"""CuPy and the device: asked for when an array of it comes, never before."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .sources import BLOCK, COOPERATIVE_BLOCK, source

NO_CUPY = "CuPy, which solving there needs, is not installed: pip install 'cgopt[cuda13]' (or 'cgopt[cuda12]')"
BLOCKS_EACH = 8  # blocks of a multiprocessor in launches that need not run all at once
SHARED_BYTES = 8 * 128  # what sums and a solve's scalars take, rounded up (SHARED_DOUBLES in common.cuh)


def is_array(a: Any) -> bool:
    """Whether `a` is a CuPy array. Imports nothing: without CuPy there is none."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(a, cupy.ndarray)


def is_sparse(a: Any) -> bool:
    """Whether `a` is a sparse matrix on the device."""
    sparse = sys.modules.get("cupyx.scipy.sparse")
    return sparse is not None and bool(sparse.issparse(a))


def available() -> str | None:
    """None if there is a device that can be used, otherwise the sentence that says why not."""
    try:
        import cupy
    except ImportError:
        return NO_CUPY
    try:
        found = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        return f"CuPy {cupy.__version__} finds no usable GPU: {error}"
    return None if found else f"CuPy {cupy.__version__} finds no GPU"


def cupy() -> Any:
    """CuPy with a device, or an error that says what is missing."""
    reason = available()
    if reason is not None:
        raise RuntimeError(reason)
    return sys.modules["cupy"]


def describe() -> list[str]:
    """The library and the devices that it can use, in words."""
    xp = cupy()
    runtime = xp.cuda.runtime
    lines = [f"CuPy {xp.__version__}, CUDA {runtime.runtimeGetVersion() // 1000}"]
    for id in range(runtime.getDeviceCount()):
        told = runtime.getDeviceProperties(id)
        lines.append(
            f"device {id}: {told['name'].decode()}, compute capability {told['major']}.{told['minor']}, "
            f"{told['totalGlobalMem'] / 2**30:.0f} GiB, {told['multiProcessorCount']} multiprocessors"
        )
    return lines


def from_dlpack(a: Any) -> Any:
    """A foreign array on the device as a CuPy array, without a copy."""
    return cupy().from_dlpack(a)


class Device(NamedTuple):
    """What launches depend on."""

    id: int
    warp: int
    multiprocessors: int
    shared_bytes: int  # that a block may ask for


def current() -> Device:
    """The device in use."""
    return _described(sys.modules["cupy"].cuda.Device().id)


@functools.cache
def _described(id: int) -> Device:
    told = sys.modules["cupy"].cuda.Device(id).attributes
    return Device(id, told["WarpSize"], told["MultiProcessorCount"], told["MaxSharedMemoryPerBlockOptin"])


class Kernels:
    """The kernels of one source text, compiled when first launched."""

    def __init__(self, name: str, device: Device, cooperative: bool, options: dict[str, Any]) -> None:
        self.device, self.block = device, options["block"]
        self._module = sys.modules["cupy"].RawModule(
            code=source(name, warp=device.warp, **options),
            options=("-std=c++17",),
            enable_cooperative_groups=cooperative,
        )
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        """One kernel."""
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        return self._functions[name]

    def blocks_at_once(self, name: str, shared_bytes: int) -> int:
        """Blocks that the device runs at the same time."""
        driver = sys.modules["cupy"].cuda.driver
        each = driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self.function(name).kernel.ptr, self.block, shared_bytes
        )
        return int(each) * self.device.multiprocessors

    def launch(self, name: str, blocks: int, args: Sequence[Any], shared_bytes: int = SHARED_BYTES) -> None:
        """Launch on the current stream. Arguments: arrays, None, and NumPy scalars of the parameters' types."""
        self.function(name)((blocks,), (self.block,), tuple(args), shared_mem=shared_bytes)


def kernels(name: str, *, cooperative: bool = False, block: int | None = None, **options: Any) -> Kernels:
    """The kernels of a source file for the current device; options as for `sources.source`."""
    block = block or (COOPERATIVE_BLOCK if cooperative else BLOCK)
    return _kernels(name, current(), cooperative, tuple(sorted(options.items())), block)


@functools.cache
def _kernels(name: str, device: Device, cooperative: bool, options: tuple[tuple[str, Any], ...], block: int) -> Kernels:
    return Kernels(name, device, cooperative, dict(options) | {"block": block})


def blocks_for(threads: int) -> int:
    """Blocks for so many threads' work: enough to fill the device, the rest in turns."""
    return max(1, min(-(-threads // BLOCK), BLOCKS_EACH * current().multiprocessors))


def c_type(dtype: Any) -> str:
    """The C name of a floating-point type."""
    return {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
