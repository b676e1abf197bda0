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

Vector = NDArray[np.float64]
Diagonal = scipy.sparse.linalg.LinearOperator

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
        Summed over the solves; several right-hand sides at once are one solve.
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


def true_residual(problem: Problem, X: Vector) -> float:
    """The largest ``norm(b - A x) / norm(b)`` over the columns."""
    B = problem.b.reshape(problem.n, -1)
    R = B - problem.A @ X.reshape(B.shape)
    return float((np.linalg.norm(R, axis=0) / np.linalg.norm(B, axis=0)).max())


class Cgopt(Contender):
    """`cgopt.CGSolver`, prepared once."""

    name = "cgopt"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.solver = self._prepare()

    def _prepare(self) -> cgopt.CGSolver:
        return cgopt.CGSolver(self.problem.A, M="jacobi" if self.problem.jacobi else None)

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
        solver = self._prepare()
        prepared = time.perf_counter()
        result = solver.solve(self.problem.b, rtol=rtol, maxiter=MAXITER)
        end = time.perf_counter()
        iterations = int(np.sum(result.iterations))
        return WholeSolve(prepared - start, end - prepared, iterations, true_residual(self.problem, result.x))


class SciPy(Contender):
    """`scipy.sparse.linalg.cg`; several right-hand sides one after the other."""

    name = "SciPy"

    def fixed(self, iterations: int, solves: int) -> float:
        A, b, M, cg = self.problem.A, self.problem.b, _jacobi(self.problem), scipy.sparse.linalg.cg
        start = time.perf_counter()
        for _ in range(solves):
            _, info = cg(A, b, rtol=UNREACHED, maxiter=iterations, M=M)
        seconds = time.perf_counter() - start
        self._must_equal(info, iterations, "info")
        return seconds

    def whole(self, rtol: float) -> WholeSolve:
        return _column_by_column(self.problem, self._solve, rtol)

    def _solve(self, b: Vector, rtol: float, M: Diagonal | None, count: _Counter) -> Vector:
        return scipy.sparse.linalg.cg(self.problem.A, b, rtol=rtol, maxiter=MAXITER, M=M, callback=count)[0]


class PyAMG(Contender):
    """`pyamg.krylov.cg`; several right-hand sides one after the other."""

    name = "PyAMG"

    def fixed(self, iterations: int, solves: int) -> float:
        A, b, M, cg = self.problem.A, self.problem.b, _jacobi(self.problem), pyamg.krylov.cg
        start = time.perf_counter()
        for _ in range(solves):
            _, info = cg(A, b, tol=UNREACHED, maxiter=iterations, M=M)
        seconds = time.perf_counter() - start
        self._must_equal(info, iterations, "info")
        return seconds

    def whole(self, rtol: float) -> WholeSolve:
        return _column_by_column(self.problem, self._solve, rtol)

    def _solve(self, b: Vector, rtol: float, M: Diagonal | None, count: _Counter) -> Vector:
        return pyamg.krylov.cg(self.problem.A, b, tol=rtol, maxiter=MAXITER, M=M, callback=count)[0]


class _Counter:
    """A callback that counts iterations (60 ns each: nothing beside the iterations of a whole solve)."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, xk: Vector) -> None:
        self.calls += 1


def _jacobi(problem: Problem) -> Diagonal | None:
    """The preconditioner as the fastest thing that SciPy and PyAMG take: one NumPy product."""
    if not problem.jacobi:
        return None
    inverse = 1 / problem.A.diagonal()
    return scipy.sparse.linalg.LinearOperator(problem.A.shape, matvec=lambda r: inverse * r, dtype=np.float64)


def _column_by_column(
    problem: Problem, solve: Callable[[Vector, float, Diagonal | None, _Counter], Vector], rtol: float
) -> WholeSolve:
    """One solve after the other; the columns are made contiguous before the clock starts."""
    columns = [np.ascontiguousarray(column) for column in problem.b.reshape(problem.n, -1).T]
    count = _Counter()
    start = time.perf_counter()
    M = _jacobi(problem)
    prepared = time.perf_counter()
    solutions = [solve(b, rtol, M, count) for b in columns]
    end = time.perf_counter()
    residual = true_residual(problem, np.column_stack(solutions))
    return WholeSolve(prepared - start, end - prepared, count.calls, residual)
