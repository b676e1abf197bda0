"""The primitives in plain NumPy: what each compiled kernel must compute.

Tests hold every backend to these functions. They are written for reading, and run anything that NumPy
runs; a Python operator or preconditioner (an object with ``matvec``) is taken in place of a layout.

Vectors are ``(n,)``. Scalars are summed in fp64 (complex: the real part of the Hermitian product). ``M`` says how the
residual is preconditioned: None for the identity, a real vector for the inverse of a diagonal, an object with
``matvec`` for anything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .layouts import CSR, DIA, WINDOW, Dense, DenseLower, HalfCSR, HalfDIA, Hierarchy, RoundedCSR, SortedCSR


def product(A: Any, p: Any) -> Any:
    """``A p`` for a layout or an operator."""
    if isinstance(A, Dense):
        return A.values[:, : p.shape[0]] @ p
    if isinstance(A, DenseLower):
        values = A.values[:, : p.shape[0]]
        return np.tril(values) @ p + np.tril(values, -1).T @ p
    if isinstance(A, (CSR, SortedCSR)):
        out = np.zeros(p.shape, np.result_type(A.data, p))
        for i in range(p.shape[0]):
            row = i - i % WINDOW + int(A.place[i]) if isinstance(A, SortedCSR) else i
            entries = slice(A.indptr[i], A.indptr[i + 1])
            out[row] = A.data[entries] @ p[A.indices[entries]]
        return out
    if isinstance(A, DIA):
        n = p.shape[0]
        out = np.zeros(p.shape, np.result_type(A.data, p))
        for offset, diagonal in zip(A.offsets, A.data, strict=True):
            rows = slice(max(0, -offset), min(n, n - offset))
            columns = slice(rows.start + offset, rows.stop + offset)
            out[rows] += (diagonal[rows] * p[columns].T).T
        return out
    if isinstance(A, HalfCSR):
        out = (A.diagonal * p.T).T
        for i in range(p.shape[0]):
            entries = slice(A.indptr[i], A.indptr[i + 1])
            below = A.indices[entries]
            out[i] += A.data[entries] @ p[below]
            out[below] += np.multiply.outer(A.data[entries], p[i])
        return out
    if isinstance(A, HalfDIA):
        n = p.shape[0]
        out = (A.diagonal * p.T).T
        for offset, diagonal in zip(A.offsets, A.data, strict=True):
            out[: n - offset] += (diagonal[: n - offset] * p[offset:].T).T
            out[offset:] += (diagonal[: n - offset] * p[: n - offset].T).T
        return out
    if isinstance(A, RoundedCSR):
        return (A.diagonal * p.T).T + product(SortedCSR(*A[:4]), p)
    return A.matvec(p)


def dot(a: Any, b: Any) -> Any:
    """Real part of ``a^H b``, column by column, summed in fp64."""
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    return np.sum(np.conj(a.astype(wide)) * b.astype(wide), axis=0).real


def precondition(M: Any, r: Any) -> Any:
    """``z = M r``."""
    if M is None:
        return r
    if isinstance(M, np.ndarray):
        return (M * r.T).T
    return M.matvec(r)


def apply_dot(A: Any, p: Any, q: Any, w: Any) -> Any:
    """``q = A p``; returns ``p'q``. Streams: p, q (written: twice), the matrix."""
    q[...] = product(A, p)
    return dot(p, q)


def residual(A: Any, b: Any, scale: Any, x: Any, r: Any, w: Any) -> Any:
    """``r = scale b - A x``; returns ``r'r``."""
    r[...] = scale * b - product(A, x)
    return dot(r, r)


def update_residual(M: Any, alpha: Any, q: Any, r: Any, z: Any, w: Any) -> tuple[Any, Any]:
    """``r -= alpha q``, ``z = M r``; returns ``r'r``, ``r'z``. Streams: r (twice), q.

    z is stored only for a general M; for a diagonal it is formed again where it is used.
    """
    r -= (alpha * q).astype(r.dtype)
    z[...] = precondition(M, r)
    return dot(r, r), dot(r, z)


