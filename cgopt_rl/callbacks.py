"""Callbacks for `learn`: evaluation, checkpoints of their own, early stop.

A callback is called after each round as ``callback(model, metrics)``, may add to `metrics` only what it wants to keep
for itself, and ends the training by returning True.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import integer, number
from .evaluation import Evaluation, evaluate


@dataclass
class Evaluate:
    """Evaluate the deterministic policy in environments of its own, every so many steps.

    Parameters
    ----------
    every : int
        Steps between evaluations.
    episodes : int, default 10
    env : optional
        As for `evaluate`; by default new environments of the model's id.
    stop_at : float, optional
        End the training when the mean return reaches this.
    save_best : path, optional
        Save the model there whenever the mean return is the best so far. (Saving starts new episodes in environments
        that cannot tell their state.)

    Attributes
    ----------
    history : list of (int, Evaluation)
        Steps, and what was found.
    final, best : Evaluation
        The last one, and the one with the highest mean return.
    collapsed : bool
        Whether more than half of what had been gained since the first evaluation was lost again by the last.
    """

    every: int
    episodes: int = 10
    env: Any = None
    stop_at: float | None = None
    save_best: str | Path | None = None
    history: list[tuple[int, Evaluation]] = field(default_factory=list)

    def __post_init__(self) -> None:
        integer("every", self.every)
        self._next = 0

    def __call__(self, model: Any, metrics: dict[str, float]) -> bool:
        if model.steps < self._next:
            return False
        self._next = model.steps + self.every
        found = evaluate(model, self.env, self.episodes)
        if self.save_best is not None and all(found.mean > before.mean for _, before in self.history):
            model.save(self.save_best)
        self.history.append((model.steps, found))
        return self.stop_at is not None and found.mean >= self.stop_at

    @property
    def final(self) -> Evaluation:
        return self.history[-1][1]

    @property
    def best(self) -> Evaluation:
        return max((found for _, found in self.history), key=lambda found: found.mean)

    @property
    def collapsed(self) -> bool:
        first, final, best = self.history[0][1].mean, self.final.mean, self.best.mean
        return best - final > 0.5 * (best - first)


@dataclass
class StopAtReturn:
    """End the training when the mean raw return of the last 100 episodes reaches a threshold.

    Parameters
    ----------
    threshold : float
    """

    threshold: float

    def __post_init__(self) -> None:
        number("threshold", self.threshold)

    def __call__(self, model: Any, metrics: dict[str, float]) -> bool:
        return metrics["return_mean"] >= self.threshold


@dataclass
class Checkpoint:
    """Keep a checkpoint every so many steps, under a name with the number of steps.

    Parameters
    ----------
    every : int
    folder : path
    """

    every: int
    folder: str | Path

    def __post_init__(self) -> None:
        integer("every", self.every)
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self._next = self.every

    def __call__(self, model: Any, metrics: dict[str, float]) -> bool:
        if model.steps >= self._next:
            self._next += self.every * ((model.steps - self._next) // self.every + 1)
            model.save(Path(self.folder) / f"{model.name}-{model.steps}.safetensors")
        return False
