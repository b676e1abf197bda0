"""For your own tests: strategies that draw positive definite systems, and a check of operators.

The strategies are for Hypothesis, which tries many examples and, when one fails, looks for the simplest that
still does. So all of them shrink towards what one can work out by hand: size one, the identity, a diagonal
matrix, small whole numbers.

==========================  ========================================================================
name                        what it is
==========================  ========================================================================
`spd_matrices`              dense Hermitian positive definite matrices
`sparse_spd`                sparse ones, in any of SciPy's formats
`spd_operators`             one matrix in any form that a solver takes, with a dense double-precision oracle
`vectors`                   right-hand sides and starting points
`spectra`                   eigenvalues, for `spd_matrices` or for a test that needs to know them
`check_operator`            whether an operator is fit for conjugate gradients, and if not, why
==========================  ========================================================================

Importing this module needs Hypothesis: ``pip install "cgopt[test]"``. The first solve of a process compiles,
which takes longer than Hypothesis allows an example by default: put ``@settings(deadline=None)`` on tests
that solve.

>>> import numpy as np, cgopt
>>> from hypothesis import given, settings
>>> from cgopt.testing import spd_matrices
>>> @settings(deadline=None, max_examples=10)
... @given(spd_matrices(n=4, condition=100))
... def solves(A):
...     b = np.ones(4)
...     x, info = cgopt.cg(A, b, rtol=1e-8)
...     assert info == 0 and np.linalg.norm(b - A @ x) <= 1e-7
>>> solves()
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from .arguments import FLOAT_DTYPES, Seed, float_dtype, generator, one_of, real_number, whole_number
from .arrays import Array, from_foreign, is_foreign, supported_dtype
from .gallery import prescribed_spectrum
from .operators import Operator, as_operator
from .operators.spectrum import lanczos

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("hypothesis"):
        raise
    raise ModuleNotFoundError('cgopt.testing needs Hypothesis: pip install "cgopt[test]"') from error

__all__ = [
    "FORMS",
    "Check",
    "OperatorCase",
    "OperatorReport",
    "check_operator",
    "sparse_spd",
    "spd_matrices",
    "spd_operators",
    "spectra",
    "vectors",
]

FORMS = ("dense", "sparse", "operator", "linear_operator", "object", "callable")
KINDS = ("dominant", "cholesky")
SPARSE_FORMATS = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")

STEPS = 32  # eigenvalues stand on a grid of so many steps (by factors), so that distinct ones are well apart
DRAWN = 32  # unknowns up to which entries are drawn one by one; Hypothesis has a budget of numbers


# ---- strategies ----


def spectra(n: Any = None, *, condition: float = 1e3, distinct: Any = None) -> Any:
    """Strategy for the eigenvalues of a positive definite matrix.

    Parameters
    ----------
    n : int or strategy, optional
        How many; 1 to 12 by default (from `distinct` on, if that is a number).
    condition : float, at least 1
        They lie in [1, condition], on a grid of 33 values whose neighbours have a constant ratio: equal, or
        apart by a factor of at least ``condition ** (1/32)``.
    distinct : int or strategy, optional
        How many distinct values there are, at most 33 and n; as it comes by default.

    Returns
    -------
    strategy of (n,) float64 arrays
        Ascending. Shrinks to ones.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of the range given above (while drawing, for what a strategy yields).

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> from cgopt.testing import spectra
    >>> @given(spectra(n=6, condition=100.0, distinct=3))
    ... def three_values(eigenvalues):
    ...     assert np.unique(eigenvalues).size == 3 and eigenvalues[-1] <= 100.0 * eigenvalues[0]
    >>> three_values()
    """
    condition = _condition(condition)
    if distinct is not None and not _is_strategy(distinct):
        whole_number("distinct", distinct)
    if n is None:
        n = st.integers(1 if distinct is None or _is_strategy(distinct) else int(distinct), 12)
    return _spectra(_sizes(n), condition, distinct)


@st.composite
def _spectra(draw: Any, sizes: Any, condition: float, distinct: Any) -> Array:
    n = whole_number("n", draw(sizes))
    steps = st.integers(0, STEPS)
    if distinct is None:
        exponents = draw(st.lists(steps, min_size=n, max_size=n))
    else:
        d = whole_number("distinct", draw(_strategy(distinct)))
        most = min(n, STEPS + 1)
        if d > most or (d > 1 and condition == 1.0):
            raise ValueError(
                f"distinct must be at most {most} here (n and {STEPS + 1} are the limits, and condition=1 "
                f"leaves one value only), got {d}"
            )
        values = draw(st.lists(steps, min_size=d, max_size=d, unique=True))
        rest = draw(st.lists(st.integers(0, d - 1), min_size=n - d, max_size=n - d))
        exponents = values + [values[i] for i in rest]
    eigenvalues: Array = condition ** (np.sort(exponents) / STEPS)
    return eigenvalues


def spd_matrices(n: Any = None, *, dtype: Any = np.float64, condition: float = 1e3, spectrum: Any = None) -> Any:
    r"""Strategy for dense Hermitian positive definite matrices :math:`Q\, \mathrm{diag}(\lambda)\, Q^H`.

    Parameters
    ----------
    n : int or strategy, optional
        The order; 1 to 12 by default.
    dtype : dtype or strategy
        float32, float64, complex64 or complex128.
    condition : float, at least 1
        The eigenvalues are drawn from [1, condition], see `spectra`. At most a hundredth of the reciprocal
        of the unit roundoff of `dtype`, so that rounding the entries leaves the matrix definite.
    spectrum : array_like or strategy, optional
        The eigenvalues themselves, in place of `n` and `condition`; real. (One that is not positive makes a
        test of negative curvature.)

    Returns
    -------
    strategy of (n, n) arrays of `dtype`
        Exactly Hermitian. The eigenvalues are kept to a small multiple of n times the unit roundoff of
        `dtype` times the largest. Q is the identity, one reflector of small whole numbers, or uniform on the
        orthogonal (unitary) group: shrinks in this order, and to fewer unknowns, and to eigenvalues of one.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of the range given above (while drawing, for what a strategy yields).

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> from cgopt.testing import spd_matrices
    >>> @given(spd_matrices(dtype=np.complex128, spectrum=[1.0, 2.0, 5.0]))
    ... def has_the_spectrum(A):
    ...     assert (A == A.conj().T).all()
    ...     assert np.allclose(np.linalg.eigvalsh(A), [1.0, 2.0, 5.0])
    >>> has_the_spectrum()
    """
    condition = _condition(condition)
    if spectrum is None:
        spectrum = spectra(n, condition=condition)
    elif n is not None:
        raise ValueError("n must be left out when the spectrum is given: its length is the order")
    elif not _is_strategy(spectrum):
        prescribed_spectrum(spectrum, rng=0)  # names what is wrong with it
    if not _is_strategy(dtype):
        _check_condition(condition, float_dtype(dtype, allowed=FLOAT_DTYPES))
    return _spd_matrices(_strategy(spectrum), _strategy(dtype), condition)


@st.composite
def _spd_matrices(draw: Any, spectrum: Any, dtypes: Any, condition: float) -> Array:
    eigenvalues = np.asarray(draw(spectrum))
    dtype = float_dtype(draw(dtypes), allowed=FLOAT_DTYPES)
    _check_condition(condition, dtype)
    n = eigenvalues.size
    # Drawn whatever the basis, since Hypothesis takes what needs fewer numbers for simpler. v comes last, and
    # may be short at its start, so that unknowns can be left out without anything else having to change.
    basis, seed = draw(st.sampled_from(("identity", "reflector", "uniform"))), draw(_seeds)
    v = np.zeros(n, np.complex128 if dtype.kind == "c" else np.float64)
    short = draw(st.lists(_whole_number(dtype, 3), max_size=n))
    v[n - len(short) :] = short
    if basis == "uniform":
        return prescribed_spectrum(eigenvalues, dtype=dtype, rng=seed)
    A = np.diag(eigenvalues).astype(np.complex128 if dtype.kind == "c" else np.float64)
    if basis == "reflector" and v.any():
        H = np.eye(n) - (2.0 / np.vdot(v, v).real) * np.outer(v, v.conj())
        A = H @ A @ H
        A = (A + A.conj().T) / 2.0
    return A.astype(dtype)


def sparse_spd(n: Any = None, *, dtype: Any = np.float64, kind: Any = None, format: Any = "csr") -> Any:
    """Strategy for sparse Hermitian positive definite matrices.

    Parameters
    ----------
    n : int or strategy, optional
        The order; 1 to 24 by default. Up to 32 the pattern shrinks entry by entry; above, it is a band of 31
        diagonals on either side, filled from one seed.
    dtype : dtype or strategy
        float32, float64, complex64 or complex128.
    kind : {"dominant", "cholesky"} or strategy, optional
        "dominant": each diagonal entry is one more than the sum of the absolute values beside it (complex
        entries counting as ``|real| + |imag|``), so that no eigenvalue is below 1. "cholesky": ``L @ L^H``
        with a lower triangular L of that kind, so that none is below 1/n. One of the two by default.
    format : str or strategy
        Of SciPy's sparse arrays: csr, csc, coo, bsr, dia, lil, dok.

    Returns
    -------
    strategy of (n, n) sparse arrays
        Exactly Hermitian. The entries are multiples of 1/16, and small: products with vectors of small whole
        numbers are exact in double precision. Shrinks to the identity.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of the range given above (while drawing, for what a strategy yields).

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> from cgopt.testing import sparse_spd
    >>> @given(sparse_spd(kind="dominant", format="csc"))
    ... def is_dominant(A):
    ...     assert A.format == "csc"
    ...     diagonal = A.diagonal()
    ...     assert (diagonal >= 1.0 + abs(A).sum(axis=1) - diagonal).all()
    >>> is_dominant()
    """
    if kind is None:
        kind = st.sampled_from(KINDS)
    for name, value, known in (("kind", kind, KINDS), ("format", format, SPARSE_FORMATS)):
        if not _is_strategy(value):
            one_of(name, value, known)
    if not _is_strategy(dtype):
        float_dtype(dtype, allowed=FLOAT_DTYPES)
    return _sparse_spd(
        _sizes(st.integers(1, 24) if n is None else n), _strategy(dtype), _strategy(kind), _strategy(format)
    )


@st.composite
def _sparse_spd(draw: Any, sizes: Any, dtypes: Any, kinds: Any, formats: Any) -> Any:
    n = whole_number("n", draw(sizes))
    dtype = float_dtype(draw(dtypes), allowed=FLOAT_DTYPES)
    kind = one_of("kind", draw(kinds), KINDS)
    wide = np.complex128 if dtype.kind == "c" else np.float64
    place, part = st.integers(0, n - 1), st.integers(-8, 8)
    if n <= DRAWN:
        imaginary = part if dtype.kind == "c" else st.just(0)
        couplings = st.lists(st.tuples(place, place, part, imaginary), max_size=3 * n)
        drawn = np.array(draw(couplings), dtype=np.int64).reshape(-1, 4)
    else:
        rng = np.random.default_rng(draw(_seeds))
        drawn = rng.integers(-8, 9, (3 * n // 2, 4))
        drawn[:, 0] = rng.integers(DRAWN, n, drawn.shape[0])
        drawn[:, 1] = drawn[:, 0] - rng.integers(1, DRAWN, drawn.shape[0])
    values = drawn[:, 2] / 4.0 + (1j * drawn[:, 3] / 4.0 if dtype.kind == "c" else 0.0)
    row, column = np.maximum(drawn[:, 0], drawn[:, 1]), np.minimum(drawn[:, 0], drawn[:, 1])
    beside = row != column
    lower = sp.csr_array(sp.coo_array((values[beside].astype(wide), (row[beside], column[beside])), shape=(n, n)))
    if kind == "cholesky":
        L = lower + sp.diags_array(1.0 + _sizes_in_rows(lower))
        A = L @ L.conj().T
    else:
        A = lower + lower.conj().T
        A = A + sp.diags_array(1.0 + _sizes_in_rows(A))
    A = sp.csr_array(A).astype(dtype)
    A.sum_duplicates()
    A.eliminate_zeros()
    return A.asformat(one_of("format", draw(formats), SPARSE_FORMATS))


def _sizes_in_rows(A: Any) -> Array:
    """Row sums of ``|real| + |imag|``."""
    sizes: Array = abs(A.real).sum(axis=1) + abs(A.imag).sum(axis=1)
    return sizes


@dataclass(frozen=True, eq=False)
class OperatorCase:
    """A positive definite matrix in one of the forms that a solver takes; drawn by `spd_operators`.

    Attributes
    ----------
    operator : object
        What the solver is given.
    dense : (n, n) float64 or complex128 array
        The same matrix, entry by entry: the oracle.
    form : str
        One of `FORMS`.
    dtype : dtype
        The type that the operator computes in.
    """

    operator: Any
    dense: Array
    form: str
    dtype: np.dtype[Any]

    @property
    def n(self) -> int:
        """The order."""
        return int(self.dense.shape[0])


def spd_operators(matrices: Any = None, *, forms: Collection[str] = FORMS) -> Any:
    """Strategy for one matrix in any form that a solver takes, with a dense oracle.

    Parameters
    ----------
    matrices : strategy, optional
        Of dense or sparse matrices, such as `spd_matrices` and `sparse_spd`; by default one of the two.
    forms : collection of str
        Which forms to draw from:

        =================  ==========================================================
        "dense"            a NumPy array
        "sparse"           a SciPy sparse array, in the format that it was drawn in
        "operator"         a `cgopt.operators.Operator`
        "linear_operator"  a `scipy.sparse.linalg.LinearOperator`
        "object"           an object with ``shape``, ``dtype`` and ``matvec``
        "callable"         a function ``v -> A v``
        =================  ==========================================================

    Returns
    -------
    strategy of OperatorCase

    Raises
    ------
    ValueError
        For an unknown form.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> from hypothesis import given, settings
    >>> from cgopt.testing import spd_operators
    >>> @settings(deadline=None, max_examples=10)
    ... @given(spd_operators(forms=("linear_operator", "callable")))
    ... def solves(case):
    ...     x, info = cgopt.cg(case.operator, np.ones(case.n), rtol=1e-6)
    ...     assert info == 0 and np.linalg.norm(case.dense @ x - 1.0) <= 1e-5 * case.n
    >>> solves()
    """
    forms = (forms,) if isinstance(forms, str) else tuple(forms)
    for form in forms:
        one_of("forms", form, FORMS)
    if matrices is None:
        matrices = st.one_of(spd_matrices(), sparse_spd(format=st.sampled_from(SPARSE_FORMATS)))
    return st.builds(_as_case, matrices, st.sampled_from(forms))


def _as_case(A: Any, form: str) -> OperatorCase:
    dense = A.toarray() if sp.issparse(A) else A
    operator: Any = A
    if form == "dense":
        operator = dense
    elif form == "sparse":
        operator = A if sp.issparse(A) else sp.csr_array(A)
    elif form == "operator":
        operator = as_operator(A)
    elif form == "linear_operator":
        operator = aslinearoperator(A)
    elif form == "object":
        operator = _Product(A)
    elif form == "callable":

        def operator(v: Array) -> Any:
            return A @ v

    wide = np.complex128 if dense.dtype.kind == "c" else np.float64
    return OperatorCase(operator, dense.astype(wide), form, dense.dtype)


class _Product:
    """The least that a solver takes for an operator."""

    def __init__(self, A: Any) -> None:
        self.A, self.shape, self.dtype = A, A.shape, A.dtype

    def matvec(self, x: Array) -> Any:
        return self.A @ x


def vectors(n: Any, *, dtype: Any = np.float64, columns: Any = None, nonzero: bool = True) -> Any:
    """Strategy for vectors, or for several side by side.

    Parameters
    ----------
    n : int or strategy
    dtype : dtype or strategy
        float32, float64, complex64 or complex128.
    columns : int or strategy, optional
        Draw (n, columns) arrays.
    nonzero : bool
        Draw no zero vector (and no array with a zero column). On by default.

    Returns
    -------
    strategy of (n,) or (n, columns) arrays of `dtype`
        Small whole numbers, or normally distributed. Shrinks to the former, and to zeros with a one.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of the range given above (while drawing, for what a strategy yields).

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import given
    >>> from cgopt.testing import vectors
    >>> @given(vectors(5, dtype=np.complex64))
    ... def not_zero(b):
    ...     assert b.shape == (5,) and b.dtype == np.complex64 and b.any()
    >>> not_zero()
    """
    if not _is_strategy(dtype):
        float_dtype(dtype, allowed=FLOAT_DTYPES)
    columns = None if columns is None else _sizes(columns, "columns")
    return _vectors(_sizes(n), _strategy(dtype), columns, bool(nonzero))


@st.composite
def _vectors(draw: Any, sizes: Any, dtypes: Any, columns: Any, nonzero: bool) -> Array:
    shape: tuple[int, ...] = (whole_number("n", draw(sizes)),)
    if columns is not None:
        shape = (*shape, whole_number("columns", draw(columns)))
    dtype = float_dtype(draw(dtypes), allowed=FLOAT_DTYPES)
    normal, seed = draw(st.booleans()), draw(_seeds)
    if shape[0] > DRAWN:
        numbers: Array = np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)
    else:
        size = int(np.prod(shape))
        drawn = draw(st.lists(_whole_number(dtype, 9), min_size=size, max_size=size))
        numbers = np.array(drawn).astype(dtype).reshape(shape)
    if nonzero:
        numbers[-1] += ~numbers.any(axis=0)  # a column of zeros gets a one at its end
    return _normal(np.random.default_rng(seed), shape, dtype) if normal else numbers


_seeds = st.integers(0, 2**32 - 1)


def _whole_number(dtype: np.dtype[Any], most: int) -> Any:
    """Strategy for whole numbers from -most to most, complex ones for a complex type."""
    part = st.integers(-most, most)
    return st.builds(complex, part, part) if dtype.kind == "c" else part


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    v: Array = rng.standard_normal(shape)
    if dtype.kind == "c":
        v = v + 1j * rng.standard_normal(shape)
    return v.astype(dtype)


def _is_strategy(value: Any) -> bool:
    return isinstance(value, st.SearchStrategy)


def _strategy(value: Any) -> Any:
    return value if _is_strategy(value) else st.just(value)


def _sizes(n: Any, name: str = "n") -> Any:
    return n if _is_strategy(n) else st.just(whole_number(name, n))


def _condition(value: Any) -> float:
    number = real_number("condition", value)
    if number < 1.0:
        raise ValueError(f"condition must be at least 1, got {number:g}")
    return number


def _check_condition(condition: float, dtype: np.dtype[Any]) -> None:
    most = 0.01 / float(np.finfo(dtype).eps)
    if condition > most:
        raise ValueError(
            f"condition must be at most {most:.0e} in {dtype}; got {condition:g}. Beyond, rounding may "
            "make the matrix indefinite"
        )


# ---- the check of an operator ----


@dataclass(frozen=True)
class Check:
    """One property of an operator.

    Attributes
    ----------
    name : str
    ok : bool or None
        None if it was not tested; `message` says why.
    message : str
        What was measured, and on failure what to do about it.
    value, limit : float
        The relative error that was measured, and the largest that passes; NaN where there is none.
    """

    name: str
    ok: bool | None
    message: str
    value: float = float("nan")
    limit: float = float("nan")

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True)
class OperatorReport:
    """What `check_operator` found. True where a truth value is asked for if nothing failed.

    Attributes
    ----------
    subject : str
        Which operator, its size and type.
    checks : tuple of Check
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.ok is False)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"{name!r} is not a check; there are {', '.join(check.name for check in self.checks)}")

    def raise_for_failure(self) -> None:
        """Raise an AssertionError that is the report, if anything failed."""
        if not self.ok:
            raise AssertionError(repr(self))

    def __repr__(self) -> str:
        failed = len(self.failures)
        verdict = f"{failed} of {len(self.checks)} checks failed" if failed else "fit for conjugate gradients"
        lines = [f"{self.subject}: {verdict}"]
        for check in self.checks:
            if check.ok is not None:
                start = f"  {'ok' if check.ok else 'FAILED':7}{check.name:13}"
                lines.append(textwrap.fill(start + check.message, 100, subsequent_indent=" " * len(start)))
        for reason in dict.fromkeys(check.message for check in self.checks if check.ok is None):
            names = ", ".join(check.name for check in self.checks if check.message == reason)
            lines.append(f"  {reason}: {names}")
        return "\n".join(lines)


