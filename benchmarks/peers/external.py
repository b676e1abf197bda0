"""PETSc and Eigen: found when installed, run in processes of their own, asleep while others are timed.

A worker loads the problem once from raw files in a temporary folder. Then it blocks in a read of a named pipe
(one per rank), which costs no processor time, and obeys one-line commands:

``load``
    Read the problem that lies in the folder now (PETSc and `python_worker`; Eigen's is started anew).
``setup [CONFIGURATION]``
    Prepare anew from arrays in memory; CONFIGURATION names a preconditioner in the worker's own way.
``fixed ITERATIONS SOLVES``
    Solve the first system SOLVES times with exactly ITERATIONS iterations.
``solve RTOL MAXITER``
    Solve every system to RTOL and write the solutions (fp64, column after column) to ``FOLDER/TAG.x``.
``quit``
    End, as a closed pipe does.

Each command is answered with one line of JSON, timed by the worker itself; ``{"error": ...}`` says that it could not.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.contenders import MAXITER, Contender, Vector, WholeSolve, true_residual
from benchmarks.peers.problems import Problem

HERE = Path(__file__).parent
ANSWER_SECONDS = 900.0


class Absent(Exception):
    """A peer that this machine lacks; the message says what is missing."""


def write_problem(problem: Problem, folder: Path) -> None:
    """Write matrix, right-hand sides (column after column) and a header as raw files."""
    header: dict[str, int | str | bool] = {"n": problem.n, "jacobi": problem.jacobi}
    header["columns"] = problem.b.reshape(problem.n, -1).shape[1]
    problem.b.reshape(problem.n, -1).T.tofile(folder / "rhs.f64")
    if sp.issparse(problem.A):
        header |= {"kind": "csr", "nnz": int(problem.A.nnz)}
        problem.A.indptr.tofile(folder / "indptr.i32")
        problem.A.indices.tofile(folder / "indices.i32")
        problem.A.data.tofile(folder / "data.f64")
    else:
        header |= {"kind": "dense", "nnz": problem.A.size}
        problem.A.tofile(folder / "data.f64")
    (folder / "problem.json").write_text(json.dumps(header))


class Late(Exception):
    """A worker did not answer in time; it has been ended."""


class Worker:
    """A process, or MPI ranks, that obey commands.

    Parameters
    ----------
    name : str
        For messages.
    folder : Path
        Where `write_problem` wrote.
    tag : str
        Names the worker's pipes and its solution file.
    command : sequence of str
        What to start.
    environment : dict of str
        Added to this process's environment.
    ranks : int
        Number of pipes.

    Attributes
    ----------
    greeting : dict
        What it said when it was ready.
    alive : bool
        Whether it can be asked.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        tag: str,
        command: Sequence[str],
        environment: dict[str, str],
        ranks: int = 1,
    ) -> None:
        self.name, self.alive = name, True
        self._solution = folder / f"{tag}.x"
        self.expect_solution()
        self._errors = (folder / f"{tag}.errors").open("w+b")
        pipes = [folder / f"{tag}.{rank}" for rank in range(ranks)]
        for pipe in pipes:
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | environment,
            bufsize=0,
            start_new_session=True,
        )
        # Read-write: opening does not wait for the worker, which may have died.
        self._pipes = [os.open(pipe, os.O_RDWR) for pipe in pipes]
        try:
            self.greeting = self._answer(ANSWER_SECONDS)
        except BaseException:
            self.close()
            raise

    def expect_solution(self) -> None:
        """Make room for the solution of the problem that lies in the folder now; ranks write their rows into it."""
        header = json.loads((self._solution.parent / "problem.json").read_text())
        self._solution.write_bytes(bytes(8 * header["n"] * header["columns"]))

    def ask(self, command: str, limit: float = ANSWER_SECONDS) -> dict:
        """Give a command and wait for the answer.

        Raises
        ------
        Late
            After `limit` seconds; the worker is ended.
        RuntimeError
            If it died.
        """
        for pipe in self._pipes:
            os.write(pipe, f"{command}\n".encode())
        return self._answer(limit)

    def _answer(self, limit: float) -> dict:
        assert self._process.stdout is not None
        end = time.monotonic() + limit
        line = b""
        while not line.startswith(b"{"):  # libraries print too
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self.close(patience=0.0)
                raise Late(f"{self.name} gave no answer within {limit:.3g} s")
            line = self._process.stdout.readline()
            if not line:
                self._errors.seek(0)
                errors = self._errors.read()[-2000:].decode()
                self.close(patience=0.0)
                raise RuntimeError(f"{self.name} ended: {errors}")
        return json.loads(line)

    def solution(self) -> Vector:
        """What the last solve wrote, one column per right-hand side."""
        header = json.loads((self._solution.parent / "problem.json").read_text())
        return np.fromfile(self._solution).reshape(header["columns"], header["n"]).T

    def close(self, patience: float = 20.0) -> None:
        """End the worker; kill it if it does not obey for `patience` seconds."""
        if not self.alive:
            return
        self.alive = False
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                os.write(pipe, b"quit\n")
            os.close(pipe)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # mpiexec ends its ranks and takes its files away
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


