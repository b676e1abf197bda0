"""Curvature products against dense matrices in double precision, and the properties that solvers rely on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt import nn
from cgopt.operators import Damped, Fisher, GaussNewton, Hessian, Linearization
from tests.nn.cases import LOSSES, NETWORKS, SAMPLES, Case, relative

EXACT = 1e-10
OPERATORS = {
    "gauss-newton": lambda case: GaussNewton(case.at, case.loss, case.Y),
    "fisher": lambda case: Fisher(case.at, case.loss),
    "monte-carlo": lambda case: Fisher(case.at, case.loss, kind="monte-carlo", samples=2, rng=0),
    "empirical": lambda case: Fisher(case.at, case.loss, kind="empirical", Y=case.Y),
    "hessian": lambda case: Hessian(case.at, case.loss, case.Y),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_gauss_newton_and_hessian_matrices(kind, loss, weighted):
    case = Case(kind, loss)
    weights = case.weights if weighted else None
    identity = np.eye(case.network.n)
    G, H = case.gauss_newton(weights), case.hessian(weights)
    assert relative(GaussNewton(case.at, case.loss, case.Y, weights=weights) @ identity, G) < EXACT
    assert relative(Hessian(case.at, case.loss, case.Y, weights=weights) @ identity, H) < EXACT
    assert relative(GaussNewton(case.at, case.loss, case.Y, weights=weights).diagonal(), np.diag(G)) < EXACT


@pytest.mark.parametrize("operator", ["gauss-newton", "hessian"])
def test_single_precision(operator):
    wide, narrow = Case("tanh", "softmax"), Case("tanh", "softmax", dtype=np.float32)
    v = np.random.default_rng(0).standard_normal(wide.network.n)
    exact = OPERATORS[operator](wide) @ v
    product = OPERATORS[operator](narrow) @ v.astype(np.float32)
    assert product.dtype == np.float32
    assert relative(product, exact) < 1e-5


def test_empirical_fisher_matrix():
    case = Case("tanh", "softmax")
    gradients = [
        case.network.loss_and_gradient(case.theta, x[None], case.loss, y[None])[1]
        for x, y in zip(case.X, case.Y, strict=True)
    ]
    expected = sum(np.outer(g, g) for g in gradients) / SAMPLES
    F = Fisher(case.at, case.loss, kind="empirical", Y=case.Y)
    assert relative(F @ np.eye(case.network.n), expected) < EXACT
    assert relative(F.diagonal(), np.diag(expected)) < EXACT


@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
def test_fisher_is_gauss_newton_for_matching_losses_and_the_mean_of_draws(loss):
    case = Case("tanh", loss)
    v = np.random.default_rng(1).standard_normal(case.network.n)
    exact = Fisher(case.at, case.loss) @ v
    assert relative(GaussNewton(case.at, case.loss, case.Y) @ v, exact) < EXACT
    drawn = Fisher(case.at, case.loss, kind="monte-carlo", samples=3000, rng=0) @ v
    assert relative(drawn, exact) < 0.1


@given(st.sampled_from(list(OPERATORS)), st.sampled_from(list(NETWORKS)), st.integers(0, 1000))
def test_products_are_symmetric_linear_and_semi_definite(operator, kind, seed):
    case = Case(kind, "softmax", seed)
    A = OPERATORS[operator](case)
    u, v, w = np.random.default_rng(seed).standard_normal((3, case.network.n))
    Au, Av = A @ u, A @ v
    size = np.linalg.norm(u) * np.linalg.norm(Av) + np.linalg.norm(v) * np.linalg.norm(Au)
    assert abs(u @ Av - v @ Au) <= 1e-13 * size
    assert np.linalg.norm(A @ (2.0 * u - 3.0 * v) - 2.0 * Au + 3.0 * Av) <= 1e-13 * np.linalg.norm(2.0 * Au - 3.0 * Av)
    if operator != "hessian":
        assert w @ (A @ w) >= -1e-14 * np.linalg.norm(w) * np.linalg.norm(A @ w)


@given(st.sampled_from(list(OPERATORS)), st.sampled_from(list(NETWORKS)), st.integers(1, 9), st.integers(0, 1000))
def test_block_products_are_the_single_ones(operator, kind, k, seed):
    case = Case(kind, "softmax", seed)
    A = OPERATORS[operator](case)
    V = np.random.default_rng(seed).standard_normal((case.network.n, k))
    singles = np.stack([A @ v for v in V.T], axis=1)
    assert relative(A @ V, singles) < 1e-12
    assert relative(np.moveaxis(case.at.jvp(V), 1, 0)[-1], case.at.jvp(V[:, -1])) < 1e-12


def test_rectifiers_bend_nowhere_so_hessian_is_gauss_newton_per_weight():
    # With one layer the outputs are linear in theta, and the Hessian is the Gauss-Newton matrix exactly.
    network = nn.MLP([3, 2])
    rng = np.random.default_rng(0)
    at = network.linearize(network.init(rng), rng.standard_normal((9, 3)))
    Y = rng.integers(0, 2, 9)
    G, H = GaussNewton(at, nn.SoftmaxCrossEntropy(), Y), Hessian(at, nn.SoftmaxCrossEntropy(), Y)
    assert relative(H @ np.eye(8), G @ np.eye(8)) < 1e-13


def test_damped_system_is_solved_by_cg_and_by_scipy():
    from scipy.sparse.linalg import cg as scipy_cg

    case = Case("tanh", "softmax")
    A = Damped(GaussNewton(case.at, case.loss, case.Y), 1e-2)
    dense = case.gauss_newton() + 1e-2 * np.eye(case.network.n)
    b = np.random.default_rng(0).standard_normal(case.network.n)
    expected = np.linalg.solve(dense, b)
    result = cgopt.cg(A, b, rtol=1e-11)
    assert result.status.converged
    assert relative(result.x, expected) < 1e-9
    assert relative(scipy_cg(A.to_scipy(), b, rtol=1e-11)[0], expected) < 1e-9


def test_operators_compose_and_speak_of_themselves():
    case = Case("tanh", "softmax")
    G, H = GaussNewton(case.at, case.loss, case.Y), Hessian(case.at, case.loss, case.Y)
    v = np.random.default_rng(0).standard_normal(case.network.n)
    assert relative((G + 0.5 * H) @ v, (G @ v) + 0.5 * (H @ v)) < 1e-13
    for A in (G, H, Fisher(case.at, case.loss)):
        assert A.nbytes > 0
        assert "MLP(3-5-4-2, tanh, 54 parameters)" in repr(A)


def test_products_into_another_type_or_layout():
    case = Case("tanh", "softmax", dtype=np.float32)
    for A in (GaussNewton(case.at, case.loss, case.Y), Hessian(case.at, case.loss, case.Y)):
        V = np.random.default_rng(0).standard_normal((case.network.n, 3))
        wide = A @ V
        assert wide.dtype == np.float64
        turned = A.matmat(V.astype(np.float32), out=np.empty((3, case.network.n), np.float32).T)
        assert relative(turned, wide) < 1e-6


def test_a_product_allocates_nothing():
    network = nn.MLP([32, 64, 8])
    rng = np.random.default_rng(0)
    at = network.linearize(network.init(rng, dtype=np.float32), rng.standard_normal((500, 32)))
    G = GaussNewton(at, nn.SoftmaxCrossEntropy(), rng.integers(0, 8, 500))
    for shape in ((network.n,), (network.n, 8)):
        v, out = rng.standard_normal(shape).astype(np.float32), np.empty(shape, np.float32)
        product = G.matvec if len(shape) == 1 else G.matmat
        product(v, out)
        tracemalloc.start()
        product(v, out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8_000  # one layer's activations take 128,000


def test_own_functions_as_a_linearization():
    case = Case("tanh", "softmax")
    J = case.jacobian()
    at = Linearization(case.at.output, lambda v: J @ v, lambda u: np.einsum("nco,nc->o", J, u), n=case.network.n)
    G = GaussNewton(at, case.loss, case.Y)
    V = np.random.default_rng(0).standard_normal((case.network.n, 3))
    assert relative(G @ V, case.gauss_newton() @ V) < EXACT
    assert relative(G @ V[:, 0], case.gauss_newton() @ V[:, 0]) < EXACT
    assert G.diagonal() is None


def test_bad_input_is_named():
    case = Case("tanh", "softmax")
    with pytest.raises(ValueError, match=r"kind must be one of.*Nearest: empirical"):
        Fisher(case.at, case.loss, kind="empiric")
    with pytest.raises(ValueError, match="Y must be given for kind='empirical'"):
        Fisher(case.at, case.loss, kind="empirical")
    with pytest.raises(ValueError, match="Y must hold probabilities"):
        GaussNewton(case.at, case.loss, 2 * case.Y)
    with pytest.raises(ValueError, match="x must have shape"):
        GaussNewton(case.at, case.loss, case.Y) @ np.ones(3)
