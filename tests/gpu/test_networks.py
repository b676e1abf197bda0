"""Networks whose parameters lie on the GPU answer what those in host memory answer; Hessian-free runs whole."""

from __future__ import annotations

import numpy as np
import pytest

import cgopt
from cgopt.nn import MLP, Huber, LogisticCrossEntropy, SoftmaxCrossEntropy, SquaredError
from cgopt.operators import Damped, Fisher, GaussNewton, Hessian

NETWORK = MLP([4, 5, 3], activation="tanh")
LOSSES = {
    "squared": (SquaredError(), lambda rng: rng.standard_normal((7, 3))),
    "logistic": (LogisticCrossEntropy(), lambda rng: rng.random((7, 3))),
    "labels": (SoftmaxCrossEntropy(), lambda rng: rng.integers(0, 3, 7)),
    "huber": (Huber(0.5), lambda rng: rng.standard_normal((7, 3))),
}


def problem(loss="squared", dtype=np.float64):
    rng = np.random.default_rng(0)
    theta, X = NETWORK.init(1, dtype=dtype), rng.standard_normal((7, 4)).astype(dtype)
    Y = LOSSES[loss][1](rng)
    return theta, X, Y.astype(dtype) if Y.dtype.kind == "f" else Y


def same(found, wanted, dtype=np.float64):
    np.testing.assert_allclose(
        found.get(), wanted, rtol=0, atol=1e3 * np.finfo(dtype).eps * max(1.0, abs(wanted).max())
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["tanh", "logistic", "relu", "softplus"])
def test_forward_and_linearised_products(xp, activation, dtype):
    network, rng = MLP([4, 5, 6, 3], activation, output_activation="logistic"), np.random.default_rng(0)
    theta, X = network.init(1, dtype=dtype), rng.standard_normal((7, 4)).astype(dtype)
    v, u = rng.standard_normal(network.n).astype(dtype), rng.standard_normal((7, 3)).astype(dtype)
    V, U = rng.standard_normal((network.n, 2)).astype(dtype), rng.standard_normal((7, 2, 3)).astype(dtype)
    host, own = network.linearize(theta, X), network.linearize(xp.asarray(theta), xp.asarray(X))
    same(own.output, host.output, dtype)
    same(network.forward(xp.asarray(theta), xp.asarray(X)), host.output, dtype)
    for w in (v, V):
        same(own.jvp(xp.asarray(w)), host.jvp(w), dtype)
    for w in (u, U):
        same(own.vjp(xp.asarray(w)), host.vjp(w), dtype)
    same(own.squared_vjp(xp.asarray(u)), host.squared_vjp(u), dtype)
    assert isinstance(own.jvp(xp.asarray(v)), xp.ndarray)


def test_one_observation(xp):
    theta, X, _ = problem()
    predict = NETWORK.predictor(xp.asarray(theta))
    for x in X:
        same(predict(xp.asarray(x)), NETWORK.predictor(theta)(x))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_curvature(xp, name):
    loss = LOSSES[name][0]
    theta, X, Y = problem(name)
    at, own = NETWORK.linearize(theta, X), NETWORK.linearize(xp.asarray(theta), xp.asarray(X))
    weights = np.linspace(0.5, 1.5, 7)
    v = np.random.default_rng(3).standard_normal(NETWORK.n)
    for w, W in ((None, None), (weights, xp.asarray(weights))):
        assert loss.value(own.output, xp.asarray(Y), W) == pytest.approx(loss.value(at.output, Y, w), rel=1e-12)
        same(loss.gradient(own.output, xp.asarray(Y), W), loss.gradient(at.output, Y, w))
        G, own_G = GaussNewton(at, loss, Y, weights=w), GaussNewton(own, loss, xp.asarray(Y), weights=W)
        same(own_G @ xp.asarray(v), G @ v)
        same(own_G.diagonal(), G.diagonal())
    same(Hessian(own, loss, xp.asarray(Y)) @ xp.asarray(v), Hessian(at, loss, Y) @ v)
    if name != "huber":
        same(Fisher(own, loss) @ xp.asarray(v), Fisher(at, loss) @ v)


