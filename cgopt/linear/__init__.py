"""Solvers of A x = b."""

from .cg import CGSolver, cg
from .quadratic import QuadraticResult, minimize_quadratic
from .result import CGResult, ManyResult
from .stopping import IterationState
from .trust_region import TrustRegionResult, trust_region_cg

__all__ = [
    "CGResult",
    "CGSolver",
    "IterationState",
    "ManyResult",
    "QuadraticResult",
    "TrustRegionResult",
    "cg",
    "minimize_quadratic",
    "trust_region_cg",
]
