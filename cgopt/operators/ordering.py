"""Orders of the unknowns: for sweeps of factorisations that run on threads, and for products that stay in cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import CSR

WORTH_CUTTING = 8_000  # rows below which two threads would spend their time waiting for each other
MOST_SEPARATORS = 0.06  # share of the rows that may be separators, which one thread works off alone


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
    if parts > 1 and n >= WORTH_CUTTING:
        found = _cut(A, natural, parts)
        if found is None:
            found = _cut(A, small_bandwidth(A), parts)
        if found is not None:
            return found
    return Dissection(natural, np.array([0, n]))


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
    count = int(np.count_nonzero(separator))
    if count > MOST_SEPARATORS * n:
        return None
    pieces, ends = [], [0]
    for t in range(parts):
        kept = bounds[t] + np.flatnonzero(~separator[bounds[t] : bounds[t + 1]])
        pieces.append(kept[::-1] if t % 2 else kept)
        ends.append(ends[-1] + kept.size)
    return Dissection(order[np.concatenate([*pieces, np.flatnonzero(separator)])], np.array(ends))
