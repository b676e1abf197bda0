"""Losses of outputs Z against targets Y, with the derivatives in the outputs that curvature products need.

A loss is the mean over samples of the sum over whatever else an output has (units; steps, in a sequence). `gradient`
and `output_hessian` are those of that mean: they hold the factor 1/samples, so that
``linearization.vjp(loss.gradient(...))`` is the gradient of the mean loss. `weights` multiplies each sample (or each
sample and step) before the mean is taken.

Each of them is -log p(Y | Z) of a distribution, except Huber's: its Fisher matrix in the outputs is `output_fisher`.
For the squared error and both cross-entropies that is the Hessian, so the Gauss-Newton matrix is the Fisher matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import real_number
from ..arrays import Array, as_array_there, contiguous, filled, kernels_for, on_device, require_together
from .network import require_finite

Weights = Array | None


class OutputCurvature:
    """A symmetric matrix M in the outputs, one block for each sample, by its products.

    `multiply` is all that a Gauss-Newton product asks of it; policies bring their own.
    """

    def multiply(self, U: Array) -> None:
        """``U = M U`` in place, for U of the outputs' shape, or with k vectors before the last axis."""
        raise NotImplementedError

    def factor(self) -> list[Array]:
        """Arrays of the outputs' shape whose outer products, sample by sample, add up to M."""
        raise NotImplementedError


class DiagonalCurvature(OutputCurvature):
    """``diag(d)``, d of the outputs' shape, or broadcasting to it."""

    def __init__(self, d: Array, shape: tuple[int, ...]) -> None:
        self.d, self.shape = d, shape

    def multiply(self, U: Array) -> None:
        U *= self.d if U.ndim == len(self.shape) else self.d[..., None, :]

    def factor(self) -> list[Array]:
        root = np.sqrt(np.broadcast_to(self.d, self.shape))
        columns = []
        for c in range(self.shape[-1]):
            column = np.zeros(self.shape, root.dtype, like=root)
            column[..., c] = root[..., c]
            columns.append(column)
        return columns


class SoftmaxCurvature(OutputCurvature):
    """``scale (diag(p) - p p')``."""

    def __init__(self, p: Array, scale: Array) -> None:
        self.p, self.scaled = p, scale * p

    def multiply(self, U: Array) -> None:
        units = self.p.shape[-1]
        k = U.shape[-2] if U.ndim > self.p.ndim else 1
        rows = contiguous(U)
        p, scaled = self.p.reshape(-1, units), self.scaled.reshape(-1, units)
        kernels_for(U).softmax_curvature(rows.reshape(-1, k, units), p, scaled)  # scale p (u - p'u)
        if rows is not U:
            U[...] = rows

    def factor(self) -> list[Array]:
        # diag(p) - p p' = sum_c p_c (e_c - p)(e_c - p)'
        columns = []
        for c in range(self.p.shape[-1]):
            column = -self.p
            column[..., c] += 1.0
            columns.append(column * np.sqrt(self.scaled[..., c : c + 1]))
        return columns


class OuterCurvature(OutputCurvature):
    """``sum_s g_s g_s'``, one product for each sample over all its outputs; the g_s have the outputs' shape."""

    def __init__(self, G: list[Array]) -> None:
        self.G = G

    def multiply(self, U: Array) -> None:
        samples, units = U.shape[0], U.shape[-1]
        k = U.shape[-2] if U.ndim > self.G[0].ndim else 1
        V = U.reshape(samples, -1, k, units)  # k vectors; a sample may have several steps
        total = np.zeros_like(V)
        for g in self.G:
            g = g.reshape(samples, -1, units)
            inner = np.einsum("itc,itkc->ik", g, V)  # g'u
            total += g[:, :, None, :] * inner[:, None, :, None]
        U[...] = total.reshape(U.shape)

    def factor(self) -> list[Array]:
        return self.G


