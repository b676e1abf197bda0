"""The passes between two matrix products of a Fisher product in factored form (see `cgopt_rl.fisher`).

They run on one thread: the other one fits the value network meanwhile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import REASSOCIATE, compiled

U = np.uint64


def _contract(T: Any, B: Any, u: Any) -> None:
    """``u[c, i] += sum_j T[i, j] B[c, i, j]``."""
    for i in range(U(T.shape[0])):
        for c in range(U(B.shape[0])):
            total = T.dtype.type(0)
            for j in range(U(T.shape[1])):
                total += T[i, j] * B[c, i, j]
            u[c, i] += total


def _spread(u: Any, B: Any, D: Any) -> None:
    """``D[i, j] = sum_c u[c, i] B[c, i, j]``."""
    for i in range(U(D.shape[0])):
        first = u[U(0), i]
        for j in range(U(D.shape[1])):
            D[i, j] = first * B[U(0), i, j]
        for c in range(U(1), U(B.shape[0])):
            weight = u[c, i]
            for j in range(U(D.shape[1])):
                D[i, j] += weight * B[c, i, j]


contract = compiled(_contract, threaded=False, fastmath=REASSOCIATE)
spread = compiled(_spread, threaded=False, fastmath=REASSOCIATE)
