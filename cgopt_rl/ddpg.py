"""The deterministic policy gradient: DDPG, and TD3.

T. Lillicrap, J. Hunt, A. Pritzel, N. Heess, T. Erez, Y. Tassa, D. Silver and D. Wierstra, "Continuous control with deep
reinforcement learning", ICLR 2016. A critic Q learns what actions are worth, an actor mu climbs it:

    y = r + gamma Q'(s', mu'(s')),   Q descends mean (Q(s, a) - y)^2,
    mu ascends J = mean Q(s, mu(s)):   dJ/dtheta = mean dQ/da(s, mu(s)) dmu/dtheta(s)               (eq. 6)

and the targets Q', mu' follow by ``theta' <- theta' + tau (theta - theta')``. S. Fujimoto, H. van Hoof and D. Meger,
"Addressing function approximation error in actor-critic methods", ICML 2018 (TD3), add a second critic, of which y
takes the lower one, noise on mu'(s'), and fewer steps of the actor. The compiled steps are in `cgopt_rl.kernels.ddpg`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

import cgopt

from .checks import integer, number, unknown
from .kernels import ddpg as kernels
from .kernels.dense import dense, optimizer
from .kernels.random import streams
from .kernels.rollouts import ACTIVATIONS, Network
from .off_policy import DRAWS, OffPolicy, OffPolicyConfig

Array = npt.NDArray[Any]
SMOOTHING = DRAWS + 1  # what a random stream is for, beside those of `off_policy`


@dataclasses.dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Options of DDPG. Noise is in units of normalised actions, which are in [-1, 1] between any bounds."""

    buffer_size: int = 1_000_000
    """Transitions in the replay buffer."""
    learning_starts: int = 10_000
    """Steps, with uniform actions, before the first gradient step."""
    batch_size: int = 256
    """Transitions of a gradient step."""
    learning_rate: float = 1e-3
    """Step size of Adam on the critics."""
    actor_learning_rate: float = 1e-3
    """Step size of Adam on the actor."""
    tau: float = 0.005
    """Share of the networks that the target networks take on after a step of the actor."""
    net_arch: tuple[int, ...] = (400, 300)
    """Hidden units of the actor and of each critic."""
    max_grad_norm: float = math.inf
    """Norm that longer gradients are shortened to."""
    action_noise: str = "gaussian"
    """Of exploration: gaussian, or ornstein_uhlenbeck (correlated in time, from 0 in each episode)."""
    action_noise_std: float = 0.1
    """Its standard deviation in each step."""
    action_noise_theta: float = 0.15
    """Share of an Ornstein-Uhlenbeck process that decays in each step."""
    n_critics: int = 1
    """Critics, of which targets take the lowest."""
    policy_delay: int = 1
    """Gradient steps of the critics for one of the actor and the targets."""
    target_policy_noise: float = 0.0
    """Standard deviation of noise on the target's actions."""
    target_noise_clip: float = 0.5
    """Bound of that noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_critics", "policy_delay"):
            integer(name, getattr(self, name))
        number("actor_learning_rate", self.actor_learning_rate, low=0.0, open_low=True)
        for name in ("action_noise_std", "target_policy_noise", "target_noise_clip"):
            number(name, getattr(self, name), low=0.0)
        number("action_noise_theta", self.action_noise_theta, low=0.0, high=1.0)
        if self.action_noise not in kernels.NOISES:
            raise ValueError(unknown("action_noise", str(self.action_noise), kernels.NOISES))


@dataclasses.dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Options of TD3: DDPG's with two critics, delay and smoothing, as Fujimoto et al. (2018) set them."""

    n_critics: int = 2
    """Critics, of which targets take the lowest."""
    policy_delay: int = 2
    """Gradient steps of the critics for one of the actor and the targets."""
    target_policy_noise: float = 0.2
    """Standard deviation of noise on the target's actions."""


