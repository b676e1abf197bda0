"""The state of a MuJoCo environment, copied and put back, for branches that start where another environment stands.

All of the simulator's data is copied (`mjData`: positions, velocities, warm starts, and what was computed from them and
is read before the next step), with the counter of the time limit and the generator that resets draw from. It is for
copies in memory: what a file would have to hold is more than the state of the physics.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import gymnasium
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

STATELESS = (OrderEnforcing, PassiveEnvChecker)  # beyond "reset was called", which both sides know


class Snapshot(NamedTuple):
    """What one environment's future depends on."""

    data: Any
    elapsed: int
    generator: dict[str, Any]


def objection(env: Any) -> str | None:
    """Why an environment's state cannot be copied, or None if it can."""
    while isinstance(env, gymnasium.Wrapper):
        if not isinstance(env, (TimeLimit, *STATELESS)):
            return f"the wrapper {type(env).__name__} may keep a state of its own"
        env = env.env
    try:
        from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
    except (ImportError, gymnasium.error.DependencyNotInstalled):
        return "it is not MuJoCo's"
    return None if isinstance(env, MujocoEnv) else "it is not MuJoCo's"


def snapshot(env: Any) -> Snapshot:
    """A copy of an environment's state."""
    inner = env.unwrapped
    return Snapshot(copy.copy(inner.data), _time_limit(env)._elapsed_steps, inner.np_random.bit_generator.state)


def restore(env: Any, saved: Snapshot) -> None:
    """Put an environment of the same kind, reset before, where the saved one stood."""
    import mujoco

    inner = env.unwrapped
    mujoco.mj_copyData(inner.data, inner.model, saved.data)
    _time_limit(env)._elapsed_steps = saved.elapsed
    inner.np_random.bit_generator.state = saved.generator


def _time_limit(env: Any) -> Any:
    """The wrapper that counts steps; a counter of nobody's where there is none."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return _NoLimit()


class _NoLimit:
    _elapsed_steps = 0
