"""DDPG and TD3: gradients, targets, noise, bounds; the Riccati gain; runs that resume, collapse or diverge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

gymnasium = pytest.importorskip("gymnasium", reason='agents need the extra "rl"')
pytest.importorskip("safetensors", reason='checkpoints need the extra "rl"')

from cgopt.kernels.cpu.compile import compiled  # noqa: E402
from cgopt_rl import DDPG, TD3, checkpoint  # noqa: E402
from cgopt_rl.ddpg import start  # noqa: E402
from cgopt_rl.kernels import ddpg as kernels  # noqa: E402
from cgopt_rl.kernels import off_policy  # noqa: E402
from cgopt_rl.kernels.rollouts import Normalizer  # noqa: E402
from cgopt_rl.off_policy import Status  # noqa: E402

B = 32
PENDULUM = "cgopt/Pendulum-v1"
SMALL = {
    "net_arch": (8, 8), "batch_size": B, "learning_starts": 64, "round_steps": 128, "checkpoint_every": 256,
    "buffer_size": 500,
}  # fmt: skip


class Box(gymnasium.Env):
    """Three observations, two actions with bounds that lie around no zero; remembers what it is given."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(np.array([-1.0, 2.0], "f"), np.array([3.0, 2.5], "f"))

    def __init__(self, length=20, reward=lambda t: 1.0):
        self.length, self.reward, self.given = length, reward, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.given.append(np.array(action))
        self.t += 1
        obs = self.np_random.standard_normal(3).astype(np.float32)
        return obs, self.reward(self.t), False, self.t == self.length, {}


def agent_with_batch(algorithm=DDPG, seed=0, **options):
    """A model, and a batch in place of one drawn from replay; last layers large enough for slopes to be seen."""
    model = algorithm(Box(), seed=seed, **{**SMALL, **options})
    rng = np.random.default_rng(seed)
    for theta in (model.theta, *model.agent.critics.theta, model.agent.actor_target, *model.agent.critics.target):
        theta += 0.3 * rng.standard_normal(theta.size).astype(np.float32)
    f = np.float32
    batch = model.batch
    batch.obs[:], batch.next_obs[:] = rng.standard_normal((2, B, 3)).astype(f)
    batch.actions[:] = rng.uniform(-1.0, 1.0, (B, 2)).astype(f)
    batch.rewards[:] = rng.standard_normal(B).astype(f)
    batch.discounts[:] = 0.9 * (rng.random(B) < 0.7)
    batch.weights[:] = 1.0
    return model, batch


def value(network, theta, x):
    return network.forward(theta.astype(np.float64), x.astype(np.float64))


# --- gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_policy_gradient_is_that_of_the_mean_value(activation):
    """Against central differences in fp64 of ``J(theta) = mean Q(s, tanh(actor(s)))``."""
    model, batch = agent_with_batch(activation=activation)
    kernels.gradient(model.agent, batch.obs)

    def J(theta):
        actions = np.tanh(value(model.actor, theta, batch.obs))
        rows = np.concatenate([batch.obs, actions], axis=1)
        return value(model.critic, model.agent.critics.theta[0], rows).mean()

    theta, h = model.theta.astype(np.float64), 1e-5
    expected = np.array([(J(theta + h * e) - J(theta - h * e)) / (2 * h) for e in np.eye(theta.size)])
    assert np.linalg.norm(model.agent.actor.gradient + expected) < 1e-4 * np.linalg.norm(expected)


def torch_layers(torch, network, theta):
    return [torch.tensor(b.of(theta).astype(np.float64), requires_grad=True) for b in network.blocks]


def torch_forward(torch, layers, x):
    for k, layer in enumerate(layers):
        x = x @ layer[:-1] + layer[-1]
        x = torch.relu(x) if k < len(layers) - 1 else x
    return x


