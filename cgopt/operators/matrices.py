"""Matrices, functions and foreign objects as operators."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..arrays import (
    Array,
    as_array,
    as_device_array,
    from_foreign,
    is_csr_tensor,
    is_foreign,
    on_device,
    real_view,
    supported_dtype,
)
from ..kernels import cpu
from ..kernels.layouts import CSR, DIA, Dense, HalfCSR, HalfDIA, Layout, SortedCSR, Work
from . import formats
from .base import Operator
from .device import DeviceMatrix, extreme_exponent


def _scan(layout: CSR | Dense) -> Any:
    return cpu.scan_dense(layout.values) if isinstance(layout, Dense) else cpu.scan_csr(*layout)


def _row_of(layout: CSR | Dense, entry: int) -> int:
    if isinstance(layout, Dense):
        return entry // layout.values.shape[1]
    return int(np.searchsorted(layout.indptr, entry, side="right")) - 1


class MatrixOperator(Operator):
    """A matrix in the storage layout that suits it.

    Parameters
    ----------
    A : NumPy array, SciPy sparse array or matrix of any format
    format : {"csr", "sorted", "half_csr", "dia", "half_dia", "dense", "float32"}, optional
        Force a layout of a sparse matrix; by default the cheapest is chosen. "float32" (dense ones too) chooses freely,
        and lets a solve multiply by values rounded to single precision; the operator itself holds all digits.
    name : str
        What errors call it.

    Attributes
    ----------
    layout : Layout
        The arrays that kernels multiply by.
    why : str
        Why this layout.
    wanted : str or None
        The layout that was asked for.
    norm_bound : float
        Largest row sum of absolute values as stored, which no eigenvalue exceeds.
    bad_row : int
        First row whose diagonal entry is not positive, or -1.
    exponent : int
        The layout holds ``2**exponent * A``; 0 unless the entries are extremely large or small.
    symmetric : bool
        Whether it was seen to be symmetric to the last bit, which is looked for in sparse real matrices.
    half : HalfCSR or None
        The lower triangle, where a solver's loop is faster with it.
    """

    layout: Dense | CSR | SortedCSR | DIA | HalfDIA
    half: HalfCSR | None

    def __init__(self, A: Any, *, format: str | None = None, name: str = "A") -> None:
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"{name} must be square, got shape {A.shape}; for least squares pass {name}.T @ {name}")
        self.shape = (int(A.shape[0]), int(A.shape[1]))
        self.exponent, self.why, self.wanted = 0, "given so", format
        self.symmetric, self.half = False, None
        self._diagonal: Array | None = None
        self._threads = cpu.get_num_threads()
        self._source = weakref.ref(A)
        if sp.issparse(A):
            self.dtype = supported_dtype(A.dtype, name)
            rows = A if A.format == "csr" else A.tocsr()
            self._store_sparse(
                formats.csr_arrays(rows if rows.dtype == self.dtype else rows.astype(self.dtype)), format, name
            )
        else:
            if format not in (None, "dense", "float32"):
                raise ValueError(f"{name} is a dense array, to which format={format!r} does not apply; leave it open")
            values = as_array(A, name)
            self.dtype = values.dtype
            if values.flags.f_contiguous and self.dtype.kind == "f":
                values = values.T  # Hermitian and real: the transpose is the matrix, and is stored by rows
            self.layout = self._scanned(Dense(np.ascontiguousarray(values)), name)

    def _store_sparse(self, rows: CSR, format: str | None, name: str) -> None:
        """Choose a layout for compressed rows, by one look at the pattern and one at the values."""
        pattern, found = formats.look(rows, format)
        # The largest entry lies between the largest sum of a row and its n-th part.
        if found is None or self._extreme(found.norm) or self._extreme(found.norm / max(1, self.shape[0])):
            rows = self._scanned(rows, name)
            pattern, found = formats.look(rows, format) if self.exponent else (pattern, found)
        if found is not None:
            self.norm_bound, self.bad_row, self._diagonal = float(found.norm), int(found.bad_row), found.diagonal
            self.symmetric = True
        self.layout, self.why = formats.choose(rows, format, pattern, found)
        if found is not None and found.half is not None and isinstance(self.layout, CSR):
            kind = self.layout.data.dtype
            self.half = found.half._replace(
                data=found.half.data.astype(kind, copy=False), diagonal=found.diagonal.astype(kind, copy=False)
            )

    def _extreme(self, size: float) -> int:
        """The power of two by which a matrix with entries of that size is to be multiplied."""
        return extreme_exponent(size, np.dtype(np.float32) if self.wanted == "float32" else self.dtype)

    def _scanned(self, layout: Any, name: str) -> Any:
        """The layout, times a power of two where its entries are extreme; what is finite, and how large, is noted.

        Raises
        ------
        ValueError
            If an entry is not finite.
        """
        norm, largest, bad_row, bad_entry = _scan(layout)
        if bad_entry >= 0:
            raise ValueError(
                f"{name} holds NaN or infinity, first in row {_row_of(layout, bad_entry)}; all must be finite"
            )
        self.exponent = self._extreme(largest)
        if self.exponent:
            field = "values" if isinstance(layout, Dense) else "data"
            stored = np.ascontiguousarray(getattr(layout, field))
            layout = layout._replace(**{field: np.ldexp(real_view(stored), self.exponent).view(stored.dtype)})
            norm = _scan(layout)[0]
        self.norm_bound, self.bad_row = float(norm), int(bad_row)
        return layout

    def same_matrix(self, other: Operator) -> bool:
        """Whether the other operator was made from the very same matrix."""
        if self is other or not isinstance(other, MatrixOperator):
            return self is other
        return self._source() is not None and self._source() is other._source()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_source"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._source = weakref.ref(self)

    @functools.cached_property
    def work(self) -> Work:
        """How products share out the rows."""
        return cpu.share_rows(*self.shares, threads=self._threads)

    @property
    def shares(self) -> tuple[int, int, Any]:
        """Rows, entries and row pointers: what chunks of equal work are cut by."""
        n, layout = self.shape[0], self.layout
        if isinstance(layout, Dense):
            return n, n * n, None
        if isinstance(layout, HalfDIA):  # each entry off the main diagonal stands for two
            return n, 2 * int(layout.data.size) + n, None
        return n, int(layout.data.size), None if isinstance(layout, DIA) else layout.indptr

    def _unscale(self, out: Array) -> None:
        if self.exponent:
            out[...] = np.ldexp(real_view(np.ascontiguousarray(out)), -self.exponent).view(out.dtype)

    def multiply_stored(self, x: Array) -> Array:
        """Product with the matrix as stored, ``2**exponent A x``: in range for x of size one."""
        x = np.ascontiguousarray(x, dtype=np.result_type(x, self.dtype))
        out = np.empty_like(x)
        cpu.multiply(self.layout, x, out, self.work)
        return out

    def _matvec(self, x: Array, out: Array) -> None:
        cpu.multiply(self.layout, np.ascontiguousarray(x, dtype=np.result_type(x, self.dtype)), out, self.work)
        self._unscale(out)

    def _matmat(self, X: Array, out: Array) -> None:
        rows = np.ascontiguousarray(X.T, dtype=np.result_type(X, self.dtype))
        product = np.empty_like(rows)
        n, entries, indptr = self.shares
        cpu.multiply_many(self.layout, rows, product, cpu.share_rows(n, entries, indptr, columns=rows.shape[0]))
        out[...] = product.T
        self._unscale(out)

    def for_loop(self) -> Layout:
        """What the loop for one right-hand side multiplies by, which takes the matrix to be symmetric.

        Raises
        ------
        ValueError
            If half of a matrix is wanted that is not exactly symmetric.
        """
        if self.wanted == "half_csr" and self.half is None:
            raise ValueError(
                "format='half_csr' needs a real, exactly symmetric matrix with sorted rows; use (A + A.T) / 2 and "
                "A.sort_indices(), or format='csr'"
            )
        return self.half if self.half is not None else formats.for_loop(self.layout)

    def stored_diagonal(self) -> Array:
        """The diagonal as stored, ``2**exponent`` times A's, (n,)."""
        if self._diagonal is not None:
            return self._diagonal.copy()
        stored: Array = cpu.diagonal(self.layout, self.shape[0])
        return stored.astype(self.dtype, copy=False)

    def rows(self) -> CSR:
        """All entries as stored, ``2**exponent`` times A's, in compressed rows and A's own type."""
        out = formats.to_csr(self.layout)
        return out._replace(data=out.data.astype(self.dtype, copy=False))

    def diagonal(self) -> Array:
        """The diagonal, (n,)."""
        unit = self.stored_diagonal()
        self._unscale(unit)
        return unit

    @property
    def nbytes(self) -> int:
        """Bytes of the layout's arrays."""
        return sum(int(a.nbytes) for a in self.layout)

    @property
    def format(self) -> str:
        """Name of the layout."""
        return cpu.layout_name(self.layout)

    def __repr__(self) -> str:
        return (
            f"MatrixOperator(shape={self.shape}, dtype={self.dtype}, format={self.format!r} ({self.why}), "
            f"{self.nbytes / 1e6:.3g} MB)"
        )


