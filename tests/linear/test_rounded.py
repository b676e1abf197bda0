"""``format="float32"``: a rounded matrix in the loop, the tolerance met for the exact one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt import Status
from cgopt.kernels import cpu, loops, reference
from cgopt.kernels.layouts import HalfCSR, HalfDIA, RoundedCSR
from cgopt.operators import MatrixOperator, formats
from cgopt.testing import sparse_spd, vectors

norm = np.linalg.norm
U32, U64 = 2.0**-24, 2.0**-53


def dense_of(layout, n, dtype=np.float64):
    return reference.product(layout, np.eye(n, dtype=dtype))


def graph(n, seed, least=1e-2):
    """A connected graph's Laplacian plus a little, weights over six orders of magnitude: rows are dominant."""
    rng = np.random.default_rng(seed)
    i, j = np.r_[np.arange(n - 1), rng.integers(0, n, 2 * n)], np.r_[np.arange(1, n), rng.integers(0, n, 2 * n)]
    weight = 10.0 ** rng.uniform(-3, 3, i.size)
    lower = sp.csr_array((-weight[i != j], (np.maximum(i, j)[i != j], np.minimum(i, j)[i != j])), shape=(n, n))
    A = lower + lower.T
    return sp.csr_array(A + sp.diags_array(-A.sum(axis=1) + least * (1.0 + rng.random(n))))


def in_layout(name):
    """A matrix whose values no single precision holds, and the type of its rounded layout."""
    if name == "rows":
        return graph(700, 1), RoundedCSR
    if name == "half of the rows":
        return cgopt.gallery.elasticity((40, 40)), HalfCSR
    A = cgopt.gallery.poisson((40, 50))
    d = sp.diags_array(np.random.default_rng(2).uniform(1.0, 2.0, A.shape[0]))
    lower = sp.tril(d @ A @ d, -1)
    return sp.csr_array(lower + lower.T + sp.diags_array((d @ A @ d).diagonal())), HalfDIA


# ---- the rounded matrix ----


@pytest.mark.parametrize("name", ["rows", "half of the rows", "diagonals"])
def test_entries_are_rounded_and_the_sums_of_rows_kept(name):
    A, kind = in_layout(name)
    n = A.shape[0]
    operator = MatrixOperator(A, format="float32")
    layout = formats.rounded(operator.for_loop())
    assert isinstance(layout, kind)
    assert layout.data.dtype == np.float32
    assert layout.diagonal.dtype == np.float64
    found, given_ = dense_of(layout, n), A.toarray()
    np.testing.assert_array_equal(found, found.T)
    beside = ~np.eye(n, dtype=bool)
    np.testing.assert_array_equal(found[beside], given_.astype(np.float32)[beside])
    sizes = np.abs(given_).sum(axis=1)
    # at most 2 * 50 additions in double precision make up a row's sum here
    assert (np.abs((found - given_).sum(axis=1)) <= 100 * U64 * sizes).all()
    assert (np.abs(found - given_).sum(axis=1) <= 2 * U32 * sizes).all()
    # and the operator holds all digits
    np.testing.assert_array_equal(operator @ np.eye(n, 3), A @ np.eye(n, 3))


@given(st.integers(2, 60), st.integers(0, 1000))
def test_rounding_a_dominant_matrix_moves_no_eigenvalue_by_more_than_u_of_itself(n, seed):
    # |x'E x| <= u x'A x: the eigenvalues of L^-1 E L^-T, A = L L', whatever the condition of A
    A = graph(n, seed, least=1e-6)
    layout = formats.rounded(formats.csr_arrays(A))
    E = dense_of(layout, n) - A.toarray()
    values, vectors_ = np.linalg.eigh(A.toarray())
    x = vectors_  # eigenvectors, the smooth ones among them, and mixtures
    x = np.hstack([x, np.random.default_rng(seed).standard_normal((n, 10))])
    energy = np.einsum("ij,ij->j", x, A @ x)
    moved = np.abs(np.einsum("ij,ij->j", x, E @ x))
    slack = 4 * (n + 4) * U64 * A.diagonal().max() * (x * x).sum(axis=0)  # of E, of the energy, of A's own row sums
    assert (moved <= U32 * energy + slack).all()
    assert values[0] > -slack.max()


def test_what_single_precision_holds_is_not_rounded():
    assert formats.rounded(formats.csr_arrays(cgopt.gallery.poisson((9, 9)))) is None
    assert formats.rounded(formats.csr_arrays(graph(9, 1).astype(np.float32))) is None
    assert "rounded" not in repr(cgopt.CGSolver(cgopt.gallery.poisson((9, 9)), format="float32"))