@pytest.mark.parametrize("algorithm", [DDPG, TD3])
def test_one_gradient_step_is_torchs(algorithm):
    """Targets, critics' step and actor's step in fp64, written with autograd and torch's Adam."""
    torch = pytest.importorskip("torch", reason="compared with torch where it is installed")
    model, batch = agent_with_batch(algorithm, target_policy_noise=0.0, policy_delay=1, n_envs=1)
    agent, c, X = model.agent, model.config, lambda a: torch.tensor(np.asarray(a, np.float64))
    actor, critics = (
        torch_layers(torch, model.actor, model.theta),
        [torch_layers(torch, model.critic, theta) for theta in agent.critics.theta],
    )
    with torch.no_grad():
        target = torch_layers(torch, model.actor, agent.actor_target)
        following = torch.cat([X(batch.next_obs), torch.tanh(torch_forward(torch, target, X(batch.next_obs)))], 1)
        values = [
            torch_forward(torch, torch_layers(torch, model.critic, theta), following)[:, 0]
            for theta in agent.critics.target
        ]
        y = X(batch.rewards) + X(batch.discounts) * torch.stack(values).amin(0)
    rows = torch.cat([X(batch.obs), X(batch.actions)], 1)
    for layers in critics:
        adam = torch.optim.Adam(layers, lr=c.learning_rate)
        ((torch_forward(torch, layers, rows)[:, 0] - y) ** 2).mean().backward()
        adam.step()
    adam = torch.optim.Adam(actor, lr=c.actor_learning_rate)
    acted = torch.cat([X(batch.obs), torch.tanh(torch_forward(torch, actor, X(batch.obs)))], 1)
    (-torch_forward(torch, critics[0], acted).mean()).backward()
    adam.step()

    before = [model.theta.copy(), *agent.critics.theta.copy()]
    targets = [agent.actor_target.copy(), *agent.critics.target.copy()]
    kernels.gradient_step(agent, batch, model.loop)
    flat = lambda layers: np.concatenate([layer.detach().numpy().ravel() for layer in layers])  # noqa: E731
    for mine, theirs, old in zip([model.theta, *agent.critics.theta], [actor, *critics], before, strict=True):
        moved = flat(theirs) - old
        assert np.abs((mine - old) - moved).max() < 1e-2 * np.abs(moved).max()  # the first step of Adam is the sign
        assert np.linalg.norm((mine - old) - moved) < 1e-3 * np.linalg.norm(moved)
    for now, then, theta in zip(
        [agent.actor_target, *agent.critics.target], targets, [model.theta, *agent.critics.theta], strict=True
    ):
        assert np.allclose(now, (1 - c.tau) * then + c.tau * theta, rtol=1e-5, atol=1e-7)


def test_targets_take_the_lower_critic_and_noise_that_is_clipped():
    """Smoothing moves a' by at most c, and what is above the lower critic's value counts for nothing."""
    model, batch = agent_with_batch(TD3, target_policy_noise=0.2, target_noise_clip=0.1)
    agent = model.agent
    kernels.gradient_step(agent, batch, model.loop)
    mu = np.tanh(value(model.actor, agent.actor_target, batch.next_obs))
    lowest, highest = np.full(B, np.inf), np.full(B, -np.inf)
    for noise in np.stack(np.meshgrid(*2 * [np.linspace(-0.1, 0.1, 9)]), -1).reshape(-1, 2):
        rows = np.concatenate([batch.next_obs, np.clip(mu + noise, -1.0, 1.0)], axis=1)
        Q = np.minimum(*(value(model.critic, theta, rows)[:, 0] for theta in agent.critics.target))
        y = batch.rewards + batch.discounts * Q
        lowest, highest = np.minimum(lowest, y), np.maximum(highest, y)
    slack = 0.05 * (highest - lowest) + 1e-5 * np.abs(agent.y)  # between the points of the grid
    assert (agent.y >= lowest - slack).all()
    assert (agent.y <= highest + slack).all()
    without_noise = TD3(Box(), **SMALL, target_policy_noise=0.0).agent
    assert not np.array_equal(agent.y, without_noise.y)
    ended = batch.discounts == 0.0
    assert ended.any()
    assert np.array_equal(agent.y[ended], batch.rewards[ended])


def test_td3_moves_actor_and_targets_every_second_step():
    model, batch = agent_with_batch(TD3)
    agent, moved = model.agent, []
    for _ in range(4):
        before = model.theta.copy(), agent.critics.target.copy()
        kernels.gradient_step(agent, batch, model.loop)
        moved += [not np.array_equal(a, b) for a, b in zip(before, (model.theta, agent.critics.target), strict=True)]
    assert moved == [False, False, True, True] * 2
    assert agent.critics.t.tolist() == [4, 4]
    assert agent.actor.t[0] == 2


def test_long_gradients_are_shortened_where_that_is_asked_for():
    model, batch = agent_with_batch(max_grad_norm=1e-3)
    kernels.gradient_step(model.agent, batch, model.loop)
    assert model.loop.totals[off_policy.NORM] > 1e-3  # what is reported is the norm before
    for gradient in (model.agent.critics.gradient, model.agent.actor.gradient):
        assert abs(np.linalg.norm(gradient.astype(np.float64)) - 1e-3) < 1e-8


