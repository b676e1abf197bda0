"""The primitives of one right-hand side: launches, and the two sums that come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import loops
from ..layouts import CSR, DIA, Dense
from .device import Kernels, blocks_for, c_type, cupy, current, kernels

STATE = 4  # code, iterations, event, iterations allowed
# Places behind a solve's scalars (steps.cu).
ALPHA, BETA = loops.SCALARS, loops.SCALARS + 1
MORE_SCALARS = 4


class Work:
    """What launches for vectors of length n work in.

    Attributes
    ----------
    blocks : int
        Of a launch: the size of the grid, which fixes the order of every sum.
    parts, arrived
        Partial sums of the blocks, and the counter of those that have come so far.
    sums : (2,) float64
    s : (SCALARS + 4,) float64
    state : (4,) int32
    """

    def __init__(self, n: int) -> None:
        xp = cupy()
        self.n, self.blocks = n, blocks_for(n)
        self.parts = xp.zeros(2 * self.blocks, np.float64)
        self.arrived = xp.zeros(1, np.uint32)
        self.sums = xp.zeros(2, np.float64)
        self.s = xp.zeros(loops.SCALARS + MORE_SCALARS, np.float64)
        self.state = xp.zeros(STATE, np.int32)

        self.recording: Any = None  # of launches that are sent again and again: None, then "sent once", then it
        self.room: Any = None  # of a solve

    def send(self, launches: Callable[[], None], again: bool, *parts: Any) -> None:
        """Send launches, by a graph of them if they come `again` and all `parts` allow that.

        The first time they are sent as they are, which compiles what is not compiled yet; the second time they are
        recorded, and the recording is what is sent from then on.
        """
        if not again or not may_record(*parts) or self.recording == REFUSED:
            launches()
        elif self.recording is None:
            self.recording = SENT_ONCE
            launches()
        else:
            if self.recording == SENT_ONCE:
                self.recording = record(launches)
            if self.recording == REFUSED:
                launches()
            else:
                self.recording[0].launch()

    def answer(self) -> tuple[float, float]:
        """The sums of the last launch; waits for it."""
        a, b = self.sums.get()
        return float(a), float(b)


SENT_ONCE, REFUSED = "sent once", "refused"


def may_record(*parts: Any) -> bool:
    """Whether the launches of operators can be recorded: all that are Python say so, by `capturable`."""
    return all(getattr(part, "capturable", not hasattr(part, "matvec")) for part in parts)


def record(launches: Callable[[], None]) -> Any:
    """A graph of the launches and the memory that it works in, or REFUSED if they cannot be recorded."""
    cuda = cupy().cuda
    pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
    cuda.get_current_stream().synchronize()
    try:
        with cuda.using_allocator(pool.malloc), stream:
            stream.begin_capture()
            try:
                launches()
            finally:
                graph = stream.end_capture()
    except (RuntimeError, NotImplementedError):  # something that no graph can hold, such as a copy to the host
        return REFUSED
    return graph, pool


def share(n: int) -> Work:
    """Work for vectors of length n."""
    return Work(n)


def lanes_for(A: Any) -> int:
    """Threads that share a row: as many as its entries keep busy, a warp at the most."""
    warp = current().warp
    if isinstance(A, DIA):
        return 1  # neighbouring rows' entries are neighbours
    mean = A.values.shape[0] if isinstance(A, Dense) else A.data.size / max(1, A.indptr.size - 1)
    lanes = 1
    while lanes < warp and 3 * lanes <= 2 * mean:  # 5 entries: 4 threads, 7: 8, 20: 16
        lanes *= 2
    return lanes


def matrix_options(A: Any) -> dict[str, Any]:
    """How kernels for a layout are built."""
    name = {CSR: "csr", DIA: "dia", Dense: "dense"}[type(A)]
    return {"layout": name, "lanes": lanes_for(A), "value": c_type(A[-1].dtype)}


def matrix_arguments(A: Any) -> tuple[Any, ...]:
    """A layout as kernels take it (MATRIX_PARAMETERS in matrix.cuh)."""
    if isinstance(A, CSR):
        return tuple(A)
    if isinstance(A, DIA):
        return A.offsets, A.data, np.uint64(A.offsets.size)
    return A.values, np.uint64(A.values.shape[1])


def _steps(x: Any, A: Any = None) -> Kernels:
    options = {} if A is None else matrix_options(A)
    return kernels("steps", real=c_type(x.dtype), **options)


def _run(name: str, w: Work, x: Any, *args: Any, A: Any = None) -> tuple[float, float]:
    _steps(x, A).launch(name, w.blocks, (np.uint64(x.size), *args, w.sums, w.parts, w.arrived))
    return w.answer()


def dot(a: Any, b: Any, w: Work) -> float:
    """``a'b``."""
    launch_dot(a, b, w, alone=True)
    return w.answer()[0]