def update_direction(M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, w: Any) -> tuple[Any, Any]:
    """``x += alpha p``, ``p = z + beta p``; returns ``x'x``, ``p'p``. Streams: x (twice), p (twice), z."""
    x += (alpha * p).astype(x.dtype)
    p[...] = precondition(M, r) + beta * p
    return dot(x, x), dot(p, p)


def restart(M: Any, r: Any, z: Any, p: Any, w: Any) -> tuple[Any, Any]:
    """``z = M r``, ``p = z``; returns ``r'z``, ``p'p``."""
    z[...] = precondition(M, r)
    p[...] = z
    return dot(r, z), dot(p, p)


# The same for k systems with one matrix: vectors are (k, n), scalars arrays of k that are written in place, and only
# the systems listed in `act` are touched.


def solve_diagonal(diagonal: Any, inverse: Any, b: Any, x: Any) -> tuple[Any, Any, Any, Any]:
    """``x = M b`` for the inverse M of a diagonal A; with ``r = b - A x``: ``b'b``, ``r'r``, ``b'M b``, ``r'M r``."""
    x[:] = inverse * b
    r = b - diagonal * x
    return dot(b, b), dot(r, r), dot(b, x), dot(r, inverse * r)


def apply_dot_many(A: Any, p: Any, q: Any, pq: Any, act: Any, w: Any) -> None:
    """``q_j = A p_j``; ``pq[j] = p_j'q_j``."""
    for j in act:
        pq[j] = apply_dot(A, p[j], q[j], w)


def residual_many(A: Any, b: Any, x: Any, r: Any, rr: Any, act: Any, w: Any) -> None:
    """``r_j = b_j - A x_j``; ``rr[j] = r_j'r_j``."""
    for j in act:
        rr[j] = residual(A, b[j], 1.0, x[j], r[j], w)


def update_residual_many(M: Any, alpha: Any, q: Any, r: Any, z: Any, rr: Any, rz: Any, act: Any, w: Any) -> None:
    """``r_j -= alpha[j] q_j``, ``z_j = M r_j``; ``rr[j] = r_j'r_j``, ``rz[j] = r_j'z_j``."""
    for j in act:
        rr[j], rz[j] = update_residual(M, alpha[j], q[j], r[j], z[j], w)


def update_direction_many(
    M: Any, alpha: Any, beta: Any, r: Any, z: Any, p: Any, x: Any, xx: Any, pp: Any, act: Any, w: Any
) -> None:
    """``x_j += alpha[j] p_j``, ``p_j = z_j + beta[j] p_j``; ``xx[j] = x_j'x_j``, ``pp[j] = p_j'p_j``."""
    for j in act:
        xx[j], pp[j] = update_direction(M, alpha[j], beta[j], r[j], z[j], p[j], x[j], w)


def restart_many(M: Any, r: Any, z: Any, p: Any, rz: Any, pp: Any, act: Any, w: Any) -> None:
    """``z_j = M r_j``, ``p_j = z_j``; ``rz[j] = r_j'z_j``, ``pp[j] = p_j'p_j``."""
    for j in act:
        rz[j], pp[j] = restart(M, r[j], z[j], p[j], w)


# For batches of small systems, each solved by itself (`batch`): no chunks, and the preconditioner always a diagonal.


def take(A: Any, k: Any) -> Any:
    """System k of a batch."""
    return Dense(A.values[k]) if isinstance(A, Dense) else CSR(A.indptr, A.indices, A.data[k])


