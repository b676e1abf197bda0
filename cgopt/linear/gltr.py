"""The exact minimiser of a quadratic in a ball, over a growing Krylov space.

N. I. M. Gould, S. Lucidi, M. Roma and Ph. L. Toint, Solving the trust-region subproblem using the Lanczos method, SIAM
J. Optim. 9, 1999. Theirs keeps a tridiagonal matrix and makes its basis anew at the end; here the basis is kept and
held orthogonal, so that a direction that g does not reach (the hard case) can be added to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..kernels import cpu, loops
from ..kernels.layouts import Layout
from ..operators.check import probe_vectors
from .workspace import System, Workspace

GROWTH = 1.1  # the small problem is solved each time the space has grown by a tenth: its cost stays linear in steps


class SmallSolution(NamedTuple):
    """Minimiser h of ``c'h + 1/2 h'Hh`` in ``|h| <= radius``, its multiplier; H's lowest eigenvalue and its vector."""

    h: Array
    multiplier: float
    lowest: float
    vector: Array


def minimize_in_ball(H: Array, c: Array, radius: float) -> SmallSolution:
    """Minimise ``c'h + 1/2 h'Hh`` over ``|h| <= radius`` by the eigenvalues of H.

    J. J. More and D. C. Sorensen, SIAM J. Sci. Stat. Comput. 4, 1983: h is a minimiser if and only if
    ``(H + lam I) h = -c`` with ``lam >= 0``, ``H + lam I`` positive semi-definite, and ``lam (radius - |h|) = 0``.

    Parameters
    ----------
    H : (k, k) array
        Symmetric.
    c : (k,) array
    radius : float

    Returns
    -------
    SmallSolution
    """
    values, vectors = np.linalg.eigh(H)
    lowest, vector = float(values[0]), vectors[:, 0]
    c = vectors.T @ c
    floor = max(0.0, -lowest)  # lam >= floor keeps H + lam I semi-definite
    gaps = values - lowest if floor > 0.0 else values  # eigenvalues of H + floor I

    def solution(mu: float) -> Array:
        with np.errstate(divide="ignore", over="ignore"):
            return np.where(c == 0.0, 0.0, -c / np.where(c == 0.0, 1.0, gaps + mu))

    h = solution(0.0)
    if np.linalg.norm(h) <= radius:
        if floor > 0.0:  # the hard case: what is missing in length comes from an eigenvector of the smallest eigenvalue
            length = float(np.linalg.norm(h))
            h[0] = math.sqrt(radius - length) * math.sqrt(radius + length)
        return SmallSolution(vectors @ h, floor, lowest, vector)
    # Newton's method for 1 / |h(mu)| = 1 / radius, concave in mu: monotone from a point where |h| >= radius, which
    # any single term of |h|^2 gives.
    mu = max(0.0, float(np.max(np.abs(c) / radius - gaps)))
    for _ in range(100):
        h = solution(mu)
        length = float(np.linalg.norm(h))
        slope = float(np.sum(h * h / (gaps + mu)))  # -1/2 d|h|^2 / dmu
        step = (length / radius - 1.0) * length**2 / slope
        if not mu + step > mu:
            break
        mu += step
    h *= radius / length
    return SmallSolution(vectors @ h, floor + mu, lowest, vector)


