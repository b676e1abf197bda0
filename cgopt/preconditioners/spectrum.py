"""The largest eigenvalue of a symmetric operator, by a few steps of Lanczos' method."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal

from ..arrays import Array
from ..kernels import cpu


def largest_eigenvalue(product: Callable[[Array, Array], object], n: int, steps: int = 10) -> tuple[float, float]:
    """Estimate the largest eigenvalue.

    Parameters
    ----------
    product : callable
        ``product(x, out)`` writes ``A x`` to out, both (n,) float64.
    n : int
    steps : int
        Products made.

    Returns
    -------
    estimate : float
        The largest Ritz value: a lower bound.
    bound : float
        The estimate plus the norm of the last residual, an upper bound in practice (Zhou and Li, Linear Algebra Appl.
        435, 2011).
    """
    work = cpu.share_rows(n, 4 * n)

    def dot(a: Array, b: Array) -> float:
        return float(cpu.run(cpu.real_dot, work, a, b, work))

    v, before, w = np.empty(n), np.zeros(n), np.empty(n)
    cpu.fill_probe(v, 1)
    v /= math.sqrt(dot(v, v))
    alpha, beta = np.zeros(steps), np.zeros(steps)
    done = 0
    for k in range(min(steps, n)):
        product(v, w)  # w = A v
        if k:
            w -= beta[k - 1] * before  # w -= beta v_(k-1)
        alpha[k] = dot(v, w)  # alpha = v'A v
        w -= alpha[k] * v
        beta[k] = math.sqrt(dot(w, w))
        done = k + 1
        if not beta[k] > 1e-12 * abs(alpha[k]):
            break
        before, v, w = v, w, before
        v /= beta[k]
    values, vectors = eigh_tridiagonal(alpha[:done], beta[: done - 1])
    estimate = float(values[-1])
    return estimate, estimate + abs(float(beta[done - 1] * vectors[-1, -1])) + 1e-12 * abs(estimate)
