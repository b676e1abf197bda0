"""Solvers of A x = b."""

from .cg import CGSolver, cg
from .quadratic import QuadraticResult, minimize_quadratic
from .result import CGResult, ManyResult
from .stopping import IterationState

__all__ = [
    "CGResult",
    "CGSolver",
    "IterationState",
    "ManyResult",
    "QuadraticResult",
    "cg",
    "minimize_quadratic",
]
