"""The value network: V(s), fitted to targets by Adam or by Gauss-Newton steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import cgopt
from cgopt.operators import Damped, GaussNewton

from .kernels import fit
from .kernels.dense import optimizer
from .kernels.rollouts import ACTIVATIONS
from .policies import batch_outputs, orthogonal_start

Array = npt.NDArray[Any]
LOSS = cgopt.nn.SquaredError()


class ValueFunction:
    """A network with one output, its parameters, and what fitting keeps from one fit to the next.

    Parameters
    ----------
    n_inputs : int
    hidden : sequence of int
    activation : str
    rng : numpy.random.Generator
        For the start.
    """

    def __init__(self, n_inputs: int, hidden: Any, activation: str, rng: np.random.Generator) -> None:
        self.network = cgopt.nn.MLP([n_inputs, *hidden, 1], activation=activation)
        self.activation = activation
        self.theta = orthogonal_start(self.network, rng, 1.0, np.float32)
        self.optimizer = optimizer(self.theta)
        self.damping = 1.0

    def __call__(self, obs: Array) -> Array:
        """Values (N,) of observations (N, d)."""
        return batch_outputs(self.network, self.activation, self.theta, obs)[:, 0]

    def fit_adam(
        self, obs: Array, targets: Array, epochs: int, batch_size: int, learning_rate: float, seed: int
    ) -> None:
        """Adam on the mean squared error, in minibatches shuffled by `seed` (Kingma and Ba 2015)."""
        orders = shuffles(seed, epochs, obs.shape[0])
        size = min(batch_size, obs.shape[0])
        sizes, activation = np.array(self.network.sizes, np.int64), ACTIVATIONS[self.activation]
        fit.fit_adam(self.optimizer, sizes, activation, obs, targets.astype(np.float32), orders, size, learning_rate)

    def fit_gauss_newton(self, obs: Array, targets: Array, steps: int, iterations: int) -> None:
        """Damped Gauss-Newton steps on half the mean squared error, all samples at once.

        Each step minimises the quadratic model with ``J'J/N + damping`` by at most `iterations` conjugate gradients;
        the damping follows Levenberg and Marquardt's rule (Martens 2010, section 4.1), and a step that does not lower
        the loss is not taken.
        """
        targets = targets.astype(np.float32)[:, None]
        at = self.network.linearize(self.theta, obs)
        loss = LOSS.value(at.output, targets)
        for _ in range(steps):
            gradient = at.vjp(LOSS.gradient(at.output, targets))
            if not gradient.any():
                return
            model = Damped(GaussNewton(at, LOSS, targets), self.damping)
            step = cgopt.trust_region_cg(model, gradient, np.inf, rtol=1e-3, maxiter=iterations, check=False)
            trial = self.theta + np.asarray(step.x, np.float32)
            lower = LOSS.value(self.network.forward(trial, obs), targets)
            ratio = (loss - lower) / step.model_decrease if step.model_decrease > 0.0 else -1.0
            if ratio > 0.75:
                self.damping *= 2.0 / 3.0
            elif not ratio >= 0.25:
                self.damping *= 1.5
            if lower < loss:
                self.theta[...], loss = trial, lower
                at.update(trial)

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint keeps."""
        adam = self.optimizer
        numbers = np.array([adam.t[0], self.damping])
        return {"theta": self.theta, "m": adam.m, "v": adam.v, "numbers": numbers}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` returned."""
        adam = self.optimizer
        for kept, name in ((self.theta, "theta"), (adam.m, "m"), (adam.v, "v")):
            kept[...] = arrays[name]
        adam.t[0], self.damping = int(arrays["numbers"][0]), float(arrays["numbers"][1])


def shuffles(seed: int, epochs: int, n: int) -> Array:
    """The whole numbers below n in random order, anew in each epoch: (epochs, n)."""
    orders = np.empty((epochs, n), np.int64)
    fit.shuffles(orders, np.uint64(seed))
    return orders


def explained_variance(values: Array, targets: Array) -> float:
    """``1 - var(targets - values) / var(targets)``: 1 for perfect values, 0 for a constant."""
    spread = float(np.var(targets))
    return 1.0 - float(np.var(targets - values)) / spread if spread > 0.0 else 0.0
