"""Storage layouts: what is chosen, what is refused, and that nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt.kernels import cpu
from cgopt.operators import MatrixOperator, formats
from cgopt.testing import sparse_spd


@given(sparse_spd(st.integers(1, 60)), st.sampled_from(formats.FORMATS))
def test_every_format_holds_every_entry(A, format):
    # A matrix drawn so is symmetric to the last bit, or it would not be one of the strategy's.
    A = sp.csr_array(A)
    try:
        operator = MatrixOperator(A, format=format)
    except ValueError as error:
        assert "diagonals" in str(error)  # noqa: PT017  (the draw decides)
        return
    rows = operator.rows()
    found = sp.csr_array((rows.data, rows.indices.astype(np.int64), rows.indptr.astype(np.int64)), shape=A.shape)
    np.testing.assert_array_equal(found.toarray(), A.toarray())
    np.testing.assert_array_equal(operator.diagonal(), A.diagonal())
    assert operator.dtype == rows.data.dtype == A.dtype


def test_a_symmetric_stencil_is_stored_by_half():
    A = cgopt.gallery.poisson((40, 50))
    operator = MatrixOperator(A)
    assert operator.format == "half_dia"
    assert "3 of 5 diagonals" in operator.why
    assert operator.nbytes <= 3 * 8 * A.shape[0] + 3 * 8


@pytest.mark.parametrize("place", [(7, 8), (8, 7), (3, 53), (1999, 1998)])
def test_one_entry_of_one_ulp_makes_all_diagonals_be_stored(place):
    # Exactly symmetric is what storing a half asks; otherwise the check of symmetry would not see the matrix.
    A = cgopt.gallery.poisson((40, 50)).tolil()
    A[place] = np.nextafter(A[place], 0.0)
    operator = MatrixOperator(A.tocsr())
    assert operator.format == "dia"
    with pytest.raises(ValueError, match=r"exactly symmetric.*\(A \+ A\.T\) / 2"):
        MatrixOperator(A.tocsr(), format="half_dia")


def test_complex_diagonals_are_all_stored():
    A = cgopt.gallery.poisson((40, 50)) * (1.0 + 0.0j)
    assert MatrixOperator(A).format == "dia"


def test_values_are_narrow_where_that_is_exact():
    A = cgopt.gallery.poisson((200, 200))
    narrow = MatrixOperator(A)
    assert narrow.layout.data.dtype == np.float32
    assert "fp32" in narrow.why
    assert "fp32" in repr(narrow)
    assert narrow.dtype == np.float64
    wide = A.copy()
    wide.data[5] += 2.0**-30
    assert MatrixOperator(wide).layout.data.dtype == np.float64
    # what single precision would make infinite, or zero, stays as it is
    for scale in (1e60, 1e-60):
        assert MatrixOperator(A * scale).layout.data.dtype == np.float64
    # and no product differs
    x = np.random.default_rng(31).standard_normal(A.shape[0])
    np.testing.assert_allclose(narrow @ x, A @ x, rtol=0, atol=7 * 2.0**-52 * 8 * np.abs(x).max())


@pytest.mark.parametrize("format", ["half_dia", "dia", "csr", "half_csr", "sorted"])
def test_narrow_values_solve_to_full_precision(format):
    A = cgopt.gallery.poisson((200, 200))
    rng = np.random.default_rng(32)
    b = rng.standard_normal(A.shape[0])
    solver = cgopt.CGSolver(A, format=format)
    assert solver.operator.layout.data.dtype == np.float32
    result = solver.solve(b, rtol=1e-11)
    assert result.converged
    assert np.linalg.norm(b - A @ result.x) <= 1.01e-11 * np.linalg.norm(b)
    # to double precision the same system, solved by SciPy's factorisation
    x = sp.linalg.spsolve(A.tocsc(), b)
    assert np.linalg.norm(result.x - x) <= 1e-7 * np.linalg.norm(x)


def test_traffic_counts_what_is_stored():
    n = 90_000
    A = cgopt.gallery.poisson((300, 300))
    full = cgopt.CGSolver(A, format="dia").bytes_per_iteration
    half = cgopt.CGSolver(A).bytes_per_iteration
    assert abs(full - (5 * 4 + 11 * 8) * n) <= 100  # values exact in fp32
    assert abs(half - (3 * 4 + 11 * 8) * n) <= 100


def elasticity():
    return cgopt.gallery.elasticity((40, 40))


def test_long_symmetric_rows_are_read_by_half_in_the_loop():
    A = elasticity()
    solver = cgopt.CGSolver(A)
    entries, n = A.nnz, A.shape[0]
    assert solver.operator.format in ("csr", "sorted")  # all, for true residuals
    assert solver.bytes_per_iteration < 0.6 * cgopt.CGSolver(A, format="csr").bytes_per_iteration + 44 * n
    assert solver.bytes_per_iteration >= 6 * (entries - n)
    assert "half of the rows" in repr(solver)
    assert "half of the rows" not in repr(cgopt.CGSolver(A, format="csr"))


def test_half_and_all_of_the_rows_give_the_same_iterates():
    A = elasticity()
    b = np.random.default_rng(33).standard_normal(A.shape[0])
    found = [cgopt.CGSolver(A, format=format).solve(b, rtol=1e-30, maxiter=10) for format in ("csr", "half_csr")]
    # ten steps carry rounding errors on without growing them much at condition 1e3
    np.testing.assert_allclose(found[0].history, found[1].history, rtol=1e-10)
    result = cgopt.CGSolver(A, format="half_csr").solve(b, rtol=1e-11)
    assert result.converged
    assert np.linalg.norm(b - A @ result.x) <= 1.01e-11 * np.linalg.norm(b)


def not_symmetric(A):
    operator = MatrixOperator(A)
    return operator.half is None and not operator.symmetric


def test_half_the_rows_are_taken_only_of_an_exactly_symmetric_matrix():
    A = elasticity().tocsr()
    A.sort_indices()
    assert MatrixOperator(A).half is not None
    row = A.shape[0] // 2
    for entry in (A.indptr[row], A.indptr[row + 1] - 1):  # one below the diagonal, one above
        off = A.copy()
        off.data[entry] = np.nextafter(off.data[entry], np.inf)
        assert not_symmetric(off)
        gone = A.copy().tolil()
        gone[row, A.indices[entry]] = 0.0
        gone = gone.tocsr()
        gone.eliminate_zeros()
        assert not_symmetric(gone)
    with pytest.raises(ValueError, match="exactly symmetric"):
        cgopt.CGSolver(off, format="half_csr")
    assert cgopt.CGSolver(off).bytes_per_iteration == cgopt.CGSolver(off, format="csr").bytes_per_iteration
    assert not_symmetric(A * (1.0 + 0.0j))


def test_half_the_rows_is_for_matrices_whose_rows_reach_back_a_little():
    A = cgopt.gallery.elasticity((60, 60)).tocsr()
    order = np.random.default_rng(34).permutation(A.shape[0])
    shuffled = sp.csr_array(A[order][:, order])
    shuffled.sort_indices()
    half = [MatrixOperator(matrix, format="half_csr").half for matrix in (A, shuffled)]
    windows = [cpu.share_half(lower, np.float64, threads=2).spill.shape[1] for lower in half]
    assert (
        windows[0] <= 2 * 62 + 64
    )  # two unknowns of each of a grid line's nodes and one more, chunks in whole windows
    assert windows[1] > A.shape[0] // 4
    assert ("half of the rows" in repr(cgopt.CGSolver(shuffled))) == (cgopt.get_num_threads() == 1)


@given(
    sparse_spd(st.integers(1, 40)), st.integers(0, 2**32 - 1), st.sampled_from(["as it is", "value", "entry", "rows"])
)
def test_one_look_finds_symmetry_norm_and_diagonal(A, seed, change):
    A = sp.csr_array(A)
    rng = np.random.default_rng(seed)
    if change == "value":
        k = rng.integers(A.nnz)
        A.data[k] = np.nextafter(A.data[k], np.inf, dtype=A.dtype)
    elif change == "entry":
        A.data[rng.integers(A.nnz)] = 0.0
        A.eliminate_zeros()
    elif change == "rows":
        A = A[:, ::-1].tocsr()
    rows = formats.csr_arrays(A)
    found = formats.inspect(rows, "half_csr", formats.look_at_pattern(rows, "half_csr"))
    dense = A.toarray()
    assert (found is not None) == (np.array_equal(dense, dense.T) and bool(A.has_sorted_indices))
    if found is None:
        return
    np.testing.assert_array_equal(found.diagonal, dense.diagonal())
    np.testing.assert_allclose(found.norm, np.abs(dense.astype(float)).sum(axis=1).max(), rtol=1e-13)
    assert found.bad_row == (-1 if (dense.diagonal() > 0).all() else np.argmax(~(dense.diagonal() > 0)))
    lower = sp.csr_array((found.half.data, found.half.indices, found.half.indptr), shape=A.shape).toarray()
    np.testing.assert_array_equal(lower, np.tril(dense, -1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(3, 3), (7, 2)])
def test_no_look_passes_over_what_is_not_finite(value, place):
    A = cgopt.gallery.poisson((40, 50)).tolil()
    A[place] = A[place[::-1]] = value
    with pytest.raises(ValueError, match=f"NaN or infinity, first in row {min(place)}"):
        MatrixOperator(A.tocsr())


def test_many_rows_of_uneven_length_are_sorted_and_few_are_not():
    rng = np.random.default_rng(35)
    for n, format in ((formats.WORTH_SORTING + 100, "sorted"), (formats.WORTH_SORTING - 100, "csr")):
        A = sp.random_array((n, n), density=3.0 / n, rng=rng)
        A = sp.csr_array(A + A.T + 10.0 * sp.eye_array(n))
        assert MatrixOperator(A).format == format


def test_a_diagonal_matrix_is_solved_at_once():
    A = sp.diags_array(np.linspace(1e-3, 1e6, 5000)).tocsr()
    solver = cgopt.CGSolver(A, M="auto")
    result = solver.solve(np.ones(5000), rtol=1e-12)
    assert result.converged
    assert result.iterations == 1
    assert type(solver.preconditioner).__name__ == "Jacobi"
    np.testing.assert_allclose(result.x, 1.0 / A.diagonal(), rtol=1e-12)


def test_as_many_entries_as_rows_need_not_be_a_diagonal():
    n = 2000
    A = sp.csr_array(np.fliplr(np.eye(n)))
    x = np.random.default_rng(36).standard_normal(n)
    np.testing.assert_array_equal(MatrixOperator(A) @ x, x[::-1])
    assert MatrixOperator(A).bad_row == 0
