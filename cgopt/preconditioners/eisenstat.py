"""Factorisations whose off-diagonal entries are A's own: SSOR, and diagonal-based incomplete Cholesky.

With them the product with A costs no pass of its own (Eisenstat's trick, see `cgopt.kernels.cpu.sweeps`): an iteration
reads the matrix as often as one of plain conjugate gradients.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import Eisenstat, Factor
from ..operators.ordering import dissect
from .factored import Factored, transposed, triangle_rows


class _OwnEntries(Factored):
    """``M^-1 = (D + L) D^-1 (D + L')`` with A's strict lower triangle L and some positive diagonal D."""

    def _build(self, A: Any, threads: int | None) -> None:
        start = time.perf_counter()
        rows = self._take_matrix(A)
        order, parts = dissect(rows, cpu.get_num_threads() if threads is None else threads)
        diagonal, ptr, columns, values = triangle_rows(rows, order, upper=True)
        pivots = np.asarray(self._pivots(ptr, columns, values, diagonal), self.dtype)
        weight = np.sqrt(pivots)
        inverse = 1.0 / weight
        work = self.operator.work
        cpu.run(cpu.aggregation.scale_symmetrically, work, ptr, columns, values, inverse, values, work)
        lower = transposed(ptr[:-1], ptr[1:], columns, values, ptr.dtype)
        nothing, sums = np.empty(0, self.dtype), np.empty((0, 2))
        shift = diagonal / pivots - 1.0  # A = W (L + I + D + L') W
        self.factor = Factor(order, parts, inverse, *lower, nothing, sums)
        self.eisenstat = Eisenstat(
            order, parts, weight, inverse, shift, *lower, ptr, columns, values, nothing, nothing, sums
        )
        self.setup_time = time.perf_counter() - start

    def _pivots(self, ptr: Array, columns: Array, values: Array, diagonal: Array) -> Array:
        raise NotImplementedError


class SSOR(_OwnEntries):
    """Symmetric successive over-relaxation: ``D = diag(A) / omega``.

    Always positive definite. For Poisson's equation on fine grids omega of 1.5 to 1.8 is best; on unstructured and
    strongly varying problems large values do harm.

    Parameters
    ----------
    A : matrix
        Real, symmetric positive definite, given by its entries.
    omega : float
        Between 0 and 2.
    threads : int, optional
        Parts to cut the rows into; by default what `cgopt.get_num_threads` says.

    References
    ----------
    O. Axelsson, BIT 12, 1972. S. C. Eisenstat, SIAM J. Sci. Stat. Comput. 2, 1981.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((40, 40))
    >>> M = cgopt.preconditioners.SSOR(A, omega=1.6)
    >>> bool(cgopt.cg(A, np.ones(1600), M=M).iterations < 0.5 * cgopt.cg(A, np.ones(1600)).iterations)
    True
    """

    def __init__(self, A: Any, omega: float = 1.2, *, threads: int | None = None) -> None:
        if not 0.0 < omega < 2.0:
            raise ValueError(f"omega must lie between 0 and 2, got {omega!r}")
        self.omega = float(omega)
        self._build(A, threads)

    def _pivots(self, ptr: Array, columns: Array, values: Array, diagonal: Array) -> Array:
        return diagonal / self.omega


class DIC(_OwnEntries):
    """Diagonal-based incomplete Cholesky: the pivots of IC(0), taken with A's own off-diagonal entries.

    ``d_i = a_ii - sum_k a_ik^2 / d_k``. On the five- and seven-point Laplacian it is IC(0). The modified form also
    takes the share `relaxation` of the fill that is dropped off the pivots, so that the product of the factors has
    nearly A's row sums: on M-matrices such as discretised Laplacians the condition number then grows like the square
    root of A's (Gustafsson, BIT 18, 1978). Where a pivot comes out not positive, `relaxation` is lowered, to zero at
    last; where that does not help, A is far from an M-matrix, and the diagonal itself is taken (that is SSOR with
    omega 1).

    Parameters
    ----------
    A : matrix
        Real, symmetric positive definite, given by its entries.
    relaxation : float
        From 0 (plain) to 1 (modified).
    threads : int, optional
        Parts to cut the rows into; by default what `cgopt.get_num_threads` says.

    Attributes
    ----------
    relaxation : float or None
        What was used in the end; None where the diagonal had to be taken.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((60, 60))
    >>> plain, modified = cgopt.preconditioners.DIC(A), cgopt.preconditioners.MIC(A)
    >>> b = np.ones(3600)
    >>> bool(cgopt.cg(A, b, M=modified).iterations < cgopt.cg(A, b, M=plain).iterations)
    True
    """

    def __init__(self, A: Any, relaxation: float = 0.0, *, threads: int | None = None) -> None:
        if not 0.0 <= relaxation <= 1.0:
            raise ValueError(f"relaxation must lie between 0 and 1, got {relaxation!r}")
        self.relaxation: float | None = float(relaxation)
        self._build(A, threads)

    def _pivots(self, ptr: Array, columns: Array, values: Array, diagonal: Array) -> Array:
        pivots = np.empty(diagonal.size)
        wanted = self.relaxation or 0.0
        for relaxation in dict.fromkeys((wanted, min(wanted, 0.9), 0.0)):
            if cpu.factorization.find_pivots(ptr, columns, values, diagonal, relaxation, pivots) < 0:
                self.relaxation = relaxation
                # a pivot that nearly vanishes makes an approximation as bad as one that is negative
                if bool((pivots > 1e-3 * diagonal).all()):
                    return pivots
        self.relaxation = None
        return diagonal


class MIC(DIC):
    """Modified diagonal-based incomplete Cholesky: `DIC` with relaxation 0.98.

    Parameters are those of `DIC`.
    """

    def __init__(self, A: Any, relaxation: float = 0.98, *, threads: int | None = None) -> None:
        super().__init__(A, relaxation, threads=threads)
