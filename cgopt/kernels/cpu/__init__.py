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
from ..layouts import CSR, DIA, Dense, SortedCSR, Work
from . import interpreted, many, products, updates
from .compile import CONTRACT, compiled, helper
from .inspect import diagonal, fill_dia, fill_probe, scan_csr, scan_dense, sort_rows, survey
from .threads import get_num_threads, max_num_threads, run, set_num_threads, share_rows

__all__ = [
    "cg_steps",
    "cg_steps_many",
    "diagonal",
    "fill_dia",
    "fill_probe",
    "get_num_threads",
    "layout_name",
    "max_num_threads",
    "multiply",
    "multiply_many",
    "real_dot",
    "residual",
    "residual_many",
    "run",
    "scan_csr",
    "scan_dense",
    "set_num_threads",
    "share_rows",
    "sort_rows",
    "steihaug_steps",
    "sum_of_squares",
    "survey",
]

NAMES = {Dense: "dense", CSR: "csr", SortedCSR: "sorted", DIA: "dia"}
PYTHON = "python"

sum_of_squares = updates.sum_of_squares
real_dot = products.real_dot
for _scalar_helper in (loops.curvature_code, loops.product_code, loops.note_step, loops.judge, loops.select):
    helper(_scalar_helper)


def layout_name(A: Any) -> str:
    """Short name of a layout: the suffix of its kernels."""
    return NAMES.get(type(A), PYTHON)


def _primitive(stem: str, suffix: str, form: int | None) -> Any:
    """A primitive by name: form 0 serial, 1 threaded, None chosen at each call (in interpreted loops)."""
    if suffix == PYTHON:
        return getattr(interpreted, stem)
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
        forms = []
        for form, kind in enumerate(("serial", "threaded")):
            primitives = {stem: _primitive(stem, suffix, form) for stem, suffix in stems.items()}
            bound = loops.bind(text, f"{name}_{kind}", primitives)
            forms.append(compiled(bound, threaded=False, fastmath=CONTRACT))
        self._forms = (forms[0], forms[1])

    def __call__(self, w: Work, *args: Any) -> Any:
        return run(self._forms, w, *args) if self.compiled else self._text(*args)


@functools.cache
def cg_steps(layout: str, kind: str) -> Loop:
    """The loop for one right-hand side.

    Parameters
    ----------
    layout : {"dense", "csr", "sorted", "dia", "python"}
    kind : {"identity", "diagonal", "python"}
        What the preconditioner is.
    """
    return Loop(loops.cg_steps, _stems(layout, kind), f"{layout}_{kind}")


@functools.cache
def steihaug_steps(layout: str, kind: str) -> Loop:
    """The loop of trust regions; parameters as for `cg_steps`."""
    return Loop(loops.steihaug_steps, _stems(layout, kind), f"{layout}_{kind}")


def _stems(layout: str, kind: str) -> dict[str, str]:
    """The primitives of a loop for one right-hand side, and of which layout or kind each is."""
    stems = {"apply_dot": layout, "residual": layout}
    return stems | {stem: kind for stem in ("update_residual", "update_direction", "restart")}


@functools.cache
def cg_steps_many(layout: str, kind: str) -> Loop:
    """The loop for k right-hand sides; parameters as for `cg_steps`."""
    stems = {"apply_dot_many": layout, "residual_many": layout}
    stems |= {stem: kind for stem in ("update_residual_many", "update_direction_many", "restart_many")}
    return Loop(loops.cg_steps_many, stems, f"{layout}_{kind}")


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
