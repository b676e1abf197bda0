"""The one loop of all minimisers: a direction times a rule for its size.

A `Direction` proposes a step from a point, given a size (a radius, a damping, or nothing); a `Search` takes some of it
and learns a size from what it gained. The loop knows when to stop, reports, and can be left and entered again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult

from ..arguments import real_number
from ..arrays import Array, copied
from ..linear.stopping import check_callback, check_maxiter
from .line_search import armijo, noise_of
from .objective import Objective, starting_point

PATIENCE = 10  # iterations in a row that lowered neither f beyond rounding nor the gradient


class Ending(Enum):
    """Why a minimiser ended. The value is a sentence."""

    CONVERGED = "The gradient meets the tolerance relative to that at the start."
    MAXITER = "The iterations were used up: raise maxiter, or go on with state=result.state."
    STALLED = (
        "No step gained anything: the precision of the values is reached, or the gradient (or the product) is not that "
        "of the function. Check them with cgopt.testing.check_operator, or use double precision."
    )
    STOPPED = "The callback asked for the end (StopIteration)."
    NONFINITE = "The function or its gradient is not finite at the start: begin elsewhere."


class Point(NamedTuple):
    """Where a minimiser stands."""

    x: Array
    fun: float
    gradient: Array
    norm: float  # of the gradient
    first_norm: float  # of the first gradient


class Proposal(NamedTuple):
    """A step that a direction proposes.

    Attributes
    ----------
    d : (n,) array
    slope : float
        g'd, negative.
    promised : float
        What the model says that the whole step lowers f by.
    on_boundary : bool
        Whether the step was cut short by the size.
    report : dict
        Of the linear solve, for the log.
    earlier : list of (n,) arrays
        Steps found on the way, best last, for a search that goes back among them.
    """

    d: Array
    slope: float
    promised: float
    on_boundary: bool
    report: dict[str, Any]
    earlier: list[Array]


class Taken(NamedTuple):
    """What a search made of a proposal; x is the old one if it was rejected."""

    x: Array
    fun: float
    alpha: float
    report: dict[str, Any]


class Direction:
    """Where to go."""

    def propose(self, objective: Objective, at: Point, size: float) -> Proposal:
        """A step from a point, of a size that the search knows the meaning of."""
        raise NotImplementedError

    def learn(self, before: Point, after: Point, taken: Taken) -> None:
        """See what became of the proposal."""

    def state(self) -> dict[str, Any]:
        """What the next proposal depends on, as numbers and arrays."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class Search:
    """How far to go."""

    size: float = math.inf

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """Make a step of a proposal, and learn a size."""
        raise NotImplementedError

    def hopeless(self, at: Point) -> bool:
        """Whether a rejected step means the end."""
        return True

    def state(self) -> dict[str, Any]:
        """What the next step depends on, as numbers and arrays."""
        return {"size": self.size}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.size = float(state["size"])


def length_of(v: Array) -> float:
    """2-norm in double precision."""
    return float(np.linalg.norm(v.astype(np.float64)))


def slope_of(g: Array, d: Array) -> float:
    """g'd in double precision."""
    return float(np.dot(g.astype(np.float64), d))


