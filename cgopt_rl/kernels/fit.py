"""A regression by Adam in one compiled call: gather, forward, backward and update for every minibatch."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgopt.kernels.cpu.compile import compiled

from .dense import adam, backward, forward

BLOCK = 128  # rows that go through the network together: what they leave stays in the cache


def _fit_adam(opt: Any, net: Any, obs: Any, targets: Any, orders: Any, size: Any, rate: Any) -> None:
    """Fit one output to targets: mean squared error, minibatches of `size` in the given orders (epochs, N).

    The network's workspace holds `BLOCK` rows, or `size` of them.
    """
    theta, gradient = opt.theta, opt.gradient
    part = np.empty_like(gradient)
    x = np.empty((min(BLOCK, size), obs.shape[1]), theta.dtype)
    for epoch in range(orders.shape[0]):
        for start in range(0, obs.shape[0], size):
            stop = min(start + size, obs.shape[0])
            scale = theta.dtype.type(2.0 / (stop - start))  # of the derivative of the mean of (V - target)^2
            gradient[:] = 0
            for first in range(start, stop, x.shape[0]):
                rows = orders[epoch, first : min(first + x.shape[0], stop)]
                count = rows.shape[0]
                for i in range(count):
                    for j in range(x.shape[1]):
                        x[i, j] = obs[rows[i], j]
                V = forward(net, theta, x[:count])
                for i in range(count):
                    V[i, 0] = scale * (V[i, 0] - targets[rows[i]])
                backward(net, theta, part, count)
                for k in range(part.shape[0]):
                    gradient[k] += part[k]
            adam(opt, rate)


fit_adam = compiled(_fit_adam, threaded=False)
