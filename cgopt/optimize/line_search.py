"""Line searches: Armijo's, which shortens a step until it pays, and one for the Wolfe conditions.

L. Armijo, Pacific J. Math. 16, 1966; P. Wolfe, SIAM Review 11, 1969; J. Nocedal and S. J. Wright, Numerical
Optimization, 2006, algorithms 3.5 and 3.6; W. W. Hager and H. Zhang, SIAM J. Optim. 16, 2005 (the approximate
conditions, which hold where the decrease is below the rounding of the values).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from .objective import Objective


class LineStep(NamedTuple):
    """What a search found: ``x + alpha d``; alpha is zero if nothing paid."""

    alpha: float
    x: Array
    fun: float


def noise_of(fun: float, unit: float) -> float:
    """By how much two values may differ through rounding alone."""
    return 10.0 * unit * abs(fun)


def armijo(
    objective: Objective,
    x: Array,
    fun: float,
    slope: float,
    d: Array,
    *,
    alpha: float = 1.0,
    c: float = 1e-4,
    shrink: float = 0.5,
    tries: int = 60,
    first: float | None = None,
) -> LineStep:
    """The first of ``alpha, shrink alpha, ...`` with ``f(x + alpha d) <= f(x) + c alpha g'd``.

    Parameters
    ----------
    objective : Objective
    x, d : (n,) arrays
    fun, slope : float
        f(x), and g'd < 0.
    first : float, optional
        ``f(x + alpha d)``, where it is known.
    """
    unit = float(np.finfo(x.dtype).eps) / 2.0
    for trial in range(tries):
        point = x + x.dtype.type(alpha) * d
        value = first if trial == 0 and first is not None else objective.value(point)
        if value <= fun + c * alpha * slope + noise_of(fun, unit):
            return LineStep(alpha, point, value)
        alpha *= shrink
    return LineStep(0.0, x, fun)


def wolfe(
    objective: Objective,
    x: Array,
    fun: float,
    slope: float,
    d: Array,
    *,
    alpha: float = 1.0,
    c1: float = 1e-4,
    c2: float = 0.1,
    tries: int = 40,
) -> LineStep:
    """A step with ``f(x + alpha d) <= f + c1 alpha g'd`` and ``|g(x + alpha d)'d| <= c2 |g'd|``.

    The interval between a step that is too short and one that is too long is narrowed by the cubic through values and
    slopes at its ends, kept off them, until both hold.

    Parameters
    ----------
    objective : Objective
    x, d : (n,) arrays
    fun, slope : float
        f(x), and g'd < 0.
    alpha : float
        The first trial.
    """
    unit = float(np.finfo(x.dtype).eps) / 2.0
    noise = noise_of(fun, unit)
    low, f_low, s_low = 0.0, fun, slope
    high, f_high, s_high = math.inf, math.nan, math.nan
    best = LineStep(0.0, x, fun)
    for _ in range(tries):
        point = x + x.dtype.type(alpha) * d
        value = objective.value(point)
        s = float(np.dot(objective.gradient(point).astype(np.float64), d)) if math.isfinite(value) else math.nan
        paid = value <= fun + c1 * alpha * slope or (
            # Hager and Zhang 2005, equation 23: the same by slopes, where values cannot tell
            value <= fun + noise and s <= (2.0 * c1 - 1.0) * slope
        )
        if paid and value <= best.fun + noise:
            best = LineStep(alpha, point, value)
            if abs(s) <= -c2 * slope:
                return best
        if not paid or not math.isfinite(s) or value > f_low + noise:
            high, f_high, s_high = alpha, value, s
        elif s < 0.0:
            low, f_low, s_low = alpha, value, s
        else:
            high, f_high, s_high = alpha, value, s
        if math.isinf(high):
            alpha *= 3.0
            continue
        width = high - low
        alpha = cubic_minimum(low, f_low, s_low, high, f_high, s_high)
        if not low + 0.1 * width <= alpha <= high - 0.1 * width:
            alpha = low + 0.5 * width
        if width <= unit * high:
            break
    return best


def cubic_minimum(a: float, fa: float, sa: float, b: float, fb: float, sb: float) -> float:
    """Minimum of the cubic with values fa, fb and slopes sa, sb at a and b (Nocedal and Wright 2006, equation 3.59)."""
    if not (math.isfinite(fb) and math.isfinite(sb)):
        return math.nan
    scale = max(abs(sa), abs(sb))  # of the slopes, whose squares may leave the range
    if scale == 0.0:
        return math.nan
    fa, sa, fb, sb = fa / scale, sa / scale, fb / scale, sb / scale
    d1 = sa + sb - 3.0 * (fa - fb) / (a - b)
    square = d1 * d1 - sa * sb
    if square < 0.0:
        return math.nan
    d2 = math.copysign(math.sqrt(square), b - a)
    divisor = sb - sa + 2.0 * d2
    return b - (b - a) * (sb + d2 - d1) / divisor if divisor != 0.0 else math.nan
