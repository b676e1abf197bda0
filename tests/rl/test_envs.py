"""Environments: Gymnasium's dynamics transition for transition, seeds, resets, and one interface for all kinds."""

from __future__ import annotations

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason='environments need the extra "rl"')

from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402

import cgopt  # noqa: E402
from cgopt_rl import envs  # noqa: E402
from cgopt_rl.envs.interface import actor, flat_size, flattener  # noqa: E402

IDS = sorted(id for id in envs.COMPILED if id.removeprefix("cgopt/") in gymnasium.registry)
ORIGINAL = {id: id.removeprefix("cgopt/") for id in IDS}


def actions_for(space, rng, count):
    """Actions, some of them out of the bounds that Gymnasium clips to."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=count)
    return (1.5 * space.high * rng.standard_normal((count, 1))).astype(np.float32)


# --- the dynamics are Gymnasium's -----------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_each_transition_is_gymnasiums(id):
    """From the same state, the same action: the next state, reward and end, for 40 episodes of up to 100 steps."""
    theirs, ours = gymnasium.make(ORIGINAL[id]).unwrapped, envs.CompiledEnvs(id, 1)
    rng = np.random.default_rng(1)
    ours.reset(seed=0)
    seen = exact = 0
    for episode in range(40):
        theirs.reset(seed=episode)
        fresh = 1.0
        for action in actions_for(theirs.action_space, rng, 100):
            width = len(theirs.state)
            ours.state[0, :width] = theirs.state
            ours.state[0, width:] = fresh
            fresh = 0.0
            obs, rewards, terminated, _, final = ours.advance(np.array([action]))
            expected = theirs.step(action)
            if not terminated[0] and not ours.elapsed[0] == 0:
                # NumPy's sines differ from the C library's in the last bit now and then.
                assert ours.state[0, :width] == pytest.approx(np.asarray(theirs.state, float), rel=1e-14, abs=1e-15)
                exact += np.array_equal(ours.state[0, :width], np.asarray(theirs.state, float))
                seen += 1
                assert np.array_equal(obs, final)
            assert final[0] == pytest.approx(expected[0], rel=2e-7, abs=1e-9)
            # The pendulum's price of effort is a float32: one unit in its last place.
            assert rewards[0] == pytest.approx(expected[1], rel=1e-14, abs=5e-10)
            assert terminated[0] == expected[2]
            if expected[2]:
                break
    assert exact >= 0.99 * seen
    assert seen > 300


@pytest.mark.parametrize("id", ["cgopt/MountainCar-v0", "cgopt/MountainCarContinuous-v0"])
def test_whole_episodes_agree_bit_for_bit(id):
    """These use the C library's cosine in Gymnasium too: a whole episode of a policy that reaches the goal."""
    theirs, ours = gymnasium.make(ORIGINAL[id]), gymnasium.make(id)
    expected, found = theirs.reset(seed=5)[0], ours.reset(seed=5)[0]
    for _ in range(999):
        assert np.array_equal(expected, found)
        along = expected[1] >= 0.0  # pump: push the way it moves
        action = 2 * int(along) if "-v0" in id and "Cont" not in id else np.array([1.2 if along else -0.7], np.float32)
        action = action if isinstance(action, int) else np.clip(action, -1.0, 1.0)
        expected, reward, terminated, truncated, _ = theirs.step(action)
        found, ours_reward, ours_terminated, ours_truncated, _ = ours.step(action)
        assert (reward, terminated, truncated) == (ours_reward, ours_terminated, ours_truncated)
        if terminated or truncated:
            break
    assert terminated


@pytest.mark.parametrize("id", IDS)
def test_the_same_seed_starts_as_in_gymnasium(id):
    for seed in (0, 7):
        theirs, _ = gymnasium.make(ORIGINAL[id]).reset(seed=seed)
        ours, _ = gymnasium.make(id).reset(seed=seed)
        assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("id", IDS)
