"""What a solver multiplies by: matrices, functions, and sums and multiples of them."""

from .base import Damped, Operator, Scaled, Sum
from .curvature import GaussNewton, JacobianOperator
from .matrices import FunctionOperator, MatrixOperator, as_operator

__all__ = [
    "Damped",
    "FunctionOperator",
    "GaussNewton",
    "JacobianOperator",
    "MatrixOperator",
    "Operator",
    "Scaled",
    "Sum",
    "as_operator",
]
