"""Matrices from files: what is written comes back bit for bit, and what is wrong is said."""

from __future__ import annotations

import gzip
import os
import sys

import numpy as np
import pytest
import scipy.io
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

from cgopt import gallery


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty folder that is the whole search path."""
    monkeypatch.setenv("CGOPT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("symmetry", ["symmetric", "general"])
@pytest.mark.parametrize("ending", [".mtx", ".mtx.gz"])
def test_matrix_market_round_trip(data, symmetry, ending):
    A = gallery.wathen(3, 3, rng=61)
    write_matrix_market(data / f"W{ending}", A, symmetry=symmetry)
    for name in (data / f"W{ending}", str(data / f"W{ending}"), "W", f"W{ending}"):
        found, b = gallery.load(name, return_rhs=True)
        assert b is None
        assert_same_csr(found, A)


def write_matrix_market(path, A, **options):
    plain = path.with_name(path.name.removesuffix(".gz"))
    scipy.io.mmwrite(plain, A, precision=17, **options)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()


def assert_same_csr(found, expected):
    assert isinstance(found, sp.csr_array)
    assert found.dtype == expected.dtype
    assert found.indices.dtype == np.int32
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.data, expected.data)


def test_matrix_market_of_other_kinds(data):
    hermitian = gallery.prescribed_spectrum([1, 2, 3], dtype=complex, rng=62)
    scipy.io.mmwrite(data / "hermitian.mtx", hermitian, precision=17, symmetry="hermitian")
    np.testing.assert_array_equal(gallery.load("hermitian").toarray(), hermitian)

    scipy.io.mmwrite(data / "whole.mtx", sp.coo_array(np.array([[2, 1], [1, 2]])), field="integer")
    whole = gallery.load("whole")
    assert whole.dtype == np.float64
    np.testing.assert_array_equal(whole.toarray(), [[2, 1], [1, 2]])


@pytest.mark.parametrize("file", ["A_b.mtx", "A_b.mtx.gz", "A_b.txt", "A_b.txt.gz", "rhs/A_b.txt.gz"])
def test_right_hand_side_beside_a_matrix_market_file(data, file):
    b = np.random.default_rng(63).standard_normal(9)
    write_matrix_market(data / "A.mtx", gallery.poisson(9))
    (data / file).parent.mkdir(exist_ok=True)
    if ".mtx" in file:
        write_matrix_market(data / file, b[:, None])
    else:
        np.savetxt(data / file, b)
    np.testing.assert_array_equal(gallery.load("A", return_rhs=True)[1], b)
    assert gallery.available() == ["A"]


@pytest.mark.parametrize("with_rhs", [True, False])
def test_npz_of_the_lower_triangle_round_trip(data, with_rhs):
    A = gallery.graph_laplacian(80, rng=64)
    b = np.arange(80.0)
    save_lower(data / "G.npz", A, **({"b": b} if with_rhs else {}))
    found, rhs = gallery.load("G", return_rhs=True)
    assert_same_csr(found, A)
    np.testing.assert_array_equal(rhs, b if with_rhs else None)
    assert_same_csr(gallery.load(data / "G.npz"), A)


def save_lower(path, A, **more):
    lower = sp.tril(A).tocsc()
    parts = {"data": lower.data, "indices": lower.indices, "indptr": lower.indptr, "shape": np.array(A.shape)}
    np.savez(path, **{**parts, **more})


@pytest.mark.parametrize("make", [sp.csr_array, sp.csc_array])
def test_npz_written_by_scipy_round_trip(data, make):
    A = sp.csr_array(np.array([[4.0, 1.0, 0.0], [2.0, 5.0, 0.0], [0.0, 3.0, 6.0]]))  # tells rows from columns
    sp.save_npz(data / "S.npz", make(A))
    assert_same_csr(gallery.load("S"), A)


ONE = {"data": [1.0], "indices": [0], "indptr": [0, 1], "shape": [1, 1]}
BAD_FILES = {
    "lacks the arrays indptr, shape": lambda p: np.savez(p, data=[1.0], indices=[0]),
    "holds the format 'coo'": lambda p: np.savez(p, **ONE | {"format": "coo"}),
    "bad.npz is not a sparse matrix: indices must be < 1": lambda p: np.savez(p, **ONE | {"indices": [7]}),
    "bad.npz is not a sparse matrix: not enough": lambda p: np.savez(p, **ONE | {"shape": [1]}),
    "bad.npz is not a .npz file of plain arrays": lambda p: p.write_bytes(b"PK, but no archive"),
    "of shape .2, 1.; a system needs a square one": lambda p: sp.save_npz(p, sp.csr_array(np.ones((2, 1)))),
    "right-hand side .* has shape .3,.": lambda p: save_lower(p, gallery.poisson(2), b=np.ones(3)),
    "allow_pickle=False": lambda p: save_lower(p, gallery.poisson(2), b=np.array([1, {}], dtype=object)),
}


@pytest.mark.parametrize(("message", "write"), BAD_FILES.items(), ids=BAD_FILES.keys())
def test_bad_npz_files_are_refused(data, message, write):
    write(data / "bad.npz")
    with pytest.raises(ValueError, match=message):
        gallery.load("bad", return_rhs=True)


TRUNCATED = b"%%MatrixMarket matrix coordinate real general\n2 2 9\n1 1 1\n"


@pytest.mark.parametrize("content", [b"", b"not a matrix", TRUNCATED])
@pytest.mark.parametrize("ending", [".mtx", ".mtx.gz"])
def test_bad_matrix_market_files_are_refused_by_name(data, content, ending):
    (data / f"bad{ending}").write_bytes(content)
    with pytest.raises(ValueError, match=f"bad{ending} is not a Matrix Market file that can be read"):
        gallery.load("bad")


def test_a_bad_right_hand_side_is_refused_by_name(data):
    write_matrix_market(data / "A.mtx", gallery.poisson(2))
    (data / "A_b.txt").write_text("1.0\ntwo\n")
    with pytest.raises(ValueError, match=r"A_b\.txt is not a list of numbers"):
        gallery.load("A", return_rhs=True)


def test_search_path_is_searched_in_order(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, size in ((first / "systems", 3), (second, 4), (second / "matrices", 5)):
        folder.mkdir(parents=True)
        write_matrix_market(folder / "A.mtx", gallery.poisson(size))
    write_matrix_market(second / "matrices" / "B.mtx.gz", gallery.poisson(6))
    (second / "notes.txt").write_text("no matrix")
    monkeypatch.setenv("CGOPT_DATA", os.pathsep.join(map(str, (first, tmp_path / "absent", second))))
    assert gallery.available() == ["A", "B"]
    assert gallery.load("A").shape == (3, 3)
    assert gallery.load("B").shape == (6, 6)


def test_a_name_that_is_not_found_says_where_it_was_sought(data, monkeypatch):
    write_matrix_market(data / "bcsstk14.mtx.gz", gallery.poisson(3))
    with pytest.raises(FileNotFoundError, match=r"'bcstk14'.*CGOPT_DATA.*Nearest: bcsstk14\.") as found:
        gallery.load("bcstk14")
    assert str(data) in str(found.value)
    with pytest.raises(FileNotFoundError, match=r"Nearest: bcsstk14\.mtx\.gz"):
        gallery.load(data / "bcsstk14.mtx")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        gallery.load(data / "absent" / "A.mtx")
    (data / "notes.txt").write_text("no matrix")
    with pytest.raises(ValueError, match="is not a matrix file"):
        gallery.load(data / "notes.txt")
    monkeypatch.setenv("CGOPT_DATA", str(data / "absent"))
    with pytest.raises(FileNotFoundError, match="names no folder that exists"):
        gallery.load("bcsstk14")
    monkeypatch.delenv("CGOPT_DATA")
    assert gallery.available() == []
    with pytest.raises(FileNotFoundError, match="CGOPT_DATA is not set; set it"):
        gallery.load("bcsstk14")


# ---- PyAMG ----


@pytest.mark.parametrize(("name", "n"), [("airfoil", 260), ("bar", 600), ("knot", 239), ("unit_cube", 125)])
def test_pyamg_examples_are_spd(name, n):
    pytest.importorskip("pyamg", reason="PyAMG is an extra: pip install 'cgopt[amg]'")
    A = gallery.pyamg_example(name)
    assert A.shape == (n, n)
    assert A.indices.dtype == np.int32
    assert_hermitian_positive_definite(A.toarray())


def test_missing_pyamg_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyamg.gallery", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "cgopt\[amg\]"'):
        gallery.pyamg_example("knot")


# ---- real matrices, where there are any ----


def real(name):
    if name not in gallery.available():
        pytest.skip(f"the real matrix {name} is not on the search path; set CGOPT_DATA to its folder")
    return gallery.load(name)


def test_real_trefethen_matrix_is_ours():
    assert_same_csr(gallery.trefethen(500), real("Trefethen_500"))


def test_real_wathen_matrix_has_the_pattern_of_ours():
    theirs, ours = real("wathen100"), gallery.wathen(100, 100, rng=71)
    np.testing.assert_array_equal(theirs.indptr, ours.indptr)
    np.testing.assert_array_equal(theirs.indices, ours.indices)


@pytest.mark.parametrize("name", ["LFAT5", "bcsstk01", "nos4", "494_bus", "lsq_well1033"])
def test_real_matrices_are_spd(name):
    assert_hermitian_positive_definite(real(name).toarray())


def test_real_systems_come_with_their_right_hand_side():
    A = real("cora_ssl")
    b = gallery.load("cora_ssl", return_rhs=True)[1]
    assert b is not None
    x = spsolve(A.tocsc(), b)
    assert np.linalg.norm(b - A @ x) < 1e-12 * np.linalg.norm(b)


def assert_hermitian_positive_definite(A):
    np.testing.assert_array_equal(A, A.conj().T)
    scipy.linalg.cholesky(A)  # raises where a pivot is not positive
