"""Losses: the gradients and Hessians they state are those of their values, and the Fisher matrices are expectations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt import nn
from tests.nn import oracle
from tests.nn.cases import LOSSES, relative

N, C = 6, 4
MATCHING = ["squared", "logistic", "softmax"]


def data(loss, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    Z, Y = rng.standard_normal((N, C)), rng.random((N, C))
    return Z.astype(dtype), (Y / Y.sum(1, keepdims=True) if loss == "softmax" else Y).astype(dtype), rng.random(N)


def dense(M, shape):
    """M's block for each sample, (samples, outputs, outputs), from products with unit vectors."""
    k = shape[-1]
    U = np.zeros((*shape[:-1], k, k))
    U[...] = np.eye(k)
    M.multiply(U)
    return U


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_are_those_of_the_value(loss, weighted):
    Z, Y, weights = data(loss)
    factor = weights / N if weighted else np.full(N, 1.0 / N)
    given_weights = weights if weighted else None
    values = [oracle.loss_value(loss, z, y) for z, y in zip(Z, Y, strict=True)]
    gradients = np.array([oracle.loss_gradient(loss, z, y) for z, y in zip(Z, Y, strict=True)])
    hessians = [
        oracle.derivative(lambda t, y=y: oracle.loss_gradient(loss, t, y), z) for z, y in zip(Z, Y, strict=True)
    ]
    assert LOSSES[loss].value(Z, Y, given_weights) == pytest.approx(factor @ values, rel=1e-13)
    assert relative(LOSSES[loss].gradient(Z, Y, given_weights), factor[:, None] * gradients) < 1e-13
    M = LOSSES[loss].output_hessian(Z, Y, given_weights)
    expected = factor[:, None, None] * np.array(hessians)
    assert relative(dense(M, Z.shape), expected) < 1e-13
    outer = sum(g[:, :, None] * g[:, None, :] for g in M.factor())
    assert relative(outer, expected) < 1e-13


@pytest.mark.parametrize("loss", MATCHING)
def test_fisher_matrix_is_the_expected_outer_product_of_gradients(loss):
    # 4000 draws for each sample: the mean of outer products is within a few percent of its expectation.
    Z, _, _ = data(loss)
    rng = np.random.default_rng(0)
    draws = [LOSSES[loss].sample(Z, rng) for _ in range(4000)]
    drawn = dense(LOSSES[loss].empirical_fisher(Z, draws), Z.shape)
    assert relative(drawn, dense(LOSSES[loss].output_fisher(Z), Z.shape)) < 0.08


def test_labels_are_one_hot_probabilities():
    Z, _, weights = data("softmax")
    labels = np.array([0, 3, 1, 1, 2, 0])
    loss, hot = nn.SoftmaxCrossEntropy(), np.eye(C)[labels]
    assert loss.value(Z, labels, weights) == pytest.approx(loss.value(Z, hot, weights), rel=1e-14)
    assert np.allclose(loss.gradient(Z, labels, weights), loss.gradient(Z, hot, weights), rtol=0, atol=1e-16)


@given(st.floats(-1e30, 1e30), st.sampled_from(MATCHING), st.sampled_from([np.float32, np.float64]))
def test_no_logit_is_too_large(size, loss, dtype):
    Z = np.array([[size, 0.0], [0.0, size]], dtype)
    Y = np.array([[1.0, 0.0], [1.0, 0.0]], dtype)
    with np.errstate(over="ignore"):  # a squared error of 1e60 is infinite in single precision, as it should be
        value = LOSSES[loss].value(Z, Y)
    assert value >= 0.0
    assert np.isfinite(LOSSES[loss].gradient(Z, Y)).all()
    assert np.isfinite(dense(LOSSES[loss].output_hessian(Z, Y), Z.shape)).all()


def test_losses_over_steps_are_sums_over_steps():
    rng = np.random.default_rng(1)
    Z, Y = rng.standard_normal((N, 5, C)), rng.random((N, 5, C))
    weights = rng.random((N, 5))
    loss = nn.LogisticCrossEntropy()
    by_step = [loss.value(Z[:, t], Y[:, t], weights[:, t]) for t in range(5)]
    assert loss.value(Z, Y, weights) == pytest.approx(sum(by_step), rel=1e-13)
    assert np.allclose(loss.gradient(Z, Y, weights)[:, 2], loss.gradient(Z[:, 2], Y[:, 2], weights[:, 2]), atol=1e-16)


Z0 = np.zeros((2, 3))
BAD = {
    "Y shape": (
        lambda: nn.SquaredError().value(Z0, np.zeros(2)),
        ValueError,
        r"Y must have the outputs' shape \(2, 3\)",
    ),
    "Y NaN": (lambda: nn.SquaredError().value(Z0, Z0 * np.nan), ValueError, "Y holds NaN"),
    "Y range": (lambda: nn.LogisticCrossEntropy().value(Z0, Z0 + 2), ValueError, r"Y must lie in \[0, 1\]"),
    "Y sum": (lambda: nn.SoftmaxCrossEntropy().value(Z0, Z0), ValueError, "add up to one, or labels"),
    "labels": (lambda: nn.SoftmaxCrossEntropy().value(Z0, [0, 3]), ValueError, "labels from 0 to 2"),
    "labels shape": (lambda: nn.SoftmaxCrossEntropy().value(Z0, [[0, 1]]), ValueError, r"labels of shape \(2,\)"),
    "weights": (lambda: nn.SquaredError().value(Z0, Z0, [1.0]), ValueError, r"weights must have shape \(2,\)"),
    "weights sign": (lambda: nn.SquaredError().empirical_fisher(Z0, [Z0], [-1.0, 1.0]), ValueError, "not be negative"),
    "delta": (lambda: nn.Huber(0.0), ValueError, "delta must be between"),
    "Huber Fisher": (lambda: nn.Huber().output_fisher(Z0), TypeError, "no Fisher matrix; use GaussNewton"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what):
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call()
