"""Replay: what is stored at the ends of episodes, how batches are drawn, columns in files, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gymnasium", reason='agents need the extra "rl"')
pytest.importorskip("safetensors", reason='checkpoints need the extra "rl"')

from cgopt_rl.kernels.rollouts import Normalizer
from cgopt_rl.replay import COLUMNS, ReplayBuffer


def episode_steps(rng, steps, n):
    """Random steps of n environments; observations are numbered, so that each is known again."""
    number = 0
    obs = np.arange(n, dtype=float)[:, None] * 1e4
    for _ in range(steps):
        number += 1
        final = obs + 1.0
        ended = rng.random(n)
        terminated, truncated = ended < 0.2, ended > 0.85
        yield obs, rng.integers(5, size=(n, 1)), rng.integers(-3, 4, size=n).astype(float), final, terminated, truncated
        # After an episode the next observation is a reset's, which no transition may hold as its next one.
        obs = np.where((terminated | truncated)[:, None], final + 100.0, final)


def expected(steps, n, n_steps, gamma):
    """The transitions by their definition: from each step on, rewards until n_steps or the end of the episode."""
    steps = list(steps)
    found = []
    for i in range(n):
        for t in range(len(steps)):
            total, discount = 0.0, 1.0
            for k in range(t, min(t + n_steps, len(steps))):
                _, _, rewards, final, terminated, truncated = steps[k]
                total += discount * rewards[i]
                discount *= gamma
                if terminated[i] or truncated[i] or k == t + n_steps - 1:
                    found.append((steps[t][0][i, 0], steps[t][1][i, 0], total, final[i, 0], terminated[i], discount))
                    break
    return sorted(found)


@given(
    seed=st.integers(0, 2**31), n=st.integers(1, 3), n_steps=st.integers(1, 5), steps=st.integers(1, 40),
    gamma=st.sampled_from([0.5, 1.0]),
)  # fmt: skip
def test_transitions_are_those_of_the_definition(seed, n, n_steps, steps, gamma):
    buffer = ReplayBuffer(500, 1, discrete=True, n_envs=n, n_steps=n_steps, gamma=gamma)
    made = list(episode_steps(np.random.default_rng(seed), steps, n))
    for step in made:
        buffer.add(*step)
    stored = [getattr(buffer.columns, name)[: len(buffer)].reshape(len(buffer)).tolist() for name in COLUMNS]
    obs, actions, rewards, next_obs, terminated, discounts = stored
    assert sorted(zip(obs, actions, rewards, next_obs, terminated, discounts, strict=True)) == expected(
        made, n, n_steps, gamma
    )


def test_a_truncation_bootstraps_from_the_final_observation_and_a_termination_from_nothing():
    buffer = ReplayBuffer(10, 1, n_steps=3, gamma=0.5)
    buffer.add([[0.0]], [[0.0]], [4.0], [[1.0]], [False], [False])
    buffer.add([[1.0]], [[0.0]], [8.0], [[2.0]], [False], [True])  # a reset to 50 follows
    buffer.add([[50.0]], [[0.0]], [16.0], [[51.0]], [True], [False])
    c = buffer.columns
    assert len(buffer) == 3
    assert c.rewards[:3].tolist() == [8.0, 8.0, 16.0]  # 4 + 8/2, 8, 16
    assert c.next_obs[:3, 0].tolist() == [2.0, 2.0, 51.0]
    assert c.discounts[:3].tolist() == [0.25, 0.5, 0.5]
    batch = buffer.sample(buffer.batch(64))
    assert np.array_equal(batch.discounts == 0.0, batch.rows == 2)


def test_steps_that_reset_are_left_out_and_waiting_steps_are_flushed():
    buffer = ReplayBuffer(10, 1, n_steps=3, n_envs=2)
    buffer.add([[0.0], [9.0]], [[0.0], [0.0]], [1.0, 1.0], [[1.0], [9.5]], [False] * 2, [False] * 2, [True, False])
    assert len(buffer) == 0
    buffer.flush([[1.0], [9.0]])
    assert len(buffer) == 1
    assert (buffer.columns.next_obs[0, 0], buffer.columns.terminated[0]) == (1.0, False)


def filled(size=300, capacity=200, **options):
    buffer = ReplayBuffer(capacity, 2, 3, **options)
    rng = np.random.default_rng(0)
    for _ in range(size):
        obs, final = rng.standard_normal((2, 1, 2))
        buffer.add(obs, rng.standard_normal((1, 3)), rng.standard_normal(1), final, [rng.random() < 0.1], [False])
    return buffer


def test_the_oldest_transitions_make_room():
    buffer = ReplayBuffer(4, 1)
    for t in range(6):
        buffer.add([[t]], [[0.0]], [0.0], [[t + 1.0]], [False], [False])
    assert buffer.columns.obs[:, 0].tolist() == [4.0, 5.0, 2.0, 3.0]
    assert len(buffer) == 4


def test_draws_are_even_and_the_rows_they_say():
    buffer = filled()
    batch, counts = buffer.batch(100), np.zeros(200)
    for _ in range(400):
        buffer.sample(batch)
        counts += np.bincount(batch.rows, minlength=200)
    assert np.array_equal(batch.obs, buffer.columns.obs[batch.rows])
    assert np.array_equal(batch.actions, buffer.columns.actions[batch.rows])
    # chi-square with 199 degrees of freedom: mean 199, standard deviation 20
    assert abs(np.sum((counts - 200.0) ** 2 / 200.0) - 199.0) < 100.0


def test_observations_are_normalised_and_rewards_scaled_when_drawn():
    buffer = filled()
    norm = Normalizer(np.array([1.0, -1.0]), np.array([2.0, 0.5]), 1.5)
    batch = buffer.sample(buffer.batch(32), norm, reward_scale=0.25)
    raw = buffer.columns.next_obs[batch.rows].astype(np.float64)
    assert np.array_equal(batch.next_obs, np.clip((raw - norm.mean) * norm.scale, -1.5, 1.5).astype(np.float32))
    assert np.allclose(batch.rewards, 0.25 * buffer.columns.rewards[batch.rows], rtol=1e-6)


def test_priorities_are_proportional_and_weights_correct_for_them():
    """Means over draws, weighted by (N P)^-1 (beta = 1), are those of even draws: Schaul et al. (2016), section 3.4."""
    buffer = filled(capacity=64, prioritized=True, alpha=0.5, beta=1.0)
    everything = buffer.batch(64)._replace(rows=np.arange(64))
    errors = np.linspace(0.1, 4.0, 64).astype(np.float32)
    buffer.set_errors(everything, errors)
    priorities = (errors.astype(np.float64) + 1e-6) ** 0.5
    tree = buffer.columns.tree
    assert np.allclose(tree[64:], priorities, rtol=1e-12)
    assert np.isclose(tree[1], priorities.sum(), rtol=1e-12)
    assert np.array_equal(tree[1:64], tree[2::2] + tree[3::2])
    batch, counts, weighted = buffer.batch(128), np.zeros(64), 0.0
    for _ in range(400):
        buffer.sample(batch)
        counts += np.bincount(batch.rows, minlength=64)
        assert batch.weights.max() == 1.0
        weighted += np.sum(batch.weights / batch.weights.sum() * batch.rows)
    share = priorities / priorities.sum()
    assert np.abs(counts / counts.sum() - share).max() < 4.0 * np.sqrt(share.max() / counts.sum())
    assert abs(weighted / 400 - 31.5) < 0.5  # the mean row of even draws


def test_bytes_are_kept_as_bytes():
    buffer = ReplayBuffer(8, 3, obs_dtype=np.uint8)
    buffer.add([[0, 128, 255]], [[0.0]], [0.0], [[1, 2, 3]], [False], [False])
    assert buffer.columns.obs.dtype == np.uint8
    assert buffer.sample(buffer.batch(2)).obs.tolist() == [[0.0, 128.0, 255.0]] * 2


@pytest.mark.parametrize("options", [{}, {"n_steps": 3}, {"prioritized": True}])
def test_a_restored_buffer_goes_on_bit_for_bit(options):
    one, two = filled(**options), ReplayBuffer(200, 2, 3, **options)
    one.sample(one.batch(32))
    two.restore({name: array.copy() for name, array in one.arrays().items()})
    for _ in range(3):
        for buffer in (one, two):
            buffer.add([[1.0, 2.0]], [[0.0, 0.0, 0.0]], [1.0], [[3.0, 4.0]], [False], [False])
        a, b = one.sample(one.batch(32)), two.sample(two.batch(32))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_columns_in_files_are_those_in_memory(tmp_path):
    memory, files = filled(), filled(memory_limit=1000, folder=tmp_path)
    assert (memory.mapped, files.mapped) == (False, True)
    a, b = memory.sample(memory.batch(64)), files.sample(files.batch(64))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    name = files.write_columns(tmp_path / "model")
    assert files.write_columns(tmp_path / "model") == name  # the same contents are the same folder
    other = ReplayBuffer(200, 2, 3, memory_limit=0, folder=tmp_path)
    other.restore(files.arrays())
    other.read_columns(tmp_path / "model", name)
    assert all(np.array_equal(getattr(memory.columns, c), getattr(other.columns, c)) for c in COLUMNS)
    column = tmp_path / f"model.replay-{name}" / "rewards"
    data = bytearray(column.read_bytes())
    data[7] ^= 1
    column.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        other.read_columns(tmp_path / "model", name)
    column.unlink()
    with pytest.raises(ValueError, match="missing"):
        other.read_columns(tmp_path / "model", name)


def test_files_go_with_the_buffer(tmp_path):
    buffer = ReplayBuffer(100, 4, memory_limit=0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    del buffer
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ReplayBuffer(0, 2), "capacity"),
        (lambda: ReplayBuffer(10, 2, gamma=1.5), "gamma"),
        (lambda: ReplayBuffer(10, 2).sample(ReplayBuffer(10, 2).batch(3)), "empty"),
        (lambda: ReplayBuffer(10, 1).add([[0.0, 1.0]], [[0.0]], [0.0], [[0.0]], [False], [False]), "obs"),
        (lambda: ReplayBuffer(10, 1).add([[0.0]], [[0.0]], [np.nan], [[0.0]], [False], [False]), "rewards"),
        (lambda: filled().set_errors(filled().batch(4), np.zeros(3)), "errors"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
