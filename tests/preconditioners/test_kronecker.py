"""Inverses of Kronecker products against dense ones, and what they save a Gauss-Newton solve."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt.operators import Damped, Fisher, GaussNewton
from cgopt.preconditioners import Kronecker
from cgopt.testing import check_operator


def factors(rng, sizes):
    pairs = []
    for rows, units in sizes:
        X, D = rng.standard_normal((rows + 2, rows)), rng.standard_normal((units, units))
        D[0] = 0.0  # singular
        pairs.append((X.T @ X, D.T @ D))
    return pairs


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3), st.integers(0, 100))
def test_is_the_inverse_of_damped_kronecker_products(sizes, seed):
    pairs, shift = factors(np.random.default_rng(seed), sizes), 0.3
    M = Kronecker(pairs, shift)
    dense = scipy.linalg.block_diag(*(np.kron(A, G) for A, G in pairs)) + shift * np.eye(M.shape[0])
    np.testing.assert_allclose(M @ dense, np.eye(M.shape[0]), atol=1e-9)
    check_operator(M, rtol=1e-10, rng=seed).raise_for_failure()


def test_factors_are_second_moments_and_exact_for_one_sample():
    network, loss = cgopt.nn.MLP([3, 4, 2]), cgopt.nn.SquaredError()
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((1, 3)), rng.standard_normal((1, 2))
    at = network.linearize(network.init(1), X)
    pairs = at.kronecker_factors(loss.gradient(at.output, Y))
    F = Fisher(at, loss, kind="empirical", Y=Y) @ np.eye(network.n)
    start = 0
    for A, G in pairs:  # the gradient of a layer is an outer product, so its block of the matrix a Kronecker product
        stop = start + len(A) * len(G)
        np.testing.assert_allclose(F[start:stop, start:stop], np.kron(A, G), atol=1e-14)
        start = stop
    assert start == network.n


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saves_most_of_the_products_of_a_damped_solve(dtype):
    rng = np.random.default_rng(0)
    network, loss = cgopt.nn.MLP([12, 10, 6, 10, 12]), cgopt.nn.SquaredError()
    X = rng.standard_normal((400, 12)) * np.geomspace(1.0, 0.1, 12)
    objective = cgopt.optimize.NetworkObjective(network, loss, X, X)
    theta = cgopt.optimize.hessian_free(objective, network.init(1, scheme="sparse"), maxiter=10).x
    X, theta = X.astype(dtype), theta.astype(dtype)
    at, lam = network.linearize(theta, X), 1e-4
    A, b = Damped(GaussNewton(at, loss, X), lam), at.vjp(loss.gradient(at.output, X))
    drawn = len(X) * loss.gradient(at.output, loss.sample(at.output, rng))
    M = Kronecker(at.kronecker_factors(drawn), lam)
    assert (M @ b).dtype == dtype
    plain, helped = (cgopt.cg(A, b, M=M, rtol=1e-2) for M in (None, M))
    assert plain.converged
    assert helped.converged
    assert helped.iterations < 0.5 * plain.iterations


@pytest.mark.parametrize(
    ("pairs", "shift", "message"),
    [
        ([], 1.0, "at least one pair"),
        ([(np.eye(2), np.eye(2))], 0.0, "shift must be"),
        ([(np.ones((2, 3)), np.eye(2))], 1.0, "square"),
        ([(np.eye(2), np.diag([1.0, np.nan]))], 1.0, "NaN"),
        ([(np.eye(2), np.diag([1.0, -1.0]))], 1.0, "positive semi-definite"),
    ],
)
def test_bad_input(pairs, shift, message):
    with pytest.raises(ValueError, match=message):
        Kronecker(pairs, shift)
