"""Synchronous advantage actor-critic (A2C): short batches, one gradient step each.

V. Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016, algorithm S3, with
its actors in step. A round is `n_steps` steps of each environment and one step along the gradient of

    mean A log pi(a|s)  +  ent_coef mean H(pi(.|s))  -  vf_coef mean (R - V(s))^2,      R = A + V_old(s),

with advantages A by generalised estimation: ``gae_lambda = 1`` gives the paper's n-step returns, and ``gae_lambda = 0``
the TD error ``r + gamma V(s') - V(s)`` of the one-step actor-critic (Sutton and Barto 2018, section 13.5).

With compiled environments `log_interval` rounds are one compiled call. Statistics of normalisation are fixed in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt

import cgopt

from . import checkpoint
from .checks import integer, number, unknown
from .envs.interface import CompiledBatch
from .kernels import actor_critic as kernels
from .kernels.dense import dense, optimizer
from .kernels.environments import Dynamics
from .kernels.rollouts import ACTIVATIONS, Network, Simulation, first_choice, first_float, rollout
from .on_policy import require_finite
from .policies import Policy, orthogonal_start
from .rollouts import Collector
from .training import ACTIONS, Algorithm, Config

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(Config):
    """Options of the advantage actor-critic; names and values are Stable-Baselines3's."""

    n_envs: int = 8
    """Environments stepped side by side."""
    n_steps: int = 5
    """Steps of each environment in a batch."""
    gae_lambda: float = 1.0
    """1 sums the batch's rewards before a value stands for the rest, 0 is the TD error."""
    ent_coef: float = 0.0
    """Weight of the entropy."""
    vf_coef: float = 0.5
    """Weight of the value network's error."""
    max_grad_norm: float = 0.5
    """Norm that longer gradients are shortened to."""
    learning_rate: float = 7e-4
    """Step size."""
    use_rms_prop: bool = True
    """RMSProp; otherwise Adam."""
    rms_prop_decay: float = 0.99
    """Of RMSProp's mean of squares."""
    rms_prop_eps: float = 1e-5
    """Added to the root of the mean of squares, of either."""
    normalize_advantage: bool = False
    """Give a batch's advantages mean 0 and standard deviation 1."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden units of the policy's network and of the value network."""
    activation: str = "tanh"
    """Of the hidden units: tanh or relu."""
    log_std_init: float = 0.0
    """Logarithm of a Gaussian's standard deviations at the start."""
    log_interval: int = 100
    """Rounds between reports; training ends after whole intervals."""

    def __post_init__(self) -> None:
        for name in ("n_envs", "n_steps", "checkpoint_every", "log_interval"):
            integer(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        number("rms_prop_decay", self.rms_prop_decay, low=0.0, high=1.0, open_high=True)
        for name in ("clip_observations", "learning_rate", "max_grad_norm", "rms_prop_eps"):
            number(name, getattr(self, name), low=0.0, open_low=True)
        for name in ("ent_coef", "vf_coef"):
            number(name, getattr(self, name), low=0.0)
        number("log_std_init", self.log_std_init)
        for units in self.net_arch:
            integer("net_arch", units)
        if self.activation not in ("tanh", "relu"):
            raise ValueError(unknown("activation", str(self.activation), ("tanh", "relu")))


@functools.cache
def _block(dynamics: Dynamics, action: Any) -> Any:
    """Acting and learning in one compiled function."""
    bound = kernels.helper(dynamics.bind(rollout, action=action))
    return dynamics.compile(kernels.block, rollout=bound)[0]


class ActorCritic(Algorithm):
    """Synchronous advantage actor-critic.

    Examples
    --------
    >>> from cgopt_rl import ActorCritic
    >>> model = ActorCritic("cgopt/CartPole-v1", seed=1).learn(4000)
    >>> action, _ = model.predict([0.0, 0.0, 0.1, 0.0], deterministic=True)
    >>> int(action) in (0, 1)
    True
    """

    name = "a2c"
    Config = ActorCriticConfig

    def _build(self) -> None:
        c, d, n = self.config, self.env.n_inputs, self.env.count
        self.policy = Policy(d, self.env.action_space, c.net_arch, c.activation, c.log_std_init)
        self.value = cgopt.nn.MLP([d, *c.net_arch, 1], activation=c.activation)
        self.parameters = np.concatenate(
            [self.policy.init(self.rng), orthogonal_start(self.value, self.rng, 1.0, np.float32)]
        )
        self.collector = Collector(self.env, self.policy, c.n_steps * c.log_interval, self._seed(ACTIONS))
        N, activation, each = n * c.n_steps, ACTIVATIONS[c.activation], (c.n_steps, n)
        w, nothing = self.parameters[self.policy.n :], np.empty(0, np.float32)
        self.learner = kernels.Learner(
            self.policy.for_kernels(self.theta),
            Network(w, np.array(self.value.sizes, np.int64), activation, nothing, np.empty(0, np.int64)),
            optimizer(self.parameters),
            dense(self.policy.network.sizes, activation, N),
            dense(self.value.sizes, activation, N),
            np.zeros((N, d), np.float32),
            *(np.zeros(each) for _ in range(4)),
        )

    @property
    def theta(self) -> Array:
        """The policy's parameters."""
        return self.parameters[: self.policy.n]

    def values(self, obs: Array) -> Array:
        """V (N,) of normalised observations (N, d)."""
        return self.value.forward(self.parameters[self.policy.n :], obs)[:, 0]

    def _start(self, seed: np.random.SeedSequence) -> None:
        self.collector.reset(seed)

    def _iterate(self) -> dict[str, float]:
        c, clock, batch = self.config, time.perf_counter, self.collector.batch
        begin = clock()
        norm, report = self._normalizer(), np.zeros(kernels.REPORTS)
        scale = 1.0 if self.returns is None else float(self.returns.scale[0])
        options = kernels.Options(
            c.gamma, c.gae_lambda, c.ent_coef, c.vf_coef, c.max_grad_norm, c.learning_rate, c.use_rms_prop,
            c.rms_prop_decay, c.rms_prop_eps, c.normalize_advantage, scale,
        )  # fmt: skip
        if isinstance(self.env, CompiledBatch):
            envs = self.env.envs
            simulation = Simulation(envs.state, envs.elapsed, envs.streams, envs.obs, envs.max_episode_steps)
            play = _block(envs.kind.dynamics, first_choice if batch.choices.shape[2] else first_float)
            play(self.learner, batch, norm, options, report, simulation, self.collector.streams)
            self.collector.obs = envs.obs
        else:
            for r in range(c.log_interval):
                self.collector.collect_some(self.learner.policy, norm, r * c.n_steps, (r + 1) * c.n_steps)
                kernels.update(self.learner, batch, r, norm, options, report)
        self.steps += batch.rewards.size
        require_finite(batch, self.env.id)
        ended = batch.terminated | batch.truncated
        metrics = self._note_episodes(batch.rewards, ended, batch.valid)
        self._scaled_rewards(batch.rewards, ended)
        if self.observations is not None:
            self.observations.update(batch.raw[batch.valid])
        sums = report.tolist()
        taken = c.log_interval - sums[kernels.SKIPPED]
        return metrics | {
            "policy_loss": sums[kernels.POLICY_LOSS] / c.log_interval,
            "value_loss": sums[kernels.VALUE_LOSS] / c.log_interval,
            "entropy": sums[kernels.ENTROPY] / c.log_interval,
            "gradient_norm": sums[kernels.GRADIENT_NORM] / taken if taken else math.nan,
            "skipped": int(sums[kernels.SKIPPED]),
            "round_seconds": clock() - begin,
        }

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        Z, head = self.policy.outputs(self.theta, obs), self.policy.head
        return head.mode(Z) if deterministic else head.sample(Z, self.policy.split(self.theta)[1], rng)

    def _resume_environments(self, obs: Array) -> None:
        self.collector.obs = obs

    def _arrays(self) -> dict[str, dict[str, Array]]:
        opt = self.learner.opt
        return {
            "learner": {"theta": opt.theta, "m": opt.m, "v": opt.v, "t": opt.t},
            "collector": self.collector.arrays(),
        }

    def _restore(self, arrays: dict[str, Array]) -> None:
        saved = checkpoint.group(arrays, "learner")
        for name, array in saved.items():
            here = getattr(self.learner.opt, name)
            if array.shape != here.shape:
                raise ValueError(f"there are {here.size} parameters here, and {array.size} in the file")
            here[...] = array
        streams = checkpoint.group(arrays, "collector")
        if streams["streams"].shape == self.collector.streams.shape:
            self.collector.restore(streams)