class External(Contender):
    """A peer in its own process or MPI ranks, as a contender on one problem."""

    def __init__(self, problem: Problem, worker: Worker) -> None:
        super().__init__(problem)
        self.name, self.worker, self.close = worker.name, worker, worker.close

    def fixed(self, iterations: int, solves: int) -> float:
        answer = self.worker.ask(f"fixed {iterations} {solves}")
        self._must_equal(answer["iterations"], iterations, "fixed")
        return float(answer["seconds"])

    def whole(self, rtol: float) -> WholeSolve:
        setup = self.worker.ask("setup")
        answer = self.worker.ask(f"solve {rtol} {MAXITER}")
        residual = true_residual(self.problem, self.worker.solution())
        return WholeSolve(setup["seconds"], answer["seconds"], answer["iterations"], residual)


@dataclass(frozen=True)
class PETSc:
    """An interpreter that imports petsc4py, the environment it needs, and a launcher of ranks.

    Attributes
    ----------
    python : str
        The interpreter.
    environment : dict of str
        Variables for the worker.
    mpiexec : tuple of str
        The launcher and its options before the number of ranks; empty when there is none.
    """

    python: str
    environment: dict[str, str]
    mpiexec: tuple[str, ...]

    @classmethod
    def find(cls) -> PETSc:
        """Look for petsc4py in this interpreter, then in the system's.

        Raises
        ------
        Absent
            When no interpreter imports it.
        """
        interpreters = dict.fromkeys([sys.executable, shutil.which("python3") or "", "/usr/bin/python3"])
        # Debian installs one folder per PETSc build; real scalars before complex ones.
        folders = sorted(
            Path("/usr/lib/petscdir").glob("petsc*/*"), key=lambda path: ("complex" in path.name, path.name)
        )
        environments = [{}, *({"PETSC_DIR": str(folder)} for folder in folders)]
        common = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        for python in filter(None, interpreters):
            for environment in environments:
                test = [
                    python,
                    "-c",
                    "import numpy; from petsc4py import PETSc; assert PETSc.ScalarType == numpy.float64",
                ]
                with contextlib.suppress(OSError):
                    done = subprocess.run(test, env=os.environ | common | environment, capture_output=True, check=False)
                    if done.returncode == 0:
                        return cls(python, common | environment, _launcher())
        raise Absent("not installed: no interpreter imports petsc4py (Debian: python3-petsc4py)")

    def start(self, folder: Path, ranks: int) -> Worker:
        """A worker with `ranks` MPI ranks on the problem in `folder`."""
        tag = f"petsc{ranks}"
        command = [self.python, str(HERE / "petsc_worker.py"), str(folder), tag]
        if ranks > 1:
            if not self.mpiexec:
                raise Absent("no mpiexec to start ranks with")
            command = [*self.mpiexec, "-n", str(ranks), *command]
        name = f"PETSc, {ranks} rank{'s' * (ranks > 1)}"
        try:
            worker = Worker(name, folder, tag, command, self.environment, ranks)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            raise Absent("installed, but the ranks did not start") from error
        if worker.greeting["ranks"] != ranks:
            worker.close()
            raise Absent("mpiexec belongs to another MPI than PETSc: it starts single ranks")
        return worker


