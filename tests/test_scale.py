"""The same answer at every scale: no threshold is absolute, and nothing overflows where the answer does not.

Scaling by powers of two is exact in floating-point arithmetic, so that there "the same" means the same bits
of x. What a result claims is checked in scaled arithmetic, where neither the claim nor the check overflows.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt import Status, cg

N = 260  # iterations that a Poisson line needs: more than any patience with steps that look too small
POISSON = cgopt.gallery.poisson(N)
RHS = np.random.default_rng(0).standard_normal(N)
START = np.random.default_rng(1).standard_normal(N)


def scaled(a, exponent):
    """``2**exponent a``; exact, unless it leaves the range of the type."""
    if sp.issparse(a):
        a = a.copy()
        a.data = scaled(a.data, exponent)
        return a
    if np.iscomplexobj(a):
        return np.ldexp(np.ascontiguousarray(a).view(a.real.dtype), exponent).view(a.dtype)
    return np.ldexp(a, exponent)


def magnitude(a):
    """Binary exponent of the largest entry."""
    entries = np.abs(a.data if sp.issparse(a) else a)
    return int(np.frexp(float(entries.max(initial=0.0)))[1])


def wide(a):
    return a.astype(np.result_type(a.dtype, np.float64))


def true_residual(A, x, b):
    """``2**-e |b - A x|``, ``2**-e (|b| + |A| |x|)`` and e, for one right-hand side.

    Terms are brought to about one first, so that they neither overflow nor vanish.
    """
    A, x, b = wide(A), wide(x), wide(b)
    e, f = magnitude(b), magnitude(A)
    A, x, b = scaled(A, -f), scaled(x, f - e), scaled(b, -e)
    return np.linalg.norm(b - A @ x), np.linalg.norm(b) + abs(A).sum(axis=0).max() * np.linalg.norm(x), e


def assert_honest(A, b, result, rtol):
    """What the result claims is true of the x that it hands out."""
    assert np.isfinite(result.x).all()
    residual, terms, e = true_residual(A, result.x, b)
    # two ways to sum the terms, and no digits below the last of a subnormal number
    slack = 4 * float(np.finfo(result.x.dtype).eps) * terms + math.ldexp(1.0, -1074 - e)
    if result.converged:
        assert residual <= rtol * np.linalg.norm(scaled(wide(b), -e)) * (1 + 1e-6) + slack
    assert math.ldexp(result.residual_norm, -e) == pytest.approx(residual, rel=1e-6, abs=slack)


# --- powers of two: the same bits ---------------------------------------------------------------------------

PAIRS = [
    (-100, 664),  # A * 1e-30, b * 1e200
    (996, 996),
    (-960, -960),
    (280, -310),  # entries and norms that are in range, with |x|^2 that is not
    (-280, 310),
    (299, -330),
    (-299, 330),
    (310, -600),
    (-310, 600),
    (0, -700),
    (0, 900),
]


def assert_same_bits(A, b, a_exponent, b_exponent, **options):
    """Solve the system and the scaled one; every number must be the scaled number."""
    shift = b_exponent - a_exponent
    start = options.pop("x0", None)
    plain = cg(A, b, start, **options)
    moved = cg(
        scaled(A, a_exponent),
        scaled(b, b_exponent),
        None if start is None else scaled(start, shift),
        **options,
    )
    np.testing.assert_array_equal(moved.x, scaled(plain.x, shift))
    columns = [(plain, moved)] if plain.x.ndim == 1 else zip(plain.columns, moved.columns, strict=True)
    for one, other in columns:
        assert other.status is one.status is Status.CONVERGED
        assert other.iterations == one.iterations
        np.testing.assert_allclose(np.ldexp(other.history, -b_exponent), one.history, rtol=1e-13)
        assert math.ldexp(other.residual_norm, -b_exponent) == pytest.approx(one.residual_norm, rel=1e-13)
        assert other.condition_estimate == pytest.approx(one.condition_estimate, rel=1e-13)
        # an error is of the size of x, its A-norm of that times sqrt(A)
        error = other.error_estimate * 2.0 ** (a_exponent / 2 - b_exponent)
        assert error == pytest.approx(one.error_estimate, rel=1e-12)


@pytest.mark.parametrize("x0", [None, START], ids=["zero", "guess"])
@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize(("a_exponent", "b_exponent"), PAIRS)
def test_scaling_scales_the_answer(a_exponent, b_exponent, M, x0):
    assert_same_bits(POISSON, RHS, a_exponent, b_exponent, M=M, x0=x0, rtol=1e-8)


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize(("a_exponent", "b_exponent"), [(-100, 664), (996, 996), (-310, 0)])
def test_scaling_scales_the_ritz_values(a_exponent, b_exponent, M):
    plain = cg(POISSON, RHS, M=M, maxiter=20)
    moved = cg(scaled(POISSON, a_exponent), scaled(RHS, b_exponent), M=M, maxiter=20)
    # with Jacobi's M they are those of M A, in which the scale of A cancels
    ritz = np.ldexp(moved.ritz_values, -a_exponent if M is None else 0)
    np.testing.assert_allclose(ritz, plain.ritz_values, rtol=1e-13)
    assert 0.0 < ritz[0] < ritz[1] < (4.0 if M is None else 2.0)  # the spectra of a Poisson line


@pytest.mark.parametrize("x0", [None, np.stack([START, 2 * START], 1)], ids=["zero", "guess"])
@pytest.mark.parametrize(("a_exponent", "b_exponent"), PAIRS)
def test_scaling_scales_the_answers(a_exponent, b_exponent, x0):
    assert_same_bits(POISSON, np.stack([RHS, RHS[::-1]], 1), a_exponent, b_exponent, x0=x0, rtol=1e-8)


@pytest.mark.parametrize(
    ("a_exponent", "b_exponent"), [(-100, -100), (120, 120), (-60, 60), (50, -50), (-38, 62), (38, -40)]
)
@pytest.mark.parametrize("M", [None, "jacobi"])
def test_scaling_in_float32(a_exponent, b_exponent, M):
    A = (POISSON + sp.eye_array(N) / 4).astype(np.float32)
    b = RHS.astype(np.float32)
    assert_same_bits(A, b, a_exponent, b_exponent, M=M, rtol=1e-4)


@pytest.mark.parametrize(("a_exponent", "b_exponent"), [(-100, 664), (996, 996), (-280, 310)])
def test_scaling_of_complex_systems(a_exponent, b_exponent):
    n = 200  # needs more iterations than there is patience, too
    A = cgopt.gallery.poisson(n) + 0.01j * (sp.eye_array(n, k=2) - sp.eye_array(n, k=-2))
    b = RHS[:n] + 1j * START[:n]
    plain = cg(A, b, rtol=1e-8)
    moved = cg(A * 2.0**a_exponent, b * 2.0**b_exponent, rtol=1e-8)
    assert (moved.status, moved.iterations) == (plain.status, plain.iterations)
    np.testing.assert_array_equal(moved.x, plain.x * 2.0 ** (b_exponent - a_exponent))


@pytest.mark.parametrize("exponent", [-560, -400, 400, 560])
@pytest.mark.parametrize("columns", [1, 2])
def test_scaling_of_a_function(exponent, columns):
    # nobody can look into a function: the scale of its products must be found out, or not matter
    b = RHS if columns == 1 else np.stack([RHS, RHS[::-1]], 1)
    plain = cg(lambda v: POISSON @ v, b, rtol=1e-8)
    moved = cg(lambda v: POISSON @ np.ldexp(v, exponent), b, rtol=1e-8)
    assert moved.status is plain.status is Status.CONVERGED
    assert moved.iterations == plain.iterations
    np.testing.assert_allclose(np.ldexp(moved.x, exponent), plain.x, rtol=1e-9)


def test_columns_of_different_size_are_each_as_alone():
    exponents = [-900, -300, 0, 300, 900]
    B = np.stack([np.ldexp(RHS, e) for e in exponents], 1)
    many = cg(POISSON, B, rtol=1e-8)
    plain = cg(POISSON, np.stack([RHS] * 5, 1), rtol=1e-8)
    for e, column, alone in zip(exponents, many.columns, plain.columns, strict=True):
        assert column.converged
        assert column.iterations == alone.iterations
        np.testing.assert_array_equal(column.x, np.ldexp(alone.x, e))


@pytest.mark.parametrize("exponent", [-900, -300, 300, 900])
@pytest.mark.parametrize("form", ["jacobi", "matrix", "function"])
def test_the_scale_of_a_preconditioner_does_not_matter(form, exponent):
    # M and c M make the same iterates: alpha takes c away
    def build(e):
        if form == "jacobi":
            return cgopt.preconditioners.Jacobi(np.ldexp(POISSON.diagonal(), -e))
        return (
            scaled(sp.diags_array(1 / POISSON.diagonal()).tocsr(), e)
            if form == "matrix"
            else lambda r: np.ldexp(r, e)
        )

    plain, moved = (cg(POISSON, RHS, M=build(e), rtol=1e-8) for e in (0, exponent))
    assert moved.status is plain.status is Status.CONVERGED
    assert moved.iterations == plain.iterations
    np.testing.assert_allclose(moved.x, plain.x, rtol=1e-9)


def test_jacobi_undoes_any_scaling_of_rows_and_columns():
    # D A D and D b with the iterates of A and b: y_k = D^-1 x_k, bit for bit when D holds powers of two
    D = np.ldexp(1.0, np.random.default_rng(2).integers(-4, 5, N))
    A = sp.csr_array(sp.diags_array(D) @ POISSON @ sp.diags_array(D))
    x, y = (cg(*system, M="jacobi", maxiter=30, rtol=0.0).x for system in ((POISSON, RHS), (A, D * RHS)))
    np.testing.assert_array_equal(y, x / D)


def test_what_a_callback_is_told_is_in_the_units_of_the_problem():
    def states(a_exponent, b_exponent):
        out = []

        def note(intermediate_result):
            s = intermediate_result
            out.append((s.x.copy(), s.residual_norm, s.target, s.alpha, s.beta))

        cg(scaled(POISSON, a_exponent), scaled(RHS, b_exponent), callback=note, maxiter=5)
        return out

    for plain, moved in zip(states(0, 0), states(900, 700), strict=True):
        for value, other, e in zip(plain, moved, (-200, 700, 700, -900, 0), strict=True):
            np.testing.assert_array_equal(np.ldexp(value, e), other)


def test_directions_of_a_quadratic_are_in_the_units_of_the_problem():
    plain = cgopt.minimize_quadratic(POISSON, RHS, maxiter=5, keep_directions=True)
    moved = cgopt.minimize_quadratic(scaled(POISSON, 900), scaled(RHS, 700), maxiter=5, keep_directions=True)
    np.testing.assert_array_equal(moved.directions, np.ldexp(plain.directions, 700))
    np.testing.assert_array_equal(moved.iterates, np.ldexp(plain.iterates, -200))


# --- any factor: the same answer, and an honest one ---------------------------------------------------------

FACTORS = {
    np.float64: [
        (1e-30, 1.0),
        (1.0, 1e200),
        (1e-30, 1e200),
        (1e300, 1e300),
        (1e-300, 1e-300),
        (1e-310, 1.0 / 1e8),  # x is of size 1e306
        (1e-310, 1e-310),
        (1e-80, 1e90),
        (1e80, 1e-90),
        (1e150, 1e-150),
        (1.0, 1e-300),
    ],
    np.float32: [
        (1e-35, 1e-35),
        (1e35, 1e35),
        (1e-35, 1.0),
        (1e35, 1.0),
        (1.0, 1e-35),
        (1.0, 1e35),
        (1e-11, 1e17),
    ],
}
FACTORS = [(dtype, *pair) for dtype, pairs in FACTORS.items() for pair in pairs]


@pytest.mark.parametrize(("M", "columns"), [(None, 1), ("jacobi", 1), (None, 2)])
@pytest.mark.parametrize(("dtype", "factor_A", "factor_b"), FACTORS)
def test_huge_and_tiny_systems_are_solved(dtype, factor_A, factor_b, M, columns):
    A = (POISSON + sp.eye_array(N) / 4) * factor_A  # condition 17, and A^-1 has norm 4
    A, b = A.astype(dtype), (RHS * factor_b).astype(dtype)
    rtol = 1e-10 if dtype is np.float64 else 1e-4
    result = cg(A, b if columns == 1 else np.stack([b, b[::-1]], 1), M=M, rtol=rtol)
    for right, column in zip((b, b[::-1]), result.columns if columns == 2 else [result], strict=False):
        assert column.status is Status.CONVERGED
        assert column.iterations < N
        assert_honest(A, right, column, rtol)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(("factor", "digits"), [(1e-310, 10), (1e-320, 1)])
def test_subnormal_right_hand_side_is_solved_to_the_digits_that_are_left(factor, digits, columns):
    A = POISSON + sp.eye_array(N) / 4
    b = RHS * factor
    rtol = 10.0**-digits
    result = cg(A, b if columns == 1 else np.stack([b, b], 1), rtol=rtol)
    for column in result.columns if columns == 2 else [result]:
        assert column.status is Status.CONVERGED
        assert_honest(A, b, column, rtol)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(
    ("factor_A", "factor_b", "rtol"), [(1.0, 1e-320, 1e-8), (1e10, 1e-305, 1e-12), (1e300, 1e-300, 1e-5)]
)
def test_answer_that_underflows_is_not_claimed(factor_A, factor_b, rtol, columns):
    # x has fewer digits than rtol asks for, or none: the x that is handed out does not meet the tolerance
    A, b = (POISSON + sp.eye_array(N) / 4) * factor_A, RHS * factor_b
    result = cg(A, b if columns == 1 else np.stack([b, b], 1), rtol=rtol)
    for column in result.columns if columns == 2 else [result]:
        assert column.status is not Status.CONVERGED
        assert_honest(A, b, column, rtol)


@pytest.mark.parametrize(("M", "columns"), [(None, 1), ("jacobi", 1), (None, 2)])
@pytest.mark.parametrize(
    ("dtype", "factor_A", "factor_b"),
    [(np.float64, 1e-300, 1e300), (np.float64, 1e-310, 1.0), (np.float32, 1e-35, 1e35)],
)
def test_answer_that_overflows_is_reported(dtype, factor_A, factor_b, M, columns):
    A, b = (POISSON * factor_A).astype(dtype), (RHS * factor_b).astype(dtype)
    result = cg(A, b if columns == 1 else np.stack([b, b], 1), M=M)
    assert result.status is Status.NONFINITE
    assert result.info < 0


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("maxiter", [0, 3, None])
def test_right_hand_side_with_a_norm_that_overflows(maxiter, columns):
    A = cgopt.gallery.poisson(N) * 0.25 + sp.eye_array(N)
    b = np.where(np.arange(N) % 2, -1.7e308, 1.7e308)  # |b| is 16 times the largest number
    result = cg(A, b if columns == 1 else np.stack([b, b], 1), maxiter=maxiter)
    assert result.status is (Status.CONVERGED if maxiter is None else Status.MAXITER)
    for column in [result] if columns == 1 else result.columns:
        assert np.isfinite(column.x).all()
        assert column.history.shape == (column.iterations + 1,)
        assert column.history[0] == np.inf
        if maxiter is None:
            assert_honest(A, b, column, 1e-5)


STARTS = [
    (1.0, 1e-200, 1.0),
    (1.0, 1e-320, 1.0),
    (1.0, 1.0, 1e300),
    (1e-30, 1.0, 1e-300),
    (1.0, 1e200, 1e250),
]


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(("factor_A", "factor_b", "guess"), STARTS)
def test_guess_far_away_is_left_behind(factor_A, factor_b, guess, columns):
    A, b, x0 = (POISSON + sp.eye_array(N) / 4) * factor_A, RHS * factor_b, np.full(N, guess)
    result = cg(
        A,
        b if columns == 1 else np.stack([b, b], 1),
        x0 if columns == 1 else np.stack([x0, x0], 1),
        rtol=1e-8,
    )
    for column in [result] if columns == 1 else result.columns:
        assert column.status is not Status.NONFINITE
        assert_honest(A, b, column, 1e-8)
        # from wherever it started, CG takes away eight digits of the error at the least (|A^-1| is 4)
        assert np.abs(column.x).max() <= 1e-8 * guess + 1e3 * factor_b / factor_A


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("options", [{"atol": 1e200}, {"rtol": 1e200}, {"atol": np.inf}, {"rtol": np.inf}])
def test_tolerances_whose_squares_overflow(options, columns):
    result = cg(POISSON, RHS if columns == 1 else np.stack([RHS, RHS], 1), **options)
    assert (result.info, result.iterations) == (0, 0)


@pytest.mark.parametrize("columns", [1, 2])
def test_tolerances_in_the_units_of_b(columns):
    # the same problem in units of 1e-250 and of 1e250, with atol in those units
    for exponent in (-830, 830):
        b = np.ldexp(RHS, exponent)
        b = b if columns == 1 else np.stack([b, b], 1)
        plain = cg(POISSON, np.ldexp(b, -exponent), rtol=0.0, atol=1e-3)
        moved = cg(POISSON, b, rtol=0.0, atol=math.ldexp(1e-3, exponent))
        assert moved.iterations == plain.iterations
        assert np.all(moved.residual_norm <= math.ldexp(1e-3, exponent))


# --- the accuracy that rounding allows ----------------------------------------------------------------------

IMPOSSIBLE = {
    "float32": (np.float32, 1e-10),
    "float64": (np.float64, 1e-18),
    "float64, none": (np.float64, 0.0),
}


@pytest.mark.parametrize("how", ["matrix", "jacobi", "function", "many"])
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_stagnation_is_recognised(case, how):
    dtype, rtol = IMPOSSIBLE[case]
    A = (POISSON + sp.eye_array(N) / 100).astype(dtype)
    b = RHS.astype(dtype)
    result = cg(
        (lambda v: A @ v) if how == "function" else A,
        np.stack([b, b[::-1]], 1) if how == "many" else b,
        M="jacobi" if how == "jacobi" else None,
        rtol=rtol,
        maxiter=100_000,
    )
    unit = np.finfo(dtype).eps / 2
    for right, column in zip((b, b[::-1]), result.columns if how == "many" else [result], strict=False):
        assert column.status is Status.STAGNATED
        assert column.info < 0
        assert column.iterations < 10 * N
        assert_honest(A, right, column, rtol)
        # what rounding allows: a small multiple of u |A| |x| (Greenbaum, SIAM J. Matrix Anal. Appl. 18, 1997)
        assert column.residual_norm <= 50 * unit * 4.01 * np.linalg.norm(wide(column.x))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_tolerance_near_what_rounding_allows_is_met(seed, columns):
    # In float32 the recursive residual of this system (condition 1e5) meets the tolerance before the true one
    # does. The rest must be made up, not blown up: rtol |b| is five times u |A| |x|.
    n = 500
    A, b = (
        cgopt.gallery.poisson(n, dtype=np.float32),
        np.random.default_rng(seed).standard_normal(n).astype("f"),
    )
    result = cg(A, b if columns == 1 else np.stack([b, b[::-1]], 1), rtol=1e-3, format="csr")
    for right, column in zip((b, b[::-1]), result.columns if columns == 2 else [result], strict=False):
        assert column.status is Status.CONVERGED
        assert column.iterations < 2 * n
        assert_honest(A, right, column, 1e-3)
        assert column.history.max() <= 1e3 * column.history[0]


def test_residual_of_a_float32_solve_is_summed_in_double():
    # residual_norm is the number that convergence is judged by: at the limit of float32 it must still be one
    A = (POISSON[:100, :100] * 1.1 + sp.eye_array(100) / 7).astype(np.float32)
    b = RHS[:100].astype(np.float32)
    result = cg(A, b, rtol=1e-7, maxiter=1000)
    residual, _, e = true_residual(A, result.x, b)
    assert math.ldexp(result.residual_norm, -e) == pytest.approx(residual, rel=1e-7)


def test_badly_scaled_rows_are_no_stagnation_with_jacobi():
    # entries over 300 orders of magnitude: the problem is a diagonal one, and Jacobi solves it at once
    d = np.logspace(-300, 0, N)
    result = cg(sp.diags_array(d).tocsr(), np.ones(N), M="jacobi")
    assert (result.status, result.iterations) == (Status.CONVERGED, 1)
    np.testing.assert_allclose(result.x, 1 / d, rtol=1e-14)
