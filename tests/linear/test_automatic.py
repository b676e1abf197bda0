"""``M="auto"``: what it chooses, when, and that a choice on the way loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.linear import lanczos, workspace
from cgopt.linear.automatic import GROWTH, iterations_left
from cgopt.linear.lanczos import InverseNorms
from cgopt.operators import as_operator
from cgopt.preconditioners import MIC, IncompleteCholesky, Jacobi, Multigrid
from cgopt.preconditioners.choose import (
    AFFORDED_ON_DIAGONALS,
    EARLY_LOOK,
    FIRST_LOOK,
    certain_condition,
    choose,
    patience,
)


def in_other_units(A, rng=3):
    """D A D with a random diagonal D: what the constant vector shows of A is gone, Jacobi's iterations are the same."""
    D = sp.diags_array(np.exp(np.random.default_rng(rng).normal(size=A.shape[0])))
    scaled = sp.csr_array(D @ A @ D)
    return sp.csr_array((scaled + scaled.T) / 2)


def hard(n=3_000, rng=1):
    """A Laplacian of a long thin graph: thousands of iterations without a good preconditioner."""
    A = in_other_units(cgopt.gallery.graph_laplacian(n, degree=4, rng=rng))
    return A, A @ np.random.default_rng(0).standard_normal(n)


def chain(n=4_000):
    A = in_other_units(cgopt.gallery.poisson((n,)))
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
    assert result.iterations <= AFFORDED_ON_DIAGONALS + 10
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


def test_large_systems_are_looked_at_as_often(monkeypatch):
    """They give the outside world its turn more often than every fifteen iterations, which must not shift the looks."""
    A, b = hard()
    alone = cgopt.CGSolver(A, M="auto")
    expected = alone.solve(b, rtol=1e-9)
    monkeypatch.setattr(workspace, "SLICE_BYTES", 7 * alone.bytes_per_iteration)
    solver = cgopt.CGSolver(A, M="auto")
    assert np.array_equal(solver.solve(b, rtol=1e-9).x, expected.x)
    assert solver.choice == alone.choice == "left Jacobi: its condition number still grew after 30 iterations"


def test_many_right_hand_sides_are_tried_with_one():
    A, b = chain()
    B = np.stack([b, b[::-1], 0 * b], 1)
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(B, rtol=1e-8)
    assert result.converged
    assert isinstance(solver.preconditioner, IncompleteCholesky)
    assert np.linalg.norm(B - A @ result.x, axis=0).max() <= 1.0001e-8 * np.linalg.norm(b)


def test_the_constant_vector_bounds_the_condition_number_from_below():
    n = 600
    for A in (
        cgopt.gallery.graph_laplacian(n, degree=4, rng=1),
        cgopt.gallery.poisson((20, 30)),
        cgopt.gallery.wathen(13, 13, rng=0),
        in_other_units(cgopt.gallery.poisson((20, 30))),
    ):
        operator = as_operator(A)
        root = 1.0 / np.sqrt(operator.diagonal())
        spectrum = np.linalg.eigvalsh(root[:, None] * A.toarray() * root)
        assert certain_condition(operator) <= spectrum[-1] / spectrum[0] * (1 + 1e-12)
        total, trace = A.sum(), A.diagonal().sum()
        assert certain_condition(operator) == pytest.approx(trace / total)


def test_what_is_certain_is_not_begun_with_jacobi():
    A = cgopt.gallery.graph_laplacian(3_000, degree=4, rng=1)
    x = np.random.default_rng(0).standard_normal(3_000)
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(A @ x, rtol=1e-8)
    assert result.converged
    assert np.array_equal(result.x, cgopt.cg(A, A @ x, M=IncompleteCholesky(A), rtol=1e-8).x)
    assert solver.choice.startswith("not Jacobi: the constant vector shows a condition number of ")
    # nothing is set up for a solve that needs nothing, or may be near its end
    for b, start in ((np.zeros(3_000), None), (A @ x, x)):
        solver = cgopt.CGSolver(A, M="auto")
        assert solver.solve(b, start, rtol=1e-8).converged
        assert isinstance(solver.preconditioner, Jacobi)
    # many right-hand sides need no trial
    B = np.stack([A @ x, A @ x[::-1]], 1)
    many = cgopt.CGSolver(A, M="auto")
    assert many.solve(B, rtol=1e-8).converged
    assert many.choice.startswith("not Jacobi: ")
    # a matrix of which only a reaction is large has nothing certain about it, nor has a small one
    assert not patience(as_operator(A + 0.1 * sp.eye_array(3_000))).certain
    assert not patience(as_operator(cgopt.gallery.graph_laplacian(300, degree=4, rng=1))).certain


