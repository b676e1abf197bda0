"""Preconditioners: symmetric positive definite approximations of the inverse of A, all of one signature."""

from .base import Preconditioner
from .block_jacobi import BlockJacobi
from .chebyshev import Chebyshev
from .choose import NAMES, as_preconditioner
from .deflation import Deflation, Recycling
from .jacobi import Jacobi
from .multigrid import Multigrid, rigid_body_modes
from .varying import Varying

__all__ = [
    "NAMES",
    "BlockJacobi",
    "Chebyshev",
    "Deflation",
    "Jacobi",
    "Multigrid",
    "Preconditioner",
    "Recycling",
    "Varying",
    "as_preconditioner",
    "rigid_body_modes",
]