def _launcher() -> tuple[str, ...]:
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        return ()
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" not in version and "OpenRTE" not in version:
        return (mpiexec,)
    if len(os.sched_getaffinity(0)) >= 2:  # each rank on a core of its own
        return (mpiexec, "--bind-to", "core")
    return (mpiexec, "--oversubscribe", "--bind-to", "none")


@dataclass(frozen=True)
class Eigen:
    """The compiled Eigen worker."""

    program: Path

    @classmethod
    def build(cls, folder: Path) -> Eigen:
        """Compile the worker into `folder`.

        Raises
        ------
        Absent
            When Eigen's headers or a compiler are missing.
        """
        compiler = shutil.which("g++")
        if compiler is None:
            raise Absent("no g++ to compile it with")
        include = ["-isystem", str(Path(sys.prefix) / "include")]  # beside the compiler's own folders
        look = [compiler, *include, "-E", "-x", "c++", "-"]
        header = b"#include <eigen3/Eigen/Core>"
        if subprocess.run(look, input=header, capture_output=True, check=False).returncode != 0:
            raise Absent("not installed: no include/eigen3 folder (Debian: libeigen3-dev)")
        program = folder / "eigen_peer"
        flags = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-DNDEBUG", *include]
        source = HERE / "eigen_peer" / "eigen_peer.cpp"
        done = subprocess.run([compiler, *flags, str(source), "-o", str(program)], capture_output=True, check=False)
        if done.returncode != 0:
            print(done.stderr.decode(), file=sys.stderr)
            raise Absent("installed, but the worker did not compile")
        return cls(program)

    def start(self, folder: Path, threads: int, preconditioner: str) -> Worker:
        """A worker with `threads` OpenMP threads on the problem in `folder`.

        `preconditioner` is ``"identity"``, ``"diagonal"`` or ``"incomplete_cholesky"``.
        """
        header = json.loads((folder / "problem.json").read_text())
        sizes = [str(header[key]) for key in ("n", "nnz", "columns")]
        tag = f"eigen-{preconditioner}"
        command = [str(self.program), str(folder), tag, header["kind"], preconditioner, *sizes]
        name = f"Eigen, {threads} threads"
        return Worker(name, folder, tag, command, {"OMP_NUM_THREADS": str(threads)})


class Peers:
    """The external peers of this run: what was found, what is absent and why.

    Use as a context manager: it owns a temporary folder with the compiled program and the problems' files.

    Attributes
    ----------
    petsc, eigen
        What `look` found, or None.
    absent : dict of str to str
        What was not found, and why.
    versions : dict of str to str
        Of those that have been started.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="cgopt-peers-")
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.petsc: PETSc | None = None
        self.eigen: Eigen | None = None
        self._looked = False

    def look(self) -> None:
        """Find and compile the peers, when the first case asks for them."""
        if self._looked:
            return
        self._looked = True
        try:
            self.petsc = PETSc.find()
        except Absent as reason:
            self.absent["PETSc"] = str(reason)
        try:
            self.eigen = Eigen.build(Path(self._temporary.name))
        except Absent as reason:
            self.absent["Eigen"] = str(reason)

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._temporary.cleanup()

    @contextlib.contextmanager
    def on(self, problem: Problem, *, ranks: Sequence[int] = (1, 2), threads: int = 2) -> Iterator[list[External]]:
        """Workers with `problem` loaded, ended on exit.

        Yields
        ------
        list of External
            PETSc once per number in `ranks`, then Eigen; those that are absent are left out.
        """
        self.look()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._temporary.name)))
            write_problem(problem, folder)
            workers: list[External] = []
            if self.petsc is not None:
                for number in ranks:
                    try:
                        worker = External(problem, self.petsc.start(folder, number))
                    except Absent as reason:
                        self.absent[f"PETSc, {number} ranks"] = str(reason)
                        continue
                    stack.callback(worker.close)
                    self.versions |= {
                        "PETSc": worker.worker.greeting["ready"],
                        "petsc4py": worker.worker.greeting["petsc4py"],
                    }
                    workers.append(worker)
            if self.eigen is not None:
                preconditioner = "diagonal" if problem.jacobi else "identity"
                worker = External(problem, self.eigen.start(folder, threads, preconditioner))
                stack.callback(worker.close)
                self.versions |= {"Eigen": worker.worker.greeting["ready"], "g++": worker.worker.greeting["compiler"]}
                workers.append(worker)
            yield workers
