"""The solvers that run in this process: cgopt, SciPy and PyAMG, behind one small interface."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyamg.krylov
import scipy.sparse.linalg
from numpy.typing import NDArray

import cgopt
from benchmarks.peers.problems import Problem

UNREACHED = 1e-14
"""The relative tolerance of solves with a fixed number of iterations; all stay far above it."""

MAXITER = 100_000
"""Iterations allowed to a whole solve."""


@dataclass(frozen=True)
class WholeSolve:
    """One solve to a tolerance: preparation, solution, and what came out.

    Attributes
    ----------
    setup, seconds : float
        Seconds of preparation and of the solve after it.
    iterations : int
        Summed over the right-hand sides.
    residual : float
        The largest true relative residual ``norm(b - A x) / norm(b)`` over the right-hand sides, computed
        here by the same code for every contender.
    """

    setup: float
    seconds: float
    iterations: int
    residual: float


class Contender(ABC):
    """A solver with one problem loaded."""

    name: str

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def fixed(self, iterations: int, solves: int) -> float:
        """Seconds that `solves` solves take, each stopped after exactly `iterations` iterations."""

    @abstractmethod
    def whole(self, rtol: float) -> WholeSolve:
        """Solve all right-hand sides to the relative residual `rtol`, set-up included."""

    def _must_equal(self, iterations: int, asked: int, detail: object) -> None:
        if iterations != asked:
            raise RuntimeError(
                f"{self.name} on {self.problem.name}: {iterations} iterations where {asked} were asked "
                f"({detail}). The time per iteration would be wrong."
            )


def true_residual(problem: Problem, X: NDArray[np.float64]) -> float:
    """The largest ``norm(b - A x) / norm(b)`` over the columns."""
    B = problem.b.reshape(problem.n, -1)
    R = B - problem.A @ X.reshape(B.shape)
    return float((np.linalg.norm(R, axis=0) / np.linalg.norm(B, axis=0)).max())


class Cgopt(Contender):
    """`cgopt.CGSolver`, prepared once."""

    name = "cgopt"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.solver = cgopt.CGSolver(problem.A)

    def fixed(self, iterations: int, solves: int) -> float:
        solve, b = self.solver.solve, self.problem.b
        start = time.perf_counter()
        for _ in range(solves):
            result = solve(b, rtol=UNREACHED, maxiter=iterations)
        seconds = time.perf_counter() - start
        self._must_equal(result.iterations, iterations, result.status)
        return seconds

    def whole(self, rtol: float) -> WholeSolve:
        start = time.perf_counter()
        solver = cgopt.CGSolver(self.problem.A)
        prepared = time.perf_counter()
        result = solver.solve(self.problem.b, rtol=rtol, maxiter=MAXITER)
        end = time.perf_counter()
        iterations = int(np.sum(result.iterations))
        return WholeSolve(prepared - start, end - prepared, iterations, true_residual(self.problem, result.x))


class SciPy(Contender):
    """`scipy.sparse.linalg.cg`; several right-hand sides one after the other."""

    name = "SciPy"

    def fixed(self, iterations: int, solves: int) -> float:
        A, b, cg = self.problem.A, self.problem.b, scipy.sparse.linalg.cg
        start = time.perf_counter()
        for _ in range(solves):
            _, info = cg(A, b, rtol=UNREACHED, maxiter=iterations)
        seconds = time.perf_counter() - start
        self._must_equal(info, iterations, "info")
        return seconds

    def whole(self, rtol: float) -> WholeSolve:
        return _column_by_column(self.problem, self._solve, rtol)

    def _solve(self, b: NDArray[np.float64], rtol: float, count: _Counter) -> NDArray[np.float64]:
        return scipy.sparse.linalg.cg(self.problem.A, b, rtol=rtol, maxiter=MAXITER, callback=count)[0]


class PyAMG(Contender):
    """`pyamg.krylov.cg`; several right-hand sides one after the other."""

    name = "PyAMG"

    def fixed(self, iterations: int, solves: int) -> float:
        A, b, cg = self.problem.A, self.problem.b, pyamg.krylov.cg
        start = time.perf_counter()
        for _ in range(solves):
            _, info = cg(A, b, tol=UNREACHED, maxiter=iterations)
        seconds = time.perf_counter() - start
        self._must_equal(info, iterations, "info")
        return seconds

    def whole(self, rtol: float) -> WholeSolve:
        return _column_by_column(self.problem, self._solve, rtol)

    def _solve(self, b: NDArray[np.float64], rtol: float, count: _Counter) -> NDArray[np.float64]:
        return pyamg.krylov.cg(self.problem.A, b, tol=rtol, maxiter=MAXITER, callback=count)[0]


class _Counter:
    """A callback that counts iterations (60 ns each: nothing beside the iterations of a whole solve)."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, xk: NDArray[np.float64]) -> None:
        self.calls += 1


_Solve = Callable[[NDArray[np.float64], float, _Counter], NDArray[np.float64]]


def _column_by_column(problem: Problem, solve: _Solve, rtol: float) -> WholeSolve:
    """One solve after the other; the columns are made contiguous before the clock starts."""
    columns = [np.ascontiguousarray(column) for column in problem.b.reshape(problem.n, -1).T]
    count = _Counter()
    start = time.perf_counter()
    solutions = [solve(b, rtol, count) for b in columns]
    seconds = time.perf_counter() - start
    return WholeSolve(0.0, seconds, count.calls, true_residual(problem, np.column_stack(solutions)))
