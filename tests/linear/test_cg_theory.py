"""The theorems of docs/mathematics.md, asserted of `cgopt.cg` and `cgopt.minimize_quadratic`.

Two kinds of tolerance are used, and both are computed from the run at hand:

* *Forward error bounds* (`Run`): rounding turns each step into one with local errors of known size; carried
  through the recurrence to first order, they bound how far the computed iterates, residuals and directions
  are from those of exact arithmetic. The bounds grow by an order of magnitude a step, so these tests look at
  the first steps only, and at those whose bound is small enough (`TRUSTED`) for second-order terms not to
  matter.
* *Attainable accuracy* (`floor_of`): properties that rounding does not destroy hold for any number of steps,
  down to the gap between true and recursive residual (Greenbaum 1997; docs/mathematics.md, "What rounding
  changes").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import cgopt
from cgopt import Status, cg, gallery, minimize_quadratic
from cgopt.kernels import loops
from cgopt.preconditioners import Jacobi
from cgopt.testing import sparse_spd, spd_matrices, spd_operators, spectra, vectors

norm = np.linalg.norm
TRUSTED = 0.01  # relative error up to which a first-order bound, doubled, is a bound
U64 = 2.0**-53
DTYPES = (np.float64, np.float32, np.complex128, np.complex64)


def inner(v, w):
    return complex(np.vdot(v, w))


def energy_norm(A, v):
    return np.sqrt(max(inner(v, A @ v).real, 0.0))


def roundoff(dtype):
    """Unit roundoff; a complex operation has up to sqrt(8) of a real one's error (Higham 2002, 3.6)."""
    return float(np.finfo(dtype).eps) / 2.0 * (3.0 if np.dtype(dtype).kind == "c" else 1.0)


def wide(a):
    return np.asarray(a).astype(np.complex128 if np.iscomplexobj(a) else np.float64)


def solution(A, b):
    """x* to nearly the last bit: a direct solve, refined in extended precision where there is one."""
    A, b = wide(A), wide(b)
    long = np.clongdouble if np.iscomplexobj(A) or np.iscomplexobj(b) else np.longdouble
    x = np.linalg.solve(A, b)
    for _ in range(3):
        x = x + np.linalg.solve(A, (b.astype(long) - A.astype(long) @ x.astype(long)).astype(x.dtype))
    return x


def solution_error(A, x):
    """Energy norm of the error of `solution`: its entries are rounded, and refined with doubles at worst."""
    return 4 * A.shape[0] * U64 * norm(A) * norm(x) / np.sqrt(np.linalg.eigvalsh(A)[0])


@dataclass
class Run:
    """Iterates, residuals and directions, and bounds on their distance from those of exact arithmetic.

    Attributes
    ----------
    x, r, p : lists of vectors
        In double precision. ``r[k]`` is b - A x[k], computed here.
    dx, dr, dp : lists of floats
        Bounds on the errors of x, r, p.
    alpha : list of floats
        The step lengths that belong to r and p.
    dalpha : list of floats
        Relative errors of the step lengths.
    """

    A: np.ndarray
    x: list
    r: list
    p: list
    dx: list
    dr: list
    dp: list
    alpha: list
    dalpha: list

    @classmethod
    def of(cls, A, b, steps, *, x0=None, M=None, perturbed=0.0, start_error=0.0):
        """Run `steps` steps and bound their errors.

        `perturbed` bounds ``|A - A'|`` for another matrix A' whose exact CG is to be compared with, and
        `start_error` the norm of an error in b or in the first residual.
        """
        result = minimize_quadratic(A, -b, x0, rtol=0.0, maxiter=steps, M=M, check=False, keep_directions=True)
        u, n = roundoff(result.x.dtype), b.size
        A, b, X, P = wide(A), wide(b), wide(result.iterates), wide(result.directions)
        R = [b - A @ x for x in X]
        Z = R if M is None else [wide(M) @ r for r in R]
        size, size_M = norm(A), 1.0 if M is None else norm(M)
        # |fl(A p) - A p| <= product |A|_F |p| for sums of n products; dot products are summed in double
        # precision
        product, dot = (n + 2) * u, (n + 2) * roundoff(np.float64 if u == U64 else np.complex128)
        dr0 = start_error if x0 is None else start_error + product * (norm(b) + size * norm(X[0]))
        preconditioning = 0.0 if M is None else product * size_M
        dx, dr, dz, dp, alphas, dalphas = (
            [0.0],
            [dr0],
            [size_M * dr0 + preconditioning * norm(R[0])],
            [],
            [],
            [],
        )
        dp.append(dz[0] + u * norm(Z[0]))
        for k in range(len(P)):
            r, p, z, Ap = R[k], P[k], Z[k], A @ P[k]
            pAp, rz = inner(p, Ap).real, inner(r, z).real
            if not (pAp > 0.0 and rz > 0.0):  # x has stopped moving
                break
            alpha = rz / pAp
            # relative errors of r'z and p'Ap, and so of alpha
            drz = (dr[k] * norm(z) + dz[k] * norm(r) + dot * norm(r) * norm(z)) / rz
            dAp = (product * size + perturbed) * norm(p)
            dpAp = (2 * dp[k] * norm(Ap) + norm(p) * dAp + dot * norm(p) * norm(Ap)) / pAp
            dalpha = drz + dpAp + 3 * u
            # x' = x + alpha p,  r' = r - alpha A p: errors of all three, and one rounding of product and sum
            dx.append(dx[k] + alpha * (dalpha * norm(p) + dp[k]) + u * (norm(X[k + 1]) + 2 * alpha * norm(p)))
            error = alpha * (dalpha * norm(Ap) + size * dp[k] + dAp)
            dr.append(dr[k] + error + u * (norm(R[k + 1]) + 2 * alpha * norm(Ap)))
            dz.append(size_M * dr[k + 1] + preconditioning * norm(R[k + 1]))
            alphas.append(alpha)
            dalphas.append(2 * dalpha)
            rz1 = inner(R[k + 1], Z[k + 1]).real
            if k + 1 == len(P) or not rz1 > 0.0:
                break
            # p' = z' + beta p
            beta = rz1 / rz
            drz1 = (dr[k + 1] * norm(Z[k + 1]) + dz[k + 1] * norm(R[k + 1])) / rz1
            dbeta = drz1 + drz + dot * norm(R[k + 1]) * norm(Z[k + 1]) / rz1 + 3 * u
            rounding = u * (norm(P[k + 1]) + 2 * beta * norm(p))
            dp.append(dz[k + 1] + beta * (dp[k] + dbeta * norm(p)) + rounding)
        # What is looked at: x as it came, b - A x, and differences of iterates over alpha. Doubled for second
        # order.
        seen_r = [2 * (size * e + product * (norm(b) + size * norm(x))) for e, x in zip(dx, X, strict=False)]
        seen_p = [2 * (e + 3 * u * (norm(X[k + 1]) / alphas[k] + norm(P[k]))) for k, e in enumerate(dp[: len(alphas)])]
        return cls(A, list(X), R, list(P), [2 * e for e in dx], seen_r, seen_p, alphas, dalphas)

    def trusted(self):
        """How many steps have bounds that are small."""
        small = [
            self.dr[k] <= TRUSTED * norm(self.r[k]) and self.dp[k] <= TRUSTED * norm(self.p[k])
            for k in range(len(self.alpha))
        ]
        return small.index(False) if False in small else len(small)


