"""Preconditioners: symmetric positive definite approximations of the inverse of A, all of one signature."""

from .base import Preconditioner
from .choose import NAMES, as_preconditioner
from .jacobi import Jacobi

__all__ = ["NAMES", "Jacobi", "Preconditioner", "as_preconditioner"]
