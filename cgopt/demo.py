"""A finite-element problem, solved by SciPy's conjugate gradients and by ours.

A steel flange in plane strain: its outer rim is held, a shaft presses on the lower half of its bore, eight
holes lighten it. Linear triangles on an unstructured mesh; both solvers get the same matrix, right-hand side,
preconditioner (Jacobi) and tolerance, and the residuals of both answers are computed here.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from . import get_num_threads, set_num_threads
from .arrays import Array
from .linear import CGResult, cg

NODES = {"small": 5_000, "full": 100_000}  # nodes of the mesh, roughly; each has two unknowns
RTOL = 1e-6
ROUNDS = 3  # runs of each solver, in turn, of which the best counts
PATIENCE = 15.0  # seconds after which no further round begins

RIM, BORE = 0.150, 0.045  # radii in metres
HOLES, HOLE, HOLES_AT = 8, 0.024, 0.098  # how many, their radius, and the radius of the circle they lie on
YOUNG, POISSON = 210e9, 0.3  # steel: modulus in Pa, and Poisson's ratio
LOAD = 5e6  # force of the shaft in N per metre of its length

BETWEEN_RECORDS = 16  # iterations between two residual norms of SciPy's that the picture shows


@dataclass(frozen=True)
class Flange:
    """The assembled problem.

    Attributes
    ----------
    points : (nodes, 2) array
        Coordinates in metres.
    triangles : (elements, 3) array
        Corners of each triangle.
    free : (n,) array
        Which displacements (x, y of node 0, x, y of node 1, ...) are unknowns, in the order of the unknowns.
    A : (n, n) csr_array
        Stiffness in N/m per metre of thickness.
    b : (n,) array
        Forces in N per metre.
    """

    points: Array
    triangles: Array
    free: Array
    A: sp.csr_array
    b: Array

    def displacements(self, x: Array) -> Array:
        """The (nodes, 2) displacements that a solution stands for, zero where the rim is held."""
        u = np.zeros(2 * len(self.points))
        u[self.free] = x
        return u.reshape(-1, 2)

    def von_mises(self, x: Array) -> Array:
        """Von Mises stress in Pa at the nodes, (nodes,): the mean of the triangles around each."""
        gradients, area = _gradients(self.points, self.triangles)
        du = np.einsum("eai,eaj->eij", self.displacements(x)[self.triangles], gradients)
        strain = (du + du.transpose(0, 2, 1)) / 2
        lam, mu = _lame()
        along = lam * np.trace(strain, axis1=1, axis2=2)  # of which plane strain has a share in the third direction
        xx, yy, xy = (
            along + 2 * mu * strain[:, 0, 0],
            along + 2 * mu * strain[:, 1, 1],
            2 * mu * strain[:, 0, 1],
        )
        stress = np.sqrt(((xx - yy) ** 2 + (yy - along) ** 2 + (along - xx) ** 2) / 2 + 3 * xy**2)
        corners = self.triangles.ravel()
        weight = np.bincount(corners, np.repeat(area, 3))
        nodal: Array = np.bincount(corners, np.repeat(area * stress, 3)) / weight
        return nodal


def flange(nodes: int, seed: int = 0) -> Flange:
    """Mesh and assemble the flange.

    Parameters
    ----------
    nodes : int
        Nodes wanted; the mesh has a few per cent more or less.
    seed : int
        Of the random mesh.

    Examples
    --------
    >>> from cgopt.demo import flange
    >>> problem = flange(1000)
    >>> (problem.A != problem.A.T).nnz
    0
    """
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    from .gallery._common import symmetric_csr

    points, triangles = _mesh(nodes, np.random.default_rng(seed))
    gradients, area = _gradients(points, triangles)
    lam, mu = _lame()
    # Displacement i of corner a, j of b: area * (lam g_ai g_bj + mu (g_aj g_bi + delta_ij g_a.g_b)).
    K = lam * np.einsum("eai,ebj->eaibj", gradients, gradients)
    K += mu * np.einsum("eaj,ebi->eaibj", gradients, gradients)
    K += mu * np.einsum("eak,ebk,ij->eaibj", gradients, gradients, np.eye(2))
    K = K.reshape(-1, 6, 6) * area[:, None, None]
    unknowns = (2 * triangles[:, :, None] + np.arange(2)).reshape(-1, 6)
    row, column = np.tril_indices(6)
    rows, columns = unknowns[:, row], unknowns[:, column]
    stiffness = symmetric_csr(np.maximum(rows, columns), np.minimum(rows, columns), K[:, row, column], 2 * len(points))

    radius = np.hypot(*points.T)
    # A snug shaft presses outwards, by the cosine of the angle from straight down.
    pressed = (np.abs(radius - BORE) < 1e-9) & (points[:, 1] < 0)
    force = np.zeros_like(points)
    force[pressed] = points[pressed] * np.abs(points[pressed, 1:])
    force *= LOAD / np.abs(force[:, 1].sum())

    free = np.flatnonzero(np.repeat(radius < RIM - 1e-9, 2))
    # As a user would who cares for the cache; both solvers gain by it.
    free = free[reverse_cuthill_mckee(stiffness[free][:, free], symmetric_mode=True)]
    A = stiffness[free][:, free]
    A.sort_indices()
    return Flange(points, triangles, free, A, force.ravel()[free])


def _lame() -> tuple[float, float]:
    """Lame's two constants."""
    return YOUNG * POISSON / ((1 + POISSON) * (1 - 2 * POISSON)), YOUNG / (2 * (1 + POISSON))


