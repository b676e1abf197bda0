"""Vines: unbiased on a small Markov decision process, common random numbers, saved and restored simulators."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason='agents need the extra "rl"')

import gymnasium
from gymnasium import spaces

from cgopt_rl import TRPO, VineTRPO, evaluate
from cgopt_rl.envs import environments
from cgopt_rl.normalization import normalizer
from cgopt_rl.policies import Policy
from cgopt_rl.trpo import Problem
from cgopt_rl.vine import SelfNormalized, vine_problem

GAMMA, LENGTH = 0.6, 25  # what follows after 25 steps is worth 3e-6


def decision_process():
    rng = np.random.default_rng(3)
    P, R = rng.dirichlet(np.full(3, 0.5), size=(3, 2)), rng.random((3, 2))
    policy = Policy(3, spaces.Discrete(2), (), dtype=np.float64)
    return P, R, policy, rng.standard_normal(policy.n)


def branch(P, R, pi, states, actions, rng):
    """Discounted returns of rollouts that start with the given actions."""
    total = np.zeros(states.size)
    for t in range(LENGTH):
        total += GAMMA**t * R[states, actions]
        u = rng.random(states.size)
        states = (u[:, None] > np.cumsum(P[states, actions], axis=1)).sum(axis=1)
        actions = (rng.random(states.size)[:, None] > np.cumsum(pi[states], axis=1)).sum(axis=1)
    return total


def test_vine_and_single_path_agree_in_expectation():
    """Both gradients' means over many batches lie within four standard errors of the exact gradient."""
    P, R, policy, theta = decision_process()
    eye, rng = np.eye(3), np.random.default_rng(0)
    every, all_actions = np.repeat(eye, 2, axis=0), np.tile([0, 1], 3)[:, None]
    pi = np.exp(policy.log_prob(theta, every, all_actions)).reshape(3, 2)
    V = np.linalg.solve(np.eye(3) - GAMMA * np.einsum("sa,sat->st", pi, P), (pi * R).sum(axis=1))
    Q = R + GAMMA * P @ V
    # Roots and single-path states are drawn evenly here; the exact gradient is over the same distribution.
    weights = (pi / 3).ravel()
    exact = Problem(policy, theta, every, all_actions, (Q - V[:, None]).ravel(), weights=weights).gradient()

    single, vine = [], []
    for _ in range(400):
        s = rng.integers(3, size=60)
        a = (rng.random(60) > pi[s, 0]).astype(int)
        returns = branch(P, R, pi, s, a, rng)
        single.append(Problem(policy, theta, eye[s], a[:, None], returns - V[s]).gradient())
        roots = s[:30]  # as many rollouts: two a root
        first = np.tile([0, 1], (30, 1))
        found = branch(P, R, pi, np.repeat(roots, 2), first.ravel(), rng).reshape(30, 2)
        vine.append(vine_problem(policy, theta, eye[roots], first[..., None], found).gradient())
    for gradients in (single, vine):
        error = np.std(gradients, axis=0) / np.sqrt(len(gradients))
        assert (np.abs(np.mean(gradients, axis=0) - exact) < 4 * error + 1e-6).all()


def test_gradients_of_both_surrogates_by_differences():
    """Equation (15) and (16) as they are written, against the problems' gradients at the old parameters."""
    rng = np.random.default_rng(1)
    roots = rng.standard_normal((6, 3))
    choice = Policy(3, spaces.Discrete(4), (5,), dtype=np.float64)
    floats = Policy(3, spaces.Box(-1, 1, (2,)), (5,), dtype=np.float64)
    for policy in (choice, floats):
        theta, Q = 0.5 * rng.standard_normal(policy.n), rng.standard_normal((6, 4))
        obs = np.repeat(roots, 4, axis=0)
        if policy is choice:
            actions = np.tile(np.arange(4), (6, 1))[..., None]
        else:
            Z = policy.outputs(theta, obs)
            actions = policy.head.sample(Z, policy.split(theta)[1], rng).reshape(6, 4, 2)
        problem = vine_problem(policy, theta, roots, actions, Q)
        flat = actions.reshape(24, -1)
        old = policy.log_prob(theta, obs, flat)

        def surrogate(t, policy=policy, flat=flat, old=old, Q=Q, obs=obs):
            log = policy.log_prob(t, obs, flat)
            if policy is choice:
                return np.sum(np.exp(log).reshape(6, 4) * Q, axis=1).mean()
            r = np.exp(log - old).reshape(6, 4)
            return (np.sum(r * Q, axis=1) / r.sum(axis=1)).mean()

        assert isinstance(problem, SelfNormalized) == (policy is floats)
        g, h = problem.gradient(), 1e-5
        for _ in range(4):
            v = rng.standard_normal(policy.n)
            difference = (surrogate(theta + h * v) - surrogate(theta - h * v)) / (2 * h)
            assert g @ v == pytest.approx(difference, rel=1e-6, abs=1e-9)
            rise, _ = problem.evaluate(theta + 0.1 * v)
            assert rise == pytest.approx(surrogate(theta + 0.1 * v) - surrogate(theta), rel=1e-8, abs=1e-12)


SMALL = {"n_envs": 2, "n_steps": 32, "vine_interval": 8, "rollout_length": 30, "net_arch": (8,)}


