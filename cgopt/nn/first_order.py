"""Optimisers that see gradients only, over flat vectors: momentum, Adam, and L-BFGS through SciPy.

A step of the first two is one fused pass over the vectors, in place, and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import float_dtype, real_number, whole_number
from ..arrays import Array, as_array, on_device, require_together
from ..kernels import cpu, gpu
from .network import require_buffer


class _Stepper:
    """What the two share: vectors of n entries, the steps counted, and a state that can be saved."""

    VECTORS: tuple[str, ...]

    def __init__(self, n: int, learning_rate: float, dtype: Any) -> None:
        self.n = whole_number("n", n)
        self.learning_rate = real_number("learning_rate", learning_rate, above=0.0)
        self.dtype = float_dtype(dtype, allowed=("float32", "float64"))
        self.steps = 0
        for name in self.VECTORS:
            setattr(self, name, np.zeros(self.n, self.dtype))
        self._work = cpu.share_rows(self.n, len(self.VECTORS) * self.n)

    def _check(self, theta: Array, gradient: Array) -> None:
        require_buffer(theta, (self.n,), self.dtype, "theta")
        require_buffer(gradient, (self.n,), self.dtype, "gradient")
        if require_together(theta=theta, gradient=gradient):  # on the GPU: what a step carries on goes there with it
            for name in self.VECTORS:
                if not on_device(getattr(self, name)):
                    setattr(self, name, gpu.cupy().asarray(getattr(self, name)))

    def state(self) -> dict[str, Array]:
        """All that changes from step to step, as arrays: for a checkpoint."""
        return {"steps": np.array([self.steps])} | {name: getattr(self, name).copy() for name in self.VECTORS}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from a `state`."""
        missing = {"steps", *self.VECTORS} - set(state)
        if missing:
            raise ValueError(f"state lacks {', '.join(sorted(missing))}; it must come from the same kind of optimiser")
        for name in self.VECTORS:
            if on_device(state[name]):
                setattr(self, name, state[name].copy())
            else:
                getattr(self, name)[...] = state[name]
        self.steps = int(state["steps"][0])


class SGD(_Stepper):
    """Gradient descent with momentum, in place on a flat vector.

    Parameters
    ----------
    n : int
        Number of parameters.
    learning_rate : float
    momentum : float
        mu, from 0 up to but not including 1.
    nesterov : bool
        Nesterov's form, as Sutskever et al. (2013), eq. 3 and 4, with theta standing for the point looked ahead to.
    dtype : {float64, float32}

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> theta = np.array([1.0, -2.0])
    >>> sgd = cgopt.nn.SGD(2, learning_rate=0.1, momentum=0.9)
    >>> for _ in range(200):
    ...     sgd.step(theta, theta)  # the gradient of |theta|^2 / 2
    >>> bool(np.linalg.norm(theta) < 1e-3)
    True
    """

    VECTORS = ("velocity",)
    velocity: Array

    def __init__(
        self,
        n: int,
        *,
        learning_rate: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        dtype: Any = np.float64,
    ) -> None:
        super().__init__(n, learning_rate, dtype)
        self.momentum = real_number("momentum", momentum, below=1.0)
        if self.momentum < 0.0:
            raise ValueError(f"momentum must not be negative, got {momentum!r}")
        self.nesterov = bool(nesterov)

    def step(self, theta: Array, gradient: Array) -> None:
        """Change `theta` in place by one step."""
        self._check(theta, gradient)
        self.steps += 1
        rule = self.learning_rate, self.momentum, self.nesterov
        run_pass("momentum_step", self._work, theta, gradient, self.velocity, *rule)