def launch_dot(p: Any, q: Any, w: Work, alone: bool) -> None:
    """``p'q``, and after it what the solve concludes from it, if it is not `alone`."""
    args = (np.uint64(p.size), p, q, w.s, w.state, w.sums, w.parts, w.arrived, np.int32(alone))
    _steps(p).launch("dot", w.blocks, args)


def launch_apply_dot(A: Any, p: Any, q: Any, w: Work, alone: bool) -> None:
    """``q = A p``, ``p'q``, and what is concluded from it."""
    args = (*matrix_arguments(A), p, q, w.s, w.state, w.sums, w.parts, w.arrived, np.int32(alone))
    _steps(p, A).launch("apply_dot", w.blocks, (np.uint64(p.size), *args))


def launch_update_residual(inverse: Any, q: Any, r: Any, w: Work, alone: bool) -> None:
    """``r -= alpha q``, ``r'r``, ``r'z``; alpha is on the device."""
    args = (np.uint64(r.size), inverse, q, r, w.s, w.state, w.sums, w.parts, w.arrived, np.int32(alone))
    _steps(r).launch("update_residual", w.blocks, args)


def launch_weigh(r: Any, z: Any, q: Any, varies: bool, w: Work, alone: bool) -> None:
    """``r'z`` (and ``q'z`` where M varies), and beta."""
    args = (np.uint64(r.size), r, z, q, np.int32(varies), w.s, w.state, w.sums, w.parts, w.arrived, np.int32(alone))
    _steps(r).launch("weigh", w.blocks, args)


def launch_update_direction(inverse: Any, z: Any, p: Any, x: Any, log: Any, w: Work, alone: bool) -> None:
    """``x += alpha p``, ``p = z + beta p``, and the end of the iteration; alpha and beta are on the device."""
    args = (np.uint64(x.size), inverse, z, p, x, w.s, w.state, log, w.sums, w.parts, w.arrived, np.int32(alone))
    _steps(x).launch("update_direction", w.blocks, args)


def apply_dot(A: Any, p: Any, q: Any, w: Work) -> float:
    """``q = A p``; returns ``p'q``."""
    if hasattr(A, "matvec"):
        A.matvec(p, out=q)
        return dot(p, q, w)
    launch_apply_dot(A, p, q, w, alone=True)
    return w.answer()[0]


def residual(A: Any, b: Any, scale: float, x: Any, r: Any, w: Work) -> float:
    """``r = scale b - A x``; returns ``r'r``."""
    if hasattr(A, "matvec"):
        A.matvec(x, out=r)
        return _run("residual_from", w, x, b, np.float64(scale), r, r)[0]
    return _run("residual", w, x, *matrix_arguments(A), b, np.float64(scale), x, r, A=A)[0]


def _diagonal(M: Any, r: Any, z: Any) -> tuple[Any, Any]:
    """The inverse diagonal (or None) and what it multiplies, for ``z = M r``; an operator's product is made here."""
    if M is None or not hasattr(M, "matvec"):
        return M, r
    M.matvec(r, out=z)
    return None, z


def update_residual(M: Any, alpha: float, q: Any, r: Any, z: Any, w: Work) -> tuple[float, float]:
    """``r -= alpha q``, ``z = M r``; returns ``r'r``, ``r'z``."""
    w.s[ALPHA] = alpha
    python = hasattr(M, "matvec")
    launch_update_residual(None if python else M, q, r, w, alone=True)
    rr, rz = w.answer()
    if python:
        M.matvec(r, out=z)
        rz = dot(r, z, w)
    return rr, rz


def update_direction(M: Any, alpha: float, beta: float, r: Any, z: Any, p: Any, x: Any, w: Work) -> tuple[float, float]:
    """``x += alpha p``, ``p = z + beta p`` (an operator's z is that which is stored); returns ``x'x``, ``p'p``."""
    w.s[ALPHA] = alpha
    w.s[BETA] = beta
    python = hasattr(M, "matvec")
    launch_update_direction(None if python else M, z if python else r, p, x, None, w, alone=True)
    return w.answer()


def restart(M: Any, r: Any, z: Any, p: Any, w: Work) -> tuple[float, float]:
    """``z = M r``, ``p = z``; returns ``r'z``, ``p'p``."""
    inverse, source = _diagonal(M, r, z)
    return _run("restart", w, r, inverse, r, source, p)