def test_solving_with_a_gauss_newton_matrix(xp):
    theta, X, Y = problem()
    own = GaussNewton(NETWORK.linearize(xp.asarray(theta), xp.asarray(X)), SquaredError(), xp.asarray(Y))
    host = GaussNewton(NETWORK.linearize(theta, X), SquaredError(), Y)
    b = np.random.default_rng(0).standard_normal(NETWORK.n)
    found = cgopt.cg(Damped(own, 0.1), xp.asarray(b), rtol=1e-9)
    wanted = cgopt.cg(Damped(host, 0.1), b, rtol=1e-9)
    assert found.converged
    assert abs(found.iterations - wanted.iterations) <= 1
    np.testing.assert_allclose(found.x.get(), wanted.x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"curvature_samples": 4}, {"preconditioner": None}])
def test_hessian_free_runs_whole(xp, options):
    theta, X, Y = problem()
    sampled = {key: options.pop(key) for key in ("curvature_samples",) if key in options}
    runs = {}
    for where, put in (("host", np.asarray), ("gpu", xp.asarray)):
        objective = cgopt.optimize.NetworkObjective(NETWORK, SquaredError(), put(X), put(Y), l2=1e-4, **sampled)
        runs[where] = cgopt.optimize.hessian_free(objective, put(theta), maxiter=3, damping=0.5, **options)
    host, own = runs["host"], runs["gpu"]
    assert isinstance(own.x, xp.ndarray)
    assert [row["cg_iterations"] for row in own.history] == [row["cg_iterations"] for row in host.history]
    for a, b in zip(own.history, host.history, strict=True):
        assert a["fun"] == pytest.approx(b["fun"], rel=1e-7)
    assert own.fun < 0.9 * host.history[0]["fun"]
    first = cgopt.optimize.NetworkObjective(NETWORK, SquaredError(), xp.asarray(X), xp.asarray(Y), l2=1e-4, **sampled)
    with pytest.raises(TypeError, match="kronecker"):
        cgopt.optimize.hessian_free(first, own.x, damping=0.5, preconditioner="kronecker")
    again = cgopt.optimize.hessian_free(first, own.x, maxiter=4, damping=0.5, state=own.state, **options)
    assert again.nit == 4


def test_mixed_inputs_are_refused(xp):
    theta, X, Y = problem()
    with pytest.raises(TypeError, match=r"theta lies on a device and X in host memory: pass X as cupy.asarray\(X\)"):
        NETWORK.forward(xp.asarray(theta), X)
    at = NETWORK.linearize(xp.asarray(theta), xp.asarray(X))
    with pytest.raises(TypeError, match="outputs lies on a device and Y in host memory"):
        SquaredError().gradient(at.output, Y)
    with pytest.raises(TypeError, match="theta lies on a device and observation in host memory"):
        NETWORK.predictor(xp.asarray(theta))(X[0])
    with pytest.raises(ValueError, match="X holds NaN"):
        NETWORK.forward(xp.asarray(theta), xp.asarray(np.full((7, 4), np.nan)))


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_first_order_steps(xp, kind):
    def make():
        if kind == "adam":
            return cgopt.nn.Adam(NETWORK.n, learning_rate=0.1)
        return cgopt.nn.SGD(NETWORK.n, learning_rate=0.1, momentum=0.9, nesterov=kind == "nesterov")

    theta, gradient = problem()[0], np.random.default_rng(0).standard_normal(NETWORK.n)
    own, host, other = xp.asarray(theta), make(), make()
    theta = theta.copy()
    for _ in range(2):
        host.step(theta, gradient)
        other.step(own, xp.asarray(gradient))
    third = make()
    third.restore(other.state())
    host.step(theta, gradient)
    third.step(own, xp.asarray(gradient))
    same(own, theta)
    target = xp.zeros(NETWORK.n)
    cgopt.nn.soft_update(target, own, 0.25)
    same(target, 0.25 * theta)
    with pytest.raises(TypeError, match="theta lies on a device and gradient in host memory"):
        other.step(own, gradient)
