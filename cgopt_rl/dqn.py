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
from .normalization import normalize
from .off_policy import OffPolicy, OffPolicyConfig, fan_in_start

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Options of DQN."""

    learning_rate_final: float | None = None
    """Step size in the end, which it falls to in proportion to steps; by default it stays."""
    learning_rate_steps: int = 100_000
    """Steps over which it falls."""
    target_network: bool = True
    """Compute targets with an older copy of the network; without it, the form of 2013."""
    target_update_interval: int = 500
    """Environment steps between updates of that copy."""
    loss: str = "huber"
    """Of the error: huber (linear beyond 1) or squared."""
    optimizer: str = "adam"
    """What takes the gradient: adam, or sgd, plain steps of learning_rate."""
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
        if self.learning_rate_final is not None:
            number("learning_rate_final", self.learning_rate_final, low=0.0)
        for name in ("target_update_interval", "exploration_steps", "learning_rate_steps"):
            integer(name, getattr(self, name))
        for name in ("exploration_initial_eps", "exploration_final_eps"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        for name, known in (("loss", ("huber", "squared")), ("optimizer", ("adam", "sgd"))):
            if getattr(self, name) not in known:
                raise ValueError(unknown(name, str(getattr(self, name)), known))


def q_network(n_inputs: int, n_actions: int, config: DQNConfig) -> Any:
    """The network of Q values; where it is a dueling one, of V and the advantages."""
    return cgopt.nn.MLP([n_inputs, *config.net_arch, n_actions + config.dueling], activation=config.activation)


def q_values(network: Any, theta: Array, obs: Array, dueling: bool) -> Array:
    """Q of every action, (N, k): a dueling network's are ``V + A - mean A`` (Wang et al. 2016, eq. 9)."""
    Z: Array = network.forward(theta, obs)
    return Z[:, :1] + Z[:, 1:] - Z[:, 1:].mean(axis=1, keepdims=True) if dueling else Z


def dqn_agent(network: Any, c: DQNConfig, n_envs: int, rng: np.random.Generator) -> kernels.Agent:
    """A network at its start with all that its compiled functions need."""
    theta = fan_in_start(network, rng)
    sizes, activation, size = np.array(network.sizes, np.int64), ACTIVATIONS[c.activation], c.batch_size
    return kernels.Agent(
        theta=theta,
        sizes=sizes,
        activation=activation,
        h=np.zeros((sizes.size, sizes.max()), np.float32),
        net=dense(sizes, activation, size),
        opt=optimizer(theta),
        target=theta.copy() if c.target_network else theta,
        targets=np.zeros(size, np.float32),
        errors=np.zeros(size, np.float32),
        best=np.zeros(size, np.int64),
        rate=float(c.learning_rate),
        clip=c.max_grad_norm,
        tau=c.tau,
        interval=max(1, c.target_update_interval // n_envs) if c.target_network else 0,
        double=c.double_q,
        dueling=c.dueling,
        huber=c.loss == "huber",
        adaptive=c.optimizer == "adam",
        epsilon=np.array([c.exploration_initial_eps, c.exploration_final_eps, c.exploration_steps], np.float64),
    )


def rate_at(c: DQNConfig, steps: int) -> float:
    """The step size after so many environment steps; it holds for a round."""
    if c.learning_rate_final is None:
        return float(c.learning_rate)
    share = min(1.0, steps / c.learning_rate_steps)
    return float(c.learning_rate + share * (c.learning_rate_final - c.learning_rate))


def dqn_state(a: kernels.Agent) -> dict[str, Array]:
    """The arrays that learning changes."""
    return {"theta": a.theta, "m": a.opt.m, "v": a.opt.v, "t": a.opt.t, "target": a.target}


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
        self.network = q_network(self.env.n_inputs, int(self.env.action_space.n), c)
        self.agent = dqn_agent(self.network, c, self.env.count, self.rng)

    def _iterate(self) -> dict[str, float]:
        self.agent = self.agent._replace(rate=rate_at(self.config, self.steps))
        return super()._iterate()

    @property
    def theta(self) -> Array:
        """Parameters of the Q network."""
        return self.agent.theta

    def _state(self) -> dict[str, Array]:
        return dqn_state(self.agent)

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
        obs, batched = self._flat(observation)
        Q = self._values(normalize(self._normalizer(), obs))
        return Q if batched else Q[0]

    def _values(self, obs: Array) -> Array:
        return q_values(self.network, self.theta, obs, self.config.dueling)

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        greedy = self._values(obs).argmax(axis=1)
        if not deterministic:
            random = rng.random(obs.shape[0]) < self.epsilon
            greedy = np.where(random, rng.integers(self.env.action_space.n, size=obs.shape[0]), greedy)
        return greedy[:, None]
