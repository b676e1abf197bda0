"""TRPO: what the theory says of its parts, exact steps on a small Markov decision process, and names for every end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gymnasium", reason='agents need the extra "rl"')

from gymnasium import spaces

from cgopt.optimize import StepStatus
from cgopt_rl import TRPO, NaturalPolicyGradient, Reinforce, TRPOConfig, evaluate
from cgopt_rl.on_policy import standardized
from cgopt_rl.policies import Policy
from cgopt_rl.trpo import Problem, trust_region_step

SPACES = {
    "choice": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([2, 3]),
    "floats": spaces.Box(-1.0, 1.0, (2,), np.float32),
}


def some_problem(kind, *, dtype=np.float64, seed=0, N=40, scale=1.0):
    rng = np.random.default_rng(seed)
    policy = Policy(4, SPACES[kind], (6,), dtype=dtype)
    theta = (0.4 * rng.standard_normal(policy.n)).astype(dtype)
    obs = rng.standard_normal((N, 4)).astype(dtype)
    actions = policy.head.sample(policy.outputs(theta, obs), policy.split(theta)[1], rng)
    return Problem(policy, theta, obs, actions, scale * rng.standard_normal(N)), rng


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ratio_is_exactly_one_at_the_old_parameters(kind, dtype):
    problem, _ = some_problem(kind, dtype=dtype)
    log_ratio = problem.policy.log_prob(problem.theta, problem.obs, problem.actions) - problem.log_prob
    assert not log_ratio.any()
    assert problem.evaluate(problem.theta) == (0.0, 0.0)


@pytest.mark.parametrize("kind", SPACES)
def test_gradient_of_the_surrogate_is_the_policy_gradient(kind):
    """The gradient at theta_old, which uses r = 1, against central differences of the surrogate itself."""
    problem, rng = some_problem(kind)
    g, h = problem.gradient(), 1e-5
    for _ in range(5):
        v = rng.standard_normal(g.size)
        up, _ = problem.evaluate(problem.theta + h * v)
        down, _ = problem.evaluate(problem.theta - h * v)
        assert g @ v == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-9)


def test_gradient_is_unbiased_for_the_expected_return():
    """One state, exact: the mean over actions of A grad log pi is the gradient of sum_a pi(a) q(a)."""
    policy = Policy(1, spaces.Discrete(4), (), dtype=np.float64)
    rng = np.random.default_rng(0)
    theta, q = rng.standard_normal(policy.n), rng.standard_normal(4)
    obs, actions = np.ones((4, 1)), np.arange(4)[:, None]
    pi = np.exp(policy.log_prob(theta, obs, actions))
    problem = Problem(policy, theta, obs, actions, q, weights=pi)

    def expected(t):
        return np.exp(policy.log_prob(t, obs, actions)) @ q

    g, h = problem.gradient(), 1e-6
    for e in np.eye(policy.n):
        assert g @ e == pytest.approx((expected(theta + h * e) - expected(theta - h * e)) / (2 * h), abs=1e-8)


@given(
    kind=st.sampled_from(sorted(SPACES)),
    seed=st.integers(0, 10_000),
    damping=st.sampled_from([0.0, 1e-3, 0.1]),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
)
def test_accepted_steps_rise_within_the_bound(kind, seed, damping, scale):
    """Whatever the unit of the advantages; and the linear prediction is a rise: g's > 0."""
    problem, _ = some_problem(kind, seed=seed, scale=scale)
    step = trust_region_step(problem, TRPOConfig(cg_damping=damping))
    assert step.predicted_decrease > 0.0
    assert 0.0 < step.predicted_divergence <= 0.01 * (1 + 1e-9)
    if step.status is StepStatus.ACCEPTED:
        rise, kl = problem.evaluate(step.x)
        assert rise > 0.0
        assert kl <= 0.01
        assert (step.decrease, step.divergence) == (rise, kl)
    else:
        assert step.x is problem.theta


