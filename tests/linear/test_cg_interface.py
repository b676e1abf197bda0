"""`cgopt.cg` in the place of `scipy.sparse.linalg.cg`: the same calls, shapes, types and meanings.

SciPy itself is the oracle where the two shall agree; where they differ (many right-hand sides, the last
iterate, info below zero) a theorem or the definition is.
"""

from __future__ import annotations

import inspect
import itertools
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

import cgopt
from cgopt import Status

N = 20
RTOL = 1e-5


def spd(dtype=np.float64):
    """A banded SPD matrix with an uneven diagonal; integers, so that every type holds it exactly."""
    A = np.diag(np.arange(6, 6 + N)) - 2 * np.eye(N, k=1) - 2 * np.eye(N, k=-1) + np.eye(N, k=5) + np.eye(N, k=-5)
    if np.dtype(dtype).kind == "c":
        A = A + 1j * np.eye(N, k=2) - 1j * np.eye(N, k=-2)
    return A.astype(dtype)


def rhs(dtype=np.float64):
    """A right-hand side of small integers that is no eigenvector of anything here."""
    b = np.array([(7 * i * i + 3 * i) % 11 - 5 for i in range(N)])
    return (b + 1j * np.roll(b, 3) if np.dtype(dtype).kind == "c" else b).astype(dtype)


def true_residual(A, x, b):
    """``|b - A x|`` in double precision."""
    A, x, b = (np.asarray(v, np.result_type(np.asarray(v).dtype, np.float64)) for v in (A, x, b))
    return np.linalg.norm(b - A @ x)


def assert_solves(A, x, b, rtol=RTOL):
    # 1e-6: cgopt's own sums and these are in fp64, in another order
    assert true_residual(A, x, b) <= rtol * np.linalg.norm(b) * (1 + 1e-6)


# --- the call -----------------------------------------------------------------------------------------------


def test_signature_begins_as_scipys():
    ours, theirs = (inspect.signature(f).parameters for f in (cgopt.cg, sla.cg))
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind, name
        assert ours[name].default == parameter.default, name
    assert list(ours)[:3] == list(theirs)[:3]


def test_maxiter_is_ten_n_by_default():
    # Eigenvalues over fourteen decades: in fp64 neither code is through after 10 n iterations.
    A = cgopt.gallery.prescribed_spectrum(np.logspace(0, 14, 40), rng=1)
    b = np.ones(40)
    assert sla.cg(A, b, rtol=1e-13)[1] == 400
    result = cgopt.cg(A, b, rtol=1e-13)
    assert (result.status, result.info, result.iterations) == (Status.MAXITER, 400, 400)


def test_result_unpacks_as_scipys():
    A, b = spd(), rhs()
    x, info = cgopt.cg(A, b)
    assert type(x) is np.ndarray
    assert type(info) is int
    assert info == 0
    result = cgopt.cg(A, b)
    assert len(result) == 2
    assert result[0] is result.x
    assert result[1] == result.info == 0
    X, info = cgopt.cg(A, np.stack([b, 2 * b], 1))
    assert X.shape == (N, 2)
    assert info == 0


def test_iterates_are_scipys():
    A, b = spd(), rhs()
    ours, theirs = [], []
    result = cgopt.cg(A, b, rtol=1e-10, callback=lambda x: ours.append(x.copy()))
    x, _ = sla.cg(A, b, rtol=1e-10, callback=lambda x: theirs.append(x.copy()))
    assert len(ours) == len(theirs) == result.iterations
    # the matrix has condition 6 and there are a few dozen iterations: rounding stays near its unit
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(x).max())
    np.testing.assert_allclose(result.x, x, rtol=0, atol=1e-12 * np.abs(x).max())


def test_info_is_zero_positive_or_negative():
    A, b = spd(), rhs()
    assert cgopt.cg(A, b).info == 0
    assert cgopt.cg(A, b, maxiter=3).info == 3
    assert cgopt.cg(-A, b).info < 0
    assert sla.cg(A, b, maxiter=3)[1] == 3


def test_statuses_say_what_to_do():
    for status in Status:
        assert status.value.endswith(".")
        assert str(status).startswith(f"{status.name}: ")
    assert [s for s in Status if s.converged] == [Status.CONVERGED, Status.ACCURATE]
    assert not Status.MAXITER.breakdown
    assert not Status.STOPPED.breakdown


# --- types and shapes ---------------------------------------------------------------------------------------

TYPES = [np.int64, np.float32, np.float64, np.complex64, np.complex128]