@pytest.mark.parametrize("n", [3_000, 110_000])
def test_a_laplacian_with_a_free_constant_is_solved_as_jacobi_solves_it(n):
    """Singular, and b in its range: conjugate gradients converge, and what takes Jacobi's place must not harm that."""
    A = cgopt.gallery.graph_laplacian(n, degree=6, rng=1)
    A = sp.csr_array(A - sp.diags_array(np.asarray(A.sum(axis=1)).ravel()))
    b = A @ np.random.default_rng(0).standard_normal(n)
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(b, rtol=1e-8, maxiter=100)
    assert result.converged
    assert isinstance(solver.preconditioner, Multigrid if n > 100_000 else IncompleteCholesky)


def test_grids_with_even_coefficients_take_the_modified_factorisation():
    even = cgopt.gallery.poisson((250, 250))
    assert patience(as_operator(even)).certain
    assert isinstance(choose(as_operator(even)), MIC)
    assert isinstance(choose(as_operator(cgopt.gallery.poisson((20, 3_000)))), IncompleteCholesky)  # a narrow band
    steep = in_other_units(even)
    assert isinstance(choose(as_operator(steep)), IncompleteCholesky)
    # in Eisenstat's form, as if it had been asked for
    b = even @ np.random.default_rng(0).standard_normal(250 * 250)
    assert np.array_equal(cgopt.cg(even, b, M="auto", rtol=1e-8).x, cgopt.cg(even, b, M="mic", rtol=1e-8).x)


def test_long_rows_with_hubs_are_factored_whole():
    """As in bundle adjustment: a few unknowns are linked to nearly all, the others to these few."""
    cameras, points = 20, 1_480
    seen = sp.random_array((cameras, points), density=0.8, rng=np.random.default_rng(0))
    A = sp.block_array([[sp.eye_array(cameras), -seen], [-seen.T, sp.eye_array(points)]])
    A = sp.csr_array(A + sp.diags_array(np.asarray(abs(A).sum(axis=1)).ravel()))
    assert A.nnz > 12 * A.shape[0]
    M = choose(as_operator(A))
    assert isinstance(M, IncompleteCholesky)
    assert M.order == "minimum degree"


def test_what_there_is_to_choose_from():
    plane, space, graph, line = (
        as_operator(A)
        for A in (cgopt.gallery.poisson((600, 550)), cgopt.gallery.poisson((70, 70, 70)), hard()[0], chain()[0])
    )
    assert isinstance(choose(plane), Multigrid)
    assert isinstance(choose(graph), IncompleteCholesky)
    # products by diagonals are cheap: there the rate decides alone, but on large grids in the plane
    assert [patience(A).eager for A in (plane, space, graph, line)] == [True, False, True, False]


def test_long_rows_are_factored_without_fill_unless_that_breaks_down():
    A = cgopt.gallery.wathen(25, 25, rng=0)
    assert patience(as_operator(A)).first_look == EARLY_LOOK < FIRST_LOOK
    assert choose(as_operator(A)).fill == 0
    indefinite = broken()
    with pytest.raises(np.linalg.LinAlgError, match="max_shift"):
        IncompleteCholesky(indefinite, fill=0, max_shift=0.0)
    assert choose(as_operator(indefinite)).fill != 0


def broken(n=60, rng=0):
    """Positive definite, rows of more than twelve entries, and not an H-matrix: a factor without fill breaks down."""
    rng = np.random.default_rng(rng)
    G = sp.random_array((n, n), density=0.08, rng=rng, data_sampler=lambda size: rng.choice([-1.0, 1.0], size))
    A = sp.csr_array(G.T @ G + 0.02 * sp.eye_array(n))
    assert A.nnz > 12 * n
    assert np.linalg.eigvalsh(A.toarray())[0] > 0
    return A


