"""Matrices on a GPU as operators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..arrays import as_device_array, contiguous, is_csr_tensor, require_device, supported_dtype
from ..kernels import gpu
from ..kernels.layouts import CSR, Dense
from .base import Operator

MOST_DIAGONALS = 64
MOST_ENTRIES = 2**32 - 64  # numbers of 32 bits, and the steps of a warp beyond the last
WORTH_NARROWING = 100_000  # stored values above which reading them in single precision, where that is exact, pays
FORMATS = ("csr", "dia", "dense")

# A matrix whose largest entry lies outside these is multiplied by a power of two, exactly, so that neither its
# products with vectors of size one overflow nor the products' squares vanish.
SAFE_EXPONENT = {"f": 40, "d": 100}  # complex: by the type of its parts


def extreme_exponent(largest: float, dtype: Any) -> int:
    """The power of two that brings extreme entries to about one; 0 for ordinary ones."""
    if not math.isfinite(largest):
        return 0
    exponent = math.frexp(largest)[1]
    return 0 if abs(exponent) <= SAFE_EXPONENT[dtype.char.lower()] else -exponent


class DeviceMatrix(Operator):
    """A matrix on a GPU, in compressed rows, diagonals, or dense.

    Parameters
    ----------
    A : (n, n) CuPy array, CuPy sparse matrix of any format, or CUDA tensor of torch or jax
        Real. A sparse one needs less than 2**32 stored entries.
    format : {"csr", "dia", "dense"}, optional
        Force a layout of a sparse matrix; by default diagonals where they hold it in fewer bytes, rows otherwise.
    name : str
        What errors call it.

    Attributes
    ----------
    layout : Layout
        The arrays that kernels multiply by, on the GPU.
    why : str
        Why this layout.
    norm_bound : float
        Largest row sum of absolute values as stored, which no eigenvalue exceeds.
    bad_row : int
        First row whose diagonal entry is not positive, or -1.
    exponent : int
        The layout holds ``2**exponent * A``; 0 unless the entries are extremely large or small.
    """

    on_device = True
    capturable = True

    def __init__(self, A: Any, *, format: str | None = None, name: str = "A") -> None:
        if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"{name} must be square, got shape {tuple(A.shape)}")
        if format is not None and format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)} or None on the GPU, got {format!r}")
        require_device(name)
        n = int(A.shape[0])
        self.shape = (n, n)
        self.layout: Any
        if gpu.is_sparse(A) or is_csr_tensor(A):
            rows = _rows(A, name)
            self.dtype = rows.data.dtype
            self.layout, self.why = _choose(rows, n, format)
        else:
            if format not in (None, "dense"):
                raise ValueError(f"{name} is a dense array, to which format={format!r} does not apply; leave it open")
            self.layout, self.why = Dense(contiguous(as_device_array(A, name))), "given so"
            self.dtype = self.layout.values.dtype
        values = self.layout[-1]
        if not bool(np.isfinite(values).all()):
            raise ValueError(f"{name} holds NaN or infinity; all entries must be finite")
        self.exponent = extreme_exponent(float(abs(values).max()) if values.size else 0.0, self.dtype)
        if self.exponent:
            field = self.layout._fields[-1]
            self.layout = self.layout._replace(**{field: times_power_of_two(values.astype(self.dtype), self.exponent)})
        self._diagonal, sums = gpu.look(self.layout, n)
        self.norm_bound = float(sums.max()) if n else 0.0
        bad = ~(self._diagonal > 0.0)
        self.bad_row = int(bad.argmax()) if n and bool(bad.any()) else -1
        self._works: Any = None

    @property
    def work(self) -> Any:
        """What products are launched with."""
        if self._works is None:
            self._works = gpu.share(self.shape[0])
        return self._works

    def same_matrix(self, other: Operator) -> bool:
        """Whether the other operator is this one."""
        return self is other

    def multiply_stored(self, x: Any) -> Any:
        """Product with the matrix as stored, ``2**exponent A x``."""
        out = np.empty(self.shape[0], np.result_type(self.dtype, x.dtype), like=x)
        gpu.multiply(self.layout, contiguous(x, out.dtype), out, self.work)
        return out

    def _matvec(self, x: Any, out: Any) -> None:
        gpu.multiply(self.layout, contiguous(x, np.result_type(self.dtype, x.dtype)), out, self.work)
        if self.exponent:
            out[...] = times_power_of_two(out, -self.exponent)

    def _matmat(self, X: Any, out: Any) -> None:
        columns = contiguous(X.T, np.result_type(self.dtype, X.dtype))
        products = np.empty(columns.shape, columns.dtype, like=X)
        gpu.multiply_many(self.layout, columns, products, gpu.share_many(self.shape[0], columns.shape[0]))
        out[...] = times_power_of_two(products, -self.exponent).T

    def stored_diagonal(self) -> Any:
        """The diagonal as stored, ``2**exponent`` times A's, (n,)."""
        return self._diagonal.astype(self.dtype)

    def diagonal(self) -> Any:
        """The diagonal, (n,)."""
        return times_power_of_two(self.stored_diagonal(), -self.exponent)

    def to_host(self) -> Any:
        """The matrix as stored, ``2**exponent A``, in host memory: a NumPy array or a SciPy sparse array."""
        arrays = [a.get() for a in self.layout]
        if isinstance(self.layout, Dense):
            return arrays[0].astype(self.dtype)
        if isinstance(self.layout, CSR):
            indptr, indices, data = arrays
            return sp.csr_array((data.astype(self.dtype), indices.astype(np.int64), indptr), shape=self.shape)
        offsets, data = arrays
        columns = np.zeros_like(data)  # as SciPy stores diagonals: by the column of an entry
        for d, offset in enumerate(offsets):
            at = slice(max(0, -offset), min(self.shape[0], self.shape[0] - offset))
            columns[d, at.start + offset : at.stop + offset] = data[d, at]
        return sp.dia_array((columns, offsets), shape=self.shape).tocsr().astype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the layout's arrays."""
        return sum(int(a.nbytes) for a in self.layout)

    @property
    def format(self) -> str:
        """Name of the layout."""
        return gpu.layout_name(self.layout)

    def __repr__(self) -> str:
        return (
            f"DeviceMatrix(shape={self.shape}, dtype={self.dtype}, format={self.format!r} ({self.why}), "
            f"{self.nbytes / 1e6:.3g} MB)"
        )


