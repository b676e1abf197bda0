"""The error in the energy norm: bounds from CG's coefficients hold on the gallery and on real matrices, and end solves.

We choose x and form b = A x, so that the error of every iterate is known. b is rounded, and so are the iterates: both
limit the error that can be reached to about `floor_of`, down to which the theorems are asserted.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

import cgopt
from cgopt import Status, cg, gallery
from cgopt.linear import lanczos
from cgopt.testing import spd_matrices, vectors

norm = np.linalg.norm
U = 2.0**-53
NAMES = gallery.available()
NONE = pytest.mark.skip("CGOPT_DATA is not set, or names no folder with matrices: only the gallery is tested")
REAL = NAMES or [pytest.param("none", marks=NONE)]
WORK = 2e7  # entries multiplied in one run of the default tests

PROBLEMS = {
    "poisson": lambda: gallery.poisson((23, 31)),
    "wathen": lambda: gallery.wathen(9, 8, rng=4),
    "elasticity": lambda: gallery.elasticity((12, 3)),
    "anisotropic": lambda: gallery.anisotropic_diffusion((20, 20), epsilon=1e-3, theta=0.4),
    "strakos": lambda: sp.csr_array(gallery.prescribed_spectrum(gallery.strakos_spectrum(24, 0.1, 1e3, 0.8), rng=1)),
    "graph": lambda: gallery.graph_laplacian(600, rng=2),
    "unstructured": lambda: gallery.unstructured_poisson(500, rng=3),
}


def energy_norm(A, v):
    return float(np.sqrt(v @ (A @ v)))


@functools.lru_cache(maxsize=4)
def smallest_eigenvalue(name, M):
    """Of A, or of D^-1/2 A D^-1/2 for Jacobi's M, by inverse iteration; a hundredth less, to be below for certain."""
    A = load(name)
    if M is not None:
        d = sp.diags_array(1.0 / np.sqrt(A.diagonal()))
        A = d @ A @ d
    if A.shape[0] < 40:
        return 0.99 * np.linalg.eigvalsh(A.toarray())[0]
    v0 = np.random.default_rng(1).standard_normal(A.shape[0])
    return 0.99 * float(eigsh(A.tocsc(), 1, sigma=0.0, v0=v0, return_eigenvectors=False)[0])


@functools.lru_cache(maxsize=4)
def load(name):
    return PROBLEMS[name]() if name in PROBLEMS else gallery.load(name)


def floor_of(A, x, smallest):
    """Energy norm of the error that rounding b to double precision, and evaluating residuals, leave.

    A perturbation f of b moves the solution by A^-1 f, whose energy norm is at most |f| / sqrt(lambda_1).
    """
    m = int(np.diff(A.tocsr().indptr).max())
    return 4.0 * (m + 2) * U * norm(abs(A) @ abs(x)) / np.sqrt(smallest)


def known_errors(name, M, maxiter):
    """A solve with known x: the result, and the energy norm of the error of each iterate."""
    A = load(name)
    x = np.random.default_rng(7).standard_normal(A.shape[0])
    errors = [energy_norm(A, x)]
    result = cg(A, A @ x, M=M, rtol=1e-14, maxiter=maxiter, callback=lambda xk: errors.append(energy_norm(A, x - xk)))
    return A, x, result, np.array(errors)


def assert_brackets(name, M, maxiter):
    A, x, result, errors = known_errors(name, M, maxiter)
    smallest = smallest_eigenvalue(name, M)
    # |.|_A of the floor is measured in A's own spectrum
    floor = floor_of(A, x, smallest if M is None else smallest * float(A.diagonal().min()))
    bounds = result.error_bounds(eigenvalue_bound=smallest)
    assert bounds.lower.shape == bounds.upper.shape == errors.shape == (result.iterations + 1,)
    assert (bounds.lower <= bounds.upper).all()
    known = errors > 20.0 * floor
    assert known[0]
    assert (bounds.lower[known] <= errors[known] * (1 + 1e-9) + floor).all()
    assert (bounds.upper[known] >= errors[known] * (1 - 1e-9) - floor).all()
    # and they are sharp: what a lower bound misses is the error of the last iterate
    missing = errors**2 - bounds.lower**2
    assert (np.abs(missing - errors[-1] ** 2)[known] <= 1e-6 * errors[known] ** 2 + 4 * floor * errors[known]).all()


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_bounds_on_the_gallery(name, M):
    assert_brackets(name, M, 60)
    assert_brackets(name, M, 400)


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("name", REAL)
def test_bounds_on_real_matrices(name, M):
    A = load(name)
    if A.nnz > 40_000 or A.shape[0] > 8000:
        pytest.skip("large: see the long test")
    assert_brackets(name, M, int(min(500, WORK / A.nnz)))


@pytest.mark.long
@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("name", REAL)
def test_bounds_on_large_real_matrices(name, M):
    A = load(name)
    assert_brackets(name, M, int(min(3000, 1e9 / A.nnz)))


