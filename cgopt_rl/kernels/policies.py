"""Elementwise passes of policies over a batch, for outputs so few that NumPy's reductions over them cost the most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import compiled


def _log_softmax(Z: Any, out: Any) -> None:
    """``out[i, j] = z_j - log(sum_k exp(z_k))`` for the rows z of Z, in float64."""
    for i in range(Z.shape[0]):
        top = np.float64(Z[i, 0])
        for j in range(1, Z.shape[1]):
            top = max(top, np.float64(Z[i, j]))
        total = 0.0
        for j in range(Z.shape[1]):
            total += math.exp(np.float64(Z[i, j]) - top)
        log_total = math.log(total)
        for j in range(Z.shape[1]):
            out[i, j] = np.float64(Z[i, j]) - top - log_total


log_softmax = compiled(_log_softmax, threaded=False)
