"""Autoencoders by Hessian-free optimisation and by first-order methods, at equal time.

    python -m benchmarks.autoencoder digits
    python -m benchmarks.autoencoder mnist --minutes 8
    python -m benchmarks.autoencoder mnist --pca

"digits" are the 1797 images of 8 x 8 pixels that scikit-learn ships, through 64-50-25-10-25-50-64. "mnist" is the
network of Hinton and Salakhutdinov (2006), 784-1000-500-250-30 and back, on a user's copy of the images (``--data
FILE``, or images/mnist_u8.npz in a folder of CGOPT_DATA: arrays xtr and xte of bytes). ``--pca`` is the check of data
and metric: principal components alone, 30 of them, have the published test error 13.87.

Units as Martens (2010) has them, logistic with a linear code, and his sparse starting point. The error is the mean
over images of the sum of squared errors of pixels. Adam has each rate of a grid, with a constant rate and with one
that falls to zero by a cosine over the budget. Time is the processor's, on one BLAS thread; testing is not counted.
"Gradients" are over all images: a product counts its share of the images, a value a third.

Runs are kept under ``--folder`` and go on where they were left; what has used up its budget is not run again.
(L-BFGS, from SciPy, then begins with an empty memory.)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cgopt

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
DIGITS, MNIST = (64, 50, 25, 10, 25, 50, 64), (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
PCA_PUBLISHED = 13.87  # Hinton and Salakhutdinov 2006: test error of 30 components
GROWTH = 1.15  # a test whenever so many times the last test's time has passed


@dataclass
class Problem:
    """A network with its images, and how each method is set up on them."""

    name: str
    sizes: tuple[int, ...]
    X: np.ndarray
    loss: object
    hessian_free: dict
    batch: int

    def __post_init__(self):
        code = int(np.argmin(self.sizes))
        units = ["linear" if layer == code else "logistic" for layer in range(1, len(self.sizes) - 1)]
        self.network = cgopt.nn.MLP(self.sizes, units)

    def start(self):
        return self.network.init(0, scheme="sparse", dtype=np.float32)

    def error(self, theta):
        """Mean over images of the sum of squared errors."""
        total = 0.0
        for i in range(0, len(self.X), 4096):
            Z = self.network.forward(theta, self.X[i : i + 4096])
            if isinstance(self.loss, cgopt.nn.LogisticCrossEntropy):
                Z = 0.5 + 0.5 * np.tanh(0.5 * Z)
            total += float(np.sum(np.square(Z - self.X[i : i + 4096]), dtype=np.float64))
        return total / len(self.X)


def digits():
    from sklearn.datasets import load_digits

    X = (load_digits().data / 16.0).astype(np.float32)
    settings = {
        "parts": {"curvature_samples": 900},
        "options": {"preconditioner": "kronecker", "cg_maxiter": 20, "damping": 0.02},
    }
    return Problem("digits", DIGITS, X, cgopt.nn.SquaredError(), settings, 100)


def images(path):
    """MNIST's training and test images as numbers from 0 to 1."""
    folders = [Path(folder) for folder in os.environ.get("CGOPT_DATA", "").split(os.pathsep) if folder]
    places = [path] if path else [folder / "images" / "mnist_u8.npz" for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SystemExit(
            "There is no MNIST here: name a copy by --data FILE, or set CGOPT_DATA to what is above images/."
        )
    with np.load(found) as data:
        return [data[name].reshape(-1, 784).astype(np.float32) / np.float32(255) for name in ("xtr", "xte")]


def mnist(path):
    settings = {
        "parts": {"gradient_samples": 3000, "curvature_samples": 1000},
        "options": {"preconditioner": "kronecker", "cg_maxiter": 30, "damping": 45.0},  # 45: Martens 2010
    }
    return Problem("mnist", MNIST, images(path)[0], cgopt.nn.LogisticCrossEntropy(), settings, 200)


def pca_error(train, test, components):
    """Test error of the best linear autoencoder."""
    mean = train.mean(axis=0, dtype=np.float64)
    centred = train - mean.astype(np.float32)
    _, V = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    rest = (test - mean) - (test - mean) @ V[:, -components:] @ V[:, -components:].T
    return float(np.mean(np.sum(rest**2, axis=1)))


class Run:
    """A method on a problem: its curve, what it spent, and where it stands."""

    def __init__(self, problem, folder, name, budget):
        self.problem, self.file, self.name, self.budget = problem, folder / f"{name}.json", name, budget
        self.state_file = folder / f"{name}.npz"
        folder.mkdir(parents=True, exist_ok=True)
        self.record = {"seconds": 0.0, "gradients": 0.0, "curve": []}
        if self.file.is_file():
            self.record |= json.loads(self.file.read_text())
        self.next_test = self.record["seconds"] * GROWTH

    @property
    def state(self):
        return dict(np.load(self.state_file)) if self.state_file.is_file() else None

    @property
    def over(self):
        return self.record["seconds"] >= self.budget

    def __enter__(self):
        self.clock = time.process_time()
        return self

    def __exit__(self, *error):
        self.file.write_text(json.dumps(self.record) + "\n")

    def spend(self, gradients, theta):
        """Count up to now; test where it is time. Whether the budget is used up."""
        self.record["seconds"] += time.process_time() - self.clock
        self.record["gradients"] = float(gradients)
        if self.record["seconds"] >= self.next_test or self.over:
            error = self.problem.error(theta)
            self.record["curve"].append([self.record["seconds"], self.record["gradients"], error])
            self.next_test = max(self.record["seconds"] * GROWTH, 0.01 * self.budget)
        self.clock = time.process_time()
        return self.over

    def keep(self, **state):
        np.savez(self.state_file, **state)


def hessian_free(run):
    p = run.problem
    f = cgopt.optimize.NetworkObjective(p.network, p.loss, p.X, p.X, seed=0, **p.hessian_free["parts"])

    def watch(*, intermediate_result):
        if run.spend(f.cost, intermediate_result.x):
            raise StopIteration

    result = cgopt.optimize.hessian_free(
        f, p.start(), gtol=0.0, maxiter=10**6, callback=watch, state=run.state, **p.hessian_free["options"]
    )
    run.keep(**result.state)


def by_steps(run, stepper, rate_of):
    """Minibatches in an order drawn anew for each time through the images."""
    p, theta, state = run.problem, run.problem.start(), run.state
    if state is not None:
        theta = state.pop("theta")
        stepper.restore(state)
    at, g = p.network.linearize(theta, p.X[: p.batch]), np.empty_like(theta)
    every, n = len(p.X) // p.batch, len(p.X)
    often = max(1, min(every, 20))
    while True:
        epoch, k = divmod(stepper.steps, every)
        if k == 0 or stepper.steps == 0 or state is not None:
            order, state = np.random.default_rng([0, epoch]).permutation(n), None
        batch = p.X[order[k * p.batch : (k + 1) * p.batch]]
        stepper.learning_rate, stepper.momentum = rate_of(run.record["seconds"] / run.budget, stepper.steps)
        at.update(theta, batch)
        at.vjp(p.loss.gradient(at.output, batch), out=g)
        stepper.step(theta, g)
        if stepper.steps % often == 0 and run.spend(stepper.steps * p.batch / n, theta):
            run.keep(theta=theta, **stepper.state())
            return


def adam(rate, falling):
    def start(run):
        def rate_of(done, _):
            return rate * max(1e-3, 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))) if falling else rate, None

        by_steps(run, cgopt.nn.Adam(run.problem.network.n, dtype=np.float32), rate_of)

    return start


