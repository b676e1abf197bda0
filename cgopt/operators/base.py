"""What a solver multiplies by: the operator's contract, and the ways operators compose."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, contiguous


class Operator:
    """A linear operator: `shape`, `dtype`, `matvec`, and what follows from them.

    Subclasses write ``_matvec(x, out)``; a faster ``_matmat(X, out)`` and a `diagonal` where they have one.
    Operators compose: ``A + B``, ``s * A``, ``A @ x``, ``A @ X``.

    Attributes
    ----------
    product_error : float
        Relative error of products beyond rounding, 0 but for finite differences. Tests of symmetry allow for it.
    on_device : bool
        Whether it multiplies CuPy arrays.
    capturable : bool
        Whether products on a GPU are launches only, in an order and with memory that do not change from one to the
        next: a solver may then record them as a CUDA graph.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    product_error: float = 0.0
    on_device: bool = False
    capturable: bool = False

    def _matvec(self, x: Array, out: Array) -> None:
        raise NotImplementedError

    def _matmat(self, X: Array, out: Array) -> None:
        column = np.empty(self.shape[0], out.dtype, like=X)
        for j in range(X.shape[1]):
            self._matvec(contiguous(X[:, j]), column)
            out[:, j] = column

    def matvec(self, x: Array, out: Array | None = None) -> Array:
        """``A x``.

        Parameters
        ----------
        x : (n,) array
        out : (n,) array, optional
            Where to write it.

        Returns
        -------
        (n,) array
        """
        if x.shape != (self.shape[1],):
            raise ValueError(f"x must have shape ({self.shape[1]},), got {x.shape}")
        if out is None:
            out = np.empty(self.shape[0], np.result_type(self.dtype, x.dtype), like=x)
        self._matvec(x, out)
        return out

    def matmat(self, X: Array, out: Array | None = None) -> Array:
        """``A X`` for (n, k) X; arguments as for `matvec`."""
        if X.ndim != 2 or X.shape[0] != self.shape[1]:
            raise ValueError(f"X must have shape ({self.shape[1]}, k), got {X.shape}")
        if out is None:
            out = np.empty((self.shape[0], X.shape[1]), np.result_type(self.dtype, X.dtype), like=X)
        self._matmat(X, out)
        return out

    def rmatvec(self, x: Array) -> Array:
        """``A^H x``; the operator is Hermitian, so this is ``A x``."""
        return self.matvec(x)

    def diagonal(self) -> Array | None:
        """The diagonal as an (n,) array, or None where it is not known without n products."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes held by the operator's own arrays."""
        return 0

    def to_scipy(self) -> Any:
        """The operator as a `scipy.sparse.linalg.LinearOperator`."""
        from scipy.sparse.linalg import LinearOperator

        def flat(x: Array) -> Array:
            return self.matvec(np.ascontiguousarray(x).reshape(-1))

        return LinearOperator(
            self.shape,
            matvec=flat,
            rmatvec=flat,
            matmat=lambda X: self.matmat(np.ascontiguousarray(X)),
            dtype=self.dtype,
        )

    def __matmul__(self, x: Any) -> Array:
        x = contiguous(x)
        return self.matmat(x) if x.ndim == 2 else self.matvec(x)

    def __add__(self, other: Any) -> Operator:
        from .matrices import as_operator

        return Sum(self, as_operator(other, name="the other summand"))

    def __mul__(self, factor: Any) -> Operator:
        return Scaled(self, factor)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, nbytes={self.nbytes})"


class Sum(Operator):
    """``A + B``."""

    def __init__(self, A: Operator, B: Operator) -> None:
        if A.shape != B.shape:
            raise ValueError(f"operators of shapes {A.shape} and {B.shape} cannot be added")
        self.A, self.B = A, B
        self.shape, self.dtype = A.shape, np.result_type(A.dtype, B.dtype)
        if A.on_device != B.on_device:
            raise TypeError("an operator on the GPU and one in host memory cannot be added; move one of them")
        self.on_device, self.capturable = A.on_device, A.capturable and B.capturable
        self.product_error = max(A.product_error, B.product_error)

    def _matvec(self, x: Array, out: Array) -> None:
        self.A.matvec(x, out=out)
        out += self.B.matvec(x)

    def _matmat(self, X: Array, out: Array) -> None:
        self.A.matmat(X, out=out)
        out += self.B.matmat(X)

    def diagonal(self) -> Array | None:
        """The sum of the diagonals, where both are known."""
        a, b = self.A.diagonal(), self.B.diagonal()
        return None if a is None or b is None else a + b

    @property
    def nbytes(self) -> int:
        """Bytes held by both."""
        return self.A.nbytes + self.B.nbytes

    def __repr__(self) -> str:
        return f"{self.A!r} + {self.B!r}"


class Scaled(Operator):
    """``factor * A`` with a real factor."""

    def __init__(self, A: Operator, factor: float) -> None:
        if not np.isscalar(factor) or not np.isreal(factor) or not np.isfinite(factor):
            raise ValueError(f"factor must be a finite real number, got {factor!r}")
        self.A, self.factor = A, float(factor)  # type: ignore[arg-type]
        self.shape, self.dtype, self.product_error = A.shape, A.dtype, A.product_error
        self.on_device, self.capturable = A.on_device, A.capturable

    def _matvec(self, x: Array, out: Array) -> None:
        self.A.matvec(x, out=out)
        out *= self.factor

    def _matmat(self, X: Array, out: Array) -> None:
        self.A.matmat(X, out=out)
        out *= self.factor

    def diagonal(self) -> Array | None:
        """The scaled diagonal, where it is known."""
        d = self.A.diagonal()
        return None if d is None else self.factor * d

    @property
    def nbytes(self) -> int:
        """Bytes held by A."""
        return self.A.nbytes

    def __repr__(self) -> str:
        return f"{self.factor:g} * {self.A!r}"


class Damped(Operator):
    """``A + lam I``: Tikhonov's or Levenberg-Marquardt's damping.

    Parameters
    ----------
    A : anything `as_operator` takes
    lam : float
        Not negative.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.operators.Damped(np.diag([1.0, 2.0]), 0.5) @ np.ones(2)
    array([1.5, 2.5])
    """

    def __init__(self, A: Any, lam: float) -> None:
        from .matrices import as_operator

        if not np.isscalar(lam) or not np.isreal(lam) or not 0.0 <= lam < np.inf:  # type: ignore[operator]
            raise ValueError(f"lam must be a finite number that is not negative, got {lam!r}")
        self.A, self.lam = as_operator(A), float(lam)  # type: ignore[arg-type]
        self.shape, self.dtype, self.product_error = self.A.shape, self.A.dtype, self.A.product_error
        self.on_device, self.capturable = self.A.on_device, self.A.capturable

    def _matvec(self, x: Array, out: Array) -> None:
        self.A.matvec(x, out=out)
        out += self.lam * x

    def _matmat(self, X: Array, out: Array) -> None:
        self.A.matmat(X, out=out)
        out += self.lam * X

    def diagonal(self) -> Array | None:
        """The damped diagonal, where A's is known."""
        d = self.A.diagonal()
        return None if d is None else d + self.lam

    @property
    def nbytes(self) -> int:
        """Bytes held by A."""
        return self.A.nbytes

    def __repr__(self) -> str:
        return f"Damped({self.A!r}, lam={self.lam:g})"