def descend(
    objective: Objective,
    x0: Any,
    direction: Direction,
    search: Search,
    *,
    gtol: float,
    maxiter: int,
    callback: Callable[..., Any] | None = None,
    state: dict[str, Any] | None = None,
    escape: Callable[[Point], Proposal | None] | None = None,
) -> OptimizeResult:
    """Minimise: propose, take, learn, until the gradient has come down to `gtol` times its first norm.

    Parameters
    ----------
    state : dict, optional
        Of an earlier result: the run goes on from there exactly as it would have.
    escape : callable, optional
        Asked at a point with a small gradient for a direction of negative curvature, along which to go on.

    Returns
    -------
    OptimizeResult
        SciPy's fields, and ``ending``, ``history`` (a list of dictionaries, one for each iteration), ``cost`` (in
        gradients), ``state``.
    """
    listener, rich = check_callback(callback)
    gtol, maxiter = real_number("gtol", gtol), check_maxiter(maxiter, 0)
    history: list[dict[str, Any]] = []
    if state is None:
        x = starting_point(x0)
        at, iteration, best, stale = _point(objective, x, objective.value(x), None), 0, math.inf, 0
    else:
        x = copied(state["x"])
        at = Point(x, float(state["fun"]), copied(state["gradient"]), float(state["norm"]), float(state["first_norm"]))
        iteration, best, stale = int(state["iteration"]), float(state["best"]), int(state["stale"])
        for part, name in ((objective, "objective"), (direction, "direction"), (search, "search")):
            part.restore(_within(state, name))
        objective.remember(at.x, at.gradient)
    unit = float(np.finfo(x.dtype).eps) / 2.0

    def saved() -> dict[str, Any]:
        out = {"x": at.x.copy(), "fun": at.fun, "gradient": at.gradient.copy(), "norm": at.norm}
        out |= {"first_norm": at.first_norm, "iteration": iteration, "best": best, "stale": stale}
        for part, name in ((objective, "objective"), (direction, "direction"), (search, "search")):
            out |= {f"{name}.{key}": value for key, value in part.state().items()}
        return out

    def result(ending: Ending | None) -> OptimizeResult:
        return OptimizeResult(
            x=at.x.copy(),
            fun=at.fun,
            jac=at.gradient.copy(),
            nit=iteration,
            nfev=objective.values,
            njev=objective.gradients,
            nhev=objective.products,
            cost=objective.cost,
            success=ending is Ending.CONVERGED,
            status=-1 if ending is None else list(Ending).index(ending),
            message="" if ending is None else ending.value,
            ending=ending,
            history=history,
            state=saved(),
        )

    if not (math.isfinite(at.fun) and math.isfinite(at.norm)):
        return result(Ending.NONFINITE)
    while True:
        proposal = None
        if at.norm <= gtol * at.first_norm:
            proposal = escape(at) if escape is not None else None
            if proposal is None:
                return result(Ending.CONVERGED)
        if iteration >= maxiter:
            return result(Ending.MAXITER)
        if proposal is None:
            proposal = direction.propose(objective, at, search.size)
        taken = search.take(objective, at, proposal)
        moved = taken.alpha != 0.0 and not np.array_equal(taken.x, at.x)
        before = at
        if objective.advance():  # the next step is on other data
            at = _point(objective, taken.x, objective.value(taken.x), at.first_norm)
        elif moved:
            at = _point(objective, taken.x, taken.fun, at.first_norm)
        direction.learn(before, at, taken)
        iteration += 1
        row = {"iteration": iteration, "fun": taken.fun, "gradient_norm": at.norm, "accepted": moved}
        history.append(row | {"cost": objective.cost} | proposal.report | taken.report)
        gained = before.fun - taken.fun > noise_of(before.fun, unit) or at.norm < best
        best, stale = min(best, at.norm), 0 if gained else stale + 1
        if listener is not None and _wants_end(listener, rich, result):
            return result(Ending.STOPPED)
        if (not moved and search.hopeless(at)) or stale >= PATIENCE + (0 if moved else 50):
            return result(Ending.STALLED)


def _point(objective: Objective, x: Array, fun: float, first_norm: float | None) -> Point:
    gradient = objective.gradient(x).copy()
    norm = length_of(gradient)
    return Point(x, fun, gradient, norm, norm if first_norm is None else first_norm)


def _within(state: dict[str, Any], name: str) -> dict[str, Any]:
    """The part of a state whose keys begin with a name."""
    return {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")}


def _wants_end(listener: Callable[..., Any], rich: bool, result: Callable[[None], OptimizeResult]) -> bool:
    """Tell a callback; whether it asks for the end."""
    now = result(None)
    try:
        answer = listener(intermediate_result=now) if rich else listener(now.x)
    except StopIteration:
        return True
    return answer is StopIteration or isinstance(answer, StopIteration)


class LineSearch(Search):
    """Armijo's rule from the whole step."""

    def __init__(self, c: float = 1e-4, shrink: float = 0.5) -> None:
        self.c, self.shrink = c, shrink

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """The longest of the whole step, half of it, and so on, that pays."""
        step = armijo(objective, at.x, at.fun, proposal.slope, proposal.d, c=self.c, shrink=self.shrink)
        return Taken(step.x, step.fun, step.alpha, {"alpha": step.alpha})
