"""Replay in compiled code: adding transitions (of one or several steps), drawing batches, priorities in a sum tree.

A transition of k steps is (s, a, r_1 + gamma r_2 + ... + gamma^(k-1) r_k, s', terminated, gamma^k), where s' is the
observation that the last action led to, before any reset. k is the number of steps asked for, or what was left of the
episode: at a termination nothing follows, at a truncation what follows is estimated from s'.

References
----------
T. Schaul, J. Quan, I. Antonoglou and D. Silver, "Prioritized experience replay", ICLR 2016: proportional priorities in
a sum tree (appendix B.2.1), weights (3.4).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import compiled, helper

from .random import below, uniform
from .rollouts import copy_row, normalize_row

f32 = np.float32
CURSOR, FILL = range(2)  # of `place`
HIGHEST, ALPHA, BETA, EPSILON = range(4)  # of `priority`


class Replay(NamedTuple):
    """The columns of a replay buffer, and what it is at.

    Attributes
    ----------
    obs, next_obs : (capacity, d) float32 or uint8
    actions : (capacity, m) int32 or float32
    rewards, discounts : (capacity,) float32
        Discounted sums of rewards, and gamma^k.
    terminated : (capacity,) bool
    place : (2,) int64
        Where the next transition goes, and how many there are.
    stream : (1,) uint64
        What batches are drawn with.
    window_obs, window_actions, window_rewards : (n, steps, ...)
        The last steps of each environment, in a ring.
    window : (n, 2) int64
        Where each ring starts, and how many steps it holds.
    tree : (2 P,) float64
        Node i is the sum of nodes 2 i and 2 i + 1; the priorities are the leaves, from P on. Empty where all
        transitions are equally likely.
    priority : (4,) float64
        The highest priority so far; alpha, beta and epsilon of the paper.
    gamma : float
    """

    obs: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    next_obs: npt.NDArray[Any]
    terminated: npt.NDArray[np.bool_]
    discounts: npt.NDArray[np.float32]
    place: npt.NDArray[np.int64]
    stream: npt.NDArray[np.uint64]
    window_obs: npt.NDArray[Any]
    window_actions: npt.NDArray[Any]
    window_rewards: npt.NDArray[np.float64]
    window: npt.NDArray[np.int64]
    tree: npt.NDArray[np.float64]
    priority: npt.NDArray[np.float64]
    gamma: float


class Batch(NamedTuple):
    """Transitions drawn from a buffer; overwritten by each draw.

    Attributes
    ----------
    obs, next_obs : (B, d) float32
        Normalised.
    actions : (B, m)
    rewards : (B,) float32
        Scaled.
    discounts : (B,) float32
        gamma^k, and 0 where the episode terminated: the target is ``rewards + discounts * Q'``.
    weights : (B,) float32
        Importance weights; 1 where all transitions are equally likely.
    rows : (B,) int64
        Where they are in the buffer.
    """

    obs: npt.NDArray[np.float32]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    next_obs: npt.NDArray[np.float32]
    discounts: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]


@helper
def set_priority(tree: Any, row: Any, p: Any) -> None:
    """Give a row a priority, and bring the sums above it up to date."""
    node = tree.shape[0] // 2 + row
    tree[node] = p
    node //= 2
    while node >= 1:
        tree[node] = tree[2 * node] + tree[2 * node + 1]  # added up anew: rounding does not accumulate
        node //= 2


@helper
def find(tree: Any, mass: Any) -> Any:
    """The row whose share of the total priority holds `mass`."""
    node, leaves = 1, tree.shape[0] // 2
    while node < leaves:
        node *= 2
        if mass >= tree[node] and tree[node + 1] > 0.0:
            mass -= tree[node]
            node += 1
    return node - leaves


@helper
def emit(replay: Any, i: Any, final: Any, terminated: Any) -> None:
    """Write the oldest step of environment i's window, with all the rewards behind it, as a transition to `final`."""
    steps = replay.window_rewards.shape[1]
    first, held = replay.window[i, 0], replay.window[i, 1]
    row = replay.place[CURSOR]
    total, discount = 0.0, 1.0
    for k in range(held):
        total += discount * replay.window_rewards[i, (first + k) % steps]  # sum_k gamma^k r_k
        discount *= replay.gamma
    copy_row(replay.window_obs[i], first, replay.obs, row)
    copy_row(replay.window_actions[i], first, replay.actions, row)
    copy_row(final, i, replay.next_obs, row)
    replay.rewards[row], replay.discounts[row] = f32(total), f32(discount)
    replay.terminated[row] = terminated
    if replay.tree.shape[0] > 0:
        set_priority(replay.tree, row, replay.priority[HIGHEST])  # what is new is seen at least once, in practice
    replay.window[i, 0], replay.window[i, 1] = (first + 1) % steps, held - 1
    replay.place[CURSOR] = (row + 1) % replay.obs.shape[0]
    replay.place[FILL] = min(replay.place[FILL] + 1, replay.obs.shape[0])


