"""Minimisers of smooth functions: a direction by conjugate gradients times a rule for its size."""

from .damping import LevenbergMarquardt, TrustRadius
from .descent import Ending, descend
from .hessian_free import hessian_free
from .line_search import armijo, wolfe
from .minimize import minimize, scipy_method
from .natural_gradient import NaturalStep, StepStatus, natural_gradient, natural_step
from .newton_cg import newton_cg
from .nonlinear_cg import nonlinear_cg
from .objective import FunctionObjective, NetworkObjective, Objective

__all__ = [
    "Ending",
    "FunctionObjective",
    "LevenbergMarquardt",
    "NaturalStep",
    "NetworkObjective",
    "Objective",
    "StepStatus",
    "TrustRadius",
    "armijo",
    "descend",
    "hessian_free",
    "minimize",
    "natural_gradient",
    "natural_step",
    "newton_cg",
    "nonlinear_cg",
    "scipy_method",
    "wolfe",
]
