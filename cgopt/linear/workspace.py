"""What a solve works in: vectors, scalars and the log, made once and used by every solve of its kind."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from ..arrays import Array, first_nonfinite, on_device, real_view
from ..kernels import cpu, gpu, loops
from ..kernels.layouts import DenseLower, HalfCSR, HalfDIA
from ..operators import MatrixOperator, Operator, Scaled, formats
from ..operators.check import require_hermitian
from ..operators.device import DeviceMatrix, extreme_exponent, times_power_of_two
from ..preconditioners import Chebyshev, Factored, Jacobi

SLICE = 1024  # iterations between two looks at the outside world, at the most
SLICE_BYTES = 200_000_000  # and bytes: about a tenth of a second on one slow core
PATIENCE = 64.0  # iterations in a row whose steps vanish in the rounding of x before the true residual is asked

UNIT = {char: float(np.finfo(char).eps) / 2.0 for char in "fd"}  # roundoff
# b is multiplied by a power of two if its norm lies outside these, so that r'r neither overflows nor vanishes.
SAFE_NORM = {"f": (1e-12, 1e18), "d": (1e-40, 1e40)}


class System:
    """A matrix and its preconditioner as kernels take them.

    Attributes
    ----------
    layout, exact : Layout or Operator
        What products are made with, and true residuals; hold ``2**exponent A``.
    rounded : Layout or None
        What a solve for one right-hand side multiplies by instead, correcting what that does to the residual.
    kind : {"identity", "diagonal", "factor", "eisenstat", "python"}
        What the preconditioner is: with all but the last, the whole loop is compiled.
    norm : float
        A bound (matrices) or an estimate of the norm of the layout; 0 when nothing is known.
    bad_row : int
        First row with a diagonal entry that is not positive, or -1.
    diagonal : bool
        Whether A is nothing but its diagonal, and so is M, most likely its inverse.
    """

    MATRIX: Any = MatrixOperator

    def __init__(
        self,
        operator: Operator,
        preconditioner: Operator | None,
        norm_estimate: float,
        exponent: int,
        exponent_m: int | None,
    ) -> None:
        self.operator, self.preconditioner = operator, preconditioner
        self.n, self.dtype = operator.shape[0], operator.dtype
        self.exact: Any = Scaled(operator, 2.0**exponent) if exponent else operator
        self.exponent, self.norm, self.bad_row = exponent, norm_estimate, -1
        if isinstance(operator, self.MATRIX):
            self.exact, self.exponent = operator.layout, operator.exponent
            self.norm, self.bad_row = operator.norm_bound, operator.bad_row
        self.layout, self.diagonal = self.exact, False
        self.rounded: Any = None
        # M is taken times 2^exponent_m; without a measurement it is taken for an inverse of A in scale too.
        self.exponent_m = -self.exponent if exponent_m is None else exponent_m
        self.kind = self._kind_of(preconditioner)
        self._prepare()

    def _kind_of(self, M: Operator | None) -> str:
        """The kind of the preconditioner, some of which bring their exponent with them."""
        if isinstance(M, Jacobi):
            stored = M.inverse_diagonal
            largest = float(stored.max()) if stored.size else 0.0
            self.exponent_m = -M.exponent + extreme_exponent(largest, stored.dtype)
            return "diagonal"
        if isinstance(M, Factored):
            self.exponent_m = -M.exponent
            return "eisenstat" if M.eisenstat is not None and M.operator.same_matrix(self.operator) else "factor"
        return "identity" if M is None else "python"

    def _prepare(self) -> None:
        """How rows are shared out, and the layouts that the loop is given."""
        operator = self.operator
        diagonal = isinstance(self.exact, HalfDIA) and self.exact.offsets.size == 0
        M = self.preconditioner
        self.diagonal = diagonal and isinstance(M, Jacobi) and not self.exponent and not M.exponent
        self.threads = 1 if diagonal else cpu.get_num_threads()  # (few iterations are not worth waking a thread for)
        self.shares: tuple[int, int, Any] = (self.n, 0, None)  # a product in Python: vector passes only
        if not isinstance(operator, MatrixOperator):
            return
        self.shares = operator.shares
        if self.kind != "eisenstat":  # whose sweeps make the product
            self.layout = operator.for_loop()
            if operator.half is None:
                self.exact = self.layout
            self.rounded = formats.rounded(self.layout) if operator.wanted == "float32" else None

    @property
    def serial(self) -> bool:
        """Whether one thread works alone: with sweeps in one part, the others would do little but hand vectors over."""
        n, entries, _ = self.shares
        one = isinstance(self.preconditioner, Factored) and self.preconditioner.parts == 1
        return one and self.kind in cpu.SWEEPING and entries + 4 * n < cpu.SMALL

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix beside those that the operator holds."""
        own = list(self.layout) if isinstance(self.layout, HalfCSR) else []
        own += [a for a in self.rounded or () if not any(a is b for b in self.layout)]
        return sum(int(a.nbytes) for a in own)

    def formats(self, columns: int) -> tuple[str, str]:
        """Names of the layouts that products and true residuals are made with."""
        exact = cpu.layout_name(self.exact)
        return (cpu.layout_name(self.layout) if columns == 1 else exact), exact

    def factored(self, preconditioner: Factored) -> System:
        """The same matrix in the same layouts, with a preconditioner that factors."""
        system = copy.copy(self)
        system.preconditioner, system.kind, system.exponent_m = preconditioner, "factor", -preconditioner.exponent
        return system

    def without_sweeps(self) -> System:
        """The same, with a preconditioner that factors treated as any other."""
        if self.kind in cpu.SWEEPING:
            self.kind = "python"
        return self

    @property
    def ritz_exponent(self) -> int:
        """The exponent that Ritz values carry, and step lengths with the opposite sign: that of A, or of M A."""
        return self.exponent + (0 if self.kind == "identity" else self.exponent_m)

    def traffic(self, itemsize: int, columns: int = 1) -> int:
        """Bytes that one iteration moves, a store to a line that was not read counted twice."""
        # Streams of one vector each. Product: p, q (written unread: twice). update_residual: r twice, q.
        # update_direction: x twice, p twice, r. A diagonal M is read twice, a general one writes and rereads z.
        # A factor's sweeps write, read and write y, read its scale, inverse diagonal and order twice; those of
        # Eisenstat need no product, but carry A p of their own.
        streams = 11 + {"identity": 0, "diagonal": 2, "python": 4, "factor": 14, "eisenstat": 10}[self.kind]
        matrix = self.operator.nbytes
        if columns == 1 and (self.rounded is not None or isinstance(self.layout, HalfCSR)):
            matrix = sum(int(a.nbytes) for a in self.rounded or self.layout)
        if isinstance(self.preconditioner, Factored) and self.kind == "factor":
            matrix += 2 * (self.preconditioner.factor.data.nbytes + self.preconditioner.factor.indices.nbytes)
        elif isinstance(self.preconditioner, Factored) and self.preconditioner.eisenstat is not None:
            form = self.preconditioner.eisenstat
            matrix = sum(int(a.nbytes) for a in (form.lower, form.lower_columns, form.upper, form.upper_columns))
        return matrix + streams * itemsize * self.n * columns

    def code_before(self, rr: float, target: float) -> int:
        """The code of a solve before its first iteration."""
        if rr <= target:
            return loops.CONVERGED
        if not rr < math.inf:
            return loops.NONFINITE
        return loops.INDEFINITE if self.bad_row >= 0 else loops.RUNNING

    def bad_direction(self, dtype: np.dtype[Any]) -> Array:
        """The coordinate in which the curvature is not positive."""
        direction = np.zeros(self.n, dtype)
        direction[self.bad_row] = 1.0
        return gpu.cupy().asarray(direction) if self.operator.on_device else direction


