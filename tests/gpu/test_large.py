"""Systems that keep many blocks of a device busy, and so its barriers, fences and graphs; smaller ones elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.kernels import gpu
from cgopt.kernels.gpu.vectors import REFUSED, record
from cgopt.operators import Damped, DeviceMatrix

DEVICE = {"side": 300, "rows": 3000, "systems": 5000, "samples": 3000}
ELSEWHERE = {"side": 9, "rows": 40, "systems": 5, "samples": 7}


@pytest.fixture
def sizes(xp):
    return ELSEWHERE if xp.__version__ == "stand-in" else DEVICE


def same_solve(xp, given, A, b, rtol, **options):
    """A solve on the device and one in host memory; the former twice, with the same bits."""
    B, own = xp.asarray(b), {key: v for key, v in options.items() if key != "format"}
    solver = cgopt.CGSolver(given, **options)
    result, host = solver.solve(B, rtol=rtol), cgopt.cg(A, b, rtol=rtol, **own)
    assert result.converged
    x = result.x.get()
    assert (np.linalg.norm(b - A @ x, axis=0) <= 1.01 * rtol * np.linalg.norm(b, axis=0)).all()
    if options.get("M") != "multigrid":  # whose smoother is another
        assert abs(result.iterations - host.iterations) <= 2 + host.iterations // 20
    assert np.array_equal(solver.solve(B, rtol=rtol).x.get(), x)


@pytest.mark.parametrize(
    ("form", "M", "dtype"),
    [
        ("dia", None, np.float64),
        ("csr", "jacobi", np.float64),
        ("csr", "chebyshev", np.float32),
        ("dia", "chebyshev", np.float64),
        ("csr", "multigrid", np.float64),
    ],
)
def test_short_rows(xp, sparse, sizes, form, M, dtype):
    A = sp.csr_matrix(cgopt.gallery.poisson((sizes["side"],) * 2).astype(dtype))
    b = np.random.default_rng(0).standard_normal(A.shape[0]).astype(dtype)
    same_solve(xp, sparse(A), A, b, 1e-3 if dtype == np.float32 else 1e-8, M=M, format=form)


@pytest.mark.parametrize("form", ["csr", "dense"])
def test_long_rows(xp, sparse, sizes, form):
    n, rng = sizes["rows"], np.random.default_rng(0)
    B = sp.random_array((n, n), density=0.02 if n > 1000 else 0.5, rng=rng)
    A = sp.csr_matrix(B + B.T + n * sp.eye_array(n))
    same_solve(xp, sparse(A), A, rng.standard_normal(n), 1e-10, format=form)


def test_many_right_hand_sides(xp, sparse, sizes):
    A = sp.csr_matrix(cgopt.gallery.poisson((sizes["side"],) * 2))
    B = np.random.default_rng(0).standard_normal((A.shape[0], 11))
    same_solve(xp, sparse(A), A, B, 1e-8, M="jacobi")


def test_a_batch(xp, sizes):
    rng, m, n = np.random.default_rng(0), sizes["systems"], 32
    B = rng.standard_normal((m, n, n))
    A, b = B @ B.transpose(0, 2, 1) / n + np.eye(n), rng.standard_normal((m, n))
    found, host = cgopt.batched_cg(xp.asarray(A), xp.asarray(b), rtol=1e-8), cgopt.batched_cg(A, b, rtol=1e-8)
    assert found.converged.all()
    assert (abs(found.iterations - host.iterations) <= 1).all()
    residuals = np.linalg.norm(b - np.einsum("kij,kj->ki", A, found.x.get()), axis=1)
    assert (residuals <= 1.01e-8 * np.linalg.norm(b, axis=1)).all()


def test_products_of_operators_are_recorded(xp, sparse, sizes):
    A = sp.csr_matrix(cgopt.gallery.poisson((sizes["side"],) * 2))
    operator = DeviceMatrix(sparse(A))
    x, out = np.random.default_rng(0).standard_normal(A.shape[0]), xp.zeros(A.shape[0])
    X = xp.asarray(x)
    operator.matvec(X, out=out)
    recording = record(lambda: operator.matvec(X, out=out))
    assert recording != REFUSED
    out.fill(0.0)
    recording[0].launch()
    np.testing.assert_allclose(out.get(), A @ x, rtol=1e-12, atol=1e-12)
    solver = cgopt.CGSolver(Damped(operator, 0.01), M="multigrid" if sizes is DEVICE else None)
    result = solver.solve(xp.asarray(x), rtol=1e-8)
    assert result.converged
    shifted = A + 0.01 * sp.eye_array(A.shape[0])
    assert np.linalg.norm(x - shifted @ result.x.get()) <= 1.01e-8 * np.linalg.norm(x)


def test_what_waits_is_refused_and_does_no_harm(xp):
    a = xp.asarray(np.arange(9.0).reshape(3, 3))
    for waits in (lambda: a.get(), lambda: float(a.sum())):
        assert record(waits) == REFUSED
    assert np.array_equal((a @ a).get(), a.get() @ a.get())


def test_networks(xp, sizes):
    network, rng = cgopt.nn.MLP([64, 50, 30, 10], activation="tanh"), np.random.default_rng(0)
    theta, X = network.init(1, dtype=np.float32), rng.standard_normal((sizes["samples"], 64)).astype(np.float32)
    Y, v = rng.integers(0, 10, sizes["samples"]), rng.standard_normal(network.n).astype(np.float32)
    loss = cgopt.nn.SoftmaxCrossEntropy()
    host = cgopt.operators.GaussNewton(network.linearize(theta, X), loss, Y) @ v
    at = network.linearize(xp.asarray(theta), xp.asarray(X))
    found = cgopt.operators.GaussNewton(at, loss, xp.asarray(Y)) @ xp.asarray(v)
    assert np.linalg.norm(found.get() - host) <= 1e-4 * np.linalg.norm(host)
    assert gpu.is_array(found)
