"""One interface for agents: a batch of environments with flat float32 observations, and final observations kept.

Three kinds stand behind it: compiled batches, Gymnasium environments stepped one after the other, and Gymnasium's
vector environments in any of their three modes of resetting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from ..checks import integer, unknown
from .catalogue import COMPILED
from .compiled import CompiledEnvs
from .snapshots import objection, restore, snapshot

Array = npt.NDArray[Any]


class Step(NamedTuple):
    """What one step of every environment gave.

    Attributes
    ----------
    obs : (n, d) float32
        What to act on next: where an episode ended, the first observation of the next one.
    rewards : (n,) float64
    terminated, truncated : (n,) bool
    final : (n, d) float32
        The observation that the action led to, before any reset: what to bootstrap from.
    valid : (n,) bool
        False where the environment used the step to reset and ignored the action (Gymnasium's ``NEXT_STEP``).
    """

    obs: Array
    rewards: Array
    terminated: Array
    truncated: Array
    final: Array
    valid: Array


class Environments(ABC):
    """A batch of environments as agents see it.

    Attributes
    ----------
    id : str
    count : int
    observation_space, action_space : gymnasium.spaces.Space
        Of one environment.
    n_inputs : int
        Length d of a flat observation; a Discrete one is a unit vector.
    """

    def __init__(self, id: str, count: int, observation_space: Any, action_space: Any) -> None:
        self.id, self.count = id, count
        self.observation_space, self.action_space = observation_space, action_space
        self.n_inputs = flat_size(observation_space)
        check_action_space(action_space)

    @abstractmethod
    def reset(self, seed: np.random.SeedSequence) -> Array:
        """Start new episodes everywhere; returns observations (n, d)."""

    @abstractmethod
    def step(self, actions: Array) -> Step:
        """One step everywhere. Actions are (n,) or (n, m) whole numbers from 0, or (n, m) floats, not yet clipped.

        The arrays of the result may be overwritten by the next step.
        """

    def get_state(self) -> dict[str, Array] | None:
        """All that is needed to go on bit for bit, or None where the environments cannot tell it."""
        return None

    def set_state(self, saved: dict[str, Array]) -> Array:
        """Go on from what `get_state` returned; returns the observations there."""
        raise NotImplementedError(f"the state of {self.id} cannot be restored")

    def branch_from(self) -> dict[str, Array]:
        """Where each environment stands, row by row, for `branch_at` of such a batch in the same process."""
        raise ValueError(f"the state of {self.id} cannot be copied: {self.no_branches()}")

    def branch_at(self, rows: dict[str, Array]) -> Array:
        """Put each environment where a row of `branch_from` says; returns the observations there."""
        raise ValueError(f"the state of {self.id} cannot be copied: {self.no_branches()}")

    def no_branches(self) -> str | None:
        """Why environments cannot be put where others stand; None if they can."""
        return f"it is stepped by {type(self).__name__}"

    def copies(self, count: int) -> Environments:
        """So many new environments of the same kind."""
        raise NotImplementedError(f"{self.id} cannot be made again")

    def close(self) -> None:  # noqa: B027
        """Release what the environments hold."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, count={self.count})"


class CompiledBatch(Environments):
    """Compiled environments; `envs` is what compiled rollouts work on."""

    def __init__(self, envs: CompiledEnvs) -> None:
        super().__init__(envs.kind.id, envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.envs = envs
        self._valid = np.ones(self.count, np.bool_)

    def reset(self, seed: np.random.SeedSequence) -> Array:
        self.envs.reset(seed=seed)
        return self.envs.obs.copy()

    def step(self, actions: Array) -> Step:
        return Step(*self.envs.advance(actions), self._valid)

    def get_state(self) -> dict[str, Array]:
        return self.envs.get_state()

    def set_state(self, saved: dict[str, Array]) -> Array:
        return self.envs.set_state(saved)

    def branch_from(self) -> dict[str, Array]:
        return self.envs.get_state()

    def branch_at(self, rows: dict[str, Array]) -> Array:
        return self.envs.set_state(rows)

    def no_branches(self) -> str | None:
        return None

    def copies(self, count: int) -> Environments:
        made = CompiledEnvs(self.id, count, max_episode_steps=self.envs.max_episode_steps)
        made.reset(seed=0)
        return CompiledBatch(made)


class GymnasiumBatch(Environments):
    """Gymnasium environments stepped one after the other, each reset as soon as its episode ends."""

    def __init__(self, id: str, envs: list[Any]) -> None:
        super().__init__(id, len(envs), envs[0].observation_space, envs[0].action_space)
        self.envs = envs
        n, d = self.count, self.n_inputs
        self._obs, self._final = np.zeros((n, d), np.float32), np.zeros((n, d), np.float32)
        self._rewards = np.zeros(n)
        self._terminated, self._truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self._valid = np.ones(n, np.bool_)
        self._flatten = flattener(self.observation_space)
        self._act = actor(self.action_space)

    def reset(self, seed: np.random.SeedSequence) -> Array:
        for i, (env, word) in enumerate(zip(self.envs, seed.generate_state(self.count), strict=True)):
            self._flatten(env.reset(seed=int(word))[0], self._obs, i)
        return self._obs.copy()

    def step(self, actions: Array) -> Step:
        obs, final, flatten, act = self._obs, self._final, self._flatten, self._act
        for i, env in enumerate(self.envs):
            observation, self._rewards[i], terminated, truncated, _ = env.step(act(actions[i]))
            self._terminated[i], self._truncated[i] = terminated, truncated
            flatten(observation, final, i)
            if terminated or truncated:
                flatten(env.reset()[0], obs, i)
            else:
                obs[i] = final[i]
        return Step(obs, self._rewards, self._terminated, self._truncated, final, self._valid)

    def branch_from(self) -> dict[str, Array]:
        taken = np.empty(self.count, object)
        taken[:] = [snapshot(env) for env in self.envs]
        return {"snapshots": taken, "obs": self._obs.copy()}

    def branch_at(self, rows: dict[str, Array]) -> Array:
        for env, saved in zip(self.envs, rows["snapshots"], strict=True):
            restore(env, saved)
        self._obs[...] = rows["obs"]
        return self._obs.copy()

    def no_branches(self) -> str | None:
        return next((reason for env in self.envs if (reason := objection(env))), None)

    def copies(self, count: int) -> Environments:
        spec = self.envs[0].spec
        if spec is None:
            raise ValueError(f"{self.id} is not registered with Gymnasium, so that it cannot be made again")
        made = GymnasiumBatch(self.id, [gymnasium.make(spec, disable_env_checker=True) for _ in range(count)])
        made.reset(np.random.SeedSequence(0))
        return made

    def close(self) -> None:
        for env in self.envs:
            env.close()


class VectorBatch(Environments):
    """A Gymnasium vector environment, in whichever mode it resets."""

    def __init__(self, envs: Any) -> None:
        spec = getattr(envs, "spec", None)
        id = type(envs).__name__ if spec is None else spec.id
        super().__init__(id, envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.envs = envs
        self.mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._flatten = flattener(self.observation_space)
        self._act = actor(self.action_space)
        self._ended = np.zeros(self.count, np.bool_)

    def reset(self, seed: np.random.SeedSequence) -> Array:
        self._ended[:] = False
        obs, _ = self.envs.reset(seed=int(seed.generate_state(1)[0]))
        return self._flat(obs)

    def step(self, actions: Array) -> Step:
        acted = np.stack([np.asarray(self._act(action)) for action in actions])
        observations, rewards, terminated, truncated, infos = self.envs.step(acted)
        obs = self._flat(observations)
        ended = np.asarray(terminated | truncated, np.bool_)
        final, valid = obs.copy(), np.ones(self.count, np.bool_)
        if self.mode is AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(ended):
                self._flatten(infos["final_obs"][i], final, int(i))
        elif self.mode is AutoresetMode.NEXT_STEP:
            valid = ~self._ended  # those that ended before have reset now, and the action went nowhere
            self._ended = ended
        elif ended.any():
            obs = self._flat(self.envs.reset(options={"reset_mask": ended})[0])
        return Step(obs, np.asarray(rewards, np.float64), terminated, truncated, final, valid)

    def _flat(self, observations: Any) -> Array:
        obs = np.empty((self.count, self.n_inputs), np.float32)
        for i, observation in enumerate(observations):
            self._flatten(observation, obs, i)
        return obs

    def close(self) -> None:
        self.envs.close()


def environments(env: Any, count: int | None = None) -> Environments:
    """A batch of environments from whatever a user has.

    Parameters
    ----------
    env : str, gymnasium.Env, gymnasium.vector.VectorEnv, or callable
        An id (``"CartPole-v1"`` is Gymnasium's, ``"cgopt/CartPole-v1"`` the compiled one), one environment, a vector of
        them, or a function that makes one.
    count : int, optional
        How many, for an id or a function: 1 by default. An environment is one; a vector has its own number.

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If there is no such id (the nearest are named), or the count does not fit.
    TypeError
        If `env` is none of these, or its spaces are not supported.
    """
    if isinstance(env, Environments):
        return env
    if isinstance(env, str):
        n = integer("count", 1 if count is None else count)
        if env in COMPILED:
            return CompiledBatch(CompiledEnvs(env, n))
        return GymnasiumBatch(env, [make(env) for _ in range(n)])
    if isinstance(env, VectorEnv):
        if count not in (None, env.num_envs):
            raise ValueError(f"the vector environment has {env.num_envs} environments, and {count} were asked for")
        return CompiledBatch(env) if isinstance(env, CompiledEnvs) else VectorBatch(env)
    if isinstance(env, gymnasium.Env):
        if count not in (None, 1):
            raise ValueError(f"one environment was given, and {count} were asked for; give its id or a function")
        return GymnasiumBatch(_name(env), [env])
    if isinstance(env, Callable):  # type: ignore[arg-type]
        made = [env() for _ in range(integer("count", 1 if count is None else count))]
        if not all(isinstance(one, gymnasium.Env) for one in made):
            raise TypeError(f"the function given for env must return a gymnasium.Env, not {type(made[0]).__name__}")
        return GymnasiumBatch(_name(made[0]), made)
    raise TypeError(
        "env must be an id, a gymnasium.Env, a gymnasium.vector.VectorEnv or a function that makes an environment, got "
        f"{type(env).__name__}"
    )


def _name(env: Any) -> str:
    return type(env.unwrapped).__name__ if env.spec is None else str(env.spec.id)


def make(id: str, **options: Any) -> Any:
    """An environment by id; the checker of Gymnasium, which costs time in each step, is for those who write one."""
    try:
        return gymnasium.make(id, disable_env_checker=True, **options)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        known = sorted(gymnasium.registry)
        raise ValueError(f"{unknown('environment', id, known) if id not in known else str(error)}") from error
    except gymnasium.error.DependencyNotInstalled as error:
        raise ModuleNotFoundError(f"{id} needs a package that is not installed: {error}") from error
    except ImportError as error:  # an id of Gymnasium's whose environment has moved away
        raise ValueError(f"there is no environment {id!r} here: {error}") from error


# --- spaces ---------------------------------------------------------------------------------------


def flat_size(space: Any) -> int:
    """Length of a flat observation.

    Raises
    ------
    TypeError
        If the space is neither Box nor Discrete.
    """
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape, dtype=np.int64))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise TypeError(
        f"observations must be Box or Discrete, got {space}; gymnasium.wrappers.FlattenObservation makes a Box"
    )


def check_action_space(space: Any) -> None:
    """Refuse actions other than Box, Discrete and MultiDiscrete, and those without a choice."""
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)):
        raise TypeError(f"actions must be Box, Discrete or MultiDiscrete, got {space}")
    if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        raise TypeError(f"a Box of actions must hold floats, got {space.dtype}")
    alternatives = getattr(space, "nvec", getattr(space, "n", 2))
    if not np.prod(space.shape) or np.max(alternatives) < 2:
        raise ValueError(f"there is nothing to choose among the actions of {space}")


def flattener(space: Any) -> Callable[[Any, Array, int], None]:
    """A function that writes an observation to a row of a float32 array."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)

        def unit(observation: Any, out: Array, i: int) -> None:
            out[i] = 0.0
            out[i, int(observation) - start] = 1.0

        return unit
    if len(space.shape) == 1:

        def copy(observation: Any, out: Array, i: int) -> None:
            out[i] = observation

        return copy

    def flatten(observation: Any, out: Array, i: int) -> None:
        out[i] = np.ravel(observation)

    return flatten


def actor(space: Any) -> Callable[[Any], Any]:
    """A function from one action as agents give it to one as the environment takes it; floats are clipped here."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda action: int(action) + start
    if isinstance(space, spaces.MultiDiscrete):
        starts, shape = np.ravel(space.start), space.shape
        return lambda action: (action + starts).reshape(shape).astype(space.dtype)
    low, high, shape, dtype = space.low.ravel(), space.high.ravel(), space.shape, space.dtype
    return lambda action: np.minimum(np.maximum(action, low), high).reshape(shape).astype(dtype, copy=False)
