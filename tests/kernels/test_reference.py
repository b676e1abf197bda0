"""Every compiled primitive against its twin in plain NumPy, `cgopt.kernels.reference`.

Compiling is what these tests spend their time on (half a second and more for each primitive, type and form),
so they cover: in double precision every primitive in every layout, serial and threaded; of the other types
each in several layouts, in one of the forms. Chunks of rows are as in a solve with three threads.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import cgopt
from cgopt.kernels import cpu, loops, reference
from cgopt.kernels.cpu import interpreted, many, products, updates
from cgopt.kernels.layouts import CSR, DIA, WINDOW, Dense, DenseLower, HalfDIA, RoundedCSR, SortedCSR, Work
from cgopt.operators import MatrixOperator, formats
from cgopt.testing import sparse_spd

N, K = 200, 3
SERIAL, THREADED = 0, 1
F32, F64, C64, C128 = (np.dtype(c) for c in "fdFD")
U64 = 2.0**-53

# layout, type of the matrix, type of the vectors, form
LAYOUTS = ("dense", "lower", "csr", "sorted", "half_csr", "dia", "half_dia", "rounded")
LOOP_ONLY = ("half_csr", "rounded")  # true residuals are made with all of the rows, as they are
COVER = [(layout, F64, F64, form) for layout in LAYOUTS for form in (SERIAL, THREADED)]
COVER += [
    ("dense", F32, F32, THREADED),
    ("lower", F32, F32, THREADED),
    ("lower", F64, C128, SERIAL),  # a real matrix, a complex right-hand side
    ("csr", F32, F32, SERIAL),
    ("dia", F32, F32, SERIAL),
    ("dense", C128, C128, SERIAL),
    ("csr", C128, C128, THREADED),
    ("sorted", C64, C64, SERIAL),
    ("csr", F32, F64, SERIAL),  # a matrix in single precision, a right-hand side in double
    ("half_dia", F32, F64, THREADED),
    ("half_csr", F32, F32, THREADED),
    ("half_csr", F32, F64, SERIAL),
    ("half_csr", F64, C128, SERIAL),
    ("rounded", F32, F64, THREADED),
    ("rounded", F32, C128, SERIAL),
]
COVER_RESIDUAL = [case for case in COVER if case[0] not in LOOP_ONLY]
ACT = np.array([2, 0])  # the systems that go on: the second has ended

COVER_MANY = [
    ("dense", F64, F64, SERIAL),
    ("dense", F32, F32, THREADED),
    ("csr", F64, F64, SERIAL),
    ("csr", C128, C128, THREADED),
    ("sorted", F64, F64, SERIAL),
    ("sorted", F64, F64, THREADED),
    ("dia", F64, F64, SERIAL),
    ("half_dia", F64, F64, SERIAL),
    pytest.param(("dia", F64, F64, THREADED), marks=pytest.mark.long),  # ten seconds of compilation
]


def name_of(case):
    layout, matrix, vector, form = case
    return f"{layout}-{matrix.char}{vector.char}-{'threaded' if form else 'serial'}"


def roundoff(dtype):
    """Unit roundoff; a complex operation has up to sqrt(8) of the error of a real one (Higham 2002, 3.6)."""
    return float(np.finfo(dtype).eps) / 2.0 * (3.0 if np.dtype(dtype).kind == "c" else 1.0)


def random(rng, shape, dtype):
    v = rng.standard_normal(shape)
    if dtype.kind == "c":
        v = v + 1j * rng.standard_normal(shape)
    return v.astype(dtype)


def matrix(layout, dtype, n=N):
    """A matrix in a layout, and the same dense. Rows of lengths 0 to 9 and a full one; or diagonals."""
    rng = np.random.default_rng(7)
    if layout == "dia":
        offsets = np.array([-70, -64, -1, 0, 2, 65, 199], dtype=np.int64)
        data = np.zeros((offsets.size, n), dtype)
        dense = np.zeros((n, n), dtype)
        for row, offset in zip(data, offsets, strict=True):
            rows = np.arange(max(0, -offset), min(n, n - offset))
            row[rows] = random(rng, rows.size, dtype)
            dense[rows, rows + offset] = row[rows]
        return DIA(offsets, data), dense
    if layout == "half_dia":
        offsets = np.array([1, 65, 70, 199], dtype=np.int64)
        data = np.zeros((offsets.size, n), dtype)
        for row, offset in zip(data, offsets, strict=True):
            row[: n - offset] = random(rng, n - offset, dtype)
        upper = sum(np.diag(row[: n - offset], offset) for row, offset in zip(data, offsets, strict=True))
        diagonal = random(rng, n, dtype)
        return HalfDIA(offsets, data, diagonal), upper + upper.T + np.diag(diagonal)
    dense = np.zeros((n, n), dtype)
    for i in range(n):
        columns = rng.choice(n, size=n if i == 17 else rng.integers(0, 10), replace=False)
        dense[i, columns] = random(rng, columns.size, dtype)
    if layout == "dense":
        return Dense(np.pad(dense, ((0, 0), (0, 3)))), dense
    if layout == "lower":
        dense = np.tril(dense) + np.tril(dense, -1).T
        return DenseLower(np.pad(dense, ((0, 0), (0, 7)))), dense
    if layout == "half_csr":
        dense = np.tril(dense) + np.tril(dense, -1).T
        return MatrixOperator(sp.csr_array(dense), format="half_csr").half, dense
    if layout == "rounded":  # the diagonal in double precision, whatever the rest is in
        diagonal = random(rng, n, F64)
        rows = formats.to_sorted(formats.csr_arrays(sp.csr_array(dense - np.diag(dense.diagonal()))))
        return RoundedCSR(*rows, diagonal), dense - np.diag(dense.diagonal()) + np.diag(diagonal)
    rows = formats.csr_arrays(sp.csr_array(dense))
    return (rows if layout == "csr" else formats.to_sorted(rows)), dense


def chunks(n=N, columns=1, dtype=F64):
    bounds = np.array([0, 64, 192, n], dtype=np.int64)
    return Work(bounds, np.zeros((3, max(8, 2 * columns))), np.full((3, n), np.nan, dtype))


def kernel(module, stem, layout, form):
    return getattr(module, f"{stem}_{layout}")[form]


def term_sizes(dense, p):
    """Sums of the absolute values of a product's terms: what its rounding errors are relative to."""
    return np.abs(dense).astype(float) @ np.abs(p).astype(float)