def look(A: Any, inverse: Any, jacobi: Any) -> tuple[Any, Any]:
    """Write the inverse diagonal (ones if not `jacobi`); largest row sum, and first row whose diagonal is not positive.

    The sum is NaN or infinite if an entry is.
    """
    dense = product(A, np.eye(inverse.shape[0], dtype=inverse.dtype))
    diagonal = np.diag(dense)
    with np.errstate(divide="ignore"):
        inverse[...] = 1.0 / diagonal if jacobi else 1.0
    bad = np.flatnonzero(~(diagonal > 0.0))
    return float(np.max(np.sum(abs(dense), axis=1, dtype=np.float64))), int(bad[0]) if bad.size else -1


def asymmetry(A: Any, mirror: Any) -> float:
    """Largest difference of two entries that should be equal; ``mirror[e]`` is the place of entry e's in CSR, or -1."""
    if isinstance(A, Dense):
        return float(np.max(abs(A.values - A.values.T)))
    mirrored = np.where(mirror < 0, 0.0, A.data[mirror])
    return float(np.max(abs(A.data - mirrored), initial=0.0))


def square(v: Any) -> Any:
    """``v'v``."""
    return dot(v, v)


def multiply(A: Any, p: Any, q: Any) -> Any:
    """``q = A p``; returns ``p'q``."""
    return apply_dot(A, p, q, None)


def true_residual(A: Any, b: Any, x: Any, r: Any) -> Any:
    """``r = b - A x``; returns ``r'r``."""
    return residual(A, b, 1.0, x, r, None)


def step(inverse: Any, alpha: Any, p: Any, q: Any, r: Any, x: Any) -> tuple[Any, Any, Any]:
    """``x += alpha p``, ``r -= alpha q``; returns ``r'r``, ``r'M r``, ``x'x``."""
    x += (alpha * p).astype(x.dtype)
    r -= (alpha * q).astype(r.dtype)
    return dot(r, r), dot(r, inverse * r), dot(x, x)


def turn(inverse: Any, beta: Any, r: Any, p: Any) -> Any:
    """``p = M r + beta p``; returns ``p'p``."""
    p[...] = inverse * r + beta * p
    return dot(p, p)


def weigh(inverse: Any, r: Any) -> Any:
    """``r'M r``."""
    return dot(r, inverse * r)


def start(inverse: Any, r: Any, p: Any) -> tuple[Any, Any]:
    """``p = M r``; returns ``r'p``, ``p'p``."""
    p[...] = inverse * r
    return dot(r, p), dot(p, p)


# For block conjugate gradients: vectors are the rows of (s, n) arrays, small matrices double precision.


def block_gram(P: Any, T: Any, G: Any, w: Any) -> None:
    """``G = P T'``, summed in fp64."""
    G[...] = P.astype(np.float64) @ T.astype(np.float64).T


def block_reduce(K: Any, T: Any, Q: Any, w: Any) -> None:
    """``Q -= K T``."""
    Q -= (K @ T).astype(Q.dtype)


def block_turn(inverse: Any, Q: Any, w: Any) -> None:
    """``Q = inverse Q``, in the first rows of Q where there are fewer."""
    Q[: inverse.shape[0]] = inverse @ Q


def block_advance(K: Any, L: Any, Z: Any, P: Any, X: Any, w: Any) -> None:
    """``X += K P``, ``P = Z + L'P``, the latter in as many rows as L has columns."""
    m = L.shape[1]
    X += (K @ P).astype(X.dtype)
    P[:m] = Z[:m] + L.T @ P


def adam_step(
    theta: Any, gradient: Any, m: Any, v: Any, rate: Any, beta1: Any, beta2: Any, spread: Any, eps: Any, w: Any
) -> None:
    """``m += (1 - beta1)(g - m)``, ``v += (1 - beta2)(g^2 - v)``, ``theta -= rate m / (sqrt(spread v) + eps)``."""
    m[...] = beta1 * m + (1.0 - beta1) * gradient
    v[...] = beta2 * v + (1.0 - beta2) * gradient * gradient
    theta -= rate * m / (np.sqrt(spread * v) + eps)