@pytest.mark.parametrize(("type_A", "type_b"), list(itertools.product(TYPES, TYPES)))
def test_dtype_of_x_is_scipys(type_A, type_b):
    A, b = spd(type_A), rhs(type_b)
    expected, _ = sla.cg(A, b)
    x, info = cgopt.cg(A, b)
    assert x.dtype == expected.dtype
    assert info == 0
    assert_solves(A, x, b)


@pytest.mark.parametrize("start", [np.float64, np.int64])
@pytest.mark.parametrize("system", [np.float32, np.complex64])
def test_a_guess_does_not_change_the_dtype(system, start):
    # SciPy casts x0 to the type of the system; a float64 guess shall not double the cost of a float32 solve.
    A, b = spd(system), rhs(system)
    expected, _ = sla.cg(A, b, np.ones(N, start))
    assert cgopt.cg(A, b, np.ones(N, start)).x.dtype == expected.dtype == system


def test_booleans_and_other_byte_orders_are_cast():
    A, b = spd(), rhs()
    x, info = cgopt.cg(A.astype(">f8"), b.astype(">f8"))
    assert x.dtype == np.float64
    assert info == 0
    assert_solves(A, x, b)
    assert cgopt.cg(np.eye(N, dtype=bool), b).x.tolist() == b.tolist()


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_shape_of_x_is_scipys(shape):
    b = rhs().reshape(shape)
    assert cgopt.cg(spd(), b).x.shape == sla.cg(spd(), b)[0].shape == (N,)
    assert cgopt.cg(spd(), b, np.ones(N)).x.shape == (N,)
    assert cgopt.cg(spd(), b, np.ones((N, 1))).x.shape == (N,)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("A", [spd(), spd(complex), sp.csr_array(spd())], ids=["dense", "complex", "sparse"])
def test_many_right_hand_sides_are_solved_as_one_by_one(A, order):
    B = np.asarray(np.stack([rhs(), rhs()[::-1] ** 2, np.arange(N) - 9.5], 1), order=order)
    many = cgopt.cg(A, B, rtol=1e-10)
    assert many.x.shape == (N, 3)
    assert many.converged
    assert many.iterations == max(c.iterations for c in many.columns)
    for j, column in enumerate(many.columns):
        single = cgopt.cg(A, B[:, j], rtol=1e-10)
        assert column.iterations == single.iterations
        np.testing.assert_array_equal(column.x, many.x[:, j])
        np.testing.assert_allclose(column.x, single.x, rtol=0, atol=1e-12 * np.abs(single.x).max())
        np.testing.assert_allclose(column.history, single.history, rtol=1e-3, atol=1e-13 * single.history[0])
        assert many.residual_norm[j] == column.residual_norm


def test_one_by_one_systems():
    assert cgopt.cg([[4.0]], [2.0]).x.tolist() == [0.5]
    assert cgopt.cg([[4.0]], [[2.0]]).x.tolist() == [0.5]
    assert cgopt.cg([[4.0]], [[2.0, 8.0]]).x.tolist() == [[0.5, 2.0]]


@pytest.mark.parametrize(
    "A", [np.zeros((0, 0)), sp.csr_array((0, 0)), lambda v: v], ids=["dense", "sparse", "callable"]
)
def test_empty_systems_are_solved(A):
    # SciPy answers (array([]), 0)
    x, info = cgopt.cg(A, np.zeros(0))
    assert x.shape == (0,)
    assert info == 0


def test_no_right_hand_sides_at_all():
    result = cgopt.cg(spd(), np.zeros((N, 0)))
    assert result.x.shape == (N, 0)
    assert result.info == 0
    assert result.iterations == 0


# --- what A may be ------------------------------------------------------------------------------------------


class Product:
    """The least that is an operator: shape and matvec."""

    def __init__(self, A):
        self.A, self.shape = A, A.shape

    def matvec(self, v):
        return self.A @ v


