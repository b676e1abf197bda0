"""Many right-hand sides: from B to a result, around the loop `cgopt.kernels.loops.cg_steps_many`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..arrays import Array, real_view
from ..kernels import loops
from ..kernels.layouts import Layout
from ..status import OF_CODE
from .one import error_goal_of
from .result import CGResult, ManyResult
from .stopping import Goal, Listeners
from .workspace import PATIENCE, System, Workspace, scale_rows, times_power

# Systems whose vectors stay in a last-level cache together with the matrix, instead of streaming from memory at each
# pass: sixteen systems of 90 000 unknowns (2-D Laplacian, 32 MB of cache) took 116 us an iteration each when advanced
# all together, and 55 in groups of five.
CACHE_BYTES = 24_000_000


def group_sizes(system: System, itemsize: int, k: int) -> list[int]:
    """How many of k systems to advance together, group after group; at least two in each."""
    if not isinstance(system.exact, Layout) or system.kind == "python" or system.operator.on_device:
        # a product with all of them is one call, and a GPU's caches are small
        return [k]
    fitting = (CACHE_BYTES - system.operator.nbytes) // (4 * itemsize * system.n)  # x, r, p, q
    if fitting < 2 or fitting >= k:
        return [k]
    groups = -(-k // fitting)
    if k < 2 * groups:
        groups -= 1
    return [k // groups + (i < k % groups) for i in range(groups)]


def steps_of(log: Array, j: int) -> Array:
    """The log of one system, which leaves zeros once it has ended: its last iteration is the last with a step."""
    moved = np.flatnonzero(log[:, j, loops.LOG_ALPHA])
    mine: Array = log[: moved[-1] + 1 if moved.size else 0, j]
    return mine


def solve_many(
    system: System,
    space_for: Callable[[int], Workspace],
    b: Array,
    start: Array | None,
    goal: Goal,
    listeners: Listeners,
) -> ManyResult:
    """Solve ``A X = B``, each column by its own conjugate gradients, one pass over A an iteration for a group of them.

    Parameters are those of `cgopt.linear.one.solve_one`, with b and start of shape (n, k), and the workspace for a
    number of columns to be asked for. All columns are one group where somebody listens.

    Returns
    -------
    ManyResult
    """
    n, k = b.shape
    x = np.zeros((k, n), b.dtype, like=b)
    columns: list[CGResult] = []
    for size in [k] if listeners.any else group_sizes(system, b.dtype.itemsize, k):
        own = slice(len(columns), len(columns) + size)
        first = None if start is None else start[:, own]
        columns += solve_group(system, space_for(size), b[:, own], x[own], first, goal, listeners)
    return ManyResult(x.T, columns)


def solve_group(
    system: System, space: Workspace, b: Array, x: Array, start: Array | None, goal: Goal, listeners: Listeners
) -> list[CGResult]:
    """Solve for some columns together; x, (k, n) and zero, becomes the solution, system by system."""
    n, k = b.shape
    layout, w, S, V, codes = system.exact, space.work, space.s, space.V, space.I[0]
    r, right = V[0], V[4]
    right[...] = b.T
    measured = [space.norm_and_exponent(right[j]) for j in range(k)]
    norms, exponents = np.array([m[0] for m in measured]), np.array([m[1] for m in measured], dtype=np.int64)
    shifts = system.exponent - exponents
    scale_rows(right, exponents)
    rr = norms**2
    if start is not None:
        nonzero = np.flatnonzero(norms)  # A x = 0 has the solution 0, whatever the guess, as in SciPy
        for i in nonzero:
            x[i] = start[:, i]
        scale_rows(x, -shifts)
        with np.errstate(over="ignore", invalid="ignore"):
            space.residual_many(layout, right, x, r, rr, nonzero)
        for i in np.flatnonzero(~np.isfinite(rr)):  # a guess that far away is worth nothing
            x[i], r[i], rr[i] = 0.0, right[i], norms[i] ** 2
    else:
        r[...] = right
    with np.errstate(over="ignore"):
        targets = np.maximum(goal.rtol * norms, goal.atol * 2.0**exponents) ** 2
    error_goals = []
    if goal.criterion == "error":
        targets[:] = 0.0
        error_goals = [error_goal_of(system, goal, int(exponents[j]), x[j], right[j], r[j]) for j in range(k)]
    S[:] = 0.0
    S[:, loops.RR] = S[:, loops.BEST] = rr
    S[:, loops.TARGET], S[:, loops.UNIT], S[:, loops.NORM_A] = targets, space.unit, system.norm
    S[:, loops.PATIENCE], S[:, loops.SCALE] = PATIENCE, 1.0
    codes[:] = [system.code_before(rr[j], targets[j]) for j in range(k)]

    iterations, logs, stopped = 0, [], False
    stride = 1 if listeners.each_iteration else space.slice
    while (codes == loops.RUNNING).any() and iterations < goal.maxiter and not stopped:
        steps = min(stride, goal.maxiter - iterations)
        if error_goals:
            steps = min(steps, goal.stride(iterations))
        done = space.steps(
            w,
            layout,
            layout,
            space.M,
            right,
            x,
            V,
            real_view(x),
            space.Vr,
            S,
            space.T,
            space.I,
            space.log,
            w,
            space.work_real,
            iterations == 0,
            steps,
        )
        iterations += done
        logs.append(space.log[:done].copy())
        if listeners.any and done:
            stopped = listeners.stop(x.T, shifts, iterations, logs[-1][-1], targets, exponents, system.ritz_exponent)
        for j, error_goal in enumerate(error_goals):
            logs = [np.concatenate(logs)]
            mine = steps_of(logs[0], j)
            if codes[j] in (loops.RUNNING, loops.STAGNATED) and mine.size and error_goal.met(mine, S[j, loops.RZ0]):
                codes[j] = loops.ACCURATE
    log = np.concatenate(logs) if logs else space.log[:0]
    true = S[:, loops.RR].copy()
    unsure = np.flatnonzero((codes != loops.CONVERGED) & (codes != loops.STAGNATED))
    if iterations and unsure.size:
        space.residual_many(layout, right, x, r, true, unsure)
    codes[codes == loops.RUNNING] = loops.STOPPED if stopped else loops.MAXITER
    codes[true <= targets] = loops.CONVERGED
    for j, error_goal in enumerate(error_goals):
        if codes[j] == loops.ACCURATE and not error_goal.supported(steps_of(log, j), S[j, loops.RZ0], true[j]):
            codes[j] = loops.STAGNATED
    for j in range(k):
        if shifts[j] and space.unscale(
            x[j], int(shifts[j])
        ):  # digits were lost below the smallest number, or above the largest
            true[j] = space.residual(layout, right[j], 1.0, space.scratch(n), r[j])
            if codes[j] == loops.CONVERGED and not true[j] <= targets[j]:
                codes[j] = loops.STAGNATED
    codes[[not (math.isfinite(true[i]) and space.all_finite(x[i])) for i in range(k)]] = loops.NONFINITE

    columns = []
    for j in range(k):
        mine = steps_of(log, j)
        direction = None
        if codes[j] in (loops.INDEFINITE, loops.SINGULAR):
            direction = system.bad_direction(space.dtype) if system.bad_row >= 0 else V[2, j].copy()
        columns.append(
            CGResult(
                x[j],
                OF_CODE[int(codes[j])],
                mine.shape[0],
                times_power(math.sqrt(true[j]), -int(exponents[j])),
                mine.copy(),
                (float(rr[j]), float(S[j, loops.RZ0])),
                (system.exponent, int(exponents[j]), system.ritz_exponent),
                direction,
            )
        )
    return columns
