"""The six states against exact values, hierarchical agents against published ones, two rooms with key and door."""

from __future__ import annotations

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason='agents need the extra "rl"')
pytest.importorskip("safetensors", reason='checkpoints need the extra "rl"')

from cgopt_rl import HierarchicalDQN, HierarchicalQ, QLearning, checkpoint, evaluate  # noqa: E402
from cgopt_rl.envs import CompiledEnvs  # noqa: E402
from cgopt_rl.kernels.environments import CELLS  # noqa: E402
from cgopt_rl.presets import preset  # noqa: E402

SIX, ROOMS = "cgopt/SixStates-v0", "cgopt/KeyDoor-v0"


def exact(policy):
    """Mean reward, visits of s3 to s6, length and P(s6) of a policy (probability of right, by state and whether s6 was
    seen), by solving the Markov chain of states with their history bit."""
    pairs = [(s, seen) for s in range(1, 6) for seen in (False, True) if not (s == 5 and not seen)]
    place = {pair: k for k, pair in enumerate(pairs)}
    P, ends = np.zeros((len(pairs), len(pairs))), np.zeros(len(pairs))
    for (s, seen), k in place.items():
        right = 0.5 * policy(s, seen)
        for after, share in ((min(s + 1, 5), right), (s - 1, 1.0 - right)):
            if after == 0:
                ends[k] += share * (1.0 if seen else 0.01)
            else:
                P[k, place[after, seen or after == 5]] += share
    stays = np.linalg.inv(np.eye(len(pairs)) - P)  # mean visits, row by start
    start = stays[place[1, False]]
    visits = [sum(start[k] for (s, _), k in place.items() if s == state) for state in (2, 3, 4, 5)]
    reached = start @ np.array([P[k, place[5, True]] if not seen else 0.0 for (s, seen), k in place.items()])
    return start @ ends, visits, start.sum(), reached


def simulated(id_, policy, episodes, rng):
    """The same by playing, in many environments at once; `policy` chooses by state and history."""
    n = 200
    envs = CompiledEnvs(id_, n)
    obs, _ = envs.reset(seed=1)
    seen, rewards, visits, count = np.zeros(n, bool), 0.0, np.zeros(6), 0
    while count < episodes:
        right = rng.random(n) < np.array([policy(int(s), bool(h)) for s, h in zip(obs, seen, strict=True)])
        obs, r, terminated, truncated, infos = envs.step(right.astype(int))
        ended = terminated | truncated
        led = obs.copy()
        for i in np.flatnonzero(ended):
            led[i] = infos["final_obs"][i]
        visits += np.bincount(led, minlength=6)
        seen = np.where(ended, False, seen | (led == 5))
        rewards, count = rewards + r.sum(), count + int(ended.sum())
    return rewards / count, visits[2:] / count


POLICIES = {
    "always left": (lambda s, seen: 0.0, 0.0100, [0, 0, 0, 0], 1.0, 0.0),
    "uniform": (lambda s, seen: 0.5, 0.0182, [0.444, 0.148, 0.049, 0.016], 1.99, 0.0083),
    "always right": (lambda s, seen: 1.0, 0.2080, [2, 2, 2, 2], 10.0, 0.2),
    "optimal": (lambda s, seen: float(not seen), 0.2080, [1.4, 1.0, 0.6, 0.2], 5.0, 0.2),
    "optimal, eps 0.1": (lambda s, seen: 0.05 if seen else 0.95, 0.1705, [1.306, 0.889, 0.512, 0.171], 4.64, 0.1621),
}


@pytest.mark.parametrize("name", POLICIES)
def test_six_states_have_their_exact_rewards_and_visits(name):
    """The chain's own solution gives the table's figures, and playing gives both (5 standard errors)."""
    policy, reward, visits, length, reached = POLICIES[name]
    found = exact(policy)
    assert abs(found[0] - reward) <= 6e-5
    assert np.allclose(found[1], visits, atol=6e-4)
    assert abs(found[2] - length) <= 6e-3
    assert abs(found[3] - reached) <= 6e-5
    played_reward, played_visits = simulated(SIX, policy, 20_000, np.random.default_rng(0))
    assert abs(played_reward - reward) < 5.0 * 0.41 / np.sqrt(20_000)
    assert np.allclose(played_visits, visits, atol=5.0 * 2.5 / np.sqrt(20_000))


