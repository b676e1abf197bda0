"""The conjugate gradient method for Hermitian positive definite systems.

M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. Natl. Bur.
Stand. 49, 1952. The loop itself is `cgopt.kernels.loops.cg_steps`; this file prepares, and reports.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..arrays import (
    Array,
    as_array,
    as_array_there,
    as_device_array,
    contiguous,
    first_nonfinite,
    like,
    on_device,
    require_together,
    to_host,
)
from ..kernels.layouts import HalfCSR
from ..operators import DeviceMatrix, MatrixOperator, as_operator
from ..operators.ordering import small_bandwidth
from ..preconditioners import Factored, as_preconditioner
from ..preconditioners.choose import Patience, choose, patience, worth_choosing
from .automatic import Trial, solve_automatically
from .many import solve_many
from .one import solve_diagonal, solve_one
from .result import CGResult, ManyResult, nothing_to_solve
from .stopping import Goal, IterationState, Listeners, check_criterion, check_maxiter, check_tolerance
from .workspace import System, Workspace, checked_system, workspace_for


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
        Whether to test that A (and M) are Hermitian, with two products where that is not known. On by default.
    format : {"csr", "sorted", "half_csr", "dia", "half_dia", "dense", "float32"}, optional
        Force the storage layout of a sparse A. "float32" lets the loop for one right-hand side multiply by values
        rounded to single precision, sparse or dense, and corrects the residual by the exact ones now and then: the
        tolerance is met for A itself, in more iterations where A is ill-conditioned, each reading fewer bytes.
    reorder : bool
        Solve in an order of small bandwidth (reverse Cuthill-McKee). For large sparse matrices whose unknowns come in
        an order that knows nothing of the mesh or graph: products are then two to four times as fast, and preparing
        takes the time of some hundred iterations more. M must be a name or class, or None. Right-hand sides, solutions
        and what callbacks see are in the order of A.
    device : bool, optional
        Whether a function, or an object with ``matvec``, multiplies CuPy arrays. Arrays and matrices tell themselves.

    Attributes
    ----------
    operator : Operator
    preconditioner : Operator or None
        With `reorder`, in the order that is solved in.
    choice : str
        With ``M="auto"``, why the preconditioner is what it is.
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
        reorder: bool = False,
        device: bool | None = None,
    ) -> None:
        self.operator = self._solved = as_operator(A, n=n, dtype=dtype, format=format, device=device)
        self._order: Array | None = None  # unknown i of the solve is unknown order[i] of A
        if reorder and self.shape[0] > 0:
            self._reorder(A, M, format)
        if isinstance(self.operator, MatrixOperator | DeviceMatrix) and self.operator.bad_row >= 0:
            M = None  # A is not positive definite: solve() will say so, whatever M is
        # With "auto", Jacobi until a solve shows that something else would pay
        self._undecided = isinstance(M, str) and M.lower() == "auto" and worth_choosing(self._solved)
        self.choice = "Jacobi until a solve is slow" if self._undecided else ""
        self.preconditioner = as_preconditioner("jacobi" if self._undecided else M, self._solved)
        self._system = checked_system(self._solved, self.preconditioner, check)
        self._spaces: dict[Any, Workspace] = {}
        self._lock = threading.RLock()
        self._busy = False

    def __getstate__(self) -> dict[str, Any]:
        # Without lock and workspaces, which the copy in another process makes anew.
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_spaces", "_busy")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._spaces, self._lock, self._busy = {}, threading.RLock(), False

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
        if self._order is not None:
            held += self._solved.nbytes + self._order.nbytes
        return held + self._system.nbytes + sum(space.nbytes for space in self._spaces.values())

    @property
    def bytes_per_iteration(self) -> int:
        """Bytes that one iteration moves for a right-hand side of A's type."""
        return self._system.traffic(self.dtype.itemsize)

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
        criterion: str = "residual",
        eigenvalue_bound: float | None = None,
    ) -> Any:
        """Solve ``A x = b``.

        Parameters are those of `cgopt.cg`.

        Returns
        -------
        CGResult, or ManyResult for (n, k) b with k > 1
        """
        rhs = self._array(b, "b")
        n = self.shape[0]
        if rhs.ndim not in (1, 2) or rhs.shape[0] != n:
            raise ValueError(
                f"b must have shape ({n},), ({n}, 1) or ({n}, k) to go with A of shape {self.shape}, got {rhs.shape}"
            )
        goal = Goal(
            check_tolerance(rtol, "rtol"),
            check_tolerance(atol, "atol"),
            check_maxiter(maxiter, n),
            *check_criterion(criterion, eigenvalue_bound),
        )
        listeners = Listeners(callback, progress, self._order)
        if self._order is not None:
            rhs = rhs[self._order]
        many = rhs.ndim == 2 and rhs.shape[1] != 1
        start = self._start_vector(x0, rhs)
        dtype = self.dtype if rhs.dtype == self.dtype else np.result_type(self.dtype, rhs.dtype)
        if start is not None:
            if start.dtype.kind == "c" and dtype.kind != "c":
                raise TypeError("x0 is complex but A and b are real; pass its real part")
            start = start.astype(dtype, copy=False)
        if rhs.size == 0:
            return nothing_to_solve(rhs, dtype, many)
        rhs = contiguous(rhs if many else rhs.reshape(n), dtype)
        with self._lock:
            if self._busy:
                raise RuntimeError(
                    "a callback called solve() of the solver it belongs to; make it a CGSolver of its own"
                )
            self._busy = True
            try:
                result = self._solve(rhs, dtype, start, goal, listeners)
            finally:
                self._busy = False
        if self._order is not None:
            result.reorder(self._order)
        result.x = like(result.x, b)
        return result

    def _solve(
        self, rhs: Array, dtype: np.dtype[Any], start: Array | None, goal: Goal, listeners: Listeners
    ) -> CGResult | ManyResult:
        """Solve for checked arguments, after the choice of a preconditioner where that is still open."""
        many = rhs.ndim == 2
        if self._undecided and self._patience.certain and start is None and rhs.any():
            self._switch(dtype, f"not Jacobi: {self._patience.certain}")
        elif self._undecided and (many or goal.criterion == "error"):
            self._decide(rhs, goal)
        if many:
            return solve_many(self._system, functools.partial(self._workspace, dtype), rhs, start, goal, listeners)
        if self._undecided:
            space, switch = self._workspace(dtype, 1), functools.partial(self._switch, dtype)
            return solve_automatically(self._system, space, switch, rhs, start, goal, listeners, self._patience)
        plain = dtype == self.dtype and start is None and goal.criterion == "residual"
        if self._system.diagonal and plain and not listeners.each_iteration:  # a division, with no steps to be seen
            divided = solve_diagonal(self._system, rhs, goal)
            if divided is not None:
                return divided
        return solve_one(self._system, self._workspace(dtype, 1), rhs, start, goal, listeners)

    @functools.cached_property
    def _patience(self) -> Patience:
        return patience(self._solved)

    # --- preparation ------------------------------------------------------------------------------------------

    def _reorder(self, A: Any, M: Any, format: str | None) -> None:
        """Take an order of small bandwidth to solve in."""
        if not sp.issparse(A):
            raise TypeError(f"reorder=True is for SciPy's sparse matrices, and A is a {type(A).__name__}; leave it out")
        if not (M is None or isinstance(M, str | type)):
            raise TypeError(
                f"M is a {type(M).__name__} in the order of A, in which reorder=True does not solve; pass a name or a "
                "class, such as 'jacobi', or leave reorder out"
            )
        assert isinstance(self.operator, MatrixOperator)
        self._order = small_bandwidth(self.operator.rows())
        permuted = A.tocsr()[self._order][:, self._order]
        permuted.sort_indices()
        self._solved = MatrixOperator(permuted, format=format)

    def _array(self, a: Any, name: str) -> Array:
        """An argument as an array that lies where the operator works."""
        there = on_device(a)
        if there and self.operator.on_device:
            return as_device_array(a, name)
        if there:
            raise TypeError(
                f"{name} lies on a device and A in host memory: pass {to_host(a, name)}, or A as a CuPy matrix; "
                "for a function that multiplies CuPy arrays there is CGSolver(A, ..., device=True)"
            )
        if self.operator.on_device:
            raise TypeError(f"A lies on a device and {name} in host memory: pass {name} as cupy.asarray({name})")
        return as_array(a, name)

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
        start = self._array(x0, "x0")
        many = rhs.ndim == 2 and rhs.shape[1] != 1
        allowed = [rhs.shape] if many else [(n,), (n, 1)]
        if start.shape not in allowed:
            raise ValueError(f"x0 must have the shape of b, {rhs.shape}, got {start.shape}")
        where = first_nonfinite(start)
        if where is not None:
            raise ValueError(f"x0 holds NaN or infinity at index {where}; every entry must be finite")
        if self._order is not None:
            start = start[self._order]
        return start if many else start.reshape(n)

    def _switch(self, dtype: np.dtype[Any], why: str) -> tuple[System, Workspace]:
        """Take what suits the matrix in place of Jacobi."""
        self._undecided, self.choice = False, why
        self.preconditioner = choose(self._solved)
        if isinstance(self.preconditioner, Factored) and self.preconditioner.eisenstat is None:
            self._system = self._system.factored(self.preconditioner)
        else:
            self._system = checked_system(self._solved, self.preconditioner, check=False)  # (it is made for A)
        self._spaces.clear()
        return self._system, self._workspace(dtype, 1)

    def _decide(self, rhs: Array, goal: Goal) -> None:
        """Choose before a solve that cannot change its mind on the way: by a trial with one right-hand side."""
        column = np.ascontiguousarray(rhs if rhs.ndim == 1 else rhs[:, np.argmax(np.abs(rhs).max(axis=0))])
        trial = Trial(Listeners(None, None), self._patience)
        residual_goal = Goal(goal.rtol, goal.atol, goal.maxiter)
        solve_one(self._system, self._workspace(rhs.dtype, 1), column, None, residual_goal, trial)
        if trial.gave_up:
            self._switch(rhs.dtype, f"left Jacobi: {trial.gave_up}")
        else:
            self._undecided, self.choice = False, "stayed with Jacobi: a trial with one right-hand side was fast"

    def _workspace(self, dtype: np.dtype[Any], columns: int) -> Workspace:
        space = self._spaces.get((dtype, columns))
        if space is None:
            if len(self._spaces) >= 4:  # a workspace is four vectors: do not hoard them
                self._spaces.clear()
            space = self._spaces[dtype, columns] = workspace_for(self._system, dtype, columns)
        return space

    def __repr__(self) -> str:
        halved = ", loop reads half of the rows" if isinstance(self._system.layout, HalfCSR) else ""
        halved += ", loop reads values rounded to fp32" if self._system.rounded is not None else ""
        order = ", reordered" if self._order is not None else ""
        chosen = f" ({self.choice})" if self.choice else ""
        return (
            f"CGSolver({self._solved!r}{order}{halved}, M={self.preconditioner!r}{chosen}, {self.nbytes / 1e6:.3g} MB)"
        )


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
    criterion: str = "residual",
    eigenvalue_bound: float | None = None,
) -> Any:
    """Solve ``A x = b`` by conjugate gradients, A Hermitian positive definite.

    A drop-in for `scipy.sparse.linalg.cg`: ``x, info = cgopt.cg(A, b)``.

    Parameters
    ----------
    A : (n, n) array, sparse array or matrix, LinearOperator, tensor, object with ``matvec`` and ``shape``, callable
        The matrix: float32, float64, complex64, complex128; integers are cast. Only products with it are needed; a
        function ``v -> A v`` will do. With A and b on a GPU (CuPy's arrays and sparse matrices, CUDA tensors) the solve
        runs there.
    b : (n,), (n, 1) or (n, k) array
        Right-hand side; k of them are solved at once, with one pass over A an iteration and a status for each. (Where
        the vectors of a few fit the processor's cache and those of all do not, a few at a time.)
    x0 : array of b's shape, optional
        Initial guess; not overwritten. Zero by default, and where the guess's residual overflows.
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
        Test that A is Hermitian, by two products where that is not known. Switch it off where products are dear.
    format : {"csr", "sorted", "half_csr", "dia", "half_dia", "dense", "float32"}, optional
        Force the storage layout of a sparse A; by default the cheapest is chosen. All hold every digit but "float32",
        for which see `CGSolver`.
    progress : callable, optional
        Called with an `IterationState` a few times a second.
    criterion : {"residual", "error"}
        With "error" the tolerances are of the energy norm: the solve ends, with status ACCURATE, when the error
        ``|x* - x|_A`` is estimated to be below ``max(rtol * |x*|_A, atol)``. Rounding may come first: STAGNATED.
    eigenvalue_bound : float, optional
        For ``criterion="error"``: a positive number not above the smallest eigenvalue of A (of M A when
        preconditioned). The estimate is then an upper bound (Gauss and Radau); without it, Hestenes and Stiefel's lower
        one with a delay that adapts itself to the convergence.

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
    G. Meurant, J. Papez and P. Tichy, Numer. Algorithms 88, 2021 (stopping on the error).

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
    if isinstance(A, np.ndarray) or sp.issparse(A) or on_device(A):  # (a function goes where b is)
        require_together(A=A, b=b)
    rhs = as_array_there(b, "b")
    n = rhs.shape[0] if rhs.ndim else 0
    solver = CGSolver(A, M=M, n=n, dtype=rhs.dtype, check=check, format=format, device=on_device(rhs))
    return solver.solve(
        b,
        x0,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        callback=callback,
        progress=progress,
        criterion=criterion,
        eigenvalue_bound=eigenvalue_bound,
    )
