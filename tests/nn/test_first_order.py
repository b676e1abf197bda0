"""First-order optimisers: the steps are the published ones, nothing is allocated, and a state resumes to the bit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt import nn
from cgopt.kernels import cpu, reference
from cgopt.kernels.cpu import networks

N = 300


def vectors(count, dtype, seed=0):
    return [v.astype(dtype) for v in np.random.default_rng(seed).standard_normal((count, N))]


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-14), (np.float32, 1e-5)])
@pytest.mark.parametrize("kernel", ["adam_step", "momentum_step", "lookahead", "blend"])
def test_kernels_are_their_twins(kernel, dtype, limit, form):
    theta, gradient, m, v = vectors(4, dtype)
    name = "momentum_step" if kernel == "lookahead" else kernel
    arguments = {
        "adam_step": (theta, gradient, m, v**2, 0.01, 0.9, 0.99, 1.5, 1e-8),
        "momentum_step": (theta, gradient, m, 0.01, 0.9, False),
        "lookahead": (theta, gradient, m, 0.01, 0.9, True),
        "blend": (theta, gradient, 0.01),
    }[kernel]
    work = cpu.share_rows(N, 10**6, threads=3)
    compiled, plain = ([np.copy(a) if isinstance(a, np.ndarray) else a for a in arguments] for _ in range(2))
    getattr(networks, name)[form](*compiled, work)
    getattr(reference, name)(*plain, work)
    for a, b in zip(compiled, plain, strict=True):
        assert np.allclose(a, b, rtol=limit, atol=limit)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-14), (np.float32, 1e-5)])
@pytest.mark.parametrize("kernel", ["scale_units", "add_scale_units", "softmax_curvature"])
def test_layer_kernels_are_their_twins(kernel, dtype, limit):
    rng = np.random.default_rng(0)
    r, t = (rng.standard_normal((20, 3, 7)).astype(dtype) for _ in range(2))
    d, e = (rng.random((20, 7)).astype(dtype) for _ in range(2))
    arguments = {"scale_units": (r, d), "add_scale_units": (r, t, d), "softmax_curvature": (r, d, e)}[kernel]
    compiled, plain = ([np.copy(a) for a in arguments] for _ in range(2))
    getattr(networks, kernel)(*compiled)
    getattr(reference, kernel)(*plain)
    for a, b in zip(compiled, plain, strict=True):
        assert np.allclose(a, b, rtol=limit, atol=limit)


@given(st.floats(1e-6, 1.0), st.integers(1, 20), st.floats(0.0, 0.99), st.floats(0.0, 0.9999))
def test_adam_is_algorithm_1(rate, steps, beta1, beta2):
    adam = nn.Adam(N, learning_rate=rate, betas=(beta1, beta2))
    theta, expected = vectors(1, float)[0], vectors(1, float)[0]
    m, v = np.zeros(N), np.zeros(N)
    for t in range(1, steps + 1):
        g = vectors(1, float, seed=t)[0]
        adam.step(theta, g)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        expected = expected - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
    assert np.allclose(theta, expected, rtol=0, atol=1e-11 * steps)


def test_nesterov_is_the_two_point_form():
    # Sutskever et al. (2013), eq. 3 and 4, keep the point theta; the optimiser keeps theta + mu v, where gradients are.
    D, mu, rate = np.linspace(0.1, 1.0, N), 0.9, 0.1
    theta, velocity = np.ones(N), np.zeros(N)
    sgd, ahead = nn.SGD(N, learning_rate=rate, momentum=mu, nesterov=True), np.ones(N)
    for _ in range(30):
        velocity = mu * velocity - rate * D * (theta + mu * velocity)
        theta = theta + velocity
        sgd.step(ahead, D * ahead)
        assert np.allclose(ahead, theta + mu * velocity, rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", [lambda: nn.Adam(N), lambda: nn.SGD(N, learning_rate=0.1, momentum=0.9)])
def test_a_restored_state_goes_on_to_the_bit(make):
    straight, first, second = make(), make(), make()
    a, b = np.ones(N), np.ones(N)
    for t in range(10):
        straight.step(a, vectors(1, float, t)[0])
    for t in range(5):
        first.step(b, vectors(1, float, t)[0])
    second.restore(first.state())
    for t in range(5, 10):
        second.step(b, vectors(1, float, t)[0])
    assert (a == b).all()


def test_a_training_step_allocates_nothing_the_size_of_the_network():
    network, loss = nn.MLP([32, 256, 256, 8]), nn.SquaredError()
    rng = np.random.default_rng(0)
    theta = network.init(rng, dtype=np.float32)
    X, Y = rng.standard_normal((16, 32)).astype(np.float32), rng.standard_normal((16, 8)).astype(np.float32)
    at, adam, gradient = network.linearize(theta, X), nn.Adam(network.n, dtype=np.float32), np.empty_like(theta)

    def step():
        at.update(theta, X)
        at.vjp(loss.gradient(at.output, Y), out=gradient)
        adam.step(theta, gradient)

    step()
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000  # the parameters take 300,000


def test_lbfgs_reaches_the_minimum_at_any_scale():
    D = np.logspace(0, 3, 20)
    for scale in (1e-30, 1.0, 1e30):
        result = nn.lbfgs(
            lambda x, s=scale: (s * float(D @ (x - 1) ** 2), s * 2 * D * (x - 1)), np.zeros(20), rtol=1e-8
        )
        assert np.allclose(result.x, 1.0, atol=1e-6)
        assert result.success
    assert nn.lbfgs(lambda x: (float(x @ x), 2 * x), np.ones(3, np.float32)).x.dtype == np.float32


def test_predictor_is_the_forward_pass():
    rng = np.random.default_rng(0)
    for dtype, limit in ((np.float64, 1e-13), (np.float32, 2e-6)):
        network = nn.MLP([3, 7, 5, 6, 4], ["tanh", "relu", "softplus"], output_activation="logistic")
        theta = network.init(rng, dtype=dtype)
        predict = network.predictor(theta)
        X = rng.standard_normal((20, 3)).astype(dtype)
        assert np.allclose([predict(x).copy() for x in X], network.forward(theta, X), rtol=limit, atol=limit)
        theta += 0.1  # followed in place
        assert np.allclose(predict(X[0]), network.forward(theta, X[:1])[0], rtol=limit, atol=limit)
        twin = np.zeros((5, 7), dtype)
        twin[0, :3] = X[0]
        reference.forward_one(theta, predict._sizes, predict._codes, twin)
        assert np.allclose(predict(X[0]), twin[-1, :4], rtol=limit, atol=limit)


def test_bad_input_is_named():
    adam = nn.Adam(3)
    with pytest.raises(ValueError, match=r"gradient must be a contiguous float64 array of shape \(3,\)"):
        adam.step(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="theta must be a contiguous float64"):
        adam.step(np.zeros(3, np.float32), np.zeros(3))
    with pytest.raises(ValueError, match="momentum must be between"):
        nn.SGD(3, learning_rate=0.1, momentum=1.0)
    with pytest.raises(ValueError, match="state lacks mean, square"):
        adam.restore(nn.SGD(3, learning_rate=0.1).state())
    with pytest.raises(ValueError, match="tau must be from 0 to 1"):
        nn.soft_update(np.zeros(2), np.zeros(2), 2.0)
