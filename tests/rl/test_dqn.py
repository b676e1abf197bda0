"""Q-learning, DQN and what they share: gradients, targets, tables, the same bits, divergence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason='agents need the extra "rl"')
pytest.importorskip("safetensors", reason='checkpoints need the extra "rl"')

import cgopt  # noqa: E402
import cgopt_rl  # noqa: E402
from cgopt_rl import DQN, QLearning, callbacks, checkpoint, evaluate  # noqa: E402
from cgopt_rl.envs.interface import Environments  # noqa: E402
from cgopt_rl.kernels import dense  # noqa: E402
from cgopt_rl.kernels.off_policy import _primitives  # noqa: E402
from cgopt_rl.off_policy import Status  # noqa: E402

ROOT = Path(cgopt_rl.__file__).parent.parent
SMALL = {"net_arch": (8,), "batch_size": 16, "learning_starts": 50, "round_steps": 100, "buffer_size": 300}


# --- dense layers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passes():
    """Forward, backward and the derivatives in the inputs, compiled in one function."""
    from cgopt.kernels.cpu.compile import compiled

    def run(net, theta, x, derivatives, gradient, dx):
        Z = dense.forward(net, theta, x)
        outputs = Z.copy()
        Z[:, :] = derivatives
        dense.backward(net, theta, gradient, x.shape[0])
        dense.forward(net, theta, x)
        dense.outputs_of(net, net.sizes.shape[0] - 2, x.shape[0])[:, :] = derivatives
        dense.backward_to_inputs(net, theta, dx)
        return outputs

    return compiled(run, threaded=False)


@pytest.mark.parametrize(("activation", "code"), [("tanh", 1), ("relu", 2)])
def test_dense_passes_are_those_of_cgopt_nn(passes, activation, code):
    network = cgopt.nn.MLP([5, 9, 7, 3], activation=activation)
    rng = np.random.default_rng(0)
    theta = network.init(rng, dtype=np.float32) + np.float32(0.05)
    x, derivatives = (rng.standard_normal((6, k)).astype(np.float32) for k in (5, 3))
    gradient, dx = np.empty_like(theta), np.empty_like(x)
    net = dense.dense(network.sizes, code, 6)
    outputs = passes(net, theta, x, derivatives, gradient, dx)
    exact = theta.astype(np.float64)
    assert np.allclose(outputs, network.forward(exact, x.astype(np.float64)), atol=3e-6)
    at = network.linearize(exact, x.astype(np.float64))
    assert np.allclose(gradient, at.vjp(derivatives.astype(np.float64)), atol=1e-5)
    # d/dx by central differences of the float64 network
    wanted = np.empty((6, 5))
    for j in range(5):
        h = np.zeros((1, 5))
        h[0, j] = 1e-6
        slope = (network.forward(exact, x + h) - network.forward(exact, x - h)) / 2e-6
        wanted[:, j] = np.sum(slope * derivatives, axis=1)
    assert np.allclose(dx, wanted, atol=1e-5)


# --- the gradient step of DQN ---------------------------------------------------------------------


def trained(steps=400, env="cgopt/CartPole-v1", seed=0, **options):
    return DQN(env, seed=seed, **{**SMALL, **options}).learn(steps)


def one_step(model):
    _primitives(model.learner)["improve"](
        model.agent, model.replay.columns, model.batch, model.loop, model._normalizer()
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_network": False, "loss": "squared"},
        {"double_q": True, "n_steps": 3},
        {"dueling": True, "prioritized_replay": True, "activation": "tanh"},
        {"dueling": True, "double_q": True, "normalize_observations": True, "normalize_rewards": True},
    ],
)
def test_the_gradient_is_that_of_the_loss(options):
    """Against finite differences of the loss in float64, its targets held fixed."""
    model = trained(**options, max_grad_norm=1e9)
    theta, target = model.theta.astype(np.float64), model.agent.target.astype(np.float64)
    one_step(model)
    b, rows, dueling = model.batch, np.arange(16), model.config.dueling

    def values(theta, obs):
        from cgopt_rl.dqn import q_values

        return q_values(model.network, theta, obs.astype(np.float64), dueling)

    best = values(theta if model.config.double_q else target, b.next_obs).argmax(axis=1)
    y = b.rewards + b.discounts.astype(np.float64) * values(target, b.next_obs)[rows, best]

    def loss(theta):
        error = values(theta, b.obs)[rows, b.actions[:, 0]] - y
        size = np.abs(error)
        each = 0.5 * size**2
        if model.config.loss == "huber":
            each = np.where(size <= 1.0, each, size - 0.5)
        return np.mean(b.weights * each)

    assert np.allclose(model.agent.targets, y, rtol=1e-5, atol=1e-5)
    h, wanted = 1e-6, np.empty_like(theta)
    for k in range(theta.size):
        e = np.zeros_like(theta)
        e[k] = h
        wanted[k] = (loss(theta + e) - loss(theta - e)) / (2 * h)
    scale = np.abs(wanted).max()
    assert np.allclose(model.agent.opt.gradient, wanted, atol=2e-4 * scale)


def test_the_whole_step_is_that_of_torch():
    torch = pytest.importorskip("torch", reason="the oracle of this test is torch")
    model = trained(learning_rate=1e-2, max_grad_norm=0.05)
    blocks = [torch.tensor(b.of(model.theta).copy(), requires_grad=True) for b in model.network.blocks]
    older = [torch.tensor(b.of(model.agent.target).copy()) for b in model.network.blocks]
    optimizer = torch.optim.Adam(blocks, lr=1e-2)
    start = int(model.agent.opt.t[0])
    for i, block in enumerate(model.network.blocks):
        m, v = (torch.tensor(block.of(x).copy()) for x in (model.agent.opt.m, model.agent.opt.v))
        optimizer.state[blocks[i]] = {"step": torch.tensor(float(start)), "exp_avg": m, "exp_avg_sq": v}
    one_step(model)

    def values(blocks, x):
        return torch.relu(torch.tensor(x) @ blocks[0][:-1] + blocks[0][-1]) @ blocks[1][:-1] + blocks[1][-1]

    b = model.batch
    y = torch.tensor(b.rewards) + torch.tensor(b.discounts) * values(older, b.next_obs).max(dim=1)[0]
    q = values(blocks, b.obs).gather(1, torch.tensor(b.actions.astype(np.int64)))[:, 0]
    torch.nn.functional.smooth_l1_loss(q, y).backward()
    torch.nn.utils.clip_grad_norm_(blocks, 0.05)
    optimizer.step()
    new = np.concatenate([block.detach().numpy().ravel() for block in blocks])
    assert np.allclose(model.theta, new, atol=2e-6)


def arrays_in(bundle):
    """How many arrays there are in nested tuples."""
    return sum(arrays_in(part) if isinstance(part, tuple) else isinstance(part, np.ndarray) for part in bundle)


def test_a_gradient_step_allocates_nothing():
    """Numba counts one header for each array that a call is given, and that is all."""
    from numba.core.runtime import _nrt_python, rtsys

    model = trained()
    one_step(model)
    _nrt_python.memsys_enable_stats()
    before = rtsys.get_allocation_stats().alloc
    one_step(model)
    after = rtsys.get_allocation_stats().alloc
    _nrt_python.memsys_disable_stats()
    given = model.agent, model.replay.columns, model.batch, model.loop, model._normalizer()
    assert after - before <= arrays_in(given)


def test_matrix_products_run_on_the_threads_that_are_asked_for():
    from threadpoolctl import threadpool_info

    def threads(model, metrics):
        seen.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    for asked in (1, 2):
        seen = set()
        model = DQN("cgopt/CartPole-v1", blas_threads=asked, **SMALL).learn(200, callback=threads)
        assert seen == {asked}
        assert np.array_equal(model.theta, trained(200, blas_threads=asked).theta)


def test_target_networks_follow_by_copies_and_by_polyak_averages():
    hard = trained(600, target_update_interval=600, gradient_steps=1)
    assert np.array_equal(hard.agent.target, hard.theta)
    hard.learn(100)
    assert not np.array_equal(hard.agent.target, hard.theta)
    soft = trained(100, target_update_interval=1, tau=0.1, learning_starts=99, max_grad_norm=1e9)
    before = soft.agent.target.copy()  # one gradient step was made, at step 100, and one average
    start = (before - 0.1 * soft.theta) / 0.9
    assert np.allclose(start, DQN("cgopt/CartPole-v1", seed=0, **SMALL).theta, atol=1e-6)
    one = trained(300, target_network=False)
    assert one.agent.target is one.theta


# --- tables ---------------------------------------------------------------------------------------


def test_a_linear_network_on_unit_vectors_is_q_learning_update_for_update():
    """With plain gradient steps on one transition, W[s, a] changes as the table's entry does; the biases are kept 0."""
    alpha, gamma = 0.25, 0.5
    model = DQN(
        "cgopt/SixStates-v0", seed=1, net_arch=(), target_network=False, loss="squared", optimizer="sgd", batch_size=1,
        learning_rate=alpha, gamma=gamma, learning_starts=0, gradient_steps=0, max_grad_norm=1e9, round_steps=200,
    ).learn(200)  # fmt: skip
    W = model.network.blocks[0].of(model.theta)
    W[...] = 0.0
    Q = np.zeros((6, 2))
    for _ in range(200):
        one_step(model)
        b = model.batch
        s, a, after = b.obs[0].argmax(), b.actions[0, 0], b.next_obs[0].argmax()
        Q[s, a] += alpha * (b.rewards[0] + b.discounts[0] * Q[after].max() - Q[s, a])
        W[-1] = 0.0
        assert np.allclose(W[:-1], Q, atol=1e-6)
    assert Q.max() > 0.001


