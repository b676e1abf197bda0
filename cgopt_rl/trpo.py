"""Trust region policy optimisation, and what falls out of its parts: natural and plain policy gradients.

J. Schulman, S. Levine, P. Moritz, M. Jordan and P. Abbeel, "Trust region policy optimization", ICML 2015. With
r(theta) = pi_theta(a|s) / pi_old(a|s), the step solves, approximately,

    maximise  L(theta) = mean r(theta) A   subject to   mean KL(pi_old || pi_theta) <= delta          (eq. 14)

by L's gradient g and the KL's Hessian at theta_old, the Fisher matrix F: the direction is s with F s = g, its length
sqrt(2 delta / s'F s), and it is shortened until L has risen and the KL keeps the bound (appendix C).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

import cgopt
from cgopt.operators import Operator
from cgopt.optimize import NaturalStep, StepStatus, natural_step

from . import checkpoint
from .checks import integer, number
from .fisher import fisher
from .on_policy import OnPolicy, OnPolicyConfig
from .policies import Policy, even

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class TRPOConfig(OnPolicyConfig):
    """Options of TRPO; the defaults are sb3-contrib's."""

    target_kl: float = 0.01
    """The bound delta on the mean KL divergence of a step."""
    cg_max_steps: int = 15
    """Iterations of conjugate gradients."""
    cg_damping: float = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    cg_tolerance: float = 1e-4
    """Residual, relative to the gradient, at which conjugate gradients may stop earlier."""
    fisher_stride: int = 1
    """Use every k-th sample in Fisher products (and in nothing else): 10 is the paper's 10 %."""
    line_search_shrinking_factor: float = 0.8
    """By how much a step is shortened."""
    line_search_max_iter: int = 10
    """Lengths tried."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_kl", "cg_tolerance"):
            number(name, getattr(self, name), low=0.0, open_low=True)
        number("cg_damping", self.cg_damping, low=0.0)
        number("line_search_shrinking_factor", self.line_search_shrinking_factor, low=0.0, high=1.0, open_low=True)
        for name in ("cg_max_steps", "fisher_stride", "line_search_max_iter"):
            integer(name, getattr(self, name))


class Problem:
    """One batch as the paper's problem: the surrogate L, its gradient g, the KL divergence, and the Fisher matrix F.

    Parameters
    ----------
    policy : Policy
    theta : (n,) array
        The old parameters.
    obs : (N, d) array
    actions : (N, m) array
    advantages : (N,) array
    weights : (N,) array, optional
        Of the samples in means, adding up to one; even by default.
    """

    def __init__(
        self,
        policy: Policy,
        theta: Array,
        obs: Array,
        actions: Array,
        advantages: Array,
        weights: Array | None = None,
    ) -> None:
        self.policy, self.theta, self.obs, self.actions, self.A = policy, theta, obs, actions, advantages
        self.weights = even(obs) if weights is None else weights
        network, self.extra = policy.split(theta)
        self.at = policy.network.linearize(network, obs)
        self.Z = policy.outputs(theta, obs)  # as in `evaluate`: at theta the ratio is exactly 1
        self.log_prob = policy.head.log_prob(self.Z, self.extra, actions)

    def gradient(self) -> Array:
        """``g = mean A grad log pi(a|s)``: L's gradient at theta_old, where r = 1."""
        in_outputs, in_extra = self.policy.head.log_prob_gradient(
            self.Z, self.extra, self.actions, self.weights * self.A
        )
        g = np.empty_like(self.theta)
        n = self.policy.network.n
        g[:n] = self.at.vjp(in_outputs)
        g[n:] = in_extra
        return g

    def fisher(self, stride: int = 1) -> Operator:
        """F over every `stride`-th sample."""
        if stride == 1:
            return fisher(self.at, self.policy.head, self.extra, self.weights)
        weights = self.weights[::stride]
        return self.policy.fisher(self.theta, self.obs[::stride], weights / weights.sum())

    def evaluate(self, theta: Array) -> tuple[float, float]:
        """``L(theta) - L(theta_old)`` and the mean KL(old || new), both over the whole batch."""
        Z, extra = self.policy.outputs(theta, self.obs), self.policy.split(theta)[1]
        head = self.policy.head
        with np.errstate(over="ignore", invalid="ignore"):  # a step too long may overflow; it is then refused
            log_ratio = head.log_prob(Z, extra, self.actions) - self.log_prob
            rise = float(self.weights @ (self.A * np.expm1(log_ratio)))  # mean (r - 1) A
            return rise, float(self.weights @ head.kl(self.Z, self.extra, Z, extra))


