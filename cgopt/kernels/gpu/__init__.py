"""The GPU backend: CUDA C++ kernels launched through CuPy.

The primitives have the names and signatures of `cgopt.kernels.reference`. Importing this imports neither CuPy nor a
compiler: kernels are compiled (by NVRTC, with CuPy's cache on disk) when they are first launched. Their texts are the
`.cu` files beside this one, complete as `sources.source` gives them.
"""

from __future__ import annotations

import functools
from typing import Any

from ..layouts import CSR, DIA, Dense
from .batched import solve_batch
from .device import (
    available,
    blocks_for,
    c_type,
    cupy,
    current,
    describe,
    from_dlpack,
    is_array,
    is_sparse,
    kernels,
)
from .inspect import diagonals_of, look
from .multigrid import Cycle
from .networks import activate, adam_step, add_scale_units, blend, momentum_step, scale_units, softmax_curvature
from .solve import HostLoop, PersistentLoop, Polynomial
from .vectors import Work, apply_dot, dot, residual, restart, share, update_direction, update_residual

__all__ = [
    "Cycle",
    "Polynomial",
    "Work",
    "activate",
    "adam_step",
    "add_scale_units",
    "apply_dot",
    "available",
    "blend",
    "blocks_for",
    "c_type",
    "cg_steps",
    "cupy",
    "current",
    "describe",
    "diagonals_of",
    "dot",
    "from_dlpack",
    "is_array",
    "is_sparse",
    "kernels",
    "layout_name",
    "look",
    "momentum_step",
    "multiply",
    "residual",
    "restart",
    "scale_units",
    "share",
    "softmax_curvature",
    "solve_batch",
    "update_direction",
    "update_residual",
]

NAMES = {Dense: "dense", CSR: "csr", DIA: "dia"}
PYTHON = "python"
IN_ONE_LAUNCH = ("identity", "diagonal", "chebyshev")  # preconditioners


def layout_name(A: Any) -> str:
    """Short name of a layout."""
    return NAMES.get(type(A), PYTHON)


def multiply(A: Any, p: Any, q: Any, w: Work) -> float:
    """``q = A p``; returns ``p'q``. A is a layout."""
    return apply_dot(A, p, q, w)


@functools.cache
def cg_steps(layout: str, exact: str, kind: str) -> PersistentLoop | HostLoop:
    """The loop for one right-hand side.

    Parameters
    ----------
    layout, exact : {"csr", "dia", "dense", "python"}
        What products are made with, and true residuals.
    kind : {"identity", "diagonal", "chebyshev", "python"}
        What the preconditioner is. If no part is Python, a slice of a solve is one launch.
    """
    if PYTHON in (layout, exact) or kind not in IN_ONE_LAUNCH:
        return HostLoop(kind)
    return PersistentLoop(kind)
