"""A prepared solver in another process."""

import pickle

import numpy as np

import cgopt


def test_pickled_solver_gives_the_same_bits():
    A = cgopt.gallery.poisson((20, 20))
    b = np.random.default_rng(0).standard_normal(400)
    solver = cgopt.CGSolver(A, M="jacobi")
    before = solver.solve(b, rtol=1e-8)
    copy = pickle.loads(pickle.dumps(solver))
    assert copy.solve(b, rtol=1e-8).iterations == before.iterations
    np.testing.assert_array_equal(copy.solve(b, rtol=1e-8).x, before.x)
