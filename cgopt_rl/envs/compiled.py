"""A batch of compiled environments as a Gymnasium vector environment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cgopt.kernels import cpu
from cgopt.kernels.layouts import Work

from ..checks import integer
from ..kernels import environments as kernels
from ..kernels.random import streams
from .catalogue import CompiledSpec, compiled_spec

Array = npt.NDArray[Any]
WORTH_THREADS = 256  # environments from which a step is worth starting threads for


@functools.cache
def _loops(dynamics: kernels.Dynamics) -> tuple[Any, Any]:
    return dynamics.compile(kernels.reset_many), dynamics.compile(kernels.step_many)


class CompiledEnvs(VectorEnv):  # type: ignore[misc]
    """Many environments of one kind, stepped by compiled code.

    An episode that ends is followed by a new one in the same step (Gymnasium's ``AutoresetMode.SAME_STEP``): the
    observation is the new one's first, and ``infos["final_obs"]`` holds the last of the old one.

    Parameters
    ----------
    id : str
        A key of `cgopt_rl.envs.COMPILED`.
    num_envs : int, default 1
    max_episode_steps : int, optional
        Steps after which an episode is truncated; Gymnasium's limit by default.

    Raises
    ------
    ValueError
        If there is no such compiled environment; names the nearest.

    Examples
    --------
    >>> import numpy as np
    >>> from cgopt_rl.envs import CompiledEnvs
    >>> envs = CompiledEnvs("cgopt/CartPole-v1", num_envs=3)
    >>> obs, _ = envs.reset(seed=0)
    >>> obs, reward, terminated, truncated, infos = envs.step(np.array([0, 1, 1]))
    >>> obs.shape, obs.dtype, reward
    ((3, 4), dtype('float32'), array([1., 1., 1.]))
    """

    def __init__(self, id: str, num_envs: int = 1, *, max_episode_steps: int | None = None) -> None:
        spec = compiled_spec(id)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.kind: CompiledSpec = spec
        self.num_envs = n = integer("num_envs", num_envs)
        limit = spec.time_limit if max_episode_steps is None else max_episode_steps
        self.max_episode_steps = integer("max_episode_steps", limit)
        original = spec.original()
        self.single_observation_space = original.observation_space
        self.single_action_space = original.action_space
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self.discrete = isinstance(self.single_action_space, gymnasium.spaces.Discrete)
        columns = spec.dynamics.columns
        # All that there is to know of the environments; loops change these in place.
        self.state = np.zeros((n, columns))
        self.elapsed = np.zeros(n, np.int64)
        self.streams = np.zeros(n, np.uint64)
        self._seeded = self._started = False
        space = self.single_observation_space
        self.tabular = isinstance(space, gymnasium.spaces.Discrete)  # its observations are unit vectors inside
        d = int(space.n) if self.tabular else space.shape[0]
        self.obs, self._final = np.zeros((n, d), np.float32), np.zeros((n, d), np.float32)
        self._rewards = np.zeros(n)
        self._terminated, self._truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self._work = Work(np.zeros(2, np.int64), np.zeros((cpu.get_num_threads() if n >= WORTH_THREADS else 1, 1)))

    def reset(
        self, *, seed: int | Sequence[int] | np.random.SeedSequence | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start new episodes.

        Parameters
        ----------
        seed : int, sequence of int (one for each environment) or SeedSequence, optional
            Without it, the streams of random numbers go on (and start from the system's entropy).
        options : dict, optional
            ``reset_mask``, a boolean array: which environments to reset.
        """
        where = np.ones(self.num_envs, np.bool_)
        if options:
            wrong = set(options) - {"reset_mask"}
            if wrong:
                raise ValueError(f"options knows reset_mask only, got {sorted(wrong)}")
            where = np.asarray(options["reset_mask"], np.bool_)
        if isinstance(seed, (int, np.integer)) or (seed is None and not self._seeded):
            seed = np.random.SeedSequence(None if seed is None else int(seed))
        if isinstance(seed, np.random.SeedSequence):
            self.streams[where] = streams(seed, self.num_envs)[where]
        elif seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(
                    f"seed must have one entry for each of the {self.num_envs} environments, got {len(seed)}"
                )
            each = [streams(np.random.SeedSequence(int(entry)), 1)[0] for entry in seed]
            self.streams[where] = np.array(each, np.uint64)[where]
        self._seeded = self._started = True
        reset, _ = _loops(self.kind.dynamics)
        cpu.run(reset, self._work, self.state, self.elapsed, self.streams, where, self.obs)
        return self._shown(self.obs), {}

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of each environment.

        Parameters
        ----------
        actions : array, shape (num_envs,) of whole numbers, or (num_envs, 1) where actions are continuous

        Returns
        -------
        observations : (num_envs, d) float32
        rewards : (num_envs,) float64
        terminated, truncated : (num_envs,) bool
        infos : dict
            Where episodes ended: ``final_obs``, an object array of observations, and ``_final_obs``, a mask.
        """
        obs, rewards, terminated, truncated, final = self.advance(actions)
        infos: dict[str, Any] = {}
        ended = terminated | truncated
        if ended.any():
            last = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                last[i] = self._shown(final[i])
            infos = {"final_obs": last, "_final_obs": ended}
        return self._shown(obs), rewards.copy(), terminated.copy(), truncated.copy(), infos

    def _shown(self, obs: Array) -> Any:
        """Observations as the space has them, in arrays of their own."""
        return obs.argmax(axis=-1) if self.tabular else obs.copy()

    def advance(self, actions: Any) -> tuple[Array, Array, Array, Array, Array]:
        """As `step`, but in arrays that the next step overwrites, without copies.

        Observations, rewards, terminated, truncated, and for each environment the observation before any reset.
        """
        if not self._started:
            raise ValueError("call reset before the first step")
        _, step = _loops(self.kind.dynamics)
        cpu.run(
            step,
            self._work,
            self.state,
            self.elapsed,
            self.streams,
            self.max_episode_steps,
            self._checked(actions),
            self.obs,
            self._final,
            self._rewards,
            self._terminated,
            self._truncated,
        )
        return self.obs, self._rewards, self._terminated, self._truncated, self._final

    def _checked(self, actions: Any) -> Array:
        """Actions as the kernels take them; a whole number out of range would read no force that exists."""
        n = self.num_envs
        if self.discrete:
            actions = np.asarray(actions)
            if actions.shape != (n,) or actions.dtype.kind not in "iu":
                raise ValueError(f"actions must be {n} whole numbers, got shape {actions.shape} of {actions.dtype}")
            if actions.min() < 0 or actions.max() >= self.single_action_space.n:
                raise ValueError(f"actions must be from 0 to {self.single_action_space.n - 1}, got {actions}")
            return actions.astype(np.int64, copy=False)
        actions = np.asarray(actions, np.float32)
        if actions.shape != (n, 1) or not np.isfinite(actions).all():
            raise ValueError(f"actions must be ({n}, 1) finite numbers, got shape {actions.shape}")
        return actions[:, 0]

    def get_state(self) -> dict[str, Array]:
        """Everything needed to go on from here bit for bit, as arrays of its own."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def _arrays(self) -> dict[str, Array]:
        return {"state": self.state, "elapsed": self.elapsed, "streams": self.streams, "obs": self.obs}

    def set_state(self, saved: dict[str, Array]) -> Array:
        """Go on from what `get_state` returned; returns the observations there."""
        for name, array in self._arrays().items():
            if name not in saved or saved[name].shape != array.shape:
                raise ValueError(
                    f"saved[{name!r}] must have shape {array.shape}; it is of another environment or count"
                )
            array[...] = saved[name]
        self._seeded = self._started = True
        return self.obs.copy()

    def __repr__(self) -> str:
        return f"CompiledEnvs({self.kind.id!r}, num_envs={self.num_envs}, max_episode_steps={self.max_episode_steps})"
