"""``M="auto"``: what it chooses, when, and that a choice on the way loses nothing."""

from __future__ import annotations

import numpy as np
import pytest

import cgopt
from cgopt.linear.automatic import FIRST_LOOK, iterations_left
from cgopt.operators import as_operator
from cgopt.preconditioners import IncompleteCholesky, Jacobi, Multigrid
from cgopt.preconditioners.choose import COST, COST_OF_MULTIGRID, COST_ON_DIAGONALS, choose, cost_of_choice


def hard(n=3_000, rng=1):
    """A Laplacian of a long thin graph: thousands of iterations without a good preconditioner."""
    A = cgopt.gallery.graph_laplacian(n, degree=4, rng=rng)
    return A, A @ np.random.default_rng(0).standard_normal(n)


def chain(n=4_000):
    A = cgopt.gallery.poisson((n,))
    return A, A @ np.random.default_rng(0).standard_normal(n)


def test_an_easy_system_stays_with_jacobi():
    A = cgopt.gallery.wathen(12, 12, rng=0)
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(b, rtol=1e-8)
    assert isinstance(solver.preconditioner, Jacobi)
    assert np.array_equal(result.x, cgopt.cg(A, b, M="jacobi", rtol=1e-8).x)


def test_a_hard_system_changes_on_the_way_and_the_history_is_one():
    A, b = chain()
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(b, rtol=1e-9)
    assert result.converged
    assert np.linalg.norm(b - A @ result.x) <= 1.0001e-9 * np.linalg.norm(b)
    assert isinstance(solver.preconditioner, IncompleteCholesky)
    assert result.iterations <= COST_ON_DIAGONALS + 10
    assert result.history.shape == (result.iterations + 1,)
    assert result.step_lengths.shape == (result.iterations,)
    # to where it changed, it is the solve with Jacobi
    jacobi = cgopt.cg(A, b, M="jacobi", rtol=1e-9, maxiter=FIRST_LOOK)
    assert np.array_equal(result.history[: FIRST_LOOK + 1], jacobi.history)
    # the next solve begins with what was chosen
    again = solver.solve(b, rtol=1e-9)
    assert again.converged
    assert again.iterations < 20


def test_maxiter_counts_both_parts():
    A, b = chain()
    result = cgopt.cg(A, b, M="auto", rtol=1e-30, maxiter=80)
    assert result.iterations <= 80
    short = cgopt.cg(A, b, M="auto", rtol=1e-9, maxiter=40)
    assert (short.status.name, short.iterations, short.info) == ("MAXITER", 40, 40)


def test_a_callback_sees_every_iteration_and_may_stop():
    A, b = chain()
    seen = []
    result = cgopt.cg(A, b, M="auto", rtol=1e-9, callback=lambda intermediate_result: seen.append(intermediate_result))
    assert len(seen) == result.iterations

    def stop(x):
        raise StopIteration

    assert cgopt.cg(A, b, M="auto", callback=stop).status.name == "STOPPED"


def test_many_right_hand_sides_are_tried_with_one():
    A, b = chain()
    B = np.stack([b, b[::-1], 0 * b], 1)
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(B, rtol=1e-8)
    assert result.converged
    assert isinstance(solver.preconditioner, IncompleteCholesky)
    assert np.linalg.norm(B - A @ result.x, axis=0).max() <= 1.0001e-8 * np.linalg.norm(b)


def test_what_there_is_to_choose_from():
    grid = as_operator(cgopt.gallery.poisson((600, 550)))
    assert isinstance(choose(grid), Multigrid)
    assert isinstance(choose(as_operator(hard()[0])), IncompleteCholesky)
    costs = [cost_of_choice(as_operator(A)) for A in (hard()[0], chain()[0], grid)]
    assert costs == [COST, COST_ON_DIAGONALS, COST_OF_MULTIGRID]


@pytest.mark.parametrize("A", [np.diag(np.arange(1.0, 9.0)), lambda v: 2.0 * v, np.eye(8) * (1 + 0j)])
def test_where_there_is_no_choice_it_is_jacobi_or_none(A):
    result = cgopt.cg(A, np.ones(8), M="auto", rtol=1e-10)
    assert result.converged


def test_not_positive_definite_is_said_as_ever():
    A = cgopt.gallery.poisson((40, 40)) - 1.0 * np.eye(1600)
    import scipy.sparse as sp

    result = cgopt.cg(sp.csr_array(A), np.ones(1600), M="auto", rtol=1e-10)
    assert result.info < 0
    assert result.negative_curvature is not None


@pytest.mark.parametrize(
    ("past", "before", "iteration", "now", "target", "left"),
    [(50, 1e-2, 100, 1e-4, 1e-16, 300.0), (50, 1e-4, 100, 1e-4, 1e-16, np.inf), (50, 1.0, 100, 1e-2, 0.0, np.inf)],
)
def test_iterations_left_by_the_rate(past, before, iteration, now, target, left):
    assert iterations_left(past, before, iteration, now, target) == pytest.approx(left)
