"""A matrix that is its diagonal: solved by a division, with all that a result tells; as ever where that will not do."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import cgopt

N = 2_000
U64 = np.finfo(float).eps / 2


def diagonal(decades=3.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (10.0 ** rng.uniform(-decades, decades, N)).astype(dtype), rng.standard_normal(N).astype(dtype)


def whole(d):
    return sp.csr_array(sp.diags_array(d))


@pytest.mark.parametrize("M", ["auto", "jacobi"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_a_diagonal_is_divided_by(M, dtype, rtol):
    d, b = diagonal(dtype=dtype)
    solver = cgopt.CGSolver(whole(d), M=M)
    result = solver.solve(b, rtol=rtol)
    assert (result.status.name, result.info, result.iterations) == ("CONVERGED", 0, 1)
    assert result.x.dtype == dtype
    roundoff = np.finfo(dtype).eps / 2
    np.testing.assert_allclose(result.x, b.astype(np.longdouble) / d, rtol=3 * float(roundoff))
    residual = b - d.astype(np.longdouble) * result.x
    assert result.residual_norm <= rtol * np.linalg.norm(b)
    assert result.residual_norm == pytest.approx(float(np.sqrt(residual @ residual)), rel=1e-3)
    # what one iteration of conjugate gradients preconditioned with the inverse would tell
    np.testing.assert_allclose(result.history, [np.linalg.norm(b.astype(float)), result.residual_norm])
    np.testing.assert_allclose(result.ritz_values, [1.0, 1.0])
    np.testing.assert_allclose(result.step_lengths, [1.0])
    assert result.condition_estimate == pytest.approx(1.0)
    assert not solver._spaces  # no workspace was made
    column = solver.solve(b[:, None], rtol=rtol)
    np.testing.assert_array_equal(column.x.ravel(), result.x)


def test_the_loop_has_the_same_solution():
    d, b = diagonal()
    seen = []
    loop = cgopt.cg(whole(d), b, M="jacobi", rtol=1e-12, callback=lambda x: seen.append(x.copy()))
    division = cgopt.cg(whole(d), b, M="jacobi", rtol=1e-12)
    assert len(seen) == loop.iterations == division.iterations == 1
    np.testing.assert_allclose(division.x, loop.x, rtol=4 * U64)


@given(st.integers(-300, 300), st.integers(-100, 100))
def test_units_do_not_matter(of_b, of_A):
    d, b = diagonal(decades=1.0)
    expected = cgopt.cg(whole(d), b, M="jacobi", rtol=1e-12)
    scaled = cgopt.cg(whole(d * 2.0**of_A), b * 2.0**of_b, M="jacobi", rtol=1e-12)
    assert scaled.converged
    np.testing.assert_allclose(scaled.x, expected.x * 2.0 ** (of_b - of_A), rtol=8 * U64)


def test_what_a_division_cannot_do_is_done_as_ever():
    d, b = diagonal()
    A = whole(d)
    assert cgopt.cg(A, b, M="jacobi", rtol=0.0).status.name in ("STAGNATED", "CONVERGED")
    assert cgopt.cg(A, b, M="jacobi", maxiter=0).status.name == "MAXITER"
    assert cgopt.cg(A, 0 * b, M="jacobi").iterations == 0
    start = cgopt.cg(A, b, b / d, M="jacobi", rtol=1e-12)
    assert (start.iterations, start.converged) == (0, True)
    assert cgopt.cg(A, b + 1j * b[::-1], M="jacobi", rtol=1e-12).converged
    assert cgopt.cg(A, np.stack([b, 2 * b], 1), M="jacobi", rtol=1e-12).converged
    assert cgopt.cg(A, b, M="jacobi", rtol=1e-8, criterion="error").status.name == "ACCURATE"
    with pytest.raises(ValueError, match=r"b holds NaN or infinity at index \(7,\)"):
        cgopt.cg(A, np.where(np.arange(N) == 7, np.nan, b), M="jacobi")
    bad = d.copy()
    bad[5] = -bad[5]
    indefinite = cgopt.cg(whole(bad), b, M="auto")
    assert indefinite.status.name == "INDEFINITE"
    assert np.flatnonzero(indefinite.negative_curvature).tolist() == [5]


def test_another_inverse_than_its_own_takes_the_steps_of_conjugate_gradients():
    d, b = diagonal(decades=0.5)
    double = cgopt.preconditioners.Jacobi(2.0 * d)
    result = cgopt.cg(whole(d), b, M=double, rtol=0.6)  # which half of the solution meets, too
    assert result.iterations == 1
    np.testing.assert_allclose(result.step_lengths, [2.0])
    np.testing.assert_allclose(result.ritz_values, [0.5, 0.5])


@pytest.mark.parametrize("places", [[(3, 4)], [(0, 1), (1, 0)]])
def test_n_entries_need_not_be_a_diagonal(places):
    """As many entries as rows, but not one on the diagonal of each."""
    A = sp.lil_array((N, N))
    A.setdiag(1.0)
    for i, j in places:
        A[i, j], A[i, i] = 2.0, 0.0
    A = A.tocsr()
    A.eliminate_zeros()
    assert A.nnz == N
    if len(places) == 1:
        with pytest.raises(ValueError, match="A is not"):
            cgopt.CGSolver(A)
    else:
        assert cgopt.cg(A, np.ones(N), M="auto").status.name == "INDEFINITE"
