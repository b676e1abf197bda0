"""Preconditioners that vary, and flexible CG."""

from __future__ import annotations

import numpy as np
import pytest

import cgopt
from cgopt import gallery
from cgopt.preconditioners import Jacobi, Varying

A = gallery.poisson((30, 30))
B = np.random.default_rng(0).standard_normal(900)


def noisy(seed, size):
    """Jacobi's preconditioner with a diagonal that is another in each application."""
    rng = np.random.default_rng(seed)
    return lambda r: (0.25 * r.T * (1.0 + size * rng.uniform(-1.0, 1.0, r.shape[0]))).T


def test_a_constant_one_gives_the_same_iterates():
    M = Jacobi(A)
    fixed, flexible = (cgopt.cg(A, B, M=m, maxiter=20, rtol=0.0).x for m in (M, Varying(M)))
    np.testing.assert_allclose(flexible, fixed, rtol=0, atol=1e-10 * np.abs(fixed).max())


def test_flexible_cg_converges_where_the_fixed_formula_suffers():
    def iterations(wrap):
        M = noisy(1, 0.8)
        M = Varying(M, n=900) if wrap else M
        return cgopt.cg(A, B, M=M, rtol=1e-8, check=False, maxiter=2000)

    flexible, fixed = iterations(True), iterations(False)
    assert flexible.converged
    assert flexible.iterations < 0.8 * fixed.iterations


def test_inner_iterations():
    def inner(r):
        return cgopt.cg(A, r, rtol=0.1).x

    result = cgopt.cg(A, B, M=Varying(inner, n=900), rtol=1e-10)
    assert result.converged
    assert result.iterations <= 20


def test_new_directions_are_conjugate_to_the_last():
    iterates = [np.zeros(900)]
    cgopt.cg(A, B, M=Varying(noisy(2, 0.5), n=900), maxiter=12, callback=lambda x: iterates.append(x.copy()))
    p = np.diff(np.array(iterates), axis=0)
    norms = np.sqrt(np.einsum("ki,ki->k", p, (A @ p.T).T))
    conjugacy = [p[k] @ (A @ p[k + 1]) / (norms[k] * norms[k + 1]) for k in range(len(p) - 1)]
    assert np.abs(conjugacy).max() <= 1e-10


def test_many_right_hand_sides():
    many = np.random.default_rng(3).standard_normal((900, 3))
    result = cgopt.cg(A, many, M=Varying(Jacobi(A)), rtol=1e-8)
    assert result.converged
    for j, column in enumerate(result.columns):
        assert abs(column.iterations - cgopt.cg(A, many[:, j], M="jacobi", rtol=1e-8).iterations) <= 1


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_scale_does_not_matter(factor):
    scaled, plain = (
        cgopt.cg(f * A, B, M=Varying(lambda r, f=f: noisy(4, 0.5)(r) / f, n=900), rtol=1e-8) for f in (factor, 1.0)
    )
    assert scaled.converged
    assert abs(scaled.iterations - plain.iterations) <= 2


def test_tells_what_it_is():
    M = Varying(Jacobi(A))
    assert M.varies
    assert "Varying(Jacobi" in repr(M)
    assert M.nbytes == 900 * 8
    with pytest.raises(TypeError, match="pass n"):
        Varying(lambda r: r)
