"""The V-cycle, whole: all levels in one compiled call (`layouts.Hierarchy`; twin: `reference.v_cycle`).

One sweep of Gauss-Seidel goes down through the rows before the coarse correction, one up after it; the two are adjoint,
so the cycle is symmetric. Each chunk of rows sweeps by itself, with the other chunks' unknowns as they were.

Starting from zero, the first sweep needs the entries below the diagonal only, and its residual those above: with unit
diagonal, ``(I + L) x = b`` leaves ``b - (L + I + U) x = -U x``. So a cycle reads each matrix twice: as often as
one with damped Jacobi, which needs 1.3 times the cycles. Bytes a row of level 0, for 5 entries a row (2-D Poisson):
forward 16 + 12 + 4 + 8, residual 16 + 8 + 4, restriction 28, prolongation 28 + 8, backward 32 + 8 + 24: about 200.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, REASSOCIATE, helper, inline, pair

U = np.uint64
ONE = U(1)
FEW = 5_000  # rows with couplings between chunks that one thread goes over before another has woken up


@pair(REASSOCIATE)
def largest_scaled(scale: Any, r: Any, w: Any) -> Any:
    """``max |s_i r_i|``."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        m = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            m = max(m, abs(np.float64(scale[i]) * np.float64(r[i])))
        sums[t, 0] = m
    m = 0.0
    for t in range(sums.shape[0]):
        m = max(m, sums[t, 0])
    return m


@pair(CONTRACT)
def scale_vector(scale: Any, sigma: Any, v: Any, out: Any, w: Any) -> None:
    """``out = sigma S v``."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            out[i] = np.float64(scale[i]) * np.float64(v[i]) * sigma


@inline
def entries_sum(ptr: Any, columns: Any, values: Any, x: Any, i: Any) -> Any:
    """Row i of a product, rising columns."""
    s = np.float32(0.0)
    for k in range(U(ptr[i]), U(ptr[i + ONE])):
        s += values[k] * x[columns[k]]
    return s


@helper
def forward_rows(H: Any, x: Any, b: Any, low: Any, high: Any) -> None:
    """``(I + L) x = b`` in the rows of a chunk."""
    ptr, columns, values = H.lower_ptr, H.lower_columns, H.lower
    for i in range(U(low), U(high)):
        x[i] = b[i] - entries_sum(ptr, columns, values, x, i)


@helper
def residual_rows(H: Any, x: Any, r: Any, low: Any, high: Any) -> None:
    """``r = -U x`` in the rows of a chunk: what `forward_rows` leaves of the residual."""
    ptr, columns, values = H.upper_ptr, H.upper_columns, H.upper
    for i in range(U(low), U(high)):
        r[i] = -entries_sum(ptr, columns, values, x, i)


@helper
def backward_rows(H: Any, x: Any, b: Any, low: Any, high: Any) -> None:
    """``x_i = b_i - sum_{j < i} a_ij x_j - sum_{j > i} a_ij x_j`` from the last row of a chunk to its first."""
    lower_ptr, lower_columns, lower = H.lower_ptr, H.lower_columns, H.lower
    upper_ptr, upper_columns, upper = H.upper_ptr, H.upper_columns, H.upper
    for back in range(U(low), U(high)):
        i = U(high) - ONE - (back - U(low))
        s = entries_sum(lower_ptr, lower_columns, lower, x, i)
        first, k = U(upper_ptr[i]), U(upper_ptr[i + ONE])
        while k > first:  # the nearest unknown, which was computed just before, comes last
            k -= ONE
            s += upper[k] * x[upper_columns[k]]
        x[i] = b[i] - s


@helper
def between_rows(H: Any, x: Any, out: Any, low: Any, high: Any) -> None:
    """``out -= C x`` in listed rows low to high, C being the couplings between chunks."""
    rows, ptr, columns, values = H.between_rows, H.between_ptr, H.between_columns, H.between
    for m in range(U(low), U(high)):
        out[rows[m]] -= entries_sum(ptr, columns, values, x, m)


@helper
def restrict_rows(H: Any, r: Any, b: Any, low: Any, high: Any) -> None:
    """``b = P' r`` in rows of the coarse level."""
    ptr, columns, values = H.restriction_ptr, H.restriction_columns, H.restriction
    offset = U(H.rows[1])
    for i in range(U(low), U(high)):
        b[i] = entries_sum(ptr, columns, values, r, i - offset)