def nesterov(rate):
    """Momentum rising as Sutskever et al. 2013, equation 5, to 0.99."""

    def start(run):
        def rate_of(_, step):
            return rate, min(1.0 - 2.0 ** (-1.0 - np.log2(step // 250 + 1)), 0.99)

        sgd = cgopt.nn.SGD(run.problem.network.n, learning_rate=rate, nesterov=True, dtype=np.float32)
        by_steps(run, sgd, rate_of)

    return start


def lbfgs(run):
    p, state, before = run.problem, run.state, run.record["gradients"]
    last, calls = p.start() if state is None else state["theta"], 0
    pieces = [p.X[i : i + 4096] for i in range(0, len(p.X), 4096)]
    at = {len(X): p.network.linearize(last, X) for X in pieces}

    class Over(Exception):
        """The budget is used up."""

    def both(x):
        nonlocal calls
        value, gradient, calls = 0.0, np.zeros_like(x), calls + 1
        for X in pieces:
            here, share = at[len(X)].update(x, X), len(X) / len(p.X)
            value += share * p.loss.value(here.output, X)
            gradient += np.float32(share) * here.vjp(p.loss.gradient(here.output, X))
        if run.spend(before + calls, x):
            raise Over
        return value, gradient

    def keep(now):
        nonlocal last
        last = now.x.astype(np.float32)

    while True:
        try:
            cgopt.nn.lbfgs(both, last, maxiter=10**6, history=20, rtol=1e-9, callback=keep)
        except Over:
            run.keep(theta=last)
            return


RATES = {"digits": (3e-2, 1e-2, 3e-3, 1e-3), "mnist": (3e-3, 1e-3)}
NAG_RATES = {"digits": (3e-2, 1e-2), "mnist": (1e-2, 1e-3)}


def methods(problem):
    found = {"HF": hessian_free, "L-BFGS": lbfgs}
    for rate in RATES[problem.name]:
        found[f"Adam {rate:g}"], found[f"Adam {rate:g} falling"] = adam(rate, False), adam(rate, True)
    return found | {f"NAG {rate:g}": nesterov(rate) for rate in NAG_RATES[problem.name]}


def first_below(curve, level):
    """Seconds and gradients at which a curve is at a level for the first time; infinite where it never is."""
    return next(((s, g) for s, g, error in curve if error <= level), (np.inf, np.inf))


def summary(curves):
    """Lines of the table: for each kind of method its best error, and what the best of each other kind took HF."""
    kinds = {}
    for name, curve in curves.items():
        kinds.setdefault(name.split()[0], {})[name] = curve
    lines = [
        "| method | best setting | its error | at seconds | at gradients | HF there at seconds | at gradients |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for kind, settings in kinds.items():
        best = min(settings, key=lambda name: min(error for _, _, error in settings[name]))
        level = min(error for _, _, error in settings[best])
        seconds, gradients = first_below(settings[best], level)
        ours = first_below(curves["HF"], level)
        lines.append(
            f"| {kind} | {best.removeprefix(kind).strip()} | {level:.4g} | {seconds:.3g} | {gradients:.3g} | "
            f"{ours[0]:.3g} | {ours[1]:.3g} |"
        )
    return lines


def draw(problem, curves, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    colours = {"HF": "C3", "Adam": "C0", "L-BFGS": "C2", "NAG": "C1"}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, column, label in ((axes[0], 0, "processor seconds"), (axes[1], 1, "gradients over all images")):
        shown = set()
        for name, curve in sorted(curves.items(), key=lambda item: item[0] == "HF"):
            kind = name.split()[0]
            points = np.array(curve)
            axis.loglog(
                points[:, column], points[:, 2], color=colours[kind], lw=2.2 if kind == "HF" else 0.9,
                alpha=1.0 if kind in ("HF", "L-BFGS") else 0.6, label=None if kind in shown else kind,
            )  # fmt: skip
            shown.add(kind)
        last = max(curve[-1][column] for curve in curves.values())
        axis.set_xlim(last / 50, last * 1.05)
        axis.set_xlabel(label)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, which="both", alpha=0.2)
    best = min(error for curve in curves.values() for _, _, error in curve)
    axes[0].set_ylim(0.9 * best, 10.0 * best)
    axes[0].set_ylabel("squared error of an image")
    axes[0].legend(frameon=False)
    figure.suptitle(f"{problem.name}: {'-'.join(map(str, problem.sizes))}, a line for each rate", fontsize=10)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=("digits", "mnist"))
    parser.add_argument("--minutes", type=float, help="of the processor, for all methods together (digits 3, mnist 8)")
    parser.add_argument("--data", type=Path, help="MNIST's images")
    parser.add_argument("--pca", action="store_true", help="only the check of data and metric")
    parser.add_argument("--folder", type=Path, default=Path("runs/autoencoder"))
    options = parser.parse_args(argv)
    if options.pca:
        found = pca_error(*images(options.data), 30)
        print(f"30 principal components of MNIST: test error {found:.3f}, published {PCA_PUBLISHED}")
        return 0 if abs(found - PCA_PUBLISHED) < 0.01 else 1
    problem = digits() if options.problem == "digits" else mnist(options.data)
    chosen = methods(problem)
    budget = 60.0 * (options.minutes or {"digits": 3.0, "mnist": 8.0}[problem.name]) / len(chosen)
    curves = {}
    for name, method in chosen.items():
        with Run(problem, options.folder / problem.name, name.replace(" ", "-"), budget) as run:
            if not run.over:
                method(run)
            curves[name] = run.record["curve"]
        seconds, gradients, error = curves[name][-1]
        print(f"{name}: error {error:.4g} after {seconds:.1f} s, {gradients:.0f} gradients", flush=True)
    lines = summary(curves)
    about = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__, "seconds": budget}
    name = f"autoencoder-{problem.name}"
    head = f"`python -m benchmarks.autoencoder {problem.name}`, {budget:.0f} s of the processor for each method.\n\n"
    (RESULTS / f"{name}.md").write_text(head + "\n".join(lines) + "\n")
    (RESULTS / f"{name}.json").write_text(json.dumps(about | {"curves": curves}) + "\n")
    draw(problem, curves, IMAGES / f"{name}.png")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
