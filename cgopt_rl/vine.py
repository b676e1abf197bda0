"""TRPO by vines: from states along trajectories, several short rollouts each with a first action of its own.

Schulman et al. 2015, section 5.2. The state of the simulator is saved at the roots and restored for each branch; the
branches of one root see the same random numbers, so that the differences of their returns are due to the first action.
It needs environments whose state can be copied: the compiled ones, and MuJoCo's.

With Q(s, a) the discounted return of a branch, the surrogate is the mean over roots s of

    sum_a pi_theta(a|s) Q(s, a)                    over all actions, if they are few                   (eq. 15)
    sum_k r_k Q(s, a_k) / sum_k r_k                for actions a_k drawn from pi_old, r the ratio      (eq. 16)

Both are free of a baseline: adding a constant to a root's Q changes neither gradient.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import integer
from .envs.interface import CompiledBatch
from .kernels.random import streams
from .normalization import normalize
from .policies import Categorical, Policy
from .rollouts import Collector
from .trpo import TRPO, Problem, TRPOConfig, report_of, spread_of, trust_region_step

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class VineConfig(TRPOConfig):
    """Options of vine TRPO. Those of advantages and of the value network have no effect: it needs neither."""

    n_steps: int = 256
    """Steps of each environment along the trajectories that roots are taken from."""
    vine_interval: int = 8
    """Steps between two roots of one environment."""
    rollout_length: int = 100
    """Steps of a branch, the first action's among them."""
    vine_actions: int = 4
    """Branches of a root where actions are continuous; choices are all tried."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vine_interval", "rollout_length", "vine_actions"):
            integer(name, getattr(self, name))
        if self.n_steps % self.vine_interval:
            raise ValueError(f"n_steps must be a multiple of vine_interval, {self.vine_interval}; got {self.n_steps}")


class SelfNormalized(Problem):
    """The problem of equation (16): K actions a root, drawn from the old policy, ratios normalised root by root.

    Rows of one root follow one another. The advantages are Q less its mean over the root's branches, which is what the
    normalisation amounts to in the gradient.
    """

    def __init__(self, policy: Policy, theta: Array, obs: Array, actions: Array, Q: Array) -> None:
        centred = Q - Q.mean(axis=1, keepdims=True)
        super().__init__(policy, theta, obs, actions, centred.ravel())
        self.branches = Q.shape[1]

    def evaluate(self, theta: Array) -> tuple[float, float]:
        network, extra = self.policy.split(theta)
        Z = self.policy.network.forward(network, self.obs)
        head = self.policy.head
        with np.errstate(over="ignore", invalid="ignore"):  # a step too long may overflow; it is then refused
            log_ratio = (head.log_prob(Z, extra, self.actions) - self.log_prob).reshape(-1, self.branches)
            r = np.exp(log_ratio - log_ratio.max(axis=1, keepdims=True))
            rises = np.sum(r * self.A.reshape(r.shape), axis=1) / r.sum(axis=1)
            return float(rises.mean()), float(self.weights @ head.kl(self.Z, self.extra, Z, extra))


def vine_problem(policy: Policy, theta: Array, roots: Array, actions: Array, Q: Array) -> Problem:
    """The problem of a vine's batch.

    Parameters
    ----------
    policy : Policy
    theta : (n,) array
        The old parameters.
    roots : (N, d) array
        Observations at the roots, as the policy saw them.
    actions : (N, K, m) array
        First actions: for a `Categorical` with one choice all of them in order, otherwise drawn from the old policy.
    Q : (N, K) array
        Returns of the branches.

    Returns
    -------
    Problem
    """
    N, K = Q.shape
    obs, first = np.repeat(roots, K, axis=0), actions.reshape(N * K, -1)
    if isinstance(policy.head, Categorical) and policy.head.alternatives == (K,):
        pi = np.exp(policy.log_prob(theta, obs, first)).reshape(N, K)
        advantages = Q - np.sum(pi * Q, axis=1, keepdims=True)
        return Problem(policy, theta, obs, first, advantages.ravel(), weights=pi.ravel() / N)
    return SelfNormalized(policy, theta, obs, first, Q)


class VineTRPO(TRPO):
    """TRPO with the vine estimator, on compiled environments (all branches at once) or MuJoCo's (root by root).

    `steps` counts every step of the simulator, those of the branches too.

    Examples
    --------
    >>> from cgopt_rl import VineTRPO
    >>> model = VineTRPO("cgopt/CartPole-v1", n_steps=64, rollout_length=20, seed=0).learn(1000)
    >>> model.steps  # 64 along the trajectory, and 8 roots with 2 branches of 20
    1152
    """

    name = "trpo-vine"
    Config = VineConfig

    def _build(self) -> None:
        super()._build()
        if reason := self.env.no_branches():
            raise ValueError(
                f"vines copy the simulator's state, which {self.env.id} does not give ({reason}); "
                "use a compiled environment, cgopt/..., or a MuJoCo one without wrappers"
            )
        c, head = self.config, self.policy.head
        self.trunk = Collector(self.env, self.policy, c.vine_interval, self._seed(0))
        self.collector = self.trunk  # what the frame starts, saves and restores
        self.branches = head.alternatives[0] if isinstance(head, Categorical) else c.vine_actions
        self.roots = self.env.count * (c.n_steps // c.vine_interval)
        together = self.roots if isinstance(self.env, CompiledBatch) else 1  # roots whose branches grow side by side
        self.copies = self.env.copies(together * self.branches)
        self.vines = Collector(self.copies, self.policy, max(1, c.rollout_length - 1), self._seed(0))

    def _iterate(self) -> dict[str, float]:
        clock = time.perf_counter()
        norm = self._normalizer()
        states, metrics, raw = self._grow_trunk(norm)
        roots = normalize(norm, states["obs"])
        actions = self._first_actions(roots)
        Q = self._grow_vines(states, actions, norm)
        self.steps += raw.shape[0] + Q.size * self.config.rollout_length
        rollout = time.perf_counter() - clock
        problem = vine_problem(self.policy, self.theta, roots, actions, Q)
        step = trust_region_step(problem, self.config)
        self.theta = step.x
        if self.observations is not None:
            self.observations.update(raw)
        times = {"rollout_seconds": rollout, "update_seconds": time.perf_counter() - clock - rollout}
        return metrics | report_of(step) | spread_of(problem) | times

    def _grow_trunk(self, norm: Any) -> tuple[dict[str, Array], dict[str, float], Array]:
        """Follow the policy, and save the simulator's state at the roots; metrics of its episodes, raw observations."""
        c = self.config
        raw: list[Array] = []
        saved: list[dict[str, Array]] = []
        metrics: dict[str, float] = {}
        for _ in range(c.n_steps // c.vine_interval):
            saved.append(self.env.branch_from())
            batch = self.trunk.collect(self.theta, norm)
            raw.append(batch.raw.reshape(-1, batch.raw.shape[2]).copy())
            metrics = self._note_episodes(batch.rewards, batch.terminated | batch.truncated, batch.valid)
        return {name: np.concatenate([s[name] for s in saved]) for name in saved[0]}, metrics, np.concatenate(raw)

    def _first_actions(self, roots: Array) -> Array:
        """Actions (N, K, 1): all there are, or K drawn from the policy."""
        N, K = roots.shape[0], self.branches
        if isinstance(self.policy.head, Categorical):
            return np.tile(np.arange(K), (N, 1))[..., None]
        obs = np.repeat(roots, K, axis=0)
        Z, extra = self.policy.outputs(self.theta, obs), self.policy.split(self.theta)[1]
        return self.policy.head.sample(Z, extra, self.rng).reshape(N, K, -1)

    def _grow_vines(self, states: dict[str, Array], actions: Array, norm: Any) -> Array:
        """Returns (N, K) of the branches: the first action, then the policy, under common random numbers."""
        N, K = actions.shape[:2]
        seeds = np.random.SeedSequence(int(self.rng.integers(2**63)))
        rows = {name: np.repeat(array, K, axis=0) for name, array in states.items()}
        if "streams" in rows:  # compiled environments draw anew, the same for the branches of a root
            rows["streams"] = np.repeat(streams(seeds.spawn(1)[0], N), K)
        acting, first = np.repeat(streams(seeds, N), K), actions.reshape(N * K, -1)
        Q, size = np.empty(N * K), self.copies.count
        for part in (slice(start, start + size) for start in range(0, N * K, size)):
            self.vines.streams[...] = acting[part]
            Q[part] = self._follow({name: array[part] for name, array in rows.items()}, first[part], norm)
        return Q.reshape(N, K)

    def _follow(self, rows: dict[str, Array], first: Array, norm: Any) -> Array:
        """Returns of branches that start side by side."""
        self.copies.branch_at(rows)
        step = self.copies.step(first[:, 0] if isinstance(self.policy.head, Categorical) else first)
        total, going = step.rewards.copy(), ~(step.terminated | step.truncated)
        if self.config.rollout_length > 1:
            self.vines.obs = step.obs
            batch = self.vines.collect(self.theta, norm)
            ended = batch.terminated | batch.truncated
            # A reward counts while no step before it has ended the episode.
            before = np.vstack([~going, ended[:-1]])
            counts = ~np.logical_or.accumulate(before, axis=0)
            discounts = self.config.gamma ** np.arange(1, len(ended) + 1)
            total += discounts @ (batch.rewards * counts)
        return total
