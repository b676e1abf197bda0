"""Where threads of a team wait for each other inside compiled code.

Every thread of a team runs the same loop on the same scalars, each on its own chunk of the rows. After each pass they
meet: a thread counts up in a cache line of its own, and looks at the others' until they have counted as far. Between
cores that share a cache this takes a twentieth of a microsecond, where starting and ending a parallel region takes one
to three.

The counts are stored with release and loaded with acquire semantics: what a thread wrote before it came, the others see
after they have left. (Stores to plain arrays would do on x86, and only there.)
"""

from __future__ import annotations

import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import helper

LINE = 16  # places between two threads' counts: two cache lines, since processors fetch pairs of them
SPINS = 4000  # looks, some 50 microseconds, before the core is offered to other programs

_PAUSES = {"x86_64": "llvm.x86.sse2.pause", "AMD64": "llvm.x86.sse2.pause", "aarch64": "llvm.aarch64.hint"}
_pause = _PAUSES.get("aarch64" if platform.machine() == "arm64" else platform.machine(), "")
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def _place(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to an element of a contiguous array of 64-bit integers."""
    data = context.make_array(array_type)(context, builder, array)
    shape, strides = cgutils.unpack_tuple(builder, data.shape, 1), cgutils.unpack_tuple(builder, data.strides, 1)
    return cgutils.get_item_pointer2(context, builder, data.data, shape, strides, "C", [index])


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """``array[index]``, with all that was written before it was stored."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature.args[0], *args), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value``, after all that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _place(context, builder, signature.args[0], *args[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] += value`` in one; returns what was there."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], *args[:2])
        return builder.atomic_rmw("add", place, args[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the processor that the thread is waiting."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        hint = [ir.IntType(32)] if _pause.endswith("hint") else []
        if _pause:
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), hint), _pause)
            builder.call(function, [ir.Constant(kind, 1) for kind in hint])  # (hint 1 is yield)
        return context.get_dummy_value()

    return types.void(), codegen


def _offer() -> None:
    """Offer the core to other programs."""
    _sched_yield()


def _keep() -> None:
    """Keep the core: Windows has no such call."""


offer = helper(_keep if sys.platform == "win32" else _offer)


@helper
def rest(looks: int) -> None:
    """Between two looks of a thread that waits; after many of them the core is offered to others.

    A thread that sleeps instead may be woken on the core of the thread that it waits for.
    """
    pause()
    if looks > SPINS:
        offer()


@helper
def meet(w: Any) -> None:
    """Wait until all threads of the team have come here; at once for a thread that works alone."""
    me = w.own
    if me >= 0:
        meetings = w.meetings
        count = load(meetings, me * LINE) + 1
        store(meetings, me * LINE, count)
        for other in range(w.sums.shape[0]):
            looks = 0
            while load(meetings, other * LINE) < count:
                looks += 1
                rest(looks)


@helper
def owned(w: Any) -> Any:
    """The chunks that a thread works on, from the first to before the last: one in a team, and all if it is alone."""
    if w.own >= 0:
        return w.own, w.own + 1
    return 0, w.sums.shape[0]
