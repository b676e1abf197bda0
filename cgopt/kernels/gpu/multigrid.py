"""The multigrid cycle on the device, over a hierarchy that was set up on the host.

Each level's matrix is scaled to unit diagonal. The smoother is two steps of Chebyshev's method for the upper part of
the spectrum, before and after the coarse correction alike, which keeps the cycle symmetric; the coarsest level is
multiplied by its inverse. The whole cycle is launches in a fixed order, without a question to the host, and so can be
recorded as part of a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..layouts import CSR, Dense
from .device import blocks_for, c_type, cupy, kernels
from .vectors import matrix_arguments, matrix_options, share

UPPER, SHARE = 1.1, 0.25  # the interval that is smoothed: from a quarter of 1.1 times the largest eigenvalue on
TIMES, MINUS, PLUS = 1, 0, 2  # what `product` makes of base and A x


class Level(NamedTuple):
    """One level: its matrix, how it is smoothed, the transfers to the next level, and vectors to work in."""

    n: int
    A: Any
    theta: float
    a: float
    c: float
    down: Any  # restriction to the next level
    up: Any  # prolongation from it
    x: Any
    b: Any
    r: Any
    d: Any
    e: Any


class Cycle:
    """A V-cycle.

    Parameters
    ----------
    matrices : sequence of CSR
        Of each level but the coarsest, scaled to unit diagonal; host arrays.
    largest : sequence of float
        Bounds of their largest eigenvalues.
    prolongations, restrictions : sequences of CSR
        Between the levels.
    inverse : (m, m) array
        Of the coarsest level's matrix.
    scale : (n,) array
        What residuals are multiplied by before the cycle, and corrections after it.
    """

    def __init__(
        self,
        matrices: Sequence[CSR],
        largest: Sequence[float],
        prolongations: Sequence[CSR],
        restrictions: Sequence[CSR],
        inverse: Any,
        scale: Any,
    ) -> None:
        xp = cupy()
        self.levels: list[Level] = []
        for A, bound, up, down in zip(matrices, largest, prolongations, restrictions, strict=True):
            n = A.indptr.size - 1
            upper = UPPER * bound
            theta, delta = upper * (1.0 + SHARE) / 2.0, upper * (1.0 - SHARE) / 2.0
            sigma = theta / delta
            rho = 1.0 / (2.0 * sigma - 1.0 / sigma)
            vectors = (xp.zeros(n, np.float32) for _ in range(5))
            self.levels.append(
                Level(n, to_device(A), theta, rho / sigma, 2.0 * rho / delta, to_device(down), to_device(up), *vectors)
            )
        self.inverse = Dense(xp.asarray(np.ascontiguousarray(inverse, np.float32)))
        m = self.inverse.values.shape[0]
        self.x, self.b = xp.zeros(m, np.float32), xp.zeros(m, np.float32)
        self.scale = {np.dtype(t): xp.asarray(scale.astype(t)) for t in (np.float32, np.float64)}
        self.sigma = xp.zeros(1, np.float64)
        self.work = share(scale.size)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        held = sum(int(a.nbytes) for level in self.levels for part in (level.A, level.down, level.up) for a in part)
        held += sum(int(v.nbytes) for level in self.levels for v in level[-5:])
        return held + int(self.inverse.values.nbytes) + sum(int(s.nbytes) for s in self.scale.values())

    def apply(self, r: Any, out: Any, factor: float = 1.0) -> None:
        """``out = factor M r``."""
        n, scale, w = np.uint64(r.size), self.scale[r.dtype], self.work
        own = kernels("multigrid", real="float", outer=c_type(r.dtype))
        top_b, top_x = (self.levels[0].b, self.levels[0].x) if self.levels else (self.b, self.x)
        own.launch("range_of", w.blocks, (n, scale, r, self.sigma, w.parts, w.arrived))
        own.launch("into_cycle", w.blocks, (n, self.sigma, scale, r, top_b))
        self._descend(0)
        own.launch("out_of_cycle", w.blocks, (n, self.sigma, np.float64(factor), scale, top_x, out))

    def _descend(self, l: int) -> None:
        """``x = M b`` on a level."""
        if l == len(self.levels):
            self._product(self.inverse, TIMES, None, self.b, self.x)
            return
        level = self.levels[l]
        last = l + 1 == len(self.levels)
        b, x = (self.b, self.x) if last else (self.levels[l + 1].b, self.levels[l + 1].x)
        n, theta = np.uint64(level.n), np.float64(level.theta)
        step = np.float64(level.a), np.float64(level.c)
        matrix = matrix_arguments(level.A)
        self._launch(level.A, "smooth_start", (n, theta, level.b, level.r, level.d, level.x))
        self._launch(level.A, "smooth_step", (n, *matrix, *step, np.int32(0), level.d, level.e, level.r, level.x))
        self._product(level.A, MINUS, level.b, level.x, level.r)  # r = b - A x
        self._product(level.down, TIMES, None, level.r, b)  # b of the next level = P'r
        self._descend(l + 1)
        self._product(level.up, PLUS, level.x, x, level.x)  # x += P x of the next level
        self._launch(level.A, "smooth_again", (n, *matrix, theta, level.b, level.x, level.r, level.d))
        self._launch(level.A, "smooth_step", (n, *matrix, *step, np.int32(1), level.d, level.e, level.r, level.x))

    def _product(self, A: Any, sign: int, base: Any, x: Any, out: Any) -> None:
        self._launch(A, "product", (np.uint64(out.size), *matrix_arguments(A), np.int32(sign), base, x, out))

    def _launch(self, A: Any, name: str, args: tuple[Any, ...]) -> None:
        rows, options = int(args[0]), matrix_options(A)
        kernels("multigrid", real="float", **options).launch(name, blocks_for(rows * options["lanes"]), args)


def to_device(A: CSR) -> CSR:
    """Compressed rows of the host on the device, values in single precision."""
    xp = cupy()
    return CSR(
        xp.asarray(A.indptr.astype(np.uint32)),
        xp.asarray(A.indices.astype(np.uint32)),
        xp.asarray(A.data.astype(np.float32)),
    )
