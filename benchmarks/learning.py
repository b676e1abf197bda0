"""How well agents learn: every environment of a set, several seeds, a table with interquartile means and intervals.

    python -m benchmarks.learning classic            10 seeds of classic control, 100 000 steps each
    python -m benchmarks.learning mujoco             3 seeds of MuJoCo, 1 000 000 steps each
    python -m benchmarks.learning mujoco --minutes 10

Each run has a folder of its own under ``--folder`` and goes on from its last checkpoint, so a campaign may be stopped
at any time, killed, or made in pieces with ``--minutes``; what is complete is not run again. The table is of complete
runs. Each policy is evaluated on 100 episodes (20 for MuJoCo), deterministically, in Gymnasium's own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cgopt_rl import TRPO, confidence_interval, evaluate, interquartile_mean
from cgopt_rl.presets import preset

from .peers.report import cpu_model

RESULTS = Path(__file__).parent / "results"
# Environment trained on, and the interquartile mean to reach.
SETS = {
    "classic": (
        10, 100_000, 100,
        {"cgopt/CartPole-v1": 500.0, "cgopt/Acrobot-v1": -85.0, "cgopt/MountainCar-v0": -110.0,
         "cgopt/Pendulum-v1": -200.0},
    ),
    "mujoco": (
        3, 1_000_000, 20,
        {"Hopper-v4": 2500.0, "Walker2d-v4": 2500.0, "HalfCheetah-v4": 1600.0, "InvertedDoublePendulum-v4": 8000.0,
         "Swimmer-v4": 200.0, "Reacher-v4": -6.0},
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


def run(env, seed, steps, episodes, folder, deadline):
    """One run to its end or the deadline; the returns of its evaluation, or None."""
    done, checkpoint = folder / "evaluation.json", folder / "checkpoint.safetensors"
    if done.is_file():
        return json.loads(done.read_text())
    if deadline.passed:
        return None
    clock = time.perf_counter()
    if checkpoint.is_file():
        model = TRPO.load(checkpoint)
        model.resume(log_dir=folder, callback=deadline)
    else:
        model = TRPO(env, seed=seed, **preset("trpo", env)).learn(steps, log_dir=folder, callback=deadline)
    seconds = time.perf_counter() - clock
    if model.steps < model.goal:
        return None
    found = evaluate(model, env.removeprefix("cgopt/"), episodes, seed=10_000 + seed)
    result = {"returns": found.returns.tolist(), "steps": model.steps, "seconds_of_last_piece": seconds}
    done.write_text(json.dumps(result))
    print(f"{env} seed {seed}: {found.mean:.1f} after {model.steps:,} steps", flush=True)
    return result


def about(name):
    """The command that repeats the table, the machine and the versions."""
    packages = ("numpy", "numba", "gymnasium", *(("mujoco",) if name == "mujoco" else ()))
    found = {"command": f"python -m benchmarks.learning {name}", "cpu": cpu_model(), "cores": os.cpu_count()}
    return found | {"versions": {"python": platform.python_version()} | {one: version(one) for one in packages}}


def table(name, seeds, steps, results, told):
    """The recorded table, as Markdown, and the numbers in it."""
    targets = SETS[name][3]
    packages = ", ".join(f"{package} {number}" for package, number in told["versions"].items())
    lines = [
        f"`{told['command']}` on {told['cpu']}, {told['cores']} cores; {packages}.",
        "",
        f"TRPO, {seeds} seeds, {steps:,} steps each; return of the deterministic policy: interquartile mean over seeds "
        "of the mean over episodes, 95 % bootstrap interval over seeds, lowest and highest seed.",
        "",
        "| environment | IQM | 95 % interval | lowest | highest | to reach | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    record = {}
    for env, target in targets.items():
        means = [float(np.mean(r["returns"])) for r in results[env] if r is not None]
        if not means:
            continue
        low, high = confidence_interval(means) if len(means) > 1 else (means[0], means[0])
        iqm = interquartile_mean(means)
        lines.append(
            f"| {env} | {iqm:.1f} | {low:.1f} to {high:.1f} | {min(means):.1f} | {max(means):.1f} | {target:g} | "
            f"{len(means)} |"
        )
        record[env] = {"iqm": iqm, "interval": [low, high], "seeds": means, "target": target}
    return "\n".join(lines) + "\n", record


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"))
    parser.add_argument("--minutes", type=float, help="stop after this time; the next call goes on")
    parser.add_argument("--env", action="append", help="only this one; may be given again")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message=".*out of date.*")  # the -v4 environments are what is published
    seeds, steps, episodes, targets = SETS[options.set]
    seeds, deadline = options.seeds or seeds, Deadline(options.minutes)
    results = {env: [] for env in targets}
    for seed in range(seeds):  # all environments with one seed before the next seed
        for env in targets:
            if options.env is None or env in options.env:
                folder = options.folder / options.set / f"{env.replace('/', '-')}-{seed}"
                results[env].append(run(env, seed, steps, episodes, folder, deadline))
    told = about(options.set)
    text, record = table(options.set, seeds, steps, results, told)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"learning-{options.set}.md").write_text(text)
    (RESULTS / f"learning-{options.set}.json").write_text(json.dumps({**told, "results": record}, indent=1) + "\n")
    return 0 if all(r is not None for found in results.values() for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