def check_operator(
    A: Any,
    *,
    n: int | None = None,
    dtype: Any = None,
    definite: bool = True,
    rtol: float | None = None,
    samples: int = 3,
    steps: int = 30,
    reference: Any = None,
    rng: Seed = 0,
) -> OperatorReport:
    """Whether A is fit for conjugate gradients: linear, Hermitian, positive definite, true to its contract.

    A handful of products with random vectors; no matrix is formed. A fault that makes other checks
    meaningless (a product that changes from call to call is neither linear nor symmetric) is reported alone.

    Parameters
    ----------
    A : matrix, sparse array, LinearOperator, tensor, object with ``matvec`` and ``shape``, callable
        Anything that `cgopt.cg` takes.
    n : int, optional
        The size, when A is a callable.
    dtype : dtype, optional
        The type that A computes in, when it does not tell; float64 by default.
    definite : bool
        Whether to ask for positive definiteness. A Hessian may be indefinite: pass False.
    rtol : float, optional
        Relative error that passes; by default the square root of the machine epsilon of the type, which is
        what `cgopt.cg` asks of symmetry, and more for an operator that says so (`Operator.product_error`).
    samples : int, at least 2
        Random vectors.
    steps : int
        Lanczos steps of the definiteness probe, at most n are made. With n of them it misses nothing that
        a random vector sees; with fewer it may.
    reference : matrix or operator, optional
        What A should be: the same by finite differences, say (`cgopt.operators.FiniteDifferenceHessian`), or a slow
        product that is trusted. A constant factor between the two is named: -1, or the number of samples where one
        is of the mean loss and the other of the sum. Finite differences have a larger error than the default `rtol`.
    rng : None, int or numpy.random.Generator
        Where the vectors come from.

    Returns
    -------
    OperatorReport
        With the checks ``shape``, ``dtype``, ``finite``, ``input`` (x is not changed), ``determinism``,
        ``linearity``, ``symmetry``, ``definiteness``, ``matmat``, ``rmatvec``, ``diagonal`` and ``out``, the
        last four as far as A offers them, and ``reference`` where there is one. Its ``ok`` says whether all
        passed, and `raise_for_failure` makes it an assertion.

    Raises
    ------
    TypeError, ValueError
        If A is nothing that can be multiplied by, or an argument is out of range. What is wrong with A's
        products is never raised, but reported.

    Notes
    -----
    The definiteness probe is the Lanczos process with full reorthogonalisation: its smallest Ritz value is
    the smallest value of ``d'Ad / d'd`` in a Krylov space, so that a negative one is a proof and a positive
    one is not.

    Examples
    --------
    >>> import numpy as np
    >>> from cgopt.testing import check_operator
    >>> check_operator(np.diag([1.0, 2.0, 3.0])).ok
    True
    >>> report = check_operator(lambda v: np.roll(v, 1), n=4)
    >>> [check.name for check in report.failures]
    ['symmetry']
    >>> check_operator(np.diag([1.0, -2.0, 3.0])).raise_for_failure()
    Traceback (most recent call last):
    AssertionError: ndarray of shape (3, 3), float64: 1 of 12 checks failed
    ...
    """
    if whole_number("samples", samples) < 2:
        raise ValueError(f"samples must be at least 2, to tell symmetry by, got {samples}")
    subject = _Subject(A, n, dtype)
    asked = max(float(np.sqrt(np.finfo(subject.dtype).eps)), 10.0 * float(getattr(A, "product_error", 0.0)))
    limit = asked if rtol is None else real_number("rtol", rtol, above=0.0)
    rng = generator(rng)
    X = [_normal(rng, (subject.n,), subject.dtype) for _ in range(samples)]
    steps = min(whole_number("steps", steps), subject.n) if definite else 0
    with np.errstate(all="ignore"):
        return OperatorReport(str(subject), _run(_Probe(subject, limit, X, steps, reference)))


