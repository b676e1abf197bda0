"""Natural gradient: steepest descent where distance is the Kullback-Leibler divergence.

S. Amari, Natural gradient works efficiently in learning, Neural Comput. 10, 1998; the size of the step as in
J. Schulman et al., Trust region policy optimization, ICML 2015, appendix C: d solves ``(F + lam I) d = -g``, is scaled
so that the divergence's quadratic model ``d'(F + lam I)d / 2`` meets its bound, and shortened until f has fallen
and the divergence itself keeps the bound.

`natural_step` is one step, for whoever has a gradient, a Fisher matrix and something to try a step on (TRPO);
`natural_gradient` repeats it until the gradient is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult

from ..arguments import real_number, whole_number
from ..arrays import Array
from ..linear import trust_region_cg
from ..operators import Damped, Operator
from .descent import Direction, Point, Proposal, Search, Taken, descend, slope_of
from .line_search import noise_of
from .objective import Objective


class StepStatus(Enum):
    """How a natural step ended. The value is a sentence."""

    ACCEPTED = "The function fell and the divergence kept its bound."
    NO_GRADIENT = "The gradient is zero: there is nowhere to go. The parameters stay."
    NONFINITE = "The gradient or the step is not finite: check the data. The parameters stay."
    NO_CURVATURE = (
        "The Fisher matrix has no positive curvature along the gradient: raise the damping. The parameters stay."
    )
    LINE_SEARCH_FAILED = "No step along the direction lowered the function within the bound. The parameters stay."


class NaturalStep(NamedTuple):
    """A natural step and its report.

    Attributes
    ----------
    x : (n,) array
        The new parameters; the old ones unless the status is ACCEPTED.
    status : StepStatus
    divergence, predicted_divergence : float
        From the old parameters to the step tried last, and half its squared length in the Fisher matrix, undamped.
    decrease, predicted_decrease : float
        Of the function, and ``-g'd``, for the same step.
    cg_iterations, shortened : int
        Iterations of conjugate gradients, and how often the step was shortened.
    """

    x: Array
    status: StepStatus
    divergence: float = 0.0
    predicted_divergence: float = 0.0
    decrease: float = 0.0
    predicted_decrease: float = 0.0
    cg_iterations: int = 0
    shortened: int = 0


class Aim(NamedTuple):
    """A direction d (float64), as long as the quadratic model allows; None with a status that says why there is none.

    `decrease` is ``-g'd`` and `divergence` half of ``d'Fd``; `cg_status` names the end of conjugate gradients.
    """

    d: Array | None
    status: StepStatus
    decrease: float = 0.0
    divergence: float = 0.0
    cg_iterations: int = 0
    cg_status: str = ""


def aim(F: Operator, g: Array, *, bound: float, damping: float, maxiter: int, rtol: float) -> Aim:
    """``(F + damping I) d = -g`` by conjugate gradients, scaled to ``d'(F + damping I)d / 2 = bound``."""
    if not np.isfinite(g).all():
        return Aim(None, StepStatus.NONFINITE)
    if not g.any():
        return Aim(None, StepStatus.NO_GRADIENT)
    # From zero, as the minimiser of 1/2 d'(F + lam I)d + g'd; without a boundary, because the length comes next.
    solution = trust_region_cg(Damped(F, damping), g, np.inf, rtol=rtol, maxiter=maxiter, certify=False, check=False)
    d = np.asarray(solution.x, np.float64)
    ended = (solution.iterations, solution.status.name)
    dFd = 2.0 * solution.model_decrease  # CG's iterates have d'((F + lam I)d + g) = 0: the decrease is half of d'(..)d
    if not (math.isfinite(dFd) and np.isfinite(d).all()):
        return Aim(None, StepStatus.NONFINITE, 0.0, 0.0, *ended)
    if not dFd > 0.0:
        return Aim(None, StepStatus.NO_CURVATURE, 0.0, 0.0, *ended)
    d *= math.sqrt(2.0 * bound / dFd)  # 1/2 d'(F + lam I)d = bound
    undamped = bound - 0.5 * damping * float(d @ d)
    return Aim(d, StepStatus.ACCEPTED, -slope_of(g, d), undamped, *ended)


