"""The kernels' source texts, complete as a compiler takes them. Needs neither CuPy nor a device."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from .. import batch, loops

FOLDER = Path(__file__).resolve().parent
BLOCK = 256  # threads of a block
# Of a launch whose blocks wait for each other there are few large ones, since each barrier costs time by their number:
# a multiprocessor runs so many threads of it, which leaves each 80 registers.
COOPERATIVE_BLOCK, RESIDENT = 384, 768
LAYOUTS = {"csr": 0, "dia": 1, "dense": 2}
KINDS = {"identity": 0, "diagonal": 1, "chebyshev": 2}
ACTIVATIONS = {"linear": 0, "tanh": 1, "logistic": 2, "relu": 3, "softplus": 4}
MANY = 8  # systems that share a pass over the matrix, an even number
TILE = 4  # rows of a block of vectors that a thread computes at once, an even number
LOOK = 99  # code of a solve that waits for the host
CODES = "RUNNING CONVERGED INDEFINITE SINGULAR STAGNATED NONFINITE INDEFINITE_M MAXITER"
EVENTS = "NOTHING DRIFTED DROPPED STOOD_STILL CLAIMED"
PLACES = "RR RZ PP XX TARGET UNIT NORM_A GAP GAP0 BEST FAILED STILL PATIENCE SCALE CHECKS RZ0 PEAK DROP"
COLUMNS = "LOG_RR LOG_RZ LOG_ALPHA LOG_BETA LOG_COLUMNS"


@functools.cache
def source(
    name: str,
    *,
    real: str = "double",
    value: str | None = None,
    outer: str = "double",
    layout: str = "csr",
    lanes: int = 1,
    kind: str = "identity",
    warp: int = 32,
    block: int | None = None,
) -> str:
    """The text of one file of kernels.

    Parameters
    ----------
    name : {"cg", "steps", "batch", "networks", "multigrid", "inspect", "diagonals", "many", "block"}
    real, value : {"float", "double"}
        Types of vectors and of a matrix's entries; the latter is the former by default.
    outer : {"float", "double"}
        Of the vectors outside a multigrid cycle.
    layout : {"csr", "dia", "dense"}
    lanes : int
        Threads that share a row.
    kind : {"identity", "diagonal", "chebyshev"}
        The preconditioner.
    warp : int
        Threads of a warp, fewer for tests on other machines.
    block : int
        Threads of a block at most, a multiple of `warp`.
    """
    block = block or (COOPERATIVE_BLOCK if name == "cg" else BLOCK)
    # What loops and status are called and where a solve's scalars lie is said once, in `cgopt.kernels.loops`.
    constants = {key: getattr(loops, key) for key in f"{CODES} {EVENTS} {PLACES} {COLUMNS} SCALARS".split()}
    constants |= {"GROWTH": loops.GROWTH}
    constants |= {key: getattr(batch, key) for key in ("NOT_FINITE", "NOT_SYMMETRIC", "EXTREME")}
    constants |= {key.upper(): code for key, code in ACTIVATIONS.items()} | {"LOOK": LOOK}
    macros = {"WARP": warp, "BLOCK": block, "RESIDENT": max(1, RESIDENT // block), "LANES": lanes}
    macros |= {"MANY": MANY, "TILE": TILE}
    macros |= {"LAYOUT": LAYOUTS[layout], "KIND": KINDS[kind]}
    macros |= {key.upper(): code for key, code in (LAYOUTS | KINDS).items()}
    head = [f"#define {key} {number}" for key, number in macros.items()]
    head += ["enum {" + ", ".join(f"{key} = {number}" for key, number in constants.items()) + "};"]
    head += [f"typedef {real} real;", f"typedef {value or real} value;", f"typedef {outer} outer;"]
    return "\n".join(head) + "\n" + expanded(f"{name}.cu")


def expanded(file: str) -> str:
    """A file with the files that it includes in their places: compilers and caches then see one text."""

    def included(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start()) + 2
        return f'{expanded(match[1])}#line {line} "{file}"'

    text = (FOLDER / file).read_text()
    return f'#line 1 "{file}"\n' + re.sub(r'^#include "([a-z]+\.cuh)"$', included, text, flags=re.MULTILINE)


def kernel_names(text: str) -> list[str]:
    """The kernels that a text defines."""
    return re.findall(r"__global__ void __launch_bounds__\(BLOCK(?:, RESIDENT)?\) (\w+)\(", text)
