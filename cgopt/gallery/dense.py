"""Dense matrices whose difficulty is known: by their eigenvalues, by their kernel, or by their fame."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.spatial.distance import pdist, squareform

from cgopt.gallery._common import (
    FLOAT_DTYPES,
    Seed,
    float_dtype,
    generator,
    nearest_names,
    real_number,
    whole_number,
)

_Floats = npt.NDArray[np.float64]


def prescribed_spectrum(
    eigenvalues: npt.ArrayLike, *, dtype: npt.DTypeLike = np.float64, rng: Seed = None
) -> npt.NDArray[Any]:
    r"""Dense Hermitian matrix :math:`Q\, \mathrm{diag}(\lambda)\, Q^H`, Q uniform on the orthogonal group.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,)
        Real and finite. The matrix is SPD when all are positive; a negative one makes a test of negative
        curvature.
    dtype : {float64, float32, complex128, complex64}, default float64
        Type of the entries; with a complex type Q is uniform on the unitary group. The matrix is formed in
        double precision and rounded, so the eigenvalues are kept to about the unit roundoff of `dtype` times
        the largest.
    rng : None, int or numpy.random.Generator
        Where Q comes from.

    Returns
    -------
    ndarray of `dtype`, shape (n, n)
        Exactly Hermitian.

    Raises
    ------
    ValueError, TypeError
        If `eigenvalues` is not a vector of finite real numbers, or another argument is not as above.

    References
    ----------
    F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices AMS 54, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from cgopt.gallery import prescribed_spectrum
    >>> A = prescribed_spectrum([1.0, 2.0, 5.0], rng=3)
    >>> np.linalg.eigvalsh(A).round(12)
    array([1., 2., 5.])
    """
    given = np.asarray(eigenvalues)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"eigenvalues must be real numbers, got an array of {given.dtype}")
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"eigenvalues must be a vector of at least one number, got shape {given.shape}")
    spectrum = given.astype(np.float64)
    if not np.isfinite(spectrum).all():
        raise ValueError("eigenvalues must be finite; remove NaN and inf")
    wanted = float_dtype(dtype, allowed=FLOAT_DTYPES)

    rng = generator(rng)
    square = (spectrum.size, spectrum.size)
    normal: npt.NDArray[Any] = rng.standard_normal(square)
    if wanted.kind == "c":
        normal = normal + 1j * rng.standard_normal(square)
    # Mezzadri also corrects the signs (phases) of the columns, which in Q diag(lambda) Q^H cancel.
    Q, _ = scipy.linalg.qr(normal)
    A = (Q * spectrum) @ Q.conj().T
    hermitian: npt.NDArray[Any] = ((A + A.conj().T) / 2).astype(wanted)
    return hermitian


def strakos_spectrum(n: int = 24, low: float = 0.1, high: float = 100.0, rho: float = 0.65) -> _Floats:
    r"""Strakos's spectrum, on which rounding delays conjugate gradients far beyond n iterations.

    .. math:: \lambda_i = \lambda_1 + \frac{i - 1}{n - 1} (\lambda_n - \lambda_1)\, \rho^{\,n - i}

    For `rho` well below 1 most eigenvalues gather at the low end, and the few large ones, found early, are
    found again and again.

    Parameters
    ----------
    n : int, default 24
        Number of eigenvalues, at least 2.
    low, high : float, default 0.1 and 100
        The smallest and the largest, 0 < `low` < `high`.
    rho : float, default 0.65
        In (0, 1]; with 1 the eigenvalues are equidistant.

    Returns
    -------
    ndarray of float64, shape (n,)
        Ascending. `prescribed_spectrum` makes a matrix of them; ``numpy.diag`` does as well.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of the range given above.

    References
    ----------
    Z. Strakos, "On the real convergence rate of the conjugate gradient method", Linear Algebra Appl. 154-156,
    1991. The defaults are those of the follow-up, A. Greenbaum and Z. Strakos, "Predicting the behavior of
    finite precision Lanczos and conjugate gradient computations", SIAM J. Matrix Anal. Appl. 13, 1992.

    Examples
    --------
    >>> from cgopt.gallery import strakos_spectrum
    >>> strakos_spectrum(4, low=1.0, high=10.0, rho=0.5)
    array([ 1.  ,  1.75,  4.  , 10.  ])
    """
    n = whole_number("n", n, minimum=2)
    low = real_number("low", low, above=0.0)
    high = real_number("high", high, above=low)
    rho = real_number("rho", rho, above=0.0)
    if rho > 1:
        raise ValueError(f"rho must be at most 1, got {rho:g}; beyond, the values do not ascend")
    i = np.arange(1, n + 1)
    spectrum: _Floats = low + (i - 1) / (n - 1) * (high - low) * rho ** (n - i)
    spectrum[-1] = high  # which low + (high - low) may miss by a rounding
    return spectrum


def kernel_matrix(
    points: int | npt.ArrayLike,
    *,
    length_scale: float = 0.2,
    nugget: float = 1e-6,
    kernel: str = "rbf",
    rng: Seed = None,
) -> _Floats:
    r"""Covariance matrix of a Gaussian process: a dense SPD matrix with fast decaying eigenvalues.

    :math:`K_{ij} = k(|x_i - x_j| / \ell) + \mathrm{nugget}\, \delta_{ij}` with one of the kernels

    ============  =======================================================
    "rbf"         :math:`\exp(-r^2 / 2)`
    "matern12"    :math:`\exp(-r)`
    "matern32"    :math:`(1 + \sqrt 3 r) \exp(-\sqrt 3 r)`
    "matern52"    :math:`(1 + \sqrt 5 r + 5 r^2 / 3) \exp(-\sqrt 5 r)`
    ============  =======================================================

    Parameters
    ----------
    points : int or array_like, shape (n,) or (n, dimension)
        The points x_i, or how many to draw uniformly from the unit square.
    length_scale : float, default 0.2
        The distance ell over which the process changes, positive.
    nugget : float, default 1e-6
        Variance of the noise, relative to 1 for the process; positive. No eigenvalue is smaller, up to
        rounding: below about n * 2.2e-16 the "rbf" matrix is not definite in floating point.
    kernel : str, default "rbf"
        See the table; the smoother, the worse the condition.
    rng : None, int or numpy.random.Generator
        Where the points come from when `points` is a number.

    Returns
    -------
    ndarray of float64, shape (n, n)
        The diagonal is 1 + `nugget`.

    Raises
    ------
    ValueError, TypeError
        If `points` is neither a positive whole number nor finite coordinates, the kernel is unknown, or
        another argument is out of the range given above.

    References
    ----------
    C. Rasmussen and C. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, eqs. 4.9 to 4.18.

    Examples
    --------
    >>> from cgopt.gallery import kernel_matrix
    >>> kernel_matrix([0.0, 1.0, 3.0], length_scale=1.0, nugget=1e-3, kernel="matern12").round(3)
    array([[1.001, 0.368, 0.05 ],
           [0.368, 1.001, 0.135],
           [0.05 , 0.135, 1.001]])
    """
    if kernel not in _KERNELS:
        near = nearest_names(str(kernel), _KERNELS)
        raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}.{near}")
    length_scale = real_number("length_scale", length_scale, above=0.0)
    nugget = real_number("nugget", nugget, above=0.0)
    if np.ndim(points) == 0:
        coordinates = generator(rng).random((whole_number("points", points), 2))
    else:
        coordinates = np.asarray(points)
        if coordinates.dtype.kind not in "fiu":
            raise TypeError(f"points must be a number or real coordinates, got {coordinates.dtype}")
        if coordinates.ndim > 2 or coordinates.size == 0:
            raise ValueError(f"points must have shape (n,) or (n, dimension), got {coordinates.shape}")
        coordinates = coordinates.reshape(len(coordinates), -1).astype(np.float64)
        if not np.isfinite(coordinates).all():
            raise ValueError("points must be finite; remove NaN and inf")
    K: _Floats = squareform(_KERNELS[kernel](pdist(coordinates) / length_scale))
    np.fill_diagonal(K, 1 + nugget)
    return K


def hilbert(n: int) -> _Floats:
    """Hilbert's matrix, 1 / (i + j - 1) for i, j = 1, ..., n: SPD, with a condition number near exp(3.5 n).

    From n = 12 on the smallest eigenvalue is below the rounding of the largest: to CG it is singular.

    Parameters
    ----------
    n : int
        Order of the matrix.

    Returns
    -------
    ndarray of float64, shape (n, n)

    Raises
    ------
    ValueError, TypeError
        If `n` is not a positive whole number.

    References
    ----------
    D. Hilbert, "Ein Beitrag zur Theorie des Legendre'schen Polynoms", Acta Math. 18, 1894.

    Examples
    --------
    >>> from cgopt.gallery import hilbert
    >>> hilbert(2)
    array([[1.        , 0.5       ],
           [0.5       , 0.33333333]])
    """
    H: _Floats = scipy.linalg.hilbert(whole_number("n", n))
    return H


# Of r, the distance over the length scale.
_KERNELS: dict[str, Callable[[_Floats], _Floats]] = {
    "rbf": lambda r: np.exp(-(r**2) / 2),
    "matern12": lambda r: np.exp(-r),
    "matern32": lambda r: (1 + math.sqrt(3) * r) * np.exp(-math.sqrt(3) * r),
    "matern52": lambda r: (1 + math.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-math.sqrt(5) * r),
}