KINDS = {
    "C order": np.ascontiguousarray,
    "F order": np.asfortranarray,
    "np.matrix": lambda A: A.view(np.matrix),
    "strided": lambda A: np.kron(A, np.ones((2, 3)))[::2, ::3],
    "reversed": lambda A: A[::-1, ::-1].copy()[::-1, ::-1],
    "nested list": lambda A: A.tolist(),
    "tuple of rows": lambda A: tuple(map(tuple, A)),
    "LinearOperator": sla.aslinearoperator,
    "LinearOperator of a function": lambda A: sla.LinearOperator(A.shape, matvec=lambda v: A @ v, dtype=A.dtype),
    "callable": lambda A: lambda v: A @ v,
    "callable giving lists": lambda A: lambda v: (A @ v).tolist(),
    "callable giving columns": lambda A: lambda v: (A @ v)[:, None],
    "object with matvec": Product,
    "cgopt operator": cgopt.operators.as_operator,
}
KINDS |= {
    f"{form} {kind}": lambda A, form=form, kind=kind: getattr(sp, f"{form}_{kind}")(A)
    for form, kind in itertools.product(["bsr", "coo", "csc", "csr", "dia", "dok", "lil"], ["array", "matrix"])
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_matrix_gives_the_same_answer(kind):
    A, b = spd(), rhs()
    result = cgopt.cg(KINDS[kind](A), b, rtol=1e-10)
    assert result.converged
    assert_solves(A, result.x, b, 1e-10)


@pytest.mark.parametrize(
    "kind",
    ["C order", "F order", "csc array", "dia matrix", "LinearOperator", "callable", "object with matvec"],
)
def test_hermitian_matrices_are_not_transposed_on_the_way_in(kind):
    # a Hermitian matrix and its transpose differ: a layout read along the wrong axis shows up here
    A, b = spd(complex), rhs(complex)
    result = cgopt.cg(KINDS[kind](A), b, rtol=1e-10)
    assert result.converged
    assert_solves(A, result.x, b, 1e-10)


@pytest.mark.parametrize("format", ["csr", "dia", "dense"])
def test_every_storage_layout_gives_the_same_answer(format):
    A, b = spd(), rhs()
    result = cgopt.cg(sp.coo_array(A), b, rtol=1e-10, format=format)
    assert result.converged
    assert_solves(A, result.x, b, 1e-10)


def test_unsorted_and_duplicate_entries_are_summed():
    A, b = spd(), rhs()
    half = sp.coo_array(A / 2)
    order = np.random.default_rng(3).permutation(2 * half.nnz) % half.nnz
    twice = (half.data[order], (half.row[order], half.col[order]))
    assert_solves(A, cgopt.cg(sp.coo_array(twice, shape=A.shape), b).x, b)
    rows = np.argsort(twice[1][0], kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(twice[1][0], minlength=N)))
    raw = sp.csr_array((twice[0][rows], twice[1][1][rows], indptr), shape=A.shape)
    assert not raw.has_canonical_format
    for format in ("csr", "sorted", "dia", "dense"):
        operator = cgopt.operators.MatrixOperator(raw, format=format)
        np.testing.assert_allclose(operator @ b, A @ b, rtol=1e-14)


def test_wide_indices_are_taken():
    A, b = sp.csr_array(spd()), rhs()
    A.indices, A.indptr = A.indices.astype(np.int64), A.indptr.astype(np.int64)
    assert_solves(A.toarray(), cgopt.cg(A, b).x, b)


# --- tensors ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="tensors need torch")


def torch_csr(torch, A):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.from_numpy(A).to_sparse_csr()


def test_dense_tensor_is_viewed_not_copied(torch):
    tensor = torch.from_numpy(spd())
    solver = cgopt.CGSolver(tensor)
    assert solver.operator.layout.values.ctypes.data == tensor.data_ptr()


def test_sparse_tensor_is_viewed_not_copied(torch):
    tensor = torch_csr(torch, spd())
    solver = cgopt.CGSolver(tensor)
    assert solver.operator.layout.data.ctypes.data == tensor.values().data_ptr()
    assert_solves(spd(), solver.solve(rhs()).x, rhs())


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_tensor_in_tensor_out(torch, dtype):
    A, b = spd(dtype), rhs(dtype)
    x, info = cgopt.cg(torch.from_numpy(A), torch.from_numpy(b))
    assert isinstance(x, torch.Tensor)
    assert x.dtype == getattr(torch, dtype)
    assert info == 0
    assert_solves(A, x.numpy(), b)


def test_the_right_hand_side_decides_whose_array_x_is(torch):
    A, b = spd(), rhs()
    assert isinstance(cgopt.cg(A, torch.from_numpy(b)).x, torch.Tensor)
    assert isinstance(cgopt.cg(torch_csr(torch, A), torch.from_numpy(b)).x, torch.Tensor)
    assert isinstance(cgopt.cg(lambda v: A @ v, torch.from_numpy(b)).x, torch.Tensor)
    assert isinstance(cgopt.cg(A, torch.zeros(N, dtype=torch.float64)).x, torch.Tensor)
    assert type(cgopt.cg(torch.from_numpy(A), b).x) is np.ndarray
    assert type(cgopt.cg(A, b, torch.ones(N, dtype=torch.float64)).x) is np.ndarray
    many = cgopt.cg(A, torch.from_numpy(np.stack([b, b], 1)))
    assert isinstance(many.x, torch.Tensor)
    assert many.x.shape == (N, 2)


