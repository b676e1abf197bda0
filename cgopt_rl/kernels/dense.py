"""Networks on batches in compiled code: forward, backward, Adam and target updates over flat parameters.

The networks are those of `cgopt.nn`: per layer one row-major block [W; b], inputs kept as rows [h 1], so that biases
take part in the matrix products. Those are BLAS's; everything between them is one pass, and nothing is allocated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import REASSOCIATE, chunk, compiled, helper

from .rollouts import RELU, TANH, tanh

U = np.uint64
BLOCK = 128  # rows that go through a network together: what they leave stays in the cache


class Dense(NamedTuple):
    """A network's shape, its activation, and workspace for a batch.

    Attributes
    ----------
    sizes : (layers + 1,) int64
    activation : int
        Of the hidden layers.
    inputs : (batch * sum(sizes[:-1] + 1),) float
        Per layer the rows [h 1] that it was given.
    outputs : (batch * sum(sizes[1:]),) float
        Per layer its sums before the activation; in the backward pass, the derivatives in them.
    """

    sizes: npt.NDArray[np.int64]
    activation: int
    inputs: npt.NDArray[Any]
    outputs: npt.NDArray[Any]


class Optimizer(NamedTuple):
    """Parameters with what Adam keeps of them: both moments, the gradient, and the number of steps taken."""

    theta: npt.NDArray[Any]
    m: npt.NDArray[Any]
    v: npt.NDArray[Any]
    gradient: npt.NDArray[Any]
    t: npt.NDArray[np.int64]


def dense(sizes: Any, activation: int, batch: int, dtype: Any = np.float32) -> Dense:
    """A network of these sizes with workspace for `batch` samples."""
    sizes = np.array(sizes, np.int64)
    inputs = np.zeros(batch * int(np.sum(sizes[:-1] + 1)), dtype)
    return Dense(sizes, activation, inputs, np.zeros(batch * int(np.sum(sizes[1:])), dtype))


def optimizer(theta: npt.NDArray[Any]) -> Optimizer:
    """Adam at its start."""
    return Optimizer(theta, np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta), np.zeros(1, np.int64))


@helper
def block_of(flat: Any, sizes: Any, layer: Any) -> Any:
    """A layer's block [W; b] of a flat vector, and W alone."""
    start = 0
    for k in range(layer):
        start += (sizes[k] + 1) * sizes[k + 1]
    inputs, units = sizes[layer], sizes[layer + 1]
    whole = flat[start : start + (inputs + 1) * units].reshape((inputs + 1, units))
    return whole, flat[start : start + inputs * units].reshape((inputs, units))


@helper
def inputs_of(net: Any, layer: Any, count: Any) -> Any:
    """The rows [h 1] that a layer is given, for `count` samples."""
    start = 0
    for k in range(layer):
        start += count * (net.sizes[k] + 1)
    width = net.sizes[layer] + 1
    return net.inputs[start : start + count * width].reshape((count, width))


@helper
def outputs_of(net: Any, layer: Any, count: Any) -> Any:
    """A layer's sums, or the derivatives in them, for `count` samples."""
    start = 0
    for k in range(layer):
        start += count * net.sizes[k + 1]
    width = net.sizes[layer + 1]
    return net.outputs[start : start + count * width].reshape((count, width))


@helper
def forward(net: Any, theta: Any, x: Any) -> Any:
    """The outputs (B, k) of a batch (B, d), in the workspace."""
    h = inputs_of(net, 0, x.shape[0])
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            h[i, j] = x[i, j]
        h[i, x.shape[1]] = theta.dtype.type(1)
    return forward_inputs(net, theta, x.shape[0])


@helper
def forward_inputs(net: Any, theta: Any, count: Any) -> Any:
    """The outputs of `count` rows [x 1] that are in the workspace already."""
    layers = net.sizes.shape[0] - 1
    one, zero = theta.dtype.type(1), theta.dtype.type(0)
    for layer in range(layers):
        whole, _ = block_of(theta, net.sizes, layer)
        a = outputs_of(net, layer, count)
        np.dot(inputs_of(net, layer, count), whole, a)  # a = [h 1][W; b]
        if layer < layers - 1:
            h = inputs_of(net, layer + 1, count)
            units = a.shape[1]
            for i in range(count):
                if net.activation == TANH:
                    for j in range(units):
                        h[i, j] = tanh(a[i, j])
                elif net.activation == RELU:
                    for j in range(units):
                        h[i, j] = a[i, j] if a[i, j] > zero else zero
                h[i, units] = one
    return outputs_of(net, layers - 1, count)


@helper
def workspace(sizes: Any, activation: Any, rows: Any, theta: Any) -> Any:
    """What `dense` makes, for kernels that need it for one call."""
    units = np.sum(sizes)
    inputs = np.empty(rows * (units - sizes[-1] + sizes.shape[0] - 1), theta.dtype)
    return Dense(sizes, activation, inputs, np.empty(rows * (units - sizes[0]), theta.dtype))


