"""Solvers of A x = b."""

from .batched import BatchResult, batched_cg
from .block import BlockResult, block_cg
from .cg import CGSolver, cg
from .lanczos import ErrorBounds
from .quadratic import QuadraticResult, minimize_quadratic
from .result import CGResult, ManyResult
from .stopping import IterationState
from .trust_region import TrustRegionResult, trust_region_cg

__all__ = [
    "BatchResult",
    "BlockResult",
    "CGResult",
    "CGSolver",
    "ErrorBounds",
    "IterationState",
    "ManyResult",
    "QuadraticResult",
    "TrustRegionResult",
    "batched_cg",
    "block_cg",
    "cg",
    "minimize_quadratic",
    "trust_region_cg",
]
