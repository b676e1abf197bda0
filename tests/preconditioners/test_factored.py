"""Preconditioners that factor A: SSOR, DIC, MIC, incomplete Cholesky, on one thread's part and on several."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from hypothesis import given, settings
from hypothesis import strategies as st

import cgopt
from cgopt.kernels import cpu
from cgopt.operators import as_operator
from cgopt.operators.formats import csr_arrays
from cgopt.operators.ordering import dissect
from cgopt.preconditioners import DIC, MIC, SSOR, IncompleteCholesky
from cgopt.testing import sparse_spd

CLASSES = [SSOR, DIC, MIC, IncompleteCholesky]
BIG = 100  # side of a grid that is large enough to be cut into parts


def dense_of(M):
    """The matrix of an operator, column by column."""
    return np.stack([M @ e for e in np.eye(M.shape[0], dtype=M.dtype)], 1)


def mesh(seed=0, n=400):
    """A matrix of an unstructured grid, diagonally dominant, with positive entries too."""
    rng = np.random.default_rng(seed)
    A = cgopt.gallery.graph_laplacian(n, degree=5, rng=rng) + sp.diags_array(rng.uniform(0.1, 2.0, n))
    signs = sp.diags_array(np.where(rng.random(n) < 0.5, -1.0, 1.0))
    return (signs @ A @ signs).tocsr()


def ordered(M, A):
    """A in the order of M's factor."""
    order = M.factor.order.astype(np.int64)
    return A.tocsr()[order][:, order].toarray()


# ---- the order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_are_linked_by_separators_only(parts):
    A = cgopt.gallery.poisson((BIG, BIG))
    found = dissect(csr_arrays(A), parts)
    assert np.array_equal(np.sort(found.order), np.arange(A.shape[0]))
    assert found.parts.size == parts + 1
    B = A[found.order][:, found.order].tocoo()
    part = np.searchsorted(found.parts, np.arange(A.shape[0]), side="right")
    inside = (part[B.row] <= parts) & (part[B.col] <= parts)
    assert (part[B.row][inside] == part[B.col][inside]).all()
    assert A.shape[0] - found.parts[-1] == BIG * (parts - 1)  # a line of the grid between two parts