@pytest.mark.parametrize("kind", SPACES)
def test_units_of_the_advantages_do_not_matter(kind):
    one, _ = some_problem(kind)
    other, _ = some_problem(kind, scale=2.0**60)
    a, b = (trust_region_step(p, TRPOConfig(cg_damping=0.0, cg_max_steps=60)) for p in (one, other))
    assert a.x == pytest.approx(b.x, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", SPACES)
def test_small_steps_are_as_predicted(kind):
    """For a small bound, KL and rise agree with their predictions, and with the damping's part the bound is used up."""
    problem, _ = some_problem(kind)
    step = trust_region_step(problem, TRPOConfig(target_kl=1e-7, cg_damping=0.01))
    assert step.divergence == pytest.approx(step.predicted_divergence, rel=2e-2)
    damped = step.predicted_divergence + 0.5 * 0.01 * np.sum((step.x - problem.theta) ** 2)
    assert damped == pytest.approx(1e-7 * 0.8 ** (2 * step.shortened), rel=1e-6)
    assert step.decrease == pytest.approx(step.predicted_decrease, rel=2e-2)


def test_direction_solves_the_damped_system():
    problem, _ = some_problem("floats")
    config = TRPOConfig(cg_damping=0.3, cg_max_steps=200, cg_tolerance=1e-12, target_kl=1e-8)
    step = trust_region_step(problem, config)
    F = problem.fisher()
    dense = np.stack([F.matvec(e) for e in np.eye(problem.theta.size)], axis=1)
    s = np.linalg.solve(dense + 0.3 * np.eye(len(dense)), problem.gradient())
    moved = step.x - problem.theta
    assert moved / np.linalg.norm(moved) == pytest.approx(s / np.linalg.norm(s), abs=1e-6)


def test_fisher_over_a_stride_uses_those_samples_only():
    problem, rng = some_problem("choice")
    v = rng.standard_normal(problem.theta.size)
    expected = problem.policy.fisher(problem.theta, problem.obs[::4]).matvec(v)
    assert problem.fisher(4).matvec(v) == pytest.approx(expected, rel=1e-12)


# --- every end has a name -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantages", "config", "status"),
    [
        (np.zeros(40), {}, StepStatus.NO_GRADIENT),
        (np.full(40, np.nan), {}, StepStatus.NONFINITE),
        (np.full(40, np.inf), {}, StepStatus.NONFINITE),
        (None, {"cg_damping": 0.0, "cg_max_steps": 60, "line_search_max_iter": 1}, StepStatus.LINE_SEARCH_FAILED),
    ],
)
def test_steps_that_fail_leave_the_parameters(advantages, config, status):
    problem, _ = some_problem("choice")
    if advantages is not None:
        problem.A = advantages
    before = problem.theta.copy()
    with np.errstate(invalid="ignore", over="ignore"):
        step = trust_region_step(problem, TRPOConfig(**config))
    assert step.status is status
    assert np.array_equal(step.x, before)
    assert str(status.value).endswith("The parameters stay.")


def test_advantages_that_do_not_vary_are_zero_and_never_nan():
    assert not standardized(np.full(5, 1e30)).any()
    assert not standardized(np.array([3.0])).any()
    x = standardized(1e-30 * np.array([1.0, 2.0, 4.0]))
    assert x.mean() == pytest.approx(0.0, abs=1e-15)
    assert x.std() == pytest.approx(1.0)


# --- a small Markov decision process, exactly -----------------------------------------------------


class MDP:
    """States S, actions A, random transitions P (S, A, S), rewards R (S, A), start distribution mu."""

    def __init__(self, seed, states=4, actions=3, gamma=0.8):
        rng = np.random.default_rng(seed)
        self.P = rng.dirichlet(np.full(states, 0.4), size=(states, actions))
        self.R, self.gamma = rng.random((states, actions)), gamma
        self.mu = np.full(states, 1.0 / states)
        self.obs = np.repeat(np.eye(states), actions, axis=0)
        self.actions = np.tile(np.arange(actions), states)[:, None]
        self.policy = Policy(states, spaces.Discrete(actions), (), dtype=np.float64)

    def pi(self, theta):
        return np.exp(self.policy.log_prob(theta, self.obs, self.actions)).reshape(self.R.shape)

    def solve(self, pi):
        """Expected discounted return, discounted visits, advantages."""
        P = np.einsum("sa,sat->st", pi, self.P)
        V = np.linalg.solve(np.eye(len(P)) - self.gamma * P, (pi * self.R).sum(axis=1))
        visits = np.linalg.solve(np.eye(len(P)) - self.gamma * P.T, self.mu)
        return self.mu @ V, visits, self.R + self.gamma * self.P @ V - V[:, None]

    def optimum(self):
        """By value iteration."""
        V = np.zeros(len(self.mu))
        for _ in range(2000):
            V = (self.R + self.gamma * self.P @ V).max(axis=1)
        return self.mu @ V

    def problem(self, theta):
        """The exact problem: every state and action, weighted by discounted visits and the policy."""
        pi = self.pi(theta)
        _, visits, A = self.solve(pi)
        weights = (visits / visits.sum())[:, None] * pi
        return Problem(self.policy, theta, self.obs, self.actions, A.ravel(), weights=weights.ravel())


