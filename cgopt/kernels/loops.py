"""The conjugate gradient loops, written once.

These are texts: plain functions over a short list of primitives (imported here from the reference
backend, where each is specified in NumPy). `bind` gives a text another backend's primitives; the CPU
backend compiles the bound text whole, and leaves it interpreted when the operator or the preconditioner
is Python. Bound to the reference as it stands here, the text is the slow, plain solver that tests compare with.

The recurrence is that of Hestenes and Stiefel (1952). What is added to it:

* convergence is believed only of the true residual, recomputed when the recursive one meets the target;
* the recursive residual is replaced by the true one when the bound on their distance passes sqrt(u) ||r||
  (van der Vorst and Ye, SIAM J. Sci. Comput. 22, 2000), so that the target is met on
  matrices where the recursion alone would stop short of it;
* where products are made with a rounded copy of the matrix, also whenever the norm has fallen tenfold (the reliable
  updates of Clark et al., Comput. Phys. Commun. 181, 2010);
* two checks in a row without progress end the solve as stagnated;
* non-positive curvature ends it with the direction that showed it.

Vectors of one workspace ``V``: rows r, z, p, q. ``xr`` and ``Vr`` are views of ``x`` and ``V`` as real numbers:
all of CG's scalars are real, so vector updates treat a complex vector as a real one of twice the length.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from math import sqrt
from typing import Any

from .reference import (
    apply_dot,
    apply_dot_many,
    residual,
    residual_many,
    restart,
    restart_many,
    update_direction,
    update_direction_many,
    update_residual,
    update_residual_many,
)

# Codes that a loop returns; `cgopt.status` gives them their sentences.
RUNNING, CONVERGED, INDEFINITE, SINGULAR, STAGNATED, NONFINITE, INDEFINITE_M, MAXITER, STOPPED = range(9)
BOUNDARY, NEGATIVE_CURVATURE, AGAIN = range(9, 12)  # of trust regions; AGAIN: start again from the true residual
ACCURATE = 12  # the error estimate met its tolerance: decided between two calls of a loop

# Places in the vector of scalars that a solve carries from slice to slice.
RR = 0  # r'r, recursive
RZ = 1  # r'z, z = M r
PP = 2  # p'p
XX = 3  # x'x
TARGET = 4  # convergence when r'r <= TARGET
UNIT = 5  # unit roundoff of the vectors
NORM_A = 6  # a bound or estimate of ||A||
GAP = 7  # bound on the distance between the recursive and the true residual
GAP0 = 8  # its value at the last replacement
BEST = 9  # smallest true r'r that a check has seen
FAILED = 10  # checks in a row that saw no progress
STILL = 11  # iterations in a row that moved x by less than u ||x||
PATIENCE = 12  # how many of those call for a check
SCALE = 13  # the power of two that b is multiplied by
CHECKS = 14  # true residuals computed
RZ0 = 15  # r'z before the first iteration
RADIUS = 16  # of a trust region
DD = 17  # d'Pd for the step d so far, P the inverse of M
DP = 18  # d'Pp
PNORM = 19  # p'Pp
DECREASE = 20  # of the quadratic model
PQ = 21  # p'Ap at an end on the boundary
PEAK = 22  # largest r'r since the true residual was taken
DROP = 23  # the true residual is taken when r'r <= DROP PEAK; 0 where products are made with the matrix itself
SCALARS = 24

NOTHING, DRIFTED, DROPPED, STOOD_STILL, CLAIMED = range(5)  # events, in rising order of weight

# How often the bound on the gap must have grown since the last replacement for another. Van der Vorst and Ye have 1.1;
# a bad element of a mesh makes ||A|| so large that every third product then was one for a residual.
GROWTH = 16

# Columns of the log, one row an iteration.
LOG_RR, LOG_RZ, LOG_ALPHA, LOG_BETA = range(4)
LOG_COLUMNS = 4


def bind(text: Callable[..., Any], name: str, primitives: dict[str, Any]) -> Callable[..., Any]:
    """Give a loop's text other primitives.

    Parameters
    ----------
    text : function
        A function of this module.
    name : str
        Name of the bound function; distinct for distinct primitives, since compiled code is cached under it.
    primitives : dict
        What the text's free names shall mean; names not given keep their meaning here.

    Returns
    -------
    function
    """
    bound = types.FunctionType(text.__code__, {**text.__globals__, **primitives}, name, text.__defaults__)
    bound.__qualname__ = name
    bound.__doc__ = text.__doc__
    return bound


def curvature_code(pq: float, s: Any) -> int:
    """Why a solve ends on a curvature p'Ap that is not positive."""
    if not (-float("inf") < pq < float("inf")):
        return NONFINITE
    if pq >= -4.0 * s[UNIT] * s[NORM_A] * s[PP]:
        return SINGULAR
    return INDEFINITE


