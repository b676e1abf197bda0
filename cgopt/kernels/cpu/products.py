"""Products ``q = A p`` with the dot product ``p'q`` taken on the way, and true residuals, for each layout.

What a layout does to a range of rows is written once (``rows_...``, ``true_rows_...``), merged into the kernels for one
vector here and for many vectors in `many`.

Bytes read of the matrix in one product: CSR 12 per entry and 4 per row (fp64 values, 32-bit indices), sorted
CSR one more per row, half CSR 6 per entry and 6 per row, diagonals 8 per stored entry, symmetric diagonals 4 per
entry and 4 per row, dense 8 n^2. Where single precision holds all values, each takes 4 of these bytes less.

Loops over entries stay scalar on purpose (`CONTRACT`, not `REASSOCIATE`): vectorised, they gather, and gathers
of five to ten entries cost more than loads. The four-fold unrolling gives two independent chains of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from ..layouts import WINDOW
from ..loops import bind
from .compile import CONTRACT, REASSOCIATE, chunk, inline, pair
from .meeting import meet, owned
from .updates import PQ, TRUE, real_product, total

U = np.uint64
ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)
TILE = 2048  # rows of q kept in first-level cache while the diagonals pass over it
MASK = U(WINDOW - 1)

# The order of operations is free where a loop over entries may be vectorised, and is not for rows of a few entries.
FLAGS = {
    "csr": CONTRACT,
    "sorted": CONTRACT,
    "rounded": CONTRACT,
    "dense": REASSOCIATE,
    "lower": REASSOCIATE,
    "dia": REASSOCIATE,
    "half_csr": CONTRACT,
    "half_dia": REASSOCIATE,
}


@inline
def row_sum(indices: Any, data: Any, p: Any, k: Any, end: Any, one: Any, zero: Any) -> Any:
    """Sum of ``data[k:end] * p[indices[k:end]]``; `one` has the type that terms are formed in, `zero` the sum's."""
    s = zero
    u = zero
    while k + THREE < end:
        s += one * data[k] * p[indices[k]] + one * data[k + ONE] * p[indices[k + ONE]]
        u += one * data[k + TWO] * p[indices[k + TWO]] + one * data[k + THREE] * p[indices[k + THREE]]
        k += FOUR
    while k < end:
        s += one * data[k] * p[indices[k]]
        k += ONE
    return s + u


# ``rows_<layout>(A, p, q, low, high)``: rows low to high of ``q = A p``; returns their part of ``p'q``.