class FunctionOperator(Operator):
    """A Python function ``v -> A v`` as an operator.

    Parameters
    ----------
    function : callable
        Takes an (n,) array and returns one.
    n : int
    dtype : dtype
        Of the products.
    many : callable, optional
        The same for (n, k) arrays.
    on_device : bool
        Whether the function takes and returns arrays on the GPU: it is given CuPy arrays.
    capturable : bool
        See `Operator`.
    """

    exponent = 0

    def __init__(
        self,
        function: Callable[[Array], Any],
        n: int,
        dtype: Any = np.float64,
        *,
        many: Callable[[Array], Any] | None = None,
        diagonal: Any = None,
        name: str = "A",
        on_device: bool = False,
        capturable: bool = False,
    ) -> None:
        self.function, self.many, self.name = function, many, name
        self.on_device, self.capturable = on_device, capturable
        self.shape, self.dtype = (int(n), int(n)), supported_dtype(dtype, name)
        self._diagonal = diagonal

    def _take(self, y: Any, out: Array, what: str) -> None:
        if self.on_device:
            if not on_device(y):
                raise TypeError(
                    f"{self.name} must return an array on the GPU for one on the GPU, got {type(y).__name__}"
                )
            y = as_device_array(y, f"the product of {self.name}")
        else:
            if is_foreign(y):
                y = from_foreign(y, f"the product of {self.name}")
            y = np.asarray(y)
        if y.shape != out.shape:
            if y.size != out.size or y.ndim == 0:
                raise ValueError(
                    f"{self.name} must map an array of shape {out.shape} to the same shape, got {y.shape} {what}"
                )
            y = y.reshape(out.shape)
        if y.dtype.kind == "c" and out.dtype.kind != "c":
            raise TypeError(f"{self.name} returned complex values for a real vector; pass b as a complex array")
        out[...] = y

    def _matvec(self, x: Array, out: Array) -> None:
        self._take(self.function(x), out, f"from {self.function!r}")

    def _matmat(self, X: Array, out: Array) -> None:
        if self.many is None:
            super()._matmat(X, out)
        else:
            self._take(self.many(X), out, f"from {self.many!r}")

    def diagonal(self) -> Array | None:
        """The diagonal, where the wrapped object tells it."""
        if self._diagonal is None:
            return None
        known = self._diagonal() if callable(self._diagonal) else self._diagonal
        return as_device_array(known, "the diagonal") if self.on_device else np.asarray(known)

    def __repr__(self) -> str:
        what = getattr(self.function, "__qualname__", type(self.function).__name__)
        return f"FunctionOperator({what}, shape={self.shape}, dtype={self.dtype})"


