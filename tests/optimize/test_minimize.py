"""Minimisers: published minima, one path whatever the scale of f, saddle points left, runs resumed to the last bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import rosen, rosen_der, rosen_hess, rosen_hess_prod
from scipy.special import log_softmax

import cgopt
from cgopt import minimize
from cgopt.optimize import (
    Ending,
    FunctionObjective,
    NetworkObjective,
    hessian_free,
    natural_gradient,
    newton_cg,
    scipy_method,
)

from .problems import MGH

norm = np.linalg.norm
WAYS = {
    "newton, Steihaug": ("newton-cg", {}),
    "newton, GLTR": ("newton-cg", {"globalization": "gltr"}),
    "newton, line search": ("newton-cg", {"globalization": "line-search"}),
    "hessian-free": ("hessian-free", {}),
    "nonlinear, Hager-Zhang": ("nonlinear-cg", {}),
    "nonlinear, Polak-Ribiere": ("nonlinear-cg", {"formula": "polak-ribiere"}),
    "nonlinear, Fletcher-Reeves": ("nonlinear-cg", {"formula": "fletcher-reeves"}),
}
START = np.array([-1.2, 1.0, -1.2, 1.0, 0.5])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MGH)
def test_published_minima(name, way):
    problem = MGH[name]
    method, options = WAYS[way]
    options = {"maxiter": 5000} | options
    hvp = problem.gauss_newton if method == "hessian-free" else None
    result = minimize(problem.fun, np.array(problem.x0), jac=problem.jac, hvp=hvp, method=method, gtol=1e-10, **options)
    assert min(abs(result.fun - f) / (1e-5 * f + 1e-7) for f in problem.minima) <= 1.0, result
    assert result.fun == problem.fun(result.x)
    np.testing.assert_array_equal(result.jac, problem.jac(result.x))


# --- logistic regression on the digits, which SciPy's Newton-CG takes tens of thousands of gradients for ----------


def digits():
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="scikit-learn is not installed: pip install 'cgopt[test]'"
    )
    X, y = datasets.load_digits(return_X_y=True)
    X = np.hstack([X / 16.0, np.ones((len(X), 1))])
    Y = np.eye(10)[y]

    def fun(w, scale=1.0):
        Z = X @ w.reshape(65, 10)
        Z -= Z.max(axis=1, keepdims=True)
        return scale * float(np.mean(np.log(np.exp(Z).sum(axis=1)) - (Z * Y).sum(axis=1)) + 5e-5 * (w @ w))

    def jac(w, scale=1.0):
        W = w.reshape(65, 10)
        Z = X @ W
        P = np.exp(Z - Z.max(axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        return scale * (X.T @ (P - Y) / len(X) + 1e-4 * W).ravel()

    return fun, jac


@pytest.mark.parametrize("globalization", ["steihaug", "gltr", "line-search"])
def test_digits_take_few_gradients_whatever_the_scale(globalization):
    fun, jac = digits()
    # by powers of two near 1e-8 and 1e8 as well, which change no rounding
    scales = (1.0, 2.0**-27, 2.0**27, 1e-8, 1e8)
    runs = [
        minimize(fun, np.zeros(650), args=(scale,), jac=jac, gtol=1e-4, globalization=globalization) for scale in scales
    ]
    for run, scale in zip(runs, scales, strict=True):
        assert run.success, run
        assert run.njev < 150
        assert run.nhev == 0  # finite differences throughout
        assert norm(jac(run.x)) <= 1e-4 * norm(jac(np.zeros(650)))
        assert run.fun / scale == pytest.approx(0.0886584, rel=1e-5)  # a convex problem: the minimum is one
        assert run.nit == runs[0].nit
        ours = [row["fun"] / scale for row in run.history]
        if scale in scales[:3]:
            np.testing.assert_array_equal(ours, [row["fun"] for row in runs[0].history])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exponent", [-300, -27, 27, 300])
def test_powers_of_two_give_the_same_bits(way, exponent):
    method, options = WAYS[way]
    factor = 2.0**exponent
    one = minimize(rosen, START, jac=rosen_der, hvp=rosen_hess_prod, method=method, maxiter=15, **options)
    two = minimize(
        lambda x: factor * rosen(x), START, jac=lambda x: factor * rosen_der(x),
        hvp=lambda x, v: factor * rosen_hess_prod(x, v), method=method, maxiter=15, **options,
    )  # fmt: skip
    if method == "hessian-free" or options.get("globalization") == "gltr":
        np.testing.assert_allclose(two.x, one.x, rtol=1e-6)
    else:
        np.testing.assert_array_equal(two.x, one.x)


# --- negative curvature --------------------------------------------------------------------------------------


def saddle(x):
    return 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + 0.5 * x[1] ** 2  # minima at (1, 0) and (-1, 0), a saddle at zero


def saddle_gradient(x):
    return np.array([x[0] ** 3 - x[0], x[1]])


@pytest.mark.parametrize("globalization", ["steihaug", "gltr", "line-search"])
@pytest.mark.parametrize("start", [[0.0, 0.0], [0.0, 1.0], [1e-9, 1.0]])
def test_saddle_points_are_left(globalization, start):
    result = minimize(
        saddle, np.array(start), jac=saddle_gradient, gtol=1e-8, globalization=globalization, second_order=True
    )
    assert np.abs(result.x) == pytest.approx([1.0, 0.0], abs=1e-5)
    assert result.fun == pytest.approx(-0.25, abs=1e-9)


@pytest.mark.parametrize("globalization", ["steihaug", "line-search"])
def test_a_direction_of_negative_curvature_is_used(globalization):
    # begun where the Hessian is negative along the gradient: x goes down along it, at once
    result = minimize(
        saddle, np.array([0.1, 0.0]), jac=saddle_gradient, gtol=1e-8, globalization=globalization, maxiter=50
    )
    assert result.history[0]["cg_status"] == "NEGATIVE_CURVATURE"
    assert result.history[0]["fun"] < saddle(np.array([0.1, 0.0]))
    assert result.x == pytest.approx([1.0, 0.0], abs=1e-5)


# --- interrupt and resume ------------------------------------------------------------------------------------


def through_a_file(state):
    memory = io.BytesIO()
    np.savez(memory, **state)
    memory.seek(0)
    with np.load(memory) as saved:
        return {key: saved[key] for key in saved.files}


@pytest.mark.parametrize("way", WAYS)
def test_resumed_runs_end_where_uninterrupted_ones_do(way):
    method, options = WAYS[way]

    def run(**more):
        return minimize(rosen, START, jac=rosen_der, method=method, gtol=1e-8, **options, **more)

    whole = run(maxiter=14)
    half = run(maxiter=6)
    assert half.ending is Ending.MAXITER
    resumed = run(maxiter=14, state=through_a_file(half.state))
    np.testing.assert_array_equal(resumed.x, whole.x)
    assert resumed.fun == whole.fun
    assert (resumed.nit, resumed.nfev, resumed.njev) == (whole.nit, whole.nfev, whole.njev)
    assert [row["fun"] for row in half.history + resumed.history] == [row["fun"] for row in whole.history]


def test_a_callback_may_stop_and_keep_the_state():
    kept = []

    def stop_at_four(intermediate_result):
        kept.append(intermediate_result.state)
        if intermediate_result.nit == 4:
            raise StopIteration

    stopped = minimize(rosen, START, jac=rosen_der, callback=stop_at_four)
    assert stopped.ending is Ending.STOPPED
    assert not stopped.success
    assert stopped.nit == 4
    on = minimize(rosen, START, jac=rosen_der, state=kept[-1])
    np.testing.assert_array_equal(on.x, minimize(rosen, START, jac=rosen_der).x)
    seen = []
    minimize(rosen, START, jac=rosen_der, callback=seen.append, maxiter=3)
    assert len(seen) == 3
    assert seen[0].shape == START.shape


def test_progress_is_shown_and_changes_nothing(capsys):
    pytest.importorskip("rich", reason="rich is not installed: pip install 'cgopt[cli]'")
    seen = []
    shown = minimize(rosen, START, jac=rosen_der, progress=True, callback=seen.append)
    np.testing.assert_array_equal(shown.x, minimize(rosen, START, jac=rosen_der).x)
    assert len(seen) == shown.nit
    assert capsys.readouterr().out == ""


# --- as SciPy's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton-cg", "hessian-free", "nonlinear-cg"])
def test_as_a_method_of_scipys(method):
    easy = np.full(4, 1.1)
    for more in ({}, {"hessp": rosen_hess_prod}, {"hess": rosen_hess}):
        result = scipy.optimize.minimize(
            rosen, easy, jac=rosen_der, method=scipy_method(method), options={"gtol": 1e-7, "maxiter": 2000}, **more
        )
        assert isinstance(result, scipy.optimize.OptimizeResult)
        assert result.success
        assert result.x == pytest.approx(np.ones(4), abs=1e-4)
    both = scipy.optimize.minimize(
        lambda x: (rosen(x), rosen_der(x)), easy, jac=True, method=scipy_method(method, maxiter=2000)
    )
    assert both.x == pytest.approx(np.ones(4), abs=1e-2)
    with pytest.raises(ValueError, match="no bounds"):
        scipy.optimize.minimize(rosen, easy, jac=rosen_der, bounds=[(0, 1)] * 4, method=scipy_method(method))


def test_value_and_gradient_from_one_function():
    calls = []

    def both(x):
        calls.append(1)
        return rosen(x), rosen_der(x)

    one = minimize(both, START, jac=True, hvp=rosen_hess_prod)
    two = minimize(rosen, START, jac=rosen_der, hvp=rosen_hess_prod)
    np.testing.assert_array_equal(one.x, two.x)
    assert len(calls) <= one.nfev + 2  # the gradient at an accepted point comes with its value


# --- counts, precision, ends ---------------------------------------------------------------------------------


def test_counts_are_true():
    counts = {"fun": 0, "jac": 0, "hvp": 0}

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    result = minimize(
        counted("fun", rosen), START, jac=counted("jac", rosen_der), hvp=counted("hvp", rosen_hess_prod), gtol=1e-8
    )
    assert (result.nfev, result.njev, result.nhev) == (counts["fun"], counts["jac"], counts["hvp"])
    assert result.cost == pytest.approx(counts["fun"] / 3 + counts["jac"] + counts["hvp"])
    counts.update(fun=0, jac=0)
    result = minimize(counted("fun", rosen), START, jac=counted("jac", rosen_der), gtol=1e-8)
    assert (result.nfev, result.njev, result.nhev) == (counts["fun"], counts["jac"], 0)


@pytest.mark.parametrize("way", WAYS)
def test_single_precision(way):
    method, options = WAYS[way]

    def fun(x):
        return np.float32(rosen(x))

    def jac(x):
        return rosen_der(x.astype(np.float64)).astype(np.float32)

    start = np.array([0.8, 0.7, 0.6], np.float32)
    result = minimize(fun, start, jac=jac, method=method, gtol=1e-4, maxiter=500, **options)
    assert result.x.dtype == np.float32
    assert result.x == pytest.approx(np.ones(3), abs=2e-2)


def test_ends_are_named():
    with np.errstate(all="ignore"):
        assert minimize(lambda x: np.nan, np.ones(2), jac=lambda x: x).ending is Ending.NONFINITE
    assert minimize(rosen, np.ones(3), jac=rosen_der).ending is Ending.CONVERGED  # the gradient is zero at the start
    wrong = minimize(rosen, START, jac=lambda x: -rosen_der(x), method="nonlinear-cg")
    assert wrong.ending is Ending.STALLED
    np.testing.assert_array_equal(wrong.x, START)
    exact = minimize(rosen, START, jac=rosen_der, gtol=0.0, maxiter=500)
    assert exact.ending in (Ending.STALLED, Ending.CONVERGED)
    assert exact.fun < 1e-25
    for ending in Ending:
        assert ending.value.endswith(".")


def test_the_start_is_not_changed():
    x0 = START.copy()
    minimize(rosen, x0, jac=rosen_der)
    np.testing.assert_array_equal(x0, START)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "newton"}, ValueError, "Nearest: newton-cg"),
        ({"maxitr": 5}, ValueError, "Nearest: maxiter"),
        ({"globalization": "trust"}, ValueError, "globalization must be one of"),
        ({"jac": None}, TypeError, "jac must be a function"),
        ({"fun": 3}, TypeError, "fun must be a function"),
        ({"x0": np.ones((2, 2))}, ValueError, "x0 must be a real vector"),
        ({"x0": np.array([np.nan])}, ValueError, "x0 holds NaN"),
        ({"gtol": "small"}, TypeError, "gtol"),
        ({"maxiter": -1}, ValueError, "maxiter"),
        ({"jac": lambda x: np.ones(3)}, ValueError, "the gradient must have the shape of x"),
        ({"hvp": lambda x, v: 1.0}, ValueError, "hvp must return an array"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"fun": rosen, "x0": START, "jac": rosen_der} | change
    with pytest.raises(error, match=message):
        minimize(arguments.pop("fun"), arguments.pop("x0"), **arguments)


def test_an_objective_brings_its_own_derivatives():
    f = FunctionObjective(rosen, rosen_der)
    assert minimize(f, START).success
    with pytest.raises(ValueError, match="belong to a plain function"):
        minimize(f, START, jac=rosen_der)


# --- networks ------------------------------------------------------------------------------------------------


def network_problem(samples=200, dtype=np.float64, **options):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((samples, 4)).astype(dtype)
    Y = (np.sin(X[:, :1]) * X[:, 1:2] + 0.1).astype(dtype)
    network = cgopt.nn.MLP([4, 8, 1])
    return NetworkObjective(network, cgopt.nn.SquaredError(), X, Y, **options), network.init(0).astype(dtype)


def test_network_objective_is_the_loss_with_its_derivatives():
    f, theta = network_problem(l2=0.1)
    g, step = f.gradient(theta), 1e-6
    for i in (0, 7, theta.size - 1):
        e = np.zeros_like(theta)
        e[i] = step
        assert (f.value(theta + e) - f.value(theta - e)) / (2 * step) == pytest.approx(g[i], rel=1e-5, abs=1e-8)
    B = f.curvature(theta)
    V = np.random.default_rng(1).standard_normal((theta.size, 2))
    u, v = V.T
    assert u @ (B @ v) == pytest.approx(v @ (B @ u), rel=1e-10)
    assert v @ (B @ v) >= 0.1 * (v @ v)
    # mean of the squares of the samples' gradients, one sample at a time
    g0, _ = network_problem()
    squares = np.zeros_like(theta)
    for i in range(200):
        one = NetworkObjective(g0.network, g0.loss, g0.X[i : i + 1], g0.Y[i : i + 1])
        squares += one.gradient(theta) ** 2 / 200
    np.testing.assert_allclose(g0.squared_gradients(theta), squares, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hessian_free_fits_a_network_in_fewer_gradients_than_first_order_methods(dtype):
    f, theta = network_problem(dtype=dtype)
    result = hessian_free(f, theta, maxiter=40)
    assert result.x.dtype == dtype
    assert result.fun < 0.02 * f.value(theta)
    g, _ = network_problem(dtype=dtype)
    nonlinear = minimize(g, theta, method="nonlinear-cg", gtol=0.0, callback=stop_after(g, result.cost))
    assert result.fun < nonlinear.fun
    for row in result.history:
        assert {"fun", "ratio", "damping", "cg_iterations", "condition_estimate", "cost"} <= row.keys()
    falls = np.diff([f.value(theta)] + [row["fun"] for row in result.history])
    assert (falls <= 1e-6 * f.value(theta)).all()


def stop_after(objective, cost):
    def stop(x):
        if objective.cost >= cost:
            raise StopIteration

    return stop


def test_curvature_on_a_part_of_the_data_and_resumed():
    runs = []
    for stops in ((20,), (8, 20)):
        f, theta = network_problem(curvature_samples=60)
        state = None
        for maxiter in stops:
            f, _ = network_problem(curvature_samples=60)
            result = hessian_free(f, theta, maxiter=maxiter, state=state)
            state = result.state
        runs.append(result)
    np.testing.assert_array_equal(runs[0].x, runs[1].x)
    assert runs[0].fun < 0.1 * f.value(theta)


def test_structural_damping_of_a_recurrent_network():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 6, 2))
    Y = X[:, 0, :1] * X[:, -1, 1:]
    network = cgopt.nn.RNN(2, 10, 1, outputs="last")
    theta = network.init(0)
    plain, damped = (NetworkObjective(network, cgopt.nn.SquaredError(), X, Y, structural=mu) for mu in (0.0, 0.3))
    v, lam = rng.standard_normal(theta.size), 0.2
    G, B = plain.curvature(theta), damped.curvature(theta)
    np.testing.assert_array_equal(B @ v, G @ v)  # the ratio is of the model without damping
    at = network.linearize(theta, X)
    whole = cgopt.operators.GaussNewton(at, cgopt.nn.SquaredError(), Y, structural=0.3 * lam)
    np.testing.assert_allclose(damped.damped(B, lam) @ v, whole @ v + lam * v, rtol=1e-12)
    for f in (plain, damped):
        assert hessian_free(f, theta, maxiter=30).fun < 0.3 * f.value(theta)


def test_products_over_a_part_of_the_data_cost_a_part():
    f, theta = network_problem(curvature_samples=50)
    B = f.curvature(theta)
    before = f.cost
    B @ theta
    assert f.cost - before == pytest.approx(0.25)


def test_natural_gradient_of_a_softmax_keeps_the_divergence():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 5))
    Y = np.argmax(X @ rng.standard_normal((5, 3)), axis=1)
    network, loss = cgopt.nn.MLP([5, 3]), cgopt.nn.SoftmaxCrossEntropy()
    f, theta = NetworkObjective(network, loss, X, Y, l2=1e-3), network.init(0)

    def divergence(x, y):
        p, q = (log_softmax(network.forward(z, X), axis=1) for z in (x, y))
        return float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))

    result = natural_gradient(f, theta, divergence=divergence, divergence_bound=0.02, maxiter=30)
    divergences = [row["divergence"] for row in result.history if row["accepted"]]
    assert max(divergences) <= 0.02
    assert divergences[0] > 0.005  # nor is it wasted
    assert result.fun < 0.4 * f.value(theta)
    # Amari: the path does not depend on the scale of the loss
    scaled = FunctionObjective(
        lambda x: 1e6 * f.value(x), lambda x: 1e6 * f.gradient(x), lambda x, v: f.curvature(x) @ v
    )
    again = natural_gradient(scaled, theta, divergence=divergence, divergence_bound=0.02, maxiter=30)
    np.testing.assert_allclose(again.x, result.x, rtol=1e-5, atol=1e-7)


def test_newton_cg_takes_a_preconditioner():
    scales = np.geomspace(1.0, 1e4, 30)

    def fun(x):
        return float(np.sum(scales * (x**2 / 2 + x**4 / 4)))

    def jac(x):
        return scales * (x + x**3)

    plain = newton_cg(FunctionObjective(fun, jac), np.ones(30), gtol=1e-6)
    helped = newton_cg(
        FunctionObjective(fun, jac),
        np.ones(30),
        gtol=1e-6,
        M=lambda x: cgopt.preconditioners.Jacobi(scales * (1 + 3 * x**2)),
    )
    assert plain.success
    assert helped.success
    assert helped.njev < 0.5 * plain.njev
