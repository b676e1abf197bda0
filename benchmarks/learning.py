"""How well agents learn: every environment of a set, several seeds, a table with interquartile means and intervals.

    python -m benchmarks.learning classic            TRPO: 10 seeds of classic control, 100 000 steps each
    python -m benchmarks.learning mujoco             TRPO: 3 seeds of MuJoCo, 1 000 000 steps each
    python -m benchmarks.learning a2c                the actor-critic: 10 seeds of classic control
    python -m benchmarks.learning ddpg               DDPG: 10 seeds of the pendulum
    python -m benchmarks.learning ddpg-mujoco        DDPG: 2 seeds of MuJoCo, 100 000 or 300 000 steps
    python -m benchmarks.learning ddpg-mujoco --steps 1000000
    python -m benchmarks.learning mujoco --minutes 10

Each run has a folder of its own under ``--folder`` and goes on from its last checkpoint, so a campaign may be stopped
at any time, killed, or made in pieces with ``--minutes``; what is complete is not run again, and with more ``--steps``
it goes on from where it ended. The table is of complete runs, and names the others. Each policy is evaluated on 100
episodes (20 for MuJoCo), deterministically, in Gymnasium's own environment, and on fewer of them twenty times on the
way: the best of those stands beside the final value, so that a policy that was lost again is seen.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgopt_rl import confidence_interval, evaluate, interquartile_mean
from cgopt_rl.cli import algorithms
from cgopt_rl.plotting import learning_curves
from cgopt_rl.presets import preset

RESULTS = Path(__file__).parent / "results"
CURVE = "evaluations.json"


class Goal(NamedTuple):
    """Environment trained on, steps, and the interquartile mean to reach."""

    env: str
    steps: int
    target: float


@dataclass(frozen=True)
class Campaign:
    """What is trained: an algorithm with its presets, on each environment with each seed."""

    algorithm: str
    seeds: int
    episodes: int
    goals: tuple[Goal, ...]


SETS = {
    "classic": Campaign(
        "trpo", 10, 100,
        tuple(
            Goal(env, 100_000, target)
            for env, target in (
                ("cgopt/CartPole-v1", 500.0), ("cgopt/Acrobot-v1", -85.0), ("cgopt/MountainCar-v0", -110.0),
                ("cgopt/Pendulum-v1", -200.0),
            )
        ),
    ),
    "mujoco": Campaign(
        "trpo", 3, 20,
        tuple(
            Goal(env, 1_000_000, target)
            for env, target in (
                ("Hopper-v4", 2500.0), ("Walker2d-v4", 2500.0), ("HalfCheetah-v4", 1600.0),
                ("InvertedDoublePendulum-v4", 8000.0), ("Swimmer-v4", 200.0), ("Reacher-v4", -6.0),
            )
        ),
    ),
    "a2c": Campaign(
        "a2c", 10, 100,
        (Goal("cgopt/CartPole-v1", 200_000, 475.0), Goal("cgopt/Pendulum-v1", 1_000_000, -250.0)),
    ),
    "ddpg": Campaign("ddpg", 10, 100, (Goal("cgopt/Pendulum-v1", 20_000, -170.0),)),
    "ddpg-mujoco": Campaign(
        "ddpg", 2, 20,
        (
            Goal("InvertedPendulum-v4", 100_000, 1000.0), Goal("Reacher-v4", 100_000, -6.0),
            Goal("HalfCheetah-v4", 300_000, 5000.0),
        ),
    ),
}  # fmt: skip


class Deadline:
    """A callback that ends the training when the time given to the campaign is used up."""

    def __init__(self, minutes):
        self.end = time.monotonic() + 60.0 * minutes if minutes else float("inf")

    @property
    def passed(self):
        return time.monotonic() > self.end

    def __call__(self, model, metrics):
        return self.passed


class Curve:
    """A callback that evaluates the policy twenty times on the way; kept in the run's folder, also over its pieces."""

    def __init__(self, env, steps, episodes, path):
        self.env, self.every, self.episodes, self.path = env, max(1, steps // 20), episodes, path

    def read(self, steps):
        """What was found up to so many steps."""
        points = json.loads(self.path.read_text()) if self.path.is_file() else []
        return [point for point in points if point[0] <= steps]

    def __call__(self, model, metrics):
        points = self.read(model.steps - 1)
        if model.steps // self.every > (points[-1][0] // self.every if points else 0):
            found = evaluate(model, self.env, self.episodes, seed=20_000 + model.seed)
            self.path.write_text(json.dumps([*points, [model.steps, found.mean]]))


def run(algorithm, env, seed, steps, episodes, folder, deadline):
    """One run to its end or the deadline: steps so far, returns of its evaluation (None before the end), best."""
    kind, played = algorithms()[algorithm], env.removeprefix("cgopt/")
    done, checkpoint = folder / f"evaluation-{steps}.json", folder / "checkpoint.safetensors"
    if done.is_file():
        return json.loads(done.read_text())
    curve = Curve(played, steps, max(5, episodes // 4), folder / CURVE)
    callbacks = [curve, deadline]
    if checkpoint.is_file():
        model = kind.load(checkpoint)
        model.goal = steps
        if not deadline.passed:
            model.resume(log_dir=folder, callback=callbacks)
    elif deadline.passed:
        return {"steps": 0, "returns": None, "best": None}
    else:
        model = kind(env, seed=seed, **preset(algorithm, env)).learn(steps, log_dir=folder, callback=callbacks)
    best = max((value for _, value in curve.read(model.steps)), default=None)
    result = {"steps": model.steps, "returns": None, "best": best}
    if "status" in vars(model):
        result["status"] = model.status.name
    if model.steps >= steps or result.get("status") == "DIVERGED":
        found = evaluate(model, played, episodes, seed=10_000 + seed)
        result["returns"], result["best"] = (
            found.returns.tolist(),
            max(found.mean, found.mean if best is None else best),
        )
        done.write_text(json.dumps(result))
        print(f"{env} seed {seed}: {found.mean:.1f} after {model.steps:,} steps", flush=True)
    return result


def table(campaign, results):
    """The recorded table, as Markdown, and the numbers in it."""
    lines = [
        f"{campaign.algorithm}; return of the deterministic policy: interquartile mean over seeds of the mean over "
        f"{campaign.episodes} episodes, 95 % bootstrap interval over seeds, lowest and highest seed; last, the same "
        "mean over the best evaluations on the way.",
        "",
        "| environment | steps | seeds | IQM | 95 % interval | lowest | highest | to reach | best |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    record, open_runs = {}, []
    for goal in campaign.goals:
        found = results[goal.env]
        complete = [r for r in found if r["returns"] is not None]
        open_runs += [
            f"{goal.env}: not complete, {r['steps']:,} of {goal.steps:,} steps"
            + (f", best evaluation so far {r['best']:.1f}." if r["best"] is not None else ".")
            for r in found
            if r["returns"] is None
        ]
        if not complete:
            continue
        means, bests = [float(np.mean(r["returns"])) for r in complete], [r.get("best", np.nan) for r in complete]
        low, high = confidence_interval(means) if len(means) > 1 else (means[0], means[0])
        iqm, best = interquartile_mean(means), interquartile_mean(bests)
        lines.append(
            f"| {goal.env} | {goal.steps:,} | {len(means)} | {iqm:.1f} | {low:.1f} to {high:.1f} | {min(means):.1f} | "
            f"{max(means):.1f} | {goal.target:g} | {best:.1f} |"
        )
        record[goal.env] = {
            "steps": goal.steps, "iqm": iqm, "interval": [low, high], "seeds": means, "best": bests,
            "target": goal.target, "status": [r.get("status") for r in complete],
        }  # fmt: skip
    return "\n".join([*lines, *([""] if open_runs else []), *open_runs]) + "\n", record


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, help="instead of the set's")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--minutes", type=float, help="stop after this time; the next call goes on")
    parser.add_argument("--env", action="append", help="only this one; may be given again")
    parser.add_argument("--picture", type=Path, help="draw the learning curves there")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message=".*out of date.*")  # the -v4 environments are what is published
    campaign, deadline = SETS[options.set], Deadline(options.minutes)
    if options.steps:
        campaign = replace(campaign, goals=tuple(goal._replace(steps=options.steps) for goal in campaign.goals))
    results, folders = {goal.env: [] for goal in campaign.goals}, {}
    for seed in range(options.seeds or campaign.seeds):  # all environments with one seed before the next seed
        for env, steps, _ in campaign.goals:
            if options.env is None or env in options.env:
                folder = options.folder / options.set / f"{env.replace('/', '-')}-{seed}"
                folders.setdefault(env, []).append(folder)
                found = run(campaign.algorithm, env, seed, steps, campaign.episodes, folder, deadline)
                results[env].append(found)
    text, record = table(campaign, results)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"learning-{options.set}.md").write_text(text)
    about = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    (RESULTS / f"learning-{options.set}.json").write_text(json.dumps({**about, "results": record}, indent=1) + "\n")
    if options.picture:
        runs = {env: [one for one in some if (one / "progress.csv").is_file()] for env, some in folders.items()}
        learning_curves({env: some for env, some in runs.items() if some}, options.picture)
    return 0 if all(r["returns"] is not None for found in results.values() for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
