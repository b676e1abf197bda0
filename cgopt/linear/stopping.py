"""When a solve may stop: tolerances, and what a callback is shown and may answer."""

from __future__ import annotations

import inspect
import math
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..kernels import loops
from .workspace import scale_rows, times_power

INTERVAL = 0.1  # seconds between two calls of a progress function


@dataclass(frozen=True)
class IterationState:
    """What a callback with a parameter named ``intermediate_result`` is given after each iteration.

    Attributes
    ----------
    x : (n,) or (n, k) array
        The iterate, read-only; copy it to keep it.
    iteration : int
        Iterations made so far.
    residual_norm : float or (k,) array
        Norm of the (recursive) residual.
    alpha, beta : float or (k,) array
        Step length of this iteration, and the share of the old direction in the next.
    target : float or (k,) array
        The norm at which the solve ends.
    """

    x: Array
    iteration: int
    residual_norm: Any
    alpha: Any
    beta: Any
    target: Any


def check_tolerance(value: Any, name: str) -> float:
    """A tolerance as a float: a real number that is not negative.

    Raises
    ------
    TypeError, ValueError
    """
    if type(value) is float and value >= 0.0:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number that is not negative, got {value!r}")
    if not float(value) >= 0.0:
        raise ValueError(f"{name} must be a real number that is not negative, got {value!r}")
    return float(value)


def check_maxiter(value: Any, n: int) -> int:
    """The number of iterations allowed; None means 10 n, as in SciPy."""
    if value is None:
        return 10 * n
    if type(value) is not int and (
        isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value).is_integer()
    ):
        raise TypeError(f"maxiter must be a whole number or None, got {value!r}")
    if value < 0:
        raise ValueError(f"maxiter must not be negative, got {value!r}")
    return int(float(value)) if type(value) is not int else value


def require_function(callback: Any, name: str) -> Any:
    """What is called, or None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be a function, got {type(callback).__name__}")
    return callback


def check_callback(callback: Any, name: str = "callback") -> tuple[Callable[..., Any] | None, bool]:
    """The callback, and whether it wants the rich state (a parameter named ``intermediate_result``)."""
    if require_function(callback, name) is None:
        return None, False
    try:
        rich = "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        rich = False
    return callback, rich


class Goal(NamedTuple):
    """When a solve may end: the tolerances, the iterations allowed, and what the tolerances are of."""

    rtol: float
    atol: float
    maxiter: int
    criterion: str = "residual"
    eigenvalue_bound: float | None = None

    def stride(self, iterations: int) -> int:
        """Iterations between two looks at the error estimate: a sixteenth of those made, so few are wasted."""
        return max(4, iterations // 16)


def check_criterion(criterion: Any, eigenvalue_bound: Any) -> tuple[str, float | None]:
    """What tolerances are of: "residual" or "error", the latter perhaps with a bound of the smallest eigenvalue."""
    if criterion not in ("residual", "error"):
        raise ValueError(f"criterion must be 'residual' or 'error', got {criterion!r}")
    if eigenvalue_bound is None:
        return criterion, None
    if criterion != "error":
        raise ValueError("eigenvalue_bound is for criterion='error': with 'residual' it would change nothing")
    return criterion, check_eigenvalue_bound(eigenvalue_bound)


def check_eigenvalue_bound(value: Any) -> float:
    """A bound of the smallest eigenvalue as a float: positive and finite."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"eigenvalue_bound must be a positive real number, got {value!r}")
    if not 0.0 < float(value) < math.inf:
        raise ValueError(f"eigenvalue_bound must be a positive real number, got {value!r}")
    return float(value)


def in_given_order(x: Array, order: Array) -> Array:
    """A copy of x whose entry ``order[i]`` is x's entry i."""
    out = np.empty_like(x)
    out[order] = x
    return out


class Listeners:
    """Who is told of the iterations: a callback after each, a progress function a few times a second."""

    def __init__(self, callback: Any, progress: Any, order: Array | None = None) -> None:
        self.order = order  # unknown i of the solve is the user's order[i]
        self.callback, self.rich = check_callback(callback)
        self.progress = require_function(progress, "progress")
        self.each_iteration = self.callback is not None
        self.any = self.each_iteration or self.progress is not None
        self._next = 0.0

    def stride(self, iterations: int) -> int | None:
        """Iterations until `stop` is to be called again; None is for as many as are efficient."""
        return None

    def stop(self, x: Array, shift: Any, iteration: int, log: Array, target: Any, exponent: Any, unit: int) -> bool:
        """Tell them; whether the callback asked for the end.

        Parameters
        ----------
        x : (n,) or (n, k) array
            The iterate as solved for; the user's is ``2**shift x``.
        log : (steps, LOG_COLUMNS) or (k, LOG_COLUMNS) array
            The log since the last call, or of several systems the last row of each.
        target : float or (k,) array
            Square of the norm to reach, of ``2**exponent b``.
        unit : int
            Step lengths are ``2**unit`` times those of the log.
        """
        if self.callback is None and time.monotonic() < self._next:
            return False
        if shift if x.ndim == 1 else np.any(shift):
            x = x.copy()
            scale_rows(np.atleast_2d(x.T), np.atleast_1d(shift))
        if self.order is not None:
            x = in_given_order(x, self.order)
        shown = x.view()
        if isinstance(shown, np.ndarray):
            shown.flags.writeable = False
        if x.ndim == 1:
            rr, _, alpha, beta = log[-1].tolist()
            norm, bound = (times_power(math.sqrt(square), -exponent) for square in (rr, target))
            state = IterationState(shown, iteration, norm, times_power(alpha, unit), beta, bound)
        else:
            with np.errstate(over="ignore", under="ignore"):
                norms = np.ldexp(np.sqrt(log[:, loops.LOG_RR]), -np.asarray(exponent))
                targets = np.ldexp(np.sqrt(target), -np.asarray(exponent))
                alphas = np.ldexp(log[:, loops.LOG_ALPHA], unit)
            state = IterationState(shown, iteration, norms, alphas, log[:, loops.LOG_BETA].copy(), targets)
        if self.progress is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            self.progress(state)
        if self.callback is None:
            return False
        try:
            answer = self.callback(intermediate_result=state) if self.rich else self.callback(shown)
        except StopIteration:
            return True
        return answer is StopIteration or isinstance(answer, StopIteration)
