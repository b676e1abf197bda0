"""Finite element matrices, each a sum over elements of a small symmetric matrix: A = sum_e P_e' K_e P_e."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.spatial import Delaunay

from cgopt.gallery._common import Seed, Shape, generator, grid_shape, real_number, symmetric_csr, whole_number

_Ints = npt.NDArray[np.integer[Any]]
_Floats = npt.NDArray[np.float64]


def elasticity(shape: Shape, *, E: float = 1.0, nu: float = 0.3) -> csr_array:
    r"""Linear elasticity of a beam of squares or cubes, clamped on the side where the first coordinate is 0.

    Bilinear (2-D, plane strain) or trilinear (3-D) finite elements of side 1 for

    .. math:: a(u, v) = \int \lambda (\nabla \cdot u)(\nabla \cdot v) + 2 \mu\, \epsilon(u) : \epsilon(v),
              \quad \lambda = \frac{E \nu}{(1 + \nu)(1 - 2 \nu)}, \quad \mu = \frac{E}{2 (1 + \nu)},

    where epsilon(u) is the symmetric part of the gradient. Two Gauss points in each dimension integrate it
    exactly.

    Parameters
    ----------
    shape : tuple of two or three ints
        Number of elements in each dimension.
    E : float, default 1.0
        Young's modulus, positive; it scales the matrix.
    nu : float, default 0.3
        Poisson's ratio, between -1 and 1/2. Towards 1/2 the material becomes incompressible and the matrix
        ill conditioned.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (n, n)
        n = 2 m0 (m1 + 1) or 3 m0 (m1 + 1) (m2 + 1) for `shape` = (m0, m1[, m2]). The nodes are numbered with
        the last coordinate fastest, and the displacements of a node stand next to each other.

    Raises
    ------
    ValueError, TypeError
        If `shape` is not two or three positive whole numbers, or `E` or `nu` is out of range.

    References
    ----------
    T. Hughes, "The Finite Element Method", Prentice-Hall 1987, sections 2.7 to 2.9 and 3.8.

    Examples
    --------
    >>> from cgopt.gallery import elasticity
    >>> elasticity((20, 5)).shape
    (240, 240)
    >>> elasticity((4, 4, 4), nu=0.45).shape
    (300, 300)
    """
    elements = grid_shape(shape, dimensions=(2, 3), unit="elements")
    E = real_number("E", E, above=0.0)
    nu = real_number("nu", nu, above=-1.0, below=0.5)
    # The first coordinate runs slowest, so the clamped nodes are the first ones.
    clamped = len(elements) * math.prod(m + 1 for m in elements[1:])
    return _unclamped_elasticity(elements, E, nu)[clamped:, clamped:]


def unstructured_poisson(n: int, *, rng: Seed = None) -> csr_array:
    r"""Linear finite elements for :math:`-\Delta u` on a Delaunay triangulation of random points.

    The points are uniform in the unit square; u = 0 on their convex hull. The unknowns are put in reverse
    Cuthill-McKee order, as a user who cares for the cache would.

    Parameters
    ----------
    n : int
        Number of points, at least 20. One million take about ten seconds.
    rng : None, int or numpy.random.Generator
        Where the points come from.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (m, m)
        m is the number of points inside, that is `n` less those on the hull (a few dozen).

    Raises
    ------
    ValueError, TypeError
        If `n` or `rng` is not as above.

    References
    ----------
    G. Strang and G. Fix, "An Analysis of the Finite Element Method", Prentice-Hall 1973.
    E. Cuthill and J. McKee, "Reducing the bandwidth of sparse symmetric matrices", ACM 1969.

    Examples
    --------
    >>> from cgopt.gallery import unstructured_poisson
    >>> A = unstructured_poisson(1000, rng=5)
    >>> 900 < A.shape[0] < 1000
    True
    >>> 6 < A.nnz / A.shape[0] < 7
    True
    """
    n = whole_number("n", n, minimum=20)  # of 10 points one set in 5000 has none inside (P. Valtr 1995)
    points = generator(rng).random((n, 2))
    mesh = Delaunay(points)
    stiffness = _p1_stiffness(points, mesh.simplices)

    # Points that Qhull found too near another to keep belong to no triangle, and would leave empty rows.
    unknown = np.zeros(n, dtype=bool)
    unknown[mesh.simplices] = True
    # The facet opposite to vertex k of a triangle is on the hull where there is no neighbour k.
    outer = mesh.neighbors == -1
    for k in range(3):
        facet = np.delete(mesh.simplices, k, axis=1)
        unknown[facet[outer[:, k]]] = False

    interior = stiffness[unknown][:, unknown]
    order = reverse_cuthill_mckee(interior, symmetric_mode=True)
    reordered = interior[order][:, order]
    reordered.sort_indices()
    return reordered


def wathen(nx: int, ny: int, *, rng: Seed = None) -> csr_array:
    """Wathen's finite element mass matrix: eight-node serendipity elements, each with its own random density.

    Ill conditioned because the densities are spread over (0, 100], and cured by diagonal scaling: whatever
    the densities, the eigenvalues of D^-1 A lie between 1/4 and 9/2 (Wathen 1987).

    Parameters
    ----------
    nx, ny : int
        Number of elements in each dimension.
    rng : None, int or numpy.random.Generator
        Where the densities come from.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (n, n)
        n = 3 nx ny + 2 nx + 2 ny + 1. Do not test with b = A 1: it is nearly an eigenvector.

    Raises
    ------
    ValueError, TypeError
        If `nx` or `ny` is not a positive whole number, or `rng` is not as above.

    References
    ----------
    A. Wathen, "Realistic eigenvalue bounds for the Galerkin mass matrix", IMA J. Numer. Anal. 7, 1987.

    Examples
    --------
    >>> from cgopt.gallery import wathen
    >>> wathen(100, 100, rng=3).shape
    (30401, 30401)
    """
    nx, ny = whole_number("nx", nx), whole_number("ny", ny)
    density = 100 * (1 - generator(rng).random(nx * ny))  # in (0, 100]: random() may return 0, never 1
    # Lines of nodes run along x: 2 nx + 1 nodes where corners are, nx + 1 half-way between.
    x, y = np.meshgrid(2 * np.arange(nx), 2 * np.arange(ny), indexing="xy")
    column = x.reshape(-1, 1) + 1 + _SERENDIPITY_NODES[:, 0]
    line = y.reshape(-1, 1) + 1 + _SERENDIPITY_NODES[:, 1]
    nodes = (line // 2) * (3 * nx + 2) + np.where(line % 2 == 0, column, 2 * nx + 1 + column // 2)
    return _assemble(nodes, density[:, None, None] * _serendipity_mass(), 3 * nx * ny + 2 * nx + 2 * ny + 1)


def _assemble(unknowns: _Ints, element_matrices: _Floats, n: int) -> csr_array:
    """The sum over elements of K_e scattered to its `unknowns`.

    `unknowns` is (elements, k); `element_matrices` is (elements, k, k), or (k, k) where all are the same. Of
    them only the lower triangles are read.
    """
    unknowns = unknowns.astype(np.int32 if n <= np.iinfo(np.int32).max else np.int64)
    a, b = np.tril_indices(unknowns.shape[1])
    rows = np.maximum(unknowns[:, a], unknowns[:, b])
    columns = np.minimum(unknowns[:, a], unknowns[:, b])
    values = np.broadcast_to(element_matrices[..., a, b], rows.shape)
    return symmetric_csr(rows, columns, values, n)


def _unclamped_elasticity(elements: tuple[int, ...], E: float, nu: float) -> csr_array:
    """The elasticity matrix of the free body; its null space is the rigid-body modes."""
    d = len(elements)
    nodes = np.arange(math.prod(m + 1 for m in elements)).reshape([m + 1 for m in elements])
    corner_nodes = [
        nodes[tuple(slice(c, c + m) for c, m in zip(corner, elements, strict=True))]
        for corner in itertools.product((0, 1), repeat=d)
    ]
    unknowns = (d * np.stack(corner_nodes, axis=-1).reshape(-1, 2**d, 1) + np.arange(d)).reshape(-1, d * 2**d)
    lam, mu = E * nu / ((1 + nu) * (1 - 2 * nu)), E / (2 * (1 + nu))
    volume, shear = (_assemble(unknowns, part, d * nodes.size) for part in _elasticity_element(d))
    K: csr_array = lam / 72 * volume + mu / 72 * shear
    return K


def _elasticity_element(d: int) -> tuple[_Floats, _Floats]:
    """72 times the parts that lambda and mu multiply in the stiffness of the unit square or cube.

    Row d a + i is displacement i of corner a. The factor 72 makes whole numbers of all entries, so that their
    sums over the elements are exact: those that cancel would else stay as a quarter of the entries in 3-D.
    """
    corners = np.array(list(itertools.product((0, 1), repeat=d)))
    gauss = (np.array([-1, 1]) / math.sqrt(3) + 1) / 2
    points = np.array(list(itertools.product(gauss, repeat=d)))
    # N_a(x) = prod_i (x_i at the high corners, 1 - x_i at the low ones), and its derivative by x_i.
    factors = np.where(corners == 1, points[:, None, :], 1 - points[:, None, :])
    gradients = np.empty_like(factors)
    for i in range(d):
        gradients[..., i] = (2 * corners[:, i] - 1) * np.delete(factors, i, axis=-1).prod(axis=-1)

    # The integrals of d_i N_a d_j N_b: products of 1/3, 1/6 and 1/4.
    volume = np.rint(72 * np.einsum("qai,qbj->aibj", gradients, gradients) / len(points))
    laplacian = np.einsum("akbk->ab", volume)[:, None, :, None] * np.eye(d)[:, None, :]
    shear = volume.transpose(0, 3, 2, 1) + laplacian
    return volume.reshape(d * 2**d, -1), shear.reshape(d * 2**d, -1)


def _p1_stiffness(points: _Floats, triangles: _Ints) -> csr_array:
    """Integrals of grad phi_i . grad phi_j over the triangles; (n, 2) coordinates, (elements, 3) vertices."""
    corners = points[triangles]
    edges = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)  # e_a, opposite to vertex a
    double_area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    # A triangulation in floating point may hold triangles of no area: nothing to integrate there.
    solid = double_area > 0
    edges, double_area, triangles = edges[solid], double_area[solid], triangles[solid]
    stiffness = np.einsum("eai,ebi->eab", edges, edges)
    stiffness /= 2 * double_area[:, None, None]  # K_ab = e_a . e_b / (4 area)
    return _assemble(triangles, stiffness, len(points))


# On [-1, 1]^2, around the element: four corners and the middles of the edges.
_SERENDIPITY_NODES = np.array([[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0]])


def _serendipity_mass() -> _Floats:
    """Integrals of N_a N_b over [-1, 1]^2; three Gauss points a side are exact for them."""
    abscissae, weights = np.polynomial.legendre.leggauss(3)
    x, y = (grid.reshape(-1, 1) for grid in np.meshgrid(abscissae, abscissae))
    weight = np.outer(weights, weights).ravel()
    p, q = _SERENDIPITY_NODES.T
    corner = (1 + p * x) * (1 + q * y) * (p * x + q * y - 1) / 4
    along_x = (1 - x**2) * (1 + q * y) / 2
    along_y = (1 + p * x) * (1 - y**2) / 2
    shapes = np.where(p == 0, along_x, np.where(q == 0, along_y, corner))
    mass: _Floats = (shapes.T * weight) @ shapes
    return mass
