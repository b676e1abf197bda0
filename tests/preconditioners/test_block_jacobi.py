"""Block Jacobi against dense inverses; block sizes that are detected."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import cgopt
from cgopt import gallery
from cgopt.preconditioners import BlockJacobi
from cgopt.testing import spd_matrices


def block_diagonal_inverse(A, m):
    n = A.shape[0]
    return scipy.linalg.block_diag(*(np.linalg.inv(A[i : i + m, i : i + m]) for i in range(0, n, m)))


@settings(max_examples=30)
@given(
    spd_matrices(n=st.integers(1, 14), dtype=st.sampled_from([np.float64, np.complex128]), condition=1e3),
    st.integers(1, 20),
)
def test_is_the_inverse_of_the_block_diagonal(A, m):
    M = BlockJacobi(A, m) @ np.eye(A.shape[0], dtype=A.dtype)
    expected = block_diagonal_inverse(A, m)
    np.testing.assert_allclose(M, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_array_equal(M, M.conj().T)  # to the last bit
    assert scipy.linalg.eigvalsh(M).min() > 0.0
    np.testing.assert_array_equal(BlockJacobi(A, m).diagonal(), np.diag(M).real)


@pytest.mark.parametrize(
    ("A", "size"),
    [
        (gallery.elasticity((8, 6)), 2),
        (gallery.elasticity((4, 4, 4)), 3),
        (sp.kron(gallery.poisson((8, 8)), np.eye(4) + np.ones((4, 4))).tocsr(), 4),
        (gallery.poisson((8, 8)), 8),
    ],
    ids=["2-D elasticity", "3-D elasticity", "four species", "no blocks"],
)
def test_block_size_is_detected(A, size):
    assert BlockJacobi(A).block_size == size


def test_solution_does_not_depend_on_the_basis_in_a_block():
    # with Q block diagonal, Q'AQ gives the iterates Q'x of A (Jacobi's preconditioner does not have that)
    rng = np.random.default_rng(0)
    A = gallery.elasticity((10, 6))
    n = A.shape[0]
    Q = scipy.linalg.block_diag(*(rng.standard_normal((2, 2)) for _ in range(n // 2)))
    b = rng.standard_normal(n)
    first = cgopt.cg(A, b, M=BlockJacobi(A, 2), maxiter=15, rtol=0.0).x
    B = Q.T @ A @ Q
    second = cgopt.cg((B + B.T) / 2, Q.T @ b, M=BlockJacobi(B, 2), maxiter=15, rtol=0.0).x
    np.testing.assert_allclose(Q @ second, first, rtol=0, atol=1e-8 * np.abs(first).max())


def test_larger_blocks_need_fewer_iterations():
    A = gallery.poisson((40, 40))
    b = np.random.default_rng(0).standard_normal(1600)
    iterations = [cgopt.cg(A, b, M=BlockJacobi(A, m), rtol=1e-8).iterations for m in (1, 40, 400)]
    assert iterations[0] > iterations[1] > iterations[2]


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter(factor):
    A, b = gallery.elasticity((10, 6)), np.random.default_rng(0).standard_normal(140)
    scaled, plain = (cgopt.cg(f * A, b, M=BlockJacobi, rtol=1e-8).iterations for f in (factor, 1.0))
    assert scaled == plain


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_types(dtype):
    A = gallery.elasticity((10, 6)).astype(dtype)
    b = np.ones(140, dtype)
    M = BlockJacobi(A)
    z = M @ b
    assert z.dtype == M.dtype == dtype
    np.testing.assert_allclose(z, BlockJacobi(gallery.elasticity((10, 6))) @ np.ones(140), rtol=1e-5)
    out = np.empty((140, 2), dtype)[:, 1]
    np.testing.assert_array_equal(M.matvec(b, out=out), M @ b)


def test_works_in_scipy_and_tells_what_it_is():
    A = gallery.elasticity((10, 6))
    M = BlockJacobi(A)
    x, info = scipy.sparse.linalg.cg(A, np.ones(140), rtol=1e-8, M=M.to_scipy())
    assert info == 0
    assert "block_size=2" in repr(M)
    assert M.nbytes == 140 * 2 * 8
    assert M.setup_time > 0.0


def test_bad_input():
    A = gallery.poisson((4, 4))
    for size in (0, 2.5, True, "two"):
        with pytest.raises(ValueError, match="block_size must be a positive whole number"):
            BlockJacobi(A, size)
    with pytest.raises(ValueError, match="block of A is not positive definite"):
        BlockJacobi(np.array([[1.0, 2.0], [2.0, 1.0]]), 2)
    with pytest.raises(TypeError, match="A must be a matrix"):
        BlockJacobi(cgopt.operators.Damped(A, 1.0))