def product_code(rz: float) -> int:
    """Why a solve ends on a product r'Mr that is not positive."""
    return INDEFINITE_M if -float("inf") < rz <= 0.0 else NONFINITE


def note_step(alpha: float, rr: float, rz: float, xx: float, pp: float, s: Any) -> int:
    """Enter one iteration's scalars, and say what calls for the true residual.

    Returns
    -------
    event : int
        NOTHING, DRIFTED, DROPPED, STOOD_STILL or CLAIMED.
    """
    unit, gap = s[UNIT], s[GAP]
    # |alpha p| <= u |x|: the step is below the rounding of x
    s[STILL] = s[STILL] + 1.0 if alpha * alpha * s[PP] <= unit * unit * xx else 0.0
    s[GAP] = gap + unit * (s[NORM_A] * sqrt(xx) + sqrt(rr))  # van der Vorst and Ye 2000
    crossed = gap * gap <= unit * s[RR] and s[GAP] * s[GAP] > unit * rr
    s[RR], s[RZ], s[XX], s[PP], s[PEAK] = rr, rz, xx, pp, max(s[PEAK], rr)
    if rr <= s[TARGET]:
        return CLAIMED
    if s[STILL] >= s[PATIENCE]:
        return STOOD_STILL
    if rr <= s[DROP] * s[PEAK]:
        return DROPPED
    if s[DROP] == 0.0 and crossed and s[GAP] > GROWTH * s[GAP0]:
        return DRIFTED
    return NOTHING


def judge(true: float, event: int, s: Any) -> tuple[int, bool]:
    """Judge the true r'r that an event called for: a code, and whether to start again from the true residual."""
    recursive = s[RR]
    s[RR] = s[PEAK] = true
    s[GAP] = s[GAP0] = s[UNIT] * s[NORM_A] * sqrt(s[XX])
    s[CHECKS] += 1.0
    if true <= s[TARGET]:
        return CONVERGED, False
    if not true < float("inf"):
        return NONFINITE, False
    if event != DRIFTED:
        s[FAILED] = s[FAILED] + 1.0 if true > 0.25 * s[BEST] else 0.0
        s[BEST] = min(s[BEST], true)
        if s[FAILED] >= 2.0:
            return STAGNATED, False
    if event == STOOD_STILL:
        s[STILL] = 0.0
        s[PATIENCE] *= 2.0
    # The next direction is conjugate only if p'r = r'z. Where the residual that replaces the recursive one differs by
    # more than a little, keeping p would carry the mismatch on from step to step, with every alpha too large.
    return RUNNING, event > DROPPED or abs(true - recursive) > 1e-3 * recursive


