"""Recursions along trajectories, backwards and forwards in time."""

from __future__ import annotations

from typing import Any

from cgopt.kernels.cpu.compile import compiled


def _generalized_advantages(
    rewards: Any, values: Any, next_values: Any, terminated: Any, ended: Any, gamma: Any, lam: Any, out: Any
) -> None:
    """Schulman et al. (2016), equation (16), as a recursion; all arrays (T, n).

    ``next_values`` are those of the observations the actions led to (final ones where an episode ended). The sum stops
    where an episode ended, terminated or not; only a termination makes the value of what follows zero.
    """
    steps, n = rewards.shape
    for i in range(n):
        following = 0.0
        for t in range(steps - 1, -1, -1):
            bootstrap = 0.0 if terminated[t, i] else gamma * next_values[t, i]
            delta = rewards[t, i] + bootstrap - values[t, i]  # r + gamma V(s') - V(s)
            if ended[t, i]:
                following = 0.0
            following = delta + gamma * lam * following  # A_t = delta_t + gamma lambda A_(t+1)
            out[t, i] = following


def _discounted_so_far(rewards: Any, ended: Any, gamma: Any, carry: Any, out: Any) -> None:
    """``R_t = gamma R_(t-1) + r_t`` within each episode, whose spread scales rewards; `carry` (n,) goes on."""
    steps, n = rewards.shape
    for i in range(n):
        total = carry[i]
        for t in range(steps):
            total = gamma * total + rewards[t, i]
            out[t, i] = total
            if ended[t, i]:
                total = 0.0
        carry[i] = total


def _episode_sums(
    rewards: Any, ended: Any, valid: Any, returns: Any, lengths: Any, done_returns: Any, done_lengths: Any
) -> Any:
    """Undiscounted returns and lengths of the episodes that ended, in order of time; returns their number.

    `returns` and `lengths` (n,) hold the episodes that go on.
    """
    steps, n = rewards.shape
    count = 0
    for t in range(steps):
        for i in range(n):
            if valid[t, i]:
                returns[i] += rewards[t, i]
                lengths[i] += 1
                if ended[t, i]:
                    done_returns[count], done_lengths[count] = returns[i], lengths[i]
                    count += 1
                    returns[i] = 0.0
                    lengths[i] = 0
    return count


generalized_advantages = compiled(_generalized_advantages, threaded=False)
discounted_so_far = compiled(_discounted_so_far, threaded=False)
episode_sums = compiled(_episode_sums, threaded=False)