def trust_region_step(problem: Problem, config: Any, *, search: bool = True) -> NaturalStep:
    """One step of TRPO (or, without the search, of the natural policy gradient with step size from the KL bound).

    It is `cgopt.optimize.natural_step` on -L: a decrease in its report is a rise of the surrogate.
    """
    return natural_step(
        problem.theta,
        -problem.gradient(),
        problem.fisher(config.fisher_stride),
        problem.evaluate,
        bound=config.target_kl,
        damping=config.cg_damping,
        maxiter=config.cg_max_steps,
        rtol=config.cg_tolerance,
        shrink=config.line_search_shrinking_factor,
        tries=config.line_search_max_iter,
        search=search,
    )


class TRPO(OnPolicy):
    """Trust region policy optimisation, single path.

    Examples
    --------
    >>> from cgopt_rl import TRPO, evaluate
    >>> model = TRPO("cgopt/CartPole-v1", n_steps=512, n_envs=2, normalize_observations=True, seed=1)
    >>> model = model.learn(2048)
    >>> action, _ = model.predict([0.0, 0.0, 0.1, 0.0], deterministic=True)
    >>> int(action) in (0, 1)
    True
    """

    name = "trpo"
    Config = TRPOConfig
    search = True

    def _policy_step(self, obs: Array, actions: Array, advantages: Array) -> dict[str, float]:
        problem = Problem(self.policy, self.theta, obs, actions, advantages)
        step = trust_region_step(problem, self.config, search=self.search)
        self.theta = step.x
        return report_of(step) | spread_of(problem)


class NaturalPolicyGradient(TRPO):
    """The natural policy gradient (Kakade 2001): TRPO's step without its line search."""

    name = "npg"
    search = False


@dataclasses.dataclass(frozen=True)
class ReinforceConfig(OnPolicyConfig):
    """Options of REINFORCE: returns to the end of the episode less a value baseline, one Adam step a batch."""

    gae_lambda: float = 1.0
    """1: whole returns less the baseline."""
    policy_learning_rate: float = 1e-2
    """Step size of Adam on the policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number("policy_learning_rate", self.policy_learning_rate, low=0.0, open_low=True)


class Reinforce(OnPolicy):
    """The plain policy gradient with a baseline (Williams 1992): an Adam step along g."""

    name = "reinforce"
    Config = ReinforceConfig

    def _build(self) -> None:
        super()._build()
        rate = self.config.policy_learning_rate
        self.adam = cgopt.nn.Adam(self.theta.size, learning_rate=rate, dtype=self.theta.dtype)

    def _policy_step(self, obs: Array, actions: Array, advantages: Array) -> dict[str, float]:
        problem = Problem(self.policy, self.theta, obs, actions, advantages)
        g = problem.gradient()
        if not np.isfinite(g).all():
            return report_of(NaturalStep(self.theta, StepStatus.NONFINITE)) | spread_of(problem)
        new = self.theta.copy()
        self.adam.step(new, -g)
        improvement, kl = problem.evaluate(new)
        predicted = float(g.astype(np.float64) @ (new - self.theta))
        self.theta = new
        step = NaturalStep(new, StepStatus.ACCEPTED, kl, decrease=improvement, predicted_decrease=predicted)
        return report_of(step) | spread_of(problem)

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return super()._arrays() | {"adam": self.adam.state()}

    def _restore(self, arrays: dict[str, Array]) -> None:
        super()._restore(arrays)
        self.adam.restore(checkpoint.group(arrays, "adam"))


def report_of(step: NaturalStep) -> dict[str, Any]:
    """A step's report as metrics, in the words of the paper."""
    return {
        "status": step.status.name,
        "kl": step.divergence,
        "predicted_kl": step.predicted_divergence,
        "improvement": step.decrease,
        "predicted_improvement": step.predicted_decrease,
        "cg_iterations": step.cg_iterations,
        "shortened": step.shortened,
    }


def spread_of(problem: Problem) -> dict[str, float]:
    """How spread the policy is: mean entropy, and mean standard deviation of a Gaussian."""
    values = {"entropy": float(np.mean(problem.policy.head.entropy(problem.Z, problem.extra)))}
    if problem.extra.size:
        values["std"] = float(np.mean(np.exp(problem.extra)))
    return values
