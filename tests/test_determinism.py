"""The same input gives the same bits: run after run, process after process, alone or beside other solves.

The number of chunks that rows are cut into fixes the order of every sum, and nothing else does.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.kernels import cpu
from cgopt.kernels.cpu import products, threads, updates
from cgopt.kernels.layouts import CSR, Work

needs_two = pytest.mark.skipif(cgopt.max_num_threads() < 2, reason="there is only one thread to run on")


@pytest.fixture(autouse=True)
def _threads():
    before = cgopt.get_num_threads()
    yield
    cgopt.set_num_threads(before)


def uneven(side=90):
    """Large enough for two threads; rows of uneven length, no two alike."""
    A = cgopt.gallery.graph_laplacian(side * side, degree=5, rng=1)
    return A, np.random.default_rng(2).standard_normal(side * side)


def even(side=110):
    A = cgopt.gallery.poisson((side, side))
    return A, np.random.default_rng(3).standard_normal(side * side)


# A problem, and the options of a solve. A few iterations will do: they take every kernel there is.
CASES = {
    "rows, Jacobi": (uneven, {"format": "csr", "M": "jacobi"}),
    "diagonals": (even, {"format": "dia"}),
    "function": (lambda: (lambda A, b: (lambda v: A @ v, b))(*even()), {"M": lambda r: r / 4}),
    "many": (lambda: (lambda A, b: (A, np.stack([b, b[::-1], b**2], 1)))(*uneven()), {"format": "csr"}),
}


class Opaque:
    """A matrix that shows its products and its diagonal only."""

    def __init__(self, A):
        self.A, self.shape, self.dtype = A, A.shape, A.dtype
        self.matvec, self.diagonal = A.dot, A.diagonal


APART = {"function, Jacobi": (lambda: (lambda A, b: (Opaque(A), b))(*uneven()), {"M": "jacobi"})}


def solve(case):
    """Solve a case from scratch; 12 iterations unless it converges before."""
    make, options = (CASES | APART)[case]
    A, b = make()
    return cgopt.cg(A, b, rtol=1e-12, maxiter=12, **options)


def bits(result):
    """A digest of all that a result holds."""
    columns = getattr(result, "columns", [result])
    digest = hashlib.sha256(np.ascontiguousarray(result.x).tobytes())
    for column in columns:
        digest.update(column.history.tobytes() + np.float64(column.residual_norm).tobytes())
    return digest.hexdigest()


# Run in another process: prints the digests of cases, a line for each number of threads.
SCRIPT = """
import sys
import cgopt
sys.path.insert(0, {folder!r})
import test_determinism as here
for threads in range(1, min(2, cgopt.max_num_threads()) + 1):
    cgopt.set_num_threads(threads)
    print(*[here.bits(here.solve(case)) for case in {cases!r}])
