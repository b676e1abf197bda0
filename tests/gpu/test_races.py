"""The kernels under the thread sanitizer: tiny grids, and a planted race that it must find."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp

import cgopt
from cgopt.kernels import gpu, loops
from cgopt.kernels.gpu import device
from cgopt.kernels.layouts import CSR

from . import emulation, standin
from .conftest import clear
from .test_primitives import Product, device_solve, host_layout, on


@pytest.fixture
def recorded(monkeypatch):
    """Launches with 2 blocks of 4 threads, in warps of 2, recorded with their arguments."""
    reason = emulation.no_sanitizer()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setitem(sys.modules, "cupy", standin.module())
    monkeypatch.setattr(device, "BLOCK", 4)
    monkeypatch.setattr(device, "COOPERATIVE_BLOCK", 4)
    monkeypatch.setattr(device, "BLOCKS_EACH", 2)
    monkeypatch.setattr(standin, "WARP", 2)
    monkeypatch.setitem(standin.Device.attributes, "WarpSize", 2)
    monkeypatch.setattr(emulation, "recorded", [])
    clear()
    yield emulation.recorded
    clear()


def races(calls):
    """The programs' reports, one program for each source text."""
    reports = {}
    for text in dict.fromkeys(call[0] for call in calls):
        status, report = emulation.sanitized(emulation.program([call for call in calls if call[0] == text]))
        assert status in (0, 66), report
        reports[text] = report
    return reports


def solve_in_one_launch():
    xp = gpu.cupy()
    A = sp.csr_array(cgopt.gallery.poisson((3, 3)))
    b = np.random.default_rng(0).standard_normal(9)
    M = gpu.Polynomial(xp.asarray(1.0 / A.diagonal()), 1.05, 0.95, 2)
    (code, _), *_ = device_solve(
        xp, "chebyshev", on(xp, host_layout(A, "csr")), M, b, np.float64, 8.0, 1e-6, 20, slices=2
    )
    assert code == loops.CONVERGED


def test_a_solve_in_one_launch_has_no_race(recorded):
    solve_in_one_launch()
    assert set(races(recorded).values()) == {""}


def test_a_planted_race_is_found(recorded):
    solve_in_one_launch()
    text, *rest = recorded[0]
    barrier = "            grid_barrier(arrived);\n            const double before"
    assert barrier in text
    planted = text.replace(barrier, "            const double before")
    (report,) = races([(planted, *rest)]).values()
    assert "data race" in report


def test_the_grid_barrier_itself_has_no_race(recorded, monkeypatch):
    solve_in_one_launch()
    (report,) = races([("#define REAL_BARRIER\n" + text, *rest) for text, *rest in recorded[:1]]).values()
    assert report == ""


def test_passes_one_by_one_have_no_race(recorded):
    xp = gpu.cupy()
    A = cgopt.gallery.poisson((3, 3)).toarray()
    b = np.random.default_rng(0).standard_normal(9)
    M = xp.asarray(1.0 / A.diagonal())
    (code, _), *_ = device_solve(xp, "diagonal", Product(xp.asarray(A)), M, b, np.float64, 8.0, 1e-2, 20)
    assert code == loops.CONVERGED
    assert set(races(recorded).values()) == {""}


def test_several_right_hand_sides_and_blocks_have_no_race(recorded):
    xp, rng = gpu.cupy(), np.random.default_rng(0)
    A = on(xp, host_layout(sp.csr_array(cgopt.gallery.poisson((3, 3))), "csr"))
    w, act = gpu.share_many(9, 3), np.array([2, 0])
    p, q, r, x = (xp.asarray(rng.standard_normal((3, 9))) for _ in range(4))
    a, b, alpha = np.zeros(3), np.zeros(3), np.full(3, 0.5)
    gpu.apply_dot_many(A, p, q, a, act, w)
    gpu.residual_many(A, p, x, r, a, act, w)
    gpu.update_residual_many(None, alpha, q, r, r, a, b, act, w)
    gpu.update_direction_many(None, alpha, alpha, r, r, p, x, a, b, act, w)
    gpu.restart_many(None, r, r, p, a, b, act, w)
    G = np.zeros((3, 3))
    gpu.block_gram(p, q, G, w)
    gpu.block_reduce(np.eye(3), p, q, w)
    assert set(races(recorded).values()) == {""}


def test_a_batch_has_no_race(recorded):
    xp = gpu.cupy()
    pattern = sp.csr_array(cgopt.gallery.poisson((2, 2)))
    values = np.stack([pattern.data, 2.0 * pattern.data, 3.0 * pattern.data])
    rows = CSR(*(xp.asarray(a) for a in (pattern.indptr.astype(np.uint32), pattern.indices.astype(np.uint32), values)))
    codes, iterations, rr = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3)
    b, x = xp.asarray(np.random.default_rng(0).standard_normal((3, 4))), xp.zeros((3, 4))
    mirror = xp.zeros(pattern.nnz, np.int64)
    gpu.solve_batch(rows, mirror, True, False, b, x, 1e-6, 0.0, 20, 1e-16, 64.0, codes, iterations, rr)
    assert (codes == loops.CONVERGED).all()
    assert set(races(recorded).values()) == {""}
