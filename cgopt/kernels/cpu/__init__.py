"""The CPU backend: Numba kernels, and the loops bound to them.

`cg_steps`, `cg_steps_many` and `steihaug_steps` return a loop for a layout and a kind of preconditioner. Where both
are arrays the whole loop is compiled; where one is Python the same text is interpreted, its vector updates compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import loops
from ..layouts import CSR, DIA, Dense, DenseLower, HalfCSR, HalfDIA, RoundedCSR, SortedCSR, Work
from . import (
    aggregation,
    factorization,
    interpreted,
    many,
    multigrid,
    ordering,
    products,
    smoothing,
    sweeps,
    updates,
)
from .batched import solve_batch
from .block import block_advance, block_gram, block_reduce, block_turn
from .compile import CONTRACT, compiled, helper
from .inspect import (
    diagonal,
    diagonal_csr,
    fill_dia,
    fill_half_dia,
    fill_probe,
    inspect_symmetric,
    is_main_diagonal,
    rows_of_dia,
    scan_csr,
    scan_dense,
    sort_rows,
    survey,
    unsort_rows,
)
from .networks import (
    adam_step,
    add_scale_units,
    blend,
    forward_one,
    momentum_step,
    scale_units,
    softmax_curvature,
)
from .team import Team, faster
from .threads import (
    SMALL,
    SUMS,
    back_reach,
    get_num_threads,
    max_num_threads,
    run,
    set_num_threads,
    share_half,
    share_rows,
    share_triangle,
)

__all__ = [
    "SMALL",
    "SUMS",
    "SWEEPING",
    "adam_step",
    "add_scale_units",
    "aggregation",
    "back_reach",
    "blend",
    "block_advance",
    "block_gram",
    "block_reduce",
    "block_turn",
    "cg_steps",
    "cg_steps_many",
    "diagonal",
    "diagonal_csr",
    "dot",
    "factorization",
    "fill_dia",
    "fill_half_dia",
    "fill_probe",
    "forward_one",
    "get_num_threads",
    "inspect_symmetric",
    "is_main_diagonal",
    "layout_name",
    "max_num_threads",
    "momentum_step",
    "multigrid",
    "multiply",
    "multiply_many",
    "ordering",
    "residual",
    "residual_many",
    "rows_of_dia",
    "run",
    "scale_units",
    "scan_csr",
    "scan_dense",
    "set_num_threads",
    "share_half",
    "share_rows",
    "share_triangle",
    "smoothing",
    "softmax_curvature",
    "solve_batch",
    "solve_diagonal",
    "sort_rows",
    "steihaug_steps",
    "survey",
    "sweeps",
    "unsort_rows",
]

NAMES = {
    Dense: "dense",
    DenseLower: "lower",
    CSR: "csr",
    SortedCSR: "sorted",
    DIA: "dia",
    HalfDIA: "half_dia",
    HalfCSR: "half_csr",
    RoundedCSR: "rounded",
}
PYTHON = "python"
SWEEPING = ("factor", "eisenstat")  # kinds of preconditioner
VECTOR_PASSES = ("update_residual", "update_direction", "restart")

dot, solve_diagonal = updates.dot, updates.solve_diagonal
for _scalar_helper in (loops.curvature_code, loops.product_code, loops.note_step, loops.judge, loops.select):
    helper(_scalar_helper)


def layout_name(A: Any) -> str:
    """Short name of a layout: the suffix of its kernels."""
    return NAMES.get(type(A), PYTHON)


def _primitive(stem: str, suffix: str, form: int | None) -> Any:
    """A primitive by name: form 0 serial, 1 threaded, None chosen at each call (in interpreted loops)."""
    if suffix == PYTHON:
        return getattr(interpreted, stem)
    if suffix in SWEEPING:
        module = sweeps
    else:
        module = many if stem.endswith("_many") else products if stem in ("apply_dot", "residual") else updates
    kernel = getattr(module, f"{stem}_{suffix}")
    return _either(kernel) if form is None else kernel[form]


def _either(kernel: tuple[Any, Any]) -> Callable[..., Any]:
    """A kernel as an interpreted loop calls it; the last argument is always the `Work`."""

    def call(*args: Any) -> Any:
        return run(kernel, args[-1], *args)

    return call


class Loop:
    """A loop bound to its primitives; called with the `Work` first, then the loop's own arguments."""

    def __init__(self, text: Callable[..., Any], stems: dict[str, str], label: str) -> None:
        name = f"{text.__name__}_{label}"
        self.compiled = PYTHON not in stems.values()
        if not self.compiled:
            primitives = {stem: _primitive(stem, suffix, None) for stem, suffix in stems.items()}
            self._text = loops.bind(text, name, primitives)
            return
        serial = self._compiled(text, name, stems, 0)
        self._apart: Callable[..., Any] | None
        if "apply_dot" in stems:
            self._forms, self._apart = (serial, Team(serial, name)), faster
        else:  # many right-hand sides: passes long enough to be parallel regions of their own
            self._forms, self._apart = (serial, self._compiled(text, name, stems, 1)), None

    @staticmethod
    def _compiled(text: Callable[..., Any], name: str, stems: dict[str, str], form: int) -> Any:
        """The text with its primitives in one form: 0 serial, 1 threaded."""
        primitives = {stem: _primitive(stem, suffix, form) for stem, suffix in stems.items()}
        kind = ("serial", "threaded")[form]
        return compiled(loops.bind(text, f"{name}_{kind}", primitives), threaded=False, fastmath=CONTRACT)

    def __call__(self, w: Work, *args: Any) -> Any:
        return run(self._forms, w, *args, apart=self._apart) if self.compiled else self._text(*args)


