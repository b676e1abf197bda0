"""Arrays decide where a solve runs: the same calls with arrays of the GPU."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.operators import DeviceMatrix


def poisson(dtype=np.float64):
    return sp.csr_matrix(cgopt.gallery.poisson((6, 6)).astype(dtype))


def rhs(n=36, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


@pytest.mark.parametrize(("M", "dtype"), [(None, np.float64), ("jacobi", np.float32), ("chebyshev", np.float64)])
def test_a_sparse_matrix_is_solved_where_it_lies(xp, sparse, M, dtype):
    A, b = poisson(dtype), rhs(dtype=dtype)
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    result = cgopt.cg(sparse(A), xp.asarray(b), M=M, rtol=rtol)
    host = cgopt.cg(A, b, M=M, rtol=rtol)
    assert isinstance(result.x, xp.ndarray)
    assert result.x.dtype == dtype
    assert result.converged
    assert abs(result.iterations - host.iterations) <= 1
    x = result.x.get()
    assert result.residual_norm == pytest.approx(np.linalg.norm(b - A @ x), rel=1e-2)
    assert result.residual_norm <= rtol * np.linalg.norm(b)
    np.testing.assert_allclose(result.history[:4], host.history[:4], rtol=1e-4 if dtype == np.float32 else 1e-10)
    assert result.condition_estimate == pytest.approx(host.condition_estimate, rel=1e-2)


@pytest.mark.parametrize("form", ["csr", "dia", "dense", None])
def test_every_format_solves(xp, sparse, form):
    A, b = poisson(), rhs()
    solver = cgopt.CGSolver(sparse(A), format=form)
    assert solver.operator.format == (form or "dia")
    x = solver.solve(xp.asarray(b), rtol=1e-10).x.get()
    assert np.linalg.norm(b - A @ x) <= 1e-10 * np.linalg.norm(b)
    host = solver.operator.to_host()
    assert np.array_equal(host if form == "dense" else host.toarray(), A.toarray())


def many_rhs(k=4):
    """Random right-hand sides, one that is zero, and an eigenvector, which converges at once."""
    B = np.stack([rhs(seed=s) for s in range(k)], axis=1)
    B[:, 1] = 0.0
    B[:, 2] = np.outer(*[np.sin(np.pi * np.arange(1, 7) / 7.0)] * 2).ravel()
    return B


@pytest.mark.parametrize("M", [None, "jacobi", "chebyshev", "multigrid"])
def test_many_right_hand_sides_go_together(xp, sparse, M):
    A, B = poisson(), many_rhs()
    solver = cgopt.CGSolver(sparse(A) if M else xp.asarray(A.toarray()), M=M)
    result = solver.solve(xp.asarray(B), rtol=1e-9)
    assert isinstance(result.x, xp.ndarray)
    assert result.converged
    assert (np.linalg.norm(B - A @ result.x.get(), axis=0) <= 1e-9 * np.linalg.norm(B, axis=0)).all()
    for j, column in enumerate(result.columns):
        alone = solver.solve(xp.asarray(B[:, j].copy()), rtol=1e-9)
        assert abs(column.iterations - alone.iterations) <= 1
        np.testing.assert_allclose(column.history[:4], alone.history[:4], rtol=1e-6, atol=1e-13)
    assert np.array_equal(solver.solve(xp.asarray(B), rtol=1e-9).x.get(), result.x.get())


def test_columns_that_have_converged_are_left_alone(xp):
    A, B, widths = xp.asarray(poisson().toarray()), many_rhs(), []

    class Counted:
        shape, dtype, on_device = (36, 36), np.dtype(np.float64), True

        def matvec(self, x):
            return A @ x

        def matmat(self, X):
            widths.append(X.shape[1])
            return A @ X

    result = cgopt.cg(Counted(), xp.asarray(B), rtol=1e-9, check=False)
    assert result.converged
    assert [c.iterations for c in result.columns[1:3]] == [0, 1]
    assert widths[:3] == [3, 1, 2]  # of four, one is zero; one is done, which its true residual says; two are left
    assert max(widths[2:]) == 2


def test_many_right_hand_sides_and_a_matrix_that_is_not_positive_definite(xp):
    A = np.diag([3.0, 2.0, 1.0, 1.0, 4.0, 5.0])
    A[3, 4] = A[4, 3] = 3.0
    result = cgopt.cg(xp.asarray(A), xp.asarray(np.eye(6)[:, [1, 3]]))
    assert [status.name for status in result.statuses] == ["CONVERGED", "INDEFINITE"]
    d = result.columns[1].negative_curvature.get()
    assert d @ A @ d <= 0.0


def test_many_right_hand_sides_with_guesses_limits_and_scales(xp, sparse):
    A, B, seen = poisson(), many_rhs(), []
    C = sparse(A)
    exact = cgopt.cg(C, xp.asarray(B), rtol=1e-12).x
    near = cgopt.cg(C, xp.asarray(B), exact, rtol=1e-9)
    assert near.iterations == 0
    scale = np.array([1.0, 1.0, 1.0, 1e200])
    result = cgopt.cg(C, xp.asarray(B * scale), rtol=1e-9, callback=lambda x: seen.append(x.copy()), maxiter=3)
    assert [status.name for status in result.statuses] == ["MAXITER", "CONVERGED", "CONVERGED", "MAXITER"]
    assert len(seen) == 3
    assert np.array_equal(seen[-1].get(), result.x.get())
    true = np.linalg.norm(B - A @ (result.x.get() / scale), axis=0)
    np.testing.assert_allclose(result.residual_norm / scale, true, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("form", "M"), [("csr", None), ("dia", "jacobi"), ("function", "chebyshev")])
def test_block_cg(xp, sparse, form, M):
    A, B = poisson(), many_rhs(5)
    B[:, 4] = B[:, 0] - 2.0 * B[:, 3]  # dependent
    C, dense = sparse(A), xp.asarray(A.toarray())
    operator = (lambda V: dense @ V) if form == "function" else C
    M = cgopt.preconditioners.Chebyshev(C) if M == "chebyshev" else M
    solve = {"format": form} if form != "function" else {}
    result = cgopt.block_cg(operator, xp.asarray(B), M=M, rtol=1e-9, **solve)
    host = cgopt.block_cg(A, B, M="chebyshev" if form == "function" else M, rtol=1e-9)
    assert isinstance(result.x, xp.ndarray)
    assert result.converged
    assert abs(result.iterations - host.iterations) <= 1
    assert (np.linalg.norm(B - A @ result.x.get(), axis=0) <= 1e-9 * np.linalg.norm(B, axis=0)).all()
    assert list(result.block_sizes[:2]) == list(host.block_sizes[:2])
    assert cgopt.block_cg(C, xp.asarray(B), result.x, rtol=1e-8).iterations == 0


def test_block_cg_names_a_direction(xp):
    A = poisson().toarray() - 2.0 * np.eye(36)
    result = cgopt.block_cg(xp.asarray(A), xp.asarray(many_rhs()))
    assert result.status is cgopt.Status.INDEFINITE
    d = result.negative_curvature.get()
    assert d @ A @ d <= 0.0


def test_a_function_of_arrays_on_the_gpu(xp):
    A, b = xp.asarray(poisson().toarray()), rhs()
    result = cgopt.cg(lambda v: A @ v, xp.asarray(b), rtol=1e-9)
    assert result.converged
    assert np.linalg.norm(b - poisson() @ result.x.get()) <= 1e-9 * np.linalg.norm(b)


def test_sums_multiples_and_damping(xp):
    A, b = xp.asarray(poisson().toarray()), rhs()
    operator = 2.0 * cgopt.operators.Damped(A, 0.5) + DeviceMatrix(A)
    x = cgopt.cg(operator, xp.asarray(b), rtol=1e-9).x.get()
    host = 3.0 * poisson().toarray() + np.eye(36)
    assert np.linalg.norm(b - host @ x) <= 1e-9 * np.linalg.norm(b)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_the_scale_of_a_system_changes_nothing(xp, scale):
    A, b = poisson().toarray(), rhs()
    plain = cgopt.cg(xp.asarray(A), xp.asarray(b), M="jacobi", rtol=1e-8)
    other = cgopt.cg(xp.asarray(A * scale), xp.asarray(b), M="jacobi", rtol=1e-8)
    third = cgopt.cg(xp.asarray(A), xp.asarray(b * scale), M="jacobi", rtol=1e-8)
    assert plain.iterations == other.iterations == third.iterations
    np.testing.assert_allclose(other.x.get() * scale, plain.x.get(), rtol=1e-9)
    np.testing.assert_allclose(third.x.get() / scale, plain.x.get(), rtol=1e-9)


def test_initial_guess_zero_and_limits(xp):
    A, b = poisson().toarray(), rhs()
    solver = cgopt.CGSolver(xp.asarray(A))
    x = solver.solve(xp.asarray(b), rtol=1e-10).x
    assert solver.solve(xp.asarray(b), x, rtol=1e-6).iterations == 0
    assert solver.solve(xp.zeros(36)).x.get().any() == False  # noqa: E712
    short = solver.solve(xp.asarray(b), rtol=1e-10, maxiter=3)
    assert short.status is cgopt.Status.MAXITER
    assert short.residual_norm == pytest.approx(np.linalg.norm(b - A @ short.x.get()), rel=1e-6)


def test_an_indefinite_matrix_is_named_with_its_direction(xp):
    A = poisson().toarray() - 2.0 * np.eye(36)
    result = cgopt.cg(xp.asarray(A), xp.asarray(rhs()))
    assert result.status is cgopt.Status.INDEFINITE
    d = result.negative_curvature.get()
    assert d @ A @ d <= 0.0
    A[7, 7] = -1.0
    d = cgopt.cg(xp.asarray(A), xp.asarray(rhs())).negative_curvature.get()
    assert d @ A @ d <= 0.0


def test_callbacks_see_iterates_on_the_gpu(xp):
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result.x.copy())
        return StopIteration if intermediate_result.iteration == 4 else None

    result = cgopt.cg(xp.asarray(poisson().toarray()), xp.asarray(rhs()), callback=callback)
    assert result.status is cgopt.Status.STOPPED
    assert len(seen) == 4
    assert np.array_equal(seen[-1].get(), result.x.get())


def test_stopping_on_the_error(xp):
    A, b = poisson().toarray(), rhs()
    result = cgopt.cg(xp.asarray(A), xp.asarray(b), criterion="error", rtol=1e-4, eigenvalue_bound=0.1)
    error = result.x.get() - np.linalg.solve(A, b)
    exact = np.linalg.solve(A, b)
    assert result.status is cgopt.Status.ACCURATE
    assert error @ A @ error <= (1e-4) ** 2 * (exact @ A @ exact)


@pytest.mark.parametrize("M", [None, "jacobi"])
def test_systems_without_unknowns_or_entries(xp, sparse, M):
    for A in (xp.zeros((0, 0)), sparse(sp.csr_matrix((0, 0)))):
        assert cgopt.cg(A, xp.zeros(0), M=M).x.shape == (0,)
    empty = sp.csr_matrix((3, 3))
    assert DeviceMatrix(sparse(empty)).norm_bound == 0.0
    if M is None:
        assert cgopt.cg(sparse(empty), xp.ones(3)).status is cgopt.cg(empty, np.ones(3)).status


# --- what cannot be ---------------------------------------------------------------------------------------------


def test_mixed_inputs_are_refused_with_the_remedy(xp):
    A, b = poisson(), rhs()
    with pytest.raises(TypeError, match=r"pass b as cupy.asarray\(b\)"):
        cgopt.cg(xp.asarray(A.toarray()), b)
    with pytest.raises(TypeError, match=r"pass A as cupyx.scipy.sparse.csr_matrix\(A\), or b\.get\(\)"):
        cgopt.cg(A, xp.asarray(b))
    with pytest.raises(TypeError, match=r"pass b\.get\(\)"):
        cgopt.CGSolver(A).solve(xp.asarray(b))
    with pytest.raises(TypeError, match=r"pass x0 as cupy.asarray\(x0\)"):
        cgopt.cg(xp.asarray(A.toarray()), xp.asarray(b), b)
    with pytest.raises(TypeError, match=r"g lies on a device .*pass g\.get\(\)"):
        cgopt.trust_region_cg(A, xp.asarray(b), 1.0)
    for use in (cgopt.preconditioners.SSOR, cgopt.preconditioners.BlockJacobi, cgopt.operators.trace):
        with pytest.raises(TypeError, match="A is on a device"):
            use(xp.asarray(A.toarray()))
    with pytest.raises(TypeError, match=r"A lies on a device .* pass B as cupy.asarray\(B\)"):
        cgopt.block_cg(xp.asarray(A.toarray()), np.stack([b, b], axis=1))
    with pytest.raises(TypeError, match=r"pass X0 as cupy.asarray\(X0\)"):
        cgopt.block_cg(lambda v: v, xp.asarray(b[:, None]), b[:, None])
    with pytest.raises(TypeError, match="A is on a device"):
        cgopt.cg(DeviceMatrix(xp.asarray(A.toarray())), b)
    with pytest.raises(TypeError, match="M on such in host memory"):
        cgopt.cg(xp.asarray(A.toarray()), xp.asarray(b), M=np.eye(36))
    with pytest.raises(TypeError, match="must return an array on the GPU"):
        cgopt.cg(lambda v: v.get(), xp.asarray(b))


def test_bad_matrices_are_refused(xp, sparse):
    b = xp.asarray(rhs())
    with pytest.raises(ValueError, match="square"):
        cgopt.cg(xp.zeros((36, 35)), b)
    bad = poisson().toarray()
    bad[3, 4] = np.nan
    with pytest.raises(ValueError, match="A holds NaN"):
        cgopt.cg(xp.asarray(bad), b)
    skew = poisson().toarray()
    skew[3, 4] += 1.0
    with pytest.raises(ValueError, match="not symmetric"):
        cgopt.cg(xp.asarray(skew), b)
    with pytest.raises(ValueError, match="b holds NaN or infinity at index"):
        cgopt.cg(xp.asarray(poisson().toarray()), xp.asarray(np.full(36, np.inf)))
    with pytest.raises(TypeError, match="complex"):
        cgopt.cg(xp.asarray(poisson().toarray() + 0j), b)
    with pytest.raises(ValueError, match="on the GPU, got 'sorted'"):
        cgopt.CGSolver(sparse(poisson()), format="sorted")
    with pytest.raises(TypeError, match="runs in host memory only"):
        cgopt.CGSolver(sparse(poisson()), M="ssor")


def test_inputs_stay_as_they_are(xp, sparse):
    A, b, x0 = poisson(), rhs(), rhs(seed=1)
    C, c, y0 = sparse(A), xp.asarray(b), xp.asarray(x0)
    cgopt.cg(C, c, y0, M="jacobi")
    assert np.array_equal(c.get(), b)
    assert np.array_equal(y0.get(), x0)
    assert np.array_equal(C.data.get(), A.data)


class Tensor:
    """A tensor of a library that speaks DLPack, on a device; with torch's names."""

    is_cuda, layout = True, "torch.strided"

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **kwargs):
        return self.array

    def crow_indices(self):
        raise RuntimeError("this tensor is dense")

    shape = property(lambda self: self.array.shape)