@given(seed=st.integers(0, 10_000), size=st.sampled_from([0.01, 0.3, 3.0]))
def test_policy_improvement_bound_holds(seed, size):
    """Theorem 1: eta(new) >= eta(old) + sum rho pi_new A - 4 eps gamma / (1 - gamma)^2 max KL(old || new)."""
    mdp = MDP(seed)
    rng = np.random.default_rng(seed)
    old = rng.standard_normal(mdp.policy.n)
    new = old + size * rng.standard_normal(mdp.policy.n)
    pi_old, pi_new = mdp.pi(old), mdp.pi(new)
    eta_old, visits, A = mdp.solve(pi_old)
    eta_new, _, _ = mdp.solve(pi_new)
    surrogate = eta_old + visits @ (pi_new * A).sum(axis=1)
    divergence = (pi_old * np.log(pi_old / pi_new)).sum(axis=1).max()
    g = mdp.gamma
    assert eta_new >= surrogate - 4 * np.abs(A).max() * g / (1 - g) ** 2 * divergence - 1e-12


def test_surrogate_is_the_return_to_first_order():
    """Equation (4) of the paper: L(theta_old) and its gradient are eta's (here by central differences)."""
    mdp, h = MDP(3), 1e-6
    theta = np.random.default_rng(1).standard_normal(mdp.policy.n)
    problem = mdp.problem(theta)
    _, visits, _ = mdp.solve(mdp.pi(theta))
    g = problem.gradient() * visits.sum()
    for e in np.eye(theta.size):
        difference = mdp.solve(mdp.pi(theta + h * e))[0] - mdp.solve(mdp.pi(theta - h * e))[0]
        assert g @ e == pytest.approx(difference / (2 * h), abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_exact_steps_improve_monotonically_to_the_optimum(seed):
    """With exact advantages and small steps, each return is at least the last one, and the optimum is reached."""
    mdp = MDP(seed)
    config = TRPOConfig(target_kl=2e-3, cg_damping=1e-9, cg_max_steps=50)
    theta, best, last = np.zeros(mdp.policy.n), mdp.optimum(), -np.inf
    for _ in range(600):
        eta, _, _ = mdp.solve(mdp.pi(theta))
        assert eta >= last - 1e-12
        last = eta
        if best - eta < 1e-3 * best:
            break
        step = trust_region_step(mdp.problem(theta), config)
        assert step.status is StepStatus.ACCEPTED
        theta = step.x
    assert best - last < 1e-3 * best


# --- learning -------------------------------------------------------------------------------------


def test_cartpole_is_learnt():
    model = TRPO("cgopt/CartPole-v1", n_envs=2, n_steps=512, gae_lambda=0.98, cg_damping=1e-3, seed=1)
    seen = []
    model.learn(30_000, callback=lambda m, metrics: seen.append(metrics))
    assert evaluate(model, episodes=20).mean > 350.0
    assert evaluate(model, "CartPole-v1", episodes=2).mean > 150.0
    for metrics in seen:
        assert metrics["status"] in StepStatus.__members__
        assert metrics["kl"] <= 0.01
        assert all(np.isfinite(v) for k, v in metrics.items() if isinstance(v, float) and k != "return_round")


@pytest.mark.parametrize("options", [{"value_fit": "gauss_newton", "n_critic_updates": 3}, {"fisher_stride": 5}])
def test_variants_learn_too(options):
    model = TRPO("cgopt/CartPole-v1", n_envs=4, n_steps=256, gae_lambda=0.98, seed=0, **options).learn(25_000)
    assert evaluate(model, episodes=20).mean > 120.0


def test_natural_gradient_and_reinforce_learn_from_the_same_parts():
    natural = NaturalPolicyGradient("cgopt/CartPole-v1", n_envs=4, n_steps=256, seed=0).learn(20_000)
    assert evaluate(natural, episodes=20).mean > 100.0
    plain = Reinforce("cgopt/CartPole-v1", n_envs=4, n_steps=256, gae_lambda=0.98, seed=0).learn(25_000)
    assert evaluate(plain, episodes=20).mean > 100.0


def test_gymnasium_environments_of_all_action_kinds_run():
    import gymnasium

    class Wanted(gymnasium.Env):
        """One step; the reward is for the action [1, 2]."""

        observation_space = spaces.Discrete(3)
        action_space = spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 0, {}

        def step(self, action):
            return 1, float(action[0] == 1) + float(action[1] == 2), True, False, {}

    model = TRPO(Wanted, n_steps=128, n_envs=2, target_kl=0.05, seed=0).learn(6_000)
    action, state = model.predict(0, deterministic=True)
    assert state is None
    assert action.tolist() == [1, 2]
    pendulum = TRPO("Pendulum-v1", n_steps=64, normalize_observations=True, normalize_rewards=True).learn(128)
    action, _ = pendulum.predict(np.array([1.0, 0.0, 0.0], np.float32))
    assert action.shape == (1,)
    assert -2.0 <= action[0] <= 2.0
    many, _ = pendulum.predict(np.zeros((5, 3), np.float32), deterministic=True)
    assert many.shape == (5, 1)


@pytest.mark.parametrize("wrong", ["observation", "reward"])
def test_environments_that_give_nan_are_named(wrong):
    import gymnasium

    class Broken(gymnasium.Env):
        observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.t += 1
            bad = np.nan if self.t == 5 else 0.0
            obs = np.array([bad if wrong == "observation" else 0.0, 0.0], np.float32)
            return obs, bad if wrong == "reward" else 0.0, False, False, {}

    model = TRPO(Broken, n_steps=16)
    before = model.theta.copy()
    with pytest.raises(ValueError, match=f"Broken gave {wrong} .*nan.* at step"):
        model.learn(16)
    assert np.array_equal(model.theta, before)


def test_gauss_newton_fits_better_than_adam():
    """The same data and start: 20 Gauss-Newton steps leave less than a third of what 30 epochs of Adam leave."""
    from cgopt_rl.value import ValueFunction, explained_variance

    rng = np.random.default_rng(0)
    obs = rng.standard_normal((500, 3)).astype(np.float32)
    targets = 50.0 + 20.0 * np.sin(obs[:, 0]) + 5.0 * obs[:, 1] ** 2
    fits = {}
    for name in ("adam", "gauss_newton"):
        value = ValueFunction(3, (16, 16), "tanh", np.random.default_rng(1))
        if name == "adam":
            value.fit_adam(obs, targets, 30, 64, 1e-3, seed=0)
        else:
            value.fit_gauss_newton(obs, targets, 20, 20)
        fits[name] = explained_variance(value(obs).astype(np.float64), targets)
    assert 1.0 - fits["gauss_newton"] < (1.0 - fits["adam"]) / 3.0


def test_minibatches_are_shuffled_evenly():
    """Each epoch is a permutation, and each number comes to each place equally often (chi-square, 81 of freedom)."""
    from cgopt_rl.value import shuffles

    orders = shuffles(3, 20_000, 10)
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(10), (20_000, 1)))
    counts = np.stack([np.bincount(orders[:, place], minlength=10) for place in range(10)])
    assert np.sum((counts - 2000.0) ** 2 / 2000.0) < 130.0  # exceeded with probability 5e-4
    assert not np.array_equal(orders, shuffles(4, 20_000, 10))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_fit_of_the_value_network_is_adam_on_minibatches(activation):
    """Against cgopt.nn's gradient and Adam in float64; 300 rows are more than go through the network at once."""
    import cgopt
    from cgopt_rl.value import ValueFunction, shuffles

    rng = np.random.default_rng(0)
    obs, targets = rng.standard_normal((700, 3)).astype(np.float32), rng.standard_normal(700)
    value = ValueFunction(3, (16, 8), activation, np.random.default_rng(1))
    theta = value.theta.astype(np.float64)
    value.fit_adam(obs, targets, 2, 300, 1e-3, seed=5)

    network, loss = value.network, cgopt.nn.SquaredError()
    adam = cgopt.nn.Adam(theta.size, learning_rate=1e-3, dtype=np.float64)
    for order in shuffles(5, 2, 700):
        for start in range(0, 700, 300):
            rows = order[start : start + 300]
            at = network.linearize(theta, obs[rows].astype(np.float64))
            adam.step(theta, 2.0 * at.vjp(loss.gradient(at.output, targets[rows, None])))  # the loss is half the square
    assert value.optimizer.t[0] == 6
    assert value.theta == pytest.approx(theta, rel=2e-4, abs=2e-6)
