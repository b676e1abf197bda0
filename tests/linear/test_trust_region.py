"""Trust regions: Steihaug's path by its theorems, and the exact minimiser by its optimality conditions and an oracle.

Optimality (More and Sorensen 1983): d minimises ``g'd + d'Ad/2`` over ``|d|_P <= radius`` if and only if there is a
``lam >= 0`` with ``(A + lam P) d = -g``, ``A + lam P`` positive semi-definite and ``lam (radius - |d|_P) = 0``.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh
from scipy.optimize import brentq

import cgopt
from cgopt import Status, gallery, trust_region_cg
from cgopt.testing import spd_matrices, vectors

norm = np.linalg.norm
WHOLE = st.integers(-4, 4)
RADII = st.sampled_from([1e-3, 0.1, 0.5, 1.0, 3.0, 100.0])


def model(A, g, d):
    return float(g @ d + 0.5 * (d @ (A @ d)))


def oracle(A, g, radius, P=None):
    """Value of the minimum and its multiplier, by all eigenvalues of ``A u = theta P u``."""
    theta, U = eigh(A, P)
    c = U.T @ g
    floor = max(0.0, -theta[0])
    scale = max(norm(theta, np.inf), norm(g) / radius)

    def length(lam):
        return norm(c / (theta + lam))

    live = np.abs(c) > 1e-14 * norm(c)
    inside = (
        np.where(live, -c / np.where(live, theta + floor, 1.0), 0.0)
        if not (live & (theta + floor <= 1e-14 * scale)).any()
        else None
    )
    if inside is not None and norm(inside) <= radius:
        rest = radius**2 - inside @ inside if floor > 0.0 else 0.0
        return c @ inside + 0.5 * (theta @ inside**2) + 0.5 * theta[0] * rest, floor
    low = floor + 1e-15 * scale
    while length(low) < radius:
        low = floor + (low - floor) / 2
    lam = brentq(
        lambda t: 1.0 / radius - 1.0 / length(t), low, floor + 2 * norm(c) / radius + scale, xtol=1e-300, rtol=1e-14
    )
    h = -c / (theta + lam)
    return c @ h + 0.5 * (theta @ h**2), lam


@st.composite
def problems(draw, eigenvalues=WHOLE, most=6):
    """A symmetric matrix with small whole eigenvalues, and a gradient that may be blind to some."""
    spectrum = draw(st.lists(eigenvalues, min_size=1, max_size=most))
    A = draw(spd_matrices(spectrum=np.array(sorted(spectrum), float)))
    n = len(spectrum)
    g = draw(vectors(n, nonzero=False))
    if draw(st.booleans()):  # orthogonal to the lowest eigenvectors: the hard case
        theta, U = np.linalg.eigh(A)
        lowest = U[:, theta <= theta[0] + 1e-9]
        g = g - lowest @ (lowest.T @ g)
    return A, g


def assert_minimises(A, g, radius, step, P=None, tolerance=1e-9):
    P = np.eye(g.size) if P is None else P
    d, lam = step.x, step.multiplier
    length = np.sqrt(d @ (P @ d))
    size = norm(g) + norm(A) * norm(d) + lam * norm(P @ d)
    assert norm(A @ d + lam * (P @ d) + g) <= tolerance * size
    assert lam >= 0.0
    assert length <= radius * (1 + tolerance)
    assert eigh(A + lam * P, eigvals_only=True)[0] >= -1e-6 * (norm(A) + lam * norm(P))
    assert lam * (radius - length) <= 1e-6 * (norm(A) + lam) * radius


# --- the exact minimiser --------------------------------------------------------------------------------------


@given(problems(), RADII)
def test_gltr_reaches_the_minimum(problem, radius):
    A, g = problem
    step = trust_region_cg(A, g, radius, method="gltr", rtol=1e-12)
    assert step.status in (Status.CONVERGED, Status.BOUNDARY, Status.NEGATIVE_CURVATURE), step
    assert_minimises(A, g, radius, step)
    best, lam = oracle(A, g, radius)
    size = norm(g) * radius + norm(A) * radius**2
    assert abs(model(A, g, step.x) - best) <= 1e-9 * size
    assert abs(step.model_decrease + model(A, g, step.x)) <= 1e-12 * size
    assert step.multiplier == pytest.approx(lam, rel=1e-5, abs=1e-6 * norm(A))


@given(problems(most=5), spd_matrices(n=5, condition=50), RADII)
def test_gltr_in_the_norm_of_a_preconditioner(problem, M, radius):
    A, g = problem
    n = g.size
    M = M[:n, :n]
    P = np.linalg.inv(M)
    P = (P + P.T) / 2
    step = trust_region_cg(A, g, radius, M=M, method="gltr", rtol=1e-11, check=False)
    assert step.status in (Status.CONVERGED, Status.BOUNDARY, Status.NEGATIVE_CURVATURE), step
    assert_minimises(A, g, radius, step, P, tolerance=1e-7)
    best, _ = oracle(A, g, radius, P)
    size = np.sqrt(g @ M @ g) * radius + norm(eigh(A, P, eigvals_only=True)) * radius**2
    assert abs(model(A, g, step.x) - best) <= 1e-8 * size
    assert step.step_norm == pytest.approx(np.sqrt(step.x @ P @ step.x), rel=1e-8, abs=1e-12 * radius)


def test_every_small_problem():
    # all symmetric 2 x 2 matrices and gradients of small whole numbers
    values = (-2, -1, 0, 1)
    for a, b, c in itertools.product(values, repeat=3):
        A = np.array([[a, b], [b, c]], float)
        for g in itertools.product((0.0, 1.0), repeat=2):
            g = np.array(g)
            step = trust_region_cg(A, g, 1.0, method="gltr", rtol=1e-12, check=False)
            assert_minimises(A, g, 1.0, step)
            assert -model(A, g, step.x) == pytest.approx(-oracle(A, g, 1.0)[0], abs=1e-12)
            path = trust_region_cg(A, g, 1.0, rtol=1e-12, check=False)
            assert model(A, g, path.x) >= model(A, g, step.x) - 1e-12


@pytest.mark.parametrize("curvature", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("slope", [-1.0, 0.0, 5.0])
def test_one_unknown(curvature, slope):
    A, g = np.array([[curvature]]), np.array([slope])
    step = trust_region_cg(A, g, 2.0, method="gltr", rtol=1e-12)
    best = min(model(A, g, np.array([d])) for d in np.linspace(-2.0, 2.0, 4001))
    assert -step.model_decrease == pytest.approx(best, abs=1e-6)


def test_hard_case_of_many_unknowns():
    # Published analysis: when g misses the lowest eigenvector, |(A - theta_1)^+ g| < radius makes the minimiser
    # -(A - theta_1)^+ g + tau u_1 with the multiplier -theta_1 exactly.
    rng = np.random.default_rng(5)
    theta = np.concatenate([[-1.0], np.linspace(0.5, 4.0, 79)])
    Q, _ = np.linalg.qr(rng.standard_normal((80, 80)))
    A = (Q * theta) @ Q.T
    A = (A + A.T) / 2
    g = Q[:, 1:] @ rng.standard_normal(79)
    radius = 4 * norm(np.linalg.lstsq(A + np.eye(80), g, rcond=1e-10)[0])
    step = trust_region_cg(A, g, radius, method="gltr", rtol=1e-10)
    assert step.status is Status.NEGATIVE_CURVATURE
    assert step.multiplier == pytest.approx(1.0, abs=1e-8)
    assert norm(step.x) == pytest.approx(radius, rel=1e-12)
    assert model(A, g, step.x) == pytest.approx(oracle(A, g, radius)[0], rel=1e-9)
    # without the second look it is the minimiser over what g reaches, and not below
    blind = trust_region_cg(A, g, radius, method="gltr", rtol=1e-10, certify=False)
    assert blind.iterations < step.iterations
    assert model(A, g, blind.x) > model(A, g, step.x) + 0.1 * step.model_decrease


def test_gltr_on_a_sparse_matrix_against_a_dense_oracle():
    A = gallery.poisson((12, 13)) - 1.3 * np.eye(156)  # a few negative eigenvalues
    A = np.asarray(A)
    g = np.random.default_rng(3).standard_normal(156)
    for radius in (0.1, 5.0, 200.0):
        step = trust_region_cg(A, g, radius, method="gltr", rtol=1e-10)
        assert_minimises(A, g, radius, step)
        assert model(A, g, step.x) == pytest.approx(oracle(A, g, radius)[0], rel=1e-9)


def test_a_saddle_point_is_left():
    # a zero gradient: only the curvature tells where to go
    A = np.diag([3.0, 1.0, -0.5])
    step = trust_region_cg(A, np.zeros(3), 2.0, method="gltr", rtol=1e-10)
    assert step.status is Status.NEGATIVE_CURVATURE
    assert np.abs(step.x) == pytest.approx([0.0, 0.0, 2.0], abs=1e-7)
    assert step.model_decrease == pytest.approx(1.0)
    assert trust_region_cg(A, np.zeros(3), 2.0).x.any() == False  # noqa: E712 - Steihaug's path has no start


# --- Steihaug's path ------------------------------------------------------------------------------------------


@given(problems(), RADII)
def test_steihaug_promises(problem, radius):
    A, g = problem
    step = trust_region_cg(A, g, radius, rtol=1e-10)
    d = step.x
    size = norm(g) * radius + norm(A) * radius**2
    assert norm(d) <= radius * (1 + 1e-12)
    assert abs(step.model_decrease + model(A, g, d)) <= 1e-11 * size
    assert step.step_norm == pytest.approx(norm(d), rel=1e-9, abs=1e-12 * radius)
    # never less than the Cauchy point: the first step of the path (Steihaug 1983, theorem 2.1)
    if norm(g) > 0.0:
        gAg = g @ A @ g
        t = radius / norm(g)
        t = min(t, g @ g / gAg) if gAg > 0.0 else t
        assert step.model_decrease >= -model(A, g, -t * g) - 1e-11 * size
    if step.on_boundary:
        assert norm(d) == pytest.approx(radius, rel=1e-12)
    elif step.status is Status.CONVERGED:
        assert norm(A @ d + g) <= 1.0000001e-10 * norm(g)
    if step.status is Status.NEGATIVE_CURVATURE:
        v = step.negative_curvature
        assert v @ A @ v <= 1e-12 * norm(A) * (v @ v)


@given(problems(eigenvalues=st.integers(1, 9)), RADII)
def test_steihaug_gets_half_of_what_there_is(problem, radius):
    A, g = problem  # Yuan 2000: where A is positive definite
    step = trust_region_cg(A, g, radius, rtol=1e-10)
    assert step.model_decrease >= -0.5 * oracle(A, g, radius)[0] - 1e-12 * (norm(g) * radius)


@given(problems(eigenvalues=st.integers(1, 9)))
def test_inside_it_is_conjugate_gradients(problem):
    A, g = problem
    step = trust_region_cg(A, g, 1e6, rtol=1e-10)
    assert step.status is Status.CONVERGED
    assert step.multiplier == 0.0
    solved = cgopt.cg(A, -g, rtol=1e-10)
    assert norm(step.x - solved.x) <= 1e-13 * norm(solved.x)
    assert step.iterations == solved.iterations


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("M", [None, "jacobi", "function"])
def test_norms_come_without_products(M, dtype):
    # 25 steps of the path: the recurrences agree with norms computed from d, and each step costs one product
    A = gallery.wathen(6, 6, rng=2).astype(dtype)
    n = A.shape[0]
    g = np.random.default_rng(1).standard_normal(n).astype(dtype)
    D = A.diagonal()
    P = np.ones(n) if M is None else D
    calls = []

    def product(v):
        calls.append(1)
        return A @ v

    M = (lambda r: r / D) if M == "function" else cgopt.preconditioners.Jacobi(A) if M else None
    lengths = []
    for steps in range(1, 26):
        d = trust_region_cg(A, g, 1e3, M=M, rtol=0.0, maxiter=steps, check=False)
        assert d.status is Status.MAXITER
        true = np.sqrt(np.sum(P.astype(float) * d.x.astype(float) ** 2))
        assert d.step_norm == pytest.approx(true, rel=2e-4 if dtype == np.float32 else 1e-12)
        lengths.append(d.step_norm)
    assert (np.diff(lengths) > 0).all()  # Steihaug 1983, theorem 2.1: the path never turns back
    step = trust_region_cg(product, g, 0.9 * lengths[10], M=M, rtol=0.0, check=False)
    assert step.status is Status.BOUNDARY
    assert step.step_norm == pytest.approx(0.9 * lengths[10])
    assert len(calls) == step.iterations


@pytest.mark.parametrize("method", ["steihaug", "gltr"])
def test_scales(method):
    # the same path for A 2^a and g 2^b, with the radius of d's scale: bit for bit, and out to the range's ends
    A = np.asarray(gallery.trefethen(40).todense()) - 9 * np.eye(40)
    g = np.random.default_rng(0).standard_normal(40)
    one = trust_region_cg(A, g, 2.0, method=method, rtol=1e-9)
    assert one.on_boundary
    for a, b in ((0, 600), (-500, 0), (300, -400), (-900, -900)):
        other = trust_region_cg(np.ldexp(A, a), np.ldexp(g, b), np.ldexp(2.0, b - a), method=method, rtol=1e-9)
        assert other.status is one.status
        assert other.iterations == one.iterations
        assert norm(np.ldexp(other.x, a - b) - one.x) <= 1e-12 * norm(one.x)
        if -1000 < 2 * b - a < 1000:
            assert np.ldexp(other.model_decrease, a - 2 * b) == pytest.approx(one.model_decrease, rel=1e-12)


@pytest.mark.parametrize("method", ["steihaug", "gltr"])
def test_single_precision(method):
    A = (np.asarray(gallery.trefethen(60).todense()) - 20 * np.eye(60)).astype(np.float32)
    g = np.random.default_rng(0).standard_normal(60).astype(np.float32)
    step = trust_region_cg(A, g, 0.5, method=method, rtol=1e-4)
    assert step.x.dtype == np.float32
    assert step.on_boundary
    assert norm(step.x.astype(float)) == pytest.approx(0.5, rel=1e-5)
    if method == "gltr":
        assert model(A.astype(float), g.astype(float), step.x.astype(float)) == pytest.approx(
            oracle(A.astype(float), g.astype(float), 0.5)[0], rel=1e-4
        )


def test_unbounded_region_hands_out_the_direction():
    A, g = np.diag([1.0, 2.0, -1.0]), np.array([1.0, 1.0, 0.1])
    step = trust_region_cg(A, g, np.inf, rtol=1e-10)
    assert step.status is Status.NEGATIVE_CURVATURE
    v = step.negative_curvature
    assert v @ A @ v < 0.0
    assert g @ v < 0.0  # and it descends
    assert np.isfinite(step.x).all()


def test_same_input_same_bits_and_nothing_changed():
    A = gallery.wathen(8, 8, rng=1)
    g = np.random.default_rng(2).standard_normal(A.shape[0])
    data, before = A.data.copy(), g.copy()
    for method in ("steihaug", "gltr"):
        one = trust_region_cg(A, g, 0.01, method=method, M="jacobi")
        two = trust_region_cg(A, g, 0.01, method=method, M="jacobi")
        assert (one.x == two.x).all()
        assert one.model_decrease == two.model_decrease
    assert (A.data == data).all()
    assert (g == before).all()


def test_any_form_of_matrix():
    A = np.diag([1.0, 2.0, 3.0])
    g = np.ones(3)
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = trust_region_cg(A, g, 0.5).x
    for form in (A.tolist(), lambda v: A @ v, cgopt.operators.Damped(A - 0.5 * np.eye(3), 0.5)):
        assert trust_region_cg(form, g, 0.5).x == pytest.approx(expected)
        assert trust_region_cg(form, g, 0.5, method="gltr").status is Status.BOUNDARY
    step = trust_region_cg(torch.from_numpy(A), torch.from_numpy(g), 0.5)
    assert isinstance(step.x, torch.Tensor)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": 0.0}, ValueError, "radius must be a positive"),
        ({"radius": float("nan")}, ValueError, "radius must be a positive"),
        ({"radius": "1"}, TypeError, "radius must be a positive"),
        ({"radius": np.inf, "method": "gltr"}, ValueError, "radius must be finite"),
        ({"method": "dogleg"}, ValueError, "method must be 'steihaug' or 'gltr'"),
        ({"g": np.ones((3, 1))}, ValueError, r"g must have shape \(n,\)"),
        ({"g": np.ones(2)}, ValueError, r"g must have shape \(3,\)"),
        ({"g": np.array([1.0, np.nan, 0.0])}, ValueError, "NaN or infinity"),
        ({"g": np.ones(3) * 1j}, TypeError, "must be real"),
        ({"A": np.triu(np.ones((3, 3)))}, ValueError, "A is not symmetric"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"maxiter": 2.5}, TypeError, "maxiter"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"A": np.eye(3), "g": np.ones(3), "radius": 1.0} | change
    with pytest.raises(error, match=message):
        trust_region_cg(arguments.pop("A"), arguments.pop("g"), arguments.pop("radius"), **arguments)


def test_a_bad_preconditioner_is_named():
    A, g = np.diag([1.0, 2.0]), np.array([1.0, 1.0])
    for method in ("steihaug", "gltr"):
        step = trust_region_cg(A, g, 1.0, M=-np.eye(2), method=method)
        assert step.status is Status.INDEFINITE_PRECONDITIONER
        assert step.info < 0
        assert not step.x.any()


def test_no_unknowns_and_no_iterations():
    assert trust_region_cg(np.zeros((0, 0)), np.zeros(0), 1.0).status is Status.CONVERGED
    for method in ("steihaug", "gltr"):
        step = trust_region_cg(np.eye(2), np.ones(2), 1.0, maxiter=0, method=method)
        assert step.status is Status.MAXITER
        assert step.info == 1
        assert not step.x.any()
