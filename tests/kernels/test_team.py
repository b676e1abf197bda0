"""Loops on teams of threads: the bits of one thread, whoever comes, and in whatever order."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.kernels import cpu, loops
from cgopt.kernels.cpu import placement, threads
from cgopt.kernels.cpu.team import TRIED, faster
from cgopt.kernels.layouts import Work

N = 48 * 48
LAYOUTS = ("csr", "sorted", "half_csr", "dia", "half_dia", "float32")
PRECONDITIONERS = (None, "jacobi", "ssor", "incomplete_cholesky")


def scattered():
    """A Poisson matrix scaled over six decades: solves compute many true residuals, and some stagnate."""
    scale = sp.diags_array(np.exp(3 * np.random.default_rng(0).standard_normal(N)))
    A = (scale @ cgopt.gallery.poisson((48, 48)) @ scale).tocsr()
    return (A + A.T) / 2


@pytest.fixture
def team(monkeypatch):
    """Teams work whatever else the machine does, and wherever it has put the threads."""
    monkeypatch.setattr(placement.crowd, "leaves_room", lambda threads: True)
    monkeypatch.setattr(placement.closeness, "near", lambda threads, light: True)
    monkeypatch.setattr(cpu, "SMALL", 0)  # sweeps in one part too


@pytest.fixture
def serial(monkeypatch):
    """Makes what follows run on one thread."""
    return lambda: monkeypatch.setattr(threads, "_forked", True)


def solve(solver, b):
    result = solver.solve(b, rtol=1e-12, maxiter=300)
    return result.x, result.history, result.status


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("M", PRECONDITIONERS)
def test_a_team_has_the_bits_of_one_thread(format, M, team, serial):
    A, b = scattered(), np.random.default_rng(1).standard_normal(N)
    solver = cgopt.CGSolver(A, M=M, format=format)
    together = [solve(solver, b) for _ in range(10)]  # often enough for a thread to be late
    work = next(iter(solver._spaces.values())).work
    assert work.sums.shape[0] == min(2, cgopt.get_num_threads())
    serial()
    x, history, status = solve(solver, b)
    for other in together:
        np.testing.assert_array_equal(other[0], x)
        np.testing.assert_array_equal(other[1], history)
        assert other[2] is status


@pytest.mark.parametrize(("M", "threads"), [("jacobi", 2), ("ssor", 1), ("incomplete_cholesky", 1)])
def test_small_sweeps_in_one_part_are_left_to_one_thread(M, threads):
    solver = cgopt.CGSolver(scattered(), M=M, format="csr")
    assert solver.solve(np.ones(N), maxiter=5).iterations == 5
    assert next(iter(solver._spaces.values())).work.sums.shape[0] == min(threads, cgopt.get_num_threads())


@pytest.mark.parametrize("kind", ["dense", "complex", "trust region"])
def test_the_other_loops_too(kind, team, serial):
    rng = np.random.default_rng(2)
    if kind == "dense":
        A, b = cgopt.gallery.prescribed_spectrum(np.geomspace(1.0, 1e4, 600), rng=3), rng.standard_normal(600)
    else:
        A, b = scattered(), rng.standard_normal(N)
    if kind == "complex":
        A, b = A.astype(complex), b + 1j * rng.standard_normal(N)

    def run():
        if kind == "trust region":
            return cgopt.trust_region_cg(A, b, 1e-3, M="jacobi").x
        return cgopt.cg(A, b, M="jacobi", rtol=1e-12, maxiter=300).x

    together = [run() for _ in range(5)]
    serial()
    for x in together:
        np.testing.assert_array_equal(x, run())


TWO_ON_ONE = """
import numpy as np, cgopt
from cgopt.kernels import cpu
from cgopt.kernels.cpu import placement
cpu.SMALL = 0
placement.crowd.leaves_room = placement.closeness.near = lambda threads, light=False: True
cgopt.set_num_threads({threads})
A = cgopt.gallery.poisson((48, 48))
b = np.random.default_rng(0).standard_normal(48 * 48)
for M in ("jacobi", "ssor"):
    result = cgopt.cg(A, b, M=M, rtol=1e-10, format="csr")
    assert result.converged
    print(np.linalg.norm(result.x).hex())
"""


def answer(threads, **settings):
    """What a process with other settings says."""
    text = TWO_ON_ONE.format(threads=threads)
    environment = os.environ | {"NUMBA_NUM_THREADS": "3"} | settings
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_threads_that_come_one_after_the_other_do_not_wait_for_each_other():
    """OpenMP may give a team fewer threads than it has chunks, and numba has pools that are none of OpenMP's."""
    expected = answer(2)
    assert answer(2, OMP_THREAD_LIMIT="1") == expected
    assert answer(2, NUMBA_THREADING_LAYER="workqueue") == expected
    answer(3)  # more threads than cores on a small machine


