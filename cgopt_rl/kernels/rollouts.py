"""Rollouts in compiled code: normalise, forward pass, sample, step, for one environment after the other.

`rollout` is bound to each compiled environment, so that a whole batch of experience needs no Python; `act` is the same
for environments that live in Python. Networks are those of `cgopt.nn`: per layer one row-major block [W; b]. They run
in float32 here, one observation at a time, with a tanh of our own; a batch's probabilities are computed again by
`cgopt.nn` when the batch is learnt from.

Every product is written as sums of rows of W, in one order, and nothing is reassociated: the same input gives the same
bits on any number of threads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from cgopt.kernels.cpu.compile import compiled, helper, inline

from .environments import observe, reset, step
from .random import normal, uniform

U = np.uint64
f32 = np.float32
ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)
LINEAR, TANH, RELU = range(3)
ACTIVATIONS = {"linear": LINEAR, "tanh": TANH, "relu": RELU}

# tanh(x) = x P(x^2) / Q(x^2) on [-9.01, 9.01], the rational function of least largest error (fitted by Lawson's
# iteration); beyond, tanh is 1 in float32. Evaluated in float32 it errs by at most 4e-7. Unlike the C library's, a loop
# over it is vectorised.
TANH_END = f32(9.01)
P0, P1, P2 = f32(0.9999999053893689), f32(0.13372526101325513), f32(0.003485787003568373)
P3, P4 = f32(2.0458844134592717e-05), f32(1.3166374369232716e-08)
Q1, Q2, Q3 = f32(0.46705822611248), f32(0.025838948254192567), f32(0.0003270089687254639)
Q4 = f32(7.695329112579836e-07)


class Network(NamedTuple):
    """A policy's network as kernels take it.

    Attributes
    ----------
    theta : (n,) float32
        Per layer [W; b], W (inputs, units).
    sizes : (layers + 1,) int64
    activation : int
        Of the hidden layers.
    log_std : (m,) float32
        Of a Gaussian; empty for choices.
    choices : (k,) int64
        Numbers of alternatives of k choices; empty for a Gaussian.
    """

    theta: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.int64]
    activation: int
    log_std: npt.NDArray[np.float32]
    choices: npt.NDArray[np.int64]


class Normalizer(NamedTuple):
    """``clip((x - mean) * scale)``, scale and clip in fp64."""

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    clip: float


class Batch(NamedTuple):
    """What T steps of n environments gave; `final` is the observation an action led to, before any reset.

    Floats of actions are (T, n, m) float32 and not clipped; choices (T, n, k) int64.
    """

    raw: npt.NDArray[np.float32]
    obs: npt.NDArray[np.float32]
    floats: npt.NDArray[np.float32]
    choices: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    final: npt.NDArray[np.float32]


class Simulation(NamedTuple):
    """Compiled environments: `cgopt_rl.envs.CompiledEnvs` has these arrays."""

    state: npt.NDArray[np.float64]
    elapsed: npt.NDArray[np.int64]
    streams: npt.NDArray[np.uint64]
    obs: npt.NDArray[np.float32]
    limit: int


@helper
def tanh(x: Any) -> Any:
    """The hyperbolic tangent in float32, to 4e-7."""
    x = min(max(x, -TANH_END), TANH_END)
    y = x * x
    p = ((((P4 * y + P3) * y + P2) * y + P1) * y + P0) * x
    q = (((Q4 * y + Q3) * y + Q2) * y + Q1) * y + f32(1.0)
    return p / q


@helper
def forward(network: Any, h: Any) -> None:
    """The forward pass: row 0 of h holds the input, row l the units of layer l."""
    theta, sizes, activation = network.theta, network.sizes, network.activation
    start = U(0)
    last = sizes.shape[0] - 2
    for layer in range(sizes.shape[0] - 1):
        inputs, units = U(sizes[layer]), U(sizes[layer + 1])
        into = U(layer + 1)
        bias = start + inputs * units
        for j in range(units):
            h[into, j] = theta[bias + j]
        i = U(0)
        while i + THREE < inputs:  # four rows of W at a time: one load and store of h for four products
            x0, x1, x2, x3 = h[layer, i], h[layer, i + ONE], h[layer, i + TWO], h[layer, i + THREE]
            w0 = start + i * units
            w1 = w0 + units
            w2 = w1 + units
            w3 = w2 + units
            for j in range(units):
                h[into, j] += x0 * theta[w0 + j] + x1 * theta[w1 + j] + x2 * theta[w2 + j] + x3 * theta[w3 + j]
            i += FOUR
        while i < inputs:
            x0 = h[layer, i]
            w0 = start + i * units
            for j in range(units):
                h[into, j] += x0 * theta[w0 + j]
            i += ONE
        if layer < last:
            if activation == TANH:
                for j in range(units):
                    h[into, j] = tanh(h[into, j])
            elif activation == RELU:
                for j in range(units):
                    h[into, j] = max(h[into, j], f32(0.0))
        start = bias + units


@helper
def choose(z: Any, layer: Any, first: Any, count: Any, s: Any) -> Any:
    """One of `count` alternatives with probabilities softmax(z): the first whose cumulative sum passes a uniform."""
    top = np.float64(z[layer, first])
    for a in range(1, count):
        top = max(top, np.float64(z[layer, first + a]))
    total = 0.0
    for a in range(count):
        total += math.exp(np.float64(z[layer, first + a]) - top)
    s, u = uniform(s)
    u *= total
    index = count - 1
    for a in range(count - 1):
        u -= math.exp(np.float64(z[layer, first + a]) - top)
        if u < 0.0:
            index = a
            break
    return s, index


@helper
def sample(network: Any, h: Any, floats: Any, choices: Any, t: Any, i: Any, s: Any) -> Any:
    """Draw an action from the outputs in the last row used of h, into place (t, i)."""
    layer = network.sizes.shape[0] - 1
    first = 0
    for k in range(network.choices.shape[0]):
        s, index = choose(h, layer, first, network.choices[k], s)
        choices[t, i, k] = index
        first += network.choices[k]
    for k in range(network.log_std.shape[0]):
        s, z = normal(s)
        floats[t, i, k] = f32(np.float64(h[layer, k]) + math.exp(np.float64(network.log_std[k])) * z)
    return s


@inline
def copy_row(source: Any, row: Any, target: Any, i: Any) -> None:
    """A row of one array into row i of another."""
    for j in range(source.shape[1]):
        target[i, j] = source[row, j]


@inline
def normalize_row(normalizer: Any, raw: Any, row: Any, target: Any, i: Any) -> None:
    """A row of `raw`, normalised, into row i of another array."""
    for j in range(raw.shape[1]):
        x = (np.float64(raw[row, j]) - normalizer.mean[j]) * normalizer.scale[j]
        target[i, j] = f32(min(max(x, -normalizer.clip), normalizer.clip))


@helper
def normalize(normalizer: Any, raw: Any, obs: Any, h: Any, t: Any, i: Any) -> None:
    """Row i of `raw`, normalised, into (t, i) of `obs` and the first row of h."""
    normalize_row(normalizer, raw, i, h, 0)
    for j in range(raw.shape[1]):
        obs[t, i, j] = h[0, j]


@helper
def widest(sizes: Any) -> Any:
    """Units of the largest layer."""
    most = sizes[0]
    for layer in range(1, sizes.shape[0]):
        most = max(most, sizes[layer])
    return most


def rollout(network: Any, normalizer: Any, simulation: Any, streams: Any, batch: Any) -> None:
    """T steps of each environment; environments go to threads."""
    state, elapsed, starts, current, limit = simulation
    raw, obs, floats, choices, rewards, terminated, truncated, valid, final = batch
    for i in prange(state.shape[0]):
        h = np.empty((network.sizes.shape[0], widest(network.sizes)), np.float32)
        s, restart = streams[i], starts[i]
        for t in range(rewards.shape[0]):
            for j in range(current.shape[1]):
                raw[t, i, j] = current[i, j]
            normalize(normalizer, current, obs, h, t, i)
            forward(network, h)
            s = sample(network, h, floats, choices, t, i, s)
            rewards[t, i], terminated[t, i] = step(state, i, action(floats, choices, t, i))
            elapsed[i] += 1
            truncated[t, i] = elapsed[i] >= limit
            valid[t, i] = True
            observe(state, i, current, i)
            for j in range(current.shape[1]):
                final[t, i, j] = current[i, j]
            if terminated[t, i] or truncated[t, i]:
                restart = reset(state, i, restart)
                elapsed[i] = 0
                observe(state, i, current, i)
        streams[i], starts[i] = s, restart


@helper
def first_choice(floats: Any, choices: Any, t: Any, i: Any) -> Any:
    """The action of an environment with one choice."""
    return choices[t, i, 0]


@helper
def first_float(floats: Any, choices: Any, t: Any, i: Any) -> Any:
    """The action of an environment with one float, which the environment clips."""
    return floats[t, i, 0]


def action(floats: Any, choices: Any, t: Any, i: Any) -> Any:
    """Stand for one of the two above in `rollout`."""
    raise NotImplementedError


def _act(network: Any, normalizer: Any, streams: Any, current: Any, t: Any, batch: Any) -> None:
    """Normalise and act for every environment, into step t of a batch."""
    raw, obs, floats, choices = batch.raw, batch.obs, batch.floats, batch.choices
    h = np.empty((network.sizes.shape[0], widest(network.sizes)), np.float32)
    for i in range(current.shape[0]):
        for j in range(current.shape[1]):
            raw[t, i, j] = current[i, j]
        normalize(normalizer, current, obs, h, t, i)
        forward(network, h)
        streams[i] = sample(network, h, floats, choices, t, i, streams[i])


def _forward_one(network: Any, x: Any, out: Any) -> None:
    """The outputs for one observation (for tests, and for deterministic actions)."""
    h = np.empty((network.sizes.shape[0], widest(network.sizes)), np.float32)
    h[0, : x.shape[0]] = x
    forward(network, h)
    out[:] = h[network.sizes.shape[0] - 1, : out.shape[0]]


act = compiled(_act, threaded=False)
forward_one = compiled(_forward_one, threaded=False)
