"""Distributions by Monte Carlo, derivatives by finite differences, Fisher matrices by oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gymnasium", reason='agents need the extra "rl"')

from gymnasium import spaces

from cgopt_rl.fisher import FactoredFisher, Fisher
from cgopt_rl.normalization import RunningMoments, normalize, normalizer
from cgopt_rl.policies import Categorical, Gaussian, Policy, even

SPACES = {
    "one of two": spaces.Discrete(2),
    "one of five": spaces.Discrete(5, start=3),
    "three choices": spaces.MultiDiscrete([2, 4, 3]),
    "one float": spaces.Box(-2.0, 2.0, (1,), np.float32),
    "six floats": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
}


def some_policy(kind, dtype=np.float64, seed=0, N=7, spread=1.0):
    """A policy with weights far from its start, states, and actions drawn from it."""
    rng = np.random.default_rng(seed)
    policy = Policy(3, SPACES[kind], (5, 4), dtype=dtype)
    theta = (spread * 0.5 * rng.standard_normal(policy.n)).astype(dtype)
    obs = rng.standard_normal((N, 3)).astype(dtype)
    actions = policy.head.sample(policy.outputs(theta, obs), policy.split(theta)[1], rng)
    return policy, theta, obs, actions, rng


def dense(operator):
    return np.stack([operator.matvec(e) for e in np.eye(operator.shape[0], dtype=operator.dtype)], axis=1)


# --- distributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPACES)
def test_entropy_and_divergence_by_monte_carlo(kind):
    """E[-log pi] is the entropy; E_old[log pi_old - log pi_new] is KL(old || new); both within four standard errors."""
    policy, theta, obs, _, rng = some_policy(kind, N=1)
    other = theta + 0.3 * rng.standard_normal(policy.n)
    M = 40_000
    Z = np.repeat(policy.outputs(theta, obs), M, axis=0)
    Z2 = np.repeat(policy.outputs(other, obs), M, axis=0)
    old, new = policy.split(theta)[1], policy.split(other)[1]
    a = policy.head.sample(Z, old, rng)
    log_old, log_new = policy.head.log_prob(Z, old, a), policy.head.log_prob(Z2, new, a)
    for samples, exact in (
        (-log_old, policy.head.entropy(Z[:1], old)[0]),
        (log_old - log_new, policy.head.kl(Z[:1], old, Z2[:1], new)[0]),
    ):
        assert samples.mean() == pytest.approx(exact, abs=4 * samples.std() / np.sqrt(M) + 1e-12)
    assert policy.head.kl(Z[:1], old, Z[:1], old) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("kind", ["one of five", "three choices"])
def test_probabilities_of_choices_add_up_to_one(kind):
    policy, theta, obs, _, _ = some_policy(kind, N=1)
    every = np.stack(np.meshgrid(*map(np.arange, policy.head.alternatives), indexing="ij"), -1)
    every = every.reshape(-1, len(policy.head.alternatives))
    total = np.exp(policy.log_prob(theta, np.repeat(obs, len(every), 0), every)).sum()
    assert total == pytest.approx(1.0, rel=1e-12)


def test_log_probability_of_a_gaussian_is_scipys():
    from scipy.stats import norm

    policy, theta, obs, actions, _ = some_policy("six floats")
    expected = norm.logpdf(actions, policy.outputs(theta, obs), np.exp(policy.split(theta)[1])).sum(axis=1)
    assert policy.log_prob(theta, obs, actions) == pytest.approx(expected, rel=1e-12)


def test_logits_may_be_huge():
    head = Categorical([3])
    Z = np.array([[1e4, 0.0, -1e4]])
    assert head.log_prob(Z, np.empty(0), np.array([[0]])) == pytest.approx(0.0)
    assert head.log_prob(Z, np.empty(0), np.array([[2]])) == pytest.approx(-2e4)
    assert np.isfinite(head.kl(Z, np.empty(0), -Z, np.empty(0))).all()
    assert head.entropy(Z, np.empty(0)) == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(head.fisher_columns(Z, np.empty(0))).all()


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPACES)
def test_gradient_of_the_log_probability(kind):
    """Against central differences in the outputs and in the log standard deviations."""
    policy, theta, obs, actions, rng = some_policy(kind)
    Z, extra, w = policy.outputs(theta, obs), policy.split(theta)[1].copy(), rng.standard_normal(7)
    in_outputs, in_extra = policy.head.log_prob_gradient(Z, extra, actions, w)
    h = 1e-6
    for array, gradient in ((Z, in_outputs), (extra, in_extra)):
        for where in np.ndindex(array.shape):
            kept = array[where]
            array[where] = kept + h
            up = w @ policy.head.log_prob(Z, extra, actions)
            array[where] = kept - h
            down = w @ policy.head.log_prob(Z, extra, actions)
            array[where] = kept
            assert gradient[where] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", SPACES)
def test_fisher_is_the_hessian_of_the_mean_divergence(kind):
    """F v against double central differences of ``KL(theta_old || theta)`` at theta_old, for each unit vector pair."""
    policy, theta, obs, _, rng = some_policy(kind)
    F = dense(policy.fisher(theta, obs))
    h = 1e-4
    for _ in range(6):
        v, w = rng.standard_normal((2, policy.n))
        v, w = v / np.linalg.norm(v), w / np.linalg.norm(w)
        second = sum(
            a * b * policy.kl(theta, theta + h * (a * v + b * w), obs) for a in (-1.0, 1.0) for b in (-1.0, 1.0)
        ) / (4 * h * h)
        assert w @ F @ v == pytest.approx(second, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", SPACES)
def test_fisher_is_the_expected_outer_product_of_scores(kind):
    """Dense oracle: ``E[grad log pi grad log pi']``, over all choices exactly, for a Gaussian by its moments."""
    policy, theta, obs, _, _ = some_policy(kind, N=3)
    at = policy.network.linearize(policy.split(theta)[0], obs)
    extra = policy.split(theta)[1]
    expected = np.zeros((policy.n, policy.n))
    for i in range(3):
        rows = np.zeros((policy.head.n_outputs, policy.n))
        for c in range(policy.head.n_outputs):
            u = np.zeros_like(at.output)
            u[i, c] = 1.0
            rows[c, : policy.network.n] = at.vjp(u)
        if isinstance(policy.head, Gaussian):
            expected += rows.T @ (rows * np.exp(-2.0 * extra)[:, None]) / 3
            expected += np.diag(np.r_[np.zeros(policy.network.n), np.full(extra.size, 2.0)]) / 3
        else:
            p = np.concatenate([np.exp(z) / np.exp(z).sum() for z in (at.output[i, s] for s in policy.head.slices)])
            M = np.diag(p)
            for s in policy.head.slices:
                M[s, s] -= np.outer(p[s], p[s])
            expected += rows.T @ M @ rows / 3
    assert dense(policy.fisher(theta, obs)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", SPACES)
def test_both_forms_of_the_fisher_matrix_agree(kind):
    policy, theta, obs, _, rng = some_policy(kind)
    network, extra = policy.split(theta)
    weights = rng.dirichlet(np.ones(7))
    direct = Fisher(policy.network.linearize(network, obs), policy.head, extra, weights)
    factored = FactoredFisher(policy.network.linearize(network, obs), policy.head, extra, weights)
    A, B = dense(direct), dense(factored)
    assert pytest.approx(A, abs=1e-13) == B
    assert pytest.approx(A.T, abs=1e-13) == A
    columns = policy.head.fisher_columns(at_outputs := policy.outputs(theta, obs), extra)
    assert columns.shape == (policy.head.n_columns, *at_outputs.shape)
    V = rng.standard_normal((policy.n, 3))
    assert direct.matmat(V) == pytest.approx(A @ V, abs=1e-12)


@given(
    kind=st.sampled_from(sorted(SPACES)),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_fisher_is_positive_semi_definite(kind, seed, spread, dtype):
    policy, theta, obs, _, rng = some_policy(kind, dtype, seed, spread=spread)
    network, extra = policy.split(theta)
    for F in (
        Fisher(policy.network.linearize(network, obs), policy.head, extra, even(obs)),
        FactoredFisher(policy.network.linearize(network, obs), policy.head, extra, even(obs)),
    ):
        v = rng.standard_normal(policy.n).astype(dtype)
        Fv = F.matvec(v).astype(np.float64)
        assert np.isfinite(Fv).all()
        scale = np.linalg.norm(v) * np.linalg.norm(Fv)
        assert v @ Fv >= -64 * np.finfo(dtype).eps * scale


def test_float_types_agree():
    for kind in SPACES:
        policy, theta, obs, actions, _ = some_policy(kind)
        single = Policy(3, SPACES[kind], (5, 4), dtype=np.float32)
        t, o = theta.astype(np.float32), obs.astype(np.float32)
        assert single.log_prob(t, o, actions) == pytest.approx(policy.log_prob(theta, obs, actions), rel=1e-4, abs=1e-5)
        v = np.ones(policy.n)
        assert single.fisher(t, o).matvec(v.astype(np.float32)) == pytest.approx(
            policy.fisher(theta, obs).matvec(v), rel=1e-3, abs=1e-4
        )


# --- normalisation --------------------------------------------------------------------------------


@given(
    cuts=st.lists(st.integers(0, 40), max_size=4),
    offset=st.sampled_from([0.0, 1e8, -1e-8]),
    seed=st.integers(0, 1000),
)
def test_moments_do_not_depend_on_the_batches(cuts, offset, seed):
    x = np.random.default_rng(seed).standard_normal((40, 3)) + offset
    moments = RunningMoments(3)
    for batch in np.split(x, sorted(cuts)):
        moments.update(batch)
    assert moments.mean == pytest.approx(x.mean(axis=0), rel=1e-14, abs=1e-14)
    assert moments.variance == pytest.approx(x.var(axis=0), rel=1e-6)


def test_constant_observations_are_not_blown_up():
    moments = RunningMoments(2)
    moments.update(np.array([[3.0, 1e-30], [3.0, 3e-30]]))
    assert moments.scale[0] == 1.0
    assert moments.scale[1] == pytest.approx(1e30)
    n = normalizer(moments, 2, 5.0)
    assert normalize(n, np.array([[3.0, 1.0]])).tolist() == [[0.0, 5.0]]
    assert normalize(normalizer(None, 2, 5.0), np.array([[3.0, 1e9]])).tolist() == [[3.0, 1e9]]
