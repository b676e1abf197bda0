"""Actor-critic: its gradient, its steps, its TD-error form; compiled blocks and interpreted rounds; what it reaches."""

from __future__ import annotations

import math

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason='agents need the extra "rl"')
pytest.importorskip("safetensors", reason='checkpoints need the extra "rl"')

from cgopt_rl import ActorCritic, checkpoint, evaluate  # noqa: E402
from cgopt_rl.envs import environments  # noqa: E402
from cgopt_rl.kernels import actor_critic as kernels  # noqa: E402
from cgopt_rl.kernels.rollouts import Normalizer  # noqa: E402
from cgopt_rl.rollouts import estimate_advantages  # noqa: E402

SMALL = {"n_envs": 3, "n_steps": 4, "net_arch": (6,), "log_interval": 4}
CARTPOLE, PENDULUM = "cgopt/CartPole-v1", "cgopt/Pendulum-v1"


def options_of(c, **changed):
    values = {
        "gamma": c.gamma, "lam": c.gae_lambda, "entropy": c.ent_coef, "value": c.vf_coef, "max_norm": c.max_grad_norm,
        "rate": c.learning_rate, "rms_prop": c.use_rms_prop, "decay": c.rms_prop_decay, "epsilon": c.rms_prop_eps,
        "normalize": c.normalize_advantage, "reward_scale": 1.0,
    }  # fmt: skip
    return kernels.Options(**{**values, **changed})


def a_batch(env, seed=0, ends=True, **options):
    """A model whose heads say something, one round of its experience (with every kind of end), and its normaliser."""
    model = ActorCritic(env, seed=seed, **{**SMALL, "log_interval": 1, **options})
    rng = np.random.default_rng(seed)
    model.parameters += 0.3 * rng.standard_normal(model.parameters.size).astype(np.float32)
    model._begin()
    norm = Normalizer(np.zeros(model.env.n_inputs), np.ones(model.env.n_inputs), np.inf)
    batch = model.collector.collect(model.theta, norm)
    if ends:
        batch.terminated[1, 0] = batch.truncated[2, 1] = True
        batch.valid[3, 2] = False
    return model, batch, norm


def loss(model, batch, advantages, targets, parameters):
    """What is minimised, in fp64, as a function of all parameters; advantages and targets are constants."""
    c, n = model.config, model.policy.n
    w, valid = parameters[n:], batch.valid.ravel()
    obs = batch.obs.reshape(valid.size, -1)[valid].astype(np.float64)
    Z, extra = model.policy.outputs(parameters[:n], obs), model.policy.split(parameters[:n])[1]
    actions = model.collector.actions.reshape(valid.size, -1)[valid]
    log_pi = model.policy.head.log_prob(Z, extra, actions)
    H = model.policy.head.entropy(Z, extra)
    V = model.value.forward(w, obs)[:, 0]
    A, R = advantages.ravel()[valid], targets.ravel()[valid]
    return -np.mean(A * log_pi) - c.ent_coef * np.mean(H) + c.vf_coef * np.mean((R - V) ** 2)


@pytest.mark.parametrize("env", [CARTPOLE, PENDULUM])
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_the_gradient_is_that_of_the_loss(env, normalize_advantage):
    """Central differences in fp64; advantages by the frame's own estimator, over ends of both kinds."""
    model, batch, norm = a_batch(
        env, ent_coef=0.05, vf_coef=0.7, gae_lambda=0.8, max_grad_norm=1e9, normalize_advantage=normalize_advantage
    )
    A, V = estimate_advantages(batch, batch.rewards, model.values, norm, model.config.gamma, 0.8)
    targets = A + V
    if normalize_advantage:
        A = (A - A[batch.valid].mean()) / A[batch.valid].std()
    theta, h = model.parameters.astype(np.float64), 1e-5
    expected = np.array(
        [
            (loss(model, batch, A, targets, theta + h * e) - loss(model, batch, A, targets, theta - h * e)) / (2 * h)
            for e in np.eye(theta.size)
        ]
    )
    kernels.update(model.learner, batch, 0, norm, options_of(model.config, rate=1e-9), np.zeros(kernels.REPORTS))
    found = model.learner.opt.gradient
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("use_rms_prop", [True, False])
def test_steps_are_torchs(use_rms_prop):
    """RMSProp and Adam on the same clipped gradients, three steps."""
    torch = pytest.importorskip("torch", reason="compared with torch where it is installed")
    model, batch, norm = a_batch(PENDULUM, use_rms_prop=use_rms_prop, max_grad_norm=0.5)
    theta = torch.tensor(model.parameters.astype(np.float64), requires_grad=True)
    kind = (torch.optim.RMSprop, {"alpha": 0.99}) if use_rms_prop else (torch.optim.Adam, {})
    optimizer = kind[0]([theta], lr=7e-4, eps=1e-5, **kind[1])
    begin = model.parameters.copy()
    for _ in range(3):
        report = np.zeros(kernels.REPORTS)
        kernels.update(model.learner, batch, 0, norm, options_of(model.config), report)
        gradient = model.learner.opt.gradient
        assert report[kernels.GRADIENT_NORM] > 0.5
        assert abs(np.linalg.norm(gradient.astype(np.float64)) - 0.5) < 1e-5
        theta.grad = torch.tensor(gradient.astype(np.float64))
        optimizer.step()
    moved = theta.detach().numpy() - begin
    assert np.abs(model.parameters - begin - moved).max() < 1e-3 * np.abs(moved).max()


