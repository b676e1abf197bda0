"""DDPG and TD3 as the off-policy loop takes them: how they explore, and one gradient step.

T. Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016, algorithm 1; S. Fujimoto, H. van
Hoof and D. Meger, "Addressing function approximation error in actor-critic methods", ICML 2018, algorithm 1.

Actions are in [-1, 1] here, mu(s) = tanh of the actor's outputs, whatever the environment's bounds are; so is noise. A
critic takes rows [s a]. A gradient step allocates nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import compiled, helper

from .dense import Dense, Optimizer, adam, backward, backward_to_inputs, clip, forward, polyak
from .off_policy import NORM, SCALE, STEPS, UPDATES, Learner, note
from .random import normal, uniform
from .replay import draw, reprioritize
from .rollouts import Network, normalize_row, tanh
from .rollouts import forward as forward_one

f32 = np.float32
Floats = npt.NDArray[np.float32]
GAUSSIAN, ORNSTEIN_UHLENBECK = range(2)
NOISES = {"gaussian": GAUSSIAN, "ornstein_uhlenbeck": ORNSTEIN_UHLENBECK}
SATURATED = f32(0.999)  # beyond it the slope of tanh is below 0.002: an action hardly moves with the actor's parameters
STEPPED, VALUE, SLOPE, SATURATION, REPORTS = range(5)


class Noise(NamedTuple):
    """Exploration, in normalised actions; `state` (n, m) is the Ornstein-Uhlenbeck process."""

    kind: int
    std: float
    theta: float
    state: npt.NDArray[np.float64]


class Rates(NamedTuple):
    """What does not change from step to step; `delay`, `smoothing` and `bound` are TD3's."""

    critic: float
    actor: float
    max_norm: float
    tau: float
    delay: int
    smoothing: float
    bound: float


class Critics(NamedTuple):
    """k critics with one shape, their targets, and Adam's means: (k, nc) each; the gradient (nc,) is of one."""

    theta: Floats
    target: Floats
    m: Floats
    v: Floats
    gradient: Floats
    t: npt.NDArray[np.int64]


class Agent(NamedTuple):
    """All that DDPG has.

    Attributes
    ----------
    network : Network
        The actor, for one observation: a view of its parameters.
    actor : Optimizer
    actor_target : (na,)
    critics : Critics
    actor_net, critic_net : Dense
    x, dx : (B, d + m)
        Rows [s a], and derivatives in them.
    y, errors : (B,)
        Targets, and the first critic's errors.
    h : (layers + 1, widest)
        Units for one observation.
    low, high : (m,) float64
        The environment's bounds.
    stream : (1,) uint64
        Of the smoothing noise.
    report : (REPORTS,) float64
        Added to by steps of the actor: how many, mean Q, mean |dQ/da|, share of saturated actions.
    """

    network: Network
    actor: Optimizer
    actor_target: Floats
    critics: Critics
    actor_net: Dense
    critic_net: Dense
    x: Floats
    dx: Floats
    y: Floats
    errors: Floats
    h: Floats
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    noise: Noise
    rates: Rates
    stream: npt.NDArray[np.uint64]
    report: npt.NDArray[np.float64]


@helper
def explore(agent: Any, loop: Any, normalizer: Any, current: Any, i: Any) -> None:
    """``a = clip(mu(s) + noise, -1, 1)``; uniform on [-1, 1] before learning starts.

    The Ornstein-Uhlenbeck process is ``x <- x - theta x + sigma N(0, 1)``, from 0 in each episode.
    """
    noise, s = agent.noise, loop.streams[i]
    warm = loop.counts[STEPS] >= loop.starts
    if warm:
        normalize_row(normalizer, current, i, agent.h, 0)
        forward_one(agent.network, agent.h)
    last = agent.network.sizes.shape[0] - 1
    for j in range(agent.low.shape[0]):
        if warm:
            s, x = normal(s)
            x *= noise.std
            if noise.kind == ORNSTEIN_UHLENBECK:
                before = 0.0 if loop.fresh[i] else noise.state[i, j]
                x += before - noise.theta * before
                noise.state[i, j] = x
            a = min(max(np.float64(tanh(agent.h[last, j])) + x, -1.0), 1.0)
        else:
            s, u = uniform(s)
            a = 2.0 * u - 1.0
        loop.stored[i, j] = f32(a)
        # -1 and 1 are the bounds themselves, however these are rounded.
        loop.taken[i, j] = f32(0.5 * ((1.0 - a) * agent.low[j] + (1.0 + a) * agent.high[j]))
    loop.streams[i] = s


@helper
def squash(z: Any, x: Any, d: Any) -> None:
    """Actions, tanh of the actor's sums, into the columns of x behind d observations."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            x[i, d + j] = tanh(z[i, j])


@helper
def join(obs: Any, actions: Any, x: Any) -> None:
    """Rows [s a]."""
    for i in range(obs.shape[0]):
        for j in range(obs.shape[1]):
            x[i, j] = obs[i, j]
        for j in range(actions.shape[1]):
            x[i, obs.shape[1] + j] = actions[i, j]


@helper
def smooth(x: Any, d: Any, rates: Any, stream: Any) -> None:
    """TD3's target policy smoothing, ``a <- clip(a + clip(noise, -c, c), -1, 1)``, in the columns behind d."""
    s = stream[0]
    for i in range(x.shape[0]):
        for j in range(d, x.shape[1]):
            s, noise = normal(s)
            noise = min(max(rates.smoothing * noise, -rates.bound), rates.bound)
            x[i, j] = f32(min(max(np.float64(x[i, j]) + noise, -1.0), 1.0))
    stream[0] = s