def times_power_of_two(a: Any, exponent: int) -> Any:
    """``2**exponent a``, in two steps, since the factor itself may be out of range."""
    half = exponent // 2
    one = a.dtype.type
    return a if exponent == 0 else (a * one(2.0**half)) * one(2.0 ** (exponent - half))


def _rows(A: Any, name: str) -> CSR:
    """The compressed rows of a sparse matrix on the GPU, their numbers in 32 bits without a sign."""
    if is_csr_tensor(A):
        parts = [gpu.from_dlpack(part) for part in (A.crow_indices(), A.col_indices(), A.values())]
    else:
        A = A.tocsr()
        parts = [A.indptr, A.indices, A.data]
    if parts[2].size >= MOST_ENTRIES:
        raise ValueError(f"{name} has {parts[2].size} stored entries; on the GPU there must be fewer than 2**32")
    dtype = supported_dtype(parts[2].dtype, name)
    if dtype.kind == "c":
        raise TypeError(f"{name} is complex, which is solved for in host memory only: pass {name}.get()")
    indptr, indices = (p.view(np.uint32) if p.dtype == np.int32 else p.astype(np.uint32) for p in parts[:2])
    return CSR(indptr, indices, parts[2].astype(dtype, copy=False))


def _choose(A: Any, n: int, format: str | None) -> tuple[Any, str]:
    """The layout of a sparse matrix, and why; values in single precision where that is exact and they are many."""
    if format == "dense":
        dense: Any = np.zeros((n, n), A.data.dtype, like=A.data)
        host = sp.csr_array(tuple(a.get() for a in (A.data, A.indices.view(np.int32), A.indptr)), shape=(n, n))
        dense.set(host.toarray())
        return Dense(dense), "asked for"
    layout, why = A, "asked for" if format == "csr" else "rows"
    if format != "csr" and A.data.size:
        found = gpu.diagonals_of(A, MOST_DIAGONALS)
        if found is None and format == "dia":
            raise ValueError(
                f"format='dia' needs a matrix with at most {MOST_DIAGONALS} diagonals; leave the format open"
            )
        if found is not None and (format == "dia" or found.data.nbytes <= A.data.nbytes + A.indices.nbytes):
            layout, why = found, f"{found.offsets.size} diagonals hold it in fewer bytes than rows"
    if layout.data.dtype == np.float64 and layout.data.size >= WORTH_NARROWING:
        narrow = layout.data.astype(np.float32)
        if bool((narrow == layout.data).all()):
            return layout._replace(data=narrow), f"{why}; values exact in fp32"
    return layout, why
