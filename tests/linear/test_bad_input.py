"""Input that is no system, and systems that are not positive definite.

The first kind raises an error that names the argument and the remedy, before any iteration. The second is an
answer: a status, and the direction that shows it.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

import cgopt
from cgopt import CGSolver, Status, cg

N = 12
A = 4.0 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)
B = A + 0.5j * np.eye(N, k=2) - 0.5j * np.eye(N, k=-2)  # Hermitian
S = sp.csr_array(A)
b = np.linspace(-1.0, 2.0, N)


def with_entry(a, where, value):
    """A copy of an array with one entry changed."""
    out = np.array(a)
    out[where] = value
    return out


class Sized:
    """An operator of a given shape."""

    def __init__(self, *shape):
        self.shape = shape

    def matvec(self, v):
        return v


class OnDevice:
    """An array that says it lies on a GPU, and cannot be read from here."""

    shape = (N, N)
    device = "cuda:0"

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA

    def __dlpack__(self, **options):
        raise AssertionError("it was exported although it lies on a device")


NAN, INF = np.nan, np.inf
SQUARE, FINITE, DTYPE, CAST = "square", "finite", "dtype", r"\.astype\("

# What is wrong, beginning with the name that the message must call it by; the call; the error; what else its
# message must say (regular expressions).
BAD = {
    # the matrix: shapes
    "A not square": (lambda: cg(np.ones((N, 3)), b), ValueError, [SQUARE, r"\(12, 3\)", r"A\.T @ A"]),
    "A not square, sparse": (lambda: cg(sp.csr_array((3, N)), b), ValueError, [SQUARE, r"\(3, 12\)"]),
    "A not square, object": (lambda: cg(Sized(N, 3), b), ValueError, [SQUARE, r"\(12, 3\)"]),
    "A not square, LinearOperator": (
        lambda: cg(sla.aslinearoperator(np.ones((N, 3))), b),
        ValueError,
        [SQUARE],
    ),
    "A a vector": (lambda: cg(np.ones(N), b), ValueError, [SQUARE]),
    "A in three dimensions": (lambda: cg(np.ones((N, N, N)), b), ValueError, [SQUARE]),
    "A an object of one dimension": (lambda: cg(Sized(N), b), ValueError, [SQUARE]),
    "A ragged": (lambda: cg([[1.0, 2.0], [3.0]], [1.0, 2.0]), ValueError, ["ragged"]),
    # the matrix: what it is
    "A None": (lambda: cg(None, b), TypeError, ["NoneType", "pass a"]),
    "A a string": (lambda: cg("A", b), TypeError, ["str", "pass a"]),
    "A a number": (lambda: cg(2.0, b), TypeError, ["float", "pass a"]),
    "A a class": (lambda: cg(sp.csr_array, b), TypeError, ["class", "csr_array"]),
    "A a list of None": (lambda: cg([[None, 1.0], [1.0, 2.0]], [1.0, 1.0]), TypeError, []),
    "A function without size": (lambda: CGSolver(lambda v: v), TypeError, ["pass n"]),
    "A masked": (lambda: cg(np.ma.masked_less(A, 0.0), b), TypeError, ["masked", "filled"]),
    "A objects": (lambda: cg(A.astype(object), b), TypeError, [DTYPE, "object", CAST]),
    "A half precision": (lambda: cg(A.astype(np.float16), b), TypeError, [DTYPE, "float16", CAST]),
    "A extended precision": (lambda: cg(A.astype(np.longdouble), b), TypeError, [DTYPE, CAST]),
    "A extended precision, sparse": (lambda: cg(S.astype(np.longdouble), b), TypeError, [DTYPE, CAST]),
    "A of strings": (lambda: cg(A.astype(str), b), TypeError, [DTYPE]),
    "A of dates": (lambda: cg(A.astype("M8[s]"), b), TypeError, [DTYPE]),
    "A on a device": (lambda: cg(OnDevice(), b), TypeError, ["device", r"A\.cpu\(\)"]),
    # the matrix: entries
    "A NaN": (lambda: cg(with_entry(A, (7, 3), NAN), b), ValueError, ["NaN", "row 7", FINITE]),
    "A inf": (lambda: cg(with_entry(A, (0, 0), INF), b), ValueError, ["infinity", "row 0", FINITE]),
    "A NaN, sparse": (
        lambda: cg(sp.csr_array(with_entry(A, (7, 3), NAN)), b),
        ValueError,
        ["NaN", "row 7", FINITE],
    ),
    "A inf, sparse by columns": (
        lambda: cg(sp.csc_array(with_entry(A, (5, 9), -INF)), b),
        ValueError,
        ["infinity", "row 5"],
    ),
    "A imaginary NaN": (lambda: cg(with_entry(B, (2, 2), 1 + NAN * 1j), b), ValueError, ["NaN", "row 2"]),
    "A NaN, check off": (lambda: cg(with_entry(A, (7, 3), NAN), b, check=False), ValueError, ["NaN"]),
    # the matrix: symmetry
    "A not symmetric": (lambda: cg(np.triu(A), b), ValueError, ["not symmetric", "check=False"]),
    "A not symmetric by one entry": (
        lambda: cg(with_entry(A, (0, 1), -1.001), b),
        ValueError,
        ["not symmetric", "check=False"],
    ),
    "A not symmetric, sparse": (lambda: cg(sp.triu(S), b), ValueError, ["not symmetric", "check=False"]),
    "A not symmetric, callable": (
        lambda: cg(lambda v: np.triu(A) @ v, b),
        ValueError,
        ["not symmetric", "check=False"],
    ),
    "A symmetric but not Hermitian": (
        lambda: cg(A + 0.5j * np.eye(N, k=2) + 0.5j * np.eye(N, k=-2), b),
        ValueError,
        ["not Hermitian", r"A\.(conj\(\)\.T|T\.conj\(\)|H)", "check=False"],
    ),
    "A with a complex diagonal": (lambda: cg(A + 0.1j * np.eye(N), b), ValueError, ["not Hermitian"]),
    # what a function returns
    "A gives another shape": (lambda: cg(lambda v: v[:3], b), ValueError, [r"\(12,\)", r"\(3,\)"]),
    "A gives a matrix": (lambda: cg(lambda v: np.outer(v, v), b), ValueError, [r"\(12, 12\)"]),
    "A gives nothing": (lambda: cg(lambda v: None, b), ValueError, [r"\(12,\)"]),
    "A gives a number": (lambda: cg(lambda v: 1.0, b), ValueError, [r"\(12,\)"]),
    "A gives NaN": (lambda: cg(lambda v: v * NAN, b), ValueError, ["NaN", FINITE]),
    "A gives inf": (lambda: cg(lambda v: v * INF, b), ValueError, ["infinity", FINITE]),
    "A gives complex": (lambda: cg(lambda v: B @ v, b), TypeError, ["complex", r"\bb\b"]),
    "A gives complex, late": (lambda: cg(lambda v: B @ v, b, check=False), TypeError, ["complex"]),
    "A gives complex, many": (
        lambda: cg(lambda v: B @ v, np.ones((N, 2)), check=False),
        TypeError,
        ["complex"],
    ),
    # the right-hand side
    "b short": (lambda: cg(A, b[:5]), ValueError, [r"\(12,\)", r"\(5,\)"]),
    "b a row": (lambda: cg(A, b[None]), ValueError, [r"\(12, 1\)", r"\(1, 12\)"]),
    "b in three dimensions": (lambda: cg(A, b[:, None, None]), ValueError, ["shape"]),
    "b a number": (lambda: cg(A, 2.0), ValueError, ["shape"]),
    "b a number, A a function": (lambda: cg(lambda v: v, 2.0), ValueError, ["shape"]),
    "b short, sparse": (lambda: cg(S, b[:5]), ValueError, [r"\(12,\)"]),
    "b NaN": (lambda: cg(A, with_entry(b, 3, NAN)), ValueError, ["NaN", "3", FINITE]),
    "b inf": (lambda: cg(A, with_entry(b, 0, INF)), ValueError, ["infinity", "0", FINITE]),
    "b both infinities": (
        lambda: cg(A, with_entry(with_entry(b, 1, INF), 2, -INF)),
        ValueError,
        ["infinity", "1", FINITE],
    ),
    "b NaN in float32": (
        lambda: cg(A.astype("f"), with_entry(b, 3, NAN).astype("f")),
        ValueError,
        ["NaN", FINITE],
    ),
    "b imaginary inf": (
        lambda: cg(B, with_entry(b + 0j, 4, complex(0, INF))),
        ValueError,
        ["infinity", FINITE],
    ),
    "b NaN in a column": (lambda: cg(A, with_entry(np.ones((N, 3)), (2, 1), NAN)), ValueError, ["NaN"]),
    "b NaN among zeros": (lambda: cg(A, with_entry(np.zeros(N), 3, NAN)), ValueError, ["NaN"]),
    "b None": (lambda: cg(A, None), TypeError, [DTYPE]),
    "b objects": (lambda: cg(A, b.astype(object)), TypeError, ["object", CAST]),
    "b half precision": (lambda: cg(A, b.astype(np.float16)), TypeError, ["float16", CAST]),
    "b extended precision": (lambda: cg(A, b.astype(np.longdouble)), TypeError, [DTYPE, CAST]),
    "b masked": (lambda: cg(A, np.ma.masked_less(b, 0.0)), TypeError, ["masked", "filled"]),
    "b sparse": (lambda: cg(A, sp.csr_array(b[:, None])), TypeError, []),
    "b a string": (lambda: cg(A, "b"), TypeError, [DTYPE]),
    "b on a device": (lambda: cg(A, OnDevice()), TypeError, ["device", r"b\.cpu\(\)"]),
    # the guess
    "x0 short": (lambda: cg(A, b, b[:5]), ValueError, [r"\(12,\)", r"\(5,\)"]),
    "x0 a column for many": (lambda: cg(A, np.ones((N, 3)), b[:, None]), ValueError, [r"\(12, 3\)"]),
    "x0 many for one": (lambda: cg(A, b, np.ones((N, 3))), ValueError, [r"\(12,\)"]),
    "x0 NaN": (lambda: cg(A, b, with_entry(b, 3, NAN)), ValueError, ["NaN", "3", FINITE]),
    "x0 inf": (lambda: cg(A, b, with_entry(b, 3, INF)), ValueError, ["infinity", "3", FINITE]),
    "x0 objects": (lambda: cg(A, b, b.astype(object)), TypeError, ["object", CAST]),
    "x0 masked": (lambda: cg(A, b, np.ma.masked_less(b, 0.0)), TypeError, ["masked"]),
    "x0 an unknown word": (lambda: cg(A, b, "bM"), ValueError, ["'Mb'", "'bM'"]),
    # tolerances and counts
    "rtol negative": (lambda: cg(A, b, rtol=-1e-5), ValueError, ["negative", "-1e-05"]),
    "rtol NaN": (lambda: cg(A, b, rtol=NAN), ValueError, ["negative", "nan"]),
    "rtol None": (lambda: cg(A, b, rtol=None), TypeError, ["None"]),
    "rtol a string": (lambda: cg(A, b, rtol="1e-5"), TypeError, ["'1e-5'"]),
    "rtol complex": (lambda: cg(A, b, rtol=1e-5 + 0j), TypeError, ["real"]),
    "rtol a bool": (lambda: cg(A, b, rtol=True), TypeError, ["True"]),
    "rtol an array": (lambda: cg(A, b, rtol=np.full(2, 1e-5)), TypeError, ["real number"]),
    "atol negative": (lambda: cg(A, b, atol=-1.0), ValueError, ["negative", "-1"]),
    "atol NaN": (lambda: cg(A, b, atol=np.float32(NAN)), ValueError, ["nan"]),
    "atol legacy": (lambda: cg(A, b, atol="legacy"), TypeError, ["'legacy'"]),
    "maxiter negative": (lambda: cg(A, b, maxiter=-1), ValueError, ["negative", "-1"]),
    "maxiter broken": (lambda: cg(A, b, maxiter=2.5), TypeError, ["whole", r"2\.5"]),
    "maxiter NaN": (lambda: cg(A, b, maxiter=NAN), TypeError, ["whole", "nan"]),
    "maxiter infinite": (lambda: cg(A, b, maxiter=INF), TypeError, ["whole", "inf"]),
    "maxiter a string": (lambda: cg(A, b, maxiter="10"), TypeError, ["whole", "'10'"]),
    "maxiter a bool": (lambda: cg(A, b, maxiter=True), TypeError, ["whole", "True"]),
    "callback a number": (lambda: cg(A, b, callback=3), TypeError, ["function", "int"]),
    "progress a number": (lambda: cg(A, b, progress=3), TypeError, ["function", "int"]),
    # the preconditioner
    "M of another shape": (lambda: cg(A, b, M=np.eye(3)), ValueError, [r"\(3, 3\)", r"\(12, 12\)"]),
    "M of another shape, sparse": (lambda: cg(A, b, M=sp.eye_array(3)), ValueError, [r"\(3, 3\)"]),
    "M of another shape, Jacobi": (
        lambda: cg(A, b, M=cgopt.preconditioners.Jacobi(np.ones(3))),
        ValueError,
        [r"\(3, 3\)"],
    ),
    "M not square": (lambda: cg(A, b, M=np.ones((N, 3))), ValueError, [SQUARE]),
    "M a diagonal": (lambda: cg(A, b, M=np.ones(N)), ValueError, ["Jacobi"]),
    "M misspelt": (lambda: cg(A, b, M="jacobbi"), ValueError, ["'jacobbi'", "did you mean 'jacobi'"]),
    "M unknown": (lambda: cg(A, b, M="xyz"), ValueError, ["'xyz'", "'jacobi'"]),
    "M a class of something else": (lambda: cg(A, b, M=dict), TypeError, ["class", "dict"]),
    "M a number": (lambda: cg(A, b, M=0.5), TypeError, ["float"]),
    "M NaN": (lambda: cg(A, b, M=with_entry(np.eye(N), (4, 4), NAN)), ValueError, ["NaN", "row 4"]),
    "M not symmetric": (lambda: cg(A, b, M=np.triu(A)), ValueError, ["not symmetric", "check=False"]),
    "M objects": (lambda: cg(A, b, M=A.astype(object)), TypeError, ["object", CAST]),
    "M complex for real A": (lambda: cg(A, b, M=B), TypeError, ["complex"]),
    "M complex for real A, sparse": (lambda: cg(S, b, M=sp.csr_array(B)), TypeError, ["complex"]),
    "M complex for real A, many": (lambda: cg(A, np.ones((N, 2)), M=B), TypeError, ["complex"]),
    "M complex for real A, callable": (lambda: cg(A, b, M=lambda r: B @ r), TypeError, ["complex"]),
    "M gives another shape": (lambda: cg(A, b, M=lambda r: r[:3]), ValueError, [r"\(12,\)", r"\(3,\)"]),
    "M gives NaN": (lambda: cg(A, b, M=lambda r: r * NAN), ValueError, ["NaN", FINITE]),
    "A without a diagonal": (lambda: cg(lambda v: A @ v, b, M="jacobi"), TypeError, ["diagonal"]),
    "A with a zero for Jacobi": (
        lambda: cgopt.preconditioners.Jacobi(with_entry(np.ones(N), 5, 0.0)),
        ValueError,
        ["entry 5", "positive"],
    ),
    # the storage
    "format unknown": (
        lambda: cg(S, b, format="bsr"),
        ValueError,
        ["'bsr'", "csr", "sorted", "dia", "dense"],
    ),
    "format of a dense A": (lambda: cg(A, b, format="csr"), ValueError, ["format='csr'", "dense"]),
    "format of a function": (lambda: cg(lambda v: A @ v, b, format="csr"), ValueError, ["format='csr'"]),
    "format with too many diagonals": (
        lambda: cg(sp.csr_array(np.eye(80) * 99 + np.ones((80, 80))), np.ones(80), format="dia"),
        ValueError,
        ["format='dia'", "diagonals"],
    ),
    # names
    "tol unknown": (lambda: cg(A, b, tol=1e-5), TypeError, ["keyword"]),
    "precondition unknown to a solver": (lambda: CGSolver(A, precondition="jacobi"), TypeError, ["keyword"]),
    "M unknown to a solve": (lambda: CGSolver(A).solve(b, M=None), TypeError, ["keyword"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_with_its_remedy(case):
    call, error, words = BAD[case]
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error  # no subclass either: UFuncTypeError is a TypeError, and helps nobody
    for word in [rf"\b{case.split()[0]}\b", *words]:
        assert caught.match(word)


def torch_csc(torch):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* support is in beta", category=UserWarning)
        return torch.from_numpy(A).to_sparse_csc()


TENSORS = {
    "A requires a gradient": (lambda t: cg(t.tensor(A, requires_grad=True), b), [r"A\.detach\(\)"]),
    "b requires a gradient": (lambda t: cg(A, t.tensor(b, requires_grad=True)), [r"b\.detach\(\)"]),
    "A half precision": (lambda t: cg(t.tensor(A).half(), b), ["float16"]),
    "A bfloat16": (lambda t: cg(t.tensor(A).bfloat16(), b), ["bfloat16|float32|float64"]),
    "b bfloat16": (lambda t: cg(A, t.tensor(b).bfloat16()), ["bfloat16|float32|float64"]),
    "A sparse by coordinates": (lambda t: cg(t.tensor(A).to_sparse(), b), ["to_sparse_csr"]),
    "A sparse by columns": (lambda t: cg(torch_csc(t), b), ["to_sparse_csr"]),
    "A without data": (lambda t: cg(t.empty(N, N, device="meta"), b), ["meta"]),
    "b without data": (lambda t: cg(A, t.empty(N, device="meta")), ["meta"]),
    "b lazily conjugated": (lambda t: cg(B, t.tensor(b + 1j * b).conj()), ["resolve_conj"]),
    "A NaN": (lambda t: cg(t.full((N, N), NAN), b), ["NaN"]),
}


@pytest.mark.parametrize("case", TENSORS)
def test_bad_tensors_are_named_with_their_remedy(case):
    torch = pytest.importorskip("torch", reason="tensors need torch")
    call, words = TENSORS[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        call(torch)
    for word in [rf"\b{case.split()[0]}\b", *words]:
        assert caught.match(word)


def test_tensor_on_a_gpu_is_refused_with_its_remedy():
    torch = pytest.importorskip("torch", reason="tensors need torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU to put a tensor on")
    with pytest.raises(TypeError, match=r"A lies on a device .* A\.cpu\(\)"):
        cg(torch.from_numpy(A).cuda(), b)
    with pytest.raises(TypeError, match=r"b lies on a device .* b\.cpu\(\)"):
        cg(A, torch.from_numpy(b).cuda())


@pytest.mark.parametrize(
    "matrix", [np.triu(A), sp.triu(S).tocsr(), lambda v: np.triu(A) @ v], ids=["dense", "sparse", "function"]
)
def test_check_false_lets_an_unsymmetric_matrix_through(matrix):
    result = cg(matrix, b, check=False, maxiter=5)
    assert isinstance(result.status, Status)
    assert np.isfinite(result.x).all()
    # whatever came of it, the claim is true
    assert result.residual_norm == pytest.approx(np.linalg.norm(b - np.triu(A) @ result.x), rel=1e-10)


def test_check_false_takes_no_products():
    products = []

    def matvec(v):
        products.append(v)
        return A @ v

    CGSolver(matvec, n=N, check=False)
    assert not products
    CGSolver(matvec, n=N)
    assert len(products) == 2


def test_symmetry_up_to_rounding_is_let_through():
    # B'B in another order of summation: symmetric to rounding only
    F = np.random.default_rng(1).standard_normal((60, 60))
    for dtype in (np.float32, np.float64):
        G = (F.astype(dtype).T @ F.astype(dtype)).copy()
        G[np.triu_indices(60, 1)] *= 1 + 4 * np.finfo(dtype).eps
        assert (G != G.T).any()
        CGSolver(G)


def test_errors_of_the_function_itself_pass_through():
    class Mine(Exception):
        pass

    def matvec(v):
        raise Mine("what the user wrote")

    with pytest.raises(Mine, match="what the user wrote"):
        cg(matvec, b)


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        cg(A, b, None, 1e-5)


def test_a_solver_survives_bad_input():
    solver = CGSolver(A)
    good = solver.solve(b).x
    for bad, error in (
        (with_entry(b, 3, NAN), ValueError),
        (b[:3], ValueError),
        (b.astype(object), TypeError),
    ):
        with pytest.raises(error, match=r"\bb\b"):
            solver.solve(bad)
    np.testing.assert_array_equal(solver.solve(b).x, good)


# --- not positive definite: an answer, not an error ---------------------------------------------------------

FORMS = {
    "dense": np.asarray,
    "sparse": sp.csr_array,
    "by columns": sp.csc_array,
    "diagonals": sp.dia_array,
    "float32": lambda a: sp.csr_array(a.astype(np.float32)),
    "huge": lambda a: sp.csr_array(a * 1e300),
    "tiny": lambda a: a * 1e-305,
}


@pytest.mark.parametrize("M", [None, "jacobi", cgopt.preconditioners.Jacobi])
@pytest.mark.parametrize("value", [0.0, -0.5])
@pytest.mark.parametrize("form", FORMS)
def test_bad_diagonal_entry_is_a_direction(form, value, M):
    bad = FORMS[form](with_entry(A, (7, 7), value))
    result = cg(bad, b, M=M)
    assert result.status is Status.INDEFINITE
    assert result.info < 0
    assert result.iterations == 0
    np.testing.assert_array_equal(result.negative_curvature, np.eye(N)[7])
    assert not result.x.any()
    assert result.residual_norm == pytest.approx(np.linalg.norm(b))


def test_entry_missing_from_the_diagonal_is_zero():
    hollow = sp.csr_array(with_entry(A, (7, 7), 0.0))
    hollow.eliminate_zeros()
    assert hollow.nnz < S.nnz
    np.testing.assert_array_equal(cg(hollow, b).negative_curvature, np.eye(N)[7])


def test_bad_diagonal_entry_with_many_right_hand_sides():
    bad = with_entry(A, (7, 7), -1.0)
    x0 = np.ones((N, 3))
    result = cg(bad, np.stack([b, np.zeros(N), bad @ np.ones(N)], 1), x0)
    assert result.statuses == [Status.INDEFINITE, Status.CONVERGED, Status.CONVERGED]
    np.testing.assert_array_equal(result.columns[0].negative_curvature, np.eye(N)[7])
    np.testing.assert_array_equal(result.x, np.stack([np.ones(N), np.zeros(N), np.ones(N)], 1))


def test_zero_matrix_has_no_solution_but_for_zero():
    zero = sp.csr_array((N, N))
    assert cg(zero, b).status is Status.INDEFINITE
    assert cg(zero, np.zeros(N)).info == 0


def indefinite(n=60, dtype=np.float64):
    """Symmetric with a positive diagonal, a few negative eigenvalues, and neither small nor large ones."""
    rng = np.random.default_rng(4)
    values = np.concatenate([-rng.uniform(0.5, 1, 3), rng.uniform(1, 10, n - 3)])
    G = cgopt.gallery.prescribed_spectrum(values, rng=4, dtype=np.result_type(dtype, np.float64))
    assert (np.diag(G).real > 0).all()
    return G.astype(dtype)


INDEFINITE_FORMS = {
    "dense": lambda a: a,
    "sparse": sp.csr_array,
    "function": lambda a: lambda v: a @ v,
    "huge": lambda a: a * 2.0**1000,
    "tiny": lambda a: a * 2.0**-1000,
}


@pytest.mark.parametrize("M", [None, "jacobi", "function"])
@pytest.mark.parametrize("form", INDEFINITE_FORMS)
def test_negative_curvature_is_shown_by_a_direction(form, M):
    G = indefinite()
    right = np.ones(60)
    scale = {"huge": 2.0**1000, "tiny": 2.0**-1000}.get(form, 1.0)
    if form == "function" and M == "jacobi":
        M = cgopt.preconditioners.Jacobi(np.diag(G).copy())
    if M == "function":
        M = lambda r: r / 5 / scale  # noqa: E731
    result = cg(INDEFINITE_FORMS[form](G), right, M=M, rtol=1e-12)
    d, x = result.negative_curvature, result.x
    assert result.status is Status.INDEFINITE
    assert result.info < 0
    assert d @ G @ d < 0.0
    assert np.isfinite(x).all()
    # up to the bad direction CG has only lowered x'Gx/2 - b'x
    x = x * scale
    assert 0.5 * x @ G @ x - right @ x <= 0.0
    assert result.residual_norm == pytest.approx(np.linalg.norm(right - G @ x), rel=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_negative_curvature_in_other_types(dtype):
    G = indefinite(dtype=dtype)
    result = cg(G, np.ones(60, dtype), rtol=1e-5)
    d = result.negative_curvature.astype(np.complex128)
    assert result.status is Status.INDEFINITE
    assert result.negative_curvature.dtype == dtype
    assert np.vdot(d, G @ d).real < 0.0


def test_negative_curvature_of_each_column():
    G = indefinite()
    values, vectors = np.linalg.eigh(G)
    right = np.stack([np.ones(60), vectors[:, -1] + vectors[:, -2], vectors[:, 0]], 1)
    result = cg(G, right)
    assert result.statuses == [Status.INDEFINITE, Status.CONVERGED, Status.INDEFINITE]
    for column in (result.columns[0], result.columns[2]):
        d = column.negative_curvature
        assert d @ G @ d < 0.0
    assert result.columns[1].negative_curvature is None
    np.testing.assert_allclose(
        result.x[:, 1], vectors[:, -1] / values[-1] + vectors[:, -2] / values[-2], rtol=0, atol=1e-5
    )


def test_negative_definite_at_once():
    result = cg(lambda v: -(A @ v), b)
    assert (result.status, result.iterations) == (Status.INDEFINITE, 0)
    assert not result.x.any()
    np.testing.assert_allclose(result.negative_curvature, b)


# --- singular -----------------------------------------------------------------------------------------------


def ring(n=30):
    """The Laplacian of a ring, integers: positive semidefinite, and constants are its null space."""
    L = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    L[0, -1] = L[-1, 0] = -1
    return L


SINGULAR = {
    "ring": ring(),
    "low rank": (lambda F: F @ F.T)(np.random.default_rng(5).standard_normal((30, 7))),
    "complex": np.kron(ring(15), [[1, 0.5j], [-0.5j, 1]]),
}
SINGULAR_FORMS = {"dense": np.asarray, "sparse": sp.csr_array, "function": lambda a: lambda v: a @ v}


@pytest.mark.parametrize("form", SINGULAR_FORMS)
@pytest.mark.parametrize(("matrix", "columns"), [("ring", 1), ("ring", 2), ("low rank", 1), ("complex", 1)])
def test_singular_consistent_gives_the_shortest_solution(matrix, form, columns):
    L = SINGULAR[matrix]
    right = L @ np.random.default_rng(6).standard_normal((30, columns))
    right = right[:, 0] if columns == 1 else right
    result = cg(SINGULAR_FORMS[form](L), right, rtol=1e-9)
    assert result.status is Status.CONVERGED
    # all iterates lie in the range of A: of all solutions, x is the shortest
    shortest = np.linalg.pinv(L, hermitian=True, rcond=1e-10) @ right
    np.testing.assert_allclose(result.x, shortest, rtol=0, atol=1e-6 * np.abs(shortest).max())


@pytest.mark.parametrize("form", SINGULAR_FORMS)
@pytest.mark.parametrize(("matrix", "columns"), [("ring", 1), ("ring", 2), ("low rank", 1), ("complex", 1)])
def test_singular_inconsistent_is_not_claimed_solved(matrix, form, columns):
    L = SINGULAR[matrix]
    right = np.random.default_rng(7).standard_normal((30, columns)).astype(L.dtype)
    right = right[:, 0] if columns == 1 else right
    result = cg(SINGULAR_FORMS[form](L), right, rtol=1e-9)
    best = np.linalg.norm(right - L @ (np.linalg.pinv(L, hermitian=True, rcond=1e-10) @ right), axis=0)
    assert np.isfinite(result.x).all()
    assert (result.residual_norm >= best * (1 - 1e-10)).all()
    for column in [result] if columns == 1 else result.columns:
        assert column.status in (Status.SINGULAR, Status.STAGNATED, Status.MAXITER)
        if column.status is Status.SINGULAR:
            d = column.negative_curvature
            # zero to rounding: |d'Ld| is a rounding error of sums of 30 terms
            assert abs(np.vdot(d, L @ d)) <= 30 * 2.0**-50 * np.linalg.norm(L, 2) * np.vdot(d, d).real


@pytest.mark.parametrize("form", SINGULAR_FORMS)
def test_right_hand_side_in_the_null_space(form):
    result = cg(SINGULAR_FORMS[form](ring()), np.ones(30))
    assert (result.status, result.iterations) == (Status.SINGULAR, 0)
    np.testing.assert_array_equal(result.negative_curvature, np.ones(30))
    assert not result.x.any()


# --- the preconditioner is at fault -------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(
    "M",
    [-np.eye(N), np.zeros((N, N)), lambda r: -r, sp.csr_array(-np.eye(N))],
    ids=["minus", "zero", "function", "sparse"],
)
def test_preconditioner_that_is_not_positive_definite(M, columns):
    right = b if columns == 1 else np.stack([b, 2 * b], 1)
    result = cg(A, right, M=M)
    assert result.status is Status.INDEFINITE_PRECONDITIONER
    assert result.info < 0
    assert result.iterations == 0
    assert not result.x.any()
    assert (result.negative_curvature if columns == 1 else result.columns[0].negative_curvature) is None


def test_preconditioner_that_turns_out_indefinite_later():
    # r'Mr is positive for the first residual, and is not for a later one
    M = np.diag(np.append(np.ones(N - 1), -50.0))
    start = np.append(np.ones(N - 1), 0.0)
    result = cg(A, start, M=M, rtol=1e-12)
    assert result.status is Status.INDEFINITE_PRECONDITIONER
    assert result.iterations >= 1
    assert np.isfinite(result.x).all()


# --- the operator is at fault -------------------------------------------------------------------------------


class Failing:
    """A that answers with a bad value in the given products (counted from 1), and is right otherwise."""

    def __init__(self, matrix, bad, value=NAN, column=0):
        self.matrix, self.bad, self.value, self.column = matrix, bad, value, column
        self.shape, self.dtype, self.products = matrix.shape, matrix.dtype, 0

    def matvec(self, v):
        self.products += 1
        out = self.matrix @ v
        if self.products in self.bad:
            out[3] = self.value
        return out

    def matmat(self, V):
        self.products += 1
        out = self.matrix @ V
        if self.products in self.bad:
            out[3, self.column] = self.value
        return out


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("bad", [{5}, range(5, 10_000)], ids=["once", "from then on"])
def test_operator_that_fails_at_the_fifth_product(bad, value):
    result = cg(Failing(A, bad, value), b, rtol=1e-14, check=False)
    assert (result.status, result.iterations) == (Status.NONFINITE, 4)
    assert result.info < 0
    assert np.isfinite(result.x).all()
    np.testing.assert_array_equal(result.x, cg(Failing(A, ()), b, rtol=1e-14, maxiter=4).x)
    assert np.isfinite(result.history).all()


def test_preconditioner_that_fails_at_the_fifth_product():
    result = cg(A, b, M=Failing(np.eye(N), {5}), rtol=1e-14, check=False)
    assert result.status is Status.NONFINITE
    assert np.isfinite(result.x).all()
    assert result.residual_norm == pytest.approx(np.linalg.norm(b - A @ result.x), rel=1e-10)


def test_failure_in_one_column_leaves_the_others():
    right = np.stack([b, b[::-1], b**2], 1)
    result = cg(Failing(A, {5}, column=1), right, rtol=1e-10, check=False)
    assert result.statuses == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert np.isfinite(result.x).all()
    clean = cg(Failing(A, ()), right, rtol=1e-10).x
    np.testing.assert_allclose(result.x[:, [0, 2]], clean[:, [0, 2]], rtol=0, atol=1e-12)
