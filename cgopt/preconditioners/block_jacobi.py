"""Block Jacobi: the inverses of dense blocks on the diagonal."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..arrays import Array
from ..kernels import cpu
from ..kernels.cpu import smoothing
from ..kernels.layouts import CSR
from ..operators import MatrixOperator, as_operator
from .base import Preconditioner

DETECTED = (6, 5, 4, 3, 2)  # block sizes looked for
FILLED = 0.6  # part of the blocks' places that is stored, from which a matrix counts as one of blocks
SAMPLE = 60_000  # rows looked at
UNSTRUCTURED = 8  # rows of a block where the matrix shows none


class BlockJacobi(Preconditioner):
    """The inverse of the block diagonal of A.

    For matrices whose rows come in groups that belong together: the displacements of a node, the species of a
    cell. In comparison with Jacobi's it also makes the solution independent of the basis that is chosen in each block.

    Parameters
    ----------
    A : sparse or dense matrix, or a `MatrixOperator`
        Hermitian; real or complex.
    block_size : int, optional
        Rows of a block, consecutive ones; the last block may be smaller. By default that of 2 to 6 whose blocks are
        mostly full where they are not empty (displacements of a node, for example), and 8 where there is none.

    Attributes
    ----------
    block_size : int
    blocks : (number, block_size, block_size) array
        The inverses.

    Raises
    ------
    ValueError, TypeError
        If a block is not positive definite (A is not then either), or `block_size` is no size.

    References
    ----------
    O. Axelsson, Iterative Solution Methods, Cambridge 1994, section 7.2.

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.elasticity((20, 10))
    >>> M = cgopt.preconditioners.BlockJacobi(A)
    >>> M.block_size
    2
    >>> cgopt.cg(A, np.ones(A.shape[0]), M=M).converged
    True
    """

    def __init__(self, A: Any, block_size: int | None = None) -> None:
        start = time.perf_counter()
        operator = as_operator(A, device=False)
        if not isinstance(operator, MatrixOperator):
            raise TypeError("A must be a matrix: block Jacobi needs its entries, not products with it only")
        self.shape, self.dtype = operator.shape, operator.dtype
        self._exponent = operator.exponent  # the blocks are those of 2^exponent A
        n = self.shape[0]
        rows = operator.rows()
        if block_size is None:
            detected = detect_block_size(rows)
            block_size = detected if detected > 1 else UNSTRUCTURED
        if not isinstance(block_size, (int, np.integer)) or isinstance(block_size, bool) or block_size < 1:
            raise ValueError(f"block_size must be a positive whole number, got {block_size!r}")
        m = self.block_size = min(int(block_size), max(n, 1))
        blocks = np.zeros((-(-n // m), m, m), np.result_type(self.dtype, np.float64))
        smoothing.diagonal_blocks(*rows, blocks)
        self.blocks = invert(blocks).astype(self.dtype)
        self._work = cpu.share_rows(blocks.shape[0], blocks.size)
        self.setup_time = time.perf_counter() - start

    def _matvec(self, x: Array, out: Array) -> None:
        x = np.ascontiguousarray(x, dtype=np.result_type(self.dtype, x))
        y = out if out.flags.c_contiguous and out.dtype == x.dtype else np.empty_like(x)
        cpu.run(smoothing.multiply_blocks, self._work, self.blocks, x, y, self._work)
        if self._exponent:
            y *= 2.0**self._exponent
        if y is not out:
            out[...] = y

    def diagonal(self) -> Array:
        """The diagonal of the inverse blocks, (n,)."""
        entries = np.einsum("bii->bi", self.blocks).real.reshape(-1)[: self.shape[0]]
        return np.ldexp(entries, self._exponent)

    @property
    def nbytes(self) -> int:
        """Bytes of the inverse blocks."""
        return int(self.blocks.nbytes)

    def __repr__(self) -> str:
        return (
            f"BlockJacobi(block_size={self.block_size}, shape={self.shape}, {self.nbytes / 1e6:.3g} MB, "
            f"setup_time={self.setup_time:.2g} s)"
        )


def detect_block_size(A: CSR) -> int:
    """The block size that the pattern of A shows, 1 if none.

    That whose blocks, where they are not empty, are filled best; among nearly equals the largest.
    """
    n = A.indptr.size - 1
    first = max(0, n // 2 - SAMPLE // 2) // 60 * 60  # in the middle, at the start of a block of any size
    last = min(n, first + SAMPLE)
    entries = int(A.indptr[last]) - int(A.indptr[first])
    filled = {
        m: entries / (m * m * smoothing.count_blocks(A.indptr, A.indices, m, first, last))
        for m in DETECTED
        if n % m == 0 and entries > last - first
    }
    enough = max(FILLED, 0.9 * max(filled.values(), default=0.0))
    return next((m for m in DETECTED if filled.get(m, 0.0) >= enough), 1)


def invert(blocks: Array) -> Array:
    """Inverses of Hermitian positive definite blocks, Hermitian to the last bit."""
    roots = np.sqrt(np.einsum("bii->bi", blocks).real)
    scale = np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0.0)
    unit = scale[:, :, None] * blocks * scale[:, None, :]
    try:
        L = np.linalg.cholesky(unit)
    except np.linalg.LinAlgError as error:
        raise ValueError("a diagonal block of A is not positive definite; A must be") from error
    half = np.linalg.inv(L) * scale[:, None, :]
    inverse: Array = half.conj().transpose(0, 2, 1) @ half  # (L L')^-1 = L^-' L^-1
    return (inverse + inverse.conj().transpose(0, 2, 1)) / 2.0
