"""Bandits: published and recorded values within three standard errors, exact small cases, invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt_rl import bandits
from cgopt_rl.bandits import EpsilonGreedy, GradientBandit, Testbed, ThompsonSampling, UpperConfidenceBound
from cgopt_rl.kernels import random as kernel_random

# Recorded with another implementation of the book's rules: 10 000 runs of 1000 steps (2000 runs for figure 2.6 and
# exercise 2.5). Figure and label: final reward and share of best arms (over the last tenth), mean reward.
RECORDED_RUNS = 10_000
RECORDED = {
    ("2.2", "greedy"): (1.030, 0.354, 1.021),
    ("2.2", "epsilon 0.01"): (1.305, 0.591, 1.188),
    ("2.2", "epsilon 0.1"): (1.369, 0.799, 1.306),
    ("2.3", "optimistic, Q1 = 5, greedy"): (1.502, 0.859, 1.297),
    ("2.3", "realistic, epsilon 0.1"): (1.352, 0.758, 1.251),
    ("2.4", "UCB c = 2"): (1.488, 0.852, 1.390),
    ("2.4", "UCB c = 1"): (1.525, 0.926, 1.479),
    ("2.5", "step size 0.1, with baseline"): (5.502, 0.851, 5.352),
    ("2.5", "step size 0.1, no baseline"): (5.210, 0.497, 5.085),
    ("2.5", "step size 0.4, with baseline"): (5.448, 0.737, 5.391),
    ("2.5", "step size 0.4, no baseline"): (4.804, 0.286, 4.753),
}
STUDY = {
    "epsilon-greedy": (-7, [1.159, 1.232, 1.304, 1.325, 1.274, 1.113]),
    "gradient": (-5, [1.088, 1.277, 1.370, 1.396, 1.361, 1.273, 1.136]),
    "UCB": (-4, [1.409, 1.426, 1.446, 1.473, 1.474, 1.385, 1.160]),
    "optimistic": (-2, [1.314, 1.400, 1.450, 1.407, 1.321]),
}
NONSTATIONARY = {"sample average": (1.074, 0.459), "constant step size 0.1": (1.330, 0.761)}

played = {}


def curves(name):
    """A figure's curves, played once for all tests."""
    if name not in played:
        played[name] = bandits.figure(name).curves
    return played[name]


def agrees(estimate, recorded, recorded_runs, runs=2000):
    """Within three standard errors of the difference; the recorded value has ours, rescaled, and is rounded."""
    error = estimate.standard_error * math.sqrt(1.0 + runs / recorded_runs)
    return abs(estimate.mean - recorded) <= 3.0 * error + 0.0005


@pytest.mark.parametrize(("name", "label"), RECORDED)
def test_curves_agree_with_recorded_values(name, label):
    found, (final_reward, final_optimal, mean_reward) = curves(name)[label], RECORDED[name, label]
    assert agrees(found.final_reward, final_reward, RECORDED_RUNS)
    assert agrees(found.final_optimal, final_optimal, RECORDED_RUNS)
    assert agrees(found.mean_reward, mean_reward, RECORDED_RUNS)


@pytest.mark.parametrize("family", STUDY)
def test_parameter_study_agrees_with_recorded_values(family):
    first, values = STUDY[family]
    for k, value in enumerate(values, start=first):
        assert agrees(curves("2.6")[f"{family} {2.0**k:g}"].mean_reward, value, 2000), (family, k)


@pytest.mark.parametrize("label", NONSTATIONARY)
def test_walking_means_agree_with_recorded_values(label):
    found, (final_reward, final_optimal) = curves("nonstationary")[label], NONSTATIONARY[label]
    assert agrees(found.final_reward, final_reward, 2000)
    assert agrees(found.final_optimal, final_optimal, 2000)


def test_what_the_book_says_in_words():
    """Greedy ends on the best arm in about a third of the tasks; epsilon 0.1 plays it in at most 91 % of the steps."""
    assert curves("2.2")["greedy"].final_optimal.mean == pytest.approx(1 / 3, abs=0.05)
    assert curves("2.2")["epsilon 0.1"].optimal.max() < 0.91
    best = Testbed(runs=20_000, steps=1, seed=1).play(UpperConfidenceBound())
    # E[max of 10 standard normals] = 1.5388 (the book: "about 1.54"); the first arm is any arm, of mean 0.
    assert best.regret[0] == pytest.approx(1.5388, abs=0.04)


