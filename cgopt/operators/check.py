"""Checks of an operator by products with a few vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ..arrays import Array, real_view
from ..kernels import cpu, gpu
from .base import Operator
from .device import DeviceMatrix, extreme_exponent, times_power_of_two
from .matrices import MatrixOperator


def probe_vectors(n: int, dtype: np.dtype, count: int = 2) -> Array:
    """Fixed pseudo-random vectors, rows of a (count, n) array: the same for the same n, on every machine."""
    out = np.empty((count, n), dtype)
    for j in range(count):
        if dtype.kind == "c":
            cpu.fill_probe(out[j].real, 2 * j + 1)
            cpu.fill_probe(out[j].imag, 2 * j + 1_000_003)
        else:
            cpu.fill_probe(out[j], j + 1)
    return out


def asymmetry(A: Operator) -> tuple[float, float, int]:
    """How far A is from Hermitian, by one pair of vectors.

    Returns
    -------
    relative : float
        ``|Re v'Au - Re u'Av| / (|A u| |v| + |A v| |u|) * sqrt(n)``: about ``|A - A'|_F / |A|_F``, since the form of a
        random pair has the size of a Frobenius norm. Rounding gives some units of roundoff.
    norm : float
        ``max |A u| / |u|`` times ``2**exponent``: an estimate of the size of A.
    exponent : int
        0, unless the products are so large or small that their squares would leave the range.
    """
    n = A.shape[0]
    u, v = probe_vectors(n, A.dtype)
    product = A.multiply_stored if isinstance(A, MatrixOperator | DeviceMatrix) else A.matvec
    dot = dot_product(n, A.on_device)
    if A.on_device:
        u, v = gpu.cupy().asarray(u), gpu.cupy().asarray(v)

    with np.errstate(all="ignore"):
        Au, Av = product(u), product(v)
        exponent = extreme_exponent(float(np.max(np.abs(real_view(Au)))), A.dtype)
        if exponent:
            Au, Av = (times_power_of_two(w, exponent) for w in (Au, Av))
        norm_u, norm_v, norm_Au, norm_Av = (float(np.sqrt(dot(w, w))) for w in (u, v, Au, Av))
        gap = abs(dot(v, Au) - dot(u, Av))
        scale = norm_Au * norm_v + norm_Av * norm_u
    norm = max(norm_Au / norm_u, norm_Av / norm_v)
    if not np.isfinite(scale):
        return float("nan"), norm, exponent
    return (gap / scale * float(np.sqrt(n)) if scale > 0.0 else 0.0), norm, exponent


def dot_product(n: int, on_device: bool = False) -> Callable[[Array, Array], float]:
    """The dot product of vectors of length n, by our own kernels.

    (BLAS may use threads that a fork elsewhere in the process takes away.)
    """
    if on_device:
        return functools.partial(gpu.dot, w=gpu.share(n))
    work = cpu.share_rows(n, 4 * n)
    return lambda a, b: float(cpu.dot[0](a, b, work))


def require_hermitian(A: Operator, name: str) -> tuple[float, int]:
    """Refuse an operator that is not Hermitian; return norm and exponent as `asymmetry` does.

    Raises
    ------
    ValueError
        If the asymmetry is above the square root of the unit roundoff, and ten times the operator's own error.
    """
    relative, norm, exponent = asymmetry(A)
    if np.isnan(relative):
        raise ValueError(f"{name} returned NaN or infinity for a finite vector; its products must be finite")
    computed_in = getattr(A, "working_dtype", A.dtype)  # some preconditioners work in fp32 for fp64 vectors
    if relative > max(np.sqrt(np.finfo(computed_in).eps), 10.0 * A.product_error):
        kind, adjoint = ("Hermitian", "conj().T") if A.dtype.kind == "c" else ("symmetric", "T")
        raise ValueError(
            f"{name} is not {kind}: for two random vectors u'({name} v) and v'({name} u) differ by {relative:.1e} of "
            f"their size. Conjugate gradients need a {kind} matrix: solve with another method, or use "
            f"({name} + {name}.{adjoint}) / 2 if the difference is an artefact; check=False switches this test off"
        )
    return norm, exponent
