"""Threads: how many, who may use them, and how rows are shared out.

A solve is cut into as many chunks of rows as there are threads (one if it is small). Whether the chunks then run
on threads or one after the other changes no sum, so each case where threads would be wrong simply runs serial:
in a forked child (OpenMP terminates it), while another solve of this process has the threads (two teams on the same
cores slow each other down, and numba's portable thread pool aborts on concurrent calls), and while other programs keep
all cores busy.
"""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.np.ufunc.parallel import _launch_threads

from ..layouts import HalfCSR, Work
from .meeting import LINE
from .placement import closeness, crowd, meeting_seconds, placement

SMALL = 60_000  # entries plus 4 times rows below which a thread's start costs more than it saves
HEAVY = 4_000_000  # and from which on threads gain whatever the distance of their cores
LIGHT = 16_000  # and below which it would even with threads that wait already, on cores that share a cache
ALIGN = 64  # chunks start at multiples of this: whole cache lines, whole windows of `SortedCSR`
SUMS = 8  # partial sums per chunk: one cache line
NO_SPILL = np.zeros((1, 0))
SPINS = 1000  # looks that a thread takes before it sleeps: some 40 microseconds

_threads: int | None = None
_forked = False
_started = False
_team = threading.Lock()


def _after_fork() -> None:
    global _forked, _team
    _forked, _team = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(threads: int) -> None:
    """Set the number of threads that solvers prepared from now on use.

    Parameters
    ----------
    threads : int
        At least 1. The number fixes the order of sums, so results are the same bits for the same number.

    Raises
    ------
    ValueError
        If `threads` is less than 1 or more than numba was started with (``NUMBA_NUM_THREADS``).

    Examples
    --------
    >>> import cgopt
    >>> cgopt.set_num_threads(1)
    >>> cgopt.get_num_threads()
    1
    >>> cgopt.set_num_threads(cgopt.max_num_threads())
    """
    global _threads
    most = max_num_threads()
    if not isinstance(threads, (int, np.integer)) or isinstance(threads, bool) or not 1 <= threads <= most:
        raise ValueError(
            f"threads must be a whole number from 1 to {most}, got {threads!r}; the upper limit is the number of "
            "cores, or NUMBA_NUM_THREADS where that was set before the start"
        )
    _threads = int(threads)


def get_num_threads() -> int:
    """Number of threads that a solver prepared now would use."""
    return max_num_threads() if _threads is None else _threads


def max_num_threads() -> int:
    """Largest number that `set_num_threads` takes."""
    return int(numba.config.NUMBA_NUM_THREADS)


