"""The same primitives for k systems with one matrix: vectors are ``(k, n)``, each system's contiguous.

A product goes over the rows tile by tile, and over the systems within a tile: the tile's entries come from memory once
and serve every system from cache, while each system's loop is the one for a single vector, vectorised as that is.
(Vectors as rows of k numbers, the other way to read A once, took three times as long: LLVM makes little of loops
over a number of columns that it does not know.) Systems that have ended are not in `act`, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from ..loops import bind
from .compile import CONTRACT, REASSOCIATE, helper, pair
from .products import (
    rows_csr,
    rows_dense,
    rows_dia,
    rows_half_dia,
    rows_sorted,
    true_rows_csr,
    true_rows_dense,
    true_rows_dia,
    true_rows_half_dia,
    true_rows_sorted,
)
from .updates import real_product

U = np.uint64
TILE = 1024  # rows; a multiple of the window of `SortedCSR`. Ten entries a row make 120 kB: second-level cache


@helper
def collect(sums: Any, first: int, act: Any, out: Any) -> None:
    """``out[j]`` for j in act: the chunks' sums of columns ``first + j``, added in their order."""
    for a in range(act.shape[0]):
        j = act[a]
        s = 0.0
        for t in range(sums.shape[0]):
            s += sums[t, first + j]
        out[j] = s


@helper
def clear(sums: Any, t: int) -> None:
    """Zero the sums of chunk t."""
    for j in range(sums.shape[1]):
        sums[t, j] = 0.0


rows: Callable[..., Any] = rows_csr  # `bind` puts the layout's own in its place


def _apply_dot_many(A: Any, p: Any, q: Any, pq: Any, act: Any, w: Any) -> None:
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        clear(sums, t)
        low = bounds[t]
        while low < bounds[t + 1]:
            high = min(low + TILE, bounds[t + 1])
            for a in range(act.shape[0]):
                j = act[a]
                sums[t, j] += rows(A, p[j], q[j], low, high)
            low = high
    collect(sums, 0, act, pq)


def _residual_many(A: Any, b: Any, x: Any, r: Any, rr: Any, act: Any, w: Any) -> None:
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        clear(sums, t)
        for a in range(act.shape[0]):
            j = act[a]
            sums[t, j] = rows(A, b[j], 1.0, x[j], r[j], bounds[t], bounds[t + 1])
    collect(sums, 0, act, rr)


def product_kernel(name: str, rows: Callable[..., Any]) -> tuple[Any, Any]:
    """``apply_dot_many_<name>(A, p, q, pq, act, w)``: ``q_j = A p_j``, ``pq[j] = p_j'q_j`` for j in act."""
    return pair(CONTRACT)(bind(_apply_dot_many, f"apply_dot_many_{name}", {"rows": rows}))


def residual_kernel(name: str, rows: Callable[..., Any]) -> tuple[Any, Any]:
    """``residual_many_<name>(A, b, x, r, rr, act, w)``: ``r_j = b_j - A x_j``, ``rr[j] = r_j'r_j`` for j in act."""
    return pair(CONTRACT)(bind(_residual_many, f"residual_many_{name}", {"rows": rows}))


apply_dot_many_csr = product_kernel("csr", rows_csr)
apply_dot_many_sorted = product_kernel("sorted", rows_sorted)
apply_dot_many_dense = apply_dot_many_lower = product_kernel("dense", rows_dense)
apply_dot_many_dia = product_kernel("dia", rows_dia)
apply_dot_many_half_dia = product_kernel("half_dia", rows_half_dia)
residual_many_csr = residual_kernel("csr", true_rows_csr)
residual_many_sorted = residual_kernel("sorted", true_rows_sorted)
residual_many_dense = residual_many_lower = residual_kernel("dense", true_rows_dense)
residual_many_dia = residual_kernel("dia", true_rows_dia)
residual_many_half_dia = residual_kernel("half_dia", true_rows_half_dia)