def cg_steps(A, E, M, b, x, V, xr, Vr, s, log, w, wr, first, steps, last):  # type: ignore[no-untyped-def]
    """Advance one solve by at most `steps` iterations.

    Parameters
    ----------
    A, E, M
        Layouts that directions and the solution are multiplied by, and preconditioner data (or Python operators,
        interpreted). E is the exact matrix, A may be stored in another way, or be close to it.
    b, x : (n,) arrays
        Right-hand side (not changed) and iterate (updated).
    V : (4, >= n) array
        Workspace with rows r, z, p, q. `xr` and `Vr` are real views of x and V.
    s : (SCALARS,) float64
        The solve's scalars, carried from call to call.
    log : (>= steps, LOG_COLUMNS) float64
        One row an iteration: r'r, r'z, alpha, beta.
    w, wr : Work
        Row chunks for products (vectors of x's length) and for vector updates (of xr's length).
    first : bool
        Whether z and p are to be made from r before the first iteration.
    steps : int
        Iterations to make.
    last : bool
        Whether no more are allowed: if all are made, the true residual is computed and judged.

    Returns
    -------
    code, done : int
        RUNNING when all steps were made and nothing else happened, and the number of iterations made.
    """
    n, m = x.shape[0], xr.shape[0]
    r, p, q = V[0][:n], V[2][:n], V[3][:n]
    rv, zv, pv, qv = Vr[0][:m], Vr[1][:m], Vr[2][:m], Vr[3][:m]
    if first:
        s[RZ], s[PP] = restart(M, rv, zv, pv, wr)  # z = M r,  p = z,  r'z,  p'p
        if s[RZ0] == 0.0:  # (not where a solve goes on with another matrix)
            s[RZ0] = s[RZ]
        if not 0.0 < s[RZ] < float("inf"):
            return product_code(s[RZ]), 0
    for k in range(steps):
        pq = apply_dot(A, p, q, w)  # q = A p,  p'q
        if not 0.0 < pq < float("inf"):
            return curvature_code(pq, s), k
        rz_old = s[RZ]
        alpha = rz_old / pq  # alpha = r'z / p'Ap
        rr, rz = update_residual(M, alpha, qv, rv, zv, wr)  # r -= alpha q,  z = M r,  r'r,  r'z
        beta = rz / rz_old  # beta = r'z / (r'z before)
        xx, pp = update_direction(M, alpha, beta, rv, zv, pv, xr, wr)  # x += alpha p,  p = z + beta p,  x'x,  p'p
        event = note_step(alpha, rr, rz, xx, pp, s)
        log[k, LOG_RR], log[k, LOG_RZ], log[k, LOG_ALPHA], log[k, LOG_BETA] = rr, rz, alpha, beta
        if event != NOTHING:
            true = residual(E, b, s[SCALE], x, r, w)  # r = b - A x,  r'r
            code, again = judge(true, event, s)
            log[k, LOG_RR] = true
            if code != RUNNING:
                return code, k + 1
            if again:
                s[RZ], s[PP] = restart(M, rv, zv, pv, wr)  # z = M r,  p = z,  r'z,  p'p
                log[k, LOG_BETA] = 0.0
            else:
                s[RR], s[RZ] = update_residual(M, 0.0, qv, rv, zv, wr)  # z = M r,  r'r,  r'z;  p is kept
            log[k, LOG_RZ] = s[RZ]
        if not 0.0 < s[RZ] < float("inf"):
            return product_code(s[RZ]), k + 1
    if last:
        s[RR] = residual(E, b, s[SCALE], x, r, w)  # r = b - A x,  r'r
        return MAXITER, steps
    return RUNNING, steps


