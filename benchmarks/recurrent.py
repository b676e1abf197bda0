"""Recurrent networks on sequences with long delays: Hessian-free optimisation against Nesterov's accelerated gradient.

    python -m benchmarks.recurrent --minutes 30
    python -m benchmarks.recurrent --task addition --T 50 --seeds 4

Tasks and success as published (see `cgopt.gallery.addition` and the others): 100 tanh units; a run succeeds when fewer
than one test sequence in a thousand is answered wrongly. Each run ends there, or when it has seen as many sequences
(each gradient, and each product, of a sequence counts one; a value a third) as 50 000 gradients of 100 sequences do.

Every run has a folder of its own under ``--folder`` and goes on from where it was left, so a campaign may be made in
pieces with ``--minutes``; what is complete is not run again. One BLAS thread; seconds are of the processor, without
the tests.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

import cgopt
from cgopt.gallery import addition, five_bit_memory, multiplication, temporal_order

RESULTS = Path(__file__).parent / "results"
TASKS = ("addition", "multiplication", "temporal-order", "5-bit-memory")
METHODS = ("HF", "NAG")
UNITS, TRAINED, TESTED, SOLVED = 100, 20_000, 5_000, 1e-3
SEQUENCES = 5_000_000  # 50 000 updates of 100 sequences: the budget of Sutskever et al. 2013

# Of Hessian-free optimisation: Martens and Sutskever 2011 with smaller parts of the data.
GRADIENT, CURVATURE, PRODUCTS = 1_000, 250, 100
L2, DAMPING, STRUCTURAL = 2e-5, 0.01, 0.03
# Of Nesterov's accelerated gradient: Sutskever et al. 2013, momentum 0.9 for a start; the rate is chosen for each task
# by the loss after a twentieth of the budget.
BATCH, MOMENTA, GENTLE, RATES = 100, (0.9, 0.99), 1_000, (3e-2, 1e-2, 3e-3)
EVERY = 500  # updates between two tests


class Task:
    """A task with its network, loss, and test sequences."""

    def __init__(self, name, T):
        self.name, self.T = name, T
        tested = self.draw(TESTED, 10_000)
        self.tested = tested
        outputs = tested.classes or 1
        self.network = cgopt.nn.RNN(tested.X.shape[-1], UNITS, outputs)
        self.loss = cgopt.nn.SquaredError() if tested.classes is None else cgopt.nn.SoftmaxCrossEntropy()

    def draw(self, samples, seed):
        if self.name == "5-bit-memory":
            return five_bit_memory(self.T)
        make = {"addition": addition, "multiplication": multiplication, "temporal-order": temporal_order}[self.name]
        return make(self.T, samples, np.random.default_rng(seed))

    def error(self, theta):
        """Wrong answers of each test sequence, in the mean."""
        pieces = range(0, len(self.tested.X), 1000)
        Z = np.concatenate([self.network.forward(theta, self.tested.X[i : i + 1000]) for i in pieces])
        return float(np.mean(self.tested.errors(Z)))

    def start(self, seed):
        """15 connections to each unit, those of the inputs weaker (Martens and Sutskever 2011)."""
        theta = self.network.init(seed, scheme="sparse", scale=15**-0.5, spectral_radius=1.1, dtype=np.float32)
        self.network.views(theta)["W_in"][...] *= 0.25
        return theta


class Run:
    """What is kept of a run: how far it came, what it cost, and where it stands."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "record.json"
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.record = {"complete": False, "solved": False, "sequences": 0.0, "seconds": 0.0, "curve": []} | known

    def state(self):
        path = self.folder / "state.npz"
        return dict(np.load(path)) if path.is_file() else None

    def save(self, state):
        partial = self.folder / "state.partial.npz"
        np.savez(partial, **state)
        partial.replace(self.folder / "state.npz")
        self.file.write_text(json.dumps(self.record) + "\n")

    def note(self, sequences, seconds, error, loss, budget):
        """After a test; whether the run is complete."""
        self.record["sequences"], self.record["seconds"] = sequences, seconds
        self.record["curve"].append([round(sequences), round(seconds, 2), error, loss])
        self.record["solved"] = error < SOLVED
        self.record["complete"] = self.record["solved"] or sequences >= budget
        return self.record["complete"]


def hessian_free(task, seed, run, deadline, budget):
    data, theta = task.draw(TRAINED, seed), task.start(seed)
    parts = {} if len(data.X) < GRADIENT else {"gradient_samples": GRADIENT, "curvature_samples": CURVATURE}
    f = cgopt.optimize.NetworkObjective(
        task.network, task.loss, data.X, data.Y, weights=data.weights, l2=L2, structural=STRUCTURAL, seed=seed, **parts
    )
    state, spent, clock = run.state(), run.record["seconds"], time.process_time()

    def watch(*, intermediate_result):
        nonlocal spent, clock
        now = intermediate_result
        spent += time.process_time() - clock
        complete = run.note(now.cost * len(data.X), spent, task.error(now.x), now.history[-1]["fun"], budget)
        if complete or time.monotonic() > deadline:
            run.save(now.state)
            raise StopIteration
        clock = time.process_time()

    options = {"damping": DAMPING * task.network.n_outputs, "cg_maxiter": PRODUCTS, "preconditioner": None, "gtol": 0.0}
    result = cgopt.optimize.hessian_free(f, theta, maxiter=100_000, callback=watch, state=state, **options)
    if result.ending is not cgopt.optimize.Ending.STOPPED:  # nothing gained any more
        run.record["complete"] = True
        run.save(result.state)


