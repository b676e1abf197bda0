"""The Fisher matrix of a policy, by products, in two forms of the same matrix.

`Fisher` is J' M J on the network's linearisation: J v, the head's own M, and J' of the result. It holds for any network
and any number of outputs.

`FactoredFisher` uses that M is a sum of few outer products in each state, M = sum_c m_c m_c' (one for two alternatives,
k - 1 for k, one for each dimension of a Gaussian). The columns m_c are sent back through the network once,
B_c = J_i' m_c layer by layer, and then, with a layer's inputs [h 1] and a block V of the vector,

    u_c = sum over layers of rows of ([h 1] V) * B_c,    product = [h 1]' (sum_c u_c B_c)   layer by layer.

That is two matrix products for each layer instead of the five of a forward and a backward derivative, which need W as
well; it pays as long as the columns are few.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cgopt.operators import JacobianOperator, Operator

from .kernels import fisher as kernels

Array = npt.NDArray[Any]
FEW = 4  # columns up to which the factored form is the faster one


class Fisher(JacobianOperator):
    """The mean Fisher matrix of a policy at one theta: ``J' M J`` in the network, a diagonal behind it.

    It is the Hessian of the mean KL(old || new) in the new parameters at the old ones (where the term with the second
    derivatives of the outputs vanishes, because the gradient of the KL does): positive semi-definite, and evaluated
    nowhere else.

    Parameters
    ----------
    linearization : cgopt.nn.MLPLinearization
    head : Categorical or Gaussian
    extra : (k,) array
    weights : (N,) array
        Of the states in the mean; they add up to one.
    """

    def __init__(self, linearization: Any, head: Any, extra: Array, weights: Array) -> None:
        super().__init__(linearization, head.fisher(linearization.output, extra, weights))
        self.n_network = self.shape[0]
        self.behind = head.extra_fisher(extra).astype(self.dtype)
        n = self.n_network + self.behind.size
        self.shape = (n, n)

    def _matvec(self, x: Array, out: Array) -> None:
        n = self.n_network
        super()._matvec(np.ascontiguousarray(x[:n]), out[:n])
        np.multiply(self.behind, x[n:], out=out[n:])

    def _matmat(self, X: Array, out: Array) -> None:
        Operator._matmat(self, X, out)


class FactoredFisher(Operator):
    """The same matrix from the columns of M, sent back through the network once.

    Parameters
    ----------
    linearization : cgopt.nn.MLPLinearization
        Of the network; what it keeps of the forward pass is used, not copied.
    head, extra, weights
        As for `Fisher`.
    """

    def __init__(self, linearization: Any, head: Any, extra: Array, weights: Array) -> None:
        network, theta = linearization.network, linearization.theta
        self._inputs = tuple(linearization.inputs)
        self.dtype = np.dtype(theta.dtype)
        self.behind = head.extra_fisher(extra).astype(self.dtype)
        self.n_network = network.n
        self.shape = (network.n + self.behind.size,) * 2
        N = linearization.samples
        # Back, all columns at once: B[l] is (columns, N, units of layer l).
        delta = head.fisher_columns(linearization.output, extra).astype(self.dtype)
        delta *= np.sqrt(weights).astype(self.dtype)[:, None]
        B: list[Array] = []
        for layer in range(len(network.blocks) - 1, -1, -1):
            slope = linearization.slopes[layer]
            if slope is not None:
                delta *= slope
            B.insert(0, delta)
            if layer:
                W = network.blocks[layer].of(theta)[:-1]
                delta = (delta.reshape(-1, W.shape[1]) @ W.T).reshape(len(delta), N, -1)
        self._B = tuple(B)

    def _matvec(self, x: Array, out: Array) -> None:
        n = self.n_network
        kernels.product(self._inputs, self._B, np.ascontiguousarray(x[:n], self.dtype), out[:n])
        np.multiply(self.behind, x[n:], out=out[n:])

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept between products."""
        return sum(a.nbytes for a in (*self._inputs, *self._B))

    def __repr__(self) -> str:
        return (
            f"FactoredFisher({self.shape[0]} parameters, {self._B[0].shape[1]} states, {self._B[0].shape[0]} columns)"
        )


def fisher(linearization: Any, head: Any, extra: Array, weights: Array) -> Operator:
    """The mean Fisher matrix, in the form that is faster for this number of columns; parameters as for `Fisher`."""
    form = FactoredFisher if head.n_columns <= FEW else Fisher
    return form(linearization, head, extra, weights)
