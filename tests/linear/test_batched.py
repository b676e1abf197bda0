"""Batches of small systems: each is solved as by itself, ends when it should, and costs nothing afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt import Status, batched_cg, gallery
from cgopt.kernels import batch, cpu, loops, reference
from cgopt.kernels.cpu import batched
from cgopt.kernels.layouts import CSR, Dense
from cgopt.testing import spd_matrices, vectors

norm = np.linalg.norm


def systems(m=40, n=12, condition=100.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    conditions = condition ** rng.random(m)
    A = np.stack([gallery.prescribed_spectrum(np.geomspace(1, c, n), rng=rng) for c in conditions])
    return A.astype(dtype), rng.standard_normal((m, n)).astype(dtype)


def pattern_systems(m=30, seed=0):
    """One stencil with coefficients that differ from system to system."""
    pattern = gallery.poisson((5, 6))
    rng = np.random.default_rng(seed)
    values = np.empty((m, pattern.nnz))
    for k in range(m):
        D = sp.diags_array(rng.uniform(0.5, 2.0, 30))
        values[k] = sp.csr_array(D @ pattern @ D).sorted_indices().data
    return pattern, values, rng.standard_normal((m, 30))


@pytest.mark.parametrize("M", [None, "jacobi"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_is_what_a_solve_of_its_own_gives(dtype, M):
    A, b = systems(dtype=dtype)
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    result = batched_cg(A, b, rtol=rtol, M=M)
    assert result.x.dtype == dtype
    assert result.converged.all()
    for k in range(b.shape[0]):
        single = cgopt.cg(A[k], b[k], rtol=rtol, M=M)
        assert abs(int(result.iterations[k]) - single.iterations) <= 1
        true = norm(b[k].astype(float) - A[k].astype(float) @ result.x[k].astype(float))
        assert true <= rtol * norm(b[k]) * (1 + 1e-3)
        assert result.residual_norm[k] == pytest.approx(true, rel=1e-2 if dtype == np.float32 else 1e-5)


def test_a_pattern_with_values():
    pattern, values, b = pattern_systems()
    for M in (None, "jacobi"):
        result = batched_cg((pattern, values), b, rtol=1e-10, M=M)
        for k in range(b.shape[0]):
            A = sp.csr_array((values[k], pattern.indices, pattern.indptr), shape=pattern.shape)
            assert norm(b[k] - A @ result.x[k]) <= 1.0001e-10 * norm(b[k])
            assert abs(int(result.iterations[k]) - cgopt.cg(A, b[k], rtol=1e-10, M=M).iterations) <= 1


@given(st.lists(spd_matrices(n=4, condition=100.0), min_size=1, max_size=5), st.data())
def test_agrees_with_a_direct_solve(matrices, data):
    A = np.stack(matrices)
    b = np.stack([data.draw(vectors(4, nonzero=False)) for _ in matrices])
    result = batched_cg(A, b, rtol=1e-11)
    assert (result.info == 0).all()
    for k in range(len(matrices)):
        assert norm(result.x[k] - np.linalg.solve(A[k], b[k])) <= 1e-8 * (1 + norm(b[k]))


def test_every_system_has_its_own_end():
    A, b = systems(m=6, n=8)
    A[1] = np.diag([1.0, 2, 3, 4, 5, 6, 7, -8])  # a diagonal entry that is not positive
    A[2] = np.eye(8)
    A[2, 0, 1] = A[2, 1, 0] = 3.0  # indefinite, with a positive diagonal
    b[2] = np.array([1.0, -1.0, 0, 0, 0, 0, 0, 0])
    b[3] = 0.0
    A[4] = gallery.prescribed_spectrum(np.geomspace(1, 1e6, 8), rng=1)
    result = batched_cg(A, b, rtol=1e-10, maxiter=7)
    names = [s.name for s in result.statuses]
    assert names[1:5] == ["INDEFINITE", "INDEFINITE", "CONVERGED", "MAXITER"]
    assert (result.info[[1, 2]] == -1).all()
    assert result.info[3] == 0
    assert not result.x[3].any()
    assert result.info[4] == 7
    assert np.isfinite(result.x).all()
    assert "converged" in repr(result)


def test_the_ended_cost_nothing():
    # one hard system among many of the identity: iterations are counted system by system
    A = np.broadcast_to(np.eye(20), (50, 20, 20)).copy()
    A[17] = gallery.prescribed_spectrum(np.geomspace(1, 1e4, 20), rng=0)
    result = batched_cg(A, np.random.default_rng(0).standard_normal((50, 20)), rtol=1e-10)
    assert result.iterations[17] > 15
    assert (np.delete(result.iterations, 17) == 1).all()


def test_true_residual_decides():
    # where the recursive residual lies, a system is solved or reported
    A = np.stack([gallery.prescribed_spectrum(np.geomspace(1, 1e12, 24), rng=s) for s in range(20)])
    b = np.random.default_rng(0).standard_normal((20, 24))
    result = batched_cg(A, b, rtol=1e-7, maxiter=2000)
    for k, status in enumerate(result.statuses):
        true = norm(b[k] - A[k] @ result.x[k])
        if status is Status.CONVERGED:
            assert true <= 1.01e-7 * norm(b[k])
        else:
            assert status in (Status.STAGNATED, Status.MAXITER, Status.SINGULAR)
            assert true > 0.99e-7 * norm(b[k])


@pytest.mark.parametrize(("a", "e"), [(-400, 300), (300, -500), (-900, -900), (0, 600)])
def test_scales(a, e):
    A, b = systems(m=8)
    one = batched_cg(A, b, rtol=1e-9)
    other = batched_cg(np.ldexp(A, a), np.ldexp(b, e), rtol=1e-9)
    assert (other.info == 0).all()
    assert (np.abs(other.iterations - one.iterations) <= 1).all()
    np.testing.assert_allclose(np.ldexp(other.x, a - e), one.x, rtol=1e-6, atol=1e-9 * np.abs(one.x).max())


def test_a_guess_and_one_right_hand_side_for_all():
    A, _ = systems(m=5)
    b = np.arange(1.0, 13.0)
    cold = batched_cg(A, b, rtol=1e-10)
    warm = batched_cg(A, b, cold.x, rtol=1e-9)
    assert (warm.iterations == 0).all()
    near = batched_cg(A, b, cold.x * (1 + 1e-7), rtol=1e-9)
    assert (near.iterations <= cold.iterations).all()
    assert near.iterations.sum() < cold.iterations.sum()


def test_same_bits_and_nothing_changed():
    A, b = systems(m=200, n=20)
    before = A.copy(), b.copy()
    one = batched_cg(A, b, rtol=1e-8)
    threads = cgopt.get_num_threads()
    cgopt.set_num_threads(1)
    try:
        alone = batched_cg(A, b, rtol=1e-8)
    finally:
        cgopt.set_num_threads(threads)
    assert (np.abs(one.iterations - alone.iterations) <= 1).all()
    np.testing.assert_allclose(one.x, alone.x, rtol=1e-6, atol=1e-8)
    again = batched_cg(A, b, rtol=1e-8)
    assert (again.x == one.x).all()
    assert (A == before[0]).all()
    assert (b == before[1]).all()


def test_no_systems_and_no_unknowns():
    assert batched_cg(np.zeros((0, 3, 3)), np.zeros((0, 3))).x.shape == (0, 3)
    assert batched_cg(np.zeros((2, 0, 0)), np.zeros((2, 0))).converged.all()


# --- the kernels against their specification ------------------------------------------------------------------


@pytest.mark.parametrize("jacobi", [False, True])
def test_the_text_on_numpy_gives_the_same(jacobi):
    A, b = systems(m=5, n=6)
    pattern, values, load = pattern_systems(m=4)
    cases = {
        "dense": (Dense(A), b, np.empty(0, np.int64)),
        "csr": (
            CSR(pattern.indptr.astype(np.uint32), pattern.indices.astype(np.uint32), values),
            load,
            mirror_of(pattern),
        ),
    }
    for name, (layout, rhs, mirror) in cases.items():
        m, n = rhs.shape
        answers = []
        for run in (batch.solve_batch, cpu.solve_batch(name)[0]):
            x, codes, iterations, rr = np.zeros((m, n)), np.zeros(m, np.int64), np.zeros(m, np.int64), np.zeros(m)
            run(
                layout, mirror, jacobi, True, rhs, x, 1e-9, 0.0, 200, 2.0**-53, 64.0, np.array([0, 2, m]),
                np.zeros((2, 4, n)), np.zeros((2, loops.SCALARS)), codes, iterations, rr,
            )  # fmt: skip
            answers.append((x, codes, iterations))
        assert (answers[0][1] == answers[1][1]).all()
        assert (np.abs(answers[0][2] - answers[1][2]) <= 1).all()
        np.testing.assert_allclose(answers[1][0], answers[0][0], rtol=1e-6, atol=1e-9)


def mirror_of(pattern):
    places = {
        (i, int(j)): e
        for i in range(pattern.shape[0])
        for e, j in zip(
            range(pattern.indptr[i], pattern.indptr[i + 1]),
            pattern.indices[pattern.indptr[i] : pattern.indptr[i + 1]],
            strict=True,
        )
    }
    return np.array([places.get((j, i), -1) for (i, j) in places])


@pytest.mark.parametrize("name", ["dense", "csr"])
def test_primitives_against_their_twins(name):
    n, rng = 9, np.random.default_rng(0)
    pattern = gallery.poisson((3, 3))
    values = rng.standard_normal((2, pattern.nnz))
    values[:, pattern.indices == np.repeat(np.arange(9), np.diff(pattern.indptr))] = 4.0
    A = CSR(pattern.indptr.astype(np.uint32), pattern.indices.astype(np.uint32), values)
    mirror = mirror_of(pattern)
    if name == "dense":
        A, mirror = Dense(rng.standard_normal((2, n, n)) + 5 * np.eye(n)), np.empty(0, np.int64)
    kernels = {stem: kernel.py_func for stem, kernel in (batched.SHARED | batched.OF_LAYOUT[name]).items()}
    ours, theirs = kernels["take"](A, 1), reference.take(A, 1)
    for one, two in zip(ours, theirs, strict=True):
        assert (one == two).all()
    v = {key: rng.standard_normal(n) for key in "bxrpq"}
    w = {key: array.copy() for key, array in v.items()}
    inverse, twin = np.empty(n), np.empty(n)
    for jacobi in (True, False):
        assert kernels["look"](ours, inverse, jacobi) == pytest.approx(reference.look(theirs, twin, jacobi))
        np.testing.assert_allclose(inverse, twin)
    inverse = twin = rng.uniform(1.0, 2.0, n)
    assert kernels["asymmetry"](ours, mirror) == pytest.approx(reference.asymmetry(theirs, mirror))
    assert kernels["square"](v["b"]) == pytest.approx(reference.square(w["b"]))
    for call in (
        lambda k, a, u: k("multiply")(a, u["p"], u["q"]),
        lambda k, a, u: k("true_residual")(a, u["b"], u["x"], u["r"]),
        lambda k, a, u: k("step")(inverse, 0.3, u["p"], u["q"], u["r"], u["x"]),
        lambda k, a, u: k("turn")(inverse, 0.7, u["r"], u["p"]),
        lambda k, a, u: k("weigh")(inverse, u["r"]),
        lambda k, a, u: k("start")(inverse, u["r"], u["p"]),
    ):
        assert call(kernels.__getitem__, ours, v) == pytest.approx(call(lambda s: getattr(reference, s), theirs, w))
        for key in v:
            np.testing.assert_allclose(v[key], w[key], rtol=1e-12)


# --- what is no batch -----------------------------------------------------------------------------------------


def test_bad_input():
    A, b = systems(m=3, n=4)
    pattern, values, load = pattern_systems(m=2)
    for arguments, error, message in [
        ((A[0], b[0]), ValueError, r"A must have shape \(m, n, n\)"),
        ((A, b[:, :3]), ValueError, r"b must have shape \(3, 4\)"),
        ((A * 1j, b), TypeError, "must be real"),
        ((A.astype(object), b), TypeError, "object"),
        ((pattern, values), TypeError, "."),
        (((values, pattern), load), TypeError, r"\(pattern, values\)"),
        (((pattern, values[:, 1:]), load), ValueError, "the values of A must have shape"),
        (((pattern[:, :5], values), load), ValueError, "must be square"),
    ]:
        with pytest.raises(error, match=message):
            batched_cg(*arguments)
    for change, message in [(np.nan, r"A\[1\] holds NaN"), (7.0, r"A\[1\] is not symmetric")]:
        broken = A.copy()
        broken[1, 0, 2] = change
        with pytest.raises(ValueError, match=message):
            batched_cg(broken, b)
    loose = values.copy()
    loose[1, 1] += 0.5
    with pytest.raises(ValueError, match=r"A\[1\] is not symmetric"):
        batched_cg((pattern, loose), load)
    b[2, 1] = np.inf
    with pytest.raises(ValueError, match="b holds NaN or infinity"):
        batched_cg(A, b)
    for options, error, message in [
        ({"M": "ssor"}, ValueError, "M must be None or 'jacobi'"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"maxiter": 1.5}, TypeError, "maxiter"),
        ({"x0": np.zeros(4)}, ValueError, "x0 must have shape"),
    ]:
        with pytest.raises(error, match=message):
            batched_cg(A, np.ones((3, 4)), **options)


def test_entries_near_the_end_of_the_range():
    A = np.full((2, 3, 3), 0.0)
    A[:, [0, 1, 2], [0, 1, 2]] = 1e308
    A[1, 0, 1] = A[1, 1, 0] = A[1, 0, 2] = A[1, 2, 0] = A[1, 1, 2] = A[1, 2, 1] = 6e307  # row sums overflow
    result = batched_cg(A, np.full((2, 3), 1e308), rtol=1e-10)
    assert (result.info == 0).all()
    np.testing.assert_allclose(result.x[0], 1.0)
    np.testing.assert_allclose(result.x[1], 1.0 / 2.2)
