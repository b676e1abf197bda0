"""Sequences whose answer depends on what was seen long before: the tests of recurrent networks.

S. Hochreiter and J. Schmidhuber, Long short-term memory, Neural Comput. 9, 1997, section 5, in the form of J. Martens
and I. Sutskever, Learning recurrent neural networks with Hessian-free optimization, ICML 2011; the memory task is H.
Jaeger's (Long short-term memory in echo state networks: details of a simulation study, 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cgopt.gallery._common import Seed, generator, whole_number

TOLERANCE = 0.04  # of an answer that is a number (Hochreiter and Schmidhuber 1997)


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences, as `cgopt.nn.RNN` with outputs at all steps and `cgopt.nn`'s losses take them.

    Attributes
    ----------
    X : (samples, steps, inputs) float32 array
        Shorter sequences are followed by zeros.
    Y : (samples, steps, 1) float32 array, or (samples, steps) array of labels
        Numbers for a squared error, labels for a softmax cross-entropy.
    weights : (samples, steps) float32 array
        One where an answer counts in the loss, zero elsewhere.
    judged : (samples, steps) array of bool
        Where an answer counts in `errors`.
    classes : int or None
        Number of labels.
    """

    X: Any
    Y: Any
    weights: Any
    judged: Any
    classes: int | None

    def errors(self, Z: Any) -> Any:
        """Wrong answers of each sequence for a network's outputs Z, (samples,).

        A number is wrong when it is off by more than 0.04, a label when another one has the largest output.
        """
        if self.classes is None:
            wrong = ~(np.abs(Z - self.Y)[..., 0] <= TOLERANCE)
        else:
            wrong = np.argmax(Z, axis=-1) != self.Y
        return np.sum(wrong & self.judged, axis=1)


def addition(T: int, samples: int, rng: Seed = None) -> Sequences:
    """The mean of two marked numbers among many.

    Inputs are a number from U[0, 1] and a mark, at each of L steps, L from U[T, 1.1 T): 1 at two steps, the first of
    them from U[0.01 T, 0.1 T), the second from U[0.1 T, 0.5 T); -1 at the first step and at the third from the end;
    else 0. The answer counts at the last step.

    Parameters
    ----------
    T : int
        Least length, at least 10.
    samples : int
    rng : None, int or numpy.random.Generator

    Returns
    -------
    Sequences

    Examples
    --------
    >>> import numpy as np, cgopt
    >>> batch = cgopt.gallery.addition(30, 4, 0)
    >>> marked = np.sum(batch.X[..., 0] * (batch.X[..., 1] == 1), axis=1) / 2
    >>> np.allclose(marked, np.sum(batch.Y[..., 0] * batch.judged, axis=1))
    True
    """
    return _marked_numbers(T, samples, rng, lambda a, b: (a + b) / 2.0)


def multiplication(T: int, samples: int, rng: Seed = None) -> Sequences:
    """The product of two marked numbers among many; else as `addition`."""
    return _marked_numbers(T, samples, rng, lambda a, b: a * b)


def _marked_numbers(T: int, samples: int, rng: Seed, answer: Callable[[Any, Any], Any]) -> Sequences:
    T, samples, rng = whole_number("T", T, minimum=10), whole_number("samples", samples), generator(rng)
    rows = np.arange(samples)
    lengths = rng.integers(T, max(T + 1, int(1.1 * T)), samples)
    first = rng.integers(int(0.01 * T), int(0.1 * T), samples)
    second = rng.integers(int(0.1 * T), int(0.5 * T), samples)
    steps = int(lengths.max())
    inside = np.arange(steps) < lengths[:, None]
    X = np.zeros((samples, steps, 2), np.float32)
    X[..., 0] = rng.random((samples, steps)) * inside
    X[:, 0, 1] = X[rows, lengths - 3, 1] = -1.0
    X[rows, first, 1] = X[rows, second, 1] = 1.0
    Y = np.zeros((samples, steps, 1), np.float32)
    Y[rows, lengths - 1, 0] = answer(X[rows, first, 0], X[rows, second, 0])
    last = np.arange(steps) == lengths[:, None] - 1
    return Sequences(X, Y, last.astype(np.float32), last, None)


def temporal_order(T: int, samples: int, rng: Seed = None) -> Sequences:
    """The order of two symbols among distractors: one of four classes.

    Inputs are one of 6 symbols at each of T steps: the first or the second at a step from U[0.01 T, 0.1 T) and at one
    from U[0.4 T, 0.5 T), one of the four others elsewhere. The class, which two symbols in which order, counts at the
    last step.

    Parameters
    ----------
    T : int
        At least 10.
    samples : int
    rng : None, int or numpy.random.Generator

    Returns
    -------
    Sequences

    Examples
    --------
    >>> import cgopt
    >>> batch = cgopt.gallery.temporal_order(30, 4, 0)
    >>> batch.X.shape, batch.classes, bool((batch.X.sum(axis=2) == 1).all())
    ((4, 30, 6), 4, True)
    """
    T, samples, rng = whole_number("T", T, minimum=10), whole_number("samples", samples), generator(rng)
    rows = np.arange(samples)
    symbols = rng.integers(2, 6, (samples, T))
    first = rng.integers(int(0.01 * T), int(0.1 * T), samples)
    second = rng.integers(int(0.4 * T), int(0.5 * T), samples)
    symbols[rows, first], symbols[rows, second] = rng.integers(0, 2, (2, samples))
    Y = np.zeros((samples, T), np.int64)
    Y[:, -1] = 2 * symbols[rows, first] + symbols[rows, second]
    last = np.zeros((samples, T), bool)
    last[:, -1] = True
    return Sequences(np.eye(6, dtype=np.float32)[symbols], Y, last.astype(np.float32), last, 4)


def five_bit_memory(T: int) -> Sequences:
    """All 32 sequences of five bits, to be repeated after T steps of silence and a cue.

    Inputs are one of four at each of T + 10 steps: a bit (the first or the second) in the first five, the fourth, the
    cue, just before the last five, and the third elsewhere. Labels are the bits in the last five steps, and 2 before.
    All labels count in the loss, the last five in the errors.

    Parameters
    ----------
    T : int
        Steps between the last bit and the first answer.

    Returns
    -------
    Sequences
        With 32 samples.

    Examples
    --------
    >>> import cgopt
    >>> batch = cgopt.gallery.five_bit_memory(20)
    >>> batch.X.shape, batch.Y[5]
    ((32, 30, 4), array([2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 1, 0, 1]))
    """
    T = whole_number("T", T)
    bits = (np.arange(32)[:, None] >> np.arange(4, -1, -1)) & 1
    symbols = np.full((32, T + 10), 2)
    symbols[:, :5], symbols[:, T + 4] = bits, 3
    Y = np.full((32, T + 10), 2)
    Y[:, -5:] = bits
    judged = np.zeros(Y.shape, bool)
    judged[:, -5:] = True
    return Sequences(np.eye(4, dtype=np.float32)[symbols], Y, np.ones(Y.shape, np.float32), judged, 3)