def test_a_hermitian_matrix_stays_one():
    rng = np.random.default_rng(3)
    B = sp.random_array((40, 40), density=0.1, rng=rng) + 1j * sp.random_array((40, 40), density=0.1, rng=rng)
    A = sp.csr_array(B @ B.conj().T + sp.eye_array(40))
    A = sp.csr_array((A + A.conj().T) / 2)
    found = dense_of(formats.rounded(formats.csr_arrays(A)), 40, np.complex128)
    np.testing.assert_array_equal(found, found.conj().T)
    assert (np.abs(found - A.toarray()).sum(axis=1) <= 3 * U32 * np.abs(A.toarray()).sum(axis=1)).all()


# ---- solves ----


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("rtol", [1e-10, 1e-12])
@given(A=sparse_spd(st.integers(2, 24)), data=st.data())
def test_the_true_residual_meets_the_tolerance(A, data, M, rtol):
    b = data.draw(vectors(A.shape[0]))
    A = A / 3.0
    result = cgopt.CGSolver(A, M=M, format="float32").solve(b, rtol=rtol)
    assert result.converged
    assert norm(b - A @ result.x) <= (1 + 1e-3) * rtol * norm(b)  # (the loop sums in another order)


@pytest.mark.parametrize("name", ["rows", "half of the rows", "diagonals"])
def test_each_layout_reaches_the_tolerance_reading_fewer_bytes(name):
    A, _ = in_layout(name)
    b = np.random.default_rng(4).standard_normal(A.shape[0])
    exact, rounded = (cgopt.CGSolver(A, M="jacobi", format=format) for format in (None, "float32"))
    assert "rounded to fp32" in repr(rounded)
    assert rounded.bytes_per_iteration < exact.bytes_per_iteration
    assert rounded.nbytes > exact.nbytes  # beside the rounded entries the exact ones are kept
    for rtol in (1e-8, 1e-12):
        results = [solver.solve(b, rtol=rtol) for solver in (exact, rounded)]
        for result in results:
            assert result.converged
            assert norm(b - A @ result.x) <= (1 + 1e-3) * rtol * norm(b)


def test_a_dense_matrix_is_rounded_too():
    A = cgopt.gallery.prescribed_spectrum(np.geomspace(1.0, 1e4, 80), rng=5)
    b = np.random.default_rng(6).standard_normal(80)
    solver = cgopt.CGSolver(A, format="float32")
    assert solver.bytes_per_iteration < cgopt.CGSolver(A).bytes_per_iteration
    result = solver.solve(b, rtol=1e-12)
    assert result.converged
    rounding = 4 * 2.0**-53 * norm(np.abs(A) @ np.abs(result.x))  # of the residual computed here
    assert norm(b - A @ result.x) <= 1e-12 * norm(b) + rounding


def test_a_dominant_matrix_takes_as_many_iterations_as_ever():
    # A' is A to within u in its own norm, so Chebyshev's bound on the error is the same; and so is, nearly, CG
    A, _ = in_layout("rows")
    b = np.random.default_rng(7).standard_normal(A.shape[0])
    exact, rounded = (cgopt.CGSolver(A, M="jacobi", format=format).solve(b, rtol=1e-8) for format in (None, "float32"))
    assert rounded.iterations <= 1.05 * exact.iterations


def test_the_history_ends_with_the_true_residual_and_the_first_one_is_kept():
    A, _ = in_layout("rows")
    b = np.random.default_rng(8).standard_normal(A.shape[0])
    result = cgopt.CGSolver(A, format="float32").solve(b, rtol=1e-9)
    assert result.history[0] == pytest.approx(norm(b), rel=1e-14)
    assert result.history[-1] == pytest.approx(norm(b - A @ result.x), rel=1e-4)
    assert result.history.size == result.iterations + 1


@pytest.mark.parametrize(("a", "c"), [(0, 40), (-60, 3), (60, -200), (-300, 0)])
def test_scales_change_nothing(a, c):
    A, _ = in_layout("rows")
    b = np.random.default_rng(9).standard_normal(A.shape[0])
    plain = cgopt.CGSolver(A, M="jacobi", format="float32").solve(b, rtol=1e-10)
    result = cgopt.CGSolver(A * 2.0**a, M="jacobi", format="float32").solve(np.ldexp(b, c), rtol=1e-10)
    assert (result.status, result.iterations) == (plain.status, plain.iterations)
    np.testing.assert_array_equal(result.x, np.ldexp(plain.x, c - a))


def test_the_same_bits_again():
    A, _ = in_layout("half of the rows")
    b = np.random.default_rng(10).standard_normal(A.shape[0])
    solver = cgopt.CGSolver(A, format="float32")
    first, second = solver.solve(b, rtol=1e-10), solver.solve(b, rtol=1e-10)
    np.testing.assert_array_equal(first.x, second.x)


# ---- honesty ----


def coupled(c, n=2):
    return sp.csr_array(np.array([[1.0, c], [c, 1.0]]))


