"""Set-up of algebraic multigrid: scaling, aggregates, tentative prolongator, products of sparse matrices.

Sparse matrices are compressed rows with unsigned indices, in fp64. Kernels that work row by row are a pair (serial,
threaded) and take the `Work` last; what depends on the order of the rows (aggregation) is serial.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, compiled, pair

U = np.uint64
ONE = U(1)
FREE = -1  # a node that belongs to no aggregate


@pair(CONTRACT)
def smoother_scale(indptr: Any, indices: Any, data: Any, diagonal: Any, scale: Any, excess: Any, w: Any) -> None:
    """``scale`` and ``excess``: S with ``S (D + E) S = I``, and what E adds, relative to D.

    A sweep of Gauss-Seidel that is cut at the chunks of rows leaves out the couplings c_i = sum |a_ij| of other chunks,
    here relative to sqrt(d_i d_j). It converges if 1 + 2 e_i > c_i (Baker, Falgout, Kolev and Yang, SIAM J. Sci.
    Comput. 33, 2011, section 3); e_i = max(0, c_i / 2 - 1/4) keeps a margin of a half, and is zero nearly everywhere.
    A row without a positive diagonal is an unknown that the level does without: its scale is zero.
    """
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        low, high = bounds[t], bounds[t + 1]
        for i in range(U(low), U(high)):
            scale[i] = 0.0
            excess[i] = 0.0
            if diagonal[i] > 0.0:
                c = 0.0
                for k in range(U(indptr[i]), U(indptr[i + ONE])):
                    j = np.int64(indices[k])
                    if (j < low or j >= high) and diagonal[j] > 0.0:
                        c += abs(data[k]) / np.sqrt(diagonal[i]) / np.sqrt(diagonal[j])
                excess[i] = max(0.0, 0.5 * c - 0.25)
                scale[i] = 1.0 / np.sqrt(diagonal[i]) / np.sqrt(1.0 + excess[i])


@pair(CONTRACT)
def scale_symmetrically(indptr: Any, indices: Any, data: Any, scale: Any, out: Any, w: Any) -> None:
    """``out = S A S``, entries only (out may be data)."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            si = scale[i]
            for k in range(U(indptr[i]), U(indptr[i + ONE])):
                out[k] = si * data[k] * scale[indices[k]]


@pair(CONTRACT)
def count_parts(indptr: Any, indices: Any, data: Any, counts: Any, w: Any) -> None:
    """Entries of each row below and above the diagonal in its own chunk, and in other chunks: ``counts[:, i]``."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        low, high = bounds[t], bounds[t + 1]
        for i in range(low, high):
            lower = upper = between = 0
            for k in range(U(indptr[i]), U(indptr[i + 1])):
                j = np.int64(indices[k])
                if data[k] != 0.0 and j != i:
                    if j < low or j >= high:
                        between += 1
                    elif j < i:
                        lower += 1
                    else:
                        upper += 1
            counts[0, i] = lower
            counts[1, i] = upper
            counts[2, i] = between


@pair(CONTRACT)
def fill_parts(
    indptr: Any,
    indices: Any,
    data: Any,
    first: Any,
    lower_ptr: Any,
    lower_columns: Any,
    lower: Any,
    upper_ptr: Any,
    upper_columns: Any,
    upper: Any,
    w: Any,
) -> None:
    """Write the entries that `count_parts` counted in the row's own chunk, columns counted from `first`."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        low, high = bounds[t], bounds[t + 1]
        for i in range(low, high):
            a, b = U(lower_ptr[i]), U(upper_ptr[i])
            for k in range(U(indptr[i]), U(indptr[i + 1])):
                j = np.int64(indices[k])
                if data[k] != 0.0 and low <= j < high:
                    if j < i:
                        lower_columns[a] = first + j
                        lower[a] = data[k]
                        a += ONE
                    elif j > i:
                        upper_columns[b] = first + j
                        upper[b] = data[k]
                        b += ONE


