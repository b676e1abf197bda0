"""Deep Q-learning in compiled code: epsilon-greedy actions, and one gradient step on a batch.

References
----------
V. Mnih et al., "Playing Atari with deep reinforcement learning", 2013, algorithm 1; "Human-level control through deep
reinforcement learning", Nature 518, 2015, algorithm 1 (target network, error clipped to [-1, 1]). H. van Hasselt,
A. Guez and D. Silver, "Deep reinforcement learning with double Q-learning", AAAI 2016, eq. 4. Z. Wang et al., "Dueling
network architectures", ICML 2016, eq. 9.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import helper

from . import dense
from .dense import Dense, Optimizer
from .off_policy import NORM, SCALE, STEPS, TURNS, Learner, note
from .random import below, uniform
from .replay import draw, reprioritize
from .rollouts import forward, normalize_row

adam, backward, clip, descend, polyak = dense.adam, dense.backward, dense.clip, dense.descend, dense.polyak
forward_batch = dense.forward
f32 = np.float32


class Agent(NamedTuple):
    """A Q network, its target network and its options, as the compiled loops take them.

    Attributes
    ----------
    theta : (n,) float32
        Of the Q network; the optimiser's.
    sizes, activation
        Of the network.
    h : (layers + 1, widest) float32
        Workspace for one observation.
    net : Dense
    opt : Optimizer
    target : (n,) float32
        Parameters that targets are computed with: theta itself where there is no target network.
    targets, errors : (B,) float32
    best : (B,) int64
    rate, clip, tau : float
    interval : int
        Turns between updates of the target network; 0 where there is none.
    double, dueling, huber, adaptive : bool
    epsilon : (3,) float64
        At the start, in the end, and the steps between.
    """

    theta: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.int64]
    activation: int
    h: npt.NDArray[np.float32]
    net: Dense
    opt: Optimizer
    target: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]
    errors: npt.NDArray[np.float32]
    best: npt.NDArray[np.int64]
    rate: float
    clip: float
    tau: float
    interval: int
    double: bool
    dueling: bool
    huber: bool
    adaptive: bool
    epsilon: npt.NDArray[np.float64]


@helper
def argmax(Z: Any, b: Any, first: Any, end: Any) -> Any:
    """The column of the largest entry of row b, the first of equal ones."""
    best = first
    for a in range(first + 1, end):
        if Z[b, a] > Z[b, best]:
            best = a
    return best


@helper
def to_values(Z: Any, b: Any, first: Any) -> None:
    """Row b of a dueling network's outputs (V, A_1, ..., A_k) into (V, Q_1, ..., Q_k): Q = V + A - mean A."""
    k = Z.shape[1] - first
    mean = f32(0.0)
    for a in range(first, Z.shape[1]):
        mean += Z[b, a]
    mean /= f32(k)
    for a in range(first, Z.shape[1]):
        Z[b, a] += Z[b, 0] - mean


@helper
def epsilon_at(epsilon: Any, steps: Any) -> Any:
    """The probability of a random action after so many steps."""
    share = min(1.0, steps / epsilon[2])
    return epsilon[0] + share * (epsilon[1] - epsilon[0])


@helper
def explore(agent: Any, loop: Any, normalizer: Any, current: Any, i: Any) -> None:
    """An epsilon-greedy action; any action before learning starts."""
    layer, first = agent.sizes.shape[0] - 1, 1 if agent.dueling else 0
    outputs = agent.sizes[layer]
    s, u = uniform(loop.streams[i])
    steps = loop.counts[STEPS]
    if steps < loop.starts or u < epsilon_at(agent.epsilon, steps):
        s, action = below(s, outputs - first)
    else:
        normalize_row(normalizer, current, i, agent.h, 0)
        forward(agent, agent.h)
        action = argmax(agent.h, layer, first, outputs) - first  # of the advantages, where it is a dueling network
    loop.streams[i] = s
    loop.stored[i, 0] = loop.taken[i, 0] = action


def improve(agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any) -> None:
    """One gradient step."""
    draw(replay, batch, normalizer, loop.totals[SCALE])
    net, theta = agent.net, agent.theta
    size, first = batch.rows.shape[0], 1 if agent.dueling else 0
    if agent.double:
        Z = forward_batch(net, theta, batch.next_obs)
        for b in range(size):
            agent.best[b] = argmax(Z, b, first, Z.shape[1])  # a* = argmax_a Q(s', a; theta)
    Z = forward_batch(net, agent.target, batch.next_obs)
    for b in range(size):
        if agent.dueling:
            to_values(Z, b, first)
        best = agent.best[b] if agent.double else argmax(Z, b, first, Z.shape[1])
        agent.targets[b] = batch.rewards[b] + batch.discounts[b] * Z[b, best]  # y = r + gamma max_a Q(s', a; target)
    Z = forward_batch(net, theta, batch.obs)
    loss, value, highest = 0.0, 0.0, 0.0
    for b in range(size):
        if agent.dueling:
            to_values(Z, b, first)
        taken = first + batch.actions[b, 0]
        q = Z[b, taken]
        error = q - agent.targets[b]  # delta = Q(s, a; theta) - y
        agent.errors[b] = error
        slope = error
        if agent.huber and abs(error) > f32(1.0):
            slope = f32(1.0) if error > f32(0.0) else f32(-1.0)
            loss += abs(np.float64(error)) - 0.5
        else:
            loss += 0.5 * np.float64(error) * np.float64(error)
        value += np.float64(q)
        highest = max(highest, abs(np.float64(q))) if q == q else np.nan
        slope *= batch.weights[b] / f32(size)
        for a in range(Z.shape[1]):
            Z[b, a] = f32(0.0)
        if agent.dueling:
            Z[b, 0] = slope
            for a in range(first, Z.shape[1]):
                Z[b, a] = -slope / f32(Z.shape[1] - first)
        Z[b, taken] += slope
    if note(loop, loss / size, value / size, highest):
        backward(net, theta, agent.opt.gradient, size)
        loop.totals[NORM] += clip(agent.opt.gradient, agent.clip)
        if agent.adaptive:
            adam(agent.opt, agent.rate)
        else:
            descend(agent.opt, agent.rate)
        reprioritize(replay, batch, agent.errors)


@helper
def follow(agent: Any, loop: Any) -> None:
    """Bring the target network up to date when it is due."""
    if agent.interval > 0 and loop.counts[TURNS] % agent.interval == 0:
        polyak(agent.target, agent.theta, agent.tau)


DQN = Learner("dqn", explore, improve, follow)
