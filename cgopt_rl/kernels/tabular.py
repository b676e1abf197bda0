"""Q-learning in tables in compiled code, flat and with goals; observations are unit vectors.

References
----------
C. Watkins and P. Dayan, "Q-learning", Machine Learning 8, 1992. T. Kulkarni, K. Narasimhan, A. Saeedi and
J. Tenenbaum, "Hierarchical deep reinforcement learning", NeurIPS 2016, algorithms 1 and 2 and equations 1 and 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import helper

from .dqn import epsilon_at
from .off_policy import STEPS, UPDATES, Learner
from .random import below, uniform


class Flat(NamedTuple):
    """A table of values and how it is learnt.

    Attributes
    ----------
    Q : (states, actions) float64
    rate, gamma : float
    epsilon : (3,) float64
        At the start, in the end, and the steps between.
    """

    Q: npt.NDArray[np.float64]
    rate: float
    gamma: float
    epsilon: npt.NDArray[np.float64]


class Hierarchy(NamedTuple):
    """Tables of the controller and of the meta-controller, and the goals that are being pursued.

    Attributes
    ----------
    Q1 : (goals, states, actions) float64
        The controller's, for each goal.
    Q2 : (states, goals) float64
        The meta-controller's.
    reached : (goals, states) bool
    goal, origin : (n,) int64
        In each environment: the goal (-1: one is to be chosen) and the state that it was chosen in.
    gain : (n,) float64
        The reward since then.
    rate, meta_rate, gamma : float
    epsilon, meta_epsilon : (3,) float64
    """

    Q1: npt.NDArray[np.float64]
    Q2: npt.NDArray[np.float64]
    reached: npt.NDArray[np.bool_]
    goal: npt.NDArray[np.int64]
    origin: npt.NDArray[np.int64]
    gain: npt.NDArray[np.float64]
    rate: float
    meta_rate: float
    gamma: float
    epsilon: npt.NDArray[np.float64]
    meta_epsilon: npt.NDArray[np.float64]


@helper
def state_of(obs: Any, i: Any) -> Any:
    """Which unit vector row i is."""
    state = 0
    while obs[i, state] < 0.5:
        state += 1
    return state


@helper
def greedy(q: Any, s: Any) -> Any:
    """The index of the largest entry; one of them at random where there are several."""
    best, ties = 0, 1
    for a in range(1, q.shape[0]):
        if q[a] > q[best]:
            best, ties = a, 1
        elif q[a] == q[best]:
            ties += 1
    if ties > 1:
        s, which = below(s, ties)
        for a in range(q.shape[0]):
            if q[a] == q[best]:
                if which == 0:
                    return s, a
                which -= 1
    return s, best


@helper
def epsilon_greedy(q: Any, epsilon: Any, s: Any) -> Any:
    """The greedy index, or with probability epsilon any."""
    s, u = uniform(s)
    if u < epsilon:
        return below(s, q.shape[0])
    return greedy(q, s)


@helper
def highest(q: Any) -> Any:
    """The largest entry."""
    top = q[0]
    for a in range(1, q.shape[0]):
        top = max(top, q[a])
    return top


@helper
def explore_flat(agent: Any, loop: Any, normalizer: Any, current: Any, i: Any) -> None:
    """An epsilon-greedy action."""
    q = agent.Q[state_of(current, i)]
    loop.streams[i], a = epsilon_greedy(q, epsilon_at(agent.epsilon, loop.counts[STEPS]), loop.streams[i])
    loop.stored[i, 0] = loop.taken[i, 0] = a


@helper
def remember_flat(
    agent: Any, replay: Any, loop: Any, i: Any, reward: Any, final: Any, terminated: Any, truncated: Any
) -> None:  # fmt: skip
    """One step of Q-learning."""
    s, a, Q = state_of(loop.before, i), loop.taken[i, 0], agent.Q
    following = 0.0 if terminated else agent.gamma * highest(Q[state_of(final, i)])
    Q[s, a] += agent.rate * (reward + following - Q[s, a])  # Q += alpha (r + gamma max Q' - Q)
    loop.counts[UPDATES] += 1


@helper
def explore_goals(agent: Any, loop: Any, normalizer: Any, current: Any, i: Any) -> None:
    """Choose a goal if there is none, and an action for the goal."""
    state, steps, s = state_of(current, i), loop.counts[STEPS], loop.streams[i]
    if agent.goal[i] < 0:
        s, agent.goal[i] = epsilon_greedy(agent.Q2[state], epsilon_at(agent.meta_epsilon, steps), s)
        agent.origin[i] = state
        agent.gain[i] = 0.0
    s, a = epsilon_greedy(agent.Q1[agent.goal[i], state], epsilon_at(agent.epsilon, steps), s)
    loop.streams[i] = s
    loop.stored[i, 0] = loop.taken[i, 0] = a


@helper
def remember_goals(
    agent: Any, replay: Any, loop: Any, i: Any, reward: Any, final: Any, terminated: Any, truncated: Any
) -> None:  # fmt: skip
    """One step of the controller's Q-learning, with reward 1 at the goal, and one of the meta-controller's there.

    The meta-controller's step is from the state that the goal was chosen in, with the reward since then.
    """
    s, a, g, after = state_of(loop.before, i), loop.taken[i, 0], agent.goal[i], state_of(final, i)
    Q1, Q2 = agent.Q1[g], agent.Q2
    there = agent.reached[g, after]
    following = 0.0 if there or terminated else agent.gamma * highest(Q1[after])
    intrinsic = 1.0 if there else 0.0
    Q1[s, a] += agent.rate * (intrinsic + following - Q1[s, a])
    agent.gain[i] += reward
    if there or terminated or truncated:
        following = 0.0 if terminated else agent.gamma * highest(Q2[after])
        origin = agent.origin[i]
        Q2[origin, g] += agent.meta_rate * (agent.gain[i] + following - Q2[origin, g])
        agent.goal[i] = -1
    loop.counts[UPDATES] += 1


def improve(agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any) -> None:
    """Tables are learnt at each step: there is no gradient step."""


@helper
def follow(agent: Any, loop: Any) -> None:
    """There is no target network."""


Q_LEARNING = Learner("q_learning", explore_flat, improve, follow, remember_flat)
HIERARCHICAL_Q = Learner("hierarchical_q", explore_goals, improve, follow, remember_goals)
