"""Where the tests of GPU kernels run: on the CPU, under a stand-in for CuPy, and on a device where there is one."""

from __future__ import annotations

import importlib
import sys

import pytest

from cgopt.kernels import gpu
from cgopt.kernels.gpu import device

from . import emulation, standin


@pytest.fixture
def emulated(monkeypatch):
    """The kernels on the CPU, under an array module that stands in for CuPy."""
    if emulation.COMPILER is None:
        pytest.skip("no g++ here, which compiles the kernels for the CPU")
    monkeypatch.setitem(sys.modules, "cupy", standin.module())
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", standin.sparse_module())
    monkeypatch.setattr(device, "BLOCK", standin.BLOCK)
    monkeypatch.setattr(device, "COOPERATIVE_BLOCK", standin.BLOCK)
    monkeypatch.setattr(device, "BLOCKS_EACH", 2)
    standin.Launches.reset()
    clear()
    yield sys.modules["cupy"]
    clear()


@pytest.fixture
def on_device():
    """For tests that are of a device only."""
    if gpu.available() is not None:
        pytest.skip(gpu.available())


@pytest.fixture(params=["emulated", "device"])
def xp(request):
    """CuPy, or what stands in for it."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    reason = gpu.available()
    if reason is not None:
        pytest.skip(reason)
    return gpu.cupy()


@pytest.fixture
def sparse(xp):
    """CuPy's compressed rows, or what stands in for them, made of SciPy's."""
    return importlib.import_module("cupyx.scipy.sparse").csr_matrix


def clear():
    for cached in (device._described, device._kernels, gpu.cg_steps):
        cached.cache_clear()
