"""Vector updates of CG, fused: three passes an iteration with the product's own.

Streams of 8 n bytes (fp64) an iteration, a store to a line that was not read counted twice:
product 3 (p, q and its allocation) + update_residual 3 (r twice, q) + update_direction 5 (x and p twice,
r) = 11, plus the matrix; a diagonal preconditioner reads its vector twice more: 13; a general one writes
z once and reads it twice: 14, plus its own work. (Unfused, as in SciPy: 26.)

Vectors arrive as real arrays: a complex vector as its real view, all scalars of CG being real. Loops run on
unsigned indices, without which numba tests each for being negative and LLVM does not vectorise.

Each kernel names ``bounds, sums = w.bounds, w.sums`` before its loop. Written as ``w.sums[t, 0] = ...`` inside a
`prange`, the store can be dropped: numba's dead-code pass does not see that the attribute outlives the loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import REASSOCIATE, chunk, compiled, helper, inline, pair
from .meeting import meet, owned

U = np.uint64

# Columns of a Work's partial sums. Each kernel has its own: a thread that is ahead of its team may write the next
# kernel's sums while another still adds up the last one's.
PQ, RR, RZ, XX, PP, TRUE, START, START_PP = range(8)


@helper
def total(sums: Any, column: int) -> Any:
    """Add the chunks' partial sums in their order."""
    out = 0.0
    for t in range(sums.shape[0]):
        out += sums[t, column]
    return out


@inline
def real_product(a: Any, b: Any) -> Any:
    """Real part of ``conj(a) b`` in fp64; for real arguments the second term folds away."""
    return np.float64(a.real) * np.float64(b.real) + np.float64(a.imag) * np.float64(b.imag)


@pair(REASSOCIATE)
def dot(a: Any, b: Any, w: Any) -> Any:
    """Real part of ``a^H b`` in fp64."""
    bounds, sums = w.bounds, w.sums
    low, high = owned(w)
    for t in prange(low, high):
        ab = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            ab += real_product(a[i], b[i])
        sums[t, PQ] = ab
    meet(w)
    return total(sums, PQ)


@pair(REASSOCIATE)
def update_residual_identity(M: Any, alpha: Any, q: Any, r: Any, z: Any, w: Any) -> Any:
    """``r -= alpha q``; returns ``r'r`` twice, since z is r."""
    bounds, sums = w.bounds, w.sums
    a = r.dtype.type(alpha)
    low, high = owned(w)
    for t in prange(low, high):
        rr = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            ri = r[i] - a * q[i]
            r[i] = ri
            rr += np.float64(ri) * np.float64(ri)
        sums[t, RR] = rr
    meet(w)
    rr = total(sums, RR)
    return rr, rr


@pair(REASSOCIATE)
def update_residual_diagonal(M: Any, alpha: Any, q: Any, r: Any, z: Any, w: Any) -> Any:
    """``r -= alpha q``; returns ``r'r``, ``r'(M r)``; z is not stored."""
    bounds, sums = w.bounds, w.sums
    a = r.dtype.type(alpha)
    low, high = owned(w)
    for t in prange(low, high):
        rr = 0.0
        rz = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            ri = r[i] - a * q[i]
            r[i] = ri
            square = np.float64(ri) * np.float64(ri)
            rr += square
            rz += square * np.float64(M[i])
        sums[t, RR] = rr
        sums[t, RZ] = rz
    meet(w)
    return total(sums, RR), total(sums, RZ)


@chunk(REASSOCIATE)
def add_direction(a: Any, b: Any, z: Any, p: Any, x: Any, low: Any, high: Any) -> Any:
    """``x += a p``, ``p = z + b p``; the parts of ``x'x``, ``p'p``."""
    xx = 0.0
    pp = 0.0
    for i in range(U(low), U(high)):
        pi = p[i]
        xi = x[i] + a * pi
        x[i] = xi
        pi = z[i] + b * pi
        p[i] = pi
        xx += np.float64(xi) * np.float64(xi)
        pp += np.float64(pi) * np.float64(pi)
    return xx, pp


@pair(REASSOCIATE)
def update_direction_identity(M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, w: Any) -> Any:
    """``x += alpha p``, ``p = r + beta p``; returns ``x'x``, ``p'p``."""
    bounds, sums = w.bounds, w.sums
    a = x.dtype.type(alpha)
    b = x.dtype.type(beta)
    low, high = owned(w)
    for t in prange(low, high):
        sums[t, XX], sums[t, PP] = add_direction(a, b, r, p, x, bounds[t], bounds[t + 1])
    meet(w)
    return total(sums, XX), total(sums, PP)


@pair(REASSOCIATE)
def update_direction_diagonal(M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, w: Any) -> Any:
    """``x += alpha p``, ``p = M r + beta p``; returns ``x'x``, ``p'p``."""
    bounds, sums = w.bounds, w.sums
    a = x.dtype.type(alpha)
    b = x.dtype.type(beta)
    low, high = owned(w)
    for t in prange(low, high):
        xx = 0.0
        pp = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            pi = p[i]
            xi = x[i] + a * pi
            x[i] = xi
            pi = M[i] * r[i] + b * pi
            p[i] = pi
            xx += np.float64(xi) * np.float64(xi)
            pp += np.float64(pi) * np.float64(pi)
        sums[t, XX] = xx
        sums[t, PP] = pp
    meet(w)
    return total(sums, XX), total(sums, PP)


@pair(REASSOCIATE)
def restart_identity(M: Any, r: Any, z: Any, p: Any, w: Any) -> Any:
    """``p = r``; returns ``r'r``, ``p'p``."""
    bounds, sums = w.bounds, w.sums
    low, high = owned(w)
    for t in prange(low, high):
        rr = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            p[i] = r[i]
            rr += np.float64(r[i]) * np.float64(r[i])
        sums[t, START] = rr
    meet(w)
    rr = total(sums, START)
    return rr, rr


@pair(REASSOCIATE)
def restart_diagonal(M: Any, r: Any, z: Any, p: Any, w: Any) -> Any:
    """``p = M r``; returns ``r'p``, ``p'p``."""
    bounds, sums = w.bounds, w.sums
    low, high = owned(w)
    for t in prange(low, high):
        rz = 0.0
        pp = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            zi = M[i] * r[i]
            p[i] = zi
            rz += np.float64(r[i]) * np.float64(zi)
            pp += np.float64(zi) * np.float64(zi)
        sums[t, START] = rz
        sums[t, START_PP] = pp
    meet(w)
    return total(sums, START), total(sums, START_PP)


def _solve_diagonal(diagonal: Any, inverse: Any, b: Any, x: Any) -> Any:
    """``x = M b`` for the inverse M of a diagonal A; with ``r = b - A x``: ``b'b``, ``r'r``, ``b'M b``, ``r'M r``."""
    bb = 0.0
    rr = 0.0
    bx = 0.0
    rz = 0.0
    for i in range(U(x.shape[0])):
        xi = inverse[i] * b[i]
        ri = b[i] - diagonal[i] * xi
        x[i] = xi
        bb += np.float64(b[i]) * np.float64(b[i])
        rr += np.float64(ri) * np.float64(ri)
        bx += np.float64(b[i]) * np.float64(xi)
        rz += np.float64(ri) * np.float64(inverse[i] * ri)
    return bb, rr, bx, rz


solve_diagonal = compiled(_solve_diagonal, threaded=False, fastmath=REASSOCIATE)
