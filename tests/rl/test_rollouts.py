"""Rollouts: compiled and stepped ones are the same; advantages against direct sums; ends of episodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

gymnasium = pytest.importorskip("gymnasium", reason='agents need the extra "rl"')

from gymnasium.vector import SyncVectorEnv  # noqa: E402

import cgopt  # noqa: E402
from cgopt_rl.envs import COMPILED, CompiledEnvs, environments  # noqa: E402
from cgopt_rl.envs.interface import CompiledBatch  # noqa: E402
from cgopt_rl.kernels import advantages as recursions  # noqa: E402
from cgopt_rl.kernels import rollouts as kernels  # noqa: E402
from cgopt_rl.normalization import RunningMoments, normalize, normalizer  # noqa: E402
from cgopt_rl.policies import Policy  # noqa: E402
from cgopt_rl.rollouts import Collector, estimate_advantages  # noqa: E402


def test_tanh_of_the_kernels_errs_by_at_most_four_parts_in_ten_million():
    x = np.concatenate([np.linspace(-12, 12, 20_001), np.geomspace(1e-30, 1e30, 500)]).astype(np.float32)
    found = np.array([kernels.tanh(value) for value in x], np.float64)
    assert np.abs(found - np.tanh(x.astype(np.float64))).max() < 4e-7
    assert np.array_equal(found, -np.array([kernels.tanh(-value) for value in x]))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (3,), (64, 64), (5, 17, 2)])
def test_forward_pass_of_the_kernels_is_the_networks(activation, hidden):
    rng = np.random.default_rng(0)
    policy = Policy(6, gymnasium.spaces.Discrete(3), hidden, activation)
    theta = rng.standard_normal(policy.n).astype(np.float32)
    X = rng.standard_normal((300, 6)).astype(np.float32)  # more than go through the network together
    expected = policy.network.forward(theta.astype(np.float64), X)
    assert policy.outputs(theta, X) == pytest.approx(expected, rel=1e-5, abs=2e-5)
    for x, outputs in zip(X[:10], expected, strict=False):
        out = np.empty(3, np.float32)
        kernels.forward_one(policy.for_kernels(theta), x, out)
        assert out == pytest.approx(outputs, rel=1e-5, abs=2e-5)


class Stepped(CompiledBatch):
    """Compiled environments that the collector does not recognise: Python steps them."""


def collect(id, *, stepped, n=3, T=70, threads=None, limit=30):
    envs = CompiledEnvs(id, n, max_episode_steps=limit)
    batch = CompiledBatch(envs)
    policy = Policy(batch.n_inputs, batch.action_space, (8, 8))
    moments = RunningMoments(batch.n_inputs)
    moments.update(np.random.default_rng(5).standard_normal((10, batch.n_inputs)))
    norm = normalizer(moments, batch.n_inputs, 1.5)
    collector = Collector(batch, policy, T, np.random.SeedSequence(1))
    collector.reset(np.random.SeedSequence(2))
    theta = np.random.default_rng(3).standard_normal(policy.n).astype(np.float32)
    if stepped:
        collector.collect_some(policy.for_kernels(theta), norm, 0, T)
    else:
        collector.collect(theta, norm)
    return collector, theta, norm


@pytest.mark.parametrize("id", sorted(COMPILED))
def test_compiled_rollouts_are_the_stepped_ones_bit_for_bit(id):
    one, theta, norm = collect(id, stepped=False)
    two, _, _ = collect(id, stepped=True)
    for name, a, b in zip(one.batch._fields, one.batch, two.batch, strict=True):
        assert np.array_equal(a, b), name
    assert np.array_equal(one.obs, two.obs)
    assert np.array_equal(one.streams, two.streams)
    # Stored observations are the normalised raw ones, and those that follow from the last step unless it ended.
    assert np.array_equal(one.batch.obs, normalize(norm, one.batch.raw))
    goes_on = ~(one.batch.terminated | one.batch.truncated)[:-1]
    assert np.array_equal(one.batch.raw[1:][goes_on], one.batch.final[:-1][goes_on])
    assert not np.array_equal(one.batch.raw[1:][~goes_on], one.batch.final[:-1][~goes_on])
    assert (~goes_on).any()


@pytest.mark.parametrize("id", ["cgopt/CartPole-v1", "cgopt/Pendulum-v1"])
def test_rollouts_ignore_threads(id):
    before = cgopt.get_num_threads()
    try:
        one, *_ = collect(id, stepped=False, n=8, T=8000)
        cgopt.set_num_threads(1)
        two, *_ = collect(id, stepped=False, n=8, T=8000)
    finally:
        cgopt.set_num_threads(before)
    for a, b in zip(one.batch, two.batch, strict=True):
        assert np.array_equal(a, b)


def test_actions_are_drawn_from_the_policy():
    """Frequencies and moments of actions that kernels draw, against the head's own probabilities."""
    for space in (gymnasium.spaces.MultiDiscrete([2, 3]), gymnasium.spaces.Box(-1, 1, (2,), np.float32)):
        policy = Policy(1, space, (), log_std_init=-0.3)
        rng = np.random.default_rng(1)
        theta = policy.init(rng)
        theta[: policy.network.n] = rng.standard_normal(policy.network.n)
        T, obs = 60_000, np.array([[0.7]], np.float32)
        floats, choices = (2, 0) if isinstance(space, gymnasium.spaces.Box) else (0, 2)
        batch = kernels.Batch(
            np.zeros((T, 1, 1), np.float32), np.zeros((T, 1, 1), np.float32), np.zeros((T, 1, floats), np.float32),
            np.zeros((T, 1, choices), np.int64), *(np.zeros((T, 1)) for _ in range(4)), np.zeros((T, 1, 1), np.float32),
        )  # fmt: skip
        streams = np.array([9], np.uint64)
        network, norm = policy.for_kernels(theta), normalizer(None, 1, 1.0)
        for t in range(T):
            kernels.act(network, norm, streams, obs, t, batch)
        if choices:
            drawn = batch.choices[:, 0]
            for a in range(2):
                for b in range(3):
                    p = np.exp(policy.log_prob(theta, obs, np.array([[a, b]])))[0]
                    share = np.mean((drawn == [a, b]).all(axis=1))
                    assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / T))
        else:
            drawn, mean, std = batch.floats[:, 0], policy.outputs(theta, obs)[0], np.exp(-0.3)
            assert drawn.mean(axis=0) == pytest.approx(mean, abs=4 * std / np.sqrt(T))
            assert drawn.std(axis=0) == pytest.approx(std, rel=4 / np.sqrt(2 * T))
            assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.0, abs=4 / np.sqrt(T))


