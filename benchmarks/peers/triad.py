"""The memory triad a = b + s c, the yardstick for achieved bandwidth.

Traffic per fp64 element: read b (8 bytes), read c (8), write a (8), and read a's line before it is written
(8, write-allocate): 32 bytes. STREAM counts 24; cgopt's own byte counts include write-allocate, so this one
does too.
"""

from __future__ import annotations

import time

import numba
import numpy as np
from numpy.typing import NDArray

BYTES_PER_ELEMENT = 32


@numba.njit(parallel=True, cache=True)
def _triad(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], s: float) -> None:
    # prange indices are unsigned: no wrap-around test for negative ones, so that the loop vectorises.
    for i in numba.prange(a.size):
        a[i] = b[i] + s * c[i]


class Triad:
    """A triad over three vectors, much larger together than the last-level cache.

    Parameters
    ----------
    size : int
        Elements per vector; 8 * 10^6 make 192 MB in all.
    threads : int
        Numba threads.
    """

    def __init__(self, size: int = 8_000_000, threads: int = 2) -> None:
        self.size = size
        self.threads = threads
        self._a, self._b, self._c = np.zeros(size), np.full(size, 1.0), np.full(size, 2.0)

    def bandwidth(self, passes: int = 10) -> float:
        """Bytes per second over `passes` passes."""
        before = numba.get_num_threads()
        numba.set_num_threads(min(self.threads, numba.config.NUMBA_NUM_THREADS))
        try:
            start = time.perf_counter()
            for _ in range(passes):
                _triad(self._a, self._b, self._c, 3.0)
            seconds = time.perf_counter() - start
        finally:
            numba.set_num_threads(before)
        return BYTES_PER_ELEMENT * self.size * passes / seconds
