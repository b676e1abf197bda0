"""Every GPU kernel computes what its twin in plain NumPy computes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.kernels import batch, gpu, loops, reference
from cgopt.kernels.gpu import sources
from cgopt.kernels.layouts import CSR, DIA, Dense

DTYPES = [np.float32, np.float64]


def close(found, wanted, dtype, size=1.0):
    found = found.get() if hasattr(found, "get") else found
    bound = 40 * np.finfo(dtype).eps * size * max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)


def grid(dtype=np.float64, shape=(5, 5)):
    A = cgopt.gallery.poisson(shape).tocsr().astype(dtype)
    A.data *= np.random.default_rng(1).uniform(1.0, 1.5, A.nnz).astype(dtype)
    return sp.csr_array((A + A.T) / 2)


def long_rows(n, dtype=np.float64):
    B = sp.random_array((n, n), density=0.4, rng=np.random.default_rng(2), dtype=np.float64)
    return sp.csr_array((B @ B.T + n * sp.eye_array(n)).astype(dtype))


def host_layout(A, name):
    if name == "dense":
        return Dense(np.ascontiguousarray(A.toarray()))
    rows = CSR(A.indptr.astype(np.uint32), A.indices.astype(np.uint32), A.data)
    if name == "csr":
        return rows
    offsets = np.unique(A.tocoo().coords[1].astype(np.int64) - A.tocoo().coords[0])
    data = np.zeros((offsets.size, A.shape[0]), A.dtype)
    for k, offset in enumerate(offsets):
        at = np.arange(max(0, -offset), min(A.shape[0], A.shape[0] - offset))
        data[k, at] = A.toarray()[at, at + offset]
    return DIA(offsets, data)


def on(xp, layout):
    return type(layout)(*(xp.asarray(a) for a in layout))


class Product:
    """An operator that the host calls."""

    def __init__(self, values, capturable=False):
        self.values, self.capturable = values, capturable

    def matvec(self, x, out):
        np.matmul(self.values, x, out=out)
        return out


def test_every_primitive_has_a_kernel():
    of_batches = {"take", "asymmetry", "square", "multiply", "true_residual", "step", "turn", "weigh", "start"}
    elsewhere = {"product", "precondition"} | of_batches | {"v_cycle"}  # parts of others, in `solve_batch`, in `Cycle`
    elsewhere |= {"solve_diagonal"}  # where the whole loop is one launch, it is no slower
    specified = {name for name, f in vars(reference).items() if getattr(f, "__module__", "") == reference.__name__}
    assert specified - elsewhere <= set(gpu.__all__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "matrix"), [("csr", "grid"), ("csr", "long"), ("dia", "grid"), ("dia", "long"), ("dense", "long")]
)
def test_products_and_residuals(xp, name, matrix, dtype):
    A = grid(dtype) if matrix == "grid" else long_rows(21, dtype)
    n, rng = A.shape[0], np.random.default_rng(0)
    layout, b, x = host_layout(A, name), *(rng.standard_normal((2, n)).astype(dtype))
    w, q = gpu.share(n), xp.zeros(n, dtype)
    wanted = np.empty(n, dtype)
    pq = reference.apply_dot(layout, x, wanted, None)
    size = n * abs(A.data).max()
    close(gpu.apply_dot(on(xp, layout), xp.asarray(x), q, w), pq, dtype, size)
    close(q, wanted, dtype, size)
    rr = reference.residual(layout, b, 4.0, x, wanted, None)
    close(gpu.residual(on(xp, layout), xp.asarray(b), 4.0, xp.asarray(x), q, w), rr, dtype, size)
    close(q, wanted, dtype, size)


def test_fp32_entries_of_fp64_vectors(xp):
    A = grid()
    A.data = A.data.astype(np.float32).astype(np.float64)
    layout = host_layout(A, "csr")
    narrow = on(xp, layout)._replace(data=xp.asarray(layout.data.astype(np.float32)))
    p, w = np.random.default_rng(0).standard_normal(A.shape[0]), gpu.share(A.shape[0])
    first, second = xp.zeros(p.size), xp.zeros(p.size)
    gpu.apply_dot(on(xp, layout), xp.asarray(p), first, w)
    gpu.apply_dot(narrow, xp.asarray(p), second, w)
    assert np.array_equal(first.get(), second.get())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["identity", "diagonal", "python"])
def test_vector_passes(xp, kind, dtype):
    n, rng = 137, np.random.default_rng(0)  # several entries of each thread at once, and a rest
    r, q, p, x, z = (rng.standard_normal(n).astype(dtype) for _ in range(5))
    inverse = rng.uniform(0.5, 2.0, n).astype(dtype)
    full = (np.diag(inverse) + 0.01).astype(dtype)
    host = {"identity": None, "diagonal": inverse, "python": Product(full)}[kind]
    M = {"identity": None, "diagonal": xp.asarray(inverse), "python": Product(xp.asarray(full))}[kind]
    if kind == "python":  # the twin asks for matvec(x) alone
        host = type("Dense", (), {"matvec": lambda self, v: full @ v})()
    w = gpu.share(n)
    R, Q, P, X, Z = (xp.asarray(v) for v in (r, q, p, x, z))
    assert gpu.dot(R, Q, w) == pytest.approx(reference.dot(r, q), rel=1e-12)
    close(gpu.update_residual(M, 0.3, Q, R, Z, w), reference.update_residual(host, 0.3, q, r, z, None), dtype, n)
    close(R, r, dtype)
    if kind == "python":
        close(Z, z, dtype)
    close(
        gpu.update_direction(M, 0.3, 0.7, R, Z, P, X, w),
        reference.update_direction(host, 0.3, 0.7, r, z, p, x, None),
        dtype,
        n,
    )
    close(X, x, dtype)
    close(P, p, dtype)
    close(gpu.restart(M, R, Z, P, w), reference.restart(host, r, z, p, None), dtype, n)
    close(P, p, dtype)


def test_sums_are_in_double_precision_over_single(xp):
    n = 1000
    a = np.full(n, 1.0 / 3.0, np.float32)
    w = gpu.share(n)
    assert gpu.dot(xp.asarray(a), xp.asarray(a), w) == pytest.approx(n * float(a[0]) ** 2, rel=1e-14)


@pytest.mark.parametrize("name", ["csr", "dia", "dense"])
def test_look(xp, name):
    A = grid()
    diagonal, sums = gpu.look(on(xp, host_layout(A, name)), A.shape[0])
    assert np.array_equal(diagonal.get(), A.diagonal())
    np.testing.assert_allclose(sums.get(), abs(A).sum(axis=1), rtol=1e-14)


def test_diagonals_of_rows(xp):
    A = grid()
    found = gpu.diagonals_of(on(xp, host_layout(A, "csr")), 5)
    wanted = host_layout(A, "dia")
    assert np.array_equal(found.offsets.get(), wanted.offsets)
    assert np.array_equal(found.data.get(), wanted.data)
    assert gpu.diagonals_of(on(xp, host_layout(A, "csr")), 4) is None


# --- several right-hand sides ------------------------------------------------------------------------------------


class ManyProduct(Product):
    """The same, and for several vectors at once: columns for an operator, listed rows for a preconditioner."""

    def matmat(self, X, out=None, act=None):
        if act is None:
            return self.values @ X
        for j in act:
            np.matmul(self.values, X[j], out=out[j])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "systems"), [("csr", 11), ("dia", 3), ("dense", 2), ("python", 5)])
def test_products_with_several_vectors(xp, name, systems, dtype):
    A, rng = grid(dtype), np.random.default_rng(0)
    n, act = A.shape[0], np.arange(systems)[::-1][: max(1, systems - 1)].copy()
    host = host_layout(A, "csr" if name == "python" else name)
    own = ManyProduct(xp.asarray(A.toarray())) if name == "python" else on(xp, host)
    b, x, q = (rng.standard_normal((systems, n)).astype(dtype) for _ in range(3))
    w, sums, found = gpu.share_many(n, systems), np.full(systems, 7.0), np.full(systems, 7.0)
    for step in ("apply_dot_many", "residual_many"):
        Q = xp.asarray(q)
        vectors = (x, q) if step == "apply_dot_many" else (b, x, q)
        getattr(reference, step)(host, *vectors, sums, act, None)
        getattr(gpu, step)(own, *(Q if v is q else xp.asarray(v) for v in vectors), found, act, w)
        close(Q, q, dtype, n)
        close(found, sums, dtype, n)
    assert sums[0] == found[0] == 7.0 or systems == act.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["identity", "diagonal", "python"])
def test_vector_passes_of_several_systems(xp, kind, dtype):
    n, k, rng = 37, 5, np.random.default_rng(0)
    r, q, p, x, z = (rng.standard_normal((k, n)).astype(dtype) for _ in range(5))
    inverse, act = rng.uniform(0.5, 2.0, n).astype(dtype), np.array([3, 0, 4])
    full = (np.diag(inverse) + 0.01).astype(dtype)
    twin = type("M", (), {"matvec": lambda self, v: full @ v})()
    host = {"identity": None, "diagonal": inverse, "python": twin}[kind]
    M = {"identity": None, "diagonal": xp.asarray(inverse), "python": ManyProduct(xp.asarray(full))}[kind]
    w, (alpha, beta, *sums) = gpu.share_many(n, k), rng.uniform(0.1, 1.0, (6, k))
    found = [s.copy() for s in sums]
    R, Q, P, X, Z = (xp.asarray(v) for v in (r, q, p, x, z))
    reference.update_residual_many(host, alpha, q, r, z, *sums[:2], act, None)
    gpu.update_residual_many(M, alpha, Q, R, Z, *found[:2], act, w)
    reference.update_direction_many(host, alpha, beta, r, z, p, x, *sums[2:], act, None)
    gpu.update_direction_many(M, alpha, beta, R, Z, P, X, *found[2:], act, w)
    for mine, wanted in ((R, r), (P, p), (X, x), (np.array(found), np.array(sums))):
        close(mine, wanted, dtype, n)
    act = act[:2]
    reference.restart_many(host, r, z, p, *sums[:2], act, None)
    gpu.restart_many(M, R, Z, P, *found[:2], act, w)
    close(P, p, dtype, n)
    close(np.array(found), np.array(sums), dtype, n)


def test_a_system_s_bits_do_not_depend_on_the_others(xp):
    A, rng = on(xp, host_layout(grid(), "csr")), np.random.default_rng(0)
    p = rng.standard_normal((10, 25))
    alone, among = np.zeros(1), np.zeros(10)
    gpu.apply_dot_many(A, xp.asarray(p[9:]), xp.zeros((1, 25)), alone, np.arange(1), gpu.share_many(25, 1))
    gpu.apply_dot_many(A, xp.asarray(p), xp.zeros((10, 25)), among, np.arange(10), gpu.share_many(25, 10))
    assert alone[0] == among[9] == gpu.apply_dot(A, xp.asarray(p[9]), xp.zeros(25), gpu.share(25))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "others"), [(1, 1), (5, 4), (4, 7)])
def test_small_matrices_times_blocks_of_vectors(xp, rows, others, dtype):
    n, rng = 41, np.random.default_rng(0)
    P, X, T, Z = (rng.standard_normal((m, n)).astype(dtype) for m in (rows, others, others, rows))
    w, G, found = gpu.share(n), np.zeros((rows, others)), np.zeros((rows, others))
    reference.block_gram(P, T, G, None)
    gpu.block_gram(xp.asarray(P), xp.asarray(T), found, w)
    np.testing.assert_allclose(found, G, rtol=1e-11, atol=1e-12 * n)  # in double precision over either
    small = min(rows, others)
    for name, small_matrices, blocks in (
        ("block_reduce", (rng.standard_normal((rows, others)),), (T, P)),
        ("block_turn", (rng.standard_normal((small, others)),), (T,)),
        ("block_advance", (rng.standard_normal((others, rows)), rng.standard_normal((rows, small))), (Z, P, X)),
    ):
        host, own = [a.copy() for a in blocks], [xp.asarray(a) for a in blocks]
        getattr(reference, name)(*small_matrices, *host, None)
        getattr(gpu, name)(*small_matrices, *own, w)
        for mine, wanted in zip(own, host, strict=True):
            close(mine, wanted, dtype, others)


# --- whole solves -----------------------------------------------------------------------------------------------


def scalars(b, dtype, norm, rtol):
    s = np.zeros(loops.SCALARS)
    s[loops.RR] = s[loops.BEST] = float(b.astype(np.float64) @ b)
    s[loops.TARGET], s[loops.UNIT] = rtol**2 * s[loops.RR], np.finfo(dtype).eps / 2
    s[loops.NORM_A], s[loops.PATIENCE], s[loops.SCALE] = norm, 64.0, 1.0
    return s


def reference_solve(A, M, b, dtype, norm, rtol, steps):
    n = b.size
    x, V, s, log = np.zeros(n, dtype), np.zeros((4, n), dtype), scalars(b, dtype, norm, rtol), np.zeros((steps, 4))
    V[0] = b
    ended = loops.cg_steps(A, A, M, b, x, V, x, V, s, log, None, None, True, steps, True)
    return ended, x, s, log


def device_solve(xp, kind, A, M, b, dtype, norm, rtol, steps, slices=1):
    n = b.size
    x, V = xp.zeros(n, dtype), xp.zeros((6, n), dtype)
    s, log = scalars(b, dtype, norm, rtol), np.zeros((steps, 4))
    V[0] = xp.asarray(b)
    layout = gpu.layout_name(A)
    loop, w, done, code = gpu.cg_steps(layout, layout, kind), gpu.share(n), 0, loops.RUNNING
    B = xp.asarray(b)
    while code == loops.RUNNING:
        count = min(-(-steps // slices), steps - done)
        piece = np.zeros((count, 4))
        last = done + count == steps
        code, made = loop(w, A, A, M, B, x, V, x, V, s, piece, w, w, done == 0, count, last)
        log[done : done + made] = piece[:made]
        done += made
    return (code, done), x.get(), s, log


class Chebyshev:
    """The twin of the preconditioner inside the loop, by dense matrices."""

    def __init__(self, A, inverse, theta, delta, degree):
        self.A, self.inverse, self.theta, self.delta, self.degree = A, inverse, theta, delta, degree

    def matvec(self, r):
        y, z = r.copy(), self.inverse * r / self.theta
        d, sigma = z.copy(), self.theta / self.delta
        rho = 1.0 / sigma
        for _ in range(self.degree - 1):
            y -= self.A @ d
            before, rho = rho, 1.0 / (2.0 * sigma - rho)
            d = rho * before * d + 2.0 * rho / self.delta * self.inverse * y
            z += d
        return z


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [
        ("csr", "identity", np.float64),
        ("csr", "diagonal", np.float32),
        ("dia", "diagonal", np.float64),
        ("dense", "identity", np.float64),
        ("csr", "chebyshev", np.float64),
        ("dia", "chebyshev", np.float32),
    ],
)
def test_a_solve_in_one_launch_is_the_loop(xp, name, kind, dtype):
    A = grid(dtype)
    n, rng = A.shape[0], np.random.default_rng(0)
    b = rng.standard_normal(n).astype(dtype)
    layout, inverse = host_layout(A, name), (1.0 / A.diagonal()).astype(dtype)
    host = M = None
    if kind == "diagonal":
        host, M = inverse, xp.asarray(inverse)
    if kind == "chebyshev":
        host = Chebyshev(A, inverse, 1.05, 0.95, 3)
        M = gpu.Polynomial(xp.asarray(inverse), 1.05, 0.95, 3)
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    ended, x, s, log = reference_solve(layout, host, b, dtype, 12.0, rtol, 100)
    found, y, t, own = device_solve(xp, kind, on(xp, layout), M, b, dtype, 12.0, rtol, 100, slices=7)
    assert found[0] == ended[0] == loops.CONVERGED
    assert abs(found[1] - ended[1]) <= 1
    assert np.linalg.norm(b - A @ y) <= 1.001 * rtol * np.linalg.norm(b)
    np.testing.assert_allclose(own[:5], log[:5], rtol=1e-3 if dtype == np.float32 else 1e-10)
    assert t[loops.RR] == pytest.approx(float(np.sum((b - A @ y).astype(np.float64) ** 2)), rel=1e-2)


def test_same_input_same_bits(xp):
    A = grid()
    b, layout = np.random.default_rng(0).standard_normal(A.shape[0]), on(xp, host_layout(A, "csr"))
    first = device_solve(xp, "identity", layout, None, b, np.float64, 12.0, 1e-10, 100)
    second = device_solve(xp, "identity", layout, None, b, np.float64, 12.0, 1e-10, 100, slices=9)
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(first[3], second[3])


@pytest.mark.parametrize("kind", ["identity", "python"])
def test_a_negative_eigenvalue_is_found_with_its_direction(xp, kind):
    A = np.diag([3.0, 2.0, 1.0, -1.0, 4.0, 5.0])
    b, n = np.array([1.0, 0.5, 2.0, 1.5, 0.3, 0.7]), 6
    x, V, s, log = xp.zeros(n), xp.zeros((6, n)), scalars(b, np.float64, 5.0, 1e-10), np.zeros((50, 4))
    V[0] = xp.asarray(b)
    layout = Product(xp.asarray(A)) if kind == "python" else on(xp, host_layout(sp.csr_array(A), "csr"))
    name = gpu.layout_name(layout)
    w = gpu.share(n)
    code, _ = gpu.cg_steps(name, name, "identity")(
        w, layout, layout, None, xp.asarray(b), x, V, x, V, s, log, w, w, True, 50, True
    )
    d = V[2].get()
    assert code == loops.INDEFINITE
    assert d @ A @ d <= 0


def test_stagnation_is_seen_and_nothing_claimed(xp):
    A = sp.csr_array(cgopt.gallery.prescribed_spectrum(np.geomspace(1.0, 1e6, 8), rng=0))
    b, layout = np.random.default_rng(0).standard_normal(8), host_layout(A, "csr")
    ended, *_ = reference_solve(layout, None, b, np.float64, 1e6, 1e-17, 400)
    found, y, _, _ = device_solve(xp, "identity", on(xp, layout), None, b, np.float64, 1e6, 1e-17, 400)
    assert found[0] == ended[0] == loops.STAGNATED
    assert np.linalg.norm(b - A @ y) > 1e-17 * np.linalg.norm(b)


@pytest.mark.parametrize(("kind", "capturable"), [("identity", False), ("diagonal", True), ("python", False)])
def test_an_operator_that_the_host_calls(xp, kind, capturable):
    A = grid()
    n = A.shape[0]
    b = np.random.default_rng(0).standard_normal(n)
    inverse = 1.0 / A.diagonal()
    host = {"identity": None, "diagonal": inverse, "python": inverse}[kind]
    M = {"identity": None, "diagonal": xp.asarray(inverse), "python": Product(xp.asarray(np.diag(inverse)))}[kind]
    ended, x, s, log = reference_solve(host_layout(A, "csr"), host, b, np.float64, 12.0, 1e-9, 100)
    operator = Product(xp.asarray(A.toarray()), capturable)
    found, y, t, own = device_solve(xp, kind, operator, M, b, np.float64, 12.0, 1e-9, 100, slices=3)
    assert found == ended
    np.testing.assert_allclose(own[:8], log[:8], rtol=1e-9)
    np.testing.assert_allclose(y, x, rtol=1e-7, atol=1e-9)


def test_the_true_residual_ends_a_solve_whose_operator_is_the_host_s(xp):
    A = cgopt.gallery.prescribed_spectrum(np.geomspace(1.0, 1e6, 8), rng=0)
    b = np.random.default_rng(0).standard_normal(8)
    found, y, s, log = device_solve(xp, "identity", Product(xp.asarray(A)), None, b, np.float64, 1e6, 1e-17, 400)
    assert found[0] == loops.STAGNATED
    assert s[loops.RR] == pytest.approx(float(np.sum((b - A @ y) ** 2)), rel=1e-6)


# --- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse", [False, True])
def test_batches(xp, sparse, dtype):
    n, m, rng = 9, 5, np.random.default_rng(0)
    pattern = sp.csr_array(cgopt.gallery.poisson((3, 3)))
    weight = rng.uniform(1.0, 2.0, m)
    stack = np.stack([pattern.toarray() * c for c in weight]).astype(dtype)
    stack[3] *= -1.0  # not positive definite
    if not sparse:
        stack[4, 0, 1] += 1.0  # not symmetric
    b = rng.standard_normal((m, n)).astype(dtype)
    b[1] = 0.0
    unit = np.finfo(dtype).eps / 2
    if sparse:
        values = np.stack([pattern.data * c for c in weight]).astype(dtype)
        values[3] *= -1.0
        rows = np.repeat(np.arange(n), np.diff(pattern.indptr))
        keys = rows * n + pattern.indices
        mirror = np.searchsorted(keys, pattern.indices.astype(np.int64) * n + rows)
        host = CSR(pattern.indptr.astype(np.uint32), pattern.indices.astype(np.uint32), values)
    else:
        host, mirror = Dense(stack), np.empty(0, np.int64)
    rtol = 1e-4 if dtype == np.float32 else 1e-9
    wanted = {name: np.zeros(m, kind) for name, kind in (("codes", int), ("iterations", int), ("rr", float))}
    x = np.zeros((m, n), dtype)
    with np.errstate(divide="ignore"):
        batch.solve_batch(
            host, mirror, True, True, b, x, rtol, 0.0, 90, unit, 64.0, np.array([0, m]), np.zeros((1, 4, n), dtype),
            np.zeros((1, loops.SCALARS)), *wanted.values(),
        )  # fmt: skip
    found = {name: np.zeros_like(v) for name, v in wanted.items()}
    y = xp.zeros((m, n), dtype)
    gpu.solve_batch(
        on(xp, host), xp.asarray(mirror), True, True, xp.asarray(b), y, rtol, 0.0, 90, unit, 64.0, *found.values()
    )  # fmt: skip
    assert np.array_equal(found["codes"], wanted["codes"])
    assert loops.INDEFINITE in found["codes"]
    assert sparse or batch.NOT_SYMMETRIC in found["codes"]
    assert abs(found["iterations"] - wanted["iterations"]).max() <= 1
    solved = found["codes"] == loops.CONVERGED
    close(y.get()[solved], x[solved], dtype, 1e3 * rtol / np.finfo(dtype).eps / 40)


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sources.ACTIVATIONS)
def test_activations_and_their_slopes(xp, name, dtype):
    f = cgopt.nn.activations.as_activation(name, "activation")
    a = np.concatenate([np.linspace(-60.0, 60.0, 41), [0.0]]).astype(dtype).reshape(6, 7)
    h, d = a.copy(), np.ones_like(a)
    if f is not None:
        f.apply(h, out=h)
        f.derivative(h, out=d)
    A, D, rows = xp.asarray(a), xp.zeros(a.shape, dtype), xp.ones((6, 8), dtype)
    gpu.activate(name, A, D, rows)
    close(A, h, dtype)
    close(D, d, dtype)
    assert np.array_equal(rows.get()[:, :7], A.get())
    assert np.array_equal(rows.get()[:, 7], np.ones(6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_observation_through_a_network(xp, dtype):
    sizes, codes = np.array([3, 11, 7, 4, 5, 2]), np.array([1, 2, 3, 4, 0])
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(int(np.sum((sizes[:-1] + 1) * sizes[1:]))).astype(dtype)
    states = np.zeros((6, 11), dtype)
    states[0, :3] = rng.standard_normal(3)
    own = xp.asarray(states)
    reference.forward_one(theta, sizes, codes, states)
    gpu.forward_one(xp.asarray(theta), xp.asarray(sizes), xp.asarray(codes), own)
    close(own, states, dtype, 11.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_over_layers(xp, dtype):
    rng = np.random.default_rng(0)
    r, t, d = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 2, 5), (3, 2, 5), (3, 5)))
    p = abs(d) / abs(d).sum(axis=1, keepdims=True)
    for name, args in (("scale_units", (r, d)), ("add_scale_units", (r, t, d)), ("softmax_curvature", (r, p, 0.5 * p))):
        host = [a.copy() for a in args]
        own = [xp.asarray(a) for a in args]
        getattr(reference, name)(*host)
        getattr(gpu, name)(*own)
        close(own[0], host[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_first_order_methods(xp, dtype):
    rng = np.random.default_rng(0)
    theta, g, m, v = (rng.uniform(0.1, 1.0, 29).astype(dtype) for _ in range(4))
    for name, args in (
        ("adam_step", (theta, g, m, v, 0.1, 0.9, 0.99, 1.5, 1e-8)),
        ("momentum_step", (theta, g, m, 0.1, 0.9, True)),
        ("momentum_step", (theta, g, m, 0.1, 0.9, False)),
        ("blend", (theta, g, 0.25)),
    ):
        host = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        own = [xp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        getattr(reference, name)(*host, None)
        getattr(gpu, name)(*own)
        for found, wanted in zip(own, host, strict=True):
            if isinstance(wanted, np.ndarray):
                close(found, wanted, dtype)
