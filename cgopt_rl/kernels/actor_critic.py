"""Advantage actor-critic in compiled code: a short batch, its advantages, a gradient step; many rounds in a call.

`block` is bound to each compiled environment as `rollouts.rollout` is; `update` is the learning half alone, for
environments that live in Python.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgopt.kernels.cpu.compile import compiled, helper

from .advantages import generalized_advantages
from .dense import Dense, Optimizer, adam, backward, clip, forward, outputs_of
from .rollouts import Batch, Network, normalize_row, widest
from .rollouts import forward as forward_one

f32 = np.float32
Floats = npt.NDArray[np.float32]
POLICY_LOSS, VALUE_LOSS, ENTROPY, GRADIENT_NORM, SKIPPED, REPORTS = range(6)


class Learner(NamedTuple):
    """Parameters ``[policy, log std, value]`` in one vector with their optimiser, and scratch for a batch.

    `policy` and `value` are views of the parameters; `rows` (T n, d) are observations; the rest is (T, n).
    """

    policy: Network
    value: Network
    opt: Optimizer
    policy_net: Dense
    value_net: Dense
    rows: Floats
    rewards: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    next_values: npt.NDArray[np.float64]
    advantages: npt.NDArray[np.float64]


class Options(NamedTuple):
    """The config's, as kernels take them; `reward_scale` multiplies rewards."""

    gamma: float
    lam: float
    entropy: float
    value: float
    max_norm: float
    rate: float
    rms_prop: bool
    decay: float
    epsilon: float
    normalize: bool
    reward_scale: float


@helper
def estimate(learner: Any, batch: Any, normalizer: Any, options: Any) -> None:
    """Values, those of what followed, and advantages. See `cgopt_rl.rollouts.estimate_advantages`."""
    T, n, d = batch.obs.shape
    value, sizes, rows = learner.value, learner.value.sizes, learner.rows
    for t in range(T):
        for i in range(n):
            for j in range(d):
                rows[t * n + i, j] = batch.obs[t, i, j]
    V = forward(learner.value_net, value.theta, rows)
    h = np.empty((sizes.shape[0], widest(sizes)), np.float32)
    last = sizes.shape[0] - 1
    for t in range(T):
        for i in range(n):
            learner.values[t, i] = V[t * n + i, 0]
            learner.rewards[t, i] = batch.rewards[t, i] * options.reward_scale
            if batch.truncated[t, i] or t == T - 1:
                normalize_row(normalizer, batch.final[t], i, h, 0)
                forward_one(value, h)
                learner.next_values[t, i] = h[last, 0]
            else:
                learner.next_values[t, i] = V[t * n + n + i, 0]
    generalized_advantages(
        learner.rewards, learner.values, learner.next_values, batch.terminated, batch.terminated | batch.truncated,
        options.gamma, options.lam, learner.advantages,
    )  # fmt: skip


@helper
def standardize(advantages: Any, valid: Any) -> None:
    """Mean 0 and standard deviation 1 over valid steps, or all 0 where they do not vary."""
    count, mean, square, largest = 0, 0.0, 0.0, 0.0
    for t in range(valid.shape[0]):
        for i in range(valid.shape[1]):
            if valid[t, i]:
                count += 1
                mean += advantages[t, i]
                largest = max(largest, abs(advantages[t, i]))
    mean /= max(count, 1)
    for t in range(valid.shape[0]):
        for i in range(valid.shape[1]):
            if valid[t, i]:
                square += (advantages[t, i] - mean) ** 2
    deviation = math.sqrt(square / max(count, 1))
    scale = 1.0 / deviation if deviation > 8.0 * 2.0**-52 * largest else 0.0
    for t in range(valid.shape[0]):
        for i in range(valid.shape[1]):
            advantages[t, i] = (advantages[t, i] - mean) * scale


@helper
def choice_derivatives(z: Any, row: Any, choices: Any, taken: Any, A: Any, options: Any, weight: Any) -> Any:
    """Replace logits by the derivatives of ``-weight (A log pi(a|s) + beta H)``; returns log pi and H."""
    first, log_pi, entropy = 0, 0.0, 0.0
    for k in range(choices.shape[0]):
        count = choices[k]
        top = np.float64(z[row, first])
        for a in range(1, count):
            top = max(top, np.float64(z[row, first + a]))
        total = 0.0
        for a in range(count):
            total += math.exp(np.float64(z[row, first + a]) - top)
        log_total = top + math.log(total)
        H = 0.0
        for a in range(count):
            log_p = np.float64(z[row, first + a]) - log_total
            H -= math.exp(log_p) * log_p
        log_pi += np.float64(z[row, first + taken[k]]) - log_total
        for a in range(count):
            log_p = np.float64(z[row, first + a]) - log_total
            p = math.exp(log_p)
            score = (1.0 if a == taken[k] else 0.0) - p  # d log pi / dz
            z[row, first + a] = f32(-weight * (A * score - options.entropy * p * (log_p + H)))  # dH/dz = -p (log p + H)
        entropy += H
        first += count
    return log_pi, entropy


