"""How good a policy is: returns of whole episodes, and statistics over seeds.

R. Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021: interquartile
means, and confidence intervals from a stratified bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import integer, number
from .envs import CompiledEnvs, environments

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of whole episodes.

    Attributes
    ----------
    returns, lengths : ndarray, shape (episodes,)
    """

    returns: Array
    lengths: Array

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of returns over episodes."""
        return float(self.returns.std())

    def __repr__(self) -> str:
        return f"Evaluation({self.returns.size} episodes: return {self.mean:.2f} +- {self.std:.2f})"


def evaluate(
    model: Any, env: Any = None, episodes: int = 10, *, deterministic: bool = True, seed: int = 0
) -> Evaluation:
    """Play whole episodes with a model.

    Each of the environments stepped side by side plays the same number of episodes, so that short episodes do not count
    more often. The model's normaliser and random numbers for training stay as they are.

    Parameters
    ----------
    model : Algorithm
    env : optional
        As for the model's constructor; by default new environments of the model's id.
    episodes : int, default 10
    deterministic : bool, default True
        Take the most probable actions.
    seed : int, default 0
        Of the environments and, if actions are random, of those.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If the environment's observations or actions are not those of the model.
    """
    episodes = integer("episodes", episodes)
    env = model.env.id if env is None else env
    compiled = isinstance(env, str) and env.startswith("cgopt/")
    batch = environments(env, episodes if compiled else None)
    if batch.observation_space != model.env.observation_space or batch.action_space != model.env.action_space:
        raise ValueError(
            f"the environment has {batch.observation_space} and {batch.action_space}; the model was trained on "
            f"{model.env.observation_space} and {model.env.action_space}"
        )
    words = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(words[1])
    quota = -(-episodes // batch.count)
    left = np.full(batch.count, quota)
    sums, lengths = np.zeros(batch.count), np.zeros(batch.count, np.int64)
    found: list[tuple[float, int]] = []
    obs = batch.reset(words[0])
    discrete = hasattr(batch.action_space, "n")
    model.start_episodes(np.ones(batch.count, np.bool_))
    while left.any():
        actions = model.act(obs, deterministic=deterministic, rng=rng)
        step = batch.step(actions[:, 0] if discrete else actions)
        sums[step.valid] += step.rewards[step.valid]
        lengths[step.valid] += 1
        for i in np.flatnonzero((step.terminated | step.truncated) & step.valid):
            if left[i]:
                found.append((float(sums[i]), int(lengths[i])))
                left[i] -= 1
            sums[i], lengths[i] = 0.0, 0
        model.start_episodes(step.terminated | step.truncated)
        obs = step.obs
    if not isinstance(env, CompiledEnvs) and isinstance(env, str):
        batch.close()
    values = np.array(found[:episodes])
    return Evaluation(values[:, 0], values[:, 1].astype(np.int64))


def interquartile_mean(values: Any) -> float:
    """Mean of the middle half: the lowest and the highest quarter of the values do not count.

    Where a quarter of the number of values is no whole number, the values at the edge count in part.

    Parameters
    ----------
    values : array, flattened
        Finite, at least one.

    Examples
    --------
    >>> from cgopt_rl.evaluation import interquartile_mean
    >>> interquartile_mean([0.0, 2.0, 4.0, 100.0])
    3.0
    """
    x = np.sort(np.asarray(values, np.float64).ravel())
    if not x.size or not np.isfinite(x).all():
        raise ValueError("values must hold at least one number, all of them finite")
    edges = np.arange(x.size + 1) / x.size
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    return float(weights @ x / weights.sum())


def confidence_interval(
    values: Any, *, statistic: Any = interquartile_mean, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile-bootstrap interval of a statistic over runs.

    Parameters
    ----------
    values : (runs,) array, or (runs, episodes)
        Rows (runs) are resampled; a run's episodes stay together.
    statistic : callable, default `interquartile_mean`
    level : float, default 0.95
    resamples : int, default 2000
    seed : int, default 0

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> from cgopt_rl.evaluation import confidence_interval
    >>> low, high = confidence_interval([480.0, 500.0, 500.0, 495.0, 500.0])
    >>> 480.0 <= low <= high <= 500.0
    True
    """
    values = np.asarray(values, np.float64)
    number("level", level, low=0.0, high=1.0, open_low=True, open_high=True)
    rng = np.random.default_rng(seed)
    runs = values.shape[0]
    found = [statistic(values[rng.integers(runs, size=runs)]) for _ in range(integer("resamples", resamples))]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
