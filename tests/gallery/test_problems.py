"""The gallery against what is known of its matrices: spectra, null spaces, published bounds and digits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, cg, spsolve
from scipy.spatial import ConvexHull, Delaunay

from cgopt import gallery
from cgopt.gallery.finite_elements import _p1_stiffness, _serendipity_mass, _unclamped_elasticity

SPARSE = {
    "poisson_1d": lambda: gallery.poisson(40),
    "poisson_2d": lambda: gallery.poisson((7, 9)),
    "poisson_3d": lambda: gallery.poisson((4, 5, 6)),
    "poisson_thin": lambda: gallery.poisson((1, 8, 1)),
    "poisson_one": lambda: gallery.poisson(1),
    "poisson_fp32": lambda: gallery.poisson((5, 5), dtype=np.float32),
    "anisotropic_diffusion": lambda: gallery.anisotropic_diffusion((9, 8), epsilon=1e-3),
    "anisotropic_diffusion_across": lambda: gallery.anisotropic_diffusion((9, 8), epsilon=50, theta=2.0),
    "elasticity_2d": lambda: gallery.elasticity((6, 3)),
    "elasticity_3d": lambda: gallery.elasticity((3, 2, 2), nu=0.45),
    "elasticity_auxetic": lambda: gallery.elasticity((4, 4), E=2e11, nu=-0.5),
    "unstructured_poisson": lambda: gallery.unstructured_poisson(200, rng=5),
    "wathen": lambda: gallery.wathen(4, 5, rng=5),
    "graph_laplacian": lambda: gallery.graph_laplacian(150, degree=3, rng=5),
    "graph_laplacian_complete": lambda: gallery.graph_laplacian(6, degree=5, rng=5),
    "graph_laplacian_in_parts": lambda: gallery.graph_laplacian(150, degree=1, rng=5),
    "trefethen": lambda: gallery.trefethen(100),
    "trefethen_one": lambda: gallery.trefethen(1),
}
DENSE = {
    "prescribed_spectrum": lambda: gallery.prescribed_spectrum(gallery.strakos_spectrum(), rng=5),
    "prescribed_spectrum_fp32": lambda: gallery.prescribed_spectrum([1, 2, 3], dtype=np.float32, rng=5),
    "prescribed_spectrum_complex": lambda: gallery.prescribed_spectrum(np.arange(1, 9), dtype=complex, rng=5),
    "kernel_rbf": lambda: gallery.kernel_matrix(60, rng=5),
    "kernel_matern12": lambda: gallery.kernel_matrix(60, kernel="matern12", rng=5),
    "kernel_matern32": lambda: gallery.kernel_matrix(60, kernel="matern32", rng=5),
    "kernel_matern52": lambda: gallery.kernel_matrix(60, kernel="matern52", rng=5),
    "hilbert": lambda: gallery.hilbert(10),
}


@pytest.mark.parametrize("make", SPARSE.values(), ids=SPARSE.keys())
def test_sparse_problems_are_spd_in_canonical_int32_csr(make):
    A = make()
    assert isinstance(A, sp.csr_array)
    A.check_format(full_check=True)
    assert A.indices.dtype == A.indptr.dtype == np.int32
    # has_canonical_format may be a cached promise: look at the indices themselves.
    row = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    assert (np.diff(row * A.shape[0] + A.indices) > 0).all()
    assert (A.data != 0).all()
    assert_hermitian_positive_definite(A.toarray())


@pytest.mark.parametrize("make", DENSE.values(), ids=DENSE.keys())
def test_dense_problems_are_spd(make):
    assert_hermitian_positive_definite(make())


def assert_hermitian_positive_definite(A):
    np.testing.assert_array_equal(A, A.conj().T)
    scipy.linalg.cholesky(A)  # raises where a pivot is not positive


# ---- regular grids ----


@pytest.mark.parametrize("shape", [7, (7,), (5, 8), (3, 4, 5), (1, 6), (2, 1, 3)])
def test_poisson_spectrum_is_the_formula(shape):
    A = gallery.poisson(shape)
    found = np.linalg.eigvalsh(A.toarray())
    np.testing.assert_allclose(found, gallery.poisson_eigenvalues(shape), rtol=0, atol=1e-13)


def test_poisson_is_the_sum_of_kronecker_products():
    T, identity = gallery.poisson(5), sp.eye_array
    expected = sp.kron(T[:3, :3], identity(20)) + sp.kron(sp.kron(identity(3), T[:4, :4]), identity(5))
    expected += sp.kron(identity(12), T)
    np.testing.assert_array_equal(gallery.poisson((3, 4, 5)).toarray(), expected.toarray())


def test_poisson_in_single_precision_has_the_same_entries():
    single = gallery.poisson((6, 5), dtype="float32")
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.toarray(), gallery.poisson((6, 5)).toarray())


@pytest.mark.parametrize("theta", [0.0, 0.4, np.pi / 4, 2.5])
def test_anisotropic_diffusion_is_exact_for_quadratics(theta):
    epsilon, m = 0.03, 8
    A = gallery.anisotropic_diffusion((m, m), epsilon=epsilon, theta=theta)
    x, y = np.meshgrid(np.arange(m), np.arange(m), indexing="ij")
    c, s = np.cos(theta), np.sin(theta)
    K = np.array([[c, -s], [s, c]]) @ np.diag([1, epsilon]) @ np.array([[c, s], [-s, c]])
    for u, hessian in [(x**2, [[2, 0], [0, 0]]), (x * y, [[0, 1], [1, 0]]), (y**2, [[0, 0], [0, 2]])]:
        inside = (A @ u.ravel().astype(float)).reshape(m, m)[1:-1, 1:-1]
        np.testing.assert_allclose(inside, -np.sum(K * hessian), atol=1e-13)  # -div K grad u


def test_isotropic_diffusion_does_not_depend_on_the_angle():
    first, second = (gallery.anisotropic_diffusion((6, 7), epsilon=1, theta=theta) for theta in (0.0, 1.1))
    np.testing.assert_allclose(first.toarray(), second.toarray(), atol=1e-15)


# ---- finite elements ----


@pytest.mark.parametrize(("elements", "rigid_modes"), [((4, 3), 3), ((2, 3, 2), 6)])
def test_null_space_of_free_elasticity_is_the_rigid_body_modes(elements, rigid_modes):
    K = _unclamped_elasticity(elements, 1.0, 0.3)
    d, nodes = len(elements), node_coordinates(elements)
    translations = [np.tile(axis, (len(nodes), 1)) for axis in np.eye(d)]
    turns = [skew(d, i, j) for i in range(d) for j in range(i)]
    modes = translations + [nodes @ turn.T for turn in turns]
    assert len(modes) == rigid_modes
    for mode in modes:
        assert np.abs(K @ mode.ravel()).max() < 1e-13
    eigenvalues = np.linalg.eigvalsh(K.toarray())
    assert np.abs(eigenvalues[:rigid_modes]).max() < 1e-13
    assert eigenvalues[rigid_modes] > 1e-3


def node_coordinates(elements):
    grids = np.meshgrid(*[np.arange(m + 1.0) for m in elements], indexing="ij")
    return np.stack(grids, axis=-1).reshape(-1, len(elements))


def skew(d, i, j):
    turn = np.zeros((d, d))
    turn[i, j], turn[j, i] = 1, -1
    return turn


@pytest.mark.parametrize("elements", [(5, 4), (3, 4, 3)])
def test_elasticity_passes_the_patch_test(elements):
    """A constant strain is in equilibrium: no force on the nodes inside."""
    K = _unclamped_elasticity(elements, 3.0, 0.2)
    nodes = node_coordinates(elements)
    gradient = np.random.default_rng(7).standard_normal((len(elements), len(elements)))
    force = (K @ (nodes @ gradient.T).ravel()).reshape(nodes.shape)
    inside = ((nodes > 0) & (nodes < elements)).all(axis=1)
    assert inside.any()
    assert np.abs(force[inside]).max() < 1e-13 * np.abs(force).max()


@pytest.mark.parametrize("elements", [(5, 3), (4, 2, 3)])
def test_energy_of_a_constant_strain_is_its_formula(elements):
    E, nu = 2.0, 0.3
    lam, mu = E * nu / ((1 + nu) * (1 - 2 * nu)), E / (2 * (1 + nu))
    gradient = np.random.default_rng(8).standard_normal((len(elements), len(elements)))
    strain = (gradient + gradient.T) / 2
    u = (node_coordinates(elements) @ gradient.T).ravel()
    density = lam * np.trace(strain) ** 2 + 2 * mu * np.sum(strain**2)
    energy = u @ (_unclamped_elasticity(elements, E, nu) @ u)
    assert energy == pytest.approx(density * np.prod(elements), rel=1e-13)


def test_clamped_bar_without_poisson_effect_stretches_linearly():
    """With nu = 0 a uniform pull T on the far side gives u_x = T x / E, which the elements hold exactly."""
    elements, E, pull = (6, 2, 3), 5.0, 0.7
    A = gallery.elasticity(elements, E=E, nu=0.0)
    nodes = node_coordinates(elements)
    nodes = nodes[nodes[:, 0] > 0]
    assert A.shape == (3 * len(nodes), 3 * len(nodes))
    # Integrals of the shape functions over the far side: 1 inside, half on an edge, a quarter in a corner.
    share = np.where((nodes == 0) | (nodes == elements), 0.5, 1.0)[:, 1:].prod(axis=1)
    load = np.zeros_like(nodes)
    load[:, 0] = pull * share * (nodes[:, 0] == elements[0])
    u = spsolve(A.tocsc(), load.ravel()).reshape(nodes.shape)
    np.testing.assert_allclose(u[:, 0], pull * nodes[:, 0] / E, rtol=1e-12)
    assert np.abs(u[:, 1:]).max() < 1e-12


def test_elasticity_scales_with_youngs_modulus():
    soft, stiff = gallery.elasticity((3, 2)), gallery.elasticity((3, 2), E=8.0)
    np.testing.assert_array_equal(8 * soft.toarray(), stiff.toarray())


def test_elasticity_stores_no_entry_that_is_only_rounding():
    A = gallery.elasticity((4, 4, 4))
    assert np.abs(A.data).min() > 1e-3 * np.abs(A.data).max()


def test_linear_elements_on_a_triangulation_reproduce_linear_functions():
    points = np.random.default_rng(11).random((300, 2))
    mesh = Delaunay(points)
    K = _p1_stiffness(points, mesh.simplices)
    hull = np.unique(mesh.convex_hull)
    area = ConvexHull(points).volume  # as Qhull calls the area in 2-D
    for gradient in np.random.default_rng(12).standard_normal((3, 2)):
        u = points @ gradient
        force = K @ u
        assert np.abs(np.delete(force, hull)).max() < 1e-12 * np.abs(K).max()
        assert u @ force == pytest.approx(area * (gradient @ gradient), rel=1e-12)  # integral of |grad u|^2


def test_unstructured_poisson_drops_the_hull_and_narrows_the_band():
    n = 2000
    A = gallery.unstructured_poisson(n, rng=13)
    hull = np.unique(Delaunay(np.random.default_rng(13).random((n, 2))).convex_hull)
    assert A.shape[0] == n - len(hull)
    coo = A.tocoo()
    # The points themselves are in random order, where the band would be nearly n wide.
    assert np.abs(coo.row - coo.col).max() < 6 * np.sqrt(n)


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_diagonally_scaled_wathen_matrix_obeys_wathens_bounds(seed):
    A = gallery.wathen(5, 4, rng=seed).toarray()
    assert A.shape == (3 * 5 * 4 + 2 * 5 + 2 * 4 + 1,) * 2
    eigenvalues = scipy.linalg.eigh(A, np.diag(np.diag(A)), eigvals_only=True)
    assert eigenvalues[0] >= 0.25 * (1 - 1e-12)
    assert eigenvalues[-1] <= 4.5 * (1 + 1e-12)


def test_serendipity_mass_integrates_to_the_area():
    mass = _serendipity_mass()
    assert mass.sum() == pytest.approx(4)  # the shape functions add up to 1
    # Wathen 1987: 45 times the mass of a corner is 6, of a mid-edge node 32.
    np.testing.assert_allclose(45 * np.diag(mass), [6, 32] * 4, rtol=1e-14)


# ---- graphs ----


@pytest.mark.parametrize("degree", [1, 6])
def test_graph_laplacian_maps_ones_to_the_shift(degree):
    A = gallery.graph_laplacian(400, degree=degree, shift=1e-2, rng=31)
    off_diagonal = A - sp.diags_array(A.diagonal())
    weighted_degree = -off_diagonal.sum(axis=1)
    assert (off_diagonal.data[off_diagonal.data != 0] < 0).all()
    np.testing.assert_allclose(A @ np.ones(400), 1e-2 * weighted_degree.mean(), rtol=1e-8)
    parts, _ = connected_components(A)
    smallest = np.linalg.eigvalsh(A.toarray())[: parts + 1]
    np.testing.assert_allclose(smallest[:parts], 1e-2 * weighted_degree.mean(), rtol=1e-8)
    assert smallest[parts] > smallest[parts - 1] * (1 + 1e-6)


def test_graph_laplacian_joins_each_vertex_to_its_nearest():
    n, degree = 60, 4
    points = np.random.default_rng(32).random((n, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    near = np.argsort(distance, axis=1)[:, 1 : degree + 1]
    joined = np.zeros((n, n), dtype=bool)
    np.put_along_axis(joined, near, True, axis=1)
    A = gallery.graph_laplacian(n, degree=degree, rng=32).toarray()
    np.testing.assert_array_equal(A != 0, joined | joined.T | np.eye(n, dtype=bool))
    i, j = np.nonzero(np.triu(joined | joined.T))
    np.testing.assert_allclose(-A[i, j] * distance[i, j], distance[i, j].mean(), rtol=1e-12)


def test_trefethens_seventh_problem():
    """The first entry of the inverse of order 20 000, as published (Bornemann et al. 2004, appendix)."""
    A = gallery.trefethen(20_000)
    e1 = np.eye(1, 20_000)[0]
    diagonal = A.diagonal()
    x, info = cg(A, e1, rtol=1e-15, M=LinearOperator(A.shape, matvec=lambda v: v / diagonal, dtype=float))
    assert info == 0
    assert x[0] == pytest.approx(0.7250783462684011674, rel=1e-13)


# ---- dense ----


@pytest.mark.parametrize(("dtype", "accuracy"), [("f8", 1e-13), ("c16", 1e-13), ("f4", 1e-6), ("c8", 1e-6)])
def test_prescribed_spectrum_is_recovered(dtype, accuracy):
    wanted = np.concatenate([[-2.0, 1e-3], np.linspace(1, 100, 30)])
    A = gallery.prescribed_spectrum(wanted, dtype=dtype, rng=41)
    assert A.dtype == np.dtype(dtype)
    np.testing.assert_allclose(np.linalg.eigvalsh(A.astype("c16")), wanted, rtol=0, atol=accuracy * 100)


@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_eigenvectors_of_a_prescribed_spectrum_favour_no_direction(dtype):
    """A is Haar distributed only if E[A] = mean(lambda) I; 4 standard errors, so the test is not a coin."""
    rng = np.random.default_rng(42)
    samples = np.array([gallery.prescribed_spectrum([1, 2, 6], dtype=dtype, rng=rng) for _ in range(2000)])
    error = np.abs(samples.mean(axis=0) - 3.0 * np.eye(3))
    assert error.max() < 4 * samples.std(axis=0).max() / np.sqrt(2000)


def test_strakos_spectrum_has_its_ends_and_gathers_below():
    spectrum = gallery.strakos_spectrum()
    assert (spectrum.size, spectrum[0], spectrum[-1]) == (24, 0.1, 100.0)
    assert (np.diff(spectrum) > 0).all()
    assert spectrum[22] == pytest.approx(0.1 + 22 / 23 * 99.9 * 0.65)
    np.testing.assert_allclose(gallery.strakos_spectrum(5, 1.0, 9.0, 1.0), [1, 3, 5, 7, 9])


def test_kernel_matrix_of_given_points():
    points = np.random.default_rng(43).random((20, 3))
    r = np.linalg.norm(points[:, None] - points, axis=-1) / 0.5
    expected = {
        "rbf": np.exp(-(r**2) / 2),
        "matern12": np.exp(-r),
        "matern32": (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
        "matern52": (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r),
    }
    for kernel, values in expected.items():
        K = gallery.kernel_matrix(points, length_scale=0.5, nugget=1e-3, kernel=kernel)
        np.testing.assert_allclose(K, values + 1e-3 * np.eye(20), rtol=1e-13)


def test_kernel_matrix_of_a_number_draws_from_the_unit_square():
    points = np.random.default_rng(44).random((15, 2))
    np.testing.assert_array_equal(gallery.kernel_matrix(15, rng=44), gallery.kernel_matrix(points))


def test_hilbert_matrix_has_its_inverse():
    np.testing.assert_allclose(gallery.hilbert(5) @ scipy.linalg.invhilbert(5), np.eye(5), atol=1e-10)


# ---- random numbers and bad arguments ----

RANDOM = {
    "unstructured_poisson": lambda rng: gallery.unstructured_poisson(50, rng=rng).toarray(),
    "graph_laplacian": lambda rng: gallery.graph_laplacian(50, rng=rng).toarray(),
    "wathen": lambda rng: gallery.wathen(2, 3, rng=rng).toarray(),
    "prescribed_spectrum": lambda rng: gallery.prescribed_spectrum([1, 2, 3], rng=rng),
    "kernel_matrix": lambda rng: gallery.kernel_matrix(10, rng=rng),
}


@pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM.keys())
def test_a_seed_and_its_generator_give_the_same_matrix(make):
    np.testing.assert_array_equal(make(51), make(np.random.default_rng(51)))
    rng = np.random.default_rng(51)
    first, second = make(rng), make(rng)
    assert first.shape != second.shape or (first != second).any()
    assert make(None).ndim == 2
    with pytest.raises(TypeError, match="rng must be None, an int"):
        make("seed")
    with pytest.raises(ValueError, match="rng must be at least 0"):
        make(-1)


BAD = [
    (lambda: gallery.poisson(0), ValueError, r"shape\[0\] must be at least 1"),
    (lambda: gallery.poisson((3, -2)), ValueError, r"shape\[1\] must be at least 1"),
    (lambda: gallery.poisson((3, 2.5)), TypeError, r"shape\[1\] must be a whole number"),
    (lambda: gallery.poisson(True), TypeError, "must be a whole number"),
    (lambda: gallery.poisson(np.array([1.5])), TypeError, "must be a whole number"),
    (lambda: gallery.poisson(()), ValueError, "1 or 2 or 3 dimensions"),
    (lambda: gallery.poisson_eigenvalues((2, 2, 2, 2)), ValueError, "1 or 2 or 3 dimensions"),
    (lambda: gallery.poisson(3, dtype=int), ValueError, "dtype must be one of float32, float64"),
    (lambda: gallery.poisson(3, dtype="float33"), TypeError, "dtype must be one of float32, float64"),
    (lambda: gallery.anisotropic_diffusion((3, 3, 3)), ValueError, "2 dimensions"),
    (lambda: gallery.anisotropic_diffusion((3, 3), epsilon=0), ValueError, "epsilon must be between 0"),
    (lambda: gallery.anisotropic_diffusion((3, 3), theta=np.inf), ValueError, "theta must be between"),
    (lambda: gallery.elasticity(4), ValueError, "elements in 2 or 3 dimensions"),
    (lambda: gallery.elasticity((2, 2), nu=0.5), ValueError, "nu must be between -1 and 0.5"),
    (lambda: gallery.elasticity((2, 2), E=float("nan")), ValueError, "E must be between 0"),
    (lambda: gallery.elasticity((2, 2), E="steel"), TypeError, "E must be a real number"),
    (lambda: gallery.unstructured_poisson(3), ValueError, "n must be at least 20"),
    (lambda: gallery.wathen(0, 3), ValueError, "nx must be at least 1"),
    (lambda: gallery.wathen(3, 2.0), TypeError, "ny must be a whole number"),
    (lambda: gallery.graph_laplacian(5), ValueError, "degree must be less than n = 5"),
    (lambda: gallery.graph_laplacian(50, shift=0.0), ValueError, "shift must be between 0"),
    (lambda: gallery.trefethen(0), ValueError, "n must be at least 1"),
    (lambda: gallery.prescribed_spectrum([1.0, np.nan]), ValueError, "eigenvalues must be finite"),
    (lambda: gallery.prescribed_spectrum([1j]), TypeError, "eigenvalues must be real"),
    (lambda: gallery.prescribed_spectrum([[1.0]]), ValueError, "eigenvalues must be a vector"),
    (lambda: gallery.prescribed_spectrum([1.0], dtype=int), ValueError, "dtype must be one of"),
    (lambda: gallery.strakos_spectrum(1), ValueError, "n must be at least 2"),
    (lambda: gallery.strakos_spectrum(5, 2.0, 1.0), ValueError, "high must be between 2"),
    (lambda: gallery.strakos_spectrum(5, rho=1.5), ValueError, "rho must be at most 1"),
    (lambda: gallery.kernel_matrix(5, kernel="matern23"), ValueError, "Nearest: .*matern32"),
    (lambda: gallery.kernel_matrix(5.5), TypeError, "points must be a whole number"),
    (lambda: gallery.kernel_matrix(5, nugget=0), ValueError, "nugget must be between 0"),
    (lambda: gallery.kernel_matrix([0.0, np.inf]), ValueError, "points must be finite"),
    (lambda: gallery.kernel_matrix(np.zeros((2, 2, 2))), ValueError, "points must have shape"),
    (lambda: gallery.kernel_matrix(["a"]), TypeError, "points must be a number or real coordinates"),
    (lambda: gallery.hilbert(-1), ValueError, "n must be at least 1"),
    (lambda: gallery.pyamg_example("airfol"), ValueError, "airfoil, bar, knot, unit_cube.*Nearest: airfoil"),
    (lambda: gallery.pyamg_example("unit_square"), ValueError, "singular"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
