"""Incomplete factorisations: what a factoring preconditioner computes once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, compiled, inline, pair

NONE = -1
SMALLEST_PIVOT = 1e-14  # of a matrix with unit diagonal


def _mark_separators(indptr: Any, indices: Any, order: Any, inverse: Any, bounds: Any, separator: Any) -> None:
    """Mark places of an order such that rows left in one chunk are not linked to rows left in another.

    A row becomes a separator if it is linked to a row of an earlier chunk that is none.
    """
    for t in range(1, bounds.shape[0] - 1):
        for i in range(bounds[t], bounds[t + 1]):
            row = order[i]
            for k in range(indptr[row], indptr[row + 1]):
                j = inverse[indices[k]]
                if j < bounds[t] and not separator[j]:
                    separator[i] = True
                    break


def _permuted_upper(
    indptr: Any, indices: Any, data: Any, order: Any, inverse: Any, diagonal: Any, ptr: Any, columns: Any, values: Any
) -> Any:
    """Diagonal and upper triangle of ``P A P'`` by rows, columns ascending; returns the number of entries.

    Called first with empty `columns`: then it only counts, into ``ptr[i + 1]``.
    """
    n = order.shape[0]
    total = 0
    for i in range(n):
        o = order[i]
        begin = total
        for k in range(indptr[o], indptr[o + 1]):
            j = inverse[indices[k]]
            if j > i:
                if columns.shape[0]:
                    # insertion sort: rows are short, and nearly in order
                    e = total
                    while e > begin and columns[e - 1] > j:
                        columns[e], values[e] = columns[e - 1], values[e - 1]
                        e -= 1
                    columns[e], values[e] = j, data[k]
                total += 1
            elif j == i:
                diagonal[i] = data[k]
        ptr[i + 1] = total
    return total


def _transpose(ptr: Any, columns: Any, values: Any, new_ptr: Any, new_columns: Any, new_values: Any) -> None:
    """Rows of the transpose, columns ascending; `new_ptr` is zero on entry."""
    n = ptr.shape[0] - 1
    for k in range(ptr[n]):
        new_ptr[columns[k] + 1] += 1
    for i in range(n):
        new_ptr[i + 1] += new_ptr[i]
    place = new_ptr.copy()
    for i in range(n):
        for k in range(ptr[i], ptr[i + 1]):
            j = columns[k]
            new_columns[place[j]], new_values[place[j]] = i, values[k]
            place[j] += 1


def _pivots(ptr: Any, columns: Any, values: Any, diagonal: Any, relaxation: Any, pivots: Any) -> Any:
    """Pivots of a factorisation whose off-diagonal entries are A's own; returns the first row that is not positive.

    ``d_i = a_ii - sum_k a_ik^2 / d_k`` (diagonal-based incomplete Cholesky), less `relaxation` times the fill that is
    dropped, ``sum_k a_ik (sum_{j > k, j != i} a_kj) / d_k`` (Gustafsson, BIT 18, 1978). The upper triangle is given.
    """
    n = diagonal.shape[0]
    for i in range(n):
        pivots[i] = diagonal[i]
    for k in range(n):
        if not pivots[k] > 0.0:
            return k
        row = 0.0
        for e in range(ptr[k], ptr[k + 1]):
            row += values[e]
        for e in range(ptr[k], ptr[k + 1]):
            a = values[e]
            pivots[columns[e]] -= a * (a + relaxation * (row - a)) / pivots[k]
    return NONE


@inline
def link(head: Any, following: Any, row: Any, column: Any) -> None:
    """Put a column into the list of those whose next entry is in the row."""
    following[column] = head[row]
    head[row] = column


def _factor_columns(
    ptr: Any,
    columns: Any,
    values: Any,
    low: Any,
    high: Any,
    linked: Any,
    fill: Any,
    drop: Any,
    relaxation: Any,
    start: Any,
    stop: Any,
    rows: Any,
    entries: Any,
    pivots: Any,
    nextup: Any,
    head: Any,
    following: Any,
) -> Any:
    """Columns low to high of an incomplete Cholesky factor, left-looking; returns the first that breaks down, or -1.

    ``ptr, columns, values`` is the strict upper triangle by rows, that is the lower one by columns, of a matrix with
    unit diagonal; ``pivots`` holds its diagonal on entry (with what is dropped in other columns added on the way), and
    that of the factor at the end. Column j is stored from ``start[j]`` to ``stop[j]``, its rows ascending, without the
    diagonal. Columns are linked to later rows below `linked` only. With ``fill < 0`` the pattern is A's own; otherwise
    a column keeps its largest entries, `fill` more than A's has, none below `drop` times the norm of A's column.
    """
    n = ptr.shape[0] - 1
    work = np.zeros(n)
    seen = np.full(n, NONE)
    pattern = np.empty(n, np.int64)
    for j in range(low, high):
        count = 0
        norm = 1.0
        for e in range(ptr[j], ptr[j + 1]):
            i = columns[e]
            work[i] = values[e]
            seen[i] = j
            pattern[count] = i
            count += 1
            norm += values[e] * values[e]
        own = count
        k = head[j]
        while k != NONE:
            after = following[k]
            e = nextup[k]
            ljk = entries[e]
            e += 1
            nextup[k] = e
            if e < stop[k] and rows[e] < linked:
                link(head, following, rows[e], k)
            while e < stop[k]:
                i = rows[e]
                term = ljk * entries[e]
                if seen[i] == j:
                    work[i] -= term
                elif fill >= 0:
                    seen[i] = j
                    work[i] = -term
                    pattern[count] = i
                    count += 1
                else:  # fill outside the pattern
                    pivots[i] -= relaxation * term
                    pivots[j] -= relaxation * term
                e += 1
            k = after
        limit = count
        if fill >= 0:
            bound = drop * np.sqrt(norm)
            kept = 0
            for c in range(count):
                i = pattern[c]
                if abs(work[i]) > bound:
                    pattern[kept] = i
                    kept += 1
                else:
                    pivots[i] += relaxation * work[i]
                    pivots[j] += relaxation * work[i]
            limit = kept
            most = own + fill
            if kept > most:
                sizes = np.empty(kept)
                for c in range(kept):
                    sizes[c] = abs(work[pattern[c]])
                sizes.sort()
                least = sizes[kept - most]
                limit = 0
                for c in range(kept):
                    i = pattern[c]
                    if abs(work[i]) >= least and limit < most:
                        pattern[limit] = i
                        limit += 1
                    else:
                        pivots[i] += relaxation * work[i]
                        pivots[j] += relaxation * work[i]
            pattern[:limit].sort()
        pivot = pivots[j]
        if not pivot > SMALLEST_PIVOT:
            return j
        root = np.sqrt(pivot)
        pivots[j] = root
        e = start[j]
        for c in range(limit):
            i = pattern[c]
            lij = work[i] / root
            rows[e], entries[e] = i, lij
            pivots[i] -= lij * lij
            e += 1
        stop[j] = e
        nextup[j] = start[j]
        if e > start[j] and rows[start[j]] < linked:
            link(head, following, rows[start[j]], j)
    return NONE


factor_columns = compiled(_factor_columns, threaded=False, fastmath=CONTRACT)


@pair(CONTRACT)
def factor_parts(
    ptr: Any,
    columns: Any,
    values: Any,
    parts: Any,
    fill: Any,
    drop: Any,
    relaxation: Any,
    start: Any,
    stop: Any,
    rows: Any,
    entries: Any,
    pivots: Any,
    nextup: Any,
    head: Any,
    following: Any,
    broken: Any,
) -> None:
    """`factor_columns` for the independent parts; ``broken[t]`` is what it returned for part t.

    What parts subtract from the separators' pivots is left out, for `finish_parts` to add in a fixed order.
    """
    for t in prange(parts.shape[0] - 1):
        broken[t] = factor_columns(
            ptr,
            columns,
            values,
            parts[t],
            parts[t + 1],
            parts[-1],
            fill,
            drop,
            relaxation,
            start,
            stop,
            rows,
            entries,
            pivots[t],
            nextup,
            head,
            following,
        )


def _finish_parts(parts: Any, stop: Any, rows: Any, nextup: Any, head: Any, following: Any) -> None:
    """Link the parts' columns to the separators."""
    for k in range(parts[-1]):
        e = nextup[k]
        if e < stop[k]:
            link(head, following, rows[e], k)


mark_separators = compiled(_mark_separators, threaded=False)
permuted_upper = compiled(_permuted_upper, threaded=False)
transpose = compiled(_transpose, threaded=False)
find_pivots = compiled(_pivots, threaded=False, fastmath=CONTRACT)
finish_parts = compiled(_finish_parts, threaded=False)
