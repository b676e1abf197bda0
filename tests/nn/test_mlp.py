"""Multi-layer perceptrons: outputs, Jacobians and gradients against dense derivatives in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from cgopt import nn
from tests.nn import oracle
from tests.nn.cases import LOSSES, NETWORKS, SAMPLES, SIZES, Case, relative


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_outputs_and_jacobian_products(kind, dtype, limit):
    case = Case(kind, "squared", dtype=dtype)
    J = case.jacobian()
    rng = np.random.default_rng(1)
    v, u = rng.standard_normal(case.network.n), rng.standard_normal(case.at.output.shape)
    assert relative(case.at.output, case.outputs()) < limit
    assert relative(case.network.forward(case.theta, case.X), case.outputs()) < limit
    assert relative(case.at.jvp(v), J @ v) < limit
    assert relative(case.at.vjp(u), np.einsum("nco,nc->o", J, u)) < limit
    assert relative(case.network.gradient(case.theta, case.X, u), np.einsum("nco,nc->o", J, u)) < limit
    assert case.at.output.dtype == case.at.jvp(v).dtype == case.at.vjp(u).dtype == dtype


@pytest.mark.parametrize("kind", NETWORKS)
def test_squares_of_per_sample_gradients(kind):
    case = Case(kind, "squared")
    u = np.random.default_rng(2).standard_normal(case.at.output.shape)
    per_sample = np.einsum("nco,nc->no", case.jacobian(), u)
    assert relative(case.at.squared_vjp(u), np.sum(per_sample**2, axis=0)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_and_value(loss):
    case = Case("mixed", loss)
    value, gradient = case.network.loss_and_gradient(case.theta, case.X, case.loss, case.Y)
    expected = np.mean([oracle.loss_value(loss, z, y) for z, y in zip(case.outputs(), case.Y, strict=True)])
    assert value == pytest.approx(expected, rel=1e-13)
    assert relative(gradient, case.gradient(case.theta)) < 1e-12


def test_update_is_a_new_linearization():
    case = Case("tanh", "squared")
    rng = np.random.default_rng(3)
    theta, X = case.network.init(rng), rng.standard_normal((SAMPLES, SIZES[0]))
    v = rng.standard_normal(case.network.n)
    fresh = case.network.linearize(theta, X)
    again = case.at.update(theta, X)
    assert again is case.at
    assert (again.output == fresh.output).all()
    assert (again.jvp(v) == fresh.jvp(v)).all()
    assert (again.vjp(fresh.output) == fresh.vjp(fresh.output)).all()


def test_views_are_of_the_vector_itself():
    network = nn.MLP([2, 3, 1])
    theta = np.zeros(network.n)
    views = network.views(theta)
    assert list(views) == ["W0", "b0", "W1", "b1"]
    assert sum(view.size for view in views.values()) == network.n
    views["W0"][1, 2], views["b1"][0] = 5.0, 7.0
    # y = W1' tanh(W0' x + b0) + b1, and W1 is zero
    assert network.forward(theta, np.ones((1, 2))) == 7.0
    assert set(theta) == {0.0, 5.0, 7.0}


BAD = {
    "sizes": (lambda n, t: nn.MLP([3]), ValueError, "sizes must name inputs and outputs"),
    "sizes of halves": (lambda n, t: nn.MLP([3, 2.5]), TypeError, r"sizes\[1\] must be a whole number"),
    "activation": (lambda n, t: nn.MLP([3, 2, 1], "tanhh"), ValueError, "activation must be one of.*Nearest: tanh"),
    "activations": (lambda n, t: nn.MLP([3, 2, 1], ["tanh", "relu"]), ValueError, "each of the 1 hidden"),
    "theta shape": (lambda n, t: n.forward(t[1:], np.ones((2, 3))), ValueError, r"theta must have shape \(56,\)"),
    "theta NaN": (lambda n, t: n.linearize(t * np.nan, np.ones((2, 3))), ValueError, "theta holds NaN"),
    "theta complex": (lambda n, t: n.linearize(t + 1j, np.ones((2, 3))), TypeError, "theta must be real"),
    "theta half": (lambda n, t: n.linearize(t.astype("f2"), np.ones((2, 3))), TypeError, "theta has dtype float16"),
    "X shape": (lambda n, t: n.linearize(t, np.ones((2, 4))), ValueError, r"X must have shape \(samples, 3\)"),
    "X empty": (lambda n, t: n.linearize(t, np.ones((0, 3))), ValueError, "at least one sample"),
    "X inf": (lambda n, t: n.linearize(t, np.array([[1, np.inf, 2]])), ValueError, r"X holds NaN.*\(0, 1\)"),
    "v shape": (lambda n, t: n.linearize(t, np.ones((2, 3))).jvp(t[1:]), ValueError, "v must have shape"),
    "u shape": (lambda n, t: n.linearize(t, np.ones((2, 3))).vjp(np.ones(3)), ValueError, "u must have the outputs'"),
    "X update": (
        lambda n, t: n.linearize(t, np.ones((2, 3))).update(t, np.ones((1, 3))),
        ValueError,
        "X must have shape",
    ),
    "out": (
        lambda n, t: n.linearize(t, np.ones((2, 3))).vjp(np.ones((2, 2)), out=t[::-1]),
        ValueError,
        "out must be a",
    ),
    "observation": (lambda n, t: n.predictor(t)(1.0), ValueError, r"observation must have shape \(3,\)"),
    "views": (lambda n, t: n.views(t[1:]), ValueError, "theta must be an array of shape"),
    "scheme": (lambda n, t: n.init(0, scheme="orthogonall"), ValueError, "scheme must be one of.*Nearest: orthogonal"),
    "scheme option": (lambda n, t: n.init(0, scheme="sparse", conections=3), ValueError, "Nearest: connections"),
    "init dtype": (lambda n, t: n.init(0, dtype="float16"), ValueError, "dtype must be one of float32, float64"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what):
    call, error, message = BAD[what]
    network = nn.MLP([3, 8, 2, 2])
    theta = network.init(0)
    with pytest.raises(error, match=message):
        call(network, theta)


def test_inputs_are_not_modified_and_bits_repeat():
    case = Case("logistic", "softmax")
    rng = np.random.default_rng(4)
    v, u = rng.standard_normal(case.network.n), rng.standard_normal(case.at.output.shape)
    before = [a.copy() for a in (case.theta, case.X, case.Y, v, u)]
    first = case.at.jvp(v), case.at.vjp(u), case.network.loss_and_gradient(case.theta, case.X, case.loss, case.Y)[1]
    second = case.at.jvp(v), case.at.vjp(u), case.network.loss_and_gradient(case.theta, case.X, case.loss, case.Y)[1]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert all((a == b).all() for a, b in zip(before, (case.theta, case.X, case.Y, v, u), strict=True))


class TestInitialization:
    """Each scheme has the property that it is named for."""

    network = nn.MLP([40, 60, 30])

    def test_scaled_has_the_variance(self):
        W = self.network.views(self.network.init(0, gain=2.0))["W0"]
        assert W.var() == pytest.approx(4.0 * 2.0 / 100.0, rel=0.1)

    def test_sparse_has_so_many_incoming(self):
        views = self.network.views(self.network.init(0, scheme="sparse", connections=7, bias_value=0.5))
        assert (np.count_nonzero(views["W0"], axis=0) == 7).all()
        assert (views["b0"] == 0.5).all()

    def test_orthogonal_is_so(self):
        views = self.network.views(self.network.init(0, scheme="orthogonal"))
        assert np.allclose(views["W0"] @ views["W0"].T, np.eye(40), atol=1e-13)
        assert np.allclose(views["W1"].T @ views["W1"], np.eye(30), atol=1e-13)

    @pytest.mark.parametrize("scheme", ["scaled", "sparse", "orthogonal", "zero"])
    def test_same_seed_same_bits(self, scheme):
        assert (self.network.init(5, scheme=scheme) == self.network.init(5, scheme=scheme)).all()
        assert self.network.init(5, scheme=scheme, dtype=np.float32).dtype == np.float32
