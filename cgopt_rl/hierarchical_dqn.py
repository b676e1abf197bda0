"""Hierarchical Q-learning: a meta-controller chooses goals, a controller learns to reach them.

T. Kulkarni, K. Narasimhan, A. Saeedi and J. Tenenbaum, "Hierarchical deep reinforcement learning: integrating temporal
abstraction and intrinsic motivation", NeurIPS 2016. Until a goal g is reached or the episode ends, the controller acts
by Q1(s, g, a), whose reward is 1 when g is reached and 0 else (equation 1). Then the meta-controller, which chose g in
the state s0 by Q2(s0, g), takes in the reward F that the environment gave meanwhile (equation 2):

    Q1(s, g, a) -> r_intrinsic + gamma max_a' Q1(s', g, a')        0 for what follows at the goal, or a termination
    Q2(s0, g)   -> F + gamma max_g' Q2(s', g')                     0 for what follows at a termination

`HierarchicalQ` keeps both in tables, `HierarchicalDQN` in networks with replay and target networks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checkpoint
from .checks import integer, number
from .dqn import DQNConfig, dqn_agent, dqn_state, q_network, q_values, rate_at
from .kernels import hierarchical as network_kernels
from .kernels import tabular as kernels
from .normalization import normalizer
from .off_policy import DRAWS, OffPolicy
from .q_learning import QLearningConfig, Tabular, exploration
from .replay import ReplayBuffer

Array = npt.NDArray[Any]


def goals_of(env: Any, states: int) -> Array:
    """Which states reach which goal, (goals, states) bool: what the environment says, or every state a goal."""
    kind = getattr(getattr(env, "envs", None), "kind", None)
    source = kind.original if kind is not None else getattr(env.envs[0], "unwrapped", None)
    goals = np.asarray(getattr(source, "goals", np.eye(states)), np.bool_)
    if goals.ndim != 2 or goals.shape[1] != states or not goals.any(axis=1).all():
        raise ValueError(f"the environment's goals must be (goals, {states}) booleans, each goal with a state")
    return np.ascontiguousarray(goals)


class Goals(Tabular):
    """What both forms share: goals that are carried from step to step."""

    reached: Array

    def _build(self) -> None:
        self._n_actions()  # refuses what is not Discrete
        states, n = int(self.env.observation_space.n), self.env.count
        self.reached = goals_of(self.env, states)
        self.pursued, self.origin, self.gain = np.full(n, -1), np.zeros(n, np.int64), np.zeros(n)
        self._acting = np.zeros(0, np.int64)
        super()._build()

    def _start(self, seed: np.random.SeedSequence) -> None:
        self.pursued[:] = -1
        super()._start(seed)

    def start_episodes(self, where: Array) -> None:
        """Forget the goals that `predict` and `act` pursue where episodes start."""
        if self._acting.shape != where.shape:
            self._acting = np.full(where.size, -1)
        self._acting[where] = -1

    def _controller(self, states: Array, goals: Array) -> Array:
        """Q1(s, g, .), (N, actions)."""
        raise NotImplementedError

    def _meta(self, states: Array) -> Array:
        """Q2(s, .), (N, goals)."""
        raise NotImplementedError

    def _epsilons(self) -> tuple[float, float]:
        """Of the controller and of the meta-controller, now."""
        raise NotImplementedError

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        """Goals are kept until they are reached; a batch of another size begins anew."""
        states = obs.argmax(axis=1)
        if self._acting.size != states.size:
            self.start_episodes(np.ones(states.size, np.bool_))
        goal = self._acting
        goal[(goal >= 0) & self.reached[goal, states]] = -1
        free = goal < 0
        epsilon, meta_epsilon = (0.0, 0.0) if deterministic else self._epsilons()
        chosen = _epsilon_greedy(self._meta(states), meta_epsilon, rng)
        goal[free] = chosen[free]
        return _epsilon_greedy(self._controller(states, goal), epsilon, rng)[:, None]


def _epsilon_greedy(Q: Array, epsilon: float, rng: np.random.Generator) -> Array:
    greedy = Q.argmax(axis=1)
    if epsilon > 0.0:
        greedy = np.where(rng.random(greedy.size) < epsilon, rng.integers(Q.shape[1], size=greedy.size), greedy)
    return greedy


@dataclasses.dataclass(frozen=True)
class HierarchicalQConfig(QLearningConfig):
    """Options of hierarchical Q-learning in tables; the defaults are those of the paper's section 4.1."""

    learning_rate: float = 2.5e-4
    """Of the controller."""
    meta_learning_rate: float = 2.5e-4
    """Of the meta-controller."""
    exploration_steps: int = 50_000
    """Steps over which both epsilons fall."""
    meta_final_eps: float = 0.1
    """Probability of a random goal in the end; it starts as the controller's does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number("meta_learning_rate", self.meta_learning_rate, low=0.0, high=1.0, open_low=True)
        number("meta_final_eps", self.meta_final_eps, low=0.0, high=1.0)


class HierarchicalQ(Goals):
    """Hierarchical Q-learning in tables.

    Attributes
    ----------
    Q1 : (goals, states, actions) float64
    Q2 : (states, goals) float64

    Examples
    --------
    >>> from cgopt_rl import HierarchicalQ
    >>> model = HierarchicalQ("cgopt/SixStates-v0", seed=0).learn(50_000)
    >>> model.Q1.shape, model.Q2.shape
    ((6, 6, 2), (6, 6))
    """

    name = "hierarchical_q"
    Config = HierarchicalQConfig
    learner = kernels.HIERARCHICAL_Q

    def _make_agent(self) -> None:
        c, states, actions = self.config, int(self.env.observation_space.n), int(self.env.action_space.n)
        self.Q1 = np.full((self.reached.shape[0], states, actions), float(c.initial_value))
        self.Q2 = np.full((states, self.reached.shape[0]), float(c.initial_value))
        meta = exploration(c)
        meta[1] = c.meta_final_eps
        self.agent = kernels.Hierarchy(
            self.Q1,
            self.Q2,
            self.reached,
            self.pursued,
            self.origin,
            self.gain,
            c.learning_rate,
            c.meta_learning_rate,
            c.gamma,
            exploration(c),
            meta,
        )

    def _state(self) -> dict[str, Array]:
        return {"Q1": self.Q1, "Q2": self.Q2, "goal": self.pursued, "origin": self.origin, "gain": self.gain}

    def _controller(self, states: Array, goals: Array) -> Array:
        return self.Q1[goals, states]

    def _meta(self, states: Array) -> Array:
        return self.Q2[states]

    def _epsilons(self) -> tuple[float, float]:
        c = self.config
        share = min(1.0, self.steps / c.exploration_steps)
        return self.epsilon, c.exploration_initial_eps + share * (c.meta_final_eps - c.exploration_initial_eps)


@dataclasses.dataclass(frozen=True)
class HierarchicalDQNConfig(DQNConfig):
    """Options of hierarchical DQN: those of DQN, for both networks, and the meta-controller's own."""

    meta_learning_starts: int = 100
    """Goals pursued, at random, before the meta-controller's first gradient step."""
    meta_train_freq: int = 4
    """Turns between gradient steps of the meta-controller."""
    meta_buffer_size: int = 50_000
    """Transitions in the meta-controller's replay buffer."""
    meta_initial_eps: float = 1.0
    """Probability of a random goal at the start."""
    meta_final_eps: float = 0.1
    """The same in the end."""
    meta_exploration_steps: int = 50_000
    """Steps over which it falls."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("meta_learning_starts", "meta_train_freq", "meta_buffer_size", "meta_exploration_steps"):
            integer(name, getattr(self, name))
        for name in ("meta_initial_eps", "meta_final_eps"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        if self.normalize_observations or self.normalize_rewards:
            raise ValueError("unit vectors and goals need no normalisation: leave those options out")
        if self.prioritized_replay:
            raise ValueError("prioritized_replay is DQN's alone: leave it out")


class HierarchicalDQN(Goals, OffPolicy):
    """Hierarchical DQN: the controller's network is given the state and the goal, as unit vectors side by side.

    Examples
    --------
    >>> from cgopt_rl import HierarchicalDQN
    >>> model = HierarchicalDQN("cgopt/KeyDoor-v0", net_arch=(16,), learning_starts=500, seed=0).learn(1000)
    >>> model.reached.shape, len(model.replay)
    ((3, 330), 1000)
    """

    name = "hierarchical_dqn"
    Config = HierarchicalDQNConfig
    learner = network_kernels.HIERARCHICAL_DQN

    def _make_replay(self) -> ReplayBuffer:
        c = self.config
        return ReplayBuffer(
            c.buffer_size,
            self.env.n_inputs + self.reached.shape[0],
            discrete=True,
            n_envs=self.env.count,
            n_steps=c.n_steps,
            gamma=c.gamma,
            memory_limit=c.buffer_memory,
            seed=self._seed(DRAWS),
        )

    def _make_agent(self) -> None:
        c, n, d, (goals, _) = self.config, self.env.count, self.env.n_inputs, self.reached.shape
        self.controller = q_network(d + goals, int(self.env.action_space.n), c)
        self.meta = q_network(d, goals, c)
        self.meta_replay = ReplayBuffer(
            c.meta_buffer_size, d, discrete=True, n_envs=n, gamma=c.gamma, seed=self._seed(DRAWS, 1)
        )
        self.chosen, self.origins = np.zeros((n, 1), np.int32), np.zeros((n, d), np.float32)
        self.joint = np.zeros((n, d + goals), np.float32)
        meta_loop = self.loop._replace(counts=self.loop.counts.copy(), totals=self.loop.totals.copy())
        self.agent = network_kernels.Agent(
            controller=dqn_agent(self.controller, c, n, self.rng),
            meta=dqn_agent(self.meta, c, n, self.rng),
            meta_replay=self.meta_replay.columns,
            meta_batch=self.meta_replay.batch(c.batch_size),
            meta_loop=meta_loop,
            plain=normalizer(None, d + goals, np.inf),
            joint=self.joint,
            joint_next=np.zeros((n, d + goals), np.float32),
            origins=self.origins,
            chosen=self.chosen,
            goal=self.pursued,
            gain=self.gain,
            reached=self.reached,
            meta_epsilon=np.array([c.meta_initial_eps, c.meta_final_eps, c.meta_exploration_steps], np.float64),
            meta_starts=c.meta_learning_starts,
            meta_every=c.meta_train_freq,
        )

    def _iterate(self) -> dict[str, float]:
        rate, a = rate_at(self.config, self.steps), self.agent
        self.agent = a._replace(controller=a.controller._replace(rate=rate), meta=a.meta._replace(rate=rate))
        return super()._iterate()

    def _state(self) -> dict[str, Array]:
        a = self.agent
        both = {f"controller_{k}": v for k, v in dqn_state(a.controller).items()}
        both |= {f"meta_{k}": v for k, v in dqn_state(a.meta).items()}
        both |= {"meta_counts": a.meta_loop.counts, "meta_totals": a.meta_loop.totals}
        return both | {
            "goal": self.pursued, "gain": self.gain, "origins": self.origins, "chosen": self.chosen, "joint": self.joint
        }  # fmt: skip

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return super()._arrays() | {"meta_replay": self.meta_replay.arrays()}

    def _restore(self, arrays: dict[str, Array]) -> None:
        super()._restore(arrays)
        self.meta_replay.restore(checkpoint.group(arrays, "meta_replay"))

    def _controller(self, states: Array, goals: Array) -> Array:
        d = self.env.n_inputs
        joint = np.zeros((states.size, self.joint.shape[1]), np.float32)
        joint[np.arange(states.size), states] = 1.0
        joint[np.arange(states.size), d + goals] = 1.0
        return q_values(self.controller, self.agent.controller.theta, joint, self.config.dueling)

    def _meta(self, states: Array) -> Array:
        obs = np.zeros((states.size, self.env.n_inputs), np.float32)
        obs[np.arange(states.size), states] = 1.0
        return q_values(self.meta, self.agent.meta.theta, obs, self.config.dueling)

    def _epsilons(self) -> tuple[float, float]:
        c = self.config
        share = min(1.0, self.steps / c.meta_exploration_steps)
        return self.epsilon, c.meta_initial_eps + share * (c.meta_final_eps - c.meta_initial_eps)
