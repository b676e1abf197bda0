"""A whole loop on threads: each runs the loop's own text on its chunk of the rows.

The loop is compiled once, as it runs on one thread. A team calls that same machine code, by its address, from as many
threads as there are chunks, each with a `Work` that says which chunk is its own; the kernels in it then meet (see
`meeting`) where sums are added up. All threads compute the same scalars from the same sums, and so take the same turns;
only the first thread's are kept. The bits are those of one thread, which is the same code with all chunks.

Nobody waits for a thread to wake up: the first that comes begins alone, iteration by iteration, and takes the others in
when all are there. If they come too late, or one after the other, it has done the work without them.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import numba
import numpy as np
from numba import prange, types
from numba._dispatcher import compute_fingerprint
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from .. import loops
from ..layouts import Work
from .compile import compiled, inline
from .meeting import LINE, fetch_add, load, pause, rest, store
from .threads import SMALL

# Places in the last line of a Work's meetings: who is here, whether to begin, and where; for cores that lie apart the
# nanoseconds of an iteration alone and together, and until when they are believed.
ARRIVED, GO, AT, ALONE, TOGETHER, UNTIL = range(6)
TRIED, BELIEVED = 5, 200_000_000  # iterations to measure these with, and nanoseconds
GRACE = 200  # looks, two microseconds, that the first thread gives the others
RESULT = types.UniTuple(types.int64, 2)  # of a loop: code, iterations made
MISMATCH = -1


def _digest(kinds: Any) -> int:
    return zlib.crc32(repr(tuple(kinds)).encode())


def _call(context: Any, builder: Any, address: Any, result: Any, kinds: Any, values: Any) -> Any:
    """Code that calls compiled code by its address. (What is called here does not raise.)"""
    function = builder.inttoptr(address, context.call_conv.get_function_type(result, kinds).as_pointer())
    return context.call_conv.call_function(builder, function, result, kinds, values)[1]


@intrinsic
def call_loop(typingctx: Any, address: Any, digest: Any, arguments: Any) -> Any:
    """Call a compiled loop, if `digest` is that of the types of the arguments, a tuple."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args[2].types
        out = cgutils.alloca_once_value(builder, context.get_constant_generic(builder, RESULT, (MISMATCH, 0)))
        known = builder.icmp_signed("==", args[1], context.get_constant(types.int64, _digest(kinds)))
        with builder.if_then(known):
            values = cgutils.unpack_tuple(builder, args[2], len(kinds))
            builder.store(_call(context, builder, args[0], RESULT, kinds, values), out)
        return builder.load(out)

    return RESULT(address, types.int64, arguments), codegen


