"""Primitives for Python operators and preconditioners: objects with ``matvec(x, out)`` and ``matmat(X, out)``.

The loop that calls these is interpreted; what is left of each pass is compiled. (Shapes and streams as in
`cgopt.kernels.reference`, where the names are specified.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layouts import Work
from ..reference import dot as column_dots
from . import many, products, updates
from .threads import run


def apply_dot(A: Any, p: Any, q: Any, w: Work) -> float:
    """``q = A p``, ``p'q``."""
    A.matvec(p, out=q)
    return float(run(products.real_dot, w, p, q, w))


def residual(A: Any, b: Any, scale: float, x: Any, r: Any, w: Work) -> float:
    """``r = scale b - A x``, ``r'r``."""
    A.matvec(x, out=r)
    np.subtract(b if scale == 1.0 else scale * b, r, out=r)
    return float(run(products.real_dot, w, r, r, w))


def update_residual(M: Any, alpha: float, q: Any, r: Any, z: Any, w: Work) -> tuple[float, float]:
    """``r -= alpha q``, ``z = M r``, ``r'r``, ``r'z``."""
    rr, _ = run(updates.update_residual_identity, w, None, alpha, q, r, z, w)
    M.matvec(r, out=z)
    return rr, run(updates.dot, w, r, z, w)


def update_direction(M: Any, alpha: float, beta: float, r: Any, z: Any, p: Any, x: Any, w: Work) -> tuple[float, float]:
    """``x += alpha p``, ``p = z + beta p`` with the z that is stored; ``x'x``, ``p'p``."""
    xx, pp = run(updates.update_direction_identity, w, None, alpha, beta, z, z, p, x, w)
    return xx, pp


def restart(M: Any, r: Any, z: Any, p: Any, w: Work) -> tuple[float, float]:
    """``z = M r``, ``p = z``, ``r'z``, ``p'p``."""
    M.matvec(r, out=z)
    p[...] = z
    return run(updates.dot, w, r, z, w), run(updates.dot, w, p, p, w)


def apply_dot_many(A: Any, p: Any, q: Any, pq: Any, w: Work) -> None:
    """``Q = A P``, ``pq[j] = p_j'q_j``."""
    A.matmat(p, out=q)
    pq[:] = column_dots(p, q)


def update_residual_many(M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, w: Work) -> None:
    """``R -= Q alpha``, ``Z = M R``, ``rr``, ``rz``."""
    run(many.update_residual_many_identity, w, None, alpha, q, r, z, rr, rz, w)
    M.matmat(r, out=z)
    rz[:] = column_dots(r, z)


def update_direction_many(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, w: Work
) -> None:
    """``X += P alpha``, ``P = Z + P beta`` with the Z that is stored."""
    run(many.update_direction_many_identity, w, None, alpha, beta, z, z, p, x, xx, pp, w)


def restart_many(M: Any, r: Any, z: Any, p: Any, which: Any, rz: Any, pp: Any, w: Work) -> None:
    """``Z = M R``, and ``p_j = z_j`` where ``which[j]`` is not 0."""
    M.matmat(r, out=z)
    p[:, which != 0.0] = z[:, which != 0.0]
    rz[:], pp[:] = column_dots(r, z), column_dots(p, p)