@pair(REASSOCIATE)
def dot_many(a: Any, b: Any, ab: Any, act: Any, w: Any) -> None:
    """``ab[j] = Re a_j^H b_j`` for j in act, in fp64."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            aj, bj = a[j], b[j]
            s = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                s += real_product(aj[i], bj[i])
            sums[t, j] = s
    collect(sums, 0, act, ab)


@pair(REASSOCIATE)
def update_residual_many_identity(
    M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, act: Any, w: Any
) -> None:
    """``r_j -= alpha[j] q_j``; ``rr[j] = rz[j] = r_j'r_j`` for j in act."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            rj, qj, a = r[j], q[j], r.dtype.type(alpha[j])
            s = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                ri = rj[i] - a * qj[i]
                rj[i] = ri
                s += np.float64(ri) * np.float64(ri)
            sums[t, j] = s
    collect(sums, 0, act, rr)
    collect(sums, 0, act, rz)


@pair(REASSOCIATE)
def update_residual_many_diagonal(
    M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, act: Any, w: Any
) -> None:
    """``r_j -= alpha[j] q_j``; ``rr[j] = r_j'r_j``, ``rz[j] = r_j'(M r_j)`` for j in act; z is not stored."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            rj, qj, a = r[j], q[j], r.dtype.type(alpha[j])
            s = 0.0
            sm = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                ri = rj[i] - a * qj[i]
                rj[i] = ri
                square = np.float64(ri) * np.float64(ri)
                s += square
                sm += square * np.float64(M[i])
            sums[t, j] = s
            sums[t, r.shape[0] + j] = sm
    collect(sums, 0, act, rr)
    collect(sums, r.shape[0], act, rz)


@pair(REASSOCIATE)
def update_direction_many_identity(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, act: Any, w: Any
) -> None:
    """``x_j += alpha[j] p_j``, ``p_j = r_j + beta[j] p_j``; ``xx[j] = x_j'x_j``, ``pp[j] = p_j'p_j`` for j in act."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            rj, pj, xj = r[j], p[j], x[j]
            a, b = x.dtype.type(alpha[j]), x.dtype.type(beta[j])
            sx = 0.0
            sp = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                pi = pj[i]
                xi = xj[i] + a * pi
                xj[i] = xi
                pi = rj[i] + b * pi
                pj[i] = pi
                sx += np.float64(xi) * np.float64(xi)
                sp += np.float64(pi) * np.float64(pi)
            sums[t, j] = sx
            sums[t, x.shape[0] + j] = sp
    collect(sums, 0, act, xx)
    collect(sums, x.shape[0], act, pp)


@pair(REASSOCIATE)
def update_direction_many_diagonal(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, act: Any, w: Any
) -> None:
    """``x_j += alpha[j] p_j``, ``p_j = M r_j + beta[j] p_j``; the same sums."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            rj, pj, xj = r[j], p[j], x[j]
            a, b = x.dtype.type(alpha[j]), x.dtype.type(beta[j])
            sx = 0.0
            sp = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                pi = pj[i]
                xi = xj[i] + a * pi
                xj[i] = xi
                pi = M[i] * rj[i] + b * pi
                pj[i] = pi
                sx += np.float64(xi) * np.float64(xi)
                sp += np.float64(pi) * np.float64(pi)
            sums[t, j] = sx
            sums[t, x.shape[0] + j] = sp
    collect(sums, 0, act, xx)
    collect(sums, x.shape[0], act, pp)


@pair(REASSOCIATE)
def restart_many_identity(M: Any, r: Any, z: Any, p: Any, rz: Any, pp: Any, act: Any, w: Any) -> None:
    """``p_j = r_j``; ``rz[j] = r_j'r_j``, ``pp[j] = p_j'p_j`` for j in act."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            rj, pj = r[j], p[j]
            s = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                pj[i] = rj[i]
                s += np.float64(rj[i]) * np.float64(rj[i])
            sums[t, j] = s
    collect(sums, 0, act, rz)
    collect(sums, 0, act, pp)


@pair(REASSOCIATE)
def restart_many_diagonal(M: Any, r: Any, z: Any, p: Any, rz: Any, pp: Any, act: Any, w: Any) -> None:
    """``p_j = M r_j``; ``rz[j] = r_j'p_j``, ``pp[j] = p_j'p_j`` for j in act."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        for k in range(act.shape[0]):
            j = act[k]
            rj, pj = r[j], p[j]
            s = 0.0
            sp = 0.0
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                zi = M[i] * rj[i]
                pj[i] = zi
                s += np.float64(rj[i]) * np.float64(zi)
                sp += np.float64(zi) * np.float64(zi)
            sums[t, j] = s
            sums[t, r.shape[0] + j] = sp
    collect(sums, 0, act, rz)
    collect(sums, r.shape[0], act, pp)