def arrays_in(bundle):
    """How many arrays there are in nested tuples."""
    return sum(arrays_in(part) if isinstance(part, tuple) else isinstance(part, np.ndarray) for part in bundle)


def test_a_gradient_step_is_float32_and_allocates_nothing():
    """Numba counts one header for each array that a call is given, and that is all."""
    from numba.core.runtime import _nrt_python, rtsys

    model, batch = agent_with_batch(net_arch=(64, 64))
    arguments = model.agent, batch, model.loop
    kernels.gradient_step(*arguments)
    _nrt_python.memsys_enable_stats()
    before = rtsys.get_allocation_stats().alloc
    kernels.gradient_step(*arguments)
    after = rtsys.get_allocation_stats().alloc
    _nrt_python.memsys_disable_stats()
    assert after - before <= arrays_in(arguments)
    for array in (model.agent.actor.theta, model.agent.critics.theta, model.agent.y):
        assert array.dtype == np.float32


def test_the_start_is_the_papers():
    model = DDPG(PENDULUM, **{**SMALL, "net_arch": (30, 20)})
    theta = start(model.actor, np.random.default_rng(1))
    for block, inputs in zip(model.actor.blocks, (3, 30, 20), strict=True):
        bound = 3e-3 if block is model.actor.blocks[-1] else 1 / math.sqrt(inputs)
        assert 0.7 * bound < np.abs(block.of(theta)).max() <= bound
    assert np.array_equal(model.agent.actor_target, model.theta)
    assert np.array_equal(model.agent.critics.target, model.agent.critics.theta)


# --- actions and noise ------------------------------------------------------------------------------


def test_actions_keep_bounds_that_lie_around_no_zero():
    """Uniform at first, over all of the bounds; then the actor's; what is stored is normalised."""
    env = Box()
    model = DDPG(env, seed=2, action_noise_std=0.5, **{**SMALL, "learning_starts": 256, "buffer_size": 512}).learn(512)
    given, low, high = np.array(env.given)[:500], env.action_space.low, env.action_space.high
    assert given.dtype == np.float32
    assert ((given >= low) & (given <= high)).all()
    first = (given[:256] - low) / (high - low)
    assert np.abs(first.mean(0) - 0.5).max() < 5 / math.sqrt(12 * 256)
    assert (first.min(0) < 0.03).all()
    assert (first.max(0) > 0.97).all()
    stored = model.replay.columns.actions[:500]
    assert np.allclose(low + (stored + 1.0) / 2.0 * (high - low), given, atol=1e-6)
    action, _ = model.predict(np.zeros(3), deterministic=True)
    assert np.allclose(action, low + (model.mu(np.zeros((1, 3), "f"))[0] + 1.0) / 2.0 * (high - low), atol=1e-6)


def _explore(agent, loop, normalizer, current):
    explore(agent, loop, normalizer, current, 0)


explore = kernels.explore
explore_once = compiled(_explore, threaded=False)


def noise_of(steps, fresh, **options):
    """The noise in `steps` turns on the same observation, after learning has started."""
    model = DDPG(PENDULUM, **options, **SMALL)
    loop = model.loop
    loop.counts[off_policy.STEPS] = model.config.learning_starts
    norm, current, out = Normalizer(np.zeros(3), np.ones(3), np.inf), np.zeros((1, 3), np.float32), np.empty(steps)
    for t in range(steps):
        loop.fresh[0] = t in fresh
        explore_once(model.agent, loop, norm, current)
        out[t] = loop.stored[0, 0]
    return out - model.mu(current)[0, 0]


def test_noise_has_the_moments_of_its_process():
    """Gaussian: N(0, s^2), independent. Ornstein-Uhlenbeck: variance s^2 / (1 - (1 - theta)^2), lag-one 1 - theta."""
    n = 10_000
    x = noise_of(n, (), action_noise_std=0.1)
    assert abs(x.mean()) < 4 * 0.1 / math.sqrt(n)
    assert abs(x.std() / 0.1 - 1.0) < 4 / math.sqrt(2 * n)
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 4 / math.sqrt(n)
    x = noise_of(n, (0,), action_noise="ornstein_uhlenbeck", action_noise_std=0.05, action_noise_theta=0.15)
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1] - 0.85) < 4 * math.sqrt((1 - 0.85**2) / n)
    assert abs(x.std() / (0.05 / math.sqrt(1 - 0.85**2)) - 1.0) < 4 / math.sqrt(2 * n * (1 - 0.85**2))