class Adam(_Stepper):
    """Adam (Kingma and Ba 2015, algorithm 1), in place on a flat vector.

    Parameters
    ----------
    n : int
        Number of parameters.
    learning_rate : float
    betas : (float, float)
        Decay of the means of gradients and of their squares.
    eps : float
        Added to the root of the mean square. The one absolute number of the method: it is in units of the gradient.
    dtype : {float64, float32}

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> theta = np.array([1.0, -2.0])
    >>> adam = cgopt.nn.Adam(2, learning_rate=0.1)
    >>> adam.step(theta, np.array([100.0, 0.01]))  # the first step is the learning rate, whatever the gradient
    >>> np.round(theta, 6)
    array([ 0.9, -2.1])
    """

    VECTORS = ("mean", "square")
    mean: Array
    square: Array

    def __init__(
        self,
        n: int,
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dtype: Any = np.float64,
    ) -> None:
        super().__init__(n, learning_rate, dtype)
        self.betas = tuple(real_number("betas", beta, above=-1e-300, below=1.0) for beta in betas)
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        self.eps = real_number("eps", eps, above=0.0)

    def step(self, theta: Array, gradient: Array) -> None:
        """Change `theta` in place by one step."""
        self._check(theta, gradient)
        self.steps += 1
        beta1, beta2 = self.betas
        rate = self.learning_rate / (1.0 - beta1**self.steps)  # the bias corrections, as factors
        spread = 1.0 / (1.0 - beta2**self.steps)
        rule = rate, beta1, beta2, spread, self.eps
        run_pass("adam_step", self._work, theta, gradient, self.mean, self.square, *rule)


def soft_update(target: Array, theta: Array, tau: float) -> None:
    """``target += tau (theta - target)``, in place, in one pass.

    Parameters
    ----------
    target, theta : (n,) arrays of one type
    tau : float
        From 0 to 1.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> target = np.zeros(2)
    >>> cgopt.nn.soft_update(target, np.array([1.0, 2.0]), 0.25)
    >>> target
    array([0.25, 0.5 ])
    """
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must be from 0 to 1, got {tau!r}")
    if target.shape != theta.shape or target.dtype != theta.dtype or target.ndim != 1:
        raise ValueError(f"target and theta must be vectors of one shape and type; got {target.shape}, {theta.shape}")
    require_together(target=target, theta=theta)
    run_pass("blend", cpu.share_rows(theta.size, theta.size), target, theta, tau)


def run_pass(name: str, work: Any, theta: Array, *args: Any) -> None:
    """One fused pass over vectors, by the kernels of where they lie."""
    if on_device(theta):
        getattr(gpu, name)(theta, *args)
    else:
        cpu.run(getattr(cpu, name), work, theta, *args, work)


def lbfgs(
    function: Callable[[Array], tuple[float, Array]],
    theta: Array,
    *,
    maxiter: int = 200,
    history: int = 10,
    rtol: float = 1e-5,
    callback: Callable[[Any], None] | None = None,
) -> Any:
    """Minimise by SciPy's L-BFGS, for comparison and for small full-batch problems.

    Parameters
    ----------
    function : callable
        (n,) array, of theta's type, to the value and the gradient there.
    theta : (n,) float32 or float64 array
        Where to start; not changed.
    maxiter : int
    history : int
        Pairs of steps and changes of the gradient that are kept.
    rtol : float
        Ends when the largest entry of the gradient is below so much of the first gradient's.
    callback : callable, optional
        Called after each iteration with SciPy's intermediate result.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With x of theta's type. SciPy computes in double precision around the function.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> target = np.array([1.0, 2.0])
    >>> result = cgopt.nn.lbfgs(lambda x: (float((x - target) @ (x - target)), 2 * (x - target)), np.zeros(2))
    >>> np.round(result.x, 6)
    array([1., 2.])
    """
    from scipy.optimize import minimize

    theta = as_array(theta, "theta")
    dtype = theta.dtype

    # In units in which the first gradient is about one: SciPy's own thresholds are absolute.
    unit = float(np.max(np.abs(function(theta)[1]))) or 1.0

    def wide(x: Array) -> tuple[float, Array]:
        value, gradient = function(x.astype(dtype))
        return float(value) / unit, np.asarray(gradient, np.float64) / unit

    options = {
        "maxiter": whole_number("maxiter", maxiter),
        "maxcor": whole_number("history", history),
        "gtol": real_number("rtol", rtol, above=0.0),
        "ftol": 0.0,  # a change of the value below rounding of a plateau is no minimum
        "maxfun": 20 * maxiter,
    }
    extra = {} if callback is None else {"callback": lambda intermediate_result: callback(intermediate_result)}
    result = minimize(wide, theta.astype(np.float64), jac=True, method="L-BFGS-B", options=options, **extra)
    result.x, result.fun, result.jac = result.x.astype(dtype), result.fun * unit, result.jac * unit
    return result
