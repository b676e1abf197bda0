"""The conjugate gradient method for Hermitian positive definite systems.

M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. Natl. Bur.
Stand. 49, 1952. The loop itself is `cgopt.kernels.loops.cg_steps`; this file prepares, and reports.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, as_array, first_nonfinite, like, real_view
from ..kernels import cpu, loops
from ..kernels.layouts import Work
from ..operators import MatrixOperator, Operator, as_operator
from ..operators.check import require_hermitian
from ..preconditioners import Jacobi, as_preconditioner
from ..status import OF_CODE, Status
from .result import CGResult, ManyResult
from .stopping import IterationState, asks_to_stop, check_callback, check_maxiter, check_tolerance

SLICE = 1024  # iterations between two looks at the outside world, at the most
SLICE_BYTES = 200_000_000  # and bytes: about a tenth of a second on one slow core
PATIENCE = 64  # iterations in a row whose steps vanish in the rounding of x before the true residual is asked

# b is multiplied by a power of two if its norm lies outside these, so that r'r neither overflows nor vanishes.
SAFE_NORM = {"f": (1e-12, 1e18), "d": (1e-100, 1e100)}


class CGSolver:
    """Conjugate gradients for one matrix: prepared once, solving often.

    Preparation picks a storage layout, sets up the preconditioner and checks the matrix; `solve` then allocates nothing
    of length n but the solution.

    Parameters
    ----------
    A : (n, n) array, sparse array or matrix, LinearOperator, tensor, object with ``matvec`` and ``shape``, callable
        Hermitian positive definite. Not copied where its storage suits: do not change it while the solver lives.
    M : optional
        Preconditioner, an approximation of the inverse of A: None, a `cgopt.preconditioners` object, class or name,
        or anything that A may be.
    n : int, optional
        The size, when A is a callable.
    dtype : dtype, optional
        Of the products of a callable.
    check : bool
        Whether to test that A (and M) are Hermitian, with two products. On by default.
    format : {"csr", "sorted", "dia", "dense"}, optional
        Force the storage layout of a sparse A.

    Attributes
    ----------
    operator : Operator
    preconditioner : Operator or None
    bytes_per_iteration : int
        Memory traffic of one iteration by our own count (a store to a line that was not read counts twice).

    Notes
    -----
    A solver may be used from several threads: solves with the same solver wait for each other, since they share
    its workspace. Different solvers run at the same time.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> solver = cgopt.CGSolver(cgopt.gallery.poisson((30, 30)), M="jacobi")
    >>> for seed in range(3):
    ...     b = np.random.default_rng(seed).standard_normal(900)
    ...     print(solver.solve(b, rtol=1e-8).status.name)
    CONVERGED
    CONVERGED
    CONVERGED
    """

    def __init__(
        self,
        A: Any,
        *,
        M: Any = None,
        n: int | None = None,
        dtype: Any = None,
        check: bool = True,
        format: str | None = None,
    ) -> None:
        self.operator = as_operator(A, n=n, dtype=dtype, format=format)
        self.preconditioner: Operator | None = None
        self._lock = threading.RLock()
        self._busy = False
        matrix = isinstance(self.operator, MatrixOperator)
        self._bad_row = self.operator.bad_row if isinstance(self.operator, MatrixOperator) else -1
        self._exponent = self.operator.exponent if isinstance(self.operator, MatrixOperator) else 0
        self._norm = self.operator.norm_bound if isinstance(self.operator, MatrixOperator) else 0.0
        if self._bad_row >= 0:  # not positive definite: solve() will say so, whatever M is
            M = None
        self.preconditioner = as_preconditioner(M, self.operator)
        if check:
            norm = require_hermitian(self.operator, "A")
            self._norm = self._norm if matrix else norm
            if self.preconditioner is not None and not isinstance(self.preconditioner, Jacobi):
                require_hermitian(self.preconditioner, "M")
        self._layout: Any = self.operator.layout if isinstance(self.operator, MatrixOperator) else self.operator
        self._kind = (
            "identity"
            if self.preconditioner is None
            else "diagonal" if isinstance(self.preconditioner, Jacobi) else "python"
        )
        self._spaces: dict[Any, _Workspace] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of A."""
        return self.operator.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of A."""
        return self.operator.dtype

    @property
    def nbytes(self) -> int:
        """Bytes held: matrix, preconditioner and workspaces."""
        held = self.operator.nbytes + (self.preconditioner.nbytes if self.preconditioner is not None else 0)
        return held + sum(space.V.nbytes for space in self._spaces.values())

    @property
    def bytes_per_iteration(self) -> int:
        """Bytes that one iteration moves for a right-hand side of A's type."""
        return self._traffic(self.dtype.itemsize, 1)

    def _traffic(self, itemsize: int, columns: int) -> int:
        # Streams of one vector each: product p, q (written unread: twice); update_residual r twice, q;
        # update_direction x twice, p twice, r. A diagonal M is read twice, a general one writes and rereads z.
        streams = 11 + {"identity": 0, "diagonal": 2, "python": 3}[self._kind]
        return self.operator.nbytes + streams * itemsize * self.shape[0] * columns

    def solve(
        self,
        b: Any,
        x0: Any = None,
        *,
        rtol: float = 1e-5,
        atol: float = 0.0,
        maxiter: int | None = None,
        callback: Callable[..., Any] | None = None,
        progress: Callable[[IterationState], Any] | None = None,
    ) -> Any:
        """Solve ``A x = b``.

        Parameters are those of `cgopt.cg`.

        Returns
        -------
        CGResult, or ManyResult for (n, k) b with k > 1
        """
        rhs = as_array(b, "b")
        n = self.shape[0]
        if rhs.ndim not in (1, 2) or rhs.shape[0] != n:
            raise ValueError(
                f"b must have shape ({n},), ({n}, 1) or ({n}, k) to go with A of shape {self.shape}, got {rhs.shape}"
            )
        goal = _Goal(check_tolerance(rtol, "rtol"), check_tolerance(atol, "atol"), check_maxiter(maxiter, n))
        outside = _Outside(callback, progress)
        many = rhs.ndim == 2 and rhs.shape[1] != 1
        start = self._start_vector(x0, rhs)
        dtype = np.result_type(self.dtype, rhs.dtype, *(() if start is None else (start.dtype,)))
        rhs = np.ascontiguousarray(rhs if many else rhs.reshape(n), dtype=dtype)
        with self._lock:
            if self._busy:
                raise RuntimeError("a callback called solve() of the solver it belongs to; make it a CGSolver of its own")
            self._busy = True
            try:
                result: Any = (self._solve_many if many else self._solve_one)(rhs, start, dtype, goal, outside)
            finally:
                self._busy = False
        result.x = like(result.x, b)
        return result

    # --- preparation ------------------------------------------------------------------------------------------

    def _start_vector(self, x0: Any, rhs: Array) -> Array | None:
        """The initial guess as an array of the right shape, or None for zero."""
        if x0 is None:
            return None
        n = self.shape[0]
        if isinstance(x0, str):
            if x0 != "Mb":
                raise ValueError(f"x0 must be an array, None or 'Mb' (start from M b), got {x0!r}")
            if self.preconditioner is None:
                return rhs.reshape(n) if rhs.shape == (n, 1) else rhs
            return self.preconditioner @ (rhs.reshape(n) if rhs.shape == (n, 1) else rhs)
        start = as_array(x0, "x0")
        many = rhs.ndim == 2 and rhs.shape[1] != 1
        allowed = [rhs.shape] if many else [(n,), (n, 1)]
        if start.shape not in allowed:
            raise ValueError(f"x0 must have the shape of b, {rhs.shape}, got {start.shape}")
        where = first_nonfinite(start)
        if where is not None:
            raise ValueError(f"x0 holds NaN or infinity at index {where}; every entry must be finite")
        return start if many else start.reshape(n)

    def _workspace(self, dtype: np.dtype[Any], columns: int) -> _Workspace:
        key = (dtype, columns)
        if key not in self._spaces:
            if len(self._spaces) > 3:
                self._spaces.clear()
            self._spaces[key] = _Workspace(self, dtype, columns)
        return self._spaces[key]

    def _norm_and_exponent(self, b: Array, space: _Workspace) -> tuple[float, int]:
        """``|2^e b|`` and e, the power of two that keeps squares in range; refuses NaN and infinity."""
        real = real_view(b)
        low, high = SAFE_NORM[real.dtype.char]
        square = cpu.run(cpu.sum_of_squares, space.work_norm, real, space.work_norm)
        if low * low <= square <= high * high:
            return float(np.sqrt(square)), 0
        where = first_nonfinite(b)
        if where is not None:
            raise ValueError(f"b holds NaN or infinity at index {where}; every entry must be finite")
        largest = float(np.max(np.abs(real)))
        if largest == 0.0:
            return 0.0, 0
        exponent = max(-1000, min(1000, -int(np.frexp(largest)[1])))
        return float(np.linalg.norm(np.ldexp(real.astype(np.float64), exponent))), exponent

    # --- one right-hand side ----------------------------------------------------------------------------------

    def _solve_one(self, b: Array, start: Array | None, dtype: Any, goal: _Goal, outside: _Outside) -> CGResult:
        n = self.shape[0]
        space = self._workspace(dtype, 1)
        norm, exponent = self._norm_and_exponent(b, space)
        x = np.zeros(n, dtype)
        if norm == 0.0:
            return CGResult(x, Status.CONVERGED, 0, 0.0, space.log[:0], (0.0, 0.0))
        shift = self._exponent - exponent  # the solution of the scaled system, times 2^shift, is the answer
        scale = 2.0**exponent
        V, s, w, xr = space.V, space.s, space.work, real_view(x)
        r = V[0, :n]
        if start is None:
            if exponent:
                np.multiply(b, scale, out=r, casting="same_kind")
            else:
                np.copyto(r, b)
            rr = norm * norm
        else:
            x[...] = start
            if shift:
                np.ldexp(xr, -shift, out=xr)
            rr = cpu.residual(self._layout, b, scale, x, r, w)
        s[:] = 0.0
        s[loops.RR] = s[loops.BEST] = rr
        s[loops.TARGET] = max(goal.rtol * norm, goal.atol * scale) ** 2
        s[loops.UNIT], s[loops.NORM_A] = space.unit, self._norm
        s[loops.PATIENCE], s[loops.SCALE] = PATIENCE, scale
        code, iterations, logs, direction = self._before_the_first(rr, s[loops.TARGET]), 0, [], None
        steps = cpu.cg_steps(cpu.layout_name(self._layout), self._kind)
        at_once = 1 if outside.callback is not None else space.slice
        while code == loops.RUNNING:
            if iterations >= goal.maxiter:
                code = loops.MAXITER
                break
            code, done = steps(
                w,
                self._layout,
                space.M,
                b,
                x,
                V,
                xr,
                space.Vr,
                s,
                space.log,
                w,
                space.work_real,
                iterations == 0,
                min(at_once, goal.maxiter - iterations),
            )
            iterations += done
            log = space.log[:done].copy()
            logs.append(log)
            if outside.listens and done and outside.stop(x, shift, iterations, log[-1:], s, exponent):
                code = loops.STOPPED if code == loops.RUNNING else code
        if code in (loops.CONVERGED, loops.STAGNATED) or not iterations:
            true = float(s[loops.RR])
        else:
            true = cpu.residual(self._layout, b, scale, x, r, w)
            if true <= s[loops.TARGET]:
                code = loops.CONVERGED
        if code == loops.INDEFINITE and not iterations and self._bad_row >= 0:
            direction = np.zeros(n, dtype)
            direction[self._bad_row] = 1.0
        elif code in (loops.INDEFINITE, loops.SINGULAR):
            direction = V[2, :n].copy()
        if shift:
            np.ldexp(xr, shift, out=xr)
        if not np.isfinite(true) or (shift and not np.isfinite(xr).all()):
            code = loops.NONFINITE
        return CGResult(
            x,
            OF_CODE[code],
            iterations,
            float(np.ldexp(np.sqrt(true), -exponent)),
            logs[0] if len(logs) == 1 else np.concatenate(logs) if logs else space.log[:0],
            (rr, float(s[loops.RZ0])),
            (self._exponent, exponent),
            direction,
        )

    def _before_the_first(self, rr: float, target: float) -> int:
        """The code of a solve before its first iteration."""
        if rr <= target:
            return loops.CONVERGED
        if not rr < np.inf:
            return loops.NONFINITE
        return loops.INDEFINITE if self._bad_row >= 0 else loops.RUNNING

    # --- many right-hand sides --------------------------------------------------------------------------------

    def _solve_many(self, b: Array, start: Array | None, dtype: Any, goal: _Goal, outside: _Outside) -> ManyResult:
        n, k = b.shape
        space = self._workspace(dtype, k)
        V, S, w = space.V, space.s, space.work
        x = np.zeros((n, k), dtype)
        measured = [self._norm_and_exponent(np.ascontiguousarray(b[:, j]), space) for j in range(k)]
        norms = np.array([norm for norm, _ in measured])
        exponents = np.array([exponent for _, exponent in measured])
        shifts = self._exponent - exponents
        scales = 2.0**exponents
        space.T[7] = scales
        r = V[0]
        if start is not None:
            x[...] = start
            x[:, norms == 0.0] = 0.0  # the solution of A x = 0, as in SciPy, whatever the guess
            _scale_columns(x, -shifts)
        np.multiply(b, scales, out=r, casting="same_kind")
        if start is not None:
            cpu.residual_many(self._layout, b, scales, x, r, space.T[3], w)
        rr = np.array([float(np.linalg.norm(real_view(np.ascontiguousarray(r[:, j])).astype(float))) ** 2 for j in range(k)])
        S[:] = 0.0
        S[:, loops.RR] = S[:, loops.BEST] = rr
        S[:, loops.TARGET] = np.maximum(goal.rtol * norms, goal.atol * scales) ** 2
        S[:, loops.UNIT], S[:, loops.NORM_A] = space.unit, self._norm
        S[:, loops.PATIENCE], S[:, loops.SCALE] = PATIENCE, scales
        codes = np.array([self._before_the_first(rr[j], S[j, loops.TARGET]) for j in range(k)], dtype=np.int64)
        never = codes != loops.RUNNING
        ended_at = np.where(never, 0, -1)
        steps = cpu.cg_steps_many(cpu.layout_name(self._layout), self._kind)
        at_once = 1 if outside.callback is not None else space.slice
        iterations, logs, stopped = 0, [], False
        while (codes == loops.RUNNING).any() and iterations < goal.maxiter and not stopped:
            done = steps(
                w,
                self._layout,
                space.M,
                b,
                x,
                V,
                S,
                space.T,
                codes,
                space.log,
                w,
                iterations == 0,
                min(at_once, goal.maxiter - iterations),
            )
            iterations += done
            logs.append(space.log[:done].copy())
            ended_at[(codes != loops.RUNNING) & (ended_at < 0)] = iterations
            if outside.listens and done:
                stopped = outside.stop(x, shifts, iterations, logs[-1][-1], S.T, exponents)
        log = np.concatenate(logs) if logs else space.log[:0]
        true = S[:, loops.RR].copy()
        if iterations:
            cpu.residual_many(self._layout, b, scales, x, r, true, w)
        columns = []
        for j in range(k):
            code = int(codes[j])
            if code == loops.RUNNING:
                code = loops.STOPPED if stopped else loops.MAXITER
            if not never[j] and true[j] <= S[j, loops.TARGET]:
                code = loops.CONVERGED
            # A column that has ended stands still with alpha = 0; it ended where its last step was made.
            moved = np.flatnonzero(log[:, j, loops.LOG_ALPHA])
            count = int(moved[-1]) + 1 if moved.size else 0
            direction = None
            if code == loops.INDEFINITE and self._bad_row >= 0:
                direction = np.zeros(n, dtype)
                direction[self._bad_row] = 1.0
            elif code in (loops.INDEFINITE, loops.SINGULAR):
                direction = V[2][:, j].copy()
            columns.append(
                CGResult(
                    x[:, j],
                    OF_CODE[code],
                    count,
                    float(np.ldexp(np.sqrt(true[j]), -exponents[j])),
                    log[:count, j].copy(),
                    (rr[j], float(S[j, loops.RZ0])),
                    (self._exponent, int(exponents[j])),
                    direction,
                )
            )
        _scale_columns(x, shifts)
        for column in columns:
            if not np.isfinite(column.residual_norm) or not np.isfinite(column.x).all():
                column.status = Status.NONFINITE
        return ManyResult(x, columns)

    def __repr__(self) -> str:
        return f"CGSolver({self.operator!r}, M={self.preconditioner!r}, {self.nbytes / 1e6:.3g} MB)"


