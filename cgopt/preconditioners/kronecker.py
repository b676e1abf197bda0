"""Inverses of Kronecker products plus a multiple of the identity, block by block."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import real_number
from ..arrays import Array
from .base import Preconditioner


class Kronecker(Preconditioner):
    r"""``(A_i (x) G_i + shift I)^-1`` for each block i of a vector.

    Block i, row-major, is a matrix V of len(A_i) rows and len(G_i) columns, and ``A_i (x) G_i`` takes it to A_i V
    G_i. With eigenvalues a, g and eigenvectors P, Q of the two,

    .. math:: V \mapsto P \left[ (P^T V Q)_{jk} / (a_j g_k + shift) \right] Q^T .

    With the second moments of a layer's inputs and of its back-propagated gradients as A and G, it approximates the
    inverse of a network's damped Fisher matrix (Martens and Grosse 2015); `cgopt.nn.MLP.linearize` gives those.

    Parameters
    ----------
    factors : sequence of (A, G)
        Symmetric positive semi-definite arrays, of one type.
    shift : float
        Positive.

    References
    ----------
    J. Martens and R. Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, ICML 2015.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A, G = np.diag([1.0, 2.0]), np.diag([3.0, 4.0, 5.0])
    >>> M = cgopt.preconditioners.Kronecker([(A, G)], 1.0)
    >>> np.allclose(M @ (np.kron(A, G) @ np.ones(6) + np.ones(6)), 1.0)
    True
    """

    def __init__(self, factors: Sequence[tuple[Any, Any]], shift: float) -> None:
        start = time.perf_counter()
        shift = real_number("shift", shift, above=0.0)
        self._blocks: list[tuple[Array, Array, Array]] = []
        for A, G in factors:
            (a, P), (g, Q) = _spectrum(A), _spectrum(G)
            self._blocks.append((P, Q, (1.0 / (np.outer(a, g) + shift)).astype(P.dtype)))
        if not self._blocks:
            raise ValueError("factors must hold at least one pair (A, G)")
        n = sum(inverse.size for _, _, inverse in self._blocks)
        self.shape, self.dtype = (n, n), np.dtype(np.result_type(*(inverse for _, _, inverse in self._blocks)))
        self.setup_time = time.perf_counter() - start

    def _matvec(self, x: Array, out: Array) -> None:
        start = 0
        for P, Q, inverse in self._blocks:
            stop = start + inverse.size
            V = x[start:stop].reshape(inverse.shape)
            V = P.T @ V @ Q
            V *= inverse
            out[start:stop] = (P @ V @ Q.T).reshape(-1)
            start = stop

    @property
    def nbytes(self) -> int:
        """Bytes of eigenvectors and eigenvalues."""
        return sum(a.nbytes for block in self._blocks for a in block)


def _spectrum(S: Any) -> tuple[Array, Array]:
    """Eigenvalues, those below zero by rounding set to zero, and eigenvectors."""
    S = np.asarray(S)
    if S.ndim != 2 or S.shape[0] != S.shape[1] or S.dtype.kind != "f":
        raise ValueError(f"factors must hold square real arrays, got shape {S.shape}, {S.dtype}")
    if not np.isfinite(S).all():
        raise ValueError("factors hold NaN or infinity; all entries must be finite")
    values, vectors = np.linalg.eigh(S)
    least = -math.sqrt(float(np.finfo(S.dtype).eps)) * abs(values).max()
    if values[0] < least:
        raise ValueError(f"factors must be positive semi-definite; the least eigenvalue is {values[0]:.3g}")
    return np.maximum(values, 0.0), np.ascontiguousarray(vectors)
