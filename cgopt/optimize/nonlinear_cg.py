"""Nonlinear conjugate gradients: directions from gradients alone.

R. Fletcher and C. M. Reeves, Computer J. 7, 1964; E. Polak and G. Ribiere, 1969, with the restart of M. J. D. Powell,
1984 (PR+); W. W. Hager and H. Zhang, A new conjugate gradient method with guaranteed descent and an efficient line
search, SIAM J. Optim. 16, 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from ..arguments import one_of
from ..arrays import Array
from .descent import Direction, Point, Proposal, Search, Taken, descend, length_of, slope_of
from .line_search import wolfe
from .objective import Objective

FORMULAS = ("hager-zhang", "polak-ribiere", "fletcher-reeves")
ETA = 0.01  # Hager and Zhang's bound below which beta is cut off, relative to the gradients


class ConjugateDirection(Direction):
    """``d = -g + beta d``."""

    def __init__(self, formula: str) -> None:
        self.formula = one_of("formula", formula, FORMULAS)
        self.d: Array | None = None
        self.before: Array | None = None

    def propose(self, objective: Objective, at: Point, size: float) -> Proposal:
        """The next direction; steepest descent where the formula's does not descend."""
        g = at.gradient.astype(np.float64)
        d = -g
        if self.d is not None and self.before is not None:
            d = -g + self.beta(g, self.before, self.d) * self.d
            if not slope_of(g, d) < 0.0:
                d = -g
        d = d.astype(at.x.dtype)
        slope = slope_of(g, d)
        return Proposal(d, slope, -slope, False, {"steepest": bool((d == -at.gradient).all())}, [])

    def beta(self, g: Array, before: Array, d: Array) -> float:
        """The share of the old direction, by the gradients here and before."""
        y = g - before
        old = float(before @ before)
        if self.formula == "fletcher-reeves":
            # Powell's restart (Math. Program. 12, 1977): from a short step this formula goes on in short steps
            return float(g @ g) / old if abs(float(g @ before)) < 0.2 * float(g @ g) else 0.0
        if self.formula == "polak-ribiere":
            return max(0.0, float(g @ y) / old)
        dy = float(d @ y)
        if dy == 0.0:
            return 0.0
        # Hager and Zhang 2005, equations 1.3, 1.5 and 1.6
        beta = float((y - 2.0 * d * (float(y @ y) / dy)) @ g) / dy
        norm_d, norm_g = length_of(d), float(np.sqrt(old))
        return max(beta, -1.0 / (norm_d * min(ETA * norm_g, norm_g)))

    def learn(self, before: Point, after: Point, taken: Taken) -> None:
        """Keep the direction and the gradient; begin again after a step that was refused."""
        if taken.alpha:
            self.d = (after.x.astype(np.float64) - before.x) / taken.alpha
            self.before = before.gradient.astype(np.float64)
        else:
            self.d = self.before = None

    def state(self) -> dict[str, Any]:
        """The old direction and gradient."""
        return {} if self.d is None or self.before is None else {"d": self.d, "before": self.before}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.d, self.before = state.get("d"), state.get("before")


class WolfeSearch(Search):
    """A step that meets the strong Wolfe conditions, first tried at the length that the last one suggests."""

    def __init__(self, c2: float) -> None:
        self.c2, self.last = c2, 0.0  # alpha times slope of the last step
        self.refused = 0

    def take(self, objective: Objective, at: Point, proposal: Proposal) -> Taken:
        """Search along the proposal."""
        if self.last < 0.0:
            alpha = self.last / proposal.slope
        elif at.x.any():  # Hager and Zhang 2005, I0: a hundredth of x
            alpha = 0.01 * float(np.max(np.abs(at.x))) / float(np.max(np.abs(proposal.d)))
        else:
            alpha = -0.01 * abs(at.fun) / proposal.slope if at.fun else 1.0
        step = wolfe(objective, at.x, at.fun, proposal.slope, proposal.d, alpha=alpha, c2=self.c2)
        self.last = step.alpha * proposal.slope
        self.refused = 0 if step.alpha else self.refused + 1
        return Taken(step.x, step.fun, step.alpha, {"alpha": step.alpha})

    def hopeless(self, at: Point) -> bool:
        """When steepest descent was refused too."""
        return self.refused > 1

    def state(self) -> dict[str, Any]:
        """Where the next search begins."""
        return {"last": self.last, "refused": self.refused}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.last, self.refused = float(state["last"]), int(state["refused"])


def nonlinear_cg(
    objective: Objective,
    x0: Any,
    *,
    formula: str = "hager-zhang",
    gtol: float = 1e-6,
    maxiter: int = 10_000,
    c2: float = 0.1,
    callback: Callable[..., Any] | None = None,
    state: dict[str, Any] | None = None,
) -> OptimizeResult:
    """Minimise by nonlinear conjugate gradients.

    Parameters
    ----------
    objective : Objective
    x0 : (n,) array
    formula : {"hager-zhang", "polak-ribiere", "fletcher-reeves"}
        Of beta; "polak-ribiere" is cut off at zero.
    gtol : float
        Converged when the gradient's norm is below `gtol` times that at x0.
    maxiter : int
    c2 : float
        How far the slope must fall in a line search, between 1e-4 and 1.
    callback, state
        As for `cgopt.minimize`.

    Returns
    -------
    OptimizeResult

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> from scipy.optimize import rosen, rosen_der
    >>> f = cgopt.optimize.FunctionObjective(rosen, rosen_der)
    >>> cgopt.optimize.nonlinear_cg(f, np.array([-1.2, 1.0]), gtol=1e-8).x.round(5)
    array([1., 1.])
    """
    return descend(
        objective, x0, ConjugateDirection(formula), WolfeSearch(c2), gtol=gtol, maxiter=maxiter, callback=callback,
        state=state,
    )  # fmt: skip
