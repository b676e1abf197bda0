"""A Fisher product in factored form, in one compiled pass over the states (see `cgopt_rl.fisher`).

It runs on one thread: the other one fits the value network meanwhile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import REASSOCIATE, compiled, helper

U = np.uint64
BLOCK = 128  # states that go through all layers together: what a product reads of them stays in the cache


@helper
def contract(T: Any, B: Any, first: Any, u: Any) -> None:
    """``u[c, i] += sum_j T[i, j] B[c, first + i, j]``."""
    for c in range(U(B.shape[0])):
        for i in range(U(T.shape[0])):
            total = T.dtype.type(0)
            for j in range(U(T.shape[1])):
                total += T[i, j] * B[c, first + i, j]
            u[c, i] += total


@helper
def spread(u: Any, B: Any, first: Any, D: Any) -> None:
    """``D[i, j] = sum_c u[c, i] B[c, first + i, j]``."""
    for i in range(U(D.shape[0])):
        weight = u[U(0), i]
        for j in range(U(D.shape[1])):
            D[i, j] = weight * B[U(0), first + i, j]
        for c in range(U(1), U(B.shape[0])):
            weight = u[c, i]
            for j in range(U(D.shape[1])):
                D[i, j] += weight * B[c, first + i, j]


def _product(inputs: Any, B: Any, v: Any, out: Any) -> None:
    """``out = F v``.

    Parameters
    ----------
    inputs : tuple of (N, rows) arrays
        Of each layer.
    B : tuple of (columns, N, units) arrays
        Of each layer.
    v, out : (n,) arrays
        Per layer one block (rows, units).
    """
    N, layers = inputs[0].shape[0], len(inputs)
    widest = 0
    for layer in range(layers):
        widest = max(widest, B[layer].shape[2])
    space, part = np.empty(BLOCK * widest, v.dtype), np.empty_like(v)
    u = np.empty((B[0].shape[0], BLOCK), v.dtype)
    out[:] = 0
    for first in range(0, N, BLOCK):
        count = min(BLOCK, N - first)
        u[:] = 0
        start = 0
        for layer in range(layers):
            rows, units = inputs[layer].shape[1], B[layer].shape[2]
            T = space[: count * units].reshape((count, units))
            V = v[start : start + rows * units].reshape((rows, units))
            np.dot(inputs[layer][first : first + count], V, T)  # [h 1] V
            contract(T, B[layer], U(first), u)  # u_c += rows of T * B_c
            start += rows * units
        start = 0
        for layer in range(layers):
            rows, units = inputs[layer].shape[1], B[layer].shape[2]
            D = space[: count * units].reshape((count, units))
            spread(u, B[layer], U(first), D)  # sum_c u_c B_c
            block = part[start : start + rows * units].reshape((rows, units))
            np.dot(inputs[layer][first : first + count].T, D, block)  # [h 1]' D
            start += rows * units
        for k in range(U(out.shape[0])):
            out[k] += part[k]


product = compiled(_product, threaded=False, fastmath=REASSOCIATE)