class Loss:
    """The contract; see the module's text. A subclass writes the three methods that begin with an underscore below."""

    def value(self, Z: Array, Y: Any, weights: Any = None) -> float:
        """The mean loss, summed in double precision."""
        Z, Y, weights = self._checked(Z, Y, weights)
        losses = self._losses(Z, Y)
        if weights is not None:
            losses = losses * weights
        return float(np.sum(losses, dtype=np.float64)) / Z.shape[0]

    def gradient(self, Z: Array, Y: Any, weights: Any = None) -> Array:
        """Its gradient in the outputs, of their shape."""
        Z, Y, weights = self._checked(Z, Y, weights)
        return self._residual(Z, Y) * _scale(Z, weights)

    def output_hessian(self, Z: Array, Y: Any, weights: Any = None) -> OutputCurvature:
        """Its Hessian in the outputs."""
        Z, Y, weights = self._checked(Z, Y, weights)
        return self._curvature(Z, Y, _scale(Z, weights))

    def output_fisher(self, Z: Array, weights: Any = None) -> OutputCurvature:
        """The mean Fisher matrix of p(y | z) in the outputs: the expectation of the Hessian over y from the model."""
        return self._curvature(Z, None, _scale(Z, _checked_weights(Z, weights)))

    def sample(self, Z: Array, rng: np.random.Generator) -> Array:
        """Targets drawn from p(y | z), as the loss takes them."""
        raise NotImplementedError

    def empirical_fisher(self, Z: Array, targets: list[Any], weights: Any = None) -> OutputCurvature:
        """``mean_i g_i g_i'``, g_i the gradient of sample i's own loss, averaged over the lists of targets."""
        G = []
        for Y in targets:
            Z, Y, w = self._checked(Z, Y, weights)
            if w is not None and (w < 0.0).any():
                raise ValueError("weights must not be negative here: the Fisher matrix is positive semi-definite")
            G.append(self._residual(Z, Y) * np.sqrt(_scale(Z, w) / Z.dtype.type(len(targets))))
        return OuterCurvature(G)

    def _losses(self, Z: Array, Y: Array) -> Array:
        """Loss of each sample (and step), summed over units."""
        raise NotImplementedError

    def _residual(self, Z: Array, Y: Array) -> Array:
        """Gradient of each sample's own loss."""
        raise NotImplementedError

    def _curvature(self, Z: Array, Y: Array | None, scale: Array) -> OutputCurvature:
        """Hessian of each sample's own loss, times scale. Y is None where it does not depend on the targets."""
        raise NotImplementedError

    def _targets(self, Z: Array, Y: Any) -> Array:
        """Y, checked against Z: real numbers of its shape."""
        Y = as_array_there(Y, "Y")
        if Y.shape != Z.shape:
            raise ValueError(f"Y must have the outputs' shape {Z.shape}, got {Y.shape}")
        require_finite(Y, "Y")
        return Y.astype(Z.dtype, copy=False)

    def _checked(self, Z: Array, Y: Any, weights: Any) -> tuple[Array, Array, Weights]:
        require_together(outputs=Z, Y=Y, weights=weights)
        return Z, self._targets(Z, Y), _checked_weights(Z, weights)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SquaredError(Loss):
    r"""Half the squared error, :math:`\frac12 |z - y|^2`: the Gaussian of unit variance.

    The factor one half makes the Hessian in the outputs the identity. (Reported figures often leave it out.)

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.nn.SquaredError().value(np.array([[1.0, 2.0], [0.0, 0.0]]), np.zeros((2, 2)))
    1.25
    """

    def _losses(self, Z: Array, Y: Array) -> Array:
        return 0.5 * np.sum(np.square(Z - Y), axis=-1)

    def _residual(self, Z: Array, Y: Array) -> Array:
        return Z - Y

    def _curvature(self, Z: Array, Y: Array | None, scale: Array) -> OutputCurvature:
        return DiagonalCurvature(scale, Z.shape)

    def sample(self, Z: Array, rng: np.random.Generator) -> Array:
        return Z + rng.standard_normal(Z.shape).astype(Z.dtype)


class LogisticCrossEntropy(Loss):
    r"""Cross-entropy of independent units with logits z, :math:`\sum_c \log(1 + e^{z_c}) - y_c z_c`, y in [0, 1].

    Takes logits: the network's outputs are linear.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.nn.LogisticCrossEntropy().value(np.zeros((1, 2)), np.array([[0.0, 1.0]]))
    1.3862943611198906
    """

    def _targets(self, Z: Array, Y: Any) -> Array:
        Y = super()._targets(Z, Y)
        if ((Y < 0.0) | (Y > 1.0)).any():
            raise ValueError("Y must lie in [0, 1]: a cross-entropy takes probabilities; rescale Y")
        return Y

    def _losses(self, Z: Array, Y: Array) -> Array:
        return np.sum(np.logaddexp(Z, Z.dtype.type(0.0)) - Y * Z, axis=-1)

    def _residual(self, Z: Array, Y: Array) -> Array:
        return logistic(Z) - Y

    def _curvature(self, Z: Array, Y: Array | None, scale: Array) -> OutputCurvature:
        # p (1 - p) = logistic(z) logistic(-z), which does not cancel for large z
        return DiagonalCurvature(logistic(Z) * logistic(-Z) * scale, Z.shape)

    def sample(self, Z: Array, rng: np.random.Generator) -> Array:
        return (rng.random(Z.shape) < logistic(Z)).astype(Z.dtype)


