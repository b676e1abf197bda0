"""Interleaved timing: contenders take turns A B C A B C ..., and medians are compared.

A machine's speed drifts (other work, clock, memory placement). Taking turns spreads the drift over all
contenders alike, so that ratios of medians hold where absolute figures do not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

SETTLE_SECONDS = 0.05
"""Pause before each turn: OpenBLAS and OpenMP threads of the last turn spin up to 30 ms before they sleep."""


@dataclass(frozen=True)
class Pair:
    """Seconds of the same solve with few and with many iterations, timed one after the other."""

    few: float
    many: float


def take_turns(
    contenders: Mapping[str, Callable[[], T]],
    repeat: int,
    *,
    budget: float = math.inf,
    warm_up: bool = True,
    settle: float = SETTLE_SECONDS,
) -> dict[str, list[T]]:
    """Run `repeat` rounds in which every contender has one turn, after one unrecorded turn of each.

    Parameters
    ----------
    contenders : mapping of str to callable
        A turn: it times itself and returns what it measured.
    repeat : int
        Number of rounds.
    budget : float
        Seconds after which no further round is begun that would, judged by those before, end later.
    warm_up : bool
        Whether to begin with the unrecorded turns; not needed when other turns have warmed everything up.
    settle : float
        Seconds of sleep before each turn.

    Returns
    -------
    dict of str to list
        For each contender what its turns returned, in order.
    """
    if warm_up:
        for turn in contenders.values():
            turn()
    measured: dict[str, list[T]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for round_ in range(repeat):
        if round_ and (time.perf_counter() - start) * (round_ + 1) / round_ > budget:
            break
        for name, turn in contenders.items():
            time.sleep(settle)
            measured[name].append(turn())
    return measured


def per_iteration(pairs: Sequence[Pair], few: int, many: int) -> list[float]:
    """Seconds per iteration of each pair: (T(many) - T(few)) / (many - few); set-up and exit cancel."""
    return [(pair.many - pair.few) / (many - few) for pair in pairs]


def beyond_iterations(pairs: Sequence[Pair], few: int, many: int) -> list[float]:
    """Seconds that a solve with no iterations would take, extrapolated from each pair."""
    return [pair.few - few * slope for pair, slope in zip(pairs, per_iteration(pairs, few, many), strict=True)]


def spread(samples: Sequence[float]) -> float:
    """Half the interquartile range as a share of the median: how noisy the run was."""
    if len(samples) < 2:
        return 0.0
    lower, _, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return (upper - lower) / 2 / abs(statistics.median(samples))