def checked_system(operator: Operator, preconditioner: Operator | None, check: bool) -> System:
    """A system whose parts were found Hermitian, entry by entry or by two products; unchecked if not `check`."""
    norm, exponent, exponent_m = 0.0, 0, None
    if check and operator.shape[0] > 0:
        if not (isinstance(operator, MatrixOperator) and operator.symmetric):
            norm, exponent = require_hermitian(operator, "A")
        fixed = not getattr(preconditioner, "varies", False)  # what varies is no one matrix that could be Hermitian
        if preconditioner is not None and fixed and not isinstance(preconditioner, Jacobi | Factored):
            exponent_m = require_hermitian(preconditioner, "M")[1] + getattr(preconditioner, "exponent", 0)
    kind = DeviceSystem if operator.on_device else System
    return kind(operator, preconditioner, norm, exponent, exponent_m)


class Workspace:
    """Arrays of a solve for one data type and number of columns."""

    work: Any
    work_real: Any
    steps: Any

    def __init__(self, system: System, dtype: np.dtype[Any], columns: int) -> None:
        n = system.n
        self.dtype = dtype
        complex_ = dtype.kind == "c"
        threads = 1 if columns == 1 and system.serial else system.threads
        if columns == 1 and isinstance(system.layout, DenseLower):
            self.work = cpu.share_triangle(n, dtype, threads)
        elif columns == 1 and isinstance(system.layout, HalfCSR):
            self.work = cpu.share_half(system.layout, dtype, threads)
        else:
            self.work = cpu.share_rows(*system.shares, columns=columns, threads=threads)
        self.work_real = self.work
        # Vectors end on whole cache lines, an odd number of them: those of a size that is a power of two would
        # otherwise fall on the same cache sets.
        line = 64 // dtype.itemsize
        if columns == 1:
            self.V: Array = np.empty((4, ((n // line + 1) | 1) * line), dtype)
            self.s = np.zeros(loops.SCALARS)
        else:
            self.V = np.zeros((5, columns, n), dtype)  # the fifth is b, system by system
            self.s = np.zeros((columns, loops.SCALARS))
        self.T = np.zeros((7, columns))
        self.I = np.zeros((4, columns), np.int64)
        self.Vr = self.V.view(self.V.real.dtype)
        if complex_:  # vector updates treat a complex vector as a real one of twice the length
            self.work_real = self.work._replace(bounds=2 * self.work.bounds, sums=np.zeros_like(self.work.sums))
        self.low, self.high = SAFE_NORM[self.Vr.dtype.char]
        self.unit = UNIT[self.Vr.dtype.char]
        self.slice = int(max(1, min(SLICE // columns, SLICE_BYTES // system.traffic(dtype.itemsize, columns))))
        self.log = np.empty((self.slice, *((columns,) if columns > 1 else ()), loops.LOG_COLUMNS))
        self.kind = system.kind
        if self.kind in cpu.SWEEPING and (columns > 1 or complex_):
            self.kind = "python"
        self.M = self._preconditioner(system, doubled=complex_)
        layout, exact = system.formats(columns)
        self.steps = (cpu.cg_steps_many if columns > 1 else cpu.cg_steps)(layout, exact, self.kind)
        self.rounded_steps = self.steps
        if columns == 1 and system.rounded is not None:
            self.rounded_steps = cpu.cg_steps(cpu.layout_name(system.rounded), exact, self.kind)

    def _preconditioner(self, system: System, doubled: bool) -> Any:
        M = system.preconditioner
        if isinstance(M, Jacobi):
            exponent = M.exponent + system.exponent_m
            inverse = np.ldexp(M.inverse_diagonal, exponent) if exponent else M.inverse_diagonal
            inverse = inverse.astype(self.Vr.dtype, copy=False)
            return np.repeat(inverse, 2) if doubled else inverse
        if isinstance(M, Factored) and self.kind in cpu.SWEEPING:
            return M.with_workspace(self.dtype, take_product=self.kind == "eisenstat")
        return None if M is None else OnViews(M, self.dtype, system.exponent_m)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors."""
        return int(self.V.nbytes)

    def zeros(self, n: int) -> Array:
        """A vector of zeros."""
        return np.zeros(n, self.dtype)

    def residual(self, A: Any, b: Array, scale: float, x: Array, r: Array) -> float:
        """``r = scale b - A x``; returns ``r'r``."""
        return cpu.residual(A, b, scale, x, r, self.work)

    def residual_many(self, A: Any, b: Array, x: Array, r: Array, rr: Array, act: Array) -> None:
        """``r_j = b_j - A x_j``; ``rr[j] = r_j'r_j`` for j in act."""
        cpu.residual_many(A, b, x, r, rr, act, self.work)

    def scratch(self, n: int) -> Array:
        """A vector that holds nothing between two iterations: q's."""
        q = self.V[3]
        return q[:n] if q.ndim == 1 else q[0]

    def unscale(self, x: Array, shift: int) -> bool:
        """Multiply one solution by ``2^shift``; whether digits were lost, in which case `scratch` has what is left.

        What is left is in the units that were solved in, so that its residual can be computed there.
        """
        real, kept, difference = real_view(x), real_view(self.scratch(x.size)), self.V[1]
        difference = real_view(difference[: x.size] if difference.ndim == 1 else difference[0])
        difference[...] = real
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.ldexp(real, shift, out=real)
            np.ldexp(real, -shift, out=kept)
            np.subtract(difference, kept, out=difference)
        return bool(difference.any())

    def all_finite(self, x: Array) -> bool:
        """Whether x holds no NaN and no infinity."""
        scratch = real_view(self.scratch(x.size))
        return math.isfinite(float(np.max(np.abs(real_view(x), out=scratch))))

    def norm_and_exponent(self, b: Array) -> tuple[float, int]:
        """``|2^e b|`` of one right-hand side and e, the power of two that keeps its square in range.

        Raises
        ------
        ValueError
            If b holds NaN or infinity.
        """
        real = real_view(b)
        square = cpu.dot[0](real, real, self.work_real)
        if self.low * self.low <= square <= self.high * self.high:
            return math.sqrt(square), 0
        scratch = real_view(self.scratch(b.shape[0]))
        largest = float(np.max(np.abs(real, out=scratch)))
        if not math.isfinite(largest):
            where = first_nonfinite(b)
            raise ValueError(f"b holds NaN or infinity at index {where}; every entry must be finite")
        if largest == 0.0:
            return 0.0, 0
        exponent = max(-1000, min(1000, -math.frexp(largest)[1]))
        scaled = np.ldexp(real, exponent, out=scratch)
        return math.sqrt(cpu.dot[0](scaled, scaled, self.work_real)), exponent


class OnViews:
    """A preconditioner for vectors that come as real views, times a power of two."""

    def __init__(self, M: Operator, dtype: np.dtype[Any], exponent: int) -> None:
        self.M, self.dtype, self.exponent = M, dtype, exponent
        self.varies: bool = getattr(M, "varies", False)
        self.capturable = M.capturable
        self.ratio: Any = 1.0  # of Polak and Ribiere's beta to that of a constant M, for those that vary

    def matvec(self, r: Array, out: Array) -> None:
        """``out = 2^exponent M r``."""
        self.M.matvec(r.view(self.dtype), out=out.view(self.dtype))
        if self.exponent and self.M.on_device:
            out[...] = times_power_of_two(out, self.exponent)
        elif self.exponent:
            np.ldexp(out, self.exponent, out=out)

    def matmat(self, R: Array, out: Array, act: Array) -> None:
        """The same for those rows of R that `act` lists."""
        if self.M.on_device:
            rows = gpu.cupy().asarray(act)
            out[rows] = times_power_of_two(self.M.matmat(R[rows].T).T, self.exponent)
            return
        Z = self.M.matmat(np.ascontiguousarray(R.view(self.dtype)[act].T))
        scale_rows(Z.T, np.full(act.size, self.exponent))
        out.view(self.dtype)[act] = Z.T


class DeviceSystem(System):
    """A matrix and its preconditioner as the kernels of a GPU take them.

    Attributes
    ----------
    kind : {"identity", "diagonal", "chebyshev", "python"}
        What the preconditioner is: with all but the last, and a matrix, a solve is launches of one kernel.
    """

    MATRIX: Any = DeviceMatrix

    def _kind_of(self, M: Operator | None) -> str:
        if isinstance(M, Chebyshev) and M.operator is self.operator and isinstance(self.operator, DeviceMatrix):
            self.exponent_m = -self.exponent
            return "chebyshev"
        return super()._kind_of(M)

    def _prepare(self) -> None:
        """The loop multiplies by what there is."""

    def formats(self, columns: int) -> tuple[str, str]:
        """Names of the layout, twice: products and true residuals are made with the same."""
        return (gpu.layout_name(self.exact),) * 2

    def traffic(self, itemsize: int, columns: int = 1) -> int:
        """Bytes that one iteration moves: a store to a line that was not read costs nothing more here."""
        # Product: p, q. update_residual: r twice, q. update_direction: x twice, p twice, r.
        streams = 10 + {"identity": 0, "diagonal": 2, "python": 3, "chebyshev": 0}[self.kind]
        passes = 1
        if self.kind == "chebyshev":
            # The start reads the inverse diagonal, writes y, z, d; a step reads it, d, y, z and writes y, z, d.
            steps = self.preconditioner.degree - 1  # type: ignore[union-attr]
            streams, passes = streams + 4 + 7 * steps, passes + steps
        return passes * self.operator.nbytes + streams * itemsize * self.n * columns


class DeviceWorkspace(Workspace):
    """Arrays of a solve on a GPU for one data type and number of columns: what solves ask of a `Workspace`."""

    def __init__(self, system: DeviceSystem, dtype: np.dtype[Any], columns: int) -> None:
        n = system.n
        self.dtype, self.kind = dtype, system.kind
        self.low, self.high = SAFE_NORM[dtype.char]
        self.unit = UNIT[dtype.char]
        if columns == 1:
            self.work = gpu.share(n)
            self.V = gpu.cupy().zeros((6, n), dtype)
            self.s = np.zeros(loops.SCALARS)
            self.slice = SLICE
        else:
            self.work = gpu.share_many(n, columns)
            self.V = gpu.cupy().zeros((5, columns, n), dtype)  # the fifth is b, system by system
            self.s = np.zeros((columns, loops.SCALARS))
            self.slice = max(1, SLICE // columns)
            self.kind = "python" if self.kind == "chebyshev" else self.kind  # which one launch alone has inside
        self.work_real, self.Vr = self.work, self.V
        self.T = np.zeros((7, columns))
        self.I = np.zeros((4, columns), np.int64)
        self.log = np.zeros((self.slice, *((columns,) if columns > 1 else ()), loops.LOG_COLUMNS))
        self.M = self._preconditioner(system, doubled=False)
        self.steps = (gpu.cg_steps_many if columns > 1 else gpu.cg_steps)(*system.formats(columns), self.kind)
        self.rounded_steps = self.steps

    def _preconditioner(self, system: System, doubled: bool) -> Any:
        M = system.preconditioner
        if isinstance(M, Jacobi):
            return times_power_of_two(M.inverse_diagonal, M.exponent + system.exponent_m).astype(self.dtype)
        if isinstance(M, Chebyshev) and self.kind == "chebyshev":
            lower, upper = M.interval
            inverse = M.inverse_diagonal.astype(self.dtype)
            return gpu.Polynomial(inverse, (upper + lower) / 2.0, (upper - lower) / 2.0, M.degree)
        return None if M is None else OnViews(M, self.dtype, system.exponent_m)

    def zeros(self, n: int) -> Any:
        """A vector of zeros."""
        return gpu.cupy().zeros(n, self.dtype)

    def residual(self, A: Any, b: Any, scale: float, x: Any, r: Any) -> float:
        """``r = scale b - A x``; returns ``r'r``."""
        return float(gpu.residual(A, b, scale, x, r, self.work))

    def residual_many(self, A: Any, b: Any, x: Any, r: Any, rr: Any, act: Any) -> None:
        """As that of `Workspace`."""
        gpu.residual_many(A, b, x, r, rr, act, self.work)

    def unscale(self, x: Any, shift: int) -> bool:
        """As that of `Workspace`."""
        kept = self.scratch(x.size)
        before = x.copy()
        x[...] = times_power_of_two(x, shift)
        kept[...] = times_power_of_two(x, -shift)
        return bool((before != kept).any())

    def all_finite(self, x: Any) -> bool:
        """Whether x holds no NaN and no infinity."""
        return bool(np.isfinite(x).all())

    def norm_and_exponent(self, b: Any) -> tuple[float, int]:
        """As that of `Workspace`."""
        square = gpu.dot(b, b, self.work)
        if self.low * self.low <= square <= self.high * self.high:
            return math.sqrt(square), 0
        largest = float(abs(b).max())
        if not math.isfinite(largest):
            raise ValueError(f"b holds NaN or infinity at index {first_nonfinite(b)}; every entry must be finite")
        if largest == 0.0:
            return 0.0, 0
        exponent = max(-1000, min(1000, -math.frexp(largest)[1]))
        scaled = times_power_of_two(b, exponent)
        return math.sqrt(gpu.dot(scaled, scaled, self.work)), exponent


def workspace_for(system: System, dtype: np.dtype[Any], columns: int) -> Workspace:
    """A workspace where the system lies."""
    if isinstance(system, DeviceSystem):
        return DeviceWorkspace(system, dtype, columns)
    return Workspace(system, dtype, columns)


def times_power(value: float, exponent: int) -> float:
    """``value 2^exponent``, infinite where that is too large."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def scale_rows(x: Array, exponents: Any) -> None:
    """Multiply the rows of x by powers of two, exactly and in place."""
    with np.errstate(over="ignore", under="ignore"):  # what leaves the range becomes infinite, and is reported as such
        for j in np.flatnonzero(exponents):
            if on_device(x):
                x[j] = times_power_of_two(x[j], int(exponents[j]))
                continue
            row = np.ascontiguousarray(x[j])
            x[j] = np.ldexp(real_view(row), int(exponents[j])).view(x.dtype)