def natural_step(
    x: Array,
    g: Array,
    F: Operator,
    evaluate: Callable[[Array], tuple[float, float]],
    *,
    bound: float = 1e-2,
    damping: float = 0.0,
    maxiter: int = 20,
    rtol: float = 1e-4,
    shrink: float = 0.5,
    tries: int = 40,
    search: bool = True,
) -> NaturalStep:
    """One natural gradient step of bounded divergence, and what was predicted and found.

    Parameters
    ----------
    x : (n,) array
        The parameters; not modified.
    g : (n,) array
        The gradient at x of the function to lower.
    F : Operator
        The Fisher matrix at x.
    evaluate : callable
        ``evaluate(y)`` returns ``f(x) - f(y)`` and the divergence from x to y.
    bound : float
        On the divergence.
    damping : float
        Multiple of the identity added to the Fisher matrix, which makes the step shorter than the bound allows.
    maxiter, rtol
        Of conjugate gradients.
    shrink, tries
        Of the line search: the first of the lengths 1, shrink, shrink^2, ... at which f has fallen and the divergence
        keeps its bound.
    search : bool
        Without it the whole step is taken, if it is finite.

    Returns
    -------
    NaturalStep
        Every end has a name, and none leads to NaN.

    References
    ----------
    J. Schulman et al., Trust region policy optimization, ICML 2015, appendix C.

    Examples
    --------
    The mean of a Gaussian with standard deviations 1 and 10, from zero towards its negative log-likelihood's minimum:

    >>> import numpy as np, cgopt
    >>> from cgopt.optimize import natural_step
    >>> F, mean = np.diag([1.0, 0.01]), np.array([1.0, 1.0])
    >>> def evaluate(y):
    ...     return (mean @ F @ mean - (y - mean) @ F @ (y - mean)) / 2, y @ F @ y / 2
    >>> step = natural_step(np.zeros(2), -F @ mean, cgopt.operators.as_operator(F), evaluate, bound=0.1)
    >>> step.status.name, step.x.round(3), round(float(step.divergence), 6)
    ('ACCEPTED', array([0.445, 0.445]), 0.1)
    """
    aimed = aim(F, g, bound=bound, damping=damping, maxiter=maxiter, rtol=rtol)
    if aimed.d is None:
        return NaturalStep(x, aimed.status, cg_iterations=aimed.cg_iterations)
    fraction, report = 1.0, NaturalStep(x, StepStatus.LINE_SEARCH_FAILED)
    for shortened in range(tries if search else 1):
        y = x + (fraction * aimed.d).astype(x.dtype)
        decrease, divergence = evaluate(y)
        report = NaturalStep(
            y,
            StepStatus.ACCEPTED,
            divergence,
            fraction**2 * aimed.divergence,
            decrease,
            fraction * aimed.decrease,
            aimed.cg_iterations,
            shortened,
        )
        if allowed(decrease, divergence, bound) or (not search and math.isfinite(decrease + divergence)):
            return report
        fraction *= shrink
    return report._replace(x=x, status=StepStatus.LINE_SEARCH_FAILED if search else StepStatus.NONFINITE)


def allowed(decrease: float, divergence: float, bound: float, noise: float = 0.0) -> bool:
    """Whether a step may be taken: f fell (as far as its rounding shows), and the divergence keeps its bound."""
    return decrease > -noise and divergence <= bound


class NaturalDirection(Direction):
    """`aim` with a damping relative to the Fisher matrix along g; the size is the bound on the divergence."""

    def __init__(self, damping: float, cg_maxiter: int, cg_rtol: float) -> None:
        self.damping, self.cg_maxiter, self.cg_rtol = damping, cg_maxiter, cg_rtol

    def propose(self, objective: Objective, at: Point, size: float) -> Proposal:
        """The scaled step, or the gradient itself where the Fisher matrix gives none."""
        F, g = objective.curvature(at.x), at.gradient
        along = slope_of(g, F @ g) / at.norm**2 if at.norm > 0.0 else 0.0
        lam = self.damping * max(along, 0.0)
        aimed = aim(F, g, bound=size, damping=lam, maxiter=self.cg_maxiter, rtol=self.cg_rtol)
        d = -g if aimed.d is None else aimed.d.astype(g.dtype)
        slope = slope_of(g, d)
        return Proposal(
            d, slope, -slope, True, {"cg_iterations": aimed.cg_iterations, "cg_status": aimed.cg_status}, []
        )


class DivergenceSearch(Search):
    """Half the step, and half of that, until f falls and the divergence keeps its bound."""

    def __init__(
        self, bound: float, divergence: Callable[[Array, Array], float] | None, shrink: float, tries: int
    ) -> None:
        self.size, self.divergence, self.shrink, self.tries = bound, divergence, shrink, tries

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """The longest of the trials that is allowed."""
        noise = noise_of(at.fun, float(np.finfo(at.x.dtype).eps) / 2.0)
        alpha = 1.0
        for _ in range(self.tries):
            x = at.x + at.x.dtype.type(alpha) * proposal.d
            kl = alpha**2 * self.size if self.divergence is None else float(self.divergence(at.x, x))
            fun = objective.value(x) if kl <= self.size else math.inf
            if allowed(at.fun - fun, kl, self.size, noise):
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
        ``divergence(x, y)``; without it the damped quadratic model is believed.
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