# --- advantages -----------------------------------------------------------------------------------


def direct_advantages(r, V, following, terminated, ended, gamma, lam):
    """Each advantage as the sum of ``(gamma lambda)^k delta_(t+k)`` up to the end of its episode or the batch."""
    T, n = r.shape
    A = np.zeros((T, n))
    for i in range(n):
        for t in range(T):
            for k in range(T - t):
                s = t + k
                delta = r[s, i] + (0.0 if terminated[s, i] else gamma * following[s, i]) - V[s, i]
                A[t, i] += (gamma * lam) ** k * delta
                if ended[s, i]:
                    break
    return A


@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_advantages_are_the_direct_sum(seed, gamma, lam, scale):
    rng = np.random.default_rng(seed)
    r, V, following = scale * rng.standard_normal((3, 12, 2))
    terminated, truncated = rng.random((2, 12, 2)) < 0.2
    ended, out = terminated | truncated, np.empty((12, 2))
    recursions.generalized_advantages(r, V, following, terminated, ended, gamma, lam, out)
    assert out / scale == pytest.approx(
        direct_advantages(r, V, following, terminated, ended, gamma, lam) / scale, rel=1e-10, abs=1e-12
    )


def test_lambda_one_gives_returns_less_the_baseline_and_zero_the_residual():
    rng = np.random.default_rng(0)
    r, V = rng.standard_normal((2, 9, 1))
    terminated = np.zeros((9, 1), bool)
    terminated[-1] = True
    following, out = np.vstack([V[1:], [[99.0]]]), np.empty((9, 1))
    recursions.generalized_advantages(r, V, following, terminated, terminated, 0.9, 1.0, out)
    returns = np.array([sum(0.9**k * r[t + k, 0] for k in range(9 - t)) for t in range(9)])
    assert out[:, 0] == pytest.approx(returns - V[:, 0])