def test_lambda_zero_is_the_one_step_actor_critic():
    """``delta = r + gamma V(s') - V(s)``: the actor moves along delta grad log pi, the critic along delta grad V."""
    model, batch, norm = a_batch(CARTPOLE, ends=False, n_envs=1, n_steps=1, gae_lambda=0.0, max_grad_norm=1e9)
    old, c = model.parameters.copy(), model.config
    s, following = batch.obs[0], batch.final[0]
    delta = batch.rewards[0, 0] + c.gamma * model.values(following)[0] - model.values(s)[0]
    policy, value, n = model.policy, model.value, model.policy.n
    Z = policy.outputs(old[:n], s)
    in_Z, _ = policy.head.log_prob_gradient(Z, np.empty(0), batch.choices[0], np.ones(1))
    actor = policy.network.gradient(old[:n], s, in_Z.astype(np.float32))
    critic = value.gradient(old[n:], s, np.ones((1, 1), np.float32))
    kernels.update(model.learner, batch, 0, norm, options_of(c, rate=1e-9), np.zeros(kernels.REPORTS))
    found = model.learner.opt.gradient
    assert np.allclose(found[:n], -delta * actor, rtol=1e-4, atol=1e-6)
    assert np.allclose(found[n:], -delta * critic, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("env", [CARTPOLE, PENDULUM])
def test_blocks_do_what_rounds_one_by_one_do(env):
    """A compiled block of rounds, bit for bit as many blocks of one."""
    one = ActorCritic(env, seed=1, **SMALL).learn(4 * 12)
    many = ActorCritic(env, seed=1, **{**SMALL, "log_interval": 1}).learn(4 * 12)
    assert one.steps == many.steps == 48
    assert np.array_equal(one.parameters, many.parameters)


def test_compiled_environments_and_the_same_ones_in_python_give_the_same_round():
    """The interpreted path on the compiled environments' single forms: same observations, same parameters."""
    compiled_model = ActorCritic(PENDULUM, seed=2, **SMALL)
    python_model = ActorCritic(Stepped(PENDULUM, 3), seed=2, **SMALL)
    for model in (compiled_model, python_model):
        model.learn(2 * 48)
    assert np.array_equal(compiled_model.collector.batch.obs, python_model.collector.batch.obs)
    assert np.array_equal(compiled_model.parameters, python_model.parameters)


def Stepped(id, count):
    """Compiled environments stepped one turn at a time: an `Environments` that is no `CompiledBatch`."""
    from cgopt_rl.envs.interface import Environments

    inner = environments(id, count)

    class OneByOne(Environments):
        def reset(self, seed):
            return inner.reset(seed)

        def step(self, actions):
            return inner.step(actions)

    return OneByOne(id, count, inner.observation_space, inner.action_space)


def test_gradients_that_are_not_finite_are_skipped_and_counted():
    model, batch, norm = a_batch(CARTPOLE)
    batch.rewards[0, 0] = np.inf
    before, report = model.parameters.copy(), np.zeros(kernels.REPORTS)
    kernels.update(model.learner, batch, 0, norm, options_of(model.config), report)
    assert report[kernels.SKIPPED] == 1.0
    assert np.array_equal(model.parameters, before)


def test_entropy_is_raised_by_its_coefficient():
    entropies = {}
    for coefficient in (0.0, 10.0):
        rows = []
        ActorCritic(CARTPOLE, seed=0, ent_coef=coefficient).learn(40_000, callback=lambda m, x, r=rows: r.append(x))
        assert {type(value) for value in rows[-1].values()} == {int, float}
        entropies[coefficient] = rows[-1]["entropy"]
    assert entropies[0.0] < entropies[10.0] <= math.log(2.0) + 1e-6


@pytest.mark.parametrize("env", [CARTPOLE, "Pendulum-v1"])
def test_saved_and_loaded_goes_on_bit_for_bit(env, tmp_path):
    options = {**SMALL, "normalize_observations": True, "normalize_rewards": True, "use_rms_prop": False}
    one = ActorCritic(env, seed=3, **options).learn(96)
    one.save(tmp_path / "model")
    two = ActorCritic.load(tmp_path / "model")
    for name, model in (("one", one), ("two", two)):
        model.learn(96)
        model.save(tmp_path / name)
    (header, first), (other, second) = checkpoint.read(tmp_path / "one"), checkpoint.read(tmp_path / "two")
    assert header == other
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def test_cartpole_is_balanced():
    """The reproduction with ten seeds is `make learn-a2c`; one seed here."""
    model = ActorCritic(CARTPOLE, seed=0).learn(200_000)
    assert evaluate(model, episodes=20).mean >= 475.0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"ent_coef": -0.1}, ValueError, "ent_coef"),
        ({"gae_lambda": 1.1}, ValueError, "gae_lambda"),
        ({"rms_prop_decay": 1.0}, ValueError, "rms_prop_decay"),
        ({"activation": "tahn"}, ValueError, "tanh"),
        ({"entcoef": 0.1}, TypeError, "ent_coef"),
    ],
)
def test_bad_input_is_named(options, error, words):
    with pytest.raises(error, match=words):
        ActorCritic(CARTPOLE, **options)
