"""Hessian-free optimisation on parts of the data: which samples, the same bits, what it costs, what the ratio is of."""

from __future__ import annotations

import numpy as np
import pytest

import cgopt
from cgopt.operators import GaussNewton
from cgopt.optimize import Ending, FunctionObjective, NetworkObjective, hessian_free
from cgopt.optimize.descent import Point, Proposal
from cgopt.optimize.hessian_free import DampedDirection, DampingSearch

SAMPLES = 90
LOSS = cgopt.nn.SquaredError()


def problem(dtype=np.float64, **options):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((SAMPLES, 4)).astype(dtype)
    Y = (np.sin(X[:, :1]) * X[:, 1:2] + 0.1).astype(dtype)
    network = cgopt.nn.MLP([4, 8, 1])
    return NetworkObjective(network, LOSS, X, Y, **options), network.init(0, dtype=dtype)


PARTS = {"gradient_samples": 45, "curvature_samples": 15, "seed": 3}


def test_value_gradient_and_curvature_are_over_the_parts_and_those_are_nested():
    f, theta = problem(**PARTS)
    for _ in range(4):
        part = f._gradient_part()
        assert len(set(part)) == 45
        value, gradient = f.network.loss_and_gradient(theta, f.X[part], LOSS, f.Y[part])
        assert f.value(theta) == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(f.gradient(theta), gradient, rtol=1e-12, atol=1e-15)
        inner = part[:15]
        G = GaussNewton(f.network.linearize(theta, f.X[inner]), LOSS, f.Y[inner])
        np.testing.assert_allclose(f.curvature(theta) @ theta, G @ theta, rtol=1e-12)
        assert f.advance()


def test_all_samples_come_once_before_any_comes_again():
    f, _ = problem(gradient_samples=30, seed=1)
    seen = []
    for _ in range(6):
        seen.append(f._gradient_part())
        f.advance()
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    for once in (first, second):
        np.testing.assert_array_equal(np.sort(once), np.arange(SAMPLES))
    assert (first != second).any()
    ordered, _ = problem(gradient_samples=30)
    np.testing.assert_array_equal(ordered._gradient_part(), np.arange(30))


def test_values_over_other_samples_than_gradients():
    f, theta = problem(loss_samples=SAMPLES, **PARTS)
    whole, _ = problem()
    assert f.value(theta) == pytest.approx(whole.value(theta), rel=1e-14)
    assert np.linalg.norm(f.gradient(theta) - whole.gradient(theta)) > 0.01 * np.linalg.norm(whole.gradient(theta))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("preconditioner", ["diagonal", "kronecker", None])
def test_same_seed_same_bits_and_resumed(preconditioner, dtype):
    options = {"preconditioner": preconditioner, "gtol": 0.0}
    f, theta = problem(dtype, **PARTS)
    whole = hessian_free(f, theta, maxiter=12, **options)
    again = hessian_free(problem(dtype, **PARTS)[0], theta, maxiter=12, **options)
    np.testing.assert_array_equal(whole.x, again.x)
    other = hessian_free(problem(dtype, **(PARTS | {"seed": 4}))[0], theta, maxiter=12, **options)
    assert (other.x != whole.x).any()

    def interrupt(*, intermediate_result):
        if intermediate_result.nit == 5:
            raise StopIteration

    first = hessian_free(problem(dtype, **PARTS)[0], theta, maxiter=12, callback=interrupt, **options)
    assert first.ending is Ending.STOPPED
    rest = hessian_free(problem(dtype, **PARTS)[0], theta, maxiter=12, state=first.state, **options)
    np.testing.assert_array_equal(rest.x, whole.x)
    assert (rest.cost, rest.fun) == (whole.cost, whole.fun)
    assert [row["iteration"] for row in rest.history] == list(range(6, 13))
    everything = problem(dtype)[0]
    assert everything.value(whole.x) < 0.5 * everything.value(theta)


def test_cost_counts_shares_of_the_data():
    f, theta = problem(**PARTS)
    f.value(theta)
    f.gradient(theta)
    B = f.curvature(theta)
    B @ theta
    assert f.cost == pytest.approx((45 / 3 + 45 + 15) / SAMPLES)


def test_every_step_reports_what_it_did():
    f, theta = problem(**PARTS)
    result = hessian_free(f, theta, maxiter=6, gtol=0.0)
    names = {"fun", "ratio", "damping", "cg_iterations", "cg_status", "condition_estimate", "cost", "alpha"}
    for row in result.history:
        assert names <= row.keys()
        assert np.isfinite(row["fun"])
        assert row["condition_estimate"] >= 1.0
    assert (np.diff([row["cost"] for row in result.history]) > 0.0).all()


def test_weights_of_samples():
    weights = np.zeros(SAMPLES)
    weights[:20] = SAMPLES / 20
    f, theta = problem(weights=weights)
    few = NetworkObjective(f.network, LOSS, f.X[:20], f.Y[:20])
    assert f.value(theta) == pytest.approx(few.value(theta), rel=1e-13)
    np.testing.assert_allclose(f.gradient(theta), few.gradient(theta), rtol=1e-10)
    np.testing.assert_allclose(f.curvature(theta) @ theta, few.curvature(theta) @ theta, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gradient_samples": 91}, ValueError, "gradient_samples must be at most 90"),
        ({"gradient_samples": 10, "curvature_samples": 20}, ValueError, "curvature_samples must be at most gradient"),
        ({"loss_samples": 0}, ValueError, "loss_samples must be at least 1"),
        ({"curvature_samples": 1.5}, TypeError, "curvature_samples must be a whole number"),
        ({"weights": np.ones(3)}, ValueError, "as many samples"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        problem(**options)


def test_bad_preconditioner():
    f, theta = problem()
    with pytest.raises(ValueError, match="Nearest: kronecker"):
        hessian_free(f, theta, preconditioner="kroneker")


def test_damping_rises_where_the_loss_does_even_if_the_model_said_so():
    # f = x^2 / 2 at 1, a step of -3: model and function both rise by 1.5, and their ratio is one
    f = FunctionObjective(lambda x: float(x @ x) / 2, lambda x: x, lambda x, v: v)
    direction = DampedDirection(10, 5e-4, 0.95, None, 0.75)
    x = np.array([1.0])
    direction.B = f.curvature(x)
    search = DampingSearch(direction, 1.0, 1e-2, 0.8)
    at = Point(x, 0.5, x, 1.0, 1.0)
    taken = search.take(f, at, Proposal(np.array([-3.0]), -3.0, np.nan, False, {}, []))
    assert taken.report["ratio"] == -np.inf
    assert search.size == 1.5
    assert taken.fun < 0.5