def test_optimistic_spike_at_step_eleven():
    """Each arm disappoints once; then all runs play the arm whose first reward was best (book, exercise 2.6)."""
    optimal = curves("2.3")["optimistic, Q1 = 5, greedy"].optimal
    assert optimal[:10] == pytest.approx(0.1, abs=0.03)
    assert optimal[10] > 0.3 > optimal[11]


# --- theorems -------------------------------------------------------------------------------------


def test_every_arm_is_tried_first_by_ucb():
    """In k steps UCB plays k arms, each once: the best one in exactly one of them."""
    found = Testbed(arms=7, runs=300, steps=7).play(UpperConfidenceBound(2.0))
    assert found.optimal.sum() == pytest.approx(1.0)
    assert found.total_regret.mean == pytest.approx(found.regret.sum())


def test_epsilon_one_is_uniform():
    found = Testbed(arms=4, runs=4000, steps=20).play(EpsilonGreedy(1.0))
    share = found.optimal.mean()
    assert share == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 80_000))


@pytest.mark.parametrize("policy", [UpperConfidenceBound(1.0), ThompsonSampling()])
def test_regret_grows_like_a_logarithm(policy):
    """From step 1000 to 10 000 the regret grows by less than from 1 to 1000: not linearly (Auer et al. 2002)."""
    regret = Testbed(runs=200, steps=10_000).play(policy).cumulative_regret
    assert regret[-1] - regret[999] < regret[999]


def test_thompson_sampling_follows_the_exact_posterior():
    """Two arms of the prior, two steps, variance of a reward 1: the expected second reward in closed form.

    After the first reward r ~ N(0, 2) the arm played has posterior N(x, 1/2), x = r/2 ~ N(0, 1/2), the other N(0, 1).
    The same arm is played again with probability Phi(x / s), s^2 = 3/2, and only then is the expected reward x instead
    of 0. By Stein's identity E[x Phi(x / s)] = var(x) E[phi(x / s) / s] = (1/2) / sqrt(2 pi (s^2 + 1/2)).
    """
    found = Testbed(arms=2, runs=200_000, steps=2, seed=3).play(ThompsonSampling())
    expected = 0.5 / math.sqrt(2.0 * math.pi * 2.0)
    assert found.reward[1] == pytest.approx(expected, abs=3 * math.sqrt(2.0 / 200_000))
    assert found.reward[0] == pytest.approx(0.0, abs=3 * math.sqrt(2.0 / 200_000))


def test_gradient_bandit_climbs_the_expected_reward():
    """Without noise, the expected reward of the softmax rises step by step, on average over runs (policy gradient)."""
    found = Testbed(arms=3, runs=20_000, steps=30, noise=0.0).play(GradientBandit(0.2, None))
    assert (np.diff(found.reward[::10]) > 0.0).all()
    assert found.reward[-1] > 0.3


@given(shift=st.floats(-50.0, 50.0))
def test_a_baseline_makes_the_gradient_bandit_blind_to_shifts(shift):
    """With a baseline, adding a constant to all rewards changes no choice (the reason for Figure 2.5)."""
    problem = {"runs": 20, "steps": 50, "seed": 5}
    plain = Testbed(**problem).play(GradientBandit(0.1))
    shifted = Testbed(mean=shift, **problem).play(GradientBandit(0.1))
    assert np.array_equal(plain.optimal, shifted.optimal)
    assert shifted.reward == pytest.approx(plain.reward + shift, abs=1e-9)


@given(scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30, 1e100]))
def test_units_do_not_matter(scale):
    """Means, noise and the bound's width in other units: the same choices, rewards in those units."""
    plain = Testbed(runs=20, steps=60).play(UpperConfidenceBound(2.0))
    scaled = Testbed(runs=20, steps=60, spread=scale, noise=scale).play(UpperConfidenceBound(2.0 * scale))
    assert np.array_equal(plain.optimal, scaled.optimal)
    assert scaled.reward / scale == pytest.approx(plain.reward, rel=1e-9, abs=1e-9)


