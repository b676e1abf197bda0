"""Preconditioners: symmetric positive definite approximations of the inverse of A, all of one signature."""

from .base import Preconditioner
from .block_jacobi import BlockJacobi
from .chebyshev import Chebyshev
from .choose import NAMES, as_preconditioner
from .deflation import Deflation, Recycling
from .eisenstat import DIC, MIC, SSOR
from .factored import Factored
from .incomplete_cholesky import IncompleteCholesky
from .jacobi import Jacobi
from .kronecker import Kronecker
from .multigrid import Multigrid, rigid_body_modes
from .varying import Varying

__all__ = [
    "DIC",
    "MIC",
    "NAMES",
    "SSOR",
    "BlockJacobi",
    "Chebyshev",
    "Deflation",
    "Factored",
    "IncompleteCholesky",
    "Jacobi",
    "Kronecker",
    "Multigrid",
    "Preconditioner",
    "Recycling",
    "Varying",
    "as_preconditioner",
    "rigid_body_modes",
]
