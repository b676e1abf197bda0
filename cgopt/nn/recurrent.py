"""Simple recurrent networks, unrolled in time, with the same products as the others.

    a_t = [x_t 1][W_in; b_in] + h_{t-1} W_rec,   h_t = f(a_t),   z_t = [h_t 1][W_out; b_out],   h_0 = 0

Time is the first axis inside, so that the input's and the output's matrix products, and those of gradients, take all
steps at once; only the products with W_rec go step by step.

Structural damping (Martens and Sutskever 2011, section 4) adds to the Gauss-Newton matrix that of a distance between
hidden states, ``J_a' S J_a``, J_a the Jacobian of all a_t. The distance matches the activation: for tanh and logistic
units a cross-entropy, S = f'(a); for others half the squared distance of states, S = f'(a)^2. It costs one
multiplication of what a product has at hand.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..arguments import Seed, one_of, real_number, whole_number
from ..arrays import Array, on_device
from ..kernels import cpu
from .activations import Activation, as_activation
from .network import Block, Network, as_direction, as_inputs, as_output_direction, lay_out, require_buffer

MATCHED = ("tanh", "logistic")


class RNN(Network):
    """A simple recurrent network over one flat parameter vector.

    Parameters
    ----------
    n_inputs, n_hidden, n_outputs : int
    activation : str
        Of the hidden units: tanh, logistic, relu, softplus, linear.
    outputs : {"all", "last"}
        Whether there are outputs at every step, (samples, steps, n_outputs), or after the last only,
        (samples, n_outputs).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> network = cgopt.nn.RNN(2, 8, 3)
    >>> network.forward(network.init(0), np.ones((5, 10, 2))).shape
    (5, 10, 3)
    >>> network
    RNN(2-8-3, tanh, outputs at all steps, 115 parameters)
    """

    def __init__(
        self, n_inputs: int, n_hidden: int, n_outputs: int, activation: str = "tanh", *, outputs: str = "all"
    ) -> None:
        self.n_inputs = whole_number("n_inputs", n_inputs)
        self.n_hidden = whole_number("n_hidden", n_hidden)
        self.n_outputs = whole_number("n_outputs", n_outputs)
        self.activation: Activation | None = as_activation(activation, "activation")
        self.outputs = one_of("outputs", outputs, ("all", "last"))
        self.blocks = lay_out(
            [
                ("W_in", "b_in", self.n_inputs, self.n_hidden),
                ("W_rec", None, self.n_hidden, self.n_hidden),
                ("W_out", "b_out", self.n_hidden, self.n_outputs),
            ]
        )
        inputs = self.blocks[0].rows + self.n_hidden
        self.core = Block("[W_in; b_in; W_rec]", None, 0, inputs, self.n_hidden)  # as one block: they lie together

    def init(
        self,
        rng: Seed = None,
        *,
        scheme: str = "scaled",
        dtype: Any = np.float64,
        spectral_radius: float | None = None,
        **options: Any,
    ) -> Array:
        """A starting point, as `Network.init`.

        Parameters
        ----------
        rng, scheme, dtype, **options
            As there.
        spectral_radius : float, optional
            Multiply W_rec so that its largest eigenvalue has this size: about 1.1 keeps what was seen without running
            away, so that tasks with long delays can be learnt (Sutskever et al. 2013, section 4).

        Returns
        -------
        (n,) array

        Examples
        --------
        >>> import numpy as np, cgopt
        >>> network = cgopt.nn.RNN(2, 50, 1)
        >>> theta = network.init(0, scheme="sparse", spectral_radius=1.1)
        >>> float(np.max(np.abs(np.linalg.eigvals(network.views(theta)["W_rec"]))))
        1.1
        """
        theta = super().init(rng, scheme=scheme, dtype=dtype, **options)
        if spectral_radius is not None:
            W = self.views(theta)["W_rec"]
            found = float(np.max(np.abs(np.linalg.eigvals(W))))
            if found == 0.0:
                raise ValueError(f"spectral_radius cannot be reached: W_rec has no other than zero under {scheme!r}")
            W *= real_number("spectral_radius", spectral_radius, above=0.0) / found
        return theta

    def linearize(self, theta: Array, X: Array) -> RNNLinearization:
        """Run the forward pass and keep what products need.

        Parameters
        ----------
        theta : (n,) float32 or float64 array
            Products are of this type.
        X : (samples, steps, n_inputs) array

        Returns
        -------
        RNNLinearization

        Raises
        ------
        ValueError, TypeError
            If a shape or type does not fit, or an entry is NaN or infinite.
        """
        if on_device(theta) or on_device(X):
            raise TypeError("recurrent networks run in host memory: pass theta.get() and X.get()")
        return RNNLinearization(self, self.parameters(theta), as_inputs(X, 3, self.n_inputs))

    def forward(self, theta: Array, X: Array) -> Array:
        """The outputs for inputs (samples, steps, n_inputs)."""
        return self.linearize(theta, X).output

    def description(self) -> dict[str, Any]:
        """What makes the network, for the header of a file."""
        sizes = {"n_inputs": self.n_inputs, "n_hidden": self.n_hidden, "n_outputs": self.n_outputs}
        return {"kind": "RNN", **sizes, "activation": str(self.activation or "linear"), "outputs": self.outputs}

    def __repr__(self) -> str:
        sizes = f"{self.n_inputs}-{self.n_hidden}-{self.n_outputs}"
        when = "at all steps" if self.outputs == "all" else "after the last step"
        return f"RNN({sizes}, {self.activation or 'linear'}, outputs {when}, {self.n} parameters)"


class RNNLinearization:
    """A recurrent network at one theta on one batch: its output, and products with its Jacobian.

    Attributes
    ----------
    network : RNN
    theta : (n,) array
    output : (samples, steps, n_outputs) or (samples, n_outputs) array
    """

    def __init__(self, network: RNN, theta: Array, X: Array) -> None:
        self.network = network
        self.n, self.dtype, self.samples, self.steps = network.n, theta.dtype, X.shape[0], X.shape[1]
        inputs, units = network.n_inputs, network.n_hidden
        # Rows [x_t 1 h_{t-1}], as the core [W_in; b_in; W_rec] multiplies them; h_T in one more step.
        self._s = np.zeros((self.steps + 1, self.samples, inputs + 1 + units), self.dtype)
        self._s[:, :, inputs] = 1.0
        self._d = np.ones((self.steps, self.samples, units), self.dtype)  # f'(a_t)
        self._buffers: dict[int, tuple[Array, Array, Array]] = {}
        self.update(theta, X)

    @property
    def hidden(self) -> Array:
        """The states h_1, h_2, ..., (steps, samples, n_hidden)."""
        return self._s[1:, :, self.network.n_inputs + 1 :]

    def update(self, theta: Array, X: Array | None = None) -> Self:
        """Linearise anew, at another theta or on another batch of the same size.

        Operators made of it before are void: make them anew.

        Parameters
        ----------
        theta : (n,) array of the same type
            Trusted to be finite.
        X : (samples, steps, n_inputs) array, optional
            The same batch by default.

        Returns
        -------
        RNNLinearization
            Itself.
        """
        self.theta = require_buffer(theta, (self.n,), self.dtype, "theta")
        if X is not None:
            if np.shape(X) != (self.samples, self.steps, self.network.n_inputs):
                raise ValueError(f"X must have shape {(self.samples, self.steps, self.network.n_inputs)}")
            self._s[:-1, :, : self.network.n_inputs] = X.transpose(1, 0, 2)
        core, f = self.network.core.of(theta), self.network.activation
        a = self._buffer(1)[2]
        for t in range(self.steps):
            np.matmul(self._s[t], core, out=a)  # a_t = [x_t 1 h_{t-1}][W_in; b_in; W_rec]
            if f is not None:
                f.apply(a, out=a)
                f.derivative(a, out=self._d[t])
            self.hidden[t] = a
        self.output = self._leave(self._out(self.network.blocks[-1].of(theta))[:, :, None])[..., 0, :]
        return self

    def _buffer(self, k: int) -> tuple[Array, Array, Array]:
        """For R{h} and adjoints of k vectors, (steps, samples, k, n_hidden), and for one step; the last are kept."""
        if k not in self._buffers:
            self._buffers = {j: kept for j, kept in self._buffers.items() if j == 1}
            shape = (self.samples, k, self.network.n_hidden) if k > 1 else (self.samples, self.network.n_hidden)
            self._buffers[k] = (
                np.empty((self.steps, *shape), self.dtype),
                np.empty((self.steps, *shape), self.dtype),
                np.empty(shape, self.dtype),
            )
        return self._buffers[k]

    def _rows(self) -> Array:
        """Rows [x_t 1 h_{t-1}] of all steps and samples."""
        return self._s[:-1].reshape(-1, self._s.shape[-1])

    def _read(self, states: Array) -> Array:
        """The states that have outputs."""
        return states if self.network.outputs == "all" else states[-1:]

    def _out(self, block: Array) -> Array:
        """``[h 1] block`` for the states that have outputs."""
        z: Array = self._read(self.hidden) @ block[:-1]
        z += block[-1]
        return z

    def _leave(self, z: Array) -> Array:
        """Outputs from (steps, samples, k, units) as they are inside to (samples, steps, k, units)."""
        return np.ascontiguousarray(z.swapaxes(0, 1) if self.network.outputs == "all" else z[0])

    def _enter(self, u: Array) -> Array:
        """And back."""
        k = u.shape[-2] if u.ndim > self.output.ndim else 1
        z = u.swapaxes(0, 1) if self.network.outputs == "all" else u[None]
        return np.ascontiguousarray(z).reshape(-1, self.samples, k, self.network.n_outputs)

    def jvp(self, v: Array, out: Array | None = None) -> Array:
        """``J v`` for v (n,) or (n, k); of the outputs' shape, k before the last axis."""
        v = as_direction(v, self.n, self.dtype)
        z = self._leave(self._forward(v)[1])
        z = z if v.ndim == 2 else z[..., 0, :]
        if out is None:
            return z
        out[...] = z
        return out

    def vjp(self, u: Array, out: Array | None = None) -> Array:
        """``J'u`` for u of the outputs' shape, k before the last axis; (n,) or (n, k)."""
        u = as_output_direction(u, self.output.shape, self.dtype)
        shape = (self.n,) if u.ndim == self.output.ndim else (self.n, u.shape[-2])
        out = np.empty(shape, self.dtype) if out is None else require_buffer(out, shape, self.dtype, "out")
        delta = self._enter(u)
        self._gradients(delta, self._backward(delta), out)
        return out

    def gauss_newton(self, v: Array, M: Any, structural: float, out: Array) -> None:
        """Write ``J' M J v + structural / samples * J_a' S J_a v`` to `out`: one pass forward, one back."""
        rh, rz = self._forward(as_direction(v, self.n, self.dtype))
        u = self._leave(rz)
        M.multiply(u if v.ndim == 2 else u[..., 0, :])
        f, scale = self.network.activation, structural / self.samples
        delta = self._enter(u if v.ndim == 2 else u[..., 0, :])
        # S R{a} is R{h} = f'(a) R{a} for S = f'(a), the adjoint of a; for the squared distance, whose S is f'(a)^2,
        # R{h} is the adjoint of h, to be multiplied by f'(a) on its way to a.
        matched = f is not None and f.name in MATCHED
        back = self._backward(delta, None if matched else rh, rh if matched else None, scale)
        self._gradients(delta, back, out)

    def _forward(self, v: Array, ra: Array | None = None) -> tuple[Array, Array]:
        """R{h}, (steps, samples, k, n_hidden), and R{z}, (steps, samples, k, n_outputs); R{a} to `ra` where wanted.

        R{h} lies in a buffer, until the next product.
        """
        core, onto = self.network.core, self.network.blocks[-1]
        k = v.shape[1] if v.ndim == 2 else 1
        W, W_out = self.network.blocks[1].of(self.theta), onto.of(self.theta)[:-1]
        whole, _, step = self._buffer(k)
        rows, step = self._rows(), step.reshape(self.samples, k, -1)
        rh = whole.reshape(self.steps, self.samples, k, -1)
        np.matmul(rows, core.columns(v), out=whole.reshape(len(rows), -1))  # [x 1 h][RW; Rb; RW_rec]
        for t in range(self.steps):
            if t:
                _times(rh[t - 1], W, step)  # + R{h} W_rec
            if ra is not None:
                ra[t] = rh[t] + step if t else rh[t]
            if t:
                cpu.add_scale_units(rh[t], step, self._d[t])  # f'(a) R{a}
            else:
                cpu.scale_units(rh[t], self._d[t])
        rz = self._out(onto.columns(v)).reshape(-1, self.samples, k, self.network.n_outputs)
        rz += self._read(rh) @ W_out
        return rh, rz

    def _backward(
        self, delta: Array, pull: Array | None = None, push: Array | None = None, scale: float = 1.0
    ) -> Array:
        """Adjoints of a, (steps, samples, k, n_hidden), from those of z, in a buffer until the next product.

        To those of h, `scale` times `pull` is added, and to those of a as much of `push`.
        """
        W, W_out = self.network.blocks[1].of(self.theta).T, self.network.blocks[-1].of(self.theta)[:-1].T
        k, scale = delta.shape[2], self.dtype.type(scale)
        _, whole, step = self._buffer(k)
        back, step = whole.reshape(self.steps, self.samples, k, -1), step.reshape(self.samples, k, -1)
        first = self.steps - len(delta)  # the steps before it have no outputs
        _times(delta, W_out, back[first:])
        back[:first] = 0.0
        for t in range(self.steps - 1, -1, -1):
            if pull is not None:
                back[t] += scale * pull[t]
            if t < self.steps - 1:
                _times(back[t + 1], W, step)
                cpu.add_scale_units(back[t], step, self._d[t])
            else:
                cpu.scale_units(back[t], self._d[t])
            if push is not None:
                back[t] += scale * push[t]
        return back

    def _gradients(self, delta: Array, back: Array, out: Array) -> None:
        """Gradients of the blocks from the adjoints of z and a."""
        core, onto = self.network.core, self.network.blocks[-1]
        core.write(out, self._rows().T @ back.reshape(self._rows().shape[0], -1))
        ones = np.ones((*delta.shape[:2], 1), self.dtype)
        onto.write(out, _sum_of_outer(np.concatenate((self._read(self.hidden), ones), axis=-1), delta))

    def squared_vjp(self, u: Array, out: Array | None = None) -> Array:
        """``sum_i (J_i'u_i)^2`` over the samples i, entry by entry: of gradients u_i, the empirical Fisher diagonal."""
        u = as_output_direction(u, self.output.shape, self.dtype)
        out = np.empty(self.n, self.dtype) if out is None else require_buffer(out, (self.n,), self.dtype, "out")
        delta = self._enter(u)
        back = self._backward(delta)
        core, onto = self.network.core, self.network.blocks[-1]
        inputs = self.network.n_inputs
        for block, state, adjoint in (
            (core, self._s[:-1], back),
            (onto, self._read(self._s[1:, :, inputs:]), delta),  # rows [1 h_t]
        ):
            total = np.zeros((state.shape[-1], block.units), self.dtype)
            for i in range(self.samples):
                total += np.square(state[:, i].T @ adjoint[:, i, 0])  # the steps of a sample add up before the square
            block.of(out)[...] = total if block is core else np.roll(total, -1, axis=0)
        return out

    def second_order(self, u: Array) -> RNNSecondOrder:
        """What full Hessian products need of the function ``sum(u * output)``; see `RNNSecondOrder`."""
        return RNNSecondOrder(self, as_output_direction(u, self.output.shape, self.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of the states and of the products' buffers."""
        kept = [a for buffers in self._buffers.values() for a in buffers]
        return sum(a.nbytes for a in (self._s, self._d, self.output, *kept))

    def __repr__(self) -> str:
        return (
            f"RNNLinearization({self.network!r}, {self.samples} samples, {self.steps} steps, {self.dtype}, "
            f"{self.nbytes / 1e6:.3g} MB)"
        )


class RNNSecondOrder:
    """Products with ``J' M J`` plus the second derivative of ``sum(u * output)``; see `SecondOrder`."""

    def __init__(self, at: RNNLinearization, u: Array) -> None:
        self.at = at
        self._delta = at._enter(u)
        self._back = at._backward(self._delta).copy()
        f = at.network.activation
        second = None if f is None else f.second_derivative(at.hidden, at._d)
        self._bend: Array | None = None
        if second is not None:  # f''(a) times the adjoint of h
            _, recur, onto = at.network.blocks
            adjoint = np.zeros_like(self._back)
            at._read(adjoint)[...] = self._delta @ onto.of(at.theta)[:-1].T
            adjoint[:-1] += self._back[1:] @ recur.of(at.theta).T
            self._bend = second[:, :, None, :] * adjoint

    def product(self, v: Array, M: Any, out: Array) -> None:
        """Write the product with v, (n,) or (n, k), to `out`; `M` is an `OutputCurvature`."""
        at = self.at
        _, recur, onto = at.network.blocks
        shape = (at.steps, at.samples, v.shape[1] if v.ndim == 2 else 1, at.network.n_hidden)
        ra = None if self._bend is None else np.empty(shape, at.dtype)
        rh, rz = at._forward(v, ra)
        u = at._leave(rz)
        M.multiply(u if v.ndim == 2 else u[..., 0, :])
        delta = at._enter(u if v.ndim == 2 else u[..., 0, :])  # R{adjoint of z}
        # What R adds to the adjoint of h: that of z times RW_out', and that of a one step on times RW_rec'
        pull = np.zeros(shape, at.dtype)
        at._read(pull)[...] = (self._delta[:, :, 0] @ onto.transposed_weights(v)).reshape(-1, *shape[1:])
        pull[:-1] += (self._back[1:, :, 0] @ recur.transposed_weights(v)).reshape(-1, *shape[1:])
        back = at._backward(delta, pull, None if self._bend is None or ra is None else self._bend * ra)
        at._gradients(delta, back, out)
        # and what R{h} adds to the gradients, [R{h} 0]' adjoint
        wide = rh.reshape(at.steps, at.samples, -1)
        recur.add_to_weights(out, _sum_of_outer(wide[:-1], self._back[1:]))
        onto.add_to_weights(out, _sum_of_outer(at._read(wide), self._delta))

    @property
    def nbytes(self) -> int:
        """Bytes held beside the linearisation's."""
        return int(self._delta.nbytes + self._back.nbytes + (0 if self._bend is None else self._bend.nbytes))


def _times(states: Array, W: Array, out: Array) -> None:
    """``states W``, the last axes multiplied, as one product of matrices."""
    np.matmul(states.reshape(-1, len(W)), W, out=out.reshape(-1, W.shape[1]))


def _sum_of_outer(state: Array, adjoint: Array) -> Array:
    """``sum state' adjoint`` over steps and samples: (rows, k * units)."""
    rows = state.reshape(-1, state.shape[-1])
    return rows.T @ adjoint.reshape(rows.shape[0], -1)
