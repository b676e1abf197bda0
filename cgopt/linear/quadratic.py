"""Minimising a quadratic: the form in which the conjugate gradient method is usually taught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, as_array
from ..status import Status
from .cg import CGSolver
from .result import CGResult


@dataclass(frozen=True)
class QuadraticResult:
    """The minimiser of ``1/2 x'Qx + q'x``; unpacks as ``x, fun``.

    Attributes
    ----------
    x : (n,) array
        The minimiser.
    fun : float
        The value there.
    status : Status
        INDEFINITE when the quadratic has no minimum; `negative_curvature` is then a direction along which it falls
        without end.
    iterations : int
    gradient_norm : float
        ``|Q x + q|``, computed from x.
    directions : (iterations, n) array or None
        The search directions, on request.
    iterates : (iterations + 1, n) array or None
        x0 and what followed, on request.
    solve : CGResult
        The whole report of the solver.
    """

    x: Array
    fun: float
    status: Status
    iterations: int
    gradient_norm: float
    directions: Array | None
    iterates: Array | None
    solve: CGResult

    @property
    def negative_curvature(self) -> Array | None:
        """A direction d with d'Qd <= 0, or None."""
        return self.solve.negative_curvature

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.fun))

    def __repr__(self) -> str:
        return (
            f"QuadraticResult({self.status.name}, fun={self.fun:.6g}, iterations={self.iterations}, "
            f"gradient_norm={self.gradient_norm:.3e})"
        )


def minimize_quadratic(
    Q: Any,
    q: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-8,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    check: bool = True,
    keep_directions: bool = False,
) -> QuadraticResult:
    """Minimise ``f(x) = 1/2 x'Qx + q'x`` by conjugate gradients.

    The gradient is ``Qx + q``, so this solves ``Q x = -q``; each step minimises f along a direction that is conjugate
    to all before it.

    Parameters
    ----------
    Q : (n, n) array, sparse matrix, operator or callable
        Symmetric positive definite.
    q : (n,) array
    x0 : (n,) array, optional
        Starting point; zero by default.
    rtol, atol, maxiter, M, check
        As for `cgopt.cg`; the tolerance is on the gradient, relative to ``|q|``.
    keep_directions : bool
        Keep the directions and iterates (n numbers for each iteration).

    Returns
    -------
    QuadraticResult

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> Q = np.array([[4.0, 1.0], [1.0, 3.0]])
    >>> result = cgopt.minimize_quadratic(Q, np.array([-1.0, -2.0]), keep_directions=True)
    >>> result.x.round(6), round(result.fun, 6)
    (array([0.090909, 0.636364]), -0.681818)
    >>> d = result.directions
    >>> bool(abs(d[0] @ Q @ d[1]) < 1e-12)
    True
    """
    g = as_array(q, "q")
    if g.ndim != 1:
        raise ValueError(f"q must have shape (n,), got {g.shape}")
    solver = CGSolver(Q, M=M, n=g.size, dtype=g.dtype, check=check)
    iterates: list[Array] = []

    def keep(x: Array) -> None:
        iterates.append(x.copy())

    solve = solver.solve(-g, x0, rtol=rtol, atol=atol, maxiter=maxiter, callback=keep if keep_directions else None)
    x: Array = solve.x
    Qx = solver.operator @ x
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    fun = float(0.5 * np.vdot(x.astype(wide), Qx.astype(wide)).real + np.vdot(g.astype(wide), x.astype(wide)).real)
    directions = path = None
    if keep_directions:
        first = np.zeros_like(x) if x0 is None else np.asarray(x0, dtype=x.dtype)
        path = np.array([first, *iterates])
        # x_{k+1} - x_k = alpha_k p_k
        alpha = solve.step_lengths
        directions = np.diff(path, axis=0) / alpha[:, None] if alpha.size else np.empty((0, x.size), x.dtype)
    return QuadraticResult(x, fun, solve.status, solve.iterations, solve.residual_norm, directions, path, solve)
