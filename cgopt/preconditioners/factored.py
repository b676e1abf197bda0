"""What preconditioners that factor A share: the factor, and how it is applied."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import cpu
from ..kernels.layouts import CSR, Eisenstat, Factor
from ..operators import MatrixOperator, as_operator
from .base import Preconditioner


class Factored(Preconditioner):
    """``z = C (I + L')^-1 (I + L)^-1 C r``, L strictly lower triangular and C diagonal, by two sweeps.

    Attributes
    ----------
    operator : MatrixOperator
        A.
    factor : Factor
        Of ``2**exponent A``; its `y` and `sums` are empty.
    eisenstat : Eisenstat or None
        The same with A's own entries, for a loop that takes the product with A on the way.
    """

    factor: Factor
    eisenstat: Eisenstat | None = None

    def _take_matrix(self, A: Any) -> CSR:
        """Check A; its rows."""
        operator = as_operator(A, device=False)
        name = type(self).__name__
        if not isinstance(operator, MatrixOperator):
            raise TypeError(f"{name} needs the entries of A, and A is {operator!r}; pass a matrix, or M='jacobi'")
        if operator.dtype.kind == "c":
            raise TypeError(f"{name} is for real matrices, and A is complex; use Jacobi or Chebyshev")
        if operator.bad_row >= 0:
            raise ValueError(
                f"the diagonal entry in row {operator.bad_row} of A is not positive; {name} needs a positive definite A"
            )
        self.operator, self.shape, self.dtype = operator, operator.shape, operator.dtype
        self.exponent = operator.exponent
        return operator.rows()

    @property
    def parts(self) -> int:
        """Independent parts, each for a thread."""
        return self.factor.parts.size - 1

    @property
    def working_dtype(self) -> np.dtype[Any]:
        """The type of the factor's entries."""
        return self.factor.data.dtype

    def with_workspace(self, dtype: np.dtype[Any], *, take_product: bool = False) -> Factor | Eisenstat:
        """The factor with vectors to work in; in Eisenstat's form on request."""
        chosen = self.eisenstat if take_product else self.factor
        assert chosen is not None
        n, sums = self.shape[0], np.zeros((self.parts + 1, cpu.SUMS))
        vectors = {field: np.zeros(n, dtype) for field in ("y", "q") if field in chosen._fields}
        return chosen._replace(**vectors, sums=sums)

    def _matvec(self, x: Array, out: Array) -> None:
        if np.iscomplexobj(x):
            out.real, out.imag = self._apply(x.real), self._apply(x.imag)
        else:
            out[...] = self._apply(x)

    def _apply(self, x: Array) -> Array:
        r = np.array(x, np.result_type(x, self.dtype))
        z, M, w = np.empty_like(r), self.with_workspace(r.dtype), self.operator.work
        cpu.run(cpu.sweeps.update_residual_factor, w, M, 0.0, r, r, z, w)
        return np.ldexp(z, self.exponent) if self.exponent else z

    @property
    def nbytes(self) -> int:
        """Bytes of the factor."""
        arrays = {id(a): a.nbytes for a in (*self.factor, *(self.eisenstat or ()))}
        return int(sum(arrays.values()))


def triangle_rows(A: CSR, order: Array, *, upper: bool) -> tuple[Array, Array, Array, Array]:
    """Diagonal of ``P A P'``, and its strict lower or upper triangle by rows, columns ascending."""
    n, most = order.size, A.data.size
    inverse = np.empty_like(order)
    inverse[order] = np.arange(n, dtype=order.dtype)
    diagonal, ptr = np.empty(n, A.data.dtype), np.zeros(n + 1, A.indptr.dtype)
    # room for all entries, whatever the pattern; what is not written to takes no memory
    columns, values = np.empty(most, A.indices.dtype), np.empty(most, A.data.dtype)
    cpu.factorization.triangle_rows(*A, order, inverse, upper, diagonal, ptr, columns, values)
    count = int(ptr[n])
    return diagonal, ptr, columns[:count], values[:count]


def transposed(start: Array, stop: Array, rows: Array, values: Array, ptr_dtype: Any) -> tuple[Array, Array, Array]:
    """Rows, columns ascending, of the matrix whose column j lies from ``start[j]`` to ``stop[j]``."""
    n, count = start.size, int((stop - start).sum())
    out = (np.zeros(n + 1, ptr_dtype), np.empty(count, rows.dtype), np.empty(count, values.dtype))
    cpu.factorization.transpose(start, stop, rows, values, *out)
    return out


def row_lengths(ptr: Array) -> Array:
    """Entries in each row."""
    lengths: Array = np.diff(ptr.view(f"i{ptr.itemsize}"))
    return lengths
