"""Networks as functions of one flat parameter vector, linearised once and multiplied by often.

A layer maps h to f(W'h + b). Its parameters lie in the flat vector as one row-major block ``[W; b]`` of n_in + 1 rows,
and its input is kept as rows ``[h 1]``: so the forward pass, its derivative and the gradient are each one matrix
product that reads a parameter vector, or writes one, where it lies, without a copy and without a pass for the biases.

Products by R. Pearlmutter's operator (1994), R{g}(theta) = d/dr g(theta + r v) at r = 0. With a_l = [h_l 1][W_l; b_l],
h_{l+1} = f(a_l), and a vector v = (..., [RW_l; Rb_l], ...):

    R{a_l} = [h_l 1][RW_l; Rb_l] + R{h_l} W_l,   R{h_{l+1}} = f'(a_l) * R{a_l}                       (J v)
    delta_l = f'(a_l) * (delta_{l+1} W_{l+1}'),   gradient of [W_l; b_l] = [h_l 1]' delta_l            (J'u)

and the same derivative of the second line gives the full Hessian. The Gauss-Newton product (Schraudolph 2002) is the
first, the loss's own Hessian in the outputs, and the second. For k vectors at once every row holds k of them side by
side, as an array (samples, k, units): the same matrix products with k times the columns or rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np

from ..arguments import Seed, float_dtype, generator, whole_number
from ..arrays import Array, as_array, first_nonfinite
from . import initialize
from .activations import Activation, as_activation


class Block(NamedTuple):
    """One layer's place in the flat vector: ``[W; b]``, (inputs + 1, units), W without b where there is no bias."""

    weight: str
    bias: str | None
    start: int
    inputs: int
    units: int

    @property
    def rows(self) -> int:
        """Rows of the block."""
        return self.inputs + (self.bias is not None)

    @property
    def stop(self) -> int:
        """End of the block in the flat vector."""
        return self.start + self.rows * self.units

    def of(self, theta: Array) -> Array:
        """The block of a flat vector, (rows, units), or of k of them as columns, (rows, units, k): a view."""
        return theta[self.start : self.stop].reshape(self.rows, self.units, *theta.shape[1:])


def lay_out(blocks: Sequence[tuple[str, str | None, int, int]]) -> tuple[Block, ...]:
    """Blocks (weight, bias, inputs, units) one after the other."""
    out: list[Block] = []
    for weight, bias, inputs, units in blocks:
        out.append(Block(weight, bias, out[-1].stop if out else 0, inputs, units))
    return tuple(out)


