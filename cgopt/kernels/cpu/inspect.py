"""One pass over a matrix: what a solver must know of it before it starts. And the ways to store it anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layouts import CSR, DIA, WINDOW, Dense, DenseLower, HalfDIA, Layout
from .compile import CONTRACT, compiled

U = np.uint64
ONE = U(1)


def _scan_csr(indptr: Any, indices: Any, data: Any) -> Any:
    """What a solver asks of a matrix before it starts.

    Largest row sum of absolute values, largest entry, first row whose diagonal entry is not positive (or -1), first
    entry that is not finite (or -1). A complex entry counts as |real| + |imag|.
    """
    norm = 0.0
    largest = 0.0
    bad_row = np.int64(-1)
    bad_entry = np.int64(-1)
    for i in range(U(indptr.shape[0] - 1)):
        row = 0.0
        diagonal = 0.0
        for k in range(U(indptr[i]), U(indptr[i + ONE])):
            v = data[k]
            size = np.float64(abs(v.real)) + np.float64(abs(v.imag))
            if not size < np.inf and bad_entry < 0:
                bad_entry = np.int64(k)
            row += size
            largest = max(largest, size)
            if U(indices[k]) == i:
                diagonal += np.float64(v.real)
        norm = max(norm, row)
        if not diagonal > 0.0 and bad_row < 0:
            bad_row = np.int64(i)
    return norm, largest, bad_row, bad_entry


def _scan_dense(values: Any) -> Any:
    """As `scan_csr`, for a dense matrix; the entry that is not finite counts along the rows."""
    norm = 0.0
    largest = 0.0
    bad_row = np.int64(-1)
    bad_entry = np.int64(-1)
    columns = U(values.shape[1])
    for i in range(U(values.shape[0])):
        row = 0.0
        for j in range(columns):
            v = values[i, j]
            size = np.float64(abs(v.real)) + np.float64(abs(v.imag))
            if not size < np.inf and bad_entry < 0:
                bad_entry = np.int64(i * columns + j)
            row += size
            largest = max(largest, size)
        norm = max(norm, row)
        if not values[i, i].real > 0.0 and bad_row < 0:
            bad_row = np.int64(i)
    return norm, largest, bad_row, bad_entry


def _survey(indptr: Any, indices: Any, offsets: Any) -> Any:
    """How regular the rows are: rows as long as the one before; number of distinct diagonals.

    The diagonals' offsets are written to `offsets` in order of appearance; the count is -1 when they do not fit.
    """
    same = 0
    count = 0
    before = np.int64(-1)
    n = indptr.shape[0] - 1
    seen = np.zeros(2 * n, np.bool_)
    for i in range(n):
        row = np.int64(indptr[i + 1]) - np.int64(indptr[i])
        if row == before:
            same += 1
        before = row
        if count >= 0:
            for k in range(indptr[i], indptr[i + 1]):
                o = np.int64(indices[k]) - i
                if not seen[n + o]:
                    if count == offsets.shape[0]:
                        count = -1
                        break
                    seen[n + o] = True
                    offsets[count] = o
                    count += 1
    return same, count


def _fill_dia(indptr: Any, indices: Any, data: Any, offsets: Any, out: Any) -> None:
    """``out[d, i] += A[i, i + offsets[d]]`` with sorted offsets."""
    for i in range(indptr.shape[0] - 1):
        d = 0
        for k in range(indptr[i], indptr[i + 1]):
            o = np.int64(indices[k]) - i
            if d >= offsets.shape[0] or offsets[d] > o:
                d = 0
            while offsets[d] != o:
                d += 1
            out[d, i] += data[k]


def _sort_rows(
    indptr: Any, indices: Any, data: Any, new_indptr: Any, new_indices: Any, new_data: Any, place: Any
) -> None:
    """Order rows by length within windows (stably), writing `SortedCSR`'s arrays."""
    n = indptr.shape[0] - 1
    k = 0
    new_indptr[0] = 0
    for first in range(0, n, WINDOW):
        last = min(first + WINDOW, n)
        order = np.argsort(indptr[first + 1 : last + 1].astype(np.int64) - indptr[first:last], kind="mergesort")
        for j in range(last - first):
            row = first + order[j]
            place[first + j] = order[j]
            for e in range(indptr[row], indptr[row + 1]):
                new_indices[k] = indices[e]
                new_data[k] = data[e]
                k += 1
            new_indptr[first + j + 1] = k


def _unsort_rows(
    indptr: Any, indices: Any, data: Any, place: Any, new_indptr: Any, new_indices: Any, new_data: Any
) -> None:
    """What `sort_rows` did, undone: from `SortedCSR`'s arrays to rows in their own order."""
    n = place.shape[0]
    new_indptr[0] = 0
    for i in range(n):
        row = i - i % WINDOW + place[i]
        new_indptr[row + 1] = indptr[i + 1] - indptr[i]
    for i in range(n):
        new_indptr[i + 1] += new_indptr[i]
    for i in range(n):
        k = U(new_indptr[i - i % WINDOW + place[i]])
        for e in range(U(indptr[i]), U(indptr[i + 1])):
            new_indices[k] = indices[e]
            new_data[k] = data[e]
            k += ONE


def _rows_of_dia(offsets: Any, data: Any, indptr: Any, indices: Any, out: Any) -> None:
    """Diagonals as compressed rows, without their zeros."""
    n = data.shape[1]
    k = U(0)
    indptr[0] = 0
    for i in range(n):
        for d in range(offsets.shape[0]):
            j = i + offsets[d]
            if 0 <= j < n and data[d, i] != 0:
                indices[k] = j
                out[k] = data[d, i]
                k += ONE
        indptr[i + 1] = k


