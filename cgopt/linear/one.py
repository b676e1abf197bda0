"""One right-hand side: from b to a result, around the loop `cgopt.kernels.loops.cg_steps`."""

from __future__ import annotations

import math

import numpy as np

from ..arrays import Array, real_view
from ..kernels import cpu, loops
from ..status import OF_CODE, Status
from .lanczos import ErrorGoal
from .result import CGResult
from .stopping import Goal, Listeners
from .workspace import PATIENCE, SAFE_NORM, UNIT, System, Workspace, scale_rows, times_power


def error_goal_of(system: System, goal: Goal, exponent: int, x: Array, b: Array, r: Array) -> ErrorGoal:
    """The goal of ``criterion="error"`` in the units that are solved in: ``2^eA A x' = 2^e b``."""
    smallest = goal.eigenvalue_bound
    if smallest is not None:
        smallest = times_power(smallest, system.ritz_exponent)
    atol = times_power(goal.atol, exponent) * 2.0 ** (-system.exponent / 2)
    # |x*|_A^2 = |x* - x_0|_A^2 + x_0'(b + r_0)
    return ErrorGoal(goal.rtol, atol, smallest, float(np.vdot(x, b + r).real))


DROP = 0.01  # of r'r: with a rounded matrix, the true residual is taken when the norm has fallen tenfold

# Ends that may be due to the rounding of the matrix, not to the matrix.
DUE_TO_ROUNDING = (loops.INDEFINITE, loops.SINGULAR, loops.STAGNATED, loops.INDEFINITE_M)


def solve_diagonal(system: System, b: Array, goal: Goal) -> CGResult | None:
    """Solve with a diagonal A: the one iteration that Jacobi's preconditioner needs, without a loop and its workspace.

    Parameters
    ----------
    system : System
        ``system.diagonal`` is true.
    b : (n,) array
        Contiguous, of A's data type.
    goal : Goal
        Of the residual.

    Returns
    -------
    CGResult or None
        None where entries are extreme, M is another inverse than A's, or rounding needs more than one iteration: that
        is left to `solve_one`.
    """
    if goal.maxiter < 1:
        return None
    diagonal, inverse = system.layout.diagonal, system.preconditioner.inverse_diagonal  # type: ignore[union-attr]
    x = np.empty_like(b)
    # z = M r,  p = z,  alpha = r'z / p'Ap = 1,  x = p
    bb, rr, rz_before, rz = cpu.solve_diagonal(diagonal, inverse, b, x)
    low, high = SAFE_NORM[b.dtype.char]
    within = low * low <= bb <= high * high and 0.0 < rz_before < math.inf
    divided = rr <= (4.0 * UNIT[b.dtype.char]) ** 2 * bb  # |b - a fl(fl(1 / a) b)| <= 2 u |b|, entry by entry
    if not (within and divided and rr <= max(goal.rtol * math.sqrt(bb), goal.atol) ** 2):
        return None
    log = np.array([[rr, rz, 1.0, rz / rz_before]])  # columns as `loops.LOG_RR` and those after it
    return CGResult(x, Status.CONVERGED, 1, math.sqrt(rr), log, (bb, rz_before))


