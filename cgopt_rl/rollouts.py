"""Experience: T steps of each environment under one policy, and what is estimated from them.

Observations are normalised with statistics that stay fixed for the batch, and stored as the policy saw them, so that
its probabilities, computed again while learning, are those it acted with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cgopt.kernels import cpu
from cgopt.kernels.layouts import Work

from .envs.interface import CompiledBatch, Environments
from .kernels import advantages as recursions
from .kernels import rollouts as kernels
from .kernels.environments import Dynamics
from .kernels.random import streams
from .normalization import normalize
from .policies import Categorical, Policy

Array = npt.NDArray[Any]
SMALL = 50_000  # steps below which starting threads costs more than they save


@functools.cache
def _rollout(dynamics: Dynamics, action: Any) -> tuple[Any, Any]:
    return dynamics.compile(kernels.rollout, action=action)


class Collector:
    """Collects batches of `n_steps` steps from each of some environments.

    Parameters
    ----------
    environments : Environments
    policy : Policy
    n_steps : int
    seed : numpy.random.SeedSequence
        Of the actions.

    Attributes
    ----------
    batch : cgopt_rl.kernels.rollouts.Batch
        Overwritten by each `collect`.
    """

    def __init__(self, environments: Environments, policy: Policy, n_steps: int, seed: np.random.SeedSequence) -> None:
        self.environments, self.policy, self.n_steps = environments, policy, n_steps
        n, d, T = environments.count, environments.n_inputs, n_steps
        choices = len(policy.head.alternatives) if isinstance(policy.head, Categorical) else 0
        floats = 0 if choices else policy.head.n_outputs
        self.batch = kernels.Batch(
            np.zeros((T, n, d), np.float32),
            np.zeros((T, n, d), np.float32),
            np.zeros((T, n, floats), np.float32),
            np.zeros((T, n, choices), np.int64),
            np.zeros((T, n)),
            np.zeros((T, n), np.bool_),
            np.zeros((T, n), np.bool_),
            np.zeros((T, n), np.bool_),
            np.zeros((T, n, d), np.float32),
        )
        self.streams = streams(seed, n)
        self.obs: Array | None = None

    @property
    def actions(self) -> Array:
        """The batch's actions, (T, n, m): choices or floats."""
        return self.batch.choices if self.batch.choices.shape[2] else self.batch.floats

    def reset(self, seed: np.random.SeedSequence) -> None:
        """Start new episodes everywhere."""
        self.obs = self.environments.reset(seed)

    def collect(self, theta: Array, normalizer: kernels.Normalizer) -> kernels.Batch:
        """Fill the batch by acting with theta."""
        network = self.policy.for_kernels(theta)
        if isinstance(self.environments, CompiledBatch) and self.obs is not None:
            self._collect_compiled(self.environments, network, normalizer)
        else:
            self.collect_some(network, normalizer, 0, self.n_steps)
        return self.batch

    def _collect_compiled(self, environments: CompiledBatch, network: Any, normalizer: Any) -> None:
        envs = environments.envs
        action = kernels.first_choice if self.batch.choices.shape[2] else kernels.first_float
        simulation = kernels.Simulation(envs.state, envs.elapsed, envs.streams, envs.obs, envs.max_episode_steps)
        parts = cpu.get_num_threads() if self.n_steps * envs.num_envs >= SMALL and envs.num_envs > 1 else 1
        work = Work(np.zeros(2, np.int64), np.zeros((parts, 1)))
        cpu.run(_rollout(envs.kind.dynamics, action), work, network, normalizer, simulation, self.streams, self.batch)
        self.obs = envs.obs

    def collect_some(self, network: kernels.Network, normalizer: kernels.Normalizer, first: int, last: int) -> None:
        """Fill steps `first` to `last` of the batch, one compiled call for each step's actions."""
        if self.obs is None:
            raise ValueError("call reset before the first collect")
        batch, actions = self.batch, self.actions
        single = isinstance(self.policy.head, Categorical) and actions.shape[2] == 1
        obs = self.obs
        for t in range(first, last):
            kernels.act(network, normalizer, self.streams, obs, t, batch)
            step = self.environments.step(actions[t, :, 0] if single else actions[t])
            batch.rewards[t], batch.terminated[t], batch.truncated[t] = step.rewards, step.terminated, step.truncated
            batch.valid[t], batch.final[t] = step.valid, step.final
            obs = step.obs
        self.obs = obs

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint keeps."""
        return {"streams": self.streams}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` returned."""
        self.streams[...] = arrays["streams"]


def estimate_advantages(
    batch: kernels.Batch,
    rewards: Array,
    value: Callable[[Array], Array],
    normalizer: kernels.Normalizer,
    gamma: float,
    lam: float,
) -> tuple[Array, Array]:
    """Generalised advantages, and values, of every step.

    A step that terminated is followed by nothing; one that was truncated, or ends the batch, by the value of the
    observation that it led to (never of the one after a reset).

    Parameters
    ----------
    batch : Batch
    rewards : (T, n) array
        Those of the batch, scaled.
    value : callable
        From normalised observations (N, d) to values (N,).
    normalizer : Normalizer
        The one the batch was collected with.
    gamma, lam : float

    Returns
    -------
    advantages, values : (T, n) float64

    References
    ----------
    J. Schulman et al., "High-dimensional continuous control using generalized advantage estimation", ICLR 2016, eq. 16.
    """
    T, n, d = batch.obs.shape
    values = value(batch.obs.reshape(-1, d)).astype(np.float64).reshape(T, n)
    next_values = np.empty((T, n))
    next_values[:-1] = values[1:]
    ended = batch.terminated | batch.truncated
    led_elsewhere = ended.copy()  # where the next step's observation is not the one that this step led to
    led_elsewhere[-1] = True
    t, i = np.nonzero(led_elsewhere & ~batch.terminated)
    if t.size:
        next_values[t, i] = value(normalize(normalizer, batch.final[t, i]))
    advantages = np.empty((T, n))
    recursions.generalized_advantages(rewards, values, next_values, batch.terminated, ended, gamma, lam, advantages)
    return advantages, values