def _fill_between(
    indptr: Any, indices: Any, data: Any, bounds: Any, first: Any, rows: Any, ptr: Any, columns: Any, values: Any,
    excess: Any,
) -> None:  # fmt: skip
    """Write the listed rows' entries in other chunks, and on the diagonal what S A S falls short of one."""
    t = 0
    for m in range(rows.shape[0]):
        i = rows[m]
        while i >= bounds[t + 1]:
            t += 1
        e = U(ptr[m])
        for k in range(U(indptr[i]), U(indptr[i + 1])):
            j = np.int64(indices[k])
            if data[k] != 0.0 and (j < bounds[t] or j >= bounds[t + 1]):
                columns[e] = first + j
                values[e] = data[k]
                e += ONE
        if excess[i] > 0.0:
            columns[e] = first + i
            values[e] = -excess[i] / (1.0 + excess[i])


def _block_norms(indptr: Any, indices: Any, data: Any, size: Any, out_ptr: Any, out_columns: Any, out: Any) -> Any:
    """The matrix of the Frobenius norms of the size-by-size blocks; returns the number of blocks."""
    nodes = out_ptr.shape[0] - 1
    place = np.full(nodes, -1, np.int64)
    count = 0
    out_ptr[0] = 0
    for node in range(nodes):
        start = count
        for i in range(node * size, (node + 1) * size):
            for k in range(U(indptr[i]), U(indptr[i + 1])):
                other = np.int64(indices[k]) // size
                if place[other] < start:
                    place[other] = count
                    out_columns[count] = other
                    out[count] = 0.0
                    count += 1
                out[place[other]] += data[k] * data[k]
        out_ptr[node + 1] = count
    for k in range(count):
        out[k] = np.sqrt(out[k])
    return count


def _aggregate(indptr: Any, indices: Any, data: Any, theta: Any, aggregate: Any) -> Any:
    """Aggregates of strongly coupled nodes; returns how many (Vanek, Mandel and Brezina, Computing 56, 1996).

    Nodes i and j are strongly coupled when ``|a_ij| > theta`` (A has unit diagonal). First each node none of whose
    neighbours is taken founds an aggregate with all of them; then the nodes left over join a neighbour's; then
    those left found aggregates among themselves. A node without strong couplings stays FREE: smoothing alone solves it.
    """
    n = aggregate.shape[0]
    count = 0
    for i in range(n):
        aggregate[i] = FREE
    for i in range(n):
        if aggregate[i] != FREE:
            continue
        untouched, lonely = True, True
        for k in range(U(indptr[i]), U(indptr[i + 1])):
            j = np.int64(indices[k])
            if j != i and abs(data[k]) > theta:
                lonely = False
                if aggregate[j] != FREE:
                    untouched = False
                    break
        if untouched and not lonely:
            aggregate[i] = count
            for k in range(U(indptr[i]), U(indptr[i + 1])):
                if abs(data[k]) > theta:
                    aggregate[np.int64(indices[k])] = count
            count += 1
    # -2 - a: joins the aggregate a, but takes nobody along
    for i in range(n):
        if aggregate[i] == FREE:
            strongest = 0.0
            for k in range(U(indptr[i]), U(indptr[i + 1])):
                j = np.int64(indices[k])
                if j != i and aggregate[j] >= 0 and abs(data[k]) > max(theta, strongest):
                    strongest = abs(data[k])
                    aggregate[i] = -2 - aggregate[j]
    for i in range(n):
        if aggregate[i] < FREE:
            aggregate[i] = -2 - aggregate[i]
    for i in range(n):
        if aggregate[i] == FREE:
            lonely = True
            for k in range(U(indptr[i]), U(indptr[i + 1])):
                j = np.int64(indices[k])
                if j != i and abs(data[k]) > theta:
                    lonely = False
                    if aggregate[j] == FREE:
                        aggregate[j] = count
            if not lonely:
                aggregate[i] = count
                count += 1
    return count