class _Subject:
    """A's products as A makes them, before a solver has shaped or cast them."""

    def __init__(self, A: Any, n: int | None, dtype: Any) -> None:
        self.matmat: Any = None
        self.rmatvec: Any = None
        self.diagonal: Any = None
        self.stored: Any = None  # the matrix, where its entries can be looked at
        self.out = isinstance(A, Operator)
        self.name = type(A).__name__
        if sp.issparse(A) or isinstance(A, np.ndarray):
            self.stored = A = A if sp.issparse(A) else np.asarray(A)
            self.matvec: Any = A.__matmul__
            self.matmat, self.diagonal = A.__matmul__, A.diagonal
        elif hasattr(A, "matvec") and hasattr(A, "shape"):
            self.matvec = A.matvec
            self.matmat, self.rmatvec = getattr(A, "matmat", None), getattr(A, "rmatvec", None)
            self.diagonal = getattr(A, "diagonal", None)
            if isinstance(A, LinearOperator) and type(A)._matmat is LinearOperator._matmat:
                self.matmat = None  # SciPy's own, which calls matvec
        elif callable(A) and not isinstance(A, type):
            if n is None:
                raise TypeError("A is a function, which does not tell its size: pass n")
            self.name = getattr(A, "__qualname__", self.name)
            self.matvec = A
        else:
            A = as_operator(A)  # tensors and lists; says what cannot be multiplied by
            self.matvec, self.matmat, self.diagonal = A.matvec, A.matmat, A.diagonal
        self.shape = tuple(getattr(A, "shape", (n, n)))
        self.n = whole_number("n", n) if n is not None else int(self.shape[0]) if self.shape else 0
        own = getattr(A, "dtype", None)
        self.dtype = supported_dtype(own if own is not None else np.float64 if dtype is None else dtype, "A")

    def product(self, x: Array) -> Array:
        """A x, uncast."""
        return _as_numpy(self.matvec(x))

    def __str__(self) -> str:
        return f"{self.name} of shape {self.shape}, {self.dtype}"


