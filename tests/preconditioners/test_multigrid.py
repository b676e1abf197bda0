"""Multigrid: the cycle against its twin, the theorems on V-cycles, iterations that do not grow with n."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import cgopt
from cgopt import gallery
from cgopt.kernels import reference
from cgopt.kernels.cpu import multigrid as cycle
from cgopt.operators.formats import csr_arrays, to_csr
from cgopt.preconditioners import Multigrid, rigid_body_modes
from cgopt.preconditioners import hierarchy as module
from cgopt.testing import sparse_spd

SINGLE = float(np.finfo(np.float32).eps)


@pytest.fixture
def cut(monkeypatch):
    """Small matrices cut into chunks of rows as if they were large, without the cost of threads."""
    monkeypatch.setattr("cgopt.kernels.cpu.threads.SMALL", 0)
    monkeypatch.setattr("cgopt.kernels.cpu.threads._forked", True)
    monkeypatch.setattr(module, "WORTH_THREADS", 0)


@pytest.fixture
def deep(monkeypatch):
    """Hierarchies of several levels for small matrices."""
    monkeypatch.setattr(module, "COARSEST", 8)


def dense(M):
    return M @ np.eye(M.shape[0])


def random_spd(n, rng, density=0.05):
    """Couplings of both signs all over, and a spread diagonal: what chunks of rows cut badly."""
    S = sp.random_array((n, n), density=density, rng=rng, data_sampler=rng.standard_normal)
    S = S @ S.T + 0.01 * sp.eye_array(n)
    d = sp.diags_array(np.exp(rng.uniform(-5, 5, n)))
    return (d @ S @ d).tocsr()


def nodes_of(*elements):
    """Free nodes of `gallery.elasticity`, in its order."""
    axes = [np.arange(1, elements[0] + 1), *(np.arange(m + 1) for m in elements[1:])]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(elements))


# --- the cycle ----------------------------------------------------------------------------------------------

MATRICES = {
    "grid": lambda: gallery.poisson((20, 20)),
    "random": lambda: random_spd(300, np.random.default_rng(5)),
    "elasticity": lambda: gallery.elasticity((9, 9)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_cycle_is_that_of_the_reference(cut, deep, name):
    M = Multigrid(MATRICES[name](), block_size=2 if name == "elasticity" else None)
    H = M.hierarchy
    b = np.random.default_rng(1).standard_normal(M.shape[0])
    H.b[: b.size] = b
    expected = reference.v_cycle(H)
    for form in cycle.v_cycle:
        H.b[: b.size] = b
        form(H)
        np.testing.assert_allclose(H.x[: b.size], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_threads_and_serial_give_the_same_bits(cut):
    M = Multigrid(gallery.unstructured_poisson(3000, rng=2))
    H, results = M.hierarchy, []
    assert H.bounds.shape[1] > 2 or cgopt.get_num_threads() == 1
    for form in (*cycle.v_cycle, *cycle.v_cycle):
        H.b[: M.shape[0]] = np.random.default_rng(1).standard_normal(M.shape[0])
        form(H)
        results.append(H.x[: M.shape[0]].copy())
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_same_matrix_same_bits():
    A, r = gallery.poisson((60, 60)), np.random.default_rng(0).standard_normal(3600)
    np.testing.assert_array_equal(Multigrid(A) @ r, Multigrid(A.copy()) @ r)


@pytest.mark.parametrize("name", MATRICES)
def test_coarse_matrices_are_galerkins(deep, name):
    H = Multigrid(MATRICES[name]()).hierarchy
    count = int(H.rows[-1])
    P = sp.csr_array((H.prolongation, H.prolongation_columns.astype(int), H.prolongation_ptr.astype(int)))
    P.resize((count, count))
    R = sp.csr_array((H.restriction, H.restriction_columns.astype(int), H.restriction_ptr.astype(int)))
    R.resize((count - int(H.rows[1]), count))
    parts = [
        sp.csr_array((values, columns.astype(int), ptr.astype(int)), shape=(ptr.size - 1, count))
        for ptr, columns, values in (
            (H.lower_ptr, H.lower_columns, H.lower),
            (H.upper_ptr, H.upper_columns, H.upper),
        )
    ]
    A = (parts[0] + parts[1]).toarray() + np.eye(parts[0].shape[0], count)
    P, R = P.toarray(), R.toarray()
    np.testing.assert_array_equal(R, P[:, H.rows[1] :].T)
    for l in range(H.rows.size - 2):
        fine, coarse = slice(H.rows[l], H.rows[l + 1]), slice(H.rows[l + 1], H.rows[l + 2])
        if l == H.rows.size - 3:
            expected = H.factor @ H.factor.T
        else:
            expected = A[coarse, coarse]
        np.testing.assert_allclose(P[fine, coarse].T @ A[fine, fine] @ P[fine, coarse], expected, atol=1e-5)


# --- theorems -----------------------------------------------------------------------------------------------


def assert_between_zero_and_one(A, M, slack=1e-4):
    """M is symmetric positive definite, and the eigenvalues of M A lie in (0, 1]."""
    A = A.toarray() if sp.issparse(A) else A
    scale = np.sqrt(np.diag(A))
    W = scale[:, None] * dense(M) * scale  # M for A of unit diagonal
    assert np.abs(W - W.T).max() <= 100 * SINGLE * np.abs(W).max()
    eigenvalues = scipy.linalg.eigh(A / scale[:, None] / scale, eigvals_only=True, type=2, b=(W + W.T) / 2)
    assert eigenvalues.min() > 0.0
    assert eigenvalues.max() <= 1.0 + slack


@pytest.mark.parametrize("name", MATRICES)
def test_a_cycle_never_overshoots(cut, deep, name):
    # With Galerkin's coarse matrices and a smoother that converges in the A-norm, I - M A is positive semidefinite
    # in the A inner product (McCormick 1985).
    A = MATRICES[name]()
    assert_between_zero_and_one(A, Multigrid(A))


@settings(max_examples=15)
@given(sparse_spd(n=st.integers(1, 60)), st.integers(-3, 3))
def test_positive_definite_for_any_matrix(A, decades):
    A = sp.csr_array(A)
    d = sp.diags_array(10.0 ** (decades * np.linspace(-1, 1, A.shape[0])))
    A = (d @ A @ d).tocsr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COARSEST", 4)
        M = Multigrid(A)
    assert_between_zero_and_one(A, M, slack=1e-3)


def test_chunks_that_tear_couplings_apart_still_converge(cut):
    # Two halves coupled one to one more strongly than within: without the enlarged diagonal of
    # Baker, Falgout, Kolev and Yang the sweeps in halves would be no better than the matrix is dominant.
    n = 128
    rng = np.random.default_rng(3)
    C = rng.uniform(0.0, 1.0, (n, n)) * 0.99 / n
    A = np.block([[np.eye(n), C], [C.T, np.eye(n)]])
    A = A @ A + 1e-3 * np.eye(2 * n)
    assert_between_zero_and_one(A, Multigrid(A))


@pytest.mark.parametrize("sizes", [((40, 40), (160, 160)), ((12, 12, 12), (36, 36, 36))], ids=["2-D", "3-D"])
def test_iterations_do_not_grow_with_the_mesh(sizes):
    def iterations(shape):
        A = gallery.poisson(shape)
        result = cgopt.cg(A, np.random.default_rng(0).standard_normal(A.shape[0]), M=Multigrid(A), rtol=1e-8)
        assert result.converged
        return result.iterations

    coarse, fine = map(iterations, sizes)
    assert fine <= coarse + 3
    assert fine <= 13


def test_anisotropy_is_coarsened_along_the_strong_couplings():
    iterations = []
    for epsilon in (1.0, 0.01):
        A = gallery.anisotropic_diffusion((90, 90), epsilon=epsilon)
        M = Multigrid(A)
        iterations.append(cgopt.cg(A, np.ones(8100), M=M, rtol=1e-8).iterations)
    assert iterations[1] <= 3 * iterations[0] < 60
    assert cgopt.cg(A, np.ones(8100), M="jacobi", rtol=1e-8).iterations > 4 * iterations[1]


def test_rigid_body_modes_cure_elasticity():
    A = gallery.elasticity((40, 40))
    b = np.ones(A.shape[0])
    choices = [
        {"block_size": 1},
        {},  # found in the pattern
        {"block_size": 2, "B": rigid_body_modes(nodes_of(40, 40))},
    ]
    plain, block, rigid = (cgopt.cg(A, b, M=Multigrid(A, **choice), rtol=1e-8).iterations for choice in choices)
    assert rigid < block < plain / 2
    assert rigid <= 16


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2)])
def test_rigid_body_modes_have_no_energy(shape):
    # inside the body, where no node is held: rows of the matrix that touch no clamped node
    A = gallery.elasticity(shape).tocsr()
    nodes = nodes_of(*shape)
    B = rigid_body_modes(nodes)
    assert np.linalg.matrix_rank(B) == {2: 3, 3: 6}[len(shape)]
    inside = np.repeat(nodes[:, 0] >= 2, len(shape))
    assert np.abs((A @ B)[inside]).max() <= 1e-13 * np.abs(A.data).max()


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_tentative_prolongator_holds_the_candidates(k, size, nodes, seed):
    rng = np.random.default_rng(seed)
    A = csr_arrays(sp.kron(gallery.poisson(nodes), np.ones((size, size))).tocsr())
    B = rng.standard_normal((nodes * size, k))
    T, coarse = module.tentative(A, B, size, 0.0)
    T = module.to_scipy(T, coarse.shape[0]).toarray()
    np.testing.assert_allclose(T @ coarse, B, atol=1e-12)
    gram = T.T @ T  # the identity, apart from columns that a small aggregate has no room for
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)
    assert np.all(np.isclose(np.diag(gram), 1.0) | (np.diag(gram) == 0.0))


@settings(max_examples=20)
@given(st.integers(1, 50), st.floats(0.0, 0.9), st.integers(0, 2**32 - 1))
def test_aggregates_are_connected_neighbourhoods(n, theta, seed):
    rng = np.random.default_rng(seed)
    W = sp.random_array((n, n), density=0.1, rng=rng)
    W = W + W.T + sp.eye_array(n)
    A = csr_arrays(W.tocsr())
    members = np.empty(n, np.int64)
    count = module.setup.aggregate(*A, theta, members)
    strong = (W.toarray() > theta) & ~np.eye(n, dtype=bool)
    assert set(members[members >= 0]) == set(range(count))  # none is empty
    np.testing.assert_array_equal(members < 0, ~strong.any(axis=1))  # only lonely nodes are left out
    for a in range(count):  # any two are at most four strong couplings apart
        own = np.flatnonzero(members == a)
        reach = np.linalg.matrix_power(np.eye(n) + strong, 4) > 0
        assert reach[np.ix_(own, own)].all()


@pytest.mark.parametrize(
    ("name", "most"),
    [("rw_coins", 40), ("heat_big2d", 20), ("G2_circuit", 20), ("ela_elbow2", 100), ("slam_intel", 100)],
)
def test_real_matrices_take_a_fraction_of_jacobis_iterations(name, most):
    # Jacobi's, as counted in the collection's own index: 7770, 267, 2025, 519, 2620
    if name not in gallery.available():
        pytest.skip(f"{name} is not in CGOPT_DATA")
    A, b = gallery.load(name, return_rhs=True)
    b = np.random.default_rng(0).standard_normal(A.shape[0]) if b is None else b
    result = cgopt.cg(A, b, M=Multigrid(A), rtol=1e-8)
    assert result.converged
    assert result.iterations <= most


# --- scale --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-90, -30, 30, 90])  # even: square roots are exact
def test_scaling_the_matrix_scales_the_cycle_exactly(exponent):
    A, r = gallery.poisson((30, 30)), np.random.default_rng(0).standard_normal(900)
    scaled = A.copy()
    scaled.data = np.ldexp(A.data, exponent)
    np.testing.assert_array_equal(Multigrid(scaled) @ r, np.ldexp(Multigrid(A) @ r, -exponent))


@pytest.mark.parametrize("exponent", [-900, -100, 100, 900])
def test_scaling_the_residual_scales_the_cycle_exactly(exponent):
    M, r = Multigrid(gallery.poisson((30, 30))), np.random.default_rng(0).standard_normal(900)
    np.testing.assert_array_equal(M @ np.ldexp(r, exponent), np.ldexp(M @ r, exponent))


def test_units_of_the_unknowns_do_not_matter():
    A = gallery.poisson((50, 50))
    units = np.ldexp(1.0, np.random.default_rng(0).integers(-40, 40, 2500))
    scaled = (sp.diags_array(units) @ A @ sp.diags_array(units)).tocsr()
    r = np.random.default_rng(1).standard_normal(2500)
    plain = Multigrid(A) @ r
    np.testing.assert_allclose(Multigrid(scaled, B=1.0 / units) @ (units * r) * units, plain, rtol=2e-4)


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_solves_at_any_scale(factor):
    A = gallery.poisson((40, 40))
    b = np.random.default_rng(0).standard_normal(1600)
    result = cgopt.cg(A * factor, b, M=Multigrid, rtol=1e-8)
    assert result.converged
    assert result.iterations == cgopt.cg(A, b, M=Multigrid, rtol=1e-8).iterations


# --- as an operator -----------------------------------------------------------------------------------------


def test_works_in_scipy():
    A, b = gallery.poisson((60, 60)), np.ones(3600)
    x, info = scipy.sparse.linalg.cg(A, b, rtol=1e-8, M=Multigrid(A).to_scipy(), maxiter=15)
    assert info == 0
    assert np.linalg.norm(b - A @ x) <= 1e-7 * 60


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types(dtype):
    A = gallery.poisson((40, 40), dtype=dtype)
    M = Multigrid(A)
    r = np.random.default_rng(0).standard_normal(1600).astype(dtype)
    z = M @ r
    assert M.dtype == z.dtype == dtype
    R = np.stack([r, 2 * r], axis=1)
    np.testing.assert_array_equal(M @ R, np.stack([z, 2 * z], axis=1))
    out = np.empty((1600, 2), dtype)[:, 0]
    np.testing.assert_array_equal(M.matvec(r, out=out), z)
    np.testing.assert_array_equal(M @ (r * (1 + 1j)), z * (1 + 1j))
    assert cgopt.cg(A, r, M=M, rtol=1e-5).converged


def test_input_is_not_modified():
    A, r = gallery.poisson((40, 40)), np.ones(1600)
    data = A.data.copy()
    Multigrid(A).matvec(r)
    np.testing.assert_array_equal(A.data, data)
    np.testing.assert_array_equal(r, 1.0)


def test_zero_and_what_is_not_finite():
    M = Multigrid(gallery.poisson((20, 20)))
    np.testing.assert_array_equal(M @ np.zeros(400), 0.0)
    assert np.isnan(M @ np.full(400, np.inf)).all()


@pytest.mark.parametrize("A", [sp.eye_array(500).tocsr(), gallery.poisson(5), np.array([[4.0]])])
def test_nothing_to_coarsen(A):
    n = A.shape[0]
    np.testing.assert_allclose(dense(Multigrid(A)) @ (A @ np.eye(n)), np.eye(n), atol=1e-5)


@pytest.mark.parametrize("format", ["csr", "sorted", "dia", "dense"])
def test_every_storage_format_gives_the_same_cycle(format):
    A = gallery.poisson((40, 40))
    operator = cgopt.operators.MatrixOperator(A, format=format)
    rows = to_csr(operator.layout)
    n = A.shape[0]
    assert (module.to_scipy(rows, n) != A).nnz == 0
    r = np.random.default_rng(0).standard_normal(n)
    np.testing.assert_array_equal(Multigrid(operator) @ r, Multigrid(A) @ r)


def test_pickle_and_repr():
    M = Multigrid(gallery.poisson((40, 40)))
    r = np.random.default_rng(0).standard_normal(1600)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(M)) @ r, M @ r)
    assert "levels 1600 > " in repr(M)
    assert "setup_time=" in repr(M)
    assert M.nbytes > 1600 * 5 * 8
    assert M.setup_time > 0.0
    assert 1.0 < M.operator_complexity < 2.0


def test_one_preconditioner_used_by_several_threads():
    M = Multigrid(gallery.poisson((50, 50)))
    vectors = np.random.default_rng(0).standard_normal((8, 2500))
    expected = [M @ v for v in vectors]
    failures = []

    def work(j):
        for _ in range(20):
            if not np.array_equal(M @ vectors[j], expected[j]):
                failures.append(j)

    threads = [threading.Thread(target=work, args=(j,)) for j in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- hierarchies of others ----------------------------------------------------------------------------------


def test_classical_coarsening():
    pytest.importorskip("pyamg", reason="needs the extra amg")
    A = gallery.poisson((60, 60))
    M = Multigrid(A, kind="classical")
    assert cgopt.cg(A, np.ones(3600), M=M, rtol=1e-8).iterations <= 8
    assert_between_zero_and_one(gallery.poisson((20, 20)), Multigrid(gallery.poisson((20, 20)), kind="classical"))


def test_a_hierarchy_of_pyamg():
    pyamg = pytest.importorskip("pyamg", reason="needs the extra amg")
    A = gallery.poisson((60, 60))
    smoothers = [("gauss_seidel", {"sweep": "forward"}), ("gauss_seidel", {"sweep": "backward"})]
    theirs = pyamg.smoothed_aggregation_solver(
        A, presmoother=smoothers[0], postsmoother=smoothers[1], max_coarse=20, coarse_solver="cholesky"
    )
    M = Multigrid.from_hierarchy(theirs)
    r = np.random.default_rng(0).standard_normal(3600)
    z = theirs.aspreconditioner(cycle="V") @ r
    np.testing.assert_allclose(M @ r, z, rtol=0, atol=1e-4 * np.abs(z).max())


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "clasical"}, ValueError, "kind must be one of"),
        ({"block_size": 0}, ValueError, "block_size must be a positive whole number"),
        ({"block_size": 7}, ValueError, "does not divide"),
        ({"B": np.ones(3)}, ValueError, "B must have shape"),
        ({"B": np.full(100, np.nan)}, ValueError, "B holds NaN"),
        ({"B": np.ones(100) * 1j}, TypeError, "B is complex"),
        ({"strength": 2.0}, ValueError, "strength must be"),
        ({"strength": "no"}, ValueError, "strength must be"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Multigrid(gallery.poisson((10, 10)), **arguments)


def test_bad_matrices():
    A = gallery.poisson((10, 10))
    with pytest.raises(TypeError, match="A is complex"):
        Multigrid(A.astype(complex))
    with pytest.raises(TypeError, match="A must be a matrix"):
        Multigrid(cgopt.operators.Damped(A, 1.0))
    with pytest.raises(ValueError, match="diagonal entry 0 of A is not positive"):
        Multigrid(-A)
    with pytest.raises(ValueError, match="coordinates must have shape"):
        rigid_body_modes(np.ones(5))
