"""The ends of the spectrum of a Hermitian operator, by a few steps of Lanczos' method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal

from ..arrays import Array
from ..kernels import gpu
from ..operators.check import dot_product, probe_vectors


class Ends(NamedTuple):
    """The smallest and the largest Ritz value, which lie inside the spectrum, and what no eigenvalue exceeds."""

    smallest: float
    largest: float
    bound: float


def ends_of_spectrum(
    product: Callable[[Array, Array], object],
    n: int,
    steps: int = 10,
    dtype: Any = np.float64,
    on_device: bool = False,
) -> Ends:
    """Estimate the extreme eigenvalues.

    Parameters
    ----------
    product : callable
        ``product(x, out)`` writes ``A x`` to out, both (n,) of the data type.
    n : int
    steps : int
        Products made.
    dtype : float64 or complex128
    on_device : bool
        Whether it multiplies arrays on the GPU.

    Returns
    -------
    Ends
        The bound is the largest Ritz value plus the norm of its residual: an upper bound in practice, not in theory
        (Zhou and Li, Linear Algebra Appl. 435, 2011).
    """
    dot = dot_product(n, on_device)
    first = probe_vectors(n, np.dtype(np.float64), 1)[0].astype(dtype)
    v = gpu.cupy().asarray(first) if on_device else first
    before, w = np.zeros_like(v), np.empty_like(v)
    v /= math.sqrt(dot(v, v))
    alpha, beta = np.zeros(steps), np.zeros(steps)
    done = 0
    for k in range(min(steps, n)):
        product(v, w)  # w = A v
        if k:
            w -= beta[k - 1] * before  # w -= beta v_(k-1)
        alpha[k] = dot(v, w)  # alpha = v'A v
        w -= alpha[k] * v
        beta[k] = math.sqrt(dot(w, w))  # |w|
        done = k + 1
        if not beta[k] > 1e-12 * abs(alpha[k]):
            break
        before, v, w = v, w, before
        v /= beta[k]
    values, vectors = eigh_tridiagonal(alpha[:done], beta[: done - 1])
    smallest, largest = float(values[0]), float(values[-1])
    return Ends(smallest, largest, largest + abs(float(beta[done - 1] * vectors[-1, -1])) + 1e-12 * abs(largest))
