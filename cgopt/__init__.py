"""cgopt: conjugate gradients and Hessian-free optimisation, compiled for the CPU.

>>> import numpy as np, cgopt
>>> A = cgopt.gallery.poisson((20, 20))
>>> result = cgopt.cg(A, np.ones(400))
>>> result.status.name
'CONVERGED'
"""

from __future__ import annotations

import importlib
from typing import Any

from . import nn, operators, preconditioners
from .kernels.cpu import get_num_threads, max_num_threads, set_num_threads
from .linear import (
    CGResult,
    CGSolver,
    IterationState,
    ManyResult,
    QuadraticResult,
    TrustRegionResult,
    cg,
    minimize_quadratic,
    trust_region_cg,
)
from .status import Status

__version__ = "0.1.0"

__all__ = [
    "CGResult",
    "CGSolver",
    "IterationState",
    "ManyResult",
    "QuadraticResult",
    "Status",
    "TrustRegionResult",
    "cg",
    "gallery",
    "get_num_threads",
    "max_num_threads",
    "minimize_quadratic",
    "nn",
    "operators",
    "preconditioners",
    "set_num_threads",
    "testing",
    "trust_region_cg",
]


def __getattr__(name: str) -> Any:
    # Loaded when used: `gallery` needs more of SciPy than solving does, `testing` needs Hypothesis.
    if name in ("gallery", "testing"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'cgopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