class SoftmaxCrossEntropy(Loss):
    r"""Cross-entropy of one choice with logits z, :math:`\log \sum_c e^{z_c} - \sum_c y_c z_c`.

    Takes logits: the network's outputs are linear. Targets are labels (whole numbers from 0, of the outputs' shape
    without the last axis), or probabilities of the outputs' shape whose last axis adds up to one.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> loss = cgopt.nn.SoftmaxCrossEntropy()
    >>> loss.value(np.zeros((3, 2)), np.array([0, 1, 1]))
    0.6931471805599453
    """

    def _targets(self, Z: Array, Y: Any) -> Array:
        labels = Y if on_device(Y) else np.asarray(Y)
        if labels.dtype.kind not in "iu":
            Y = super()._targets(Z, Y)
            total = Y.sum(axis=-1)
            if (Y < 0.0).any() or (np.abs(total - 1.0) > 4.0 * Z.shape[-1] * np.finfo(np.float32).eps).any():
                raise ValueError(
                    "Y must hold probabilities that add up to one, or labels as whole numbers: Y.astype(int) for labels"
                )
            return Y
        if labels.shape != Z.shape[:-1]:
            raise ValueError(f"Y must hold labels of shape {Z.shape[:-1]}, got {labels.shape}")
        if labels.min() < 0 or labels.max() >= Z.shape[-1]:
            raise ValueError(
                f"Y must hold labels from 0 to {Z.shape[-1] - 1}, the outputs; got {labels.min()} to {labels.max()}"
            )
        return labels

    def _losses(self, Z: Array, Y: Array) -> Array:
        shifted = Z - Z.max(axis=-1, keepdims=True)
        log_sum = np.log(np.sum(np.exp(shifted), axis=-1))
        if Y.ndim < Z.ndim:
            return log_sum - np.take_along_axis(shifted, Y[..., None], axis=-1)[..., 0]
        return log_sum - np.sum(Y * shifted, axis=-1)  # the targets add up to one

    def _residual(self, Z: Array, Y: Array) -> Array:
        p = softmax(Z)
        if Y.ndim < Z.ndim:
            np.put_along_axis(p, Y[..., None], np.take_along_axis(p, Y[..., None], axis=-1) - 1.0, axis=-1)
            return p
        return p - Y

    def _curvature(self, Z: Array, Y: Array | None, scale: Array) -> OutputCurvature:
        return SoftmaxCurvature(softmax(Z), scale)

    def sample(self, Z: Array, rng: np.random.Generator) -> Array:
        # The largest of logits plus Gumbel noise is a draw from the softmax.
        return np.argmax(Z + rng.gumbel(size=Z.shape), axis=-1)


class Huber(Loss):
    r"""Huber's robust loss: :math:`\frac12 r^2` up to :math:`|r| = \delta`, then :math:`\delta |r| - \frac12 \delta^2`.

    r = z - y, unit by unit. Its Hessian in the outputs is 1 inside and 0 outside (P. Huber, 1964).

    Parameters
    ----------
    delta : float
        Positive, in units of the targets.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.nn.Huber(1.0).value(np.array([[0.5], [3.0]]), np.zeros((2, 1)))
    1.3125
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = real_number("delta", delta, above=0.0)

    def _losses(self, Z: Array, Y: Array) -> Array:
        r = np.abs(Z - Y)
        inside = np.minimum(r, self.delta)
        return np.sum(inside * (r - 0.5 * inside), axis=-1)

    def _residual(self, Z: Array, Y: Array) -> Array:
        return np.clip(Z - Y, -self.delta, self.delta)

    def _curvature(self, Z: Array, Y: Array | None, scale: Array) -> OutputCurvature:
        return DiagonalCurvature((np.abs(Z - Y) <= self.delta) * scale, Z.shape)

    def output_fisher(self, Z: Array, weights: Any = None) -> OutputCurvature:
        raise TypeError(
            "Huber is not used as a likelihood, so it has no Fisher matrix; use GaussNewton, or 'empirical'"
        )

    def sample(self, Z: Array, rng: np.random.Generator) -> Array:
        raise TypeError("Huber is not used as a likelihood to draw targets from; use GaussNewton, or 'empirical'")

    def __repr__(self) -> str:
        return f"Huber({self.delta:g})"


def logistic(Z: Array) -> Array:
    """1 / (1 + exp(-z)), to full relative accuracy."""
    small = np.exp(-np.abs(Z))
    return np.where(Z >= 0.0, Z.dtype.type(1.0), small) / (Z.dtype.type(1.0) + small)


def softmax(Z: Array) -> Array:
    """exp(z) over its sum, along the last axis."""
    p = np.exp(Z - Z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p


def _checked_weights(Z: Array, weights: Any) -> Weights:
    """Weights of samples, or of samples and steps, in the outputs' type."""
    if weights is None:
        return None
    weights = as_array_there(weights, "weights").astype(Z.dtype, copy=False)
    if weights.ndim == 0 or weights.shape != Z.shape[: weights.ndim] or weights.ndim >= Z.ndim:
        raise ValueError(f"weights must have shape ({Z.shape[0]},)" + _or_steps(Z) + f", got {weights.shape}")
    require_finite(weights, "weights")
    all_of = filled(Z.shape[:-1], 1.0, Z.dtype, like=Z)
    return weights.reshape(*weights.shape, *(1,) * (Z.ndim - 1 - weights.ndim)) * all_of


def _or_steps(Z: Array) -> str:
    return f" or {Z.shape[:-1]}" if Z.ndim > 2 else ""


def _scale(Z: Array, weights: Weights) -> Array:
    """weights / samples, with the outputs' number of axes."""
    one = Z.dtype.type(1.0 / Z.shape[0])
    return filled((1,) * Z.ndim, one, Z.dtype, like=Z) if weights is None else weights[..., None] * one
