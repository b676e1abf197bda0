"""The benchmark of the GPU runs through, small and under the stand-in: what it prints is no figure of a device."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from benchmarks import gpu as benchmark

from . import standin


@pytest.fixture
def small(emulated, monkeypatch, tmp_path):
    """All sizes small, results in a folder of their own, images of noise."""
    told = {"name": b"No Device", "major": 0, "minor": 0, "totalGlobalMem": 0, "multiProcessorCount": 1}
    runtime = emulated.cuda.runtime
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: 13000, raising=False)
    monkeypatch.setattr(runtime, "getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda id: told, raising=False)
    emulated.empty_like = lambda a: standin.ndarray(np.empty_like(a.get()))
    emulated.matmul = np.matmul
    emulated.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
    solvers = types.ModuleType("cupyx.scipy.sparse.linalg")
    solvers.cg = lambda A, b, rtol, maxiter: (b, maxiter)
    monkeypatch.setitem(sys.modules, "cupyx", types.ModuleType("cupyx"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy", types.ModuleType("cupyx.scipy"))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse.linalg", solvers)
    monkeypatch.setattr(benchmark, "cupyx_sparse", standin.sparse_module)
    sizes = {
        "UNKNOWNS": (64,),
        "SYSTEMS": 2,
        "SAMPLES": 3,
        "SIDE": 4,
        "COPIED": 8,
        "ROUNDS": 1,
        "SIZES": (6, 4, 3, 4, 6),
    }
    for name, size in sizes.items():
        monkeypatch.setattr(benchmark, name, size)
    images = np.random.default_rng(0).random((16, 6), dtype=np.float32)
    monkeypatch.setattr(benchmark, "mnist", lambda: images)
    monkeypatch.setattr(benchmark, "autoencoder", lambda: benchmark.cgopt.nn.MLP(benchmark.SIZES, "logistic"))
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "STATES", tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *arguments])
    with pytest.raises(SystemExit) as ending:
        benchmark.main()
    return ending.value.code


def test_cases_are_measured_and_written_and_the_summary_comes_last(small, monkeypatch, capsys):
    assert not run(monkeypatch, "--only", "cg", "batched", "gauss-newton")
    written = json.loads((small / "gpu-no-device.json").read_text())
    assert [len(written[case]["targets"]) for case in ("cg", "batched", "gauss-newton")] == [2, 1, 1]
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {small / 'gpu-no-device.json'}"


def test_a_case_that_fails_is_named_and_the_others_stay(small, monkeypatch, capsys):
    (small / "gpu-no-device.json").write_text(json.dumps({"cg": {"rows": [1]}}))
    monkeypatch.setattr(benchmark.cgopt, "batched_cg", None)
    assert run(monkeypatch, "--only", "batched", "gauss-newton")
    written = json.loads((small / "gpu-no-device.json").read_text())
    assert written["cg"] == {"rows": [1]}
    assert "TypeError" in written["batched"]["failed"]
    assert len(written["gauss-newton"]["targets"]) == 1
    assert "failed batched: TypeError" in capsys.readouterr().out


def test_training_goes_on_where_it_was_left(small, monkeypatch):
    def curve():
        return json.loads((small / "gpu-no-device.json").read_text())["training"]["rows"][0]["curve"]

    monkeypatch.setattr(benchmark, "TRAINING_TARGET", 1e-9)
    assert not run(monkeypatch, "--only", "training", "--minutes", "0")
    first = curve()
    assert not run(monkeypatch, "--only", "training", "--minutes", "0")
    then = curve()
    assert (len(first), len(then)) == (1, 2)
    assert then[0] == first[0]
    assert then[1][0] > first[0][0]
    assert then[1][2] < first[0][2]
    monkeypatch.setattr(benchmark, "PUBLISHED_STEPS", 1)
    assert not run(monkeypatch, "--only", "training")
    assert curve() == then  # the steps are used up