@pytest.mark.filterwarnings("ignore")  # jax warns of its own use of deprecated NumPy on import in some versions
def test_arrays_of_jax_in_and_out():
    jnp = pytest.importorskip("jax.numpy", reason="its arrays need jax")
    A, b = spd("float32"), rhs("float32")
    for matrix in (A, jnp.asarray(A), A.astype(np.float64)):
        x, info = cgopt.cg(matrix, jnp.asarray(b))
        assert isinstance(x, type(jnp.asarray(b)))
        assert info == 0
        assert_solves(A, np.asarray(x), b)


def test_a_function_may_answer_with_tensors(torch):
    A, b = spd(), rhs()
    tensor = torch.from_numpy(A)
    assert_solves(A, cgopt.cg(lambda v: tensor @ torch.tensor(v), b).x, b)


# --- callbacks ----------------------------------------------------------------------------------------------

MATRICES = {"compiled": spd(), "interpreted": KINDS["callable"](spd())}


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_callback_sees_each_iterate(A):
    seen = []
    result = cgopt.cg(A, rhs(), rtol=1e-10, callback=lambda x: seen.append(x.copy()))
    assert len(seen) == result.iterations
    np.testing.assert_array_equal(seen[-1], result.x)
    # the residuals of what it saw are the history (fp64: |A| |x| u is 1e-14 here)
    residuals = [true_residual(spd(), x, rhs()) for x in [np.zeros(N), *seen]]
    np.testing.assert_allclose(result.history, residuals, rtol=1e-10, atol=1e-13)
    # and the error's A-norm falls at each step (Hestenes and Stiefel 1952, theorem 4:3)
    exact = np.linalg.solve(spd(), rhs())
    errors = [np.sqrt((x - exact) @ spd() @ (x - exact)) for x in [np.zeros(N), *seen]]
    assert (np.diff(errors) < 0).all()


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_a_callback_that_only_listens_changes_no_bit(A):
    np.testing.assert_array_equal(cgopt.cg(A, rhs(), callback=lambda x: None).x, cgopt.cg(A, rhs()).x)


def test_callback_cannot_write_into_the_iterate():
    def meddle(x):
        x[0] = 1.0

    with pytest.raises(ValueError, match="read-only"):
        cgopt.cg(spd(), rhs(), callback=meddle)


def test_callback_by_name_gets_the_state():
    states = []

    def note(intermediate_result):
        states.append((intermediate_result, intermediate_result.x.copy()))

    result = cgopt.cg(spd(), rhs(), rtol=1e-8, callback=note)
    assert [s.iteration for s, _ in states] == list(range(1, result.iterations + 1))
    np.testing.assert_allclose([s.residual_norm for s, _ in states], result.history[1:], rtol=1e-15)
    for state, x in states:
        assert isinstance(state, cgopt.IterationState)
        assert state.target == pytest.approx(1e-8 * np.linalg.norm(rhs()), rel=1e-12)
        assert state.alpha > 0.0
        assert x.shape == (N,)
    np.testing.assert_array_equal(states[-1][1], result.x)


def test_callback_by_name_of_many():
    states = []

    def note(*, intermediate_result):
        states.append(intermediate_result)

    B = np.stack([rhs(), np.roll(rhs(), 1)], 1)
    result = cgopt.cg(spd(), B, callback=note)
    assert [s.iteration for s in states] == list(range(1, result.iterations + 1))
    assert states[0].x.shape == (N, 2)
    for name in ("residual_norm", "alpha", "beta", "target"):
        assert getattr(states[0], name).shape == (2,)
    np.testing.assert_allclose(states[0].target, RTOL * np.linalg.norm(B, axis=0), rtol=1e-12)


def test_callback_may_be_builtin():
    seen = []
    result = cgopt.cg(spd(), rhs(), callback=seen.append)
    assert len(seen) == result.iterations


def returns_class(x):
    return StopIteration


def returns_instance(x):
    return StopIteration()


def raises(x):
    raise StopIteration


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
@pytest.mark.parametrize("answer", [returns_class, returns_instance, raises])
def test_stop_iteration_ends_the_solve(answer, A, columns):
    calls = []

    def stop_at_second(x):
        calls.append(x.copy())
        return answer(x) if len(calls) == 2 else None

    b = rhs() if columns == 1 else np.stack([rhs()] * columns, 1)
    result = cgopt.cg(A, b, callback=stop_at_second)
    assert result.status is Status.STOPPED
    assert result.info == result.iterations == len(calls) == 2
    np.testing.assert_array_equal(result.x, calls[-1])
    np.testing.assert_allclose(result.residual_norm, np.linalg.norm(b - spd() @ result.x, axis=0), rtol=1e-12)


