"""Stochastic policies: a network's outputs read as a distribution over actions.

A policy is a function of one flat vector theta: the network's parameters, and behind them, for a Gaussian, the
logarithms of its standard deviations, which do not depend on the state (Schulman et al. 2015, appendix D).

For a head (`Categorical`, `Gaussian`) Z is (N, outputs), one row for each state, and `extra` what lies behind the
network in theta. KL(old || new) is in this order everywhere: it is the one of the TRPO constraint.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

import cgopt
from cgopt.nn import DiagonalCurvature, OutputCurvature, SoftmaxCurvature
from cgopt.operators import Operator

from .fisher import fisher
from .kernels import dense
from .kernels import policies as rows
from .kernels import rollouts as kernels

Array = npt.NDArray[Any]
LOG_2PI = math.log(2.0 * math.pi)


class Categorical:
    """One or several independent choices; the outputs are logits.

    Parameters
    ----------
    alternatives : sequence of int
        How many, for each choice.
    """

    def __init__(self, alternatives: Any) -> None:
        self.alternatives = tuple(int(k) for k in np.ravel(alternatives))
        ends = np.cumsum(self.alternatives)
        self.slices = [slice(int(end) - k, int(end)) for end, k in zip(ends, self.alternatives, strict=True)]
        self.n_outputs, self.n_extra = int(ends[-1]), 0
        self.n_columns = self.n_outputs - len(self.alternatives)

    def log_prob(self, Z: Array, extra: Array, actions: Array) -> Array:
        """log pi(a | s), (N,), for actions (N, choices)."""
        total = np.zeros(Z.shape[0])
        for k, part in enumerate(self.slices):
            total += log_softmax(Z[:, part])[np.arange(Z.shape[0]), actions[:, k]]
        return total

    def log_prob_gradient(self, Z: Array, extra: Array, actions: Array, weights: Array) -> tuple[Array, Array]:
        """Gradient of ``sum_i weights_i log pi(a_i | s_i)`` in Z and in `extra`."""
        gradient = np.empty_like(Z)
        for k, part in enumerate(self.slices):
            p = np.exp(log_softmax(Z[:, part]))
            p[np.arange(p.shape[0]), actions[:, k]] -= 1.0
            gradient[:, part] = -weights[:, None] * p  # w (1[a] - p)
        return gradient, np.empty(0)

    def kl(self, Z_old: Array, extra_old: Array, Z: Array, extra: Array) -> Array:
        """KL(old || new) of each state, (N,): ``sum p_old (log p_old - log p)``."""
        total = np.zeros(Z.shape[0])
        for part in self.slices:
            old, new = log_softmax(Z_old[:, part]), log_softmax(Z[:, part])
            total += row_sums(np.exp(old) * (old - new))
        return total

    def entropy(self, Z: Array, extra: Array) -> Array:
        """Entropy in each state, (N,)."""
        total = np.zeros(Z.shape[0])
        for part in self.slices:
            logs = log_softmax(Z[:, part])
            total -= row_sums(np.exp(logs) * logs)
        return total

    def fisher(self, Z: Array, extra: Array, weights: Array) -> OutputCurvature:
        """Fisher matrix in the outputs, ``weights_i (diag(p) - p p')`` in state i for each choice."""
        share = weights.astype(Z.dtype)[:, None]
        parts = [SoftmaxCurvature(np.exp(log_softmax(Z[:, part])).astype(Z.dtype), share) for part in self.slices]
        return parts[0] if len(parts) == 1 else _Side(parts, self.slices)

    def fisher_columns(self, Z: Array, extra: Array) -> Array:
        """Columns m_c, (columns, N, outputs), with ``diag(p) - p p' = sum_c m_c m_c'`` in each state.

        A choice among k is k - 1 choices between one alternative and those behind it. With P the probability of the
        alternatives from c on, q = p_c / P that of c among them and r the probabilities of those behind c given one of
        them, the Fisher matrix of each is P q (1 - q) (e_c - r)(e_c - r)', and they add up.
        """
        columns = np.zeros((self.n_columns, *Z.shape))
        c = 0
        for part in self.slices:
            p = np.exp(log_softmax(Z[:, part]))
            for k in range(p.shape[1] - 1):
                behind = p[:, k + 1 :].sum(axis=1)
                both = p[:, k] + behind
                weight = np.sqrt(p[:, k] * (behind / np.where(both > 0.0, both, 1.0)))  # sqrt(P q (1 - q))
                columns[c, :, part.start + k] = weight
                share = p[:, k + 1 :] / np.where(behind > 0.0, behind, 1.0)[:, None]
                columns[c, :, part.start + k + 1 : part.stop] = -weight[:, None] * share
                c += 1
        return columns

    def extra_fisher(self, extra: Array) -> Array:
        """Diagonal of the Fisher matrix in `extra`."""
        return np.empty(0)

    def mode(self, Z: Array) -> Array:
        """The most probable actions, (N, choices)."""
        return np.stack([np.argmax(Z[:, part], axis=1) for part in self.slices], axis=1)

    def sample(self, Z: Array, extra: Array, rng: np.random.Generator) -> Array:
        """Actions drawn from the policy, (N, choices): the largest of logits plus Gumbel noise."""
        noisy = Z + rng.gumbel(size=Z.shape)
        return self.mode(noisy)

    def __repr__(self) -> str:
        return f"Categorical({'x'.join(map(str, self.alternatives))})"


class Gaussian:
    """Independent normal actions; the outputs are means, `extra` the logarithms of the standard deviations.

    Parameters
    ----------
    dimensions : int
    """

    def __init__(self, dimensions: int) -> None:
        self.n_outputs = self.n_extra = self.n_columns = int(dimensions)

    def log_prob(self, Z: Array, extra: Array, actions: Array) -> Array:
        """log pi(a | s), (N,), for actions (N, m) as sampled, not as clipped."""
        log_std = np.asarray(extra, np.float64)
        standard = (actions - np.asarray(Z, np.float64)) / np.exp(log_std)
        return -0.5 * np.sum(standard**2, axis=1) - float(np.sum(log_std)) - 0.5 * self.n_outputs * LOG_2PI

    def log_prob_gradient(self, Z: Array, extra: Array, actions: Array, weights: Array) -> tuple[Array, Array]:
        """Gradient of ``sum_i weights_i log pi(a_i | s_i)`` in Z and in `extra`."""
        std = np.exp(np.asarray(extra, np.float64))
        standard = (actions - np.asarray(Z, np.float64)) / std
        in_mean = weights[:, None] * standard / std  # w (a - mu) / sigma^2
        return in_mean.astype(Z.dtype), weights @ (standard**2 - 1.0)

    def kl(self, Z_old: Array, extra_old: Array, Z: Array, extra: Array) -> Array:
        """KL(old || new) of each state, (N,)."""
        old, new = np.asarray(extra_old, np.float64), np.asarray(extra, np.float64)
        shift = (np.asarray(Z_old, np.float64) - np.asarray(Z, np.float64)) / np.exp(new)
        # log(s1/s0) + (s0^2 + (mu0 - mu1)^2) / (2 s1^2) - 1/2, without cancellation for near-equal deviations
        ratio = 2.0 * (old - new)
        spread = float(np.sum(0.5 * (np.expm1(ratio) - ratio)))
        return spread + 0.5 * np.sum(shift**2, axis=1)

    def entropy(self, Z: Array, extra: Array) -> Array:
        """Entropy in each state, (N,): the same everywhere."""
        total = float(np.sum(np.asarray(extra, np.float64))) + 0.5 * self.n_outputs * (1.0 + LOG_2PI)
        return np.full(Z.shape[0], total)

    def fisher(self, Z: Array, extra: Array, weights: Array) -> OutputCurvature:
        """Fisher matrix in the means, ``weights_i diag(1 / sigma^2)`` in state i."""
        precision = weights[:, None] * np.exp(-2.0 * np.asarray(extra, np.float64))
        return DiagonalCurvature(precision.astype(Z.dtype), Z.shape)

    def fisher_columns(self, Z: Array, extra: Array) -> Array:
        """Columns e_c / sigma_c, (m, N, m), whose outer products add up to ``diag(1 / sigma^2)``."""
        each = np.diag(np.exp(-np.asarray(extra, np.float64)))
        return np.repeat(each[:, None, :], Z.shape[0], axis=1)

    def extra_fisher(self, extra: Array) -> Array:
        """Diagonal of the Fisher matrix in the log standard deviations: 2 for each, whatever the state."""
        return np.full(self.n_extra, 2.0)

    def mode(self, Z: Array) -> Array:
        """The most probable actions, (N, m)."""
        return Z

    def sample(self, Z: Array, extra: Array, rng: np.random.Generator) -> Array:
        """Actions drawn from the policy, (N, m)."""
        noise = np.exp(extra) * rng.standard_normal(Z.shape)
        return np.asarray(Z + noise, np.float32)

    def __repr__(self) -> str:
        return f"Gaussian({self.n_outputs})"


class _Side(OutputCurvature):
    """Curvatures of parts of the outputs, side by side."""

    def __init__(self, parts: list[Any], slices: list[slice]) -> None:
        self.parts, self.slices = parts, slices

    def multiply(self, U: Array) -> None:
        for part, where in zip(self.parts, self.slices, strict=True):
            part.multiply(U[..., where])

    def factor(self) -> list[Array]:
        raise NotImplementedError("policies need products only")


class Policy:
    """A network and a head, as a function of one flat vector.

    Parameters
    ----------
    n_inputs : int
    action_space : gymnasium.spaces.Space
        Box (a `Gaussian`), Discrete or MultiDiscrete (a `Categorical`).
    hidden : sequence of int, default (64, 64)
    activation : {"tanh", "relu"}
    log_std_init : float, default 0
    dtype : {float32, float64}

    Attributes
    ----------
    n : int
        Length of theta.
    network : cgopt.nn.MLP
    head : Categorical or Gaussian
    """

    def __init__(
        self,
        n_inputs: int,
        action_space: Any,
        hidden: Any = (64, 64),
        activation: str = "tanh",
        log_std_init: float = 0.0,
        dtype: Any = np.float32,
    ) -> None:
        if isinstance(action_space, spaces.Box):
            self.head: Categorical | Gaussian = Gaussian(int(np.prod(action_space.shape)))
        elif isinstance(action_space, spaces.Discrete):
            self.head = Categorical([action_space.n])
        else:
            self.head = Categorical(action_space.nvec)
        self.network = cgopt.nn.MLP([n_inputs, *hidden, self.head.n_outputs], activation=activation)
        self.activation, self.log_std_init, self.dtype = activation, float(log_std_init), np.dtype(dtype)
        self.n = self.network.n + self.head.n_extra

    def init(self, rng: np.random.Generator) -> Array:
        """A starting point: orthogonal weights, the last layer so small that the first policy hardly sees the state."""
        theta = np.empty(self.n, self.dtype)
        theta[: self.network.n] = orthogonal_start(self.network, rng, 0.01, self.dtype)
        theta[self.network.n :] = self.log_std_init
        return theta

    def split(self, theta: Array) -> tuple[Array, Array]:
        """The network's part of theta, and what lies behind it."""
        return theta[: self.network.n], theta[self.network.n :]

    def outputs(self, theta: Array, obs: Array) -> Array:
        """The network's outputs, (N, outputs)."""
        return batch_outputs(self.network, self.activation, self.split(theta)[0], obs)

    def log_prob(self, theta: Array, obs: Array, actions: Array) -> Array:
        """log pi(a | s), (N,) float64."""
        return self.head.log_prob(self.outputs(theta, obs), self.split(theta)[1], actions)

    def kl(self, theta_old: Array, theta: Array, obs: Array) -> float:
        """Mean KL(old || new) over states."""
        old, new = self.split(theta_old)[1], self.split(theta)[1]
        return float(np.mean(self.head.kl(self.outputs(theta_old, obs), old, self.outputs(theta, obs), new)))

    def fisher(self, theta: Array, obs: Array, weights: Array | None = None) -> Operator:
        """The Fisher matrix at theta as an operator: the mean over states, with weights (N,) that add up to one."""
        network, extra = self.split(theta)
        linearization = self.network.linearize(network, obs)
        return fisher(linearization, self.head, extra, even(obs) if weights is None else weights)

    def for_kernels(self, theta: Array) -> kernels.Network:
        """Theta as compiled rollouts take it."""
        network, extra = self.split(theta)
        choices = self.head.alternatives if isinstance(self.head, Categorical) else ()
        return kernels.Network(
            np.ascontiguousarray(network, np.float32),
            np.array(self.network.sizes, np.int64),
            kernels.ACTIVATIONS[self.activation],
            np.ascontiguousarray(extra, np.float32),
            np.array(choices, np.int64),
        )

    def __repr__(self) -> str:
        return f"Policy({self.network!r}, {self.head!r})"


def even(obs: Array) -> Array:
    """Weights of a plain mean over samples."""
    return np.full(obs.shape[0], 1.0 / obs.shape[0])


def orthogonal_start(network: Any, rng: np.random.Generator, last: float, dtype: Any) -> Array:
    """Orthogonal weights with gain sqrt(2), and `last` in the last layer; biases zero."""
    gain = math.sqrt(2.0)
    theta: Array = network.init(rng, scheme="orthogonal", gain=gain, dtype=dtype)
    network.blocks[-1].of(theta)[...] *= last / gain
    return theta


def batch_outputs(network: Any, activation: str, theta: Array, obs: Array) -> Array:
    """The outputs of `cgopt.nn.MLP` for a batch: compiled, with the rollouts' own tanh, where theta is float32."""
    if theta.dtype != np.float32:
        return network.forward(theta, obs)  # type: ignore[no-any-return]
    out = np.empty((obs.shape[0], network.n_outputs), np.float32)
    sizes = np.array(network.sizes, np.int64)
    dense.outputs(sizes, kernels.ACTIVATIONS[activation], theta, np.ascontiguousarray(obs, np.float32), out)
    return out


def log_softmax(Z: Array) -> Array:
    """log of the softmax of each row, (N, k), in float64."""
    logs = np.empty(Z.shape)
    rows.shift(Z, logs)
    rows.subtract(np.log(row_sums(np.exp(logs))), logs)  # z - max z - log(sum exp(z - max z))
    return logs


def row_sums(A: Array) -> Array:
    """The sum of each row of (N, k)."""
    out = np.empty(A.shape[0])
    rows.row_sums(A, out)
    return out
