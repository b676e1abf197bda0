"""What a solver multiplies by: matrices, functions, curvature by products, and sums and multiples of them."""

from .adapters import Differentiable, from_autograd, from_jax, from_torch
from .base import Damped, Operator, Scaled, Sum
from .curvature import Fisher, GaussNewton, Hessian, JacobianOperator, Linearization
from .device import DeviceMatrix
from .finite_difference import FiniteDifferenceGaussNewton, FiniteDifferenceHessian
from .matrices import FunctionOperator, MatrixOperator, as_operator
from .spectrum import (
    Estimate,
    SpectralDensity,
    diagonal_estimate,
    effective_dimension,
    spectral_density,
    top_eigenvalues,
    trace,
)
from .streaming import Streamed, streamed_gradient

__all__ = [
    "Damped",
    "DeviceMatrix",
    "Differentiable",
    "Estimate",
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
    "SpectralDensity",
    "Streamed",
    "Sum",
    "as_operator",
    "diagonal_estimate",
    "effective_dimension",
    "from_autograd",
    "from_jax",
    "from_torch",
    "spectral_density",
    "streamed_gradient",
    "top_eigenvalues",
    "trace",
]
