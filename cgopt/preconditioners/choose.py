"""From what a user passes as M to a preconditioner."""

from __future__ import annotations

import difflib
import math
from typing import Any, NamedTuple

import numpy as np

from ..kernels.layouts import HalfDIA
from ..operators import MatrixOperator, Operator, as_operator
from ..operators.formats import count_entries, is_wide_grid
from ..operators.ordering import has_hubs
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

GRID, GRID_ON_DIAGONALS = 100_000, 200_000  # unknowns from which multigrid overtakes a factorisation on Laplacians
LARGE = 300_000  # and on other matrices with short rows
SHORT_ROWS, FAIRLY_SHORT_ROWS = 10, 15  # entries a row, on average, up to which a matrix may be of a grid
FLAT = 5.5  # entries a row up to which a grid is one of the plane, where iterations grow like the root of n
FIRST_LOOK, EARLY_LOOK = 30, 15  # iterations; the early one where the change costs little, or is as good as certain
# Entries, a row counting as eight, that are gone over before the first look: setting up anything takes some tenths of a
# millisecond, a hundred iterations of a system with a few hundred unknowns.
WORTH_LOOKING = 400_000
LONG_ROWS = 12  # entries a row from which a factorisation without fill gains much, and takes the time of few products
# Condition numbers that the constant vector may show (see `certain_condition`) to be worth no iteration of Jacobi: of
# Laplacians, whose true one is much larger then, and of anything.
CERTAIN_OF_LAPLACIANS, CERTAIN = 200.0, 1000.0
EVEN = 10.0  # ratio of the extreme entries off the diagonal up to which a grid's coefficients hardly vary

# Iterations of Jacobi that a solve may be foretold to take. Setting up a threshold factorisation costs 40 to 470 on
# sixty real matrices, 170 on most; multigrid on a million unknowns 700. On diagonals, where products are cheapest,
# set-up and solve with a factorisation take 300 to 900 iterations. Once the condition number stands still, convergence
# quickens, and what is foretold is two to four times too much.
AFFORDED_ON_DIAGONALS, AFFORDED_OF_MULTIGRID, AFFORDED_ONCE_SETTLED = 800, 400, 800


class Patience(NamedTuple):
    """How long Jacobi is stayed with.

    Attributes
    ----------
    afforded : int
        Leave when more iterations than this are foretold.
    first_look : int
        Iterations before the first look.
    eager : bool
        Leave as soon as the condition number is seen to grow.
    certain : str
        Why it is not to be begun with; empty if that has to show.
    """

    afforded: int
    first_look: int
    eager: bool
    certain: str = ""


def worth_choosing(A: Operator) -> bool:
    """Whether there is a choice: for real matrices that are sparse, and more than a diagonal."""
    if not isinstance(A, MatrixOperator) or A.dtype.kind != "f" or A.format == "dense" or A.bad_row >= 0:
        return False
    return not (isinstance(A.layout, HalfDIA) and A.layout.offsets.size == 0)


def choose(A: Any) -> Preconditioner:
    """The preconditioner for a system that Jacobi is too slow for.

    * Multigrid by smoothed aggregation for Laplacians of large grids and graphs: no positive entry off the diagonal, at
      most ten entries a row, and 100 000 unknowns (200 000 where A is stored by diagonals, whose products are cheap);
      and from 300 000 unknowns on for all that has at most fifteen entries a row. (Its iterations do not grow with n.)
    * The modified factorisation (MIC) for smaller grids with nearly constant coefficients.
    * Incomplete Cholesky without fill for rows of more than twelve entries on average, if no pivot breaks down and no
      row is much longer than the others.
    * Incomplete Cholesky by threshold, or the whole factor where its fill is little, for everything else.

    One of these was the fastest, or within one and a half times that, on nearly all of the 68 systems that the rule was
    made on (docs/performance.md).

    Parameters
    ----------
    A : MatrixOperator
        Real and sparse.
    """
    if _is_large_grid(A):
        return Multigrid(A)
    if _is_even_grid(A):
        return MIC(A)
    if _has_long_rows(A) and not _has_hubs(A):
        try:
            return IncompleteCholesky(A, fill=0, max_shift=0.0)
        except np.linalg.LinAlgError:  # with a shift it is a poor one: fill serves better
            pass
    return IncompleteCholesky(A)


def patience(A: Any) -> Patience:
    """How long to stay with Jacobi, by what `choose` would set up instead."""
    n, entries, _ = A.shares
    large, long_rows = _is_large_grid(A), _has_long_rows(A)
    not_before = WORTH_LOOKING // (entries + 8 * n)
    cheap = _on_diagonals(A) and not long_rows
    if cheap and not (large and entries <= FLAT * n):  # products cost so little that the rate decides alone
        stay = Patience(AFFORDED_OF_MULTIGRID if large else AFFORDED_ON_DIAGONALS, max(FIRST_LOOK, not_before), False)
    else:
        first_look = EARLY_LOOK if (large or long_rows) and not cheap else FIRST_LOOK
        stay = Patience(AFFORDED_ONCE_SETTLED, max(first_look, not_before), eager=True)
    if not_before > FIRST_LOOK:
        return stay
    bound = certain_condition(A)
    if bound < CERTAIN_OF_LAPLACIANS or (bound < CERTAIN and not _is_laplacian(A)):
        return stay
    return stay._replace(certain=f"the constant vector shows a condition number of {bound:.2g} or more")


def certain_condition(A: Any) -> float:
    """A lower bound of the condition number of ``D^-1 A``, D the diagonal of A: ``1'D 1 / 1'A 1``.

    Its inverse is a Rayleigh quotient, no less than the smallest eigenvalue, and the largest is no less than their
    mean, which is one. It is large where the constant nearly solves ``A x = 0``: Laplacians with little beside them.
    """
    trace = float(A.stored_diagonal().sum(dtype=np.float64))
    total = float(A.layout.data.sum(dtype=np.float64))
    if isinstance(A.layout, HalfDIA):
        total = 2.0 * total + trace
    return trace / total if total > 0.0 else math.inf


def _on_diagonals(A: Any) -> bool:
    return A.format in ("dia", "half_dia")


def _has_long_rows(A: Any) -> bool:
    n, entries, _ = A.shares
    return bool(entries > LONG_ROWS * n)


def _has_hubs(A: Any) -> bool:
    indptr = A.shares[2]
    return indptr is not None and has_hubs(indptr)


def _is_laplacian(A: Any) -> bool:
    """Whether no entry off the diagonal is positive."""
    return count_entries(A.layout)[1] == A.shape[0]


def _is_even_grid(A: Any) -> bool:
    """Whether A is by diagonals, with entries beside the main one that are negative and hardly vary.

    There the modified factorisation's condition number is of the order of one over the width of the mesh (Gustafsson,
    BIT 18, 1978), and a solve takes the least time up to the size from which multigrid does.
    """
    if not isinstance(A.layout, HalfDIA) or not is_wide_grid(A.layout):
        return False
    entries = A.layout.data[A.layout.data != 0.0]
    return bool(entries.size and entries.max() < 0.0 and entries.min() > EVEN * entries.max())


def _is_large_grid(A: Any) -> bool:
    n = A.shape[0]
    if n < (GRID_ON_DIAGONALS if _on_diagonals(A) else GRID):
        return False
    entries, positive = count_entries(A.layout)
    if n >= LARGE and entries <= FAIRLY_SHORT_ROWS * n:
        return True
    return bool(entries <= SHORT_ROWS * n and positive == n)


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
