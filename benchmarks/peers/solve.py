"""Whole solves to a true residual: every preconditioner of cgopt and its peers on a set of real and made systems."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers import systems
from benchmarks.peers.contenders import true_residual
from benchmarks.peers.external import HERE, Absent, Late, Peers, Worker, write_problem
from benchmarks.peers.problems import Problem

RTOL = 1e-8
MARGIN = 1.01  # stopping on a recursive residual leaves the true one a hair above
TIGHTER = 1e-2
MAXITER = 20_000
LIMIT_SECONDS = 20.0

HOPELESS = 20.0
"""A contender that takes this many times the best total so far is ended: no profile shows what lies beyond."""

SHORTEST_LIMIT = 2.0
COMPILING_SECONDS = 200.0
WARM_UPS = 4
SHORT_SECONDS = 1.0
COLD_SECONDS = 0.05
REPEAT, REPEAT_COLD = 3, 5  # the latter of solves shorter than `COLD_SECONDS`, of which single ones tell little
SETTLE_SECONDS = 0.03
SOLVED = "solved"


@dataclass(frozen=True)
class Configuration:
    """A solver and its preconditioner.

    Attributes
    ----------
    name : str
        As tables and pictures show it.
    worker : str
        Which of the processes of `Workers` runs it.
    setup : str
        What follows the command ``setup``.
    """

    name: str
    worker: str
    setup: str = ""

    @property
    def library(self) -> str:
        """``"cgopt"``, ``"SciPy"``, ..."""
        return self.name.split()[0]


AUTO = "cgopt auto"
OURS = [
    Configuration(f"cgopt {M.replace('_', ' ')}", "cgopt", f"cgopt-{M}")
    for M in ("auto", "jacobi", "mic", "incomplete_cholesky", "multigrid")
]
PEERS = [
    *(Configuration(f"SciPy {M}", "python", f"scipy-{M}") for M in ("none", "jacobi", "spilu")),
    *(Configuration(f"PyAMG {M.upper()}", "python", f"pyamg-{M}") for M in ("sa", "rs")),
    Configuration("PETSc jacobi, 2 ranks", "petsc2", "pc_type=jacobi"),
    Configuration("PETSc bjacobi icc, 2 ranks", "petsc2", "pc_type=bjacobi sub_pc_type=icc"),
    Configuration("PETSc sor, 2 ranks", "petsc2", "pc_type=sor pc_sor_local_symmetric=1"),
    Configuration("PETSc gamg, 2 ranks", "petsc2", "pc_type=gamg"),
    Configuration("PETSc hypre, 2 ranks", "petsc2", "pc_type=hypre pc_hypre_type=boomeramg"),
    Configuration("PETSc icc, 1 rank", "petsc1", "pc_type=icc"),
    # Its residual is that of the transformed system: in the 2-norm it may never fall to what b asks, however good x is.
    Configuration("PETSc eisenstat, 1 rank", "petsc1", "pc_type=eisenstat ksp_norm_type=natural"),
    *(Configuration(f"Eigen {M.replace('_', ' ')}", f"eigen-{M}") for M in ("diagonal", "incomplete_cholesky")),
]
ITERATIVE = [configuration.name for configuration in OURS + PEERS]


def direct() -> Configuration:
    """The sparse Cholesky factorisation shown for reference."""
    if importlib.util.find_spec("sksparse") is not None:
        return Configuration("CHOLMOD (direct)", "python", "direct-cholmod")
    return Configuration("SciPy splu (direct)", "python", "direct-splu")


@dataclass(frozen=True)
class Run:
    """One solve.

    Attributes
    ----------
    status : str
        `SOLVED`, or why not.
    setup, seconds : float
        Seconds of preparation and of the solve after it; of a solve that was ended, the limit.
    iterations : int
    residual : float or None
        ``norm(b - A x) / norm(b)``, computed here from the returned x; None where that is no number.
    rtol : float
        The tolerance that it was given.
    note : str
        What the solver itself said.
    compiled : bool
        Whether Numba compiled something meanwhile: such times do not count.
    """

    status: str
    setup: float
    seconds: float
    iterations: int = 0
    residual: float | None = None
    rtol: float = RTOL
    note: str = ""
    compiled: bool = False

    @property
    def total(self) -> float:
        """Set-up and solve."""
        return self.setup + self.seconds


class Workers:
    """The processes that solve: started when first asked, kept from system to system, started anew if they had to end.

    Use as a context manager. Eigen's are started for each system: its program chooses types by its arguments.
    """

    def __init__(self, peers: Peers) -> None:
        peers.look()
        self.peers = peers
        self._temporary = tempfile.TemporaryDirectory(prefix="cgopt-solve-")
        self.folder = Path(self._temporary.name)
        self._running: dict[str, Worker] = {}
        self._loaded: set[str] = set()
        self._absent: dict[str, str] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._running.values():
            worker.close()
        self._temporary.cleanup()

    def turn_to(self, problem: Problem) -> None:
        """Put another problem before everybody."""
        for name in [name for name in self._running if name.startswith("eigen")]:
            self._running.pop(name).close()
        write_problem(problem, self.folder)
        self._loaded.clear()

    def get(self, name: str) -> Worker:
        """The process of this name, with the problem loaded.

        Raises
        ------
        Absent
            When this machine lacks the peer.
        """
        worker = self._running.get(name)
        if worker is None or not worker.alive:
            if name in self._absent:
                raise Absent(self._absent[name])
            try:
                worker = self._running[name] = self._start(name)
            except Absent as reason:
                self._absent[name] = str(reason)
                raise
        elif name not in self._loaded:
            worker.expect_solution()
            worker.ask("load")
        self._loaded.add(name)
        return worker

    def _start(self, name: str) -> Worker:
        if name in ("cgopt", "python"):
            # -P: the folder of the script, full of modules of its own, stays out of the path.
            command = [sys.executable, "-P", str(HERE / "python_worker.py"), str(self.folder), name]
            return Worker(name, self.folder, name, command, {})
        library = "PETSc" if name.startswith("petsc") else "Eigen"
        if library in self.peers.absent:
            raise Absent(self.peers.absent[library])
        if library == "PETSc":
            assert self.peers.petsc is not None
            worker = self.peers.petsc.start(self.folder, int(name.removeprefix("petsc")))
        else:
            assert self.peers.eigen is not None
            worker = self.peers.eigen.start(self.folder, 2, name.removeprefix("eigen-"))
        self.peers.versions[library] = worker.greeting["ready"]
        return worker


def solve_once(workers: Workers, configuration: Configuration, problem: Problem, limit: float, rtol: float) -> Run:
    """One solve, judged by the residual of what comes back."""
    name = configuration.worker
    # Compiling is not timed, so it must not run into the limit either; ours keep the limit themselves.
    patience = limit + (COMPILING_SECONDS if name == "cgopt" else 0.5)
    try:
        worker = workers.get(name)
        prepared = worker.ask(f"setup {configuration.setup}", patience)
        if "error" in prepared:
            return Run(f"set-up failed: {prepared['error']}", 0.0, 0.0, rtol=rtol)
        setup = prepared["seconds"]
        left = max(limit - setup, 0.1)
        answer = worker.ask(f"solve {rtol} {MAXITER} {left}", left + patience - limit)
    except Absent as reason:
        return Run(f"absent: {reason}", 0.0, 0.0, rtol=rtol)
    except Late:
        return Run("time limit", 0.0, limit, rtol=rtol)
    except RuntimeError as error:
        print(error, file=sys.stderr)  # it may name paths, which stay out of the results
        return Run("crashed", 0.0, 0.0, rtol=rtol)
    if "error" in answer:
        return Run(f"failed: {answer['error']}", setup, 0.0, rtol=rtol)
    seconds, note = answer["seconds"], answer["reason"]
    if note == "time limit":
        return Run("time limit", setup, seconds, rtol=rtol, compiled=answer["compiled"])
    measured = true_residual(problem, worker.solution())
    residual = measured if math.isfinite(measured) else None
    if residual is not None and residual <= MARGIN * RTOL:
        status = SOLVED
    elif answer["converged"]:
        status = "stops short"
    else:
        status = note
    compiled = answer.get("compiled", False)
    return Run(status, setup, seconds, answer["iterations"], residual, rtol, note, compiled)


def solve(workers: Workers, configuration: Configuration, problem: Problem, limit: float) -> Run:
    """Solve to `RTOL`; where a contender takes its own residual's word for it, once more with a tighter tolerance.

    A solve in which something was compiled is made again, more than once if the limit ended it halfway.
    """
    for _ in range(WARM_UPS + 1):
        run = solve_once(workers, configuration, problem, limit, RTOL)
        if not run.compiled:
            break
    return solve_once(workers, configuration, problem, limit, TIGHTER * RTOL) if run.status == "stops short" else run


def compare(
    workers: Workers, configurations: Sequence[Configuration], problem: Problem, limit: float
) -> dict[str, list[Run]]:
    """Every configuration on one problem, in turns; short solves some times more, and these count.

    The order is another one in each round: who comes first after a pause, or after a certain other, may be at a
    disadvantage.
    """
    workers.turn_to(problem)
    runs: dict[str, list[Run]] = {}
    best = math.inf
    for configuration in configurations:
        time.sleep(SETTLE_SECONDS)
        allowed = min(limit, max(SHORTEST_LIMIT, HOPELESS * best))
        run = solve(workers, configuration, problem, allowed)
        runs[configuration.name] = [run]
        if run.status == SOLVED and configuration.name in ITERATIVE:
            best = min(best, run.total)
    short = [one for one in configurations if runs[one.name][0].status == SOLVED]
    short = [one for one in short if runs[one.name][0].total < SHORT_SECONDS]
    again = {one.name: list[Run]() for one in short}
    for turn in range(REPEAT_COLD):
        for configuration in random.Random(f"{problem.name} {turn}").sample(short, len(short)):
            first = runs[configuration.name][0]
            if turn >= REPEAT and first.total >= COLD_SECONDS:
                continue
            time.sleep(SETTLE_SECONDS)
            if first.total < COLD_SECONDS:  # caches and sleeping threads recover from the others' turns, unrecorded
                solve_once(workers, configuration, problem, limit, first.rtol)
            again[configuration.name].append(solve_once(workers, configuration, problem, limit, first.rtol))
    runs |= again
    return runs


def median_run(runs: Sequence[Run]) -> Run:
    """The run with the median total; one that failed stands for all, since the same input has the same outcome."""
    failed = [run for run in runs if run.status != SOLVED]
    if failed:
        return failed[0]
    middle = statistics.median_low(run.total for run in runs)
    return next(run for run in runs if run.total == middle)


def measure(
    path: Path,
    peers: Peers,
    header: dict[str, object],
    *,
    limit: float = LIMIT_SECONDS,
    chosen: Sequence[str] | None = None,
    resume: bool = False,
    quick: bool = False,
) -> dict:
    """Measure the set; `path` holds all that is known after each system.

    Parameters
    ----------
    path : Path
        Of the raw numbers.
    peers : Peers
    header : dict
        Command, machine and versions, as they go into the file.
    limit : float
        Seconds for one solve, set-up included.
    chosen : sequence of str, optional
        Names of systems; all of them by default.
    resume : bool
        Keep what the file holds, and measure what it lacks.
    quick : bool
        The small set.
    """
    known = systems.names(quick)
    wanted = list(chosen or known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise SystemExit(f"no such system: {', '.join(unknown)}; there are {', '.join(known)}")
    if len(known) == len(systems.QUICK if quick else systems.GENERATED):
        print(
            "  CGOPT_DATA names no folder with matrices/ and systems/: only the made systems are measured", flush=True
        )
    results = json.loads(path.read_text()) if resume and path.exists() else {"systems": {}}
    results |= header | {"limit_seconds": limit, "rtol": RTOL, "maxiter": MAXITER}
    configurations = [*OURS, *PEERS, direct()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with Workers(peers) as workers:
        for problem in systems.build([name for name in wanted if name not in results["systems"]], quick):
            start = time.perf_counter()
            runs = compare(workers, configurations, problem, limit)
            meeting = workers.get("cgopt").ask("meet").get("seconds")
            results["systems"][problem.name] = {
                "n": problem.n,
                "nnz": int(problem.A.nnz),
                "meeting of two threads, seconds": meeting,
                "runs": {name: [asdict(run) for run in turns] for name, turns in runs.items()},
            }
            results["versions"] = {**results.get("versions", {}), **peers.versions}
            part = path.with_suffix(".part")
            part.write_text(json.dumps(results, indent=1) + "\n")
            part.replace(path)  # whole, or not at all
            print(_progress(problem, runs, time.perf_counter() - start), flush=True)
    return results


def _progress(problem: Problem, runs: dict[str, list[Run]], seconds: float) -> str:
    middle = {name: median_run(runs[name]) for name in ITERATIVE}
    solved = {name: run.total for name, run in middle.items() if run.status == SOLVED}
    if not solved:
        return f"  {problem.name}: nobody ({seconds:.0f} s)"
    best = min(solved, key=lambda name: solved[name])
    auto = f"{solved[AUTO]:.3g} s" if AUTO in solved else middle[AUTO].status
    return f"  {problem.name}: {best} {solved[best]:.3g} s, {AUTO} {auto} ({seconds:.0f} s)"