def _orthonormalize(aggregate: Any, count: Any, size: Any, B: Any, T: Any, coarse: Any) -> None:
    """The tentative prolongator: on each aggregate an orthonormal basis of the candidates B, ``B = T coarse``.

    ``T[i]`` are row i's entries, in the columns of its node's aggregate. Gram-Schmidt, twice. A candidate that depends
    on those before it leaves a zero column: a coarse unknown that does nothing.
    """
    nodes, k = aggregate.shape[0], B.shape[1]
    start = np.zeros(count + 1, np.int64)
    for node in range(nodes):
        if aggregate[node] >= 0:
            start[aggregate[node] + 1] += 1
    for a in range(count):
        start[a + 1] += start[a]
    members = np.empty(start[count], np.int64)
    fill = start[:-1].copy()
    for node in range(nodes):
        a = aggregate[node]
        if a >= 0:
            members[fill[a]] = node
            fill[a] += 1
    for a in range(count):
        for c in range(k):
            norm = 0.0
            for m in range(start[a], start[a + 1]):
                for i in range(members[m] * size, (members[m] + 1) * size):
                    T[i, c] = B[i, c]
                    norm += B[i, c] * B[i, c]
            norm = np.sqrt(norm)
            for _ in range(2):
                for d in range(c):
                    dot = 0.0
                    for m in range(start[a], start[a + 1]):
                        for i in range(members[m] * size, (members[m] + 1) * size):
                            dot += T[i, d] * T[i, c]
                    coarse[a * k + d, c] += dot
                    for m in range(start[a], start[a + 1]):
                        for i in range(members[m] * size, (members[m] + 1) * size):
                            T[i, c] -= dot * T[i, d]
            left = 0.0
            for m in range(start[a], start[a + 1]):
                for i in range(members[m] * size, (members[m] + 1) * size):
                    left += T[i, c] * T[i, c]
            left = np.sqrt(left)
            independent = left > 1e-8 * norm
            coarse[a * k + c, c] = left if independent else 0.0
            for m in range(start[a], start[a + 1]):
                for i in range(members[m] * size, (members[m] + 1) * size):
                    T[i, c] = T[i, c] / left if independent else 0.0


@pair(CONTRACT)
def bound_product(A_ptr: Any, A_columns: Any, B_ptr: Any, sums: Any, w: Any) -> None:
    """``sums[t]``: no chunk of rows of ``A B`` has more entries than this."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        terms = U(0)
        for k in range(U(A_ptr[bounds[t]]), U(A_ptr[bounds[t + 1]])):
            row = U(A_columns[k])
            terms += U(B_ptr[row + ONE]) - U(B_ptr[row])
        sums[t] = terms


@pair(CONTRACT)
def multiply_rows(
    A_ptr: Any,
    A_columns: Any,
    A: Any,
    B_ptr: Any,
    B_columns: Any,
    B: Any,
    width: Any,
    starts: Any,
    counts: Any,
    columns: Any,
    values: Any,
    w: Any,
) -> None:
    """``A B`` by rows (Gustavson 1978): chunk t's entries from ``starts[t]`` on, row i's being ``counts[i]``."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        place = np.full(width, -1, np.int64)  # where a column was last written
        end = starts[t]
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            start = end
            for k in range(U(A_ptr[i]), U(A_ptr[i + ONE])):
                a = A[k]
                row = U(A_columns[k])
                for m in range(U(B_ptr[row]), U(B_ptr[row + ONE])):
                    j = B_columns[m]
                    at = place[j]
                    if at < start:
                        place[j] = end
                        columns[end] = j
                        values[end] = a * B[m]
                        end += 1
                    else:
                        values[at] += a * B[m]
            counts[i] = end - start


def _add_to_diagonal(indptr: Any, indices: Any, data: Any, value: Any) -> None:
    """``A += value I``, for the diagonal entries that are stored."""
    for i in range(U(indptr.shape[0] - 1)):
        for k in range(U(indptr[i]), U(indptr[i + ONE])):
            if U(indices[k]) == i:
                data[k] += value
                break


add_to_diagonal = compiled(_add_to_diagonal, threaded=False)
fill_between = compiled(_fill_between, threaded=False)
block_norms = compiled(_block_norms, threaded=False)
aggregate = compiled(_aggregate, threaded=False)
orthonormalize = compiled(_orthonormalize, threaded=False)
