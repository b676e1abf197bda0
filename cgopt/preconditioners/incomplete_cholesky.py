"""Incomplete Cholesky factorisation, without fill and by threshold."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import CSR, Factor
from ..operators.formats import is_wide_grid
from ..operators.ordering import dissect, little_fill
from .factored import Factored, row_lengths, transposed, triangle_rows

FILL = 25
SHORT_ROWS = 12  # entries, on average, up to which a smaller drop tolerance pays
# The first shift of a matrix with unit diagonal (Lin and More 1999), if entries were dropped, and if none were: then it
# is single precision that is not enough.
SHIFT_OF_DROPPING, SHIFT_OF_ROUNDING = 2e-3, 1e-6


class IncompleteCholesky(Factored):
    """``S A S ~ L L'``, S scaling to unit diagonal, with entries dropped.

    With ``fill=0``, L has A's own pattern: IC(0). Otherwise each column keeps its largest entries, `fill` more than A's
    column has, and none smaller than `drop_tolerance` times the norm of A's column. Where a pivot breaks down, a
    multiple of the diagonal is added, 2e-3 at first, then four times as much each time (Manteuffel, Math. Comp. 34,
    1980): the result always is positive definite.

    By default, nothing is dropped where that costs little: where in an order of minimum degree (Amestoy, Davis and Duff
    1996) the whole factor has at most four times the entries of A's lower triangle, as it has for power grids, pose
    graphs and other sparse networks. It is kept in single precision, and two or three iterations make up for that.
    Other matrices, those of grids and meshes among them, keep their own order.

    Parameters
    ----------
    A : matrix
        Real, symmetric positive definite, given by its entries.
    fill : int, optional
        Entries that a column of L may have beyond as many as A's has. By default 25, and any number in an order of
        minimum degree.
    drop_tolerance : float, optional
        Relative to the norm of A's column. By default 0 in an order of minimum degree; otherwise 1e-3 if A's rows have
        up to twelve entries on average, and 3e-3 if they have more: rows that are long already gain less from what a
        small tolerance adds to them.
    relaxation : float
        Share of what is dropped that is added to the diagonals of its row and column, from 0 to 1: the modified
        factorisation, for M-matrices.
    order : {"auto", "own"}
        "own" keeps the order of A's rows, but for a cut into parts; "auto" does where minimum degree does not pay, and
        where `fill` is given.
    max_shift : float
        Largest shift to try. By default any, and the factorisation always succeeds.
    threads : int, optional
        Parts to cut the rows into; by default what `cgopt.get_num_threads` says.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where a pivot still breaks down with a shift of `max_shift`.

    Attributes
    ----------
    order : {"own", "minimum degree"}
        The one taken.
    shift : float
        What was added to the (unit) diagonal.

    References
    ----------
    J. A. Meijerink and H. A. van der Vorst, Math. Comp. 31, 1977. M. T. Jones and P. E. Plassmann, ACM Trans. Math.
    Softw. 21, 1995. C.-J. Lin and J. J. More, SIAM J. Sci. Comput. 21, 1999. P. R. Amestoy, T. A. Davis and I. S. Duff,
    SIAM J. Matrix Anal. Appl. 17, 1996.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((40, 40))
    >>> M = cgopt.preconditioners.IncompleteCholesky(A, fill=5)
    >>> bool(cgopt.cg(A, np.ones(1600), M=M).iterations < 0.3 * cgopt.cg(A, np.ones(1600)).iterations)
    True
    """

    def __init__(
        self,
        A: Any,
        fill: int | None = None,
        *,
        drop_tolerance: float | None = None,
        relaxation: float = 0.0,
        order: str = "auto",
        max_shift: float = np.inf,
        threads: int | None = None,
    ) -> None:
        start = time.perf_counter()
        if fill is not None and (not isinstance(fill, (int, np.integer)) or isinstance(fill, bool) or fill < 0):
            raise ValueError(f"fill must be a whole number that is not negative, got {fill!r}")
        if drop_tolerance is not None and not 0.0 <= drop_tolerance < 1.0:
            raise ValueError(f"drop_tolerance must lie between 0 and 1, got {drop_tolerance!r}")
        if not 0.0 <= relaxation <= 1.0:
            raise ValueError(f"relaxation must lie between 0 and 1, got {relaxation!r}")
        if order not in ("auto", "own"):
            raise ValueError(f"order must be 'auto' or 'own', got {order!r}")
        if not max_shift >= 0.0:
            raise ValueError(f"max_shift must not be negative, got {max_shift!r}")
        rows = self._take_matrix(A)
        most = cpu.get_num_threads() if threads is None else threads
        search = order == "auto" and fill is None and not is_wide_grid(self.operator.layout)
        found = little_fill(rows, most) if search else None
        (places, parts), room = found or (dissect(rows, most), None)
        tolerance = 0.0 if found else 1e-3 if rows.data.size <= SHORT_ROWS * places.size else 3e-3
        self.drop_tolerance = float(tolerance if drop_tolerance is None else drop_tolerance)
        self.fill, self.relaxation = None if found else int(FILL if fill is None else fill), float(relaxation)
        self.order = "minimum degree" if found else "own"
        factor: Callable[[], tuple[Array, Array, Array, Array] | None]
        if self.fill == 0 and not relaxation:
            matrix = triangle_rows(rows, places, upper=False)
            factor = functools.partial(self._without_fill, *matrix, parts)
        else:
            factor = functools.partial(self._by_columns, *self._scaled(rows, places), parts, room)
        self.shift = 0.0
        while (made := factor()) is None:
            first = SHIFT_OF_DROPPING if self.drop_tolerance or self.fill is not None else SHIFT_OF_ROUNDING
            self.shift = max(first, 4.0 * self.shift)
            if self.shift > max_shift:
                raise np.linalg.LinAlgError(
                    f"a pivot of the incomplete factorisation is not positive with a shift of up to {max_shift!r}; "
                    "allow a larger max_shift, or more fill"
                )
        scale, lower_ptr, lower_columns, lower = made
        dtype = np.dtype(np.float32 if self.dtype == np.float32 else np.float64)
        nothing, sums = np.empty(0, dtype), np.empty((0, 2))
        self.factor = Factor(places, parts, scale.astype(dtype), lower_ptr, lower_columns, lower, nothing, sums)
        self.setup_time = time.perf_counter() - start

    def _without_fill(
        self, diagonal: Array, ptr: Array, columns: Array, values: Array, parts: Array
    ) -> tuple[Array, Array, Array, Array] | None:
        """Scale and rows of the factor, with the pattern of the lower triangle given; None if a pivot breaks down."""
        n, count = diagonal.size, parts.size - 1
        entries, inverse = np.empty(columns.size, np.float32), np.empty(n)
        broken = np.empty(count, np.int64)
        kernels = cpu.factorization
        matrix, rest = (ptr, columns, values), (diagonal, self.shift, entries, inverse)
        cpu.run(kernels.factor_row_parts, self.operator.work, *matrix, parts, *rest, broken)
        if (broken >= 0).any() or kernels.factor_rows(*matrix, int(parts[-1]), n, *rest) >= 0:
            return None
        return inverse, ptr, columns, entries

    def _scaled(self, rows: CSR, places: Array) -> tuple[Array, Array, Array, Array]:
        """Scale to unit diagonal, and the strict upper triangle so scaled by rows."""
        diagonal, ptr, columns, values = triangle_rows(rows, places, upper=True)
        scale, scaled = 1.0 / np.sqrt(diagonal.astype(np.float64)), np.empty(values.size)
        work = self.operator.work
        cpu.run(cpu.aggregation.scale_symmetrically, work, ptr, columns, values, scale, scaled, work)
        return scale, ptr, columns, scaled

    def _by_columns(
        self, scale: Array, ptr: Array, columns: Array, values: Array, parts: Array, room: Array | None
    ) -> tuple[Array, Array, Array, Array] | None:
        """Scale and rows of the factor, which keeps what the rule says; None if a pivot breaks down."""
        if room is None:
            room = row_lengths(ptr) + (self.fill or 0)
        made = self._columns(ptr, columns, values, parts, room)
        if made is None:
            return None
        stored, pivots = made
        lower_ptr, lower_columns, lower = transposed(*stored, ptr.dtype)
        # S A S ~ D (I + L)(I + L') D, D the Cholesky factor's diagonal, L its rows over D: sweeps have no D on the way
        inverse = 1.0 / pivots
        cpu.factorization.scale_rows(lower_ptr, lower, inverse.astype(lower.dtype))
        return scale * inverse, lower_ptr, lower_columns, lower

    def _columns(
        self, ptr: Array, columns: Array, values: Array, parts: Array, room: Array
    ) -> tuple[tuple[Array, Array, Array, Array], Array] | None:
        """Where columns of L start and stop, their rows and entries; its diagonal. None if a pivot breaks down."""
        n, count = room.size, parts.size - 1
        start = np.zeros(n + 1, np.int64)
        np.cumsum(room, out=start[1:])
        stop = start[:-1].copy()
        rows, entries = np.empty(start[-1], columns.dtype), np.empty(start[-1], np.float32)
        pivots = np.full((count + 1, n), 1.0 + self.shift)
        nextup, following = np.zeros(n, np.int64), np.full(n, -1)
        head, broken = np.full(n, -1), np.zeros(count, np.int64)
        rule = (self.fill != 0, self.drop_tolerance, self.relaxation)
        lists = (nextup, head, following)
        kernels = cpu.factorization
        matrix = (ptr, columns, values)
        stored = (start, stop, rows, entries)
        cpu.run(kernels.factor_parts, self.operator.work, *matrix, parts, *rule, *stored, pivots, *lists, broken)
        if (broken >= 0).any():
            return None
        for t in range(count):
            pivots[count, parts[t] : parts[t + 1]] = pivots[t, parts[t] : parts[t + 1]]
        last = slice(parts[-1], n)
        pivots[count, last] += (pivots[:count, last] - (1.0 + self.shift)).sum(axis=0)
        kernels.finish_parts(parts, stop, rows, *lists)
        bounds = (int(parts[-1]), n, n)
        if kernels.factor_columns(*matrix, *bounds, *rule, *stored, pivots[count], *lists) >= 0:
            return None
        return (start[:-1], stop, rows, entries), pivots[count]

    def __repr__(self) -> str:
        return (
            f"IncompleteCholesky(fill={self.fill}, drop_tolerance={self.drop_tolerance:g}, order={self.order!r}, "
            f"shift={self.shift:g}, "
            f"shape={self.shape}, {self.factor.data.size} entries, setup_time={self.setup_time:.2g} s)"
        )
