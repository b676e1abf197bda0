"""Many right-hand sides: from B to a result, around the loop `cgopt.kernels.loops.cg_steps_many`."""

from __future__ import annotations

import math

import numpy as np

from ..arrays import Array
from ..kernels import cpu, loops
from ..kernels.reference import dot as column_dots
from ..status import OF_CODE, Status
from .result import CGResult, ManyResult
from .stopping import Goal, Listeners
from .workspace import PATIENCE, System, Workspace, scale_columns


def solve_many(
    system: System, space: Workspace, b: Array, start: Array | None, goal: Goal, listeners: Listeners
) -> ManyResult:
    """Solve ``A X = B``, each column by its own conjugate gradients, one pass over A an iteration for all.

    Parameters are those of `cgopt.linear.one.solve_one`, with b and start of shape (n, k).

    Returns
    -------
    ManyResult
    """
    n, k = b.shape
    layout, w, S, V, r = system.layout, space.work, space.s, space.V, space.V[0]
    measured = [space.norm_and_exponent(np.ascontiguousarray(b[:, j])) for j in range(k)]
    norms, exponents = np.array([m[0] for m in measured]), np.array([m[1] for m in measured], dtype=np.int64)
    shifts, scales = system.exponent - exponents, 2.0**exponents
    space.T[7] = scales
    x = np.zeros((n, k), space.dtype)
    if start is not None:
        x[:, norms > 0.0] = start[:, norms > 0.0]  # A x = 0 has the solution 0, whatever the guess, as in SciPy
        scale_columns(x, -shifts)
        rr = np.empty(k)
        cpu.residual_many(layout, b, scales, x, r, rr, w)
    else:
        np.multiply(b, scales, out=r, casting="same_kind")
        rr = column_dots(r, r)
    targets = np.maximum(goal.rtol * norms, goal.atol * scales) ** 2
    S[:] = 0.0
    S[:, loops.RR] = S[:, loops.BEST] = rr
    S[:, loops.TARGET], S[:, loops.UNIT], S[:, loops.NORM_A] = targets, space.unit, system.norm
    S[:, loops.PATIENCE], S[:, loops.SCALE] = PATIENCE, scales

    codes = np.array([system.code_before(rr[j], targets[j]) for j in range(k)], dtype=np.int64)
    iterations, logs, stopped = 0, [], False
    stride = 1 if listeners.each_iteration else space.slice
    while (codes == loops.RUNNING).any() and iterations < goal.maxiter and not stopped:
        steps = min(stride, goal.maxiter - iterations)
        done = space.steps(w, layout, space.M, b, x, V, S, space.T, codes, space.log, w, iterations == 0, steps)
        iterations += done
        logs.append(space.log[:done].copy())
        if listeners.any and done:
            stopped = listeners.stop(x, shifts, iterations, logs[-1][-1], targets, exponents)
    log = np.concatenate(logs) if logs else space.log[:0]
    true = S[:, loops.RR].copy()
    if iterations:
        cpu.residual_many(layout, b, scales, x, r, true, w)
    codes[codes == loops.RUNNING] = loops.STOPPED if stopped else loops.MAXITER
    codes[true <= targets] = loops.CONVERGED
    scale_columns(x, shifts)
    codes[~(np.isfinite(true) & np.isfinite(x).all(axis=0))] = loops.NONFINITE

    columns = []
    for j in range(k):
        # A column that has ended stands still with alpha = 0: its last iteration is the last that moved.
        moved = np.flatnonzero(log[:, j, loops.LOG_ALPHA])
        count = int(moved[-1]) + 1 if moved.size else 0
        direction = None
        if codes[j] in (loops.INDEFINITE, loops.SINGULAR):
            direction = system.bad_direction(space.dtype) if system.bad_row >= 0 else V[2, :, j].copy()
        columns.append(
            CGResult(
                x[:, j],
                Status.CONVERGED if norms[j] == 0.0 else OF_CODE[int(codes[j])],
                count,
                math.ldexp(math.sqrt(true[j]), -int(exponents[j])),
                log[:count, j].copy(),
                (float(rr[j]), float(S[j, loops.RZ0])),
                (system.exponent, int(exponents[j])),
                direction,
            )
        )
    return ManyResult(x, columns)
