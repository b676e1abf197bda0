"""The primitives of several right-hand sides: launches for those systems that are listed, and their sums.

The scalars lie in host memory, where `cgopt.kernels.loops.cg_steps_many` has them: the host waits for the sums of each
pass, and decides for all systems at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .device import c_type, cupy, kernels
from .sources import MANY
from .vectors import Work, matrix_arguments, matrix_options


class ManyWork(Work):
    """What launches for several systems work in; the blocks are those of one of them.

    Attributes
    ----------
    act : (k,) uint32
        The systems listed, as the device has them.
    scalars : (2, k) float64
        alpha and beta.
    many_sums : (2 k,) float64
    """

    def __init__(self, n: int, columns: int) -> None:
        super().__init__(n)
        xp = cupy()
        room = -(-columns // MANY) * MANY  # of numbers that products sum, or of pairs for fewer systems
        self.parts = xp.zeros(2 * room * self.blocks, np.float64)
        self.arrived = xp.zeros(columns, np.uint32)
        self.act = xp.zeros(columns, np.uint32)
        self.scalars = xp.zeros((2, columns), np.float64)
        self.many_sums = xp.zeros(2 * columns, np.float64)
        self._listed = np.zeros(0, np.uint32)

    def listed(self, act: Any) -> tuple[Any, np.uint32]:
        """A list of systems on the device, where it is left for as long as it does not change, and its length."""
        if not np.array_equal(act, self._listed):
            self._listed = np.array(act, np.uint32)
            self.act[: act.size] = cupy().asarray(self._listed)
        return self.act, np.uint32(act.size)

    def scalar(self, row: int, values: Any) -> Any:
        """alpha (row 0) or beta (row 1) of all systems, brought to the device."""
        self.scalars[row].set(np.ascontiguousarray(values))
        return self.scalars[row]


def share_many(n: int, columns: int) -> ManyWork:
    """Work for so many systems of n unknowns."""
    return ManyWork(n, columns)


def _product(name: str, A: Any, vectors: tuple[Any, ...], act: Any, w: ManyWork) -> Any:
    """Launch a pass over the matrix; its sums, one for each system listed."""
    x = vectors[0]
    group = kernels("many", real=c_type(x.dtype), **matrix_options(A))
    args = (np.uint64(x.shape[1]), *matrix_arguments(A), *vectors, *w.listed(act), w.many_sums, w.parts, w.arrived)
    group.launch(name, w.blocks * -(-act.size // MANY), args)
    return w.many_sums[: act.size].get()


def _pass(name: str, x: Any, args: tuple[Any, ...], act: Any, w: ManyWork) -> Any:
    """Launch a pass over vectors; two sums for each system listed, as rows."""
    group = kernels("many", real=c_type(x.dtype))
    args = (np.uint64(x.shape[1]), *args, *w.listed(act), w.many_sums, w.parts, w.arrived)
    group.launch(name, w.blocks * act.size, args)
    return w.many_sums[: 2 * act.size].get().reshape(act.size, 2).T


def dot_many(a: Any, b: Any, ab: Any, act: Any, w: ManyWork) -> None:
    """``ab[j] = a_j'b_j`` for j in act."""
    ab[act] = _pass("dot_many", a, (a, b), act, w)[0]


def apply_dot_many(A: Any, p: Any, q: Any, pq: Any, act: Any, w: ManyWork) -> None:
    """``q_j = A p_j``; ``pq[j] = p_j'q_j`` for j in act. A is a layout or an object with ``matmat``."""
    if act.size == 0:
        return
    if hasattr(A, "matmat"):
        rows = cupy().asarray(act)
        q[rows] = A.matmat(p[rows].T).T
        dot_many(p, q, pq, act, w)
    else:
        pq[act] = _product("apply_dot_many", A, (p, q), act, w)


def residual_many(A: Any, b: Any, x: Any, r: Any, rr: Any, act: Any, w: ManyWork) -> None:
    """``r_j = b_j - A x_j``; ``rr[j] = r_j'r_j`` for j in act."""
    if act.size == 0:
        return
    if hasattr(A, "matmat"):
        rows = cupy().asarray(act)
        r[rows] = b[rows] - A.matmat(x[rows].T).T
        dot_many(r, r, rr, act, w)
    else:
        rr[act] = _product("residual_many", A, (b, x, r), act, w)


def multiply_many(A: Any, p: Any, q: Any, w: ManyWork) -> None:
    """``q_j = A p_j`` for all rows of (k, n) arrays. A is a layout."""
    if p.shape[0]:
        _product("apply_dot_many", A, (p, q), np.arange(p.shape[0]), w)


def update_residual_many(M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, act: Any, w: ManyWork) -> None:
    """``r_j -= alpha[j] q_j``, ``z_j = M r_j``; ``rr[j] = r_j'r_j``, ``rz[j] = r_j'z_j``.

    Where M varies, the loop's beta is corrected to Polak and Ribiere's, as in `cgopt.kernels.cpu`:
    ``(r - r before)'z / (r'z before)``, in which ``r - r before = -alpha q``.
    """
    if act.size == 0:
        return
    python = hasattr(M, "matmat")
    args = (None if python else M, w.scalar(0, alpha), q, r)
    rr[act], rz[act] = _pass("update_residual_many", r, args, act, w)
    if python:
        M.matmat(r, z, act)
        dot_many(r, z, rz, act, w)
        if getattr(M, "varies", False):
            M.ratio = np.ones_like(rz)
            dot_many(q, z, M.ratio, act, w)
            M.ratio[act] *= -alpha[act] / rz[act]


def update_direction_many(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, act: Any, w: ManyWork
) -> None:
    """``x_j += alpha[j] p_j``, ``p_j = z_j + beta[j] p_j`` (an operator's z is that which is stored)."""
    if act.size == 0:
        return
    python = hasattr(M, "matmat")
    beta = beta * M.ratio if getattr(M, "varies", False) else beta
    args = (None if python else M, w.scalar(0, alpha), w.scalar(1, beta), z if python else r, p, x)
    xx[act], pp[act] = _pass("update_direction_many", x, args, act, w)


def restart_many(M: Any, r: Any, z: Any, p: Any, rz: Any, pp: Any, act: Any, w: ManyWork) -> None:
    """``z_j = M r_j``, ``p_j = z_j``; ``rz[j] = r_j'z_j``, ``pp[j] = p_j'p_j``."""
    if act.size == 0:
        return
    python = hasattr(M, "matmat")
    if python:
        M.matmat(r, z, act)
    args = (None if python else M, r, z if python else r, p)
    rz[act], pp[act] = _pass("restart_many", r, args, act, w)
