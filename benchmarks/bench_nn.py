"""The asv suite of networks: curvature products, training steps, single observations."""

from __future__ import annotations

import numpy as np

import cgopt

NETWORKS = {"small": ([64, 50, 30, 10], 500), "long": ([64, 50, 30, 10], 4000), "wide": ([784, 400, 200, 10], 500)}


class Products:
    """One product of each kind, by network."""

    params = (list(NETWORKS), ["gauss-newton", "hessian", "block of 8"])
    param_names = ("network", "product")

    def setup(self, network: str, product: str) -> None:
        sizes, samples = NETWORKS[network]
        rng = np.random.default_rng(0)
        mlp, loss = cgopt.nn.MLP(sizes), cgopt.nn.SoftmaxCrossEntropy()
        X = rng.standard_normal((samples, sizes[0])).astype(np.float32)
        at = mlp.linearize(mlp.init(rng, dtype=np.float32), X)
        kind = cgopt.operators.Hessian if product == "hessian" else cgopt.operators.GaussNewton
        self.A = kind(at, loss, rng.integers(0, sizes[-1], samples))
        shape = (mlp.n, 8) if product == "block of 8" else (mlp.n,)
        self.v = rng.standard_normal(shape).astype(np.float32)
        self.out = np.empty_like(self.v)
        self.time_product(network, product)

    def time_product(self, network: str, product: str) -> None:
        if self.v.ndim == 2:
            self.A.matmat(self.v, self.out)
        else:
            self.A.matvec(self.v, self.out)


class Training:
    """What a reinforcement-learning loop asks: one observation forward, and one step of Adam on a batch."""

    params = (["float32", "float64"],)
    param_names = ("dtype",)

    def setup(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        network = cgopt.nn.MLP([4, 64, 64, 2])
        self.theta = network.init(rng, dtype=dtype)
        self.X, self.Y = (rng.standard_normal((64, size)).astype(dtype) for size in (4, 2))
        self.at, self.loss = network.linearize(self.theta, self.X), cgopt.nn.SquaredError()
        self.adam, self.gradient = cgopt.nn.Adam(network.n, dtype=dtype), np.empty_like(self.theta)
        self.predict, self.observation = network.predictor(self.theta), self.X[0].copy()
        self.time_step(dtype)
        self.time_one_observation(dtype)

    def time_one_observation(self, dtype: str) -> None:
        self.predict(self.observation)

    def time_step(self, dtype: str) -> None:
        self.at.update(self.theta, self.X)
        self.at.vjp(self.loss.gradient(self.at.output, self.Y), out=self.gradient)
        self.adam.step(self.theta, self.gradient)


class Recurrent:
    """A Gauss-Newton product of a recurrent network, with and without structural damping."""

    params = ([30, 100], [0.0, 0.1])
    param_names = ("steps", "structural")

    def setup(self, steps: int, structural: float) -> None:
        rng = np.random.default_rng(0)
        network = cgopt.nn.RNN(2, 100, 1, outputs="last")
        X, Y = rng.random((100, steps, 2)).astype(np.float32), rng.random((100, 1))
        at = network.linearize(network.init(rng, scheme="sparse", dtype=np.float32), X)
        self.G = cgopt.operators.GaussNewton(at, cgopt.nn.SquaredError(), Y, structural=structural)
        self.v = rng.standard_normal(network.n).astype(np.float32)

    def time_product(self, steps: int, structural: float) -> None:
        self.G.matvec(self.v)