"""


def digests_of_another_process(cases=tuple(CASES), **environment):
    script = SCRIPT.format(folder=os.path.dirname(os.path.abspath(__file__)), cases=list(cases))
    root = os.path.dirname(os.path.dirname(os.path.abspath(cgopt.__file__)))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [line.split() for line in done.stdout.splitlines()]


# --- run to run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=needs_two)])
@pytest.mark.parametrize("case", CASES)
def test_same_bits_run_to_run(case, count):
    cgopt.set_num_threads(count)
    first = bits(solve(case))
    assert bits(solve(case)) == first


def test_same_bits_process_to_process():
    # hash randomisation is another source of order; the second process differs in it
    first = digests_of_another_process(PYTHONHASHSEED="1")
    assert digests_of_another_process(PYTHONHASHSEED="2") == first
    # and having but one thread to run on is the same as asking for one
    assert digests_of_another_process(NUMBA_NUM_THREADS="1", PYTHONHASHSEED="3") == first[:1]


def test_same_bits_compiled_and_loaded(tmp_path):
    # A process that compiles a loop holds its kernels twice, by themselves and merged into the loop; one that loads
    # the loop from the disk holds the merged ones only.
    case = ["rows, Jacobi"]
    one = {"NUMBA_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    compiled = digests_of_another_process(case, **one)
    assert any(tmp_path.rglob("*.nbc"))
    assert digests_of_another_process(case, **one) == compiled


def test_same_bits_whatever_was_solved_before():
    # The interpreted loop loads kernels by themselves that a compiled loop holds copies of: which of the two
    # was loaded first must not decide how sums are rounded.
    one = {"NUMBA_NUM_THREADS": "1"}
    digests_of_another_process(["function, Jacobi", "rows, Jacobi"], **one)  # fills the cache
    ((alone,),) = digests_of_another_process(["rows, Jacobi"], **one)
    ((_, after),) = digests_of_another_process(["function, Jacobi", "rows, Jacobi"], **one)
    assert after == alone


def test_same_bits_from_one_solver_again_and_again():
    A, b = even()
    solver = cgopt.CGSolver(A)
    first = solver.solve(b, maxiter=12)
    solver.solve(b * 7 + 1, maxiter=3)
    solver.solve(b, b, maxiter=3)
    again = solver.solve(b, maxiter=12)
    assert bits(again) == bits(first)
    assert not np.shares_memory(again.x, first.x)


@pytest.mark.parametrize("offset", range(1, 8))
def test_same_bits_wherever_memory_lies(offset):
    # vector loads of 16, 32 or 64 bytes must not make the order of sums depend on an address
    A, b = even()
    memory = np.empty(b.size + 8)
    moved = memory[offset : offset + b.size]
    moved[:] = b
    data = np.empty(A.nnz + 8)[offset : offset + A.nnz]
    data[:] = A.data
    elsewhere = sp.csr_array((data, A.indices, A.indptr), shape=A.shape)
    for options in ({"format": "dia"}, {"format": "csr", "M": "jacobi"}):
        there = cgopt.cg(elsewhere, moved, maxiter=5, **options)
        assert bits(there) == bits(cgopt.cg(A, b, maxiter=5, **options))


def test_a_callback_does_not_change_bits():
    A, b = even()
    plain = cgopt.cg(A, b, maxiter=12)
    assert bits(cgopt.cg(A, b, maxiter=12, callback=lambda x: None)) == bits(plain)
    assert bits(cgopt.cg(A, b, maxiter=12, progress=lambda state: None)) == bits(plain)


# --- thread to thread ---------------------------------------------------------------------------------------


@needs_two
@pytest.mark.parametrize("case", CASES)
def test_one_and_two_threads_agree_to_rounding(case):
    cgopt.set_num_threads(1)
    one = solve(case)
    cgopt.set_num_threads(2)
    two = solve(case)
    # a dozen steps do not yet amplify the rounding of sums by much
    np.testing.assert_allclose(two.x, one.x, rtol=0, atol=1e-11 * np.abs(one.x).max())


@needs_two
def test_a_solver_keeps_the_threads_it_was_prepared_with():
    A, b = even()
    cgopt.set_num_threads(2)
    expected = bits(cgopt.cg(A, b, maxiter=12))
    solver = cgopt.CGSolver(A)
    cgopt.set_num_threads(1)
    assert bits(solver.solve(b, maxiter=12)) == expected
    assert bits(cgopt.cg(A, b, maxiter=12)) != expected  # or the test would be no test


def test_number_of_threads_is_checked():
    most = cgopt.max_num_threads()
    for wrong in (0, -1, most + 1, 1.5, True, "2", None):
        with pytest.raises(ValueError, match=f"threads must be a whole number from 1 to {most}"):
            cgopt.set_num_threads(wrong)
    cgopt.set_num_threads(np.int64(1))
    assert cgopt.get_num_threads() == 1


def test_small_systems_take_one_chunk():
    # a thread's start costs more than it saves
    assert cpu.share_rows(100, 500).sums.shape[0] == 1


@needs_two
def test_large_systems_take_a_chunk_for_each_thread():
    A, b = uneven()
    cgopt.set_num_threads(2)
    bounds = cpu.share_rows(b.size, A.nnz, A.indptr).bounds
    assert bounds.tolist() == [0, bounds[1], b.size]
    # equal work: entries, a row counting as six
    first = A.indptr[bounds[1]] + 6 * bounds[1]
    assert first == pytest.approx((A.nnz + 6 * b.size) / 2, rel=0.02)


# --- serial twin and threaded twin --------------------------------------------------------------------------


def in_serial(solve_it):
    """Run while another solve has the threads: kernels then take their serial form, with the same chunks."""
    with threads._team:
        return solve_it()


@needs_two
@pytest.mark.parametrize("case", CASES)
def test_chunks_run_in_turn_give_the_bits_of_chunks_run_at_once(case):
    cgopt.set_num_threads(2)
    assert bits(in_serial(lambda: solve(case))) == bits(solve(case))


def layout(dtype):
    A, _ = uneven()
    return CSR(A.indptr.view(np.uint32), A.indices.view(np.uint32), A.data.astype(dtype))


def arguments(name, dtype, n=8100):
    """Arguments of a kernel, but for the Work."""
    rng = np.random.default_rng(6)
    v = [rng.standard_normal(n).astype(dtype) for _ in range(5)]
    if np.dtype(dtype).kind == "c":
        v = [(a + 1j * a[::-1]).astype(dtype) for a in v]
    return {
        "dot": (v[0], v[1]),
        "apply_dot_csr": (layout(dtype), v[0], v[1]),
        "residual_csr": (layout(dtype), v[0], 1.0, v[1], v[2]),
        "update_residual_identity": (None, 0.3, v[0], v[1], v[2]),
        "update_direction_identity": (None, 0.3, 0.7, v[0], v[1], v[2], v[3]),
    }[name]


KERNELS = [
    (updates, "dot", np.complex128),
    (products, "apply_dot_csr", np.float64),
    (products, "residual_csr", np.float32),
    (updates, "update_residual_identity", np.float64),
    (updates, "update_direction_identity", np.float32),
]


@pytest.mark.parametrize(("module", "name", "dtype"), KERNELS, ids=[name for _, name, _ in KERNELS])
def test_twins_of_a_kernel_give_the_same_bits(module, name, dtype):
    serial, threaded = getattr(module, name)
    outputs = []
    for form in (serial, threaded):
        work = Work(np.array([0, 4032, 8100]), np.zeros((2, threads.SUMS)), np.zeros((2, 0)))
        args = arguments(name, dtype)
        returned = form(*args, work)
        written = [np.ascontiguousarray(a).tobytes() for a in args if isinstance(a, np.ndarray)]
        outputs.append((np.array(returned, dtype=object).tolist(), written, work.sums.tobytes()))
    assert outputs[0] == outputs[1]


# --- beside other solves ------------------------------------------------------------------------------------


def test_concurrent_solves_give_the_bits_of_solves_alone():
    # one of them has the threads at a time, and the others run their chunks in turn
    names = ["rows, Jacobi", "diagonals", "function", "many", "diagonals", "rows, Jacobi"]
    alone = [bits(solve(case)) for case in names]
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(lambda case: bits(solve(case)), names)) == alone
