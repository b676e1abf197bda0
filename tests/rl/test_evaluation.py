"""Statistics over seeds, evaluation of policies, learning curves."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

gymnasium = pytest.importorskip("gymnasium", reason='agents need the extra "rl"')

from cgopt_rl import TRPO, confidence_interval, evaluate, interquartile_mean  # noqa: E402
from cgopt_rl.plotting import aggregate, learning_curves, read_curve  # noqa: E402

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(numbers)
def test_interquartile_mean_lies_between_the_quartiles(values):
    found = interquartile_mean(values)
    low, high = np.quantile(values, [0.25, 0.75], method="inverted_cdf")
    spread = 1e-9 * (1 + np.abs(values).max())
    assert min(values) - spread <= low - spread <= found <= max(values) + spread
    assert found <= high + spread


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=40).filter(lambda v: len(v) % 4 == 0))
def test_interquartile_mean_is_scipys_trimmed_mean(values):
    from scipy.stats import trim_mean

    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25), rel=1e-9, abs=1e-9)


def test_one_wild_value_does_not_matter():
    assert interquartile_mean([500, 500, 500, 500, 500, 500, 500, 1e9]) == 500.0


def test_bootstrap_interval_covers_the_mean():
    """Of 200 samples of size 20 from a normal, the 90 % interval of the mean covers 0 in 160 to 200."""
    rng = np.random.default_rng(0)
    inside = 0
    for k in range(200):
        low, high = confidence_interval(rng.standard_normal(20), statistic=np.mean, level=0.9, resamples=300, seed=k)
        inside += low <= 0.0 <= high
    assert 160 <= inside <= 197


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_values_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="values"):
        interquartile_mean(values)


def test_evaluation_plays_whole_episodes_and_leaves_the_model_alone():
    model = TRPO("cgopt/CartPole-v1", n_steps=64, seed=0).learn(64)
    before = model.theta.copy(), model.rng.bit_generator.state, model.env.get_state()
    one = evaluate(model, episodes=7)
    assert one.returns.shape == one.lengths.shape == (7,)
    assert np.array_equal(one.returns, one.lengths)  # CartPole pays 1 a step
    assert np.array_equal(evaluate(model, episodes=7).returns, one.returns)
    assert not np.array_equal(evaluate(model, episodes=7, seed=1).returns, one.returns)
    assert np.array_equal(model.theta, before[0])
    assert model.rng.bit_generator.state == before[1]
    for name, array in model.env.get_state().items():
        assert np.array_equal(array, before[2][name])
    assert evaluate(model, "CartPole-v1", episodes=3, deterministic=False).returns.size == 3
    with pytest.raises(ValueError, match="Discrete"):
        evaluate(model, "cgopt/Pendulum-v1")


def test_evaluation_gives_the_return_of_a_known_policy():
    """A policy that does not push: the pendulum's return is that of Gymnasium's, torque 0, from the same starts."""
    model = TRPO("Pendulum-v1", n_steps=32)
    model.theta[:] = 0.0
    found = evaluate(model, episodes=3, seed=4)
    env, expected = gymnasium.make("Pendulum-v1"), []
    word = int(np.random.SeedSequence(4).spawn(2)[0].generate_state(1)[0])
    for episode in range(3):
        env.reset(seed=word if episode == 0 else None)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
            total, over = total + reward, terminated or truncated
        expected.append(total)
    assert found.returns == pytest.approx(expected, rel=1e-9)


def test_learning_curves(tmp_path):
    pytest.importorskip("matplotlib")
    for k in range(3):
        folder = tmp_path / f"run-{k}"
        folder.mkdir()
        with open(folder / "progress.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["steps", "return_mean"])
            writer.writerows([[100, ""], [200, 10 * k], [300, 20 * k]])
    folders = sorted(tmp_path.glob("run-*"))
    steps, values = read_curve(folders[2])
    assert steps.tolist() == [200, 300]
    assert values.tolist() == [20, 40]
    _, middle, low, high = aggregate([read_curve(f) for f in folders], points=3)
    assert middle[-1] == pytest.approx(20.0)
    assert (low <= middle).all()
    assert (middle <= high).all()
    learning_curves({"run": folders}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="return_mean"):
        read_curve(folders[0], "retur")