def as_operator(
    A: Any,
    *,
    n: int | None = None,
    dtype: Any = None,
    format: str | None = None,
    name: str = "A",
    device: bool | None = None,
) -> Operator:
    """Anything that can be multiplied by, as an operator.

    Parameters
    ----------
    A : array, sparse matrix, LinearOperator, object with ``matvec`` and ``shape``, callable, or tensor
        Dense: NumPy arrays, nested lists, and tensors of libraries that speak DLPack (torch, jax), which are not
        copied. Sparse: SciPy arrays and matrices of any format, torch sparse CSR tensors. On a GPU: CuPy arrays, CuPy's
        sparse matrices, tensors.
    n : int, optional
        The size, for a plain callable, which does not tell.
    dtype : dtype, optional
        Of the products of something that does not tell.
    format : str, optional
        Force a storage layout of a sparse matrix.
    name : str
        What errors call it.
    device : bool, optional
        Whether a function, or an object with ``matvec``, multiplies arrays on the GPU. Arrays and matrices tell
        themselves, and so may an object by an attribute ``on_device``; those on the GPU are refused if this is False.

    Returns
    -------
    Operator

    Raises
    ------
    TypeError, ValueError
        Naming the argument and the remedy.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> cgopt.operators.as_operator(lambda v: 2 * v, n=3) @ np.ones(3)
    array([2., 2., 2.])
    """
    if device is False and (on_device(A) or getattr(A, "on_device", False)):
        raise TypeError(
            f"{name} is on a device, and what it is used with, or what uses it, is in host memory; bring {name} there"
        )
    if isinstance(A, Operator):
        return A
    given = sp.issparse(A) or isinstance(A, (np.ndarray, list, tuple)) or is_foreign(A) or hasattr(A, "crow_indices")
    given = given or on_device(A)
    if format is not None and not given:
        raise ValueError(f"format={format!r} is for sparse matrices, and {name} is a {type(A).__name__}; leave it open")
    if isinstance(A, type):
        raise TypeError(f"{name} is the class {A.__name__}, not an object of it")
    if sp.issparse(A) or isinstance(A, np.ndarray):
        return MatrixOperator(A, format=format, name=name)
    if on_device(A):
        return DeviceMatrix(A, format=format, name=name)
    if is_csr_tensor(A):
        parts = [from_foreign(part, name) for part in (A.values(), A.col_indices(), A.crow_indices())]
        return MatrixOperator(sp.csr_array(tuple(parts), shape=tuple(A.shape)), format=format, name=name)
    if is_foreign(A):
        return MatrixOperator(from_foreign(A, name), format=format, name=name)
    if hasattr(A, "matvec") and hasattr(A, "shape"):
        shape = tuple(A.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{name} must be square, got shape {shape}")
        own = getattr(A, "dtype", None)
        return FunctionOperator(
            A.matvec,
            shape[0],
            own if own is not None else dtype if dtype is not None else np.float64,
            many=getattr(A, "matmat", None),
            diagonal=getattr(A, "diagonal", None),
            name=name,
            on_device=bool(getattr(A, "on_device", False) if device is None else device),
            capturable=bool(getattr(A, "capturable", False)),
        )
    if callable(A):
        if n is None:
            raise TypeError(f"{name} is a function, which does not tell its size: pass n")
        kind = np.float64 if dtype is None else dtype
        return FunctionOperator(A, n, kind, name=name, on_device=bool(device))
    if isinstance(A, (list, tuple)):
        try:
            values = np.asarray(A)
        except ValueError as error:
            raise ValueError(f"{name} is a ragged list; a square array is wanted") from error
        if values.dtype.kind != "O" and values.ndim == 2:
            return MatrixOperator(values, format=format, name=name)
    raise TypeError(
        f"{name} of type {type(A).__name__} cannot be multiplied by; pass a NumPy array, a SciPy sparse matrix, "
        "a LinearOperator, a tensor, an object with matvec and shape, or a function v -> A v"
    )
