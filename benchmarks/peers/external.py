"""PETSc and Eigen: found when installed, run in processes of their own, asleep while others are timed.

A worker loads the problem once from raw files in a temporary folder. Then it blocks in a read of a named pipe
(one per rank), which costs no processor time, and obeys one-line commands:

``setup``
    Prepare anew from arrays in memory.
``fixed ITERATIONS SOLVES``
    Solve the first system SOLVES times with exactly ITERATIONS iterations.
``solve RTOL MAXITER``
    Solve every system to RTOL and write the solutions (fp64, column after column) to ``FOLDER/TAG.x``.
``quit``
    End, as a closed pipe does.

Each command is answered with one line of JSON, timed by the worker itself.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.contenders import MAXITER, Contender, WholeSolve, true_residual
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


class External(Contender):
    """A peer in its own process or MPI ranks.

    Parameters
    ----------
    name : str
        As the table shows it.
    problem : Problem
        Written to `folder` before.
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
    """

    def __init__(
        self,
        name: str,
        problem: Problem,
        folder: Path,
        tag: str,
        command: Sequence[str],
        environment: dict[str, str],
        ranks: int = 1,
    ) -> None:
        super().__init__(problem)
        self.name = name
        self._solution = folder / f"{tag}.x"
        self._solution.write_bytes(bytes(8 * problem.b.size))
        self._errors = (folder / f"{tag}.errors").open("w+b")
        pipes = [folder / f"{tag}.{rank}" for rank in range(ranks)]
        for pipe in pipes:
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
            self.greeting = self._answer()
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line.startswith(b"{"):
            self._errors.seek(0)
            raise RuntimeError(f"{self.name} gave no answer: {line!r} {self._errors.read()[-2000:].decode()}")
        return json.loads(line)

    def _ask(self, command: str) -> dict:
        for pipe in self._pipes:
            os.write(pipe, f"{command}\n".encode())
        return self._answer()

    def fixed(self, iterations: int, solves: int) -> float:
        answer = self._ask(f"fixed {iterations} {solves}")
        self._must_equal(answer["iterations"], iterations, "fixed")
        return float(answer["seconds"])

    def whole(self, rtol: float) -> WholeSolve:
        setup = self._ask("setup")
        answer = self._ask(f"solve {rtol} {MAXITER}")
        X = np.fromfile(self._solution).reshape(-1, self.problem.n).T
        return WholeSolve(setup["seconds"], answer["seconds"], answer["iterations"], true_residual(self.problem, X))

    def close(self) -> None:
        """End the worker; kill it if it does not obey."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                os.write(pipe, b"quit\n")
            os.close(pipe)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()


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

    def start(self, problem: Problem, folder: Path, ranks: int) -> External:
        """A worker with `ranks` MPI ranks."""
        tag = f"petsc{ranks}"
        command = [self.python, str(HERE / "petsc_worker.py"), str(folder), tag]
        if ranks > 1:
            if not self.mpiexec:
                raise Absent("no mpiexec to start ranks with")
            command = [*self.mpiexec, "-n", str(ranks), *command]
        name = f"PETSc, {ranks} rank{'s' * (ranks > 1)}"
        try:
            worker = External(name, problem, folder, tag, command, self.environment, ranks)
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
        prefixes = [Path(sys.prefix), Path("/usr"), Path("/usr/local"), Path("/opt/homebrew")]
        found = [p / "include" / "eigen3" for p in prefixes if (p / "include" / "eigen3" / "Eigen" / "Core").exists()]
        if not found:
            raise Absent("not installed: no include/eigen3 folder (Debian: libeigen3-dev)")
        compiler = shutil.which("g++")
        if compiler is None:
            raise Absent("no g++ to compile it with")
        program = folder / "eigen_peer"
        flags = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-DNDEBUG", "-isystem", str(found[0])]
        source = HERE / "eigen_peer" / "eigen_peer.cpp"
        done = subprocess.run([compiler, *flags, str(source), "-o", str(program)], capture_output=True, check=False)
        if done.returncode != 0:
            print(done.stderr.decode(), file=sys.stderr)
            raise Absent("installed, but the worker did not compile")
        return cls(program)

    def start(self, problem: Problem, folder: Path, threads: int) -> External:
        """A worker with `threads` OpenMP threads."""
        header = json.loads((folder / "problem.json").read_text())
        sizes = [str(header[key]) for key in ("n", "nnz", "columns")]
        preconditioner = "diagonal" if problem.jacobi else "identity"
        command = [str(self.program), str(folder), "eigen", header["kind"], preconditioner, *sizes]
        name = f"Eigen, {threads} threads"
        return External(name, problem, folder, "eigen", command, {"OMP_NUM_THREADS": str(threads)})


class Peers:
    """The external peers of this run: what was found, what is absent and why.

    Use as a context manager: it owns a temporary folder with the compiled program and the problems' files.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="cgopt-peers-")
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._petsc: PETSc | None = None
        self._eigen: Eigen | None = None
        self._looked = False

    def _look(self) -> None:
        """Find and compile the peers, when the first case asks for them."""
        if self._looked:
            return
        self._looked = True
        try:
            self._petsc = PETSc.find()
        except Absent as reason:
            self.absent["PETSc"] = str(reason)
        try:
            self._eigen = Eigen.build(Path(self._temporary.name))
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
        self._look()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._temporary.name)))
            write_problem(problem, folder)
            workers: list[External] = []
            if self._petsc is not None:
                for number in ranks:
                    try:
                        worker = self._petsc.start(problem, folder, number)
                    except Absent as reason:
                        self.absent[f"PETSc, {number} ranks"] = str(reason)
                        continue
                    stack.callback(worker.close)
                    self.versions |= {
                        "PETSc": worker.greeting["ready"],
                        "petsc4py": worker.greeting["petsc4py"],
                    }
                    workers.append(worker)
            if self._eigen is not None:
                worker = self._eigen.start(problem, folder, threads)
                stack.callback(worker.close)
                self.versions |= {"Eigen": worker.greeting["ready"], "g++": worker.greeting["compiler"]}
                workers.append(worker)
            yield workers
