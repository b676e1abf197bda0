"""The GPU backend: CUDA C++ kernels launched through CuPy.

The primitives have the names and signatures of `cgopt.kernels.reference`. Importing this imports neither CuPy nor a
compiler: kernels are compiled (by NVRTC, with CuPy's cache on disk) when they are first launched. Their texts are the
`.cu` files beside this one, complete as `sources.source` gives them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import loops
from ..layouts import CSR, DIA, Dense
from .batched import solve_batch
from .block import block_advance, block_gram, block_reduce, block_turn
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
from .many import (
    ManyWork,
    apply_dot_many,
    dot_many,
    multiply_many,
    residual_many,
    restart_many,
    share_many,
    update_direction_many,
    update_residual_many,
)
from .multigrid import Cycle
from .networks import (
    activate,
    adam_step,
    add_scale_units,
    blend,
    forward_one,
    momentum_step,
    scale_units,
    softmax_curvature,
)
from .solve import HostLoop, PersistentLoop, Polynomial
from .vectors import (
    Work,
    apply_dot,
    dot,
    launch_apply_dot,
    residual,
    restart,
    share,
    update_direction,
    update_residual,
)

__all__ = [
    "Cycle",
    "Polynomial",
    "Work",
    "activate",
    "adam_step",
    "add_scale_units",
    "apply_dot",
    "apply_dot_many",
    "available",
    "blend",
    "block_advance",
    "block_gram",
    "block_reduce",
    "block_turn",
    "blocks_for",
    "c_type",
    "cg_steps",
    "cg_steps_many",
    "cupy",
    "current",
    "describe",
    "diagonals_of",
    "dot",
    "dot_many",
    "forward_one",
    "from_dlpack",
    "is_array",
    "is_sparse",
    "kernels",
    "layout_name",
    "look",
    "momentum_step",
    "multiply",
    "multiply_many",
    "residual",
    "residual_many",
    "restart",
    "restart_many",
    "run",
    "scale_units",
    "share",
    "share_many",
    "softmax_curvature",
    "solve_batch",
    "update_direction",
    "update_direction_many",
    "update_residual",
    "update_residual_many",
]

NAMES = {Dense: "dense", CSR: "csr", DIA: "dia"}
PYTHON = "python"
IN_ONE_LAUNCH = ("identity", "diagonal", "chebyshev")  # preconditioners


def layout_name(A: Any) -> str:
    """Short name of a layout."""
    return NAMES.get(type(A), PYTHON)


def multiply(A: Any, p: Any, q: Any, w: Work) -> None:
    """``q = A p``, launched and not waited for. A is a layout."""
    launch_apply_dot(A, p, q, w, alone=True)


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


def cg_steps_many(layout: str, exact: str, kind: str) -> Callable[..., int]:
    """The loop for several right-hand sides; parameters as for `cg_steps`, but that passes see what they are given."""
    return _steps_many


def _steps_many(w: ManyWork, *args: Any) -> int:
    """`cgopt.kernels.loops.cg_steps_many`, called with the work first."""
    return int(_TEXT_OF_MANY(*args))


_TEXT_OF_MANY = loops.bind(
    loops.cg_steps_many,
    "cg_steps_many_gpu",
    {
        "apply_dot_many": apply_dot_many,
        "residual_many": residual_many,
        "update_residual_many": update_residual_many,
        "update_direction_many": update_direction_many,
        "restart_many": restart_many,
    },
)


def run(kernel: Callable[..., Any], w: Work, *args: Any) -> Any:
    """Call a primitive, as `cgopt.kernels.cpu.run` does with what it has in two forms."""
    return kernel(*args)
