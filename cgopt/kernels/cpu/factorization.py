"""Incomplete factorisations: what a factoring preconditioner computes once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, chunk, compiled, inline, pair
from .sweeps import FOUR, ONE, THREE, TWO, U

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


def _triangle_rows(
    indptr: Any,
    indices: Any,
    data: Any,
    order: Any,
    inverse: Any,
    upper: Any,
    diagonal: Any,
    ptr: Any,
    columns: Any,
    values: Any,
) -> None:
    """Diagonal and strict lower or upper triangle of ``P A P'`` by rows, columns ascending; ``ptr[0]`` is zero."""
    n = order.shape[0]
    total = U(0)
    for i in range(U(n)):
        o = order[i]
        begin, low, high = total, U(indptr[o]), U(indptr[o + ONE])
        # where the order runs backwards, a row read from its end is sorted
        turned = i > U(0) and order[i - ONE] > o
        for k in range(low, high):
            source = high - ONE - (k - low) if turned else k
            j = U(inverse[indices[source]])
            if j == i:
                diagonal[i] = data[source]
            elif (j > i) == upper:
                e = total
                while e > begin and U(columns[e - ONE]) > j:
                    columns[e], values[e] = columns[e - ONE], values[e - ONE]
                    e -= ONE
                columns[e], values[e] = j, data[source]
                total += ONE
        ptr[i + ONE] = total


def _transpose(start: Any, stop: Any, rows: Any, values: Any, new_ptr: Any, new_columns: Any, new_values: Any) -> None:
    """Rows of a matrix whose columns lie from ``start[j]`` to ``stop[j]``; `new_ptr` is zero on entry.

    Columns come out ascending whatever the order of the rows within a column.
    """
    n = U(stop.shape[0])
    for j in range(n):
        for e in range(U(start[j]), U(stop[j])):
            new_ptr[U(rows[e]) + ONE] += ONE
    for i in range(n):
        new_ptr[i + ONE] += new_ptr[i]
    place = new_ptr.copy()
    for j in range(n):
        for e in range(U(start[j]), U(stop[j])):
            row = U(rows[e])
            k = U(place[row])
            new_columns[k], new_values[k] = j, values[e]
            place[row] = k + ONE


def _scale_rows(ptr: Any, values: Any, scale: Any) -> None:
    """Entries of ``S A``, in place."""
    for i in range(U(scale.shape[0])):
        si = scale[i]
        for e in range(U(ptr[i]), U(ptr[i + ONE])):
            values[e] *= si


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


@chunk(CONTRACT)
def nth_smallest(values: Any, count: Any, k: Any) -> Any:
    """The number that has k smaller ones (or equal ones) before it, by Hoare's selection; `values` is permuted."""
    low, high = 0, count - 1
    while low < high:
        middle = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < middle:
                i += 1
            while values[j] > middle:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


