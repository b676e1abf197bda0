"""Why a solver stopped: an enumeration whose value is the sentence for the user."""

from __future__ import annotations

from enum import Enum

from .kernels import loops


class Status(Enum):
    """Why a solve ended. The value is a sentence that says what happened and what to do about it.

    Examples
    --------
    >>> import cgopt
    >>> cgopt.Status.CONVERGED.converged
    True
    >>> print(cgopt.Status.MAXITER)
    MAXITER: The iterations were used up before ...
    """

    CONVERGED = "The true residual b - A x meets the tolerance."
    MAXITER = (
        "The iterations were used up before the tolerance was met: raise maxiter, start from this x, or use a "
        "(better) preconditioner."
    )
    STAGNATED = (
        "The true residual has stopped falling: this is the accuracy that rounding allows for this matrix in this "
        "precision. Loosen rtol, use double precision, or scale the problem (Jacobi) if its rows differ widely."
    )
    INDEFINITE = (
        "A is not positive definite: a direction d with d'Ad <= 0 was found (negative_curvature). "
        "Check the matrix, or use a method for indefinite systems such as MINRES."
    )
    SINGULAR = (
        "The curvature along a search direction is zero to rounding: A is singular, or too ill-conditioned for this "
        "precision. The direction is in negative_curvature; b may have no solution."
    )
    INDEFINITE_PRECONDITIONER = (
        "The preconditioner M is not positive definite: r'Mr <= 0 for a residual r. M must be a symmetric positive "
        "definite approximation of the inverse of A."
    )
    NONFINITE = (
        "A NaN or an infinity appeared in a product or in the solution: A, M or the answer overflows its data type, "
        "or the operator is at fault."
    )
    STOPPED = "The callback asked for the end (StopIteration)."
    BOUNDARY = (
        "The step ends on the boundary of the trust region: the unconstrained minimiser of the model lies outside. "
        "Enlarge the radius if the model is good there."
    )
    NEGATIVE_CURVATURE = (
        "A direction of non-positive curvature was found (negative_curvature), along which the model falls without "
        "end; the step follows it to the boundary of the trust region."
    )

    @property
    def converged(self) -> bool:
        """Whether the solution meets the tolerance."""
        return self is Status.CONVERGED

    @property
    def breakdown(self) -> bool:
        """Whether the method could not go on (as against not having been given the time)."""
        return INFO.get(self, 0) < 0

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


OF_CODE = {
    loops.CONVERGED: Status.CONVERGED,
    loops.MAXITER: Status.MAXITER,
    loops.STAGNATED: Status.STAGNATED,
    loops.INDEFINITE: Status.INDEFINITE,
    loops.SINGULAR: Status.SINGULAR,
    loops.INDEFINITE_M: Status.INDEFINITE_PRECONDITIONER,
    loops.NONFINITE: Status.NONFINITE,
    loops.STOPPED: Status.STOPPED,
    loops.BOUNDARY: Status.BOUNDARY,
    loops.NEGATIVE_CURVATURE: Status.NEGATIVE_CURVATURE,
}

# scipy's meaning of info: 0 converged, > 0 iterations used up, < 0 breakdown.
INFO = {
    Status.CONVERGED: 0,
    Status.BOUNDARY: 0,
    Status.NEGATIVE_CURVATURE: 0,
    Status.INDEFINITE: -1,
    Status.SINGULAR: -2,
    Status.INDEFINITE_PRECONDITIONER: -3,
    Status.STAGNATED: -4,
    Status.NONFINITE: -5,
}


def info_of(status: Status, iterations: int) -> int:
    """SciPy's integer for a status."""
    return INFO[status] if status in INFO else max(1, iterations)
