"""cgopt, SciPy and PyAMG on one loaded problem, in a process that can be ended when a set-up takes too long.

Usage: ``python_worker.py FOLDER TAG``. It sleeps in a blocking read of the pipe ``FOLDER/TAG.0`` and answers every
command with one line of JSON on the standard output; the commands are described in `external.py`. Configurations are
the keys of `CONFIGURATIONS`. The limit in ``solve RTOL MAXITER LIMIT`` (seconds) is kept without ending the process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numba.core.event
import numpy as np
import pyamg
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import cgopt
from cgopt.kernels.cpu.threads import distance

THREADS = 2
MEMORY = 0.75  # of the machine's, that this process may take: fill-in of a factorisation can ask for any amount


class TimeUp(Exception):
    """The limit of a solve has passed."""


class Clock:
    """A callback that counts iterations and ends a solve when its time is up."""

    def __init__(self, limit: float) -> None:
        self.calls, self.end = 0, time.perf_counter() + limit

    def __call__(self, _: Any) -> None:
        self.calls += 1
        if time.perf_counter() > self.end:
            raise TimeUp


class Solved(NamedTuple):
    """What a solve came to: the solution, the iterations, whether it says that it converged, and why it ended."""

    x: Any
    iterations: int
    converged: bool
    reason: str


class Configuration(ABC):
    """A solver with one preconditioner, set up for A by its constructor."""

    @abstractmethod
    def solve(self, b: Any, rtol: float, maxiter: int, limit: float) -> Solved:
        """Solve for one right-hand side."""


class Ours(Configuration):
    """`cgopt.CGSolver`."""

    def __init__(self, A: sp.csr_array, M: str) -> None:
        self.solver = cgopt.CGSolver(A, M=M)

    def solve(self, b: Any, rtol: float, maxiter: int, limit: float) -> Solved:
        result = self.solver.solve(b, rtol=rtol, maxiter=maxiter, progress=Clock(limit))
        reason = f"{result.status.name.lower()}, {type(self.solver.preconditioner).__name__}"
        return Solved(result.x, result.iterations, result.info == 0, reason)


class ScipyCG(Configuration):
    """`scipy.sparse.linalg.cg`."""

    def __init__(self, A: sp.csr_array, M: str) -> None:
        self.A, self.M = A, None
        if M == "jacobi":
            inverse = 1 / A.diagonal()
            self.M = spla.LinearOperator(A.shape, matvec=lambda r: inverse * r, dtype=A.dtype)
        elif M == "spilu":
            # The symmetric mode of SuperLU's manual: pivots from the diagonal, ordering of A + A'.
            factors = spla.spilu(
                A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
            self.M = spla.LinearOperator(A.shape, matvec=factors.solve, dtype=A.dtype)

    def solve(self, b: Any, rtol: float, maxiter: int, limit: float) -> Solved:
        clock = Clock(limit)
        x, info = spla.cg(self.A, b, rtol=rtol, maxiter=maxiter, M=self.M, callback=clock)
        return Solved(x, clock.calls, info == 0, "converged" if info == 0 else "iterations used up")


class PyamgCG(Configuration):
    """PyAMG's conjugate gradients, preconditioned with a cycle of one of its hierarchies."""

    def __init__(self, A: sp.csr_array, M: str) -> None:
        A = sp.csr_matrix(A)
        if M == "sa":
            self.hierarchy = pyamg.smoothed_aggregation_solver(A, symmetry="symmetric")
        else:
            self.hierarchy = pyamg.ruge_stuben_solver(A)

    def solve(self, b: Any, rtol: float, maxiter: int, limit: float) -> Solved:
        clock = Clock(limit)
        x, info = self.hierarchy.solve(b, tol=rtol, maxiter=maxiter, accel="cg", callback=clock, return_info=True)
        return Solved(x, clock.calls, info == 0, "converged" if info == 0 else f"info {info}")


class Cholesky(Configuration):
    """A sparse direct solver: CHOLMOD where scikit-sparse is installed, otherwise SciPy's SuperLU in symmetric mode."""

    def __init__(self, A: sp.csr_array, M: str) -> None:
        A = A.tocsc()
        if M == "cholmod":
            from sksparse.cholmod import cholesky  # no extra brings it: it has to be built

            self.factored = cholesky(A)
        else:
            options = {"SymmetricMode": True}
            self.factored = spla.splu(A, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options).solve

    def solve(self, b: Any, rtol: float, maxiter: int, limit: float) -> Solved:
        return Solved(self.factored(b), 1, True, "direct")