@chunk(FLAGS["csr"])
def rows_csr(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """Compressed sparse rows."""
    indptr, indices, data = A.indptr, A.indices, A.data
    one = data.dtype.type(1)
    zero = one * p.dtype.type(0)
    pq = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        end = U(indptr[i + ONE])
        qi = row_sum(indices, data, p, k, end, one, zero)
        k = end
        q[i] = qi
        pq += real_product(p[i], qi)
    return pq


@chunk(FLAGS["sorted"])
def rows_sorted(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """Rows sorted by length in windows; low and high are multiples of the window, or the last row."""
    indptr, indices, data, place = A.indptr, A.indices, A.data, A.place
    one = data.dtype.type(1)
    zero = one * p.dtype.type(0)
    pq = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        end = U(indptr[i + ONE])
        qi = row_sum(indices, data, p, k, end, one, zero)
        k = end
        row = i - (i & MASK) + U(place[i])
        q[row] = qi
        pq += real_product(p[row], qi)
    return pq


@chunk(FLAGS["rounded"])
def rows_rounded(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """Rows sorted by length in windows, the diagonal apart."""
    indptr, indices, data, place, diagonal = A.indptr, A.indices, A.data, A.place, A.diagonal
    one = data.dtype.type(1)
    zero = one * p.dtype.type(0)
    pq = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        end = U(indptr[i + ONE])
        row = i - (i & MASK) + U(place[i])
        qi = diagonal[row] * p[row] + row_sum(indices, data, p, k, end, one, zero)
        k = end
        q[row] = qi
        pq += real_product(p[row], qi)
    return pq


@chunk(FLAGS["dense"])
def rows_dense(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """Dense rows."""
    values = A.values
    pq = 0.0
    for i in range(U(low), U(high)):
        qi = values.dtype.type(0) * p.dtype.type(0)
        for j in range(U(p.shape[0])):
            qi += values[i, j] * p[j]
        q[i] = qi
        pq += real_product(p[i], qi)
    return pq


@inline
def add_panel(v: Any, p: Any, q: Any, i: Any, zero: Any) -> Any:
    """Rows i to i + 3 up to the diagonal and, transposed, the columns above it; returns their part of ``p'q``.

    Each entry is read once and used twice; four rows at a time, so that q is loaded and stored once for four.
    """
    i1, i2, i3 = i + ONE, i + TWO, i + THREE
    p0, p1, p2, p3 = p[i], p[i1], p[i2], p[i3]
    s0, s1, s2, s3 = zero, zero, zero, zero
    for j in range(i):
        pj = p[j]
        a0, a1, a2, a3 = v[i, j], v[i1, j], v[i2, j], v[i3, j]
        s0 += a0 * pj
        s1 += a1 * pj
        s2 += a2 * pj
        s3 += a3 * pj
        q[j] += a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3
    # the block on the diagonal
    d0 = v[i, i] * p0 + v[i1, i] * p1 + v[i2, i] * p2 + v[i3, i] * p3
    d1 = v[i1, i] * p0 + v[i1, i1] * p1 + v[i2, i1] * p2 + v[i3, i1] * p3
    d2 = v[i2, i] * p0 + v[i2, i1] * p1 + v[i2, i2] * p2 + v[i3, i2] * p3
    d3 = v[i3, i] * p0 + v[i3, i1] * p1 + v[i3, i2] * p2 + v[i3, i3] * p3
    q[i], q[i1], q[i2], q[i3] = s0 + d0, s1 + d1, s2 + d2, s3 + d3
    left = real_product(p0, s0) + real_product(p1, s1) + real_product(p2, s2) + real_product(p3, s3)
    return 2.0 * left + real_product(p0, d0) + real_product(p1, d1) + real_product(p2, d2) + real_product(p3, d3)


@chunk(FLAGS["lower"])
def rows_lower(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """Lower triangle of a dense matrix, rows low to high: writes q before high."""
    values = A.values
    zero = values.dtype.type(0) * p.dtype.type(0)
    pq = 0.0
    for j in range(U(low)):
        q[j] = zero
    i = U(low)
    while i + THREE < U(high):
        pq += add_panel(values, p, q, i, zero)
        i += FOUR
    while i < U(high):
        s = zero
        for j in range(i):
            s += values[i, j] * p[j]
            q[j] += values[i, j] * p[i]
        d = values[i, i] * p[i]
        q[i] = s + d
        pq += 2.0 * real_product(p[i], s) + real_product(p[i], d)
        i += ONE
    return pq


# Diagonals. The more of them are read side by side, the nearer memory comes to its full rate (one after the other
# gives 60 % of it): five and seven, which are the stencils of the Laplacian, have a loop of their own, with p'q in it;
# other numbers are added three at a time. (Each such loop costs compile time.) Shifts are added modulo 2^64, so that
# ``i + shift`` is the column for negative offsets too.


@inline
def sum_of_three(data: Any, p: Any, i: Any, d: Any, s0: Any, s1: Any, s2: Any) -> Any:
    """Terms of row i from three diagonals, d being the first."""
    return data[d, i] * p[i + s0] + data[d + ONE, i] * p[i + s1] + data[d + TWO, i] * p[i + s2]


@inline
def side_by_side(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """``q = A p`` and ``p'q`` for rows in which all of five or seven diagonals lie inside the matrix."""
    offsets, data = A.offsets, A.data
    pq = 0.0
    s0, s1, s2 = U(offsets[0]), U(offsets[1]), U(offsets[2])
    s3, s4 = U(offsets[3]), U(offsets[4])
    if offsets.shape[0] == 5:
        for i in range(low, high):
            qi = sum_of_three(data, p, i, U(0), s0, s1, s2) + data[THREE, i] * p[i + s3] + data[FOUR, i] * p[i + s4]
            q[i] = qi
            pq += real_product(p[i], qi)
        return pq
    s5, s6 = U(offsets[5]), U(offsets[6])
    for i in range(low, high):
        qi = (
            sum_of_three(data, p, i, U(0), s0, s1, s2)
            + sum_of_three(data, p, i, THREE, s3, s4, s5)
            + data[U(6), i] * p[i + s6]
        )
        q[i] = qi
        pq += real_product(p[i], qi)
    return pq


@inline
def one_by_one(A: Any, p: Any, q: Any, low: Any, high: Any, inside: Any) -> None:
    """``q = A p`` for a few rows; `inside`: all of the diagonals lie inside the matrix there."""
    offsets, data = A.offsets, A.data
    n = q.shape[0]
    zero = q.dtype.type(0)
    for i in range(U(low), U(high)):
        q[i] = zero
    d = U(0)
    left = offsets.shape[0]
    while left > 0:
        if inside and left >= 3:
            s0, s1, s2 = U(offsets[d]), U(offsets[d + ONE]), U(offsets[d + TWO])
            for i in range(U(low), U(high)):
                q[i] += sum_of_three(data, p, i, d, s0, s1, s2)
            d += THREE
            left -= 3
        else:  # near the first row or the last: each diagonal over the rows that it has
            s0 = U(offsets[d])
            first = max(low, -offsets[d])
            last = max(first, min(high, n - offsets[d]))
            for i in range(U(first), U(last)):
                q[i] += data[d, i] * p[i + s0]
            d += ONE
            left -= 1


@inline
def reach(A: Any) -> Any:
    """How far the diagonals reach to the left and to the right of the main one."""
    offsets = A.offsets
    last = offsets.shape[0] - 1
    if last < 0:
        return 0, 0
    return max(0, -offsets[0]), max(0, offsets[last])


OWN_LOOP = (5, 7)  # numbers of stored diagonals that `side_by_side` is for


def _rows_of_diagonals(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """Inner rows side by side, where there is a loop for so many diagonals.

    The others are worked off in tiles, whose q stays in first-level cache while it is added up.
    """
    count = A.offsets.shape[0]
    left, right = reach(A)
    inner_first, inner_last = left, q.shape[0] - right
    pq = 0.0
    first = low
    while first < high:
        inside = inner_first <= first < inner_last
        if inside and (count == OWN_LOOP[0] or count == OWN_LOOP[1]):
            last = min(high, inner_last)
            pq += side_by_side(A, p, q, U(first), U(last))
        else:
            last = min(first + TILE, high)
            if first < inner_first:
                last = min(last, inner_first)
            elif inside:
                last = min(last, inner_last)
            one_by_one(A, p, q, first, last, inside)
            for i in range(U(first), U(last)):
                pq += real_product(p[i], q[i])
        first = last
    return pq


rows_dia = chunk(FLAGS["dia"])(bind(_rows_of_diagonals, "rows_dia", {}))


# Symmetric diagonals. Row i takes ``d_k[i] p[i + k]`` from the diagonal k above the main one, and
# ``d_k[i - k] p[i - k]`` from its mirror image: the same memory read again, k places back and mostly from cache, and
# nothing is scattered. Two and three beside the main one (5- and 7-point stencils) have a loop of their own.


@inline
def mirrored(data: Any, p: Any, i: Any, d: Any, s: Any) -> Any:
    """Terms of row i from an upper diagonal and its mirror image."""
    return data[d, i] * p[i + s] + data[d, i - s] * p[i - s]


@inline
def half_reach(A: Any) -> Any:
    """How far the diagonals and their images reach to the left and to the right of the main one."""
    last = A.offsets.shape[0] - 1
    far = A.offsets[last] if last >= 0 else 0
    return far, far


@inline
def half_side_by_side(A: Any, p: Any, q: Any, low: Any, high: Any) -> Any:
    """``q = A p`` and ``p'q`` for rows in which two or three diagonals and their images lie inside the matrix."""
    offsets, data, main = A.offsets, A.data, A.diagonal
    pq = 0.0
    s0, s1 = U(offsets[0]), U(offsets[1])
    if offsets.shape[0] == 2:
        for i in range(low, high):
            qi = main[i] * p[i] + mirrored(data, p, i, U(0), s0) + mirrored(data, p, i, ONE, s1)
            q[i] = qi
            pq += real_product(p[i], qi)
        return pq
    s2 = U(offsets[2])
    for i in range(low, high):
        qi = (
            main[i] * p[i]
            + mirrored(data, p, i, U(0), s0)
            + mirrored(data, p, i, ONE, s1)
            + mirrored(data, p, i, TWO, s2)
        )
        q[i] = qi
        pq += real_product(p[i], qi)
    return pq


@inline
def half_one_by_one(A: Any, p: Any, q: Any, low: Any, high: Any, inside: Any) -> None:
    """``q = A p`` for a few rows; `inside`: all of the diagonals and their images lie inside the matrix there."""
    offsets, data, main = A.offsets, A.data, A.diagonal
    n = q.shape[0]
    for i in range(U(low), U(high)):
        q[i] = main[i] * p[i]
    d = U(0)
    left = offsets.shape[0]
    while left > 0:
        s0 = U(offsets[d])
        if inside and left >= 2:
            s1 = U(offsets[d + ONE])
            for i in range(U(low), U(high)):
                q[i] += mirrored(data, p, i, d, s0) + mirrored(data, p, i, d + ONE, s1)
            d += TWO
            left -= 2
        else:  # each diagonal over the rows that it has, above the main one and below
            for i in range(U(low), U(max(low, min(high, n - offsets[d])))):
                q[i] += data[d, i] * p[i + s0]
            for i in range(U(min(high, max(low, offsets[d]))), U(high)):
                q[i] += data[d, i - s0] * p[i - s0]
            d += ONE
            left -= 1


rows_half_dia = chunk(FLAGS["half_dia"])(
    bind(
        _rows_of_diagonals,
        "rows_half_dia",
        {"reach": half_reach, "OWN_LOOP": (2, 3), "side_by_side": half_side_by_side, "one_by_one": half_one_by_one},
    )
)


@chunk(FLAGS["half_csr"])
def rows_half_csr(A: Any, p: Any, q: Any, spill: Any, low: Any, high: Any) -> Any:
    """Lower triangle by rows: each entry is read once and used twice.

    What belongs to rows before `low`, which another chunk writes, is added to the spill, counted back from there.
    The loops are the plainest on purpose: unrolled, with two sums, they took three times as long.
    """
    indptr, indices, data, diagonal = A.indptr, A.indices, A.data, A.diagonal
    start = U(low)
    for m in range(U(spill.shape[0])):
        spill[m] = 0.0
    pq = 0.0
    k = U(indptr[low])
    for i in range(start, U(high)):
        end = U(indptr[i + ONE])
        pi = p[i]
        s = data.dtype.type(0) * pi
        while k < end and U(indices[k]) < start:
            j = U(indices[k])
            s += data[k] * p[j]
            spill[start - ONE - j] += data[k] * pi
            k += ONE
        while k < end:
            j = indices[k]
            s += data[k] * p[j]
            q[j] += data[k] * pi
            k += ONE
        d = diagonal[i] * pi
        q[i] = s + d
        pq += real_product(pi, d + (s + s))  # p'A p = sum p_i (d_i p_i + 2 s_i)
    return pq


# ``true_rows_<layout>(A, b, scale, x, r, low, high)``: rows of ``r = scale b - A x``; returns their part of ``r'r``.
# Terms and sums in fp64 (complex: complex128; 1.0 times an entry) whatever the storage: this is the number that
# convergence is judged by.


@chunk(FLAGS["csr"])
def true_rows_csr(A: Any, b: Any, scale: Any, x: Any, r: Any, low: Any, high: Any) -> Any:
    """Compressed sparse rows."""
    indptr, indices, data = A.indptr, A.indices, A.data
    zero = 0.0 * x.dtype.type(0)
    rr = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        end = U(indptr[i + ONE])
        ri = scale * b[i] - row_sum(indices, data, x, k, end, 1.0, zero)
        k = end
        r[i] = ri
        rr += real_product(ri, ri)
    return rr


@chunk(FLAGS["sorted"])
def true_rows_sorted(A: Any, b: Any, scale: Any, x: Any, r: Any, low: Any, high: Any) -> Any:
    """Rows sorted by length in windows."""
    indptr, indices, data, place = A.indptr, A.indices, A.data, A.place
    zero = 0.0 * x.dtype.type(0)
    rr = 0.0
    k = U(indptr[low])
    for i in range(U(low), U(high)):
        end = U(indptr[i + ONE])
        row = i - (i & MASK) + U(place[i])
        ri = scale * b[row] - row_sum(indices, data, x, k, end, 1.0, zero)
        k = end
        r[row] = ri
        rr += real_product(ri, ri)
    return rr


@chunk(FLAGS["dense"])
def true_rows_dense(A: Any, b: Any, scale: Any, x: Any, r: Any, low: Any, high: Any) -> Any:
    """Dense rows."""
    values = A.values
    rr = 0.0
    for i in range(U(low), U(high)):
        s = 0.0 * x.dtype.type(0)
        for j in range(U(x.shape[0])):
            s += 1.0 * values[i, j] * x[j]
        ri = scale * b[i] - s
        r[i] = ri
        rr += real_product(ri, ri)
    return rr


@chunk(CONTRACT)  # each column index is tested for being inside: nothing to vectorise
def true_rows_dia(A: Any, b: Any, scale: Any, x: Any, r: Any, low: Any, high: Any) -> Any:
    """Diagonals."""
    offsets, data = A.offsets, A.data
    n = x.shape[0]
    rr = 0.0
    for i in range(low, high):
        s = 0.0 * x.dtype.type(0)
        for d in range(offsets.shape[0]):
            j = i + offsets[d]
            if 0 <= j < n:
                s += 1.0 * data[d, i] * x[j]
        ri = scale * b[i] - s
        r[i] = ri
        rr += real_product(ri, ri)
    return rr


@chunk(CONTRACT)
def true_rows_half_dia(A: Any, b: Any, scale: Any, x: Any, r: Any, low: Any, high: Any) -> Any:
    """Symmetric diagonals."""
    offsets, data, main = A.offsets, A.data, A.diagonal
    n = x.shape[0]
    rr = 0.0
    for i in range(low, high):
        s = 1.0 * main[i] * x[i]
        for d in range(offsets.shape[0]):
            j = i - offsets[d]
            if j >= 0:
                s += 1.0 * data[d, j] * x[j]
            j = i + offsets[d]
            if j < n:
                s += 1.0 * data[d, i] * x[j]
        ri = scale * b[i] - s
        r[i] = ri
        rr += real_product(ri, ri)
    return rr


rows: Callable[..., Any] = rows_csr  # `bind` puts the layout's own in its place


def _apply_dot(A: Any, p: Any, q: Any, w: Any) -> Any:
    bounds, sums = w.bounds, w.sums
    low, high = owned(w)
    for t in prange(low, high):
        sums[t, PQ] = rows(A, p, q, bounds[t], bounds[t + 1])
    meet(w)
    return total(sums, PQ)


def _residual(A: Any, b: Any, scale: Any, x: Any, r: Any, w: Any) -> Any:
    bounds, sums = w.bounds, w.sums
    low, high = owned(w)
    for t in prange(low, high):
        sums[t, TRUE] = rows(A, b, scale, x, r, bounds[t], bounds[t + 1])
    meet(w)
    return total(sums, TRUE)


def product_kernel(name: str, rows: Callable[..., Any]) -> tuple[Any, Any]:
    """``apply_dot_<name>(A, p, q, w)``: ``q = A p``; returns ``p'q``."""
    return pair(CONTRACT)(bind(_apply_dot, f"apply_dot_{name}", {"rows": rows}))


@pair(REASSOCIATE)
def apply_dot_lower(A: Any, p: Any, q: Any, w: Any) -> Any:
    """``q = A p``; returns ``p'q``. The first chunk adds to q itself, the others to their spill."""
    bounds, sums, spill = w.bounds, w.sums, w.spill
    chunks = sums.shape[0]
    if chunks == 1:
        return rows_lower(A, p, q, bounds[0], bounds[1])
    low, high = owned(w)
    for t in prange(low, high):
        sums[t, PQ] = rows_lower(A, p, q if t == 0 else spill[t], bounds[t], bounds[t + 1])
    meet(w)
    for t in prange(low, high):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            s = q[i] if t == 0 else spill[t, i]
            for u in range(t + 1, chunks):
                s += spill[u, i]
            q[i] = s
    return total(sums, PQ)


@pair(FLAGS["half_csr"])
def apply_dot_half_csr(A: Any, p: Any, q: Any, w: Any) -> Any:
    """``q = A p``; returns ``p'q``. What the chunks have spilled is added once all have written their rows."""
    bounds, sums, spill = w.bounds, w.sums, w.spill
    chunks = sums.shape[0]
    low, high = owned(w)
    for t in prange(low, high):
        sums[t, PQ] = rows_half_csr(A, p, q, spill[t], bounds[t], bounds[t + 1])
    meet(w)
    for t in range(low + 1, chunks):  # what reaches the rows of the chunks owned
        last = bounds[t] - 1
        for m in range(U(max(0, bounds[t] - bounds[high])), U(max(0, min(bounds[t] - bounds[low], spill.shape[1])))):
            q[U(last) - m] += spill[t, m]
    return total(sums, PQ)


def residual_kernel(name: str, rows: Callable[..., Any]) -> tuple[Any, Any]:
    """``residual_<name>(A, b, scale, x, r, w)``: ``r = scale b - A x``; returns ``r'r``."""
    return pair(CONTRACT)(bind(_residual, f"residual_{name}", {"rows": rows}))


apply_dot_csr = product_kernel("csr", rows_csr)
apply_dot_sorted = product_kernel("sorted", rows_sorted)
apply_dot_rounded = product_kernel("rounded", rows_rounded)
apply_dot_dense = product_kernel("dense", rows_dense)
apply_dot_dia = product_kernel("dia", rows_dia)
apply_dot_half_dia = product_kernel("half_dia", rows_half_dia)
residual_csr = residual_kernel("csr", true_rows_csr)
residual_sorted = residual_kernel("sorted", true_rows_sorted)
residual_dense = residual_lower = residual_kernel("dense", true_rows_dense)
residual_dia = residual_kernel("dia", true_rows_dia)
residual_half_dia = residual_kernel("half_dia", true_rows_half_dia)
