"""Products of small matrices, in host memory, with blocks of vectors on the device: the rows of (s, n) arrays.

Names and meaning as in `cgopt.kernels.reference`. Not left to cuBLAS: inner products are summed in double precision
over vectors of either, and nothing is made in TF32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .device import c_type, cupy, kernels
from .sources import TILE
from .vectors import Work


def block_gram(P: Any, T: Any, G: Any, w: Work) -> None:
    """``G = P T'``, summed in fp64; G lies in host memory."""
    xp = cupy()
    rows, others = P.shape[0], T.shape[0]
    if rows == 0 or others == 0:
        return
    tasks = -(-rows // TILE) * -(-others // TILE)
    parts, arrived = xp.empty(tasks * w.blocks * TILE * TILE, np.float64), xp.zeros(tasks, np.uint32)
    out = xp.empty((rows, others), np.float64)
    args = (np.uint64(P.shape[1]), np.uint32(rows), np.uint32(others), P, T, out, parts, arrived)
    kernels("block", real=c_type(P.dtype)).launch("block_gram", w.blocks * tasks, args)
    G[...] = out.get()


def _combine(K: Any, T: Any, base: Any, out: Any, w: Work) -> None:
    """``out = base + K T``; base may be None, which is zero, or `out`."""
    rows, inner = K.shape
    if rows == 0:
        return
    small = cupy().asarray(np.ascontiguousarray(K, T.dtype))
    args = (np.uint64(T.shape[1]), np.uint32(rows), np.uint32(inner), small, T, base, out)
    kernels("block", real=c_type(T.dtype)).launch("block_combine", w.blocks * -(-rows // TILE), args, 0)


def block_reduce(K: Any, T: Any, Q: Any, w: Work) -> None:
    """``Q -= K T``."""
    _combine(-K, T, Q, Q, w)


def block_turn(inverse: Any, Q: Any, w: Work) -> None:
    """``Q = inverse Q``, in the first rows of Q where there are fewer."""
    turned = np.empty((inverse.shape[0], Q.shape[1]), Q.dtype, like=Q)
    _combine(inverse, Q, None, turned, w)
    Q[: inverse.shape[0]] = turned


def block_advance(K: Any, L: Any, Z: Any, P: Any, X: Any, w: Work) -> None:
    """``X += K P``, ``P = Z + L'P``, the latter in as many rows as L has columns."""
    m = L.shape[1]
    _combine(K, P, X, X, w)
    turned = np.empty((m, P.shape[1]), P.dtype, like=P)
    _combine(L.T, P, Z, turned, w)
    P[:m] = turned
