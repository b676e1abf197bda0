"""What a linear solver returns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import loops
from ..status import Status, info_of
from . import lanczos
from .stopping import check_eigenvalue_bound, in_given_order


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
        "_before",
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
        self._before: CGResult | None = None  # the first part of a solve that went on with another preconditioner

    def follow(self, first: CGResult) -> CGResult:
        """Take what another result tells for the first part of the same solve."""
        self._before, first.x = first, self.x  # whose own x nobody needs any more
        self.iterations += first.iterations
        return self

    def reorder(self, order: Array) -> None:
        """Put the vectors into the order in which entry i of them is entry ``order[i]``."""
        self.x = in_given_order(self.x, order)
        if self.negative_curvature is not None:
            self.negative_curvature = in_given_order(self.negative_curvature, order)

    @property
    def info(self) -> int:
        """SciPy's integer."""
        return info_of(self.status, self.iterations)

    @property
    def converged(self) -> bool:
        """Whether the solution meets the tolerance: the true residual, or the estimated error where that was asked."""
        return self.status.converged

    @cached_property
    def history(self) -> Array:
        """Residual norms from iteration 0 on."""
        squares = np.concatenate(([self._start[0]], self._log[:, loops.LOG_RR]))
        with np.errstate(over="ignore", under="ignore"):  # the norm of a vector may be out of its entries' range
            norms: Array = np.ldexp(np.sqrt(squares), -self._final[1])
        return norms if self._before is None else np.concatenate((self._before.history, norms[1:]))

    @property
    def _alpha(self) -> Array:
        return self._log[:, loops.LOG_ALPHA]

    @property
    def _beta(self) -> Array:
        return self._log[:, loops.LOG_BETA]

    @cached_property
    def step_lengths(self) -> Array:
        """The step length alpha of each iteration, (iterations,)."""
        lengths: Array = np.ldexp(self._alpha, self._final[2])
        return lengths if self._before is None else np.concatenate((self._before.step_lengths, lengths))

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
        return float(self._energy_norm(lanczos.error_lower_bound(self._alpha, self._rz[:-1])))

    @property
    def _rz(self) -> Array:
        return np.concatenate(([self._start[1]], self._log[:, loops.LOG_RZ]))

    def _energy_norm(self, solved: Any) -> Any:
        """An A-norm in the user's units, from one in those that were solved in."""
        matrix, side, _ = self._final
        return np.ldexp(solved, -side) * 2.0 ** (matrix / 2)

    def error_bounds(self, eigenvalue_bound: float | None = None) -> lanczos.ErrorBounds:
        """Lower and upper bounds of ``|x* - x_k|_A`` for every iterate, from the coefficients alone.

        Parameters
        ----------
        eigenvalue_bound : float, optional
            A positive number not above the smallest eigenvalue of A (of M A when preconditioned); the upper values are
            then Gauss and Radau's bounds. Without it the smallest Ritz value takes its place, and the upper values are
            estimates.

        Returns
        -------
        ErrorBounds
            ``lower`` and ``upper``, (iterations + 1,) arrays.

        Notes
        -----
        The bounds are those of exact arithmetic, and hold in floating point until the error comes near what rounding
        lets it reach (Strakos and Tichy, ETNA 13, 2002). The lower ones at the end have few later steps to draw on.

        References
        ----------
        M. R. Hestenes and E. Stiefel, J. Res. Natl. Bur. Stand. 49, 1952, theorem 6:1.
        G. Meurant and P. Tichy, Numer. Algorithms 62, 2013 and 82, 2019.

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> A = cgopt.gallery.poisson((30, 30))
        >>> x = np.random.default_rng(0).standard_normal(900)
        >>> result = cgopt.cg(A, A @ x, rtol=1e-8)
        >>> bounds = result.error_bounds(eigenvalue_bound=cgopt.gallery.poisson_eigenvalues((30, 30))[0])
        >>> error = np.sqrt(x @ A @ x)  # of the first iterate, zero
        >>> bool(bounds.lower[0] <= error * (1 + 1e-12) and error <= bounds.upper[0] * (1 + 1e-12))
        True
        >>> bool(bounds.upper[0] / bounds.lower[0] < 1 + 1e-10)
        True
        """
        if self.iterations == 0:
            # nothing is known but, with a bound, |e|_A <= |r|_M / sqrt(bound); r'Mr is known after a start only
            return lanczos.ErrorBounds(np.zeros(1), np.array([0.0 if self.residual_norm == 0.0 else np.inf]))
        radau = eigenvalue_bound is not None
        smallest = check_eigenvalue_bound(eigenvalue_bound) if radau else float(self.ritz_values[0])
        bounds = lanczos.squared_error_bounds(
            self._alpha, self._beta, self._rz, math.ldexp(smallest, self._final[2]), radau
        )
        return lanczos.ErrorBounds(*(self._energy_norm(np.sqrt(values)) for values in bounds))

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
        CONVERGED (or ACCURATE) if every column converged, otherwise that of the first column that did not.
    info : int
        0 if every column converged, otherwise that of the same column.
    """

    def __init__(self, x: Any, columns: list[CGResult]) -> None:
        self.x = x
        self.columns = columns
        worst = next((c for c in columns if not c.converged), None)
        accurate = any(c.status is Status.ACCURATE for c in columns)
        done = Status.ACCURATE if accurate else Status.CONVERGED
        self.status = done if worst is None else worst.status
        self.info = 0 if worst is None else worst.info

    def reorder(self, order: Array) -> None:
        """Put the vectors into the order in which entry i of them is entry ``order[i]``."""
        self.x = in_given_order(self.x, order)
        for j, column in enumerate(self.columns):
            column.reorder(order)
            column.x = self.x[:, j]

    @property
    def statuses(self) -> list[Status]:
        """The columns' statuses."""
        return [c.status for c in self.columns]

    @property
    def converged(self) -> bool:
        """Whether every column converged."""
        return self.status.converged

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
