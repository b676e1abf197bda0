"""The same functions in torch, jax and autograd: values, gradients and products agree with each other and with ours."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

import cgopt
from cgopt import nn
from cgopt.operators import GaussNewton, Hessian, from_autograd, from_jax, from_torch
from cgopt.testing import check_operator
from tests.nn.cases import relative

SIZES, SAMPLES = (4, 6, 3), 9
NEEDED = "the adapter for {} needs it, and it is not installed"


class Ours:
    """The network with its softmax loss, by `cgopt.nn`."""

    def __init__(self, dtype=np.float64):
        rng = np.random.default_rng(0)
        self.network, self.loss = nn.MLP(SIZES), nn.SoftmaxCrossEntropy()
        self.theta = self.network.init(rng, dtype=dtype)
        self.X = rng.standard_normal((SAMPLES, SIZES[0])).astype(dtype)
        self.labels = rng.integers(0, SIZES[-1], SAMPLES)
        at = self.network.linearize(self.theta, self.X)
        identity = np.eye(self.network.n, dtype=dtype)
        self.value, self.gradient = self.network.loss_and_gradient(self.theta, self.X, self.loss, self.labels)
        self.G = GaussNewton(at, self.loss, self.labels) @ identity
        self.H = Hessian(at, self.loss, self.labels) @ identity

    def outputs(self, xp, theta):
        """The same outputs written for another array library."""
        h, at = self.X, 0
        for layer, (i, o) in enumerate(pairwise(SIZES)):
            W = xp.reshape(theta[at : at + i * o], (i, o))
            h = xp.dot(h, W) + theta[at + i * o : at + (i + 1) * o]
            h = xp.tanh(h) if layer == 0 else h
            at += (i + 1) * o
        return h

    def loss_of(self, xp, Z):
        chosen = xp.sum(Z * np.eye(SIZES[-1], dtype=self.X.dtype)[self.labels], axis=1)
        return xp.sum(xp.log(xp.sum(xp.exp(Z), axis=1)) - chosen) / SAMPLES


def agree(function, ours, limit):
    value, gradient = function.value_and_gradient(ours.theta)
    assert value == pytest.approx(ours.value, rel=limit)
    assert function.value(ours.theta) == pytest.approx(ours.value, rel=limit)
    assert relative(gradient, ours.gradient) < limit
    identity = np.eye(function.n, dtype=function.dtype)
    assert relative(function.hessian(ours.theta) @ identity, ours.H) < limit
    assert relative(function.gauss_newton(ours.theta) @ identity, ours.G) < limit
    assert relative(function.hessp(ours.theta, identity[0]), ours.H[0]) < 10 * limit
    assert function.dtype == ours.theta.dtype
    assert check_operator(function.gauss_newton(ours.theta), definite=False).ok
    with pytest.raises(ValueError, match="x must have shape"):
        function.gradient(ours.theta[1:])


def test_autograd():
    anp = pytest.importorskip("autograd.numpy", reason=NEEDED.format("autograd"))
    ours = Ours()
    function = from_autograd(lambda Z: ours.loss_of(anp, Z), ours.theta, outputs=lambda theta: ours.outputs(anp, theta))
    agree(function, ours, 1e-10)
    with pytest.raises(TypeError, match="pass outputs"):
        from_autograd(lambda x: anp.sum(x**2), np.ones(2)).gauss_newton(np.ones(2))


@pytest.mark.filterwarnings("ignore")  # jax warns of its own use of deprecated NumPy on import in some versions
def test_jax():
    pytest.importorskip("jax", reason=NEEDED.format("jax"))
    import jax.numpy as jnp

    ours = Ours(np.float32)
    function = from_jax(lambda Z: ours.loss_of(jnp, Z), ours.theta, outputs=lambda theta: ours.outputs(jnp, theta))
    agree(function, ours, 1e-5)
    with pytest.raises(TypeError, match="pass outputs"):
        from_jax(lambda x: jnp.sum(x**2), np.ones(2)).gauss_newton(np.ones(2))


@pytest.mark.filterwarnings("ignore")  # torch warns of its own deprecated parts on import in some versions
@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_torch(dtype, limit):
    torch = pytest.importorskip("torch", reason=NEEDED.format("torch"))
    ours = Ours(dtype)
    views = ours.network.views(ours.theta)
    layers = [torch.nn.Linear(i, o, dtype=torch.from_numpy(ours.X).dtype) for i, o in ((4, 6), (6, 3))]
    module = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])
    with torch.no_grad():
        for layer, number in ((layers[0], 0), (layers[1], 1)):
            layer.weight.copy_(torch.from_numpy(views[f"W{number}"].T.copy()))
            layer.bias.copy_(torch.from_numpy(views[f"b{number}"].copy()))
    function = from_torch(
        module, torch.nn.functional.cross_entropy, torch.from_numpy(ours.X), torch.from_numpy(ours.labels)
    )
    # torch keeps weights by rows of outputs: the same numbers in another order.
    order = np.empty(function.n, np.intp)
    places, at = ours.network.views(np.arange(function.n)), 0
    for number in (0, 1):
        for place in (places[f"W{number}"].T, places[f"b{number}"]):
            order[at : at + place.size] = place.ravel()
            at += place.size
    assert (function.x == ours.theta[order]).all()
    ours.theta, ours.gradient = ours.theta[order], ours.gradient[order]
    ours.G, ours.H = ours.G[np.ix_(order, order)], ours.H[np.ix_(order, order)]
    agree(function, ours, limit)
    with pytest.raises(TypeError, match="parameters of one type"):
        from_torch(torch.nn.Tanh(), torch.nn.functional.mse_loss, None, None)


def test_records_follow_loops_and_branches_that_depend_on_values():
    anp = pytest.importorskip("autograd.numpy", reason=NEEDED.format("autograd"))

    def power_until_large(x):
        y, count = x[0], 0
        while y < 10.0:  # how often depends on the value
            y, count = y * x[0], count + 1
        return y + anp.sin(x[1])

    f = from_autograd(power_until_large, np.array([2.0, 1.0]))
    assert f.value(f.x) == pytest.approx(16.0 + np.sin(1.0))  # 2^4
    assert np.allclose(f.hessian(f.x) @ np.eye(2), [[12.0 * 4.0, 0.0], [0.0, -np.sin(1.0)]])
    assert f.gradient(np.array([4.0, 0.0]))[0] == pytest.approx(8.0)  # 4^2


def test_nothing_is_imported_before_it_is_used():
    import subprocess

    code = "import sys, cgopt.operators; assert not {'torch', 'jax', 'autograd', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "autograd", None)
    with pytest.raises(ModuleNotFoundError, match="pip install autograd"):
        from_autograd(lambda x: x, np.ones(2))


def test_products_solve_a_newton_system():
    anp = pytest.importorskip("autograd.numpy", reason=NEEDED.format("autograd"))
    f = from_autograd(lambda x: anp.sum(anp.cosh(x) * anp.arange(1.0, 4.0)), np.array([0.3, -0.2, 0.1]))
    x = f.x
    for _ in range(6):
        x = x - cgopt.cg(f.hessian(x), f.gradient(x)).x
    assert np.linalg.norm(x) < 1e-12
