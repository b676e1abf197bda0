"""Multi-armed bandits: the testbed and the policies of Sutton and Barto (2018), chapter 2, many runs at once.

>>> from cgopt_rl.bandits import EpsilonGreedy, Testbed
>>> curves = Testbed(runs=500, seed=1).play(EpsilonGreedy(0.1))
>>> curves.reward.shape
(1000,)
>>> bool(curves.reward[-100:].mean() > 1.2)
True
"""

from __future__ import annotations

from .figures import FIGURES, draw, figure
from .policies import EpsilonGreedy, GradientBandit, Policy, ThompsonSampling, UpperConfidenceBound, greedy, optimistic
from .testbed import Curves, Testbed

__all__ = [
    "FIGURES",
    "Curves",
    "EpsilonGreedy",
    "GradientBandit",
    "Policy",
    "Testbed",
    "ThompsonSampling",
    "UpperConfidenceBound",
    "draw",
    "figure",
    "greedy",
    "optimistic",
]
