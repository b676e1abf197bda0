"""Triangular sweeps: preconditioners that factor, applied inside the passes of CG.

A sweep goes through the rows in the factor's own order, part by part: the parts do not see each other, and run on
threads; the separators follow (forward) or precede them (backward). Each row waits for the one before it, about twenty
cycles, so that what else the pass does (updates, sums) is nearly free.

Eisenstat's trick (SIAM J. Sci. Stat. Comput. 2, 1981) in the form used here: with ``(I + L) y = r``, ``(I + L') z = y``
and ``A = L + I + D + L'`` (all scaled by W on both sides), ``A z = y + L z + D z``. The backward sweep has each row of
L' at hand when it finishes ``z_i``, and adds that row times ``z_i`` to L z: the product costs no further pass over the
matrix, and with ``A p = A z + beta A p_old`` an iteration reads each off-diagonal entry twice, as one plain product
does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, REASSOCIATE, chunk, compiled, helper, inline, pair
from .meeting import meet, owned
from .updates import PP, XX, add_direction, restart_identity, total

U = np.uint64
ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)
PQ = 7  # the place in a thread's sums of its Work where `update_direction_eisenstat` leaves p'q


@inline
def less_entries(s: Any, data: Any, indices: Any, y: Any, k: Any, end: Any) -> Any:
    """``s`` less the sum of ``data[k] y[indices[k]]`` over a row, in four sums: one would wait four cycles an entry.

    What depends on the row before comes last.
    """
    if k + FOUR <= end:
        s0 = data[k] * y[indices[k]]
        s1 = data[k + ONE] * y[indices[k + ONE]]
        s2 = data[k + TWO] * y[indices[k + TWO]]
        s3 = data[k + THREE] * y[indices[k + THREE]]
        k += FOUR
        while k + FOUR <= end:
            s0 += data[k] * y[indices[k]]
            s1 += data[k + ONE] * y[indices[k + ONE]]
            s2 += data[k + TWO] * y[indices[k + TWO]]
            s3 += data[k + THREE] * y[indices[k + THREE]]
            k += FOUR
        s -= (s0 + s1) + (s2 + s3)
    while k < end:
        s -= data[k] * y[indices[k]]
        k += ONE
    return s


@helper
def shared_out(w: Any, count: int) -> Any:
    """The factor's parts that a thread works on, of `count`, from the first to before the last."""
    if w.own < 0:
        return 0, count
    chunks = w.sums.shape[0]
    return w.own * count // chunks, (w.own + 1) * count // chunks


@chunk(CONTRACT)
def forward_factor(M: Any, alpha: Any, q: Any, r: Any, low: Any, high: Any) -> Any:
    """``r -= alpha q``, ``(I + L) y = C r``; the parts of ``r'r`` and ``y'y``."""
    order, scale, indptr, indices, data, y = M.order, M.scale, M.indptr, M.indices, M.data, M.y
    rr = 0.0
    yy = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        o = order[i]
        ri = r[o] - alpha * q[o]
        r[o] = ri
        end = U(indptr[i + ONE])
        yi = less_entries(ri * scale[i], data, indices, y, k, end)
        k = end
        y[i] = yi
        rr += np.float64(ri) * np.float64(ri)
        yy += np.float64(yi) * np.float64(yi)
    return rr, yy


@chunk(CONTRACT)
def backward_factor(M: Any, z: Any, low: Any, high: Any) -> None:
    """``(I + L') z = y``, ``z = C z``; y is used up."""
    order, scale, indptr, indices, data, y = M.order, M.scale, M.indptr, M.indices, M.data, M.y
    i = U(high)
    end = U(indptr[high])
    while i > U(low):
        i -= ONE
        zi = y[i]
        begin = U(indptr[i])
        for k in range(begin, end):
            y[indices[k]] -= data[k] * zi
        end = begin
        z[order[i]] = zi * scale[i]