class Chain(gymnasium.Env):
    """Five states in a row, right is 1 and pays at the end, staying pays a little: deterministic."""

    def __init__(self):
        self.observation_space, self.action_space = gymnasium.spaces.Discrete(5), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s, self.t = int(self.np_random.integers(5)), 0
        return self.s, {}

    def step(self, action):
        self.t += 1
        if action == 1 and self.s == 4:
            return 4, 1.0, True, False, {}
        reward = 0.02 if action == 0 else 0.0
        self.s += int(action == 1)
        return self.s, reward, False, self.t >= 20, {}


def chain_values(gamma):
    """By value iteration; staying for ever would pay 0.02 / (1 - gamma)."""
    Q = np.zeros((5, 2))
    for _ in range(2000):
        V = Q.max(axis=1)
        Q = np.stack([0.02 + gamma * V, np.append(gamma * V[1:], 1.0)], axis=1)
    return Q


def test_q_learning_finds_the_values_of_value_iteration():
    """With step size 1 in a deterministic world it is asynchronous value iteration; time limits must not end values."""
    model = QLearning(Chain, seed=0, gamma=0.9, learning_rate=1.0, exploration_final_eps=1.0).learn(20_000)
    assert np.allclose(model.Q, chain_values(0.9), atol=1e-12)


