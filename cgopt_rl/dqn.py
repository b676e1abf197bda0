"""Deep Q-networks, in the forms of 2013 and of 2015, and what has been added to them since.

Q(s, a; theta) is brought towards ``y = r + gamma max_a' Q(s', a'; theta')`` on transitions drawn from replay, by the
gradient of the loss of ``Q(s, a; theta) - y`` with y held fixed. theta' is

* theta itself in the form of 2013 (``target_network=False, loss="squared"``);
* an older copy of it in the form of 2015 (the default), where the loss is Huber's.

V. Mnih et al., "Playing Atari with deep reinforcement learning", 2013; V. Mnih et al., "Human-level control through
deep reinforcement learning", Nature 518, 2015.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

import cgopt

from .checks import integer, number, unknown
from .kernels import dqn as kernels
from .kernels.dense import dense, optimizer
from .kernels.rollouts import ACTIVATIONS
from .off_policy import OffPolicy, OffPolicyConfig
from .policies import orthogonal_start

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Options of DQN."""

    target_network: bool = True
    """Compute targets with an older copy of the network; without it, the form of 2013."""
    target_update_interval: int = 500
    """Environment steps between updates of that copy."""
    loss: str = "huber"
    """Of the error: huber (linear beyond 1) or squared."""
    double_q: bool = False
    """Choose the action of the target with the network, and value it with the copy."""
    dueling: bool = False
    """Outputs are a value and advantages, whose mean is taken off."""
    exploration_initial_eps: float = 1.0
    """Probability of a random action at the start."""
    exploration_final_eps: float = 0.05
    """The same in the end."""
    exploration_steps: int = 10_000
    """Steps over which it falls."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_update_interval", "exploration_steps"):
            integer(name, getattr(self, name))
        for name in ("exploration_initial_eps", "exploration_final_eps"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        if self.loss not in ("huber", "squared"):
            raise ValueError(unknown("loss", str(self.loss), ("huber", "squared")))


class DQN(OffPolicy):
    """Deep Q-networks: 2015's by default; options give 2013's, double, dueling, n-step and prioritised.

    Examples
    --------
    >>> from cgopt_rl import DQN
    >>> model = DQN("cgopt/CartPole-v1", learning_starts=100, net_arch=(32,), seed=1).learn(2000)
    >>> model.status.name, len(model.replay)
    ('LEARNING', 2000)
    >>> model.values([0.0, 0.0, 0.1, 0.0]).shape
    (2,)
    """

    name = "dqn"
    Config = DQNConfig
    learner = kernels.DQN
    discrete = True

    def _n_actions(self) -> int:
        if not isinstance(self.env.action_space, spaces.Discrete):
            raise TypeError(f"{self.name} needs Discrete actions, and {self.env.id} has {self.env.action_space}")
        return 1

    def _make_agent(self) -> None:
        c = self.config
        outputs = int(self.env.action_space.n) + c.dueling
        self.network = cgopt.nn.MLP([self.env.n_inputs, *c.net_arch, outputs], activation=c.activation)
        sizes = np.array(self.network.sizes, np.int64)
        activation = ACTIVATIONS[c.activation]
        theta = orthogonal_start(self.network, self.rng, 1.0, np.float32)
        opt = optimizer(theta)
        self.agent = kernels.Agent(
            theta,
            sizes,
            activation,
            np.zeros((sizes.size, sizes.max()), np.float32),
            dense(sizes, activation, c.batch_size),
            opt,
            theta.copy() if c.target_network else theta,
            np.zeros(c.batch_size, np.float32),
            np.zeros(c.batch_size, np.float32),
            np.zeros(c.batch_size, np.int64),
            c.learning_rate,
            c.max_grad_norm,
            c.tau,
            max(1, c.target_update_interval // self.env.count) if c.target_network else 0,
            c.double_q,
            c.dueling,
            c.loss == "huber",
            np.array([c.exploration_initial_eps, c.exploration_final_eps, c.exploration_steps], np.float64),
        )

    @property
    def theta(self) -> Array:
        """Parameters of the Q network."""
        return self.agent.theta

    def _state(self) -> dict[str, Array]:
        a = self.agent
        return {"theta": a.theta, "m": a.opt.m, "v": a.opt.v, "t": a.opt.t, "target": a.target}

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        share = min(1.0, self.steps / self.config.exploration_steps)
        initial, final = self.config.exploration_initial_eps, self.config.exploration_final_eps
        return float(initial + share * (final - initial))

    def values(self, observation: Any) -> Array:
        """Q of every action.

        Parameters
        ----------
        observation : array or int
            One observation of the environment, or a batch of them with one more axis in front.

        Returns
        -------
        (k,) float32 array, or (N, k) for a batch
        """
        from .normalization import normalize

        obs, batched = self._flat(observation)
        Q = self._values(normalize(self._normalizer(), obs))
        return Q if batched else Q[0]

    def _values(self, obs: Array) -> Array:
        Z = self.network.forward(self.theta, obs)
        return Z[:, :1] + Z[:, 1:] - Z[:, 1:].mean(axis=1, keepdims=True) if self.config.dueling else Z

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        greedy = self._values(obs).argmax(axis=1)
        if not deterministic:
            random = rng.random(obs.shape[0]) < self.epsilon
            greedy = np.where(random, rng.integers(self.env.action_space.n, size=obs.shape[0]), greedy)
        return greedy[:, None]