def test_starts_are_spread_as_gymnasiums(id):
    """Kolmogorov-Smirnov between 4000 starts of ours and of Gymnasium's generator, component by component."""
    from scipy.stats import ks_2samp

    ours = envs.CompiledEnvs(id, 4000).reset(seed=3)[0]
    env = gymnasium.make(ORIGINAL[id])
    env.reset(seed=4)
    theirs = np.array([env.reset()[0] for _ in range(1000)])
    for j in range(ours.shape[1]):
        if np.ptp(theirs[:, j]) > 0.0:
            assert ks_2samp(ours[:, j], theirs[:, j]).pvalue > 1e-3
        else:
            assert np.ptp(ours[:, j]) == 0.0


@pytest.mark.filterwarnings("ignore:.*Box .* space:UserWarning")  # of the spaces, which are Gymnasium's own
@pytest.mark.parametrize("id", IDS)
def test_gymnasium_accepts_the_environments(id):
    check_env(gymnasium.make(id, disable_env_checker=True).unwrapped, skip_render_check=True)
    made = gymnasium.make_vec(id, num_envs=3)
    assert isinstance(made, envs.CompiledEnvs)
    assert made.observation_space.contains(made.reset(seed=0)[0])


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_batch_resumes_bit_for_bit_and_ignores_threads(id):
    rng = np.random.default_rng(2)
    one = envs.CompiledEnvs(id, 300, max_episode_steps=17)
    before = cgopt.get_num_threads()
    try:
        cgopt.set_num_threads(1)
        two = envs.CompiledEnvs(id, 300, max_episode_steps=17)
    finally:
        cgopt.set_num_threads(before)
    assert np.array_equal(one.reset(seed=1)[0], two.reset(seed=1)[0])
    halfway = None
    for t in range(40):
        actions = actions_for(one.single_action_space, rng, 300)
        a, b = one.step(actions), two.step(actions)
        for x, y in zip(a[:4], b[:4], strict=True):
            assert np.array_equal(x, y)
        if t == 20:
            halfway, later = one.get_state(), []
        if t > 20:
            later.append((actions, a[0]))
    resumed = envs.CompiledEnvs(id, 300, max_episode_steps=17)
    resumed.set_state(halfway)
    for actions, obs in later:
        assert np.array_equal(resumed.step(actions)[0], obs)


def test_final_observation_and_time_limit():
    batch = envs.CompiledEnvs("cgopt/Pendulum-v1", 2, max_episode_steps=3)
    batch.reset(seed=0)
    for t in range(1, 7):
        obs, _, terminated, truncated, infos = batch.step(np.zeros((2, 1), np.float32))
        assert not terminated.any()
        assert truncated.tolist() == [t % 3 == 0] * 2
        assert ("final_obs" in infos) == (t % 3 == 0)
        if t % 3 == 0:
            assert not np.array_equal(infos["final_obs"][0], obs[0])
            assert infos["final_obs"][0].shape == (3,)


def test_reset_mask_and_seeds():
    batch = envs.CompiledEnvs("cgopt/CartPole-v1", 3)
    first, _ = batch.reset(seed=[4, 5, 4])
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])
    batch.step(np.array([0, 1, 0]))
    again, _ = batch.reset(options={"reset_mask": np.array([False, True, False])})
    assert batch.elapsed.tolist() == [1, 0, 1]
    assert not np.array_equal(again[0], first[0])


# --- one interface --------------------------------------------------------------------------------