def test_a_condition_number_that_grows_ends_the_patience_early():
    """What the rate alone would not: the residual falls fast at first, and the end is far."""
    A = in_other_units(cgopt.gallery.graph_laplacian(20_000, rng=0))
    b = A @ np.random.default_rng(0).standard_normal(20_000)
    alone = cgopt.cg(A, b, M="jacobi", rtol=1e-8)
    assert iterations_left(20, alone.history[20] ** 2, 30, alone.history[30] ** 2, (1e-8 * alone.history[0]) ** 2) < 200
    assert alone.iterations > 300
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(b, rtol=1e-8)
    assert result.converged
    assert np.array_equal(result.history[: FIRST_LOOK + 1], alone.history[: FIRST_LOOK + 1])
    assert isinstance(solver.preconditioner, IncompleteCholesky)
    assert "condition number still grew after 30 iterations" in repr(solver)


def test_norms_of_the_inverses_of_lanczos_matrices():
    A = cgopt.gallery.poisson((40, 40))
    result = cgopt.cg(A, A @ np.random.default_rng(0).standard_normal(1600), maxiter=40, rtol=1e-12)
    norms = InverseNorms()
    norms.extend(result._alpha[:15], result._beta[:15])
    norms.extend(result._alpha[15:], result._beta[15:])
    diagonal, off = lanczos.tridiagonal(result._alpha, result._beta)
    for steps in range(1, 41):
        T = np.diag(diagonal[:steps]) + np.diag(off[: steps - 1], 1) + np.diag(off[: steps - 1], -1)
        assert norms.squares[steps - 1] == pytest.approx(np.linalg.norm(np.linalg.inv(T)) ** 2)


def test_a_restart_is_no_growth():
    """What begins anew stands beside what was there, in a matrix of two blocks."""
    rng = np.random.default_rng(0)
    alpha, beta = rng.uniform(0.5, 1.0, 10), rng.uniform(0.5, 1.0, 10)
    beta[-1] = 0.0
    once, twice = InverseNorms(), InverseNorms()
    once.extend(alpha, beta)
    twice.extend(np.tile(alpha, 2), np.tile(beta, 2))
    assert twice.squares[:10] == once.squares
    assert twice.squares[-1] == pytest.approx(2.0 * once.squares[-1])
    assert twice.squares[-1] < GROWTH**4 * twice.squares[9]


@pytest.mark.parametrize(("reaction", "expected"), [(1.0, Jacobi), (0.2, Jacobi), (1e-4, IncompleteCholesky)])
def test_a_spectrum_that_is_bounded_from_below_is_left_to_jacobi(reaction, expected):
    """A Laplacian and a reaction: what bounds the condition number is found in thirty iterations, or is too small."""
    n = 4_000
    A = in_other_units(cgopt.gallery.graph_laplacian(n, degree=6, rng=1) + reaction * sp.eye_array(n))
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(np.random.default_rng(1).standard_normal(n), rtol=1e-8)
    assert result.converged
    assert result.iterations > FIRST_LOOK
    assert isinstance(solver.preconditioner, expected)


@pytest.mark.parametrize("A", [np.diag(np.arange(1.0, 9.0)), lambda v: 2.0 * v, np.eye(8) * (1 + 0j)])
def test_where_there_is_no_choice_it_is_jacobi_or_none(A):
    result = cgopt.cg(A, np.ones(8), M="auto", rtol=1e-10)
    assert result.converged


def test_not_positive_definite_is_said_as_ever():
    A = cgopt.gallery.poisson((40, 40)) - 1.0 * np.eye(1600)
    result = cgopt.cg(sp.csr_array(A), np.ones(1600), M="auto", rtol=1e-10)
    assert result.info < 0
    assert result.negative_curvature is not None


@pytest.mark.parametrize(
    ("past", "before", "iteration", "now", "target", "left"),
    [(50, 1e-2, 100, 1e-4, 1e-16, 300.0), (50, 1e-4, 100, 1e-4, 1e-16, np.inf), (50, 1.0, 100, 1e-2, 0.0, np.inf)],
)
def test_iterations_left_by_the_rate(past, before, iteration, now, target, left):
    assert iterations_left(past, before, iteration, now, target) == pytest.approx(left)
