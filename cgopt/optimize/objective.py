"""What a minimiser may ask of a function: its value, its gradient, and its curvature as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..arguments import real_number, whole_number
from ..arrays import Array, as_array_there, contiguous, first_nonfinite, on_device
from ..kernels import gpu
from ..operators import Damped, FiniteDifferenceHessian, GaussNewton, Operator

VALUE_COST = 1.0 / 3.0  # of a gradient: the forward pass, of three matrix products for each weight one
PIECE = 4096  # samples that a network is given at once


class Objective:
    """A function to minimise, which counts what is asked of it.

    Subclasses write ``_value``, ``_gradient`` and ``_curvature``, and may write `squared_gradients`. The gradient at
    the last point is kept, so that asking twice costs once.

    Attributes
    ----------
    values, gradients, products : int
        Evaluations so far; finite differences count as the gradients that they take.
    value_cost, gradient_cost, product_cost : float
        Of each, in gradients over all the data: with the share of the data that it is over.
    """

    value_cost, gradient_cost, product_cost = VALUE_COST, 1.0, 1.0

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

    def damped(self, B: Operator, lam: float) -> Operator:
        """What a solve with the damping lam is of, B the last `curvature`: ``B + lam I``."""
        return Damped(B, lam)

    def advance(self) -> bool:
        """A step is over: whether the function is another one from now on, as one of other samples is."""
        return False

    def squared_gradients(self, x: Array) -> Array | None:
        """Mean square of each sample's gradient, (n,): what Martens' preconditioner is made of. None if unknown."""
        return None

    def kronecker_factors(self, x: Array) -> list[tuple[Array, Array]] | None:
        """Pairs of arrays whose Kronecker products approximate blocks of the curvature. None if unknown."""
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
        return self.value_cost * self.values + self.gradient_cost * self.gradients + self.product_cost * self.products


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
    """The mean loss of a network over samples, with the Gauss-Newton matrix as its curvature.

    Loss, gradient and curvature may be over a part of the samples each, another one in each step of a minimiser. All
    that a step asks for is then of the same parts: a linear solve is with one matrix, and a line search compares values
    of one function.

    Parameters
    ----------
    network : Network
        Such as `cgopt.nn.MLP`.
    loss : Loss
    X, Y : arrays
        Inputs and targets.
    weights : array, optional
        Of the samples (or samples and steps), as the loss takes them.
    l2 : float
        Adds ``l2/2 |theta|^2``.
    gradient_samples : int, optional
        Gradients are over so many of the samples; all by default.
    curvature_samples : int, optional
        Products are over so many: as many as gradients by default. Where gradients are over a part, these are among
        them (Byrd, Chin, Neveitt and Nocedal 2011): the model's two terms then err together.
    loss_samples : int, optional
        Values are over so many, chosen apart; by default over those of the gradient. Values over all of the samples
        tell whether a step helps beyond the part that it was computed on.
    seed : int, optional
        Samples are taken in an order that is drawn anew whenever all have been; without it in the order in which they
        lie. The same seed gives the same steps, to the last bit.
    structural : float
        Structural damping of recurrent networks (Martens and Sutskever 2011): where `hessian_free` adds lam, it adds
        so many times lam of the hidden states' distance as well (see `cgopt.operators.GaussNewton`).

    Notes
    -----
    With parts, ``fun`` and ``gtol`` are of the part at hand: give a run an end by `maxiter` or a callback.

    References
    ----------
    R. H. Byrd, G. M. Chin, W. Neveitt and J. Nocedal, SIAM J. Optim. 21, 2011.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([2, 3, 1])
    >>> X = np.random.default_rng(0).standard_normal((50, 2))
    >>> f = cgopt.optimize.NetworkObjective(network, cgopt.nn.SquaredError(), X, X[:, :1] * X[:, 1:])
    >>> result = cgopt.optimize.hessian_free(f, network.init(0), maxiter=60)
    >>> bool(result.fun < 1e-2 * f.value(network.init(0)))
    True

    Gradients over 30 samples and products over 10 of them, others in each step:

    >>> parts = cgopt.optimize.NetworkObjective(
    ...     network, cgopt.nn.SquaredError(), X, X[:, :1] * X[:, 1:], gradient_samples=30, curvature_samples=10, seed=0
    ... )
    >>> bool(f.value(cgopt.optimize.hessian_free(parts, network.init(0), maxiter=60).x) < f.value(network.init(0)))
    True
    """

    def __init__(
        self,
        network: Any,
        loss: Any,
        X: Array,
        Y: Array,
        *,
        weights: Array | None = None,
        l2: float = 0.0,
        gradient_samples: int | None = None,
        curvature_samples: int | None = None,
        loss_samples: int | None = None,
        seed: int | None = None,
        structural: float = 0.0,
    ) -> None:
        super().__init__()
        X, Y = (a if on_device(a) else np.asarray(a) for a in (X, Y))
        if weights is not None and not on_device(weights):
            weights = np.asarray(weights)
        if len(X) != len(Y) or (weights is not None and len(X) != len(weights)):
            raise ValueError(f"X, Y and weights must have as many samples each; X has {len(X)}, Y has {len(Y)}")
        self.network, self.loss, self.X, self.Y, self.weights = network, loss, X, Y, weights
        self.l2, self.structural = real_number("l2", l2), real_number("structural", structural)
        n = len(X)
        sizes = {"gradient": gradient_samples, "curvature": curvature_samples, "loss": loss_samples}
        for name, size in sizes.items():
            if size is not None and whole_number(f"{name}_samples", size) > n:
                raise ValueError(f"{name}_samples must be at most {n}, the samples that there are; got {size}")
        self.gradient_samples = gradient_samples or n
        self.curvature_samples = curvature_samples or self.gradient_samples
        self.loss_samples = loss_samples or self.gradient_samples
        if self.curvature_samples > self.gradient_samples:
            raise ValueError(
                f"curvature_samples must be at most gradient_samples, {self.gradient_samples}, since they are among "
                f"those; got {curvature_samples}"
            )
        self._apart = loss_samples is not None
        self.product_cost, self.gradient_cost = self.curvature_samples / n, self.gradient_samples / n
        self.value_cost = VALUE_COST * self.loss_samples / n
        self.seed = None if seed is None else whole_number("seed", seed, minimum=0)
        self.turn = 0  # which samples are next
        self._orders: dict[tuple[int, int], Array] = {}
        self._linearizations: dict[int, Any] = {}
        self._curved: tuple[Any, Any, Any] | None = None  # linearisation, targets and weights of the last curvature

    def _order(self, stream: int, epoch: int) -> Array:
        """The samples in the order of a time through them."""
        if self.seed is None:
            return np.arange(len(self.X))
        if (stream, epoch) not in self._orders:
            self._orders = {key: kept for key, kept in self._orders.items() if key[0] != stream or key[1] == epoch - 1}
            self._orders[stream, epoch] = np.random.default_rng([self.seed, stream, epoch]).permutation(len(self.X))
        return self._orders[stream, epoch]

    def _part(self, size: int, stream: int) -> Array:
        """Which samples the turn's part of a size is of: the next ones, through all of them again and again."""
        n = len(self.X)
        if size == n:
            return np.arange(n)
        epoch, start = divmod(self.turn * size, n)
        chosen = self._order(stream, epoch)[start : start + size]
        return (
            chosen if len(chosen) == size else np.append(chosen, self._order(stream, epoch + 1)[: size - len(chosen)])
        )

    def _gradient_part(self) -> Array:
        return self._part(self.gradient_samples, 0)

    def advance(self) -> bool:
        """Go on to the next parts; whether values or gradients are of other samples from now on."""
        self.turn += 1
        changed = min(self.gradient_samples, self.loss_samples) < len(self.X)
        if changed:
            self._at = None
        return changed

    def _pieces(self, chosen: Array) -> Iterator[tuple[float, Array, Array, Array | None]]:
        """Samples in pieces that need not much memory, with their shares."""
        for start in range(0, len(chosen), PIECE):
            piece: Any = chosen[start : start + PIECE]
            if len(piece) == len(self.X):
                piece = slice(None)  # no copies
            X, Y, weights = self._taken(piece)
            yield len(X) / len(chosen), X, Y, weights

    def _taken(self, chosen: Any) -> tuple[Array, Array, Array | None]:
        """Inputs, targets and weights of the chosen samples."""
        if on_device(self.X) and not isinstance(chosen, slice):
            chosen = gpu.cupy().asarray(chosen)
        return self.X[chosen], self.Y[chosen], None if self.weights is None else self.weights[chosen]

    def _value(self, x: Array) -> float:
        total = 0.5 * self.l2 * float(np.dot(x.astype(np.float64), x))
        for share, X, Y, weights in self._pieces(self._part(self.loss_samples, 2 if self._apart else 0)):
            total += share * self.loss.value(self.network.forward(x, X), Y, weights)
        return total

    def _gradient(self, x: Array) -> Array:
        total = self.l2 * x
        for share, X, Y, weights in self._pieces(self._gradient_part()):
            at = self._linearizations.get(len(X))
            if at is None:
                at = self._linearizations[len(X)] = self.network.linearize(x, X)
            else:
                at.update(contiguous(x), X)
            total += x.dtype.type(share) * at.vjp(self.loss.gradient(at.output, Y, weights))
        out: Array = total
        return out

    def _curvature(self, x: Array) -> Operator:
        if self.gradient_samples < len(self.X):
            chosen: Any = self._gradient_part()[: self.curvature_samples]
        else:
            chosen = self._part(self.curvature_samples, 1)
        X, Y, weights = self._taken(chosen)
        self._curved = self.network.linearize(x, X), Y, weights
        return self._gauss_newton(0.0)

    def _gauss_newton(self, structural: float) -> Operator:
        """The matrix of the last curvature."""
        assert self._curved is not None
        at, Y, weights = self._curved
        G = GaussNewton(at, self.loss, Y, weights=weights, structural=structural)
        return Damped(G, self.l2) if self.l2 else G

    def damped(self, B: Operator, lam: float) -> Operator:
        """``B + lam I``, and structural damping with it; B the last curvature."""
        if self.structural and lam:
            B = Counted(self._gauss_newton(self.structural * lam), self)
        return super().damped(B, lam)

    def state(self) -> dict[str, Any]:
        """The counts, and the turn through the data."""
        return super().state() | {"turn": self.turn}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self.turn = int(state["turn"])

    def squared_gradients(self, x: Array) -> Array | None:
        """Mean square of the gradients of the curvature's samples, by one squared backward pass."""
        at, Y, weights = self._linearized(x)
        samples = at.output.shape[0]
        # the loss's gradient in the outputs is of the mean; each sample's own is so many times as large
        squares = at.squared_vjp(samples * self.loss.gradient(at.output, Y, weights))
        mean: Array = squares / samples
        return mean

    def kronecker_factors(self, x: Array) -> list[tuple[Array, Array]] | None:
        """Of the curvature's samples, with one draw of targets from the model for each, by one backward pass."""
        if on_device(x):
            raise TypeError("preconditioner='kronecker' is set up in host memory only; on a GPU use 'diagonal'")
        at, _, weights = self._linearized(x)
        if not hasattr(at, "kronecker_factors"):
            return None
        Z = at.output
        drawn = self.loss.sample(Z, np.random.default_rng([self.seed or 0, 3, self.turn]))
        factors: list[tuple[Array, Array]] = at.kronecker_factors(len(Z) * self.loss.gradient(Z, drawn, weights))
        return factors

    def _linearized(self, x: Array) -> tuple[Any, Any, Any]:
        """Linearisation at x, targets and weights of the curvature's samples; a pass over them is counted."""
        if self._curved is None or not np.array_equal(self._curved[0].theta, x):
            self._curvature(x)
        assert self._curved is not None
        self.products += 1
        return self._curved


def starting_point(x0: Any) -> Array:
    """x0 as a real vector that nobody else holds."""
    x: Array = as_array_there(x0, "x0").copy()
    if x.ndim != 1 or x.dtype.kind != "f" or x.size == 0:
        raise ValueError(f"x0 must be a real vector with at least one entry, got shape {x.shape}, {x.dtype}")
    if first_nonfinite(x) is not None:
        raise ValueError(f"x0 holds NaN or infinity at index {first_nonfinite(x)}; every entry must be finite")
    return x