def _inspect_symmetric(
    indptr: Any, indices: Any, data: Any, ahead: Any, diagonal: Any, new_indptr: Any, new_indices: Any, new_data: Any
) -> Any:
    """Whether a real matrix is exactly symmetric, its columns rising in each row; and what `scan_csr` says of it.

    The diagonal is written, and `HalfCSR`'s other arrays where they have room: with an empty ``new_indices`` nothing is
    stored. ``ahead[j]``, first ``indptr[j]``, is the entry of row j that mirrors the next one above the diagonal in
    column j. The largest row sum of absolute values is infinite where an entry is; NaN is its own mirror image nowhere.
    """
    n = U(indptr.shape[0] - 1)
    keep = new_indices.shape[0] > 0
    norm = 0.0
    bad_row = np.int64(-1)
    k = U(0)
    if keep:
        new_indptr[0] = 0
    for i in range(n):
        e, end = U(indptr[i]), U(indptr[i + ONE])
        below = 0.0
        above = 0.0
        main = 0.0
        while e < end and indices[e] < i:
            if keep:
                new_indices[k] = indices[e]
                new_data[k] = data[e]
                k += ONE
            below += abs(np.float64(data[e]))
            e += ONE
        if ahead[i] != e:  # the rows above have mirrored fewer
            return False, norm, bad_row
        if keep:
            new_indptr[i + ONE] = k
        if e < end and indices[e] == i:
            main = np.float64(data[e])
            diagonal[i] = data[e]
            e += ONE
        if not main > 0.0:
            if main != main:
                return False, norm, bad_row
            bad_row = np.int64(i) if bad_row < 0 else bad_row
        while e < end:
            j = U(indices[e])
            if j <= i or j >= n:
                return False, norm, bad_row
            mirror = U(ahead[j])
            if mirror >= U(indptr[j + ONE]) or indices[mirror] != i or data[mirror] != data[e]:
                return False, norm, bad_row
            ahead[j] = mirror + ONE
            above += abs(np.float64(data[e]))
            e += ONE
        norm = max(norm, below + above + abs(main))
    return True, norm, bad_row


def _is_main_diagonal(indptr: Any, indices: Any) -> bool:
    """Whether each row has one entry, on the diagonal."""
    others = U(0)
    for i in range(U(indices.shape[0])):
        others |= (U(indptr[i]) ^ i) | (U(indices[i]) ^ i)
    return others == U(0)


def _fill_half_dia(indptr: Any, indices: Any, data: Any, offsets: Any, out: Any) -> None:
    """``out[d, i] = A[i, i + offsets[d]]`` with sorted positive offsets, the columns of A rising in each row."""
    for i in range(U(indptr.shape[0] - 1)):
        d = U(0)
        for k in range(U(indptr[i]), U(indptr[i + ONE])):
            if U(indices[k]) > i:
                o = U(indices[k]) - i
                while U(offsets[d]) != o:
                    d += ONE
                out[d, i] = data[k]


def _fill_probe(v: Any, seed: Any) -> None:
    """Pseudo-random numbers in (-1, 1) by a fixed integer hash (splitmix64; Steele, Lea and Flood 2014)."""
    for i in range(v.shape[0]):
        h = (U(i) + U(seed)) * U(0x9E3779B97F4A7C15)
        h = (h ^ (h >> U(30))) * U(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> U(27))) * U(0x94D049BB133111EB)
        h = h ^ (h >> U(31))
        v[i] = np.float64(h >> U(11)) * (2.0 / 9007199254740992.0) - 1.0


def _diagonal_csr(indptr: Any, indices: Any, data: Any, out: Any) -> None:
    for i in range(U(out.shape[0])):
        for k in range(U(indptr[i]), U(indptr[i + ONE])):
            if U(indices[k]) == i:
                out[i] += data[k]


def _diagonal_sorted(indptr: Any, indices: Any, data: Any, place: Any, out: Any) -> None:
    for i in range(U(out.shape[0])):
        row = i - i % U(WINDOW) + U(place[i])
        for k in range(U(indptr[i]), U(indptr[i + ONE])):
            if U(indices[k]) == row:
                out[row] += data[k]


def diagonal(A: Layout, n: int) -> Any:
    """The diagonal of a layout as a new (n,) array."""
    if isinstance(A, Dense | DenseLower):
        return A.values.diagonal().copy()
    if isinstance(A, HalfDIA):
        return A.diagonal.copy()
    if isinstance(A, DIA):
        main = np.flatnonzero(A.offsets == 0)
        return A.data[main[0]].copy() if main.size else np.zeros(n, A.data.dtype)
    out = np.zeros(n, A.data.dtype)
    (diagonal_csr if isinstance(A, CSR) else diagonal_sorted)(*A, out)
    return out


diagonal_csr = compiled(_diagonal_csr, threaded=False)
diagonal_sorted = compiled(_diagonal_sorted, threaded=False)
scan_csr = compiled(_scan_csr, threaded=False, fastmath=CONTRACT)
scan_dense = compiled(_scan_dense, threaded=False, fastmath=CONTRACT)
survey = compiled(_survey, threaded=False)
fill_dia = compiled(_fill_dia, threaded=False)
sort_rows = compiled(_sort_rows, threaded=False)
unsort_rows = compiled(_unsort_rows, threaded=False)
inspect_symmetric = compiled(_inspect_symmetric, threaded=False)
is_main_diagonal = compiled(_is_main_diagonal, threaded=False)
fill_half_dia = compiled(_fill_half_dia, threaded=False)
rows_of_dia = compiled(_rows_of_dia, threaded=False)
fill_probe = compiled(_fill_probe, threaded=False)