def test_ornstein_uhlenbeck_noise_starts_at_zero_in_each_episode():
    """Without decay it is a random walk, which is far away after 100 steps; a new episode brings it back."""
    options = {"action_noise": "ornstein_uhlenbeck", "action_noise_std": 0.05, "action_noise_theta": 0.0}
    x = noise_of(200, (0, 100), **options)
    assert abs(x[0]) < 5 * 0.05
    assert abs(x[100]) < 5 * 0.05 < np.abs(x).max()
    assert np.abs(np.diff(x[1:100])).max() < 5 * 0.05


# --- a problem with a known answer ------------------------------------------------------------------


class Regulator(gymnasium.Env):
    """``x' = A x + B u`` from random starts, with the cost ``x'Q x + u'R u``: Kalman's linear-quadratic regulator."""

    A, B = np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.3]])
    Q, R = np.diag([1.0, 0.2]), np.array([[0.3]])
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1.0, 1.0, 2), 0
        return self.x.astype(np.float32), {}

    def step(self, action):
        u = np.asarray(action, np.float64)
        cost = self.x @ self.Q @ self.x + u @ self.R @ u
        self.x, self.t = self.A @ self.x + self.B @ u, self.t + 1
        return self.x.astype(np.float32), -float(cost), False, self.t == 10, {}


def riccati(gamma):
    """The gain K of ``u = -K x`` for discounted costs: the algebraic Riccati equation of (sqrt(gamma) A, ...)."""
    A, B, root = Regulator.A, Regulator.B, math.sqrt(gamma)
    P = solve_discrete_are(root * A, root * B, Regulator.Q, Regulator.R)
    return np.linalg.solve(Regulator.R + gamma * B.T @ P @ B, gamma * B.T @ P @ A)


def cost_matrix(K, gamma):
    """P of the value ``-x'P x`` of the policy ``u = -K x``, by a Lyapunov equation."""
    closed = math.sqrt(gamma) * (Regulator.A - Regulator.B @ K)
    return solve_discrete_lyapunov(closed.T, Regulator.Q + K.T @ Regulator.R @ K)


@given(st.integers(0, 2**16))
def test_the_deterministic_policy_gradient_theorem_on_a_regulator(seed):
    """Summed over discounted visits, ``dQ/du du/dK`` is the gradient of the return (Silver et al. 2014, theorem 1)."""
    rng, gamma = np.random.default_rng(seed), 0.9
    A, B, R = Regulator.A, Regulator.B, Regulator.R
    K, x0, h = riccati(gamma) + rng.uniform(-0.2, 0.2, (1, 2)), rng.standard_normal(2), 1e-5
    numeric = np.array(
        [-(x0 @ (cost_matrix(K + h * e, gamma) - cost_matrix(K - h * e, gamma)) @ x0) / (2 * h) for e in np.eye(2)]
    )
    P, x, weight, analytic = cost_matrix(K, gamma), x0, 1.0, np.zeros(2)
    for _ in range(300):
        u = -K @ x
        slope = -2.0 * (R @ u + gamma * B.T @ P @ (A @ x + B @ u))  # dQ/du, Q = -(x'Q x + u'R u + gamma x''P x')
        analytic += weight * slope[0] * -x  # du/dK = -x
        x, weight = A @ x + B @ u, gamma * weight
    assert np.abs(analytic - numeric).max() < 1e-6 * np.abs(analytic).max() + 1e-8


def test_the_compiled_policy_gradient_is_analytic_on_a_regulator():
    """With a critic that holds the exact Q of a linear policy, the gradient in the actor's weights is in closed form.

    The critic's hidden units are rectifiers, of which -(|z_1| + |z_2| + ...) is made: the value of a problem whose cost
    is the 1-norm of (x, u), and whose gradient in u is -sign(u).
    """
    model = DDPG(Regulator(), **{**SMALL, "net_arch": (6,)})
    agent, rng = model.agent, np.random.default_rng(3)
    critic = model.critic.views(agent.critics.theta[0])
    critic["W0"][:] = np.kron(np.eye(3), [1.0, -1.0])
    critic["b0"][:] = critic["b1"][:] = 0.0
    critic["W1"][:] = -1.0
    actor = model.actor.views(model.theta)
    actor["W0"][:] = np.concatenate([np.eye(2), -np.eye(2), np.zeros((2, 2))], axis=1)
    actor["b0"][:] = actor["b1"][:] = 0.0
    K = np.array([0.4, -0.3])
    actor["W1"][:, 0] = [*-K, *K, 0.0, 0.0]  # -K'relu(x) + K'relu(-x) = -K'x
    x = rng.standard_normal((B, 2)).astype(np.float32)
    u = np.tanh(-x @ K)
    kernels.gradient(agent, x)
    found = model.actor.views(agent.actor.gradient)["W1"][:4, 0]
    slope = -np.sign(u) * (1.0 - u**2)  # dQ/du du/dz
    expected = -np.concatenate([slope @ np.maximum(x, 0.0), slope @ np.maximum(-x, 0.0)]) / B
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert np.allclose(model.mu(x)[:, 0], u, atol=1e-6)


