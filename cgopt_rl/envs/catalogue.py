"""Which environments are compiled."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import unknown
from ..kernels import environments as dynamics
from .tabular import KeyDoor, SixStates

try:
    from gymnasium.envs import classic_control
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('environments and agents need Gymnasium: pip install "cgopt[rl]"') from error


@dataclass(frozen=True)
class CompiledSpec:
    """A compiled environment: its kernels, and the plain class whose dynamics they have."""

    id: str
    class_name: str
    time_limit: int
    dynamics: dynamics.Dynamics
    original: type
    reward_threshold: float | None


COMPILED: dict[str, CompiledSpec] = {
    spec.id: spec
    for spec in (
        CompiledSpec("cgopt/CartPole-v1", "CartPole", 500, dynamics.CARTPOLE, classic_control.CartPoleEnv, 475.0),
        CompiledSpec("cgopt/Pendulum-v1", "Pendulum", 200, dynamics.PENDULUM, classic_control.PendulumEnv, None),
        CompiledSpec("cgopt/Acrobot-v1", "Acrobot", 500, dynamics.ACROBOT, classic_control.AcrobotEnv, -100.0),
        CompiledSpec(
            "cgopt/MountainCar-v0", "MountainCar", 200, dynamics.MOUNTAIN_CAR, classic_control.MountainCarEnv, -110.0
        ),
        CompiledSpec(
            "cgopt/MountainCarContinuous-v0",
            "MountainCarContinuous",
            999,
            dynamics.MOUNTAIN_CAR_CONTINUOUS,
            classic_control.Continuous_MountainCarEnv,
            90.0,
        ),
        CompiledSpec("cgopt/SixStates-v0", "SixStates", 100, dynamics.SIX_STATES, SixStates, None),
        CompiledSpec("cgopt/KeyDoor-v0", "KeyDoor", 80, dynamics.KEY_DOOR, KeyDoor, 1.0),
    )
}


def compiled_spec(id: str) -> CompiledSpec:
    """The spec with this id; says which are near when there is none."""
    if id not in COMPILED:
        raise ValueError(unknown("compiled environment", str(id), COMPILED))
    return COMPILED[id]