def nesterov(task, seed, run, deadline, budget, rate):
    """Fresh sequences in every update; the momentum is low in the first thousand.

    A run that overflows begins again at a third of the rate, and what it has seen counts.
    """
    theta, state = task.start(seed), run.state()
    rate = run.record.setdefault("rate", rate)
    sgd = cgopt.nn.SGD(task.network.n, learning_rate=rate, nesterov=True, dtype=np.float32)
    if state is not None:
        theta = state.pop("theta")
        sgd.restore(state)
    spent, seen, clock = run.record["seconds"], run.record["sequences"], time.process_time()
    while True:
        sgd.momentum, sgd.learning_rate = MOMENTA[sgd.steps >= GENTLE], run.record["rate"]
        batch = task.draw(BATCH, [seed, sgd.steps])
        with np.errstate(all="ignore"):  # a rate that is too large ends in overflow
            loss, gradient = task.network.loss_and_gradient(theta, batch.X, task.loss, batch.Y, batch.weights)
            gradient += np.float32(L2) * theta
            sgd.step(theta, gradient)
        seen += len(batch.X)
        if not np.isfinite(theta).all():
            run.record["rate"] /= 3.0
            theta, sgd.steps = task.start(seed), 0
            sgd.velocity[...] = 0.0
        if sgd.steps % EVERY:
            continue
        spent += time.process_time() - clock
        complete = run.note(seen, spent, task.error(theta), loss if np.isfinite(loss) else 1e30, budget)
        if complete or time.monotonic() > deadline:
            run.save({"theta": theta} | sgd.state())
            return
        clock = time.process_time()


def chosen_rate(task, folder, deadline, budget):
    """The rate with the least loss after a twentieth of the budget, from a start that no run has; None if unknown."""
    losses = {}
    for rate in RATES:
        run = Run(folder / f"rate-{rate:g}")
        if not run.record["complete"] and time.monotonic() < deadline:
            nesterov(task, 1_000, run, deadline, budget / 20, rate)
        if not run.record["complete"]:
            return None
        if run.record["rate"] == rate:  # it did not overflow
            losses[rate] = float(np.median([row[3] for row in run.record["curve"][-5:]]))
    return min(losses, key=losses.get)


def table(folder, settings):
    """Markdown and numbers of the complete runs."""
    lines = [
        "| task | T | method | solved | sequences seen (median) | errors of the others | after sequences "
        "| not ended: error, sequences |",
        "|---|---:|---|---:|---:|---|---|---|",
    ]
    record = {}
    for name, T in settings:
        for method in METHODS:
            files = sorted((folder / f"{name}-{T}").glob(f"{method}-*/record.json"))
            begun = [run for run in (json.loads(path.read_text()) for path in files) if run["curve"]]
            runs = [run for run in begun if run["complete"]]
            open_ones = [
                f"{run['curve'][-1][2]:.3g} at {run['sequences']:,.0f}" for run in begun if not run["complete"]
            ]
            solved = [run for run in runs if run["solved"]]
            if not begun:
                continue
            others = [run for run in runs if not run["solved"]]
            rest = ", ".join(f"{run['curve'][-1][2]:.3g}" for run in others)
            spent = ", ".join(f"{run['sequences']:,.0f}" for run in others)
            seen = f"{np.median([run['sequences'] for run in solved]):,.0f}" if solved else ""
            lines.append(
                f"| {name} | {T} | {method} | {len(solved)} of {len(runs)} | {seen} | {rest} "
                f"| {spent} | {'; '.join(open_ones)} |"
            )
            record[f"{name}-{T}-{method}"] = [
                {k: run[k] for k in ("solved", "sequences", "seconds")} | {"error": run["curve"][-1][2]} for run in runs
            ]
    return lines, record


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=TASKS, help="only this one; may be given again")
    parser.add_argument("--T", action="append", type=int, help="30 by default; may be given again")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--sequences", type=float, default=SEQUENCES, help="budget of a run")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after this time; the next call goes on"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/recurrent"))
    parser.add_argument("--no-record", action="store_true", help="leave the recorded table as it is")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + 60.0 * options.minutes
    settings = [(name, T) for T in options.T or [30] for name in options.task or TASKS]
    methods = options.method or METHODS
    for seed in range(options.seeds):  # all tasks with one seed before the next seed
        for name, T in settings:
            task, folder = Task(name, T), options.folder / f"{name}-{T}"
            for method in methods:
                run = Run(folder / f"{method}-{seed}")
                if run.record["complete"] or time.monotonic() > deadline:
                    continue
                if method == "HF":
                    hessian_free(task, seed, run, deadline, options.sequences)
                else:
                    rate = chosen_rate(task, folder, deadline, options.sequences)
                    if rate is None:
                        continue
                    nesterov(task, seed, run, deadline, options.sequences, rate)
                if run.record["complete"]:
                    last = run.record["curve"][-1]
                    print(
                        f"{name} T={T} {method} seed {seed}: error {last[2]:.4g} after {last[0]:,}, {last[1]} s",
                        flush=True,
                    )
    found = sorted(p.name.rpartition("-") for p in options.folder.iterdir() if p.is_dir())
    settings = sorted(((name, int(T)) for name, _, T in found), key=lambda pair: (TASKS.index(pair[0]), pair[1]))
    lines, record = table(options.folder, settings)
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.no_record:
        head = (
            "`python -m benchmarks.recurrent` with `--T` and `--sequences`, which unsolved runs have seen. "
            "A run also ends when Hessian-free optimisation can take no step that lowers its loss any more. "
            f"{__doc__.split(chr(10) * 2)[2].replace(chr(10), ' ')}\n\n"
        )
        about = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
        (RESULTS / "recurrent.md").write_text(head + text)
        (RESULTS / "recurrent.json").write_text(json.dumps(about | {"runs": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