def solve_one(
    system: System, space: Workspace, b: Array, start: Array | None, goal: Goal, listeners: Listeners
) -> CGResult:
    """Solve ``A x = b``.

    Parameters
    ----------
    system : System
    space : Workspace
        For b's data type and one column.
    b : (n,) array
        Contiguous.
    start : (n,) array or None
        Initial guess; None is zero.
    goal : Goal
    listeners : Listeners

    Returns
    -------
    CGResult

    Notes
    -----
    With a rounded matrix the residual is replaced by the true one as the norm falls (van der Vorst and Ye 2000; Clark
    et al. 2010), so that the target is met for A itself. Where the rounding is too coarse for that, or makes the matrix
    indefinite, the solve goes on with A from where it is. Error estimates want A's own coefficients: A is used.
    """
    n, exact, w, s, V = system.n, system.exact, space.work, space.s, space.V
    norm, exponent = space.norm_and_exponent(b)
    x = space.zeros(n)
    if norm == 0.0:
        return CGResult(x, Status.CONVERGED, 0, 0.0, space.log[:0], (0.0, 0.0))
    # Solved is 2^eA A x' = 2^e b; then x = 2^shift x'.
    xr, shift, scale = real_view(x), system.exponent - exponent, 2.0**exponent
    r = V[0, :n]
    if start is not None:
        x[...] = start
        if shift:
            scale_rows(x[None, :], [-shift])
        with np.errstate(over="ignore", invalid="ignore"):
            rr = space.residual(exact, b, scale, x, r)
    if start is None or not math.isfinite(rr):  # (a guess that far away is worth nothing)
        x[...] = 0.0
        np.multiply(b, b.dtype.type(scale), out=r)
        rr = norm * norm
    tolerance = max(goal.rtol * norm, goal.atol * scale)
    target, error_goal = tolerance * tolerance, None
    if goal.criterion == "error":
        # the residual then ends the solve only where it vanishes, or stagnates
        target, error_goal = 0.0, error_goal_of(system, goal, exponent, x, b * b.dtype.type(scale), r)
    s[:] = 0.0
    s[loops.RR] = s[loops.BEST] = rr
    s[loops.TARGET], s[loops.UNIT], s[loops.NORM_A] = target, space.unit, system.norm
    s[loops.PATIENCE], s[loops.SCALE], s[loops.PEAK] = PATIENCE, scale, rr
    layout, advance = system.layout, space.steps
    if system.rounded is not None and error_goal is None:
        layout, advance, s[loops.DROP] = system.rounded, space.rounded_steps, DROP

    code, iterations, logs, first = system.code_before(rr, target), 0, [], True
    most = 1 if listeners.each_iteration else space.slice
    if code == loops.RUNNING and goal.maxiter == 0:
        code = loops.MAXITER
    while code == loops.RUNNING:
        steps = min(most, listeners.stride(iterations) or most, goal.maxiter - iterations)
        if error_goal is not None:
            steps = min(steps, goal.stride(iterations))
        last = iterations + steps == goal.maxiter
        code, done = advance(
            w,
            layout,
            exact,
            space.M,
            b,
            x,
            V,
            xr,
            space.Vr,
            s,
            space.log,
            w,
            space.work_real,
            first,
            steps,
            last,
        )
        iterations += done
        if done:
            logs.append(space.log[:done].copy())
            first = False
        if layout is system.rounded and code in DUE_TO_ROUNDING and iterations < goal.maxiter:
            layout, advance, first, code = system.layout, space.steps, True, loops.RUNNING
            s[loops.RR] = s[loops.BEST] = s[loops.PEAK] = space.residual(exact, b, scale, x, r)
            s[loops.DROP] = s[loops.FAILED] = s[loops.GAP] = 0.0
            if logs:
                logs[-1][-1, loops.LOG_RR], logs[-1][-1, loops.LOG_BETA] = s[loops.RR], 0.0
        if (
            listeners.any
            and done
            and listeners.stop(x, shift, iterations, logs[-1], target, exponent, system.ritz_exponent)
        ):
            code = loops.STOPPED if code == loops.RUNNING else code
        if error_goal is not None and done and code in (loops.RUNNING, loops.MAXITER, loops.STAGNATED):
            logs = [np.concatenate(logs)]
            code = loops.ACCURATE if error_goal.met(logs[0], s[loops.RZ0]) else code

    true = s[loops.RR]
    if iterations and code not in (loops.CONVERGED, loops.STAGNATED, loops.MAXITER):
        true = space.residual(exact, b, scale, x, r)
    if true <= target:
        code = loops.CONVERGED
    if code == loops.ACCURATE and error_goal is not None and not error_goal.supported(logs[0], s[loops.RZ0], true):
        code = loops.STAGNATED
    direction = None
    if code == loops.INDEFINITE or code == loops.SINGULAR:
        direction = system.bad_direction(space.dtype) if system.bad_row >= 0 else V[2, :n].copy()
    if shift:
        if space.unscale(x, shift):  # digits were lost below the smallest number, or above the largest
            true = space.residual(exact, b, scale, space.scratch(n), r)
            code = loops.STAGNATED if code == loops.CONVERGED and not true <= target else code
    if not math.isfinite(true) or (shift and not space.all_finite(x)):
        code = loops.NONFINITE
    return CGResult(
        x,
        OF_CODE[code],
        iterations,
        times_power(math.sqrt(true), -exponent),
        logs[0] if len(logs) == 1 else np.concatenate(logs) if logs else space.log[:0],
        (rr, s[loops.RZ0]),
        (system.exponent, exponent, system.ritz_exponent),
        direction,
    )
