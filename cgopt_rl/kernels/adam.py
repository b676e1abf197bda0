"""Adam on one flat vector, in one pass."""

from __future__ import annotations

import math
from typing import Any

from cgopt.kernels.cpu.compile import compiled


def _adam(theta: Any, m: Any, v: Any, g: Any, rate: Any, beta1: Any, beta2: Any, epsilon: Any, t: Any) -> None:
    """D. Kingma and J. Ba (2015), algorithm 1, step t = 1, 2, ..., in the order of operations of their section 2."""
    one = theta.dtype.type(1)
    b1, b2, e = one * beta1, one * beta2, one * (epsilon * math.sqrt(1.0 - beta2**t))
    a = one * (rate * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t))
    for i in range(theta.shape[0]):
        m[i] = b1 * m[i] + (one - b1) * g[i]
        v[i] = b2 * v[i] + (one - b2) * g[i] * g[i]
        theta[i] -= a * m[i] / (math.sqrt(v[i]) + e)


adam = compiled(_adam, threaded=False)