class Line(gymnasium.Env):
    """A walk to the right from 0: terminates at 3 with reward 1; observation is the place."""

    observation_space = gymnasium.spaces.Box(-1.0, 9.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, limit=99):
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.array([0.0], np.float32), {}

    def step(self, action):
        self.place += 1
        reached = self.place == 3
        return np.array([self.place], np.float32), float(reached), reached, self.place >= self.limit, {}


@pytest.mark.parametrize("limit", [99, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_values_after_the_last_step_are_of_the_final_observation(limit, wrapped):
    """With V(s) = 10 s: nothing follows a termination, V(final) a truncation and the end of the batch, never V(reset).

    In a vector environment that resets with the next step, the reset steps are left out and change nothing.
    """
    made = SyncVectorEnv([lambda: Line(limit)]) if wrapped else (lambda: Line(limit))
    batch_envs = environments(made)
    policy = Policy(1, Line.action_space, ())
    collector = Collector(batch_envs, policy, 8, np.random.SeedSequence(0))
    collector.reset(np.random.SeedSequence(0))
    norm = normalizer(None, 1, 1.0)
    batch = collector.collect(policy.init(np.random.default_rng(0)), norm)
    A, V = estimate_advantages(batch, batch.rewards, lambda obs: 10.0 * obs[:, 0], norm, 0.5, 0.0)
    for t in range(8):
        if batch.valid[t, 0]:
            place = batch.raw[t, 0, 0]
            following = 0.0 if place == 2.0 else 10.0 * (place + 1.0)
            assert V[t, 0] == 10.0 * place
            assert A[t, 0] == pytest.approx((place == 2.0) + 0.5 * following - 10.0 * place)
    assert batch.valid.all() == (not wrapped)


def test_returns_of_episodes_are_raw_and_in_order():
    rewards = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    ended = np.array([[0, 0], [1, 0], [0, 1], [1, 0]], bool)
    valid = np.ones((4, 2), bool)
    valid[2, 0] = False
    returns, lengths = np.array([0.5, 0.0]), np.array([1, 0])
    done, steps = np.empty(8), np.empty(8, np.int64)
    count = recursions.episode_sums(rewards, ended, valid, returns, lengths, done, steps)
    assert done[:count].tolist() == [3.5, 60.0, 4.0]
    assert steps[:count].tolist() == [3, 3, 1]
    assert returns.tolist() == [0.0, 40.0]


def test_discounted_sums_go_on_from_batch_to_batch():
    rng = np.random.default_rng(0)
    r, ended = rng.standard_normal((10, 2)), rng.random((10, 2)) < 0.3
    whole, carry = np.empty((10, 2)), np.zeros(2)
    recursions.discounted_so_far(r, ended, 0.9, carry, whole)
    parts, carry2 = np.empty((10, 2)), np.zeros(2)
    recursions.discounted_so_far(r[:4], ended[:4], 0.9, carry2, parts[:4])
    recursions.discounted_so_far(r[4:], ended[4:], 0.9, carry2, parts[4:])
    assert np.array_equal(whole, parts)
    assert np.array_equal(carry, carry2)
    assert whole[0] == pytest.approx(r[0])
