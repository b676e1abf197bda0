"""How far a quadratic model is trusted: rules that learn a damping or a radius from the ratio of gained to promised.

D. W. Marquardt, SIAM J. Appl. Math. 11, 1963; J. Martens, ICML 2010, section 4.1 (constants of `LevenbergMarquardt`);
A. R. Conn, N. I. M. Gould and Ph. L. Toint, Trust-region methods, 2000, algorithm 6.1.1 (`TrustRadius`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class LevenbergMarquardt:
    """The multiple lam of the identity that is added to the curvature.

    It is of the size of the curvature, and so relative to the mean loss, not to its sum.

    Attributes
    ----------
    lam : float
    """

    lam: float
    low: float = 0.25
    high: float = 0.75
    factor: float = 1.5

    def update(self, ratio: float) -> None:
        """Raise lam after a step that gained less than `low` of what the model promised, lower it above `high`."""
        if not ratio >= self.low:  # NaN too
            self.lam *= self.factor
        elif ratio > self.high:
            self.lam /= self.factor


@dataclass
class TrustRadius:
    """The radius within which the model is trusted.

    Attributes
    ----------
    radius : float
    """

    radius: float
    low: float = 0.25
    high: float = 0.75
    shrink: float = 0.25
    grow: float = 2.0

    def update(self, ratio: float, length: float, on_boundary: bool) -> None:
        """Shrink to a quarter of the step that disappointed, double after a good one that reached the boundary."""
        if not ratio >= self.low:
            self.radius = self.shrink * min(self.radius, length)
        elif ratio > self.high and on_boundary:
            self.radius *= self.grow


def reduction_ratio(before: float, after: float, promised: float, unit: float) -> float:
    """``(before - after) / promised``, near one where both are below the rounding of the values.

    Conn, Gould and Toint 2000, section 17.4.2: otherwise rounding decides near a minimum.
    """
    noise = 10.0 * unit * max(abs(before), abs(after) if math.isfinite(after) else 0.0)
    if promised + noise == 0.0:
        return math.nan
    return (before - after + noise) / (promised + noise)
