"""Products of small matrices with blocks of vectors, the rows of (s, n) arrays.

An iteration of block conjugate gradients makes six of them, each of s^2 n multiplications where a sparse product has
a few s n. They go over the columns tile by tile: a tile of the block stays in second-level cache while every row of the
small matrix passes over it. Compiled here rather than left to BLAS, whose threads and ours would fight for the cores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, REASSOCIATE, chunk, pair

U = np.uint64
ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)
TILE = 256  # columns; 16 rows of them are 32 kB


@chunk(REASSOCIATE)
def add_product(K: Any, P: Any, out: Any, low: Any, high: Any, shift: Any) -> None:
    """Columns low to high of ``out += K P``; those of out are stored from ``low - shift`` on."""
    rows, inner = U(K.shape[0]), U(K.shape[1])
    low, high, shift = U(low), U(high), U(shift)
    for i in range(rows):
        j = U(0)
        while j + THREE < inner:
            k0, k1 = P.dtype.type(K[i, j]), P.dtype.type(K[i, j + ONE])
            k2, k3 = P.dtype.type(K[i, j + TWO]), P.dtype.type(K[i, j + THREE])
            for l in range(low, high):
                out[i, l - shift] += k0 * P[j, l] + k1 * P[j + ONE, l] + (k2 * P[j + TWO, l] + k3 * P[j + THREE, l])
            j += FOUR
        while j < inner:
            k0 = P.dtype.type(K[i, j])
            for l in range(low, high):
                out[i, l - shift] += k0 * P[j, l]
            j += ONE


@chunk(REASSOCIATE)
def gram_tile(P: Any, T: Any, G: Any, low: Any, high: Any) -> None:
    """Columns low to high's part of ``G += P T'``."""
    rows, others = U(P.shape[0]), U(T.shape[0])
    for i in range(rows):
        j = U(0)
        while j + THREE < others:
            g0 = g1 = g2 = g3 = 0.0
            for l in range(U(low), U(high)):
                p = np.float64(P[i, l])
                g0 += p * np.float64(T[j, l])
                g1 += p * np.float64(T[j + ONE, l])
                g2 += p * np.float64(T[j + TWO, l])
                g3 += p * np.float64(T[j + THREE, l])
            G[i, j] += g0
            G[i, j + ONE] += g1
            G[i, j + TWO] += g2
            G[i, j + THREE] += g3
            j += FOUR
        while j < others:
            g0 = 0.0
            for l in range(U(low), U(high)):
                g0 += np.float64(P[i, l]) * np.float64(T[j, l])
            G[i, j] += g0
            j += ONE


@pair(CONTRACT)
def block_gram(P: Any, T: Any, G: Any, w: Any) -> None:
    """``G = P T'``: each chunk of columns adds up its own part, and the parts are added in order."""
    bounds = w.bounds
    parts = np.zeros((bounds.shape[0] - 1, P.shape[0], T.shape[0]))
    for t in prange(bounds.shape[0] - 1):
        low = bounds[t]
        while low < bounds[t + 1]:
            high = min(low + TILE, bounds[t + 1])
            gram_tile(P, T, parts[t], low, high)
            low = high
    G[:] = parts[0]
    for t in range(1, parts.shape[0]):
        G += parts[t]


@pair(CONTRACT)
def block_reduce(K: Any, T: Any, Q: Any, w: Any) -> None:
    """``Q -= K T``."""
    bounds = w.bounds
    minus = -K
    for t in prange(bounds.shape[0] - 1):
        low = bounds[t]
        while low < bounds[t + 1]:
            high = min(low + TILE, bounds[t + 1])
            add_product(minus, T, Q, low, high, 0)
            low = high


@pair(CONTRACT)
def block_turn(inverse: Any, Q: Any, w: Any) -> None:
    """``Q = inverse Q``, in the first rows of Q where there are fewer."""
    bounds = w.bounds
    rows = inverse.shape[0]
    room = np.empty((bounds.shape[0] - 1, rows, TILE), Q.dtype)
    for t in prange(bounds.shape[0] - 1):
        tile = room[t]
        low = bounds[t]
        while low < bounds[t + 1]:
            high = min(low + TILE, bounds[t + 1])
            tile[:] = 0
            add_product(inverse, Q, tile, low, high, low)
            for i in range(rows):
                for l in range(low, high):
                    Q[i, l] = tile[i, l - low]
            low = high


@pair(CONTRACT)
def block_advance(K: Any, L: Any, Z: Any, P: Any, X: Any, w: Any) -> None:
    """``X += K P``, ``P = Z + L'P``, the latter in as many rows as L has columns."""
    bounds = w.bounds
    rows = L.shape[1]
    turned = np.ascontiguousarray(L.T)
    room = np.empty((bounds.shape[0] - 1, rows, TILE), P.dtype)
    for t in prange(bounds.shape[0] - 1):
        tile = room[t]
        low = bounds[t]
        while low < bounds[t + 1]:
            high = min(low + TILE, bounds[t + 1])
            add_product(K, P, X, low, high, 0)
            for i in range(rows):
                for l in range(low, high):
                    tile[i, l - low] = Z[i, l]
            add_product(turned, P, tile, low, high, low)
            for i in range(rows):
                for l in range(low, high):
                    P[i, l] = tile[i, l - low]
            low = high
