"""Solving in an order of small bandwidth: the user sees the order of A, and the answer is the same."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt.operators import formats
from cgopt.operators.ordering import small_bandwidth
from cgopt.testing import sparse_spd


def bandwidth(A):
    row, column = A.nonzero()
    return int(np.abs(row - column).max())


def shuffled_grid(shape=(30, 20)):
    A = cgopt.gallery.poisson(shape)
    order = np.random.default_rng(41).permutation(A.shape[0])
    A = sp.csr_array(A[order][:, order])
    A.sort_indices()
    return A


def test_order_has_the_bandwidth_of_a_grid():
    # Levels of a breadth-first search from a corner have at most as many points as the shorter side, and neighbours
    # are in the same or the next level.
    A = shuffled_grid((30, 20))
    order = small_bandwidth(formats.csr_arrays(A))
    np.testing.assert_array_equal(np.sort(order), np.arange(A.shape[0]))
    assert bandwidth(A) > 300
    assert bandwidth(sp.csr_array(A[order][:, order])) < 2 * 20


@given(sparse_spd(st.integers(1, 40)), st.integers(0, 2**32 - 1))
def test_solution_is_that_of_the_given_order(A, seed):
    b = np.random.default_rng(seed).standard_normal(A.shape[0]).astype(A.dtype)
    rtol = 1e-4 if A.dtype.char in "fF" else 1e-10
    result = cgopt.CGSolver(A, M="jacobi", reorder=True).solve(b, rtol=rtol)
    assert result.converged
    wide = np.result_type(A.dtype, np.float64)
    r = b.astype(wide) - A.astype(wide) @ result.x.astype(wide)
    assert np.linalg.norm(r) <= 1.01 * rtol * np.linalg.norm(b)


@pytest.mark.parametrize("M", [None, "jacobi", "incomplete_cholesky", "dic", cgopt.preconditioners.Chebyshev, "auto"])
def test_preconditioners_by_name(M):
    A = shuffled_grid()
    b = np.random.default_rng(42).standard_normal(A.shape[0])
    result = cgopt.CGSolver(A, M=M, reorder=True).solve(b, rtol=1e-10)
    assert result.converged
    assert np.linalg.norm(b - A @ result.x) <= 1.01e-10 * np.linalg.norm(b)


def test_callbacks_guesses_and_columns_are_in_the_given_order():
    A = shuffled_grid()
    n = A.shape[0]
    rng = np.random.default_rng(43)
    x = rng.standard_normal((n, 3))
    solver = cgopt.CGSolver(A, M="jacobi", reorder=True)
    seen = []
    result = solver.solve(
        A @ x[:, 0], rtol=1e-12, callback=lambda intermediate_result: seen.append(intermediate_result)
    )
    # the last iterate that is shown is the solution, entry by entry
    np.testing.assert_array_equal(seen[-1].x, result.x)
    np.testing.assert_allclose(result.x, x[:, 0], rtol=0, atol=1e-8)
    # started from the solution there is nothing to do
    assert solver.solve(A @ x[:, 0], x[:, 0], rtol=1e-10).iterations == 0
    assert solver.solve(A @ x[:, 0], "Mb", rtol=1e-10).converged
    many = solver.solve(A @ x, rtol=1e-12)
    np.testing.assert_allclose(many.x, x, rtol=0, atol=1e-8)
    for j, column in enumerate(many.columns):
        assert np.shares_memory(column.x, many.x)
        np.testing.assert_array_equal(column.x, many.x[:, j])
    again = pickle.loads(pickle.dumps(solver)).solve(A @ x[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(again.x, result.x)
    assert solver.nbytes > 2 * solver.operator.nbytes
    assert "reordered" in repr(solver)


def test_direction_of_negative_curvature_is_in_the_given_order():
    A = sp.csr_array(shuffled_grid() - 0.5 * sp.eye_array(600))
    result = cgopt.CGSolver(A, reorder=True).solve(np.random.default_rng(44).standard_normal(600), rtol=1e-10)
    d = result.negative_curvature
    assert result.status.name == "INDEFINITE"
    assert d @ (A @ d) < 0.0


def test_what_has_no_order_to_change_is_refused():
    A = shuffled_grid()
    with pytest.raises(TypeError, match="sparse"):
        cgopt.CGSolver(A.toarray(), reorder=True)
    with pytest.raises(TypeError, match="'jacobi'"):
        cgopt.CGSolver(A, M=cgopt.preconditioners.Jacobi(A), reorder=True)
