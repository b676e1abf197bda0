"""A regression by Adam in one compiled call: gather, forward, backward and update for every minibatch."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import compiled, helper

from .dense import BLOCK, adam, block_of, forward_inputs, inputs_of, outputs_of, slope, workspace
from .random import below


def _shuffles(orders: Any, s: Any) -> None:
    """Fill each row of `orders` (epochs, N) with the whole numbers below N in random order (Fisher and Yates)."""
    n = orders.shape[1]
    for epoch in range(orders.shape[0]):
        order = orders[epoch]
        for i in range(n):
            s, j = below(s, i + 1)
            order[i] = order[j]
            order[j] = i


@helper
def transpose(net: Any, theta: Any, transposed: Any) -> None:
    """W' of every layer but the first, where its block lies."""
    for layer in range(1, net.sizes.shape[0] - 1):
        _, W = block_of(theta, net.sizes, layer)
        into = transposed_block(net, transposed, layer)
        for j in range(W.shape[1]):
            for i in range(W.shape[0]):
                into[j, i] = W[i, j]


@helper
def transposed_block(net: Any, transposed: Any, layer: Any) -> Any:
    """W' of a layer, (units, inputs)."""
    _, W = block_of(transposed, net.sizes, layer)
    return W.reshape((W.shape[1], W.shape[0]))


@helper
def add_gradient(net: Any, transposed: Any, gradient: Any, part: Any, count: Any) -> None:
    """Add what `dense.backward` finds, with W' ready: products with it take less time than those with W transposed."""
    for layer in range(net.sizes.shape[0] - 2, -1, -1):
        delta = outputs_of(net, layer, count)
        block, _ = block_of(part, net.sizes, layer)
        np.dot(inputs_of(net, layer, count).T, delta, block)  # [h 1]' delta
        if layer > 0:
            np.dot(delta, transposed_block(net, transposed, layer), outputs_of(net, layer - 1, count))  # delta W'
            slope(net, layer, count)
    for k in range(gradient.shape[0]):
        gradient[k] += part[k]


def _fit_adam(opt: Any, sizes: Any, activation: Any, obs: Any, targets: Any, orders: Any, size: Any, rate: Any) -> None:
    """Fit one output to targets: mean squared error, minibatches of `size` in the given orders (epochs, N)."""
    theta, gradient = opt.theta, opt.gradient
    part, transposed = np.empty_like(gradient), np.empty_like(theta)
    net = workspace(sizes, activation, min(BLOCK, size), theta)
    one, d = theta.dtype.type(1), obs.shape[1]
    for epoch in range(orders.shape[0]):
        for start in range(0, obs.shape[0], size):
            stop = min(start + size, obs.shape[0])
            scale = theta.dtype.type(2.0 / (stop - start))  # of the derivative of the mean of (V - target)^2
            gradient[:] = 0
            transpose(net, theta, transposed)
            for first in range(start, stop, BLOCK):
                rows = orders[epoch, first : min(first + BLOCK, stop)]
                count = rows.shape[0]
                x = inputs_of(net, 0, count)
                for i in range(count):
                    for j in range(d):
                        x[i, j] = obs[rows[i], j]
                    x[i, d] = one
                V = forward_inputs(net, theta, count)
                for i in range(count):
                    V[i, 0] = scale * (V[i, 0] - targets[rows[i]])
                add_gradient(net, transposed, gradient, part, count)
            adam(opt, rate)


shuffles = compiled(_shuffles, threaded=False)
fit_adam = compiled(_fit_adam, threaded=False)