def test_a_stop_at_the_converged_iterate_is_convergence():
    result = cgopt.cg(np.eye(N), rhs(), callback=raises)
    assert result.status is Status.CONVERGED


def test_other_exceptions_of_a_callback_pass_and_the_solver_stays_usable():
    class Mine(Exception):
        pass

    def fail(x):
        raise Mine

    solver = cgopt.CGSolver(spd())
    with pytest.raises(Mine):
        solver.solve(rhs(), callback=fail)
    assert solver.solve(rhs()).converged


def test_progress_is_told_by_state():
    states = []
    result = cgopt.cg(spd(), rhs(), progress=states.append)
    assert states[-1].iteration == result.iterations
    assert states[-1].residual_norm == pytest.approx(result.residual_norm)


# --- initial guess ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_guess_is_where_it_starts(A):
    x0 = np.linspace(-1, 1, N)
    result = cgopt.cg(A, rhs(), x0)
    assert result.history[0] == pytest.approx(true_residual(spd(), x0, rhs()), rel=1e-12)
    assert_solves(spd(), result.x, rhs())


def test_guess_is_not_overwritten():
    x0 = np.linspace(-1, 1, N)
    before = x0.copy()
    x, _ = cgopt.cg(spd(), rhs(), x0)
    np.testing.assert_array_equal(x0, before)
    assert not np.shares_memory(x, x0)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_exact_guess_needs_no_iteration(A, columns):
    exact = np.arange(float(N * columns)).reshape(N, columns).squeeze()
    result = cgopt.cg(A, spd() @ exact, exact)
    assert (result.info, result.iterations) == (0, 0)
    np.testing.assert_array_equal(result.x, exact)
    assert not np.shares_memory(result.x, exact)


@pytest.mark.parametrize("M", [None, "jacobi", np.diag(1 / np.arange(6.0, 6 + N))], ids=["none", "jacobi", "matrix"])
@pytest.mark.parametrize("columns", [1, 2])
def test_guess_Mb(M, columns):
    b = rhs() if columns == 1 else np.stack([rhs(), np.roll(rhs(), 1)], 1)
    first = b if M is None else (b.T / np.arange(6.0, 6 + N)).T
    A = sp.csr_array(spd())
    named, given = cgopt.cg(A, b, "Mb", M=M), cgopt.cg(A, b, first, M=M)
    np.testing.assert_allclose(named.x, given.x, rtol=1e-13)
    assert named.iterations == given.iterations
    if columns == 1:
        expected, _ = sla.cg(spd(), b, "Mb", M=np.diag(1 / np.arange(6.0, 6 + N)) if M is not None else None)
        np.testing.assert_allclose(named.x, expected, rtol=1e-10)


# --- tolerances ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x0", [None, np.ones(N)], ids=["zero", "ones"])
@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_zero_right_hand_side_has_the_zero_solution(A, x0):
    x, info = cgopt.cg(A, np.zeros(N), x0)
    expected, _ = sla.cg(spd(), np.zeros(N), x0)
    np.testing.assert_array_equal(x, expected)
    assert info == 0
    assert not x.any()


@pytest.mark.parametrize(
    ("rtol", "atol"), [(1e-3, 0.0), (1e-9, 0.0), (0.0, 1e-2), (1e-9, 1e-2), (1e-2, 1e-9), (1, 0), (0, 1e9)]
)
def test_tolerance_is_the_larger_of_the_two(rtol, atol):
    b = rhs()
    result = cgopt.cg(spd(), b, rtol=rtol, atol=atol)
    target = max(rtol * np.linalg.norm(b), atol)
    assert result.converged
    assert result.history[-1] <= target * (1 + 1e-14)
    assert (result.history[:-1] > target * (1 - 1e-14)).all()  # and no iteration too many
    assert result.residual_norm == pytest.approx(true_residual(spd(), result.x, b), rel=1e-6, abs=1e-13)
    counted = []
    sla.cg(spd(), b, rtol=rtol, atol=atol, callback=counted.append)
    assert abs(len(counted) - result.iterations) <= 1  # SciPy asks for `<`, we for `<=`


def test_rtol_is_relative_to_b_not_to_the_first_residual():
    b = rhs()
    x0 = 1e6 * np.ones(N)
    result = cgopt.cg(spd(), b, x0, rtol=1e-6)
    assert result.converged
    assert_solves(spd(), result.x, b, 1e-6)