class Krylov:
    """Lanczos' method with the basis kept: ``A Q = P Q H + beta P q_k e_k'``, ``Q'PQ = I``, P the inverse of M.

    The vectors are kept in double precision, and made orthogonal to all before them, twice (Parlett 1998, section 6.9).

    Attributes
    ----------
    size : int
        Vectors of the basis that have been multiplied.
    beta : float
        Length of what sticks out of the space; zero when it is invariant.
    failure : int
        Code of a failure of M.
    """

    def __init__(self, system: System, space: Workspace, start: Array, most: int) -> None:
        self.system, self.space, self.most = system, space, most
        self.Q = np.empty((min(most + 1, 16), system.n))
        self.V = self.Q if space.M is None else np.empty_like(self.Q)  # P Q
        self.H = np.zeros((self.Q.shape[0], self.Q.shape[0]))
        self.size = 0
        self.scale = 0.0  # largest |H e_j| so far: what rounding is relative to
        self.failure = loops.RUNNING
        self.start_norm = self.beta = self._append(start)

    def multiply(self, q: Array) -> Array:
        """``A q``."""
        x = np.ascontiguousarray(q, self.space.dtype)
        out = np.empty_like(x)
        if isinstance(self.system.layout, Layout):
            cpu.multiply(self.system.layout, x, out, self.space.work)
        else:
            self.system.layout.matvec(x, out=out)
        return out.astype(np.float64)

    def precondition(self, v: Array) -> Array:
        """``M v``."""
        M = self.space.M
        if M is None:
            return v
        if isinstance(M, np.ndarray):
            return np.asarray(M * v)
        x = np.ascontiguousarray(v, self.space.dtype)
        out = np.empty_like(x)
        M.matvec(x, out)
        return out.astype(np.float64)

    def _append(self, v: Array) -> float:
        """Normalise v, ``v'Mv = 1``, as the next vector; its length before, 0 where that is rounding only."""
        z = self.precondition(v)
        square = float(v @ z)
        if not 0.0 <= square < math.inf:
            self.failure = loops.product_code(square)
            return 0.0
        length = math.sqrt(square)
        if length <= 8.0 * self.space.unit * self.scale * math.sqrt(self.size):
            return 0.0
        if self.size == self.Q.shape[0]:
            self._grow()
        self.Q[self.size], self.V[self.size] = z / length, v / length
        return length

    def _grow(self) -> None:
        rows = min(2 * self.Q.shape[0], self.most + 1)
        both = self.V is self.Q
        self.Q = np.concatenate([self.Q, np.empty((rows - self.size, self.system.n))])
        self.V = self.Q if both else np.concatenate([self.V, np.empty((rows - self.size, self.system.n))])
        self.H = np.pad(self.H, (0, rows - self.size))

    def expand(self) -> None:
        """Multiply the last vector, and append what the product adds to the space."""
        k = self.size + 1
        w = self.multiply(self.Q[k - 1])
        h = np.zeros(k)
        for _ in range(2):
            part = self.Q[:k] @ w
            w -= part @ self.V[:k]
            h += part
        self.H[k - 1, :k] = self.H[:k, k - 1] = h
        self.size, self.scale = k, max(self.scale, float(np.linalg.norm(h)))
        self.beta = self._append(w)

    @property
    def matrix(self) -> Array:
        """``Q'AQ``, (size, size)."""
        return self.H[: self.size, : self.size]

    @property
    def ended(self) -> bool:
        """Whether the space cannot grow: it is invariant, as large as allowed, or M failed."""
        return self.beta == 0.0 or self.size == self.most

    def include(self, u: Array, Pu: Array) -> None:
        """Put one more vector into the space, after which it cannot be expanded."""
        k = self.size
        for _ in range(2):
            part = self.V[:k] @ u
            u, Pu = u - part @ self.Q[:k], Pu - part @ self.V[:k]
        length = math.sqrt(float(u @ Pu))
        if k == self.Q.shape[0]:
            self._grow()
        self.Q[k], self.V[k] = u / length, Pu / length
        h = self.Q[: k + 1] @ self.multiply(self.Q[k])
        self.H[k, : k + 1] = self.H[: k + 1, k] = h
        self.size, self.beta, self.scale = k + 1, 0.0, max(self.scale, float(np.linalg.norm(h)))


class Minimiser(NamedTuple):
    """What `minimize_by_lanczos` found; lengths are ``|d|_P``."""

    d: Array
    code: int
    iterations: int
    decrease: float
    norm: float
    multiplier: float
    residual_norm: float
    direction: Array | None


