"""Matrices that come in files: Matrix Market and .npz, found by path or by name, and PyAMG's own examples."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, Literal, overload
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import scipy.io
import scipy.sparse as sp
from scipy.sparse import csr_array

from cgopt.gallery._common import mirror_lower, nearest_names, sorted_csr

_VARIABLE = "CGOPT_DATA"
_SUBFOLDERS = ("", "matrices", "systems")
_ENDINGS = (".mtx", ".mtx.gz", ".npz")
# The SuiteSparse collection ships the right-hand side of X.mtx as X_b.mtx.
_RHS_ENDINGS = ("_b.mtx", "_b.mtx.gz", "_b.txt", "_b.txt.gz")
_RHS_SUBFOLDERS = ("", "rhs")
_NPZ_KEYS = ("data", "indices", "indptr", "shape")


@overload
def load(name: str | os.PathLike[str], *, return_rhs: Literal[False] = False) -> csr_array: ...
@overload
def load(name: str | os.PathLike[str], *, return_rhs: Literal[True]) -> tuple[csr_array, npt.NDArray[Any] | None]: ...
def load(
    name: str | os.PathLike[str], *, return_rhs: bool = False
) -> csr_array | tuple[csr_array, npt.NDArray[Any] | None]:
    """Read a sparse matrix, and the right-hand side that belongs to it if there is one.

    Two kinds of file are read, and nothing in them is ever executed:

    - Matrix Market, ``.mtx`` or ``.mtx.gz``. Symmetric storage is expanded. The right-hand side is looked for
      beside the matrix and in a folder ``rhs`` there: ``X_b.mtx`` or ``X_b.txt`` (or either with ``.gz``) for
      ``X.mtx``.
    - NumPy ``.npz`` with the arrays ``data``, ``indices``, ``indptr`` and ``shape`` of a CSC matrix (CSR if
      there is a ``format`` that says so, as `scipy.sparse.save_npz` writes), and ``b`` for the right-hand
      side. A matrix with nothing above its diagonal is the lower half of a symmetric one, and is expanded.

    Parameters
    ----------
    name : str or path
        The path of a file, or a bare name such as ``"bcsstk14"``, with or without its ending. A bare name
        is searched for in the folders of the environment variable ``CGOPT_DATA`` (separated as in ``PATH``),
        and in the subfolders ``matrices`` and ``systems`` of each; the first that has it wins.
    return_rhs : bool, default False
        Return the right-hand side too.

    Returns
    -------
    A : scipy.sparse.csr_array, shape (n, n)
        As it is in the file: neither symmetry nor definiteness is checked. Whole numbers become float64.
    b : ndarray, shape (n,), or None
        Only if `return_rhs`; None when there is none.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name; says where it was searched and which names are near.
    ValueError
        If the file is not of a kind that can be read, the matrix is not square, or b does not fit it.

    References
    ----------
    R. Boisvert, R. Pozo and K. Remington, "The Matrix Market exchange formats", NISTIR 5935, 1996.
    T. Davis and Y. Hu, "The University of Florida sparse matrix collection", ACM TOMS 38(1), 2011.

    Examples
    --------
    >>> import tempfile, pathlib, scipy.io
    >>> from cgopt.gallery import load, poisson
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "poisson.mtx"
    ...     scipy.io.mmwrite(path, poisson(3), symmetry="symmetric")
    ...     load(path).toarray()
    array([[ 2., -1.,  0.],
           [-1.,  2., -1.],
           [ 0., -1.,  2.]])
    """
    path = _find(os.fspath(name))
    A, b = _read_npz(path) if path.name.endswith(".npz") else (_read_matrix_market(path), None)
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{path} holds a matrix of shape {A.shape}; a system needs a square one")
    if not return_rhs:
        return A
    if b is None:
        b = _read_rhs(path)
    if b is not None and b.shape != A.shape[:1]:
        raise ValueError(f"the right-hand side of {path} has shape {b.shape}; the matrix needs {A.shape[:1]}")
    return A, b


def available() -> list[str]:
    """The names that `load` finds in the folders of the environment variable ``CGOPT_DATA``.

    Returns
    -------
    list of str
        Sorted, without the endings ``.mtx``, ``.mtx.gz`` and ``.npz``; empty when the variable is not set.

    Examples
    --------
    >>> from cgopt.gallery import available, load
    >>> matrices = {name: load(name) for name in available()[:3]}
    """
    stems = {_stem(file.name) for folder in _search_path() for file in folder.iterdir() if _stem(file.name)}
    # X_b is the right-hand side of X, not a matrix.
    return sorted(stem for stem in stems if not (stem.endswith("_b") and stem.removesuffix("_b") in stems))


def pyamg_example(name: str) -> csr_array:
    """One of the example matrices that PyAMG ships, those that are SPD.

    ============  ====  ==================================
    "airfoil"      260  2-D Poisson, P1, around an airfoil
    "bar"          600  3-D linear elasticity
    "knot"         239  Poisson on the surface of a knot
    "unit_cube"    125  3-D Poisson, P1
    ============  ====  ==================================

    The others are left out: "unit_square" is singular, "local_disc_galerkin_diffusion" symmetric only up to
    rounding, "helmholtz_2D" indefinite and "recirc_flow" not symmetric. They are at
    ``pyamg.gallery.load_example``.

    Parameters
    ----------
    name : str
        A name from the table.

    Returns
    -------
    scipy.sparse.csr_array of float64, shape (n, n)
        n is the number in the table.

    Raises
    ------
    ValueError
        If there is no such SPD example; lists those there are and names the nearest.
    ModuleNotFoundError
        If PyAMG is not installed.

    References
    ----------
    N. Bell, L. Olson, J. Schroder and B. Southworth, "PyAMG: algebraic multigrid solvers in Python",
    JOSS 8(87), 2023.

    Examples
    --------
    >>> from importlib.util import find_spec
    >>> from cgopt.gallery import poisson, pyamg_example
    >>> A = pyamg_example("airfoil") if find_spec("pyamg") else poisson((13, 20))
    >>> A.shape
    (260, 260)
    """
    if name in _PYAMG_NOT_SPD:
        raise ValueError(
            f"name={name!r}: that example of PyAMG is {_PYAMG_NOT_SPD[name]}; the SPD ones are {', '.join(_PYAMG_SPD)}"
        )
    if name not in _PYAMG_SPD:
        raise ValueError(
            f"name must be one of {', '.join(_PYAMG_SPD)}, got {name!r}.{nearest_names(str(name), _PYAMG_SPD)}"
        )
    try:
        from pyamg.gallery import load_example
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pyamg_example needs PyAMG: pip install "cgopt[amg]"') from error
    return sorted_csr(load_example(name)["A"])


_PYAMG_SPD = ("airfoil", "bar", "knot", "unit_cube")
_PYAMG_NOT_SPD = {
    "helmholtz_2D": "indefinite",
    "local_disc_galerkin_diffusion": "symmetric only up to rounding",
    "recirc_flow": "not symmetric",
    "unit_square": "singular (no boundary values)",
}


def _search_path() -> list[Path]:
    """The folders of the environment variable, and their subfolders for matrices, as far as they exist."""
    folders = [Path(folder) for folder in os.environ.get(_VARIABLE, "").split(os.pathsep) if folder]
    return [path for folder in folders for path in (folder / sub for sub in _SUBFOLDERS) if path.is_dir()]


def _stem(file_name: str) -> str:
    """`file_name` without the ending of a matrix file; empty for another kind of file."""
    return next((file_name.removesuffix(ending) for ending in _ENDINGS if file_name.endswith(ending)), "")


def _find(name: str) -> Path:
    """The file that `name`, a path or a bare name, stands for."""
    path = Path(name)
    if path.is_file() and _stem(path.name):
        return path
    if path.name != name:  # it names a folder, so it is a path
        if path.is_file():
            raise ValueError(f"{path} is not a matrix file; one ends in {', '.join(_ENDINGS)}")
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(f"there is no file {path}.{nearest_names(path.name, filter(_stem, beside))}")

    candidates = [name] if _stem(name) else [name + ending for ending in _ENDINGS]
    folders = _search_path()
    for folder in folders:
        for candidate in candidates:
            if (folder / candidate).is_file():
                return folder / candidate
    if _VARIABLE not in os.environ:
        where = f"the environment variable {_VARIABLE} is not set; set it to the folders to search"
    elif not folders:
        where = f"the environment variable {_VARIABLE}={os.environ[_VARIABLE]!r} names no folder that exists"
    else:
        where = f"searched what {_VARIABLE} in the environment names: {', '.join(map(str, folders))}"
    near = nearest_names(_stem(name) or name, available())
    raise FileNotFoundError(f"there is no matrix {name!r} ({', '.join(_ENDINGS)}): {where}.{near}")


def _floating(array: Any) -> Any:
    """A vector or matrix with floating-point entries: bool and whole numbers become float64."""
    return array if array.dtype.kind in "fc" else array.astype(np.float64)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Put the file's name, and what it should be, into whatever a reader says of a bad file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, EOFError, BadGzipFile, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not {kind}: {error}") from error


def _read_matrix_market(path: Path) -> csr_array:
    with _reading(path, "a Matrix Market file that can be read"):
        A: csr_array = _floating(sorted_csr(scipy.io.mmread(path)))
    return A


def _read_rhs(path: Path) -> npt.NDArray[Any] | None:
    """The right-hand side that lies beside the matrix file `path`, if any."""
    for sub in _RHS_SUBFOLDERS:
        for ending in _RHS_ENDINGS:
            file = path.parent / sub / (_stem(path.name) + ending)
            if file.is_file():
                if not ending.removesuffix(".gz").endswith(".txt"):
                    return _read_matrix_market(file).toarray().ravel()
                with _reading(file, "a list of numbers"):
                    return np.loadtxt(file).ravel()
    return None


def _read_npz(path: Path) -> tuple[csr_array, npt.NDArray[Any] | None]:
    # allow_pickle=False: a pickle in a file from elsewhere could run any code.
    with _reading(path, "a .npz file of plain arrays"), np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in (*_NPZ_KEYS, "format", "b") if key in file}
    missing = [key for key in _NPZ_KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the arrays {', '.join(missing)} of a sparse matrix")
    order = str(arrays["format"].astype(str)) if "format" in arrays else "csc"
    if order not in ("csc", "csr"):
        raise ValueError(f"{path} holds the format {order!r}; save it as csc or csr")
    with _reading(path, "a sparse matrix"):
        rows, columns = (int(size) for size in arrays["shape"])
        make = csr_array if order == "csr" else sp.csc_array
        stored = make((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(rows, columns))
        stored.check_format(full_check=True)  # an index out of range would read other memory later
    half = rows == columns and sp.triu(stored, 1).nnz == 0
    A = mirror_lower(stored) if half else sorted_csr(stored)
    return _floating(A), _floating(arrays["b"]) if "b" in arrays else None
