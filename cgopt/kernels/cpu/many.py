"""The same primitives for k systems with one matrix: vectors are C-contiguous ``(n, k)``.

One pass over A serves all columns, and the loop over columns is the vector loop, so that neither gathers nor
short rows stand in its way. A column with alpha = 0 has ended: its r, x and p are left as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ..layouts import WINDOW
from .compile import REASSOCIATE, helper, inline, pair

U = np.uint64
ONE = U(1)
MASK = U(WINDOW - 1)


@inline
def real_product(a: Any, b: Any) -> Any:
    """Real part of ``conj(a) b`` in fp64."""
    return np.float64(a.real) * np.float64(b.real) + np.float64(a.imag) * np.float64(b.imag)


@helper
def collect(sums: Any, first: int, out: Any) -> None:
    """``out[j]``: the chunks' sums of columns ``first + j`` added in their order."""
    for j in range(out.shape[0]):
        s = 0.0
        for t in range(sums.shape[0]):
            s += sums[t, first + j]
        out[j] = s


@inline
def add_row(indices: Any, data: Any, p: Any, q: Any, row: Any, k: Any, end: Any) -> None:
    """``q[row] = sum over the row's entries of data[k] p[indices[k]]``; two entries a pass over the columns."""
    columns = U(q.shape[1])
    zero = q.dtype.type(0)
    for j in range(columns):
        q[row, j] = zero
    while k + ONE < end:
        v0, c0, v1, c1 = data[k], indices[k], data[k + ONE], indices[k + ONE]
        for j in range(columns):
            q[row, j] += v0 * p[c0, j] + v1 * p[c1, j]
        k += ONE + ONE
    if k < end:
        v0, c0 = data[k], indices[k]
        for j in range(columns):
            q[row, j] += v0 * p[c0, j]


