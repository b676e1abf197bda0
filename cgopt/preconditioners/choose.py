"""From what a user passes as M to a preconditioner."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from ..kernels.layouts import HalfDIA
from ..operators import MatrixOperator, Operator, as_operator
from ..operators.formats import count_entries
from .base import Preconditioner
from .block_jacobi import BlockJacobi
from .chebyshev import Chebyshev
from .eisenstat import DIC, MIC, SSOR
from .incomplete_cholesky import IncompleteCholesky
from .jacobi import Jacobi
from .multigrid import Multigrid

NAMES: dict[str, type[Preconditioner]] = {
    "jacobi": Jacobi,
    "block_jacobi": BlockJacobi,
    "chebyshev": Chebyshev,
    "ssor": SSOR,
    "dic": DIC,
    "mic": MIC,
    "incomplete_cholesky": IncompleteCholesky,
    "multigrid": Multigrid,
}


ON_DEVICE = (Jacobi, Chebyshev, Multigrid)  # those that run on a GPU

GRID = 300_000  # unknowns from which multigrid overtakes a factorisation on grids and their like
SHORT_ROWS = 10  # entries a row, on average, up to which a matrix may be of a grid


# Iterations of Jacobi that setting up what is chosen costs: an incomplete factorisation 40 to 470 on sixty real
# matrices, 170 on most; twice as many where diagonals make an iteration cheap; multigrid on a million unknowns 700.
COST, COST_ON_DIAGONALS, COST_OF_MULTIGRID = 200, 400, 600


def worth_choosing(A: Operator) -> bool:
    """Whether there is a choice: for real matrices that are sparse, and more than a diagonal."""
    if not isinstance(A, MatrixOperator) or A.dtype.kind != "f" or A.format == "dense" or A.bad_row >= 0:
        return False
    return not (isinstance(A.layout, HalfDIA) and A.layout.offsets.size == 0)


def choose(A: Any) -> Preconditioner:
    """The preconditioner for a system that Jacobi is too slow for.

    * Multigrid by smoothed aggregation for matrices of 300 000 unknowns and more with no positive entry off the
      diagonal and at most ten entries a row: Laplacians of grids and graphs. (Its iterations do not grow with n.)
    * Incomplete Cholesky by threshold for everything else: it was the fastest, or within one and a half times that, on
      nearly all of the fifty real matrices that the rule was made on (docs/performance.md).

    Parameters
    ----------
    A : MatrixOperator
        Real and sparse.
    """
    return Multigrid(A) if _is_large_grid(A) else IncompleteCholesky(A)


def cost_of_choice(A: Any) -> int:
    """How many iterations of Jacobi it about costs to set up what `choose` chooses."""
    if _is_large_grid(A):
        return COST_OF_MULTIGRID
    return COST_ON_DIAGONALS if A.format in ("dia", "half_dia") else COST


def _is_large_grid(A: Any) -> bool:
    entries, positive = count_entries(A.layout)
    return bool(A.shape[0] >= GRID and entries <= SHORT_ROWS * A.shape[0] and positive == A.shape[0])


def as_preconditioner(M: Any, A: Operator, name: str = "M") -> Operator | None:
    """What the argument M means.

    Parameters
    ----------
    M : None, str, preconditioner or its class, matrix, LinearOperator, object with ``matvec``, callable
        A class or a name is set up for A; a matrix or operator is what multiplies the residual (it approximates the
        inverse of A, as in SciPy).
    A : Operator

    Raises
    ------
    ValueError, TypeError
        For an unknown name, a wrong shape or type.
    """
    if M is None:
        return None
    if isinstance(M, str):
        if M.lower() == "none":
            return None
        if M.lower() == "auto":
            if worth_choosing(A):
                return choose(A)
            return Jacobi(A) if isinstance(A, MatrixOperator) or A.diagonal() is not None else None
        if M.lower() not in NAMES:
            near = difflib.get_close_matches(M.lower(), (*NAMES, "auto", "none"), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(repr, (*NAMES, "auto")))
            raise ValueError(f"{name}={M!r} is not a preconditioner; known are {known}{hint}")
        M = NAMES[M.lower()]
    if A.on_device and isinstance(M, type) and M not in ON_DEVICE:
        raise TypeError(
            f"{name}={M.__name__} runs in host memory only; on the GPU there are "
            + ", ".join(kind.__name__ for kind in ON_DEVICE)
        )
    if isinstance(M, type) and issubclass(M, Preconditioner):
        M = M(A)  # type: ignore[call-arg]
    if isinstance(M, np.ndarray) and M.ndim == 1:
        raise ValueError(
            f"{name} is one-dimensional; for a diagonal preconditioner pass preconditioners.Jacobi(diagonal)"
        )
    operator = as_operator(M, n=A.shape[0], dtype=A.dtype, name=name, device=A.on_device or None)
    if operator.on_device != A.on_device:
        there, here = ("the GPU", "host memory") if A.on_device else ("host memory", "the GPU")
        raise TypeError(f"A works on arrays in {there} and {name} on such in {here}; they must work on the same")
    if operator.dtype.kind == "c" and A.dtype.kind != "c":
        raise TypeError(f"{name} is complex but A is real; pass its real part, or A as a complex matrix")
    if operator.shape != A.shape:
        raise ValueError(f"{name} has shape {operator.shape}, but A has shape {A.shape}; they must agree")
    return operator
