"""Incomplete Cholesky factorisation, without fill and by threshold."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..kernels import cpu
from ..kernels.layouts import Factor
from .factored import Factored, transposed, upper_rows

FIRST_SHIFT = 1e-3  # of a matrix with unit diagonal (Lin and More 1999)


class IncompleteCholesky(Factored):
    """``S A S ~ L L'``, S scaling to unit diagonal, with entries dropped.

    With ``fill=0``, L has A's own pattern: IC(0). Otherwise each column keeps its largest entries, `fill` more than A's
    column has, and none smaller than `drop_tolerance` times the norm of A's column. Where a
    pivot breaks down, a multiple of the diagonal is added, 1e-3 at first, then twice as much each time (Manteuffel,
    Math. Comp. 34, 1980): the result always is positive definite.

    Parameters
    ----------
    A : matrix
        Real, symmetric positive definite, given by its entries.
    fill : int
        Entries that a column of L may have beyond as many as A's has.
    drop_tolerance : float
        Relative to the norm of A's column.
    relaxation : float
        Share of what is dropped that is added to the diagonals of its row and column, from 0 to 1: the modified
        factorisation, for M-matrices.
    threads : int, optional
        Parts to cut the rows into; by default what `cgopt.get_num_threads` says.

    Attributes
    ----------
    shift : float
        What was added to the (unit) diagonal.

    References
    ----------
    J. A. Meijerink and H. A. van der Vorst, Math. Comp. 31, 1977. M. T. Jones and P. E. Plassmann, ACM Trans. Math.
    Softw. 21, 1995. C.-J. Lin and J. J. More, SIAM J. Sci. Comput. 21, 1999.

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
        fill: int = 25,
        *,
        drop_tolerance: float = 1e-3,
        relaxation: float = 0.0,
        threads: int | None = None,
    ) -> None:
        start = time.perf_counter()
        if not isinstance(fill, (int, np.integer)) or isinstance(fill, bool) or fill < 0:
            raise ValueError(f"fill must be a whole number that is not negative, got {fill!r}")
        if not 0.0 <= drop_tolerance < 1.0:
            raise ValueError(f"drop_tolerance must lie between 0 and 1, got {drop_tolerance!r}")
        if not 0.0 <= relaxation <= 1.0:
            raise ValueError(f"relaxation must lie between 0 and 1, got {relaxation!r}")
        self.fill, self.drop_tolerance, self.relaxation = int(fill), float(drop_tolerance), float(relaxation)
        rows, (order, parts), diagonal = self._take_matrix(A, threads)
        ptr, columns, values = upper_rows(rows, order)
        scale = 1.0 / np.sqrt(diagonal.astype(np.float64))
        lengths = np.diff(ptr.view(f"i{ptr.itemsize}"))
        values = values * np.repeat(scale, lengths) * scale[columns]
        self.shift = 0.0
        while (found := self._columns(ptr, columns, values, parts, lengths)) is None:
            self.shift = max(FIRST_SHIFT, 2.0 * self.shift)
        ends, rows_of_l, entries, pivots = found
        lower = transposed(ends, rows_of_l, entries.astype(np.float32))
        dtype = np.dtype(np.float32 if self.dtype == np.float32 else np.float64)
        self.factor = Factor(
            order,
            parts,
            scale.astype(dtype),
            (1.0 / pivots).astype(dtype),
            *lower,
            np.empty(0, dtype),
            np.empty((0, 2)),
        )
        self.setup_time = time.perf_counter() - start

    def _columns(self, ptr: Any, columns: Any, values: Any, parts: Any, lengths: Any) -> Any:
        """Columns of L, and its diagonal; None if a pivot breaks down."""
        n, count = lengths.size, parts.size - 1
        extra = self.fill or -1
        start = np.zeros(n + 1, np.int64)
        np.cumsum(lengths + max(0, extra), out=start[1:])
        stop = start[:-1].copy()
        rows, entries = np.empty(start[-1], columns.dtype), np.empty(start[-1])
        pivots = np.full((count + 1, n), 1.0 + self.shift)
        nextup, following = np.zeros(n, np.int64), np.full(n, -1)
        head, broken = np.full(n, -1), np.zeros(count, np.int64)
        rule = (extra, self.drop_tolerance, self.relaxation)
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
        kept = stop - start[:-1]
        ends = np.zeros(n + 1, ptr.dtype)
        np.cumsum(kept, out=ends[1:])
        within = np.arange(int(ends[-1])) + np.repeat(start[:-1] - ends[:-1].astype(np.int64), kept)
        return ends, rows[within], entries[within], pivots[count]

    def __repr__(self) -> str:
        return (
            f"IncompleteCholesky(fill={self.fill}, drop_tolerance={self.drop_tolerance:g}, shift={self.shift:g}, "
            f"shape={self.shape}, {self.factor.data.size} entries, setup_time={self.setup_time:.2g} s)"
        )