@pair(CONTRACT)
def update_residual_factor(M: Any, alpha: Any, q: Any, r: Any, z: Any, w: Any) -> Any:
    """``r -= alpha q``, ``z = M r``; returns ``r'r``, ``r'z``, the latter as the square of ``(I + L)^-1 C r``."""
    parts, sums = M.parts, M.sums
    count, n = parts.shape[0] - 1, M.order.shape[0]
    low, high = shared_out(w, count)
    a = r.dtype.type(alpha)
    meet(w)  # parts take rows of all chunks
    for t in prange(low, high):
        sums[t, 0], sums[t, 1] = forward_factor(M, a, q, r, parts[t], parts[t + 1])
    meet(w)
    if w.own <= 0:
        sums[count, 0], sums[count, 1] = forward_factor(M, a, q, r, parts[count], n)
        backward_factor(M, z, parts[count], n)
    meet(w)
    rr, yy = total(sums, 0), total(sums, 1)
    for t in prange(low, high):
        backward_factor(M, z, parts[t], parts[t + 1])
    meet(w)
    return rr, yy


# A solve starts seldom: its sweeps run on as many threads as its loop does, and on one where nobody's loop is compiled.
both_sweeps, copy_direction = update_residual_factor[0], restart_identity[0]


@pair(REASSOCIATE)
def update_direction_factor(M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, w: Any) -> Any:
    """``x += alpha p``, ``p = z + beta p``; returns ``x'x``, ``p'p``."""
    bounds, sums = w.bounds, w.sums
    a = x.dtype.type(alpha)
    b = x.dtype.type(beta)
    low, high = owned(w)
    for t in prange(low, high):
        sums[t, XX], sums[t, PP] = add_direction(a, b, z, p, x, bounds[t], bounds[t + 1])
    meet(w)
    return total(sums, XX), total(sums, PP)


@pair(REASSOCIATE)
def restart_factor(M: Any, r: Any, z: Any, p: Any, w: Any) -> Any:
    """``z = M r``, ``p = z``; returns ``r'z``, ``p'p``."""
    _, rz = both_sweeps(M, 0.0, r, r, z, w)
    _, pp = copy_direction(M, z, z, p, w)
    return rz, pp


# ---- Eisenstat ----


@chunk(CONTRACT)
def forward_eisenstat(M: Any, alpha: Any, r: Any, low: Any, high: Any) -> Any:
    """``r -= alpha A p``, ``(I + L) y = W^-1 r``; the parts of ``r'r`` and ``y'y``."""
    order, weight, inverse, y, q = M.order, M.weight, M.inverse, M.y, M.q
    indptr, indices, data = M.lower_ptr, M.lower_columns, M.lower
    rr = 0.0
    yy = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        o = order[i]
        ri = r[o] - alpha * weight[i] * q[i]
        r[o] = ri
        end = U(indptr[i + ONE])
        yi = less_entries(ri * inverse[i], data, indices, y, k, end)
        k = end
        y[i] = yi
        rr += np.float64(ri) * np.float64(ri)
        yy += np.float64(yi) * np.float64(yi)
    return rr, yy


@chunk(CONTRACT)
def backward_eisenstat(M: Any, alpha: Any, beta: Any, p: Any, x: Any, low: Any, high: Any) -> Any:
    """``(I + L') z = y``, ``q = A z + beta q``, ``x += alpha p``, ``p = W^-1 z + beta p``; ``x'x``, ``p'p``.

    z takes the place of y; q lacks what rows of other parts add to it.
    """
    order, inverse, shift, y, q = M.order, M.inverse, M.shift, M.y, M.q
    indptr, indices, data = M.upper_ptr, M.upper_columns, M.upper
    xx = 0.0
    pp = 0.0
    i = U(high)
    own = U(high)
    end = U(indptr[high])
    while i > U(low):
        i -= ONE
        begin = U(indptr[i])
        yi = y[i]
        zi = less_entries(yi, data, indices, y, begin, end)
        y[i] = zi
        q[i] = beta * q[i] + yi + shift[i] * zi
        for k in range(begin, end):
            if U(indices[k]) < own:
                q[indices[k]] += data[k] * zi
        end = begin
        o = order[i]
        pi = p[o]
        xi = x[o] + alpha * pi
        x[o] = xi
        pi = inverse[i] * zi + beta * pi
        p[o] = pi
        xx += np.float64(xi) * np.float64(xi)
        pp += np.float64(pi) * np.float64(pi)
    return xx, pp


