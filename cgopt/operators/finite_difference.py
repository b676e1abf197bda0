"""Curvature by differences of gradients or outputs, with steps scaled to the point and the direction.

With u the unit roundoff of the type, and 2-norms, the step along v at x is

    one-sided:  h = sqrt(u) (1 + |x|) / |v|,   (g(x + h v) - g(x)) / h
    two-sided:  h = cbrt(u) (1 + |x|) / |v|,   (g(x + h v) - g(x - h v)) / (2 h)

so that the product is of degree one in v: a tiny v or a huge one costs no digit. A fixed step, which is what
`scipy.optimize` uses, is all noise in single precision. One-sided products cost one gradient each, since g(x) is kept;
two-sided ones cost two and are exact to the 2/3 power of the roundoff in place of its square root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import one_of
from ..arrays import Array, as_array, first_nonfinite
from .base import Operator

SIDES = ("one", "two")


class _Differences:
    """Differences of a function of a vector at one point."""

    def __init__(self, function: Callable[[Array], Any], x: Any, sides: str | None, name: str) -> None:
        if not callable(function):
            raise TypeError(f"{name} must be a function of an (n,) array, got {type(function).__name__}")
        self.function, self.name = function, name
        self.x = np.array(as_array(x, "x"))  # a copy: the point stays where it was
        if self.x.ndim != 1 or self.x.dtype.kind != "f" or self.x.size == 0:
            raise ValueError(f"x must be a real vector, got shape {self.x.shape}, {self.x.dtype}")
        if first_nonfinite(self.x) is not None:
            raise ValueError(f"x holds NaN or infinity, first at {first_nonfinite(self.x)}; all entries must be finite")
        self.sides = one_of("sides", sides or ("two" if self.x.dtype == np.float32 else "one"), SIDES)
        unit = np.finfo(self.x.dtype).eps / 2.0
        length = 1.0 + float(np.linalg.norm(self.x.astype(np.float64)))
        self._length = length * float(np.sqrt(unit) if self.sides == "one" else np.cbrt(unit))
        # Truncation and rounding balance at this step; the factor covers what was measured, see the tests.
        self.error = 10.0 * float(np.sqrt(unit) if self.sides == "one" else np.cbrt(unit) ** 2)
        self.at_x = self(self.x)  # one-sided differences start from here; two-sided ones learn the shape
        self.calls = 1

    def __call__(self, x: Array) -> Array:
        value = np.asarray(self.function(x))
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{self.name} must return real numbers, got {value.dtype}")
        if first_nonfinite(value) is not None:
            raise ValueError(f"{self.name} returned NaN or infinity near x; it must be finite there")
        return value.astype(np.result_type(value, self.x), copy=True)

    def along(self, v: Array) -> Array:
        """The derivative of the function along v."""
        wide = v.astype(np.float64)
        largest = float(np.max(np.abs(wide)))
        if largest == 0.0:
            return np.zeros_like(self.at_x)
        unit = wide / largest
        unit /= np.linalg.norm(unit)  # |v| itself might overflow or vanish
        size = largest * float(np.linalg.norm(wide / largest))
        step = (self._length * unit).astype(self.x.dtype)
        if self.sides == "one":
            self.calls += 1
            slope = (self(self.x + step) - self.at_x) / self._length
        else:
            self.calls += 2
            slope = (self(self.x + step) - self(self.x - step)) / (2.0 * self._length)
        return slope * size


class FiniteDifferenceHessian(Operator):
    """The Hessian at x by differences of gradients.

    Parameters
    ----------
    gradient : callable
        (n,) array to the gradient there, (n,).
    x : (n,) float32 or float64 array
        Copied. Its type sets the step: the gradient should be exact to that type.
    sides : {"one", "two"}, optional
        By default one in double and two in single precision.

    Attributes
    ----------
    gradient_at_x : (n,) array
        Computed once.
    calls : int
        Gradients computed so far.

    Notes
    -----
    Products are symmetric and linear up to the error of the differences only: about 4e-8 one-sided and 1e-10 two-sided
    relative in double precision, 4e-5 two-sided in single (a network of 5,090 parameters). Solvers allow for it where
    they test symmetry, but reach no smaller residual. Across kinks (rectifiers) the products are biased.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> H = cgopt.operators.FiniteDifferenceHessian(lambda x: x**3, np.array([1.0, 2.0]), sides="two")
    >>> np.round(H @ np.array([1.0, 1.0]), 6)
    array([ 3., 12.])
    """

    def __init__(self, gradient: Callable[[Array], Any], x: Any, *, sides: str | None = None) -> None:
        self._differences = _Differences(gradient, x, sides, "gradient")
        x = self._differences.x
        self.gradient_at_x, self.product_error = self._differences.at_x, self._differences.error
        if self.gradient_at_x.shape != x.shape:
            raise ValueError(f"gradient must return an array of shape {x.shape}, got {self.gradient_at_x.shape}")
        self.shape, self.dtype, self.sides = (x.size, x.size), x.dtype, self._differences.sides

    @property
    def calls(self) -> int:
        """Gradients computed so far."""
        return self._differences.calls

    def _matvec(self, x: Array, out: Array) -> None:
        out[...] = self._differences.along(x)

    @property
    def nbytes(self) -> int:
        """Bytes of x and the gradient there."""
        return int(self._differences.x.nbytes + self.gradient_at_x.nbytes)

    def __repr__(self) -> str:
        return f"FiniteDifferenceHessian(shape={self.shape}, dtype={self.dtype}, {self.sides}-sided)"


class FiniteDifferenceGaussNewton(Operator):
    """The Gauss-Newton matrix ``J' M J`` with J v by differences of the outputs, and J' from a reverse pass.

    Only J v is approximate. Where `vjp` is exact the products err by its error, and by no difference of gradients.

    Parameters
    ----------
    outputs : callable
        (n,) array to the outputs, of any shape.
    vjp : callable
        Array u of the outputs' shape to J'u at x, (n,).
    x : (n,) float32 or float64 array
        Copied.
    M : object with ``multiply(U)``, in place, optional
        Such as ``loss.output_hessian(outputs(x), Y)``; by default the identity, that of half the sum of squares.
    sides : {"one", "two"}, optional
        By default one in double and two in single precision.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> J = np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]])
    >>> G = cgopt.operators.FiniteDifferenceGaussNewton(lambda x: J @ x, lambda u: J.T @ u, np.zeros(2))
    >>> np.round(G @ np.eye(2), 6)
    array([[ 2.,  3.],
           [ 3., 14.]])
    """

    def __init__(
        self,
        outputs: Callable[[Array], Any],
        vjp: Callable[[Array], Any],
        x: Any,
        M: Any = None,
        *,
        sides: str | None = None,
    ) -> None:
        self._differences = _Differences(outputs, x, sides, "outputs")
        self.vjp, self.M, self.product_error = vjp, M, self._differences.error
        x = self._differences.x
        self.shape, self.dtype, self.sides = (x.size, x.size), x.dtype, self._differences.sides

    @property
    def calls(self) -> int:
        """Outputs computed so far."""
        return self._differences.calls

    def _matvec(self, x: Array, out: Array) -> None:
        u = self._differences.along(x)  # J v
        if self.M is not None:
            self.M.multiply(u)
        product = np.asarray(self.vjp(u))  # J' M J v
        if product.shape != out.shape:
            raise ValueError(f"vjp must return an array of shape {out.shape}, got {product.shape}")
        out[...] = product

    @property
    def nbytes(self) -> int:
        """Bytes of x and the outputs there."""
        return int(self._differences.x.nbytes + self._differences.at_x.nbytes)

    def __repr__(self) -> str:
        return f"FiniteDifferenceGaussNewton(shape={self.shape}, dtype={self.dtype}, {self.sides}-sided)"
