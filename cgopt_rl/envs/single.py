"""The compiled environments one at a time, as Gymnasium environments: its classes, with our step.

Spaces, start (the same seed gives the same first state as Gymnasium's), rendering and video are inherited.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs import classic_control

from ..kernels import environments as kernels
from .tabular import KeyDoor, SixStates

__all__ = ["Acrobot", "CartPole", "KeyDoor", "MountainCar", "MountainCarContinuous", "Pendulum", "SixStates"]


@functools.cache
def _step_one(dynamics: kernels.Dynamics) -> Any:
    serial, _ = dynamics.compile(kernels.step_one)
    return serial


class _Compiled:
    """Puts a compiled step before the one of a Gymnasium class."""

    dynamics: ClassVar[kernels.Dynamics]
    state: Any

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)  # type: ignore[misc]
        self._fresh = 1.0
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):  # type: ignore[attr-defined]
            raise ValueError(f"action must be one of {self.action_space}, got {action!r}")  # type: ignore[attr-defined]
        if self.state is None:
            raise ValueError("call reset before the first step")
        columns = len(self.state)
        row = np.zeros((1, self.dynamics.columns))
        row[0, :columns] = self.state
        if columns < self.dynamics.columns:
            row[0, columns] = self._fresh
        obs = np.empty((1, *self.observation_space.shape), np.float32)  # type: ignore[attr-defined]
        force = np.asarray(action).reshape(-1)[0]
        reward, terminated = _step_one(self.dynamics)(row, force, obs)
        self.state = row[0, :columns]
        self.last_u = force  # what the pendulum's picture shows
        self._fresh = 0.0
        if self.render_mode == "human":  # type: ignore[attr-defined]
            self.render()  # type: ignore[attr-defined]
        return obs[0], reward, terminated, False, {}


class CartPole(_Compiled, classic_control.CartPoleEnv):  # type: ignore[misc]
    """``cgopt/CartPole-v1``."""

    dynamics = kernels.CARTPOLE


class Pendulum(_Compiled, classic_control.PendulumEnv):  # type: ignore[misc]
    """``cgopt/Pendulum-v1``."""

    dynamics = kernels.PENDULUM


class Acrobot(_Compiled, classic_control.AcrobotEnv):  # type: ignore[misc]
    """``cgopt/Acrobot-v1``."""

    dynamics = kernels.ACROBOT


class MountainCar(_Compiled, classic_control.MountainCarEnv):  # type: ignore[misc]
    """``cgopt/MountainCar-v0``."""

    dynamics = kernels.MOUNTAIN_CAR


class MountainCarContinuous(_Compiled, classic_control.Continuous_MountainCarEnv):  # type: ignore[misc]
    """``cgopt/MountainCarContinuous-v0``."""

    dynamics = kernels.MOUNTAIN_CAR_CONTINUOUS
