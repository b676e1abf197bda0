"""When a solve may stop: tolerances, and what a callback is shown and may answer."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array


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
    if isinstance(value, bool) or not (
        isinstance(value, numbers.Integral) or (isinstance(value, numbers.Real) and float(value).is_integer())
    ):
        raise TypeError(f"maxiter must be a whole number or None, got {value!r}")
    if value < 0:
        raise ValueError(f"maxiter must not be negative, got {value!r}")
    return int(value)


def check_callback(callback: Any, name: str = "callback") -> tuple[Callable[..., Any] | None, bool]:
    """The callback, and whether it wants the rich state (a parameter named ``intermediate_result``)."""
    if callback is None:
        return None, False
    if not callable(callback):
        raise TypeError(f"{name} must be a function, got {type(callback).__name__}")
    try:
        rich = "intermediate_result" in inspect.signature(callback).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        rich = False
    return callback, rich


def asks_to_stop(callback: Callable[..., Any], rich: bool, state: IterationState) -> bool:
    """Call the callback; whether it returned or raised StopIteration."""
    try:
        answer = callback(intermediate_result=state) if rich else callback(state.x)
    except StopIteration:
        return True
    return answer is StopIteration or isinstance(answer, StopIteration)
