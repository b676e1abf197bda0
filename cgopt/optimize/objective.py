"""What a minimiser may ask of a function: its value, its gradient, and its curvature as an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import real_number
from ..arrays import Array, as_array_there, first_nonfinite, on_device
from ..operators import Damped, FiniteDifferenceHessian, GaussNewton, Operator

VALUE_COST = 1.0 / 3.0  # of a gradient: the forward pass, of three matrix products for each weight one


class Objective:
    """A function to minimise, which counts what is asked of it.

    Subclasses write ``_value``, ``_gradient`` and ``_curvature``, and may write `squared_gradients`. The gradient at
    the last point is kept, so that asking twice costs once.

    Attributes
    ----------
    values, gradients, products : int
        Evaluations so far; finite differences count as the gradients that they take.
    product_cost : float
        Of a product, in gradients: the share of the data that products are over.
    """

    product_cost = 1.0

    def __init__(self) -> None:
        self.values = self.gradients = self.products = 0
        self._at: Array | None = None
        self._kept: Array | None = None

    def _value(self, x: Array) -> float:
        raise NotImplementedError

    def _gradient(self, x: Array) -> Array:
        raise NotImplementedError

    def _curvature(self, x: Array) -> Operator:
        raise NotImplementedError

    def value(self, x: Array) -> float:
        """f(x); infinite where it is not a number, so that no step ends there."""
        self.values += 1
        with np.errstate(all="ignore"):
            value = float(self._value(x))
        return np.inf if np.isnan(value) else value

    def gradient(self, x: Array) -> Array:
        """The gradient at x, (n,)."""
        if self._at is None or self._kept is None or not np.array_equal(self._at, x):
            self.gradients += 1
            with np.errstate(all="ignore"):
                gradient = self._gradient(x)
                gradient = gradient if on_device(gradient) else np.asarray(gradient)
            if gradient.shape != x.shape:
                raise ValueError(f"the gradient must have the shape of x, {x.shape}, got {gradient.shape}")
            self.remember(x, gradient.astype(x.dtype))
        assert self._kept is not None
        return self._kept

    def remember(self, x: Array, gradient: Array) -> None:
        """Keep the gradient at x, which is known."""
        self._at, self._kept = x.copy(), gradient.copy()

    def curvature(self, x: Array) -> Operator:
        """The Hessian at x or what stands for it: one matrix for as long as the operator lives."""
        return Counted(self._curvature(x), self)

    def squared_gradients(self, x: Array) -> Array | None:
        """Mean square of each sample's gradient, (n,): what Martens' preconditioner is made of. None if unknown."""
        return None

    def state(self) -> dict[str, Any]:
        """What a run that goes on later needs: the counts, and which data comes next."""
        return {"values": self.values, "gradients": self.gradients, "products": self.products}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.values, self.gradients = int(state["values"]), int(state["gradients"])
        self.products = int(state["products"])

    @property
    def cost(self) -> float:
        """Work so far in units of a gradient: a value is a third of one, a product over all the data is one."""
        return VALUE_COST * self.values + self.gradients + self.product_cost * self.products


class Counted(Operator):
    """An operator whose products are counted by an objective."""

    def __init__(self, operator: Operator, objective: Objective) -> None:
        self.operator, self.objective = operator, objective
        self.shape, self.dtype, self.on_device = operator.shape, operator.dtype, operator.on_device

    def _matvec(self, x: Array, out: Array) -> None:
        if not isinstance(self.operator, FiniteDifferenceHessian):  # those are counted as gradients
            self.objective.products += 1
        self.operator.matvec(x, out=out)

    def diagonal(self) -> Array | None:
        """The operator's diagonal, where it is known."""
        return self.operator.diagonal()


class HessianOf(Operator):
    """``v -> hvp(x, v)`` at a fixed x."""

    def __init__(self, hvp: Callable[..., Any], x: Array, args: tuple[Any, ...]) -> None:
        self.hvp, self.x, self.args = hvp, x.copy(), args
        self.shape, self.dtype = (x.size, x.size), x.dtype

    def _matvec(self, x: Array, out: Array) -> None:
        product = np.asarray(self.hvp(self.x, x, *self.args))
        if product.shape != out.shape:
            raise ValueError(f"hvp must return an array of shape {out.shape}, got {product.shape}")
        out[...] = product