@st.composite
def systems(draw, n=None, *, dtype=np.float64, condition=100.0):
    """A matrix and a right-hand side."""
    A = draw(spd_matrices(st.integers(1, 8) if n is None else n, dtype=dtype, condition=condition))
    return A, draw(vectors(A.shape[0], dtype=A.dtype))


any_system = st.sampled_from(DTYPES).flatmap(lambda dtype: systems(dtype=dtype, condition=30.0))


def floor_of(A, b, iterates, dtype=np.float64):
    """Energy norm of what the attainable accuracy leaves of the error.

    The gap between true and recursive residual after k steps is at most k u (n |A|_F max |x_j| + |b|) or so
    (docs/mathematics.md, "eq-gap", with the constant of a product of n terms); its energy norm as an error is
    at most that over the root of the smallest eigenvalue.
    """
    n, k = A.shape[0], len(iterates)
    largest = max(norm(x) for x in iterates)
    gap = k * roundoff(dtype) * ((n + 4) * norm(A) * 2 * largest + norm(b))
    return gap / np.sqrt(np.linalg.eigvalsh(A)[0])


def iterates_of(A, b, steps, **options):
    return minimize_quadratic(A, -b, maxiter=steps, rtol=0.0, keep_directions=True, **options).iterates


# ---- theorem 1: the objective ----


@given(any_system, st.integers(0, 8))
def test_objective_minus_its_minimum_is_half_the_squared_energy_norm(system, steps):
    A, b = system
    result = minimize_quadratic(A, -b, maxiter=steps, rtol=0.0)
    x, star, D = wide(result.x), solution(A, b), wide(A)
    error = result.fun + 0.5 * inner(wide(b), star).real - 0.5 * energy_norm(D, star - x) ** 2
    # A product and two dot products of length n are rounded, the first in A's precision.
    n, u = b.size, roundoff(A.dtype)
    bound = (n + 4) * u * (norm(D) * norm(x) ** 2 + norm(b) * (norm(x) + norm(star)))
    assert abs(error) <= bound


# ---- theorems 2, 3, 4: steps, residuals, directions ----


@given(any_system)
def test_each_step_is_the_best_along_its_direction(system):
    run = Run.of(*system, steps=4)
    for k in range(run.trusted()):
        # the derivative along p at the end of the step, p'r, is zero
        p, r = run.p[k], run.r[k + 1]
        assert abs(inner(p, r)) <= norm(p) * run.dr[k + 1] + norm(r) * run.dp[k]


@given(any_system)
def test_residuals_are_orthogonal(system):
    run = Run.of(*system, steps=5)
    for k in range(run.trusted()):
        for i in range(k):
            r, s = run.r[i], run.r[k]
            bound = norm(r) * run.dr[k] + norm(s) * run.dr[i]
            assert abs(inner(r, s)) <= bound
            assert bound <= 2 * TRUSTED * norm(r) * norm(s)  # or it would say nothing


@given(any_system)
def test_directions_are_mutually_conjugate(system):
    run = Run.of(*system, steps=5)
    A = run.A
    for k in range(run.trusted()):
        for i in range(k):
            p, q = run.p[i], run.p[k]
            assert abs(inner(p, A @ q)) <= norm(A @ p) * run.dp[k] + norm(A @ q) * run.dp[i]


@given(any_system)
def test_directions_against_residuals(system):
    run = Run.of(*system, steps=5)
    for k in range(run.trusted()):
        r = run.r[k]
        for i in range(k):
            p = run.p[i]
            assert abs(inner(p, r)) <= norm(p) * run.dr[k] + norm(r) * run.dp[i]
        p = run.p[k]
        # p'r = r'r
        bound = norm(p) * run.dr[k] + norm(r) * run.dp[k] + 2 * norm(r) * run.dr[k]
        assert abs(inner(p, r) - inner(r, r)) <= bound


def test_the_bounds_of_these_tests_are_not_empty():
    # In double precision they leave at least five steps, and what they leave is far from orthogonal in
    # steepest descent, whose residuals are orthogonal to their neighbours only.
    A = gallery.prescribed_spectrum(np.geomspace(1.0, 100.0, 8), rng=0)
    b = np.random.default_rng(0).standard_normal(8)
    run = Run.of(A, b, steps=6)
    assert run.trusted() >= 5
    assert run.dr[4] <= 1e-6 * norm(run.r[4])
    assert run.dp[4] <= 1e-6 * norm(run.p[4])
    r = [b]
    for _ in range(4):
        r.append(r[-1] - inner(r[-1], r[-1]).real / inner(r[-1], A @ r[-1]).real * (A @ r[-1]))
    assert abs(inner(r[0], r[2])) >= 0.1 * norm(r[0]) * norm(r[2])
    # and single precision leaves two
    run = Run.of(A.astype(np.float32), b.astype(np.float32), steps=6)
    assert run.trusted() >= 2