def test_plain_and_compiled_rooms_are_the_same():
    plain, compiled = gymnasium.make(ROOMS).unwrapped, CompiledEnvs(ROOMS, 1, max_episode_steps=10**6)
    obs, _ = compiled.reset(seed=0)
    assert plain.reset(seed=0)[0] == obs[0]
    rng, keys, treasures = np.random.default_rng(0), 0, 0
    for _ in range(20_000):
        action = int(rng.integers(4)) if rng.random() < 0.4 else toward(plain)
        one = plain.step(action)
        obs, reward, terminated, _, infos = compiled.step(np.array([action]))
        assert one[1:3] == (reward[0], terminated[0])
        assert one[0] == (infos["final_obs"][0] if terminated[0] else obs[0])
        keys += one[0] >= CELLS.size
        if terminated[0]:
            treasures += 1
            plain.reset()
    assert keys > 100
    assert treasures > 100


def toward(env):
    """A step of the shortest way: to the key, through the door, to the treasure."""
    if not env.key:
        return 2 if env.x == 1 else 3
    if env.x < 8:
        return 0 if env.y > 1 else 1
    return 2 if env.y < 9 else 1


def test_the_shortest_way_takes_36_steps_and_random_steps_do_not_find_it():
    env = gymnasium.make(ROOMS, render_mode="rgb_array").unwrapped
    env.reset()
    for t in range(1, 37):
        _, reward, terminated, _, _ = env.step(toward(env))
        assert terminated == (t == 36)
    assert reward == 1.0
    assert env.render().shape == (16 * CELLS.shape[0], 16 * CELLS.shape[1], 3)
    envs, rng = CompiledEnvs(ROOMS, 500), np.random.default_rng(0)
    envs.reset(seed=0)
    found = sum(envs.step(rng.integers(4, size=500))[2].sum() for _ in range(2400))
    assert found <= 3  # of 15 000 episodes


def test_the_hierarchy_reproduces_the_paper_and_the_flat_agent_does_not():
    """Kulkarni et al. (2016), section 4.1: 0.13 and 0.01; the exact ceiling at epsilon 0.1 is 0.1705."""
    returns, visits = [], []

    def note(model, metrics):
        returns.append(metrics["return_round"])
        ended = (model.record.terminated | model.record.truncated).sum()
        visits.append(model.record.raw[:, 0].sum(axis=0)[2:] / ended)

    model = HierarchicalQ(SIX, seed=0, **preset("hierarchical_q", SIX)).learn(600_000, callback=note)
    assert len(returns) == 200
    assert 0.15 < np.mean(returns[-20:]) < 0.175
    assert np.allclose(np.mean(visits[-20:], axis=0), [1.27, 0.84, 0.48, 0.16], atol=0.06)
    assert abs(evaluate(model, SIX, episodes=2000).mean - 0.208) < 5.0 * 0.4 / np.sqrt(2000)
    flat = []
    QLearning(SIX, seed=0, **preset("q_learning", SIX)).learn(
        600_000, callback=lambda m, metrics: flat.append(metrics["return_round"])
    )
    assert np.mean(flat[-20:]) < 0.015


def test_the_hierarchy_finds_the_treasure_and_the_flat_agent_does_not():
    model = HierarchicalQ(ROOMS, seed=0, **preset("hierarchical_q", ROOMS)).learn(300_000)
    assert evaluate(model, ROOMS, episodes=5).mean == 1.0
    flat = QLearning(ROOMS, seed=0, **preset("q_learning", ROOMS)).learn(300_000)
    assert evaluate(flat, ROOMS, episodes=5).mean == 0.0