class Network:
    """What networks share: the flat vector and its views, starting points, and gradients by way of `linearize`.

    Attributes
    ----------
    n : int
        Number of parameters.
    n_inputs, n_outputs : int
    blocks : tuple of Block
        Where each layer lies in the flat vector.
    """

    blocks: tuple[Block, ...]
    n_inputs: int
    n_outputs: int

    @property
    def n(self) -> int:
        """Number of parameters."""
        return self.blocks[-1].stop

    def views(self, theta: Array) -> dict[str, Array]:
        """Named views of a flat vector: writing to them writes to it.

        Parameters
        ----------
        theta : (n,) array

        Returns
        -------
        dict of str to array
            Weights (inputs, units) and biases (units,), in the order in which they lie.

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.MLP([3, 5, 2])
        >>> {name: view.shape for name, view in network.views(np.zeros(network.n)).items()}
        {'W0': (3, 5), 'b0': (5,), 'W1': (5, 2), 'b1': (2,)}
        """
        if not isinstance(theta, np.ndarray) or theta.shape != (self.n,):
            raise ValueError(f"theta must be an array of shape ({self.n},), got {np.shape(theta)}")
        named = {}
        for block in self.blocks:
            whole = block.of(theta)
            named[block.weight] = whole[: block.inputs]
            if block.bias is not None:
                named[block.bias] = whole[block.inputs]
        return named

    def init(self, rng: Seed = None, *, scheme: str = "scaled", dtype: Any = np.float64, **options: Any) -> Array:
        """A starting point.

        Parameters
        ----------
        rng : None, int or numpy.random.Generator
        scheme : {"scaled", "sparse", "orthogonal", "zero"}
            See `cgopt.nn.initialize`.
        dtype : {float32, float64}
        **options
            Of the scheme.

        Returns
        -------
        (n,) array

        Examples
        --------
        >>> import cgopt
        >>> cgopt.nn.MLP([4, 8, 2]).init(0, scheme="orthogonal").shape
        (58,)
        """
        fill = initialize.scheme(scheme, options)
        theta = np.zeros(self.n, float_dtype(dtype, allowed=("float32", "float64")))
        rng = generator(rng)
        for block in self.blocks:
            whole = block.of(theta)
            bias = whole[block.inputs] if block.bias is not None else np.zeros(block.units)
            fill(whole[: block.inputs], bias, rng)
        return theta

    def parameters(self, theta: Any) -> Array:
        """`theta` as a contiguous float32 or float64 vector, checked; a copy only where it must be one."""
        theta = as_array(theta, "theta")
        if theta.shape != (self.n,):
            raise ValueError(f"theta must have shape ({self.n},), the parameters of {self!r}; got {theta.shape}")
        if theta.dtype.kind != "f":
            raise TypeError(f"theta must be real, got {theta.dtype}")
        require_finite(theta, "theta")
        return np.ascontiguousarray(theta)

    def linearize(self, theta: Array, X: Array) -> Any:
        """The network at theta on a batch; see the subclasses."""
        raise NotImplementedError

    def loss_and_gradient(self, theta: Array, X: Array, loss: Any, Y: Any, weights: Any = None) -> tuple[float, Array]:
        """The mean loss on a batch, and its gradient.

        Parameters
        ----------
        theta : (n,) array
        X : array
            Inputs, as `linearize` takes them.
        loss : Loss
        Y : array
            Targets, as the loss takes them.
        weights : array, optional
            Of the samples.

        Returns
        -------
        value : float
        gradient : (n,) array

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.MLP([2, 1])
        >>> X, Y = np.eye(2), np.array([[1.0], [3.0]])
        >>> network.loss_and_gradient(np.zeros(3), X, cgopt.nn.SquaredError(), Y)
        (2.5, array([-0.5, -1.5, -2. ]))
        """
        linearization = self.linearize(theta, X)
        gradient: Array = linearization.vjp(loss.gradient(linearization.output, Y, weights))
        return loss.value(linearization.output, Y, weights), gradient

    def gradient(self, theta: Array, X: Array, output_gradient: Array) -> Array:
        """``J'u``: the gradient in theta of what has the gradient `output_gradient` in the outputs.

        Parameters
        ----------
        theta : (n,) array
        X : array
            Inputs, as `linearize` takes them.
        output_gradient : array of the outputs' shape

        Returns
        -------
        (n,) array
        """
        gradient: Array = self.linearize(theta, X).vjp(output_gradient)
        return gradient