@helper
def prolong_rows(H: Any, x: Any, low: Any, high: Any) -> None:
    """``x += P x`` in rows of the fine level, whose columns are unknowns of the coarse one."""
    ptr, columns, values = H.prolongation_ptr, H.prolongation_columns, H.prolongation
    for i in range(U(low), U(high)):
        x[i] += entries_sum(ptr, columns, values, x, i)


@helper
def solve_coarsest(H: Any, x: Any, b: Any, first: Any) -> None:
    """``L L' x = b`` by substitution, in fp64."""
    L, y = H.factor, H.y
    m = y.shape[0]
    for i in range(m):
        s = np.float64(b[first + i])
        for j in range(i):
            s -= L[i, j] * y[j]
        y[i] = s / L[i, i]
    for back in range(m):
        i = m - 1 - back
        s = y[i] / L[i, i]
        y[i] = s
        for j in range(i):
            y[j] -= L[i, j] * s
        x[first + i] = s


# The passes of a cycle.
FORWARD, RESIDUAL_BETWEEN, RESTRICT, COARSEST, PROLONG, BETWEEN, BACKWARD = range(7)


def schedule(levels: int) -> Any:
    """The passes of a V-cycle in their order, (passes, 2): which, and on which level."""
    fine = range(levels - 1)
    down = [(step, l) for l in fine for step in (FORWARD, RESIDUAL_BETWEEN, RESTRICT)]
    up = [(step, l) for l in reversed(fine) for step in (PROLONG, BETWEEN, BACKWARD)]
    return np.array([*down, (COARSEST, levels - 1), *up], np.int64)


@helper
def make_pass(H: Any, step: Any, level: Any, t: Any) -> None:
    """One chunk's part of a pass. What one pass writes is read by other chunks in the next at the earliest."""
    parts = H.bounds.shape[1] - 1
    if step == COARSEST:
        if t == 0:
            solve_coarsest(H, H.x, H.b, H.rows[level])
        return
    low, high = H.bounds[level, t], H.bounds[level, t + 1]
    if step == FORWARD:
        forward_rows(H, H.x, H.b, low, high)
        residual_rows(H, H.x, H.r, low, high)
    elif step == RESIDUAL_BETWEEN:
        between_rows(H, H.x, H.r, H.between_bounds[level, t], H.between_bounds[level, t + 1])
    elif step == RESTRICT:
        first, count = H.rows[level + 1], H.rows[level + 2] - H.rows[level + 1]
        restrict_rows(H, H.r, H.b, first + t * count // parts, first + (t + 1) * count // parts)
    elif step == PROLONG:
        prolong_rows(H, H.x, low, high)
    elif step == BETWEEN:
        between_rows(H, H.x, H.b, H.between_bounds[level, t], H.between_bounds[level, t + 1])
    elif step == BACKWARD:
        backward_rows(H, H.x, H.b, low, high)


@helper
def takes_threads(H: Any, step: Any, level: Any) -> Any:
    """Whether a pass is worth waking threads for: not where one chunk has all, or there are few couplings between."""
    parts = H.bounds.shape[1] - 1
    if step == COARSEST or H.bounds[level, 1] == H.bounds[level, parts]:
        return False
    if step == RESIDUAL_BETWEEN or step == BETWEEN:
        return H.between_bounds[level, parts] - H.between_bounds[level, 0] > FEW
    return True


@pair(CONTRACT)
def v_cycle(H: Any) -> None:
    """``x = V b`` on level 0 of a hierarchy."""
    passes = H.schedule
    parts = H.bounds.shape[1] - 1
    for k in range(passes.shape[0]):
        step, level = passes[k, 0], passes[k, 1]
        if takes_threads(H, step, level):
            for t in prange(parts):
                make_pass(H, step, level, t)
        else:
            for t in range(parts):
                make_pass(H, step, level, t)