CONFIGURATIONS: dict[str, tuple[type, str]] = {
    **{f"cgopt-{M}": (Ours, M) for M in ("auto", "jacobi", "mic", "incomplete_cholesky", "multigrid")},
    **{f"scipy-{M}": (ScipyCG, M) for M in ("none", "jacobi", "spilu")},
    **{f"pyamg-{M}": (PyamgCG, M) for M in ("sa", "rs")},
    **{f"direct-{M}": (Cholesky, M) for M in ("cholmod", "splu")},
}


class Compilations(numba.core.event.Listener):
    """Notices when Numba compiles a function or loads a compiled one: such a solve is not to be timed."""

    def __init__(self) -> None:
        self.seen = False

    def on_start(self, event: Any) -> None:
        self.seen = True

    def on_end(self, event: Any) -> None:
        pass


class Server:
    """Obeys commands on the problem in a folder."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.folder, self.tag = folder, tag
        self.compilations = Compilations()
        numba.core.event.register("numba:compiler_lock", self.compilations)
        self.load()

    def load(self) -> dict:
        """Read the matrix and the right-hand side."""
        self.configuration: Configuration | None = None
        self.n = json.loads((self.folder / "problem.json").read_text())["n"]
        names = {"indptr": np.int32, "indices": np.int32, "data": np.float64, "rhs": np.float64}
        arrays = {name: np.fromfile(self.folder / f"{name}.{_ending(dtype)}", dtype) for name, dtype in names.items()}
        self.b = arrays.pop("rhs")
        self.arrays = arrays
        return {"n": self.n}

    def setup(self, name: str) -> dict:
        """Prepare one of `CONFIGURATIONS` for a matrix object that nobody has looked at before."""
        self.configuration, self.compilations.seen = None, False
        A = sp.csr_array(tuple(self.arrays[key] for key in ("data", "indices", "indptr")), shape=(self.n, self.n))
        kind, M = CONFIGURATIONS[name]
        start = time.perf_counter()
        self.configuration = kind(A, M)
        return {"seconds": time.perf_counter() - start}

    def solve(self, rtol: str, maxiter: str, limit: str) -> dict:
        """Solve and write the solution."""
        assert self.configuration is not None
        start = time.perf_counter()
        try:
            solved = self.configuration.solve(self.b, float(rtol), int(maxiter), float(limit))
        except TimeUp:
            solved = Solved(np.zeros(self.n), 0, False, "time limit")
        seconds = time.perf_counter() - start
        np.ascontiguousarray(solved.x).tofile(self.folder / f"{self.tag}.x")
        return {
            "seconds": seconds,
            "iterations": int(solved.iterations),
            "converged": bool(solved.converged),
            "reason": solved.reason,
            "compiled": self.compilations.seen,
        }

    def meet(self) -> dict:
        """How long cgopt's threads take to meet, the median of some: the cores of a virtual machine move."""
        return {"seconds": statistics.median(distance() for _ in range(5))}

    def obey(self, command: str, words: list[str]) -> dict:
        """Do what a line says; a solver's failure is an answer."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # a peer's warnings are no answer; its residual is judged instead
                known = {"load": self.load, "setup": self.setup, "solve": self.solve, "meet": self.meet}
                return known[command](*words)
        except Exception as error:  # whatever a solver raises is its result
            return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}

    def serve(self) -> None:
        """Obey commands until the pipe closes."""
        with open(self.folder / f"{self.tag}.0") as commands:
            print(json.dumps({"ready": cgopt.__version__}), flush=True)
            for line in commands:
                command, *words = line.split()
                if command == "quit":
                    break
                print(json.dumps(self.obey(command, words)), flush=True)


def _ending(dtype: type) -> str:
    """How `external.write_problem` ends the names of arrays."""
    return {np.int32: "i32", np.float64: "f64"}[dtype]


def _limit_memory() -> None:
    """Let an allocation fail here rather than the machine run out of memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_AS, (int(MEMORY * total),) * 2)


if __name__ == "__main__":
    _limit_memory()
    cgopt.set_num_threads(min(THREADS, cgopt.max_num_threads()))
    Server(Path(sys.argv[1]), sys.argv[2]).serve()
