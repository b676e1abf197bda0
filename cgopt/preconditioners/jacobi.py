"""Jacobi's preconditioner: the inverse of the diagonal."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..arrays import Array, as_device_array, contiguous, on_device, real_view
from ..operators import DeviceMatrix, MatrixOperator, as_operator
from ..operators.device import times_power_of_two
from .base import Preconditioner, real_positive


class Jacobi(Preconditioner):
    """The inverse of the diagonal of A.

    Costs nothing to set up and 2 n reads an iteration. It makes the solution independent of the scaling of rows and
    columns, and leaves a condition number within a factor of the best diagonal scaling's, namely the largest number of
    entries in a row (van der Sluis, Numer. Math. 14, 1969).

    Parameters
    ----------
    A : anything `cgopt.operators.as_operator` takes, with a diagonal; or an (n,) array, the diagonal itself

    Raises
    ------
    ValueError
        If a diagonal entry is not positive: A is then not positive definite.
    TypeError
        If A does not tell its diagonal.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = np.diag([1.0, 10.0, 100.0])
    >>> M = cgopt.preconditioners.Jacobi(A)
    >>> cgopt.cg(A, np.ones(3), M=M).iterations
    1
    """

    def __init__(self, A: Any) -> None:
        start = time.perf_counter()
        # The inverse is 2^exponent times what is stored: of a matrix whose entries are extreme, the stored form of
        # which is multiplied by a power of two, the inverse itself may be out of range.
        self.exponent, known_positive = 0, False
        if on_device(A) and getattr(A, "ndim", 2) == 1:
            diagonal = as_device_array(A, "A")
        elif isinstance(A, np.ndarray) and A.ndim == 1:
            diagonal = A
        else:
            operator = as_operator(A)
            if isinstance(operator, MatrixOperator | DeviceMatrix):
                known, self.exponent = operator.stored_diagonal(), operator.exponent
                known_positive = operator.bad_row < 0  # and finite
            else:
                known = operator.diagonal()
            if known is None:
                raise TypeError(
                    "A does not tell its diagonal; give it a `diagonal` method, or pass the diagonal as an (n,) array"
                )
            diagonal = known
        self.on_device = self.capturable = on_device(diagonal)
        diagonal = (diagonal if self.on_device else np.asarray(diagonal)).real
        if not known_positive and not np.isfinite(diagonal).all():
            raise ValueError("the diagonal of A holds NaN or infinity; every entry must be finite")
        if not known_positive and not real_positive(diagonal):
            row = int(np.argmax(~(diagonal > 0.0)))
            raise ValueError(
                f"diagonal entry {row} of A is {diagonal[row]:g}; Jacobi needs positive ones "
                "(A is not positive definite otherwise)"
            )
        with np.errstate(over="ignore"):
            inverse = 1.0 / diagonal
        if not np.isfinite(inverse).all():
            raise ValueError("the inverse of the diagonal overflows its data type; scale A up by a power of two")
        self.inverse_diagonal: Array = contiguous(inverse)
        self.shape, self.dtype = (diagonal.size, diagonal.size), inverse.dtype
        self.setup_time = time.perf_counter() - start

    def _matvec(self, x: Array, out: Array) -> None:
        np.multiply(self.inverse_diagonal, x, out=out, casting="same_kind")
        self._scale(out)

    def _matmat(self, X: Array, out: Array) -> None:
        np.multiply(self.inverse_diagonal[:, None], X, out=out, casting="same_kind")
        self._scale(out)

    def _scale(self, out: Array) -> None:
        if self.exponent and self.on_device:
            out[...] = times_power_of_two(out, self.exponent)
        elif self.exponent:
            out[...] = np.ldexp(real_view(np.ascontiguousarray(out)), self.exponent).view(out.dtype)

    def diagonal(self) -> Array:
        """The inverse diagonal, (n,)."""
        if self.on_device:
            return times_power_of_two(self.inverse_diagonal, self.exponent)
        return np.ldexp(self.inverse_diagonal, self.exponent)

    @property
    def nbytes(self) -> int:
        """Bytes of the inverse diagonal."""
        return int(self.inverse_diagonal.nbytes)