@chunk(CONTRACT)
def finish_separators(M: Any, first: Any) -> None:
    """What rows of the parts add to the separators' q: the separators' rows of L, times z."""
    indptr, indices, data, z, q = M.lower_ptr, M.lower_columns, M.lower, M.y, M.q
    for i in range(U(first), U(q.shape[0])):
        for k in range(U(indptr[i]), U(indptr[i + ONE])):
            if U(indices[k]) < U(first):
                q[i] += data[k] * z[indices[k]]


@chunk(REASSOCIATE)
def dot_with_product(M: Any, p: Any, low: Any, high: Any) -> Any:
    """The part of ``p'A p``."""
    order, weight, q = M.order, M.weight, M.q
    pq = 0.0
    for i in range(U(low), U(high)):
        pq += np.float64(p[order[i]]) * np.float64(weight[i] * q[i])
    return pq


@pair(CONTRACT)
def update_residual_eisenstat(M: Any, alpha: Any, q: Any, r: Any, z: Any, w: Any) -> Any:
    """``r -= alpha A p`` with the A p that M holds, half of ``z = M r``; returns ``r'r``, ``r'z``."""
    parts, sums = M.parts, M.sums
    count = parts.shape[0] - 1
    low, high = shared_out(w, count)
    a = r.dtype.type(alpha)
    meet(w)  # (the product before it has no meeting, and somebody may still add up these sums)
    for t in prange(low, high):
        sums[t, 0], sums[t, 1] = forward_eisenstat(M, a, r, parts[t], parts[t + 1])
    meet(w)
    if w.own <= 0:
        sums[count, 0], sums[count, 1] = forward_eisenstat(M, a, r, parts[count], M.order.shape[0])
    meet(w)
    return total(sums, 0), total(sums, 1)


@pair(CONTRACT)
def update_direction_eisenstat(M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, w: Any) -> Any:
    """The other half of ``z = M r``, ``x += alpha p``, ``p = z + beta p``, A p, and p'Ap; returns ``x'x``, ``p'p``."""
    parts, sums, work = M.parts, M.sums, w.sums
    count, n = parts.shape[0] - 1, M.order.shape[0]
    low, high = shared_out(w, count)
    first, last = owned(w)
    a = x.dtype.type(alpha)
    b = x.dtype.type(beta)
    if w.own <= 0:
        sums[count, XX], sums[count, PP] = backward_eisenstat(M, a, b, p, x, parts[count], n)
    meet(w)
    for t in prange(low, high):
        sums[t, XX], sums[t, PP] = backward_eisenstat(M, a, b, p, x, parts[t], parts[t + 1])
    meet(w)
    if w.own <= 0:
        finish_separators(M, parts[count])
        sums[count, PQ] = dot_with_product(M, p, parts[count], n)
    for t in prange(low, high):
        sums[t, PQ] = dot_with_product(M, p, parts[t], parts[t + 1])
    meet(w)
    for t in range(first, last):
        work[t, PQ] = total(sums, PQ)
    return total(sums, XX), total(sums, PP)


first_sweep, second_sweep = update_residual_eisenstat[0], update_direction_eisenstat[0]


@pair(CONTRACT)
def restart_eisenstat(M: Any, r: Any, z: Any, p: Any, w: Any) -> Any:
    """``p = M r``, A p and p'Ap; returns ``r'p``, ``p'p``."""
    q = M.q
    if w.own <= 0:
        for i in range(U(q.shape[0])):
            q[i] = r.dtype.type(0)
            p[i] = r.dtype.type(0)
    _, rz = first_sweep(M, 0.0, r, r, z, w)
    # the direction is zero: nothing is added to what stands in for x
    _, pp = second_sweep(M, 0.0, 0.0, r, z, p, r, w)
    return rz, pp


def _apply_dot_eisenstat(A: Any, p: Any, q: Any, w: Any) -> Any:
    """``p'Ap``, which is there already."""
    sums = w.sums
    return sums[max(w.own, 0), PQ]


apply_dot_eisenstat = (compiled(_apply_dot_eisenstat, threaded=False),) * 2
