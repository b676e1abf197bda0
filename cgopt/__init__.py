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
from .configuration import show_config
from .kernels.cpu import get_num_threads, max_num_threads, set_num_threads
from .linear import (
    BatchResult,
    BlockResult,
    CGResult,
    CGSolver,
    ErrorBounds,
    IterationState,
    ManyResult,
    QuadraticResult,
    TrustRegionResult,
    batched_cg,
    block_cg,
    cg,
    minimize_quadratic,
    trust_region_cg,
)
from .status import Status

__version__ = "0.1.0"

__all__ = [
    "BatchResult",
    "BlockResult",
    "CGResult",
    "CGSolver",
    "ErrorBounds",
    "IterationState",
    "ManyResult",
    "QuadraticResult",
    "Status",
    "TrustRegionResult",
    "batched_cg",
    "block_cg",
    "cg",
    "gallery",
    "get_num_threads",
    "max_num_threads",
    "minimize",
    "minimize_quadratic",
    "nn",
    "operators",
    "optimize",
    "preconditioners",
    "set_num_threads",
    "show_config",
    "testing",
    "trust_region_cg",
]


def __getattr__(name: str) -> Any:
    # Loaded when used: `gallery` and `optimize` need more of SciPy than solving does, `testing` needs Hypothesis.
    if name in ("gallery", "optimize", "testing"):
        return importlib.import_module(f".{name}", __name__)
    if name == "minimize":
        return importlib.import_module(".optimize", __name__).minimize
    raise AttributeError(f"module 'cgopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
