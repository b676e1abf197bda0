"""The asv suite of the solver: sizes that a laptop runs."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

import cgopt
from benchmarks.peers import latency
from benchmarks.peers.triad import Triad

Reports = dict[str, dict[str, list[dict[str, float]]]]

NEVER = 1e-14
"""A relative tolerance that none of the solves with a fixed number of iterations comes near."""


def poisson(n: int, dtype: str = "float64") -> sp.csr_array:
    """The 2-D Poisson matrix with about n unknowns."""
    side = round(n**0.5)
    return sp.csr_array(cgopt.gallery.poisson((side, side)), dtype=dtype)


class Iteration:
    """Fifty iterations by size, precision and storage format."""

    params = ([1_000, 30_000, 300_000], ["float32", "float64"], ["csr", "sorted", "dia"])
    param_names = ("n", "dtype", "format")
    timeout = 180
    iterations = 50

    def setup(self, n: int, dtype: str, format: str) -> None:
        A = poisson(n, dtype)
        self.solver = cgopt.CGSolver(A, format=format)
        self.b = np.random.default_rng(1).standard_normal(A.shape[0]).astype(dtype)
        if self._fifty().iterations != self.iterations:
            raise RuntimeError("the solve ended by itself: its time is not that of fifty iterations")

    def _fifty(self) -> Any:
        return self.solver.solve(self.b, rtol=NEVER, maxiter=self.iterations)

    def time_fifty(self, n: int, dtype: str, format: str) -> None:
        self._fifty()

    def track_bytes_per_iteration(self, n: int, dtype: str, format: str) -> int:
        return self.solver.bytes_per_iteration

    track_bytes_per_iteration.unit = "bytes"  # type: ignore[attr-defined]

    def track_bandwidth_share(self, n: int, dtype: str, format: str) -> float:
        """Achieved bandwidth by cgopt's own byte count over that of a triad taken in turn.

        Sizes that stay in cache exceed 1.
        """
        threads = min(2, cgopt.max_num_threads())
        triad = Triad(4_000_000, threads)
        cgopt.set_num_threads(threads)
        bandwidths = []
        for _ in range(5):
            start = time.perf_counter()
            self._fifty()
            seconds = time.perf_counter() - start
            moved = self.iterations * self.solver.bytes_per_iteration
            bandwidths.append((moved / seconds, triad.bandwidth(3)))
        ours, yardstick = (statistics.median(column) for column in zip(*bandwidths, strict=True))
        return ours / yardstick

    track_bandwidth_share.unit = "of the triad"  # type: ignore[attr-defined]


class Solve:
    """Whole solves to a true relative residual, by problem and precision."""

    params = (["poisson 2-D", "poisson 3-D", "unstructured", "dense"], ["float32", "float64"], [None, "jacobi"])
    param_names = ("problem", "dtype", "M")
    timeout = 180

    def setup(self, problem: str, dtype: str, M: str | None) -> None:
        rng = np.random.default_rng(2)
        A = {
            "poisson 2-D": lambda: cgopt.gallery.poisson((100, 100)),
            "poisson 3-D": lambda: cgopt.gallery.poisson((25, 25, 25)),
            "unstructured": lambda: cgopt.gallery.unstructured_poisson(3_000, rng=rng),
            "dense": lambda: poisson(500).toarray(),
        }[problem]()
        self.A = A.astype(dtype)
        self.b = rng.standard_normal(A.shape[0]).astype(dtype)
        self.rtol = 1e-4 if dtype == "float32" else 1e-8
        self.solver = cgopt.CGSolver(self.A, M=M)
        self.solver.solve(self.b, maxiter=1)

    def time_prepare(self, problem: str, dtype: str, M: str | None) -> None:
        cgopt.CGSolver(self.A, M=M)

    def time_solve(self, problem: str, dtype: str, M: str | None) -> None:
        self.solver.solve(self.b, rtol=self.rtol)

    def peakmem_solve(self, problem: str, dtype: str, M: str | None) -> None:
        self.solver.solve(self.b, rtol=self.rtol)

    def track_iterations(self, problem: str, dtype: str, M: str | None) -> int:
        result = self.solver.solve(self.b, rtol=self.rtol, maxiter=100_000)
        if result.info != 0:
            raise RuntimeError(str(result.status))
        return result.iterations

    track_iterations.unit = "iterations"  # type: ignore[attr-defined]


class Many:
    """Several right-hand sides in one call."""

    params = ([1, 4, 16], ["float32", "float64"])
    param_names = ("columns", "dtype")

    def setup(self, columns: int, dtype: str) -> None:
        A = poisson(10_000, dtype)
        self.solver = cgopt.CGSolver(A)
        self.B = np.random.default_rng(3).standard_normal((A.shape[0], columns)).astype(dtype)
        self.solver.solve(self.B, maxiter=1)

    def time_solve(self, columns: int, dtype: str) -> None:
        self.solver.solve(self.B, rtol=NEVER, maxiter=100)

    def peakmem_solve(self, columns: int, dtype: str) -> None:
        self.solver.solve(self.B, rtol=NEVER, maxiter=100)


class Overhead:
    """What is left when the arithmetic is next to nothing: n = 20, ten iterations.

    ``matrix``: the compiled loop; ``callable``: the interpreted loop, whose product is one multiplication of
    20 numbers; ``convenience``: `cgopt.cg`, which prepares a solver each time.
    """

    params = ("matrix", "callable", "convenience")
    param_names = ("way",)

    def setup(self, way: str) -> None:
        eigenvalues = np.geomspace(1e-6, 1.0, 20)
        b = np.random.default_rng(4).standard_normal(20)
        if way == "convenience":
            A = sp.csr_array(sp.diags_array(eigenvalues))
            self.solve = lambda maxiter: cgopt.cg(A, b, rtol=NEVER, maxiter=maxiter)
        else:
            A = np.diag(eigenvalues) if way == "matrix" else lambda v: eigenvalues * v
            solver = cgopt.CGSolver(A, n=20, dtype=np.float64) if way == "callable" else cgopt.CGSolver(A)
            self.solve = lambda maxiter: solver.solve(b, rtol=NEVER, maxiter=maxiter)
        self.solve(10)

    def time_one_iteration(self, way: str) -> None:
        self.solve(1)

    def time_ten_iterations(self, way: str) -> None:
        self.solve(10)


class Import:
    """``import cgopt`` in a child process."""

    timeout = 120

    def track_seconds_beyond_dependencies(self) -> float:
        """Seconds that it takes after numpy, scipy.sparse, scipy.sparse.linalg and numba; median of three."""
        return statistics.median(report["import_cgopt"] for report in latency.measure("dense", 3)["later"])

    track_seconds_beyond_dependencies.unit = "s"  # type: ignore[attr-defined]


class FirstSolve:
    """The first solve of a child process, imports excluded."""

    params = tuple(latency.SYSTEMS)
    param_names = ("system",)
    timeout = 300

    def setup_cache(self) -> Reports:
        return {kind: latency.measure(kind, 1) for kind in latency.SYSTEMS}

    setup_cache.timeout = 300  # type: ignore[attr-defined]

    def track_fresh_install(self, reports: Reports, system: str) -> float:
        """Seconds with an empty compile cache."""
        return reports[system]["fresh"][0]["first_solve"]

    def track_later_process(self, reports: Reports, system: str) -> float:
        """Seconds with the cache that an earlier process left."""
        return reports[system]["later"][0]["first_solve"]

    track_fresh_install.unit = "s"  # type: ignore[attr-defined]
    track_later_process.unit = "s"  # type: ignore[attr-defined]