def grown(model):
    """One batch of a model: states at the roots, first actions, returns."""
    model._begin()
    norm = normalizer(None, model.env.n_inputs, 1.0)
    states, _, _ = model._grow_trunk(norm)
    actions = model._first_actions(states["obs"])
    return states, actions, model._grow_vines(states, actions, norm), norm


def test_branches_see_common_random_numbers():
    """Branches of one root that start with the same action have the same return; other roots have others."""
    model = VineTRPO("cgopt/Pendulum-v1", seed=0, **SMALL)
    states, actions, Q, norm = grown(model)
    assert Q.shape == (8, 4)
    assert (np.ptp(Q, axis=1) > 0).all()
    actions[:] = actions[:, :1]
    same = model._grow_vines(states, actions, norm)
    assert (np.ptp(same, axis=1) == 0).all()
    assert np.unique(same[:, 0]).size == 8


def test_returns_of_branches_in_closed_form():
    """A mountain car that never arrives, at -1 a step: from each root to the time limit or the end of the branch."""
    model = VineTRPO("cgopt/MountainCar-v0", seed=0, gamma=0.9, **{**SMALL, "n_steps": 128, "rollout_length": 90})
    model.theta[:] = 0.0
    model.theta[model.policy.network.n - 3 :] = [-50.0, 50.0, -50.0]  # action 1, always
    states, actions, Q, _ = grown(model)
    assert actions[0, :, 0].tolist() == [0, 1, 2]
    for n in range(Q.shape[0]):
        left = 200 - states["elapsed"][n]  # the time limit's counter is restored too
        length = min(90, left)
        assert Q[n] == pytest.approx(-(1 - 0.9**length) / 0.1, rel=1e-12)
    assert len({float(q) for q in Q[:, 0]}) > 1


def test_steps_of_the_simulator_are_all_counted():
    model = VineTRPO("cgopt/CartPole-v1", seed=0, **SMALL).learn(1)
    assert model.steps == 2 * 32 + 8 * 2 * 30


def test_vines_learn_and_resume(tmp_path):
    options = {"n_envs": 4, "n_steps": 128, "vine_interval": 16, "rollout_length": 60, "target_kl": 0.02}
    model = VineTRPO("cgopt/CartPole-v1", seed=0, cg_damping=1e-3, **options).learn(60_000)
    model.save(tmp_path / "model")
    copy = VineTRPO.load(tmp_path / "model").learn(60_000)
    assert np.array_equal(model.learn(60_000).theta, copy.theta)
    assert evaluate(model, episodes=20).mean > 150.0


def test_vines_need_a_simulator_that_gives_its_state():
    with pytest.raises(ValueError, match="cgopt/"):
        VineTRPO("CartPole-v1")
    with pytest.raises(ValueError, match="VectorBatch"):
        VineTRPO(gymnasium.make_vec("CartPole-v1", 2))
    with pytest.raises(ValueError, match="vine_interval"):
        VineTRPO("cgopt/CartPole-v1", n_steps=100, vine_interval=16)
    assert VineTRPO("cgopt/CartPole-v1", **SMALL).copies.count == 8 * 2
    assert issubclass(VineTRPO, TRPO)


# --- MuJoCo ---------------------------------------------------------------------------------------


@pytest.fixture
def mujoco():
    pytest.importorskip("mujoco", reason='it needs the extra "mujoco"')


@pytest.mark.usefixtures("mujoco")
@pytest.mark.parametrize("id", ["Hopper-v5", "Reacher-v5"])  # Reacher reads what was computed before the step
def test_a_restored_simulator_goes_on_bit_for_bit(id):
    """Through the time limit too, whose counter is restored, and through the reset that follows it."""
    env = environments(id, 2)
    rng = np.random.default_rng(0)
    env.reset(np.random.SeedSequence(1))
    for _ in range(7):
        env.step(rng.standard_normal((2, env.action_space.shape[0])))
    saved, copy = env.branch_from(), env.copies(2)
    assert np.array_equal(copy.branch_at(saved), saved["obs"])
    ended = 0
    for _ in range(60):
        actions = rng.standard_normal((2, env.action_space.shape[0]))
        ours, theirs = env.step(actions), copy.step(actions)
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one, other)
        ended += int((ours.terminated | ours.truncated).sum())
    assert ended > 0
    env.close()
    copy.close()


@pytest.mark.usefixtures("mujoco")
def test_vines_on_mujoco():
    """Common random numbers, all steps counted, roots where the trunk was; wrappers with a state are refused."""
    options = {**SMALL, "n_envs": 1, "n_steps": 16, "rollout_length": 10, "vine_actions": 3}
    model = VineTRPO("InvertedPendulum-v5", seed=0, **options)
    states, actions, Q, norm = grown(model)
    assert Q.shape == (2, 3)
    assert (np.ptp(model._grow_vines(states, np.repeat(actions[:, :1], 3, axis=1), norm), axis=1) == 0).all()
    assert (Q > 0).all()
    model = VineTRPO("InvertedPendulum-v5", seed=0, **options).learn(1)
    assert model.steps == 16 + 2 * 3 * 10
    again = VineTRPO("InvertedPendulum-v5", seed=0, **options).learn(1)
    assert np.array_equal(model.theta, again.theta)
    wrapped = gymnasium.wrappers.NormalizeObservation(gymnasium.make("InvertedPendulum-v5"))
    with pytest.raises(ValueError, match="NormalizeObservation"):
        VineTRPO(wrapped, **options)
