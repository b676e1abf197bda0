"""Solves beside other solves: Python threads, forked and spawned processes, pools, Ctrl-C in the middle."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
PATIENCE = 120  # seconds until a child is taken for hung


def small(seed=0):
    A = cgopt.gallery.poisson((7, 6 + seed)) + 0.1 * sp.eye_array(7 * (6 + seed))
    return A.tocsr(), np.random.default_rng(seed).standard_normal(A.shape[0])


def large(seed=0):
    """Above the size from which a solve takes threads; a dozen iterations."""
    A = cgopt.gallery.poisson((100, 110 + seed)) + 2.0 * sp.eye_array(100 * (110 + seed))
    A = A.tocsr()
    assert A.nnz + 4 * A.shape[0] > cgopt.kernels.cpu.threads.SMALL
    return A, np.random.default_rng(seed).standard_normal(A.shape[0])


def assert_solved(A, b, result, rtol=1e-5):
    assert result.status is cgopt.Status.CONVERGED
    residuals = np.linalg.norm(b - A @ result.x, axis=0)
    assert (residuals <= rtol * np.linalg.norm(b, axis=0) * (1 + 1e-6)).all()


@contextlib.contextmanager
def forking():
    """Python 3.12 and later warn when a process with threads forks; that is what is done here, on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*multi-threaded, use of", category=DeprecationWarning)
        yield


