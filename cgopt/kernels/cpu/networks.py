"""Fused passes over flat parameter vectors and over layers, and a whole network for one observation.

Streams of n entries: `adam_step` 7 (theta, m, v twice, the gradient once), `momentum_step` 5, `blend` 3; in NumPy, with
a temporary for each operation, Adam takes 30.

Layers of k vectors at once are (samples, k, units), with numbers for each sample and unit that all k share: NumPy's
broadcasting takes three times as long over those (8 vectors, 50 units). They run on one thread, which leaves those of
BLAS, about to be asked for the next matrix product, alone.

Batches belong to BLAS and to NumPy's vector functions. For one observation a call of either costs more than its
arithmetic, and `forward_one` runs all layers in one call. Its weights lie by rows of inputs, so the inner loop adds a
row times a number to the outputs and is vectorised whatever the sizes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from .compile import CONTRACT, REASSOCIATE, compiled, inline, pair

U = np.uint64

LINEAR, TANH, LOGISTIC, RELU, SOFTPLUS = range(5)


@pair(CONTRACT)
def adam_step(
    theta: Any, gradient: Any, m: Any, v: Any, rate: Any, beta1: Any, beta2: Any, spread: Any, eps: Any, w: Any
) -> None:
    """``m += (1 - beta1)(g - m)``, ``v += (1 - beta2)(g^2 - v)``, ``theta -= rate m / (sqrt(spread v) + eps)``."""
    bounds, sums = w.bounds, w.sums
    one = theta.dtype.type(1.0)
    a, b1, b2 = theta.dtype.type(rate), theta.dtype.type(beta1), theta.dtype.type(beta2)
    c, e = theta.dtype.type(spread), theta.dtype.type(eps)
    for t in prange(sums.shape[0]):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            g = gradient[i]
            mi = b1 * m[i] + (one - b1) * g
            vi = b2 * v[i] + (one - b2) * g * g
            m[i] = mi
            v[i] = vi
            theta[i] -= a * mi / (np.sqrt(c * vi) + e)


@pair(CONTRACT)
def momentum_step(theta: Any, gradient: Any, velocity: Any, rate: Any, mu: Any, ahead: Any, w: Any) -> None:
    """``V = mu V - rate g``; ``theta += V``, or looking ahead ``theta += mu V - rate g``."""
    bounds, sums = w.bounds, w.sums
    a, b = theta.dtype.type(rate), theta.dtype.type(mu)
    for t in prange(sums.shape[0]):
        if ahead:
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                step = a * gradient[i]
                vi = b * velocity[i] - step
                velocity[i] = vi
                theta[i] += b * vi - step
        else:
            for i in range(U(bounds[t]), U(bounds[t + 1])):
                vi = b * velocity[i] - a * gradient[i]
                velocity[i] = vi
                theta[i] += vi


@pair(CONTRACT)
def blend(target: Any, theta: Any, tau: Any, w: Any) -> None:
    """``target += tau (theta - target)``."""
    bounds, sums = w.bounds, w.sums
    a = target.dtype.type(tau)
    for t in prange(sums.shape[0]):
        for i in range(U(bounds[t]), U(bounds[t + 1])):
            target[i] += a * (theta[i] - target[i])


def _scale_units(r: Any, d: Any) -> None:
    """``r[i, j, c] *= d[i, c]``."""
    samples, k, units = U(r.shape[0]), U(r.shape[1]), U(r.shape[2])
    for i in range(samples):
        for j in range(k):
            for c in range(units):
                r[i, j, c] *= d[i, c]


def _add_scale_units(r: Any, t: Any, d: Any) -> None:
    """``r[i, j, c] = (r[i, j, c] + t[i, j, c]) d[i, c]``."""
    samples, k, units = U(r.shape[0]), U(r.shape[1]), U(r.shape[2])
    for i in range(samples):
        for j in range(k):
            for c in range(units):
                r[i, j, c] = (r[i, j, c] + t[i, j, c]) * d[i, c]


def _softmax_curvature(u: Any, p: Any, s: Any) -> None:
    """``u = s (u - p'u)``, row by row: with s a multiple of p, that multiple of ``(diag(p) - p p') u``."""
    samples, k, units = U(u.shape[0]), U(u.shape[1]), U(u.shape[2])
    for i in range(samples):
        for j in range(k):
            mean = u.dtype.type(0.0)
            for c in range(units):
                mean += p[i, c] * u[i, j, c]
            for c in range(units):
                u[i, j, c] = s[i, c] * (u[i, j, c] - mean)


scale_units = compiled(_scale_units, threaded=False, fastmath=CONTRACT)
add_scale_units = compiled(_add_scale_units, threaded=False, fastmath=CONTRACT)
softmax_curvature = compiled(_softmax_curvature, threaded=False, fastmath=REASSOCIATE)


@inline
def activate(code: Any, a: Any, units: Any) -> None:
    """``a = f(a)`` for the activation of a code."""
    if code == TANH:
        for i in range(units):
            a[i] = math.tanh(a[i])
    elif code == LOGISTIC:
        for i in range(units):
            a[i] = 0.5 + 0.5 * math.tanh(0.5 * a[i])
    elif code == RELU:
        for i in range(units):
            a[i] = max(a[i], a.dtype.type(0.0))
    elif code == SOFTPLUS:
        for i in range(units):
            a[i] = max(a[i], a.dtype.type(0.0)) + math.log1p(math.exp(-abs(a[i])))


def _forward_one(theta: Any, sizes: Any, codes: Any, states: Any) -> None:
    """Run a network on one observation, ``states[0]``; ``states[l]`` receives layer l's output, in its first places."""
    start = U(0)
    for layer in range(codes.shape[0]):
        inputs, units = U(sizes[layer]), U(sizes[layer + 1])
        h, a = states[layer], states[layer + 1]
        bias = start + inputs * units
        for o in range(units):
            a[o] = theta[bias + o]
        for i in range(inputs):
            hi = h[i]
            row = start + i * units
            for o in range(units):
                a[o] += hi * theta[row + o]
        activate(codes[layer], a, units)
        start = bias + units


forward_one = compiled(_forward_one, threaded=False, fastmath=CONTRACT)
