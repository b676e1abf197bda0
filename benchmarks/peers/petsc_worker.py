"""PETSc's KSPCG on one loaded problem, run by an interpreter that has petsc4py, under mpiexec for two ranks.

Usage: ``petsc_worker.py FOLDER TAG``. Each rank sleeps in a blocking read of its own pipe
``FOLDER/TAG.RANK``, so that it uses no processor while others are timed; rank 0 answers with one line of JSON
per command on the standard output. The commands are described in `external.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


class Worker:
    """This rank's rows of the matrix, the right-hand sides and the solver.

    Parameters
    ----------
    folder : Path
        Holds ``problem.json`` and the raw arrays.
    tag : str
        Names this worker's pipes and its solution file.
    """

    def __init__(self, folder: Path, tag: str) -> None:
        from petsc4py import PETSc  # not at the top: asv imports every module of this folder

        self.PETSc, self.comm = PETSc, PETSc.COMM_WORLD
        self.folder, self.tag = folder, tag
        self.ksp = self.A = None
        self.load()
        self.setup()

    def load(self) -> dict:
        """Read this rank's part of the problem that lies in the folder now."""
        PETSc = self.PETSc
        self.header = json.loads((self.folder / "problem.json").read_text())
        self.n, self.columns = self.header["n"], self.header["columns"]
        layout = PETSc.Vec().createMPI(self.n, comm=self.comm)
        self.first, self.last = layout.getOwnershipRange()
        self.x = layout
        self.b = []
        for column in range(self.columns):
            b = layout.duplicate()
            b.setArray(self._rows("rhs.f64", np.float64, column * self.n + self.first, column * self.n + self.last))
            self.b.append(b)
        self.arrays = self._load()
        return {"n": self.n}

    def _rows(self, name: str, dtype: type, start: int, stop: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        return np.fromfile(self.folder / name, dtype=dtype, offset=start * size, count=stop - start)

    def _load(self) -> tuple[np.ndarray, ...]:
        if self.header["kind"] == "dense":
            return (self._rows("data.f64", np.float64, self.first * self.n, self.last * self.n),)
        indptr = self._rows("indptr.i32", np.int32, self.first, self.last + 1)
        start, stop = int(indptr[0]), int(indptr[-1])
        integer = self.PETSc.IntType
        return (
            (indptr - indptr[0]).astype(integer),
            self._rows("indices.i32", np.int32, start, stop).astype(integer),
            self._rows("data.f64", np.float64, start, stop),
        )

    def setup(self, *options: str) -> dict:
        """Assemble the matrix from arrays in memory and set the solver up.

        Parameters
        ----------
        *options : str
            ``KEY=VALUE`` of PETSc's options database, for the preconditioner; by default what the problem's header
            says: the diagonal, or none.
        """
        PETSc = self.PETSc
        for old in filter(None, (self.ksp, self.A)):
            old.destroy()
        pairs = [option.partition("=")[::2] for option in options]
        database = PETSc.Options()
        for key, value in pairs:
            database.setValue(key, value)
        self.comm.barrier()
        start = time.perf_counter()
        rows = self.last - self.first
        size = ((rows, self.n), (rows, self.n))
        if self.header["kind"] == "dense":  # column-major in PETSc; symmetric, and one rank holds all of it
            A = PETSc.Mat().createDense(size, array=self.arrays[0].reshape(rows, self.n).T, comm=self.comm)
        else:
            A = PETSc.Mat().createAIJ(size, csr=self.arrays, comm=self.comm)
        A.assemble()
        ksp = PETSc.KSP().create(self.comm)
        ksp.setOperators(A)
        ksp.setType("cg")
        ksp.getPC().setType("jacobi" if self.header["jacobi"] else "none")
        # Natural: sqrt(r'z). With z = r that is the 2-norm, without the other norms' extra reduction.
        norms = PETSc.KSP.NormType
        ksp.setNormType(norms.UNPRECONDITIONED if self.header["jacobi"] or options else norms.NATURAL)
        ksp.setFromOptions()
        ksp.setUp()
        ksp.setUpOnBlocks()  # what block preconditioners would put off to the first solve
        self.comm.barrier()
        seconds = time.perf_counter() - start
        self.ksp, self.A = ksp, A
        for key, _ in pairs:
            database.delValue(key)
        return {"seconds": seconds}

    def fixed(self, iterations: int, solves: int) -> dict:
        """Solve the first system `solves` times with exactly `iterations` iterations."""
        self.ksp.setTolerances(rtol=1e-300, atol=1e-300, divtol=1e300, max_it=iterations)
        b, x = self.b[0], self.x
        self.comm.barrier()
        start = time.perf_counter()
        for _ in range(solves):
            self.ksp.solve(b, x)
        self.comm.barrier()
        return {"seconds": time.perf_counter() - start, "iterations": self.ksp.getIterationNumber()}

    def solve(self, rtol: float, maxiter: int) -> dict:
        """Solve every system to `rtol` and write the solutions, untimed, for the caller to check."""
        self.ksp.setTolerances(rtol=rtol, atol=1e-300, divtol=1e300, max_it=maxiter)
        seconds, iterations = 0.0, 0
        for column, b in enumerate(self.b):
            self.comm.barrier()
            start = time.perf_counter()
            self.ksp.solve(b, self.x)
            self.comm.barrier()
            seconds += time.perf_counter() - start
            iterations += self.ksp.getIterationNumber()
            with open(self.folder / f"{self.tag}.x", "r+b") as solution:
                solution.seek((column * self.n + self.first) * 8)
                solution.write(self.x.getArray(readonly=True).tobytes())
        self.comm.barrier()
        reason = self.ksp.getConvergedReason()
        names = {number: name for name, number in vars(self.PETSc.KSP.ConvergedReason).items() if type(number) is int}
        reply = {"seconds": seconds, "iterations": iterations, "converged": reason > 0}
        return reply | {"reason": names.get(reason, str(reason)).lower().replace("_", " ")}

    def obey(self, command: str, words: list[str]) -> dict:
        """Do what a line says, and tell an error rather than end of it."""
        try:
            if command == "load":
                return self.load()
            if command == "setup":
                return self.setup(*words)
            if command == "fixed":
                return self.fixed(int(words[0]), int(words[1]))
            return self.solve(float(words[0]), int(words[1]))
        except self.PETSc.Error as error:
            return {"error": " ".join(str(error).split())}

    def answer(self, reply: dict) -> None:
        """Rank 0 prints the reply."""
        if self.comm.rank == 0:
            print(json.dumps(reply), flush=True)

    def serve(self) -> None:
        """Obey commands until the pipe closes."""
        import petsc4py

        version = ".".join(map(str, self.PETSc.Sys.getVersion()))
        ready = {
            "ready": version,
            "ranks": self.comm.size,
            "petsc4py": petsc4py.__version__,
            "numpy": np.__version__,
        }
        with open(self.folder / f"{self.tag}.{self.comm.rank}") as commands:
            self.answer(ready)
            for line in commands:
                command, *words = line.split()
                if command == "quit":
                    break
                self.answer(self.obey(command, words))


if __name__ == "__main__":
    import petsc4py

    petsc4py.init([])
    Worker(Path(sys.argv[1]), sys.argv[2]).serve()
