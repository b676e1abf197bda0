"""Whether an operator is fit for conjugate gradients, and if not, why."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

from ..arguments import Seed, generator, real_number, whole_number
from ..arrays import Array, from_foreign, is_foreign, supported_dtype
from ..operators import Operator, as_operator
from ..operators.spectrum import lanczos
from .strategies import standard_normal


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
    X = [standard_normal(rng, (subject.n,), subject.dtype) for _ in range(samples)]
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
