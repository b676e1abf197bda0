"""Many small systems, a block of threads each."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import batch
from ..layouts import CSR, Dense
from .device import BLOCKS_EACH, SHARED_BYTES, c_type, cupy, current, kernels

VECTORS = 5  # of a system: x, r, p, q and the inverse diagonal
SHARING = 4  # threads of a row
MOST_THREADS = 256


def threads_for(n: int, warp: int) -> int:
    """Threads of a block: whole warps, enough for the rows of one system if it is small."""
    return max(warp, min(MOST_THREADS, -(-n * SHARING // warp) * warp))


def solve_batch(
    A: Dense | CSR,
    mirror: Any,
    jacobi: bool,
    check: bool,
    b: Any,
    x: Any,
    rtol: float,
    atol: float,
    maxiter: int,
    unit: float,
    patience: float,
    codes: Any,
    iterations: Any,
    rr: Any,
) -> None:
    """Solve the systems of a batch, x being the first iterates; arguments as for `cgopt.kernels.batch.solve_batch`.

    `codes`, `iterations` (int64) and `rr` (float64) are (m,) arrays of the host, and written.
    """
    xp, device = cupy(), current()
    m, n = b.shape
    sparse, entries = isinstance(A, CSR), n * n
    pattern: tuple[Any, ...] = ()
    if isinstance(A, CSR):
        pattern, entries = (A.indptr, A.indices, mirror), A.data.shape[1]
    group = kernels(
        "batch",
        layout="csr" if sparse else "dense",
        real=c_type(x.dtype),
        lanes=min(SHARING, device.warp),
        block=threads_for(n, device.warp),
    )
    wanted = SHARED_BYTES + VECTORS * n * x.dtype.itemsize
    resident = wanted <= device.shared_bytes
    shared = wanted if resident else SHARED_BYTES
    function = group.function("solve_batch")
    if shared > function.max_dynamic_shared_size_bytes:
        function.max_dynamic_shared_size_bytes = shared
    blocks = min(m, BLOCKS_EACH * max(1, group.blocks_at_once("solve_batch", shared)))
    space = None if resident else xp.empty((blocks, VECTORS, n), x.dtype)
    low, high = (batch.LOW, batch.HIGH) if unit < 1e-10 else (batch.LOW_SINGLE, batch.HIGH_SINGLE)
    out = xp.zeros(m, np.int64), xp.zeros(m, np.int64), xp.zeros(m, np.float64)
    numbers = (np.float64(v) for v in (rtol, atol))
    limits = (np.float64(v) for v in (unit, patience, low, high))
    args = (
        np.uint64(m),
        np.uint32(n),
        *pattern,
        np.uint64(entries),
        A[-1],
        b,
        x,
        space,
        np.int32(resident),
        np.int32(jacobi),
        np.int32(check),
        *numbers,
        np.uint64(maxiter),
        *limits,
        *out,
    )
    group.launch("solve_batch", blocks, args, shared)
    for target, found in zip((codes, iterations, rr), out, strict=True):
        target[:] = found.get()