class _Workspace:
    """Arrays of a solve for one data type and number of columns."""

    def __init__(self, solver: CGSolver, dtype: np.dtype[Any], columns: int) -> None:
        n = solver.shape[0]
        operator, M = solver.operator, solver.preconditioner
        shares = operator.shares if isinstance(operator, MatrixOperator) else (n, 8 * n)
        self.work = cpu.share_rows(*shares, columns=columns)
        # Rows end on whole cache lines, and an odd number of them, so that rows of a size that is a power of two do
        # not fall on the same cache sets.
        line = 64 // dtype.itemsize
        self.V: Array
        if columns == 1:
            padded = (n // line + 1) | 1
            self.V = np.zeros((4, padded * line), dtype)
        else:
            self.V = np.zeros((4, n, columns), dtype)
        self.Vr = self.V.view(self.V.real.dtype)
        self.s = np.zeros((columns, loops.SCALARS) if columns > 1 else loops.SCALARS)
        self.T = np.zeros((8, columns))
        self.unit = float(np.finfo(dtype).eps) / 2.0
        self.work_real = self.work
        doubled = dtype.kind == "c" and columns == 1
        twice = 2 if dtype.kind == "c" else 1
        if doubled:
            self.work_real = Work(2 * self.work.bounds, np.zeros_like(self.work.sums))
        self.work_norm = Work(twice * self.work.bounds, np.zeros_like(self.work.sums))
        traffic = solver._traffic(dtype.itemsize, columns)
        self.slice = int(max(1, min(SLICE // columns, SLICE_BYTES // traffic)))
        self.log = np.zeros((self.slice, *((columns,) if columns > 1 else ()), loops.LOG_COLUMNS))
        self.M: Any = None
        if isinstance(M, Jacobi):
            inverse = np.ldexp(M.inverse_diagonal, -solver._exponent).astype(self.V.real.dtype)
            self.M = np.repeat(inverse, 2) if doubled else inverse
        elif M is not None:
            self.M = _OnViews(M, dtype, -solver._exponent)


class _OnViews:
    """A preconditioner for vectors that come as real views; scaled as A is."""

    def __init__(self, M: Operator, dtype: np.dtype[Any], exponent: int) -> None:
        self.M, self.dtype, self.exponent = M, dtype, exponent

    def matvec(self, r: Array, out: Array) -> None:
        z = out.view(self.dtype)
        self.M.matvec(r.view(self.dtype), out=z)
        if self.exponent:
            out[...] = np.ldexp(out, self.exponent)

    def matmat(self, R: Array, out: Array) -> None:
        self.M.matmat(R, out=out)
        if self.exponent:
            _scale_columns(out, np.full(out.shape[1], self.exponent))


class _Goal(NamedTuple):
    """When a solve may end."""

    rtol: float
    atol: float
    maxiter: int


class _Outside:
    """Who is told of the iterations: a callback after each, a progress function a few times a second."""

    def __init__(self, callback: Callable[..., Any] | None, progress: Callable[..., Any] | None) -> None:
        self.callback, self.rich = check_callback(callback)
        self.progress, _ = check_callback(progress, "progress")
        self.listens = self.callback is not None or self.progress is not None

    def stop(self, x: Array, shift: Any, iteration: int, last: Array, s: Array, exponent: Any) -> bool:
        """Tell them; whether the callback asked for the end."""
        if np.any(shift):
            x = x.copy()
            _scale_columns(x.reshape(x.shape[0], -1), np.atleast_1d(shift))
        shown = x.view()
        shown.flags.writeable = False
        pick = (lambda a: float(a[0])) if x.ndim == 1 else (lambda a: a.copy())
        state = IterationState(
            x=shown,
            iteration=iteration,
            residual_norm=pick(np.ldexp(np.sqrt(last[:, loops.LOG_RR]), -np.atleast_1d(exponent))),
            alpha=pick(last[:, loops.LOG_ALPHA]),
            beta=pick(last[:, loops.LOG_BETA]),
            target=pick(np.ldexp(np.sqrt(np.atleast_1d(s[loops.TARGET])), -np.atleast_1d(exponent))),
        )
        if self.progress is not None:
            self.progress(state)
        return self.callback is not None and asks_to_stop(self.callback, self.rich, state)


def _scale_columns(x: Array, exponents: Array) -> None:
    """Multiply the columns of x by powers of two, exactly."""
    for j in np.flatnonzero(exponents):
        column = np.ascontiguousarray(x[:, j])
        x[:, j] = np.ldexp(real_view(column), int(exponents[j])).view(x.dtype)


def cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[..., Any] | None = None,
    check: bool = True,
    format: str | None = None,
    progress: Callable[[IterationState], Any] | None = None,
) -> Any:
    """Solve ``A x = b`` by conjugate gradients, A Hermitian positive definite.

    A drop-in for `scipy.sparse.linalg.cg`: ``x, info = cgopt.cg(A, b)``.

    Parameters
    ----------
    A : (n, n) array, sparse array or matrix, LinearOperator, tensor, object with ``matvec`` and ``shape``, callable
        The matrix: float32, float64, complex64, complex128; integers are cast. Only products with it are needed; a
        function ``v -> A v`` will do.
    b : (n,), (n, 1) or (n, k) array
        Right-hand side; k of them are solved at once, with one pass over A an iteration and a status for each.
    x0 : array of b's shape, optional
        Initial guess; not overwritten. Zero by default.
    rtol, atol : float
        Converged when ``norm(b - A x) <= max(rtol * norm(b), atol)``, the residual computed from x.
    maxiter : int, optional
        Iterations allowed; 10 n by default.
    M : optional
        Preconditioner, an approximation of the inverse of A: a `cgopt.preconditioners` object, class or name
        ("jacobi"), or anything that A may be.
    callback : callable, optional
        Called after each iteration as ``callback(x)``; with a parameter named ``intermediate_result``, it is given an
        `IterationState` instead. Returning or raising StopIteration ends the solve.
    check : bool
        Test with two products that A is Hermitian. Switch it off where products are dear.
    format : {"csr", "sorted", "dia", "dense"}, optional
        Force the storage layout of a sparse A; by default the cheapest is chosen.
    progress : callable, optional
        Called with an `IterationState` a few times a second.

    Returns
    -------
    CGResult or ManyResult
        Unpacks to ``x, info``; carries the status, the true residual norm, the history, estimates of the condition
        number and of the error, and the direction if A turned out not to be positive definite.

    Raises
    ------
    ValueError, TypeError
        For input that is no system at all (shapes, NaN, a matrix that is not Hermitian, ...), before any iteration.

    Notes
    -----
    The loop is compiled when A is a matrix and M is diagonal or absent, and interpreted with compiled vector passes
    otherwise. Sums run in a fixed order: the same input gives the same bits for a given number of threads.

    References
    ----------
    M. R. Hestenes and E. Stiefel, J. Res. Natl. Bur. Stand. 49, 1952.
    H. A. van der Vorst and Q. Ye, SIAM J. Sci. Comput. 22, 2000 (replacement of the residual).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((50, 50))
    >>> x, info = cgopt.cg(A, np.ones(2500), rtol=1e-8)
    >>> info, bool(np.linalg.norm(A @ x - 1.0) <= 1e-8 * 50.0)
    (0, True)
    >>> cgopt.cg(A, np.ones(2500), maxiter=5).status.name
    'MAXITER'
    """
    rhs = as_array(b, "b")
    n = rhs.shape[0] if rhs.ndim else 0
    solver = CGSolver(A, M=M, n=n, dtype=rhs.dtype, check=check, format=format)
    return solver.solve(b, x0, rtol=rtol, atol=atol, maxiter=maxiter, callback=callback, progress=progress)