def _circles() -> list[tuple[float, float, float]]:
    """Centre and radius of the openings, the bore first."""
    angles = 2 * np.pi * (np.arange(HOLES) + 0.5) / HOLES
    return [(0.0, 0.0, BORE), *((HOLES_AT * np.cos(t), HOLES_AT * np.sin(t), HOLE) for t in angles)]


def _outside(points: Array) -> Array:
    """Distance to the flange: negative within."""
    distance = np.hypot(*points.T) - RIM
    for x, y, r in _circles():
        distance = np.maximum(distance, r - np.hypot(points[:, 0] - x, points[:, 1] - y))
    return distance


def _mesh(nodes: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points and triangles: a Delaunay triangulation of a shaken lattice, smoothed twice."""
    from scipy.spatial import Delaunay

    area = np.pi * (RIM**2 - sum(r**2 for _, _, r in _circles()))
    h = float(np.sqrt(area / nodes * 2 / np.sqrt(3)))  # side of the equilateral triangles
    x, y = np.meshgrid(np.arange(-RIM, RIM, h), np.arange(-RIM, RIM, h * np.sqrt(3) / 2))
    x[1::2] += h / 2
    lattice = np.column_stack([x.ravel(), y.ravel()])
    lattice += rng.uniform(-0.35 * h, 0.35 * h, lattice.shape)
    edge = np.concatenate([_on_circle(*circle, h) for circle in [(0.0, 0.0, RIM), *_circles()]])
    points = np.concatenate([edge, lattice[_outside(lattice) < -0.6 * h]])
    for _ in range(2):
        triangles = Delaunay(points).simplices
        triangles = triangles[_outside(points[triangles].mean(axis=1)) < 0]
        side = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        both = np.concatenate([side, side[:, ::-1]])
        neighbours = sp.csr_array((np.ones(len(both)), tuple(both.T)), shape=(len(points), len(points)))
        middle = (neighbours @ points) / neighbours.sum(axis=1)[:, None]
        points[len(edge) :] = middle[len(edge) :]
    triangles = Delaunay(points).simplices
    return points, triangles[_outside(points[triangles].mean(axis=1)) < 0]


def _on_circle(x: float, y: float, r: float, h: float) -> Array:
    """Points on a circle, h apart."""
    count = int(np.ceil(2 * np.pi * r / h))
    angle = 2 * np.pi * np.arange(count) / count
    return np.column_stack([x + r * np.cos(angle), y + r * np.sin(angle)])


def _gradients(points: Array, triangles: Array) -> tuple[Array, Array]:
    """Gradients of the hat functions, (elements, 3, 2), and areas of the triangles, (elements,)."""
    corners = points[triangles]
    e = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)  # the edge opposite to each corner
    double = e[:, 0, 0] * e[:, 1, 1] - e[:, 0, 1] * e[:, 1, 0]  # its sign is that of the triangle's sense
    return np.stack([-e[..., 1], e[..., 0]], axis=-1) / double[:, None, None], np.abs(double) / 2


# --- the comparison -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One solver's run: what it is called, and what it did."""

    name: str
    seconds: float
    x: Array
    iterations: int
    converged: bool
    history: tuple[Array, Array]  # iterations, and residual norms relative to |b|


def with_scipy(A: sp.csr_array, b: Array) -> Run:
    """SciPy's `cg` at its best: Jacobi as a `LinearOperator`, not a sparse matrix; BLAS on one thread."""
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import cg as scipy_cg

    recorded: list[float] = []
    iterations = 0
    start = time.perf_counter()
    inverse = 1.0 / A.diagonal()

    def jacobi(r: Array) -> Array:
        # Each residual comes by here. To look at one in 16 costs SciPy less than 1 % of its time.
        nonlocal iterations
        if iterations % BETWEEN_RECORDS == 0:
            recorded.append(float(np.linalg.norm(r)))
        iterations += 1
        return inverse * r

    with _one_blas_thread():
        x, info = scipy_cg(A, b, rtol=RTOL, M=LinearOperator(A.shape, matvec=jacobi, dtype=A.dtype))
    seconds = time.perf_counter() - start
    at = np.append(BETWEEN_RECORDS * np.arange(len(recorded)), iterations)
    norms = np.append(recorded, np.linalg.norm(b - A @ x))
    return Run("SciPy cg", seconds, x, iterations, info == 0, (at, norms / np.linalg.norm(b)))


def _one_blas_thread() -> Any:
    """A context: threads hardly help a dot product of this length, and cost much on cores that are busy."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-not-found, import-untyped]
    except ModuleNotFoundError:
        return nullcontext()
    return threadpool_limits(1, user_api="blas")


def with_cgopt(A: sp.csr_array, b: Array, threads: int, maxiter: int | None = None) -> Run:
    """Ours, from the matrix to the solution: the preparation is in the time."""
    before = get_num_threads()
    set_num_threads(threads)
    try:
        start = time.perf_counter()
        result: CGResult = cg(A, b, M="jacobi", rtol=RTOL, maxiter=maxiter)
        seconds = time.perf_counter() - start
    finally:
        set_num_threads(before)
    history = np.arange(result.iterations + 1), result.history / result.history[0]
    name = f"cgopt cg, {threads} thread{'s' if threads > 1 else ''}"
    return Run(name, seconds, result.x, result.iterations, result.converged, history)


def run(size: str = "full", output: Path | None = None) -> bool:
    """Assemble, solve with both, print a table, draw the picture.

    Parameters
    ----------
    size : {"small", "full"}
    output : path, optional
        Where the picture goes; none by default.

    Returns
    -------
    bool
        Whether both solvers converged.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(__doc__.strip().partition("\n\n")[2], end="\n\n", flush=True)
    start = time.perf_counter()
    problem = flange(NODES[size])
    A, b = problem.A, problem.b
    print(
        f"{len(problem.triangles):,} triangles, {A.shape[0]:,} unknowns, {A.nnz:,} nonzeros, "
        f"made in {time.perf_counter() - start:.1f} s. Tolerance: |b - A x| <= {RTOL:g} |b|.",
        flush=True,
    )
    threads = sorted({get_num_threads(), 1}, reverse=True)
    first = sum(with_cgopt(A, b, count, maxiter=1).seconds for count in threads)
    print(f"First call, which compiles the kernels or loads them: {first:.1f} s. Solving ...\n", flush=True)

    rounds: list[list[Run]] = []
    start = time.perf_counter()
    while not rounds or (len(rounds) < ROUNDS and time.perf_counter() - start < PATIENCE):
        rounds.append([with_scipy(A, b), *(with_cgopt(A, b, count) for count in threads)])
    runs = [min(same, key=lambda each: each.seconds) for same in zip(*rounds, strict=True)]
    norm = np.linalg.norm(b)
    peer, ours = runs[:2]
    print(f"{'':22}{'iterations':>10}{'time':>10}{'an iteration':>15}{'true residual':>16}{'speed-up':>10}")
    for each in runs:
        true = np.linalg.norm(b - A @ each.x) / norm
        step, gain = 1e3 * each.seconds / each.iterations, peer.seconds / each.seconds
        print(
            f"{each.name:22}{each.iterations:>10,}{each.seconds:>8.2f} s{step:>12.2f} ms{true:>16.2e}"
            f"{gain:>9.1f}x{'' if each.converged else '   not converged'}"
        )
    print(f"{'cgopt, first call':22}{1:>10}{first:>8.2f} s   compiling, or loading what is compiled")
    apart = np.linalg.norm(peer.x - ours.x) / np.linalg.norm(peer.x)
    print(f"\nTimes: best of {len(rounds)}, in turn. The solutions differ by {apart:.1e} of their size.")
    if load > 1.0:
        print(f"Other programs keep this machine busy (load {load:.1f}): on a quiet one the times are others.")
    if output is not None:
        _draw(problem, peer, ours, output)
        print(f"The picture is in {output}.")
    return all(each.converged for each in runs)


def _draw(problem: Flange, peer: Run, ours: Run, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.tri import Triangulation

    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    part, convergence = figure.subplots(1, 2, width_ratios=(1.0, 1.1))

    u, stress = problem.displacements(ours.x), problem.von_mises(ours.x) / 1e6
    largest = np.hypot(*u.T).max()
    factor = float(f"{0.006 / largest:.0e}")  # enlarged until the largest displacement is about 6 mm on the drawing
    moved = 1e3 * (problem.points + factor * u)
    mesh = Triangulation(*moved.T, problem.triangles)
    # Rasterised at the nodes' own values; the colour scale ends where 99.5 % of the nodes do.
    top = float(np.quantile(stress, 0.995))
    field = part.tripcolor(mesh, stress, shading="gouraud", cmap="cividis", vmin=0.0, vmax=top, rasterized=True)
    figure.colorbar(field, ax=part, label="von Mises stress [MPa]", extend="max", shrink=0.85)
    for x, y, r in [(0.0, 0.0, RIM), *_circles()]:
        part.plot(*(1e3 * _on_circle(x, y, r, r / 40)).T, color="0.35", linewidth=0.6, linestyle=":")
    part.set(xlabel="x [mm]", ylabel="y [mm]", aspect="equal")
    part.set_title(
        f"Flange under a shaft's load: {problem.A.shape[0]:,} unknowns,\n"
        f"displacements (at most {1e6 * largest:.0f} µm) drawn {factor:g} times",
        fontsize="medium",
    )

    for each, colour, style in ((peer, "#D55E00", "--"), (ours, "#0072B2", "-")):
        iteration, share = each.history
        seconds = iteration * each.seconds / each.iterations
        convergence.semilogy(seconds, share, style, color=colour, linewidth=1.6, label=each.name)
        convergence.plot(each.seconds, share[-1], "o", color=colour, markersize=5)
    convergence.axhline(RTOL, color="0.35", linewidth=0.8, linestyle=":")
    convergence.set(xlabel="time [s]", ylabel="residual norm / norm of b")
    convergence.set_xlim(left=0.0)
    convergence.grid(alpha=0.3)
    convergence.legend(loc="upper right", frameon=False)
    convergence.set_title(
        f"The same method, preconditioner and tolerance:\nSciPy {peer.seconds:.2f} s, cgopt {ours.seconds:.2f} s",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)