@helper
def form_targets(agent: Any, batch: Any) -> Any:
    """``y = r + gamma^k (1 - terminated) min_i Q'_i(s', mu'(s'))``; returns the largest |Q'|."""
    d, x, y, critics = batch.obs.shape[1], agent.x, agent.y, agent.critics
    z = forward(agent.actor_net, agent.actor_target, batch.next_obs)
    join(batch.next_obs, batch.actions, x)
    squash(z, x, d)
    if agent.rates.smoothing > 0.0:
        smooth(x, d, agent.rates, agent.stream)
    highest = 0.0
    for k in range(critics.theta.shape[0]):
        Q = forward(agent.critic_net, critics.target[k], x)
        for i in range(y.shape[0]):
            highest = max(highest, abs(np.float64(Q[i, 0])))
            y[i] = Q[i, 0] if k == 0 else min(y[i], Q[i, 0])
    for i in range(y.shape[0]):
        y[i] = batch.rewards[i] + batch.discounts[i] * y[i]
    return highest


@helper
def policy_gradient(agent: Any, obs: Any) -> None:
    """Of ``-J``, ``J = mean Q_1(s, mu(s))``: ``dJ/dtheta = mean dQ/da dmu/dtheta``, in ``actor.gradient``."""
    N, d, x, dx, report = obs.shape[0], obs.shape[1], agent.x, agent.dx, agent.report
    z = forward(agent.actor_net, agent.actor.theta, obs)
    join(obs, z, x)
    squash(z, x, d)
    Q = forward(agent.critic_net, agent.critics.theta[0], x)
    value, slope, saturated = 0.0, 0.0, 0.0
    for i in range(N):
        value += np.float64(Q[i, 0])
        Q[i, 0] = f32(-1.0 / N)
    backward_to_inputs(agent.critic_net, agent.critics.theta[0], dx)
    for i in range(N):
        for j in range(z.shape[1]):
            a = x[i, d + j]
            slope += abs(np.float64(dx[i, d + j]))
            saturated += 1.0 if abs(a) > SATURATED else 0.0
            z[i, j] = dx[i, d + j] * (f32(1.0) - a * a)  # dQ/da times the slope of tanh
    backward(agent.actor_net, agent.actor.theta, agent.actor.gradient, N)
    report[STEPPED] += 1.0
    report[VALUE] += value / N
    report[SLOPE] += slope / z.shape[1]
    report[SATURATION] += saturated / z.size


@helper
def step_critics(agent: Any, batch: Any, loop: Any) -> Any:
    """A step of Adam on each critic's mean (Q - y)^2; False if values have diverged."""
    critics, y, x = agent.critics, agent.y, agent.x
    highest = form_targets(agent, batch)
    join(batch.obs, batch.actions, x)
    N = y.shape[0]
    for k in range(critics.theta.shape[0]):
        Q = forward(agent.critic_net, critics.theta[k], x)
        loss, value = 0.0, 0.0
        for i in range(N):
            error = Q[i, 0] - y[i]
            loss += np.float64(error) * np.float64(error)
            value += np.float64(Q[i, 0])
            if k == 0:
                agent.errors[i] = error
            Q[i, 0] = f32(2.0 / N) * error * batch.weights[i]
        if k == 0 and not note(loop, loss / N, value / N, highest):
            return False
        backward(agent.critic_net, critics.theta[k], critics.gradient, N)
        loop.totals[NORM] += clip(critics.gradient, agent.rates.max_norm) / critics.theta.shape[0]
        opt = Optimizer(critics.theta[k], critics.m[k], critics.v[k], critics.gradient, critics.t[k : k + 1])
        adam(opt, agent.rates.critic)
    return True


@helper
def learn(agent: Any, batch: Any, loop: Any) -> Any:
    """One gradient step: critics, and where it is due the actor and the targets; False if values have diverged."""
    rates, critics = agent.rates, agent.critics
    if not step_critics(agent, batch, loop):
        return False
    if loop.counts[UPDATES] % rates.delay == 0:
        policy_gradient(agent, batch.obs)
        clip(agent.actor.gradient, rates.max_norm)
        adam(agent.actor, rates.actor)
        polyak(agent.actor_target, agent.actor.theta, rates.tau)
        for k in range(critics.theta.shape[0]):
            polyak(critics.target[k], critics.theta[k], rates.tau)
    return True


def improve(agent: Any, replay: Any, batch: Any, loop: Any, normalizer: Any) -> None:
    """One gradient step on transitions drawn from replay."""
    draw(replay, batch, normalizer, loop.totals[SCALE])
    if learn(agent, batch, loop):
        reprioritize(replay, batch, agent.errors)


@helper
def follow(agent: Any, loop: Any) -> None:
    """Targets move with gradient steps, not with the environments."""


def _gradient(agent: Any, obs: Any) -> None:
    policy_gradient(agent, obs)


def _gradient_step(agent: Any, batch: Any, loop: Any) -> None:
    learn(agent, batch, loop)


DDPG = Learner("ddpg", explore, improve, follow)
gradient = compiled(_gradient, threaded=False)  # the policy gradient alone
gradient_step = compiled(_gradient_step, threaded=False)  # on a batch that is given
