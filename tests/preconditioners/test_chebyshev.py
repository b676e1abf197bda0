"""Chebyshev polynomials: the polynomial itself, its bounds, and what it saves."""

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
from cgopt.preconditioners import Chebyshev
from cgopt.preconditioners.spectrum import ends_of_spectrum
from cgopt.testing import spd_matrices


def residual_polynomial(M, A):
    """Eigenvalues of D^-1 A and of ``I - M A``, which is a polynomial in it."""
    scale = np.sqrt(np.diag(A).real)
    unit = A / scale[:, None] / scale
    eigenvalues, vectors = scipy.linalg.eigh(unit)
    W = scale[:, None] * (M @ np.eye(A.shape[0], dtype=A.dtype)) * scale
    residual = vectors.conj().T @ (np.eye(A.shape[0]) - W @ unit) @ vectors
    return eigenvalues, residual


@settings(max_examples=20)
@given(spd_matrices(dtype=st.sampled_from([np.float64, np.complex128]), condition=100.0), st.integers(1, 8))
def test_is_the_chebyshev_polynomial(A, degree):
    lower, upper = 0.2, float(A.shape[0]) + 1.0
    M = Chebyshev(A, degree, interval=(lower, upper))
    eigenvalues, residual = residual_polynomial(M, A)
    theta, delta = (upper + lower) / 2, (upper - lower) / 2
    T = np.polynomial.Chebyshev.basis(degree)
    expected = T((theta - eigenvalues) / delta) / T(theta / delta)  # Saad 2003, section 12.3
    np.testing.assert_allclose(residual, np.diag(expected), atol=1e-10)


@settings(max_examples=20)
@given(spd_matrices(condition=1e4), st.integers(1, 6))
def test_symmetric_positive_definite_for_any_matrix(A, degree):
    M = Chebyshev(A, degree)
    scale = np.sqrt(np.diag(A))
    W = scale[:, None] * (M @ np.eye(A.shape[0])) * scale
    np.testing.assert_allclose(W, W.T, rtol=0, atol=1e-12 * np.abs(W).max())
    assert scipy.linalg.eigvalsh((W + W.T) / 2).min() > 0.0
    assert np.abs(np.linalg.eigvals(np.eye(A.shape[0]) - M @ A)).max() < 1.0 + 1e-12


@pytest.mark.parametrize("shape", [(50,), (30, 30), (9, 9, 9)])
def test_ends_of_the_spectrum(shape):
    A = gallery.poisson(shape)
    values = gallery.grids.poisson_eigenvalues(shape)

    def product(x, out):
        out[...] = A @ x

    ends = ends_of_spectrum(product, A.shape[0], 20)
    assert values.min() <= ends.smallest <= ends.largest <= values.max()
    assert values.max() <= ends.bound <= 1.2 * values.max()


def test_iterations_times_degree_are_about_those_of_plain_cg():
    A = gallery.poisson((70, 70))
    b = np.random.default_rng(0).standard_normal(4900)
    plain = cgopt.cg(A, b, rtol=1e-8).iterations
    for degree in (2, 4):
        M = Chebyshev(A, degree)
        assert plain <= 1.1 * degree * cgopt.cg(A, b, M=M, rtol=1e-8).iterations < 1.5 * plain


def test_degree_one_is_jacobi():
    A = gallery.wathen(6, 6, rng=1)
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    one, jacobi = (cgopt.cg(A, b, rtol=1e-8, M=M).iterations for M in (Chebyshev(A, 1), "jacobi"))
    assert one == jacobi


def test_a_function_without_a_diagonal():
    A = gallery.poisson((20, 20))
    M = Chebyshev(cgopt.operators.as_operator(lambda v: A @ v, n=400), 4)
    b = np.random.default_rng(0).standard_normal(400)
    result = cgopt.cg(A, b, M=M, rtol=1e-8)
    assert result.converged
    assert result.iterations < cgopt.cg(A, b, rtol=1e-8).iterations / 2


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter(factor):
    A, b = gallery.poisson((20, 20)), np.random.default_rng(0).standard_normal(400)
    scaled, plain = (cgopt.cg(f * A, b, M=Chebyshev, rtol=1e-8).iterations for f in (factor, 1.0))
    assert scaled == plain
    np.testing.assert_allclose(Chebyshev(A * factor) @ b * factor, Chebyshev(A) @ b, rtol=1e-9)


def test_works_in_scipy_and_in_single_precision():
    A = gallery.poisson((20, 20))
    x, info = scipy.sparse.linalg.cg(A, np.ones(400), rtol=1e-8, M=Chebyshev(A).to_scipy())
    assert info == 0
    single = Chebyshev(A.astype(np.float32))
    z = single @ np.ones(400, np.float32)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, Chebyshev(A) @ np.ones(400), rtol=1e-3)


def test_tells_what_it_is():
    M = Chebyshev(gallery.poisson((20, 20)), degree=5)
    assert "degree=5" in repr(M)
    assert M.nbytes == 8 * 400
    assert M.setup_time > 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 0}, "degree must be a positive whole number"),
        ({"degree": 2.5}, "degree must be a positive whole number"),
        ({"interval": (1.0,)}, "interval must be two numbers"),
        ({"interval": (0.0, 1.0)}, "0 < lower <= upper"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Chebyshev(np.eye(3), **arguments)


def test_bad_matrices():
    with pytest.raises(ValueError, match="diagonal of A is not positive"):
        Chebyshev(np.diag([1.0, -1.0]))
    with pytest.raises(ValueError, match="not positive definite"):
        Chebyshev(sp.csr_array(np.array([[1.0, 2.0], [2.0, 1.0]])))