@given(any_system)
def test_step_lengths_lie_between_the_inverse_eigenvalues(system):
    A, b = system
    run = Run.of(A, b, steps=5)
    seen = []

    def watch(intermediate_result):
        seen.append(intermediate_result.alpha)

    cg(A, b, rtol=0.0, maxiter=5, check=False, callback=watch)
    eigenvalues = np.linalg.eigvalsh(wide(A))
    for alpha, error in zip(seen, run.dalpha[: run.trusted()], strict=False):
        assert (1.0 - error) / eigenvalues[-1] <= alpha <= (1.0 + error) / eigenvalues[0]


# ---- theorems 5, 6: optimality, termination ----


@given(systems(condition=100.0), st.lists(st.floats(0.5, 200.0), min_size=1, max_size=4))
def test_no_polynomial_does_better(system, zeros):
    # |x* - x_k|_A <= |q(A) x*|_A for every polynomial q of degree k with q(0) = 1
    A, b = system
    run = Run.of(A, b, steps=len(zeros))
    k = min(len(zeros), run.trusted())
    star = error = solution(A, b)
    for zero in zeros[:k]:
        error = error - A @ error / zero
    rounding = np.sqrt(norm(A)) * run.dx[k] + 10 * k * b.size * U64 * energy_norm(A, error) + solution_error(A, star)
    assert energy_norm(A, star - run.x[k]) <= energy_norm(A, error) + rounding


@st.composite
def few_eigenvalues(draw):
    """Eigenvalues with few distinct values, a matrix that has them, and b."""
    spectrum = draw(spectra(st.integers(1, 8), condition=30.0, distinct=None).filter(lambda e: np.unique(e).size <= 4))
    return spectrum, draw(spd_matrices(spectrum=spectrum)), draw(vectors(spectrum.size))


def parts_of(A, b, values):
    """Squared norms of b's parts in the eigenspaces."""
    found, Q = np.linalg.eigh(A)
    nearest = np.argmin(abs(found[:, None] - values), axis=1)
    return np.array([norm(Q[:, nearest == i].T @ b) ** 2 for i in range(values.size)])


@given(few_eigenvalues())
def test_as_many_steps_as_distinct_eigenvalues_in_b_and_not_one_less(case):
    spectrum, A, b = case
    values = np.unique(spectrum)
    parts = parts_of(A, b, values)
    n = b.size
    # A was formed in floating point: it is a perturbation of the matrix whose eigenvalues coincide (three
    # products of length n), and parts of b below that rounding are none.
    perturbed = 4 * n * U64 * norm(A)
    occur = parts > (100 * n * U64 * norm(b)) ** 2
    d = int(occur.sum())
    assert 1 <= d <= 4
    left_out = np.sqrt(parts[~occur].sum())
    run = Run.of(A, b, steps=d, perturbed=perturbed, start_error=left_out)
    assert len(run.x) == d + 1
    assert norm(run.r[d]) <= run.dr[d] + 2 * norm(A) * perturbed * norm(run.x[d]) + 2 * left_out

    # One step less leaves the error of the best polynomial of degree d - 1: with weights w and Lagrange's
    # basis l at the eigenvalues, min { sum w_i y_i^2 : sum l_i(0) y_i = 1 } = 1 / sum l_i(0)^2 / w_i
    # (Cauchy-Schwarz).
    lam, w = values[occur], parts[occur] / values[occur]
    at_zero = [np.prod([-lam[j] / (lam[i] - lam[j]) for j in range(d) if j != i]) for i in range(d)]
    best = 1.0 / np.sqrt(np.sum(np.square(at_zero) / w))
    star = solution(A, b)
    found = energy_norm(A, star - run.x[d - 1])
    rounding = np.sqrt(norm(A)) * run.dx[d - 1] + 2 * (perturbed * norm(star) + left_out) / np.sqrt(lam[0])
    # parts of the eigenspaces are known to a few roundings of |b|
    relative = max(100 * n * U64 * norm(b) / np.sqrt(parts[occur]))
    assert abs(found - best) <= rounding + solution_error(A, star) + relative * best


@given(st.integers(1, 6), st.integers(0, 5), st.sampled_from(DTYPES), st.data())
def test_an_eigenvector_or_the_identity_takes_one_step(n, index, dtype, data):
    A = data.draw(spd_matrices(n, dtype=dtype, condition=100.0))
    eigenvalues, Q = np.linalg.eigh(wide(A))
    b = Q[:, index % n].astype(dtype)
    # b, rounded, is an eigenvector to n u; one step leaves a residual of that size times the condition number
    rtol = 4 * n * roundoff(dtype) * eigenvalues[-1] / eigenvalues[0]
    assert cg(A, b, rtol=rtol).iterations == 1
    assert cg(np.eye(n, dtype=dtype), b, rtol=0.0, maxiter=1).residual_norm <= 4 * n * roundoff(dtype)


@given(st.sampled_from(DTYPES), st.data())
def test_rank_s_on_top_of_the_identity_takes_s_plus_one_steps(dtype, data):
    s = data.draw(st.integers(1, 3))
    n = data.draw(st.integers(s + 1, 12))
    spectrum = np.concatenate([np.ones(n - s), data.draw(spectra(s, condition=4.0)) + 1.0])
    A = data.draw(spd_matrices(spectrum=spectrum, dtype=dtype))
    b = data.draw(vectors(n, dtype=dtype))
    # Growth of rounding errors: each step carries over the residual's times at most 1 + alpha |A| <= 1 +
    # kappa, and as much again through alpha and beta: (2 (1 + kappa))^(s + 1) with kappa = 5.
    rtol = (n + 4) * np.sqrt(n) * roundoff(dtype) * 12.0 ** (s + 1)
    if rtol < 0.1:
        result = cg(A, b, rtol=rtol)
        assert result.converged
        assert result.iterations <= s + 1


# ---- theorem 7: what falls and what grows ----


@given(systems(st.integers(1, 12), condition=1e6))
def test_energy_norm_of_the_error_falls(system):
    A, b = system
    x = iterates_of(A, b, 3 * b.size)
    star = solution(A, b)
    floor = floor_of(A, b, x) + solution_error(A, star)
    errors = np.array([energy_norm(A, star - xk) for xk in x])
    assert (np.diff(errors) <= 2 * floor).all()
    falling = errors[:-1] > 100 * floor
    assert (np.diff(errors)[falling] < 0.0).all()


