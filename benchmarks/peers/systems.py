"""The set of real and made systems for comparisons of whole solves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp
import scipy.spatial

import cgopt
from benchmarks.peers.problems import SEED, Problem, canonical

SMALLEST = 1000
"""Unknowns from which a file belongs to the set."""

QUICK_LARGEST = 2500
"""Unknowns of a file up to which it belongs to the set of ``--quick``."""


def unstructured_elasticity(points: int) -> sp.csr_array:
    """Plane strain (nu = 0.3) on a triangulation of `points`^2 scattered points, clamped at x = 0.

    The points are those of a square grid, each inner one moved at random by up to a third of its width: triangles of
    every shape, none of them degenerate.
    """
    from skfem import Basis, ElementTriP1, ElementVector, MeshTri, asm
    from skfem.models.elasticity import lame_parameters, linear_elasticity

    rng = np.random.default_rng(SEED)
    grid = np.stack(np.meshgrid(*[np.arange(points, dtype=float)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = ((grid > 0) & (grid < points - 1)).all(axis=1)
    grid[inside] += rng.uniform(-1 / 3, 1 / 3, (int(inside.sum()), 2))
    triangles = scipy.spatial.Delaunay(grid).simplices
    mesh = MeshTri(np.ascontiguousarray(grid.T / points), np.ascontiguousarray(triangles.T))
    basis = Basis(mesh, ElementVector(ElementTriP1()))
    K = asm(linear_elasticity(*lame_parameters(1.0, 0.3)), basis)
    free = np.flatnonzero(mesh.p[0, np.arange(K.shape[0]) // 2] > 0.0)
    K = sp.csr_array(K)[free][:, free]
    return (K + K.T) / 2  # the two halves of an assembled matrix differ by rounding


GENERATED: dict[str, Callable[[], sp.csr_array]] = {
    "poisson_300x300": lambda: cgopt.gallery.poisson((300, 300)),
    "poisson_1000x1000": lambda: cgopt.gallery.poisson((1000, 1000)),
    "poisson_40x40x40": lambda: cgopt.gallery.poisson((40, 40, 40)),
    "poisson_100x100x100": lambda: cgopt.gallery.poisson((100, 100, 100)),
    "elasticity_unstructured": lambda: unstructured_elasticity(390),
    "graph_laplacian": lambda: cgopt.gallery.graph_laplacian(100_000, rng=SEED),
}
QUICK: dict[str, Callable[[], sp.csr_array]] = {
    "poisson_100x100": lambda: cgopt.gallery.poisson((100, 100)),
    "elasticity_unstructured_small": lambda: unstructured_elasticity(40),
}


def names(quick: bool) -> list[str]:
    """Every system of the set that this machine has; files with fewer than `SMALLEST` unknowns are among them."""
    made = QUICK if quick else GENERATED
    return [*cgopt.gallery.available(), *made] if os.environ.get("CGOPT_DATA") else list(made)


def build(chosen: list[str], quick: bool) -> Iterator[Problem]:
    """The systems of these names, one after the other; files that are too small (or large) are left out.

    The right-hand side is the file's own, otherwise A times a standard normal vector.
    """
    for name in chosen:
        b = None
        if name in GENERATED or name in QUICK:
            A = (GENERATED | QUICK)[name]()
        else:
            A, b = cgopt.gallery.load(name, return_rhs=True)
            if A.shape[0] < SMALLEST or (quick and A.shape[0] > QUICK_LARGEST):
                continue
        A = canonical(A)
        if b is None:
            b = A @ np.random.default_rng(SEED).standard_normal(A.shape[0])
        yield Problem(name, A, np.ascontiguousarray(b, dtype=np.float64).reshape(-1))