@helper
def float_derivatives(
    z: Any, row: Any, log_std: Any, taken: Any, A: Any, options: Any, weight: Any, in_log_std: Any
) -> Any:
    """Replace means by the same derivatives, and add those in the log standard deviations; returns log pi and H."""
    log_pi, entropy = 0.0, 0.0
    for k in range(log_std.shape[0]):
        log_sigma = np.float64(log_std[k])
        sigma = math.exp(log_sigma)
        x = (np.float64(taken[k]) - np.float64(z[row, k])) / sigma
        log_pi -= 0.5 * x * x + log_sigma + 0.5 * math.log(2.0 * math.pi)
        entropy += log_sigma + 0.5 * (1.0 + math.log(2.0 * math.pi))
        z[row, k] = f32(-weight * A * x / sigma)  # d log pi / d mu = (a - mu) / sigma^2
        in_log_std[k] -= f32(weight * (A * (x * x - 1.0) + options.entropy))
    return log_pi, entropy


@helper
def form_gradient(learner: Any, batch: Any, options: Any, report: Any) -> None:
    """Of ``-mean A log pi - beta mean H + c mean (A + V - V_w)^2``; advantages and targets are constants."""
    T, n = batch.rewards.shape
    policy, value = learner.policy, learner.value
    n_policy, n_std = policy.theta.shape[0], policy.log_std.shape[0]
    in_policy, in_value = learner.opt.gradient[:n_policy], learner.opt.gradient[n_policy + n_std :]
    in_log_std = learner.opt.gradient[n_policy : n_policy + n_std]
    in_log_std[:] = f32(0.0)
    count = 0
    for t in range(T):
        for i in range(n):
            count += batch.valid[t, i]
    z = forward(learner.policy_net, policy.theta, learner.rows)
    V = outputs_of(learner.value_net, value.sizes.shape[0] - 2, T * n)
    weight = 1.0 / max(count, 1)
    for t in range(T):  # the critic's errors, before the advantages are standardised
        for i in range(n):
            error = learner.advantages[t, i] if batch.valid[t, i] else 0.0  # target - V
            report[VALUE_LOSS] += weight * error * error
            V[t * n + i, 0] = f32(-2.0 * options.value * weight * error)
    if options.normalize:
        standardize(learner.advantages, batch.valid)
    for t in range(T):
        for i in range(n):
            A, share = learner.advantages[t, i], weight if batch.valid[t, i] else 0.0
            if n_std:
                log_pi, H = float_derivatives(
                    z, t * n + i, policy.log_std, batch.floats[t, i], A, options, share, in_log_std
                )
            else:
                log_pi, H = choice_derivatives(z, t * n + i, policy.choices, batch.choices[t, i], A, options, share)
            report[POLICY_LOSS] -= share * A * log_pi
            report[ENTROPY] += share * H
    backward(learner.policy_net, policy.theta, in_policy, T * n)
    backward(learner.value_net, value.theta, in_value, T * n)


@helper
def rms_prop(opt: Any, rate: Any, decay: Any, epsilon: Any) -> None:
    """RMSProp (Tieleman and Hinton 2012): ``v <- rho v + (1 - rho) g^2, theta <- theta - alpha g / (sqrt v + eps)``."""
    theta, v, g = opt.theta, opt.v, opt.gradient
    rho, rest = f32(decay), f32(1.0 - decay)
    a, e = f32(rate), f32(epsilon)
    opt.t[0] += 1
    for i in range(theta.shape[0]):
        v[i] = rho * v[i] + rest * g[i] * g[i]
        theta[i] -= a * g[i] / (math.sqrt(v[i]) + e)


@helper
def descend(learner: Any, options: Any, report: Any) -> None:
    """Clip the gradient's norm and take the optimiser's step; a gradient that is not finite is skipped."""
    opt = learner.opt
    length = clip(opt.gradient, options.max_norm)
    if not math.isfinite(length):
        report[SKIPPED] += 1.0
        return
    report[GRADIENT_NORM] += length
    if options.rms_prop:
        rms_prop(opt, options.rate, options.decay, options.epsilon)
    else:
        adam(opt, options.rate, 0.9, 0.999, options.epsilon)


@helper
def round_of(batch: Any, r: Any, T: Any) -> Any:
    """Steps r T to (r + 1) T of a long batch."""
    first, last = r * T, (r + 1) * T
    return Batch(
        batch.raw[first:last], batch.obs[first:last], batch.floats[first:last], batch.choices[first:last],
        batch.rewards[first:last], batch.terminated[first:last], batch.truncated[first:last], batch.valid[first:last],
        batch.final[first:last],
    )  # fmt: skip


def _update(learner: Any, batch: Any, r: Any, normalizer: Any, options: Any, report: Any) -> None:
    """One gradient step from round r of a long batch; `report` is added to."""
    part = round_of(batch, r, learner.values.shape[0])
    estimate(learner, part, normalizer, options)
    form_gradient(learner, part, options, report)
    descend(learner, options, report)


update = compiled(_update, threaded=False, merged=False)  # long, and the same in every block


def rollout(network: Any, normalizer: Any, simulation: Any, streams: Any, batch: Any) -> None:
    """Stand for `rollouts.rollout`, bound to an environment, in the text below."""
    raise NotImplementedError


def block(learner: Any, batch: Any, normalizer: Any, options: Any, report: Any, simulation: Any, streams: Any) -> None:
    """Act and learn, round after round, until the long batch is full."""
    T = learner.values.shape[0]
    for r in range(batch.rewards.shape[0] // T):
        rollout(learner.policy, normalizer, simulation, streams, round_of(batch, r, T))
        update(learner, batch, r, normalizer, options, report)