def _as_numpy(y: Any) -> Array:
    return np.asarray(from_foreign(y, "the product of A") if is_foreign(y) else y)


def _wide(y: Array) -> Array:
    """A copy in double precision."""
    return np.array(y, dtype=np.complex128 if y.dtype.kind == "c" else np.float64)


def _form(v: Array, y: Array) -> complex:
    """``v' y`` in double precision."""
    return complex(np.vdot(_wide(v), _wide(y)))


def _ratio(gap: Any, size: Any) -> float:
    """``gap / size``, and 0 for 0 / 0."""
    return float(gap / size) if size > 0.0 else 0.0 if gap == 0.0 else float("inf")


class _Probe:
    """The operator, some vectors, and their products once it is known that there are any."""

    def __init__(self, A: _Subject, limit: float, X: list[Array], steps: int, reference: Any) -> None:
        self.A, self.limit, self.X, self.steps = A, limit, X, steps
        self.reference = None if reference is None else as_operator(reference, n=A.n, dtype=A.dtype, name="reference")
        self.AX: list[Array] = []
        self.eps = float(np.finfo(A.dtype).eps)


# Each check returns what it measured, the most that passes, and two sentences: for success and for failure.
# Or None, where A does not offer what it checks.
_Finding = tuple[float, float, str, str]


