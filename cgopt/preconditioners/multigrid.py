"""Algebraic multigrid: one V-cycle of smoothed aggregation or classical coarsening, in fp32 and compiled whole.

The levels are set up in `hierarchy.py`; the cycle itself is `cgopt.kernels.cpu.multigrid`, and on a GPU
`cgopt.kernels.gpu.multigrid`.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
import scipy.linalg

from ..arrays import Array, as_array, first_nonfinite
from ..kernels import cpu, gpu
from ..kernels.cpu import multigrid as cycle
from ..kernels.layouts import CSR
from ..operators import DeviceMatrix, MatrixOperator, as_operator
from .base import Preconditioner
from .block_jacobi import detect_block_size
from .hierarchy import (
    Level,
    aggregation_levels,
    classical_levels,
    coarsest_factor,
    ended,
    given_levels,
    largest_eigenvalue,
    scale_columns,
    single_if_in_range,
    stack,
    transpose,
)

KINDS = ("smoothed_aggregation", "classical")


class Multigrid(Preconditioner):
    r"""One V-cycle of algebraic multigrid.

    Made for the discretisations of second-order elliptic problems: diffusion, elasticity, graph Laplacians of low
    dimension. There the number of iterations hardly grows with the number of unknowns.

    The levels are kept in single precision whatever the type of A, each scaled to unit diagonal (so that nothing
    depends on the units of A). The smoother is one sweep of Gauss-Seidel down and, after the coarse correction, one up,
    each thread in its own rows; the coarsest level is solved by Cholesky's factor. The cycle is therefore

    .. math:: M_l = \bar S_l + (I - S_l A_l)^T P_l M_{l+1} P_l^T (I - A_l S_l)

    with a positive definite symmetrised smoother: symmetric positive definite for every symmetric positive definite A,
    up to rounding in single precision.

    Parameters
    ----------
    A : sparse or dense matrix, or a `MatrixOperator`
        Real, with a positive diagonal.
    kind : {"smoothed_aggregation", "classical"}
        How to coarsen. Classical coarsening (Ruge and Stueben) is set up by PyAMG (``pip install cgopt[amg]``). It
        takes fewer iterations on M-matrices, and longer to set up.
    B : (n, k) array, optional
        Vectors that A nearly maps to zero, and that coarse levels must represent: for elasticity the rigid body modes
        (`rigid_body_modes`). By default the constant, or one constant for each of the `block_size` unknowns of a node.
        For smoothed aggregation only.
    block_size : int, optional
        Unknowns of a node, numbered next to each other; aggregates hold whole nodes. By default what the pattern of A
        shows: that of 2 to 6 whose blocks are mostly full where they are not empty, otherwise 1.
    strength : float
        Nodes i and j of level l (0, 1, ...) are aggregated when ``|a_ij| > strength 2**-l sqrt(a_ii a_jj)``.

    Attributes
    ----------
    sizes : list of int
        Unknowns of each level.
    operator_complexity : float
        Stored entries of all levels' matrices, relative to the first.

    Raises
    ------
    ValueError, TypeError
        For a complex matrix, one with a diagonal entry that is not positive, B of a wrong shape, an unknown kind.
    ImportError
        If PyAMG is needed and missing.

    References
    ----------
    P. Vanek, J. Mandel and M. Brezina, Computing 56, 1996. A. H. Baker, R. D. Falgout, T. V. Kolev and U. M. Yang,
    SIAM J. Sci. Comput. 33, 2011 (Gauss-Seidel in each thread's rows).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((100, 100))
    >>> M = cgopt.preconditioners.Multigrid(A)
    >>> M.sizes
    [10000, 1700, 197]
    >>> cgopt.cg(A, np.ones(10000), M=M, rtol=1e-8).iterations < 15
    True
    >>> cgopt.cg(A, np.ones(10000), rtol=1e-8).iterations > 150
    True
    """

    working_dtype = np.dtype(np.float32)

    def __init__(
        self,
        A: Any,
        *,
        kind: str = "smoothed_aggregation",
        B: Any = None,
        block_size: int | None = None,
        strength: float = 0.08,
    ) -> None:
        start = time.perf_counter()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
        operator = as_operator(A)
        self.on_device = self.capturable = operator.on_device
        exponent = 0
        if isinstance(operator, DeviceMatrix):  # levels are made on the host
            exponent, operator = operator.exponent, MatrixOperator(operator.to_host())
        if not isinstance(operator, MatrixOperator):
            raise TypeError("A must be a matrix: multigrid needs its entries, not products with it only")
        if operator.dtype.kind == "c":
            raise TypeError("A is complex, and multigrid is for real matrices; use another preconditioner")
        if operator.bad_row >= 0:
            raise ValueError(
                f"diagonal entry {operator.bad_row} of A is not positive; A is not positive definite, as it must be"
            )
        self.shape, self.dtype, self.kind = operator.shape, operator.dtype, kind
        self._exponent = exponent + operator.exponent  # the hierarchy is that of 2^exponent A
        rows = operator.rows()
        rows = CSR(rows.indptr, rows.indices, rows.data.astype(np.float64))
        if kind == "classical":
            if B is not None or block_size is not None:
                raise ValueError("B and block_size are for kind='smoothed_aggregation'; leave them out")
            levels, transfers = classical_levels(rows, strength=0.25)
        else:
            size = check_block_size(block_size, self.shape[0]) if block_size is not None else detect_block_size(rows)
            candidates = near_nullspace(B, size, self.shape[0])
            levels, transfers = aggregation_levels(rows, candidates, size, check_strength(strength))
        self._take(levels, transfers)
        self.setup_time = time.perf_counter() - start

    @classmethod
    def from_hierarchy(cls, hierarchy: Any) -> Multigrid:
        """Cycle the levels of a hierarchy that another program has set up.

        Parameters
        ----------
        hierarchy : object with ``levels``
            Such as PyAMG's `MultilevelSolver`: each level has a matrix A, each but the last a prolongator P. Its
            own smoothers and coarse solver are not used.

        Examples
        --------
        >>> import cgopt, pyamg
        >>> A = cgopt.gallery.poisson((60, 60))
        >>> M = cgopt.preconditioners.Multigrid.from_hierarchy(pyamg.smoothed_aggregation_solver(A))
        >>> M.shape
        (3600, 3600)
        """
        start = time.perf_counter()
        M = cls.__new__(cls)
        operator = MatrixOperator(hierarchy.levels[0].A.tocsr())
        if operator.dtype.kind == "c":
            raise TypeError("the hierarchy is complex, and these cycles are for real matrices")
        M.shape, M.dtype, M.kind, M._exponent = operator.shape, operator.dtype, "given", operator.exponent
        levels, transfers = given_levels(hierarchy, 2.0**operator.exponent)
        M._take(levels, transfers)
        M.setup_time = time.perf_counter() - start
        return M

    def _take(self, levels: list[Level], transfers: list[CSR]) -> None:
        if self.on_device:
            self._take_there(levels, transfers)
            return
        self.hierarchy = stack(levels, transfers)
        self._scale = single_if_in_range(levels[0].scale)
        self._work = levels[0].work
        self._lock = threading.Lock()  # the hierarchy holds the vectors that a cycle works in
        self.sizes = [int(m) for m in np.diff(self.hierarchy.rows)]
        self.operator_complexity = sum(level.A.data.size for level in levels) / max(1, levels[0].A.data.size)

    def _take_there(self, levels: list[Level], transfers: list[CSR]) -> None:
        """The same levels for the cycle on the GPU, which has a smoother of its own: see `cgopt.kernels.gpu`."""
        levels, transfers = ended(levels, transfers)
        self.sizes = [level.scale.size for level in levels]
        self.operator_complexity = sum(level.A.data.size for level in levels) / max(1, levels[0].A.data.size)
        down = [scale_columns(P, levels[l + 1].scale) for l, P in enumerate(transfers)]
        up = [transpose(P, levels[l + 1].scale.size) for l, P in enumerate(down)]
        factor = coarsest_factor(levels[-1])
        inverse = scipy.linalg.cho_solve((factor, True), np.eye(factor.shape[0])) if factor.size else factor
        largest = [largest_eigenvalue(level) for level in levels[:-1]]
        smoothed = [level.A for level in levels[:-1]]
        self._scale = levels[0].scale
        self.cycle = gpu.Cycle(smoothed, largest, down, up, inverse, self._scale)

    def _matvec(self, x: Array, out: Array) -> None:
        if self.on_device:
            self.cycle.apply(x, out, 2.0**self._exponent)
            return
        if x.dtype.kind == "c":  # the cycle is real
            out.real, out.imag = self.matvec(x.real), self.matvec(x.imag)
        elif not (out.flags.c_contiguous and x.dtype == out.dtype and x.flags.c_contiguous):
            out[...] = self.matvec(np.ascontiguousarray(x, dtype=np.result_type(self.dtype, x)))
        else:
            with self._lock:
                self._cycle(x, out)

    def _cycle(self, x: Array, out: Array) -> None:
        # Residuals are brought to about one, so that whatever their size they are in the range of single precision.
        largest = cpu.run(cycle.largest_scaled, self._work, self._scale, x, self._work)
        if not 0.0 < largest < math.inf:
            out[...] = 0.0 if largest == 0.0 else math.nan
            return
        sigma = 2.0 ** -max(-1000, min(1000, math.frexp(largest)[1]))
        H, w = self.hierarchy, self._work
        cpu.run(cycle.scale_vector, w, self._scale, sigma, x, H.b, w)
        cpu.run(cycle.v_cycle, w, H)
        cpu.run(cycle.scale_vector, w, self._scale, 1.0 / sigma, H.x, out, w)
        if self._exponent:
            np.ldexp(out, self._exponent, out=out)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the levels and of the vectors that a cycle works in."""
        if self.on_device:
            return int(self.cycle.nbytes)
        return sum(int(a.nbytes) for a in self.hierarchy) + int(self._scale.nbytes)

    def __repr__(self) -> str:
        sizes = " > ".join(map(str, self.sizes))
        return (
            f"Multigrid({self.kind}, levels {sizes}, operator_complexity={self.operator_complexity:.3g}, "
            f"{self.nbytes / 1e6:.3g} MB, setup_time={self.setup_time:.2g} s)"
        )


def rigid_body_modes(coordinates: Any) -> Array:
    """The motions of a rigid body, which no elastic energy resists: for `Multigrid`'s argument B.

    Parameters
    ----------
    coordinates : (nodes, d) array
        Of the nodes, d = 2 or 3; the d displacements of a node stand next to each other.

    Returns
    -------
    (d nodes, 3 or 6) array
        Translations, then infinitesimal rotations about the centre, which have entries of about one.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> m = 30
    >>> A = cgopt.gallery.elasticity((m, m))
    >>> nodes = np.stack(np.meshgrid(np.arange(1, m + 1), np.arange(m + 1), indexing="ij"), -1).reshape(-1, 2)
    >>> B = cgopt.preconditioners.rigid_body_modes(nodes)
    >>> M = cgopt.preconditioners.Multigrid(A, B=B, block_size=2)
    >>> cgopt.cg(A, np.ones(A.shape[0]), M=M, rtol=1e-8).iterations < 25
    True
    """
    points = as_array(coordinates, "coordinates").astype(np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"coordinates must have shape (nodes, 2) or (nodes, 3), got {points.shape}")
    if first_nonfinite(points) is not None:
        raise ValueError("coordinates hold NaN or infinity; every entry must be finite")
    nodes, d = points.shape
    points = points - points.mean(axis=0)
    points /= max(float(np.abs(points).max(initial=0.0)), np.finfo(float).tiny)
    turns = [(0, 1)] if d == 2 else [(0, 1), (1, 2), (2, 0)]
    modes = np.zeros((nodes, d, d + len(turns)))
    modes[:, np.arange(d), np.arange(d)] = 1.0
    for column, (i, j) in enumerate(turns, start=d):  # u_i = -x_j,  u_j = x_i
        modes[:, i, column], modes[:, j, column] = -points[:, j], points[:, i]
    return modes.reshape(nodes * d, -1)


# --- what the user passes -----------------------------------------------------------------------------------


def check_strength(strength: Any) -> float:
    """The strength threshold as a float."""
    if not np.isscalar(strength) or not np.isreal(strength) or not 0.0 <= strength < 1.0:  # type: ignore[operator]
        raise ValueError(f"strength must be a number from 0 up to 1, got {strength!r}")
    return float(strength)  # type: ignore[arg-type]


def check_block_size(block_size: Any, n: int) -> int:
    """The size of a node's blocks as an int."""
    if not isinstance(block_size, (int, np.integer)) or isinstance(block_size, bool) or block_size < 1:
        raise ValueError(f"block_size must be a positive whole number, got {block_size!r}")
    if n % block_size:
        raise ValueError(f"block_size={block_size} does not divide the {n} rows of A")
    return int(block_size)


def near_nullspace(B: Any, block_size: int, n: int) -> Array:
    """The candidates as an (n, k) array of float64."""
    if B is None:
        return np.tile(np.eye(block_size), (n // block_size, 1))
    candidates = as_array(B, "B")
    candidates = candidates[:, None] if candidates.ndim == 1 else candidates
    if candidates.ndim != 2 or candidates.shape[0] != n or candidates.shape[1] == 0:
        raise ValueError(f"B must have shape ({n}, k), k at least 1, got {candidates.shape}")
    if candidates.dtype.kind == "c":
        raise TypeError("B is complex; pass real vectors")
    if first_nonfinite(candidates) is not None:
        raise ValueError("B holds NaN or infinity; every entry must be finite")
    candidates = candidates.astype(np.float64)
    largest = np.abs(candidates).max(axis=0)
    return candidates / np.where(largest > 0.0, largest, 1.0)
