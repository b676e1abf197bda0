"""Networks with data, and their dense derivatives in double precision by `oracle`."""

from __future__ import annotations

import numpy as np

from cgopt import nn
from tests.nn import oracle

SIZES = (3, 5, 4, 2)
SAMPLES = 7
LOSSES = {
    "squared": nn.SquaredError(),
    "logistic": nn.LogisticCrossEntropy(),
    "softmax": nn.SoftmaxCrossEntropy(),
    "huber": nn.Huber(1.0),
}
NETWORKS = {
    "tanh": (("tanh", "tanh"), "linear"),
    "logistic": (("logistic", "logistic"), "linear"),
    "relu": (("relu", "relu"), "linear"),
    "softplus": (("softplus", "softplus"), "linear"),
    "mixed": (("logistic", "linear"), "tanh"),
}


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


class Case:
    """A network on a batch."""

    def __init__(self, kind, loss, seed=0, dtype=np.float64):
        hidden, output = NETWORKS[kind]
        rng = np.random.default_rng(seed)
        self.network = nn.MLP(SIZES, hidden, output_activation=output)
        self.names = (*hidden, output)
        self.theta = (0.5 * rng.standard_normal(self.network.n)).astype(dtype)  # units that do not saturate
        self.X = rng.standard_normal((SAMPLES, SIZES[0])).astype(dtype)
        Y = rng.random((SAMPLES, SIZES[-1]))
        self.Y = (Y / Y.sum(axis=1, keepdims=True) if loss == "softmax" else Y).astype(dtype)
        self.weights = rng.random(SAMPLES)
        self.name, self.loss = loss, LOSSES[loss]
        self.at = self.network.linearize(self.theta, self.X)

    def outputs(self):
        return oracle.mlp(SIZES, self.names, self.theta.astype(float), self.X.astype(float))

    def jacobian(self):
        X = self.X.astype(float)
        return oracle.derivative(lambda t: oracle.mlp(SIZES, self.names, t, X), self.theta.astype(float))

    def gradient(self, theta, weights=None):
        weights = np.ones(SAMPLES) if weights is None else weights

        def of_sample(z, i):
            return weights[i] * oracle.loss_gradient(self.name, z, self.Y[i]) / SAMPLES

        return oracle.mlp_gradient(SIZES, self.names, theta, self.X, of_sample)

    def hessian(self, weights=None):
        return oracle.derivative(lambda t: self.gradient(t, weights), self.theta)

    def gauss_newton(self, weights=None):
        weights = np.ones(SAMPLES) if weights is None else weights
        G = np.zeros((self.network.n, self.network.n))
        for J, z, y, w in zip(self.jacobian(), self.outputs(), self.Y, weights, strict=True):
            M = oracle.derivative(lambda t, y=y: oracle.loss_gradient(self.name, t, y), z)
            G += w * J.T @ M @ J / SAMPLES
        return G
