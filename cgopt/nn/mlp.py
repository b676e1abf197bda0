"""Multi-layer perceptrons, linearised once and multiplied by often.

Products by R. Pearlmutter's operator (1994), R{g}(theta) = d/dr g(theta + r v) at r = 0. With a_l = [h_l 1][W_l; b_l],
h_{l+1} = f(a_l), and a vector v = (..., [RW_l; Rb_l], ...):

    R{a_l} = [h_l 1][RW_l; Rb_l] + R{h_l} W_l,   R{h_{l+1}} = f'(a_l) * R{a_l}                       (J v)
    delta_l = f'(a_l) * (delta_{l+1} W_{l+1}'),   gradient of [W_l; b_l] = [h_l 1]' delta_l            (J'u)

and the same derivative of the second line gives the full Hessian. The Gauss-Newton product (Schraudolph 2002) is the
first, the loss's own Hessian in the outputs, and the second. For k vectors at once every row holds k of them side by
side, as an array (samples, k, units): the same matrix products with k times the columns or rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np

from ..arguments import whole_number
from ..arrays import Array, as_device_array, filled, kernels_for, require_together
from ..kernels import gpu
from .activations import CODES, Activation, as_activation
from .network import Block, Network, as_direction, as_inputs, as_output_direction, lay_out, require_buffer


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
        require_together(theta=theta, X=X)
        theta = self.parameters(theta)
        return MLPLinearization(self, theta, as_inputs(X, 2, self.n_inputs))

    def forward(self, theta: Array, X: Array) -> Array:
        """The outputs, (samples, n_outputs), for inputs (samples, n_inputs).

        For one observation at a time, see `MLP.predictor`.
        """
        require_together(theta=theta, X=X)
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

    def predictor(self, theta: Array) -> Predictor:
        """The network as a function of one observation, compiled whole: for acting, a step at a time.

        Parameters
        ----------
        theta : (n,) float32 or float64 array
            Looked at, not copied: the predictor follows changes made in place.

        Returns
        -------
        Predictor
            Of an observation (n_inputs,) to the outputs (n_outputs,). Both come and go in its own buffers: copy outputs
            that must outlive the next call. With theta on a GPU, so are they.

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.MLP([4, 64, 64, 2])
        >>> theta = network.init(0)
        >>> observation = np.array([0.1, 0.2, -0.1, 0.0])
        >>> np.allclose(network.predictor(theta)(observation), network.forward(theta, observation[None])[0])
        True
        """
        return Predictor(self, self.parameters(theta))

    def description(self) -> dict[str, Any]:
        """What makes the network, for the header of a file."""
        names = [str(f or "linear") for f in self.activations]
        return {"kind": "MLP", "sizes": self.sizes, "activation": names[:-1], "output_activation": names[-1]}

    def __repr__(self) -> str:
        hidden = self.activations[:-1]
        names = [str(f or "linear") for f in hidden]
        shown = names[:1] if len(set(names)) == 1 else names
        shown += [f"{self.activations[-1]} outputs"] if self.activations[-1] is not None else []
        return f"MLP({', '.join(['-'.join(map(str, self.sizes)), *shown])}, {self.n} parameters)"


class Predictor:
    """A network on one observation at a time; made by `MLP.predictor`."""

    def __init__(self, network: MLP, theta: Array) -> None:
        self.network, self.theta = network, theta
        self._kernels = kernels_for(theta)
        self._sizes = np.asarray(network.sizes, np.int64, like=theta)
        self._codes = np.asarray([CODES[str(f or "linear")] for f in network.activations], np.int64, like=theta)
        self._states = np.zeros((len(network.sizes), max(network.sizes)), theta.dtype, like=theta)
        self._observation = self._states[0, : network.n_inputs]
        self._output = self._states[-1, : network.n_outputs]

    def __call__(self, observation: Any) -> Array:
        """Outputs (n_outputs,) for an observation (n_inputs,): a view that the next call overwrites."""
        if self._kernels is gpu:
            require_together(theta=self.theta, observation=observation)
            observation = as_device_array(observation, "observation")
        else:
            observation = np.asarray(observation)
        if observation.shape != self._observation.shape:
            raise ValueError(f"observation must have shape {self._observation.shape}, got {observation.shape}")
        self._observation[...] = observation
        self._kernels.forward_one(self.theta, self._sizes, self._codes, self._states)
        return self._output

    def __repr__(self) -> str:
        return f"Predictor({self.network!r}, {self.theta.dtype})"


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
        self._kernels = kernels_for(theta)
        # Rows [h 1] of every layer's input, and f'(a) of every layer's units.
        self._h1 = [filled((N, block.rows), 1.0, dtype, like=theta) for block in network.blocks]
        self._d = [
            None if f is None else np.empty((N, block.units), dtype, like=theta)
            for block, f in zip(network.blocks, network.activations, strict=True)
        ]
        self._a = [np.empty((N, block.units), dtype, like=theta) for block in network.blocks[:-1]]
        self._scratch: dict[int, Scratch] = {}
        self.output = np.empty((N, network.n_outputs), dtype, like=theta)
        self.update(theta, X)

    def update(self, theta: Array, X: Array | None = None) -> Self:
        """Linearise anew, at another theta or on another batch of the same size, allocating nothing.

        Operators made of it before are void: make them anew.

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
        self.theta = require_buffer(theta, (self.n,), self.dtype, "theta")
        if X is not None:
            if np.shape(X) != (self.samples, self.network.n_inputs):
                raise ValueError(f"X must have shape {(self.samples, self.network.n_inputs)}, got {np.shape(X)}")
            self._h1[0][:, :-1] = X
        last = len(self._d) - 1
        for layer, (block, f) in enumerate(zip(self.network.blocks, self.network.activations, strict=True)):
            a, d = self.output if layer == last else self._a[layer], self._d[layer]
            np.matmul(self._h1[layer], block.of(theta), out=a)  # a = [h 1][W; b]
            if self._kernels is gpu:  # one pass for all of what follows
                gpu.activate(str(f or "linear"), a, d, self._h1[layer + 1] if layer < last else None)
                continue
            if f is not None and d is not None:
                f.apply(a, out=a)
                f.derivative(a, out=d)
            if layer < last:
                self._h1[layer + 1][:, :-1] = a
        return self

    @property
    def inputs(self) -> list[Array]:
        """Each layer's inputs, rows [h 1], (samples, inputs + 1); overwritten by `update`."""
        return self._h1

    @property
    def slopes(self) -> list[Array | None]:
        """f'(a) of each layer's units, (samples, units), None where it is 1; overwritten by `update`."""
        return self._d

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
        shape = (self.samples, *v.shape[1:], self.network.n_outputs)
        out = (
            np.empty(shape, self.dtype, like=self.theta)
            if out is None
            else require_buffer(out, shape, self.dtype, "out")
        )
        self._jvp(v, out)
        return out

    def _jvp(self, v: Array, out: Array) -> None:
        s = self.scratch(v.shape[1] if v.ndim == 2 else 1)
        last = len(self._d) - 1
        for layer, block in enumerate(self.network.blocks):
            r = out.reshape(s.r[layer].shape) if layer == last else s.r[layer]
            np.matmul(self._h1[layer], s.columns(layer, block, v), out=r)  # [h 1][RW; Rb]
            if layer:
                np.matmul(s.rows(layer - 1), block.of(self.theta)[:-1], out=s.t_rows[layer])  # R{h} W
            self._finish(r.reshape(s.shape3(layer)), s.t[layer].reshape(s.shape3(layer)) if layer else None, layer)

    def _finish(self, r: Array, t: Array | None, layer: int) -> None:
        """R{h}, or delta, of the layer: ``(r + t) * f'(a)``, in place."""
        d = self._d[layer]
        if d is None and t is not None:
            r += t
        elif d is not None and t is not None:
            self._kernels.add_scale_units(r, t, d)
        elif d is not None:
            self._kernels.scale_units(r, d)

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
        shape = (self.n, *u.shape[1:-1])
        out = (
            np.empty(shape, self.dtype, like=self.theta)
            if out is None
            else require_buffer(out, shape, self.dtype, "out")
        )
        self._vjp(u, out)
        return out

    def _vjp(self, u: Array, out: Array) -> None:
        s = self.scratch(u.shape[1] if u.ndim == 3 else 1)
        last = len(self._d) - 1
        delta = u.reshape(s.r[last].shape)
        if self._d[last] is not None:
            s.r[last][...] = delta
            delta = s.r[last]
            self._finish(delta.reshape(s.shape3(last)), None, last)
        for layer in range(last, -1, -1):
            block = self.network.blocks[layer]
            s.store(layer, block, self._h1[layer].T, delta, out)  # [h 1]' delta
            if layer:
                W = block.of(self.theta)[:-1]
                np.matmul(delta.reshape(-1, block.units), W.T, out=s.rows(layer - 1))
                delta = s.r[layer - 1]
                self._finish(delta.reshape(s.shape3(layer - 1)), None, layer - 1)  # f'(a) * (delta W')

    def squared_vjp(self, u: Array, out: Array | None = None) -> Array:
        """``sum_i (J_i'u_i)^2`` over the samples i, entry by entry: of gradients u_i, the empirical Fisher diagonal.

        A sample's gradient is the outer product of ``[h 1]`` and delta, so its square is that of their squares.

        Parameters
        ----------
        u : (samples, n_outputs) array
        out : (n,) array, optional

        Returns
        -------
        (n,) array
        """
        out = (
            np.empty(self.n, self.dtype, like=self.theta)
            if out is None
            else require_buffer(out, (self.n,), self.dtype, "out")
        )
        for layer, delta in self._deltas(u):
            np.matmul(np.square(self._h1[layer]).T, np.square(delta), out=self.network.blocks[layer].of(out))
        return out

    def kronecker_factors(self, u: Array) -> list[tuple[Array, Array]]:
        """Second moments of every layer's input ``[h 1]`` and of its delta, for samples' gradients u in the outputs.

        With u drawn from the model, their Kronecker products approximate the layers' blocks of the Fisher matrix
        (Martens and Grosse 2015, section 3), as `cgopt.preconditioners.Kronecker` takes them.

        Parameters
        ----------
        u : (samples, n_outputs) array

        Returns
        -------
        list of ((rows, rows), (units, units)) arrays
            In the order of the layers.
        """
        factors, share = [], self.dtype.type(1.0 / self.samples)
        for layer, delta in self._deltas(u):
            h1 = self._h1[layer]
            factors.append((share * (h1.T @ h1), share * (delta.T @ delta)))
        return factors[::-1]

    def _deltas(self, u: Array) -> Iterator[tuple[int, Array]]:
        """Layers from the last to the first, with their deltas."""
        u = as_output_direction(u, self.output.shape, self.dtype)
        if u.ndim != 2:
            raise ValueError(f"u must have the outputs' shape {self.output.shape}, got {u.shape}")
        for layer in range(len(self._d) - 1, -1, -1):
            d = self._d[layer]
            delta = u if d is None else u * d
            yield layer, delta
            if layer:
                u = delta @ self.network.blocks[layer].of(self.theta)[:-1].T

    def second_order(self, u: Array) -> SecondOrder:
        """What full Hessian products need of the function ``sum(u * output)``; see `SecondOrder`."""
        return SecondOrder(self, as_output_direction(u, self.output.shape, self.dtype))

    def scratch(self, k: int) -> Scratch:
        """Buffers for one vector, or for the k vectors at once that were asked for last."""
        if k not in self._scratch:
            self._scratch = {j: kept for j, kept in self._scratch.items() if j == 1}
            self._scratch[k] = Scratch(self.network.blocks, self.samples, k, self.theta)
        return self._scratch[k]

    @property
    def nbytes(self) -> int:
        """Bytes of activations and buffers."""
        arrays = [*self._h1, *(d for d in self._d if d is not None), *self._a, self.output]
        return sum(a.nbytes for a in arrays) + sum(s.nbytes for s in self._scratch.values())

    def __repr__(self) -> str:
        return f"MLPLinearization({self.network!r}, {self.samples} samples, {self.dtype}, {self.nbytes / 1e6:.3g} MB)"


