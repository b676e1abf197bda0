"""Deflation and recycling: the theorems on the spectrum, and sequences that get cheaper."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import cgopt
from cgopt import gallery
from cgopt.preconditioners import Deflation, Jacobi, Multigrid, Recycling
from cgopt.testing import spd_matrices


def spectrum(M, A):
    """Eigenvalues of M A."""
    W = M @ np.eye(A.shape[0], dtype=A.dtype)
    return scipy.linalg.eigh(A, scipy.linalg.inv((W + W.conj().T) / 2), eigvals_only=True)


# --- deflation ----------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    spd_matrices(n=st.integers(3, 10), dtype=st.sampled_from([np.float64, np.complex128]), condition=1e3),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_symmetric_positive_definite_and_never_a_wider_spectrum(A, k, seed):
    # J. M. Tang et al. 2009, theorem 3.1 (one for each vector); R. Nabben and C. Vuik 2004 (the interval)
    n = A.shape[0]
    W = np.random.default_rng(seed).standard_normal((n, k))
    M = Deflation(A, W)
    applied = M @ np.eye(n, dtype=A.dtype)
    np.testing.assert_allclose(applied, applied.conj().T, rtol=0, atol=1e-11 * np.abs(applied).max())
    plain, deflated = spectrum(Jacobi(A), A), spectrum(M, A)
    assert deflated[0] > 0.0
    ones = np.argsort(np.abs(deflated - 1.0))[:k]
    np.testing.assert_allclose(deflated[ones], 1.0, rtol=1e-8)
    others = np.delete(deflated, ones)
    assert np.all(others >= plain[0] * (1 - 1e-8))
    assert np.all(others <= plain[-1] * (1 + 1e-8))


def test_deflated_eigenvectors_leave_the_other_eigenvalues():
    A = gallery.prescribed_spectrum(np.linspace(1.0, 2.0, 12) ** 8, rng=1)
    values, vectors = scipy.linalg.eigh(A)
    M = Deflation(A, vectors[:, :3], M=np.eye(12))
    np.testing.assert_allclose(spectrum(M, A), np.sort(np.r_[1.0, 1.0, 1.0, values[3:]]), rtol=1e-8)


def test_solves_exactly_on_the_subspace():
    A = gallery.poisson((15, 15))
    W = np.random.default_rng(0).standard_normal((225, 4))
    M = Deflation(A, W)
    np.testing.assert_allclose(M @ (A @ W), W, atol=1e-9)  # M A is the identity there
    np.testing.assert_allclose(M.W.T @ (A @ M.W), np.eye(4), atol=1e-12)
    b = A @ (W @ np.ones(4))
    np.testing.assert_allclose(M.guess(b), W @ np.ones(4), atol=1e-10)


def test_guess_has_the_least_error_of_its_space():
    A = gallery.poisson((15, 15))
    rng = np.random.default_rng(0)
    M = Deflation(A, rng.standard_normal((225, 4)))
    x, start = rng.standard_normal(225), rng.standard_normal(225)
    error = x - M.guess(A @ x, start)
    assert np.abs(M.W.T @ (A @ error)).max() <= 1e-10


def test_dependent_columns_are_dropped():
    A = gallery.poisson((10, 10))
    w = np.random.default_rng(0).standard_normal((100, 2))
    M = Deflation(A, np.column_stack([w, w[:, 0] - w[:, 1], np.zeros(100), 1e-30 * w[:, 1]]))
    assert M.W.shape == (100, 2)
    r = np.ones(100)
    np.testing.assert_allclose(M @ r, Deflation(A, w) @ r, atol=1e-10)


def test_cures_a_few_small_eigenvalues_that_jacobi_does_not_see():
    # two stiff pieces held together by a soft spring: one mode per piece, nearly rigid
    blocks = sp.block_diag([gallery.poisson((12, 12))] * 2).tolil()
    blocks[0, 0] += 1.0
    n = blocks.shape[0]
    pieces = np.repeat(np.eye(2), n // 2, axis=0)
    K = blocks.tocsr() - sp.diags_array(np.asarray(blocks.tocsr() @ np.ones(n)) * (1 - 1e-6))
    b = np.random.default_rng(0).standard_normal(n)
    plain = cgopt.cg(K, b, M="jacobi", rtol=1e-8).iterations
    deflated = cgopt.cg(K, b, M=Deflation(K, pieces), rtol=1e-8).iterations
    assert deflated < 0.8 * plain


@pytest.mark.parametrize("factor", [1e-250, 1e-30, 1e30, 1e250])
def test_scale_does_not_matter(factor):
    A = gallery.poisson((20, 20))
    W = np.random.default_rng(0).standard_normal((400, 3))
    b = np.random.default_rng(1).standard_normal(400)
    scaled, plain = (cgopt.cg(f * A, b, M=Deflation(f * A, W), rtol=1e-8) for f in (factor, 1.0))
    assert scaled.converged
    assert scaled.iterations == plain.iterations


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_types(dtype):
    A = gallery.poisson((12, 12)).astype(dtype)
    M = Deflation(A, np.eye(144)[:, :3])
    b = np.ones(144, dtype)
    z = M @ b
    assert z.dtype == M.dtype == dtype
    np.testing.assert_allclose(z, Deflation(gallery.poisson((12, 12)), np.eye(144)[:, :3]) @ np.ones(144), rtol=1e-4)
    np.testing.assert_allclose(M @ np.stack([b, b], axis=1), np.stack([z, z], axis=1), rtol=1e-4)


def test_works_on_functions_on_multigrid_and_in_scipy():
    A = gallery.poisson((20, 20))
    W = scipy.sparse.linalg.eigsh(A, 3, sigma=0.0, v0=np.ones(400))[1]
    b = np.random.default_rng(0).standard_normal(400)
    operator = cgopt.operators.as_operator(lambda v: A @ v, n=400)
    plain = cgopt.cg(A, b, rtol=1e-8).iterations
    assert cgopt.cg(operator, b, M=Deflation(operator, W), rtol=1e-8).iterations < plain
    assert cgopt.cg(A, b, M=Deflation(A, W, M=Multigrid(A)), rtol=1e-8).iterations <= 12
    x, info = scipy.sparse.linalg.cg(A, b, rtol=1e-8, M=Deflation(A, W).to_scipy())
    assert info == 0


def test_tells_what_it_is():
    M = Deflation(gallery.poisson((12, 12)), np.eye(144)[:, :3])
    assert "3 vectors" in repr(M)
    assert "Jacobi" in repr(M)
    assert M.nbytes == 2 * 144 * 3 * 8 + 144 * 8
    assert M.setup_time > 0.0


# --- recycling ----------------------------------------------------------------------------------------------


def test_sequences_get_cheaper_and_stay_right():
    A = gallery.unstructured_poisson(3000, rng=1)
    n = A.shape[0]
    M = Recycling(A, k=15)
    solver, rng, iterations = cgopt.CGSolver(A, M=M), np.random.default_rng(0), []
    for _ in range(4):
        b = rng.standard_normal(n)
        result = solver.solve(b, rtol=1e-9, callback=M.observe)
        assert result.converged
        assert np.linalg.norm(b - A @ result.x) <= 1.01e-9 * np.linalg.norm(b)
        iterations.append(result.iterations)
        M.recycle()
    assert iterations[0] == cgopt.cg(A, np.random.default_rng(0).standard_normal(n), M="jacobi", rtol=1e-9).iterations
    assert max(iterations[2:]) < 0.6 * iterations[0]


def test_ritz_values_approach_the_smallest_eigenvalues_from_above():
    A = gallery.poisson((25, 25))
    exact = np.sort(gallery.grids.poisson_eigenvalues((25, 25)).ravel())[:4] / 4.0  # of D^-1 A
    M, rng, found = Recycling(A, k=12), np.random.default_rng(0), []
    for _ in range(3):
        cgopt.cg(A, rng.standard_normal(625), M=M, rtol=1e-10, callback=M.observe)
        M.recycle()
        found.append(M.ritz_values[:4])
    assert np.all(found[-1] >= exact * (1 - 1e-10))  # Cauchy's interlacing
    assert np.all(found[-1] <= found[0] * (1 + 1e-10))  # the subspace is searched again with more
    assert found[-1][0] <= 1.03 * exact[0]  # its nearest neighbours are 2.5 times as large
    assert np.all(found[-1] <= 1.1 * exact)


def test_a_subspace_is_handed_on_to_a_similar_matrix():
    A = gallery.unstructured_poisson(2000, rng=1)
    n = A.shape[0]
    b = np.random.default_rng(0).standard_normal(n)
    M = Recycling(A, k=15)
    first = cgopt.cg(A, b, M=M, rtol=1e-8, callback=M.observe)
    M.recycle()
    similar = A + sp.diags_array(1e-3 * np.random.default_rng(2).random(n) * A.diagonal())
    second = cgopt.cg(similar, b, M=Recycling(similar, k=15, W=M.W), rtol=1e-8)
    assert second.iterations < 0.7 * first.iterations


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 40))
def test_kept_iterates_are_evenly_spaced(window, count):
    M = Recycling(np.eye(3), k=1, window=window)
    for i in range(count):
        M.observe(np.full(3, float(i)))
    kept = M._iterates[: M._kept, 0]
    stride = kept[1] - kept[0] if kept.size > 1 else 1.0
    np.testing.assert_array_equal(kept, stride * np.arange(kept.size))
    assert kept.size >= min(count, (window + 1) // 2)
    assert count - 1 - kept[-1] < stride


def test_recycling_before_anything_was_seen_does_nothing():
    A = gallery.poisson((10, 10))
    M = Recycling(A, k=3)
    r = np.ones(100)
    M.recycle()
    np.testing.assert_array_equal(M @ r, Jacobi(A) @ r)
    assert M.ritz_values.size == 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(M)) @ r, M @ r)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("W", "error", "message"),
    [
        (np.ones((3, 2)), ValueError, r"W must have shape \(16, k\)"),
        (np.zeros((16, 2)), ValueError, "W spans nothing"),
        (np.full((16, 1), np.nan), ValueError, "W holds NaN"),
        (np.ones((16, 1)) * 1j, TypeError, "W is complex"),
    ],
)
def test_bad_subspaces(W, error, message):
    with pytest.raises(error, match=message):
        Deflation(gallery.poisson((4, 4)), W)


def test_other_bad_input():
    A = gallery.poisson((4, 4))
    with pytest.raises(ValueError, match="not positive definite"):
        Deflation(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="k must be a positive whole number"):
        Recycling(A, k=0)
    with pytest.raises(ValueError, match="window must be a positive whole number"):
        Recycling(A, window=-1)
    with pytest.raises(ValueError, match="x must have shape"):
        Recycling(A).observe(np.ones((16, 2)))
    with pytest.raises(ValueError, match="b must have shape"):
        Deflation(A, np.ones(16)).guess(np.ones(3))
