"""What CG's own coefficients tell of the matrix and of the error.

CG and Lanczos build the same tridiagonal matrix (Golub and Van Loan 2013, section 11.3.5; Meurant 2006): with step
lengths alpha and ratios beta,

    T[k, k] = 1 / alpha[k] + beta[k-1] / alpha[k-1],    T[k, k+1] = sqrt(beta[k]) / alpha[k],

whose eigenvalues (Ritz values) approach those of A (of M A when preconditioned) from within.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array


def tridiagonal(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """Diagonal and off-diagonal of Lanczos' matrix from CG's coefficients.

    Parameters
    ----------
    alpha, beta : (m,) arrays
        Step lengths, and the ratios that followed them.

    Returns
    -------
    diagonal : (m,) array
    off_diagonal : (m - 1,) array
    """
    diagonal = 1.0 / alpha
    diagonal[1:] += beta[:-1] / alpha[:-1]
    return diagonal, np.sqrt(beta[:-1]) / alpha[:-1]


def longest_run(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """The longest stretch between restarts (which are where beta is zero); restarted directions share no T."""
    ends = np.append(np.flatnonzero(beta == 0.0) + 1, alpha.size)
    starts = np.append(0, ends[:-1])
    longest = int(np.argmax(ends - starts))
    piece = slice(int(starts[longest]), int(ends[longest]))
    return alpha[piece], beta[piece]


def ritz_values(alpha: Array, beta: Array, *, extreme: bool = False) -> Array:
    """Ritz values in rising order; only the smallest and the largest if `extreme`.

    Returns
    -------
    (m,) or (2,) array; empty when there was no iteration.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    alpha, beta = longest_run(alpha, beta)
    if alpha.size == 0:
        return np.empty(0)
    diagonal, off = tridiagonal(alpha, beta)
    if diagonal.size == 1:
        return diagonal[[0, 0]] if extreme else diagonal
    scale = float(np.max(diagonal))  # LAPACK's bisection squares the off-diagonal
    if not extreme:
        values: Array = eigvalsh_tridiagonal(diagonal / scale, off / scale) * scale
        return values
    last = diagonal.size - 1
    ends = [
        eigvalsh_tridiagonal(diagonal / scale, off / scale, select="i", select_range=(i, i))[0] * scale
        for i in (0, last)
    ]
    return np.array(ends)


def condition_estimate(alpha: Array, beta: Array) -> float:
    """Ratio of the extreme Ritz values: a lower bound of the condition number, NaN without an iteration."""
    ends = ritz_values(alpha, beta, extreme=True)
    if ends.size == 0:
        return float("nan")
    return float(ends[1] / ends[0]) if ends[0] > 0.0 else float("inf")


def error_lower_bound(alpha: Array, rz: Array, delay: int = 4) -> float:
    """Lower bound of the error's A-norm `delay` iterations before the end.

    Hestenes and Stiefel 1952, theorem 6:1: ``|x* - x_k|_A^2 - |x* - x_m|_A^2 = sum_{j=k}^{m-1} alpha_j r_j'z_j``;
    Strakos and Tichy (ETNA 13, 2002) show that rounding does not spoil it.

    Parameters
    ----------
    alpha : (m,) array
    rz : (m,) array
        ``r_j'z_j`` at the start of each iteration.
    """
    if alpha.size == 0:
        return float("nan")
    return float(np.sqrt(np.sum(alpha[-delay:] * rz[-delay:])))
