"""Primitives for Python operators and preconditioners: objects with ``matvec(x, out)`` and ``matmat(X, out)``.

The loop that calls these is interpreted; what is left of each pass is compiled. (Shapes and streams as in
`cgopt.kernels.reference`, where the names are specified.)

For a preconditioner that varies, the loop's ``beta = r'z / (r'z before)`` is corrected to Polak and Ribiere's,
``(r - r before)'z / (r'z before)``, in which ``r - r before = -alpha q``: by the ratio ``-alpha q'z / r'z``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layouts import Work
from . import many, updates
from .threads import run


def apply_dot(A: Any, p: Any, q: Any, w: Work) -> float:
    """``q = A p``, ``p'q``."""
    A.matvec(p, out=q)
    return float(run(updates.dot, w, p, q, w))


def residual(A: Any, b: Any, scale: float, x: Any, r: Any, w: Work) -> float:
    """``r = scale b - A x``, ``r'r``."""
    A.matvec(x, out=r)
    np.subtract(b if scale == 1.0 else scale * b, r, out=r)
    return float(run(updates.dot, w, r, r, w))


def update_residual(M: Any, alpha: float, q: Any, r: Any, z: Any, w: Work) -> tuple[float, float]:
    """``r -= alpha q``, ``z = M r``, ``r'r``, ``r'z``."""
    rr, _ = run(updates.update_residual_identity, w, None, alpha, q, r, z, w)
    M.matvec(r, out=z)
    rz = run(updates.dot, w, r, z, w)
    if getattr(M, "varies", False):
        M.ratio = -alpha * run(updates.dot, w, q, z, w) / rz
    return rr, rz


def update_direction(M: Any, alpha: float, beta: float, r: Any, z: Any, p: Any, x: Any, w: Work) -> tuple[float, float]:
    """``x += alpha p``, ``p = z + beta p`` with the z that is stored; ``x'x``, ``p'p``."""
    if getattr(M, "varies", False):
        beta *= M.ratio
    xx, pp = run(updates.update_direction_identity, w, None, alpha, beta, z, z, p, x, w)
    return xx, pp


def restart(M: Any, r: Any, z: Any, p: Any, w: Work) -> tuple[float, float]:
    """``z = M r``, ``p = z``, ``r'z``, ``p'p``."""
    M.matvec(r, out=z)
    p[...] = z
    return run(updates.dot, w, r, z, w), run(updates.dot, w, p, p, w)


def apply_dot_many(A: Any, p: Any, q: Any, pq: Any, act: Any, w: Work) -> None:
    """``q_j = A p_j``, ``pq[j] = p_j'q_j``."""
    q[act] = A.matmat(np.ascontiguousarray(p[act].T)).T
    run(many.dot_many, w, p, q, pq, act, w)


def residual_many(A: Any, b: Any, x: Any, r: Any, rr: Any, act: Any, w: Work) -> None:
    """``r_j = b_j - A x_j``, ``rr[j] = r_j'r_j``."""
    r[act] = b[act] - A.matmat(np.ascontiguousarray(x[act].T)).T
    run(many.dot_many, w, r, r, rr, act, w)


def update_residual_many(M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, act: Any, w: Work) -> None:
    """``r_j -= alpha[j] q_j``, ``z_j = M r_j``, ``rr``, ``rz``."""
    run(many.update_residual_many_identity, w, None, alpha, q, r, z, rr, rz, act, w)
    M.matmat(r, z, act)
    run(many.dot_many, w, r, z, rz, act, w)
    if getattr(M, "varies", False):
        M.ratio = np.ones_like(rz)
        run(many.dot_many, w, q, z, M.ratio, act, w)
        M.ratio[act] *= -alpha[act] / rz[act]


def update_direction_many(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, act: Any, w: Work
) -> None:
    """``x_j += alpha[j] p_j``, ``p_j = z_j + beta[j] p_j`` with the z that is stored."""
    if getattr(M, "varies", False):
        beta = beta * M.ratio
    run(many.update_direction_many_identity, w, None, alpha, beta, z, z, p, x, xx, pp, act, w)


def restart_many(M: Any, r: Any, z: Any, p: Any, rz: Any, pp: Any, act: Any, w: Work) -> None:
    """``z_j = M r_j``, ``p_j = z_j``."""
    M.matmat(r, z, act)
    p[act] = z[act]
    run(many.dot_many, w, r, z, rz, act, w)
    run(many.dot_many, w, p, p, pp, act, w)
