"""Dense derivatives in double precision, from textbook formulas and the complex step: independent of what they test.

With theta + i h e_j and h = 1e-30, the imaginary part over h is the derivative without any cancellation.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

STEP = 1e-30


def f_and_derivative(name, a):
    if name == "tanh":
        return np.tanh(a), 1.0 / np.cosh(a) ** 2
    if name == "logistic":
        h = 1.0 / (1.0 + np.exp(-a))
        return h, h * (1.0 - h)
    if name == "softplus":
        return np.log(1.0 + np.exp(a)), 1.0 / (1.0 + np.exp(-a))
    if name == "relu":
        return np.where(a.real > 0.0, a, 0.0), (a.real > 0.0).astype(float)
    return a, np.ones(a.shape)


def layers(sizes, theta):
    at = 0
    for inputs, units in pairwise(sizes):
        W = theta[at : at + inputs * units].reshape(inputs, units)
        b = theta[at + inputs * units : at + (inputs + 1) * units]
        at += (inputs + 1) * units
        yield W, b


def mlp(sizes, names, theta, X):
    """Outputs of a multi-layer perceptron, one sample at a time; `names` one activation for each layer."""
    rows = []
    for x in X:
        h = x.astype(theta.dtype)
        for (W, b), name in zip(layers(sizes, theta), names, strict=True):
            h, _ = f_and_derivative(name, W.T @ h + b)
        rows.append(h)
    return np.array(rows)


def mlp_gradient(sizes, names, theta, X, gradient_of):
    """Gradient by back-propagation, one sample at a time; `gradient_of(outputs, i)` is that of sample i's loss."""
    total = np.zeros(theta.shape, theta.dtype)
    for i, x in enumerate(X):
        hs, ds, h = [x.astype(theta.dtype)], [], x
        for (W, b), name in zip(layers(sizes, theta), names, strict=True):
            h, d = f_and_derivative(name, W.T @ hs[-1] + b)
            hs.append(h)
            ds.append(d)
        delta, parts = gradient_of(hs[-1], i) * ds[-1], []
        for layer, (W, _) in reversed(list(enumerate(layers(sizes, theta)))):
            parts = [np.outer(hs[layer], delta).ravel(), delta, *parts]
            if layer:
                delta = (W @ delta) * ds[layer - 1]
        total += np.concatenate(parts)
    return total


def derivative(function, theta):
    """The dense derivative of a holomorphic function of a vector: its values' axes, then theta's."""
    columns = []
    for j in range(theta.size):
        moved = theta.astype(complex)
        moved[j] += 1j * STEP
        columns.append(np.imag(function(moved)) / STEP)
    return np.stack(columns, axis=-1)


def loss_gradient(name, z, y):
    """Gradient of one sample's loss in its outputs, holomorphic."""
    if name == "squared":
        return z - y
    if name == "logistic":
        return 1.0 / (1.0 + np.exp(-z)) - y
    if name == "softmax":
        return np.exp(z) / np.sum(np.exp(z)) - y
    inside = np.abs((z - y).real) <= 1.0
    return np.where(inside, z - y, np.sign((z - y).real))


def loss_value(name, z, y):
    if name == "squared":
        return 0.5 * np.sum((z - y) ** 2)
    if name == "logistic":
        return np.sum(np.log(1.0 + np.exp(z)) - y * z)
    if name == "softmax":
        return np.log(np.sum(np.exp(z))) - y @ z
    r = np.abs(z - y)
    return np.sum(np.where(r <= 1.0, 0.5 * r * r, r - 0.5))
