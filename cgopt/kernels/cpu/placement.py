"""Where the threads of a team run: not on the core of the thread that calls them.

Linux wakes a thread on a core that is idle, if it knows of one. In a virtual machine it may not: the host has taken
the idle core away, and what sleeps is woken on the core of the thread that wakes it. Two threads then take turns on one
core until the balancer parts them, which is milliseconds later, or never where both sleep now and then. So the threads
of a team are told, before they are called, to keep off the core of the thread that calls.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import numpy as np
from numba import prange, types

from .compile import compiled

try:
    _library: Any = ctypes.CDLL(None)
    _current_core = _library.sched_getcpu
    KNOWN = hasattr(_library, "gettid") and hasattr(os, "sched_setaffinity")
except (AttributeError, OSError, TypeError):  # not Linux
    KNOWN = False

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


placement = Placement()