def test_the_meta_controller_takes_in_the_state_that_the_goal_was_chosen_in():
    """In networks: replay holds origins and goals as they were chosen, and the rewards between."""
    model = HierarchicalDQN(SIX, seed=0, net_arch=(8,), learning_starts=10**6).learn(2000)
    c, fill = model.meta_replay.columns, len(model.meta_replay)
    origins, ends = c.obs[:fill].argmax(axis=1), c.next_obs[:fill].argmax(axis=1)
    goals = c.actions[:fill, 0]
    assert origins[0] == 1
    assert np.array_equal(ends == 0, c.terminated[:fill])
    assert np.all((ends == goals) | (ends == 0))  # a goal ends where it is reached, or with the episode
    follows = origins[1:] == np.where(ends[:-1] == 0, 1, ends[:-1])
    assert follows.all()
    assert set(np.unique(c.rewards[:fill])) <= {np.float32(0.0), np.float32(0.01), np.float32(1.0)}
    assert model.episodes == c.terminated[:fill].sum()
    d, c = 6, model.replay.columns
    intrinsic = c.rewards[:2000]
    there = c.next_obs[:2000, :d].argmax(axis=1) == c.obs[:2000, d:].argmax(axis=1)
    assert np.array_equal(intrinsic == 1.0, there)
    assert np.array_equal(c.terminated[:2000], there | (c.next_obs[:2000, 0] == 1.0))


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (HierarchicalQ, {}),
        (QLearning, {}),
        (HierarchicalDQN, {"net_arch": (8,), "batch_size": 8, "learning_starts": 100, "meta_learning_starts": 20}),
    ],
)
def test_a_saved_and_loaded_model_goes_on_bit_for_bit(algorithm, options, tmp_path):
    one = algorithm(SIX, seed=2, n_envs=2, round_steps=100, **options).learn(300)
    one.save(tmp_path / "model")
    two = algorithm.load(tmp_path / "model")
    for model, name in ((one, "one"), (two, "two")):
        model.learn(200).save(tmp_path / name)
    a, b = checkpoint.read(tmp_path / "one"), checkpoint.read(tmp_path / "two")
    assert a[0] == b[0]
    for name in a[1]:
        assert np.array_equal(a[1][name], b[1][name]), name


def test_learnt_states_lead_to_actions_that_keep_a_goal():
    model = HierarchicalQ(SIX, seed=0)
    model.Q2[:] = np.eye(6)[[5, 5, 5, 5, 5, 0]]  # s6 from everywhere, from s6 the goal s1
    model.Q1[5, :, 1] = model.Q1[0, :, 0] = 1.0  # right to s6, left to s1
    assert [int(model.predict(s, deterministic=True)[0]) for s in (1, 2, 3, 4, 5, 4, 3)] == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.long
def test_networks_find_the_treasure_and_a_flat_network_does_not():
    from cgopt_rl import DQN

    model = HierarchicalDQN(ROOMS, seed=0, **preset("hierarchical_dqn", ROOMS)).learn(200_000)
    assert evaluate(model, ROOMS, episodes=5).mean == 1.0
    flat = DQN(ROOMS, seed=0, **preset("dqn", ROOMS)).learn(200_000)
    assert evaluate(flat, ROOMS, episodes=5).mean == 0.0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: HierarchicalQ("cgopt/CartPole-v1"), TypeError, "Discrete observations"),
        (lambda: HierarchicalDQN(SIX, prioritized_replay=True), ValueError, "prioritized_replay"),
        (lambda: HierarchicalQ(SIX, meta_final_eps=2.0), ValueError, "meta_final_eps"),
    ],
)
def test_bad_options_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_episode_becomes_an_animation(tmp_path):
    pytest.importorskip("matplotlib")
    from cgopt_rl.animation import animate

    model = HierarchicalQ(ROOMS, seed=0, round_steps=100).learn(100)
    frames, returned = animate(model, tmp_path / "rooms.gif", most_steps=3)
    assert (frames, returned) == (4, 0.0)
    assert (tmp_path / "rooms.gif").read_bytes()[:6] == b"GIF89a"
    with pytest.raises(ValueError, match="picture"):
        animate(QLearning(SIX, round_steps=100).learn(100), tmp_path / "six.gif")
