"""Newton's method by truncated conjugate gradients: with a line search, or within a trust region.

R. S. Dembo and T. Steihaug, Truncated-Newton algorithms for large-scale unconstrained optimization, Math. Program. 26,
1983; T. Steihaug, SIAM J. Numer. Anal. 20, 1983; Gould, Lucidi, Roma and Toint, SIAM J. Optim. 9, 1999 (GLTR).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ..arguments import one_of
from ..arrays import Array
from ..linear import TrustRegionResult, trust_region_cg
from ..operators import Operator
from ..status import Status
from .damping import TrustRadius, reduction_ratio
from .descent import Direction, LineSearch, Point, Proposal, Search, Taken, descend, length_of, slope_of
from .objective import Objective, starting_point

GLOBALIZATIONS = ("line-search", "steihaug", "gltr")


class NewtonDirection(Direction):
    """``H d = -g`` by conjugate gradients, as far as the size and the curvature allow.

    The solve is to ``min(1/2, sqrt(|g| / |g_0|)) |g|``, which makes convergence superlinear (Dembo, Eisenstat and
    Steihaug 1982) and does not mind the scale of f.
    """

    def __init__(self, globalization: str, cg_maxiter: int | None, M: Callable[[Array], Any] | None) -> None:
        self.globalization, self.cg_maxiter, self.M = globalization, cg_maxiter, M
        self.last_length = 0.0

    def propose(self, objective: Objective, at: Point, size: float) -> Proposal:
        """The truncated step, or one along the negative curvature that was met."""
        H = objective.curvature(at.x)
        rtol = min(0.5, math.sqrt(at.norm / at.first_norm)) if at.first_norm > 0.0 else 0.5
        step = trust_region_cg(
            H,
            at.gradient,
            size,
            M=None if self.M is None else self.M(at.x),
            method="gltr" if self.globalization == "gltr" else "steihaug",
            rtol=rtol,
            maxiter=self.cg_maxiter,
            certify=False,
            check=False,
        )
        d, promised = step.x, step.model_decrease
        if step.status is Status.NEGATIVE_CURVATURE and math.isinf(size):
            d, promised = self._along_curvature(H, at, step)
        if not np.isfinite(d).all() or not d.any():
            d, promised = -at.gradient, at.norm**2
        report = {"cg_iterations": step.iterations, "cg_status": step.status.name}
        return Proposal(d, slope_of(at.gradient, d), promised, step.on_boundary, report, [])

    def _along_curvature(self, H: Operator, at: Point, step: TrustRegionResult) -> tuple[Array, float]:
        """The step so far and, beyond it, a step along v as long as Newton's for a curvature of the other sign.

        Not longer than ten times what is known to be a good length.
        """
        v = step.negative_curvature
        slope, curvature, length = slope_of(at.gradient, v), slope_of(v, H @ v), length_of(v)
        known = 10.0 * max(length_of(step.x), self.last_length)
        t = abs(slope) / abs(curvature) if curvature != 0.0 else math.inf
        if known > 0.0:
            t = min(t, known / length)
        if not math.isfinite(t):
            t = (length_of(at.x) or 1.0) / length
        d = step.x + v.dtype.type(-t if slope > 0.0 else t) * v
        return d, step.model_decrease + t * abs(slope) - 0.5 * t * t * curvature

    def learn(self, before: Point, after: Point, taken: Taken) -> None:
        """Remember how long the last step was."""
        if taken.alpha:
            self.last_length = length_of(after.x - before.x)

    def state(self) -> dict[str, Any]:
        """The last length."""
        return {"last_length": self.last_length}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.last_length = float(state["last_length"])


class TrustSearch(Search):
    """The whole step or nothing, and a radius learned from the ratio of gained to promised."""

    def __init__(self, radius: float | None, accept: float = 1e-4) -> None:
        self.size, self.accept, self.given = math.inf if radius is None else radius, accept, radius is not None

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """Accept what gained a little of what was promised."""
        x = at.x + proposal.d
        fun = objective.value(x)
        unit = float(np.finfo(x.dtype).eps) / 2.0
        ratio = reduction_ratio(at.fun, fun, proposal.promised, unit)
        length = length_of(proposal.d)
        rule = TrustRadius(self.size)
        rule.update(ratio, length, proposal.on_boundary)
        self.size = rule.radius
        report = {"ratio": ratio, "radius": self.size}
        if not ratio >= self.accept:
            return Taken(at.x, at.fun, 0.0, report)
        return Taken(x, fun, 1.0, report)

    def hopeless(self, at: Point) -> bool:
        """When the radius has come down to the rounding of x."""
        return self.size <= float(np.finfo(at.x.dtype).eps) * length_of(at.x) or self.size == 0.0


def first_radius(objective: Objective, at: Array) -> float:
    """Length of the Cauchy step at the start; that of x where the curvature is not positive. (One product.)"""
    g = objective.gradient(at)
    curvature = slope_of(g, objective.curvature(at) @ g)
    norm = length_of(g)
    if curvature > 0.0:
        return norm**3 / curvature
    return length_of(at) or 1.0


def newton_cg(
    objective: Objective,
    x0: Any,
    *,
    globalization: str = "steihaug",
    gtol: float = 1e-6,
    maxiter: int = 200,
    cg_maxiter: int | None = None,
    radius: float | None = None,
    M: Callable[[Array], Any] | None = None,
    second_order: bool = False,
    callback: Callable[..., Any] | None = None,
    state: dict[str, Any] | None = None,
) -> OptimizeResult:
    """Minimise by truncated Newton steps.

    Parameters
    ----------
    objective : Objective
    x0 : (n,) array
    globalization : {"steihaug", "gltr", "line-search"}
        A trust region with Steihaug's path or the exact minimiser over the Krylov space, or Armijo's line search.
    gtol : float
        Converged when the gradient's norm is below `gtol` times that at x0.
    maxiter, cg_maxiter : int
        Steps, and products in each.
    radius : float, optional
        First radius; by default the length of the Cauchy step.
    M : callable, optional
        x to a preconditioner there, as `cgopt.cg` takes it. (The trust region is then a ball in its norm.)
    second_order : bool
        At a point with a small gradient, look for a negative curvature with some more products, and go on along it.
    callback, state
        As for `cgopt.minimize`.

    Returns
    -------
    OptimizeResult
        See `cgopt.optimize.descent.descend`.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> from scipy.optimize import rosen, rosen_der, rosen_hess_prod
    >>> f = cgopt.optimize.FunctionObjective(rosen, rosen_der, rosen_hess_prod)
    >>> result = cgopt.optimize.newton_cg(f, np.array([-1.2, 1.0]), gtol=1e-9)
    >>> result.success, result.x.round(6)
    (True, array([1., 1.]))
    """
    one_of("globalization", globalization, GLOBALIZATIONS)
    direction = NewtonDirection(globalization, cg_maxiter, M)
    search: Search
    if globalization == "line-search":
        search = LineSearch()
    else:
        if radius is None and state is None:
            radius = first_radius(objective, starting_point(x0))
        search = TrustSearch(radius)

    def escape(at: Point) -> Proposal | None:
        """A step along the lowest curvature, if that is negative beyond rounding."""
        length = search.size if math.isfinite(search.size) else length_of(at.x) or 1.0
        nothing = np.zeros_like(at.x)
        step = trust_region_cg(objective.curvature(at.x), nothing, length, method="gltr", rtol=1e-3, check=False)
        if step.status is not Status.NEGATIVE_CURVATURE:
            return None
        d = step.x if slope_of(at.gradient, step.x) <= 0.0 else -step.x
        report = {"cg_iterations": step.iterations, "cg_status": step.status.name}
        return Proposal(d, slope_of(at.gradient, d), step.model_decrease, True, report, [])

    return descend(
        objective,
        x0,
        direction,
        search,
        gtol=gtol,
        maxiter=maxiter,
        callback=callback,
        state=state,
        escape=escape if second_order else None,
    )