@given(systems(st.integers(1, 12), condition=1e4), st.sampled_from([np.float64, np.float32]))
def test_drop_of_the_squared_error_is_alpha_times_the_squared_residual(system, dtype):
    A, b = system[0].astype(dtype), system[1].astype(dtype)
    alphas, residuals, iterates = [], [norm(b)], [np.zeros(b.size)]

    def watch(intermediate_result):
        alphas.append(intermediate_result.alpha)
        residuals.append(intermediate_result.residual_norm)
        iterates.append(wide(intermediate_result.x))

    cg(A, b, rtol=0.0, maxiter=2 * b.size, callback=watch)
    A, b = wide(A), wide(b)
    star = solution(A, b)
    floor = floor_of(A, b, iterates, dtype) + solution_error(A, star)
    u, kappa = roundoff(dtype), np.linalg.cond(A)
    for k, alpha in enumerate(alphas):
        before, after = (energy_norm(A, star - x) for x in iterates[k : k + 2])
        drop = alpha * residuals[k] ** 2
        # The identity needs neighbours only, and so survives rounding (Strakos and Tichy 2002). Either error
        # is known to the floor; p'r = r'r and the terms' own rounding hold to (n + 4) u kappa of the squared
        # error, since alpha <= 1 / lambda_1 and |r|^2 <= lambda_n |e|_A^2.
        error = 2 * floor * (before + after) + 2 * floor**2 + (b.size + 4) * u * kappa * before**2
        assert abs(before**2 - after**2 - drop) <= error


@given(systems(st.integers(1, 12), condition=1e4))
def test_plain_error_falls(system):
    A, b = system
    x = iterates_of(A, b, 2 * b.size)
    star = solution(A, b)
    # a vector whose energy norm is the floor has at most this norm
    floor = (floor_of(A, b, x) + solution_error(A, star)) / np.sqrt(np.linalg.eigvalsh(A)[0])
    errors = np.array([norm(star - xk) for xk in x])
    assert (np.diff(errors) <= 2 * floor).all()


@given(any_system)
def test_iterates_grow(system):
    # (what a trust region lives by; it needs the directions to be conjugate to all before, not to the last
    # only)
    run = Run.of(*system, steps=5)
    for k in range(run.trusted()):
        assert norm(run.x[k + 1]) >= norm(run.x[k]) - run.dx[k] - run.dx[k + 1]
        if k == 0:
            assert norm(run.x[1]) > 0.0


@given(systems(st.integers(2, 12), condition=1e6), st.floats(-1.5, 1.5), st.sampled_from([None, "jacobi"]))
def test_asking_for_what_rounding_hardly_allows_never_makes_the_answer_worse(system, decades, M):
    # A tolerance next to the attainable accuracy makes the recursive residual claim what the true one denies,
    # and be replaced. Whatever is done then, every step goes downhill (theorem 7), and the end is CONVERGED
    # or STAGNATED.
    A, b = system
    star = solution(A, b)
    rtol = 10.0**decades * U64 * np.linalg.eigvalsh(A)[-1] * norm(star) / norm(b)
    iterates = [np.zeros(b.size)]
    result = cg(A, b, M=M, rtol=rtol, maxiter=600, callback=lambda x: iterates.append(x.copy()))
    errors = np.array([energy_norm(A, star - x) for x in iterates])
    floor = floor_of(A, b, iterates) + solution_error(A, star)
    assert (errors <= np.minimum.accumulate(errors) + 2 * floor).all()
    assert result.status in (Status.CONVERGED, Status.STAGNATED), result
    if result.status is Status.CONVERGED:  # up to the rounding of the two squares that are compared
        assert result.residual_norm <= rtol * norm(b) * (1 + 1e-12)
    else:
        assert result.residual_norm >= rtol * norm(b) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("n", "condition", "seed", "M", "rtol"),
    [
        (20, 1e6, 3, None, 1.712e-11),
        (20, 1e6, 1, "jacobi", 5.018e-12),
        (40, 1e6, 0, None, 7.5543e-12),
        (20, 1e9, 0, "jacobi", 2.5773e-8),
    ],
)
def test_residual_does_not_grow_after_a_claim_that_was_denied(n, condition, seed, M, rtol):
    A = gallery.prescribed_spectrum(np.geomspace(1.0, condition, n), rng=seed)
    b = np.random.default_rng(seed).standard_normal(n)
    for factor in (0.5, 0.9, 1.0, 1.1, 2.0):
        result = cg(A, b, M=M, rtol=rtol * factor, maxiter=2000)
        # residuals oscillate by the root of the condition number at the most, while the energy norm falls
        assert result.residual_norm <= np.sqrt(condition) * result.history.min()


# ---- theorem 8: the Chebyshev bound ----


@given(systems(st.integers(1, 12), condition=1e6), st.integers(0, 40))
def test_error_stays_below_the_chebyshev_bound(system, steps):
    A, b = system
    x = iterates_of(A, b, steps)
    star = solution(A, b)
    eigenvalues = np.linalg.eigvalsh(A)
    # Computed CG is exact CG on a matrix whose eigenvalues lie in small intervals around A's (Greenbaum
    # 1989); widths of a multiple of n sqrt(u) |A| are what she proves, n u |A| what is seen; the latter is
    # asked for.
    delta = 10 * b.size**2 * U64 * eigenvalues[-1]
    kappa = (eigenvalues[-1] + delta) / max(eigenvalues[0] - delta, eigenvalues[0] / 2)
    rho = (np.sqrt(kappa) - 1.0) / (np.sqrt(kappa) + 1.0)
    floor = floor_of(A, b, x) + solution_error(A, star)
    for m, xm in enumerate(x):
        bound = 2.0 * rho**m / (1.0 + rho ** (2 * m))
        assert energy_norm(A, star - xm) <= bound * (1 + 1e-10) * energy_norm(A, star) + floor


# ---- theorem 9: invariance ----