def test_what_is_worth_threads(monkeypatch):
    w = Work(np.array([0, 64, 128]), np.zeros((2, 8)), meetings=threads.places_to_meet(2), weight=threads.LIGHT)
    kernel = (lambda: "serial", lambda: "threaded")
    monkeypatch.setattr(placement.crowd, "leaves_room", lambda threads: True)

    def apart(kernel):
        return "either"

    for near, expected in ((True, "threaded"), (False, "either")):
        monkeypatch.setattr(placement.closeness, "near", lambda threads, light, near=near: near)
        assert threads.run(kernel, w, apart=apart) == expected
        assert threads.run(kernel, w) == "serial"  # a pass alone is not worth a region
    assert threads.run(kernel, w._replace(weight=threads.SMALL)) == "threaded"
    assert threads.run(kernel, w._replace(weight=threads.HEAVY), apart=apart) == "threaded"
    assert threads.run(kernel, w._replace(sums=np.zeros((1, 8))), apart=apart) == "serial"


@pytest.mark.parametrize("better", ["alone", "together"])
def test_threads_far_apart_have_to_prove_themselves(better):
    w = Work(np.array([0, 64, 128]), np.zeros((2, 8)), meetings=threads.places_to_meet(2), weight=threads.SMALL)
    log, calls = np.zeros((1000, 4)), []

    def form(name):
        def loop(*args):
            *_, log, w, _, first, steps, last = args
            calls.append((name, steps, first, last))
            log[:steps, 0] = len(calls)
            time.sleep(1e-4 * steps if name == better else 1e-3 * steps)
            return loops.RUNNING, steps

        return loop

    forms = form("alone"), form("together")
    head = (None,) * 9
    assert faster(forms, *head, log, w, w, True, 100, True) == (loops.RUNNING, 100)
    tried = [("alone", TRIED, True, False), ("together", TRIED, False, False)]
    assert calls == [*tried, (better, 100 - 2 * TRIED, False, True)]
    np.testing.assert_array_equal(log[:100, 0], np.repeat([1, 2, 3], [TRIED, TRIED, 100 - 2 * TRIED]))
    faster(forms, *head, log, w, w, False, 10, False)
    assert calls[3:] == [(better, 10, False, False)]  # what was found is believed for a while


def test_a_loop_that_ends_while_it_is_tried_ends():
    w = Work(np.array([0, 64, 128]), np.zeros((2, 8)), meetings=threads.places_to_meet(2), weight=threads.SMALL)

    def loop(*args):
        return loops.CONVERGED, 3

    assert faster((loop, loop), *(None,) * 9, np.zeros((100, 4)), w, w, True, 50, False) == (loops.CONVERGED, 3)


def test_closeness_is_measured_now_and_then(monkeypatch):
    measured = []

    def meet_often(meetings):
        measured.append(meetings.size)

    monkeypatch.setattr(placement, "meet_often", meet_often)
    closeness = placement.Closeness()
    assert closeness.near(2)
    assert closeness.near(2)
    assert len(measured) == 2  # the first to wake the threads; what it found is believed for a while
    for seconds, near, near_enough in ((1e-7, True, True), (3e-7, True, False), (5e-7, False, False)):
        monkeypatch.setattr(placement, "meeting_seconds", lambda threads, seconds=seconds: seconds)
        closeness = placement.Closeness()
        assert (closeness.near(2), closeness.near(2, light=True)) == (near, near_enough)


@pytest.mark.skipif(cgopt.max_num_threads() < 2, reason="one core has no team")
@pytest.mark.parametrize("place", [2, 4])
def test_a_loop_is_not_called_with_other_types_than_it_was_compiled_for(place, team):
    solver = cgopt.CGSolver(cgopt.gallery.poisson((48, 48)), M="jacobi", format="csr")
    solver.solve(np.ones(N))
    loop = next(iter(solver._spaces.values())).steps._forms[1]
    known = dict(loop._known)
    assert known
    try:
        for key, found in known.items():  # addresses, and digests of the types of the threads' part and of the loop
            loop._known[key] = (*found[:place], found[place] + 1, *found[place + 1 :])
        with pytest.raises(TypeError, match="other types"):
            solver.solve(np.ones(N))
    finally:
        loop._known.update(known)


def test_the_distance_of_cores_is_a_time():
    assert 0.0 < threads.distance() < 1.0
