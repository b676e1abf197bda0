"""The figures of Sutton and Barto (2018), chapter 2: what is played, drawn, and printed as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..checks import unknown
from .policies import EpsilonGreedy, GradientBandit, Policy, ThompsonSampling, UpperConfidenceBound, greedy, optimistic
from .testbed import Curves, Testbed


@dataclass(frozen=True)
class FigurePlan:
    """What a figure shows: policies by label, played on one testbed.

    Attributes
    ----------
    title : str
    policies : mapping of str to Policy
    problem : mapping
        How the testbed differs from the standard one.
    kind : {"curves", "regret", "study"}
        Reward and share of best arms against steps; cumulative regret against steps; mean reward against a parameter,
        where labels are "family parameter".
    """

    title: str
    policies: Mapping[str, Policy]
    problem: Mapping[str, Any]
    kind: str = "curves"


@dataclass(frozen=True, repr=False)
class FigureData:
    """A figure's plan and the curves that were played for it."""

    name: str
    plan: FigurePlan
    curves: Mapping[str, Curves]

    def table(self) -> str:
        """The figure's numbers as a text table, with standard errors over runs."""
        width = max(len(label) for label in self.curves)
        lines = [
            f"{self.plan.title}",
            f"{'policy':<{width}}  {'mean reward':>16}  {'final reward':>16}  {'best arm, final %':>17}  "
            f"{'total regret':>16}",
        ]
        for label, c in self.curves.items():
            best = f"{100 * c.final_optimal.mean:.1f} +- {100 * c.final_optimal.standard_error:.1f}"
            regret = f"{c.total_regret.mean:.1f} +- {c.total_regret.standard_error:.1f}"
            lines.append(f"{label:<{width}}  {c.mean_reward!s:>16}  {c.final_reward!s:>16}  {best:>17}  {regret:>16}")
        return "\n".join(lines)


def _study() -> dict[str, Policy]:
    """Figure 2.6: each family over powers of two of its parameter."""

    def powers(low: int, high: int) -> list[float]:
        return [2.0**k for k in range(low, high + 1)]

    policies: dict[str, Policy] = {f"epsilon-greedy {x:g}": EpsilonGreedy(x) for x in powers(-7, -2)}
    policies |= {f"gradient {x:g}": GradientBandit(x, "present") for x in powers(-5, 1)}
    policies |= {f"gradient, past baseline {x:g}": GradientBandit(x) for x in powers(-5, 1)}
    policies |= {f"UCB {x:g}": UpperConfidenceBound(x) for x in powers(-4, 2)}
    policies |= {f"optimistic {x:g}": optimistic(x) for x in powers(-2, 2)}
    return policies


_BASELINES: tuple[Literal["past"] | None, ...] = ("past", None)

FIGURES: dict[str, FigurePlan] = {
    "2.2": FigurePlan(
        "Greedy and epsilon-greedy action values",
        {"greedy": greedy(), "epsilon 0.01": EpsilonGreedy(0.01), "epsilon 0.1": EpsilonGreedy(0.1)},
        {},
    ),
    "2.3": FigurePlan(
        "Optimistic initial values, constant step size 0.1",
        {"optimistic, Q1 = 5, greedy": optimistic(5.0, 0.1), "realistic, epsilon 0.1": EpsilonGreedy(0.1, 0.1)},
        {},
    ),
    "2.4": FigurePlan(
        "Upper confidence bounds",
        {
            "UCB c = 2": UpperConfidenceBound(2.0),
            "UCB c = 1": UpperConfidenceBound(1.0),
            "epsilon 0.1": EpsilonGreedy(0.1),
        },
        {},
    ),
    "2.5": FigurePlan(
        "Gradient bandit, with and without a baseline; the arms' means lie about 4",
        {
            f"step size {x:g}, {'with' if baseline else 'no'} baseline": GradientBandit(x, baseline)
            for x in (0.1, 0.4)
            for baseline in _BASELINES
        },
        {"mean": 4.0},
    ),
    "2.6": FigurePlan("Mean reward over the steps, against each family's parameter", _study(), {}, "study"),
    "nonstationary": FigurePlan(
        "Means that start equal and walk (exercise 2.5), epsilon 0.1",
        {"sample average": EpsilonGreedy(0.1), "constant step size 0.1": EpsilonGreedy(0.1, 0.1)},
        {"spread": 0.0, "walk": 0.01, "steps": 10_000},
    ),
    "regret": FigurePlan(
        "Cumulative regret",
        {
            "epsilon 0.1": EpsilonGreedy(0.1),
            "optimistic, Q1 = 5": optimistic(5.0, 0.1),
            "UCB c = 1": UpperConfidenceBound(1.0),
            "gradient 0.25": GradientBandit(0.25),
            "Thompson sampling": ThompsonSampling(),
        },
        {},
        "regret",
    ),
}


def figure(name: str, *, runs: int = 2000, seed: int = 0) -> FigureData:
    """Play what a figure shows.

    Parameters
    ----------
    name : str
        A key of `FIGURES`: "2.2" to "2.6" as in the book, "nonstationary" for exercise 2.5, "regret".
    runs : int, default 2000
        Independent bandits for each curve.
    seed : int, default 0

    Returns
    -------
    FigureData
        With ``curves`` by label and ``table()``.

    Raises
    ------
    ValueError
        If there is no such figure.

    Examples
    --------
    >>> from cgopt_rl.bandits import figure
    >>> list(figure("2.2", runs=100).curves)
    ['greedy', 'epsilon 0.01', 'epsilon 0.1']
    """
    if name not in FIGURES:
        raise ValueError(unknown("figure", str(name), FIGURES))
    plan = FIGURES[name]
    testbed = Testbed(runs=runs, seed=seed, **plan.problem)
    return FigureData(name, plan, {label: testbed.play(policy) for label, policy in plan.policies.items()})


def draw(data: FigureData, path: str | Path) -> None:
    """Draw a figure into a file.

    Parameters
    ----------
    data : FigureData
        What `figure` returned.
    path : str or path
        Ends in a format that matplotlib writes: .png, .pdf, .svg.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('drawing needs matplotlib: pip install "cgopt[plot]"') from error
    study, curves = data.plan.kind == "study", data.curves
    panels = 2 if data.plan.kind == "curves" else 1
    canvas = Figure(figsize=(6.4, 3.6 * panels), layout="constrained")
    axes = canvas.subplots(panels, squeeze=False)[:, 0]
    if study:
        families: dict[str, list[tuple[float, float]]] = {}
        for label, c in curves.items():
            family, _, parameter = label.rpartition(" ")
            families.setdefault(family, []).append((float(parameter), c.mean_reward.mean))
        for family, points in families.items():
            axes[0].plot(*np.transpose(points), marker=".", label=family)
        axes[0].set_xscale("log", base=2)
        axes[0].set(xlabel="epsilon, step size, c, or initial value", ylabel="mean reward over the steps")
    else:
        shown = [("cumulative regret", "cumulative_regret", 1.0)]
        if panels == 2:
            shown = [("mean reward", "reward", 1.0), ("best arm played, %", "optimal", 100.0)]
        for axis, (ylabel, attribute, scale) in zip(axes, shown, strict=True):
            for label, c in curves.items():
                values = scale * getattr(c, attribute)
                axis.plot(np.arange(1, values.size + 1), values, linewidth=1, label=label)
            axis.set(xlabel="step", ylabel=ylabel)
    axes[0].set_title(data.plan.title, fontsize="medium", loc="left")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small", frameon=False)
    canvas.savefig(path, dpi=150)