@given(any_system, st.data())
def test_renumbering_and_changing_signs_of_the_unknowns_changes_nothing_else(system, data):
    A, b = system
    order = np.array(data.draw(st.permutations(range(b.size))))
    signs = np.array(data.draw(st.lists(st.sampled_from([-1, 1]), min_size=b.size, max_size=b.size)), A.real.dtype)
    turned = Run.of((signs[:, None] * A * signs)[np.ix_(order, order)], (signs * b)[order], steps=4)
    run = Run.of(A, b, steps=4)
    for k in range(min(run.trusted(), turned.trusted()) + 1):
        assert norm((signs * run.x[k])[order] - turned.x[k]) <= run.dx[k] + turned.dx[k]


@given(systems(condition=100.0), st.data())
def test_orthogonal_change_of_basis_turns_the_iterates(system, data):
    A, b = system
    v = data.draw(vectors(b.size))
    H = np.eye(b.size) - 2.0 * np.outer(v, v) / (v @ v)  # a reflector: symmetric, its own inverse
    B = H @ A @ H
    turned = Run.of(
        (B + B.T) / 2.0,
        H @ b,
        steps=4,
        perturbed=4 * b.size * U64 * norm(A),  # two products of length n, and H itself
        start_error=4 * b.size * U64 * norm(b),
    )
    run = Run.of(A, b, steps=4)
    for k in range(min(run.trusted(), turned.trusted()) + 1):
        assert norm(H @ run.x[k] - turned.x[k]) <= run.dx[k] + turned.dx[k] + 8 * b.size * U64 * norm(run.x[k])


