"""Functions written for torch, jax or autograd, with gradients and exact products on NumPy vectors.

All three differentiate twice, and each in its own way: torch and autograd record the operations as they run and go back
over the record, so that loops and branches may depend on values; a gradient is recorded too, and going back over that
gives Hessian products. jax traces the function once for all values, and differentiates its gradient forwards. The
libraries are imported when an adapter is made.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, as_array
from .base import Operator
from .matrices import FunctionOperator

Product = Callable[[Array], Any]


class Differentiable(ABC):
    """A function of a flat vector with its gradient and exact curvature products, whatever wrote it.

    Attributes
    ----------
    x : (n,) array
        Where it was when the adapter was made.
    n : int
    dtype : dtype
    """

    library: str

    def __init__(self, x: Array) -> None:
        self.x, self.n, self.dtype = x, x.size, x.dtype

    def value(self, x: Array) -> float:
        """The function at x, (n,)."""
        return self.value_and_gradient(x)[0]

    def gradient(self, x: Array) -> Array:
        """Its gradient there, (n,)."""
        return self.value_and_gradient(x)[1]

    @abstractmethod
    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Both, for the price of the gradient."""

    def hessian(self, x: Array) -> Operator:
        """The Hessian at x, exactly; what does not depend on the vector is computed once."""
        return FunctionOperator(self._hessian_product(self._vector(x)), self.n, self.dtype, name="the Hessian")

    def gauss_newton(self, x: Array) -> Operator:
        """The Gauss-Newton matrix at x, where the function is known as a loss of outputs.

        Raises
        ------
        TypeError
            If it is not.
        """
        product = self._gauss_newton_product(self._vector(x))
        if product is None:
            raise TypeError("a Gauss-Newton matrix needs the outputs that the loss is of: pass outputs")
        return FunctionOperator(product, self.n, self.dtype, name="the Gauss-Newton matrix")

    def hessp(self, x: Array, v: Array) -> Array:
        """The Hessian at x times v, as `scipy.optimize.minimize` asks for it."""
        return self.hessian(x) @ v

    @abstractmethod
    def _hessian_product(self, x: Array) -> Product: ...

    @abstractmethod
    def _gauss_newton_product(self, x: Array) -> Product | None: ...

    def _vector(self, x: Any) -> Array:
        x = np.ascontiguousarray(x, dtype=self.dtype)
        if x.shape != (self.n,):
            raise ValueError(f"x must have shape ({self.n},), got {x.shape}")
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, {self.dtype}, by {self.library})"