def test_an_order_without_structure_is_replaced():
    n = 20_000
    shuffled = np.random.default_rng(0).permutation(n)
    A = cgopt.gallery.poisson((n // 100, 100))[shuffled][:, shuffled].tocsr()
    found = dissect(csr_arrays(A), 2)
    assert found.parts.size == 3
    assert n - found.parts[-1] < 0.03 * n


def test_a_matrix_that_cannot_be_cut_stays_whole():
    n = 9_000
    rng = np.random.default_rng(1)
    A = sp.random_array((n, n), density=4 / n, rng=rng)
    found = dissect(csr_arrays((A + A.T + sp.eye_array(n)).tocsr()), 2)
    assert found.parts.tolist() == [0, n]


# ---- each is the matrix that its definition says ------------------------------------------------------------------


@pytest.mark.parametrize("omega", [0.7, 1.0, 1.6])
def test_ssor_is_its_formula(omega):
    A = mesh().toarray()
    D, L = np.diag(np.diag(A)) / omega, np.tril(A, -1)
    formula = (D + L) @ np.linalg.inv(D) @ (D + L.T)
    found = dense_of(SSOR(A, omega))
    assert np.allclose(found @ formula, np.eye(400), atol=1e-11)


def test_dic_has_the_pivots_of_its_recurrence():
    A = mesh().toarray()
    d = np.diag(A).copy()
    for i in range(len(d)):
        d[i] -= sum(A[i, k] ** 2 / d[k] for k in range(i))
    L = np.tril(A, -1)
    formula = (np.diag(d) + L) @ np.diag(1 / d) @ (np.diag(d) + L.T)
    assert np.allclose(np.diag(formula), np.diag(A))  # the diagonal of A is kept
    assert np.allclose(dense_of(DIC(A)) @ formula, np.eye(400), atol=1e-11)


def test_modified_dic_keeps_row_sums():
    A = (cgopt.gallery.poisson((15, 16)) + 0.05 * sp.eye_array(240)).tocsr()
    M = MIC(A, relaxation=1.0)
    assert M.relaxation == 1.0
    # M^-1 A 1 = 1: the product of the factors has A's row sums (Gustafsson 1978)
    assert np.allclose(M @ (A @ np.ones(240)), np.ones(240), atol=1e-12)


def test_incomplete_cholesky_without_fill_is_exact_on_its_pattern():
    A = mesh()
    M = IncompleteCholesky(A, fill=0)
    product = np.linalg.inv(dense_of(M))
    pattern = A.toarray() != 0
    assert M.shift == 0.0
    # (L L')_ij = a_ij for all entries of the pattern (Meijerink and van der Vorst 1977); L is kept in fp32
    assert np.allclose(product[pattern], A.toarray()[pattern], atol=1e-5)
    assert not np.allclose(product, A.toarray(), atol=1e-3)
    assert M.factor.data.size == (A.nnz - 400) // 2


def incomplete_cholesky_0(A):
    """The textbook's: of a dense A, what falls outside its pattern is not computed (Saad 2003, section 10.3)."""
    n = A.shape[0]
    L = np.tril(A)
    for k in range(n):
        L[k, k] = np.sqrt(L[k, k])
        L[k + 1 :, k] /= L[k, k]
        for j in range(k + 1, n):
            L[j:, j] -= np.where(A[j:, j] != 0.0, L[j:, k] * L[j, k], 0.0)
    return L


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_incomplete_cholesky_without_fill_is_the_textbooks_in_its_order(parts, monkeypatch):
    """However many parts: it is that of the reordered matrix, on the fast way as on that for modified ones."""
    monkeypatch.setattr(cpu.threads, "SMALL", 0)
    A = cgopt.gallery.poisson((60, 4)) + sp.diags_array(np.linspace(0.0, 1.0, 240))
    M = IncompleteCholesky(A, fill=0, threads=parts)
    assert M.parts == parts
    L = incomplete_cholesky_0(ordered(M, A))
    expected = np.linalg.inv(L @ L.T)
    place = np.argsort(M.factor.order)
    unit = 2.0**-24 * np.linalg.cond(expected)  # of single precision, in which the factor is kept
    assert np.allclose(dense_of(M), expected[np.ix_(place, place)], rtol=0, atol=unit * np.abs(expected).max())
    by_columns = IncompleteCholesky(A, fill=0, threads=parts, relaxation=1e-30)
    assert np.allclose(dense_of(M), dense_of(by_columns), rtol=0, atol=unit * np.abs(expected).max())


def test_without_fill_a_tree_is_factored_exactly():
    """Numbered from the leaves, a tree's elimination makes no fill: M is A's inverse, but for fp32."""
    n = 200
    rng = np.random.default_rng(3)
    parent = np.array([rng.integers(i + 1, n) for i in range(n - 1)])
    G = sp.coo_array((rng.uniform(0.5, 2.0, n - 1), (np.arange(n - 1), parent)), shape=(n, n))
    A = sp.csr_array(sp.diags_array(np.full(n, 0.1) + (G + G.T).sum(axis=0)) - G - G.T)
    M = IncompleteCholesky(A, fill=0, max_shift=0.0)
    assert np.allclose(dense_of(M) @ A.toarray(), np.eye(n), rtol=0, atol=2.0**-24 * np.linalg.cond(A.toarray()))


def test_incomplete_cholesky_that_drops_nothing_is_cholesky():
    A = mesh(n=150)
    M = IncompleteCholesky(A, fill=150, drop_tolerance=0.0)
    S = np.diag(1 / np.sqrt(A.diagonal()))
    L = la.cholesky(S @ A.toarray() @ S, lower=True)
    found = sp.csr_array((M.factor.data, M.factor.indices.view(np.int32), M.factor.indptr.view(np.int32)), (150, 150))
    assert np.allclose(np.diag(L)[:, None] * found.toarray(), np.tril(L, -1), atol=1e-6)
    assert np.allclose(M.factor.scale, np.diag(S) / np.diag(L), rtol=1e-6)
    assert cgopt.cg(A, np.ones(150), M=M, rtol=1e-10).iterations <= 4


def test_drop_tolerance_and_fill_bound_what_is_kept():
    A = cgopt.gallery.poisson((40, 40))
    columns = (A.nnz - 1600) / 2
    sizes = [IncompleteCholesky(A, fill=fill, drop_tolerance=0.0).factor.data.size for fill in (0, 1, 4)]
    assert sizes[0] == columns
    assert sizes[0] < sizes[1] <= columns + 1600 < sizes[2] <= columns + 4 * 1600
    loose, tight = (IncompleteCholesky(A, drop_tolerance=t).factor.data.size for t in (0.1, 1e-4))
    assert loose < tight


def test_modified_factorisation_keeps_row_sums_by_threshold_too():
    A = (cgopt.gallery.poisson((15, 16)) + 0.05 * sp.eye_array(240)).tocsr()
    M = IncompleteCholesky(A, fill=2, drop_tolerance=0.02, relaxation=1.0)
    # what is dropped is added to the diagonals of scaled rows, and the diagonal of A is constant inside
    scale = np.sqrt(A.diagonal())
    product = np.linalg.inv(dense_of(M))
    assert np.allclose(product @ (1 / scale), A @ (1 / scale), atol=1e-4)


def test_breakdown_is_met_by_a_shift():
    # Kershaw's matrix (J. Comput. Phys. 26, 1978): positive definite, and IC(0) breaks down on it
    A = np.array([[3.0, -2, 0, 2], [-2, 3, -2, 0], [0, -2, 3, -2], [2, 0, -2, 3]])
    assert la.eigvalsh(A)[0] > 0.1
    M = IncompleteCholesky(A, fill=0)
    assert M.shift > 0.0
    assert la.eigvalsh(dense_of(M))[0] > 0.0
    assert cgopt.cg(A, np.ones(4), M=M, rtol=1e-10).converged
    assert DIC(A).relaxation is None  # the pivots break down as well: the diagonal is taken
    assert cgopt.cg(A, np.arange(4.0), M="dic", rtol=1e-10).converged


# ---- symmetric, positive definite, whatever the order --------------------------------------------------------------


@settings(max_examples=25)
@given(A=sparse_spd(), which=st.sampled_from(CLASSES))
def test_symmetric_positive_definite(A, which):
    A = sp.csr_array(A)
    M = dense_of(which(A))
    size = np.abs(M).max()
    assert np.allclose(M, M.T, rtol=0, atol=1e-5 * size if which is IncompleteCholesky else 1e-10 * size)
    assert la.eigvalsh((M + M.T) / 2)[0] > 0.0


@pytest.mark.parametrize("which", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_on_threads_make_the_same_operator_as_the_formula(which, dtype):
    A = cgopt.gallery.poisson((BIG, BIG)).astype(dtype)
    M = which(A, threads=3)
    assert M.parts == 3
    r = np.random.default_rng(0).standard_normal(BIG * BIG).astype(dtype)
    z = M @ r
    L = sp.csr_array(
        (M.factor.data.astype(float), M.factor.indices.view(np.int32), M.factor.indptr.view(np.int32)), A.shape
    ) + sp.eye_array(A.shape[0])
    scale, order = M.factor.scale.astype(float), M.factor.order
    y = spla.spsolve_triangular(L.tocsr(), scale * r[order].astype(float))
    twin = np.empty(A.shape[0])
    twin[order] = scale * spla.spsolve_triangular(L.T.tocsr(), y, lower=False)
    assert z.dtype == dtype
    assert np.allclose(z, twin, rtol=0, atol=(2e-5 if dtype == np.float32 else 1e-11) * np.abs(twin).max())


@pytest.mark.parametrize("which", CLASSES)
def test_no_scale_matters(which):
    A = mesh()
    b = np.random.default_rng(3).standard_normal(400)
    plain = cgopt.cg(A, b, M=which, rtol=1e-9)
    for size in (1e-200, 1e-30, 1e150):
        scaled = cgopt.cg(A * size, b, M=which, rtol=1e-9)
        assert scaled.converged
        assert abs(scaled.iterations - plain.iterations) <= 1
        assert np.allclose(scaled.x * size, plain.x, rtol=1e-6, atol=1e-12)
    assert np.allclose((which(A * 1e-200) @ b) * 1e-200, which(A) @ b, rtol=1e-6)


# ---- in the solver --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [SSOR, DIC, MIC])
@pytest.mark.parametrize("threads", [1, 2])
def test_eisenstats_loop_makes_the_iterates_of_the_plain_one(which, threads):
    A = mesh(n=8_100) if threads == 1 else cgopt.gallery.poisson((BIG, BIG))
    b = np.random.default_rng(1).standard_normal(A.shape[0])
    operator = as_operator(A)
    M = which(operator, threads=threads)
    solver = cgopt.CGSolver(operator, M=M)
    assert solver._system.kind == "eisenstat"
    by_products = cgopt.CGSolver(A, M=M.to_scipy())
    assert by_products._system.kind == "python"
    trick, plain = solver.solve(b, rtol=1e-9), by_products.solve(b, rtol=1e-9)
    assert trick.converged
    assert np.linalg.norm(b - A @ trick.x) <= 1.0001e-9 * np.linalg.norm(b)
    k = min(trick.iterations, plain.iterations, 15)
    assert np.allclose(trick.history[:k], plain.history[:k], rtol=1e-8)
    assert abs(trick.iterations - plain.iterations) <= 2


def test_the_trick_needs_the_very_same_matrix():
    A = mesh()
    M = SSOR(A)
    assert cgopt.CGSolver(A, M=M)._system.kind == "eisenstat"
    assert cgopt.CGSolver(A.copy(), M=M)._system.kind == "factor"
    other = cgopt.cg(2.0 * A, np.ones(400), M=M, rtol=1e-8)
    assert other.converged


def test_solving_from_a_guess_and_again():
    A = mesh()
    b = np.random.default_rng(1).standard_normal(400)
    solver = cgopt.CGSolver(A, M="dic")
    first = solver.solve(b, rtol=1e-6)
    on = solver.solve(b, first.x, rtol=1e-12)
    assert on.converged
    assert on.iterations < solver.solve(b, rtol=1e-12).iterations
    again = solver.solve(b, rtol=1e-6)
    assert np.array_equal(first.x, again.x)


@pytest.mark.parametrize("which", CLASSES)
def test_many_right_hand_sides_and_complex_ones(which):
    A = mesh()
    rng = np.random.default_rng(2)
    B = rng.standard_normal((400, 3))
    result = cgopt.cg(A, B, M=which, rtol=1e-9)
    assert result.converged
    assert np.allclose(A @ result.x, B, atol=1e-6)
    c = B[:, 0] + 1j * B[:, 1]
    assert np.allclose(cgopt.cg(A, c, M=which, rtol=1e-10).x, result.x[:, 0] + 1j * result.x[:, 1], atol=1e-6)


@pytest.mark.parametrize("which", CLASSES)
def test_works_in_scipy(which):
    A = mesh()
    b = np.ones(400)
    M = which(A)
    x, info = spla.cg(A, b, M=M.to_scipy(), rtol=1e-8)
    assert info == 0
    assert np.linalg.norm(A @ x - b) <= 1e-6 * 20
    assert M.nbytes > 0
    assert M.setup_time > 0.0
    assert type(M).__name__ in repr(M)


def test_same_bits_on_threads_and_without():
    A = cgopt.gallery.poisson((BIG, BIG))
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    for which in (MIC, IncompleteCholesky):
        before = cgopt.get_num_threads()
        M = which(A, threads=2)
        try:
            results = []
            for threads in (1, cgopt.max_num_threads()):
                cgopt.set_num_threads(threads)
                results.append(M @ b)
        finally:
            cgopt.set_num_threads(before)
        assert np.array_equal(*results)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SSOR(mesh(), omega=2.0), ValueError, "omega"),
        (lambda: DIC(mesh(), relaxation=1.5), ValueError, "relaxation"),
        (lambda: IncompleteCholesky(mesh(), fill=-1), ValueError, "fill"),
        (lambda: IncompleteCholesky(mesh(), fill=1.5), ValueError, "fill"),
        (lambda: IncompleteCholesky(mesh(), drop_tolerance=1.0), ValueError, "drop_tolerance"),
        (lambda: IncompleteCholesky(mesh(), max_shift=-1.0), ValueError, "max_shift"),
        (lambda: SSOR(lambda v: v), TypeError, "n"),
        (lambda: SSOR(spla.aslinearoperator(mesh())), TypeError, "entries"),
        (lambda: MIC(np.array([[1.0, 1j], [-1j, 4.0]])), TypeError, "complex"),
        (lambda: DIC(np.diag([1.0, -1.0])), ValueError, "row 1"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
