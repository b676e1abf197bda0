"""Many small systems, and block conjugate gradients: whole solves to the same true residual."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import cg as scipy_cg

import cgopt
from benchmarks.peers.cases import Group, Settings, Target
from benchmarks.peers.timing import take_turns

SYSTEMS, ORDER, CONDITION = 10_000, 32, 1e3
SAMPLE = 200  # of the systems that SciPy's loop solves in a turn; its time is multiplied up
RTOL = 1e-8
COLUMNS = 16


def batches(settings: Settings) -> Group:
    """Ten thousand small systems, and sixteen right-hand sides of ill-conditioned ones."""
    group = Group(
        "Many small systems, and right-hand sides that share a search space",
        f"Whole calls from NumPy arrays, checks included, to a true relative residual of {RTOL:g}. Batch: {SYSTEMS} "
        f"dense systems of n = {ORDER}, geometric spectrum, condition {CONDITION:g}; SciPy's cg, in a loop, on "
        f"{SAMPLE} of them. Block: {COLUMNS} normally distributed right-hand sides, Jacobi for both.",
    )
    _small_systems(group, settings)
    for name, A in _ill_conditioned(settings):
        _right_hand_sides(group, settings, name, A)
    return group


def _small_systems(group: Group, settings: Settings) -> None:
    rng = np.random.default_rng(0)
    m = SYSTEMS // 10 if settings.quick else SYSTEMS
    Q = np.linalg.qr(rng.standard_normal((m, ORDER, ORDER)))[0]
    A = (Q * np.geomspace(1.0, CONDITION, ORDER)) @ Q.transpose(0, 2, 1)
    A = (A + A.transpose(0, 2, 1)) / 2.0
    b = rng.standard_normal((m, ORDER))
    if not cgopt.batched_cg(A, b, rtol=RTOL).converged.all():
        raise RuntimeError("a system of the batch was not solved: the times mean nothing")

    def loop() -> float:
        seconds = _seconds(lambda: [scipy_cg(A[k], b[k], rtol=RTOL) for k in range(SAMPLE)])
        return seconds * m / SAMPLE

    turns = {
        "cgopt": lambda: _seconds(lambda: cgopt.batched_cg(A, b, rtol=RTOL)),
        "SciPy": loop,
        "numpy.linalg.solve": lambda: _seconds(lambda: np.linalg.solve(A, b[..., None])),
    }
    targets = {"SciPy": Target(50.0, "times"), "numpy.linalg.solve": Target(1.0, "times")}
    name = f"{m} systems, n = {ORDER}"
    samples = take_turns(turns, settings.repeat)
    group.add(name, samples, targets)
    group.raw[name] = samples


def _ill_conditioned(settings: Settings) -> list[tuple[str, Any]]:
    """Shells and beams; the real ones where CGOPT_DATA names them."""
    known = [name for name in ("nasa1824", "bcsstk15", "s1rmt3m1") if name in cgopt.gallery.available()]
    found = [(name, cgopt.gallery.load(name)) for name in known[: 1 if settings.quick else None]]
    return [("elasticity, a beam", sp.csr_array(cgopt.gallery.elasticity((40, 6, 6)))), *found]


def _right_hand_sides(group: Group, settings: Settings, name: str, A: Any) -> None:
    B = np.random.default_rng(0).standard_normal((A.shape[0], COLUMNS))
    block = cgopt.block_cg(A, B, rtol=RTOL, maxiter=20_000, M="jacobi")
    apart = cgopt.cg(A, B, rtol=RTOL, maxiter=20_000, M="jacobi")
    if not (block.converged and apart.converged):
        raise RuntimeError(f"{name} was not solved: the times mean nothing")
    turns = {
        "cgopt": lambda: _seconds(lambda: cgopt.block_cg(A, B, rtol=RTOL, maxiter=20_000, M="jacobi")),
        "side by side": lambda: _seconds(lambda: cgopt.cg(A, B, rtol=RTOL, maxiter=20_000, M="jacobi")),
    }
    case = f"{name}, n = {A.shape[0]}, {COLUMNS} right-hand sides"
    samples = take_turns(turns, min(settings.repeat, 5))
    notes = {
        "cgopt": f"block, {block.iterations} iterations",
        "side by side": f"cgopt.cg, {apart.iterations} iterations",
    }
    group.add(case, samples, {"side by side": Target(1.5, "times")}, notes)
    group.raw[case] = samples


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
