"""What a solver multiplies by: matrices, functions, curvature by products, and sums and multiples of them."""

from .base import Damped, Operator, Scaled, Sum
from .curvature import Fisher, GaussNewton, Hessian, JacobianOperator, Linearization
from .finite_difference import FiniteDifferenceGaussNewton, FiniteDifferenceHessian
from .matrices import FunctionOperator, MatrixOperator, as_operator

__all__ = [
    "Damped",
    "FiniteDifferenceGaussNewton",
    "FiniteDifferenceHessian",
    "Fisher",
    "FunctionOperator",
    "GaussNewton",
    "Hessian",
    "JacobianOperator",
    "Linearization",
    "MatrixOperator",
    "Operator",
    "Scaled",
    "Sum",
    "as_operator",
]