class MLP(Network):
    """A multi-layer perceptron over one flat parameter vector.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden layers, outputs: at least two.
    activation : str or sequence of str
        Of the hidden layers, one for all or one for each: tanh, logistic, relu, softplus, linear.
    output_activation : str
        Of the outputs. Leave it linear for a cross-entropy: those losses take logits, so that they match.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.MLP([64, 50, 30, 10], activation="tanh")
    >>> theta = network.init(0)
    >>> network.forward(theta, np.ones((5, 64))).shape
    (5, 10)
    >>> network
    MLP(64-50-30-10, tanh, 5090 parameters)
    """

    def __init__(
        self, sizes: Sequence[int], activation: str | Sequence[str] = "tanh", *, output_activation: str = "linear"
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"sizes must name inputs and outputs at least, got {list(sizes)!r}")
        self.sizes = tuple(whole_number(f"sizes[{i}]", size) for i, size in enumerate(sizes))
        hidden = len(self.sizes) - 2
        names = [activation] * hidden if isinstance(activation, str) else list(activation)
        if len(names) != hidden:
            raise ValueError(f"activation must be one name, or one for each of the {hidden} hidden layers; got {names}")
        if isinstance(activation, str):
            as_activation(activation, "activation")  # a misspelt name is one without hidden layers too
        self.activations: tuple[Activation | None, ...] = (
            *(as_activation(name, "activation") for name in names),
            as_activation(output_activation, "output_activation"),
        )
        self.n_inputs, self.n_outputs = self.sizes[0], self.sizes[-1]
        self.blocks = lay_out([(f"W{i}", f"b{i}", *pair) for i, pair in enumerate(pairwise(sizes))])

    def linearize(self, theta: Array, X: Array) -> MLPLinearization:
        """Run the forward pass and keep what products need.

        Parameters
        ----------
        theta : (n,) float32 or float64 array
            Products are of this type. It is not copied: change it, and call `MLPLinearization.update`.
        X : (samples, n_inputs) array

        Returns
        -------
        MLPLinearization

        Raises
        ------
        ValueError, TypeError
            If a shape or type does not fit, or an entry is NaN or infinite.

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.MLP([3, 4, 2])
        >>> at = network.linearize(network.init(0), np.ones((5, 3)))
        >>> at.output.shape, at.jvp(np.ones(network.n)).shape, at.vjp(np.ones((5, 2))).shape
        ((5, 2), (5, 2), (26,))
        """
        theta = self.parameters(theta)
        return MLPLinearization(self, theta, as_inputs(X, 2, self.n_inputs))

    def forward(self, theta: Array, X: Array) -> Array:
        """The outputs, (samples, n_outputs), for inputs (samples, n_inputs).

        For one observation at a time, see `MLP.predictor`.
        """
        theta = self.parameters(theta)
        h = as_inputs(X, 2, self.n_inputs).astype(theta.dtype, copy=False)
        for block, f in zip(self.blocks, self.activations, strict=True):
            whole = block.of(theta)
            a = h @ whole[: block.inputs]
            a += whole[block.inputs]
            if f is not None:
                f.apply(a, out=a)
            h = a
        return h

    def __repr__(self) -> str:
        hidden = self.activations[:-1]
        names = [str(f or "linear") for f in hidden]
        shown = names[:1] if len(set(names)) == 1 else names
        shown += [f"{self.activations[-1]} outputs"] if self.activations[-1] is not None else []
        return f"MLP({', '.join(['-'.join(map(str, self.sizes)), *shown])}, {self.n} parameters)"


