"""Spectrum tools against matrices whose eigenvalues are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt.operators import (
    diagonal_estimate,
    effective_dimension,
    spectral_density,
    top_eigenvalues,
    trace,
)
from cgopt.testing import spd_matrices

n = 120
DECAY = 1.0 / np.arange(1.0, n + 1.0) ** 2


def with_spectrum(eigenvalues, seed=0):
    return cgopt.gallery.prescribed_spectrum(eigenvalues, rng=seed)


@given(st.integers(1, 5), st.floats(-12, 12), st.sampled_from([np.float32, np.float64]))
def test_top_eigenvalues(k, exponent, dtype):
    eigenvalues = 10.0**exponent * DECAY
    A = with_spectrum(eigenvalues).astype(dtype)
    values, vectors = top_eigenvalues(A, k)
    assert values.dtype == vectors.dtype == dtype
    assert np.allclose(values, eigenvalues[:k], rtol=1e-4, atol=0)
    assert np.linalg.norm(A @ vectors - values * vectors, axis=0).max() <= 1e-3 * values[0]


@given(spd_matrices())
def test_all_eigenvalues_of_small_matrices(A):
    expected = np.linalg.eigvalsh(A)[::-1]
    assert np.allclose(top_eigenvalues(A, len(A))[0], expected, rtol=1e-9)
    assert trace(A, products=len(A)).value == pytest.approx(expected.sum(), rel=1e-12)
    assert np.allclose(diagonal_estimate(A, products=len(A)), np.diag(A), rtol=1e-12)


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_trace_is_unbiased_and_its_error_as_stated(method):
    A = with_spectrum(DECAY)
    estimates = [trace(A, products=30, method=method, rng=seed) for seed in range(200)]
    values = np.array([e.value for e in estimates])
    assert abs(values.mean() - DECAY.sum()) < 4.0 * values.std() / np.sqrt(200)
    # The stated standard errors are those of the scatter, on the whole.
    stated = np.sqrt(np.mean(np.square([e.standard_error for e in estimates])))
    assert stated == pytest.approx(values.std(), rel=0.3)


def test_hutch_plus_plus_is_the_better_where_eigenvalues_decay():
    A = with_spectrum(DECAY)
    scatter = {
        method: np.std([trace(A, products=30, method=method, rng=seed).value for seed in range(100)])
        for method in ("hutch++", "hutchinson")
    }
    assert scatter["hutch++"] < 0.3 * scatter["hutchinson"]


def test_diagonal_is_unbiased():
    A = with_spectrum(DECAY)
    mean = np.mean([diagonal_estimate(A, products=20, rng=seed) for seed in range(300)], axis=0)
    beside = np.sqrt(np.sum((A - np.diag(np.diag(A))) ** 2, axis=1))
    assert (np.abs(mean - np.diag(A)) < 5.0 * beside / np.sqrt(20 * 300)).all()


def test_density_has_the_moments_of_the_spectrum():
    eigenvalues = np.concatenate([np.full(60, 1.0), np.full(40, 2.0), np.full(20, 10.0)])
    density = spectral_density(with_spectrum(eigenvalues), steps=10, samples=40)
    assert density.weights.sum() == pytest.approx(1.0)
    for power in range(4):
        estimate = density.trace_of(lambda x, p=power: x**p)
        assert abs(estimate.value - np.sum(eigenvalues**power)) <= 4.0 * estimate.standard_error + 1e-9
    # Three eigenvalues: three peaks with shares of a half, a third and a sixth.
    for value, share in ((1.0, 1 / 2), (2.0, 1 / 3), (10.0, 1 / 6)):
        x = np.linspace(value - 0.4, value + 0.4, 801)
        assert np.trapezoid(density(x, 0.05), x) == pytest.approx(share, abs=0.05)


def test_effective_dimension():
    lam = 1e-3
    exact = np.sum(DECAY / (DECAY + lam))
    estimate = effective_dimension(with_spectrum(DECAY), lam, samples=30)
    assert abs(estimate.value - exact) < 4.0 * estimate.standard_error
    assert estimate.standard_error < 0.1 * exact


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="k must be at most the order of A, 3"):
        top_eigenvalues(np.eye(3), 4)
    with pytest.raises(ValueError, match="method must be one of"):
        trace(np.eye(3), method="xtrace")
    with pytest.raises(ValueError, match="products must be at least 3"):
        trace(np.eye(30), products=2)
    with pytest.raises(TypeError, match="A must be real"):
        spectral_density(1j * np.eye(3))
    with pytest.raises(ValueError, match="lam must be between"):
        effective_dimension(np.eye(3), 0.0)