def _verdict(passed: bool, good: str, bad: str) -> _Finding:
    """The finding of a check that measures nothing."""
    return (0.0 if passed else 1.0), 0.0, good, bad


def _check_shape(probe: _Probe) -> _Finding:
    A, n = probe.A, probe.A.n
    if A.shape != (n, n) or n == 0:
        return _verdict(False, "", f"A has shape {A.shape}; it must be square, of order 1 at least")
    found = A.product(probe.X[0].copy()).shape
    return _verdict(
        found == (n,),
        f"({n},) -> ({n},)",
        f"the product with an array of shape ({n},) has shape {found}; return an array of shape ({n},)",
    )


def _check_dtype(probe: _Probe) -> _Finding:
    wanted, found = probe.A.dtype, probe.A.product(probe.X[0].copy()).dtype
    return _verdict(
        found == wanted,
        f"{wanted} -> {found}",
        f"the product with a {wanted} vector is {found}; compute in {wanted}, or declare dtype={found}"
        + ("" if found.itemsize >= wanted.itemsize else " (rounded as it is, it limits the accuracy of the solution)"),
    )


def _check_finite(probe: _Probe) -> _Finding:
    probe.AX = [_wide(probe.A.product(x.copy())) for x in probe.X]
    bad = sum(int((~np.isfinite(y)).sum()) for y in probe.AX)
    return _verdict(
        bad == 0,
        "products of finite vectors are finite",
        f"{bad} of {len(probe.X) * probe.A.n} entries of the products with normally distributed vectors are "
        "NaN or infinite; look for an overflow, a division by zero, or missing values in A",
    )


