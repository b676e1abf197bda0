"""Checked arguments: each function returns the value as it will be used, or says what is wrong with it."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Seed: TypeAlias = int | np.random.Generator | None

REAL_DTYPES = ("float32", "float64")
FLOAT_DTYPES = (*REAL_DTYPES, "complex64", "complex128")


def whole_number(name: str, value: object, *, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`; the argument's `name` is for the message."""
    # True is 1 to Python, but a flag where a size belongs is a slip.
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
    try:
        number = operator.index(value)
    except TypeError:  # an array of floats has __index__ too, and refuses only when asked
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def real_number(name: str, value: object, *, above: float = -math.inf, below: float = math.inf) -> float:
    """`value` as a float strictly between `above` and `below` (so never NaN or infinite)."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type(value).__name__})")
    number = float(value)
    if not above < number < below:
        raise ValueError(f"{name} must be between {above:g} and {below:g}, exclusive; got {number:g}")
    return number


def float_dtype(dtype: npt.DTypeLike, *, allowed: Collection[str]) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype, one of the `allowed` names."""
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be one of {', '.join(allowed)}, got {dtype!r}") from error
    if found.name not in allowed:
        raise ValueError(f"dtype must be one of {', '.join(allowed)}, got {found.name}")
    return found


def generator(rng: Seed) -> np.random.Generator:
    """The random generator that `rng` (None, a seed, or a generator) stands for."""
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(whole_number("rng", rng, minimum=0))
    except TypeError:
        raise TypeError(f"rng must be None, an int or a numpy.random.Generator, got {rng!r}") from None


def nearest_names(name: str, names: Iterable[str]) -> str:
    """The sentence that helps after a misspelt `name`, or nothing where none of `names` is near it."""
    lowered = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=3)
    return f" Nearest: {', '.join(lowered[n] for n in near)}." if near else ""


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """`value`, one of the `known` names."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        near = nearest_names(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.{near}")
    return value