# --- theorems ---------------------------------------------------------------------------------------------------


@given(spd_matrices(condition=100.0), st.data())
def test_gauss_radau_is_the_quadrature_it_claims_to_be(A, data):
    # Golub and Meurant 2010: the bound at step k is |r_k|^2 (1, 1) entry of the inverse of the tridiagonal matrix whose
    # last diagonal entry is changed so that mu is an eigenvalue. Here: of the whole sum from zero on.
    n = A.shape[0]
    b = data.draw(vectors(n))
    smallest = float(np.linalg.eigvalsh(A)[0])
    mu = smallest * data.draw(st.sampled_from([0.01, 0.5, 0.9]))
    result = cg(A, b, rtol=1e-6, maxiter=n)
    m = result.iterations
    if m == 0:
        return
    log = result._log
    alpha, beta = log[:, 2], log[:, 3]
    if (beta[:-1] == 0.0).any() or beta[-1] < 1e-10:  # restarted, or ended on the solution
        return
    diagonal, off = lanczos.tridiagonal(alpha, beta)
    T = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    eta = np.sqrt(beta[-1]) / alpha[-1]
    last = mu + eta**2 * np.linalg.inv(T - mu * np.eye(m))[-1, -1]
    big = np.zeros((m + 1, m + 1))
    big[:m, :m], big[m, m] = T, last
    big[m, m - 1] = big[m - 1, m] = eta
    quadrature = (b @ b) * np.linalg.inv(big)[0, 0]
    bound = result.error_bounds(eigenvalue_bound=mu)
    assert bound.upper[0] ** 2 == pytest.approx(quadrature, rel=1e-6)


@given(spd_matrices(condition=1e3), st.data())
def test_upper_bounds_fall_with_a_sharper_eigenvalue(A, data):
    b = data.draw(vectors(A.shape[0]))
    result = cg(A, b, rtol=1e-3)
    if result.iterations == 0:
        return
    smallest = 0.999999 * float(np.linalg.eigvalsh(A)[0])
    error = energy_norm(A, np.linalg.solve(A, b) - result.x)
    uppers = [result.error_bounds(eigenvalue_bound=smallest * c).upper for c in (1e-3, 0.1, 0.9, 1.0)]
    for loose, sharp in itertools.pairwise(uppers):
        assert (sharp <= loose * (1 + 1e-12)).all()
    assert uppers[-1][-1] >= error * (1 - 1e-6) - 1e-12 * uppers[0][0]


def test_estimate_with_the_ritz_value_approaches_the_bound():
    # Meurant and Tichy 2019: the simple bound hardly minds that the smallest Ritz value stands in for the eigenvalue
    A = gallery.poisson((30, 30))
    x = np.random.default_rng(0).standard_normal(900)
    result = cg(A, A @ x, rtol=1e-8)
    error = energy_norm(A, x - result.x)
    estimate = result.error_bounds().upper[-1]
    assert error <= estimate <= 10.0 * error


def test_restarts_begin_a_new_run():
    alpha, beta = np.array([0.5, 0.4, 0.5, 0.4]), np.array([0.1, 0.0, 0.1, 0.2])
    sharp, simple = lanczos.radau_coefficients(alpha, beta, 0.5)
    assert sharp[2] == simple[2] == 2.0
    again, _ = lanczos.radau_coefficients(alpha[2:], beta[2:], 0.5)
    assert (again == sharp[2:]).all()


# --- stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-5])
@pytest.mark.parametrize("name", [*PROBLEMS, *NAMES])
def test_stops_on_the_error_asked_for(name, rtol, M):
    A = load(name)
    if A.nnz > 40_000 or A.shape[0] > 8000:
        pytest.skip("large: one solve of each kind is tested, on smaller matrices")
    x = np.random.default_rng(3).standard_normal(A.shape[0])
    b, size = A @ x, energy_norm(A, x)
    smallest = smallest_eigenvalue(name, M)
    maxiter = int(min(3000, WORK / A.nnz))
    floor = floor_of(A, x, smallest if M is None else smallest * float(A.diagonal().min()))
    sure = cg(A, b, M=M, rtol=rtol, criterion="error", eigenvalue_bound=smallest, maxiter=maxiter)
    assert sure.status in (Status.ACCURATE, Status.MAXITER, Status.STAGNATED)
    if sure.status is Status.ACCURATE:
        assert sure.info == 0
        assert sure.converged
        assert energy_norm(A, x - sure.x) <= rtol * size * (1 + 1e-9) + floor
    likely = cg(A, b, M=M, rtol=rtol, criterion="error", maxiter=maxiter)
    if likely.status is Status.ACCURATE:
        # An estimate: where convergence rests for a while and then goes on it may stop too early (nos6, by 5).
        assert energy_norm(A, x - likely.x) <= 10.0 * rtol * size + floor
    if name in PROBLEMS:
        assert sure.status is likely.status is Status.ACCURATE
        assert energy_norm(A, x - likely.x) <= rtol * size


