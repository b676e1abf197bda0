"""Minimum degree: a permutation, the fill that it foretells, and when it is not worth it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import cgopt
from cgopt.kernels import cpu
from cgopt.operators.formats import csr_arrays
from cgopt.operators.ordering import little_fill


@st.composite
def patterns(draw):
    """A symmetric pattern with a diagonal, dense or sparse, connected or not."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.9]))
    full = rng.random((n, n)) < share
    return full | full.T | np.eye(n, dtype=bool)


def eliminated(pattern, order):
    """Entries below the diagonal of each column of a Cholesky factor, by elimination on the dense pattern."""
    left = pattern[np.ix_(order, order)].copy()
    counts = []
    for k in range(left.shape[0]):
        later = k + 1 + np.flatnonzero(left[k + 1 :, k])
        left[np.ix_(later, later)] = True
        counts.append(later.size)
    return np.array(counts)


def whole_order(A, dense=10**9):
    """The kernels' order of A, without bounds, and the room of its columns."""
    n = A.shape[0]
    arrays = csr_arrays(sp.csr_array(A))
    pivots, parent, around, merged = np.empty((4, n), np.int64)
    bound = np.array([np.inf])
    count = cpu.ordering.minimum_degree(
        arrays.indptr, arrays.indices, dense, np.array([float(n)]), bound, np.inf, pivots, parent, around, merged
    )
    assert count > 0
    order, room = np.empty((2, n), np.int64)
    up, place, last = np.empty((3, count), np.int64)
    held = cpu.ordering.postorder(pivots[:count], parent, around, merged, order, room, up, place, last)
    return order, room, held


@given(pattern=patterns())
def test_no_column_needs_more_than_its_room(pattern):
    order, room, held = whole_order(pattern.astype(float))
    n = pattern.shape[0]
    assert sorted(order) == list(range(n))
    assert held == n
    counts = eliminated(pattern, order)
    assert (room >= counts).all()
    # (more only where unknowns that are eliminated with a pivot come before it)
    assert room.sum() <= 2 * counts.sum() + 2


@settings(max_examples=50)
@given(pattern=patterns(), dense=st.integers(1, 6))
def test_unknowns_with_many_neighbours_come_last(pattern, dense):
    entries = pattern.sum(axis=1)
    if (entries > dense).all():
        return
    order, room, held = whole_order(pattern.astype(float), dense)
    assert sorted(order) == list(range(pattern.shape[0]))
    assert set(order[held:]) == set(np.flatnonzero(entries > dense))
    assert (room >= eliminated(pattern, order)).all()


def test_fill_is_that_of_a_good_order():
    A = cgopt.gallery.poisson((40, 40))
    order, room, _ = whole_order(A)
    assert np.array_equal(np.sort(order), np.arange(1600))
    # 1600 unknowns in their own order: 62 439 entries; nested dissection and minimum degree some 19 000
    assert room.sum() < 21_000


def test_a_tree_has_no_fill():
    n = 500
    rng = np.random.default_rng(0)
    above = np.array([rng.integers(0, k) for k in range(1, n)])
    T = sp.coo_array((np.ones(n - 1), (np.arange(1, n), above)), shape=(n, n))
    order, room, _ = whole_order((T + T.T + sp.eye_array(n)).tocsr())
    assert room.sum() == n - 1
    assert room.max() == 1


def test_no_room_runs_out_where_elements_are_many():
    # complete bipartite parts beside a path make lists that have to be moved together
    n = 60
    A = np.eye(2 * n)
    A[:n, n:] = A[n:, :n] = 1.0
    order, room, _ = whole_order(A)
    assert (room >= eliminated(A != 0, order)).all()


def test_networks_are_taken_and_grids_are_not():
    network = cgopt.gallery.poisson((3_000,)) + sp.eye_array(3_000)
    assert little_fill(csr_arrays(sp.csr_array(network)), 1) is not None
    for grid in (cgopt.gallery.poisson((60, 60)), cgopt.gallery.poisson((15, 15, 15))):
        assert little_fill(csr_arrays(grid), 1) is None


def test_branches_do_not_see_each_other():
    n = 16_000
    rng = np.random.default_rng(1)
    extra = rng.integers(0, n, (n // 200, 2))
    links = sp.coo_array((np.ones(len(extra)), extra.T), shape=(n, n))
    A = (cgopt.gallery.poisson((n,)) + links + links.T + 4 * sp.eye_array(n)).tocsr()
    (order, parts), room = little_fill(csr_arrays(A), 2)
    assert parts.size == 3
    assert np.array_equal(np.sort(order), np.arange(n))
    first, second = order[parts[0] : parts[1]], order[parts[1] : parts[2]]
    assert A[first][:, second].nnz == 0
    assert min(first.size, second.size) > 0.3 * n
    assert room.shape == (n,)


@pytest.mark.parametrize("upper", [True, False])
def test_a_pattern_that_is_not_symmetric_is_refused_or_ordered(upper):
    # explicit zeros on one side are seen by no check of the values: nothing may be written out of bounds
    A = cgopt.gallery.poisson((30, 30)).toarray()
    one_sided = sp.random_array((900, 900), density=0.02, rng=np.random.default_rng(0)).toarray() != 0
    stored = (A != 0) | (np.triu(one_sided) if upper else np.tril(one_sided))
    rows, columns = np.nonzero(stored)
    B = sp.csr_array((A[rows, columns], (rows, columns)), shape=A.shape)
    found = little_fill(csr_arrays(B), 1)
    assert found is None or np.array_equal(np.sort(found[0].order), np.arange(900))
