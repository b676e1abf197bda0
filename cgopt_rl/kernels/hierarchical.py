"""Hierarchical DQN in compiled code: two Q networks, each learnt as in `dqn`, from replay buffers of their own.

The controller's observations are pairs of a state and a goal, as unit vectors side by side; its reward is 1 where the
goal is reached, which ends what it is told of. T. Kulkarni et al. (2016), algorithms 1 and 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import compiled, helper, named

from . import dqn
from .off_policy import BROKEN, REWARD, STEPS, TURNS, UPDATES, Learner, Loop
from .random import below, uniform
from .replay import FILL, Batch, Replay, add
from .rollouts import Normalizer, copy_row, forward
from .tabular import state_of

f32 = np.float32
argmax, epsilon_at, explore_controller, follow_one = dqn.argmax, dqn.epsilon_at, dqn.explore, dqn.follow
improve_one = compiled(named(dqn.improve, "one"), threaded=False, merged=False)


class Agent(NamedTuple):
    """Both networks, the meta-controller's replay, and the goals that are being pursued.

    Attributes
    ----------
    controller, meta : cgopt_rl.kernels.dqn.Agent
    meta_replay, meta_batch, meta_loop
        As for the controller, of the meta-controller.
    plain : Normalizer
        Of pairs of state and goal: none.
    joint, joint_next : (n, d + goals) float32
        Pairs that were acted on, and that were led to.
    origins : (n, d) float32
        States that the goals were chosen in.
    chosen : (n, 1) int32
        The goals, as replay keeps them.
    goal : (n,) int64
        The same; -1 where one is to be chosen.
    gain : (n,) float64
        Rewards since then.
    reached : (goals, states) bool
    meta_epsilon : (3,) float64
    meta_starts, meta_every : int
        Transitions before the meta-controller learns, and turns between its gradient steps.
    """

    controller: dqn.Agent
    meta: dqn.Agent
    meta_replay: Replay
    meta_batch: Batch
    meta_loop: Loop
    plain: Normalizer
    joint: npt.NDArray[np.float32]
    joint_next: npt.NDArray[np.float32]
    origins: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.int32]
    goal: npt.NDArray[np.int64]
    gain: npt.NDArray[np.float64]
    reached: npt.NDArray[np.bool_]
    meta_epsilon: npt.NDArray[np.float64]
    meta_starts: int
    meta_every: int


@helper
def pair(joint: Any, obs: Any, i: Any, goal: Any) -> None:
    """Row i of pairs: the state, and the unit vector of the goal."""
    d = obs.shape[1]
    copy_row(obs, i, joint, i)
    for j in range(d, joint.shape[1]):
        joint[i, j] = f32(0.0)
    joint[i, d + goal] = f32(1.0)


@helper
def explore(agent: Any, loop: Any, normalizer: Any, current: Any, i: Any) -> None:
    """Choose a goal if there is none, and an action for the goal."""
    meta = agent.meta
    if agent.goal[i] < 0:
        layer, first = meta.sizes.shape[0] - 1, 1 if meta.dueling else 0
        s, u = uniform(loop.streams[i])
        steps = loop.counts[STEPS]
        if agent.meta_loop.counts[UPDATES] == 0 or u < epsilon_at(agent.meta_epsilon, steps):
            s, agent.goal[i] = below(s, agent.reached.shape[0])
        else:
            copy_row(current, i, meta.h, 0)
            forward(meta, meta.h)
            agent.goal[i] = argmax(meta.h, layer, first, meta.sizes[layer]) - first
        loop.streams[i] = s
        copy_row(current, i, agent.origins, i)
        agent.chosen[i, 0] = agent.goal[i]
        agent.gain[i] = 0.0
    pair(agent.joint, current, i, agent.goal[i])
    explore_controller(agent.controller, loop, agent.plain, agent.joint, i)


@helper
def remember(
    agent: Any, replay: Any, loop: Any, i: Any, reward: Any, final: Any, terminated: Any, truncated: Any
) -> None:  # fmt: skip
    """Add the step to the controller's replay, and what came of the goal, when it ends, to the meta-controller's."""
    goal = agent.goal[i]
    pair(agent.joint_next, final, i, goal)
    there = agent.reached[goal, state_of(final, i)]
    add(
        replay, i, agent.joint, loop.stored, 1.0 if there else 0.0, agent.joint_next, there or terminated, truncated
    )  # fmt: skip
    agent.gain[i] += reward
    loop.totals[REWARD] = max(loop.totals[REWARD], 1.0)  # the largest reward that the controller can be given
    if there or terminated or truncated:
        totals = agent.meta_loop.totals
        totals[REWARD] = max(totals[REWARD], abs(agent.gain[i]))
        add(agent.meta_replay, i, agent.origins, agent.chosen, agent.gain[i], final, terminated, truncated)
        agent.goal[i] = -1


def improve(agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any) -> None:
    """One gradient step of the controller, and one of the meta-controller when it is due."""
    improve_one(agent.controller, replay, batch, loop, agent.plain)
    if loop.counts[TURNS] % agent.meta_every == 0 and agent.meta_replay.place[FILL] >= agent.meta_starts:
        improve_one(agent.meta, agent.meta_replay, agent.meta_batch, agent.meta_loop, normalizer)
        loop.counts[BROKEN] |= agent.meta_loop.counts[BROKEN]


@helper
def follow(agent: Any, loop: Any) -> None:
    """Bring both target networks up to date when it is due."""
    follow_one(agent.controller, loop)
    follow_one(agent.meta, loop)


HIERARCHICAL_DQN = Learner("hierarchical_dqn", explore, improve, follow, remember)
