"""What on-policy algorithms share: a round is a batch of experience, one policy step, and a fit of the value network.

Advantages are of the values before the fit. So the fit and the policy's step know nothing of each other, nor does the
next batch of experience know of the fit: it runs on a thread beside both, until the next advantages are due.
"""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import checkpoint
from .checks import integer, number, unknown
from .kernels.rollouts import Batch
from .policies import Policy
from .rollouts import Collector, estimate_advantages
from .training import ACTIONS, Algorithm, Config
from .value import ValueFunction, explained_variance

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(Config):
    """Options of every on-policy algorithm."""

    n_steps: int = 2048
    """Steps of each environment in a batch."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation's lambda: 1 sums rewards, 0 trusts the value network after one step."""
    normalize_advantage: bool = True
    """Give a batch's advantages mean 0 and standard deviation 1."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden units of the policy's network and of the value network."""
    activation: str = "tanh"
    """Of the hidden units: tanh or relu."""
    log_std_init: float = 0.0
    """Logarithm of a Gaussian's standard deviations at the start."""
    value_fit: str = "adam"
    """How the value network is fitted: adam or gauss_newton."""
    n_critic_updates: int = 10
    """Epochs of Adam, or Gauss-Newton steps, in each round."""
    batch_size: int = 128
    """Minibatch of Adam."""
    learning_rate: float = 1e-3
    """Step size of Adam."""

    def __post_init__(self) -> None:
        for name in ("n_envs", "n_steps", "checkpoint_every", "n_critic_updates", "batch_size"):
            integer(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        for name in ("clip_observations", "learning_rate"):
            number(name, getattr(self, name), low=0.0, open_low=True)
        number("log_std_init", self.log_std_init)
        for field in dataclasses.fields(self):
            if field.type == "bool" and not isinstance(value := getattr(self, field.name), bool):
                raise TypeError(f"{field.name} must be True or False, got {value!r}")
        if not isinstance(self.net_arch, (tuple, list)):
            raise TypeError(f"net_arch must be a sequence of whole numbers such as (64, 64), got {self.net_arch!r}")
        object.__setattr__(self, "net_arch", tuple(self.net_arch))
        for units in self.net_arch:
            integer("net_arch", units)
        for name, known in (("activation", ("tanh", "relu")), ("value_fit", ("adam", "gauss_newton"))):
            if getattr(self, name) not in known:
                raise ValueError(unknown(name, str(getattr(self, name)), known))


class OnPolicy(Algorithm):
    """An algorithm that learns from batches of its own policy; a subclass writes `_policy_step`."""

    Config = OnPolicyConfig

    def _build(self) -> None:
        c = self.config
        self.policy = Policy(self.env.n_inputs, self.env.action_space, c.net_arch, c.activation, c.log_std_init)
        self.theta = self.policy.init(self.rng)
        self._value = ValueFunction(self.env.n_inputs, c.net_arch, c.activation, self.rng)
        self._fit: Future[None] | None = None
        self.collector = Collector(self.env, self.policy, c.n_steps, self._seed(ACTIONS))

    @property
    def value(self) -> ValueFunction:
        """The value network, after the fit that may be at work."""
        if self._fit is not None:
            self._fit.result()
        return self._value

    def _run(self, *arguments: Any) -> Self:
        with ThreadPoolExecutor(max_workers=1) as self._beside:
            super()._run(*arguments)
            self.value  # noqa: B018  (an error of the last fit is raised here)
        return self

    def _start(self, seed: np.random.SeedSequence) -> None:
        self.collector.reset(seed)

    def _iterate(self) -> dict[str, float]:
        c, clock = self.config, time.perf_counter
        begin = clock()
        norm = self._normalizer()
        batch = self.collector.collect(self.theta, norm)
        self.steps += batch.rewards.size
        rollout = clock() - begin
        require_finite(batch, self.env.id)

        ended = batch.terminated | batch.truncated
        rewards = self._scaled_rewards(batch.rewards, ended)
        advantages, values = estimate_advantages(batch, rewards, self.value, norm, c.gamma, c.gae_lambda)

        valid = batch.valid.reshape(-1)
        obs = batch.obs.reshape(valid.size, -1)[valid]
        actions = self.collector.actions.reshape(valid.size, -1)[valid]
        A, V = advantages.reshape(-1)[valid], values.reshape(-1)[valid]
        targets = A + V
        self._fit = self._beside.submit(self._fit_value, obs, targets, int(self.rng.integers(2**63)))
        metrics = self._note_episodes(batch.rewards, ended, batch.valid)
        metrics |= self._policy_step(obs, actions, standardized(A) if c.normalize_advantage else A)
        if self.observations is not None:
            self.observations.update(batch.raw.reshape(valid.size, -1)[valid])
        return metrics | {
            "explained_variance": explained_variance(V, targets),
            "rollout_seconds": rollout,
            "update_seconds": clock() - begin - rollout,
        }

    def _fit_value(self, obs: Array, targets: Array, seed: int) -> None:
        c = self.config
        if c.value_fit == "adam":
            self._value.fit_adam(obs, targets, c.n_critic_updates, c.batch_size, c.learning_rate, seed)
        else:
            self._value.fit_gauss_newton(obs, targets, c.n_critic_updates, 10)

    @abstractmethod
    def _policy_step(self, obs: Array, actions: Array, advantages: Array) -> dict[str, float]:
        """Move `theta`, and say what there is to report."""

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        Z = self.policy.outputs(self.theta, obs)
        head = self.policy.head
        return head.mode(Z) if deterministic else head.sample(Z, self.policy.split(self.theta)[1], rng)

    def _resume_environments(self, obs: Array) -> None:
        self.collector.obs = obs

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return {
            "policy": {"theta": self.theta},
            "value": self.value.arrays(),
            "collector": self.collector.arrays(),
        }

    def _restore(self, arrays: dict[str, Array]) -> None:
        theta = checkpoint.group(arrays, "policy")["theta"]
        if theta.shape != self.theta.shape:
            raise ValueError(f"the policy has {self.theta.size} parameters here, and {theta.size} in the file")
        self.theta = theta.copy()
        self.value.restore(checkpoint.group(arrays, "value"))
        saved = checkpoint.group(arrays, "collector")
        if saved["streams"].shape == self.collector.streams.shape:
            self.collector.restore(saved)


def require_finite(batch: Batch, env: str) -> None:
    """Refuse a batch with NaN or infinity: no policy can act on it, and no gradient comes of it."""
    for name, array in (("observation", batch.raw), ("observation", batch.final), ("reward", batch.rewards)):
        if not np.isfinite(array).all():
            t, i = np.argwhere(~np.isfinite(array))[0][:2]
            raise ValueError(f"{env} gave {name} {array[t, i]} at step {t} of environment {i}; it must be finite")


def standardized(advantages: Array) -> Array:
    """Advantages with mean 0 and standard deviation 1; zero where they do not vary beyond rounding."""
    centred = advantages - advantages.mean()
    spread = float(centred.std())
    rounding = 8.0 * np.finfo(np.float64).eps * float(np.abs(advantages).max())
    return centred / spread if spread > rounding else np.zeros_like(centred)
