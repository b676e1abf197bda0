"""The loop of off-policy learning in compiled code: act, step, store, draw, learn, update targets.

Two texts have the same loop in them. `play` makes whole blocks of steps of a compiled environment, so that interaction
and learning need no Python; `respond` is one turn of it for environments that live in Python. An algorithm is three
functions, which take the places of those at the end of this file:

* ``explore(agent, loop, normalizer, current, i)`` writes an action for row i of `current`: to ``loop.stored`` as
  replay keeps it, to ``loop.taken`` as the environment takes it;
* ``improve(agent, replay, batch, loop, normalizer)`` makes one gradient step, and adds what there is to report to
  ``loop.totals``;
* ``follow(agent, loop)`` is called after each turn: for target networks.

A fourth, ``remember(agent, replay, loop, i, reward, final, terminated, truncated)``, takes in what a step of
environment i led to. By default it adds the step to the replay buffer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import compiled, helper, named
from cgopt.kernels.loops import bind

from .environments import Dynamics, observe, reset, step
from .replay import FILL, add
from .rollouts import copy_row

STEPS, TURNS, UPDATES, BROKEN = range(4)  # of `counts`
LOSS, VALUE, HIGHEST, NORM, MADE, FIRST, REWARD, HORIZON, SCALE = range(9)  # of `totals`
ROUND = 5  # the first of them are of the round at hand
DIVERGED = 100.0  # times the largest possible return


class Loop(NamedTuple):
    """Where the loop is, and when it does what.

    Attributes
    ----------
    counts : (4,) int64
        Environment steps, turns (steps of all environments together), gradient steps; 1 once values have diverged.
    totals : (9,) float64
        Of the round at hand: sums of losses and of mean values, the highest absolute value, the sum of gradient norms,
        the number of gradient steps. Of all: the highest absolute value in the first gradient step, the largest
        absolute reward, ``1 / (1 - gamma)``, and what rewards are multiplied by.
    streams : (n,) uint64
        Random numbers of actions.
    before : (n, d) float32
        What was acted on.
    stored, taken : (n, m)
        Actions, as replay keeps them and as environments take them.
    fresh : (n,) bool
        Whether the observation at hand is an episode's first: for noise that is correlated in time.
    starts, every, gradient_steps : int
        Steps before learning starts, turns between learning, gradient steps then (-1: as many as environment steps).
    """

    counts: npt.NDArray[np.int64]
    totals: npt.NDArray[np.float64]
    streams: npt.NDArray[np.uint64]
    before: npt.NDArray[np.float32]
    stored: npt.NDArray[Any]
    taken: npt.NDArray[Any]
    fresh: npt.NDArray[np.bool_]
    starts: int
    every: int
    gradient_steps: int


class Record(NamedTuple):
    """What the steps of a round gave: (T, n) arrays, observations raw, (T, n, d)."""

    raw: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]


@helper
def add_to_replay(
    agent: Any, replay: Any, loop: Any, i: Any, reward: Any, final: Any, terminated: Any, truncated: Any
) -> None:  # fmt: skip
    """Take in a step as a transition of replay."""
    add(replay, i, loop.before, loop.stored, reward, final, terminated, truncated)


class Learner(NamedTuple):
    """An algorithm's functions, and the name that its compiled loops carry."""

    name: str
    explore: Callable[..., Any]
    improve: Callable[..., Any]
    follow: Callable[..., Any]
    remember: Callable[..., Any] = add_to_replay

    def compile(self, text: Callable[..., Any], dynamics: Dynamics | None = None) -> Any:
        """A text bound to the algorithm, and to an environment."""
        return _compiled(self, text, dynamics)


@functools.cache
def _primitives(learner: Learner) -> dict[str, Any]:
    """The algorithm's functions; the gradient step, which is long, is compiled by itself."""
    improve = compiled(named(learner.improve, learner.name), threaded=False, merged=False)
    found = {
        "explore": learner.explore,
        "improve": improve,
        "follow": learner.follow,
        "remember": learner.remember,
    }
    return found | {"learn": helper(bind(learn, f"learn_{learner.name}", found))}


@functools.cache
def _compiled(learner: Learner, text: Callable[..., Any], dynamics: Dynamics | None) -> Any:
    primitives = _primitives(learner)
    if dynamics is not None:
        return compiled(named(dynamics.bind(text, **primitives), learner.name), threaded=False)
    return compiled(bind(text, f"{text.__name__}_{learner.name}", primitives), threaded=False)