def _check_input(probe: _Probe) -> _Finding:
    x = probe.X[0].copy()
    probe.A.product(x)
    changed = int((x != probe.X[0]).sum())
    return _verdict(
        changed == 0,
        "x is left as it was",
        f"the product changed {changed} of {x.size} entries of x; work on a copy: x = x.copy()",
    )


def _check_determinism(probe: _Probe) -> _Finding:
    again = [_wide(probe.A.product(x.copy())) for x in probe.X]
    value = max(_ratio(np.linalg.norm(y - z), np.linalg.norm(y)) for y, z in zip(probe.AX, again, strict=True))
    return (
        value,
        probe.limit,
        "same vector, same bits" if value == 0.0 else f"the same vector twice differs by rounding, {value:.1e}",
        f"two products with the same vector differ by {value:.1e} of their size (allowed {probe.limit:.1e}); "
        "fix the batch, the dropout mask, the statistics and the seed for the whole solve",
    )


def _check_linearity(probe: _Probe) -> _Finding:
    (u, v), (Au, Av) = probe.X[:2], probe.AX[:2]
    value, a, b = 0.0, 0.0, 0.0
    for c, d in ((0.0, 0.0), (1.0, 1.0), (-3.0, 0.5), (2.0**20, 0.0), (0.0, 2.0**-20)):
        gap = np.linalg.norm(_wide(probe.A.product((c * u + d * v).astype(u.dtype))) - (c * Au + d * Av))
        size = abs(c) * np.linalg.norm(Au) + abs(d) * np.linalg.norm(Av)
        defect = _ratio(gap, size if c or d else np.linalg.norm(Au))
        if not defect <= value:
            value, a, b = defect, c, d
    return (
        value,
        probe.limit,
        f"A(au + bv) = aAu + bAv up to {value:.1e} of their size",
        f"A(au + bv) and aAu + bAv differ by {value:.1e} of their size for a={a:g}, b={b:g} (allowed "
        f"{probe.limit:.1e}); the product must have no offset, no clipping, and no rule that depends on x",
    )