@given(any_system, st.integers(-60, 60), st.integers(-60, 60), st.sampled_from([None, "jacobi"]))
def test_powers_of_two_scale_every_bit(system, c, s, M):
    A, b = system
    narrow = A.real.dtype == np.float32
    c, s = (c // 4, s // 4) if narrow else (c, s)
    plain = cg(A, b, M=M, rtol=1e-4 if narrow else 1e-10)
    scaled = cg(A * 2.0**c, b * 2.0**s, M=M, rtol=1e-4 if narrow else 1e-10)
    assert scaled.status is plain.status
    assert scaled.iterations == plain.iterations
    factor = 2.0 ** (s - c)
    np.testing.assert_array_equal(scaled.x.real, plain.x.real * factor)
    np.testing.assert_array_equal(scaled.x.imag, plain.x.imag * factor)
    np.testing.assert_array_equal(scaled.history, plain.history * 2.0**s)
    assert scaled.residual_norm == plain.residual_norm * 2.0**s
    np.testing.assert_array_equal(scaled.condition_estimate, plain.condition_estimate)


LONG = gallery.prescribed_spectrum(np.geomspace(1.0, 1e4, 30), rng=0)
LOAD = np.random.default_rng(0).standard_normal(30)
EXTREMES = [
    (-100, 664),  # 1e-30, 1e200
    (100, -664),
    (0, 1000),
    (0, -900),
    (600, 600),
    (-600, -600),
    (400, -400),
    (-400, 400),
    (-299, -331),
    (299, 331),
    (-299, 331),  # as far as a matrix and a right-hand side go without being rescaled
    (299, -331),
    (-312, 320),
    (312, -320),
]


@pytest.mark.parametrize(("c", "s"), EXTREMES)
@pytest.mark.parametrize("M", [None, "jacobi"])
def test_extreme_powers_of_two_scale_every_bit(c, s, M):
    # more than 64 iterations, so that every rule of the loop has had its chance
    plain = cg(LONG, LOAD, M=M, rtol=1e-10)
    scaled = cg(np.ldexp(LONG, c), np.ldexp(LOAD, s), M=M, rtol=1e-10)
    assert plain.iterations > 64
    assert plain.converged
    assert_same_in_other_units(scaled, plain, c, s)


@pytest.mark.parametrize("c", [-400, -200, 200, 400])
@pytest.mark.parametrize("M", [None, "jacobi"])
def test_ritz_values_have_the_unit_of_the_matrix_and_none_when_preconditioned(c, M):
    plain, scaled = cg(LONG, LOAD, M=M, rtol=1e-10), cg(np.ldexp(LONG, c), LOAD, M=M, rtol=1e-10)
    np.testing.assert_array_equal(scaled.ritz_values, np.ldexp(plain.ritz_values, 0 if M else c))


@pytest.mark.parametrize(("c", "s"), [(-100, 664), (100, -664), (0, 1000), (0, -900), (300, -330), (-300, 330)])
@pytest.mark.parametrize("M", [None, "jacobi"])
def test_extreme_powers_of_two_scale_every_bit_of_a_function_too(c, s, M):
    A = np.ldexp(LONG, c)
    plain = cg(lambda v: LONG @ v, LOAD, M=M and Jacobi(LONG.diagonal()), rtol=1e-10)
    scaled = cg(lambda v: A @ v, np.ldexp(LOAD, s), M=M and Jacobi(A.diagonal()), rtol=1e-10)
    assert plain.iterations > 64
    assert_same_in_other_units(scaled, plain, c, s)


def assert_same_in_other_units(scaled, plain, c, s):
    """`scaled` is the solve of (2^c A) x = 2^s b: the same bits, compared in the units of `plain`."""
    assert scaled.status is plain.status
    assert scaled.iterations == plain.iterations
    np.testing.assert_array_equal(np.ldexp(scaled.x, c - s), plain.x)
    np.testing.assert_array_equal(np.ldexp(scaled.history, -s), plain.history)
    assert scaled.condition_estimate == plain.condition_estimate
    # the energy norm scales by 2^s and the root of 2^-c
    assert scaled.error_estimate * 2.0 ** (c / 2) / 2.0**s == pytest.approx(plain.error_estimate, rel=1e-14)


@pytest.mark.parametrize(("t", "s"), [(1e-30, 1e200), (1e30, 1e-200), (1e-200, 1e-200), (1e150, 1e-100), (3.0, 7.0)])
@pytest.mark.parametrize("x0", [None, "guess"])
def test_any_factors_give_the_same_answer(t, s, x0):
    A, b = LONG * t, LOAD * s
    guess = None if x0 is None else np.linspace(-1.0, 1.0, 30)
    plain = cg(LONG, LOAD, guess, rtol=1e-10)
    scaled = cg(A, b, None if guess is None else guess * (s / t), rtol=1e-10)
    assert scaled.status is plain.status is Status.CONVERGED
    # both solve to rtol: |x - x*| <= |A^-1| rtol |b|, and the entries' rounding adds kappa u
    error = norm(scaled.x * (t / s) - plain.x)
    assert error <= 2 * (1e-10 + 30 * U64 * 1e4) * norm(LOAD)
    assert scaled.condition_estimate == pytest.approx(plain.condition_estimate, rel=1e-2)
    np.testing.assert_allclose(scaled.ritz_values / t, plain.ritz_values, rtol=1e-2)
    assert scaled.history[0] / s == pytest.approx(plain.history[0], rel=1e-13)


@given(systems(condition=100.0), st.data())
def test_a_guess_is_a_shift(system, data):
    A, b = system
    x0 = data.draw(vectors(b.size))
    run = Run.of(A, b, steps=4, x0=x0)
    residual = b - A @ x0
    assume(norm(residual) > 1e-3 * norm(b))
    start = (b.size + 2) * U64 * (norm(b) + norm(A) * norm(x0))
    shifted = Run.of(A, residual, steps=4, start_error=start)
    for k in range(min(run.trusted(), shifted.trusted()) + 1):
        assert norm(run.x[k] - x0 - shifted.x[k]) <= run.dx[k] + shifted.dx[k] + 4 * U64 * norm(x0)


# ---- theorem 10: preconditioning ----


@st.composite
def split_systems(draw):
    """A, b, a preconditioner M = L L', and L, all exact in double precision."""
    A = draw(sparse_spd(st.integers(1, 6), kind="dominant"))
    L = np.tril(draw(sparse_spd(A.shape[0], kind="dominant")).toarray())
    return A.toarray(), draw(vectors(A.shape[0])), L


@given(split_systems())
def test_preconditioned_iterates_are_those_of_the_split_system(case):
    A, b, L = case
    n = b.size
    M = L @ L.T
    # entries of A, L are multiples of 1/16 below 2^6: products of three are exact
    B = L.T @ A @ L
    run = Run.of(A, b, steps=4, M=M)
    split = Run.of(B, L.T @ b, steps=4, start_error=2 * n * U64 * norm(L) * norm(b))
    for k in range(min(run.trusted(), split.trusted()) + 1):
        # x = L x^
        assert norm(run.x[k] - L @ split.x[k]) <= run.dx[k] + norm(L) * split.dx[k]
    for k in range(min(run.trusted(), split.trusted())):
        assert abs(run.alpha[k] / split.alpha[k] - 1.0) <= run.dalpha[k] + split.dalpha[k]


@given(systems(condition=100.0), st.data())
def test_jacobi_is_its_diagonal(system, data):
    A, b = system
    d = 2.0 ** np.array(data.draw(st.lists(st.integers(-3, 3), min_size=b.size, max_size=b.size)))
    run = Run.of(A, b, steps=4, M=np.diag(1.0 / d))
    same = iterates_of(A, b, 4, M=Jacobi(d))
    for k in range(run.trusted() + 1):
        assert norm(run.x[k] - same[k]) <= 2 * run.dx[k]


@given(systems(condition=1e3))
def test_the_inverse_as_preconditioner_takes_one_step(system):
    A, b = system
    M = np.linalg.inv(A)
    M = (M + M.T) / 2.0
    # M A = I + E with |E| <= n u kappa for an inverse by elimination (Higham 2002, section 14.3), squared by
    # the step
    rtol = 20 * b.size**2 * U64 * np.linalg.cond(A) ** 1.5
    assert cg(A, b, M=M, rtol=rtol).iterations == 1


@given(split_systems(), st.integers(-8, 8))
def test_scaling_the_preconditioner_changes_no_bit(case, c):
    A, b, L = case
    M = L @ L.T
    plain, scaled = cg(A, b, M=M, rtol=1e-10), cg(A, b, M=M * 2.0**c, rtol=1e-10)
    assert plain.iterations == scaled.iterations
    np.testing.assert_array_equal(plain.x, scaled.x)


# ---- theorems 11, 12: Ritz values ----


def spread(A):
    """What rounding may add to the interval of Ritz values.

    k^(5/2) |A| eps with eps = 17 (n + 4) u in Lanczos's process (Paige, Linear Algebra Appl. 34, 1980); k =
    n.
    """
    n = A.shape[0]
    return n**2.5 * 17 * (n + 4) * U64 * norm(A, 2)


def undisturbed(A, b, result):
    """Whether all coefficients that the Ritz values are made of are from before any residual was replaced.

    That is done when the bound on the gap, k u (|A| |x| + |b|), passes sqrt(u) |r|; the last r that counts is
    the one before the last step.
    """
    gap = result.iterations * U64 * (b.size * norm(A) * norm(solution(A, b)) + norm(b))
    return np.sqrt(U64) * result.history[-2] >= 2.0 * gap


@given(systems(st.integers(1, 12), condition=1e3), st.sampled_from([np.float64, np.complex128]))
def test_ritz_values_lie_inside_the_spectrum_and_spread(system, dtype):
    A, b = system[0].astype(dtype), system[1].astype(dtype)
    eigenvalues = np.linalg.eigvalsh(A)
    delta = spread(A)
    before = None
    for steps in range(1, b.size + 3):
        result = cg(A, b, rtol=0.0, maxiter=steps, check=False)
        if result.iterations < steps or not undisturbed(A, b, result):
            break
        low, high = result.ritz_values
        assert eigenvalues[0] - delta <= low <= high <= eigenvalues[-1] + delta
        assert result.condition_estimate == pytest.approx(high / low, rel=1e-14)
        assert result.condition_estimate <= (eigenvalues[-1] + delta) / (eigenvalues[0] - delta)
        if before is not None:  # interlacing: they only move outwards
            assert low <= before[0] + delta
            assert high >= before[1] - delta
        before = low, high


@given(systems(st.integers(1, 12), condition=1e3))
def test_ritz_values_stay_inside_when_more_is_asked_than_rounding_allows(system):
    # "A lower bound of the condition number" has no exception for a small rtol. Replacing the residual by one
    # that differs by about the root of u of itself disturbs the coefficients by as much, and by no per cent.
    A, b = system
    eigenvalues = np.linalg.eigvalsh(A)
    result = cg(A, b, rtol=0.0, maxiter=3 * b.size, check=False)
    low, high = result.ritz_values
    assert 0.99 * eigenvalues[0] <= low <= high <= 1.01 * eigenvalues[-1]
    assert result.condition_estimate <= 1.02 * eigenvalues[-1] / eigenvalues[0]


@given(few_eigenvalues())
def test_full_termination_finds_the_extreme_eigenvalues(case):
    spectrum, A, b = case
    values = np.unique(spectrum)
    parts = parts_of(A, b, values)
    assume((parts > 1e-6 * norm(b) ** 2).all())
    result = cg(A, b, rtol=0.0, maxiter=values.size, check=False)
    # T is tridiagonal with the eigenvalues of A when the last residual is zero; when it is not quite, some
    # eigenvalue lies within the next off-diagonal entry of each Ritz value (theorem 12.3): |r_d| / |r_{d-1}|
    # / alpha. The bound on |r_d| is that of the termination test.
    run = Run.of(A, b, steps=values.size, perturbed=4 * b.size * U64 * norm(A))
    assume(len(run.alpha) == values.size)
    last = run.dr[-1] / norm(run.r[-2]) / run.alpha[-1]
    assume(last < 0.01 * np.min(np.diff(values), initial=values[0]))
    np.testing.assert_allclose(result.ritz_values, values[[0, -1]], rtol=0, atol=2 * last + spread(A))
    assert result.condition_estimate == pytest.approx(values[-1] / values[0], abs=4 * (last + spread(A)) * values[-1])


@given(split_systems(), st.integers(1, 8))
def test_preconditioned_ritz_values_lie_inside_the_preconditioned_spectrum(case, steps):
    A, b, L = case
    B = L.T @ A @ L  # similar to M A
    eigenvalues, delta = np.linalg.eigvalsh(B), spread(B) * np.linalg.cond(L) ** 2
    result = cg(A, b, M=L @ L.T, rtol=0.0, maxiter=min(steps, b.size), check=False)
    assume(undisturbed(A, b, result))
    low, high = result.ritz_values
    assert eigenvalues[0] - delta <= low <= high <= eigenvalues[-1] + delta
    assert result.condition_estimate <= (eigenvalues[-1] + delta) / (eigenvalues[0] - delta)


# ---- theorem 13: the error that is not seen ----


@given(
    systems(st.integers(1, 12), condition=1e4),
    st.integers(1, 16),
    st.integers(-100, 100),
    st.integers(-100, 100),
)
def test_error_estimate_is_a_lower_bound_of_the_error_four_steps_before(system, steps, c, s):
    A, b = system
    result = cg(np.ldexp(A, c), np.ldexp(b, s), rtol=0.0, maxiter=steps, check=False)
    m = result.iterations
    x = np.ldexp(iterates_of(np.ldexp(A, c), np.ldexp(b, s), m), c - s)
    star = solution(A, b)
    before, after = energy_norm(A, star - x[max(0, m - 4)]), energy_norm(A, star - x[m])
    estimate = result.error_estimate * 2.0 ** (c / 2.0 - s)  # |x|_A scales by s and the root of c
    # estimate^2 = before^2 - after^2; its error is that of the four drops (see the test of one of them)
    floor, kappa = floor_of(A, b, x) + solution_error(A, star), np.linalg.cond(A)
    error = 4 * (2 * floor * (before + after) + 2 * floor**2 + (b.size + 4) * U64 * kappa * before**2)
    assert estimate**2 <= before**2 + error
    assert abs(before**2 - after**2 - estimate**2) <= error


@given(split_systems(), st.integers(1, 8))
def test_preconditioned_error_estimate_is_in_the_same_norm(case, steps):
    A, b, L = case
    M = L @ L.T
    result = cg(A, b, M=M, rtol=0.0, maxiter=steps, check=False)
    m = result.iterations
    x = iterates_of(A, b, m, M=M)
    star = solution(A, b)
    before, after = energy_norm(A, star - x[max(0, m - 4)]), energy_norm(A, star - x[m])
    floor = (floor_of(A, b, x) + solution_error(A, star)) * np.linalg.cond(L) ** 2
    kappa = np.linalg.cond(L.T @ A @ L) * np.linalg.cond(L) ** 2
    error = 4 * (2 * floor * (before + after) + 2 * floor**2 + (b.size + 4) * U64 * kappa * before**2)
    assert abs(before**2 - after**2 - result.error_estimate**2) <= error


# ---- theorem 14: negative curvature ----


@given(spectra(st.integers(1, 4), condition=30.0), st.floats(0.01, 30.0), st.sampled_from(DTYPES), st.data())
def test_a_negative_eigenvalue_that_occurs_in_b_is_found_with_its_direction(positive, negative, dtype, data):
    spectrum = np.append(positive, -negative)
    A = data.draw(spd_matrices(spectrum=spectrum, dtype=dtype))
    values, Q = np.linalg.eigh(wide(A))
    b = (Q @ np.ones(spectrum.size)).astype(dtype)  # every eigenvector in equal parts
    result = cg(A, b, rtol=0.0, maxiter=4 * b.size)
    assert result.status is Status.INDEFINITE, result
    assert result.info < 0
    # the Krylov space holds the whole of b's eigenspaces after as many steps as there are eigenvalues
    assert result.iterations <= np.unique(spectrum).size
    d, D = wide(result.negative_curvature), wide(A)
    assert inner(d, D @ d).real <= b.size * roundoff(dtype) * norm(D) * norm(d) ** 2
    assert np.isfinite(result.x).all()
    # before it was found, the objective fell
    objective = 0.5 * inner(result.x, D @ result.x).real - inner(b, result.x).real
    assert objective <= b.size * roundoff(dtype) * norm(D) * norm(result.x) ** 2


@given(spectra(st.integers(1, 6), condition=30.0), st.floats(0.5, 30.0), st.data())
def test_a_negative_eigenvalue_that_does_not_occur_in_b_is_not_met(positive, negative, data):
    # Theorem 14: what is not in the Krylov space is not seen, and the solve is that of the rest.
    A = np.diag(np.append(positive, -negative))
    A[-1, -1] = abs(A[-1, -1])
    A[-1, :-1] = A[:-1, -1] = 0.0
    B = A.copy()
    B[-1, -1] = -negative
    b = np.append(data.draw(vectors(positive.size)), 0.0)
    result = cg(lambda v: B @ v, b, rtol=1e-10)
    assert result.converged
    assert result.x[-1] == 0.0
    np.testing.assert_array_equal(result.x, cg(lambda v: A @ v, b, rtol=1e-10).x)


# ---- the answer ----


@given(spd_operators(st.one_of(*(spd_matrices(dtype=t, condition=1e3) for t in DTYPES), sparse_spd())), st.data())
def test_converged_means_converged_in_every_form(case, data):
    b = data.draw(vectors(case.n, dtype=case.dtype))
    u = roundoff(case.dtype)
    rtol = 1e-3 if u > 1e-10 else 1e-10
    result = cg(case.operator, b, rtol=rtol)
    x, A, b = wide(result.x), case.dense, wide(b)
    true = norm(b - A @ x)
    # Evaluating b - A x in the operator's own precision: a function rounds its products, matrices are summed
    # in double precision (but for the last rounding to the vector's type).
    evaluation = 2 * (case.n + 2) * u * (norm(A) * norm(x) + norm(b))
    attainable = 10 * case.n * u * norm(A) * norm(x)
    if rtol * norm(b) >= attainable + evaluation:
        assert result.converged, result
    if result.converged:
        assert true <= rtol * norm(b) + evaluation
    assert abs(result.residual_norm - true) <= evaluation
    # |x - x*| <= |A^-1| |b - A x|
    star = solution(A, b)
    smallest = np.linalg.eigvalsh(A)[0]
    assert norm(x - star) <= (true + 4 * case.n * U64 * norm(A) * norm(star)) / smallest


@given(sparse_spd(st.integers(1, 24)), st.data())
def test_agrees_with_a_solution_known_exactly(A, data):
    # A and x hold small multiples of 1/16: b = A x is exact.
    n = A.shape[0]
    star = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n)), float)
    b = A @ star
    x, info = cg(A, b, rtol=1e-12)
    eigenvalues = np.linalg.eigvalsh(A.toarray())
    kappa = eigenvalues[-1] / eigenvalues[0]
    assume(1e-12 * norm(b) > 10 * n * U64 * eigenvalues[-1] * norm(star))  # within what rounding allows
    assert info == 0
    assert norm(x - star) <= 1.1 * kappa * 1e-12 * norm(star) + 4 * n * U64 * kappa * norm(star)


