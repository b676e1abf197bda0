"""Fused passes over layers and parameter vectors; names and meaning as in `cgopt.kernels.reference`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .device import blocks_for, c_type, kernels
from .sources import ACTIVATIONS


def _launch(name: str, like: Any, threads: int, *args: Any) -> None:
    kernels("networks", real=c_type(like.dtype)).launch(name, blocks_for(threads), args, 0)


def activate(name: str, a: Any, d: Any, rows: Any) -> None:
    """``a = f(a)``, ``d = f'(a)``; f(a) also goes to the next layer's ``rows = [f(a) 1]``. Either may be None."""
    samples, units = a.shape
    code = np.int32(ACTIVATIONS[name])
    _launch("activate", a, a.size, np.uint64(samples), np.uint64(units), code, a, d, rows)


def scale_units(r: Any, d: Any) -> None:
    """``r[i, j, c] *= d[i, c]``."""
    _launch("scale_units", r, r.size, *(np.uint64(m) for m in r.shape), r, None, d)


def add_scale_units(r: Any, t: Any, d: Any) -> None:
    """``r[i, j, c] = (r[i, j, c] + t[i, j, c]) d[i, c]``."""
    _launch("scale_units", r, r.size, *(np.uint64(m) for m in r.shape), r, t, d)


def softmax_curvature(u: Any, p: Any, s: Any) -> None:
    """``u = s (u - p'u)``, row by row."""
    samples, k, units = u.shape
    _launch("softmax_curvature", u, samples * k, np.uint64(samples), np.uint64(k), np.uint64(units), u, p, s)


def adam_step(
    theta: Any,
    gradient: Any,
    m: Any,
    v: Any,
    rate: float,
    beta1: float,
    beta2: float,
    spread: float,
    eps: float,
    w: Any = None,
) -> None:
    """``m += (1 - beta1)(g - m)``, ``v += (1 - beta2)(g^2 - v)``, ``theta -= rate m / (sqrt(spread v) + eps)``."""
    numbers = (np.float64(number) for number in (rate, beta1, beta2, spread, eps))
    _launch("adam_step", theta, theta.size, np.uint64(theta.size), theta, gradient, m, v, *numbers)


def momentum_step(theta: Any, gradient: Any, velocity: Any, rate: float, mu: float, ahead: bool, w: Any = None) -> None:
    """``V = mu V - rate g``; ``theta += V``, or looking ahead ``theta += mu V - rate g``."""
    numbers = np.float64(rate), np.float64(mu), np.int32(ahead)
    _launch("momentum_step", theta, theta.size, np.uint64(theta.size), theta, gradient, velocity, *numbers)


def blend(target: Any, theta: Any, tau: float, w: Any = None) -> None:
    """``target += tau (theta - target)``."""
    _launch("blend", target, target.size, np.uint64(target.size), target, theta, np.float64(tau))


def forward_one(theta: Any, sizes: Any, codes: Any, states: Any) -> None:
    """Run a network on one observation, ``states[0]``; ``states[l]`` receives layer l's output, in its first places.

    All lie on the device, sizes and codes as int64.
    """
    layers, width = np.uint64(codes.size), np.uint64(states.shape[1])
    args = (layers, width, theta, sizes, codes, states)
    kernels("networks", real=c_type(theta.dtype)).launch("forward_one", 1, args, 0)
