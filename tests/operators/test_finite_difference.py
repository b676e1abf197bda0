"""Products by differences: their error against exact ones, over six decades of |v|, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt import nn
from cgopt.operators import (
    Damped,
    FiniteDifferenceGaussNewton,
    FiniteDifferenceHessian,
    GaussNewton,
    Hessian,
)
from cgopt.testing import check_operator

# Twice the largest errors measured for the digits network of 5,090 parameters.
LIMITS = {
    (np.float64, "one"): 2 * 3.7e-8,
    (np.float64, "two"): 2 * 9e-11,
    (np.float32, "one"): 2 * 8e-4,
    (np.float32, "two"): 2 * 4e-5,
}


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits data come with scikit-learn")
    X, Y = datasets.load_digits(return_X_y=True)
    return X[:500] / 16.0, Y[:500]


@pytest.mark.parametrize(("dtype", "sides"), LIMITS)
def test_hessian_products_over_six_decades(digits, dtype, sides):
    X, Y = digits
    network, loss = nn.MLP([64, 50, 30, 10]), nn.SoftmaxCrossEntropy()
    theta = network.init(0)
    v = np.random.default_rng(0).standard_normal(network.n)
    v /= np.linalg.norm(v)
    exact = Hessian(network.linearize(theta, X), loss, Y) @ v

    def gradient(t):
        return network.loss_and_gradient(t, X, loss, Y)[1]

    A = FiniteDifferenceHessian(gradient, theta.astype(dtype), sides=sides)
    assert A.dtype == dtype
    for decade in range(-3, 4):
        scale = 10.0**decade
        assert relative(A @ (scale * v).astype(dtype) / scale, exact) < LIMITS[dtype, sides]


@pytest.mark.parametrize(("dtype", "sides"), LIMITS)
def test_gauss_newton_products(digits, dtype, sides):
    X, Y = digits
    network, loss = nn.MLP([64, 20, 10]), nn.SoftmaxCrossEntropy()
    theta = network.init(0)
    exact = GaussNewton(network.linearize(theta, X), loss, Y)
    at = network.linearize(theta.astype(dtype), X)
    M = loss.output_hessian(at.output, Y)
    A = FiniteDifferenceGaussNewton(lambda t: network.forward(t, X), at.vjp, theta.astype(dtype), M, sides=sides)
    for v in np.random.default_rng(0).standard_normal((3, network.n)):
        assert relative(A @ v.astype(dtype), exact @ v) < LIMITS[dtype, sides]


def test_gradient_at_x_is_computed_once():
    points = []

    def gradient(x):
        points.append(x.copy())
        return x**3

    A = FiniteDifferenceHessian(gradient, np.array([1.0, 2.0]))
    for _ in range(5):
        A @ np.ones(2)
    assert (A.sides, A.calls, len(points)) == ("one", 6, 6)
    A = FiniteDifferenceHessian(gradient, np.array([1.0, 2.0], np.float32))
    A @ np.ones(2, np.float32)
    assert (A.sides, A.calls) == ("two", 3)


@given(st.integers(-300, 300), st.sampled_from(["one", "two"]))
def test_length_of_v_does_not_matter(exponent, sides):
    D = np.array([3.0, -1.0, 2.0])
    A = FiniteDifferenceHessian(lambda x: D * x, np.array([1.0, 2.0, 3.0]), sides=sides)
    v = np.array([1.0, -2.0, 0.5])
    assert relative((A @ (v * 10.0**exponent)) / 10.0**exponent, D * v) < 1e-7


def test_zero_vector_and_untouched_point():
    x = np.array([1.0, 2.0])
    A = FiniteDifferenceHessian(lambda t: t**2, x)
    assert (A @ np.zeros(2) == 0.0).all()
    x[0] = 100.0  # the operator keeps its own copy
    assert relative(A @ np.array([1.0, 0.0]), np.array([2.0, 0.0])) < 1e-7


@pytest.mark.parametrize(("dtype", "sides"), LIMITS)
def test_products_by_differences_are_fit_for_conjugate_gradients(dtype, sides):
    network, loss = nn.MLP([20, 4]), nn.SoftmaxCrossEntropy()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X, Y = rng.random((60, 20)), rng.integers(0, 4, 60)
        theta = (0.1 * rng.standard_normal(network.n)).astype(dtype)
        H = FiniteDifferenceHessian(lambda t, X=X, Y=Y: network.loss_and_gradient(t, X, loss, Y)[1], theta, sides=sides)
        A, b = Damped(1.0 * H, 1e-2), -H.gradient_at_x  # the allowance passes through compositions
        exact = Damped(Hessian(network.linearize(theta.astype(float), X), loss, Y), 1e-2)
        error = LIMITS[dtype, sides]
        result = cgopt.cg(A, b, rtol=100.0 * error, maxiter=network.n)
        assert result.status.converged, result.status
        assert np.linalg.norm(exact @ result.x - b) <= 200.0 * error * np.linalg.norm(b)
        assert check_operator(A).ok


BAD = {
    "gradient": (lambda: FiniteDifferenceHessian(3.0, np.ones(2)), TypeError, "gradient must be a function"),
    "shape": (
        lambda: FiniteDifferenceHessian(lambda x: x[:1], np.ones(2)),
        ValueError,
        "gradient must return an array",
    ),
    "NaN": (lambda: FiniteDifferenceHessian(lambda x: x * np.nan, np.ones(2)), ValueError, "gradient returned NaN"),
    "x": (lambda: FiniteDifferenceHessian(lambda x: x, np.array([1.0, np.inf])), ValueError, r"x holds NaN.*\(1,\)"),
    "x matrix": (lambda: FiniteDifferenceHessian(lambda x: x, np.eye(2)), ValueError, "x must be a real vector"),
    "sides": (
        lambda: FiniteDifferenceHessian(lambda x: x, np.ones(2), sides="both"),
        ValueError,
        "sides must be one of",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what):
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call()