def test_stops_before_the_residual_would():
    A = gallery.poisson((60, 60))
    x = np.random.default_rng(0).standard_normal(3600)
    early = cg(A, A @ x, rtol=1e-3, criterion="error")
    exact = next(k for k, e in enumerate(known_poisson_errors(A, x)) if e <= 1e-3 * energy_norm(A, x))
    assert exact <= early.iterations <= exact + 20


def known_poisson_errors(A, x):
    errors = [energy_norm(A, x)]
    cg(A, A @ x, rtol=1e-6, callback=lambda xk: errors.append(energy_norm(A, x - xk)))
    return errors


def test_a_guess_counts():
    # relative to |x*|_A, not to the first error: a good guess has little left to do
    A = gallery.poisson((40, 40))
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1600)
    near = x + 1e-3 * rng.standard_normal(1600)
    cold, warm = (cg(A, A @ x, x0, rtol=1e-4, criterion="error") for x0 in (None, near))
    assert warm.iterations < cold.iterations
    for result in (cold, warm):
        assert result.status is Status.ACCURATE
        assert energy_norm(A, x - result.x) <= 1e-4 * energy_norm(A, x)


def test_absolute_tolerance_and_scale():
    A = gallery.poisson((20, 20))
    x = np.random.default_rng(0).standard_normal(400)
    one = cg(A, A @ x, rtol=0.0, atol=1e-3, criterion="error")
    assert energy_norm(A, x - one.x) <= 1e-3
    # the energy norm of x of size 2^s for a matrix of size 2^c
    for c, s in ((-300, 200), (200, -400), (0, 700)):
        other = cg(
            A * 2.0**c,
            (A @ x) * 2.0 ** (c / 2) * 2.0 ** (c / 2) * 2.0**s,
            rtol=0.0,
            atol=1e-3 * 2.0 ** (s + c / 2),
            criterion="error",
        )
        assert other.iterations == one.iterations
        assert other.status is Status.ACCURATE


def test_every_column_has_its_own_end():
    A = gallery.wathen(8, 8, rng=1)
    n = A.shape[0]
    rng = np.random.default_rng(0)
    w, U_ = np.linalg.eigh(A.toarray())
    X = np.stack([rng.standard_normal(n), U_[:, -1], np.zeros(n)], 1)
    B = A @ X
    B[:, 2] = 0.0
    result = cg(A, B, rtol=1e-4, criterion="error", eigenvalue_bound=0.99 * w[0])
    assert result.status is Status.ACCURATE
    assert result.info == 0
    assert [c.status for c in result.columns] == [Status.ACCURATE, Status.ACCURATE, Status.CONVERGED]
    for j in range(2):
        assert energy_norm(A, X[:, j] - result.columns[j].x) <= 1e-4 * energy_norm(A, X[:, j])
    assert result.columns[1].iterations < result.columns[0].iterations


def test_a_preconditioner_that_solves_at_once():
    # the iterations between two looks at the estimate run into rounding, which must not hide what was reached
    A = gallery.wathen(4, 4, rng=1)
    inverse = np.linalg.inv(A.toarray())
    x = np.random.default_rng(0).standard_normal(A.shape[0])
    result = cg(A, A @ x, M=(inverse + inverse.T) / 2, rtol=1e-4, criterion="error")
    assert result.status is Status.ACCURATE
    assert energy_norm(A, x - result.x) <= 1e-10 * energy_norm(A, x)
    many = cg(A, A @ np.stack([x, -x], 1), M=(inverse + inverse.T) / 2, rtol=1e-4, criterion="error")
    assert many.status is Status.ACCURATE


def test_what_rounding_does_not_allow_is_not_claimed():
    A = gallery.poisson((30, 30))
    b = np.ones(900)
    result = cg(A, b, rtol=0.0, criterion="error", maxiter=5000)
    assert result.status is Status.STAGNATED
    assert result.info < 0
    single = cg(A.astype(np.float32), b.astype(np.float32), rtol=1e-12, criterion="error", maxiter=5000)
    assert single.status is not Status.ACCURATE


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"criterion": "energy"}, ValueError, "criterion must be 'residual' or 'error'"),
        ({"criterion": "error", "eigenvalue_bound": 0.0}, ValueError, "eigenvalue_bound must be a positive"),
        ({"criterion": "error", "eigenvalue_bound": "1"}, TypeError, "eigenvalue_bound must be a positive"),
        ({"eigenvalue_bound": 1.0}, ValueError, "eigenvalue_bound is for criterion='error'"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        cg(np.eye(3), np.ones(3), **options)


def test_nothing_done_nothing_known():
    bounds = cgopt.cg(np.eye(2), np.zeros(2)).error_bounds()
    assert bounds.lower[0] == bounds.upper[0] == 0.0
    assert np.isinf(cg(np.eye(2), np.ones(2), maxiter=0).error_bounds().upper[0])
