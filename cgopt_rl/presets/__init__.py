"""Hyper-parameters for each environment, in files: ``trpo.toml`` has a table for each environment id."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Any


@functools.cache
def _tables(algorithm: str) -> dict[str, dict[str, Any]]:
    file = resources.files(__package__).joinpath(f"{algorithm}.toml")
    return tomllib.loads(file.read_text()) if file.is_file() else {}


def preset(algorithm: str, env: str) -> dict[str, Any]:
    """Options that suit an environment; empty if there is no preset for it.

    Parameters
    ----------
    algorithm : str
        "trpo", ...
    env : str
        An environment id; the compiled ``cgopt/CartPole-v1`` has the preset of ``CartPole-v1``.

    Returns
    -------
    dict
        To be given to the algorithm: ``TRPO(env, **preset("trpo", env))``.

    Examples
    --------
    >>> from cgopt_rl.presets import preset
    >>> preset("trpo", "cgopt/CartPole-v1")["n_envs"]
    8
    """
    options = dict(_tables(algorithm).get(env.removeprefix("cgopt/"), {}))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def presets(algorithm: str) -> list[str]:
    """The environments that there are presets for."""
    return sorted(_tables(algorithm))