class DDPG(OffPolicy):
    """Deep deterministic policy gradient, for Box actions with finite bounds.

    Examples
    --------
    >>> from cgopt_rl import DDPG
    >>> model = DDPG("cgopt/Pendulum-v1", net_arch=(32, 32), batch_size=32, learning_starts=500, seed=1)
    >>> model = model.learn(1000)
    >>> action, _ = model.predict([1.0, 0.0, 0.0], deterministic=True)
    >>> action.shape, bool(abs(action[0]) <= 2.0)
    ((1,), True)
    """

    name = "ddpg"
    Config = DDPGConfig
    learner = kernels.DDPG
    discrete = False

    def _make_agent(self) -> None:
        c, n, d, m = self.config, self.env.count, self.env.n_inputs, self._n_actions()
        low, high = _bounds(self.env.action_space)
        self.actor = cgopt.nn.MLP([d, *c.net_arch, m], activation=c.activation)
        self.critic = cgopt.nn.MLP([d + m, *c.net_arch, 1], activation=c.activation)
        theta = start(self.actor, self.rng)
        critics = np.stack([start(self.critic, self.rng) for _ in range(c.n_critics)])
        activation, B = ACTIVATIONS[c.activation], c.batch_size
        nothing = np.empty(0, np.float32)
        self.agent = kernels.Agent(
            Network(theta, np.array(self.actor.sizes, np.int64), activation, nothing, np.empty(0, np.int64)),
            optimizer(theta),
            theta.copy(),
            kernels.Critics(
                critics,
                critics.copy(),
                np.zeros_like(critics),
                np.zeros_like(critics),
                np.zeros(self.critic.n, np.float32),
                np.zeros(c.n_critics, np.int64),
            ),
            dense(self.actor.sizes, activation, B),
            dense(self.critic.sizes, activation, B),
            np.zeros((B, d + m), np.float32),
            np.zeros((B, d + m), np.float32),
            np.zeros(B, np.float32),
            np.zeros(B, np.float32),
            np.zeros((len(self.actor.sizes), max(self.actor.sizes)), np.float32),
            low,
            high,
            kernels.Noise(kernels.NOISES[c.action_noise], c.action_noise_std, c.action_noise_theta, np.zeros((n, m))),
            kernels.Rates(
                c.learning_rate,
                c.actor_learning_rate,
                c.max_grad_norm,
                c.tau,
                c.policy_delay,
                c.target_policy_noise,
                c.target_noise_clip,
            ),
            streams(self._seed(SMOOTHING), 1),
            np.zeros(kernels.REPORTS),
        )

    def _state(self) -> dict[str, Array]:
        agent = self.agent
        return {
            "actor": agent.actor.theta,
            "actor_m": agent.actor.m,
            "actor_v": agent.actor.v,
            "actor_t": agent.actor.t,
            "actor_target": agent.actor_target,
            "critics": agent.critics.theta,
            "critics_m": agent.critics.m,
            "critics_v": agent.critics.v,
            "critics_t": agent.critics.t,
            "critics_target": agent.critics.target,
            "noise": agent.noise.state,
            "stream": agent.stream,
        }

    @property
    def theta(self) -> Array:
        """The actor's parameters."""
        return self.agent.actor.theta

    def mu(self, obs: Array) -> Array:
        """The actor's normalised actions (N, m), in [-1, 1], for normalised observations (N, d)."""
        return np.tanh(self.actor.forward(self.theta, obs))

    def q(self, obs: Array, actions: Array, critic: int = 0) -> Array:
        """A critic's values (N,) of normalised observations (N, d) and normalised actions (N, m)."""
        rows = np.concatenate([obs, actions], axis=1).astype(np.float32)
        return self.critic.forward(self.agent.critics.theta[critic], rows)[:, 0]

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        a = self.mu(obs).astype(np.float64)
        if not deterministic:
            a = np.clip(a + self.config.action_noise_std * rng.standard_normal(a.shape), -1.0, 1.0)
        low, high = self.agent.low, self.agent.high
        return (0.5 * ((1.0 - a) * low + (1.0 + a) * high)).astype(np.float32)

    def _iterate(self) -> dict[str, float]:
        report = self.agent.report
        report[:] = 0.0
        metrics = super()._iterate()
        made = report[kernels.STEPPED]
        for name, place in (("slope", kernels.SLOPE), ("saturation", kernels.SATURATION)):
            metrics[name] = float(report[place] / made) if made else math.nan
        return metrics


class TD3(DDPG):
    """Twin delayed deep deterministic policy gradient: DDPG with twin critics, delay and target policy smoothing."""

    name = "td3"
    Config = TD3Config


def start(network: Any, rng: np.random.Generator) -> Array:
    """Uniform within 1 / sqrt(inputs of the layer), biases too; the last layer within 0.003 (the paper, section 7)."""
    theta = np.empty(network.n, np.float32)
    for block in network.blocks:
        bound = 3e-3 if block is network.blocks[-1] else 1.0 / math.sqrt(block.inputs)
        whole = block.of(theta)
        whole[...] = rng.uniform(-bound, bound, whole.shape)
    return theta


def _bounds(space: Any) -> tuple[Array, Array]:
    """Finite bounds of a Box of actions, flat."""
    if not isinstance(space, spaces.Box):
        raise TypeError(f"deterministic policy gradients need Box actions, got {space}; DQN takes Discrete ones")
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(f"actions must have finite bounds, low below high, got {space}")
    return low, high