class CSRTensor:
    """What is asked of torch's sparse tensors, which do not speak DLPack."""

    is_cuda, layout = True, "torch.sparse_csr"

    def __init__(self, A, xp):
        self.shape = A.shape
        self.parts = [Tensor(xp.asarray(a)) for a in (A.indptr.astype(np.int64), A.indices.astype(np.int64), A.data)]

    def crow_indices(self):
        return self.parts[0]

    def col_indices(self):
        return self.parts[1]

    def values(self):
        return self.parts[2]


@pytest.mark.parametrize("sparse_tensor", [False, True])
def test_foreign_tensors_come_in_and_go_out(emulated, monkeypatch, sparse_tensor):
    monkeypatch.setattr(emulated, "from_dlpack", lambda a: a.__dlpack__(), raising=False)
    library = types.ModuleType("library_of_tensors")
    library.from_dlpack = Tensor
    monkeypatch.setitem(sys.modules, "library_of_tensors", library)
    monkeypatch.setattr(Tensor, "__module__", "library_of_tensors")
    A, b = poisson(), rhs()
    matrix = CSRTensor(A, emulated) if sparse_tensor else Tensor(emulated.asarray(A.toarray()))
    result = cgopt.cg(matrix, Tensor(emulated.asarray(b)), rtol=1e-9)
    assert isinstance(result.x, Tensor)
    assert np.linalg.norm(b - A @ result.x.array.get()) <= 1e-9 * np.linalg.norm(b)