class FunctionObjective(Objective):
    """An objective of plain functions.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)``, a number; or the pair of it and the gradient where `jac` is True.
    jac : callable or True
        ``jac(x, *args)``, the gradient, (n,).
    hvp : callable, optional
        ``hvp(x, v, *args)``, the Hessian times v. Without it, scaled finite differences of the gradient.
    args : tuple
    """

    def __init__(
        self, fun: Callable[..., Any], jac: Any, hvp: Callable[..., Any] | None = None, args: tuple[Any, ...] = ()
    ) -> None:
        super().__init__()
        if not callable(fun):
            raise TypeError(f"fun must be a function, got {type(fun).__name__}")
        if jac is not True and not callable(jac):
            raise TypeError("jac must be a function that returns the gradient, or True where fun returns it too")
        self.fun, self.jac, self.hvp, self.args = fun, jac, hvp, args
        self._pair: tuple[Array, float, Array] | None = None

    def _both(self, x: Array) -> tuple[float, Array]:
        """Value and gradient of a function that returns both, kept for the other of the two questions."""
        if self._pair is None or not np.array_equal(self._pair[0], x):
            value, gradient = self.fun(x.copy(), *self.args)
            self._pair = x.copy(), float(value), np.array(gradient)
        return self._pair[1], self._pair[2]

    def _value(self, x: Array) -> float:
        return self._both(x)[0] if self.jac is True else float(self.fun(x.copy(), *self.args))

    def _gradient(self, x: Array) -> Array:
        return self._both(x)[1] if self.jac is True else np.asarray(self.jac(x.copy(), *self.args))

    def _curvature(self, x: Array) -> Operator:
        if self.hvp is not None:
            return HessianOf(self.hvp, x, self.args)
        return FiniteDifferenceHessian(self._for_differences, x)

    def _for_differences(self, x: Array) -> Array:
        """The gradient for finite differences: that at the current point is known."""
        if self._at is not None and np.array_equal(self._at, x):
            return self.gradient(x)
        self.gradients += 1
        return self._gradient(x)


class NetworkObjective(Objective):
    """The mean loss of a network on a batch, with the Gauss-Newton matrix as its curvature.

    Parameters
    ----------
    network : Network
        Such as `cgopt.nn.MLP`.
    loss : Loss
    X, Y : arrays
        Inputs and targets.
    l2 : float
        Adds ``l2/2 |theta|^2``.
    curvature_samples : int, optional
        Products are over so many of the samples, the next ones in order at each step; all by default.
    structural : float
        Structural damping of recurrent networks, as `cgopt.operators.GaussNewton` takes it.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([2, 3, 1])
    >>> X = np.random.default_rng(0).standard_normal((50, 2))
    >>> f = cgopt.optimize.NetworkObjective(network, cgopt.nn.SquaredError(), X, X[:, :1] * X[:, 1:])
    >>> result = cgopt.optimize.hessian_free(f, network.init(0), maxiter=60)
    >>> bool(result.fun < 1e-2 * f.value(network.init(0)))
    True
    """

    def __init__(
        self,
        network: Any,
        loss: Any,
        X: Array,
        Y: Array,
        *,
        l2: float = 0.0,
        curvature_samples: int | None = None,
        structural: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.X, self.Y = network, loss, X, Y
        self.l2, self.structural = real_number("l2", l2), structural
        self.curvature_samples = len(X) if curvature_samples is None else min(int(curvature_samples), len(X))
        self.product_cost = self.curvature_samples / len(X)
        self.turn = 0  # which samples the next curvature is of

    def _value(self, x: Array) -> float:
        value: float = self.loss.value(self.network.forward(x, self.X), self.Y)
        return value + 0.5 * self.l2 * float(np.dot(x.astype(np.float64), x))

    def _gradient(self, x: Array) -> Array:
        _, gradient = self.network.loss_and_gradient(x, self.X, self.loss, self.Y)
        out: Array = gradient + self.l2 * x
        return out

    def _curvature(self, x: Array) -> Operator:
        size, n = self.curvature_samples, len(self.X)
        chosen: Any = slice(None)
        if size < n:
            chosen = np.arange(self.turn * size, (self.turn + 1) * size, like=x) % n
            self.turn += 1
        G = GaussNewton(
            self.network.linearize(x, self.X[chosen]), self.loss, self.Y[chosen], structural=self.structural
        )
        return Damped(G, self.l2) if self.l2 else G

    def state(self) -> dict[str, Any]:
        """As that of `Objective`, with the place in the data."""
        return super().state() | {"turn": self.turn}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self.turn = int(state["turn"])

    def squared_gradients(self, x: Array) -> Array | None:
        """Mean square of the samples' gradients, by one squared backward pass."""
        self.gradients += 1
        at = self.network.linearize(x, self.X)
        # the loss's gradient in the outputs is of the mean; each sample's own is so many times as large
        squares = at.squared_vjp(len(self.X) * self.loss.gradient(at.output, self.Y))
        mean: Array = squares / len(self.X)
        return mean


def starting_point(x0: Any) -> Array:
    """x0 as a real vector that nobody else holds."""
    x: Array = as_array_there(x0, "x0").copy()
    if x.ndim != 1 or x.dtype.kind != "f" or x.size == 0:
        raise ValueError(f"x0 must be a real vector with at least one entry, got shape {x.shape}, {x.dtype}")
    if first_nonfinite(x) is not None:
        raise ValueError(f"x0 holds NaN or infinity at index {first_nonfinite(x)}; every entry must be finite")
    return x
