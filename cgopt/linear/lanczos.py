"""What CG's own coefficients tell of the matrix and of the error.

CG and Lanczos build the same tridiagonal matrix (Golub and Van Loan 2013, section 11.3.5; Meurant 2006): with step
lengths alpha and ratios beta,

    T[k, k] = 1 / alpha[k] + beta[k-1] / alpha[k-1],    T[k, k+1] = sqrt(beta[k]) / alpha[k],

whose eigenvalues (Ritz values) approach those of A (of M A when preconditioned) from within.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..kernels import loops

DEFICIT = 0.25  # share of the squared error that an estimate used for stopping may miss (Meurant, Papez, Tichy 2021)
FAITHFUL = 4.0  # squared ratio of true and recursive residual up to which the coefficients are believed
HISTORY = 1e-4  # how far the error fell over the steps that are looked back at for its rate (the same)


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


class InverseNorms:
    """Frobenius norms of the inverses of Lanczos' matrices, from the first to the last, by scalar recurrences.

    Such a norm is that of the inverses of all Ritz values, so mostly that of the smallest. CG factors ``T = L D L'`` as
    it goes, with ``D = 1 / alpha`` and L unit bidiagonal, so each iteration adds ``alpha_k u u'`` to the inverse, where
    ``u_i^2 = beta_i ... beta_{k-1}`` (signs left out). With ``s = u'u`` and ``q = u' T^-1 u`` before it is added,

        |T^-1|^2 grows by 2 alpha_k q + (alpha_k s)^2,    q <- beta_k (q + alpha_k s^2),    s <- 1 + beta_k s

    They are not numbers any more once the iteration was restarted.

    Attributes
    ----------
    squares : list of float
        ``squares[k]`` is the square of the norm after k + 1 iterations.
    """

    def __init__(self) -> None:
        self.squares: list[float] = []
        self._sum, self._s, self._q = 0.0, 1.0, 0.0

    def extend(self, alpha: Array, beta: Array) -> None:
        """Go on with the coefficients of the next iterations."""
        total, s, q = self._sum, self._s, self._q
        for a, b in zip(alpha.tolist(), beta.tolist(), strict=True):
            total += 2.0 * a * q + (a * s) * (a * s)
            q = b * (q + a * s * s)
            s = 1.0 + b * s
            self.squares.append(total)
        self._sum, self._s, self._q = total, s, q


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


class ErrorBounds(NamedTuple):
    """Bounds or estimates of ``|x* - x_k|_A`` for k from 0 to the last iterate.

    Attributes
    ----------
    lower : (iterations + 1,) array
        Hestenes and Stiefel's, each with all the steps that followed; zero for the last.
    upper : (iterations + 1,) array
        Gauss and Radau's with a bound of the smallest eigenvalue: a bound. With the smallest Ritz value instead: an
        estimate, too small where that value is still too large.
    """

    lower: Array
    upper: Array


def squared_error_bounds(alpha: Array, beta: Array, rz: Array, smallest: float, radau: bool) -> ErrorBounds:
    """Squares of the bounds.

    With ``e_k = |x* - x_k|_A^2`` and ``S = sum_{j=k}^{m-1} alpha_j r_j'z_j``: ``S <= e_k = S + e_m`` (Hestenes and
    Stiefel 1952, theorem 6:1), and ``e_m <= gamma_m r_m'z_m``, see `radau_coefficients`.

    Parameters
    ----------
    alpha, beta : (m,) arrays
    rz : (m + 1,) array
        ``r_j'z_j`` at the start of each iteration, and after the last.
    smallest : float
        At most the smallest eigenvalue of A (of M A), or an approximation.
    radau : bool
        Whether to use Gauss and Radau's coefficients, sharp and sensitive to `smallest`; if not, the simpler ones.
    """
    drops = np.append(alpha * rz[:-1], 0.0)
    lower = np.cumsum(drops[::-1])[::-1]  # the small ones first
    sharp, simple = radau_coefficients(alpha, beta, smallest)
    return ErrorBounds(lower, lower + (sharp if radau else simple)[-1] * rz[-1])


def radau_coefficients(alpha: Array, beta: Array, smallest: float) -> tuple[Array, Array]:
    """Factors gamma_k with ``|x* - x_k|_A^2 <= gamma_k r_k'z_k`` for k from 0 to m.

    G. Meurant and P. Tichy, On computing quadrature-based bounds for the A-norm of the error in conjugate gradients,
    Numer. Algorithms 62, 2013, with mu the bound of the smallest eigenvalue:

        gamma_0 = 1 / mu,    gamma_{k+1} = (gamma_k - alpha_k) / (mu (gamma_k - alpha_k) + beta_{k+1}),

    and the same authors (Numer. Algorithms 82, 2019): ``gamma_k <= phi_k / mu`` with ``phi_k = r_k'z_k / |p_k|_P^2``,

        phi_0 = 1,    phi_{k+1} = phi_k / (phi_k + beta_{k+1}),

    which does not mind a mu that is a little too large.

    Returns
    -------
    sharp, simple : (m + 1,) arrays
    """
    sharp, simple = np.empty(alpha.size + 1), np.empty(alpha.size + 1)
    gamma, phi = 1.0 / smallest, 1.0
    sharp[0] = simple[0] = gamma
    for k in range(alpha.size):
        a, b = float(alpha[k]), float(beta[k])
        if b == 0.0:  # restarted: what follows is a run of its own
            gamma, phi = 1.0 / smallest, 1.0
        else:
            rest, phi = gamma - a, phi / (phi + b)
            # rest is positive but for rounding, when a Ritz value has reached mu
            gamma = min(rest / (smallest * rest + b), phi / smallest) if rest > 0.0 else phi / smallest
        sharp[k + 1], simple[k + 1] = gamma, phi / smallest
    return sharp, simple


def reliable_estimate(drops: Array) -> float:
    """Estimate of a squared error that the last iterate's is below, infinite while there is none to rely on.

    G. Meurant, J. Papez and P. Tichy, Accurate error estimation in CG, Numer. Algorithms 88, 2021: the lower bound of
    step l is within `DEFICIT` of the squared error when the part that is missing, judged by the last drop times the
    worst ratio of error to drop seen lately, is. The smallest such bound is taken, and the deficit added.

    Parameters
    ----------
    drops : (m,) array
        ``alpha_j r_j'z_j``.
    """
    if drops.size < 2:
        return float("inf")
    tails = np.cumsum(drops[::-1])[::-1]  # tails[l] = drops[l] + ... + drops[m - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = tails[:-1] / drops[:-1]
    worst = np.maximum.accumulate(ratios[::-1])[::-1]
    # for step l, looked back to the last step whose tail was 1 / HISTORY times as large
    first = np.searchsorted(-tails, -tails[:-1] / HISTORY, side="right") - 1
    bounds = tails[:-1] - drops[-1]
    reliable = np.flatnonzero(worst[np.maximum(first, 0)] * drops[-1] <= DEFICIT * bounds)
    return (1.0 + DEFICIT) * float(bounds[reliable[-1]]) if reliable.size else float("inf")


class ErrorGoal:
    """The test of ``criterion="error"``: whether the error of the iterates has come down to the tolerance.

    The error is taken relative to ``|x*|_A``, whose square is at least the sum of the drops plus ``x_0'(b + r_0)``.

    Parameters
    ----------
    rtol, atol : float
        The latter for the problem as solved.
    smallest : float or None
        Bound of the smallest eigenvalue. The test is then of an upper bound; of an estimate otherwise.
    offset : float
        ``x_0'(b + r_0)``.
    """

    def __init__(self, rtol: float, atol: float, smallest: float | None, offset: float) -> None:
        self.rtol, self.atol, self.smallest, self.offset = rtol, atol, smallest, offset

    def met(self, log: Array, rz0: float) -> bool:
        """Whether the last iterate meets the tolerance, by the log so far and ``r_0'z_0``."""
        alpha, beta = log[:, loops.LOG_ALPHA], log[:, loops.LOG_BETA]
        rz = np.append(rz0, log[:, loops.LOG_RZ])
        drops = alpha * rz[:-1]
        if self.smallest is None:
            error = reliable_estimate(drops)
        else:
            sharp, _ = radau_coefficients(alpha, beta, self.smallest)
            error = float(sharp[-1] * rz[-1])
        return error <= self._square(drops)

    def _square(self, drops: Array) -> float:
        """The squared error at which the goal is met."""
        square = max(0.0, float(np.sum(drops)) + self.offset)
        return max(self.rtol * self.rtol * square, self.atol * self.atol)

    def supported(self, log: Array, rz0: float, true: float) -> bool:
        """Whether the true r'r bears out that the goal is met: the coefficients tell of the recursive residual only.

        It does if it is about as small as the recursive one is at the end, or was when the error first came down to
        the goal: below that the recursive residual goes on falling where the true one cannot.
        """
        drops = log[:, loops.LOG_ALPHA] * np.append(rz0, log[:-1, loops.LOG_RZ])
        tails = np.cumsum(drops[::-1])[::-1]
        enough = np.flatnonzero((1.0 + DEFICIT) * tails[1:] <= self._square(drops))
        first = int(enough[0]) if enough.size else -1  # tails[l + 1] is the error after iteration l, in row l
        return true <= FAITHFUL * max(float(log[first, loops.LOG_RR]), float(log[-1, loops.LOG_RR]))