def _check_symmetry(probe: _Probe) -> _Finding:
    A, kind = probe.A, "Hermitian" if probe.A.dtype.kind == "c" else "symmetric"
    value = 0.0
    pairs = [(x, y) for x, y in zip(probe.X, probe.AX, strict=True)]
    for i, (u, Au) in enumerate(pairs):
        for v, Av in pairs[:i]:
            gap = abs(_form(v, Au) - _form(u, Av).conjugate())
            size = np.linalg.norm(Au) * np.linalg.norm(v) + np.linalg.norm(Av) * np.linalg.norm(u)
            # The form of a random pair has the size of a Frobenius norm: this is about |A - A'| / |A|.
            value = max(value, _ratio(gap * np.sqrt(A.n), size))
    where = ""
    if A.stored is not None:
        gaps = abs(sp.coo_array(A.stored) - sp.coo_array(A.stored).conj().T).tocoo()
        if gaps.nnz:
            k = int(np.argmax(gaps.data))
            i, j = int(gaps.row[k]), int(gaps.col[k])
            where = f", most at the entries ({i}, {j}) and ({j}, {i}), by {gaps.data[k]:.1e}"
    return (
        value,
        probe.limit,
        f"u'Av = v'Au up to {value:.1e} of their size",
        f"A is not {kind}: u'Av and v'Au differ by {value:.1e} of their size (allowed {probe.limit:.1e})"
        f"{where}; use (A + A.T.conj()) / 2 if that is an artefact, another method (GMRES, LSQR) otherwise",
    )


def _check_definiteness(probe: _Probe) -> _Finding | None:
    if probe.steps == 0:
        return None
    d, largest, dimension = _flattest_direction(probe)
    curvature = float(np.vdot(d, _wide(probe.A.product(d))).real / np.vdot(d, d).real)
    value, limit = -_ratio(curvature, largest), -10.0 * probe.eps
    what = "not positive definite" if value > -limit else "singular to working precision"
    return (
        value,
        limit,
        f"d'Ad/d'd is between {curvature:.3g} and {largest:.3g} in a Krylov space of dimension {dimension}",
        f"A is {what}: d'Ad/d'd = {curvature:.3g} for a direction d, up to {largest:.3g} in size for others; "
        "check its sign, damp it (cgopt.operators.Damped), or use a method for indefinite systems (MINRES)",
    )


def _flattest_direction(probe: _Probe) -> tuple[Array, float, int]:
    """Ritz vector of the smallest Ritz value, the size of the largest, the dimension of the Krylov space."""

    def product(q: Array) -> Array:
        return _wide(probe.A.product(q.astype(probe.A.dtype)))

    diagonal, off, Q = lanczos(product, _wide(probe.X[0]), probe.steps, probe.eps)
    values, vectors = eigh_tridiagonal(diagonal, off)
    return (vectors[:, 0] @ Q).astype(probe.A.dtype), float(np.max(np.abs(values))), len(Q)


def _check_matmat(probe: _Probe) -> _Finding | None:
    A = probe.A
    if A.matmat is None:
        return None
    found, wanted = _as_numpy(A.matmat(np.stack(probe.X, axis=1))), np.stack(probe.AX, axis=1)
    if found.shape != wanted.shape:
        bad = f"A.matmat maps {wanted.shape} to {found.shape}; it must multiply each column, and keep the shape"
        return _verdict(False, "", bad)
    value = _ratio(np.linalg.norm(_wide(found) - wanted), np.linalg.norm(wanted))
    return (
        value,
        probe.limit,
        f"agrees with matvec up to {value:.1e}",
        f"A.matmat differs from matvec on its columns by {value:.1e} (allowed {probe.limit:.1e}); make both one matrix",
    )


def _check_rmatvec(probe: _Probe) -> _Finding | None:
    A, (u, v), (Au, _) = probe.A, probe.X[:2], probe.AX[:2]
    if A.rmatvec is None:
        return None
    try:
        found = _as_numpy(A.rmatvec(v.copy()))
    except NotImplementedError:
        return None
    if found.shape != v.shape:
        return _verdict(False, "", f"A.rmatvec maps {v.shape} to {found.shape}; return an array of shape {v.shape}")
    size = np.linalg.norm(Au) * np.linalg.norm(v) + np.linalg.norm(found) * np.linalg.norm(u)
    value = _ratio(abs(_form(v, Au) - _form(found, u)) * np.sqrt(A.n), size)
    return (
        value,
        probe.limit,
        f"v'(Au) = (A'v)'u up to {value:.1e} of their size",
        f"v'(Au) and (A'v)'u differ by {value:.1e} of their size (allowed {probe.limit:.1e}), A'v being "
        "rmatvec's; for a Hermitian A it is matvec",
    )


