"""Environments: classic control in compiled batches, and any Gymnasium environment, through one interface.

Importing this registers ``cgopt/CartPole-v1``, ``cgopt/Pendulum-v1``, ``cgopt/Acrobot-v1``, ``cgopt/MountainCar-v0``
and ``cgopt/MountainCarContinuous-v0`` with Gymnasium. They have the dynamics of Gymnasium's own environments of those
names; agents train on them many times faster, because whole rollouts run compiled. So do two small worlds with a finite
number of states, ``cgopt/SixStates-v0`` and ``cgopt/KeyDoor-v0``, which Gymnasium has not.
"""

from __future__ import annotations

from .catalogue import COMPILED
from .compiled import CompiledEnvs
from .interface import Environments, environments

__all__ = ["COMPILED", "CompiledEnvs", "Environments", "environments"]


def _register() -> None:
    import functools

    import gymnasium

    for spec in COMPILED.values():
        if spec.id not in gymnasium.registry:
            gymnasium.register(
                id=spec.id,
                entry_point=f"cgopt_rl.envs.single:{spec.class_name}",
                vector_entry_point=functools.partial(CompiledEnvs, spec.id),
                max_episode_steps=spec.time_limit,
                reward_threshold=spec.reward_threshold,
            )


_register()
