"""Q-learning in a table: what the deep forms are measured by.

C. Watkins and P. Dayan, "Q-learning", Machine Learning 8, 1992: after each step,

    Q(s, a) += alpha (r + gamma max_a' Q(s', a') - Q(s, a)),

where nothing follows a termination.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .checks import integer, number
from .kernels import tabular as kernels
from .off_policy import Stepwise, StepwiseConfig

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class QLearningConfig(StepwiseConfig):
    """Options of Q-learning."""

    learning_rate: float = 0.1
    """Alpha: the share of its error that an entry takes on."""
    exploration_initial_eps: float = 1.0
    """Probability of a random action at the start."""
    exploration_final_eps: float = 0.1
    """The same in the end."""
    exploration_steps: int = 10_000
    """Steps over which it falls."""
    initial_value: float = 0.0
    """Of all entries; one that no return exceeds makes every action be tried."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number("learning_rate", self.learning_rate, low=0.0, high=1.0, open_low=True)
        integer("exploration_steps", self.exploration_steps)
        for name in ("exploration_initial_eps", "exploration_final_eps"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        number("initial_value", self.initial_value)
        if self.normalize_observations or self.normalize_rewards:
            raise ValueError("tables need no normalised observations or rewards: leave those options out")


def exploration(config: Any) -> Array:
    """Epsilon's schedule as compiled functions take it."""
    return np.array(
        [config.exploration_initial_eps, config.exploration_final_eps, config.exploration_steps], np.float64
    )


class Tabular(Stepwise):
    """An algorithm with tables, for environments whose observations and actions are Discrete."""

    discrete = True

    def _n_actions(self) -> int:
        env = self.env
        for kind, space in (("observations", env.observation_space), ("actions", env.action_space)):
            if not isinstance(space, spaces.Discrete):
                raise TypeError(f"{self.name} needs Discrete {kind}, and those of {env.id} are {space}")
        return 1

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        initial, final, steps = exploration(self.config)
        return float(initial + min(1.0, self.steps / steps) * (final - initial))


class QLearning(Tabular):
    """Q-learning in a table.

    Attributes
    ----------
    Q : (states, actions) float64

    Examples
    --------
    >>> from cgopt_rl import QLearning
    >>> model = QLearning("cgopt/SixStates-v0", seed=0).learn(20_000)
    >>> model.Q.shape, model.steps
    ((6, 2), 20000)
    """

    name = "q_learning"
    Config = QLearningConfig
    learner = kernels.Q_LEARNING

    def _make_agent(self) -> None:
        c, states, actions = self.config, int(self.env.observation_space.n), int(self.env.action_space.n)
        self.Q = np.full((states, actions), float(c.initial_value))
        self.agent = kernels.Flat(self.Q, c.learning_rate, c.gamma, exploration(c))

    def _state(self) -> dict[str, Array]:
        return {"Q": self.Q}

    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        greedy = self.Q[obs.argmax(axis=1)].argmax(axis=1)
        if not deterministic:
            random = rng.random(obs.shape[0]) < self.epsilon
            greedy = np.where(random, rng.integers(self.Q.shape[1], size=obs.shape[0]), greedy)
        return greedy[:, None]
