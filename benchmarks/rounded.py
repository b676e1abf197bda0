"""What ``format="float32"`` saves: iterations and seconds of whole solves with Jacobi, exact and rounded in turn.

    python -m benchmarks.rounded

Matrices are read from the folders that CGOPT_DATA names; b is A times a seeded standard normal vector.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

import cgopt

MATRICES = ("bcsstk15", "s1rmt3m1", "G2_circuit")
ROUNDS = 5


def main() -> None:
    """Solve, print a row of a table for each matrix and tolerance."""
    print("| matrix | rtol | iterations, exact | rounded | ms, exact | rounded |\n|---|---:|---:|---:|---:|---:|")
    for name in MATRICES:
        A = cgopt.gallery.load(name)
        b = A @ np.random.default_rng(0).standard_normal(A.shape[0])
        solvers = [cgopt.CGSolver(A, M="jacobi", format=format) for format in (None, "float32")]
        for rtol in (1e-8, 1e-12):
            iterations, times = [solver.solve(b, rtol=rtol, maxiter=20_000).iterations for solver in solvers], ([], [])
            for _ in range(ROUNDS):
                for solver, seconds in zip(solvers, times, strict=True):
                    clock = time.perf_counter()
                    solver.solve(b, rtol=rtol, maxiter=20_000)
                    seconds.append(time.perf_counter() - clock)
            exact, rounded = (1e3 * statistics.median(seconds) for seconds in times)
            counts = " | ".join(map(str, iterations))
            print(f"| {name} | {rtol:g} | {counts} | {exact:.1f} | {rounded:.1f} |", flush=True)


if __name__ == "__main__":
    main()