def steihaug_steps(A, E, M, b, x, V, xr, Vr, s, log, w, wr, first, steps, last):  # type: ignore[no-untyped-def]
    """Advance truncated conjugate gradients in a trust region by at most `steps` iterations (Steihaug 1983).

    Parameters as for `cg_steps`, with ``s[RADIUS]`` set; x is the step d, from zero. The loop ends before a step that
    would leave the region, and on a curvature that is not positive, with p, q, r as they are there and ``s[PQ]`` the
    curvature: the walk to the boundary is left to the caller. The norms of d and p in ``P = M^-1`` are carried by
    ``d_{k+1} = d_k + alpha p_k``, ``p_{k+1} = z_{k+1} + beta p_k`` and ``p_k'P z_{k+1} = p_k'r_{k+1} = 0``.

    Returns
    -------
    code, done : int
        AGAIN asks the caller for ``s[DP] = d'r``, and for a call with `first` set.
    """
    n, m = x.shape[0], xr.shape[0]
    r, p, q = V[0][:n], V[2][:n], V[3][:n]
    rv, zv, pv, qv = Vr[0][:m], Vr[1][:m], Vr[2][:m], Vr[3][:m]
    if first:
        s[RZ], s[PP] = restart(M, rv, zv, pv, wr)  # z = M r,  p = z,  r'z,  p'p
        s[PNORM] = s[RZ]  # p'Pp = z'P z = r'z
        if not 0.0 < s[RZ] < float("inf"):
            return product_code(s[RZ]), 0
    for k in range(steps):
        pq = apply_dot(A, p, q, w)  # q = A p,  p'q
        s[PQ] = pq
        if not (-float("inf") < pq < float("inf")):
            return NONFINITE, k
        if pq <= 0.0:
            return NEGATIVE_CURVATURE, k
        rz_old = s[RZ]
        alpha = rz_old / pq  # alpha = r'z / p'Ap
        dd = s[DD] + alpha * (2.0 * s[DP] + alpha * s[PNORM])  # |d + alpha p|_P^2
        if not dd < s[RADIUS] * s[RADIUS]:
            return BOUNDARY, k
        rr, rz = update_residual(M, alpha, qv, rv, zv, wr)  # r -= alpha q,  z = M r,  r'r,  r'z
        beta = rz / rz_old  # beta = r'z / (r'z before)
        xx, pp = update_direction(M, alpha, beta, rv, zv, pv, xr, wr)  # d += alpha p,  p = z + beta p,  d'd,  p'p
        s[DECREASE] += 0.5 * alpha * rz_old  # model(d) - model(d + alpha p)
        s[DD] = dd
        s[DP] = beta * (s[DP] + alpha * s[PNORM])  # (d + alpha p)'P (z + beta p)
        s[PNORM] = rz + beta * beta * s[PNORM]  # (z + beta p)'P (z + beta p)
        event = note_step(alpha, rr, rz, xx, pp, s)
        log[k, LOG_RR], log[k, LOG_RZ], log[k, LOG_ALPHA], log[k, LOG_BETA] = rr, rz, alpha, beta
        if event != NOTHING:
            true = residual(E, b, s[SCALE], x, r, w)  # r = b - A d,  r'r
            code, again = judge(true, event, s)
            log[k, LOG_RR] = true
            if code != RUNNING:
                return code, k + 1
            if again:
                log[k, LOG_BETA] = 0.0
                return AGAIN, k + 1
            s[RR], s[RZ] = update_residual(M, 0.0, qv, rv, zv, wr)  # z = M r,  r'r,  r'z;  p is kept
        if not 0.0 < s[RZ] < float("inf"):
            return product_code(s[RZ]), k + 1
    if last:
        s[RR] = residual(E, b, s[SCALE], x, r, w)  # r = b - A d,  r'r
        return MAXITER, steps
    return RUNNING, steps


def select(codes: Any, code: int, act: Any) -> int:
    """Write the systems that have the code to the front of `act`; returns how many."""
    m = 0
    for j in range(codes.shape[0]):
        if codes[j] == code:
            act[m] = j
            m += 1
    return m


