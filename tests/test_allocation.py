"""What solving allocates, what importing costs, and where compiled code is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import cgopt

N = 200  # a grid of N x N


def child(code, **environment):
    """Run Python code in a fresh process; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("dtype", "M"), [(np.float64, None), (np.float64, "jacobi"), (np.float32, None), (np.complex128, None)]
)
def test_solve_allocates_x_and_nothing_else_of_length_n(dtype, M):
    A = cgopt.gallery.poisson((N, N)).astype(dtype)
    b = np.random.default_rng(0).standard_normal(N * N).astype(dtype)
    solver = cgopt.CGSolver(A, M=M)
    solver.solve(b, maxiter=20)  # compiles, and makes the workspace
    tracemalloc.start()
    try:
        result = solver.solve(b, maxiter=20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.iterations == 20
    # x, and what does not grow with n: the log of 20 iterations, the result's own objects
    assert peak <= result.x.nbytes + 20_000
    assert result.x.nbytes >= 8 * 20_000 or dtype is np.float32


def test_solver_tells_what_it_holds():
    A = cgopt.gallery.poisson((N, N))
    solver = cgopt.CGSolver(A)
    matrix = solver.nbytes
    assert matrix == 5 * 8 * N * N + 5 * 8  # five diagonals and their offsets
    solver.solve(np.ones(N * N), maxiter=1)
    vectors = solver.nbytes - matrix
    assert 4 * 8 * N * N <= vectors <= 4 * 8 * (N * N + 16)  # r, z, p, q


IMPORT = """
import json, sys, time
import numpy, scipy, scipy.sparse, numba
known = set(sys.modules)
start = time.perf_counter()
import cgopt
seconds = time.perf_counter() - start
from numba.core.dispatcher import Dispatcher
import gc
ours = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.__module__.startswith("cgopt")]
print(json.dumps({
    "seconds": seconds,
    "modules": sorted({name.partition(".")[0] for name in set(sys.modules) - known}),
    "kernels": len(ours),
    "compiled": sum(len(d.signatures) for d in ours),
}))
"""


def test_import_is_light():
    seen = [json.loads(child(IMPORT)) for _ in range(3)]
    assert min(s["seconds"] for s in seen) < 0.3
    assert seen[0]["kernels"] > 20
    assert seen[0]["compiled"] == 0
    extras = {"hypothesis", "matplotlib", "pyamg", "rich", "torch", "cupy", "skfem", "sklearn", "gymnasium", "joblib"}
    assert not extras & set(seen[0]["modules"])


SOLVE = """
import json, time
import numpy as np, scipy.sparse as sp, numba
import cgopt
from cgopt.kernels.cpu import updates
n = 60
A = sp.diags_array([-np.ones(n - 1), 2.0 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]).tocsr()
start = time.perf_counter()
result = cgopt.cg(A, np.ones(n), rtol=1e-8)
stats = [k.stats for k in cgopt.kernels.cpu.cg_steps("csr", "identity")._forms]
print(json.dumps({
    "converged": result.converged,
    "seconds": time.perf_counter() - start,
    "hits": sum(sum(s.cache_hits.values()) for s in stats),
    "misses": sum(sum(s.cache_misses.values()) for s in stats),
    "kept": any(s.cache_path for s in stats),
}))
"""


def test_second_process_finds_the_compiled_code(tmp_path):
    first = json.loads(child(SOLVE, NUMBA_CACHE_DIR=str(tmp_path)))
    second = json.loads(child(SOLVE, NUMBA_CACHE_DIR=str(tmp_path)))
    assert first["converged"]
    assert first["kept"]
    assert second["converged"]
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert second["seconds"] < first["seconds"]


def test_solves_where_no_folder_can_be_written(tmp_path):
    # Permissions do not stop an administrator; a path below a regular file does, whoever asks. With every place that
    # numba may write to out of reach, kernels are compiled for the process and not kept.
    (tmp_path / "file").write_text("")
    code = (
        "from numba.core import caching\n"
        "nowhere = classmethod(lambda cls, *args: None)\n"
        "for locator in caching.CompileResultCacheImpl._locator_classes:\n"
        "    locator.from_function = nowhere\n"
    )
    done = json.loads(child(code + SOLVE, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below")))
    assert done["converged"]
    assert not done["kept"]