def test_tensors_of_torch(on_device):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch here has no GPU")
    A, b = torch.tensor(poisson().toarray(), device="cuda"), torch.tensor(rhs(), device="cuda")
    for matrix in (A, A.to_sparse_csr()):
        result = cgopt.cg(matrix, b, rtol=1e-9)
        assert result.x.is_cuda
        assert float(torch.linalg.norm(b - A @ result.x)) <= 1e-9 * float(torch.linalg.norm(b))


def test_arrays_of_jax(on_device):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("jax here has no GPU")
    A, b = jax.numpy.asarray(poisson(np.float32).toarray()), jax.numpy.asarray(rhs(dtype=np.float32))
    result = cgopt.cg(A, b, rtol=1e-4)
    assert isinstance(result.x, jax.Array)
    assert float(jax.numpy.linalg.norm(b - A @ result.x)) <= 1.01e-4 * float(jax.numpy.linalg.norm(b))


def test_without_cupy_or_device_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)

    class Tensor:
        shape = (3,)

        def __dlpack__(self, **kwargs):
            raise AssertionError("not reached")

        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(RuntimeError, match=r"b lies on a device, and CuPy.*pip install 'cgopt\[cuda13\]'"):
        cgopt.cg(lambda v: v, Tensor())


def test_the_configuration_names_what_there_is_and_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(cgopt.configuration, "version_of", {"numpy": "2.9", "pyamg": "5.0"}.get)
    cgopt.show_config()
    shown = capsys.readouterr().out
    assert f"cgopt {cgopt.__version__}" in shown
    assert "numpy 2.9" in shown
    assert "threads in use" in shown
    assert "GPU: none in use; CuPy" in shown
    assert "missing: safetensors, for networks in files: pip install 'cgopt[nn]'" in shown
    assert "missing: pyamg" not in shown


def test_the_configuration_names_devices(emulated, monkeypatch):
    told = {"name": b"Some GPU", "major": 9, "minor": 0, "totalGlobalMem": 80 * 2**30, "multiProcessorCount": 132}
    runtime = emulated.cuda.runtime
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: 13020, raising=False)
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda id: told, raising=False)
    (line,) = [line for line in cgopt.configuration.describe() if line.startswith("GPU:")]
    assert "CUDA 13" in line
    assert "device 0: Some GPU, compute capability 9.0, 80 GiB, 132 multiprocessors" in line
