"""Hessian-free optimisation: damped Gauss-Newton steps by truncated conjugate gradients.

J. Martens, Deep learning via Hessian-free optimization, ICML 2010; J. Martens and I. Sutskever, Training deep and
recurrent networks with Hessian-free optimization, 2012. What is here of it, by their section numbers: damping by the
reduction ratio (2010: 4.1), stopping on relative progress (4.4), the start from the last solution (4.5) and its decay,
backtracking among the iterates (4.6), the diagonal preconditioner with an exponent (4.7), a line search at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ..arguments import one_of, real_number, whole_number
from ..arrays import Array
from ..linear import CGSolver, IterationState
from ..preconditioners import Jacobi, Kronecker, Preconditioner
from ..status import Status
from .damping import LevenbergMarquardt, reduction_ratio
from .descent import Direction, Point, Proposal, Search, Taken, descend, length_of, slope_of
from .line_search import armijo, noise_of
from .objective import Objective, starting_point

FIRST_KEPT, KEPT_RATIO = 5, 1.3  # iterates kept: 5, 6.5, 8.45, ...
LOOK_BACK, LOOK_BACK_SHARE = 10, 0.1  # iterations over which progress is measured, at least, and as a share
REJECTIONS = 30  # steps refused in a row before the end


class Progress:
    """Follows conjugate gradients from outside: when its progress ends, and which iterates to keep.

    The model falls by ``alpha_j r_j'z_j / 2`` in iteration j, and ``r_{j+1}'z_{j+1} = beta_j r_j'z_j``. Progress is
    measured relative to the whole fall since the start (with a start other than zero the model's own value there is
    not zero, and relative to that nothing would be said).
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.fall = [0.0]  # in units of r_0'z_0 / 2
        self.rz = 1.0
        self.kept: list[Array] = []
        self.next_kept = float(FIRST_KEPT)

    def __call__(self, *, intermediate_result: IterationState) -> Any:
        """After each iteration; StopIteration where the last ten (or tenth) brought too little."""
        now, i = intermediate_result, intermediate_result.iteration
        self.fall.append(self.fall[-1] + now.alpha * self.rz)
        if now.beta > 0.0:
            self.rz *= now.beta
        if i >= math.ceil(self.next_kept):
            self.kept.append(now.x.copy())
            while math.ceil(self.next_kept) <= i:
                self.next_kept *= KEPT_RATIO
        k = max(LOOK_BACK, math.ceil(LOOK_BACK_SHARE * i))
        if i > k and self.fall[i] - self.fall[i - k] < self.tolerance * k * self.fall[i]:
            return StopIteration
        return None


class DampedDirection(Direction):
    """``(B + lam I) d = -g``, begun from a part of the last solution.

    Parameters
    ----------
    cg_maxiter : int
    cg_tolerance : float
        Progress for each iteration below which the solve ends.
    decay : float
        Of the last solution, as a start.
    preconditioner : {"diagonal", "kronecker"} or None
    exponent : float
        Of the diagonal preconditioner ``(mean squared gradients + lam)^exponent``.
    """

    def __init__(
        self, cg_maxiter: int, cg_tolerance: float, decay: float, preconditioner: str | None, exponent: float
    ) -> None:
        self.cg_maxiter, self.cg_tolerance, self.decay = cg_maxiter, cg_tolerance, decay
        self.preconditioner, self.exponent = preconditioner, exponent
        self.last: Array | None = None

    def propose(self, objective: Objective, at: Point, size: float) -> Proposal:
        """The damped step; size is lam."""
        B = objective.curvature(at.x)
        M = self._preconditioner(objective, at.x, size)
        progress = Progress(self.cg_tolerance)
        start = None if self.last is None else self.last * at.x.dtype.type(self.decay)
        solver = CGSolver(objective.damped(B, size), M=M, check=False)
        solve = solver.solve(-at.gradient, start, rtol=0.0, maxiter=self.cg_maxiter, callback=progress)
        d = solve.x
        if solve.status in (Status.INDEFINITE, Status.SINGULAR) and not d.any():
            v = solve.negative_curvature
            d = v if slope_of(at.gradient, v) < 0.0 else -v
        if not np.isfinite(d).all() or not slope_of(at.gradient, d) < 0.0:
            d, self.last = -at.gradient, None  # (a start from the last solution need not lead downhill)
        else:
            self.last = d.copy()
        earlier = [kept for kept in progress.kept if slope_of(at.gradient, kept) < 0.0]
        if earlier and np.array_equal(earlier[-1], d):
            earlier.pop()
        self.B = B
        report = {"cg_iterations": solve.iterations, "cg_status": solve.status.name}
        report |= {"condition_estimate": solve.condition_estimate}
        return Proposal(d, slope_of(at.gradient, d), math.nan, False, report, earlier)

    def _preconditioner(self, objective: Objective, x: Array, lam: float) -> Preconditioner | None:
        """Of the damped matrix, where the objective knows enough for it."""
        if self.preconditioner == "diagonal":
            squares = objective.squared_gradients(x)
            return None if squares is None else Jacobi(((squares + lam) ** self.exponent).astype(x.dtype))
        factors = objective.kronecker_factors(x) if self.preconditioner == "kronecker" and lam else None
        return None if factors is None else Kronecker(factors, lam)

    def learn(self, before: Point, after: Point, taken: Taken) -> None:
        """After a refused step the next solve begins from zero."""
        if not taken.alpha:
            self.last = None

    def state(self) -> dict[str, Any]:
        """The last solution."""
        return {} if self.last is None else {"last": self.last}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.last = state.get("last")


