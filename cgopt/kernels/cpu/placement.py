"""Whether and where the threads of a team run: where a core is free, not on that of the thread that calls them.

Linux wakes a thread on a core that is idle, if it knows of one. In a virtual machine it may not: the host has taken
the idle core away, and what sleeps is woken on the core of the thread that wakes it. Two threads then take turns on one
core until the balancer parts them, which is milliseconds later, or never where both sleep now and then. So the threads
of a team are told, before they are called, to keep off the core of the thread that calls.

And where other programs keep all cores busy, threads that wait for each other lose more than they gain. (Where one core
is left they may: what runs on the others is often a thread of BLAS that spins, and gives way.)
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

import numpy as np
from numba import prange, types

from .compile import compiled, helper
from .meeting import LINE, load, pause, store

try:
    _library: Any = ctypes.CDLL(None)
    _current_core = _library.sched_getcpu
    KNOWN = hasattr(_library, "gettid") and hasattr(os, "sched_setaffinity")
except (AttributeError, OSError, TypeError):  # not Linux
    KNOWN = False
try:
    _LOAD = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
except (AttributeError, OSError):
    _LOAD = -1
AGAIN = 1e-3  # seconds between two looks at what else runs
CORES = os.cpu_count() or 1
RESTLESS = 1e-4  # seconds within which the threads of a team may still look for work
MEASURED = 0.1  # seconds for which a measured distance between cores is believed
ROUNDS, LOST = 40, 20_000  # meetings of such a measurement, and looks after which a thread gives up
# Seconds a meeting takes at most between cores that share a cache: 1e-7 where few cores do, 2e-7 to 3.4e-7 where all of
# a large processor do. Others take 4e-7 to 6e-7.
NEAR, VERY_NEAR = 3.6e-7, 1.6e-7

_gettid = types.ExternalFunction("gettid", types.int32())


def _note_threads(numbers: Any) -> None:
    """Each thread of the team writes its number, by which the operating system knows it."""
    for t in prange(numbers.shape[0]):
        numbers[t] = _gettid()


note_threads = compiled(_note_threads, threaded=True)


class Placement(threading.local):
    """The team of the current thread (OpenMP has one for each thread that calls it), and the core that it keeps off."""

    def __init__(self) -> None:
        self.team: list[int] = []
        self.avoided = -1

    def keep_off(self, threads: int) -> None:
        """Keep the team of `threads`, the calling one among them, off the core that this thread runs on."""
        if not KNOWN:
            return
        core = _current_core()
        if core == self.avoided:
            return
        if not self.team:
            numbers = np.zeros(threads, np.int64)
            note_threads(numbers)
            self.team = sorted(set(numbers.tolist()) - {threading.get_native_id()})
        self.avoided = core
        others = os.sched_getaffinity(0) - {core}
        try:
            for thread in self.team if others else ():
                os.sched_setaffinity(thread, others)
        except OSError:  # that thread has ended, or the system does not allow it: threads run where they are put
            self.team = []


class Crowd:
    """What else wants the machine's cores, by the number of threads that run or could; unknown beside Linux."""

    def __init__(self) -> None:
        self.free, self._next, self._ended = True, 0.0, 0.0

    def leaves_room(self, threads: int) -> bool:
        """Whether other threads leave a core or more; looked at a thousand times a second at the most."""
        now = time.monotonic()
        if _LOAD >= 0 and now >= self._next:
            self._next = now + AGAIN
            own = threads if now - self._ended < RESTLESS else 1
            try:
                runnable = int(os.pread(_LOAD, 64, 0).split()[3].partition(b"/")[0])
            except (OSError, ValueError, IndexError):  # a daemon has closed what it inherited
                runnable = own
            self.free = CORES - (runnable - own) >= 1
        return self.free

    def note_end(self) -> None:
        """A team has just ended its work."""
        self._ended = time.monotonic()


@helper
def keep_meeting(meetings: Any, me: int) -> None:
    """Meet the others many times, unless one does not come: two may have to share a core, one after the other."""
    for count in range(1, ROUNDS + 1):
        store(meetings, me * LINE, count)
        for other in range(meetings.shape[0] // LINE):
            looks = 0
            while load(meetings, other * LINE) < count:
                pause()
                looks += 1
                if looks == LOST:
                    store(meetings, me * LINE, LOST)  # the others need not wait
                    return


def _meet_often(meetings: Any) -> None:
    for t in prange(meetings.shape[0] // LINE):
        keep_meeting(meetings, t)


meet_often = compiled(_meet_often, threaded=True)


class Closeness:
    """Whether the cores that the threads run on are near each other: a virtual machine's may move while it runs.

    Between distant ones what one thread writes takes half a microsecond to come to the other, and passes over a few
    thousand rows, each of which needs what the other wrote in the last, are faster on one core.
    """

    def __init__(self) -> None:
        self._seconds, self._until = 0.0, 0.0

    def near(self, threads: int, light: bool = False) -> bool:
        """Whether they are, or near enough for light work; measured ten times a second at the most."""
        now = time.monotonic()
        if now >= self._until:
            self._seconds, self._until = meeting_seconds(threads), now + MEASURED
        return self._seconds < (VERY_NEAR if light else NEAR)


def meeting_seconds(threads: int) -> float:
    """How long one of many meetings of the threads takes just now, with its share of a parallel region."""
    for _ in range(2):  # the first wakes them
        meetings = np.zeros(threads * LINE, np.int64)
        start = time.perf_counter()
        meet_often(meetings)
        end = time.perf_counter()
    return (end - start) / ROUNDS


placement = Placement()
closeness = Closeness()
crowd = Crowd()
