"""The public test helpers: strategies deliver what they promise, and the check of operators finds faults."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import cgopt
from cgopt.testing import (
    FORMS,
    check_operator,
    sparse_spd,
    spd_matrices,
    spd_operators,
    spectra,
    vectors,
)

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
any_dtype = st.sampled_from(DTYPES)


def assert_exactly_hermitian(A):
    np.testing.assert_array_equal(A, A.conj().T)


def eigenvalue_error(A, n):
    """How far the eigenvalues may be from those asked for.

    Rounding the entries moves them by at most u |A|_F; forming Q diag Q^H (three products of length n) and
    `eigvalsh` in double precision by a small multiple of n u |A|_F.
    """
    size = np.linalg.norm(A.astype(np.complex128))
    return size * (np.finfo(A.dtype).eps + 10 * n * np.finfo(np.float64).eps)


# ---- strategies ----


@given(st.integers(1, 12), st.floats(1.0, 1e8), st.data())
def test_spectra_lie_in_range_and_ascend(n, condition, data):
    eigenvalues = data.draw(spectra(n, condition=condition))
    assert eigenvalues.shape == (n,)
    assert eigenvalues.dtype == np.float64
    assert eigenvalues.min() >= 1.0
    assert eigenvalues.max() <= condition
    assert (np.diff(eigenvalues) >= 0.0).all()


@given(st.integers(1, 5), st.floats(2.0, 1e8), st.data())
def test_distinct_eigenvalues_are_as_many_and_well_apart(distinct, condition, data):
    eigenvalues = np.unique(data.draw(spectra(8, condition=condition, distinct=distinct)))
    assert eigenvalues.size == distinct
    ratios = eigenvalues[1:] / eigenvalues[:-1]
    # powers of a rounded number: a few roundings
    assert (ratios >= condition ** (1 / 32) * (1 - 1e-14)).all()


@given(spectra(distinct=4))
def test_spectra_have_room_for_the_distinct_values(eigenvalues):
    assert 4 <= eigenvalues.size <= 12


@given(st.integers(1, 9), any_dtype, st.floats(1.0, 1e4), st.data())
def test_spd_matrices_have_order_type_and_condition(n, dtype, condition, data):
    A = data.draw(spd_matrices(n, dtype=dtype, condition=condition))
    assert A.shape == (n, n)
    assert A.dtype == dtype
    assert_exactly_hermitian(A)
    eigenvalues = np.linalg.eigvalsh(A.astype(np.complex128))
    assert eigenvalues[0] >= 1.0 - eigenvalue_error(A, n)
    assert eigenvalues[-1] <= condition + eigenvalue_error(A, n)


@given(any_dtype, spectra(), st.data())
def test_spd_matrices_keep_a_given_spectrum(dtype, spectrum, data):
    A = data.draw(spd_matrices(dtype=dtype, spectrum=spectrum))
    found = np.linalg.eigvalsh(A.astype(np.complex128))
    np.testing.assert_allclose(found, spectrum, rtol=0, atol=eigenvalue_error(A, spectrum.size))


def test_spd_matrices_may_be_given_a_negative_eigenvalue():
    A = find(spd_matrices(spectrum=[-1.0, 1.0, 2.0]), lambda A: True)
    np.testing.assert_allclose(np.linalg.eigvalsh(A), [-1.0, 1.0, 2.0], rtol=0, atol=1e-14)


def test_complex_matrices_do_have_imaginary_parts():
    dense = find(spd_matrices(n=2, dtype=np.complex64), lambda A: abs(A[0, 1].imag) > 0.1)
    sparse = find(sparse_spd(n=2, dtype=np.complex64), lambda A: abs(A.toarray()[0, 1].imag) > 0.1)
    assert abs(dense[0, 1].imag) > 0.1
    assert abs(sparse.toarray()[0, 1].imag) > 0.1


kinds, formats = (
    st.sampled_from(["dominant", "cholesky"]),
    st.sampled_from(["csr", "csc", "coo", "bsr", "dia"]),
)


@given(st.one_of(st.integers(1, 24), st.integers(33, 80)), any_dtype, kinds, formats, st.data())
def test_sparse_spd_has_order_type_format_and_eigenvalues(n, dtype, kind, format, data):
    A = data.draw(sparse_spd(n, dtype=dtype, kind=kind, format=format))
    assert A.shape == (n, n)
    assert A.dtype == dtype
    assert A.format == format
    D = A.toarray().astype(np.complex128)
    assert_exactly_hermitian(D)
    smallest = np.linalg.eigvalsh(D)[0]
    assert smallest >= (1.0 if kind == "dominant" else 1.0 / n) - eigenvalue_error(D, n)
    assert (D * 16 == np.round(D * 16)).all()  # multiples of 1/16, none of them rounded by the type
    if kind == "dominant":
        # |real| + |imag| is what bounds a complex entry without a root, and |a| is no larger
        beside = np.abs(D).sum(axis=1) - np.abs(D.diagonal())
        assert (D.diagonal().real >= 1.0 + beside - 1e-12 * beside).all()


@given(sparse_spd(dtype=np.complex128), st.data())
def test_products_of_sparse_spd_with_whole_numbers_are_exact(A, data):
    n = A.shape[0]
    x = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n)))
    D = A.toarray()
    exact = [sum(int(v.real * 16) * int(t) for v, t in zip(row, x, strict=True)) for row in D]
    assert ((A @ x.astype(float)).real * 16 == np.array(exact)).all()


@given(spd_operators(sparse_spd(format=st.sampled_from(["csr", "lil"]), dtype=any_dtype)), st.data())
def test_spd_operators_multiply_like_their_oracle(case, data):
    A, n = case.operator, case.n
    x = data.draw(vectors(n, dtype=case.dtype))
    y = {
        "callable": lambda: A(x),
        "object": lambda: A.matvec(x),
    }.get(case.form, lambda: A @ x)()
    assert y.shape == (n,)
    assert y.dtype == case.dtype
    assert case.dense.dtype == (np.complex128 if np.iscomplexobj(x) else np.float64)
    # a sum of n products: n + 2 roundings, complex ones of up to sqrt(8) each (Higham 2002, 3.1 and 3.6)
    bound = 3 * (n + 2) * np.finfo(case.dtype).eps * (abs(case.dense) @ abs(x))
    assert (abs(y - case.dense @ x) <= bound).all()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_be_drawn_and_is_what_it_is_called(form):
    case = find(spd_operators(forms=form), lambda case: True)
    assert case.form == form
    assert {
        "dense": isinstance(case.operator, np.ndarray),
        "sparse": sp.issparse(case.operator),
        "operator": isinstance(case.operator, cgopt.operators.Operator),
        "linear_operator": isinstance(case.operator, LinearOperator),
        "object": hasattr(case.operator, "matvec") and not hasattr(case.operator, "matmat"),
        "callable": callable(case.operator) and not hasattr(case.operator, "shape"),
    }[form]
    assert form in repr(case)


@given(st.integers(1, 9), any_dtype, st.none() | st.integers(1, 4), st.data())
def test_vectors_have_shape_and_type_and_no_zero_column(n, dtype, columns, data):
    v = data.draw(vectors(n, dtype=dtype, columns=columns))
    assert v.shape == ((n,) if columns is None else (n, columns))
    assert v.dtype == dtype
    assert (np.abs(v).sum(axis=0) > 0).all()
    assert np.isfinite(v).all()


def test_vectors_may_be_zero_when_asked():
    find(vectors(3, nonzero=False), lambda v: not v.any())
    with pytest.raises(NoSuchExample):
        find(vectors(3), lambda v: not v.any(), settings=settings(max_examples=100))


def test_examples_shrink_to_what_one_can_work_out_by_hand():
    anything = lambda value: True  # noqa: E731
    assert find(spd_matrices(), anything) == [[1.0]]
    assert (find(sparse_spd(n=3), anything).toarray() == np.eye(3)).all()
    assert find(vectors(3), anything).tolist() == [0.0, 0.0, 1.0]
    # what fails for a coupling of two unknowns is shown with those two, and small numbers
    A = find(sparse_spd(kind="dominant"), lambda A: A.nnz > A.shape[0]).toarray()
    assert A.shape == (2, 2)
    assert abs(A[0, 1]) == 0.25
    A = find(spd_matrices(), lambda A: abs(A - np.diag(A.diagonal())).sum() > 1e-3)
    assert A.shape == (2, 2)
    assert find(spd_matrices(n=3), lambda A: np.linalg.cond(A) > 50).tolist() == [
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, pytest.approx(1e3 ** (19 / 32))],  # the first of the grid above 50
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spd_matrices(condition=0.5), ValueError, "condition must be at least 1, got 0.5"),
        (lambda: spd_matrices(dtype=np.float32, condition=1e7), ValueError, "condition must be at most 8e"),
        (lambda: spd_matrices(dtype=np.float16), ValueError, "dtype must be one of float32"),
        (lambda: spd_matrices(n=0), ValueError, "n must be at least 1, got 0"),
        (lambda: spd_matrices(n=2.0), TypeError, "n must be a whole number"),
        (
            lambda: spd_matrices(3, spectrum=[1.0]),
            ValueError,
            "n must be left out when the spectrum is given",
        ),
        (lambda: spd_matrices(spectrum=[1.0, np.inf]), ValueError, "eigenvalues must be finite"),
        (lambda: spectra(distinct=0), ValueError, "distinct must be at least 1"),
        (lambda: find(spectra(3, distinct=4), bool), ValueError, "distinct must be at most 3"),
        (lambda: sparse_spd(kind="diagonal"), ValueError, "kind must be one of dominant, cholesky"),
        (lambda: sparse_spd(format="ell"), ValueError, "format must be one of csr"),
        (lambda: spd_operators(forms=["tensor"]), ValueError, "forms must be one of dense"),
        (lambda: vectors(0), ValueError, "n must be at least 1"),
        (lambda: vectors(3, columns=0), ValueError, "columns must be at least 1"),
    ],
)
def test_strategies_refuse_what_they_cannot_draw(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_hypothesis_one_sentence_says_what_to_install():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import cgopt\n"
        "try:\n    cgopt.testing\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == 'cgopt.testing needs Hypothesis: pip install "cgopt[test]"\n'


# ---- the check of an operator ----


@given(spd_operators(st.one_of(spd_matrices(dtype=any_dtype), sparse_spd(dtype=any_dtype))))
def test_positive_definite_operators_pass_in_every_form(case):
    report = check_operator(case.operator, n=case.n, dtype=case.dtype)
    assert report.ok, report
    assert report
    report.raise_for_failure()
    assert all(check.ok is not False for check in report.checks)
    assert report["symmetry"].value <= report["symmetry"].limit


def test_composed_operators_and_preconditioners_pass():
    A = cgopt.operators.as_operator(cgopt.gallery.poisson((6, 5)))
    for operator in (A + A, 2.0 * A, cgopt.operators.Damped(A, 0.1), cgopt.preconditioners.Jacobi(A)):
        report = check_operator(operator)
        assert report.ok, report
        assert report["out"].ok
        assert report["diagonal"].ok


rng = np.random.default_rng(0)
SPD = cgopt.gallery.prescribed_spectrum(np.linspace(1, 4, 12), rng=1)


class Object:
    """An operator that can be given any part wrong."""

    def __init__(self, **parts):
        self.shape, self.dtype, self.matvec = (12, 12), np.dtype(np.float64), SPD.__matmul__
        self.__dict__.update(parts)


class Leaves(cgopt.operators.Operator):
    """A cgopt operator that leaves an entry of `out` as it was, or all of them."""

    shape, dtype = (12, 12), np.dtype(np.float64)

    def __init__(self, entries):
        self.entries = entries

    def matvec(self, x, out=None):
        if out is None or self.entries == 12:
            return SPD @ x
        out[self.entries :] = (SPD @ x)[self.entries :]
        return out

    def _matmat(self, X, out):
        out[...] = SPD @ X


def changes_x(x):
    y = SPD @ x
    x[3] = 0.0
    return y


def one_entry_off():
    A = cgopt.gallery.poisson((9, 9)).toarray()
    A[7, 30] = 1e-3
    return A


FAULTS = {
    "not_square": (np.ones((3, 4)), "shape", "A has shape (3, 4)"),
    "product_too_short": (lambda v: v[1:], "shape", "has shape (11,)"),
    "product_is_a_column": (lambda v: (SPD @ v)[:, None], "shape", "has shape (12, 1)"),
    "raises": (lambda v: v[20], "shape", "A raised IndexError"),
    "single_precision": (
        lambda v: (SPD @ v).astype(np.float32),
        "dtype",
        "float64 vector is float32; compute in float64",
    ),
    "complex": (lambda v: SPD @ v + 0j, "dtype", "float64 vector is complex128"),
    "double_instead_of_single": (Object(dtype=np.dtype(np.float32)), "dtype", "declare dtype=float64"),
    "whole_numbers": (lambda v: np.round(v).astype(int), "dtype", "is int64"),
    "nan": (lambda v: np.where(np.arange(12) == 2, np.nan, v), "finite", "3 of 36 entries"),
    "overflow": (lambda v: 1e308 * (SPD @ v) * 100, "finite", "36 of 36 entries"),
    "changes_x": (changes_x, "input", "changed 1 of 12 entries of x"),
    "noise": (
        lambda v: SPD @ v + 1e-3 * rng.standard_normal(12),
        "determinism",
        "two products with the same",
    ),
    "affine": (lambda v: SPD @ v + 1.0, "linearity", "no offset"),
    "affine_by_little": (lambda v: SPD @ v + 1e-7, "linearity", "no offset"),
    "clipped": (lambda v: np.clip(SPD @ v, -100.0, 100.0), "linearity", "no clipping"),
    "cubic": (lambda v: SPD @ v + 1e-6 * v**3, "linearity", "no rule that depends on x"),
    "thresholded": (lambda v: np.where(abs(v) > 1e-4, SPD @ v, 0.0), "linearity", "differ by"),
    "shift": (lambda v: np.roll(v, 1), "symmetry", "A is not symmetric"),
    "triangle": (np.triu(SPD), "symmetry", "A is not symmetric"),
    "one_entry": (one_entry_off(), "symmetry", "(7, 30) and (30, 7), by 1.0e-03"),
    "one_entry_sparse": (sp.csc_array(one_entry_off()), "symmetry", "(7, 30) and (30, 7)"),
    "complex_symmetric": (np.array([[2.0, 1j], [1j, 2.0]]), "symmetry", "A is not Hermitian"),
    "skew": (1j * np.eye(3), "symmetry", "A is not Hermitian"),
    "negative": (-SPD, "definiteness", "A is not positive definite"),
    "indefinite": (SPD - 1.2 * np.eye(12), "definiteness", "A is not positive definite: d'Ad/d'd = -0.2 for"),
    "singular": (cgopt.gallery.poisson(5) * 0.0, "definiteness", "A is singular to working precision"),
    "semidefinite": (np.ones((5, 5)), "definiteness", "A is singular to working precision"),
    "other_matmat": (Object(matmat=lambda X: 2.0 * SPD @ X), "matmat", "differs from matvec"),
    "transposed_matmat": (Object(matmat=lambda X: (SPD @ X).T), "matmat", "(12, 3) to (3, 12)"),
    "other_rmatvec": (Object(rmatvec=lambda x: -(SPD @ x)), "rmatvec", "for a Hermitian A it is matvec"),
    "short_rmatvec": (Object(rmatvec=lambda x: x[1:]), "rmatvec", "to (11,)"),
    "other_diagonal": (Object(diagonal=lambda: np.ones(12)), "diagonal", "of A.diagonal is 1, but"),
    "short_diagonal": (Object(diagonal=np.ones(3)), "diagonal", "has shape (3,)"),
    "out_not_filled": (Leaves(1), "out", "leaves in `out` differs by nan"),
    "out_not_written": (Leaves(12), "out", "must write to `out` and return it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_named_and_alone(fault):
    A, name, words = FAULTS[fault]
    report = check_operator(A, n=12 if callable(A) and not hasattr(A, "shape") else None)
    assert not report.ok
    assert not report
    assert [check.name for check in report.failures] == [name], report
    assert words in report[name].message
    with pytest.raises(AssertionError) as raised:
        report.raise_for_failure()
    assert str(raised.value) == repr(report)
    assert "FAILED" in repr(report)
    if np.isfinite(report[name].limit) and name in ("determinism", "linearity", "symmetry"):
        assert report[name].value > report[name].limit
        assert f"{report[name].value:.1e}" in report[name].message


@given(spectra(8), st.floats(1e-3, 1e3), st.data())
def test_any_eigenvalue_that_is_negative_is_found(spectrum, negative, data):
    # Lanczos from a random vector sees every eigenspace, and n steps of it find every eigenvalue.
    A = data.draw(spd_matrices(spectrum=np.append(spectrum, -negative)))
    report = check_operator(A)
    assert [check.name for check in report.failures] == ["definiteness"]
    # the smallest Ritz value over the largest: after n steps, of the eigenvalues
    expected = negative / max(spectrum[-1], negative)
    assert report["definiteness"].value == pytest.approx(expected, rel=1e-8)
    assert check_operator(A, definite=False).ok


def test_a_looser_tolerance_passes_a_finite_difference():
    # Differences of a gradient of size 1 with step h: relative error about u / h = 1e-10, and h times the
    # third derivative, 1e-6.
    theta, h = np.linspace(0.5, 1.0, 8), 1e-6

    def gradient(t):
        return SPD[:8, :8] @ t + t**3

    def hessian_product(v):
        step = h / np.linalg.norm(v) if v.any() else 0.0
        return (gradient(theta + step * v) - gradient(theta)) / step if step else np.zeros(8)

    assert not check_operator(hessian_product, n=8).ok
    report = check_operator(hessian_product, n=8, rtol=1e-4)
    assert report.ok, report


def test_a_scipy_operator_without_an_adjoint_is_not_blamed_for_it():
    report = check_operator(LinearOperator((12, 12), matvec=SPD.__matmul__, dtype=np.float64))
    assert report.ok, report
    assert report["rmatvec"].ok is None
    assert check_operator(aslinearoperator(SPD))["rmatvec"].ok


def test_what_depends_on_a_failed_check_is_not_tested():
    report = check_operator(lambda v: v + 1.0, n=4)
    for name in ("symmetry", "definiteness"):
        assert report[name].ok is None
        assert report[name].message == "not tested, since linearity failed"
    with pytest.raises(KeyError, match="there are shape, dtype"):
        report["speed"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"A": lambda v: v}, TypeError, "pass n"),
        ({"A": lambda v: v, "n": 0}, ValueError, "n must be at least 1"),
        ({"A": "matrix"}, TypeError, "cannot be multiplied by"),
        ({"A": np.eye(2), "samples": 1}, ValueError, "samples must be at least 2"),
        ({"A": np.eye(2), "rtol": 0.0}, ValueError, "rtol must be between 0"),
        ({"A": np.eye(2), "steps": 0}, ValueError, "steps must be at least 1"),
        ({"A": np.eye(2, dtype=object)}, TypeError, "A has dtype object"),
    ],
)
def test_check_operator_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        check_operator(**arguments)


def test_the_same_vectors_are_taken_every_time():
    assert repr(check_operator(SPD)) == repr(check_operator(SPD))
    assert check_operator(SPD, rng=1)["symmetry"].value != check_operator(SPD, rng=2)["symmetry"].value
