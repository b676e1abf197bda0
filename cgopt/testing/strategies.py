"""Strategies that draw positive definite systems."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

from ..arguments import FLOAT_DTYPES, float_dtype, one_of, real_number, whole_number
from ..arrays import Array
from ..gallery import prescribed_spectrum
from ..operators import as_operator

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("hypothesis"):
        raise
    raise ModuleNotFoundError('cgopt.testing needs Hypothesis: pip install "cgopt[test]"') from error

FORMS = ("dense", "sparse", "operator", "linear_operator", "object", "callable")
KINDS = ("dominant", "cholesky")
SPARSE_FORMATS = ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")

STEPS = 32  # eigenvalues stand on a grid of so many steps (by factors), so that distinct ones are well apart
DRAWN = 32  # unknowns up to which entries are drawn one by one; Hypothesis has a budget of numbers


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
    return standard_normal(np.random.default_rng(seed), shape, dtype) if normal else numbers


_seeds = st.integers(0, 2**32 - 1)


def _whole_number(dtype: np.dtype[Any], most: int) -> Any:
    """Strategy for whole numbers from -most to most, complex ones for a complex type."""
    part = st.integers(-most, most)
    return st.builds(complex, part, part) if dtype.kind == "c" else part


def standard_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Standard normal numbers, complex ones for a complex type."""
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
