"""An episode as an animated picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def animate(model: Any, path: str | Path, *, seed: int = 0, most_steps: int = 1000) -> tuple[int, float]:
    """Play one episode with a model's most probable actions, and write what is seen as a GIF.

    Parameters
    ----------
    model : Algorithm
        Of an environment that Gymnasium can make and that has pictures.
    path : path
        Ends in .gif.
    seed : int, default 0
        Of the environment.
    most_steps : int, default 1000
        The episode is left after so many.

    Returns
    -------
    frames : int
    returned : float
        The return.

    Raises
    ------
    ValueError
        If the environment has no pictures.
    """
    import gymnasium
    from matplotlib.animation import ArtistAnimation, PillowWriter
    from matplotlib.figure import Figure

    kind = gymnasium.spec(model.env.id)
    env = gymnasium.make(kind, disable_env_checker=True)
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise ValueError(f"{model.env.id} has no picture to animate (no render_mode 'rgb_array')")
    env = gymnasium.make(kind, render_mode="rgb_array", disable_env_checker=True)
    observation, _ = env.reset(seed=seed)
    model.start_episodes(np.ones(1, np.bool_))
    pictures, returned = [env.render()], 0.0
    for _ in range(most_steps):
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        pictures.append(env.render())
        returned += float(reward)
        if terminated or truncated:
            break
    env.close()

    height, width = pictures[0].shape[:2]
    figure = Figure(figsize=(4.0, 4.0 * height / width))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    frames = [[axes.imshow(picture, animated=True)] for picture in pictures]
    film = ArtistAnimation(figure, frames)
    film.save(str(path), writer=PillowWriter(fps=env.metadata.get("render_fps", 10)), dpi=80)
    return len(pictures), returned
