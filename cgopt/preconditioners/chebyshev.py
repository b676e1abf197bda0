"""Chebyshev polynomials as preconditioners: products with A only, no dot products, the same on any number of cores."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..arrays import Array, kernels_for
from ..kernels import cpu, gpu
from ..kernels.cpu import smoothing
from ..operators import DeviceMatrix, MatrixOperator, as_operator
from .base import Preconditioner, Scratch, real_positive
from .spectrum import ends_of_spectrum

LANCZOS_STEPS = 20


class Chebyshev(Preconditioner):
    r"""A polynomial in A that approximates its inverse on an interval, after scaling to unit diagonal.

    With :math:`\hat A = D^{-1/2} A D^{-1/2}` the preconditioner is :math:`D^{-1/2} q(\hat A) D^{-1/2}`, where
    :math:`1 - \lambda q(\lambda)` is the Chebyshev polynomial of `degree`, scaled to one at zero and least on
    [lower, upper]. Below `lower` too it lies between -1 and 1, so that the preconditioner is positive definite as
    long as no eigenvalue exceeds `upper`.

    An application costs degree - 1 products. Conjugate gradients then make about `degree` times fewer iterations, that
    is about the same number of products: what is saved are dot products and vector updates. It pays where products are
    cheap (stencils) or dot products dear.

    Parameters
    ----------
    A : anything `cgopt.operators.as_operator` takes
        Scaled by its diagonal where it tells it.
    degree : int
        At least 1; 1 is Jacobi's preconditioner.
    interval : (lower, upper), optional
        That of the eigenvalues of :math:`\hat A` to treat. By default the smallest Ritz value of twenty steps of
        Lanczos' method, and a bound of the largest eigenvalue from the same steps.

    Attributes
    ----------
    interval : (float, float)

    Raises
    ------
    ValueError, TypeError
        For a degree or interval that is none, or a diagonal that is not positive.

    References
    ----------
    Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., SIAM 2003, algorithm 12.1. Y. Zhou and R. Li, Linear
    Algebra Appl. 435, 2011 (the bound).

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> A = cgopt.gallery.poisson((60, 60))
    >>> b = np.random.default_rng(0).standard_normal(3600)
    >>> plain = cgopt.cg(A, b, rtol=1e-8)
    >>> result = cgopt.cg(A, b, rtol=1e-8, M=cgopt.preconditioners.Chebyshev(A, degree=4))
    >>> result.iterations < plain.iterations / 3
    True
    """

    def __init__(self, A: Any, degree: int = 4, *, interval: tuple[float, float] | None = None) -> None:
        start = time.perf_counter()
        if not isinstance(degree, (int, np.integer)) or isinstance(degree, bool) or degree < 1:
            raise ValueError(f"degree must be a positive whole number, got {degree!r}")
        self.operator, self.degree = as_operator(A), int(degree)
        self.shape, self.dtype = self.operator.shape, self.operator.dtype
        n = self.shape[0]
        self._exponent = 0  # what is approximated is the inverse of 2^exponent A, as it is stored
        self.on_device, self.capturable = self.operator.on_device, self.operator.capturable
        if isinstance(self.operator, MatrixOperator | DeviceMatrix):
            self._exponent = self.operator.exponent
            diagonal: Array | None = self.operator.stored_diagonal()
        else:
            diagonal = self.operator.diagonal()
        if diagonal is None:
            diagonal = gpu.cupy().ones(n) if self.on_device else np.ones(n)
        diagonal = diagonal if self.on_device else np.asarray(diagonal).real
        if not real_positive(diagonal):
            raise ValueError("the diagonal of A is not positive; A is not positive definite, as it must be")
        single = self.dtype.char in "fF"
        self.inverse_diagonal = (1.0 / diagonal).astype(np.float32 if single else np.float64)
        self._work = cpu.share_rows(n, 4 * n)
        self._scratch = Scratch(4, n, like=self.inverse_diagonal)
        self.interval = self._estimate() if interval is None else check_interval(interval)
        self.setup_time = time.perf_counter() - start

    def _product(self, x: Array, out: Array) -> None:
        """``out = A x``, A as stored."""
        if isinstance(self.operator, MatrixOperator | DeviceMatrix):
            kernels_for(x).multiply(self.operator.layout, x, out, self.operator.work)
        else:
            self.operator.matvec(x, out=out)

    def _estimate(self) -> tuple[float, float]:
        n = self.shape[0]
        if n == 0:
            return 1.0, 1.0
        root = np.sqrt(self.inverse_diagonal.astype(np.float64))

        def scaled(x: Array, out: Array) -> None:
            self._product(root * x, out)
            out *= root

        dtype = np.complex128 if self.dtype.kind == "c" else np.float64
        ends = ends_of_spectrum(scaled, n, LANCZOS_STEPS, dtype, on_device=self.on_device)
        if not ends.smallest > 0.0:
            raise ValueError(f"A is not positive definite: a vector v was met with v'Av = {ends.smallest:.2g} v'D v")
        return ends.smallest, ends.bound

    def _matvec(self, x: Array, out: Array) -> None:
        with self._scratch.lock:
            r, z, d, q = self._scratch.vectors(np.result_type(self.dtype, x.dtype))
            r[...] = x
            self._polynomial(r, z, d, q)
            out[...] = z
        if self._exponent:
            out *= 2.0**self._exponent

    def _polynomial(self, r: Array, z: Array, d: Array, q: Array) -> None:
        """The preconditioner of r, which is overwritten, in z."""
        lower, upper = self.interval
        theta, delta = (upper + lower) / 2.0, (upper - lower) / 2.0
        w, inverse = self._work, self.inverse_diagonal
        real = r.real.dtype.type
        if self.on_device:
            d[...] = real(1.0 / theta) * inverse * r
            z[...] = d
        else:
            cpu.run(smoothing.chebyshev_start, w, inverse, real(1.0 / theta), r, d, z, w)  # z = d = D^-1 r / theta
        sigma = theta / delta if delta > 0.0 else np.inf
        rho = 1.0 / sigma  # rho_0 = 1 / sigma
        for _ in range(self.degree - 1):
            self._product(d, q)  # q = A d
            before, rho = rho, 1.0 / (2.0 * sigma - rho)  # rho = 1 / (2 sigma - rho before)
            a, c = rho * before, 2.0 * rho / delta if delta > 0.0 else 1.0 / theta
            # r -= q,  d = rho (rho before) d + (2 rho / delta) D^-1 r,  z += d
            if self.on_device:
                r -= q
                d[...] = real(a) * d + real(c) * inverse * r
                z += d
            else:
                cpu.run(smoothing.chebyshev_step, w, inverse, real(a), real(c), q, r, d, z, w)

    @property
    def nbytes(self) -> int:
        """Bytes of the inverse diagonal; the matrix is A's own."""
        return int(self.inverse_diagonal.nbytes)

    def __repr__(self) -> str:
        return (
            f"Chebyshev(degree={self.degree}, interval=({self.interval[0]:.3g}, {self.interval[1]:.3g}), "
            f"shape={self.shape}, setup_time={self.setup_time:.2g} s)"
        )


def check_interval(interval: Any) -> tuple[float, float]:
    """The interval as two floats."""
    try:
        lower, upper = (float(end) for end in interval)
    except (TypeError, ValueError) as error:
        raise ValueError(f"interval must be two numbers (lower, upper), got {interval!r}") from error
    if not 0.0 < lower <= upper < np.inf:
        raise ValueError(f"interval must have 0 < lower <= upper, got {interval!r}")
    return lower, upper
