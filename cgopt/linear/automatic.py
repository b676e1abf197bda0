"""``M="auto"``: Jacobi for as long as it is likely to be the cheapest, then what suits the matrix.

How hard a system is shows in the iterations, not in the matrix's pattern. So a solve begins with Jacobi, which costs
nothing to set up, and looks now and then at what its own coefficients tell:

* As long as the smallest Ritz value falls, there are smaller eigenvalues that the iteration has not found yet, and the
  residual will fall more slowly once it has: the end is far, whatever the rate so far. (The Ritz values are those of
  Lanczos' matrix, see `cgopt.linear.lanczos`; for a Laplacian the root of the smallest falls like one over the
  iterations. The norm of that matrix's inverse, which scalar recurrences give, stands for it.)
* Once it stands still, the rate holds or improves, and tells how many iterations are left.

Of some matrices it is certain beforehand that the end is far (`cgopt.preconditioners.choose.patience`); these are not
begun with Jacobi, unless there is an initial guess, which may be near the solution.

Where the end is far, a better preconditioner is set up (`cgopt.preconditioners.choose.choose`), and the solve goes on
from where it is. A solver that has chosen keeps its choice. Only numbers of iterations decide, no times: the same input
gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..arrays import Array
from ..kernels import loops
from ..preconditioners.choose import Patience
from ..status import Status
from .lanczos import InverseNorms
from .one import solve_one
from .result import CGResult
from .stopping import Goal, Listeners
from .workspace import System, Workspace

LOOK, SELDOM = 15, 1 / 3  # iterations between two looks, at least and as a share of those made
EARLIER = 2 / 3  # share of the iterations made that they are compared with
LONG_AGO = 1 / 3  # the same where the rate decides alone: norms have plateaus
GROWTH = 1.25  # of the square root of the condition number since then, from which the smallest Ritz value falls still


class Trial(Listeners):
    """Listens to a solve by Jacobi, and ends it when something else is likely to be faster.

    Parameters
    ----------
    others : Listeners
    patience : Patience
        How long to stay.

    Attributes
    ----------
    gave_up : str
        Why it was this that ended the solve; empty if it was not.
    """

    def __init__(self, others: Listeners, patience: Patience) -> None:
        self.others, self.patience, self.gave_up = others, patience, ""
        self.each_iteration, self.any = others.each_iteration, True
        self._norms: list[float] = []  # squares, of the residuals
        self._inverse = InverseNorms()
        self._next_look = patience.first_look

    def stride(self, iterations: int) -> int:
        """Iterations until the next look."""
        return self._next_look - iterations

    def stop(self, x: Array, shift: Any, iteration: int, log: Array, target: Any, exponent: Any, unit: int) -> bool:
        """Tell the others, then look at what the last iterations have brought."""
        self._norms.extend(log[:, loops.LOG_RR].tolist())
        self._inverse.extend(log[:, loops.LOG_ALPHA], log[:, loops.LOG_BETA])
        if self.others.any and self.others.stop(x, shift, iteration, log, target, exponent, unit):
            return True
        if iteration < self._next_look:
            return False
        self._next_look = iteration + max(LOOK, round(SELDOM * iteration))
        norms, squares, earlier = self._norms, self._inverse.squares, round(EARLIER * iteration)
        if norms[-1] <= target:
            return False
        if self.patience.eager and squares[-1] > GROWTH**4 * squares[earlier - 1]:
            self.gave_up = f"its condition number still grew after {iteration} iterations"
            return True
        earlier = earlier if self.patience.eager else round(LONG_AGO * iteration)
        left = iterations_left(earlier, norms[earlier - 1], iteration, norms[-1], target)
        if iteration + left > self.patience.afforded:
            self.gave_up = f"more than {self.patience.afforded} iterations were foretold after {iteration}"
        return bool(self.gave_up)


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
    switch: Callable[[str], tuple[System, Workspace]],
    b: Array,
    start: Array | None,
    goal: Goal,
    listeners: Listeners,
    patience: Patience,
) -> CGResult:
    """Solve with Jacobi; if that takes too long, go on with another preconditioner.

    Parameters
    ----------
    system, space
        With Jacobi.
    switch : callable
        Is told why, sets up the better preconditioner, and gives the system and workspace with it.
    b, start, goal, listeners
        As for `cgopt.linear.one.solve_one`.
    patience : Patience
        How long to stay with Jacobi.

    Returns
    -------
    CGResult
        Its history is that of both parts; what its coefficients tell (condition, Ritz values) is of the second.
    """
    trial = Trial(listeners, patience)
    first = solve_one(system, space, b, start, goal, trial)
    if not trial.gave_up or first.status is not Status.STOPPED:
        return first
    rest = goal._replace(maxiter=goal.maxiter - first.iterations)
    chosen = switch(f"left Jacobi: {trial.gave_up}")
    return solve_one(*chosen, b, first.x, rest, listeners).follow(first)
