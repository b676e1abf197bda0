"""Conjugate gradients for many small systems: the texts, written once like those of `loops`.

Here a system fits in first-level cache and its iteration takes a tenth of a microsecond, so that what matters is what
stands between two products. Each system is solved by itself, from its first iteration to its last; the systems are
shared over the threads. (The other design, eight systems interleaved so that the lanes of a vector are systems, reads a
matrix that no longer fits in that cache, and waits for the slowest of the eight: six times slower at n = 32.)

The primitives are bound by the backend (`cgopt.kernels.cpu.batched`); those imported here are their specification.
"""

from __future__ import annotations

from typing import Any

from .loops import (
    BEST,
    CONVERGED,
    INDEFINITE,
    MAXITER,
    NORM_A,
    NOTHING,
    PATIENCE,
    PP,
    RR,
    RUNNING,
    RZ,
    TARGET,
    UNIT,
    curvature_code,
    judge,
    note_step,
    product_code,
)
from .reference import asymmetry, look, multiply, square, start, step, take, true_residual, turn, weigh

prange = range

# Codes of a system that is not solved here
NOT_FINITE, NOT_SYMMETRIC, EXTREME = 100, 101, 102

LOW, HIGH = 1e-60, 1e60  # norms of A and b between which no square that is formed leaves the range of doubles
LOW_SINGLE, HIGH_SINGLE = 1e-12, 1e12  # the same for single precision


def solve_small(A: Any, inverse: Any, b: Any, x: Any, r: Any, p: Any, q: Any, s: Any, maxiter: Any) -> Any:
    """Solve one system, x being the first iterate.

    Parameters
    ----------
    A : Dense or CSR
    inverse : (n,) array
        Diagonal preconditioner.
    r, p, q : (n,) arrays
        Workspace.
    s : (SCALARS,) float64
        With TARGET, UNIT, NORM_A and PATIENCE set and the rest zero. At the end ``s[RR]`` is the true r'r.

    Returns
    -------
    code, iterations : int
    """
    s[RR] = s[BEST] = true_residual(A, b, x, r)  # r = b - A x,  r'r
    if s[RR] <= s[TARGET]:
        return CONVERGED, 0
    code, k, again = RUNNING, 0, True
    while k < maxiter:
        if again:
            s[RZ], s[PP] = start(inverse, r, p)  # p = M r,  r'p,  p'p
            again = False
        rz_old = s[RZ]
        if not 0.0 < rz_old < float("inf"):
            code = product_code(rz_old)
            break
        pq = multiply(A, p, q)  # q = A p,  p'q
        if not 0.0 < pq < float("inf"):
            code = curvature_code(pq, s)
            break
        alpha = rz_old / pq  # alpha = r'z / p'Ap
        rr, rz, xx = step(inverse, alpha, p, q, r, x)  # x += alpha p,  r -= alpha q,  r'r,  r'M r,  x'x
        pp = turn(inverse, rz / rz_old, r, p)  # p = M r + (r'z / r'z before) p,  p'p
        k += 1
        event = note_step(alpha, rr, rz, xx, pp, s)
        if event != NOTHING:
            code, again = judge(true_residual(A, b, x, r), event, s)  # r = b - A x,  r'r
            if code != RUNNING:
                break
            if not again:
                s[RZ] = weigh(inverse, r)  # r'M r;  p is kept
    if code != CONVERGED:
        s[RR] = true_residual(A, b, x, r)
        if code == RUNNING:
            code = MAXITER
        if s[RR] <= s[TARGET]:
            code = CONVERGED
    return code, k


def solve_batch(  # type: ignore[no-untyped-def]
    A, mirror, jacobi, check, b, x, rtol, atol, maxiter, unit, patience, bounds, V, S, codes, iterations, rr
):
    """Solve the systems of a batch, x being the first iterates.

    Parameters
    ----------
    A : Dense with (m, n, n) values, or CSR with (m, entries) data
    mirror : (entries,) integers
        For CSR: where the entry that mirrors each one stands, or -1.
    jacobi, check : bool
        Whether to precondition by the diagonals, and to test each matrix for symmetry.
    b, x : (m, n) arrays
    bounds : (chunks + 1,) integers
        Chunk t holds the systems ``bounds[t]`` to ``bounds[t + 1]``.
    V : (chunks, 4, n) array
        Workspace.
    S : (chunks, SCALARS) float64
    codes, iterations, rr : (m,) arrays
        Written: how each system ended, after how many iterations, and its true r'r.
    """
    low, high = (LOW, HIGH) if unit < 1e-10 else (LOW_SINGLE, HIGH_SINGLE)
    for t in prange(bounds.shape[0] - 1):
        s = S[t]
        r, p, q, inverse = V[t, 0], V[t, 1], V[t, 2], V[t, 3]
        for k in range(bounds[t], bounds[t + 1]):
            Ak, bk, xk = take(A, k), b[k], x[k]
            norm, bad_row = look(Ak, inverse, jacobi)  # largest row sum, first diagonal entry <= 0; inverse
            codes[k], iterations[k], rr[k] = RUNNING, 0, 0.0
            bb = square(bk)  # b'b
            if not norm < float("inf"):
                codes[k] = NOT_FINITE
            elif not bb < float("inf") or not (bb == 0.0 or low * low < bb < high * high) or not low < norm < high:
                codes[k] = EXTREME
            elif check and asymmetry(Ak, mirror) > unit**0.5 * norm:
                codes[k] = NOT_SYMMETRIC
            elif bb == 0.0:
                codes[k] = CONVERGED
                xk[:] = 0.0
            elif bad_row >= 0:
                codes[k] = INDEFINITE
                rr[k] = true_residual(Ak, bk, xk, r)
            else:
                s[:] = 0.0
                s[TARGET] = max(rtol * rtol * bb, atol * atol)
                s[UNIT], s[NORM_A], s[PATIENCE] = unit, norm, patience
                codes[k], iterations[k] = solve_small(Ak, inverse, bk, xk, r, p, q, s, maxiter)
                rr[k] = s[RR]