@given(any_system, st.booleans(), st.integers(0, 20), st.data())
def test_history_starts_at_the_first_residual_and_has_one_entry_an_iteration(system, guess, maxiter, data):
    A, b = system
    x0 = data.draw(vectors(b.size, dtype=A.dtype)) if guess else None
    result = cg(A, b, x0, rtol=1e-3, maxiter=maxiter)
    assert result.history.shape == (result.iterations + 1,)
    assert result.iterations <= maxiter
    assert np.isfinite(result.history).all()
    first = wide(b) if x0 is None else wide(b) - wide(A) @ wide(x0)
    bound = 2 * (b.size + 2) * roundoff(A.dtype) * (norm(b) + (0.0 if x0 is None else norm(A) * norm(x0)))
    assert abs(result.history[0] - norm(first)) <= bound
    if result.converged:
        assert result.history[-1] == result.residual_norm
        assert result.history[-1] <= 1e-3 * norm(wide(b)) * (1 + 1e-6)
        assert (result.history[:-1] > 1e-3 * norm(wide(b)) * (1 - 1e-6)).all()
    else:
        assert result.info != 0


@given(systems(st.integers(2, 8), condition=1e3), st.integers(1, 3), st.data())
def test_many_right_hand_sides_are_as_many_solves(system, columns, data):
    A, b = system
    B = np.column_stack([b, data.draw(vectors(b.size, columns=columns))])
    many = cg(A, B, rtol=1e-10)
    for j, column in enumerate(many.columns):
        alone = cg(A, B[:, j], rtol=1e-10)
        assert column.status is alone.status is Status.CONVERGED
        # two answers of the same accuracy
        smallest = np.linalg.eigvalsh(A)[0]
        assert norm(many.x[:, j] - alone.x) <= 2.1 * 1e-10 * norm(B[:, j]) / smallest
        assert norm(B[:, j] - A @ many.x[:, j]) <= 1e-10 * norm(B[:, j]) * (1 + 1e-3)