def _library(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this adapter needs {package}: pip install {package}") from error


class TorchFunction(Differentiable):
    """Made by `from_torch`."""

    library = "torch"

    def __init__(self, module: Any, loss: Callable[[Any, Any], Any], X: Any, Y: Any) -> None:
        self._torch = _library("torch", "torch")
        self._module, self._loss, self._X, self._Y = module, loss, X, Y
        parameters = dict(module.named_parameters())
        types = {p.dtype for p in parameters.values()}
        if len(types) != 1 or not types <= {self._torch.float32, self._torch.float64}:
            found = ", ".join(sorted(map(str, types))) or "none"
            raise TypeError(f"module must have parameters of one type, float32 or float64; found {found}")
        self._shapes = {name: p.shape for name, p in parameters.items()}
        super().__init__(self._flat(list(parameters.values())))

    def _flat(self, tensors: list[Any]) -> Array:
        flat: Array = self._torch.cat([t.detach().reshape(-1) for t in tensors]).cpu().numpy()
        return flat

    def _cut(self, x: Array) -> list[Any]:
        flat, at, tensors = self._torch.tensor(x), 0, []
        for shape in self._shapes.values():
            tensors.append(flat[at : at + shape.numel()].reshape(shape))
            at += shape.numel()
        return tensors

    def _run(self, x: Array) -> tuple[list[Any], Any]:
        """Parameters that are recorded, and the outputs."""
        parameters = [t.requires_grad_() for t in self._cut(x)]
        named = dict(zip(self._shapes, parameters, strict=True))
        return parameters, self._torch.func.functional_call(self._module, named, (self._X,))

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The loss and its gradient, for the price of the gradient."""
        parameters, outputs = self._run(self._vector(x))
        value = self._loss(outputs, self._Y)
        return float(value.detach()), self._flat(list(self._torch.autograd.grad(value, parameters)))

    def _hessian_product(self, x: Array) -> Product:
        grad = self._torch.autograd.grad
        parameters, outputs = self._run(x)
        gradient = grad(self._loss(outputs, self._Y), parameters, create_graph=True)

        def product(v: Array) -> Array:
            # A part that the gradient does not depend on has no record, and a zero product.
            parts = grad(gradient, parameters, self._cut(v), retain_graph=True, materialize_grads=True)
            return self._flat(list(parts))

        return product

    def _gauss_newton_product(self, x: Array) -> Product:
        grad = self._torch.autograd.grad
        parameters, outputs = self._run(x)
        # J'w is linear in w: its derivative along v, taken backwards, is J v.
        w = self._torch.zeros_like(outputs, requires_grad=True)
        transposed = grad(outputs, parameters, w, create_graph=True)
        z = outputs.detach().requires_grad_()
        (slope,) = grad(self._loss(z, self._Y), z, create_graph=True)

        def product(v: Array) -> Array:
            (Jv,) = grad(transposed, w, self._cut(v), retain_graph=True)
            (MJv,) = grad(slope, z, Jv, retain_graph=True, materialize_grads=True)
            return self._flat(list(grad(outputs, parameters, MJv, retain_graph=True)))

        return product


class JaxFunction(Differentiable):
    """Made by `from_jax`."""

    library = "jax"

    def __init__(self, function: Callable[[Any], Any], x: Any, outputs: Callable[[Any], Any] | None) -> None:
        jax = self._jax = _library("jax", "jax")
        super().__init__(np.array(jax.numpy.asarray(as_array(x, "x"))))  # of jax's own precision, float32 by default
        self._function, self._outputs = function, outputs

        def whole(t: Any) -> Any:
            return function(t) if outputs is None else function(outputs(t))

        self._both = jax.jit(jax.value_and_grad(whole))
        self._product = jax.jit(lambda t, v: jax.jvp(jax.grad(whole), (t,), (v,))[1])

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The function and its gradient, for the price of the gradient."""
        value, gradient = self._both(self._vector(x))
        return float(value), np.array(gradient)

    def _hessian_product(self, x: Array) -> Product:
        return lambda v: np.array(self._product(x, np.asarray(v, self.dtype)))

    def _gauss_newton_product(self, x: Array) -> Product | None:
        if self._outputs is None:
            return None
        jax = self._jax
        z, push = jax.linearize(self._outputs, x)
        pull = jax.linear_transpose(push, x)
        _, bend = jax.linearize(jax.grad(self._function), z)
        product = jax.jit(lambda v: pull(bend(push(v)))[0])
        return lambda v: np.array(product(np.asarray(v, self.dtype)))


class AutogradFunction(Differentiable):
    """Made by `from_autograd`."""

    library = "autograd"

    def __init__(self, function: Callable[[Array], Any], x: Any, outputs: Callable[[Array], Any] | None) -> None:
        self._autograd = _library("autograd", "autograd")
        super().__init__(np.array(as_array(x, "x")))
        self._function, self._outputs = function, outputs

    def _whole(self, x: Any) -> Any:
        return self._function(x) if self._outputs is None else self._function(self._outputs(x))

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The function and its gradient, for the price of the gradient."""
        value, gradient = self._autograd.value_and_grad(self._whole)(self._vector(x))
        return float(value), np.asarray(gradient, self.dtype)

    def _hessian_product(self, x: Array) -> Product:
        # The record of the gradient is kept: products only go back over it.
        pull, _ = self._autograd.make_vjp(self._autograd.grad(self._whole))(x)
        return pull

    def _gauss_newton_product(self, x: Array) -> Product | None:
        if self._outputs is None:
            return None
        make_vjp = self._autograd.make_vjp
        pull, z = make_vjp(self._outputs)(x)
        push, _ = make_vjp(pull)(np.zeros_like(z))  # back over what is linear in u, J'u, is J v
        bend, _ = make_vjp(self._autograd.grad(self._function))(z)
        return lambda v: pull(bend(push(np.asarray(v, self.dtype))))


def from_torch(module: Any, loss: Callable[[Any, Any], Any], X: Any, Y: Any) -> TorchFunction:
    """The loss of a torch module as a function of its parameters.

    Parameters
    ----------
    module : torch.nn.Module
        With parameters of one type. Put it into ``eval()`` if it draws masks or keeps statistics: products must be of
        one matrix. It is not changed.
    loss : callable
        ``loss(outputs, Y)``, a scalar.
    X, Y : tensor
        What the module takes, and the targets.

    Returns
    -------
    TorchFunction
        Its x holds the parameters now, flat, in the order of ``module.named_parameters()``.

    Examples
    --------
    >>> from importlib.util import find_spec
    >>> import numpy as np, cgopt
    >>> if find_spec("torch"):
    ...     import torch
    ...     module = torch.nn.Linear(3, 2, dtype=torch.float64)
    ...     X, Y = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 1])
    ...     f = cgopt.operators.from_torch(module, torch.nn.functional.cross_entropy, X, Y)
    ...     step = cgopt.cg(cgopt.operators.Damped(f.gauss_newton(f.x), 1e-2), -f.gradient(f.x)).x
    ...     assert f.value(f.x + step) < f.value(f.x)
    """
    return TorchFunction(module, loss, X, Y)


def from_jax(function: Callable[[Any], Any], x: Any, *, outputs: Callable[[Any], Any] | None = None) -> JaxFunction:
    """A function written with jax.numpy.

    Parameters
    ----------
    function : callable
        Of a flat array to a scalar; of the outputs, where `outputs` is given.
    x : (n,) array
        A point, for the size and type. jax computes in single precision unless ``jax_enable_x64`` is set.
    outputs : callable, optional
        Of a flat array to the outputs that `function` is a loss of: for Gauss-Newton products.

    Returns
    -------
    JaxFunction

    Examples
    --------
    >>> from importlib.util import find_spec
    >>> import numpy as np, cgopt
    >>> if find_spec("jax"):
    ...     import jax.numpy as jnp
    ...     f = cgopt.operators.from_jax(lambda x: jnp.sum(x**4), np.ones(3))
    ...     assert np.allclose(f.hessian(f.x) @ np.ones(3), 12.0)
    """
    return JaxFunction(function, x, outputs)


def from_autograd(
    function: Callable[[Array], Any], x: Any, *, outputs: Callable[[Array], Any] | None = None
) -> AutogradFunction:
    """A function written with autograd.numpy (the HIPS package).

    Parameters
    ----------
    function : callable
        Of a flat array to a scalar; of the outputs, where `outputs` is given.
    x : (n,) array
        A point, for the size and type.
    outputs : callable, optional
        Of a flat array to the outputs that `function` is a loss of: for Gauss-Newton products.

    Returns
    -------
    AutogradFunction

    Examples
    --------
    >>> from importlib.util import find_spec
    >>> import numpy as np, cgopt
    >>> if find_spec("autograd"):
    ...     import autograd.numpy as anp
    ...     f = cgopt.operators.from_autograd(lambda x: anp.sum(x**4), np.ones(3))
    ...     assert np.allclose(f.hessian(f.x) @ np.ones(3), 12.0)
    """
    return AutogradFunction(function, x, outputs)
