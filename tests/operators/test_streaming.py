"""Streamed products are those of the whole batch, and notice data that change."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt import nn
from cgopt.operators import Fisher, GaussNewton, Hessian, Streamed, streamed_gradient
from tests.nn.cases import SAMPLES, Case, relative


def batches_of(case, cuts, weighted=False):
    edges = [0, *sorted(set(cuts)), SAMPLES]
    arrays = (case.X, case.Y, case.weights) if weighted else (case.X, case.Y)
    return [tuple(a[i:j] for a in arrays) for i, j in pairwise(edges)]


@given(st.lists(st.integers(1, SAMPLES - 1), max_size=4), st.booleans(), st.sampled_from([GaussNewton, Hessian]))
def test_any_cut_gives_the_whole(cuts, weighted, operator):
    case = Case("tanh", "softmax")
    weights = case.weights if weighted else None
    batches = batches_of(case, cuts, weighted)
    whole = operator(case.at, case.loss, case.Y, weights=weights)
    A = Streamed(case.network, case.theta, case.loss, batches, operator=operator)
    V = np.random.default_rng(0).standard_normal((case.network.n, 3))
    assert A.samples == SAMPLES
    assert relative(A @ V, whole @ V) < 1e-12
    assert relative(A @ V[:, 0], whole @ V[:, 0]) < 1e-12
    value, gradient = streamed_gradient(case.network, case.theta, case.loss, (b for b in batches))
    expected = case.network.loss_and_gradient(case.theta, case.X, case.loss, case.Y, weights)
    assert value == pytest.approx(expected[0], rel=1e-13)
    assert relative(gradient, expected[1]) < 1e-12


def test_fisher_and_diagonal_over_batches():
    case = Case("tanh", "softmax")
    A = Streamed(
        case.network,
        case.theta,
        case.loss,
        batches_of(case, [3]),
        operator=lambda at, loss, Y, weights: Fisher(at, loss, weights=weights),
    )
    assert relative(A.diagonal(), Fisher(case.at, case.loss).diagonal()) < 1e-12


def test_a_function_makes_the_batches_anew():
    case = Case("tanh", "softmax")
    batches = batches_of(case, [2, 5])
    A = Streamed(case.network, case.theta, case.loss, lambda: iter(batches))
    v = np.ones(case.network.n)
    assert (A @ v == A @ v).all()
    assert "7 samples in 3 batches" in repr(A)


def test_changed_data_are_noticed():
    case = Case("tanh", "softmax")
    batches = batches_of(case, [2, 5])
    order = list(batches)
    A = Streamed(case.network, case.theta, case.loss, order)
    v = np.ones(case.network.n)
    order[:] = batches[::-1]
    with pytest.raises(ValueError, match="batches changed: number 1"):
        A @ v
    order[:] = batches[:2]
    with pytest.raises(ValueError, match="batches changed: 2 came"):
        A @ v
    order[:] = batches
    assert np.isfinite(A @ v).all()


def test_bad_input_is_named():
    network, theta, loss = nn.MLP([2, 1]), np.zeros(3), nn.SquaredError()
    with pytest.raises(TypeError, match="batches is a generator"):
        Streamed(network, theta, loss, (b for b in []))
    with pytest.raises(ValueError, match="batches holds no batch"):
        Streamed(network, theta, loss, [])
    with pytest.raises(TypeError, match="batches must yield"):
        Streamed(network, theta, loss, [np.ones((2, 2))])