@helper
def note(loop: Any, loss: Any, value: Any, highest: Any) -> Any:
    """Add a gradient step's mean loss, mean value and highest absolute value; False if it must not be made.

    Values that are not finite, or far above the largest possible return (and above where the network started), mean
    that learning has diverged.
    """
    totals, counts = loop.totals, loop.counts
    if counts[UPDATES] == 0:
        totals[FIRST] = highest
    largest = max(totals[REWARD] * totals[SCALE] * totals[HORIZON], totals[FIRST])
    totals[HIGHEST] = max(totals[HIGHEST], highest) if highest == highest else np.inf
    if not (abs(loss) < np.inf and highest <= DIVERGED * largest):
        counts[BROKEN] = 1
        return False
    totals[LOSS] += loss
    totals[VALUE] += value
    totals[MADE] += 1.0
    counts[UPDATES] += 1
    return True


def explore(agent: Any, loop: Any, normalizer: Any, current: Any, i: Any) -> None:
    """Stand for the algorithm's own in the texts below."""
    raise NotImplementedError


def improve(agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any) -> None:
    """Stand for the algorithm's own in the texts below."""
    raise NotImplementedError


def follow(agent: Any, loop: Any) -> None:
    """Stand for the algorithm's own in the texts below."""
    raise NotImplementedError


def remember(
    agent: Any, replay: Any, loop: Any, i: Any, reward: Any, final: Any, terminated: Any, truncated: Any
) -> None:  # fmt: skip
    """Stand for the algorithm's own in the texts below."""
    raise NotImplementedError


def learn(agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any) -> None:
    """What comes after a step of the environments."""
    n = loop.before.shape[0]
    counts = loop.counts
    counts[STEPS] += n
    counts[TURNS] += 1
    if counts[STEPS] > loop.starts and counts[TURNS] % loop.every == 0 and replay.place[FILL] > 0:
        gradient_steps = loop.gradient_steps if loop.gradient_steps >= 0 else loop.every * n
        for _ in range(gradient_steps):
            if counts[BROKEN] == 0:
                improve(agent, replay, batch, loop, normalizer)
    follow(agent, loop)


def play(
    agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any, simulation: Any, record: Any, final: Any, T: Any
) -> None:  # fmt: skip
    """T turns of compiled environments."""
    state, elapsed, starts, current, limit = simulation
    n = current.shape[0]
    for t in range(T):
        for i in range(n):
            explore(agent, loop, normalizer, current, i)
        for i in range(n):
            copy_row(current, i, loop.before, i)
            copy_row(current, i, record.raw[t], i)
            reward, terminated = step(state, i, loop.taken[i, 0])
            elapsed[i] += 1
            truncated = elapsed[i] >= limit
            record.rewards[t, i], record.terminated[t, i], record.truncated[t, i] = reward, terminated, truncated
            observe(state, i, current, i)
            copy_row(current, i, final, i)
            loop.totals[REWARD] = max(loop.totals[REWARD], abs(reward))
            remember(agent, replay, loop, i, reward, final, terminated, truncated)
            if terminated or truncated:
                starts[i] = reset(state, i, starts[i])
                elapsed[i] = 0
                observe(state, i, current, i)
            loop.fresh[i] = terminated or truncated
        learn(agent, replay, batch, loop, normalizer)


def begin(agent: Any, loop: Any, normalizer: Any, current: Any) -> None:
    """Act on the first observations of new episodes."""
    for i in range(current.shape[0]):
        copy_row(current, i, loop.before, i)
        loop.fresh[i] = True
        explore(agent, loop, normalizer, current, i)


def respond(
    agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any, current: Any, rewards: Any, terminated: Any,
    truncated: Any, final: Any, valid: Any,
) -> None:  # fmt: skip
    """Take in what the actions of `begin`, or of the turn before, led to; learn; act on `current`."""
    for i in range(current.shape[0]):
        if valid[i]:
            loop.totals[REWARD] = max(loop.totals[REWARD], abs(rewards[i]))
            remember(agent, replay, loop, i, rewards[i], final, terminated[i], truncated[i])
    learn(agent, replay, batch, loop, normalizer)
    for i in range(current.shape[0]):
        copy_row(current, i, loop.before, i)
        loop.fresh[i] = terminated[i] or truncated[i]
        explore(agent, loop, normalizer, current, i)
