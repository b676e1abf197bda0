"""What a few products tell of an operator's spectrum: largest eigenvalues, density, trace, diagonal, dimension.

Each function takes a budget of products and a seed, and its estimates are unbiased or bounded as the docstring says.
The operator must be symmetric; batches and masks must be fixed, or there is no one spectrum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arguments import Seed, generator, one_of, real_number, whole_number
from ..arrays import Array
from .base import Operator
from .matrices import as_operator


class Estimate(NamedTuple):
    """A number found by sampling, and the standard error of its mean (NaN where one sample tells nothing of it)."""

    value: float
    standard_error: float


def lanczos(multiply: Callable[[Array], Array], start: Array, steps: int, eps: float) -> tuple[Array, Array, Array]:
    """The Lanczos process with full reorthogonalisation.

    Parameters
    ----------
    multiply : callable
        q to A q.
    start : (n,) float64 or complex128 array
    steps : int
        At most; fewer when the Krylov space is exhausted.
    eps : float
        Unit of rounding of the products.

    Returns
    -------
    diagonal : (m,) array
    off_diagonal : (m - 1,) array
        Of the tridiagonal matrix ``Q A Q^H``.
    Q : (m, n) array
        Orthonormal rows.
    """
    Q = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    off: list[float] = []
    while True:
        w = multiply(Q[-1])
        diagonal.append(float(np.vdot(Q[-1], w).real))
        for _ in range(2):  # twice is enough
            for q in Q:
                w = w - np.vdot(q, w) * q
        beta = float(np.linalg.norm(w))
        if len(Q) == steps or beta <= 10.0 * eps * max(map(abs, [*diagonal, *off])):
            return np.array(diagonal), np.array(off), np.array(Q)
        off.append(beta)
        Q.append(w / beta)


def top_eigenvalues(
    A: Any, k: int = 1, *, n: int | None = None, rtol: float = 1e-6, rng: Seed = 0
) -> tuple[Array, Array]:
    """The k largest eigenvalues and their vectors, by the implicitly restarted Lanczos method (SciPy's ARPACK).

    Parameters
    ----------
    A : anything `as_operator` takes
        Symmetric and real. For the smallest eigenvalues pass ``-1 * A``.
    k : int
    n : int, optional
        The size, when A is a callable.
    rtol : float
        Relative accuracy of the eigenvalues.
    rng : None, int or numpy.random.Generator
        Of the starting vector.

    Returns
    -------
    values : (k,) array
        In falling order.
    vectors : (n, k) array

    Raises
    ------
    RuntimeError
        If the iteration does not settle.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> values, vectors = cgopt.operators.top_eigenvalues(np.diag([1.0, 5.0, 3.0, 2.0]), 2)
    >>> np.round(values, 6)
    array([5., 3.])
    """
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    A = _real(A, n)
    k, rtol = whole_number("k", k), real_number("rtol", rtol, above=0.0)
    size = A.shape[0]
    if k > size:
        raise ValueError(f"k must be at most the order of A, {size}; got {k}")
    if size <= 2 * k + 20:  # as many products as the iteration's first basis: all of A
        values, vectors = np.linalg.eigh(A @ np.eye(size, dtype=A.dtype))
        return values[::-1][:k], vectors[:, ::-1][:, :k]
    start = generator(rng).standard_normal(size).astype(A.dtype)
    try:
        values, vectors = eigsh(A.to_scipy(), k, which="LA", v0=start, tol=rtol)
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"{len(error.eigenvalues)} of {k} eigenvalues settled to rtol={rtol:g}: loosen it"
        ) from error
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


class SpectralDensity:
    """Eigenvalues' distribution, as nodes and weights: an estimate of ``(1/n) sum_i delta(x - eigenvalue_i)``.

    Attributes
    ----------
    quadratures : list of (nodes, weights)
        One for each starting vector: Ritz values, and weights that add up to one.
    n : int
        Order of the operator.
    """

    def __init__(self, quadratures: list[tuple[Array, Array]], n: int) -> None:
        self.quadratures, self.n = quadratures, n

    @property
    def nodes(self) -> Array:
        """The nodes of all quadratures."""
        return np.concatenate([nodes for nodes, _ in self.quadratures])

    @property
    def weights(self) -> Array:
        """Their weights, which add up to one over all."""
        return np.concatenate([weights for _, weights in self.quadratures]) / len(self.quadratures)

    def __call__(self, x: Any, width: float) -> Array:
        """The density at points x, each node widened to a Gaussian of standard deviation `width`."""
        width = real_number("width", width, above=0.0)
        z = (np.asarray(x, np.float64)[..., None] - self.nodes) / width
        density: Array = np.exp(-0.5 * z * z) @ self.weights / (width * np.sqrt(2.0 * np.pi))
        return density

    def trace_of(self, function: Callable[[Array], Array]) -> Estimate:
        """``trace f(A)`` for an f of arrays of eigenvalues. With m steps it is exact in f up to degree 2m - 1."""
        return _mean(self.n * np.array([weights @ function(nodes) for nodes, weights in self.quadratures]))

    def __repr__(self) -> str:
        nodes = self.nodes
        return (
            f"SpectralDensity(n={self.n}, {len(self.quadratures)} samples, from {nodes.min():.3g} to {nodes.max():.3g})"
        )


def spectral_density(
    A: Any, *, steps: int = 30, samples: int = 5, n: int | None = None, rng: Seed = 0
) -> SpectralDensity:
    """The density of eigenvalues by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017, algorithm 1).

    Parameters
    ----------
    A : anything `as_operator` takes
        Symmetric and real.
    steps : int
        Lanczos steps for each sample.
    samples : int
        Starting vectors; the products are ``steps * samples``.
    n : int, optional
        The size, when A is a callable.
    rng : None, int or numpy.random.Generator

    Returns
    -------
    SpectralDensity

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> density = cgopt.operators.spectral_density(np.diag(np.arange(1.0, 101.0)), steps=20, samples=3)
    >>> x = np.linspace(-50, 150, 2001)
    >>> bool(np.isclose(density(x, 3.0).sum() * 0.1, 1.0))
    True
    """
    from scipy.linalg import eigh_tridiagonal

    A, rng = _real(A, n), generator(rng)
    steps = min(whole_number("steps", steps), A.shape[0])
    quadratures = []
    for _ in range(whole_number("samples", samples)):
        diagonal, off, _ = lanczos(_wide(A), _signs(rng, A.shape[0]), steps, float(np.finfo(A.dtype).eps))
        nodes, vectors = eigh_tridiagonal(diagonal, off)
        quadratures.append((nodes, np.square(vectors[0])))
    return SpectralDensity(quadratures, A.shape[0])


def effective_dimension(
    A: Any, lam: float, *, steps: int = 30, samples: int = 5, n: int | None = None, rng: Seed = 0
) -> Estimate:
    """``trace A (A + lam I)^{-1}``: how many directions the data determine against a damping lam (MacKay 1992).

    Parameters
    ----------
    A : anything `as_operator` takes
        Symmetric positive semi-definite.
    lam : float
        Positive.
    steps, samples, n, rng
        As for `spectral_density`.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.operators.effective_dimension(np.diag([1.0, 1.0, 1e-9, 0.0]), 1e-3).value
    1.998...
    """
    lam = real_number("lam", lam, above=0.0)

    def shrink(x: Array) -> Array:
        x = np.maximum(x, 0.0)  # rounding may leave a Ritz value of a singular matrix below zero
        return x / (x + lam)

    return spectral_density(A, steps=steps, samples=samples, n=n, rng=rng).trace_of(shrink)


def trace(A: Any, *, products: int = 30, method: str = "hutch++", n: int | None = None, rng: Seed = 0) -> Estimate:
    """The trace, from a given number of products.

    Parameters
    ----------
    A : anything `as_operator` takes
        Symmetric and real.
    products : int
    method : {"hutch++", "hutchinson"}
        Hutch++ takes the trace exactly on a subspace that a third of the products finds, and samples the rest (Meyer,
        Musco, Musco and Woodruff 2021, algorithm 1): its error falls with their number, not with its root, where
        eigenvalues decay. Hutchinson's (1990) samples all.
    n : int, optional
        The size, when A is a callable.
    rng : None, int or numpy.random.Generator

    Returns
    -------
    Estimate
        Unbiased. Exact with n products and more.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> round(cgopt.operators.trace(np.diag([100.0, 10.0, 1.0] + 97 * [0.0]), products=30).value, 6)
    111.0
    """
    A, rng = _real(A, n), generator(rng)
    products, size = whole_number("products", products), A.shape[0]
    one_of("method", method, ("hutch++", "hutchinson"))
    multiply = _wide_block(A)
    if products >= size:
        return Estimate(float(np.trace(multiply(np.eye(size)))), 0.0)
    if method == "hutchinson":
        G = _signs(rng, (size, products))
        return _mean(np.einsum("ij,ij->j", G, multiply(G)))
    if products < 3:
        raise ValueError(f"products must be at least 3 for hutch++, got {products}")
    third = products // 3
    Q, _ = np.linalg.qr(multiply(_signs(rng, (size, third))))
    G = _signs(rng, (size, products - 2 * third))
    G -= Q @ (Q.T @ G)
    low = float(np.einsum("ij,ij->", Q, multiply(Q)))
    rest = _mean(np.einsum("ij,ij->j", G, multiply(G)))
    return Estimate(low + rest.value, rest.standard_error)


def diagonal_estimate(A: Any, *, products: int = 30, n: int | None = None, rng: Seed = 0) -> Array:
    """The diagonal by Hutchinson's estimator with random signs (Bekas, Kokiopoulou and Saad 2007).

    Parameters
    ----------
    A : anything `as_operator` takes
        Symmetric and real.
    products : int
        The error in an entry is the norm of the row beside it, over the root of this; exact with n and more.
    n : int, optional
        The size, when A is a callable.
    rng : None, int or numpy.random.Generator

    Returns
    -------
    (n,) array

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.operators.diagonal_estimate(np.diag([1.0, 2.0, 3.0]), products=1)
    array([1., 2., 3.])
    """
    A = _real(A, n)
    products, size = whole_number("products", products), A.shape[0]
    multiply = _wide_block(A)
    if products >= size:
        return np.diag(multiply(np.eye(size))).astype(A.dtype)
    G = _signs(generator(rng), (size, products))
    return np.mean(G * multiply(G), axis=1).astype(A.dtype)


def _real(A: Any, n: int | None) -> Operator:
    A = as_operator(A, n=n, device=False)
    if A.dtype.kind != "f":
        raise TypeError(f"A must be real, got {A.dtype}")
    return A


def _wide(A: Operator) -> Callable[[Array], Array]:
    """Products with double-precision vectors, computed in A's own type."""
    return lambda q: A.matvec(q.astype(A.dtype)).astype(np.float64)


def _wide_block(A: Operator) -> Callable[[Array], Array]:
    return lambda X: A.matmat(np.ascontiguousarray(X, dtype=A.dtype)).astype(np.float64)


def _signs(rng: np.random.Generator, shape: Any) -> Array:
    return rng.choice([-1.0, 1.0], size=shape)


def _mean(values: Array) -> Estimate:
    spread = float(np.std(values, ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")
    return Estimate(float(np.mean(values)), spread)