def test_ddpg_finds_the_riccati_gain():
    """The slope of the learnt policy over states of starts against -K, and the policy itself."""
    model = DDPG(
        Regulator(), seed=0, gamma=0.9, net_arch=(64, 64), batch_size=128, learning_starts=500, tau=0.01,
        action_noise_std=0.3, activation="tanh",
    ).learn(10_000)  # fmt: skip
    K = riccati(0.9)
    x = np.random.default_rng(0).uniform(-0.7, 0.7, (500, 2)).astype(np.float32)
    u = 2.0 * model.mu(x)  # in the environment's units
    gain = -np.linalg.lstsq(x, u, rcond=None)[0].T
    assert np.linalg.norm(gain - K) < 0.1 * np.linalg.norm(K)
    assert np.sqrt(np.mean((u + x @ K.T) ** 2)) < 0.15 * np.sqrt(np.mean((x @ K.T) ** 2))
    assert model.status is Status.LEARNING


# --- runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "env"), [(DDPG, PENDULUM), (TD3, "Pendulum-v1")])
def test_same_seed_same_bits_and_saved_and_loaded_too(algorithm, env, tmp_path):
    options = {**SMALL, "action_noise": "ornstein_uhlenbeck", "normalize_observations": True}
    one = algorithm(env, seed=3, **options).learn(384)
    one.save(tmp_path / "model")
    two = algorithm.load(tmp_path / "model")
    for model in (one, two):
        model.learn(256)
        model.save(tmp_path / str(id(model)))
    first, second = (checkpoint.read(tmp_path / str(id(model))) for model in (one, two))
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    for name, array in first[1].items():
        assert np.array_equal(array, second[1][name]), name
    assert not np.array_equal(one.theta, algorithm(env, seed=4, **options).learn(640).theta)


def test_divergence_ends_the_training_and_is_named():
    """Steps so long that values outgrow every possible return, a hundredfold."""
    model = DDPG(Box(), seed=0, **{**SMALL, "learning_rate": 10.0, "tau": 1.0, "gamma": 0.5}).learn(20_000)
    assert model.status is Status.DIVERGED
    assert model.steps < 20_000
    assert np.isfinite(model.theta).all()


def test_saturation_is_reported():
    """An actor at its bounds, where its gradient is nearly zero, is seen in the log."""
    rows = []
    model = DDPG(Box(), seed=0, **SMALL)
    model.actor.views(model.theta)["b2"][:] = 9.0
    model.learn(128 * 3, callback=lambda m, metrics: rows.append(metrics))
    assert rows[-1]["saturation"] > 0.9
    assert 0.0 < rows[-1]["slope"] < math.inf


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: DDPG("cgopt/CartPole-v1"), TypeError, "Box"),
        (lambda: DDPG(PENDULUM, action_noise="gausian"), ValueError, "gaussian"),
        (lambda: DDPG(PENDULUM, policy_delay=0), ValueError, "policy_delay"),
        (lambda: DDPG(PENDULUM, action_noise_std=-0.1), ValueError, "action_noise_std"),
        (lambda: DDPG(PENDULUM, actor_learning_rat=0.1), TypeError, "actor_learning_rate"),
        (lambda: DDPG(PENDULUM, max_grad_norm=math.nan), ValueError, "max_grad_norm"),
        (lambda: TD3(PENDULUM, target_noise_clip=math.inf), ValueError, "target_noise_clip"),
        (lambda: DDPG(unbounded()), ValueError, "finite bounds"),
    ],
)
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def unbounded():
    env = Box()
    env.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    return env


def test_td3_is_ddpg_with_three_options():
    options = {"n_critics": 2, "policy_delay": 2, "target_policy_noise": 0.2}
    one, two = DDPG(PENDULUM, **SMALL, **options).learn(256), TD3(PENDULUM, **SMALL).learn(256)
    assert np.array_equal(one.theta, two.theta)