def _outputs(sizes: Any, activation: Any, theta: Any, x: Any, out: Any) -> None:
    """The outputs (N, k) of any number of rows (N, d)."""
    rows = min(BLOCK, x.shape[0])
    net = workspace(sizes, activation, rows, theta)
    for first in range(0, x.shape[0], rows):
        last = min(first + rows, x.shape[0])
        out[first:last] = forward(net, theta, x[first:last])


@helper
def backward(net: Any, theta: Any, gradient: Any, count: Any) -> None:
    """The gradient in the parameters after a forward pass at `theta`.

    The last layer's outputs must hold the derivatives of the loss in the outputs of that pass.
    """
    for layer in range(net.sizes.shape[0] - 2, -1, -1):
        delta = outputs_of(net, layer, count)
        block, _ = block_of(gradient, net.sizes, layer)
        np.dot(inputs_of(net, layer, count).T, delta, block)  # [h 1]' delta
        if layer > 0:
            pull(net, theta, layer, count)


@helper
def pull(net: Any, theta: Any, layer: Any, count: Any) -> None:
    """Derivatives in the sums of the layer below: delta W' times the slope."""
    _, W = block_of(theta, net.sizes, layer)
    np.dot(outputs_of(net, layer, count), W.T, outputs_of(net, layer - 1, count))  # delta W'
    slope(net, layer, count)


@helper
def slope(net: Any, layer: Any, count: Any) -> None:
    """Multiply the derivatives in the units given to a layer by the slope, which is known from the unit's value."""
    below, h = outputs_of(net, layer - 1, count), inputs_of(net, layer, count)
    one, zero = net.inputs.dtype.type(1), net.inputs.dtype.type(0)
    for i in range(count):
        if net.activation == TANH:
            for j in range(below.shape[1]):
                below[i, j] *= one - h[i, j] * h[i, j]
        elif net.activation == RELU:
            for j in range(below.shape[1]):
                below[i, j] = below[i, j] if h[i, j] > zero else zero


@helper
def backward_to_inputs(net: Any, theta: Any, dx: Any) -> None:
    """The derivatives dx (B, d) in the inputs, by the chain rule alone: the parameters get no gradient.

    As `backward`, it follows a forward pass, with the derivatives in the outputs in the last layer.
    """
    for layer in range(net.sizes.shape[0] - 2, 0, -1):
        pull(net, theta, layer, dx.shape[0])
    _, W = block_of(theta, net.sizes, 0)
    np.dot(outputs_of(net, 0, dx.shape[0]), W.T, dx)


@chunk(REASSOCIATE)
def norm(x: Any) -> Any:
    """The Euclidean norm, summed in float64."""
    total = 0.0
    for i in range(U(x.shape[0])):
        total += np.float64(x[i]) * np.float64(x[i])
    return math.sqrt(total)


@helper
def clip(gradient: Any, bound: Any) -> Any:
    """Shorten a gradient to a norm of at most `bound`; returns the norm it had."""
    length = norm(gradient)
    if length > bound:
        factor = gradient.dtype.type(bound / length)
        for i in range(gradient.shape[0]):
            gradient[i] *= factor
    return length


@helper
def adam(opt: Any, rate: Any, beta1: Any = 0.9, beta2: Any = 0.999, epsilon: Any = 1e-8) -> None:
    """D. Kingma and J. Ba (2015), algorithm 1, in the order of operations of their section 2."""
    theta, m, v, g = opt.theta, opt.m, opt.v, opt.gradient
    opt.t[0] += 1
    t = opt.t[0]
    one = theta.dtype.type(1)
    root = math.sqrt(1.0 - beta2**t)
    b1, b2, e = theta.dtype.type(beta1), theta.dtype.type(beta2), theta.dtype.type(epsilon * root)
    a = theta.dtype.type(rate * root / (1.0 - beta1**t))
    for i in range(theta.shape[0]):
        m[i] = b1 * m[i] + (one - b1) * g[i]
        v[i] = b2 * v[i] + (one - b2) * g[i] * g[i]
        theta[i] -= a * m[i] / (math.sqrt(v[i]) + e)


@helper
def descend(opt: Any, rate: Any) -> None:
    """A step against the gradient."""
    opt.t[0] += 1
    a = opt.theta.dtype.type(rate)
    for i in range(opt.theta.shape[0]):
        opt.theta[i] -= a * opt.gradient[i]


@helper
def polyak(target: Any, theta: Any, tau: Any) -> None:
    """``target = (1 - tau) target + tau theta``; tau = 1 copies."""
    if tau == 1.0:
        for i in range(theta.shape[0]):
            target[i] = theta[i]
    else:
        share = theta.dtype.type(tau)
        for i in range(theta.shape[0]):
            target[i] += share * (theta[i] - target[i])


outputs = compiled(_outputs, threaded=False)