def assert_sums(found, a, b):
    """A dot product in double precision: n products, n sums, on either side."""
    a, b = np.abs(a).astype(float), np.abs(b).astype(float)
    exact = found[1]
    assert abs(found[0] - exact) <= 3 * (a.size + 2) * U64 * (a.ravel() @ b.ravel())


# ---- products ----


@pytest.mark.parametrize("case", COVER, ids=name_of)
def test_product_and_its_dot_product(case):
    layout, matrix_type, vector_type, form = case
    A, dense = matrix(layout, matrix_type)
    rng = np.random.default_rng(0)
    p = random(rng, N, vector_type)
    q, twin = np.full(N, np.nan, vector_type), np.empty(N, vector_type)
    pq = kernel(products, "apply_dot", layout, form)(A, p, q, chunks(dtype=vector_type))
    reference.apply_dot(A, p, twin, None)
    # two sums of the same terms in different orders, each row with at most n of them
    bound = 2 * (N + 2) * roundoff(vector_type) * term_sizes(dense, p)
    assert (np.abs(q - twin) <= bound).all()
    assert (np.abs(twin - dense @ p) <= bound).all()  # and the twin is the product
    assert isinstance(pq, float)
    # p'q is summed from the q that is written: up to its last rounding, where q is of single precision
    rounding = N * U64 + (roundoff(vector_type) if vector_type in (F32, C64) else 0.0)
    assert abs(pq - reference.dot(p, q)) <= 3 * rounding * (np.abs(p) @ np.abs(q)).astype(float)


@pytest.mark.parametrize("case", COVER_RESIDUAL, ids=name_of)
@pytest.mark.parametrize("scale", [1.0, 2.0**-40])
def test_residual(case, scale):
    layout, matrix_type, vector_type, form = case
    A, dense = matrix(layout, matrix_type)
    rng = np.random.default_rng(1)
    x, b = random(rng, N, vector_type), random(rng, N, vector_type)
    r, twin = np.full(N, np.nan, vector_type), np.empty(N, vector_type)
    rr = kernel(products, "residual", layout, form)(A, b, scale, x, r, chunks())
    reference.residual(A, b, scale, x, twin, None)
    terms = term_sizes(dense, x) + scale * np.abs(b)
    assert (np.abs(r - twin) <= 2 * (N + 3) * roundoff(vector_type) * terms).all()
    rounding = N * U64 + roundoff(vector_type)
    assert abs(rr - reference.dot(r, r)) <= 3 * rounding * float(np.linalg.norm(r)) ** 2


@pytest.mark.parametrize("case", [case for case in COVER_RESIDUAL if case[2] in (F32, C64)], ids=name_of)
def test_residual_of_single_precision_is_summed_in_double(case):
    # "True residuals: row sums in fp64 whatever the storage": with x next to the solution, b - A x is all
    # cancellation, and in single precision nothing of it would be right.
    layout, matrix_type, vector_type, form = case
    A, dense = matrix(layout, matrix_type)
    wide = np.complex128 if vector_type.kind == "c" else np.float64
    rng = np.random.default_rng(2)
    x = random(rng, N, vector_type)
    b = (dense.astype(wide) @ x.astype(wide)).astype(vector_type)
    exact = b.astype(wide) - dense.astype(wide) @ x.astype(wide)
    r = np.empty(N, vector_type)
    rr = kernel(products, "residual", layout, form)(A, b, 1.0, x, r, chunks())
    # sums in double precision, and one rounding of the result
    terms = term_sizes(dense, x) + np.abs(b)
    bound = 3 * (N + 3) * U64 * terms + roundoff(vector_type) * np.abs(exact)
    assert (np.abs(r - exact) <= bound).all()
    assert rr == pytest.approx(float(np.linalg.norm(exact)) ** 2, rel=1e-5)


