"""``M="auto"``: Jacobi for as long as it is likely to be the cheapest, then what suits the matrix.

How hard a system is shows in the iterations, not in the matrix's pattern. So a solve begins with Jacobi, which costs
nothing to set up. From the rate at which the residual falls it is foretold how many iterations are left; as soon as
these would cost more than setting up a better preconditioner, that is done (`cgopt.preconditioners.choose.choose`), and
the solve goes on from where it is. A solver that has chosen keeps its choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import loops
from ..status import Status
from .one import solve_one
from .result import CGResult
from .stopping import Goal, Listeners
from .workspace import System, Workspace

LOOK = 10  # iterations between two looks at the rate
FIRST_LOOK = 30  # and before the first
RECENT = 0.7  # share of the iterations made that the rate is taken after


class Trial(Listeners):
    """Listens to a solve by Jacobi, and ends it when more than `afforded` iterations would be made.

    Attributes
    ----------
    gave_up : bool
        Whether it was this that ended the solve.
    """

    def __init__(self, others: Listeners, afforded: int) -> None:
        self.others, self.afforded, self.gave_up = others, afforded, False
        self.each_iteration, self.any, self.stride = others.each_iteration, True, LOOK
        self._seen: list[tuple[int, float]] = []

    def stop(self, x: Array, shift: Any, iteration: int, last: Array, target: Any, exponent: Any, unit: int) -> bool:
        """Tell the others, then look at the rate of the last third of the iterations made."""
        if self.others.any and self.others.stop(x, shift, iteration, last, target, exponent, unit):
            return True
        if iteration % LOOK:
            return False
        now = float(last[0, loops.LOG_RR])
        self._seen.append((iteration, now))
        earlier = [seen for seen in self._seen if seen[0] <= RECENT * iteration]
        if iteration < FIRST_LOOK or now <= target or not earlier:
            return False
        past, before = earlier[-1]
        self.gave_up = iteration + iterations_left(past, before, iteration, now, target) > self.afforded
        return self.gave_up


def iterations_left(past: int, before: float, iteration: int, now: float, target: float) -> float:
    """How many iterations are left if squares of norms go on falling as from `before` to `now`."""
    if not 0.0 < now < before:
        return math.inf
    if target <= 0.0:
        return math.inf
    return math.log(now / target) * (iteration - past) / math.log(before / now)


def solve_automatically(
    system: System,
    space: Workspace,
    switch: Callable[[], tuple[System, Workspace] | None],
    b: Array,
    start: Array | None,
    goal: Goal,
    listeners: Listeners,
    afforded: int,
) -> CGResult:
    """Solve with Jacobi; if that takes too long, go on with another preconditioner.

    Parameters
    ----------
    system, space
        With Jacobi.
    switch : callable
        Sets up the better preconditioner, and gives the system and workspace with it.
    b, start, goal, listeners
        As for `cgopt.linear.one.solve_one`.
    afforded : int
        Iterations of Jacobi that setting up the better one costs.

    Returns
    -------
    CGResult
        Its history is that of both parts; what its coefficients tell (condition, Ritz values) is of the second.
    """
    trial = Trial(listeners, afforded)
    first = solve_one(system, space, b, start, goal, trial)
    if not trial.gave_up or first.status is not Status.STOPPED:
        return first
    chosen = switch()
    rest = goal._replace(maxiter=goal.maxiter - first.iterations)
    if chosen is None or rest.maxiter <= 0:
        return solve_one(system, space, b, first.x, rest, listeners) if rest.maxiter > 0 else first
    second = solve_one(*chosen, b, first.x, rest, listeners)
    return joined(first, second)


def joined(first: CGResult, second: CGResult) -> CGResult:
    """The result of a solve that was made in two parts."""
    second.__dict__["history"] = np.concatenate((first.history, second.history[1:]))
    second.__dict__["step_lengths"] = np.concatenate((first.step_lengths, second.step_lengths))
    second.iterations += first.iterations
    return second