class MLPLinearization:
    """An MLP at one theta on one batch: its output, and products with its Jacobian J (samples x outputs by n).

    The forward pass was run once; h and f'(a) of every layer are kept, and the buffers of products too, so that
    repeated products allocate nothing but their results. (The buffers are why a linearisation serves one thread only.)

    Attributes
    ----------
    network : MLP
    theta : (n,) array
    output : (samples, n_outputs) array
        Overwritten by `update`.
    """

    def __init__(self, network: MLP, theta: Array, X: Array) -> None:
        self.network, self.theta = network, theta
        self.n, self.dtype, self.samples = network.n, theta.dtype, X.shape[0]
        N, dtype = self.samples, self.dtype
        # Rows [h 1] of every layer's input, and f'(a) of every layer's units.
        self._h1 = [np.ones((N, block.rows), dtype) for block in network.blocks]
        self._d = [
            None if f is None else np.empty((N, block.units), dtype)
            for block, f in zip(network.blocks, network.activations, strict=True)
        ]
        self._a = [np.empty((N, block.units), dtype) for block in network.blocks]
        self._scratch: dict[int, Scratch] = {}
        self.output = np.empty((N, network.n_outputs), dtype)
        self.update(theta, X)

    def update(self, theta: Array, X: Array | None = None) -> Self:
        """Linearise anew, at another theta or on another batch of the same size, allocating nothing.

        Parameters
        ----------
        theta : (n,) array of the same type
            Trusted to be finite.
        X : (samples, n_inputs) array, optional
            The same batch by default.

        Returns
        -------
        MLPLinearization
            Itself.
        """
        if theta.shape != (self.n,) or theta.dtype != self.dtype or not theta.flags.c_contiguous:
            raise ValueError(f"theta must be a contiguous {self.dtype} array of shape ({self.n},)")
        self.theta = theta
        if X is not None:
            self._h1[0][:, :-1] = X
        network, last = self.network, len(self.network.blocks) - 1
        for layer, (block, f) in enumerate(zip(network.blocks, network.activations, strict=True)):
            h = self.output if layer == last else self._h1[layer + 1][:, :-1]
            d = self._d[layer]
            if f is None or d is None:
                a = self.output if layer == last else self._a[layer]
                np.matmul(self._h1[layer], block.of(theta), out=a)  # a = [h 1][W; b]
                if a is not h:
                    h[...] = a
            else:
                a = self._a[layer]
                np.matmul(self._h1[layer], block.of(theta), out=a)
                f.apply(a, out=h)
                f.derivative(h, out=d)
        return self

    def jvp(self, v: Array, out: Array | None = None) -> Array:
        """``J v``: how the outputs change along v.

        Parameters
        ----------
        v : (n,) or (n, k) array
        out : array, optional
            Where to write it: contiguous, of the linearisation's type.

        Returns
        -------
        (samples, n_outputs) or (samples, k, n_outputs) array
        """
        v = as_direction(v, self.n, self.dtype)
        if out is None:
            out = np.empty((self.samples, *v.shape[1:], self.network.n_outputs), self.dtype)
        self._jvp(v, out)
        return out

    def _jvp(self, v: Array, out: Array) -> None:
        s = self.scratch(v.shape[1] if v.ndim == 2 else 1)
        last = len(self._d) - 1
        for layer, block in enumerate(self.network.blocks):
            r = out.reshape(s.r[layer].shape) if layer == last else s.r[layer]
            np.matmul(self._h1[layer], s.columns(layer, block, v), out=r)  # [h 1][RW; Rb]
            if layer:
                W = block.of(self.theta)[:-1]
                np.matmul(s.rows(layer - 1), W, out=s.t_rows[layer])
                r += s.t[layer]  # + R{h} W
            d = self._d[layer]
            if d is not None:
                view = r.reshape(s.shape3(layer))
                view *= d[:, None, :]  # f'(a) * R{a}

    def vjp(self, u: Array, out: Array | None = None) -> Array:
        """``J'u``: the gradient of ``sum(u * output)``.

        Parameters
        ----------
        u : (samples, n_outputs) or (samples, k, n_outputs) array
        out : array, optional
            Where to write it: contiguous, of the linearisation's type.

        Returns
        -------
        (n,) or (n, k) array
        """
        u = as_output_direction(u, self.output.shape, self.dtype)
        if out is None:
            out = np.empty((self.n, *u.shape[1:-1]), self.dtype)
        self._vjp(u, out)
        return out

    def _vjp(self, u: Array, out: Array) -> None:
        s = self.scratch(u.shape[1] if u.ndim == 3 else 1)
        last = len(self._d) - 1
        delta = u.reshape(s.r[last].shape)
        d = self._d[last]
        if d is not None:
            np.multiply(u.reshape(s.shape3(last)), d[:, None, :], out=s.r[last].reshape(s.shape3(last)))
            delta = s.r[last]
        for layer in range(last, -1, -1):
            block = self.network.blocks[layer]
            s.store(layer, block, self._h1[layer].T, delta, out)  # [h 1]' delta
            if layer:
                W = block.of(self.theta)[:-1]
                np.matmul(delta.reshape(-1, block.units), W.T, out=s.rows(layer - 1))
                delta = s.r[layer - 1]
                d = self._d[layer - 1]
                if d is not None:
                    view = delta.reshape(s.shape3(layer - 1))
                    view *= d[:, None, :]  # f'(a) * (delta W')

    def scratch(self, k: int) -> Scratch:
        """Buffers for k vectors at once, kept."""
        if k not in self._scratch:
            self._scratch[k] = Scratch(self.network.blocks, self.samples, k, self.dtype)
        return self._scratch[k]

    @property
    def nbytes(self) -> int:
        """Bytes of activations and buffers."""
        arrays = [*self._h1, *(d for d in self._d if d is not None), *self._a, self.output]
        return sum(a.nbytes for a in arrays) + sum(s.nbytes for s in self._scratch.values())

    def __repr__(self) -> str:
        return f"MLPLinearization({self.network!r}, {self.samples} samples, {self.dtype}, {self.nbytes / 1e6:.3g} MB)"


