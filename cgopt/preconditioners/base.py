"""The preconditioner's contract: a symmetric positive definite approximation of the inverse of A."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..operators import Operator


class Preconditioner(Operator):
    """An operator ``z = M r`` that approximates ``A^-1``, symmetric and positive definite.

    Subclasses take the matrix first, and write ``_matvec``. Each knows its `nbytes` and its `setup_time`, and
    works in SciPy through `to_scipy`.

    Attributes
    ----------
    setup_time : float
        Seconds that the preparation took.
    varies : bool
        Whether it changes between applications: CG is then flexible.
    working_dtype : dtype
        What products are computed in, which bounds how symmetric they can be: `dtype` unless a subclass says so.
    """

    setup_time: float = 0.0
    varies: bool = False

    @property
    def working_dtype(self) -> np.dtype[Any]:
        return self.dtype

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, nbytes={self.nbytes}, setup_time={self.setup_time:.2g} s)"


def real_positive(values: Any) -> bool:
    """Whether all values are positive (and none is NaN)."""
    return bool((values > 0.0).all())
