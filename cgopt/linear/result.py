"""What a linear solver returns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import loops
from ..status import Status, info_of
from . import lanczos


class CGResult:
    """The answer of a solve; unpacks as SciPy's ``x, info``.

    Attributes
    ----------
    x : (n,) array
    status : Status
        Why the solve ended; its value is a sentence.
    info : int
        0 converged, > 0 iterations used up or stopped, < 0 breakdown.
    iterations : int
    residual_norm : float
        ``|b - A x|``, computed from x at the end.
    history : (iterations + 1,) array
        Residual norms from iteration 0 on: the recursive ones, true ones where they were computed.
    negative_curvature : (n,) array or None
        A direction d with d'Ad <= 0, if one was found.
    """

    __slots__ = (
        "__dict__",
        "_final",
        "_log",
        "_start",
        "iterations",
        "negative_curvature",
        "residual_norm",
        "status",
        "x",
    )

    def __init__(
        self,
        x: Any,
        status: Status,
        iterations: int,
        residual_norm: float,
        log: Array,
        start: tuple[float, float],
        exponents: tuple[int, int, int] = (0, 0, 0),
        negative_curvature: Array | None = None,
    ) -> None:
        self.x = x
        self.status = status
        self.iterations = iterations
        self.residual_norm = residual_norm
        self.negative_curvature = negative_curvature
        self._log, self._start, self._final = log, start, exponents

    @property
    def info(self) -> int:
        """SciPy's integer."""
        return info_of(self.status, self.iterations)

    @property
    def converged(self) -> bool:
        """Whether the true residual meets the tolerance."""
        return self.status is Status.CONVERGED

    @cached_property
    def history(self) -> Array:
        """Residual norms from iteration 0 on."""
        squares = np.concatenate(([self._start[0]], self._log[:, loops.LOG_RR]))
        with np.errstate(over="ignore", under="ignore"):  # the norm of a vector may be out of its entries' range
            norms: Array = np.ldexp(np.sqrt(squares), -self._final[1])
        return norms

    @property
    def _alpha(self) -> Array:
        return self._log[:, loops.LOG_ALPHA]

    @property
    def _beta(self) -> Array:
        return self._log[:, loops.LOG_BETA]

    @property
    def step_lengths(self) -> Array:
        """The step length alpha of each iteration, (iterations,)."""
        lengths: Array = np.ldexp(self._alpha, self._final[2])
        return lengths

    @cached_property
    def ritz_values(self) -> Array:
        """The smallest and the largest Ritz value, (2,): of A, or of M A when preconditioned.

        They lie inside the spectrum. Empty when there was no iteration.
        """
        return np.ldexp(lanczos.ritz_values(self._alpha, self._beta, extreme=True), -self._final[2])

    @cached_property
    def condition_estimate(self) -> float:
        """Ratio of the extreme Ritz values: a lower bound of the (preconditioned) condition number."""
        return lanczos.condition_estimate(self._alpha, self._beta)

    @cached_property
    def error_estimate(self) -> float:
        """Lower bound of ``|x* - x_k|_A``, k four iterations before the end (Hestenes and Stiefel 1952)."""
        rz = np.concatenate(([self._start[1]], self._log[:, loops.LOG_RZ]))[:-1]
        matrix, side, _ = self._final
        return float(np.ldexp(lanczos.error_lower_bound(self._alpha, rz), -side) * 2.0 ** (matrix / 2))

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: Any) -> Any:
        return (self.x, self.info)[i]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.status.name}, iterations={self.iterations}, "
            f"residual_norm={self.residual_norm:.3e})\n  {self.status.value}"
        )


def nothing_to_solve(b: Array, dtype: Any, many: bool) -> CGResult | ManyResult:
    """The answer to a system without unknowns, or to no right-hand side at all: solved, by nothing."""
    log = np.empty((0, loops.LOG_COLUMNS))
    x = np.zeros(b.shape if many else b.shape[0], dtype)
    columns = x.T if many else [x]
    results = [CGResult(column, Status.CONVERGED, 0, 0.0, log, (0.0, 0.0)) for column in columns]
    return ManyResult(x, results) if many else results[0]


class ManyResult:
    """The answer for k right-hand sides; unpacks as ``x, info``.

    Attributes
    ----------
    x : (n, k) array
    columns : list of CGResult
        One for each right-hand side, with a status of its own; its x is a view of a column of `x`.
    status : Status
        CONVERGED if every column converged, otherwise that of the first column that did not.
    info : int
        0 if every column converged, otherwise that of the same column.
    """

    def __init__(self, x: Any, columns: list[CGResult]) -> None:
        self.x = x
        self.columns = columns
        worst = next((c for c in columns if not c.converged), None)
        self.status = Status.CONVERGED if worst is None else worst.status
        self.info = 0 if worst is None else worst.info

    @property
    def statuses(self) -> list[Status]:
        """The columns' statuses."""
        return [c.status for c in self.columns]

    @property
    def converged(self) -> bool:
        """Whether every column converged."""
        return self.status is Status.CONVERGED

    @property
    def iterations(self) -> int:
        """Iterations of the column that took most."""
        return max((c.iterations for c in self.columns), default=0)

    @property
    def residual_norm(self) -> Array:
        """True residual norms, (k,)."""
        return np.array([c.residual_norm for c in self.columns])

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: Any) -> Any:
        return (self.x, self.info)[i]

    def __repr__(self) -> str:
        done = sum(c.converged for c in self.columns)
        return (
            f"ManyResult({done} of {len(self.columns)} converged, iterations={self.iterations})\n  {self.status.value}"
        )
