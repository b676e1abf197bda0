"""Block conjugate gradients: its theorems, dependent columns, and an honest end for every column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt import Status, block_cg, gallery
from cgopt.kernels import cpu, reference
from cgopt.testing import spd_matrices, vectors

norm = np.linalg.norm


def assert_solves(A, B, result, rtol):
    assert result.info == 0, result
    residual = norm(B - A @ result.x, axis=0)
    assert (residual <= rtol * norm(B, axis=0) * (1 + 1e-6)).all()
    np.testing.assert_allclose(result.residual_norm, residual, rtol=1e-4, atol=1e-15 * norm(B))


@given(spd_matrices(n=st.integers(1, 10), condition=1e3), st.integers(1, 4), st.data())
def test_solves_whatever_the_columns(A, k, data):
    B = np.stack([data.draw(vectors(A.shape[0], nonzero=False)) for _ in range(k)], 1)
    result = block_cg(A, B, rtol=1e-9)
    assert_solves(A, B, result, 1e-9)


def test_one_column_is_conjugate_gradients():
    A = gallery.wathen(7, 7, rng=1)
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    one, single = block_cg(A, b[:, None], rtol=1e-9), cgopt.cg(A, b, rtol=1e-9)
    assert abs(one.iterations - single.iterations) <= 0.05 * single.iterations
    m = min(20, one.iterations)
    np.testing.assert_allclose(one.history[:m, 0], single.history[:m], rtol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_ends_after_n_over_k_iterations(k):
    # O'Leary 1980: the block Krylov space is everything after n / k products, if nothing is dependent
    n = 30
    A = gallery.prescribed_spectrum(np.linspace(1.0, 20.0, n), rng=0)
    B = np.random.default_rng(1).standard_normal((n, k))
    result = block_cg(A, B, rtol=1e-8)
    assert result.converged
    assert result.iterations <= -(-n // k)


def test_small_eigenvalues_cease_to_matter():
    # O'Leary 1980, theorem 5: with k columns the condition number that counts leaves the k - 1 smallest out
    n, k = 200, 6
    spectrum = np.concatenate([[1e-4, 2e-4, 4e-4, 1e-3, 2e-3], np.linspace(1.0, 10.0, n - 5)])
    A = gallery.prescribed_spectrum(spectrum, rng=3)
    B = np.random.default_rng(1).standard_normal((n, k))
    together, apart = block_cg(A, B, rtol=1e-8), cgopt.cg(A, B, rtol=1e-8)
    # the bound of Chebyshev for the remaining condition of 10, for the energy norm, and the root of kappa for residuals
    bound = np.log(2 * np.sqrt(1e5) / 1e-8) / -np.log((np.sqrt(10.0) - 1) / (np.sqrt(10.0) + 1))
    assert together.iterations <= bound + k
    assert 2 * together.iterations < apart.iterations


def test_energy_norms_are_smallest():
    # each step minimises every column's error over the block Krylov space, and so is never above plain CG's
    A = gallery.poisson((12, 12)).toarray()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((144, 4))
    for steps in (1, 3, 8):
        block = block_cg(A, A @ X, rtol=0.0, maxiter=steps)
        plain = cgopt.cg(A, A @ X, rtol=0.0, maxiter=steps)
        for j in range(4):
            e, f = X[:, j] - block.x[:, j], X[:, j] - plain.x[:, j]
            assert e @ A @ e <= f @ A @ f * (1 + 1e-10)


@pytest.mark.parametrize("M", [None, "jacobi", "function"])
@pytest.mark.parametrize("form", ["dense", "csr", "function"])
def test_any_operator_and_preconditioner(form, M):
    A = gallery.wathen(6, 6, rng=2)
    B = np.random.default_rng(0).standard_normal((A.shape[0], 5))
    D = A.diagonal()
    given_A = {"dense": A.toarray(), "csr": A, "function": lambda v: A @ v}[form]
    given_M = cgopt.preconditioners.Jacobi(A) if M == "jacobi" else (lambda r: r / D) if M else None
    result = block_cg(given_A, B, rtol=1e-9, M=given_M)
    assert_solves(A, B, result, 1e-9)
    if M:
        assert result.iterations < block_cg(A, B, rtol=1e-9).iterations


def test_dependent_columns_shrink_the_block():
    A = gallery.poisson((15, 15))
    rng = np.random.default_rng(0)
    base = rng.standard_normal((225, 3))
    B = np.column_stack([base, base[:, 0], base @ [1.0, -2.0, 0.5], np.zeros(225)])
    result = block_cg(A, B, rtol=1e-10)
    assert_solves(A, B, result, 1e-10)
    assert (result.block_sizes <= 3).all()
    assert not result.x[:, 5].any()
    alone = block_cg(A, base, rtol=1e-10)
    assert abs(result.iterations - alone.iterations) <= 1
    np.testing.assert_allclose(result.x[:, 3], result.x[:, 0], rtol=1e-6, atol=1e-9)


def test_nearly_dependent_columns():
    A = gallery.poisson((15, 15))
    rng = np.random.default_rng(1)
    b = rng.standard_normal(225)
    B = np.column_stack([b, b + 1e-9 * rng.standard_normal(225), b + 1e-4 * rng.standard_normal(225)])
    assert_solves(A, B, block_cg(A, B, rtol=1e-10), 1e-10)


def test_more_columns_than_unknowns():
    A = np.diag([1.0, 2.0, 5.0])
    B = np.random.default_rng(0).standard_normal((3, 8))
    result = block_cg(A, B, rtol=1e-12)
    assert_solves(A, B, result, 1e-12)
    assert result.block_sizes[0] == 3


def test_columns_of_very_different_size_and_scale():
    A = gallery.poisson((10, 10))
    B = np.random.default_rng(0).standard_normal((100, 3)) * [1e-200, 1.0, 1e200]
    result = block_cg(A * 2.0**-250, B, rtol=1e-9)
    assert result.converged
    plain = block_cg(A, B / [1e-200, 1.0, 1e200], rtol=1e-9)
    assert result.iterations == plain.iterations
    np.testing.assert_allclose(result.x / [1e-200, 1.0, 1e200] * 2.0**-250, plain.x, rtol=1e-6, atol=1e-9)


def test_single_precision_and_its_limit():
    A = gallery.poisson((20, 20)).astype(np.float32)
    B = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)
    result = block_cg(A, B, rtol=1e-4)
    assert result.x.dtype == np.float32
    assert result.converged
    beyond = block_cg(A, B, rtol=1e-12)
    assert beyond.status is Status.STAGNATED
    assert (beyond.residual_norm < 1e-4 * norm(B, axis=0)).all()


def test_never_falsely_converged():
    for seed in range(5):
        A = gallery.prescribed_spectrum(np.geomspace(1, 1e11, 60), rng=seed)
        B = np.random.default_rng(seed).standard_normal((60, 5))
        result = block_cg(A, B, rtol=1e-7, maxiter=400)
        for j, status in enumerate(result.statuses):
            true = norm(B[:, j] - A @ result.x[:, j])
            assert (status is Status.CONVERGED) == (true <= 1e-7 * norm(B[:, j]) * (1 + 1e-5)) or (
                abs(true / (1e-7 * norm(B[:, j])) - 1) < 0.05
            )


def test_negative_curvature_is_found():
    A = gallery.prescribed_spectrum(np.append(np.linspace(1.0, 5.0, 19), -2.0), rng=0)
    A += 3.0 * np.diag(np.diag(A) <= 0.0)  # a positive diagonal, so that only the products can tell
    if np.linalg.eigvalsh(A)[0] >= 0.0:
        pytest.fail("the matrix of this test must be indefinite")
    B = np.random.default_rng(0).standard_normal((20, 3))
    result = block_cg(A, B, rtol=1e-10)
    assert result.status is Status.INDEFINITE
    assert result.info < 0
    d = result.negative_curvature
    assert d @ A @ d < 0.0
    assert np.isfinite(result.x).all()


def test_ends():
    A = gallery.poisson((20, 20))
    B = np.random.default_rng(0).standard_normal((400, 3))
    early = block_cg(A, B, rtol=1e-10, maxiter=4)
    assert early.status is Status.MAXITER
    assert early.info == early.iterations == 4
    assert early.history.shape == (5, 3)
    warm = block_cg(A, B, early.x, rtol=1e-10)
    assert warm.iterations < block_cg(A, B, rtol=1e-10).iterations
    assert block_cg(A, B, warm.x, rtol=1e-9).iterations == 0
    assert block_cg(A, np.zeros((400, 2))).info == 0
    assert block_cg(A, np.zeros((400, 0))).x.shape == (400, 0)
    assert block_cg(-A, B).status is Status.INDEFINITE
    assert block_cg(A, B, M=-np.eye(400)).status is Status.INDEFINITE_PRECONDITIONER
    assert "3 of 3 converged" in repr(warm)


def test_same_bits_and_nothing_changed():
    A = gallery.wathen(8, 8, rng=0)
    B = np.random.default_rng(0).standard_normal((A.shape[0], 4))
    before = B.copy()
    one, two = (block_cg(A, B, rtol=1e-8, M="jacobi") for _ in range(2))
    assert (one.x == two.x).all()
    assert (B == before).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"B": np.ones(4)}, ValueError, r"B must have shape \(n, k\)"),
        ({"B": np.ones((3, 2))}, ValueError, "B must have shape"),
        ({"B": np.full((4, 2), np.nan)}, ValueError, "B holds NaN"),
        ({"B": np.ones((4, 2)) * 1j}, TypeError, "must be real"),
        ({"X0": np.ones(4)}, ValueError, "X0 must have the shape of B"),
        ({"X0": np.full((4, 2), np.inf)}, ValueError, "X0 holds NaN or infinity"),
        ({"A": np.triu(np.ones((4, 4)))}, ValueError, "A is not symmetric"),
        ({"rtol": -1.0}, ValueError, "rtol"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"A": np.eye(4), "B": np.ones((4, 2))} | change
    with pytest.raises(error, match=message):
        block_cg(arguments.pop("A"), arguments.pop("B"), **arguments)


@pytest.mark.parametrize(("form", "dtype"), [(0, np.float32), (1, np.float64)])
def test_kernels_against_their_twins(form, dtype):
    n, s, m, k = 700, 6, 4, 5
    rng = np.random.default_rng(0)
    work = cpu.share_rows(n, 10**6, threads=2)
    P, T, Q, Z = (rng.standard_normal((s, n)).astype(dtype) for _ in range(4))
    X = rng.standard_normal((k, n)).astype(dtype)
    K, L, inverse = rng.standard_normal((k, s)), rng.standard_normal((s, m)), rng.standard_normal((m, s))
    G = np.empty((s, s))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for name, arguments in {
        "block_gram": (P, T, G),
        "block_reduce": (rng.standard_normal((s, s)), T, Q),
        "block_turn": (inverse, Q),
        "block_advance": (K, L, Z, P, X),
    }.items():
        ours, theirs = [a.copy() for a in arguments], [a.copy() for a in arguments]
        getattr(cpu, name)[form](*ours, work)
        getattr(reference, name)(*theirs, work)
        for one, two in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, two, **tolerance)