def _factor_columns(
    ptr: Any,
    columns: Any,
    values: Any,
    low: Any,
    high: Any,
    linked: Any,
    filled: Any,
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
    """Columns `low` to `high` of an incomplete Cholesky factor, from the left; the column that breaks down, or `NONE`.

    ``ptr, columns, values`` is the strict upper triangle by rows, that is the lower one by columns, of a matrix with
    unit diagonal; ``pivots`` holds its diagonal on entry (with what is dropped in other columns added on the way), and
    that of the factor at the end. Column j is stored from ``start[j]`` to ``stop[j]``, without the diagonal; of its
    entries from ``nextup[j]`` on, the first has the lowest row, and the others come in any order: finding the next
    lowest while they are read costs less than sorting. Columns are linked to later rows below `linked` only. If not
    `filled`, the pattern is A's own; otherwise a column keeps its largest entries, as many as there is room for before
    ``start[j + 1]``, none below `drop` times the norm of A's column.
    """
    n = ptr.shape[0] - 1
    work = np.zeros(n)
    seen = np.full(n, NONE, rows.dtype)
    pattern = np.empty(n, rows.dtype)
    sizes = np.empty(n)
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
        k = head[j]
        while k != NONE:
            after = following[k]
            first = nextup[k]
            end = stop[k]
            ljk = np.float64(entries[first])
            first += 1
            nextup[k] = first
            lowest, place = n, first
            for e in range(first, end):
                i = rows[e]
                if i < lowest:
                    lowest, place = i, e
                term = ljk * np.float64(entries[e])
                if seen[i] == j:
                    work[i] -= term
                elif filled:
                    seen[i] = j
                    work[i] = -term
                    pattern[count] = i
                    count += 1
                else:  # fill outside the pattern
                    pivots[i] -= relaxation * term
                    pivots[j] -= relaxation * term
            if first < end:
                rows[place], rows[first] = rows[first], rows[place]
                entries[place], entries[first] = entries[first], entries[place]
                if lowest < linked:
                    link(head, following, lowest, k)
            k = after
        least = 0.0  # what is kept is larger than the bound, and no smaller than this
        most = count
        if filled:
            bound = drop * np.sqrt(norm)
            kept = 0
            for c in range(count):
                i = pattern[c]
                size = abs(work[i])
                if size > bound:
                    pattern[kept], sizes[kept] = i, size
                    kept += 1
                else:
                    pivots[i] += relaxation * work[i]
                    pivots[j] += relaxation * work[i]
            count = kept
            most = start[j + 1] - start[j]
            if count > most:
                least = nth_smallest(sizes, count, count - most)
        limit = 0
        for c in range(count):
            i = pattern[c]
            if limit < most and abs(work[i]) >= least:
                pattern[limit] = i
                limit += 1
            else:
                pivots[i] += relaxation * work[i]
                pivots[j] += relaxation * work[i]
        pivot = pivots[j]
        if not pivot > SMALLEST_PIVOT:
            return j
        root = np.sqrt(pivot)
        pivots[j] = root
        first = start[j]
        lowest, place = n, first
        for c in range(limit):
            i = pattern[c]
            lij = work[i] / root
            e = first + c
            rows[e], entries[e] = i, lij
            pivots[i] -= lij * lij
            if i < lowest:
                lowest, place = i, e
        stop[j] = first + limit
        nextup[j] = first
        if limit:
            rows[place], rows[first] = rows[first], rows[place]
            entries[place], entries[first] = entries[first], entries[place]
            if lowest < linked:
                link(head, following, lowest, j)
    return NONE


factor_columns = compiled(_factor_columns, threaded=False, fastmath=CONTRACT)


@pair(CONTRACT)
def factor_parts(
    ptr: Any,
    columns: Any,
    values: Any,
    parts: Any,
    filled: Any,
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
            filled,
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


@inline
def less_later_entries(s: Any, data: Any, indices: Any, y: Any, begin: Any, k: Any, first: Any) -> Any:
    """``s`` less the sum of ``data[k] y[indices[k]]`` over a row, whose columns rise, where y is zero before `first`.

    It is read in fours from its end, until the columns are those before: half of a row in a matrix with a band.
    """
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    while k >= begin + FOUR:
        k -= FOUR
        s0 += data[k] * y[indices[k]]
        s1 += data[k + ONE] * y[indices[k + ONE]]
        s2 += data[k + TWO] * y[indices[k + TWO]]
        s3 += data[k + THREE] * y[indices[k + THREE]]
        if U(indices[k]) <= first:
            begin = k
    while k > begin:
        k -= ONE
        s -= data[k] * y[indices[k]]
    return s - ((s0 + s1) + (s2 + s3))


def _factor_rows(
    ptr: Any, columns: Any, values: Any, low: Any, high: Any, diagonal: Any, shift: Any, entries: Any, inverse: Any
) -> Any:
    """Rows `low` to `high` of an incomplete Cholesky factor G without fill; the row that breaks down, or `NONE`.

    ``ptr, columns, values`` is the strict lower triangle by rows, columns ascending. Row i solves a triangular system
    with the rows before it, in which entries outside the pattern stay zero: ``g_ik = (a_ik - sum_j g_ij g_kj) / g_kk``,
    ``g_ii^2 = (1 + shift) a_ii - sum_k g_ik^2``. Kept are ``entries = g_ik / g_ii`` and ``inverse = 1 / g_ii``, with
    which the sum has no division on its way: ``g_ik = a_ik / g_kk - sum_j g_ij (g_kj / g_kk)``.
    """
    work = np.zeros(diagonal.shape[0])
    for i in range(U(low), U(high)):
        begin, end = U(ptr[i]), U(ptr[i + ONE])
        for e in range(begin, end):
            k = columns[e]
            work[k] = values[e] * inverse[k]
        whole = np.float64(diagonal[i])
        pivot = (1.0 + shift) * whole
        first = U(columns[begin]) if begin < end else U(0)
        for e in range(begin, end):
            k = U(columns[e])
            g = less_later_entries(work[k], entries, columns, work, U(ptr[k]), U(ptr[k + ONE]), first)
            work[k] = g
            pivot -= g * g
        if not pivot > SMALLEST_PIVOT * whole:
            return np.int64(i)
        scale = 1.0 / np.sqrt(pivot)
        inverse[i] = scale
        for e in range(begin, end):
            k = columns[e]
            entries[e] = work[k] * scale
            work[k] = 0.0
    return np.int64(NONE)


factor_rows = compiled(_factor_rows, threaded=False, fastmath=CONTRACT)


@pair(CONTRACT)
def factor_row_parts(
    ptr: Any,
    columns: Any,
    values: Any,
    parts: Any,
    diagonal: Any,
    shift: Any,
    entries: Any,
    inverse: Any,
    broken: Any,
) -> None:
    """`factor_rows` for the independent parts; ``broken[t]`` is what it returned for part t."""
    for t in prange(parts.shape[0] - 1):
        broken[t] = factor_rows(ptr, columns, values, parts[t], parts[t + 1], diagonal, shift, entries, inverse)


mark_separators = compiled(_mark_separators, threaded=False)
triangle_rows = compiled(_triangle_rows, threaded=False)
transpose = compiled(_transpose, threaded=False)
scale_rows = compiled(_scale_rows, threaded=False)
find_pivots = compiled(_pivots, threaded=False, fastmath=CONTRACT)
finish_parts = compiled(_finish_parts, threaded=False)