class Scratch:
    """Buffers of products with k vectors at once: rows of a batch hold k vectors' units side by side."""

    def __init__(self, blocks: Sequence[Block], samples: int, k: int, dtype: Any) -> None:
        self.samples, self.k = samples, k
        self.blocks = blocks
        self.r = [np.empty((samples, k * block.units), dtype) for block in blocks]
        self.t = [np.empty((samples, k * block.units), dtype) for block in blocks]
        self.t_rows = [t.reshape(samples * k, -1) for t in self.t]
        # Columns of a parameter block: (rows, units, k) as the vectors lie, (rows, k, units) as products want them.
        self.block = [np.empty((block.rows, k, block.units), dtype) for block in blocks] if k > 1 else []

    def shape3(self, layer: int) -> tuple[int, int, int]:
        """(samples, k, units)."""
        return self.samples, self.k, self.blocks[layer].units

    def rows(self, layer: int) -> Array:
        """R{h} or delta of a layer as (samples * k, units)."""
        return self.r[layer].reshape(self.samples * self.k, -1)

    def columns(self, layer: int, block: Block, v: Array) -> Array:
        """A layer's block of v as (rows, k * units); a view for one vector."""
        if self.k == 1:
            return block.of(v).reshape(block.rows, block.units)
        ordered = self.block[layer]
        ordered[...] = block.of(v).transpose(0, 2, 1)
        return ordered.reshape(block.rows, -1)

    def store(self, layer: int, block: Block, left: Array, right: Array, out: Array) -> None:
        """Write the product of `left` (rows, samples) and `right` (samples, k * units) to a layer's block of `out`."""
        if self.k == 1:
            np.matmul(left, right, out=block.of(out).reshape(block.rows, block.units))
            return
        ordered = self.block[layer]
        np.matmul(left, right, out=ordered.reshape(block.rows, -1))
        block.of(out)[...] = ordered.transpose(0, 2, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(a.nbytes for a in (*self.r, *self.t, *self.block))


def as_inputs(X: Any, ndim: int, n_inputs: int) -> Array:
    """`X` as a real array of `ndim` dimensions, the last of them the network's inputs, finite."""
    X = as_array(X, "X")
    if X.ndim != ndim or X.shape[-1] != n_inputs or 0 in X.shape:
        axes = "samples, " if ndim == 2 else "samples, steps, "
        raise ValueError(f"X must have shape ({axes}{n_inputs}), with at least one sample; got {X.shape}")
    if X.dtype.kind != "f":
        raise TypeError(f"X must be real, got {X.dtype}")
    require_finite(X, "X")
    return X


def require_finite(a: Array, name: str) -> None:
    """Refuse NaN and infinities. The sum shows most arrays to be finite in one pass."""
    with np.errstate(all="ignore"):
        if np.isfinite(a.sum()):
            return
    where = first_nonfinite(a)
    if where is not None:
        raise ValueError(f"{name} holds NaN or infinity, first at {where}; all entries must be finite")


def as_direction(v: Any, n: int, dtype: Any) -> Array:
    """`v` as a contiguous (n,) or (n, k) array of the linearisation's type."""
    v = np.ascontiguousarray(v, dtype=dtype)
    if v.ndim not in (1, 2) or v.shape[0] != n:
        raise ValueError(f"v must have shape ({n},) or ({n}, k), got {v.shape}")
    return v


def as_output_direction(u: Any, output: tuple[int, ...], dtype: Any) -> Array:
    """`u` as a contiguous array of the outputs' shape, or with k vectors before its last axis."""
    u = np.ascontiguousarray(u, dtype=dtype)
    if u.shape != output and (u.ndim != len(output) + 1 or (*u.shape[:-2], u.shape[-1]) != output):
        raise ValueError(
            f"u must have the outputs' shape {output}, or {(*output[:-1], 'k', output[-1])}; got {u.shape}"
        )
    return u
