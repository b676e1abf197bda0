"""cgopt_rl: reinforcement learning on top of `cgopt`.

Importing it compiles nothing and needs none of the extras; what is named here is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ActorCritic": "actor_critic",
    "ActorCriticConfig": "actor_critic",
    "DDPG": "ddpg",
    "DDPGConfig": "ddpg",
    "DQN": "dqn",
    "DQNConfig": "dqn",
    "HierarchicalDQN": "hierarchical_dqn",
    "HierarchicalDQNConfig": "hierarchical_dqn",
    "HierarchicalQ": "hierarchical_dqn",
    "HierarchicalQConfig": "hierarchical_dqn",
    "NaturalPolicyGradient": "trpo",
    "QLearning": "q_learning",
    "QLearningConfig": "q_learning",
    "ReplayBuffer": "replay",
    "Reinforce": "trpo",
    "ReinforceConfig": "trpo",
    "TD3": "ddpg",
    "TD3Config": "ddpg",
    "TRPO": "trpo",
    "TRPOConfig": "trpo",
    "VineConfig": "vine",
    "VineTRPO": "vine",
    "confidence_interval": "evaluation",
    "evaluate": "evaluation",
    "interquartile_mean": "evaluation",
}
_ROOMS = ("bandits", "callbacks", "envs")

__all__ = [  # noqa: RUF022
    "ActorCritic",
    "ActorCriticConfig",
    "DDPG",
    "DDPGConfig",
    "DQN",
    "DQNConfig",
    "HierarchicalDQN",
    "HierarchicalDQNConfig",
    "HierarchicalQ",
    "HierarchicalQConfig",
    "NaturalPolicyGradient",
    "QLearning",
    "QLearningConfig",
    "Reinforce",
    "ReinforceConfig",
    "ReplayBuffer",
    "TD3",
    "TD3Config",
    "TRPO",
    "TRPOConfig",
    "VineConfig",
    "VineTRPO",
    "bandits",
    "callbacks",
    "confidence_interval",
    "envs",
    "evaluate",
    "interquartile_mean",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'cgopt_rl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
