"""Conjugate gradients in a trust region: minimise a quadratic model within a ball, whatever its curvature.

T. Steihaug, The conjugate gradient method and trust regions in large scale optimization, SIAM J. Numer. Anal. 20,
1983. The loop itself is `cgopt.kernels.loops.steihaug_steps`; `gltr.py` goes on to the exact minimiser.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Array, as_array, like, real_view
from ..kernels import cpu, loops
from ..operators import as_operator
from ..preconditioners import as_preconditioner
from ..status import OF_CODE, Status, info_of
from .gltr import minimize_by_lanczos
from .stopping import check_maxiter, check_tolerance
from .workspace import PATIENCE, System, Workspace, checked_system, scale_rows, times_power

METHODS = ("steihaug", "gltr")


@dataclass(frozen=True, repr=False)
class TrustRegionResult:
    """A step within a trust region; unpacks as ``d, info``.

    Attributes
    ----------
    x : (n,) array
        The step d.
    status : Status
        CONVERGED: the gradient of the model meets the tolerance inside the region. BOUNDARY: d lies on the boundary
        (with ``method="gltr"``, and is the minimiser there). NEGATIVE_CURVATURE: d lies on the boundary because the
        model has no minimum. MAXITER, STAGNATED and breakdowns as for `cgopt.cg`; d is then the best so far.
    iterations : int
        Steps of the recurrence that entered d.
    model_decrease : float
        ``-(g'd + d'Ad / 2)``, not negative.
    step_norm : float
        ``|d|_P``, P the inverse of M.
    multiplier : float
        ``lambda >= 0`` of the boundary, with ``(A + lambda P) d = -g`` at the minimiser; NaN for a step of
        ``method="steihaug"`` on the boundary, which is no minimiser.
    residual_norm : float
        ``|g + A d + lambda P d|``, computed from d unless the step of ``method="steihaug"`` ends on the boundary: then
        ``|g + A d|`` from the recurrence.
    negative_curvature : (n,) array or None
        A direction v with v'Av <= 0, if one was found.
    """

    x: Any
    status: Status
    iterations: int
    model_decrease: float
    step_norm: float
    multiplier: float
    residual_norm: float
    negative_curvature: Any

    @property
    def info(self) -> int:
        """0 for a step that is as asked for, > 0 when iterations ran out, < 0 after a breakdown."""
        return info_of(self.status, self.iterations)

    @property
    def on_boundary(self) -> bool:
        """Whether d lies on the boundary of the trust region."""
        return self.status in (Status.BOUNDARY, Status.NEGATIVE_CURVATURE)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))

    def __repr__(self) -> str:
        return (
            f"TrustRegionResult({self.status.name}, iterations={self.iterations}, step_norm={self.step_norm:.3e}, "
            f"model_decrease={self.model_decrease:.3e})\n  {self.status.value}"
        )


def trust_region_cg(
    A: Any,
    g: Any,
    radius: float,
    *,
    M: Any = None,
    method: str = "steihaug",
    rtol: float = 1e-5,
    maxiter: int | None = None,
    certify: bool = True,
    check: bool = True,
) -> TrustRegionResult:
    """Minimise ``g'd + 1/2 d'Ad`` over ``|d|_P <= radius``, A symmetric but not necessarily definite.

    ``|d|_P = sqrt(d'Pd)`` with P the inverse of M: the norm in which the iterates of conjugate gradients grow, carried
    along by recurrences of scalars. P itself is never needed. Without M it is the 2-norm.

    Parameters
    ----------
    A : anything that `cgopt.cg` takes, real
        Symmetric; only products with it are needed.
    g : (n,) array
        Gradient of the model at zero.
    radius : float
        Positive. Infinite (for ``method="steihaug"``): no boundary; the iteration then ends on a non-positive
        curvature with the step that it had.
    M : optional
        Preconditioner, an approximation of the inverse of A, as for `cgopt.cg`; positive definite.
    method : {"steihaug", "gltr"}
        "steihaug" follows conjugate gradients until they leave the region, or meet a non-positive curvature, and then
        goes straight to the boundary: cheap, and at least half the best decrease where A is positive definite.
        "gltr" goes on along the boundary to the minimiser, and keeps two vectors (one without M) an iteration.
    rtol : float
        The step is accepted inside the region when ``|g + A d| <= rtol |g|``. For "gltr", when the gradient of the
        Lagrangian is that small in the norm of M.
    maxiter : int, optional
        Iterations allowed; by default 10 n, n for "gltr".
    certify : bool
        For "gltr": look, with some more products, whether a curvature below ``-lambda`` hides in directions that g does
        not reach (the hard case). Without it the step is the minimiser over what g reaches. For "steihaug": when the
        iterations run out, compute `residual_norm` from d, with one more product. Without it, it is the recurrence's.
    check : bool
        Test with two products that A (and M) is symmetric.

    Returns
    -------
    TrustRegionResult

    Raises
    ------
    ValueError, TypeError
        For input that is no such problem, before any iteration.

    References
    ----------
    T. Steihaug, SIAM J. Numer. Anal. 20, 1983.
    N. I. M. Gould, S. Lucidi, M. Roma and Ph. L. Toint, SIAM J. Optim. 9, 1999 (generalised Lanczos).
    Y. Yuan, Math. Program. 87, 2000 (the half of the decrease).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A, g = np.diag([2.0, 1.0, -1.0]), np.array([1.0, 1.0, 0.0])
    >>> step = cgopt.trust_region_cg(A, g, 10.0)
    >>> step.status.name, step.x
    ('CONVERGED', array([-0.5, -1. ,  0. ]))
    >>> best = cgopt.trust_region_cg(A, g, 10.0, method="gltr")  # the third coordinate, which g does not show
    >>> best.status.name, round(best.multiplier, 6), abs(best.x).round(4)
    ('NEGATIVE_CURVATURE', 1.0, array([0.3333, 0.5   , 9.9819]))
    """
    if method not in METHODS:
        raise ValueError(f"method must be 'steihaug' or 'gltr', got {method!r}")
    gradient = as_array(g, "g")
    if gradient.ndim != 1:
        raise ValueError(f"g must have shape (n,), got {gradient.shape}")
    if not isinstance(radius, numbers.Real) or isinstance(radius, bool):
        raise TypeError(f"radius must be a positive real number, got {radius!r}")
    if not float(radius) > 0.0:
        raise ValueError(f"radius must be a positive real number, got {radius!r}")
    if method == "gltr" and math.isinf(radius):
        raise ValueError("radius must be finite for method='gltr': without a boundary the model may have no minimum")
    operator = as_operator(A, n=gradient.size, dtype=gradient.dtype, device=False)
    if operator.shape[0] != gradient.size:
        raise ValueError(f"g must have shape ({operator.shape[0]},) to go with A of shape {operator.shape}")
    system = checked_system(operator, as_preconditioner(M, operator), check).without_sweeps()
    dtype = np.result_type(system.dtype, gradient.dtype)
    if dtype.kind == "c":
        raise TypeError(
            "A and g must be real for a trust region: write a complex problem as a real one of twice the size"
        )
    rtol, limit = check_tolerance(rtol, "rtol"), check_maxiter(maxiter, gradient.size)
    if gradient.size == 0:
        return TrustRegionResult(like(gradient.copy(), g), Status.CONVERGED, 0, 0.0, 0.0, 0.0, 0.0, None)
    gradient = np.ascontiguousarray(gradient, dtype)
    space = Workspace(system, dtype, 1)
    if method == "gltr":
        limit = min(limit, gradient.size)
        result = _gltr(system, space, gradient, float(radius), rtol, limit, certify)
    else:
        result = _steihaug(system, space, gradient, float(radius), rtol, limit, certify)
    return _as_given(result, g)


class _Scales:
    """Powers of two between the problem as given and as solved: ``2^a A``, ``2^e g``, ``2^m M``, ``2^-shift d``."""

    def __init__(self, system: System, exponent: int, radius: float) -> None:
        self.shift = system.exponent - exponent
        self.exponent = exponent
        self.half_m = 0.0 if system.kind == "identity" else system.exponent_m / 2.0
        self.multiplier = system.exponent_m + system.exponent if system.kind != "identity" else system.exponent
        # |2^-shift d| in the norm of 2^-m P
        self.radius = self.norm(radius, -1)

    def norm(self, value: float, sign: int = 1) -> float:
        """A norm |d|_P as given, from one as solved (or the other way, with sign -1)."""
        return times_power(value, sign * self.shift) * 2.0 ** (sign * self.half_m)

    def decrease(self, value: float) -> float:
        """A decrease of the model as given."""
        return times_power(value, self.shift - self.exponent)


def _steihaug(
    system: System, space: Workspace, g: Array, radius: float, rtol: float, maxiter: int, certify: bool
) -> TrustRegionResult:
    n, w, s, V = system.n, space.work, space.s, space.V
    d = np.zeros(n, space.dtype)
    norm, exponent = space.norm_and_exponent(g)
    if norm == 0.0:
        return TrustRegionResult(d, Status.CONVERGED, 0, 0.0, 0.0, 0.0, 0.0, None)
    scales = _Scales(system, exponent, radius)
    r, p, q, b = V[0, :n], V[2, :n], V[3, :n], -g
    np.multiply(b, b.dtype.type(2.0**exponent), out=r)
    s[:] = 0.0
    s[loops.RR] = s[loops.BEST] = norm * norm
    s[loops.TARGET], s[loops.UNIT], s[loops.NORM_A] = (rtol * norm) ** 2, space.unit, system.norm
    s[loops.PATIENCE], s[loops.SCALE], s[loops.RADIUS] = PATIENCE, 2.0**exponent, scales.radius

    steps = cpu.steihaug_steps(*system.formats(1), system.kind)
    code = loops.CONVERGED if norm * norm <= s[loops.TARGET] else loops.MAXITER if maxiter == 0 else loops.AGAIN
    iterations = 0
    while code in (loops.RUNNING, loops.AGAIN):
        if code == loops.AGAIN and iterations:
            s[loops.DP] = float(np.dot(d.astype(np.float64), r))  # d'Pp = d'r for p = M r
        stride = min(space.slice, maxiter - iterations)
        last = certify and iterations + stride == maxiter
        code, done = steps(
            w,
            system.layout,
            system.exact,
            space.M,
            b,
            d,
            V,
            d,
            space.Vr,
            s,
            space.log,
            w,
            w,
            code == loops.AGAIN,
            stride,
            last,
        )
        iterations += done
        if code in (loops.RUNNING, loops.AGAIN) and iterations == maxiter:
            code = loops.MAXITER
    direction = None
    if code == loops.NEGATIVE_CURVATURE:
        direction = p.copy()
    true, length, multiplier = s[loops.RR], math.sqrt(s[loops.DD]), 0.0
    if code in (loops.BOUNDARY, loops.NEGATIVE_CURVATURE) and math.isfinite(scales.radius):
        tau = _to_boundary(s[loops.PNORM], s[loops.DP], length, scales.radius)
        d += d.dtype.type(tau) * p
        r -= r.dtype.type(tau) * q
        s[loops.DECREASE] += tau * (s[loops.RZ] - 0.5 * tau * s[loops.PQ])  # p'r = r'z
        true, length, multiplier = float(np.dot(r.astype(np.float64), r)), scales.radius, math.nan
        iterations += 1
    if scales.shift:
        scale_rows(d[None, :], [scales.shift])
    if not (math.isfinite(true) and np.isfinite(real_view(d)).all()):
        code = loops.NONFINITE
    return TrustRegionResult(
        d,
        OF_CODE[code],
        iterations,
        scales.decrease(s[loops.DECREASE]),
        scales.norm(length),
        multiplier,
        times_power(math.sqrt(true), -exponent),
        direction,
    )


def _to_boundary(pp: float, dp: float, length: float, radius: float) -> float:
    """The positive tau with ``|d + tau p|_P = radius``, from ``p'Pp``, ``d'Pp`` and ``|d|_P``."""
    # With tau = radius t:  pp t^2 + 2 (dp / radius) t = 1 - (length / radius)^2, which neither overflows nor cancels.
    half_b, c = dp / radius, (1.0 - length / radius) * (1.0 + length / radius)
    root = math.sqrt(half_b * half_b + pp * c)
    return radius * (c / (half_b + root) if half_b > 0.0 else (root - half_b) / pp)


def _gltr(
    system: System, space: Workspace, g: Array, radius: float, rtol: float, maxiter: int, certify: bool
) -> TrustRegionResult:
    exponent = space.norm_and_exponent(g)[1]
    scales = _Scales(system, exponent, radius)
    scaled = np.ldexp(g, exponent)
    found = minimize_by_lanczos(system, space, scaled, scales.radius, rtol, maxiter, certify)
    d = found.d.astype(space.dtype)
    if scales.shift:
        scale_rows(d[None, :], [scales.shift])
    code = found.code if np.isfinite(d).all() else loops.NONFINITE
    return TrustRegionResult(
        d,
        OF_CODE[code],
        found.iterations,
        scales.decrease(found.decrease),
        scales.norm(found.norm),
        times_power(found.multiplier, -scales.multiplier) if found.multiplier else 0.0,
        times_power(found.residual_norm, -exponent),
        None if found.direction is None else found.direction.astype(space.dtype),
    )


def _as_given(result: TrustRegionResult, g: Any) -> TrustRegionResult:
    """The arrays of a result in the library that g belongs to."""
    direction = result.negative_curvature
    direction = None if direction is None else like(direction, g)
    return replace(result, x=like(result.x, g), negative_curvature=direction)
