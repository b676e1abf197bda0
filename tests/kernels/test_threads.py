"""How rows are shared out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt.kernels import cpu


@given(st.lists(st.integers(0, 10**5), min_size=1, max_size=300), st.integers(1, 5))
def test_chunks_cover_the_rows_in_order(lengths, threads):
    indptr = np.append(0, np.cumsum(lengths))
    work = cpu.share_rows(len(lengths), int(indptr[-1]), indptr, threads=threads)
    assert work.bounds[0] == 0
    assert work.bounds[-1] == len(lengths)
    assert np.all(np.diff(work.bounds) >= 0)


@pytest.mark.parametrize("heavy", [0, 99, 639])
def test_one_row_with_nearly_all_entries(heavy):
    lengths = np.ones(640, int)
    lengths[heavy] = 10**6
    indptr = np.append(0, np.cumsum(lengths))
    assert cpu.share_rows(640, int(indptr[-1]), indptr, threads=2).bounds.size == 3
