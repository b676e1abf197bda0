"""Preconditioners that are made of products: Chebyshev polynomials and dense blocks on the diagonal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, REASSOCIATE, compiled, pair

U = np.uint64
ONE = U(1)


@pair(REASSOCIATE)
def chebyshev_start(inverse: Any, factor: Any, r: Any, d: Any, z: Any, w: Any) -> None:
    """``z = d = factor D^-1 r``."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            d[i] = factor * inverse[i] * r[i]
            z[i] = d[i]


@pair(REASSOCIATE)
def chebyshev_step(inverse: Any, a: Any, c: Any, q: Any, r: Any, d: Any, z: Any, w: Any) -> None:
    """``r -= q``, ``d = a d + c D^-1 r``, ``z += d``: 8 streams (q, D; r, d, z each twice), one pass."""
    bounds = w.bounds
    for t in prange(bounds.shape[0] - 1):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            ri = r[i] - q[i]
            r[i] = ri
            di = a * d[i] + c * inverse[i] * ri
            d[i] = di
            z[i] += di


@pair(REASSOCIATE)
def multiply_blocks(blocks: Any, x: Any, out: Any, w: Any) -> None:
    """``out = B x``, B block diagonal with ``blocks[b]`` in rows b m to (b + 1) m; the last may reach past the end."""
    bounds = w.bounds
    m = U(blocks.shape[1])
    n = U(x.shape[0])
    for t in prange(bounds.shape[0] - 1):
        for b in range(U(bounds[t]), U(bounds[t + 1])):
            first = b * m
            size = min(m, n - first)
            for i in range(size):
                s = blocks[b, i, U(0)] * x[first]
                for j in range(ONE, size):
                    s += blocks[b, i, j] * x[first + j]
                out[first + i] = s


def _diagonal_blocks(indptr: Any, indices: Any, data: Any, blocks: Any) -> None:
    """Copy the entries of the diagonal blocks; rows past the end get a one on the diagonal."""
    n, m = indptr.shape[0] - 1, blocks.shape[1]
    for i in range(n):
        b = i // m
        for k in range(U(indptr[i]), U(indptr[i + 1])):
            j = np.int64(indices[k])
            if j // m == b:
                blocks[b, i - b * m, j - b * m] += data[k]
    for i in range(n, blocks.shape[0] * m):
        blocks[i // m, i % m, i % m] = 1.0


def _count_blocks(indptr: Any, indices: Any, m: Any, first: Any, last: Any) -> Any:
    """Number of m-by-m blocks in rows first to last that hold an entry."""
    n = indptr.shape[0] - 1
    seen = np.full((n + m - 1) // m, -1, np.int64)
    count = 0
    for i in range(first, last):
        row = i // m
        for k in range(U(indptr[i]), U(indptr[i + 1])):
            column = np.int64(indices[k]) // m
            if seen[column] != row:
                seen[column] = row
                count += 1
    return count


diagonal_blocks = compiled(_diagonal_blocks, threaded=False)
count_blocks = compiled(_count_blocks, threaded=False, fastmath=CONTRACT)
