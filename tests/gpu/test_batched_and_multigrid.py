"""Batches and multigrid with arrays on the GPU, by the calls that users make."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.kernels import gpu, loops
from cgopt.preconditioners import Multigrid, hierarchy

from .test_primitives import Product, device_solve


def stack(m=4, n=6, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([cgopt.gallery.prescribed_spectrum(np.geomspace(1.0, 10.0, n), rng=rng) for _ in range(m)])


@pytest.mark.parametrize(("M", "dtype"), [(None, np.float32), ("jacobi", np.float64)])
def test_a_batch_is_solved_where_it_lies(xp, M, dtype):
    A, b = stack(3, 10).astype(dtype), np.random.default_rng(1).standard_normal((3, 10)).astype(dtype)
    found = cgopt.batched_cg(xp.asarray(A), xp.asarray(b), M=M, rtol=1e-2)
    wanted = cgopt.batched_cg(A, b, M=M, rtol=1e-2)
    assert isinstance(found.x, xp.ndarray)
    assert found.converged.all()
    assert abs(found.iterations - wanted.iterations).max() <= 1
    x = found.x.get()
    # far above rounding, so that the norm that is reported and that computed here agree
    norms = np.linalg.norm(b - np.einsum("kij,kj->ki", A, x), axis=1)
    np.testing.assert_allclose(found.residual_norm, norms, rtol=1e-3)
    assert (norms <= 1e-2 * np.linalg.norm(b, axis=1)).all()


def test_a_batch_with_one_pattern_and_one_right_hand_side(xp):
    pattern = cgopt.gallery.poisson((3, 3)).tocsr()
    values = np.outer([1.0, 2.0, 1e-200], pattern.data)  # the last has squares below the smallest number
    found = cgopt.batched_cg((pattern, xp.asarray(values)), xp.asarray(np.ones(9)), M="jacobi", rtol=1e-9)
    assert found.converged.all()
    x = found.x.get()
    np.testing.assert_allclose(x[1] * 2.0, x[0], rtol=1e-8)
    np.testing.assert_allclose(x[2] * 1e-200, x[0], rtol=1e-8)


def test_vectors_that_do_not_fit_shared_memory(xp, monkeypatch):
    from cgopt.kernels.gpu import batched, device

    A, b = stack(), np.random.default_rng(1).standard_normal((4, 6))
    small = device.current()._replace(shared_bytes=device.SHARED_BYTES)
    first = cgopt.batched_cg(xp.asarray(A), xp.asarray(b), rtol=1e-9)
    monkeypatch.setattr(batched, "current", lambda: small)
    second = cgopt.batched_cg(xp.asarray(A), xp.asarray(b), rtol=1e-9)
    assert np.array_equal(first.x.get(), second.x.get())


def test_bad_batches_are_refused(xp):
    A, b = stack(), np.ones((4, 6))
    with pytest.raises(TypeError, match=r"pass b as cupy\.asarray"):
        cgopt.batched_cg(xp.asarray(A), b)
    A[2, 0, 1] += 1.0
    with pytest.raises(ValueError, match=r"A\[2\] is not symmetric"):
        cgopt.batched_cg(xp.asarray(A), xp.asarray(b))
    A[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"A\[1\] holds NaN"):
        cgopt.batched_cg(xp.asarray(A), xp.asarray(b))


# --- multigrid --------------------------------------------------------------------------------------------------


@pytest.fixture
def coarse(monkeypatch):
    """Several levels of a small matrix."""
    monkeypatch.setattr(hierarchy, "COARSEST", 8)


def as_matrix(M, n, xp):
    columns = [M.matvec(xp.asarray(e), out=xp.zeros(n)).get() for e in np.eye(n)]
    return np.stack(columns, axis=1)


def twin(M):
    """The cycle by dense matrices."""

    def dense(A, width):
        return sp.csr_array(tuple(a.get() for a in (A.data, A.indices, A.indptr)), shape=(A.indptr.size - 1, width))

    def cycle(l, b):
        if l == len(M.cycle.levels):
            return M.cycle.inverse.values.get() @ b
        level = M.cycle.levels[l]
        A = dense(level.A, level.n).toarray()

        def smooth(r):  # two steps of Chebyshev's method
            d = r / level.theta
            return d + level.a * d + level.c * (r - A @ d)

        P = dense(level.up, M.sizes[l + 1]).toarray()
        x = smooth(b)
        x += P @ cycle(l + 1, P.T @ (b - A @ x))
        return x + smooth(b - A @ x)

    scale = M.cycle.scale[np.dtype(float)].get()
    return np.stack([scale * cycle(0, scale * e) for e in np.eye(M.shape[0])], axis=1)


@pytest.mark.usefixtures("coarse")
def test_the_cycle_is_its_twin_and_positive_definite(xp, sparse):
    A = sp.csr_matrix(cgopt.gallery.poisson((4, 5)))
    M = Multigrid(sparse(A))
    assert len(M.sizes) > 1
    found = as_matrix(M, 20, xp)
    np.testing.assert_allclose(found, twin(M), rtol=0, atol=1e-5 * abs(found).max())
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-5 * abs(found).max())
    assert np.linalg.eigvalsh((found + found.T) / 2).min() > 0.0
    values = np.linalg.eigvals(found @ A.toarray()).real
    assert values.max() / values.min() < 3.0


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("scale", [1.0, 1e-150])
def test_multigrid_solves(xp, sparse, scale):
    A, b = sp.csr_matrix(cgopt.gallery.poisson((6, 6))), np.random.default_rng(0).standard_normal(36)
    result = cgopt.cg(sparse(A * scale), xp.asarray(b), M="multigrid", rtol=1e-8)
    assert result.converged
    assert result.iterations <= 12
    assert np.linalg.norm(b - A @ (result.x.get() * scale)) <= 1.01e-8 * np.linalg.norm(b)


# --- recorded launches ------------------------------------------------------------------------------------------


def test_launches_are_recorded_where_the_operator_allows_it(emulated):
    from . import standin

    A = np.diag(np.linspace(1.0, 20000.0, 300))
    inverse = emulated.asarray(np.ones(300))
    launches = {}
    for capturable in (False, True):

        class Layout(Product):
            """A product that is a launch, as those of our own operators are."""

            def matvec(self, x, out):
                gpu.vectors.launch_apply_dot(self.values, x, out, self.work, alone=True)

        layout = gpu.diagonals_of(rows_of(A, emulated), 4)
        operator = Layout(layout, capturable)
        operator.work = gpu.share(300)
        standin.Launches.reset()
        b = np.ones(300)
        (code, done), x, *_ = device_solve(
            emulated, "diagonal", operator, inverse, b, np.float64, 20000.0, 1e-6, 1000
        )  # fmt: skip
        assert code == loops.CONVERGED
        np.testing.assert_allclose(A @ x, b, atol=1e-5)
        launches[capturable] = standin.Launches.count / done
    assert launches[True] < 0.8 * launches[False]


def rows_of(A, xp):
    from cgopt.kernels.layouts import CSR

    A = sp.csr_array(A)
    return CSR(xp.asarray(A.indptr.astype(np.uint32)), xp.asarray(A.indices.astype(np.uint32)), xp.asarray(A.data))


@pytest.mark.parametrize("form", ["csr", "dia", "dense"])
def test_products_with_a_matrix_do_not_wait_for_the_device(emulated, monkeypatch, form):
    from . import standin

    A = cgopt.operators.DeviceMatrix(standin.csr_matrix(sp.csr_matrix(cgopt.gallery.poisson(9))), format=form)
    x, out = emulated.ones(9, np.float64), emulated.zeros(9, np.float64)
    for operator in (A, cgopt.operators.Damped(A, 0.5), cgopt.preconditioners.Chebyshev(A)):
        assert operator.capturable
        operator.matvec(x, out=out)
        monkeypatch.setattr(standin.Launches, "recording", [])
        operator.matvec(x, out=out)
        monkeypatch.setattr(standin.Launches, "recording", None)


def test_what_cannot_be_recorded_is_sent_as_it_is(emulated, monkeypatch):
    from . import standin

    def refuse(self):
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    monkeypatch.setattr(standin.Stream, "begin_capture", refuse)
    monkeypatch.setattr(standin.Stream, "end_capture", refuse)
    A = np.diag(np.linspace(1.0, 300.0, 40))
    operator = Product(emulated.asarray(A), True)
    (code, _), x, *_ = device_solve(emulated, "identity", operator, None, np.ones(40), np.float64, 300.0, 1e-9, 900)
    assert code == loops.CONVERGED
    np.testing.assert_allclose(A @ x, np.ones(40), atol=1e-7)