def environment():
    """The environment of a Python that finds cgopt where it was found here."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(cgopt.__file__)))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


# --- Python threads -----------------------------------------------------------------------------------------


def test_eight_threads_solve_different_systems_at_once():
    systems = [(large if i % 2 else small)(i) for i in range(8)]
    systems[4] = (systems[4][0], np.stack([systems[4][1]] * 3, 1))
    start = threading.Barrier(8)

    def work(i):
        A, b = systems[i]
        start.wait()
        for _ in range(3):
            assert_solved(A, b, cgopt.cg(A, b, M="jacobi" if i == 2 else None))
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8), timeout=PATIENCE))


def test_one_solver_serves_several_threads():
    A, _ = large()
    solver = cgopt.CGSolver(A)
    rights = [np.random.default_rng(i).standard_normal(A.shape[0]) for i in range(6)]
    alone = [solver.solve(b).x for b in rights]
    inside, most = [], []

    def work(i):
        def listen(x):  # solves with one solver wait for each other: never two of them are inside
            inside.append(i)
            most.append(len(set(inside[-2:])) if len(inside) > 1 else 1)

        result = solver.solve(rights[i], callback=listen)
        assert_solved(A, rights[i], result)
        return result.x

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, range(6), timeout=PATIENCE))
    for x, y in zip(alone, together, strict=True):
        np.testing.assert_array_equal(x, y)
    # each thread's iterations stand in one piece: six pieces, five changes
    assert np.count_nonzero(np.diff(inside)) == 5


def test_solver_does_not_wait_for_other_solvers():
    A, b = small()
    entered, leave = threading.Event(), threading.Event()

    def linger(x):
        entered.set()
        assert leave.wait(PATIENCE)

    slow = threading.Thread(target=lambda: cgopt.cg(A, b, callback=linger))
    slow.start()
    try:
        assert entered.wait(PATIENCE)
        assert cgopt.cg(A, b).converged  # while the other is held up in its callback
    finally:
        leave.set()
        slow.join()


def test_callback_may_not_solve_with_its_own_solver():
    A, b = small()
    solver = cgopt.CGSolver(A)
    with pytest.raises(RuntimeError, match="callback"):
        solver.solve(b, callback=lambda x: solver.solve(b))
    assert_solved(A, b, solver.solve(b))


def test_callback_may_solve_with_another_solver():
    A, b = large()
    inner = cgopt.CGSolver(A)
    first = cgopt.cg(A, b)
    result = cgopt.cg(A, b, callback=lambda x: assert_solved(A, b, inner.solve(b)))
    np.testing.assert_array_equal(result.x, first.x)


def test_preconditioner_may_solve_with_another_solver():
    A, b = small()
    inner = cgopt.CGSolver(A + 0.01 * sp.eye_array(A.shape[0]))
    result = cgopt.cg(A, b, M=lambda r: inner.solve(r, rtol=1e-10).x)
    assert_solved(A, b, result)
    # the eigenvalues of M A lie in (0.9, 1): Chebyshev's bound at condition 1.1 is 1.6 digits an iteration
    assert result.iterations <= 5


def test_product_may_solve_with_another_solver():
    # (A^-1)^-1 b: the operator is itself a solve
    A, b = small()
    inner = cgopt.CGSolver(A)
    result = cgopt.cg(lambda v: inner.solve(v, rtol=1e-12).x, b)
    np.testing.assert_allclose(result.x, A @ b, rtol=0, atol=1e-3 * np.abs(b).max())


# --- processes ----------------------------------------------------------------------------------------------


def run_in_fork(work):
    """Run `work` in a forked child; 0 if it returned."""
    with forking():
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "the child hung"


@needs_fork
def test_forked_child_solves_what_its_parent_solved_with_threads():
    A, b = large()
    solver = cgopt.CGSolver(A)
    expected = solver.solve(b).x  # the parent's threads have run

    def work():
        for result in (solver.solve(b), cgopt.cg(A, b)):  # a solver from before the fork, and a new one
            np.testing.assert_array_equal(result.x, expected)
        assert_solved(A, b, cgopt.cg(lambda v: A @ v, b))

    assert run_in_fork(work) == 0
    np.testing.assert_array_equal(solver.solve(b).x, expected)  # and the parent goes on with its threads


def fork_while_a_thread_solves():
    """Fork three times while another thread of this process solves; called in a process of its own."""
    A, b = large()
    with cgopt.kernels.cpu.threads._team:  # compiles the serial form, which a child takes, before the fork
        expected = cgopt.cg(A, b).x
    stop = threading.Event()
    solved = []

    def busy():
        while not stop.is_set():
            solved.append(cgopt.cg(A, b).converged)

    thread = threading.Thread(target=busy, daemon=True)
    thread.start()
    for _ in range(3):
        assert run_in_fork(lambda: np.testing.assert_array_equal(cgopt.cg(A, b).x, expected)) == 0
    stop.set()
    thread.join(PATIENCE / 4)
    assert not thread.is_alive(), "the fork stopped the other thread"
    assert solved
    assert all(solved)


@needs_fork
def test_fork_in_the_middle_of_a_solve():
    # In a process of its own: what goes wrong here goes wrong by waiting for ever.
    folder = os.path.dirname(os.path.abspath(__file__))
    script = f"import sys; sys.path.insert(0, {folder!r}); import test_concurrency as here; "
    done = subprocess.run(
        [sys.executable, "-c", script + "here.fork_while_a_thread_solves()"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_fork
def test_child_of_a_forked_child():
    A, b = large()
    cgopt.cg(A, b)

    def grandchild():
        assert_solved(A, b, cgopt.cg(A, b))

    def child():
        grandchild()
        assert run_in_fork(grandchild) == 0

    assert run_in_fork(child) == 0


@pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
def test_pool_of_processes(method):
    systems = [large(0), small(1), large(2), small(3)]
    expected = [cgopt.cg(A, b) for A, b in systems]  # the parent's threads have run
    with forking(), multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.starmap_async(cgopt.cg, systems).get(PATIENCE)
    for (A, b), result, here in zip(systems, results, expected, strict=True):
        assert_solved(A, b, result)
        # the result came through pickle whole
        np.testing.assert_array_equal(result.x, here.x)
        np.testing.assert_array_equal(result.history, here.history)
        assert repr(result) == repr(here)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(backend):
    joblib = pytest.importorskip("joblib", reason="this test drives cgopt through joblib")
    systems = [large(0), small(1), large(2), small(3)]
    cgopt.cg(*large())
    with forking():
        results = joblib.Parallel(n_jobs=2, backend=backend)(
            joblib.delayed(cgopt.cg)(A, b) for A, b in systems
        )
        if backend == "loky":
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True)
    for (A, b), result in zip(systems, results, strict=True):
        assert_solved(A, b, result)


# --- Ctrl-C -------------------------------------------------------------------------------------------------

# A line of 200 000 points takes 100 000 iterations: minutes, all of them in compiled code.
INTERRUPTED = """
import signal, time
import numpy as np
import cgopt

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell starts in background
n = 200_000
solver = cgopt.CGSolver(cgopt.gallery.poisson(n), format="csr")
b = np.random.default_rng(0).standard_normal(({shape}))
solver.solve(b, maxiter=2)
print("solving", flush=True)
try:
    solver.solve(b, rtol=1e-12)
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)
small = np.ones(100)
print(cgopt.cg(cgopt.gallery.poisson(100), small).status.name)
again = cgopt.CGSolver(cgopt.gallery.poisson(n), format="csr")
print(solver.solve(b, maxiter=3).status.name, again.solve(b, maxiter=3).status.name)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("shape", ["n", "n, 2"])
def test_ctrl_c_ends_a_long_solve_within_a_second(shape):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(shape=shape)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(PATIENCE, child.kill)
    watchdog.start()
    try:
        assert child.stdout.readline() == "solving\n", child.stderr.read()
        time.sleep(0.5)
        sent = time.monotonic()  # one clock for all processes, on the systems that have SIGINT
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    finally:
        watchdog.cancel()
        child.kill()
    assert child.returncode == 0, err
    word, received, *after = out.split()
    assert word == "interrupted"
    assert float(received) - sent < 1.0
    assert after == ["CONVERGED", "MAXITER", "MAXITER"]
