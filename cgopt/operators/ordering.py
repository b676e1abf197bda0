"""Orders of the unknowns: for sweeps of factorisations that run on threads, and for products that stay in cache."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import CSR

UNEVEN = 1.2  # times the mean work that a part may have
MOST_SEPARATORS = 0.12  # share of rows (of entries, in a given order) in separators, which one thread works off alone


# A factor has little fill if it has no more than so many times the entries of A's lower triangle after this share of
# the elimination (read off sixty real matrices). Grids exceed the first bounds, and cost little up to there.
LITTLE_FILL = ((0.1, 0.108), (0.25, 0.3), (0.4, 0.6), (0.5, 0.85), (0.75, 1.8), (1.0, 4.0))
# Mean row lengths between which it stops at the first bounds: chains are no grids, and longer rows have little fill
# only where few unknowns are linked to many.
ROWS_OF_GRIDS = (3.9, 64)
HUBS = 8.0  # times the mean that the longest row has there: bundle adjustment, networks
LITTLE_WORK = 130.0  # multiplications for each entry of A that the factor may take
DENSE_ROW = 10.0  # times the root of n: neighbours that an unknown may have and not come last
FEW = 2000  # neighbours that it may have in any case


class Dissection(NamedTuple):
    """Parts that do not see each other, and the separators between them.

    Attributes
    ----------
    order : (n,) array
        Row i of the new order is row ``order[i]``: part after part, then the separators.
    parts : (parts + 1,) int64 array
        Part t is rows ``parts[t]:parts[t+1]`` of the new order; ``parts[-1]:`` are the separators.
    """

    order: Array
    parts: Array


def dissect(A: CSR, parts: int) -> Dissection:
    """Cut the rows of a symmetric matrix into parts that only separators link.

    The rows' own order is kept within a part, but every other part is turned round: two parts then are worked through
    towards the separator between them, from either side, which costs a factorisation without fill no quality (van der
    Vorst, SIAM J. Sci. Stat. Comput. 8, 1987). Where the own order has too many links between its parts, that of
    Cuthill and McKee is taken, and where that has too, there is one part.

    Parameters
    ----------
    A : CSR
        With a symmetric pattern.
    parts : int

    Returns
    -------
    Dissection
    """
    n = A.indptr.size - 1
    natural = np.arange(n, dtype=A.indices.dtype)
    if parts > 1 and _worth_cutting(A):
        found = _cut(A, natural, parts)
        if found is None:
            found = _cut(A, small_bandwidth(A), parts)
        if found is not None:
            return found
    return Dissection(natural, np.array([0, n]))


def _worth_cutting(A: CSR) -> bool:
    """Whether a sweep takes longer than threads take to wait for each other."""
    return A.data.size + 4 * (A.indptr.size - 1) >= cpu.threads.SMALL


def has_hubs(indptr: Array) -> bool:
    """Whether a few unknowns are linked to many more than the others are."""
    return bool((indptr[1:] - indptr[:-1]).max(initial=0) * float(indptr.size - 1) > HUBS * float(indptr[-1]))


def little_fill(A: CSR, parts: int) -> tuple[Dissection, Array] | None:
    """An order in which a Cholesky factor has few entries, by minimum degree; None if A has no such order.

    Parameters
    ----------
    A : CSR
        With a symmetric pattern.
    parts : int
        At most so many; branches of the elimination's tree that do not see each other.

    Returns
    -------
    Dissection
    room : (n,) int64 array
        Most entries that a column of the factor has below the diagonal.
    """
    n = A.indptr.size - 1
    if A.data.size > ROWS_OF_GRIDS[1] * n and not has_hubs(A.indptr):
        return None
    grid = ROWS_OF_GRIDS[0] * n <= A.data.size <= ROWS_OF_GRIDS[1] * n
    bounds = np.array(LITTLE_FILL if grid else LITTLE_FILL[-2:])
    when, most = bounds[:, 0] * n, bounds[:, 1] * A.data.size / 2
    pivots, parent, around, merged = np.empty((4, n), np.int64)
    dense = max(FEW, DENSE_ROW * n**0.5)
    work = LITTLE_WORK * A.data.size
    count = cpu.ordering.minimum_degree(A.indptr, A.indices, dense, when, most, work, pivots, parent, around, merged)
    if count < 0:
        return None
    order, room = np.empty((2, n), np.int64)
    up, place, last = np.empty((3, count), np.int64)
    held = cpu.ordering.postorder(pivots[:count], parent, around, merged, order, room, up, place, last)
    if 0.5 * (room**2.0).sum() > work:
        return None
    found = None
    if parts > 1 and _worth_cutting(A):
        found = _branches(room, up, place, last, held, parts)
    if found is None:
        return Dissection(order.astype(A.indices.dtype), np.array([0, n])), room
    chosen, ends = found
    return Dissection(order[chosen].astype(A.indices.dtype), ends), room[chosen]


def _branches(room: Array, up: Array, place: Array, last: Array, held: int, parts: int) -> tuple[Array, Array] | None:
    """Share the branches of a tree out to parts of about the same work, what joins them coming last; None if uneven.

    Returns places of the tree's postorder, and where the parts end.
    """
    n = room.size
    work = np.concatenate(([0.0], np.cumsum((room + 1.0) ** 2)))
    children = np.argsort(up, kind="stable")
    below = np.searchsorted(up, np.arange(-1, up.size + 1), sorter=children)
    heap: list[tuple[float, int]] = []

    def push(k: int) -> None:
        for c in children[below[k + 1] : below[k + 2]]:
            heapq.heappush(heap, (work[place[c]] - work[last[c]], int(c)))

    push(-1)
    separator = np.zeros(n, np.bool_)
    separator[held:] = True
    joined = n - held
    while heap and joined <= MOST_SEPARATORS * n:
        loads, shares = [0.0] * parts, [[] for _ in range(parts)]  # type: list[float], list[list[int]]
        for weight, k in sorted(heap):
            least = loads.index(min(loads))
            loads[least] -= weight
            shares[least].append(k)
        if max(loads) <= UNEVEN * sum(loads) / parts:
            pieces = [np.concatenate([np.arange(place[k], last[k]) for k in sorted(share)]) for share in shares]
            ends = np.cumsum([0, *(piece.size for piece in pieces)])
            return np.concatenate([*pieces, np.flatnonzero(separator)]), ends
        _, k = heapq.heappop(heap)
        inside = children[below[k + 1] : below[k + 2]]
        own = int(last[inside].max()) if inside.size else int(place[k])
        separator[own : last[k]] = True
        joined += int(last[k]) - own
        push(k)
    return None


def small_bandwidth(A: CSR) -> Array:
    """Order of small bandwidth: row i of the new order is row ``order[i]``.

    That of E. Cuthill and J. McKee (Proc. 24th Nat. Conf. ACM, 1969), reversed.
    """
    n = A.indptr.size - 1
    graph = sp.csr_array((np.ones(A.data.size, np.int8), *_signed(A)), shape=(n, n))
    return reverse_cuthill_mckee(graph, symmetric_mode=True).astype(A.indices.dtype)


def _signed(A: CSR) -> tuple[Array, Array]:
    return A.indices.view(f"i{A.indices.itemsize}"), A.indptr.view(f"i{A.indptr.itemsize}")


def _cut(A: CSR, order: Array, parts: int) -> Dissection | None:
    """Cut an order into chunks, and take out what links them; None if that is too much."""
    n = order.size
    inverse = np.empty_like(order)
    inverse[order] = np.arange(n, dtype=order.dtype)
    bounds = np.linspace(0, n, parts + 1).astype(np.int64)
    separator = np.zeros(n, np.bool_)
    cpu.factorization.mark_separators(A.indptr, A.indices, order, inverse, bounds, separator)
    linking = order[separator]
    if (A.indptr[linking + 1] - A.indptr[linking]).sum() > MOST_SEPARATORS * A.data.size:
        return None
    pieces, ends = [], [0]
    for t in range(parts):
        kept = bounds[t] + np.flatnonzero(~separator[bounds[t] : bounds[t + 1]])
        pieces.append(kept[::-1] if t % 2 else kept)
        ends.append(ends[-1] + kept.size)
    return Dissection(order[np.concatenate([*pieces, np.flatnonzero(separator)])], np.array(ends))