class SecondOrder:
    """Products with ``J' M J`` plus the second derivative of ``sum(u * output)``, at a linearisation.

    With u and M the gradient and Hessian of a loss in the outputs, this is the loss's Hessian. The operator R is
    applied to back-propagation itself (Pearlmutter 1994, section 4.1); the deltas of u are computed once, here:

        R{delta_l} = f'(a) * (R{delta_{l+1}} W' + delta_{l+1} RW') + f''(a) * (delta_{l+1} W') * R{a_l}
        R{gradient of [W; b]} = [h 1]' R{delta} + [R{h} 0]' delta
    """

    def __init__(self, at: MLPLinearization, u: Array) -> None:
        self.at = at
        network, last = at.network, len(at._d) - 1
        self._delta: list[Array] = [np.empty(0)] * (last + 1)
        self._bend: list[Array | None] = [None] * (last + 1)  # f''(a) times what comes back, where f is not linear
        back = u
        for layer in range(last, -1, -1):
            d, f = at._d[layer], network.activations[layer]
            h = at.output if layer == last else at._h1[layer + 1][:, :-1]
            self._delta[layer] = back.copy() if d is None else back * d
            second = None if f is None or d is None else f.second_derivative(h, d)
            self._bend[layer] = None if second is None else second * back
            back = self._delta[layer] @ network.blocks[layer].of(at.theta)[:-1].T
        self._ra: dict[int, list[Array]] = {}

    def product(self, v: Array, M: Any, out: Array) -> None:
        """Write the product with v, (n,) or (n, k), to `out`; `M` is an `OutputCurvature`."""
        at, s = self.at, self.at.scratch(v.shape[1] if v.ndim == 2 else 1)
        blocks, last = at.network.blocks, len(at._d) - 1
        if s.k not in self._ra:
            self._ra.clear()
            self._ra[s.k] = [np.empty(s.shape3(layer), at.dtype, like=v) for layer in range(last + 1)]
        ra = self._ra[s.k]
        for layer, block in enumerate(blocks):
            r = s.r[layer]
            np.matmul(at._h1[layer], s.columns(layer, block, v), out=r)
            if layer:
                np.matmul(s.rows(layer - 1), block.of(at.theta)[:-1], out=s.t_rows[layer])
                r += s.t[layer]
            three = r.reshape(s.shape3(layer))
            ra[layer][...] = three
            at._finish(three, None, layer)
        back = s.r[last].reshape(s.shape3(last)).copy()  # J v
        M.multiply(back.reshape(at.output.shape) if v.ndim == 1 else back)
        for layer in range(last, -1, -1):
            block, bend = blocks[layer], self._bend[layer]
            at._finish(back, None, layer)
            if bend is not None:
                ra[layer] *= bend[:, None, :]
                back += ra[layer]  # R{delta}
            s.store(layer, block, at._h1[layer].T, back.reshape(at.samples, -1), out)
            if layer:
                block.add_to_weights(out, s.r[layer - 1].T @ self._delta[layer])  # R{h}' delta
                back = (back.reshape(-1, block.units) @ block.of(at.theta)[:-1].T).reshape(s.shape3(layer - 1))
                back += (self._delta[layer] @ block.transposed_weights(v)).reshape(back.shape)  # delta RW'

    @property
    def nbytes(self) -> int:
        """Bytes held beside the linearisation's."""
        kept = [*self._delta, *(b for b in self._bend if b is not None)]
        return sum(a.nbytes for a in kept) + sum(a.nbytes for ra in self._ra.values() for a in ra)


class Scratch:
    """Buffers of products with k vectors at once: rows of a batch hold k vectors' units side by side."""

    def __init__(self, blocks: Sequence[Block], samples: int, k: int, theta: Array) -> None:
        dtype = theta.dtype
        self.samples, self.k = samples, k
        self.blocks = blocks
        self.r = [np.empty((samples, k * block.units), dtype, like=theta) for block in blocks]
        self.t = [np.empty((samples, k * block.units), dtype, like=theta) for block in blocks]
        self.t_rows = [t.reshape(samples * k, -1) for t in self.t]
        # Columns of a parameter block: (rows, units, k) as the vectors lie, (rows, k, units) as products want them.
        self.block = [np.empty((block.rows, k, block.units), dtype, like=theta) for block in blocks] if k > 1 else []

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