def _check_diagonal(probe: _Probe) -> _Finding | None:
    A = probe.A
    known = A.diagonal() if callable(A.diagonal) else A.diagonal
    if known is None:
        return None
    known = _as_numpy(known)
    if known.shape != (A.n,):
        return _verdict(False, "", f"A.diagonal has shape {known.shape}; return an array of shape ({A.n},)")
    value, entry, wanted = 0.0, 0, 0.0
    for i in sorted({0, A.n - 1, *(int(i) for i in np.argsort(abs(probe.X[0]))[: len(probe.X)])}):
        unit = np.zeros(A.n, A.dtype)
        unit[i] = 1.0
        column = _wide(A.product(unit))
        gap = _ratio(abs(column[i] - known[i]), np.linalg.norm(column))
        if not gap <= value:
            value, entry, wanted = gap, i, column[i]
    return (
        value,
        probe.limit,
        f"agrees with the products up to {value:.1e}",
        f"entry {entry} of A.diagonal is {known[entry]:.6g}, but the product with that unit vector holds "
        f"{wanted:.6g}; make both one matrix",
    )


def _check_out(probe: _Probe) -> _Finding | None:
    if not probe.A.out:
        return None
    out = np.full(probe.A.n, np.nan, probe.A.dtype)
    returned = probe.A.matvec(probe.X[0].copy(), out=out)
    value = _ratio(np.linalg.norm(_wide(out) - probe.AX[0]), np.linalg.norm(probe.AX[0]))
    if returned is not out:
        return _verdict(False, "", "matvec(x, out=out) must write to `out` and return it")
    return (
        value,
        probe.limit,
        "matvec(x, out=out) writes where it is told",
        f"what matvec(x, out=out) leaves in `out` differs by {value:.1e} from matvec(x); write all of it",
    )


def _check_reference(probe: _Probe) -> _Finding | None:
    if probe.reference is None:
        return None
    found = np.concatenate(probe.AX)
    wanted = np.concatenate([_wide(probe.reference.matvec(x.copy())) for x in probe.X])
    value = _ratio(np.linalg.norm(found - wanted), np.linalg.norm(wanted))
    factor = _ratio(np.vdot(wanted, found).real, np.vdot(wanted, wanted).real)
    remains = _ratio(np.linalg.norm(found - factor * wanted), np.linalg.norm(found))
    if remains <= max(probe.limit, 0.01) and factor != 0.0:
        remedy = "change its sign" if abs(factor + 1.0) < 0.01 else "is one of the mean loss, and the other of the sum?"
        why = f"A is {factor:.4g} times the reference: {remedy}"
    else:
        why = "and by no constant factor; look for a term that is missing, or another batch"
    return (
        value,
        probe.limit,
        f"agrees with the reference up to {value:.1e}",
        f"products differ from the reference's by {value:.1e} of their size (allowed {probe.limit:.1e}); {why}",
    )


# A failed check leaves those that need it untested: what changes from call to call is not linear either.
_CHECKS: tuple[tuple[str, Callable[[_Probe], _Finding | None], str], ...] = (
    ("shape", _check_shape, ""),
    ("dtype", _check_dtype, "shape"),
    ("finite", _check_finite, "dtype"),
    ("input", _check_input, "dtype"),
    ("determinism", _check_determinism, "finite"),
    ("linearity", _check_linearity, "determinism"),
    ("symmetry", _check_symmetry, "linearity"),
    ("definiteness", _check_definiteness, "symmetry"),
    ("matmat", _check_matmat, "determinism"),
    ("rmatvec", _check_rmatvec, "linearity"),
    ("reference", _check_reference, "determinism"),
    ("diagonal", _check_diagonal, "linearity"),
    ("out", _check_out, "determinism"),
)


def _run(probe: _Probe) -> tuple[Check, ...]:
    checks: list[Check] = []
    cause: dict[str, str] = {}  # of each check that did not pass, the check that failed first
    for name, check, need in _CHECKS:
        if name == "reference" and probe.reference is None:
            continue  # what nobody asked for is not reported
        if need in cause:
            cause[name] = cause[need]
            checks.append(Check(name, None, f"not tested, since {cause[need]} failed"))
            continue
        try:
            finding = check(probe)
        except Exception as error:  # whatever A raises is a finding
            cause[name] = name
            checks.append(Check(name, False, f"A raised {type(error).__name__}: {error}"))
            continue
        if finding is None:
            checks.append(Check(name, None, "not asked for" if name == "definiteness" else "not offered by A"))
            continue
        value, limit, good, bad = finding
        passed = value <= limit
        if not passed:
            cause[name] = name
        checks.append(Check(name, passed, good if passed else bad, value, limit))
    return tuple(checks)