def test_a_zero_right_hand_side_has_the_solution_zero():
    for x0 in (None, np.ones(30)):
        x, info = cg(LONG, np.zeros(30), x0)
        assert info == 0
        assert not x.any()


@given(systems(st.integers(1, 8), condition=1e4))
def test_the_same_input_gives_the_same_bits(system):
    A, b = system
    first, again = cg(A, b, rtol=1e-8), cg(A.copy(), b.copy(), rtol=1e-8)
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.history, again.history)
    solver = cgopt.CGSolver(A)
    solver.solve(np.ones(b.size))
    np.testing.assert_array_equal(solver.solve(b, rtol=1e-8).x, first.x)


def test_the_residual_is_replaced_when_the_bound_on_its_gap_has_crossed_and_grown():
    # van der Vorst and Ye (2000), (14): crossed sqrt(u) |r| in this very step, and well above the last replacement's
    def event(gap, last):
        s = np.zeros(loops.SCALARS)
        s[loops.UNIT], s[loops.NORM_A], s[loops.RR], s[loops.PP], s[loops.PATIENCE] = U64, 1.0, 1.0, 1.0, 64.0
        s[loops.GAP], s[loops.GAP0] = gap, last
        return loops.note_step(1.0, 0.25, 0.25, 1.0, 1.0, s)  # the norm falls from 1 to 1/2

    threshold = np.sqrt(U64)
    assert event(0.75 * threshold, 0.75 * threshold / 17) == loops.DRIFTED
    assert event(0.75 * threshold, 0.75 * threshold / 15) == loops.NOTHING  # not grown
    assert event(0.25 * threshold, 0.0) == loops.NOTHING  # not crossed yet
    assert event(2.0 * threshold, 0.0) == loops.NOTHING  # crossed before
