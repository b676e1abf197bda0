"""Activation functions, with the two derivatives that curvature products need, as functions of what is cached.

A forward pass keeps h = f(a) and d = f'(a). Every product needs d only; the second derivative, for the full Hessian,
follows from h and d, so that a is not kept.
"""

from __future__ import annotations

import numpy as np

from ..arguments import one_of
from ..arrays import Array


class Activation:
    """``f`` of one kind. The identity is None everywhere: a layer without one."""

    name: str

    def apply(self, a: Array, out: Array) -> None:
        """``out = f(a)``; a may be overwritten."""
        raise NotImplementedError

    def derivative(self, h: Array, out: Array) -> None:
        """``out = f'(a)``, from ``h = f(a)``."""
        raise NotImplementedError

    def second_derivative(self, h: Array, d: Array) -> Array | None:
        """``f''(a)`` from h and ``d = f'(a)``; None where it is zero."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name


class Tanh(Activation):
    """tanh a."""

    name = "tanh"

    def apply(self, a: Array, out: Array) -> None:
        np.tanh(a, out=out)

    def derivative(self, h: Array, out: Array) -> None:
        np.multiply(h, h, out=out)
        np.subtract(1.0, out, out=out)  # 1 - h^2

    def second_derivative(self, h: Array, d: Array) -> Array | None:
        return -2.0 * h * d


class Logistic(Activation):
    """1 / (1 + exp(-a)), as (1 + tanh(a/2)) / 2, which cannot overflow and has a fast vector form."""

    name = "logistic"

    def apply(self, a: Array, out: Array) -> None:
        np.multiply(a, 0.5, out=a)
        np.tanh(a, out=out)
        out *= 0.5
        out += 0.5

    def derivative(self, h: Array, out: Array) -> None:
        np.subtract(1.0, h, out=out)
        out *= h  # h (1 - h)

    def second_derivative(self, h: Array, d: Array) -> Array | None:
        return d * (1.0 - 2.0 * h)


class ReLU(Activation):
    """max(a, 0); the derivative at 0 is taken as 0."""

    name = "relu"

    def apply(self, a: Array, out: Array) -> None:
        np.maximum(a, 0.0, out=out)

    def derivative(self, h: Array, out: Array) -> None:
        np.greater(h, 0.0, out=out, casting="unsafe")

    def second_derivative(self, h: Array, d: Array) -> Array | None:
        return None


class Softplus(Activation):
    """log(1 + exp a)."""

    name = "softplus"

    def apply(self, a: Array, out: Array) -> None:
        np.logaddexp(a, 0.0, out=out)

    def derivative(self, h: Array, out: Array) -> None:
        np.negative(h, out=out)
        np.expm1(out, out=out)
        np.negative(out, out=out)  # 1 - exp(-h) = 1 / (1 + exp(-a))

    def second_derivative(self, h: Array, d: Array) -> Array | None:
        return d * (1.0 - d)


ACTIVATIONS: dict[str, Activation | None] = {
    "tanh": Tanh(),
    "logistic": Logistic(),
    "relu": ReLU(),
    "softplus": Softplus(),
    "linear": None,
}


def as_activation(value: object, name: str) -> Activation | None:
    """The activation of a name."""
    return ACTIVATIONS[one_of(name, value, ACTIVATIONS)]
