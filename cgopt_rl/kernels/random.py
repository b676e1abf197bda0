"""Random numbers inside compiled loops: SplitMix64, and normal deviates by the ziggurat.

A stream is one unsigned 64-bit integer. Each draw takes the stream and returns it moved on, ``s, u = uniform(s)``, so
that it stays in a register, and storing it stores all there is to know: a loop can be resumed bit for bit.

References
----------
G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
G. Marsaglia and W. W. Tsang, "The ziggurat method for generating random variables", J. Stat. Softw. 5(8), 2000.
J. A. Doornik, "An improved ziggurat method to generate normal random samples", 2005: the layer and the abscissa come
from different bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import helper

U = np.uint64
GOLDEN = U(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: the step from one state to the next
MIX1, MIX2 = U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
S9, S11, S27, S30, S31, S32 = U(9), U(11), U(27), U(30), U(31), U(32)
TO_UNIT = 2.0**-53

LAYERS = 256
TAIL = 3.6541528853610088  # right end of the lowest of 256 layers of equal area (Marsaglia and Tsang, table 1)
LAYER_BITS, SIGN_BIT, ABSCISSA_BITS = U(0xFF), U(0x100), U((1 << 52) - 1)


def _layers() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The ziggurat's tables: integers below which a draw is accepted at once, scales, densities.

    Layer i reaches from 0 to x_i and from f(x_i) to f(x_(i-1)), f(x) = exp(-x^2/2); all have the area v of the lowest,
    which holds the tail: v = r f(r) + integral of f from r.
    """
    f = np.exp(-0.5 * TAIL * TAIL)
    area = TAIL * f + math.sqrt(math.pi / 2.0) * math.erfc(TAIL / math.sqrt(2.0))
    x = np.empty(LAYERS + 1)
    x[0], x[1], x[LAYERS] = area / f, TAIL, 0.0
    for i in range(2, LAYERS):
        x[i] = math.sqrt(-2.0 * math.log(area / x[i - 1] + math.exp(-0.5 * x[i - 1] ** 2)))
    accept = (x[1:] / x[:-1] * 2.0**52).astype(np.uint64)  # the part of a layer that lies under the next one
    return accept, x[:-1] * 2.0**-52, np.exp(-0.5 * x * x)


ACCEPT, SCALE, DENSITY = _layers()


def streams(seed: np.random.SeedSequence, count: int) -> npt.NDArray[np.uint64]:
    """`count` streams that share no draws in practice: their states are spread over 2^64 at random."""
    return seed.generate_state(count, np.uint64).astype(np.uint64, copy=False)


@helper
def bits(s: Any) -> Any:
    """64 random bits."""
    s = U(s + GOLDEN)
    z = U((s ^ (s >> S30)) * MIX1)
    z = U((z ^ (z >> S27)) * MIX2)
    return s, z ^ (z >> S31)


@helper
def uniform(s: Any) -> Any:
    """Uniform on [0, 1), with 53 bits."""
    s, z = bits(s)
    return s, np.float64(z >> S11) * TO_UNIT


@helper
def below(s: Any, n: Any) -> Any:
    """A whole number from 0 to n - 1, n < 2^32 (the bias, n / 2^32, is below what any test can see)."""
    s, z = bits(s)
    return s, np.int64(((z >> S32) * U(n)) >> S32)


@helper
def tail(s: Any) -> Any:
    """A normal deviate beyond r: r plus an exponential deviate e, accepted with probability exp(-e^2 / 2)."""
    while True:
        s, u = uniform(s)
        e = -math.log1p(-u) / TAIL
        s, u = uniform(s)
        if -2.0 * math.log1p(-u) > e * e:
            break
    return s, TAIL + e


@helper
def normal(s: Any) -> Any:
    """A standard normal deviate."""
    while True:
        s, z = bits(s)
        layer = z & LAYER_BITS
        negative = (z & SIGN_BIT) != U(0)
        abscissa = (z >> S9) & ABSCISSA_BITS
        x = np.float64(abscissa) * SCALE[layer]
        if abscissa < ACCEPT[layer]:  # 98.8 % of draws end here
            break
        if layer == U(0):
            s, x = tail(s)
            break
        s, u = uniform(s)
        if DENSITY[layer] + u * (DENSITY[layer + U(1)] - DENSITY[layer]) < math.exp(-0.5 * x * x):  # the wedge
            break
    return s, -x if negative else x
