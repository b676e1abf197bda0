"""Batches of small systems: the primitives of `cgopt.kernels.batch`, merged into its texts before compilation.

An iteration of a dense system of n = 32 takes 0.1 microseconds, in which 8 kB of the matrix pass through the processor
from its first-level cache: nothing may be called in between, and no array be counted.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from .. import batch, loops
from ..layouts import CSR, Dense
from .compile import REASSOCIATE, compiled, inline
from .products import rows_csr, rows_dense, true_rows_csr, true_rows_dense

U = np.uint64


@inline
def take_dense(A: Any, k: Any) -> Any:
    """System k of a batch."""
    return Dense(A.values[k])


@inline
def take_csr(A: Any, k: Any) -> Any:
    """System k of a batch."""
    return CSR(A.indptr, A.indices, A.data[k])


@inline
def look_dense(A: Any, inverse: Any, jacobi: Any) -> Any:
    """Inverse diagonal; largest row sum, first row whose diagonal entry is not positive."""
    values = A.values
    norm = 0.0
    total = 0.0
    bad_row = np.int64(-1)
    for i in range(U(values.shape[0])):
        row = 0.0
        for j in range(U(values.shape[0])):
            row += np.float64(abs(values[i, j]))
        total += row  # NaN and infinity stay in a sum; in a maximum they may not
        norm = max(norm, row)
        if not values[i, i] > 0.0 and bad_row < 0:
            bad_row = np.int64(i)
        inverse[i] = 1.0 / values[i, i] if jacobi else 1.0
    return norm if total < np.inf else np.nan, bad_row


@inline
def look_csr(A: Any, inverse: Any, jacobi: Any) -> Any:
    """Inverse diagonal; largest row sum, first row whose diagonal entry is not positive."""
    indptr, indices, data = A.indptr, A.indices, A.data
    norm = 0.0
    total = 0.0
    bad_row = np.int64(-1)
    for i in range(U(indptr.shape[0] - 1)):
        row = 0.0
        diagonal = 0.0
        for k in range(U(indptr[i]), U(indptr[i + U(1)])):
            row += np.float64(abs(data[k]))
            if U(indices[k]) == i:
                diagonal += np.float64(data[k])
        total += row
        norm = max(norm, row)
        if not diagonal > 0.0 and bad_row < 0:
            bad_row = np.int64(i)
        inverse[i] = 1.0 / diagonal if jacobi else 1.0
    return norm if total < np.inf else np.nan, bad_row


@inline
def asymmetry_dense(A: Any, mirror: Any) -> Any:
    """Largest difference of two entries that should be equal."""
    values = A.values
    worst = 0.0
    for i in range(U(values.shape[0])):
        for j in range(i):
            worst = max(worst, abs(np.float64(values[i, j]) - np.float64(values[j, i])))
    return worst


@inline
def asymmetry_csr(A: Any, mirror: Any) -> Any:
    """Largest difference of two entries that should be equal."""
    data = A.data
    worst = 0.0
    for k in range(U(data.shape[0])):
        mirrored = np.float64(data[mirror[k]]) if mirror[k] >= 0 else 0.0
        worst = max(worst, abs(np.float64(data[k]) - mirrored))
    return worst


@inline
def square(v: Any) -> Any:
    """``v'v``."""
    vv = 0.0
    for i in range(U(v.shape[0])):
        vv += np.float64(v[i]) * np.float64(v[i])
    return vv


@inline
def multiply_dense(A: Any, p: Any, q: Any) -> Any:
    """``q = A p``; returns ``p'q``."""
    return rows_dense(A, p, q, 0, p.shape[0])


@inline
def multiply_csr(A: Any, p: Any, q: Any) -> Any:
    """``q = A p``; returns ``p'q``."""
    return rows_csr(A, p, q, 0, p.shape[0])


@inline
def true_residual_dense(A: Any, b: Any, x: Any, r: Any) -> Any:
    """``r = b - A x``; returns ``r'r``."""
    return true_rows_dense(A, b, 1.0, x, r, 0, b.shape[0])


@inline
def true_residual_csr(A: Any, b: Any, x: Any, r: Any) -> Any:
    """``r = b - A x``; returns ``r'r``."""
    return true_rows_csr(A, b, 1.0, x, r, 0, b.shape[0])


@inline
def step(inverse: Any, alpha: Any, p: Any, q: Any, r: Any, x: Any) -> Any:
    """``x += alpha p``, ``r -= alpha q``; returns ``r'r``, ``r'M r``, ``x'x``."""
    a = r.dtype.type(alpha)
    rr = 0.0
    rz = 0.0
    xx = 0.0
    for i in range(U(r.shape[0])):
        xi = x[i] + a * p[i]
        x[i] = xi
        ri = r[i] - a * q[i]
        r[i] = ri
        xx += np.float64(xi) * np.float64(xi)
        rr += np.float64(ri) * np.float64(ri)
        rz += np.float64(ri) * np.float64(ri) * np.float64(inverse[i])
    return rr, rz, xx


@inline
def turn(inverse: Any, beta: Any, r: Any, p: Any) -> Any:
    """``p = M r + beta p``; returns ``p'p``."""
    b = p.dtype.type(beta)
    pp = 0.0
    for i in range(U(p.shape[0])):
        pi = inverse[i] * r[i] + b * p[i]
        p[i] = pi
        pp += np.float64(pi) * np.float64(pi)
    return pp


@inline
def weigh(inverse: Any, r: Any) -> Any:
    """``r'M r``."""
    rz = 0.0
    for i in range(U(r.shape[0])):
        rz += np.float64(r[i]) * np.float64(r[i]) * np.float64(inverse[i])
    return rz


@inline
def start(inverse: Any, r: Any, p: Any) -> Any:
    """``p = M r``; returns ``r'p``, ``p'p``."""
    rz = 0.0
    pp = 0.0
    for i in range(U(p.shape[0])):
        pi = inverse[i] * r[i]
        p[i] = pi
        rz += np.float64(r[i]) * np.float64(pi)
        pp += np.float64(pi) * np.float64(pi)
    return rz, pp


SHARED = {"square": square, "step": step, "turn": turn, "weigh": weigh, "start": start}
OF_LAYOUT = {
    "dense": {
        "take": take_dense,
        "look": look_dense,
        "asymmetry": asymmetry_dense,
        "multiply": multiply_dense,
        "true_residual": true_residual_dense,
    },
    "csr": {
        "take": take_csr,
        "look": look_csr,
        "asymmetry": asymmetry_csr,
        "multiply": multiply_csr,
        "true_residual": true_residual_csr,
    },
}


@functools.cache
def solve_batch(layout: str) -> tuple[Any, Any]:
    """The compiled solver of batches, serial and threaded.

    Parameters
    ----------
    layout : {"dense", "csr"}
    """
    primitives = SHARED | OF_LAYOUT[layout]
    # compiled by itself, once for both forms
    one = compiled(
        loops.bind(batch.solve_small, f"solve_small_{layout}", primitives), threaded=False, fastmath=REASSOCIATE
    )
    primitives |= {"solve_small": one, "prange": prange}
    serial = loops.bind(batch.solve_batch, f"solve_batch_{layout}_serial", primitives)
    threaded = loops.bind(batch.solve_batch, f"solve_batch_{layout}_threaded", primitives)
    return compiled(serial, threaded=False, fastmath=REASSOCIATE), compiled(
        threaded, threaded=True, fastmath=REASSOCIATE
    )
