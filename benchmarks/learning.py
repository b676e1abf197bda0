"""How well agents learn: every environment of a set, several seeds, a table with interquartile means and intervals.

    python -m benchmarks.learning classic            TRPO, 10 seeds of classic control, 100 000 steps each
    python -m benchmarks.learning mujoco             TRPO, 3 seeds of MuJoCo, 1 000 000 steps each
    python -m benchmarks.learning dqn                DQN, 10 seeds of classic control and of LunarLander
    python -m benchmarks.learning key-door           two rooms, flat and hierarchical, 5 seeds
    python -m benchmarks.learning a2c                the actor-critic, 10 seeds of classic control
    python -m benchmarks.learning ddpg               DDPG, 10 seeds of the pendulum
    python -m benchmarks.learning ddpg-mujoco        DDPG, 2 seeds of MuJoCo, 100 000 or 300 000 steps
    python -m benchmarks.learning ddpg-mujoco --steps 1000000
    python -m benchmarks.learning mujoco --minutes 10
    python -m benchmarks.learning dqn --env cgopt/MountainCar-v0 --first-seed 100

Each run has a folder of its own under ``--folder`` and goes on from its last checkpoint, so a campaign may be stopped
at any time, killed, or made in pieces with ``--minutes``; what is complete is not run again, and with more ``--steps``
it goes on from where it ended. Options were chosen with the seeds from 0 on; ``--first-seed`` makes the runs with
others, and records them in files of their own. The table is of complete runs, and names those that are not. Each policy
is evaluated on 100 episodes (20 for MuJoCo), deterministically, in Gymnasium's own environment where there is one; that
is the final return. Ten times during training it is evaluated on 10 episodes, and the highest mean of those is the best
return. A run whose final return has lost more than half of what it had gained has collapsed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np

from cgopt_rl import confidence_interval, evaluate, interquartile_mean
from cgopt_rl.cli import algorithms
from cgopt_rl.presets import preset

from .peers.report import cpu_model

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Set:
    """Seeds, episodes of the final evaluation, and runs: algorithm, environment, steps, interquartile mean to reach."""

    seeds: int
    episodes: int
    runs: tuple[tuple[str, str, int, float], ...]


SETS = {
    "classic": Set(
        10,
        100,
        (
            ("trpo", "cgopt/CartPole-v1", 100_000, 500.0),
            ("trpo", "cgopt/Acrobot-v1", 100_000, -85.0),
            ("trpo", "cgopt/MountainCar-v0", 100_000, -110.0),
            ("trpo", "cgopt/Pendulum-v1", 100_000, -200.0),
        ),
    ),
    "mujoco": Set(
        3,
        20,
        (
            ("trpo", "Hopper-v4", 1_000_000, 2500.0),
            ("trpo", "Walker2d-v4", 1_000_000, 2500.0),
            ("trpo", "HalfCheetah-v4", 1_000_000, 1600.0),
            ("trpo", "InvertedDoublePendulum-v4", 1_000_000, 8000.0),
            ("trpo", "Swimmer-v4", 1_000_000, 200.0),
            ("trpo", "Reacher-v4", 1_000_000, -6.0),
        ),
    ),
    "dqn": Set(
        10,
        100,
        (
            ("dqn", "cgopt/CartPole-v1", 50_000, 490.0),
            ("dqn", "cgopt/Acrobot-v1", 100_000, -90.0),
            ("dqn", "cgopt/MountainCar-v0", 120_000, -115.0),
            ("dqn", "LunarLander-v3", 100_000, 150.0),
        ),
    ),
    "key-door": Set(
        5,
        100,
        (
            ("hierarchical_q", "cgopt/KeyDoor-v0", 300_000, 1.0),
            ("q_learning", "cgopt/KeyDoor-v0", 300_000, 0.0),
            ("hierarchical_dqn", "cgopt/KeyDoor-v0", 200_000, 1.0),
            ("dqn", "cgopt/KeyDoor-v0", 200_000, 0.0),
        ),
    ),
    "a2c": Set(
        10,
        100,
        (
            ("a2c", "cgopt/CartPole-v1", 200_000, 475.0),
            ("a2c", "cgopt/Pendulum-v1", 1_000_000, -250.0),
        ),
    ),
    "ddpg": Set(10, 100, (("ddpg", "cgopt/Pendulum-v1", 20_000, -170.0),)),
    "ddpg-mujoco": Set(
        2,
        20,
        (
            ("ddpg", "InvertedPendulum-v4", 100_000, 1000.0),
            ("ddpg", "Reacher-v4", 100_000, -6.0),
            ("ddpg", "HalfCheetah-v4", 300_000, 5000.0),
        ),
    ),
}


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
    """A callback that evaluates ten times, and keeps the mean returns in a file: what is killed goes on with them."""

    def __init__(self, path, steps):
        self.path, self.every = path, max(1, steps // 10)
        self.means = json.loads(path.read_text()) if path.is_file() else {}

    def __call__(self, model, metrics):
        due = model.steps // self.every * self.every
        if due and str(due) not in self.means:
            self.means[str(due)] = evaluate(model, None, 10, seed=model.seed).mean
            self.path.write_text(json.dumps(self.means))

    def forget_after(self, steps):
        """Leave out what was evaluated behind the checkpoint that a run goes on from."""
        self.means = {due: mean for due, mean in self.means.items() if int(due) <= steps}


def run(algorithm, env, seed, steps, episodes, folder, deadline):
    """One run to its end or the deadline; the returns of its evaluation, or None."""
    done, checkpoint = folder / "evaluation.json", folder / "checkpoint.safetensors"
    if done.is_file():
        result = json.loads(done.read_text())
        if result["steps"] >= steps or result["diverged"]:
            return result
    if deadline.passed:
        return None
    clock = time.perf_counter()
    kind, curve = algorithms()[algorithm], Curve(folder / "curve.json", steps)
    if checkpoint.is_file():
        model = kind.load(checkpoint)
        model.goal = max(model.goal, steps)
        curve.forget_after(model.steps)
        model.resume(log_dir=folder, callback=[curve, deadline])
    else:
        model = kind(env, seed=seed, **preset(algorithm, env))
        model.learn(steps, log_dir=folder, callback=[curve, deadline])
    seconds = time.perf_counter() - clock
    if model.steps < model.goal and not model._broken():
        return None
    plain = env.removeprefix("cgopt/")
    found = evaluate(model, plain if plain in gymnasium.registry else env, episodes, seed=10_000 + seed)
    means = list(curve.means.values())
    best = max([*means, found.mean])
    result = {
        "returns": found.returns.tolist(),
        "best": best,
        "collapsed": bool(best - found.mean > 0.5 * (best - min([*means, found.mean]))) and best > found.mean,
        "diverged": model._broken(),
        "curve": curve.means,
        "steps": model.steps,
        "seconds_of_last_piece": seconds,
    }
    done.write_text(json.dumps(result))
    print(f"{algorithm} {env} seed {seed}: {found.mean:.1f}, best {best:.1f}, {model.steps:,} steps", flush=True)
    return result


def about(name, only, first):
    """The command that repeats the table, the machine and the versions."""
    packages = ("numpy", "numba", "gymnasium", *(("mujoco",) if "mujoco" in name else ()))
    command = " ".join(["python -m benchmarks.learning", name, *(f"--env {env}" for env in only or ())])
    command += f" --first-seed {first}" if first else ""
    found = {"command": command, "cpu": cpu_model(), "cores": os.cpu_count()}
    return found | {"versions": {"python": platform.python_version()} | {one: version(one) for one in packages}}


def so_far(folder):
    """Where a run is that is not complete: its steps, and the highest of its evaluations."""
    log, curve = folder / "progress.csv", folder / "curve.json"
    steps = int(log.read_text().splitlines()[-1].split(",")[0]) if log.is_file() else 0
    means = json.loads(curve.read_text()).values() if curve.is_file() else ()
    return f"{steps:,} steps so far" + (f", best evaluation {max(means):.1f}" if means else "")


def table(runs, results, open_runs, told):
    """The recorded table, as Markdown, and the numbers in it."""
    packages = ", ".join(f"{package} {number}" for package, number in told["versions"].items())
    lines = [
        f"`{told['command']}` on {told['cpu']}, {told['cores']} cores; {packages}.",
        "",
        "Return of the deterministic policy at the end: interquartile mean over seeds of the mean over episodes, 95 % "
        "bootstrap interval over seeds, lowest and highest seed; interquartile mean of the best return of each seed.",
        "",
        "| algorithm | environment | steps | IQM | 95 % interval | lowest | highest | best | collapsed | to reach "
        "| seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    record = []
    for algorithm, env, steps, target in runs:
        complete = [r for r in results[algorithm, env] if r is not None]
        if not complete:
            continue
        means = [float(np.mean(r["returns"])) for r in complete]
        best, collapsed = [r["best"] for r in complete], sum(r["collapsed"] or r["diverged"] for r in complete)
        low, high = confidence_interval(means) if len(means) > 1 else (means[0], means[0])
        iqm = interquartile_mean(means)
        digits = 1 if abs(target) > 2.0 else 2
        cells = [f"{x:.{digits}f}" for x in (iqm, low, high, min(means), max(means), interquartile_mean(best))]
        lines.append(
            f"| {algorithm} | {env} | {steps:,} | {cells[0]} | {cells[1]} to {cells[2]} | {cells[3]} | {cells[4]} | "
            f"{cells[5]} | {collapsed} | {target:g} | {len(means)} |"
        )
        record.append(
            {
                "algorithm": algorithm,
                "environment": env,
                "steps": steps,
                "iqm": iqm,
                "interval": [low, high],
                "final": means,
                "best": best,
                "collapsed": collapsed,
                "target": target,
                "curves": [r["curve"] for r in complete],
            }
        )
    return "\n".join([*lines, *([""] if open_runs else []), *open_runs]) + "\n", record


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--seeds", type=int, help="how many, instead of the set's")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the set's")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--minutes", type=float, help="stop after this time; the next call goes on")
    parser.add_argument("--env", action="append", help="only this one; may be given again")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message=".*out of date.*")  # the -v4 environments are what is published
    chosen = SETS[options.set]
    first, deadline = options.first_seed, Deadline(options.minutes)
    seeds = range(first, first + (options.seeds or chosen.seeds))
    runs = [(name, env, options.steps or steps, target) for name, env, steps, target in chosen.runs]
    results, open_runs = {(algorithm, env): [] for algorithm, env, _, _ in runs}, []
    for seed in seeds:  # all environments with one seed before the next seed
        for algorithm, env, steps, _ in runs:
            if options.env is None or env in options.env:
                folder = options.folder / options.set / f"{algorithm}-{env.replace('/', '-')}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                found = run(algorithm, env, seed, steps, chosen.episodes, folder, deadline)
                results[algorithm, env].append(found)
                if found is None:
                    open_runs.append(f"{env}, seed {seed}: {so_far(folder)}; {steps:,} are to be made.")
    told = about(options.set, options.env, first)
    text, record = table(runs, results, open_runs, told)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    name = f"learning-{options.set}" + (f"-from-{first}" if first else "")
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps({**told, "results": record}, indent=1) + "\n")
    return 0 if all(r is not None for found in results.values() for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
