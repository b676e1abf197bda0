"""What can be read off the kernels' texts: rules whose breach the emulation on a CPU would not show."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cgopt.kernels import loops
from cgopt.kernels.gpu import device, sources

from . import standin
from .compilers import TESTED, VARIANTS

TEXTS = [re.sub(r"//.*", "", sources.source(name, **options)) for name, options in VARIANTS[:TESTED]]


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_read_through_a_cache_that_other_blocks_do_not_see(text):
    # Vectors change within a launch: `__restrict__` and `__ldg` would let old values be read. `__ldcs` is for a matrix.
    assert not re.search(r"__restrict__|__ldg|\basm\b", text)
    assert set(re.findall(r"__ldcs\((\w+)", text)) <= {"data", "indices", "values"}


@pytest.mark.parametrize("text", TEXTS)
def test_shuffles_are_of_whole_warps_and_the_number_of_threads_is_said(text):
    assert set(re.findall(r"__shfl\w*\((\w+)", text)) <= {"ALL_LANES"}
    assert len(re.findall(r"__global__", text)) == len(sources.kernel_names(text)) > 0


def body_of(text, name):
    """From a function's name to the brace that closes it."""
    start = text.index(f" {name}(")
    return text[start : text.index("\n}", start)]


def test_no_thread_leaves_a_launch_whose_blocks_wait_for_each_other():
    for text in TEXTS:
        if "grid_barrier(arrived)" in text and "cg_steps" in text:
            assert "return" not in body_of(text, "cg_steps")


@pytest.mark.parametrize("name", ["grid_barrier", "last_block_sums"])
def test_fences_stand_before_and_after_what_other_blocks_wait_for(name):
    body = body_of(TEXTS[0], name)
    before, after = body.split("atomicAdd", 1)
    assert "__threadfence();" in before
    assert "__threadfence();" in after[: after.index("__syncthreads")]
    assert before.rindex("__threadfence") > before.rindex("threadIdx.x == 0")  # by the thread that tells the others


def test_a_block_s_shared_memory_holds_what_is_put_there():
    whole = dict(re.findall(r"constexpr u32 (\w+) = (.*);", TEXTS[0]))
    places = {"SCALARS": loops.SCALARS}
    for name in ("SUMS", "ANSWER", "STATE", "SHARED_DOUBLES"):
        places[name] = eval(whole[name], {}, places)
    assert 8 * places["SHARED_DOUBLES"] <= device.SHARED_BYTES
    assert 2 * (1024 // 32) <= places["ANSWER"] - places["SUMS"]  # two sums for each warp of the largest block


def test_the_stand_in_refuses_what_cupy_refuses():
    a = standin.asarray(np.ones(3))
    for attempt in (
        lambda: np.ones(3, like=a),  # hands on device=, which CuPy's function lacks
        lambda: np.full(3, 1.0, like=a),
        lambda: np.sort(a),  # not one of those that were looked up
        lambda: np.add(a, np.ones(3)),
        lambda: np.add(a, a, where=True),
        lambda: a.max(initial=0.0),
        lambda: np.asarray(a),
        lambda: a.__setitem__(0, np.ones(())),
    ):
        with pytest.raises(TypeError):
            attempt()


@pytest.mark.parametrize("attempt", [float, np.linalg.norm, lambda a: a.set(np.ones(3)), lambda a: a @ a])
def test_the_stand_in_refuses_to_record_what_waits(attempt, monkeypatch):
    a = standin.asarray(np.ones(3))
    monkeypatch.setattr(standin.Launches, "recording", [])
    with pytest.raises(RuntimeError, match="capturing"):
        attempt(a)
