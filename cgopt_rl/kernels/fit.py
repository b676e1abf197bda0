"""A regression by Adam in one compiled call: gather, forward, backward and update for every minibatch.

The networks are those of `cgopt.nn`, one block [W; b] a layer with rows of inputs [h 1]; matrix products are BLAS's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import compiled, helper

from .rollouts import RELU, TANH, tanh

BLOCK = 128  # rows that go through the network together: what they leave stays in the cache


@helper
def adam_step(theta: Any, m: Any, v: Any, g: Any, rate: Any, beta1: Any, beta2: Any, epsilon: Any, t: Any) -> None:
    """D. Kingma and J. Ba (2015), algorithm 1, step t = 1, 2, ..., in the order of operations of their section 2."""
    one = theta.dtype.type(1)
    b1, b2, e = one * beta1, one * beta2, one * (epsilon * math.sqrt(1.0 - beta2**t))
    a = one * (rate * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t))
    for i in range(theta.shape[0]):
        m[i] = b1 * m[i] + (one - b1) * g[i]
        v[i] = b2 * v[i] + (one - b2) * g[i] * g[i]
        theta[i] -= a * m[i] / (math.sqrt(v[i]) + e)


@helper
def layer_of(flat: Any, sizes: Any, layer: Any) -> Any:
    """A layer's block [W; b] of a flat vector, and W alone."""
    start = 0
    for k in range(layer):
        start += (sizes[k] + 1) * sizes[k + 1]
    inputs, units = sizes[layer], sizes[layer + 1]
    whole = flat[start : start + (inputs + 1) * units].reshape((inputs + 1, units))
    return whole, flat[start : start + inputs * units].reshape((inputs, units))


@helper
def rows_of(buffer: Any, columns: Any, layer: Any, count: Any) -> Any:
    """A layer's part of a buffer for `count` samples, `columns[k]` wide in layer k, as rows."""
    start = 0
    for k in range(layer):
        start += count * columns[k]
    return buffer[start : start + count * columns[layer]].reshape((count, columns[layer]))


def _fit_adam(
    theta: Any, m: Any, v: Any, t: Any, sizes: Any, activation: Any, obs: Any, targets: Any, orders: Any, size: Any,
    rate: Any,
) -> Any:  # fmt: skip
    """Fit one output to targets: mean squared error, minibatches in the given orders (epochs, N); returns t."""
    layers = sizes.shape[0] - 1
    widths = sizes + 1
    units = sizes[1:].copy()
    block = min(BLOCK, size)
    inputs = np.empty(block * widths[:layers].sum(), theta.dtype)
    deltas = np.empty(block * units.sum(), theta.dtype)
    gradient, part = np.empty_like(theta), np.empty_like(theta)
    for epoch in range(orders.shape[0]):
        for start in range(0, obs.shape[0], size):
            count = min(size, obs.shape[0] - start)
            scale = theta.dtype.type(2.0 / count)  # of the derivative of the mean of (V - target)^2
            gradient[:] = 0
            for first in range(start, start + count, block):
                rows = orders[epoch, first : min(first + block, start + count)]
                forward(theta, sizes, activation, obs, rows, inputs, deltas)
                a = rows_of(deltas, units, layers - 1, rows.shape[0])
                for i in range(rows.shape[0]):
                    a[i, 0] = scale * (a[i, 0] - targets[rows[i]])
                backward(theta, sizes, activation, inputs, deltas, rows.shape[0], part)
                for k in range(theta.shape[0]):
                    gradient[k] += part[k]
            t += 1
            adam_step(theta, m, v, gradient, rate, 0.9, 0.999, 1e-8, t)
    return t


@helper
def forward(theta: Any, sizes: Any, activation: Any, obs: Any, rows: Any, inputs: Any, deltas: Any) -> None:
    """Each layer's inputs [h 1] and sums for some rows of the observations."""
    layers, count = sizes.shape[0] - 1, rows.shape[0]
    widths, units = sizes + 1, sizes[1:]
    h = rows_of(inputs, widths, 0, count)
    for i in range(count):
        for j in range(sizes[0]):
            h[i, j] = obs[rows[i], j]
        h[i, sizes[0]] = 1
    for layer in range(layers):
        whole, _ = layer_of(theta, sizes, layer)
        a = rows_of(deltas, units, layer, count)
        np.dot(rows_of(inputs, widths, layer, count), whole, a)  # a = [h 1][W; b]
        if layer < layers - 1:
            h = rows_of(inputs, widths, layer + 1, count)
            for i in range(count):
                if activation == TANH:
                    for j in range(units[layer]):
                        h[i, j] = tanh(a[i, j])
                elif activation == RELU:
                    for j in range(units[layer]):
                        h[i, j] = max(a[i, j], theta.dtype.type(0))
                h[i, units[layer]] = 1


@helper
def backward(theta: Any, sizes: Any, activation: Any, inputs: Any, deltas: Any, count: Any, gradient: Any) -> None:
    """The gradient, from derivatives of the loss in the last layer's sums, which the rows of `deltas` hold."""
    layers = sizes.shape[0] - 1
    widths, units = sizes + 1, sizes[1:]
    for layer in range(layers - 1, -1, -1):
        delta = rows_of(deltas, units, layer, count)
        block, _ = layer_of(gradient, sizes, layer)
        h = rows_of(inputs, widths, layer, count)
        np.dot(h.T, delta, block)  # [h 1]' delta
        if layer:
            _, W = layer_of(theta, sizes, layer)
            below = rows_of(deltas, units, layer - 1, count)
            np.dot(delta, W.T, below)
            for i in range(count):  # delta W' times the slope, from the unit's value
                if activation == TANH:
                    for j in range(units[layer - 1]):
                        below[i, j] *= theta.dtype.type(1) - h[i, j] * h[i, j]
                elif activation == RELU:
                    for j in range(units[layer - 1]):
                        if h[i, j] <= 0:
                            below[i, j] = 0


fit_adam = compiled(_fit_adam, threaded=False)
