"""Many runs of a bandit at once: each run plays all its steps, chunks of runs go to threads.

A run draws everything from one stream, in the order means, action, reward, walk. Sums over runs are taken chunk by
chunk, and the number of chunks is fixed: the same seed gives the same bits for any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from cgopt.kernels.cpu.compile import helper, pair

from .random import below, normal, uniform

EPSILON_GREEDY, UCB, GRADIENT, THOMPSON = range(4)
NO_BASELINE, PAST, PRESENT = range(3)
REWARD, OPTIMAL, REGRET = range(3)


@helper
def argmax(values: Any, s: Any) -> Any:
    """Index of the largest value, ties broken at random."""
    best = values[0]
    ties = 1
    for a in range(1, values.shape[0]):
        if values[a] > best:
            best = values[a]
            ties = 1
        elif values[a] == best:
            ties += 1
    skip = np.int64(0)
    if ties > 1:
        s, skip = below(s, ties)
    index = 0
    for a in range(values.shape[0]):
        if values[a] == best:
            if skip == 0:
                index = a
                break
            skip -= 1
    return s, index


@helper
def from_probabilities(p: Any, s: Any) -> Any:
    """An index drawn with probabilities p: the first whose cumulative sum passes a uniform deviate."""
    s, u = uniform(s)
    index = p.shape[0] - 1
    for a in range(p.shape[0] - 1):
        u -= p[a]
        if u < 0.0:
            index = a
            break
    return s, index


@helper
def softmax(h: Any, p: Any) -> None:
    """``p = exp(h) / sum(exp(h))``, without overflow."""
    top = h[0]
    for a in range(1, h.shape[0]):
        top = max(top, h[a])
    total = 0.0
    for a in range(h.shape[0]):
        p[a] = math.exp(h[a] - top)
        total += p[a]
    for a in range(h.shape[0]):
        p[a] /= total


@pair(set())
def play(
    kind: Any, policy: Any, arms: Any, problem: Any, tail: Any, seeds: Any, bounds: Any, sums: Any, runs: Any
) -> None:
    """Play every run.

    Parameters
    ----------
    kind : int
        One of the four families above.
    policy : tuple of 3 floats
        epsilon-greedy: epsilon, step size (0: sample average), initial value. UCB: c, step size, initial value.
        Gradient: step size, which baseline. Thompson: prior mean, prior variance, variance of a reward.
    arms : int
    problem : tuple of 4 floats
        Mean and standard deviation of the arms' means, standard deviation of a reward, and of one step of the walk of
        the means.
    tail : int
        Steps at the end whose mean is taken for each run.
    seeds : (runs,) uint64
    bounds : (chunks + 1,) int
    sums : (chunks, 3, steps)
        Receives the sums over a chunk's runs of reward, of whether the best arm was played, and of regret.
    runs : (runs, 4)
        Receives mean reward, mean reward in the tail, share of best arms in the tail, total regret of each run.
    """
    steps = sums.shape[2]
    for chunk in prange(sums.shape[0]):
        sums[chunk] = 0.0
        q = np.empty(arms)  # true means
        Q = np.empty(arms)  # estimates, or preferences of the gradient bandit
        N = np.empty(arms)  # how often an arm was played
        p = np.empty(arms)  # probabilities, bounds or samples
        for run in range(bounds[chunk], bounds[chunk + 1]):
            s = seeds[run]
            best = 0
            for a in range(arms):
                s, z = normal(s)
                q[a] = problem[0] + problem[1] * z
                if q[a] > q[best]:
                    best = a
                Q[a] = policy[2] if kind == EPSILON_GREEDY or kind == UCB else 0.0
                N[a] = 0.0
            ties = problem[1] == 0.0  # all means are equal: until the walk parts them, every arm is a best one
            average = 0.0
            total = total_tail = optimal_tail = total_regret = 0.0
            for t in range(steps):
                if kind == EPSILON_GREEDY:
                    s, u = uniform(s)
                    if u < policy[0]:
                        s, action = below(s, arms)
                    else:
                        s, action = argmax(Q, s)
                elif kind == UCB:
                    log_t = math.log(t + 1.0)
                    for a in range(arms):  # Q + c sqrt(ln t / N), and untried arms before all others
                        p[a] = Q[a] + policy[0] * math.sqrt(log_t / N[a]) if N[a] > 0.0 else np.inf
                    s, action = argmax(p, s)
                elif kind == GRADIENT:
                    softmax(Q, p)
                    s, action = from_probabilities(p, s)
                else:
                    for a in range(arms):  # normal posterior of a mean, the variance of a reward being known
                        precision = 1.0 / policy[1] + N[a] / policy[2]
                        mean = (policy[0] / policy[1] + N[a] * Q[a] / policy[2]) / precision
                        s, z = normal(s)
                        p[a] = mean + z / math.sqrt(precision)
                    s, action = argmax(p, s)

                s, z = normal(s)
                reward = q[action] + problem[2] * z
                if ties or q[action] == q[best]:
                    optimal = 1.0
                else:
                    optimal = 0.0
                regret = q[best] - q[action]

                if kind == GRADIENT:
                    before = reward if t == 0 else average
                    average += (reward - average) / (t + 1.0)
                    baseline = before if policy[1] == PAST else (average if policy[1] == PRESENT else 0.0)
                    for a in range(arms):  # H += alpha (R - baseline) (1[a = A] - pi)
                        Q[a] -= policy[0] * (reward - baseline) * p[a]
                    Q[action] += policy[0] * (reward - baseline)
                else:
                    N[action] += 1.0
                    averages = kind == THOMPSON or policy[1] == 0.0
                    step_size = 1.0 / N[action] if averages else policy[1]
                    Q[action] += step_size * (reward - Q[action])

                sums[chunk, REWARD, t] += reward
                sums[chunk, OPTIMAL, t] += optimal
                sums[chunk, REGRET, t] += regret
                total += reward
                total_regret += regret
                if t >= steps - tail:
                    total_tail += reward
                    optimal_tail += optimal

                if problem[3] > 0.0:
                    best = 0
                    ties = False
                    for a in range(arms):
                        s, z = normal(s)
                        q[a] += problem[3] * z
                        if q[a] > q[best]:
                            best = a
            runs[run, 0] = total / steps
            runs[run, 1] = total_tail / tail
            runs[run, 2] = optimal_tail / tail
            runs[run, 3] = total_regret
