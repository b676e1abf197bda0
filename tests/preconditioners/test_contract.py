"""What every preconditioner promises, whatever it is made of."""

from __future__ import annotations

import pickle
import threading
import tracemalloc

import numpy as np
import pytest
import scipy.sparse.linalg

import cgopt
from cgopt import gallery
from cgopt.preconditioners import NAMES, Deflation, Factored, Preconditioner, Recycling
from cgopt.testing import check_operator

A = gallery.poisson((40, 40))
N = A.shape[0]
W = np.linalg.qr(np.random.default_rng(7).standard_normal((N, 3)))[0]
MAKERS = {
    **NAMES,
    "deflation": lambda A: Deflation(A, W),
    "deflated multigrid": lambda A: Deflation(A, W, M="multigrid"),
    "recycling": Recycling,
}


@pytest.fixture(params=MAKERS, ids=str)
def make(request):
    return MAKERS[request.param]


def test_is_a_linear_symmetric_positive_definite_operator(make):
    M = make(A)
    assert isinstance(M, Preconditioner)
    report = check_operator(M, rtol=1e3 * float(np.finfo(M.working_dtype).eps), rng=5)
    report.raise_for_failure()


@pytest.mark.parametrize("name", [name for name in MAKERS if not issubclass(NAMES.get(name, Deflation), Factored)])
def test_uses_no_memory_of_length_n_in_an_application(name):
    # Factored ones are applied inside the compiled loop, in the solver's own vectors.
    make = MAKERS[name]
    before = cgopt.get_num_threads()
    cgopt.set_num_threads(1)
    try:
        M = make(gallery.poisson((40, 40)))
        r, z = np.ones(N), np.empty(N)
        M.matvec(r, out=z)
        tracemalloc.start()
        M.matvec(r, out=z)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    finally:
        cgopt.set_num_threads(before)
    assert peak < N * r.itemsize


def test_same_bits_again_and_after_pickling(make):
    M, r = make(A), np.random.default_rng(0).standard_normal(N)
    z = M @ r
    np.testing.assert_array_equal(M @ r, z)
    np.testing.assert_array_equal(make(A.copy()) @ r, z)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(M)) @ r, z)


def test_may_be_used_by_several_threads(make):
    M = make(A)
    vectors = np.random.default_rng(0).standard_normal((4, N))
    expected = [M @ v for v in vectors]
    wrong = []

    def work(j):
        for _ in range(10):
            if not np.array_equal(M @ vectors[j], expected[j]):
                wrong.append(j)

    threads = [threading.Thread(target=work, args=(j,)) for j in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_solves_here_and_in_scipy(make):
    M, b = make(A), np.random.default_rng(0).standard_normal(N)
    ours = cgopt.cg(A, b, M=M, rtol=1e-9)
    assert ours.converged
    x, info = scipy.sparse.linalg.cg(A, b, rtol=1e-9, M=M.to_scipy())
    assert info == 0
    np.testing.assert_allclose(ours.x, x, rtol=0, atol=1e-6 * np.abs(x).max())


def test_tells_its_size_and_its_time(make):
    M = make(A)
    assert M.nbytes > 0
    assert M.setup_time > 0.0
    assert "setup_time" in repr(M)


def test_neither_matrix_nor_residual_is_modified(make):
    matrix, r = A.copy(), np.ones(N)
    make(matrix).matvec(r)
    assert (matrix != A).nnz == 0
    np.testing.assert_array_equal(r, 1.0)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_smallest_systems(name, n):
    result = cgopt.cg(2.0 * np.eye(n), np.ones(n), M=name)
    assert result.converged
    np.testing.assert_allclose(result.x, 0.5)