def test_tolerances_may_be_numpy_scalars():
    b = rhs()
    assert cgopt.cg(spd(), b, rtol=np.float32(1e-3), atol=np.array(0.0), maxiter=np.int32(50)).converged
    assert cgopt.cg(spd(), b, atol=1, maxiter=50.0).converged


# --- maxiter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_no_iterations_allowed(A):
    x0 = np.linspace(-1, 1, N)
    for start in (None, x0):
        result = cgopt.cg(A, rhs(), start, maxiter=0)
        assert (result.status, result.iterations) == (Status.MAXITER, 0)
        assert result.info > 0
        np.testing.assert_array_equal(result.x, np.zeros(N) if start is None else x0)
        assert result.history.shape == (1,)
        assert result.residual_norm == pytest.approx(true_residual(spd(), result.x, rhs()), rel=1e-12)
    exact = np.arange(float(N))
    assert cgopt.cg(A, spd() @ exact, exact, maxiter=0).info == 0


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_one_iteration_is_steepest_descent(A):
    b = rhs()
    result = cgopt.cg(A, b, maxiter=1)
    assert (result.info, result.iterations) == (1, 1)
    np.testing.assert_allclose(result.x, (b @ b) / (b @ spd() @ b) * b, rtol=1e-13)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("interpreted", [False, True])
def test_the_last_iterate_is_tested(interpreted, columns):
    # Four distinct eigenvalues: the fourth iterate is the solution (Hestenes and Stiefel 1952, theorem 4:1).
    Q = cgopt.gallery.prescribed_spectrum(np.repeat([1.0, 2.0, 5.0, 7.0], 5), rng=2)
    A = KINDS["callable"](Q) if interpreted else Q
    b = rhs() if columns == 1 else np.stack([rhs(), np.roll(rhs(), 1)], 1)
    result = cgopt.cg(A, b, rtol=1e-10, maxiter=4)
    assert (result.status, result.info, result.iterations) == (Status.CONVERGED, 0, 4)
    result = cgopt.cg(A, b, rtol=1e-10, maxiter=3)
    assert (result.status, result.info, result.iterations) == (Status.MAXITER, 3, 3)


# --- preconditioners ----------------------------------------------------------------------------------------

