"""Sequences for recurrent networks: answers that follow from the inputs, published lengths and shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt.gallery import addition, five_bit_memory, multiplication, temporal_order

lengths, seeds = st.integers(10, 120), st.integers(0, 1000)


@pytest.mark.parametrize(("make", "answer"), [(addition, lambda a, b: (a + b) / 2), (multiplication, np.multiply)])
@given(T=lengths, seed=seeds)
def test_marked_numbers(make, answer, T, seed):
    batch = make(T, 20, seed)
    values, marks = batch.X[..., 0], batch.X[..., 1]
    ends = np.argmax(batch.judged, axis=1)
    assert ((ends + 1 >= T) & (ends + 1 <= max(T, 1.1 * T))).all()
    for x, mark, y, end in zip(values, marks, batch.Y[..., 0], ends, strict=True):
        first, second = np.flatnonzero(mark == 1)
        assert first < 0.1 * T <= second + 1
        assert second < 0.5 * T
        assert y[end] == pytest.approx(answer(x[first], x[second]), rel=1e-6)
        assert mark[end - 2] == -1
        assert not x[end + 1 :].any()
        assert ((x >= 0) & (x <= 1)).all()
    np.testing.assert_array_equal(batch.weights, batch.judged)
    assert not batch.errors(batch.Y).any()
    assert batch.errors(batch.Y + 0.05).tolist() == [1] * 20


@given(T=lengths, seed=seeds)
def test_temporal_order(T, seed):
    batch = temporal_order(T, 20, seed)
    symbols = batch.X.argmax(axis=2)
    for s, y in zip(symbols, batch.Y[:, -1], strict=True):
        first, second = np.flatnonzero(s < 2)
        assert first < 0.1 * T
        assert 0.4 * T - 1 < second < 0.5 * T
        assert y == 2 * s[first] + s[second]
    right = np.eye(4)[batch.Y]
    assert not batch.errors(right).any()
    assert batch.errors(-right).all()


def test_five_bit_memory():
    batch = five_bit_memory(30)
    assert batch.X.shape == (32, 40, 4)
    symbols = batch.X.argmax(axis=2)
    np.testing.assert_array_equal(symbols[:, :5], batch.Y[:, -5:])
    assert len(np.unique(symbols[:, :5], axis=0)) == 32
    assert (symbols[:, 34] == 3).all()
    assert (np.delete(symbols, [0, 1, 2, 3, 4, 34], axis=1) == 2).all()
    # a network that cannot remember gets half the bits right (2.5 wrong: the first column of Sutskever et al. 2013)
    guess = np.zeros((32, 40, 3))
    guess[..., 0] = 1.0
    assert batch.errors(guess).mean() == 2.5


def test_constant_answers_are_as_wrong_as_published():
    # Sutskever et al. 2013, table 5: biases alone miss by more than 0.04 in a share of 0.82 of the additions
    batch = addition(80, 20_000, 0)
    assert batch.errors(np.full(batch.Y.shape, 0.5)).mean() == pytest.approx(0.82, abs=0.04)


def test_same_seed_same_sequences():
    for make in (addition, multiplication, temporal_order):
        one, two, three = make(30, 5, 1), make(30, 5, 1), make(30, 5, 2)
        np.testing.assert_array_equal(one.X, two.X)
        np.testing.assert_array_equal(one.Y, two.Y)
        assert one.X.shape != three.X.shape or (one.X != three.X).any()
    with pytest.raises(ValueError, match="T must be at least 10"):
        addition(5, 3)
