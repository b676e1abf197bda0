"""How rows are shared out."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgopt.kernels import cpu
from cgopt.kernels.cpu import placement, updates


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


def test_a_team_keeps_off_its_callers_core(monkeypatch):
    monkeypatch.setattr(placement.Crowd, "leaves_room", lambda self, threads: True)
    if not placement.KNOWN or len(os.sched_getaffinity(0)) < 2 or cpu.max_num_threads() < 2:
        pytest.skip("one core, or a system on which threads cannot be placed")
    own, x = os.sched_getaffinity(0), np.ones(1000)
    work = cpu.share_rows(1000, 10**6, threads=2)
    seen = []

    def solve():
        assert cpu.run(updates.dot, work, x, x, work) == 1000.0
        team = placement.placement.team
        assert threading.get_native_id() not in team
        for thread in team:
            assert os.sched_getaffinity(thread) == own - {placement.placement.avoided}
        seen.append(team)

    for _ in range(2):  # each thread that calls has a team of its own
        caller = threading.Thread(target=solve)
        caller.start()
        caller.join()
    assert [len(team) for team in seen] == 2 * [cpu.max_num_threads() - 1]
    assert os.sched_getaffinity(0) == own


@pytest.mark.parametrize(
    ("runnable", "own", "free"),
    [(1, 1, True), (2, 1, True), (4, 1, True), (5, 1, False), (6, 2, False), (5, 2, True), (9, 4, False)],
)
def test_threads_want_a_core_that_nobody_has(monkeypatch, tmp_path, runnable, own, free):
    # of four cores; the threads of a team that ended just now are its own still
    path = tmp_path / "loadavg"
    path.write_text(f"0.50 0.40 0.30 {runnable}/300 1234\n")
    file = os.open(path, os.O_RDONLY)
    monkeypatch.setattr(placement, "_LOAD", file)
    monkeypatch.setattr(placement, "CORES", 4)
    crowd = placement.Crowd()
    if own > 1:
        crowd.note_end()
    assert crowd.leaves_room(own) == free
    os.close(file)


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_a_file_that_is_another_by_now_tells_nothing(monkeypatch, tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    file = os.open(path, os.O_RDONLY)
    monkeypatch.setattr(placement, "_LOAD", file)
    assert placement.Crowd().leaves_room(2)
    os.close(file)
    assert placement.Crowd().leaves_room(2)


def test_a_crowd_changes_no_bit(monkeypatch):
    x = np.random.default_rng(0).standard_normal(1000)
    work = cpu.share_rows(1000, 10**6, threads=2)
    sums = []
    for free in (True, False):
        monkeypatch.setattr(placement.Crowd, "leaves_room", lambda self, threads, free=free: free)
        sums.append(cpu.run(updates.dot, work, x, x, work))
    assert sums[0] == sums[1]