def share_rows(n: int, entries: int, indptr: Any = None, columns: int = 1, threads: int | None = None) -> Work:
    """Cut n rows into chunks of equal work.

    Parameters
    ----------
    n, entries : int
        Rows and stored entries of the matrix.
    indptr : array, optional
        Row pointers: chunks then have equal numbers of entries, a row counting as six.
    columns : int
        Right-hand sides.
    threads : int, optional
        By default what `get_num_threads` says.
    """
    weight = (entries + 4 * n) * columns
    parts = _parts(n, weight, threads)
    if parts == 1:
        return Work(np.array((0, n)), np.zeros((1, max(SUMS, 2 * columns))), NO_SPILL)
    places = [t * n // parts for t in range(1, parts)]
    if indptr is not None:
        total = float(indptr[n]) + 6.0 * n
        places = [_first_row(indptr, n, total * t / parts) for t in range(1, parts)]
    bounds = np.array([0, *(place - place % ALIGN for place in places), n])
    sums = np.zeros((parts, max(SUMS, 2 * columns)))
    return Work(bounds, sums, np.zeros((parts, 0)), meetings=places_to_meet(parts), weight=weight)


def _first_row(indptr: Any, n: int, work: float) -> int:
    """The first row, of those that chunks may begin with, before which there is so much work; by bisection."""
    rows = range(0, n + 1, ALIGN)
    place = bisect.bisect_left(rows, work, key=lambda row: float(indptr[row]) + 6.0 * row)
    return rows[min(place, len(rows) - 1)]


def share_triangle(n: int, dtype: Any, threads: int | None = None) -> Work:
    """Cut the n rows of a lower triangle into chunks of equal work, with room for what each adds to other rows.

    Parameters
    ----------
    n : int
    dtype : dtype
        Of the vectors.
    threads : int, optional
        By default what `get_num_threads` says.
    """
    weight = n * n // 8  # entries that vector instructions take eight at a time
    parts = _parts(n, weight, threads)
    bounds = (n * np.sqrt(np.arange(parts + 1) / parts)).astype(np.int64)
    bounds[1:-1] -= bounds[1:-1] % ALIGN
    spill = np.zeros((parts, n if parts > 1 else 0), dtype)
    return Work(bounds, np.zeros((parts, SUMS)), spill, meetings=places_to_meet(parts), weight=weight)


def share_half(A: HalfCSR, dtype: Any, threads: int | None = None) -> Work:
    """Cut the rows of a lower triangle into chunks of equal work, with room for what each adds to rows before its own.

    Parameters
    ----------
    A : HalfCSR
    dtype : dtype
        Of the vectors.
    threads : int, optional
        By default what `get_num_threads` says.
    """
    n = A.diagonal.shape[0]
    work = share_rows(n, 2 * A.data.size, A.indptr, threads=threads)
    reach = back_reach(A.indptr, A.indices, work.bounds)
    return work._replace(spill=np.zeros((work.sums.shape[0], reach), dtype))


def places_to_meet(parts: int) -> Any:
    """Where a team meets: a place for each thread, and one for how it gathers, all on lines of their own."""
    room = np.zeros((parts + 2) * LINE, np.int64)
    first = -(room.__array_interface__["data"][0] // 8) % LINE
    return room[first : first + (parts + 1) * LINE]


def back_reach(indptr: Any, indices: Any, bounds: Any) -> int:
    """How far, in columns that rise in each row, chunks reach back over the rows before their own."""
    reach = 0
    for low, high in itertools.pairwise(bounds[1:]):
        starts = indptr[low:high][indptr[low:high] < indptr[low + 1 : high + 1]]
        reach = max(reach, int(low) - int(indices[starts].min(initial=low)))
    return reach


def _parts(n: int, work: int, threads: int | None) -> int:
    """Into how many chunks to cut n rows with a number of entries to go over."""
    parts = (threads or get_num_threads()) if work >= LIGHT else 1
    return max(1, min(parts, n // ALIGN))


def _start_team() -> None:
    """Start numba's threads, such that those with nothing to do spin for some microseconds and then sleep.

    By default GNU's OpenMP spins for milliseconds, and where another program wants the core, the pass that everybody
    waits for does not get it: 35 ms an iteration became 0.7 ms (10^5 unknowns, two cores, two other busy processes).
    Threads that sleep at once take longer to wake than a pass takes, where a virtual machine gives idle cores away; two
    that wait for each other then never catch up. What they spin has to outlast a wake (docs/performance.md has the
    times). The library reads the variables once, when it is loaded; what the user has set stays.
    """
    global _started
    _started = True
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SPINS)}
    if not wanted.keys() & os.environ.keys():
        os.environ.update(wanted)
    else:
        wanted = {}
    try:
        _launch_threads()
    finally:
        for name in wanted:
            del os.environ[name]


def distance() -> float:
    """Seconds that all threads take to meet: how far from each other the cores are that they run on now."""
    if not _started:
        _start_team()
    placement.keep_off(max_num_threads())
    return meeting_seconds(max_num_threads())


def run(kernel: tuple[Any, Any], w: Work, *args: Any, apart: Callable[..., Any] | None = None) -> Any:
    """Call a (serial, threaded) kernel in the form that is right just now.

    Parameters
    ----------
    kernel : (callable, callable)
    w : Work
        What tells how much there is to do.
    *args
        Of the kernel.
    apart : callable, optional
        For a kernel of many passes, which is worth threads for less: what to call in its place where cores lie far
        apart, as ``apart(kernel, *args)``.
    """
    if w.sums.shape[0] == 1 or _forked or (w.weight < SMALL and apart is None) or not _team.acquire(blocking=False):
        return kernel[0](*args)
    try:
        threads = max_num_threads()
        if not crowd.leaves_room(threads):
            return kernel[0](*args)
        if not _started:
            _start_team()
        placement.keep_off(threads)
        if apart is not None and w.weight < HEAVY and not closeness.near(threads, light=w.weight < SMALL):
            out = apart(kernel, *args)
        else:
            out = kernel[1](*args)
        crowd.note_end()
        return out
    finally:
        _team.release()
