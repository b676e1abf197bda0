"""Natural gradient: steepest descent where distance is the Kullback-Leibler divergence.

S. Amari, Natural gradient works efficiently in learning, Neural Comput. 10, 1998; the size of the step as in
J. Schulman et al., Trust region policy optimization, ICML 2015, appendix C: d solves ``F d = -g``, and is scaled so
that the divergence's quadratic model ``d'Fd / 2`` meets its bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ..arguments import real_number, whole_number
from ..arrays import Array
from ..linear import CGSolver
from ..operators import Damped
from .descent import Direction, Point, Proposal, Search, Taken, descend, slope_of
from .line_search import noise_of
from .objective import Objective


class NaturalDirection(Direction):
    """``(F + lam m I) d = -g``, m the curvature along g; scaled to ``d'Fd / 2 = size``."""

    def __init__(self, damping: float, cg_maxiter: int, cg_rtol: float) -> None:
        self.damping, self.cg_maxiter, self.cg_rtol = damping, cg_maxiter, cg_rtol

    def propose(self, objective: Objective, at: Point, size: float) -> Proposal:
        """The scaled step; size is the bound on the divergence."""
        F = objective.curvature(at.x)
        g = at.gradient
        along = slope_of(g, F @ g) / at.norm**2 if at.norm > 0.0 else 0.0
        solve = CGSolver(Damped(F, self.damping * max(along, 0.0)), check=False).solve(
            -g, rtol=self.cg_rtol, maxiter=self.cg_maxiter
        )
        d = solve.x if solve.x.any() and np.isfinite(solve.x).all() else -g
        curvature = slope_of(d, F @ d)
        if curvature > 0.0:
            d = d * d.dtype.type(math.sqrt(2.0 * size / curvature))
        slope = slope_of(g, d)
        return Proposal(d, slope, -slope, True, {"cg_iterations": solve.iterations, "cg_status": solve.status.name}, [])


class DivergenceSearch(Search):
    """Half the step, and half of that, until f falls and the divergence keeps its bound."""

    def __init__(
        self, bound: float, divergence: Callable[[Array, Array], float] | None, shrink: float, tries: int
    ) -> None:
        self.size, self.divergence, self.shrink, self.tries = bound, divergence, shrink, tries

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """The longest of the trials that is allowed."""
        unit = float(np.finfo(at.x.dtype).eps) / 2.0
        alpha = 1.0
        for _ in range(self.tries):
            x = at.x + at.x.dtype.type(alpha) * proposal.d
            kl = math.nan if self.divergence is None else float(self.divergence(at.x, x))
            if not kl > self.size and (self.divergence is None or math.isfinite(kl)):
                fun = objective.value(x)
                if fun < at.fun + noise_of(at.fun, unit):
                    return Taken(x, fun, alpha, {"alpha": alpha, "divergence": kl})
            alpha *= self.shrink
        return Taken(at.x, at.fun, 0.0, {"alpha": 0.0})


def natural_gradient(
    objective: Objective,
    x0: Any,
    *,
    divergence_bound: float = 1e-2,
    divergence: Callable[[Array, Array], float] | None = None,
    damping: float = 1e-3,
    gtol: float = 1e-6,
    maxiter: int = 200,
    cg_maxiter: int = 20,
    cg_rtol: float = 1e-4,
    shrink: float = 0.5,
    tries: int = 40,
    callback: Callable[..., Any] | None = None,
    state: dict[str, Any] | None = None,
) -> OptimizeResult:
    """Minimise by natural gradient steps of a bounded divergence.

    Parameters
    ----------
    objective : Objective
        Its curvature is the Fisher matrix (for losses that are -log p, the Gauss-Newton matrix is one).
    x0 : (n,) array
    divergence_bound : float
        On the divergence between the models before and after a step.
    divergence : callable, optional
        ``divergence(x, y)``; without it the quadratic model is believed.
    damping : float
        Multiple of the identity added to the Fisher matrix, relative to that matrix along the gradient.
    gtol : float
        Converged when the gradient's norm is below `gtol` times that at x0.
    maxiter, cg_maxiter : int
        Steps, and products in each.
    cg_rtol : float
        Relative residual of the solves.
    shrink, tries
        Of the line search.
    callback, state
        As for `cgopt.minimize`.

    Returns
    -------
    OptimizeResult
    """
    bound = real_number("divergence_bound", divergence_bound, above=0.0)
    direction = NaturalDirection(real_number("damping", damping), whole_number("cg_maxiter", cg_maxiter), cg_rtol)
    search = DivergenceSearch(bound, divergence, real_number("shrink", shrink, above=0.0, below=1.0), tries)
    return descend(objective, x0, direction, search, gtol=gtol, maxiter=maxiter, callback=callback, state=state)