def momentum_step(theta: Any, gradient: Any, velocity: Any, rate: Any, mu: Any, ahead: Any, w: Any) -> None:
    """``V = mu V - rate g``; ``theta += V``, or looking ahead ``theta += mu V - rate g``."""
    velocity[...] = mu * velocity - rate * gradient
    theta += mu * velocity - rate * gradient if ahead else velocity


def blend(target: Any, theta: Any, tau: Any, w: Any) -> None:
    """``target += tau (theta - target)``."""
    target += tau * (theta - target)


def scale_units(r: Any, d: Any) -> None:
    """``r[i, j, c] *= d[i, c]``."""
    r *= d[:, None, :]


def add_scale_units(r: Any, t: Any, d: Any) -> None:
    """``r[i, j, c] = (r[i, j, c] + t[i, j, c]) d[i, c]``."""
    r[...] = (r + t) * d[:, None, :]


def softmax_curvature(u: Any, p: Any, s: Any) -> None:
    """``u = s (u - p'u)``, row by row: with s a multiple of p, that multiple of ``(diag(p) - p p') u``."""
    mean = np.sum(p[:, None, :] * u, axis=-1, keepdims=True)
    u[...] = s[:, None, :] * (u - mean)


def forward_one(theta: Any, sizes: Any, codes: Any, states: Any) -> None:
    """Run a network on one observation, ``states[0]``; ``states[l]`` receives layer l's output, in its first places."""
    activations = (
        lambda a: a,
        np.tanh,
        lambda a: 0.5 + 0.5 * np.tanh(0.5 * a),
        lambda a: np.maximum(a, 0.0),
        lambda a: np.logaddexp(a, 0.0),
    )
    start = 0
    for layer, code in enumerate(codes):
        inputs, units = sizes[layer], sizes[layer + 1]
        W = theta[start : start + inputs * units].reshape(inputs, units)
        b = theta[start + inputs * units : start + (inputs + 1) * units]
        states[layer + 1][:units] = activations[code](states[layer][:inputs] @ W + b)
        start += (inputs + 1) * units


def v_cycle(H: Hierarchy) -> Any:
    """``x = V b`` on level 0 of a multigrid hierarchy, whose b is read; in fp64, by dense matrices. Returns x."""
    rows, count = H.rows, H.b.shape[0]

    def dense(ptr: Any, columns: Any, values: Any, first: int = 0) -> Any:
        out = np.zeros((count, count))
        for i in range(ptr.shape[0] - 1):
            entries = slice(ptr[i], ptr[i + 1])
            np.add.at(out[first + i], columns[entries], values[entries])
        return out

    L, U = (
        dense(H.lower_ptr, H.lower_columns, H.lower),
        dense(H.upper_ptr, H.upper_columns, H.upper),
    )
    P = dense(H.prolongation_ptr, H.prolongation_columns, H.prolongation)
    C = np.zeros((count, count))
    for m, i in enumerate(H.between_rows):
        entries = slice(H.between_ptr[m], H.between_ptr[m + 1])
        np.add.at(C[i], H.between_columns[entries], H.between[entries])

    def cycle(level: int, b: Any) -> Any:
        own = slice(rows[level], rows[level + 1])
        if level == rows.shape[0] - 2:
            return np.linalg.solve(H.factor @ H.factor.T, b)
        below = slice(rows[level + 1], rows[level + 2])
        eye = np.eye(b.shape[0])
        smoother, A = eye + L[own, own], eye + (L + U + C)[own, own]
        x = np.linalg.solve(smoother, b)  # (I + L) x = b
        x += P[own, below] @ cycle(level + 1, P[own, below].T @ (b - A @ x))
        return x + np.linalg.solve(smoother.T, b - A @ x)  # (I + U) dx = b - A x

    return cycle(0, H.b[rows[0] : rows[1]].astype(np.float64))
