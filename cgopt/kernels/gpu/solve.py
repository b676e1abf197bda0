"""The loops of conjugate gradients: a launch for a slice of the solve, or launches that the host sends ahead."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from .. import loops
from .device import SHARED_BYTES, c_type, cupy, kernels
from .sources import LOOK
from .vectors import (
    Work,
    launch_apply_dot,
    launch_dot,
    launch_update_direction,
    launch_update_residual,
    launch_weigh,
    matrix_arguments,
    matrix_options,
    residual,
    restart,
    update_residual,
)

AHEAD = 16  # iterations that the host sends before it looks
VECTORS = 6  # of a workspace: r, z, p, q, and two that Chebyshev's polynomial works in


class Polynomial(NamedTuple):
    """Chebyshev's preconditioner as the loop in one launch takes it: see `cgopt.preconditioners.Chebyshev`."""

    inverse: Any
    theta: float
    delta: float
    degree: int


class Slice(NamedTuple):
    """What a loop is given: the arguments of `cgopt.kernels.loops.cg_steps` but for views of complex vectors."""

    A: Any
    E: Any
    M: Any
    b: Any
    x: Any
    V: Any
    s: Any
    log: Any
    first: bool
    steps: int
    last: bool


class Loop:
    """A slice of a solve: arguments and answer as for `cgopt.kernels.loops.cg_steps`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(
        self,
        w: Work,
        A: Any,
        E: Any,
        M: Any,
        b: Any,
        x: Any,
        V: Any,
        xr: Any,
        Vr: Any,
        s: Any,
        log: Any,
        w_: Any,
        wr: Any,
        first: bool,
        steps: int,
        last: bool,
    ) -> tuple[int, int]:
        """Advance by at most `steps` iterations; the code, and the iterations made."""
        return self.advance(w, Slice(A, E, M, b, x, V, s, log, first, steps, last))

    def advance(self, w: Work, given: Slice) -> tuple[int, int]:
        """The same with what a loop here needs."""
        raise NotImplementedError


class PersistentLoop(Loop):
    """A slice of a solve in one cooperative launch."""

    def advance(self, w: Work, given: Slice) -> tuple[int, int]:
        A, _, M, b, x, V, s, log, first, steps, last = given
        n, options = x.size, matrix_options(A)
        group = kernels("cg", cooperative=True, real=c_type(x.dtype), kind=self.kind, **options)
        at_once = group.blocks_at_once("cg_steps", SHARED_BYTES)
        # All blocks must run at once, and each barrier costs time by their number: no more than there is work for.
        blocks = max(1, min(at_once, -(-n * options["lanes"] // group.block)))
        polynomial = M if isinstance(M, Polynomial) else Polynomial(M, 1.0, 0.0, 0)
        room = _room(w, blocks, log.shape[0])
        room.arrived.fill(0)
        w.s[: s.size] = cupy().asarray(s)
        args = (
            np.uint64(n),
            *matrix_arguments(A),
            b,
            x,
            *(V[i] for i in range(VECTORS)),
            polynomial.inverse,
            np.float64(polynomial.theta),
            np.float64(polynomial.delta),
            np.uint32(polynomial.degree),
            w.s,
            room.log,
            room.parts,
            room.arrived,
            np.uint64(steps),
            np.int32(first),
            np.int32(last),
            w.state,
        )
        group.launch("cg_steps", blocks, args)
        code, done = (int(v) for v in w.state.get()[:2])
        s[:] = w.s.get()[: s.size]
        log[:done] = room.log.get()[:done]
        return code, done


class _Room(NamedTuple):
    """What a cooperative launch works in beside the vectors."""

    parts: Any
    arrived: Any
    log: Any


def _room(w: Work, blocks: int, steps: int) -> _Room:
    """Made once for each `Work`."""
    room: _Room | None = w.room
    if room is None or room.parts.size < 6 * blocks or room.log.shape[0] < steps:
        xp = cupy()
        room = _Room(
            xp.zeros(6 * blocks, np.float64), xp.zeros(1, np.uint32), xp.zeros((steps, loops.LOG_COLUMNS), np.float64)
        )
        w.room, w.recording = room, None  # which would write to the room before
    return room


class HostLoop(Loop):
    """A slice of a solve whose operator or preconditioner the host must call.

    The scalars stay on the device. The host sends `AHEAD` iterations without waiting, as a recorded graph where that
    can be made of the operator's launches, and looks at the code afterwards: what was sent beyond the end of the solve
    changed nothing. (The number grows with the iterations made, so that at most a quarter more products are sent than
    the solve needed.) Events that call for the true residual come back to the host, which judges them by
    `cgopt.kernels.loops.judge`.
    """

    def advance(self, w: Work, given: Slice) -> tuple[int, int]:
        A, E, M, b, x, V, s, log, first, steps, last = given
        r, z, p, own = V[0], V[1], V[2], V[4]
        if first:
            w.recording = None
            s[loops.RZ], s[loops.PP] = restart(M, r, z, p, w)  # z = M r,  p = z,  r'z,  p'p
            if s[loops.RZ0] == 0.0:
                s[loops.RZ0] = s[loops.RZ]
            if not 0.0 < s[loops.RZ] < float("inf"):
                return loops.product_code(s[loops.RZ]), 0
        own[...] = x  # where a recording finds it in every slice
        code, done = self._advance(w, A, E, M, b, own, V, s, log, steps)
        if code == loops.RUNNING and last:
            s[loops.RR] = residual(E, b, s[loops.SCALE], own, r, w)  # r = b - A x,  r'r
            code = loops.MAXITER
        x[...] = own
        return code, done

    def _advance(
        self, w: Work, A: Any, E: Any, M: Any, b: Any, x: Any, V: Any, s: Any, log: Any, steps: int
    ) -> tuple[int, int]:
        r, z, p, q = (V[i] for i in range(4))
        room, done = _room(w, 1, log.shape[0]), 0
        while done < steps:
            begun, code, event = done, loops.RUNNING, loops.NOTHING
            w.s[: s.size] = cupy().asarray(s)
            w.state.set(np.array([code, done, event, steps], np.int32))
            while code == loops.RUNNING:
                ahead = min(AHEAD, 1 + done // 4, steps - done)  # so that not many are wasted
                w.send(functools.partial(_iterations, A, M, V, x, room.log, w, ahead), ahead == AHEAD, A, M)
                code, done, event, _ = (int(v) for v in w.state.get())
            s[:] = w.s.get()[: s.size]
            log[begun:done] = room.log[begun:done].get()
            if code != LOOK:
                return code, done
            if event != loops.NOTHING:
                true = residual(E, b, s[loops.SCALE], x, r, w)  # r = b - A x,  r'r
                code, again = loops.judge(true, event, s)
                log[done - 1, loops.LOG_RR] = true
                if code != loops.RUNNING:
                    return code, done
                if again:
                    s[loops.RZ], s[loops.PP] = restart(M, r, z, p, w)  # z = M r,  p = z,  r'z,  p'p
                    log[done - 1, loops.LOG_BETA] = 0.0
                else:
                    s[loops.RR], s[loops.RZ] = update_residual(M, 0.0, q, r, z, w)  # z = M r;  p is kept
                log[done - 1, loops.LOG_RZ] = s[loops.RZ]
                if not 0.0 < s[loops.RZ] < float("inf"):
                    return loops.product_code(s[loops.RZ]), done
        return loops.RUNNING, done


def _iterations(A: Any, M: Any, V: Any, x: Any, log: Any, w: Work, count: int) -> None:
    """Launch so many iterations."""
    r, z, p, q = (V[i] for i in range(4))
    python = hasattr(M, "matvec")
    for _ in range(count):
        if hasattr(A, "matvec"):
            A.matvec(p, out=q)
            launch_dot(p, q, w, alone=False)  # p'q,  alpha = r'z / p'Ap
        else:
            launch_apply_dot(A, p, q, w, alone=False)  # q = A p,  p'q,  alpha
        launch_update_residual(None if python else M, q, r, w, alone=False)  # r -= alpha q,  r'r,  r'z,  beta
        if python:
            M.matvec(r, out=z)
            launch_weigh(r, z, q, getattr(M, "varies", False), w, alone=False)  # r'z,  beta = r'z / (r'z before)
        # x += alpha p,  p = z + beta p,  x'x,  p'p
        launch_update_direction(None if python else M, z if python else r, p, x, log, w, alone=False)
