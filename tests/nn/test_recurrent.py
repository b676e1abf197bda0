"""Recurrent networks against dense derivatives in double precision, by the complex step through a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt import nn
from cgopt.operators import Fisher, GaussNewton, Hessian
from tests.nn import oracle
from tests.nn.cases import LOSSES, relative

I, H, C = 2, 4, 3
N, T = 3, 5
ACTIVATIONS = ("tanh", "logistic", "relu", "softplus", "linear")


def unrolled(theta, X, activation):
    """All hidden states and all outputs, one sample and one step at a time."""
    sizes = [(I, H), (1, H), (H, H), (H, C), (1, C)]
    parts, at = [], 0
    for rows, units in sizes:
        parts.append(theta[at : at + rows * units].reshape(rows, units))
        at += rows * units
    W_in, b_in, W_rec, W_out, b_out = parts
    states, outputs = [], []
    for x in X:
        h = np.zeros(H, theta.dtype)
        states.append([])
        outputs.append([])
        for x_t in x:
            h, _ = oracle.f_and_derivative(activation, x_t @ W_in + b_in[0] + h @ W_rec)
            states[-1].append(h)
            outputs[-1].append(h @ W_out + b_out[0])
    return np.array(states), np.array(outputs)


class Case:
    def __init__(self, activation, outputs, loss="softmax", seed=0):
        rng = np.random.default_rng(seed)
        self.activation, self.outputs = activation, outputs
        self.network = nn.RNN(I, H, C, activation, outputs=outputs)
        self.theta = 0.5 * rng.standard_normal(self.network.n)
        self.X = rng.standard_normal((N, T, I))
        Y = rng.random((N, T, C) if outputs == "all" else (N, C))
        self.Y = Y / Y.sum(axis=-1, keepdims=True)
        self.name, self.loss = loss, LOSSES[loss]
        self.at = self.network.linearize(self.theta, self.X)

    def dense_outputs(self, theta):
        Z = unrolled(theta, self.X, self.activation)[1]
        return Z if self.outputs == "all" else Z[:, -1]

    def jacobian(self):
        return oracle.derivative(self.dense_outputs, self.theta)

    def gauss_newton(self):
        n = self.network.n
        G = np.zeros((n, n))
        J, Z, Y = (
            self.jacobian().reshape(-1, C, n),
            self.dense_outputs(self.theta).reshape(-1, C),
            self.Y.reshape(-1, C),
        )
        for j, z, y in zip(J, Z, Y, strict=True):
            M = oracle.derivative(lambda t, y=y: oracle.loss_gradient(self.name, t, y), z)
            G += j.T @ M @ j / N
        return G


@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_jacobian_and_gauss_newton(activation, outputs):
    case = Case(activation, outputs)
    J = case.jacobian()
    rng = np.random.default_rng(1)
    v, u = rng.standard_normal(case.network.n), rng.standard_normal(case.at.output.shape)
    assert relative(case.at.output, case.dense_outputs(case.theta)) < 1e-13
    assert relative(case.at.hidden.swapaxes(0, 1), unrolled(case.theta, case.X, activation)[0]) < 1e-13
    assert relative(case.at.jvp(v), J @ v) < 1e-12
    assert relative(case.at.vjp(u), np.tensordot(u, J, axes=u.ndim)) < 1e-12
    G = GaussNewton(case.at, case.loss, case.Y)
    assert relative(G @ np.eye(case.network.n), case.gauss_newton()) < 1e-10
    per_sample = np.stack([np.tensordot(u[i], J[i], axes=u.ndim - 1) for i in range(N)])
    assert relative(case.at.squared_vjp(u), np.sum(per_sample**2, axis=0)) < 1e-12


@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize("loss", ["squared", "softmax", "logistic"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hessian_is_the_derivative_of_a_checked_gradient(activation, loss, outputs):
    # The gradient is J'u, checked above. Its differences, two-sided, are right to nine digits.
    case = Case(activation, outputs, loss)
    dense = Hessian(case.at, case.loss, case.Y) @ np.eye(case.network.n)
    assert relative(dense, dense.T) < 1e-13
    step = 1e-5
    columns = []
    for e in np.eye(case.network.n):
        ahead, behind = (
            case.network.loss_and_gradient(case.theta + s * step * e, case.X, case.loss, case.Y)[1] for s in (1, -1)
        )
        columns.append((ahead - behind) / (2.0 * step))
    assert relative(dense, np.stack(columns, axis=1)) < 1e-8


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_structural_damping_is_the_matrix_of_a_distance_between_states(activation):
    case, mu = Case(activation, "last"), 0.7
    n = case.network.n
    plain = GaussNewton(case.at, case.loss, case.Y) @ np.eye(n)
    damped = GaussNewton(case.at, case.loss, case.Y, structural=mu)
    Jh = oracle.derivative(lambda t: unrolled(t, case.X, activation)[0], case.theta).reshape(-1, n)
    # Cross-entropy between units' probabilities, h or (1 + h)/2, has the Hessian 1/f'(a) in h; squared distance 1.
    h = unrolled(case.theta, case.X, activation)[0].ravel()
    matched = {"tanh": lambda h: 1.0 / (1.0 - h**2), "logistic": lambda h: 1.0 / (h * (1.0 - h))}
    S = matched.get(activation, np.ones_like)(h)
    expected = mu * Jh.T @ (S[:, None] * Jh) / N
    assert relative(damped @ np.eye(n) - plain, expected) < 1e-10
    assert relative(damped @ np.ones(n), (plain + expected) @ np.ones(n)) < 1e-10


@given(st.sampled_from(ACTIVATIONS), st.sampled_from(["all", "last"]), st.integers(1, 5), st.integers(0, 100))
def test_block_products_are_the_single_ones_and_symmetric(activation, outputs, k, seed):
    case = Case(activation, outputs, seed=seed)
    V = np.random.default_rng(seed).standard_normal((case.network.n, k))
    for A in (
        GaussNewton(case.at, case.loss, case.Y, structural=0.1),
        Fisher(case.at, case.loss, kind="empirical", Y=case.Y),
        Hessian(case.at, case.loss, case.Y),
    ):
        block = A @ V
        assert relative(block, np.stack([A @ v for v in V.T], axis=1)) < 1e-12
        assert relative(V.T @ block, (V.T @ block).T) < 1e-10


def test_empirical_fisher_takes_a_whole_sequence_as_one_sample():
    case = Case("tanh", "all")
    gradients = [
        case.network.loss_and_gradient(case.theta, x[None], case.loss, y[None])[1]
        for x, y in zip(case.X, case.Y, strict=True)
    ]
    F = Fisher(case.at, case.loss, kind="empirical", Y=case.Y)
    assert relative(F @ np.eye(case.network.n), sum(np.outer(g, g) for g in gradients) / N) < 1e-10


def test_spectral_radius():
    network = nn.RNN(2, 30, 1)
    plain, scaled = (network.init(0, scheme="sparse", spectral_radius=radius) for radius in (None, 1.1))
    W, V = network.views(scaled)["W_rec"], network.views(plain)["W_rec"]
    assert np.max(np.abs(np.linalg.eigvals(W))) == pytest.approx(1.1)
    assert relative(W / W[V != 0.0][0], V / V[V != 0.0][0]) < 1e-13  # the same up to a factor
    assert (network.views(scaled)["W_in"] == network.views(plain)["W_in"]).all()
    with pytest.raises(ValueError, match="spectral_radius cannot be reached"):
        network.init(0, scheme="zero", spectral_radius=1.0)


def test_single_precision_and_update():
    case = Case("tanh", "all")
    narrow = case.network.linearize(case.theta.astype(np.float32), case.X)
    v = np.random.default_rng(0).standard_normal(case.network.n).astype(np.float32)
    assert narrow.output.dtype == narrow.jvp(v).dtype == np.float32
    assert relative(narrow.jvp(v), case.at.jvp(v)) < 1e-5
    theta = case.network.init(3)
    assert (case.at.update(theta).output == case.network.forward(theta, case.X)).all()


def test_bad_input_is_named():
    network = nn.RNN(2, 3, 1)
    with pytest.raises(ValueError, match="outputs must be one of all, last"):
        nn.RNN(2, 3, 1, outputs="first")
    with pytest.raises(ValueError, match=r"X must have shape \(samples, steps, 2\)"):
        network.forward(network.init(0), np.ones((5, 2)))
    at = nn.MLP([2, 1]).linearize(np.zeros(3), np.ones((1, 2)))
    with pytest.raises(ValueError, match="leave structural at 0"):
        GaussNewton(at, nn.SquaredError(), np.ones((1, 1)), structural=1.0)