@pair(REASSOCIATE)
def apply_dot_many_csr(A: Any, p: Any, q: Any, pq: Any, w: Any) -> None:
    """``Q = A P``, ``pq[j] = p_j'q_j`` for CSR."""
    bounds, sums = w.bounds, w.sums
    indptr, indices, data = A.indptr, A.indices, A.data
    for t in prange(sums.shape[0]):
        columns = U(q.shape[1])
        for j in range(columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            add_row(indices, data, p, q, i, U(indptr[i]), U(indptr[i + ONE]))
            for j in range(columns):
                sums[t, j] += real_product(p[i, j], q[i, j])
    collect(sums, 0, pq)


@pair(REASSOCIATE)
def apply_dot_many_sorted(A: Any, p: Any, q: Any, pq: Any, w: Any) -> None:
    """``Q = A P``, ``pq[j] = p_j'q_j`` for CSR with rows sorted by length in windows."""
    bounds, sums = w.bounds, w.sums
    indptr, indices, data, place = A.indptr, A.indices, A.data, A.place
    for t in prange(sums.shape[0]):
        columns = U(q.shape[1])
        for j in range(columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            row = i - (i & MASK) + U(place[i])
            add_row(indices, data, p, q, row, U(indptr[i]), U(indptr[i + ONE]))
            for j in range(columns):
                sums[t, j] += real_product(p[row, j], q[row, j])
    collect(sums, 0, pq)


@pair(REASSOCIATE)
def apply_dot_many_dia(A: Any, p: Any, q: Any, pq: Any, w: Any) -> None:
    """``Q = A P``, ``pq[j] = p_j'q_j`` for diagonals."""
    bounds, sums = w.bounds, w.sums
    offsets, data = A.offsets, A.data
    for t in prange(sums.shape[0]):
        columns = U(q.shape[1])
        n = q.shape[0]
        zero = q.dtype.type(0)
        for j in range(columns):
            sums[t, j] = 0.0
        for i in range(bounds[t], bounds[t + 1]):
            row = U(i)
            for j in range(columns):
                q[row, j] = zero
            for d in range(U(offsets.shape[0])):
                c = i + offsets[d]
                if 0 <= c < n:
                    v = data[d, row]
                    column = U(c)
                    for j in range(columns):
                        q[row, j] += v * p[column, j]
            for j in range(columns):
                sums[t, j] += real_product(p[row, j], q[row, j])
    collect(sums, 0, pq)


@pair(REASSOCIATE)
def apply_dot_many_dense(A: Any, p: Any, q: Any, pq: Any, w: Any) -> None:
    """``Q = A P``, ``pq[j] = p_j'q_j`` for a dense matrix."""
    bounds, sums = w.bounds, w.sums
    values = A.values
    for t in prange(sums.shape[0]):
        columns = U(q.shape[1])
        zero = q.dtype.type(0)
        for j in range(columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            for j in range(columns):
                q[i, j] = zero
            for c in range(U(values.shape[1])):
                v = values[i, c]
                for j in range(columns):
                    q[i, j] += v * p[c, j]
            for j in range(columns):
                sums[t, j] += real_product(p[i, j], q[i, j])
    collect(sums, 0, pq)


@pair(REASSOCIATE)
def subtract_many(b: Any, scale: Any, r: Any, rr: Any, w: Any) -> None:
    """``R = B scale - R``, ``rr[j] = r_j'r_j``: what is left to do of a residual when R holds A X."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(r.shape[1])
        for j in range(columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            for j in range(columns):
                rij = scale[j] * b[i, j] - r[i, j]
                r[i, j] = rij
                sums[t, j] += real_product(rij, rij)
    collect(sums, 0, rr)


@pair(REASSOCIATE)
def update_residual_many_identity(M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, w: Any) -> None:
    """``R -= Q alpha``; ``rr[j] = rz[j] = r_j'r_j``."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(r.shape[1])
        for j in range(columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            for j in range(columns):
                a = r.dtype.type(alpha[j])
                rij = r[i, j] - a * q[i, j] if alpha[j] != 0.0 else r[i, j]
                r[i, j] = rij
                sums[t, j] += real_product(rij, rij)
    collect(sums, 0, rr)
    rz[:] = rr


@pair(REASSOCIATE)
def update_residual_many_diagonal(M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, w: Any) -> None:
    """``R -= Q alpha``; ``rr[j] = r_j'r_j``, ``rz[j] = r_j'(M r_j)``; Z is not stored."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(r.shape[1])
        for j in range(columns + columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            m = np.float64(M[i])
            for j in range(columns):
                a = r.dtype.type(alpha[j])
                rij = r[i, j] - a * q[i, j] if alpha[j] != 0.0 else r[i, j]
                r[i, j] = rij
                square = real_product(rij, rij)
                sums[t, j] += square
                sums[t, columns + j] += square * m
    collect(sums, 0, rr)
    collect(sums, r.shape[1], rz)


@inline
def direction_row(alpha: Any, beta: Any, zij: Any, p: Any, x: Any, i: Any, j: Any) -> Any:
    """One entry of ``X += P alpha``, ``P = Z + P beta``."""
    pij = p[i, j]
    xij = x[i, j]
    if alpha[j] != 0.0:
        xij = xij + x.dtype.type(alpha[j]) * pij
        pij = zij + x.dtype.type(beta[j]) * pij
    return xij, pij


@pair(REASSOCIATE)
def update_direction_many_identity(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, w: Any
) -> None:
    """``X += P alpha``, ``P = R + P beta``; ``xx[j] = x_j'x_j``, ``pp[j] = p_j'p_j``."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(x.shape[1])
        for j in range(columns + columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            for j in range(columns):
                xij, pij = direction_row(alpha, beta, r[i, j], p, x, i, j)
                x[i, j] = xij
                p[i, j] = pij
                sums[t, j] += real_product(xij, xij)
                sums[t, columns + j] += real_product(pij, pij)
    collect(sums, 0, xx)
    collect(sums, x.shape[1], pp)


@pair(REASSOCIATE)
def update_direction_many_diagonal(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, w: Any
) -> None:
    """``X += P alpha``, ``P = M R + P beta``; ``xx[j] = x_j'x_j``, ``pp[j] = p_j'p_j``."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(x.shape[1])
        for j in range(columns + columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            m = M[i]
            for j in range(columns):
                xij, pij = direction_row(alpha, beta, m * r[i, j], p, x, i, j)
                x[i, j] = xij
                p[i, j] = pij
                sums[t, j] += real_product(xij, xij)
                sums[t, columns + j] += real_product(pij, pij)
    collect(sums, 0, xx)
    collect(sums, x.shape[1], pp)


@inline
def restart_row(which: Any, rij: Any, zij: Any, p: Any, i: Any, j: Any, sums: Any, t: Any) -> None:
    """One entry of a restart: ``p = z`` in the columns that `which` marks, and the two products' terms."""
    pij = zij if which[j] != 0.0 else p[i, j]
    p[i, j] = pij
    sums[t, j] += real_product(rij, zij)
    sums[t, U(p.shape[1]) + j] += real_product(pij, pij)


@pair(REASSOCIATE)
def restart_many_identity(M: Any, r: Any, z: Any, p: Any, which: Any, rz: Any, pp: Any, w: Any) -> None:
    """``rz[j] = r_j'r_j``; ``p_j = r_j`` where ``which[j]`` is not 0."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(r.shape[1])
        for j in range(columns + columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            for j in range(columns):
                restart_row(which, r[i, j], r[i, j], p, i, j, sums, t)
    collect(sums, 0, rz)
    collect(sums, r.shape[1], pp)


@pair(REASSOCIATE)
def restart_many_diagonal(M: Any, r: Any, z: Any, p: Any, which: Any, rz: Any, pp: Any, w: Any) -> None:
    """``rz[j] = r_j'(M r_j)``; ``p_j = M r_j`` where ``which[j]`` is not 0."""
    bounds, sums = w.bounds, w.sums
    for t in prange(sums.shape[0]):
        columns = U(r.shape[1])
        for j in range(columns + columns):
            sums[t, j] = 0.0
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            m = M[i]
            for j in range(columns):
                restart_row(which, r[i, j], m * r[i, j], p, i, j, sums, t)
    collect(sums, 0, rz)
    collect(sums, r.shape[1], pp)
