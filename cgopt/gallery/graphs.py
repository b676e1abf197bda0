"""Matrices that are given by a graph."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from cgopt.gallery._common import Seed, generator, real_number, symmetric_csr, whole_number


def graph_laplacian(n: int, *, degree: int = 6, shift: float = 1e-4, rng: Seed = None) -> csr_array:
    r"""Weighted Laplacian of a random geometric graph, plus a small shift that makes it definite.

    Each of `n` uniform points in the unit square is joined to its `degree` nearest others, by edges of
    weight :math:`w_{ij} = \bar d / d_{ij}`, the mean length of an edge over its own. With the weighted
    degrees :math:`D_{ii} = \sum_j w_{ij}` the matrix is

    .. math:: A = D - W + \mathrm{shift} \cdot \bar D\, I, \qquad \bar D = \mathrm{mean}_i D_{ii} .

    The points keep the random order in which they are drawn, so products are as irregular as on a graph from
    the wild.

    Parameters
    ----------
    n : int
        Number of vertices, at least 2.
    degree : int, default 6
        Neighbours to which each vertex is joined, less than `n`; those joined by others are added.
    shift : float, default 1e-4
        Smallest eigenvalue, relative to the mean weighted degree; positive.
    rng : None, int or numpy.random.Generator
        Where the points come from.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (n, n)
        Diagonally dominant, off-diagonal entries negative. The smallest eigenvalue is that of the constant
        vector, once for each connected part of the graph.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of the range given above.

    References
    ----------
    M. Penrose, "Random Geometric Graphs", Oxford University Press 2003.
    D. Spielman, "Algorithms, graph theory, and linear equations in Laplacian matrices", ICM 2010.

    Examples
    --------
    >>> from cgopt.gallery import graph_laplacian
    >>> A = graph_laplacian(500, degree=4, rng=8)
    >>> A.shape, bool((A.diagonal() > 0).all())
    ((500, 500), True)
    """
    n = whole_number("n", n, minimum=2)
    degree = whole_number("degree", degree)
    if degree >= n:
        raise ValueError(f"degree must be less than n = {n}, got {degree}; raise n or lower degree")
    shift = real_number("shift", shift, above=0.0)

    points = generator(rng).random((n, 2))
    # One more than asked for, since the nearest point of all is the point itself.
    distances, neighbours = map(np.asarray, cKDTree(points).query(points, k=degree + 1))
    neighbour = neighbours[:, 1:].astype(np.int64).ravel()
    vertex = np.repeat(np.arange(n), degree)
    # An edge found from both of its ends is one edge.
    ends = np.maximum(vertex, neighbour) * n + np.minimum(vertex, neighbour)
    edges, found = np.unique(ends, return_index=True)
    high, low = np.divmod(edges, n)
    length = distances[:, 1:].ravel()[found]
    weight = length.mean() / length
    weighted_degree = np.bincount(high, weight, n) + np.bincount(low, weight, n)
    diagonal = np.arange(n)
    return symmetric_csr(
        np.concatenate([high, diagonal]),
        np.concatenate([low, diagonal]),
        np.concatenate([-weight, weighted_degree + shift * weighted_degree.mean()]),
        n,
    )


def trefethen(n: int) -> csr_array:
    """Trefethen's prime matrix: the first n primes on the diagonal, ones where abs(i - j) is a power of two.

    At n = 20 000 it is problem 7 of his hundred-digit challenge, where the first entry of the inverse is
    0.725078346268401167... . Diagonal scaling makes it easy.

    Parameters
    ----------
    n : int
        Order of the matrix.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (n, n)

    Raises
    ------
    ValueError, TypeError
        If `n` is not a positive whole number.

    References
    ----------
    L. Trefethen, "A hundred-dollar, hundred-digit challenge", SIAM News 35(1), 2002.

    Examples
    --------
    >>> from cgopt.gallery import trefethen
    >>> trefethen(4).toarray()
    array([[2., 1., 1., 0.],
           [1., 3., 1., 1.],
           [1., 1., 5., 1.],
           [0., 1., 1., 7.]])
    """
    n = whole_number("n", n)
    distances = [2**k for k in range((n - 1).bit_length())]
    rows = np.concatenate([np.arange(n)] + [np.arange(d, n) for d in distances])
    columns = np.concatenate([np.arange(n)] + [np.arange(n - d) for d in distances])
    values = np.ones(len(rows))
    values[:n] = _primes(n)
    return symmetric_csr(rows, columns, values, n)


def _primes(count: int) -> npt.NDArray[np.int64]:
    """The first `count` primes, by the sieve of Eratosthenes."""
    # p_n < n (ln n + ln ln n) for n >= 6 (J. Rosser and L. Schoenfeld 1962, corollary to theorem 3).
    limit = 13 if count < 6 else math.ceil(count * (math.log(count) + math.log(math.log(count))))
    prime = np.ones(limit + 1, dtype=bool)
    prime[:2] = False
    for k in range(2, math.isqrt(limit) + 1):
        if prime[k]:
            prime[k * k :: k] = False
    return np.flatnonzero(prime)[:count]
