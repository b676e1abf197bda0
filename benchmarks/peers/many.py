"""Many systems at once: a batch of small ones, and right-hand sides that share one search space."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse.linalg

import cgopt
from benchmarks.peers import problems
from benchmarks.peers.cases import RTOL, Group, Settings, Target
from benchmarks.peers.contenders import Vector, true_residual
from benchmarks.peers.problems import SEED, Problem
from benchmarks.peers.timing import take_turns

if TYPE_CHECKING:
    from benchmarks.peers.external import Peers

COLUMNS = 16


def batched(settings: Settings, peers: Peers) -> Group:
    """Ten thousand small dense systems in one call."""
    systems, n, condition = 1000 if settings.quick else 10_000, 32, 1e3
    looped = min(systems, 500)
    group = Group(
        f"A batch of {systems} dense systems, n = {n}",
        f"Geometric spectrum of condition {condition:g}, a random basis for each, random normal right-hand sides; "
        f"relative residual {RTOL:g}. SciPy's cg solves the first {looped} in a loop, and its time is scaled up; "
        "numpy.linalg.solve factors the whole batch. The notes tell the largest true residual of those solved.",
    )
    rng = np.random.default_rng(SEED)
    Q, _ = np.linalg.qr(rng.standard_normal((systems, n, n)))
    A = (Q * np.geomspace(1 / condition, 1.0, n)) @ Q.transpose(0, 2, 1)
    A = (A + A.transpose(0, 2, 1)) / 2
    b = rng.standard_normal((systems, n))

    def loop() -> Vector:
        cg = scipy.sparse.linalg.cg
        return np.stack([cg(A[k], b[k], rtol=RTOL, maxiter=10 * n)[0] for k in range(looped)])

    solvers: dict[str, Callable[[], Vector]] = {
        "cgopt": lambda: cgopt.batched_cg(A, b, rtol=RTOL).x,
        "SciPy": loop,
        "numpy.linalg.solve": lambda: np.linalg.solve(A, b[:, :, None])[:, :, 0],
    }
    samples, answers = _timed(solvers, settings.repeat)
    samples["SciPy"] = [seconds * systems / looped for seconds in samples["SciPy"]]
    notes = {}
    for name, x in answers.items():
        residuals = b[: len(x)] - (A[: len(x)] @ x[:, :, None])[:, :, 0]
        largest = (np.linalg.norm(residuals, axis=1) / np.linalg.norm(b[: len(x)], axis=1)).max()
        notes[name] = f"largest true residual {largest:.2e}"
    targets = {"SciPy": Target(50, "times"), "numpy.linalg.solve": Target(1, "times")}
    group.add(f"{systems} systems, n = {n}", samples, targets, notes)
    group.raw["seconds"] = samples
    return group


def block(settings: Settings, peers: Peers) -> Group:
    """Right-hand sides that share a search space against the same ones side by side."""
    group = Group(
        f"Block CG, {COLUMNS} right-hand sides",
        f"`cgopt.block_cg(A, B)` against `cgopt.cg(A, B)`, random normal right-hand sides, relative residual {RTOL:g}, "
        "set-up included in both. The beam is ill conditioned by a few bending modes; the others show "
        "what happens where small eigenvalues are many.",
    )
    beam = (100, 10) if settings.quick else (600, 24)
    grid = (60, 60) if settings.quick else (200, 200)
    bases = [
        Problem(f"elastic beam {beam[0]} x {beam[1]}", problems.canonical(cgopt.gallery.elasticity(beam)), np.empty(0)),
        replace(problems.unstructured(4000 if settings.quick else 30_000), jacobi=True),
        problems.poisson(*grid),
    ]
    for base in bases:
        B = np.random.default_rng(SEED).standard_normal((base.A.shape[0], COLUMNS))
        problem = replace(base, b=B)
        M = "jacobi" if problem.jacobi else None
        results: dict[str, Callable] = {
            "cgopt": lambda A=problem.A, B=B, M=M: cgopt.block_cg(A, B, rtol=RTOL, M=M),
            "cgopt.cg(A, B)": lambda A=problem.A, B=B, M=M: cgopt.cg(A, B, rtol=RTOL, M=M),
        }
        samples, answers = _timed(results, min(settings.repeat, 3))
        notes = {
            name: f"{int(np.max(result.iterations))} iterations, true residual {true_residual(problem, result.x):.2e}"
            for name, result in answers.items()
        }
        name = f"{problem.name}{', Jacobi' * problem.jacobi}, {COLUMNS} right-hand sides"
        targets = {"cgopt.cg(A, B)": Target(1.5, "times")} if base is bases[0] else None
        group.add(name, samples, targets, notes)
        group.raw[name] = samples
    return group


def _timed(solvers: dict[str, Callable], repeat: int) -> tuple[dict[str, list[float]], dict]:
    """Seconds of every solver's turns, and the last answer of each."""
    answers: dict = {}

    def turn(name: str) -> Callable[[], float]:
        def timed() -> float:
            start = time.perf_counter()
            answers[name] = solvers[name]()
            return time.perf_counter() - start

        return timed

    return take_turns({name: turn(name) for name in solvers}, repeat, budget=60.0), answers
