"""Policies for the k-armed bandit, as descriptions that the compiled testbed plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from ..checks import number
from ..kernels import bandits as kernels

_BASELINES = {None: kernels.NO_BASELINE, "past": kernels.PAST, "present": kernels.PRESENT}


class Policy(Protocol):
    """What the testbed asks of a policy."""

    kind: ClassVar[int]

    @property
    def parameters(self) -> tuple[float, float, float]:
        """The policy's numbers, as `cgopt_rl.kernels.bandits.play` takes them."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """With probability epsilon any arm, otherwise one that looks best (ties at random).

    Parameters
    ----------
    epsilon : float, default 0.1
        From 0 (greedy) to 1 (any arm).
    step_size : float, optional
        Constant step size in (0, 1], for means that move; by default 1 / N, the average of the arm's rewards.
    initial : float, default 0
        Estimate of every arm at the start.

    References
    ----------
    R. Sutton and A. Barto, "Reinforcement learning: an introduction", 2nd edition 2018, sections 2.2 to 2.6.
    """

    epsilon: float = 0.1
    step_size: float | None = None
    initial: float = 0.0
    kind: ClassVar[int] = kernels.EPSILON_GREEDY

    def __post_init__(self) -> None:
        number("epsilon", self.epsilon, low=0.0, high=1.0)
        _check_step_size(self.step_size)
        number("initial", self.initial)

    @property
    def parameters(self) -> tuple[float, float, float]:
        return float(self.epsilon), float(self.step_size or 0.0), float(self.initial)


def greedy(step_size: float | None = None) -> EpsilonGreedy:
    """Always an arm that looks best: `EpsilonGreedy` with epsilon 0."""
    return EpsilonGreedy(0.0, step_size)


def optimistic(initial: float = 5.0, step_size: float | None = 0.1) -> EpsilonGreedy:
    """Greedy with estimates that start too high, so that each arm disappoints and the next is tried."""
    return EpsilonGreedy(0.0, step_size, initial)


@dataclass(frozen=True)
class UpperConfidenceBound:
    """The arm with the largest ``Q + c sqrt(ln t / N)``; arms not yet tried come first.

    Parameters
    ----------
    c : float, default 2
        Weight of the uncertainty, not negative.
    step_size : float, optional
        As for `EpsilonGreedy`.

    References
    ----------
    P. Auer, N. Cesa-Bianchi and P. Fischer, "Finite-time analysis of the multiarmed bandit problem", Machine Learning
    47, 2002; Sutton and Barto 2018, equation (2.10).
    """

    c: float = 2.0
    step_size: float | None = None
    kind: ClassVar[int] = kernels.UCB

    def __post_init__(self) -> None:
        number("c", self.c, low=0.0)
        _check_step_size(self.step_size)

    @property
    def parameters(self) -> tuple[float, float, float]:
        return float(self.c), float(self.step_size or 0.0), 0.0


@dataclass(frozen=True)
class GradientBandit:
    """Stochastic gradient ascent on the preferences of a softmax: the policy gradient of a problem with one state.

    Parameters
    ----------
    step_size : float, default 0.1
        Positive.
    baseline : {"past", "present", None}, default "past"
        What is subtracted from each reward: the mean of the rewards before it (the book's text; the first reward at
        the first step), the mean with it included (as many programs do; at large step sizes it learns better, because
        a reward then moves the preferences by less), or nothing.

    References
    ----------
    R. Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", Machine
    Learning 8, 1992; Sutton and Barto 2018, equation (2.12).
    """

    step_size: float = 0.1
    baseline: Literal["past", "present"] | None = "past"
    kind: ClassVar[int] = kernels.GRADIENT

    def __post_init__(self) -> None:
        number("step_size", self.step_size, low=0.0, open_low=True)
        if self.baseline not in _BASELINES:
            raise ValueError(f'baseline must be "past", "present" or None, got {self.baseline!r}')

    @property
    def parameters(self) -> tuple[float, float, float]:
        return float(self.step_size), float(_BASELINES[self.baseline]), 0.0


@dataclass(frozen=True)
class ThompsonSampling:
    """One sample from the posterior of each arm's mean; the arm with the largest sample.

    Normal prior, normal rewards of known variance, so the posterior is normal too.

    Parameters
    ----------
    mean, variance : float, default 0 and 1
        Of the prior; the variance is positive.
    noise : float, default 1
        Variance of a reward, positive.

    References
    ----------
    W. Thompson, "On the likelihood that one unknown probability exceeds another in view of the evidence of two
    samples", Biometrika 25, 1933; D. Russo et al., "A tutorial on Thompson sampling", 2018, section 4.
    """

    mean: float = 0.0
    variance: float = 1.0
    noise: float = 1.0
    kind: ClassVar[int] = kernels.THOMPSON

    def __post_init__(self) -> None:
        number("mean", self.mean)
        number("variance", self.variance, low=0.0, open_low=True)
        number("noise", self.noise, low=0.0, open_low=True)

    @property
    def parameters(self) -> tuple[float, float, float]:
        return float(self.mean), float(self.variance), float(self.noise)


def _check_step_size(step_size: float | None) -> None:
    if step_size is not None:
        number("step_size", step_size, low=0.0, high=1.0, open_low=True)
