"""Diffusion on regular grids: one stencil, the same at every point, Dirichlet boundary values outside."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse import csr_array

from cgopt.gallery._common import REAL_DTYPES, Shape, float_dtype, grid_shape, real_number


def poisson(shape: Shape, *, dtype: npt.DTypeLike = np.float64) -> csr_array:
    r"""Finite differences for the Laplacian on a regular grid, with Dirichlet boundary values.

    The (2d + 1)-point stencil of :math:`-h^2 \Delta u`: 2d on the diagonal, -1 for each neighbour.

    Parameters
    ----------
    shape : int or tuple of int
        Number of unknowns in each of 1 to 3 dimensions; the last runs fastest. The boundary lies one step
        outside.
    dtype : {float64, float32}, default float64
        Type of the entries.

    Returns
    -------
    scipy.sparse.csr_array, shape (n, n)
        n = the product of `shape`. The condition number grows as :math:`(2/\pi)^2 m^2` with the largest
        size m of a square or cubic grid.

    Raises
    ------
    ValueError, TypeError
        If `shape` has not 1 to 3 positive whole numbers, or `dtype` is neither float64 nor float32.

    References
    ----------
    Y. Saad, "Iterative Methods for Sparse Linear Systems", 2nd edition, SIAM 2003, section 2.2.

    Examples
    --------
    >>> from cgopt.gallery import poisson
    >>> poisson(3).toarray()
    array([[ 2., -1.,  0.],
           [-1.,  2., -1.],
           [ 0., -1.,  2.]])
    >>> poisson((100, 100, 100)).shape
    (1000000, 1000000)
    """
    sizes = grid_shape(shape, dimensions=(1, 2, 3), unit="unknowns")
    stencil = np.zeros((3,) * len(sizes), dtype=float_dtype(dtype, allowed=REAL_DTYPES))
    centre = (1,) * len(sizes)
    stencil[centre] = 2 * len(sizes)
    for axis in range(len(sizes)):
        for step in (0, 2):
            stencil[(*centre[:axis], step, *centre[axis + 1 :])] = -1
    return _stencil_matrix(sizes, stencil)


def poisson_eigenvalues(shape: Shape) -> npt.NDArray[np.float64]:
    r"""The eigenvalues of `poisson`, ascending, from the formula.

    .. math:: \lambda_{k_1 \ldots k_d} = \sum_i 4 \sin^2 \frac{\pi k_i}{2 (m_i + 1)}, \quad 1 \le k_i \le m_i

    Parameters
    ----------
    shape : int or tuple of int
        The sizes m_i of the grid, as in `poisson`.

    Returns
    -------
    ndarray of float64, shape (n,)
        n = the product of `shape`.

    Raises
    ------
    ValueError, TypeError
        If `shape` has not 1 to 3 positive whole numbers.

    References
    ----------
    Y. Saad, "Iterative Methods for Sparse Linear Systems", 2nd edition, SIAM 2003, section 13.2.

    Examples
    --------
    >>> from cgopt.gallery import poisson_eigenvalues
    >>> poisson_eigenvalues(3).round(4)
    array([0.5858, 2.    , 3.4142])
    """
    sizes = grid_shape(shape, dimensions=(1, 2, 3), unit="unknowns")
    axes = [4 * np.sin(math.pi * np.arange(1, m + 1) / (2 * (m + 1))) ** 2 for m in sizes]
    return np.sort(reduce(np.add.outer, axes), axis=None)


def anisotropic_diffusion(
    shape: Shape, *, epsilon: float = 0.01, theta: float = math.pi / 6, dtype: npt.DTypeLike = np.float64
) -> csr_array:
    r"""Diffusion that is fast along one direction and slow across it, on a 2-D grid with Dirichlet boundary.

    Bilinear finite elements on squares for :math:`-\nabla \cdot (Q E Q^T \nabla u)`, where Q rotates by
    `theta` and :math:`E = \mathrm{diag}(1, \varepsilon)`. With the 1-D stencils S = (-1, 2, -1),
    M = (1, 4, 1)/6, D = (-1, 0, 1)/2 and c = cos(theta), s = sin(theta) the 9-point stencil is

    .. math:: (c^2 + \varepsilon s^2)\, S \otimes M + (s^2 + \varepsilon c^2)\, M \otimes S
              - 2 (1 - \varepsilon) c s\, D \otimes D .

    Being a Galerkin matrix of a coercive form it is SPD for each `epsilon` > 0 and each angle, which finite
    differences with a mixed derivative need not be.

    Parameters
    ----------
    shape : tuple of two ints
        Number of unknowns in each dimension; the last runs fastest.
    epsilon : float, default 0.01
        Diffusion across the fast direction, relative to 1 along it; positive.
    theta : float, default pi/6
        Angle in radians from the first axis to the fast direction. The default follows no mesh line.
    dtype : {float64, float32}, default float64
        Type of the entries.

    Returns
    -------
    scipy.sparse.csr_array, shape (n, n)
        n = shape[0] * shape[1].

    Raises
    ------
    ValueError, TypeError
        If `shape` is not two positive whole numbers, `epsilon` is not positive, `theta` is not finite, or
        `dtype` is neither float64 nor float32.

    References
    ----------
    U. Trottenberg, C. Oosterlee and A. Schueller, "Multigrid", Academic Press 2001, chapter 5.

    Examples
    --------
    >>> from cgopt.gallery import anisotropic_diffusion
    >>> A = anisotropic_diffusion((50, 40), epsilon=1e-3)
    >>> A.shape, A.nnz
    ((2000, 2000), 17464)
    """
    sizes = grid_shape(shape, dimensions=(2,), unit="unknowns")
    epsilon = real_number("epsilon", epsilon, above=0.0)
    theta = real_number("theta", theta)
    c, s = math.cos(theta), math.sin(theta)
    stiffness = np.array([-1.0, 2.0, -1.0])  # integral of phi_i' phi_j'
    mass = np.array([1.0, 4.0, 1.0]) / 6  # integral of phi_i phi_j
    slope = np.array([-1.0, 0.0, 1.0]) / 2  # integral of phi_i phi_j'
    stencil = (c * c + epsilon * s * s) * np.outer(stiffness, mass)
    stencil += (s * s + epsilon * c * c) * np.outer(mass, stiffness)
    stencil -= 2 * (1 - epsilon) * c * s * np.outer(slope, slope)
    return _stencil_matrix(sizes, stencil.astype(float_dtype(dtype, allowed=REAL_DTYPES)))


def _stencil_matrix(shape: tuple[int, ...], stencil: npt.NDArray[Any]) -> csr_array:
    """The matrix whose row at each grid point is `stencil`, an array of 3 entries in each dimension.

    Entries that reach outside of the grid are left out. The row-major order of stencil and grid agree, so the
    columns come out sorted; a sum of Kronecker products would pass over the entries several times.
    """
    n = math.prod(shape)
    offsets = np.argwhere(stencil) - 1
    inside = np.ones((*shape, len(offsets)), dtype=bool)
    for k, offset in enumerate(offsets):
        for axis, step in enumerate(offset):
            if step:
                np.moveaxis(inside, axis, 0)[0 if step < 0 else -1, ..., k] = False
    inside = inside.reshape(n, len(offsets))

    index_dtype = sp.get_index_dtype(maxval=n * len(offsets))
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    columns = np.arange(n, dtype=index_dtype)[:, None] + (offsets @ strides).astype(index_dtype)
    values = np.broadcast_to(stencil[stencil != 0], inside.shape)
    indptr = np.zeros(n + 1, dtype=index_dtype)
    np.cumsum(np.count_nonzero(inside, axis=1), out=indptr[1:])
    matrix = csr_array((values[inside], columns[inside], indptr), shape=(n, n))
    matrix.has_canonical_format = True  # saves SciPy a pass over the indices
    return matrix
