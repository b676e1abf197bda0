"""Multi-layer perceptrons: outputs, Jacobians, Gauss-Newton matrices against dense derivatives in double precision."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt import nn
from cgopt.operators import GaussNewton

sys.path.insert(0, str(Path(__file__).parent))
import oracle

SIZES = (3, 5, 4, 2)
SAMPLES = 7
LOSSES = {
    "squared": nn.SquaredError(),
    "logistic": nn.LogisticCrossEntropy(),
    "softmax": nn.SoftmaxCrossEntropy(),
    "huber": nn.Huber(1.0),
}
NETWORKS = {
    "tanh": (("tanh", "tanh"), "linear"),
    "logistic": (("logistic", "logistic"), "linear"),
    "relu": (("relu", "relu"), "linear"),
    "softplus": (("softplus", "softplus"), "linear"),
    "mixed": (("logistic", "linear"), "tanh"),
}


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


class Case:
    """A network with data, and its dense derivatives."""

    def __init__(self, hidden, output, loss, seed=0, dtype=np.float64):
        rng = np.random.default_rng(seed)
        self.network = nn.MLP(SIZES, hidden, output_activation=output)
        self.names = (*hidden, output)
        self.theta = (0.5 * rng.standard_normal(self.network.n)).astype(dtype)  # units that do not saturate
        self.X = rng.standard_normal((SAMPLES, SIZES[0])).astype(dtype)
        Y = rng.random((SAMPLES, SIZES[-1]))
        self.Y = (Y / Y.sum(axis=1, keepdims=True) if loss == "softmax" else Y).astype(dtype)
        self.name, self.loss = loss, LOSSES[loss]
        self.at = self.network.linearize(self.theta, self.X)

    @property
    def wide(self):
        return self.theta.astype(float), self.X.astype(float), self.Y.astype(float)

    def outputs(self):
        theta, X, _ = self.wide
        return oracle.mlp(SIZES, self.names, theta, X)

    def jacobian(self):
        theta, X, _ = self.wide
        return oracle.derivative(lambda t: oracle.mlp(SIZES, self.names, t, X), theta)

    def dense_gradient(self, theta):
        _, X, Y = self.wide
        return (
            oracle.mlp_gradient(SIZES, self.names, theta, X, lambda z, i: oracle.loss_gradient(self.name, z, Y[i]))
            / SAMPLES
        )

    def dense_gauss_newton(self):
        G = np.zeros((self.network.n, self.network.n))
        _, _, Y = self.wide
        for J, z, y in zip(self.jacobian(), self.outputs(), Y, strict=True):
            M = oracle.derivative(lambda t, y=y: oracle.loss_gradient(self.name, t, y), z)
            G += J.T @ M @ J / SAMPLES
        return G


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_outputs_and_jacobian_products(kind, dtype, limit):
    case = Case(*NETWORKS[kind], "squared", dtype=dtype)
    J = case.jacobian()
    rng = np.random.default_rng(1)
    v, u = rng.standard_normal(case.network.n), rng.standard_normal(case.at.output.shape)
    assert relative(case.at.output, case.outputs()) < limit
    assert relative(case.network.forward(case.theta, case.X), case.outputs()) < limit
    assert relative(case.at.jvp(v), J @ v) < limit
    assert relative(case.at.vjp(u), np.einsum("nco,nc->o", J, u)) < limit
    assert case.at.output.dtype == case.at.jvp(v).dtype == case.at.vjp(u).dtype == dtype


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_gauss_newton_matrix(kind, loss):
    case = Case(*NETWORKS[kind], loss)
    G = GaussNewton(case.at, case.loss, case.Y)
    assert relative(G @ np.eye(case.network.n), case.dense_gauss_newton()) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_and_value(loss):
    case = Case(*NETWORKS["mixed"], loss)
    value, gradient = case.network.loss_and_gradient(case.theta, case.X, case.loss, case.Y)
    oracle_value = np.mean([oracle.loss_value(loss, z, y) for z, y in zip(case.outputs(), case.Y, strict=True)])
    assert value == pytest.approx(oracle_value, rel=1e-13)
    assert relative(gradient, case.dense_gradient(case.theta)) < 1e-13


@given(st.integers(1, 9), st.sampled_from(list(NETWORKS)), st.integers(0, 100))
def test_block_products_are_the_single_ones(k, kind, seed):
    case = Case(*NETWORKS[kind], "softmax", seed)
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((case.network.n, k))
    U = rng.standard_normal((SAMPLES, k, SIZES[-1]))
    G = GaussNewton(case.at, case.loss, case.Y)
    for j, v in enumerate(V.T):
        assert np.allclose(case.at.jvp(V)[:, j], case.at.jvp(v), rtol=0, atol=1e-12)
        assert np.allclose(case.at.vjp(U)[:, j], case.at.vjp(U[:, j]), rtol=0, atol=1e-12)
        assert np.allclose((G @ V)[:, j], G @ v, rtol=0, atol=1e-12)