D = np.diag(spd())
PRECONDITIONERS = {
    "ndarray": lambda: np.diag(1 / D),
    "sparse array": lambda: sp.diags_array(1 / D),
    "sparse matrix": lambda: sp.csr_matrix(np.diag(1 / D)),
    "LinearOperator": lambda: sla.LinearOperator((N, N), matvec=lambda r: r.ravel() / D, dtype=float),
    "callable": lambda: lambda r: r / D,
    "object with matvec": lambda: Product(np.diag(1 / D)),
    "Jacobi object": lambda: cgopt.preconditioners.Jacobi(spd()),
    "Jacobi of a diagonal": lambda: cgopt.preconditioners.Jacobi(D),
    "Jacobi class": lambda: cgopt.preconditioners.Jacobi,
    "Jacobi name": lambda: "jacobi",
    "to_scipy": lambda: cgopt.preconditioners.Jacobi(spd()).to_scipy(),
}


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("form", PRECONDITIONERS)
def test_every_form_of_a_preconditioner_is_the_same(form, columns):
    b = rhs() if columns == 1 else np.stack([rhs(), np.roll(rhs(), 1)], 1)
    result = cgopt.cg(sp.csr_array(spd()), b, M=PRECONDITIONERS[form](), rtol=1e-10)
    assert result.converged
    for j in range(columns):
        iterates = []
        expected, _ = sla.cg(spd(), b.reshape(N, -1)[:, j], M=np.diag(1 / D), rtol=1e-10, callback=iterates.append)
        column = result if columns == 1 else result.columns[j]
        assert column.iterations == len(iterates)
        np.testing.assert_allclose(column.x, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_the_inverse_as_preconditioner_needs_one_iteration(A):
    result = cgopt.cg(A, rhs(), M=np.linalg.inv(spd()), rtol=1e-10)
    assert (result.info, result.iterations) == (0, 1)


@pytest.mark.parametrize("M", [None, "none", np.eye(N), lambda r: r], ids=["None", "none", "identity", "callable"])
def test_no_preconditioner(M):
    np.testing.assert_allclose(cgopt.cg(spd(), rhs(), M=M).x, cgopt.cg(spd(), rhs()).x, rtol=1e-13)


@pytest.mark.parametrize("precision", [np.float32, np.float64, np.complex64])
def test_preconditioner_in_another_precision(precision):
    A, b = (spd(complex), rhs(complex)) if np.dtype(precision).kind == "c" else (spd(), rhs())
    result = cgopt.cg(A, b, M=np.diag(1 / D).astype(precision), rtol=1e-10)
    assert result.converged
    assert result.x.dtype == A.dtype
    assert_solves(A, result.x, b, 1e-10)


def test_a_solver_solves_again_and_again():
    solver = cgopt.CGSolver(spd(), M="jacobi")
    assert solver.shape == (N, N)
    assert solver.dtype == np.float64
    first = solver.solve(rhs())
    kept = first.x.copy()
    kinds = [
        (np.float64, 1),
        (np.complex128, 1),
        (np.float32, 1),
        (np.float64, 2),
        (np.float32, 3),
        (np.int64, 2),
    ]
    for dtype, columns in kinds:
        b = rhs(dtype) if columns == 1 else np.stack([rhs(dtype)] * columns, 1)
        assert solver.solve(b).converged
    np.testing.assert_array_equal(first.x, kept)  # an answer belongs to whoever has it
    np.testing.assert_array_equal(solver.solve(rhs()).x, kept)


# --- history ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("x0", [None, np.ones(N)], ids=["zero", "ones"])
def test_history_begins_at_iteration_zero(x0, M):
    result = cgopt.cg(spd(), rhs(), x0, M=M, rtol=1e-9)
    assert result.history.shape == (result.iterations + 1,)
    assert result.history[0] == pytest.approx(true_residual(spd(), np.zeros(N) if x0 is None else x0, rhs()), rel=1e-13)
    assert result.history[-1] == pytest.approx(result.residual_norm, rel=1e-13)
    assert result.history[-1] <= 1e-9 * np.linalg.norm(rhs())


def test_history_of_a_solve_longer_than_the_workspace_log():
    # more than 1024 iterations (the log is emptied in between): none is lost or counted twice
    A = cgopt.gallery.poisson(1200)
    result = cgopt.cg(A, np.arange(1200.0) % 7, rtol=1e-9)
    assert result.converged
    assert result.iterations > 1024
    assert result.history.shape == (result.iterations + 1,)
    assert (result.history > 0).all()


# --- many right-hand sides, each with its own end -----------------------------------------------------------


@pytest.mark.parametrize("A", list(MATRICES.values()), ids=list(MATRICES))
def test_each_column_has_a_status(A):
    values, vectors = np.linalg.eigh(spd())
    start = np.zeros((N, 4))
    start[:, 1] = np.arange(N)
    B = np.stack([np.zeros(N), spd() @ np.arange(N), vectors[:, 0], rhs()], 1)
    result = cgopt.cg(A, B, start, maxiter=2, rtol=1e-8)
    zero, exact, eigenvector, hard = result.columns
    assert result.statuses == [Status.CONVERGED] * 3 + [Status.MAXITER]
    assert [c.info for c in result.columns] == [0, 0, 0, 2]
    assert [c.iterations for c in result.columns] == [0, 0, 1, 2]
    assert [c.history.size for c in result.columns] == [1, 1, 2, 3]
    assert (result.status, result.info, result.converged) == (Status.MAXITER, 2, False)
    assert not zero.x.any()
    np.testing.assert_array_equal(exact.x, np.arange(N))
    np.testing.assert_allclose(eigenvector.x, vectors[:, 0] / values[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(hard.x, cgopt.cg(spd(), rhs(), maxiter=2).x, rtol=1e-12)
    np.testing.assert_allclose(result.residual_norm, np.linalg.norm(B - spd() @ result.x, axis=0), atol=1e-12)


def test_columns_that_break_down_do_not_disturb_the_others():
    # a saddle: definite on the first ten coordinates, indefinite on the rest
    half = N // 2
    A = sp.block_diag([spd()[:half, :half], [[1.0, 3.0], [3.0, 1.0]], np.eye(half - 2)]).tocsr()
    good = np.append(rhs()[:half], np.zeros(half))
    bad = np.zeros(N)
    bad[half : half + 2] = 1.0, -1.0
    result = cgopt.cg(A, np.stack([bad, good, 2 * good], 1), rtol=1e-10)
    assert result.statuses == [Status.INDEFINITE, Status.CONVERGED, Status.CONVERGED]
    assert (result.status, result.info) == (Status.INDEFINITE, result.columns[0].info)
    assert result.info < 0
    d = result.columns[0].negative_curvature
    assert d @ (A @ d) < 0.0
    assert result.columns[1].negative_curvature is None
    alone = cgopt.cg(A, good, rtol=1e-10)
    np.testing.assert_allclose(result.x[:, 1], alone.x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.x[:, 2], 2 * alone.x, rtol=0, atol=1e-13)


# --- nothing is written into --------------------------------------------------------------------------------

SCALES = [1.0, 1e-300, 1e300]  # ordinary, and two that make the solver work on a scaled copy


def arrays_of(a):
    if sp.issparse(a):
        a = a.tocsr() if a.format in ("lil", "dok") else a
        return [getattr(a, name) for name in ("data", "indices", "indptr", "row", "col", "offsets") if hasattr(a, name)]
    return [np.asarray(a)]


def snapshot(*inputs):
    return [(v.tobytes(), v.dtype, v.shape) for a in inputs for v in arrays_of(a)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "kind", ["C order", "F order", "csr array", "csc array", "coo array", "dia array", "bsr array"]
)
def test_inputs_are_unchanged_bit_for_bit(kind, scale):
    A = KINDS[kind](spd() * scale)
    M = KINDS[kind](np.diag(1 / D) / scale)
    b, x0 = rhs() * scale, np.linspace(-1, 1, N)
    B, X0 = np.stack([b, b], 1), np.stack([x0, x0], 1)
    before = snapshot(A, M, b, x0, B, X0)
    solver = cgopt.CGSolver(A)
    for right, start in ((b, x0), (b, None), (B, X0)):
        assert solver.solve(right, start).converged
        cgopt.cg(A, right, start, M=M, maxiter=3)
    assert snapshot(A, M, b, x0, B, X0) == before


def test_inputs_may_be_read_only():
    A, b, x0, M = spd(), rhs(), np.ones(N), np.diag(1 / D)
    for array in (A, b, x0, M):
        array.setflags(write=False)
    result = cgopt.cg(A, b, x0, M=M)
    assert result.converged
    assert result.x.flags.writeable
    assert cgopt.cg(np.broadcast_to(2.0, (1, 1)), np.broadcast_to(4.0, (1,))).x.tolist() == [2.0]


# ---- many right-hand sides in groups -------------------------------------------------------------------------------


@pytest.mark.parametrize(("fitting", "sizes"), [(2, [3, 2, 2]), (3, [3, 2, 2]), (4, [4, 3]), (6, [4, 3]), (7, [7])])
def test_groups_that_stay_in_cache_change_no_bit(monkeypatch, fitting, sizes):
    from cgopt.linear import many

    A = cgopt.gallery.poisson((12, 11))
    B = np.random.default_rng(5).standard_normal((132, 7))
    X0 = np.random.default_rng(6).standard_normal((132, 7))
    B[:, 3] = 0.0
    solver = cgopt.CGSolver(A, M="jacobi")
    together = solver.solve(B, X0, rtol=1e-9)
    monkeypatch.setattr(many, "CACHE_BYTES", solver.operator.nbytes + fitting * 4 * 8 * 132)
    assert many.group_sizes(solver._system, 8, 7) == sizes
    result = solver.solve(B, X0, rtol=1e-9)
    assert result.x.shape == (132, 7)
    assert np.array_equal(result.x, together.x)
    assert result.statuses == together.statuses
    for mine, other in zip(result.columns, together.columns, strict=True):
        assert np.array_equal(mine.history, other.history)


def test_a_callback_sees_all_columns_whatever_fits_in_cache(monkeypatch):
    from cgopt.linear import many

    monkeypatch.setattr(many, "CACHE_BYTES", 1)
    shapes = set()
    cgopt.cg(cgopt.gallery.poisson((9, 9)), np.eye(81)[:, :6], callback=lambda x: shapes.add(x.shape))
    assert shapes == {(81, 6)}


# ---- dense matrices of which half is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [48, 49, 50, 51, 130])
def test_reading_the_lower_triangle_solves_the_same_system(n):
    A = cgopt.gallery.prescribed_spectrum(np.linspace(1.0, 50.0, n), rng=n)
    b = np.random.default_rng(n).standard_normal(n)
    result = cgopt.cg(A, b, rtol=1e-12)
    assert result.converged
    assert np.linalg.norm(b - A @ result.x) <= 1.001e-12 * np.linalg.norm(b)


def test_an_unsymmetric_dense_matrix_is_refused_and_judged_by_all_of_its_entries():
    A = cgopt.gallery.prescribed_spectrum(np.linspace(1.0, 10.0, 64), rng=0)
    A[np.triu_indices(64, 1)] *= 1.2  # the lower triangle alone would do for a symmetric matrix
    b = np.ones(64)
    with pytest.raises(ValueError, match=r"Hermitian|symmetric"):
        cgopt.cg(A, b)
    result = cgopt.cg(A, b, rtol=1e-8, check=False)
    true = np.linalg.norm(b - A @ result.x)
    assert np.isclose(result.residual_norm, true)
    assert result.converged == (true <= 1e-8 * 8.0)