def minimize_by_lanczos(
    system: System, space: Workspace, g: Array, radius: float, rtol: float, maxiter: int, certify: bool
) -> Minimiser:
    """Minimise ``g'd + 1/2 d'Ad`` over ``|d|_P <= radius``.

    Over the Krylov space of g the problem is small and tridiagonal; its solution h gives ``d = Q h`` with the residual
    ``beta |h_k|``, which ends the growth. A curvature that g does not reach is looked for in the Krylov space of a
    vector of no special direction: if one lies below ``-multiplier``, its eigenvector joins the space.

    Parameters
    ----------
    system : System
    space : Workspace
    g : (n,) array
    radius : float
    rtol : float
        Relative to ``|g|_M``; in the hard case to ``|A d|`` too.
    maxiter : int
        Products, and dimension of the space.
    certify : bool
        Whether to look for what g does not reach.
    """
    krylov = Krylov(system, space, g, maxiter)
    small = SmallSolution(np.zeros(0), 0.0, math.inf, np.zeros(0))
    target = estimate_target = rtol * krylov.start_norm
    residual, code, denied, next_solve = g, krylov.failure, False, 1
    if code == loops.RUNNING and krylov.start_norm == 0.0:
        code = loops.CONVERGED
    elif code == loops.RUNNING and maxiter == 0:
        code = loops.MAXITER
    while code == loops.RUNNING:
        krylov.expand()
        if krylov.size < next_solve and not krylov.ended:
            continue
        next_solve = max(krylov.size + 1, int(GROWTH * krylov.size))
        c = np.zeros(krylov.size)
        c[0] = krylov.start_norm
        small = minimize_in_ball(krylov.matrix, c, radius)
        estimate = krylov.beta * abs(float(small.h[-1]))
        if estimate > estimate_target and not krylov.ended:
            continue
        residual, length = _true_residual(krylov, g, small)
        if length <= target:
            code = loops.CONVERGED
        elif krylov.failure != loops.RUNNING:
            code = krylov.failure
        elif krylov.beta == 0.0 or krylov.size == g.size or denied:
            code = loops.STAGNATED
        elif krylov.size == maxiter:
            code = loops.MAXITER
        else:
            denied, estimate_target = True, estimate / 10.0
    iterations = krylov.size
    if certify and code == loops.CONVERGED and maxiter > 0:
        lowest, u, Pu, steps = _lowest_pair(system, space, rtol, maxiter)
        iterations += steps
        if lowest < -small.multiplier - 8.0 * space.unit * krylov.scale:
            krylov.include(u, Pu)
            small = minimize_in_ball(krylov.matrix, krylov.Q[: krylov.size] @ g, radius)
            residual, length = _true_residual(krylov, g, small)
            code = loops.CONVERGED if length <= max(target, rtol * radius * krylov.scale) else loops.STAGNATED
    d = small.h @ krylov.Q[: small.h.size]
    direction, norm = None, float(np.linalg.norm(small.h))
    if small.lowest < -8.0 * space.unit * krylov.scale:
        direction = small.vector @ krylov.Q[: small.h.size]
    if code == loops.CONVERGED and (small.multiplier > 0.0 or direction is not None):
        code = loops.BOUNDARY if direction is None else loops.NEGATIVE_CURVATURE
    # -(c'h + h'Hh / 2), with H h = -c - lam h:  -c'h / 2 + lam h'h / 2
    slope = float(small.h @ (krylov.Q[: small.h.size] @ g))
    decrease = 0.5 * (small.multiplier * norm * norm - slope)
    return Minimiser(d, code, iterations, decrease, norm, small.multiplier, float(np.linalg.norm(residual)), direction)


def _true_residual(krylov: Krylov, g: Array, small: SmallSolution) -> tuple[Array, float]:
    """``g + A d + lam P d`` and its length in the norm of M, by a product with d."""
    Q, V = krylov.Q[: small.h.size], krylov.V[: small.h.size]
    residual = g + krylov.multiply(small.h @ Q) + small.multiplier * (small.h @ V)
    return residual, math.sqrt(max(0.0, float(residual @ krylov.precondition(residual))))


def _lowest_pair(system: System, space: Workspace, rtol: float, most: int) -> tuple[float, Array, Array, int]:
    """Smallest eigenvalue of ``A u = theta P u``, by Lanczos from a fixed pseudo-random vector.

    Returns
    -------
    theta : float
    u, Pu : (n,) arrays
    steps : int
    """
    krylov = Krylov(system, space, probe_vectors(system.n, np.dtype(np.float64), 1)[0], most)
    next_solve = 1
    while True:
        krylov.expand()
        if krylov.size < next_solve and not krylov.ended:
            continue
        next_solve = max(krylov.size + 1, int(GROWTH * krylov.size))
        values, vectors = np.linalg.eigh(krylov.matrix)
        s = vectors[:, 0]
        if krylov.ended or krylov.beta * abs(float(s[-1])) <= rtol * krylov.scale:
            return float(values[0]), s @ krylov.Q[: s.size], s @ krylov.V[: s.size], krylov.size