class Countdown(gymnasium.Env):
    """Observes how many steps are left; terminates at zero, or is truncated by a wrapper before."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2, 1), np.float32)
    action_space = gymnasium.spaces.MultiDiscrete([2, 3], start=[1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return self.observe(), {}

    def observe(self):
        return np.array([[self.left], [-self.left]], np.float32)

    def step(self, action):
        assert self.action_space.contains(action)
        self.left -= 1
        return self.observe(), float(action[1]), self.left == 0, False, {}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_of_every_mode_give_the_same_transitions(mode):
    """The list of valid transitions (reward, end, final observation) is that of environments stepped one by one."""

    def transitions(batch, steps):
        obs = batch.reset(np.random.SeedSequence(0)).copy()
        found = [[], []]
        for _ in range(steps):
            step = batch.step(np.array([[0, 2], [1, 1]]))
            for i in np.flatnonzero(step.valid):
                found[i].append((obs[i].tolist(), step.rewards[i], bool(step.terminated[i]), step.final[i].tolist()))
            obs = step.obs.copy()
        return found

    plain = transitions(envs.environments(Countdown, 2), 9)
    vector = transitions(envs.environments(SyncVectorEnv([Countdown] * 2, autoreset_mode=mode)), 12)
    assert plain == [side[:9] for side in vector]
    assert plain[0][2] == ([1.0, -1.0], 2.0, True, [0.0, 0.0])
    assert plain[0][3][0] == [3.0, -3.0]


def test_gymnasiums_own_vector_of_cartpoles_is_taken():
    """It is no collection of environments: it takes one seed, and resets with the next step."""
    batch = envs.environments(gymnasium.make_vec("CartPole-v1", num_envs=3))
    obs = batch.reset(np.random.SeedSequence(1)).copy()
    assert np.array_equal(obs, batch.reset(np.random.SeedSequence(1)))
    lengths, ended = np.zeros(3, int), np.zeros(3, bool)
    for _ in range(40):
        step = batch.step(np.ones(3, np.int64))
        assert np.array_equal(step.valid, ~ended)
        ended = step.terminated | step.truncated
        lengths += step.valid
        if ended.any():
            assert (np.abs(step.final[ended, 2]) > 0.2).all()
    assert (lengths < 40).all()


def test_compiled_and_gymnasium_batches_agree():
    """MountainCar's trajectories, from the same state on: the same arrays."""
    ours, theirs = envs.environments("cgopt/MountainCar-v0", 2), envs.environments("MountainCar-v0", 2)
    start = ours.reset(np.random.SeedSequence(0))
    theirs.reset(np.random.SeedSequence(0))
    for i in range(2):
        theirs.envs[i].unwrapped.state = ours.envs.state[i, :2].copy()
    assert start.dtype == np.float32
    for t in range(150):
        actions = np.array([t % 3, (t // 7) % 3])
        a, b = ours.step(actions), theirs.step(actions)
        for x, y in zip(a, b, strict=True):
            assert np.array_equal(x, y)


def test_spaces_are_flattened_and_actions_brought_to_their_spaces():
    discrete = gymnasium.spaces.Discrete(4, start=2)
    out = np.full((1, 4), 9.0, np.float32)
    flattener(discrete)(3, out, 0)
    assert out.tolist() == [[0, 1, 0, 0]]
    assert flat_size(discrete) == 4
    assert actor(discrete)(1) == 3
    box = gymnasium.spaces.Box(np.array([[-1.0], [0.0]], np.float32), np.array([[2.0], [0.5]], np.float32))
    assert actor(box)(np.array([5.0, -3.0], np.float32)).tolist() == [[2.0], [0.0]]
    with pytest.raises(TypeError, match="FlattenObservation"):
        flat_size(gymnasium.spaces.Dict({"a": discrete}))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: envs.environments("CartPole-v11"), ValueError, "CartPole-v1"),
        (lambda: envs.environments("cgopt/CartPol-v1"), ValueError, "cgopt/CartPole-v1"),
        (lambda: envs.CompiledEnvs("CartPole"), ValueError, "cgopt/CartPole-v1"),
        (lambda: envs.environments(3), TypeError, "env must be"),
        (lambda: envs.environments(lambda: 3), TypeError, "must return"),
        (lambda: envs.environments("cgopt/CartPole-v1", 0), ValueError, "count"),
        (lambda: envs.environments(Countdown(), 2), ValueError, "one environment"),
        (lambda: envs.CompiledEnvs("cgopt/CartPole-v1").step(np.array([0])), ValueError, "reset"),
    ],
)
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("actions", [[0.5, 1.0], [2, 0], [-1, 0], [0], [[0], [1]]])
def test_bad_actions_are_refused(actions):
    batch = envs.CompiledEnvs("cgopt/CartPole-v1", 2)
    batch.reset(seed=0)
    with pytest.raises(ValueError, match="actions must be"):
        batch.step(np.array(actions))
