"""The systems that are timed: small ill-conditioned ones, large meshes, many right-hand sides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

import cgopt

SEED = 20240607


@dataclass(frozen=True)
class Problem:
    """A system A x = b, or k systems with the columns of b.

    Attributes
    ----------
    name : str
        As the table shows it.
    A : ndarray or csr_array
        Symmetric positive definite, fp64; indices int32 when sparse.
    b : ndarray of shape (n,) or (n, k)
        Right-hand sides.
    jacobi : bool
        Whether every contender preconditions with the diagonal of A.
    """

    name: str
    A: NDArray[np.float64] | sp.csr_array
    b: NDArray[np.float64]
    jacobi: bool = False

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return int(self.b.shape[0])


def dense_spectrum(n: int, condition: float = 1e11) -> Problem:
    """Dense matrix with a geometric spectrum from 1 / `condition` to 1 in a random basis.

    Rounding delays CG on such a spectrum well beyond n iterations (Strakos 1991; Greenbaum and Strakos 1992),
    so that many iterations of even an 8 x 8 system can be timed before it converges.
    """
    rng = np.random.default_rng(SEED + n)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (Q * np.geomspace(1 / condition, 1.0, n)) @ Q.T
    return Problem(f"dense n = {n}", np.ascontiguousarray((A + A.T) / 2), rng.standard_normal(n))


def sparse_graph(n: int, per_row: int = 5, decades: float = 5.0) -> Problem:
    """Random-graph Laplacian D (L + I / 10) D, about `per_row` entries a row, D spread over `decades`.

    The random pattern favours no storage format; the scaling D makes CG slow for the same reason as above.
    """
    rng = np.random.default_rng(SEED + n)
    edges = rng.integers(0, n, (2, n * (per_row - 3) // 2))
    edges = np.hstack([edges[:, edges[0] != edges[1]], [np.arange(n - 1), np.arange(1, n)]])
    W = sp.coo_array((np.ones(edges.shape[1]), tuple(edges)), shape=(n, n)).tocsr()
    W = ((W + W.T) > 0).astype(np.float64)
    D = sp.diags_array(rng.permutation(np.logspace(-decades, 0.0, n)))
    A = D @ (sp.diags_array(W.sum(axis=0) + 0.1) - W) @ D
    return Problem(f"sparse n = {n}", canonical(A), rng.standard_normal(n))


def poisson(*shape: int) -> Problem:
    """Finite differences for -Laplace(u) = 1 on a grid of interior points, zero on the boundary."""
    A = sp.csr_array((1, 1))
    for points in shape:
        line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(points, points))
        A = sp.kron(A, sp.eye_array(points)) + sp.kron(sp.eye_array(A.shape[0]), line)
    A = canonical(A)
    return Problem(f"{len(shape)}-D Poisson {' x '.join(map(str, shape))}", A, np.ones(A.shape[0]))


def unstructured(n: int) -> Problem:
    """Poisson's equation on a triangulation of random points, from cgopt's gallery.

    Its worst triangles make plain CG slow; whole solves take `with_jacobi` of it.
    """
    rng = np.random.default_rng(SEED)
    A = canonical(cgopt.gallery.unstructured_poisson(n, rng=rng))
    return Problem(f"unstructured Poisson n = {A.shape[0]}", A, rng.standard_normal(A.shape[0]))


def with_columns(problem: Problem, k: int) -> Problem:
    """The same matrix with k random right-hand sides."""
    B = np.random.default_rng(SEED).standard_normal((problem.n, k))
    return replace(problem, name=f"{problem.name}, {k} right-hand sides", b=B)


def with_jacobi(problem: Problem) -> Problem:
    """The same system, preconditioned with its diagonal by every contender."""
    return replace(problem, name=f"{problem.name}, Jacobi", jacobi=True)


def iterations_available(problem: Problem, rtol: float, most: int) -> int:
    """How many iterations plain CG takes down to a relative residual of `rtol`, at most `most`.

    Timings with a fixed number of iterations must stay below this number: a solver may rightly stop once it
    has converged or stagnates.
    """
    A, r = problem.A, problem.b.copy()
    p = r.copy()
    rho = start = r @ r
    for iteration in range(1, most + 1):
        q = A @ p
        r -= rho / (p @ q) * q
        rho, rho_before = r @ r, rho
        if rho <= rtol**2 * start:
            return iteration
        p = r + rho / rho_before * p
    return most


def canonical(A: sp.sparray) -> sp.csr_array:
    """CSR with sorted, merged entries, fp64 values and int32 indices: no peer needs a conversion."""
    A = sp.csr_array(A, dtype=np.float64)
    A.sum_duplicates()
    A.eliminate_zeros()
    A.indptr, A.indices = A.indptr.astype(np.int32), A.indices.astype(np.int32)
    return A
