"""Starting points: each scheme fills one layer's weights (inputs, units) and biases (units,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import nearest_names, one_of, real_number, whole_number
from ..arrays import Array

Rng = np.random.Generator


def scaled(weights: Array, bias: Array, rng: Rng, *, gain: float = 1.0) -> None:
    """Normal with variance ``gain^2 * 2 / (inputs + units)``, biases zero (Glorot and Bengio 2010, eq. 12's variance).

    With ``gain=sqrt(2)`` and layers of equal size it is that of He et al. (2015) for rectifiers.
    """
    inputs, units = weights.shape
    gain = real_number("gain", gain, above=0.0)
    weights[...] = gain * np.sqrt(2.0 / (inputs + units)) * rng.standard_normal(weights.shape)


def sparse(
    weights: Array, bias: Array, rng: Rng, *, connections: int = 15, scale: float = 1.0, bias_value: float = 0.0
) -> None:
    """Each unit takes `connections` of its inputs, with weights from N(0, scale^2) (Martens 2010, section 5).

    For tanh, Sutskever et al. (2013) use ``scale=0.5`` and ``bias_value=0.5``.
    """
    inputs, units = weights.shape
    count = min(whole_number("connections", connections), inputs)
    scale = real_number("scale", scale, above=0.0)
    chosen = rng.permuted(np.tile(np.arange(inputs), (units, 1)), axis=1)[:, :count]
    values = np.zeros((units, inputs))
    np.put_along_axis(values, chosen, scale * rng.standard_normal((units, count)), axis=1)
    weights[...] = values.T
    bias[...] = real_number("bias_value", bias_value)


def orthogonal(weights: Array, bias: Array, rng: Rng, *, gain: float = 1.0) -> None:
    """Orthonormal rows or columns, uniform over such matrices, times gain; biases zero (Saxe et al. 2014)."""
    inputs, units = weights.shape
    gain = real_number("gain", gain, above=0.0)
    Q, R = np.linalg.qr(rng.standard_normal((max(inputs, units), min(inputs, units))))
    Q *= np.sign(np.diag(R))  # uniform (Haar) only with positive diagonals in R
    weights[...] = gain * (Q if inputs >= units else Q.T)


def zero(weights: Array, bias: Array, rng: Rng) -> None:
    """All zero: for models without hidden layers."""


SCHEMES: dict[str, Callable[..., None]] = {
    "scaled": scaled,
    "sparse": sparse,
    "orthogonal": orthogonal,
    "zero": zero,
}


def scheme(name: str, options: dict[str, Any]) -> Callable[[Array, Array, Rng], None]:
    """A scheme by name, with its options."""
    fill = SCHEMES[one_of("scheme", name, SCHEMES)]
    known = tuple(fill.__kwdefaults__ or ())
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            raise ValueError(
                f"{option} is no option of the scheme {name!r}, which {takes}.{nearest_names(option, known)}"
            )
    return lambda weights, bias, rng: fill(weights, bias, rng, **options)
