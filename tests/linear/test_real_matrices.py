"""Real matrices: each is solved to the residual asked for, or reported as not solved. Nothing in between.

The matrices are those found through the environment variable CGOPT_DATA (see `cgopt.gallery.available`), and
four that PyAMG ships, so that something runs everywhere.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.sparse.linalg import cg as scipy_cg

import cgopt
from cgopt import Status, gallery

NAMES = gallery.available()
NONE = pytest.mark.skip("CGOPT_DATA is not set, or names no folder with matrices: only PyAMG's examples are tested")
REAL = NAMES or [pytest.param("none", marks=NONE)]
EXAMPLES = ("airfoil", "bar", "knot", "unit_cube")
RTOL = 1e-8
WORK = 4e8  # entries multiplied in one solve, at most: less than half a second
U = 2.0**-53


@functools.lru_cache(maxsize=2)
def load(name):
    """A matrix and its right-hand side: its own where there is one, otherwise normally distributed.

    (Not A 1, which on wathen100 and gridgena is nearly an eigenvector.)
    """
    if name in EXAMPLES:
        pytest.importorskip("pyamg", reason="PyAMG is not installed: pip install 'cgopt[amg]'")
        A, b = gallery.pyamg_example(name), None
    else:
        A, b = gallery.load(name, return_rhs=True)
    if b is None:
        b = np.random.default_rng(0).standard_normal(A.shape[0])
    return A, b


@pytest.fixture
def one_thread():
    before = cgopt.get_num_threads()
    cgopt.set_num_threads(1)
    yield
    cgopt.set_num_threads(before)


def assert_honest(A, b, result, maxiter):
    """The report agrees with a residual computed here.

    Evaluating b - A x in double precision has an error of at most (m + 2) u (|A| |x| + |b|) for rows of at
    most m entries (Higham 2002, section 3.1), and its norm, a sum of n squares in whatever order, one of n u / 2 times
    itself; here and in the solver.
    """
    x = result.x
    assert np.isfinite(x).all()
    assert np.isfinite(result.history).all()
    assert result.history.size == result.iterations + 1 <= maxiter + 1
    true, target = np.linalg.norm(b - A @ x), RTOL * np.linalg.norm(b)
    m = int(np.diff(A.indptr).max())
    rounding = 2 * (m + 2) * U * np.linalg.norm(abs(A) @ abs(x) + abs(b)) + b.size * U * true
    assert abs(result.residual_norm - true) <= rounding
    if result.status is Status.CONVERGED:
        assert result.info == 0
        assert true <= target + rounding
    else:
        # All are positive definite: their factorisations have positive pivots.
        assert result.status in (Status.MAXITER, Status.STAGNATED), result
        assert result.info != 0
        assert true > target - rounding  # the last iterate is tested too
        if result.status is Status.MAXITER:
            assert result.iterations == maxiter == result.info


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("name", [*EXAMPLES, *REAL])
def test_solved_or_reported(name, M, one_thread):
    A, b = load(name)
    maxiter = int(min(20_000, WORK / A.nnz))
    assert_honest(A, b, cgopt.cg(A, b, M=M, rtol=RTOL, maxiter=maxiter), maxiter)


def plain(A, b, maxiter):
    """The textbook's recursion with Jacobi's preconditioner, which believes its own residual."""
    inverse = 1.0 / A.diagonal()
    x, r = np.zeros_like(b), b.copy()
    p = inverse * r
    rz = r @ p
    for k in range(1, maxiter + 1):
        q = A @ p
        alpha = rz / (p @ q)
        x += alpha * p
        r -= alpha * q
        if np.linalg.norm(r) <= RTOL * np.linalg.norm(b):
            return x, k
        z = inverse * r
        rz, rz_old = r @ z, rz
        p = z + (rz / rz_old) * p
    return x, None


@pytest.mark.parametrize("name", ["bcsstk19", "nos2", "s3rmq4m1", "s3rmt3m1", "ela_wheelset"])
def test_honest_where_the_recursive_residual_lies(name):
    if name not in NAMES:
        pytest.skip(f"{name} is not found through CGOPT_DATA")
    A, b = load(name)
    result = cgopt.cg(A, b, M="jacobi", rtol=RTOL, maxiter=20_000)
    assert_honest(A, b, result, 20_000)
    # and a claim that was denied does not spoil what had been reached
    assert result.residual_norm <= 100.0 * result.history.min()


@pytest.mark.parametrize("name", ["bcsstk19", "nos2"])
def test_the_recursive_residual_does_lie(name):
    # or the test above would show nothing
    if name not in NAMES:
        pytest.skip(f"{name} is not found through CGOPT_DATA")
    A, b = load(name)
    x, iterations = plain(A, b, 20_000)
    assert iterations is not None
    assert np.linalg.norm(b - A @ x) > 1.2 * RTOL * np.linalg.norm(b)


@pytest.mark.parametrize("name", [*EXAMPLES, *(n for n in ("nos4", "bcsstk02", "gr_30_30", "mesh1e1") if n in NAMES)])
def test_iterations_are_those_of_scipy(name):
    # The same recurrence in another order of summation: on well-conditioned matrices rounding moves the end
    # by a few iterations at the most, and the true residual may take one or two more.
    A, b = load(name)
    theirs = []
    _, info = scipy_cg(A, b, rtol=RTOL, maxiter=1000, callback=lambda x: theirs.append(1))
    assert info == 0
    ours = cgopt.cg(A, b, rtol=RTOL, maxiter=1000)
    assert ours.converged
    assert abs(ours.iterations - len(theirs)) <= 2 + 0.02 * len(theirs)