@pytest.mark.parametrize("case", COVER_MANY, ids=name_of)
def test_products_with_many_vectors(case):
    layout, matrix_type, vector_type, form = case
    A, dense = matrix(layout, matrix_type)
    P = random(np.random.default_rng(3), (K, N), vector_type)
    Q, pq = np.full((K, N), np.nan, vector_type), np.full(K, np.nan)
    twin, twin_pq = Q.copy(), pq.copy()
    kernel(many, "apply_dot_many", layout, form)(A, P, Q, pq, ACT, chunks(columns=K))
    reference.apply_dot_many(A, P, twin, twin_pq, ACT, None)
    bound = 2 * (N + 2) * roundoff(vector_type) * term_sizes(dense, P.T).T
    assert (np.abs(Q - twin)[ACT] <= bound[ACT]).all()
    assert (np.abs(twin - (dense @ P.T).T)[ACT] <= bound[ACT]).all()
    assert_row_sums(pq[ACT], P[ACT], Q[ACT], vector_type)
    assert np.isnan(Q[1]).all()  # of a system that is not listed nothing is touched
    assert np.isnan(pq[1])


@pytest.mark.parametrize("case", COVER_MANY, ids=name_of)
def test_residuals_of_many_vectors(case):
    layout, matrix_type, vector_type, form = case
    A, dense = matrix(layout, matrix_type)
    rng = np.random.default_rng(4)
    b, x = random(rng, (K, N), vector_type), random(rng, (K, N), vector_type)
    r, rr = np.full((K, N), np.nan, vector_type), np.full(K, np.nan)
    kernel(many, "residual_many", layout, form)(A, b, x, r, rr, ACT, chunks(columns=K))
    wide = np.complex128 if vector_type.kind == "c" else np.float64
    exact = b.astype(wide) - (dense.astype(wide) @ x.T.astype(wide)).T
    bound = 3 * (N + 3) * U64 * (term_sizes(dense, x.T).T + np.abs(b)) + roundoff(vector_type) * np.abs(exact)
    assert (np.abs(r - exact)[ACT] <= bound[ACT]).all()
    assert rr[ACT] == pytest.approx(np.linalg.norm(exact, axis=1)[ACT] ** 2, rel=1e-5)
    assert np.isnan(r[1]).all()
    assert np.isnan(rr[1])


@given(
    st.sets(st.integers(-9, 9), min_size=1, max_size=9),
    st.integers(65, 150),
    st.sampled_from([SERIAL, THREADED]),
)
def test_product_with_any_set_of_diagonals(offsets, n, form):
    # (counts of three, five and seven have loops of their own, and the first and last rows theirs)
    offsets = np.array(sorted(offsets), dtype=np.int64)
    rng = np.random.default_rng(n)
    dense = sum(np.diag(rng.standard_normal(n - abs(o)), o) for o in offsets)
    A = formats.to_dia(formats.csr_arrays(sp.csr_array(dense)), offsets)
    np.testing.assert_array_equal(reference.product(A, np.eye(n)), dense)
    p, q = rng.standard_normal(n), np.full(n, np.nan)
    work = Work(np.array([0, 64, n]), np.zeros((2, 8)), np.zeros((2, 0)))
    pq = products.apply_dot_dia[form](A, p, q, work)
    assert (np.abs(q - dense @ p) <= 2 * (offsets.size + 2) * U64 * term_sizes(dense, p)).all()
    assert abs(pq - p @ q) <= 2 * n * U64 * (np.abs(p) @ np.abs(q))


@given(st.sets(st.integers(1, 80), max_size=5), st.integers(65, 200), st.sampled_from([SERIAL, THREADED]))
def test_product_with_any_set_of_symmetric_diagonals(offsets, n, form):
    # (two and three beside the main diagonal have loops of their own, and the first and last rows theirs)
    offsets = np.array(sorted(o for o in offsets if o < n), dtype=np.int64)
    rng = np.random.default_rng(n)
    upper = sum((np.diag(rng.standard_normal(n - o), o) for o in offsets), start=np.diag(rng.standard_normal(n)))
    dense = upper + upper.T
    both = np.concatenate((-offsets[::-1], [0], offsets))
    full = formats.to_dia(formats.csr_arrays(sp.csr_array(dense)), both)
    A = MatrixOperator(sp.csr_array(dense), format="half_dia").layout
    np.testing.assert_array_equal(A.offsets, offsets)
    np.testing.assert_array_equal(formats.all_diagonals(A).data, full.data)
    np.testing.assert_array_equal(reference.product(A, np.eye(n)), dense)
    p, q = rng.standard_normal(n), np.full(n, np.nan)
    work = Work(np.array([0, 64, n]), np.zeros((2, 8)), np.zeros((2, 0)))
    pq = products.apply_dot_half_dia[form](A, p, q, work)
    assert (np.abs(q - dense @ p) <= 2 * (both.size + 2) * U64 * term_sizes(dense, p)).all()
    assert abs(pq - p @ q) <= 2 * n * U64 * (np.abs(p) @ np.abs(q))