@helper
def add(
    replay: Any, i: Any, obs: Any, actions: Any, reward: Any, final: Any, terminated: Any, truncated: Any
) -> None:  # fmt: skip
    """Add one step of environment i, row i of the arrays; `final` is what the action led to, before any reset."""
    steps = replay.window_rewards.shape[1]
    last = (replay.window[i, 0] + replay.window[i, 1]) % steps
    copy_row(obs, i, replay.window_obs[i], last)
    copy_row(actions, i, replay.window_actions[i], last)
    replay.window_rewards[i, last] = reward
    replay.window[i, 1] += 1
    if terminated or truncated:
        while replay.window[i, 1] > 0:  # shorter and shorter ones: nothing reaches across the end of an episode
            emit(replay, i, final, terminated)
    elif replay.window[i, 1] == steps:
        emit(replay, i, final, False)


@helper
def draw(replay: Any, batch: Any, normalizer: Any, scale: Any) -> None:
    """Fill a batch, with replacement; observations are normalised and rewards multiplied by `scale`."""
    fill, size = replay.place[FILL], batch.rows.shape[0]
    s = replay.stream[0]
    if replay.tree.shape[0] == 0:
        for b in range(size):
            s, batch.rows[b] = below(s, fill)
            batch.weights[b] = 1.0
    else:
        share = replay.tree[1] / size
        heaviest = f32(0.0)
        for b in range(size):  # one from each of B equal parts of the total priority
            s, u = uniform(s)
            row = find(replay.tree, (b + u) * share)
            batch.rows[b] = row
            p = replay.tree[replay.tree.shape[0] // 2 + row] / replay.tree[1]
            batch.weights[b] = f32((fill * p) ** -replay.priority[BETA])  # (N P(i))^-beta
            heaviest = max(heaviest, batch.weights[b])
        for b in range(size):
            batch.weights[b] /= heaviest
    replay.stream[0] = s
    for b in range(size):
        row = batch.rows[b]
        normalize_row(normalizer, replay.obs, row, batch.obs, b)
        normalize_row(normalizer, replay.next_obs, row, batch.next_obs, b)
        copy_row(replay.actions, row, batch.actions, b)
        batch.rewards[b] = f32(replay.rewards[row] * scale)
        batch.discounts[b] = f32(0.0) if replay.terminated[row] else replay.discounts[row]


@helper
def reprioritize(replay: Any, batch: Any, errors: Any) -> None:
    """Priorities ``(|delta| + epsilon)^alpha`` of a batch's transitions from their errors (B,)."""
    if replay.tree.shape[0] > 0:
        for b in range(batch.rows.shape[0]):
            p = (abs(np.float64(errors[b])) + replay.priority[EPSILON]) ** replay.priority[ALPHA]
            replay.priority[HIGHEST] = max(replay.priority[HIGHEST], p)
            set_priority(replay.tree, batch.rows[b], p)


def _add_many(
    replay: Any, obs: Any, actions: Any, rewards: Any, final: Any, terminated: Any, truncated: Any, valid: Any
) -> None:  # fmt: skip
    """One step of every environment."""
    for i in range(obs.shape[0]):
        if valid[i]:
            add(replay, i, obs, actions, rewards[i], final, terminated[i], truncated[i])


def _flush(replay: Any, final: Any) -> None:
    """End the steps that are held as a truncation would, at observations `final` (n, d)."""
    for i in range(replay.window.shape[0]):
        while replay.window[i, 1] > 0:
            emit(replay, i, final, False)


def _draw(replay: Any, batch: Any, normalizer: Any, scale: Any) -> None:
    draw(replay, batch, normalizer, scale)


def _reprioritize(replay: Any, batch: Any, errors: Any) -> None:
    reprioritize(replay, batch, errors)


add_many = compiled(_add_many, threaded=False)
flush = compiled(_flush, threaded=False)
draw_batch = compiled(_draw, threaded=False)
reprioritize_batch = compiled(_reprioritize, threaded=False)
