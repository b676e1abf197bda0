"""The preconditioner's contract: a symmetric positive definite approximation of the inverse of A."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..arrays import Array
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


class Scratch:
    """Vectors that a preconditioner works in, made once for each data type; one application at a time has them.

    Parameters
    ----------
    count, n : int
        How many, and of what length.
    like : array, optional
        Where they lie.

    Attributes
    ----------
    lock : threading.Lock
        To be held while they are in use.
    """

    def __init__(self, count: int, n: int, like: Any = None) -> None:
        self.count, self.n, self.like = count, n, np.empty(0) if like is None else like[:0]
        self.lock = threading.Lock()
        self._arrays: dict[np.dtype[Any], Array] = {}

    def vectors(self, dtype: np.dtype[Any]) -> Array:
        """A (count, n) array."""
        if dtype not in self._arrays:
            self._arrays[dtype] = np.empty((self.count, self.n), dtype, like=self.like)
        return self._arrays[dtype]

    def __reduce__(self) -> tuple[type[Scratch], tuple[Any, ...]]:
        return Scratch, (self.count, self.n, self.like)


def real_positive(values: Any) -> bool:
    """Whether all values are positive (and none is NaN)."""
    return bool((values > 0.0).all())
