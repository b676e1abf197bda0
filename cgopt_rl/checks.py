"""Checked arguments and the nearest right names: what every part of the front end says of bad input."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cgopt.arguments import nearest_names, whole_number

__all__ = ["integer", "nearest_names", "number", "unknown"]

integer = whole_number


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """`value` as a finite float from `low` to `high`, ends included unless they are said to be open."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type(value).__name__})")
    x = float(value)
    inside = (low < x if open_low else low <= x) and (x < high if open_high else x <= high)
    if not (inside and math.isfinite(x)):
        left, right = "(" if open_low or math.isinf(low) else "[", ")" if open_high or math.isinf(high) else "]"
        raise ValueError(f"{name} must be a finite number in {left}{low:g}, {high:g}{right}, got {value!r}")
    return x


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """The sentence about a word that is not known: the nearest ones, or all if none is near."""
    known = list(known)
    near = nearest_names(word, known) or f" There are: {', '.join(known)}."
    return f"there is no {kind} {word!r}.{near}"