@functools.cache
def cg_steps(layout: str, exact: str, kind: str) -> Loop:
    """The loop for one right-hand side.

    Parameters
    ----------
    layout, exact : {"dense", "lower", "csr", "sorted", "half_csr", "dia", "half_dia", "python"}
        What products are made with, and true residuals.
    kind : {"identity", "diagonal", "factor", "eisenstat", "python"}
        What the preconditioner is.
    """
    return Loop(loops.cg_steps, _stems(layout, exact, kind), f"{layout}_{exact}_{kind}")


@functools.cache
def steihaug_steps(layout: str, exact: str, kind: str) -> Loop:
    """The loop of trust regions; parameters as for `cg_steps`."""
    return Loop(loops.steihaug_steps, _stems(layout, exact, kind), f"{layout}_{exact}_{kind}")


def _stems(layout: str, exact: str, kind: str) -> dict[str, str]:
    """The primitives of a loop for one right-hand side, and of which layout or kind each is."""
    stems = {"apply_dot": "eisenstat" if kind == "eisenstat" else layout, "residual": exact}
    return stems | {stem: kind for stem in VECTOR_PASSES}


@functools.cache
def cg_steps_many(layout: str, exact: str, kind: str) -> Loop:
    """The loop for k right-hand sides; parameters as for `cg_steps`."""
    stems = {"apply_dot_many": layout, "residual_many": exact}
    stems |= {f"{stem}_many": kind for stem in VECTOR_PASSES}
    return Loop(loops.cg_steps_many, stems, f"{layout}_{exact}_{kind}")


def residual(A: Any, b: Any, scale: float, x: Any, r: Any, w: Work) -> float:
    """``r = scale b - A x``; returns ``r'r``. A is a layout or an object with ``matvec``."""
    return float(_primitive("residual", layout_name(A), None)(A, b, scale, x, r, w))


def multiply(A: Any, p: Any, q: Any, w: Work) -> float:
    """``q = A p``; returns ``p'q``. A is a layout."""
    return float(_primitive("apply_dot", layout_name(A), None)(A, p, q, w))


def multiply_many(A: Any, p: Any, q: Any, w: Work) -> None:
    """``q_j = A p_j`` for the rows of (k, n) arrays. A is a layout."""
    k = p.shape[0]
    run(getattr(many, f"apply_dot_many_{layout_name(A)}"), w, A, p, q, np.empty(k), np.arange(k), w)


def residual_many(A: Any, b: Any, x: Any, r: Any, rr: Any, act: Any, w: Work) -> None:
    """``r_j = b_j - A x_j``; ``rr[j] = r_j'r_j`` for j in act. A is a layout or an object with ``matmat``."""
    _primitive("residual_many", layout_name(A), None)(A, b, x, r, rr, act, w)
