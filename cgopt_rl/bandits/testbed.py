"""The k-armed Gaussian testbed: many independent runs of one policy, averaged step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cgopt.kernels import cpu
from cgopt.kernels.layouts import Work

from ..checks import integer, number
from ..kernels import bandits as kernels
from ..kernels.random import streams
from .policies import Policy

Array = npt.NDArray[np.float64]
CHUNKS = 32  # runs are shared out in so many parts whatever the number of threads: sums keep their order


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, and its standard error."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.standard_error:.3f}"

    @classmethod
    def of(cls, values: Array) -> Estimate:
        """From one value a run."""
        error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")
        return cls(float(values.mean()), error)


@dataclass(frozen=True, repr=False)
class Curves:
    """What the runs of one policy gave.

    Attributes
    ----------
    reward, optimal, regret : ndarray, shape (steps,)
        Means over runs, step by step: reward, share of runs that played a best arm, and regret (the best arm's mean
        less that of the arm played).
    mean_reward, final_reward, final_optimal, total_regret : Estimate
        Mean reward over all steps; mean reward and share of best arms over the last tenth of the steps; sum of the
        regrets. Each with its standard error over runs.
    """

    reward: Array
    optimal: Array
    regret: Array
    mean_reward: Estimate
    final_reward: Estimate
    final_optimal: Estimate
    total_regret: Estimate

    @property
    def cumulative_regret(self) -> Array:
        """Regret summed over the steps so far, shape (steps,)."""
        return np.cumsum(self.regret)

    def __repr__(self) -> str:
        return (
            f"Curves({self.reward.size} steps, mean reward {self.mean_reward}, final reward {self.final_reward}, "
            f"final share of best arms {self.final_optimal}, total regret {self.total_regret})"
        )


@dataclass(frozen=True)
class Testbed:
    """k-armed bandits with normal rewards; the arms' means are drawn anew for each run.

    Parameters
    ----------
    arms : int, default 10
    runs, steps : int, default 2000 and 1000
        Independent bandits, and plays of each.
    mean, spread : float, default 0 and 1
        The arms' means are drawn from N(mean, spread^2). With spread 0 they all start equal.
    noise : float, default 1
        Standard deviation of a reward about its arm's mean.
    walk : float, default 0
        Standard deviation of the step that each mean takes after each play; 0 for a stationary problem.
    seed : int, default 0
        The same seed gives the same bits, whatever the number of threads, and the same bandits to each policy.

    References
    ----------
    R. Sutton and A. Barto, "Reinforcement learning: an introduction", 2nd edition 2018, section 2.3; exercise 2.5 for
    the walk.

    Examples
    --------
    >>> from cgopt_rl.bandits import Testbed, UpperConfidenceBound
    >>> curves = Testbed(runs=200, steps=100).play(UpperConfidenceBound(c=2.0))
    >>> curves.cumulative_regret.shape
    (100,)
    """

    __test__ = False  # not one of pytest's classes

    arms: int = 10
    runs: int = 2000
    steps: int = 1000
    mean: float = 0.0
    spread: float = 1.0
    noise: float = 1.0
    walk: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        integer("arms", self.arms)
        integer("runs", self.runs)
        integer("steps", self.steps)
        number("mean", self.mean)
        for name in ("spread", "noise", "walk"):
            number(name, getattr(self, name), low=0.0)
        integer("seed", self.seed, minimum=0)

    def play(self, policy: Policy) -> Curves:
        """Let a policy play every run.

        Parameters
        ----------
        policy : EpsilonGreedy, UpperConfidenceBound, GradientBandit or ThompsonSampling

        Returns
        -------
        Curves

        Raises
        ------
        TypeError
            If `policy` is none of them.
        """
        if not hasattr(policy, "kind") or not hasattr(policy, "parameters"):
            raise TypeError(
                f"policy must be one of cgopt_rl.bandits' policies, such as EpsilonGreedy(0.1), got {policy!r}"
            )
        chunks = min(CHUNKS, self.runs)
        bounds = np.linspace(0, self.runs, chunks + 1).astype(np.int64)
        sums = np.empty((chunks, 3, self.steps))
        runs = np.empty((self.runs, 4))
        seeds = streams(np.random.SeedSequence(self.seed), self.runs)
        problem = (float(self.mean), float(self.spread), float(self.noise), float(self.walk))
        tail = max(1, self.steps // 10)
        work = Work(bounds, np.zeros((min(chunks, cpu.get_num_threads()), 1)))
        cpu.run(kernels.play, work, policy.kind, policy.parameters, self.arms, problem, tail, seeds, bounds, sums, runs)
        reward, optimal, regret = sums.sum(axis=0) / self.runs
        return Curves(reward, optimal, regret, *(Estimate.of(column) for column in runs.T))