@pytest.mark.parametrize("chunks", [1, 2, 3, 5])
def test_half_the_rows_in_any_number_of_chunks(chunks):
    # The work as `share_half` cuts it: each chunk has room for just what it reaches back over.
    n = 64 * 12 + 5
    rng = np.random.default_rng(chunks)
    lower = sp.random_array((n, n), density=0.02, rng=rng, format="lil")
    A = sp.csr_array(sp.tril(lower, -1))
    A = sp.csr_array(A + A.T + sp.diags_array(rng.standard_normal(n)))
    half = MatrixOperator(A, format="half_csr").half
    work = cpu.share_half(half, F64, threads=1)
    bounds = np.linspace(0, n, chunks + 1).astype(np.int64)
    back = max((int(low - A[low:high].indices.min()) for low, high in itertools.pairwise(bounds) if low), default=0)
    work = work._replace(bounds=bounds, sums=np.zeros((chunks, 8)), spill=np.full((chunks, back), np.nan))
    p, q = rng.standard_normal(n), np.full(n, np.nan)
    for form in (SERIAL, THREADED):
        pq = products.apply_dot_half_csr[form](half, p, q, work)
        bound = 2 * (n + 2) * U64 * (abs(A) @ np.abs(p))
        assert (np.abs(q - A @ p) <= bound).all()
        assert abs(pq - p @ (A @ p)) <= 2 * (np.abs(p) @ bound) + 2 * n * U64 * (np.abs(p) @ (abs(A) @ np.abs(p)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_change_no_bit(layout):
    # With the same chunks, whether they run on threads or one after the other: what lets a forked child, or a
    # solve beside another, run serial.
    A, _ = matrix(layout, F64)
    rng = np.random.default_rng(4)
    p, b = rng.standard_normal(N), rng.standard_normal(N)
    outs = []
    for form in (SERIAL, THREADED):
        q, r = np.empty(N), np.empty(N)
        pq = kernel(products, "apply_dot", layout, form)(A, p, q, chunks())
        rr = 0.0
        r[:] = 0.0
        if layout not in LOOP_ONLY:
            rr = kernel(products, "residual", layout, form)(A, b, 1.0, p, r, chunks())
        outs.append((q, r, pq, rr))
    for serial, threaded in zip(*outs, strict=True):
        np.testing.assert_array_equal(serial, threaded)


@pytest.mark.parametrize("form", [SERIAL, THREADED])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_come_through(form, value):
    # compiled with `nnan` they would be optimised away
    for layout in LAYOUTS:
        A, _ = matrix(layout, F64)
        p = np.ones(N)
        p[64] = value
        assert not np.isfinite(kernel(products, "apply_dot", layout, form)(A, p, np.empty(N), chunks()))
        if layout not in LOOP_ONLY:
            rr = kernel(products, "residual", layout, form)(A, np.ones(N), 1.0, p, np.empty(N), chunks())
            assert not np.isfinite(rr)
    v = np.ones(N)
    v[3] = value
    assert not np.isfinite(updates.dot[form](v, np.ones(N), chunks()))


# ---- vector updates ----

REAL = [(F64, SERIAL), (F64, THREADED), (F32, SERIAL)]


def diagonal_of(kind, dtype):
    return None if kind == "identity" else np.random.default_rng(5).uniform(0.5, 2.0, N).astype(dtype)


def state(dtype, shape=N):
    """r, z, p, q, x, with z = NaN: an update that only a general M needs to store it."""
    rng = np.random.default_rng(6)
    r, p, q, x = (random(rng, shape, dtype) for _ in range(4))
    return r, np.full(shape, np.nan, dtype), p, q, x


def assert_close(found, twin, dtype, size, operations=4):
    """A few operations on terms of a given size, in either."""
    assert (np.abs(found - twin) <= operations * roundoff(dtype) * size).all()


@pytest.mark.parametrize(("dtype", "form"), [*REAL, (C128, SERIAL), (C64, THREADED)])
def test_dot(dtype, form):
    r, _, p, _, _ = state(dtype)
    assert_sums((updates.dot[form](r, p, chunks()), reference.dot(r, p)), r, p)


@pytest.mark.parametrize("kind", ["identity", "diagonal"])
@pytest.mark.parametrize(("dtype", "form"), REAL)
def test_update_residual(kind, dtype, form):
    M, alpha = diagonal_of(kind, dtype), 0.37
    r, z, _, q, _ = state(dtype)
    before, twin = np.abs(r) + np.abs(alpha * q), r.copy()
    rr, rz = getattr(updates, f"update_residual_{kind}")[form](M, alpha, q, r, z, chunks())
    reference.update_residual(M, alpha, q, twin, np.empty(N, dtype), None)
    assert_close(r, twin, dtype, before)
    # r'r and r'z come from the r that is written; a single-precision z is never stored, so not rounded
    assert_sums((rr, reference.dot(r, r)), r, r)
    z = r if M is None else M * r
    assert abs(rz - reference.dot(r, z)) <= 3 * (N * U64 + roundoff(dtype)) * float(np.abs(r) @ np.abs(z))


@pytest.mark.parametrize("kind", ["identity", "diagonal"])
@pytest.mark.parametrize(("dtype", "form"), REAL)
def test_update_direction(kind, dtype, form):
    M, alpha, beta = diagonal_of(kind, dtype), 0.37, 0.81
    r, z, p, _, x = state(dtype)
    old_x, old_p = np.abs(x) + np.abs(alpha * p), 2 * np.abs(r) + np.abs(beta * p)
    twin_p, twin_x = p.copy(), x.copy()
    xx, pp = getattr(updates, f"update_direction_{kind}")[form](M, alpha, beta, r, z, p, x, chunks())
    reference.update_direction(M, alpha, beta, r, r, twin_p, twin_x, None)
    assert_close(x, twin_x, dtype, old_x)
    assert_close(p, twin_p, dtype, old_p)
    assert_sums((xx, reference.dot(x, x)), x, x)
    assert_sums((pp, reference.dot(p, p)), p, p)


@pytest.mark.parametrize("kind", ["identity", "diagonal"])
@pytest.mark.parametrize(("dtype", "form"), REAL)
def test_restart(kind, dtype, form):
    M = diagonal_of(kind, dtype)
    r, z, p, _, _ = state(dtype)
    twin = p.copy()
    rz, pp = getattr(updates, f"restart_{kind}")[form](M, r, z, p, chunks())
    reference.restart(M, r, np.empty(N, dtype), twin, None)
    np.testing.assert_array_equal(p, twin)  # one rounded product in each
    assert_sums((rz, reference.dot(r, p)), r, p)
    assert_sums((pp, reference.dot(p, p)), p, p)


@pytest.mark.parametrize("dtype", [F64, F32])
def test_solve_diagonal(dtype):
    diagonal, (b, x, *_) = diagonal_of("diagonal", dtype), state(dtype)
    inverse = (1.0 / diagonal).astype(dtype)
    twin = np.empty_like(x)
    bb, rr, bx, _ = cpu.solve_diagonal(diagonal, inverse, b, x)
    reference.solve_diagonal(diagonal, inverse, b, twin)
    np.testing.assert_array_equal(x, twin)  # one rounded product in each
    assert_sums((bb, reference.dot(b, b)), b, b)
    assert_sums((bx, reference.dot(b, x)), b, x)
    # The residual of a rounded quotient; by fused operations it is that of x itself.
    exact = b.astype(np.longdouble) - diagonal.astype(np.longdouble) * x.astype(np.longdouble)
    assert abs(np.sqrt(rr) - float(np.sqrt(exact @ exact))) <= 3 * roundoff(dtype) * float(np.linalg.norm(b))


MANY = [
    ("identity", F64, THREADED),
    ("identity", F32, SERIAL),
    ("diagonal", F64, SERIAL),
    ("diagonal", F64, THREADED),
]
ALPHA = np.array([0.37, np.nan, -1.2])  # of the second system, which has ended, nothing is read
BETA = np.array([0.81, np.nan, 0.5])


def assert_row_sums(found, a, b, dtype):
    """Dot products of rows; terms of single precision may be formed unrounded."""
    rounding = N * U64 + (roundoff(dtype) if dtype in (F32, C64) else 0.0)
    sizes = (np.abs(a) * np.abs(b)).sum(axis=1).astype(float)
    assert (np.abs(found - reference.dot(a.T, b.T)) <= 3 * rounding * sizes).all()


@pytest.mark.parametrize(("kind", "dtype", "form"), MANY)
def test_update_residual_many(kind, dtype, form):
    M = diagonal_of(kind, dtype)
    r, z, _, q, _ = state(dtype, (K, N))
    before, old = np.abs(r) + np.abs(ALPHA[:, None] * q), r.copy()
    twin, rr, rz = r.copy(), np.empty(K), np.empty(K)
    kernel(many, "update_residual_many", kind, form)(M, ALPHA, q, r, z, rr, rz, ACT, chunks(columns=K))
    reference.update_residual_many(M, ALPHA, q, twin, np.empty_like(r), np.empty(K), np.empty(K), ACT, None)
    assert_close(r[ACT], twin[ACT], dtype, before[ACT])
    np.testing.assert_array_equal(r[1], old[1])
    assert_row_sums(rr[ACT], r[ACT], r[ACT], dtype)
    assert_row_sums(rz[ACT], r[ACT], r[ACT] if M is None else M * r[ACT], dtype)


@pytest.mark.parametrize(("kind", "dtype", "form"), MANY)
def test_update_direction_many(kind, dtype, form):
    M = diagonal_of(kind, dtype)
    r, z, p, _, x = state(dtype, (K, N))
    size_x, size_p = np.abs(x) + np.abs(ALPHA[:, None] * p), 2 * np.abs(r) + np.abs(BETA[:, None] * p)
    twin_p, twin_x, old_p, old_x, xx, pp = p.copy(), x.copy(), p.copy(), x.copy(), np.empty(K), np.empty(K)
    w = chunks(columns=K)
    kernel(many, "update_direction_many", kind, form)(M, ALPHA, BETA, r, z, p, x, xx, pp, ACT, w)
    reference.update_direction_many(M, ALPHA, BETA, r, r, twin_p, twin_x, np.empty(K), np.empty(K), ACT, None)
    assert_close(x[ACT], twin_x[ACT], dtype, size_x[ACT])
    assert_close(p[ACT], twin_p[ACT], dtype, size_p[ACT])
    np.testing.assert_array_equal(x[1], old_x[1])
    np.testing.assert_array_equal(p[1], old_p[1])
    assert_row_sums(xx[ACT], x[ACT], x[ACT], dtype)
    assert_row_sums(pp[ACT], p[ACT], p[ACT], dtype)


@pytest.mark.parametrize(("kind", "dtype", "form"), MANY)
def test_restart_many(kind, dtype, form):
    M = diagonal_of(kind, dtype)
    r, z, p, _, _ = state(dtype, (K, N))
    twin, old, rz, pp = p.copy(), p.copy(), np.empty(K), np.empty(K)
    kernel(many, "restart_many", kind, form)(M, r, z, p, rz, pp, ACT, chunks(columns=K))
    reference.restart_many(M, r, np.empty_like(r), twin, np.empty(K), np.empty(K), ACT, None)
    np.testing.assert_array_equal(p[ACT], twin[ACT])  # one rounded product in each
    np.testing.assert_array_equal(p[1], old[1])
    assert_row_sums(rz[ACT], r[ACT], p[ACT], dtype)
    assert_row_sums(pp[ACT], p[ACT], p[ACT], dtype)


@pytest.mark.parametrize(("dtype", "form"), [(F64, SERIAL), (F64, THREADED), (C64, SERIAL)])
def test_dot_many(dtype, form):
    a, _, b, _, _ = state(dtype, (K, N))
    ab = np.full(K, np.nan)
    many.dot_many[form](a, b, ab, ACT, chunks(columns=K))
    assert_row_sums(ab[ACT], a[ACT], b[ACT], dtype)
    assert np.isnan(ab[1])


# ---- the primitives for Python operators ----


class Diagonal:
    """A Python operator: a matrix or a preconditioner."""

    def __init__(self, d):
        self.d = d

    def matvec(self, x, out=None):
        y = self.d * x
        if out is None:
            return y
        out[...] = y
        return out

    def matmat(self, X, out=None):
        return self.matvec(X.T).T


class OnRows(Diagonal):
    """A preconditioner as an interpreted loop is given it: for the listed rows."""

    def matmat(self, R, out, act):
        out[act] = self.d * R[act]


def test_interpreted_primitives():
    d = np.random.default_rng(8).uniform(0.5, 2.0, N)
    A, twin_A, w = Diagonal(d), Diagonal(d), chunks()
    r, z, p, q, x = state(F64)
    b = p.copy()
    twin = {name: v.copy() for name, v in zip("rzpqx", (r, z, p, q, x), strict=True)}
    steps = [
        (interpreted.apply_dot(A, p, q, w), reference.apply_dot(twin_A, twin["p"], twin["q"], None)),
        (
            interpreted.residual(A, b, 0.5, x, r, w),
            reference.residual(twin_A, b, 0.5, twin["x"], twin["r"], None),
        ),
        (
            interpreted.update_residual(A, 0.3, q, r, z, w),
            reference.update_residual(twin_A, 0.3, twin["q"], twin["r"], twin["z"], None),
        ),
        (
            interpreted.update_direction(A, 0.3, 0.7, r, z, p, x, w),
            reference.update_direction(twin_A, 0.3, 0.7, twin["r"], twin["z"], twin["p"], twin["x"], None),
        ),
        (
            interpreted.restart(A, r, z, p, w),
            reference.restart(twin_A, twin["r"], twin["z"], twin["p"], None),
        ),
    ]
    # each of the chain's vectors is a sum of a few terms of size up to ten
    for found, expected in steps:
        np.testing.assert_allclose(found, expected, rtol=4 * N * U64)
    for name, v in zip("rzpqx", (r, z, p, q, x), strict=True):
        np.testing.assert_allclose(v, twin[name], rtol=0, atol=100 * U64, err_msg=name)


def test_interpreted_primitives_with_many_vectors():
    d = np.random.default_rng(9).uniform(0.5, 2.0, N)
    w = chunks(columns=K)
    vectors, sums = state(F64, (K, N)), [np.zeros(K) for _ in range(8)]
    twins, twin_sums = [v.copy() for v in vectors], [np.zeros(K) for _ in range(8)]
    b = vectors[2].copy()
    for module, A, M, (r, z, p, q, x), s in (
        (interpreted, Diagonal(d), OnRows(d), vectors, sums),
        (reference, Diagonal(d), Diagonal(d), twins, twin_sums),
    ):
        module.apply_dot_many(A, p, q, s[0], ACT, w)
        module.update_residual_many(M, ALPHA, q, r, z, s[1], s[2], ACT, w)
        module.update_direction_many(M, ALPHA, BETA, r, z, p, x, s[3], s[4], ACT, w)
        module.residual_many(A, b, x, r, s[7], ACT, w)
        module.restart_many(M, r, z, p, s[5], s[6], ACT, w)
    for found, expected in zip((*vectors, *sums), (*twins, *twin_sums), strict=True):
        np.testing.assert_allclose(found, expected, rtol=4 * N * U64, atol=100 * U64)


# ---- what looks at a matrix, and stores it anew ----


@given(
    sparse_spd(st.one_of(st.integers(1, 24), st.integers(100, 200)), dtype=st.sampled_from([F64, C64])),
    st.sampled_from([format for format in formats.FORMATS if format != "float32"]),  # (that is of any layout)
)
def test_layouts_hold_the_same_matrix(A, wanted):
    dense = A.toarray()
    n = dense.shape[0]
    if wanted == "half_dia" and A.dtype == C64:
        with pytest.raises(ValueError, match="half_dia"):
            MatrixOperator(A, format=wanted)
        return
    operator = MatrixOperator(A, format=wanted)
    assert operator.format == ("csr" if wanted == "half_csr" else wanted)  # (halved for a solver's loop only)
    np.testing.assert_array_equal(reference.product(operator.layout, np.eye(n, dtype=A.dtype)), dense)
    np.testing.assert_array_equal(operator.diagonal(), dense.diagonal())
    if A.dtype == F64:
        np.testing.assert_array_equal(operator @ np.eye(n), dense)
    assert operator.nbytes == sum(a.nbytes for a in operator.layout)
    # the entries are multiples of 1/16: sums of their absolute values are exact
    sizes = np.abs(dense.real) + np.abs(dense.imag)
    assert operator.norm_bound == sizes.sum(axis=1).max()
    assert operator.bad_row == -1


@given(sparse_spd(st.integers(1, 24)), st.permutations(range(24)))
def test_order_of_entries_in_a_row_and_duplicates_do_not_matter(A, order):
    # rows of unsorted entries, each split in two that add up: SciPy allows both
    n = A.shape[0]
    C = A.tocoo()
    shuffle = [i for i in np.argsort(np.argsort(order)) if i < C.nnz] + list(range(24, C.nnz))
    rows, columns = np.repeat(C.coords[0][shuffle], 2), np.repeat(C.coords[1][shuffle], 2)
    data = np.repeat(C.data[shuffle] / 2, 2)
    by_row = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[by_row], np.arange(n + 1))
    messy = sp.csr_array((data[by_row], columns[by_row], indptr), shape=(n, n))
    for wanted in formats.FORMATS:
        operator = MatrixOperator(messy, format=wanted)
        np.testing.assert_array_equal(reference.product(operator.layout, np.eye(n)), A.toarray())
        np.testing.assert_array_equal(operator.diagonal(), A.diagonal())


@given(st.lists(st.integers(0, 12), min_size=1, max_size=200))
def test_sorted_rows_ascend_in_length_within_windows(lengths):
    n = max(len(lengths), 12)
    lengths = np.array(lengths + [0] * (n - len(lengths)))
    indptr = np.append(0, np.cumsum(lengths)).astype(np.uint32)
    indices = np.concatenate([np.arange(k) for k in lengths]).astype(np.uint32)
    rows = CSR(indptr, indices, np.arange(indices.size, dtype=float))
    layout = formats.to_sorted(rows)
    assert isinstance(layout, SortedCSR)
    found = np.diff(layout.indptr.astype(int))
    for first in range(0, n, WINDOW):
        window = slice(first, min(first + WINDOW, n))
        assert (np.diff(found[window]) >= 0).all()
        places = layout.place[window].astype(int)
        assert sorted(places) == list(range(places.size))
        np.testing.assert_array_equal(found[window], lengths[first + places])
        for i, place in enumerate(places):
            stored = slice(layout.indptr[first + i], layout.indptr[first + i + 1])
            given_ = slice(indptr[first + place], indptr[first + place + 1])
            np.testing.assert_array_equal(layout.data[stored], rows.data[given_])
            np.testing.assert_array_equal(layout.indices[stored], rows.indices[given_])


def test_scan_finds_what_is_wrong_and_where():
    dense = np.diag([1.0, 2.0, -3.0, 0.0]) + np.diag([0.5, 0.25, 0.0], 1)
    for layout, scan in (
        (Dense(dense), cpu.scan_dense),
        (formats.csr_arrays(sp.csr_array(dense)), cpu.scan_csr),
    ):
        norm, largest, bad_row, bad_entry = scan(*layout)
        assert (norm, largest, bad_row, bad_entry) == (3.0, 3.0, 2, -1)
    dense[1, 2] = np.nan
    assert cpu.scan_dense(dense)[3] == 6
    assert cpu.scan_csr(*formats.csr_arrays(sp.csr_array(dense)))[3] == 3


@given(sparse_spd(st.integers(1, 40)))
def test_survey_counts_diagonals_and_rows_as_long_as_the_one_before(A):
    C = formats.csr_arrays(A)
    offsets = np.empty(100, np.int64)
    same, count = cpu.survey(C.indptr, C.indices, offsets)
    row, column = A.nonzero()
    assert set(offsets[:count]) == set(column - row)
    lengths = np.diff(A.indptr)
    assert same == np.sum(lengths[1:] == lengths[:-1])
    if count > 1:
        assert cpu.survey(C.indptr, C.indices, np.empty(count - 1, np.int64))[1] == -1


def test_an_empty_matrix_in_diagonals_is_zero():
    operator = MatrixOperator(sp.csr_array((70, 70)), format="dia")
    assert not (operator @ np.ones(70)).any()


def test_probe_vectors_are_spread_over_the_interval():
    v = np.empty(4096)
    cpu.fill_probe(v, 1)
    assert np.abs(v).max() < 1.0
    # mean and variance of the uniform distribution, to four standard deviations of their estimates
    assert abs(v.mean()) <= 4 * np.sqrt(1 / 3 / v.size)
    assert abs((v**2).mean() - 1 / 3) <= 4 * np.sqrt(4 / 45 / v.size)
    w = np.empty(4096, np.float32)
    cpu.fill_probe(w, 1)
    np.testing.assert_array_equal(w, v.astype(np.float32))


# ---- the loops ----


def reference_loop(text):
    """A loop as it stands in `loops`, bound to the reference, in the place of a compiled one."""

    def loop(w, *arguments):
        return text(*arguments)

    return lambda *names: loop


SPECTRUM = np.linspace(1.0, 4.0, 100)  # condition 4
GROWTH = 2.0 * (1.0 + 4.0)  # a step carries an error over at most (1 + alpha |A|) times, and through alpha and beta


@pytest.mark.parametrize(
    ("layout", "M", "dtype", "columns"),
    [
        ("dense", None, F64, 1),
        ("csr", "jacobi", F64, 1),
        ("csr", None, F64, K),
        ("dense", "jacobi", C128, 1),
    ],
)
def test_compiled_loop_makes_the_steps_of_its_text(monkeypatch, layout, M, dtype, columns):
    n = 100
    A = cgopt.gallery.prescribed_spectrum(SPECTRUM, dtype=dtype, rng=0)
    A = sp.csr_array(A) if layout == "csr" else A
    b = random(np.random.default_rng(10), (n, columns), dtype)
    b = b if columns > 1 else b[:, 0]
    traces = []
    for bound in ("compiled", "reference"):
        if bound == "reference":
            monkeypatch.setattr(cpu, "cg_steps", reference_loop(loops.cg_steps))
            monkeypatch.setattr(cpu, "cg_steps_many", reference_loop(loops.cg_steps_many))
        solver = cgopt.CGSolver(A, M=M, format=layout if sp.issparse(A) else None)
        trace = []

        def watch(intermediate_result, trace=trace):
            state = intermediate_result
            trace.append((state.x.copy(), state.alpha, state.beta, state.residual_norm))

        result = solver.solve(b, rtol=1e-10, callback=watch)
        assert result.converged
        traces.append((trace, result))
    (compiled, ours), (plain, theirs) = traces
    assert abs(len(compiled) - len(plain)) <= 1
    for k in range(5):
        error = (n + 4) * roundoff(dtype) * GROWTH ** (k + 1)
        x, twin = compiled[k][0], plain[k][0]
        assert np.linalg.norm(x - twin) <= error * np.linalg.norm(twin)
        for found, expected in zip(compiled[k][1:], plain[k][1:], strict=True):
            np.testing.assert_allclose(found, expected, rtol=2 * error)
    # both stop at rtol |b|, and no eigenvalue is below 1
    assert np.linalg.norm(ours.x - theirs.x) <= 2.0 * 1e-10 * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("last", "maxiter", "status"),
    [
        (-1.0, 100, "INDEFINITE"),
        (0.0, 100, "SINGULAR"),
        (9.0, 3, "MAXITER"),
        (9.0, 100, "CONVERGED"),
        (1e9, 1000, "STAGNATED"),
    ],
)
def test_compiled_loop_ends_like_its_text(monkeypatch, last, maxiter, status):
    n = 60
    A = cgopt.gallery.prescribed_spectrum(np.append(np.linspace(1.0, 2.0, n - 1), last), rng=3)
    b = np.random.default_rng(11).standard_normal(n)
    rtol = 1e-15 if status == "STAGNATED" else 1e-10
    compiled = cgopt.cg(A, b, rtol=rtol, maxiter=maxiter)
    monkeypatch.setattr(cpu, "cg_steps", reference_loop(loops.cg_steps))
    text = cgopt.cg(A, b, rtol=rtol, maxiter=maxiter)
    assert compiled.status.name == text.status.name == status