def test_dqn_finds_the_values_of_value_iteration():
    model = DQN(
        Chain, seed=0, gamma=0.9, net_arch=(16,), exploration_final_eps=1.0, learning_starts=200, learning_rate=3e-3,
        target_update_interval=50, batch_size=32,
    ).learn(6000)  # fmt: skip
    assert np.allclose(model.values(np.arange(5)), chain_values(0.9), atol=0.02)
    assert evaluate(model, Chain, episodes=5).mean > 0.99


# --- the same bits --------------------------------------------------------------------------------


class Plain(Environments):
    """A compiled environment behind the interface that Python's environments have."""

    def __init__(self, inner):
        super().__init__(inner.id, inner.count, inner.observation_space, inner.action_space)
        self.inner = inner

    def reset(self, seed):
        return self.inner.reset(seed)

    def step(self, actions):
        step = self.inner.step(np.asarray(actions, np.int64))
        return step._replace(final=step.final.copy(), obs=step.obs.copy())


@pytest.mark.parametrize("options", [{}, {"n_steps": 3, "n_envs": 2, "prioritized_replay": True}])
def test_one_compiled_call_does_what_one_call_a_turn_does(options):
    from cgopt_rl.envs import environments

    whole = trained(500, **options)
    turns = DQN(
        Plain(environments("cgopt/CartPole-v1", options.get("n_envs", 1))), seed=0, **{**SMALL, **options}
    ).learn(500)
    assert whole.loop.counts[2] > 100
    assert np.array_equal(whole.theta, turns.theta)
    assert np.array_equal(whole.replay.columns.obs, turns.replay.columns.obs)
    assert (whole.episodes, whole.recent) == (turns.episodes, turns.recent)


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("cgopt/CartPole-v1", {"n_steps": 3, "prioritized_replay": True, "normalize_rewards": True}),
        ("cgopt/CartPole-v1", {"buffer_memory": 100, "normalize_observations": True}),
        ("CartPole-v1", {"n_envs": 2, "n_steps": 2}),
    ],
)
def test_a_saved_and_loaded_model_goes_on_bit_for_bit(env, options, tmp_path):
    one = trained(400, env=env, **options)
    one.save(tmp_path / "model")
    two = DQN.load(tmp_path / "model")
    assert two.replay.mapped == ("buffer_memory" in options)
    for model, name in ((one, "one"), (two, "two")):
        model.learn(200)
        model.save(tmp_path / name)
    a, b = checkpoint.read(tmp_path / "one"), checkpoint.read(tmp_path / "two")
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        assert np.array_equal(a[1][name], b[1][name]), name
    assert len(list(tmp_path.glob("one.replay-*"))) == int(two.replay.mapped)