@intrinsic
def pointer_to(typingctx: Any, digest: Any, arguments: Any) -> Any:
    """Where a copy of a tuple lies until the caller returns; 0 if `digest` is not that of its types."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[1]
        place = cgutils.alloca_once_value(builder, args[1])
        known = builder.icmp_signed("==", args[0], context.get_constant(types.int64, _digest(kind.types)))
        address = builder.ptrtoint(place, context.get_value_type(types.int64))
        return builder.select(known, address, context.get_constant(types.int64, 0))

    return types.int64(types.int64, arguments), codegen


@intrinsic
def what_is_at(typingctx: Any, pointer: Any) -> Any:
    """The tuple there. (Numba's own way, ``pointer[0]``, knows no truth values in tuples.)"""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.return_type
        place = builder.bitcast(args[0], context.get_value_type(kind).as_pointer())
        return impl_ret_borrowed(context, builder, kind, builder.load(place))

    return pointer.dtype(pointer), codegen


@intrinsic
def call_part(typingctx: Any, address: Any, pointer: Any) -> Any:
    """Call what a thread does, with the place of its arguments."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[1], context.get_value_type(types.voidptr))
        return _call(context, builder, args[0], types.int64, (types.voidptr,), (place,))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def call_launch(typingctx: Any, launch: Any, part: Any, pointer: Any, parts: Any) -> Any:
    """Call `launch`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(context, builder, args[0], types.int64, (types.int64,) * 3, args[1:])

    return types.int64(*(types.int64,) * 4), codegen


def _launch(part: int, pointer: int, parts: int) -> int:
    """Have `parts` threads do their part.

    This alone is a parallel region, and it knows of no types: Numba takes seconds for regions that do.
    """
    for _ in prange(parts):
        call_part(part, pointer)
    return 0


launch = compiled(_launch, threaded=True)


@inline
def seen_by(w: Any, own: Any) -> Any:
    """The shares as a thread sees them whose own chunk is `own`, -1 for all."""
    return Work(w.bounds, w.sums, w.spill, own, w.meetings, w.weight)


def _take_part(arguments: Any) -> int:
    """What each thread of a team does with a loop of `cgopt.kernels.loops`.

    Parameters
    ----------
    arguments : pointer to a tuple
        Address of the compiled loop and digest of its types; ``(2,)`` room for its result, ``(parts, SCALARS)`` and
        ``(parts, >= steps, LOG_COLUMNS)`` for scalars and logs of the threads that come after the first; and the
        loop's own arguments.
    """
    given = what_is_at(arguments)
    address, digest, ends, scalars, logs, A, E, M, b, x, V, xr, Vr, s, log, w, wr, first, steps, last = given
    parts = w.sums.shape[0]
    meetings = w.meetings
    gate = parts * LINE
    me = fetch_add(meetings, gate + ARRIVED, 1)
    mine = s if me == 0 else scalars[me]
    record = log if me == 0 else logs[me]
    k = 0
    code = loops.RUNNING
    looks = 0
    if me == 0:
        while looks < GRACE and load(meetings, gate + ARRIVED) < parts:
            pause()
            looks += 1
    else:
        while load(meetings, gate + GO) == 0:
            looks += 1
            rest(looks)
        k = meetings[gate + AT]  # all steps if there is nothing left to do
    together = False
    while code == loops.RUNNING and k < steps and not together:
        together = me > 0 or load(meetings, gate + ARRIVED) == parts
        if me == 0 and together:
            for other in range(1, parts):
                for i in range(s.shape[0]):
                    scalars[other, i] = s[i]
            meetings[gate + AT] = k
            store(meetings, gate + GO, 1)
        count = steps - k if together else 1
        begun = first and k == 0
        ended = last and k + count == steps
        w_own = seen_by(w, me if together else -1)
        wr_own = seen_by(wr, me if together else -1)
        code, done = call_loop(
            address, digest, (A, E, M, b, x, V, xr, Vr, mine, record[k:], w_own, wr_own, begun, count, ended)
        )
        k += done
    if me == 0:
        if not together:
            meetings[gate + AT] = steps
            store(meetings, gate + GO, 1)
        ends[0] = code
        ends[1] = k
    return 0


def _gather(  # type: ignore[no-untyped-def]
    start, part, given, loop, digest, ends, scalars, logs, A, E, M, b, x, V, xr, Vr, s, log, w, wr, first, steps, last
):
    """What a loop does, by a team: gives its threads their part. Arguments as in `Team._look_up` and `_take_part`."""
    parts = w.sums.shape[0]
    for i in range(parts * LINE + AT + 1):
        w.meetings[i] = 0
    pointer = pointer_to(
        given,
        (loop, digest, ends, scalars, logs, A, E, M, b, x, V, xr, Vr, s, log, w, wr, first, steps, last),
    )
    if pointer == 0:
        return MISMATCH, 0
    call_launch(start, part, pointer, parts)
    return ends[0], ends[1]


def slice_of(args: tuple[Any, ...], done: int, count: int) -> tuple[Any, ...]:
    """The arguments of a loop for `count` of its steps, of which `done` are made."""
    *head, log, w, wr, first, steps, last = args
    return (*head, log[done:], w, wr, first and done == 0, count, last and done + count == steps)


def faster(forms: tuple[Any, Any], *args: Any) -> Any:
    """A loop in the faster of its forms, (alone, together), for cores that lie far apart.

    There vectors take their time from one to the other; whether that costs more than a second thread gains depends on
    the matrix: how long its rows are, how many of them need what the other thread wrote. So it is tried.
    """
    log, w, steps = args[9], args[10], args[13]
    known = w.meetings[w.sums.shape[0] * LINE :]
    k, code = 0, loops.RUNNING
    if time.perf_counter_ns() >= known[UNTIL] and 4 * TRIED <= steps <= log.shape[0]:
        for form, place in zip(forms, (ALONE, TOGETHER), strict=True):
            start = time.perf_counter_ns()
            code, done = form(*slice_of(args, k, TRIED))
            known[place] = (time.perf_counter_ns() - start) // max(done, 1)
            k += done
            if code != loops.RUNNING:
                return code, k
        known[UNTIL] = time.perf_counter_ns() + BELIEVED
    if known[ALONE] > 0 and known[TOGETHER] > 0:
        together = bool(known[TOGETHER] < known[ALONE])
    else:
        together = w.weight >= SMALL
    code, done = forms[together](*(slice_of(args, k, steps - k) if k else args))
    return code, k + done


class Team:
    """The threaded form of a loop.

    Parameters
    ----------
    loop : compiled function
        The loop as it runs on one thread.
    name : str
        Its name.
    """

    def __init__(self, loop: Any, name: str) -> None:
        self._loop = loop
        self._part = compiled(loops.bind(_take_part, f"part_{name}", {}), threaded=False)
        self._gather = compiled(loops.bind(_gather, f"gather_{name}", {}), threaded=False)
        self._known: dict[bytes, tuple[int, ...]] = {}

    def __call__(self, *args: Any) -> Any:
        fingerprint = compute_fingerprint(args)
        log, w, steps = args[9], args[10], args[13]
        parts = w.sums.shape[0]
        room = np.empty(2, np.int64), np.empty((parts, loops.SCALARS)), np.empty((parts, steps, log.shape[1]))
        found = self._known.get(fingerprint)
        if found is None:
            found = self._known[fingerprint] = self._look_up(room, args)
        code, done = self._gather(*found, *room, *args)
        if code == MISMATCH:
            raise TypeError("a team's loop was compiled for other types than it is called with")
        return code, done

    def _look_up(self, room: Any, args: Any) -> tuple[int, ...]:
        """Addresses of the launch, the threads' part and the loop; digests of the types of the latter two."""
        kinds = tuple(numba.typeof(value) for value in args)
        given = types.Tuple((types.int64, types.int64, *(numba.typeof(value) for value in room), *kinds))
        loop, digest = compiled_for(self._loop, kinds, RESULT)
        part, _ = compiled_for(self._part, (types.CPointer(given),), types.int64)
        start, _ = compiled_for(launch, (types.int64,) * 3, types.int64)
        return start, part, _digest(given.types), loop, digest


def compiled_for(kernel: Any, kinds: Any, result: Any) -> tuple[int, int]:
    """Address of a kernel compiled for arguments of some types, and the digest of these."""
    kernel.compile(kinds)
    made = kernel.overloads[kinds]
    if types.unliteral(made.signature.return_type) != result:
        raise TypeError(f"{kernel.py_func.__name__} returns {made.signature.return_type}, not {result}")
    return made.library.get_pointer_to_function(made.fndesc.llvm_func_name), _digest(kinds)
