"""Running means and variances, exact however the samples are cut into batches.

T. Chan, G. Golub and R. LeVeque, "Algorithms for computing the sample variance", Am. Stat. 37, 1983: the sums of
squared deviations of two batches combine without cancellation. All of it is in fp64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .kernels.rollouts import Normalizer

Array = npt.NDArray[Any]


class RunningMoments:
    """Mean and variance of vectors seen so far.

    Parameters
    ----------
    size : int
        Length of a vector.

    Examples
    --------
    >>> import numpy as np
    >>> from cgopt_rl.normalization import RunningMoments
    >>> moments = RunningMoments(1)
    >>> moments.update(np.array([[1.0], [2.0]])); moments.update(np.array([[6.0]]))
    >>> moments.mean, moments.variance
    (array([3.]), array([4.66666667]))
    """

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self.mean, self.squares = np.zeros(size), np.zeros(size)

    def update(self, samples: Array) -> None:
        """Take in samples (N, size)."""
        samples = np.asarray(samples, np.float64)
        n = samples.shape[0]
        if n == 0:
            return
        mean = samples.mean(axis=0)
        squares = np.square(samples - mean).sum(axis=0)
        total = self.count + n
        shift = mean - self.mean
        self.squares = self.squares + squares + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def variance(self) -> Array:
        """Mean squared deviation; 1 before the first sample."""
        return self.squares / self.count if self.count else np.ones_like(self.squares)

    @property
    def scale(self) -> Array:
        """1 over the standard deviation; 1 where nothing has varied yet (relative to rounding of the mean)."""
        variance = self.variance
        rounding = (8.0 * np.finfo(np.float64).eps * self.mean) ** 2
        scale = np.ones_like(variance)
        np.divide(1.0, np.sqrt(variance), out=scale, where=variance > rounding)
        return scale

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint keeps."""
        return {"count": np.array([self.count]), "mean": self.mean, "squares": self.squares}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` returned."""
        self.count = float(arrays["count"][0])
        self.mean, self.squares = arrays["mean"].copy(), arrays["squares"].copy()


def normalizer(moments: RunningMoments | None, size: int, clip: float) -> Normalizer:
    """How observations are normalised just now, fixed for a whole batch: ``clip((x - mean) / std)``, or not at all."""
    if moments is None:
        return Normalizer(np.zeros(size), np.ones(size), np.inf)
    return Normalizer(moments.mean.copy(), moments.scale, float(clip))


def normalize(n: Normalizer, obs: Array) -> Array:
    """Observations (..., size) normalised, float32: bit for bit what compiled rollouts do."""
    scaled = (np.asarray(obs, np.float64) - n.mean) * n.scale
    return np.clip(scaled, -n.clip, n.clip).astype(np.float32)
