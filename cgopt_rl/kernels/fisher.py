"""The passes between two matrix products of a Fisher product in factored form (see `cgopt_rl.fisher`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from cgopt.kernels.cpu.compile import REASSOCIATE, pair

U = np.uint64


@pair(REASSOCIATE)
def contract(T: Any, B: Any, u: Any, bounds: Any) -> None:
    """``u[c, i] += sum_j T[i, j] B[c, i, j]``."""
    for chunk in prange(bounds.shape[0] - 1):
        for i in range(U(bounds[chunk]), U(bounds[chunk + 1])):
            for c in range(U(B.shape[0])):
                total = T.dtype.type(0)
                for j in range(U(T.shape[1])):
                    total += T[i, j] * B[c, i, j]
                u[c, i] += total


@pair(REASSOCIATE)
def spread(u: Any, B: Any, D: Any, bounds: Any) -> None:
    """``D[i, j] = sum_c u[c, i] B[c, i, j]``."""
    for chunk in prange(bounds.shape[0] - 1):
        for i in range(U(bounds[chunk]), U(bounds[chunk + 1])):
            first = u[U(0), i]
            for j in range(U(D.shape[1])):
                D[i, j] = first * B[U(0), i, j]
            for c in range(U(1), U(B.shape[0])):
                weight = u[c, i]
                for j in range(U(D.shape[1])):
                    D[i, j] += weight * B[c, i, j]