class DampingSearch(Search):
    """Back among the iterates while that lowers f, then Armijo's rule; lam learns from the ratio before the latter.

    The ratio is of the fall of f and that of the model without damping, for the step gone back to; minus infinity where
    f rose.
    """

    def __init__(self, direction: DampedDirection, lam: float, c: float, shrink: float) -> None:
        self.direction, self.size, self.c, self.shrink = direction, lam, c, shrink
        self.refused = 0

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """The best of the iterates, shortened if need be."""
        d, slope = proposal.d, proposal.slope
        fun = objective.value(at.x + d)
        back = 0
        for candidate in reversed(proposal.earlier):
            value = objective.value(at.x + candidate)
            if not value < fun:
                break
            d, fun, back = candidate, value, back + 1
        slope = slope_of(at.gradient, d)
        curvature = slope_of(d, self.direction.B @ d)
        unit = float(np.finfo(at.x.dtype).eps) / 2.0
        # A model that promised nothing, as one from a start far off may, and a loss that rose have a positive ratio.
        rose = not fun <= at.fun + noise_of(at.fun, unit)
        ratio = -math.inf if rose else reduction_ratio(at.fun, fun, -(slope + 0.5 * curvature), unit)
        rule = LevenbergMarquardt(self.size)
        rule.update(ratio)
        step = armijo(objective, at.x, at.fun, slope, d, c=self.c, shrink=self.shrink, first=fun)
        self.size = rule.lam
        self.refused = 0 if step.alpha else self.refused + 1
        report = {"ratio": ratio, "damping": self.size, "backtracked": back, "alpha": step.alpha}
        return Taken(step.x, step.fun, step.alpha, report)

    def hopeless(self, at: Point) -> bool:
        """When raising lam many times in a row has not helped."""
        return self.refused >= REJECTIONS

    def state(self) -> dict[str, Any]:
        """lam, and how many steps in a row were refused."""
        return {"size": self.size, "refused": self.refused}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.size, self.refused = float(state["size"]), int(state["refused"])


def first_damping(objective: Objective, x: Array) -> float:
    """A tenth of the curvature along the first gradient: of the problem's own scale. (One product.)"""
    g = objective.gradient(x)
    norm = length_of(g)
    if norm == 0.0:
        return 0.0
    curvature = abs(slope_of(g, objective.curvature(x) @ g)) / norm**2
    return 0.1 * curvature


def hessian_free(
    objective: Objective,
    x0: Any,
    *,
    gtol: float = 1e-6,
    maxiter: int = 200,
    damping: float | None = None,
    cg_maxiter: int = 250,
    cg_tolerance: float = 5e-4,
    decay: float = 0.95,
    preconditioner: str | None = "diagonal",
    exponent: float = 0.75,
    c: float = 1e-2,
    shrink: float = 0.8,
    callback: Callable[..., Any] | None = None,
    state: dict[str, Any] | None = None,
) -> OptimizeResult:
    """Minimise by Martens' Hessian-free method.

    Parameters
    ----------
    objective : Objective
        Its curvature should be positive semi-definite: a Gauss-Newton matrix, for a network.
    x0 : (n,) array
    gtol : float
        Converged when the gradient's norm is below `gtol` times that at x0.
    maxiter : int
        Steps, each a linear solve.
    damping : float, optional
        First multiple of the identity added to the curvature: relative to the *mean* loss, if the objective is one. By
        default a tenth of the curvature along the gradient; Martens took 45 for deep autoencoders.
    cg_maxiter : int
        Products in each solve.
    cg_tolerance : float
        A solve ends when the last k iterations, ten or a tenth, lowered the model by less than k times this share.
    decay : float
        Each solve begins from so much of the last solution.
    preconditioner : {"diagonal", "kronecker"} or None
        Martens' ``(mean squared gradients + lam)^exponent``, or the inverse of Kronecker products for each layer plus
        lam (Martens and Grosse 2015), which saves most of the products where layers are not wide; where the objective
        knows its samples' gradients, as that of a multi-layer perceptron does, and none otherwise. exponent : float
        Of the diagonal preconditioner. c, shrink : float Of the line search. callback, state As for `cgopt.minimize`.

    Returns
    -------
    OptimizeResult
        ``history`` has for each step fun, ratio, damping, cg_iterations, condition_estimate, cost (in gradients), and
        more. ``cg_status`` is STOPPED where the solve's progress ended it and MAXITER where its products were used up;
        the others are those of `cgopt.cg`.

    References
    ----------
    J. Martens, ICML 2010; J. Martens and I. Sutskever, in Neural Networks: Tricks of the Trade, 2012.
    """
    for name, value in (("decay", decay), ("c", c), ("shrink", shrink)):
        real_number(name, value, above=-1e-300, below=1.0)
    if preconditioner is not None:
        one_of("preconditioner", preconditioner, ("diagonal", "kronecker"))
    direction = DampedDirection(whole_number("cg_maxiter", cg_maxiter), cg_tolerance, decay, preconditioner, exponent)
    if damping is None:
        damping = 0.0 if state is not None else first_damping(objective, starting_point(x0))
    search = DampingSearch(direction, real_number("damping", damping), c, shrink)
    return descend(objective, x0, direction, search, gtol=gtol, maxiter=maxiter, callback=callback, state=state)