def test_where_rounding_makes_the_matrix_indefinite_the_exact_one_is_solved_with():
    A = coupled(1.0 - 2.0**-26)  # rounded to one; eigenvalues 2^-26 and 2 - 2^-26
    b = np.array([1.0, -1.0])
    layout = formats.rounded(formats.csr_arrays(A))
    assert b @ reference.product(layout, b) < 0.0
    result = cgopt.CGSolver(A, format="float32").solve(b, rtol=1e-12)
    assert result.converged
    np.testing.assert_array_equal(result.x, 2.0**26 * b)


def test_an_indefinite_matrix_is_found_out_and_its_direction_shown():
    A = coupled(1.0 + 2.0**-26)
    b = np.array([1.0, -1.0])
    result = cgopt.CGSolver(A, format="float32").solve(b, rtol=1e-12)
    assert result.status is cgopt.cg(A, b, rtol=1e-12).status
    assert result.status in (Status.INDEFINITE, Status.SINGULAR)
    assert result.negative_curvature @ (A @ result.negative_curvature) < 0.0


def test_too_ill_conditioned_for_single_precision_is_solved_all_the_same():
    # condition 3e8, where rounding changes the small eigenvalues by more than they are
    n = 200
    T = sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    d = sp.diags_array(np.random.default_rng(11).uniform(1.0, 2.0, n))
    A = d @ T @ T @ d
    A = sp.csr_array((A + A.T) / 2)
    b = np.random.default_rng(12).standard_normal(n)
    exact, rounded = (
        cgopt.CGSolver(A, format=format).solve(b, rtol=1e-7, maxiter=4000) for format in (None, "float32")
    )
    assert exact.converged
    assert rounded.converged
    assert norm(b - A @ rounded.x) <= (1 + 1e-3) * 1e-7 * norm(b)
    # and what was not enough is said not to have been
    few = cgopt.CGSolver(A, format="float32").solve(b, rtol=1e-7, maxiter=50)
    assert few.status is Status.MAXITER
    assert few.residual_norm == pytest.approx(norm(b - A @ few.x), rel=1e-6)


def test_estimates_of_the_error_and_blocks_use_the_exact_matrix():
    A, _ = in_layout("rows")
    b = np.random.default_rng(13).standard_normal((A.shape[0], 2))
    exact, rounded = (cgopt.CGSolver(A, format=format) for format in (None, "float32"))
    for solve in (
        lambda solver: solver.solve(b[:, 0], rtol=1e-4, criterion="error"),
        lambda solver: solver.solve(b, rtol=1e-6),
    ):
        found = [solve(solver).x for solver in (exact, rounded)]
        np.testing.assert_array_equal(*found)


# ---- reliable updates ----


def scalars(rr, peak, drop=0.01):
    s = np.zeros(loops.SCALARS)
    s[loops.RR], s[loops.PEAK], s[loops.DROP], s[loops.UNIT], s[loops.PATIENCE] = rr, peak, drop, U64, 64.0
    s[loops.PP], s[loops.BEST] = 1.0, peak
    return s


def test_the_true_residual_is_asked_for_when_the_norm_has_fallen_tenfold_from_its_peak():
    s = scalars(1.0, 1.0)
    for rr, event in ((4.0, loops.NOTHING), (0.0401, loops.NOTHING), (0.0399, loops.DROPPED)):
        assert loops.note_step(1.0, rr, rr, 1.0, 1.0, s) == event
        assert s[loops.PEAK] == 4.0
    assert loops.judge(0.04, loops.DROPPED, s) == (loops.RUNNING, True)  # differs by 0.25 %: a new direction
    assert s[loops.PEAK] == 0.04
    assert loops.note_step(1.0, 0.001, 0.001, 1.0, 1.0, s) == loops.NOTHING
    assert loops.note_step(1.0, 0.0004, 0.0004, 1.0, 1.0, s) == loops.DROPPED
    assert loops.judge(0.0004 * (1 + 1e-4), loops.DROPPED, s) == (loops.RUNNING, False)  # the direction is kept
    # fallen tenfold from a peak, but not below half of what it had been: twice in a row is once too often
    for code in (loops.RUNNING, loops.STAGNATED):
        s[loops.RR] = 2e-4
        assert loops.judge(2e-4, loops.DROPPED, s)[0] == code
    # with the exact matrix nothing is asked
    assert loops.note_step(1.0, 1e-9, 1e-9, 1.0, 1.0, scalars(1.0, 1.0, drop=0.0)) != loops.DROPPED


def test_names_of_formats_are_told():
    with pytest.raises(ValueError, match="float32"):
        cgopt.CGSolver(coupled(0.5), format="float23")
    assert cpu.layout_name(formats.rounded(formats.csr_arrays(graph(9, 1)))) == "rounded"