SCRIPT = """
import sys, time
from cgopt_rl import DQN
folder, mode = sys.argv[1:]
slow = (lambda model, metrics: time.sleep(0.05)) if mode == "slow" else None
if mode == "resume":
    DQN.load(folder + "/checkpoint.safetensors").resume(log_dir=folder)
else:
    DQN("cgopt/CartPole-v1", seed=3, checkpoint_every=500, **{options!r}).learn(3000, callback=slow, log_dir=folder)
"""


@pytest.mark.parametrize("options", [SMALL, SMALL | {"buffer_memory": 0, "n_steps": 3}])
def test_killed_and_resumed_ends_as_the_uninterrupted_run(options, tmp_path):
    """SIGKILL after a few checkpoints, resume in a new process: the replay buffer is that of a whole run too."""

    def start(folder, mode):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", SCRIPT.format(options=options), str(folder), mode]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, "fast").wait() == 0
    process = start(killed, "slow")
    log, deadline = killed / "progress.csv", time.monotonic() + 120
    while not log.is_file() or log.read_text().count("\n") < 14:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start(killed, "resume").wait() == 0
    a, b = (checkpoint.read(folder / "checkpoint.safetensors") for folder in (whole, killed))
    assert a[0] == b[0]
    for name in a[1]:
        assert np.array_equal(a[1][name], b[1][name]), name


# --- divergence, returns, options -----------------------------------------------------------------


def test_divergence_ends_the_training_and_is_named():
    rows = []
    model = DQN(
        "cgopt/CartPole-v1", seed=0, **{**SMALL, "learning_rate": 5.0, "target_network": False, "loss": "squared"}
    )
    model.learn(5000, callback=lambda m, metrics: rows.append(metrics))
    assert model.status is Status.DIVERGED
    assert rows[-1]["status"] == "DIVERGED"
    assert model.steps < 5000
    assert np.isfinite(model.theta).all()


def test_values_above_all_returns_are_named():
    """Rewards of 1 and gamma = 0.5 cannot add up to more than 2."""
    rows = []
    model = DQN("cgopt/CartPole-v1", seed=0, gamma=0.5, **SMALL)
    model.learn(1000, callback=lambda m, metrics: rows.append(metrics))
    assert {row["status"] for row in rows} <= {"WAITING", "LEARNING", "OVERESTIMATES"}
    model.network.blocks[-1].of(model.theta)[-1] = 30.0
    model.learn(100)
    assert model.status is Status.OVERESTIMATES


def test_final_and_best_returns_are_both_there():
    check = callbacks.Evaluate(every=100, episodes=3)
    trained(50, round_steps=50).learn(500, callback=check)
    means = [found.mean for _, found in check.history]
    assert check.final.mean == means[-1]
    assert check.best.mean == max(means)
    assert check.collapsed == (means[-1] < 0.5 * (max(means) + means[0]))


def test_dqn_learns_to_balance():
    """The preset's options, a fifth of its steps: several times what random actions reach (22)."""
    from cgopt_rl.presets import preset

    model = DQN("cgopt/CartPole-v1", seed=0, **preset("dqn", "cgopt/CartPole-v1")).learn(10_000)
    assert evaluate(model, episodes=20).mean > 100.0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: DQN("cgopt/Pendulum-v1"), TypeError, "Discrete"),
        (lambda: QLearning("cgopt/CartPole-v1"), TypeError, "Discrete observations"),
        (lambda: DQN("cgopt/CartPole-v1", loss="hubber"), ValueError, "huber"),
        (lambda: DQN("cgopt/CartPole-v1", tau=0.0), ValueError, "tau"),
        (lambda: DQN("cgopt/CartPole-v1", gradient_steps=-2), ValueError, "gradient_steps"),
        (lambda: DQN("cgopt/CartPole-v1", double=True), TypeError, "double_q"),
        (lambda: QLearning("cgopt/SixStates-v0", normalize_rewards=True), ValueError, "normalised"),
    ],
)
def test_bad_options_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