# --- the same seed, the same bits -----------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [EpsilonGreedy(0.1, 0.2), UpperConfidenceBound(), GradientBandit(), ThompsonSampling()],
    ids=lambda p: type(p).__name__,
)
def test_same_seed_same_bits_for_any_number_of_threads(policy):
    testbed = Testbed(runs=100, steps=50, walk=0.01, seed=4)
    before = cgopt.get_num_threads()
    first = testbed.play(policy)
    try:
        cgopt.set_num_threads(1)
        second = testbed.play(policy)
    finally:
        cgopt.set_num_threads(before)
    for name in ("reward", "optimal", "regret"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.mean_reward == second.mean_reward
    other = Testbed(runs=100, steps=50, walk=0.01, seed=5).play(policy)
    assert not np.array_equal(first.reward, other.reward)


# --- random numbers -------------------------------------------------------------------------------


def drawn(draw, count):
    """`count` values of one of the kernels' distributions, drawn by the interpreter."""
    with np.errstate(over="ignore"):
        values, s = np.empty(count), np.uint64(12345)
        for i in range(count):
            s, values[i] = draw(s)
    return values


def test_normal_deviates_are_normal():
    """Kolmogorov-Smirnov at one in a thousand (1.95), and the share beyond the ziggurat's last layer."""
    from scipy.stats import kstest

    values = np.sort(normals())
    assert kstest(values, "norm").statistic * math.sqrt(values.size) < 1.95
    beyond = np.count_nonzero(np.abs(values) > kernel_random.TAIL)
    expected = values.size * math.erfc(kernel_random.TAIL / math.sqrt(2.0))
    assert abs(beyond - expected) < 4 * math.sqrt(expected)


def normals():
    """Two million deviates from one stream."""
    import numba

    @numba.njit
    def fill(values, s):
        for i in range(values.size):
            s, values[i] = kernel_random.normal(s)

    values = np.empty(2_000_000)
    fill(values, np.uint64(7))
    return values


def test_ziggurat_layers_have_equal_areas():
    density, scale = kernel_random.DENSITY, kernel_random.SCALE * 2.0**52
    areas = scale[1:] * np.diff(density[1:])
    assert areas == pytest.approx(scale[0] * density[1], rel=1e-9)
    assert density[-1] == 1.0


def test_split_mix_matches_its_definition():
    """The first outputs for the seed 1234567, from an evaluation in Python's integers of the published recurrence."""

    def mix(z, mask=2**64 - 1):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    s = np.uint64(1234567)
    with np.errstate(over="ignore"):
        for k in range(1, 6):
            s, z = kernel_random.bits(s)
            assert int(z) == mix((1234567 + k * 0x9E3779B97F4A7C15) % 2**64)


def test_uniform_deviates_are_uniform():
    u = drawn(kernel_random.uniform, 20_000)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    counts, _ = np.histogram(u, 50, (0, 1))
    assert ((counts - 400.0) ** 2 / 400.0).sum() < 86.7  # chi-squared with 49 degrees of freedom, one in a thousand


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EpsilonGreedy(1.5), ValueError, "epsilon"),
        (lambda: EpsilonGreedy(float("nan")), ValueError, "epsilon"),
        (lambda: EpsilonGreedy("0.1"), TypeError, "epsilon"),
        (lambda: EpsilonGreedy(0.1, 0.0), ValueError, "step_size"),
        (lambda: UpperConfidenceBound(-1.0), ValueError, "c must"),
        (lambda: GradientBandit(0.0), ValueError, "step_size"),
        (lambda: GradientBandit(0.1, True), ValueError, "baseline"),
        (lambda: ThompsonSampling(variance=0.0), ValueError, "variance"),
        (lambda: Testbed(arms=0), ValueError, "arms"),
        (lambda: Testbed(runs=2.5), TypeError, "runs"),
        (lambda: Testbed(noise=-1.0), ValueError, "noise"),
        (lambda: Testbed(seed=-1), ValueError, "seed"),
        (lambda: Testbed().play("greedy"), TypeError, "policy"),
        (lambda: bandits.figure("2.22"), ValueError, r"2\.2"),
    ],
)
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_table_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("2.2", "2.6", "regret"):
        data = bandits.figure(name, runs=20)
        table = data.table()
        for label, c in data.curves.items():
            assert label in table
            assert f"{c.mean_reward.mean:.3f}" in table
        bandits.draw(data, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