def cg_steps_many(A, E, M, b, x, V, xr, Vr, S, T, I, log, w, wr, first, steps):  # type: ignore[no-untyped-def]
    """Advance k solves with one matrix by at most `steps` iterations, one pass over A in each.

    Like `cg_steps`, with scalars of its own for each system: b and x are (k, n), V is (4, k, n), ``S`` (k, SCALARS),
    ``log`` (>= steps, k, LOG_COLUMNS). The rows of ``T`` (7, k) are alpha, beta, p'q, r'r, r'z, x'x, p'p; those of
    ``I`` (4, k), integers, are the codes, the events, and two lists of systems. A system that has ended has its code
    set, and costs nothing while the others go on.

    Returns
    -------
    done : int
        Iterations made; fewer than `steps` when every system has ended.
    """
    r, p, q = V[0], V[2], V[3]
    rv, zv, pv, qv = Vr[0], Vr[1], Vr[2], Vr[3]
    alpha, beta, pq, rr, rz, xx, pp = T[0], T[1], T[2], T[3], T[4], T[5], T[6]
    codes, events, act, some = I[0], I[1], I[2], I[3]
    m = select(codes, RUNNING, act)
    if first:
        restart_many(M, rv, zv, pv, rz, pp, act[:m], wr)  # z = M r,  p = z,  r'z,  p'p
        for j in act[:m]:
            S[j, RZ], S[j, PP], S[j, RZ0] = rz[j], pp[j], rz[j]
            if not 0.0 < rz[j] < float("inf"):
                codes[j] = product_code(rz[j])
    for k in range(steps):
        m = select(codes, RUNNING, act)
        if m == 0:
            return k
        apply_dot_many(A, p, q, pq, act[:m], w)  # q = A p,  p'q
        for j in act[:m]:
            if 0.0 < pq[j] < float("inf"):
                alpha[j] = S[j, RZ] / pq[j]  # alpha = r'z / p'Ap
            else:
                codes[j] = curvature_code(pq[j], S[j])
        m = select(codes, RUNNING, act)
        update_residual_many(M, alpha, qv, rv, zv, rr, rz, act[:m], wr)  # r -= alpha q,  z = M r,  r'r,  r'z
        for j in act[:m]:
            beta[j] = rz[j] / S[j, RZ]  # beta = r'z / (r'z before)
        # x += alpha p,  p = z + beta p,  x'x,  p'p
        update_direction_many(M, alpha, beta, rv, zv, pv, xr, xx, pp, act[:m], wr)
        log[k] = 0.0
        called = 0
        for j in range(codes.shape[0]):
            events[j] = NOTHING
        for j in act[:m]:
            events[j] = note_step(alpha[j], rr[j], rz[j], xx[j], pp[j], S[j])
            log[k, j, LOG_RR], log[k, j, LOG_RZ], log[k, j, LOG_ALPHA], log[k, j, LOG_BETA] = (
                rr[j],
                rz[j],
                alpha[j],
                beta[j],
            )
            if events[j] != NOTHING:
                some[called] = j
                called += 1
        if called > 0:
            residual_many(E, b, x, r, rr, some[:called], w)  # r = b - A x,  r'r
            for j in some[:called]:
                codes[j], again = judge(rr[j], events[j], S[j])
                log[k, j, LOG_RR] = rr[j]
                alpha[j] = 0.0
                if again:
                    log[k, j, LOG_BETA] = 0.0
                else:
                    events[j] = NOTHING
            update_residual_many(M, alpha, qv, rv, zv, rr, rz, some[:called], wr)  # z = M r,  r'r,  r'z;  p is kept
            for j in some[:called]:
                S[j, RZ] = log[k, j, LOG_RZ] = rz[j]
            called = 0
            for j in act[:m]:
                if codes[j] == RUNNING and events[j] != NOTHING:
                    some[called] = j
                    called += 1
            if called > 0:
                restart_many(M, rv, zv, pv, rz, pp, some[:called], wr)  # z = M r,  p = z,  r'z,  p'p
                for j in some[:called]:
                    S[j, RZ], S[j, PP] = rz[j], pp[j]
        for j in act[:m]:
            if codes[j] == RUNNING and not 0.0 < S[j, RZ] < float("inf"):
                codes[j] = product_code(S[j, RZ])
    return steps
