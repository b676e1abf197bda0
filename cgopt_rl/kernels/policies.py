"""Row by row passes of policies over a batch, for outputs so few that NumPy's reductions over them cost the most.

The exponentials and logarithms between them are NumPy's, which are vectorised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import compiled

U = np.uint64


def _shift(Z: Any, out: Any) -> None:
    """``out[i, j] = z_j - max z`` for the rows z of Z, in float64."""
    for i in range(U(Z.shape[0])):
        top = Z[i, 0]
        for j in range(U(1), U(Z.shape[1])):
            top = max(top, Z[i, j])
        for j in range(U(Z.shape[1])):
            out[i, j] = np.float64(Z[i, j]) - np.float64(top)


def _row_sums(A: Any, out: Any) -> None:
    """``out[i] = sum_j A[i, j]``."""
    for i in range(U(A.shape[0])):
        total = 0.0
        for j in range(U(A.shape[1])):
            total += A[i, j]
        out[i] = total


def _subtract(columns: Any, A: Any) -> None:
    """``A[i, j] -= columns[i]``."""
    for i in range(U(A.shape[0])):
        for j in range(U(A.shape[1])):
            A[i, j] -= columns[i]


shift = compiled(_shift, threaded=False)
row_sums = compiled(_row_sums, threaded=False)
subtract = compiled(_subtract, threaded=False)
