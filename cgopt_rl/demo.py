"""TRPO on the cart and pole until it balances for whole episodes: what it takes, and the learning curve."""

from __future__ import annotations

import time
from pathlib import Path

from .callbacks import Evaluate
from .evaluation import evaluate
from .presets import preset
from .trpo import TRPO

ENV, GOAL = "cgopt/CartPole-v1", 500.0


def run(output: Path | None, *, seed: int = 0, steps: int = 100_000) -> bool:
    """Train, print what happened, draw the curve.

    Parameters
    ----------
    output : Path or None
        Where the picture goes.
    seed : int, default 0
    steps : int, default 100000
        Environment steps at most.

    Returns
    -------
    bool
        Whether the policy reached 500 in every one of 20 episodes.
    """
    model = TRPO(ENV, seed=seed, **preset("trpo", ENV))
    print(f"TRPO on {ENV}: balance a pole, 1 for each step, at most {GOAL:g} in an episode.")
    clock = time.perf_counter()
    model.learn(1)  # one round, so that the time of training is not that of loading or compiling the loops once
    prepared = time.perf_counter() - clock
    curve: list[tuple[int, float]] = []
    check = Evaluate(every=5_000, episodes=20, stop_at=GOAL)
    clock = time.perf_counter()
    model.learn(
        steps - model.steps, callback=[lambda m, metrics: curve.append((m.steps, metrics["return_mean"])), check]
    )
    seconds = time.perf_counter() - clock
    found = evaluate(model, "CartPole-v1", episodes=20, seed=1)
    rate = model.steps / seconds
    lowest = f"the lowest of 20 episodes {found.returns.min():g}"
    print(f"  {'training':<12} {seconds:.2f} s for {model.steps:,} steps, {rate:,.0f} a second, evaluations included")
    print(f"  {'':<12} {prepared:.2f} s before that, to load the loops or compile them once")
    print(f"  {'return':<12} {found.mean:.1f} in Gymnasium's CartPole-v1, {lowest}")
    if output is not None:
        _draw(curve, [(steps, e.mean) for steps, e in check.history], output)
        print(f"The learning curve is in {output}.")
    return bool(found.mean >= 475.0)


def _draw(curve: list[tuple[int, float]], evaluations: list[tuple[int, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), color="#0072B2", label="while learning, mean of the last 100 episodes")
    axes.plot(*zip(*evaluations, strict=True), ".", color="#D55E00", label="most probable actions, mean of 20 episodes")
    axes.set(xlabel="environment steps", ylabel="return")
    axes.set_title(f"TRPO on {ENV}", fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)
