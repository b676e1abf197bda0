"""Training speed beside sb3-contrib's TRPO and Stable-Baselines3's DQN, Fisher products beside torch's double backward.

    python -m benchmarks.rl_peers [--rounds 5] [--only training]
    python -m benchmarks.rl_peers --only dqn

The same network (64 x 64, tanh), batch, conjugate gradients, epochs and environment for both; contenders take turns in
one process and the medians of the rounds are compared. (sb3-contrib's conjugate gradients stop at a residual of 1e-5,
ours at 1e-5 of the gradient.) sb3-contrib steps Gymnasium's environment with torch on one
thread, which is its best setting for networks of this size. cgopt fits the value network on a second thread while the
policy takes its step. Steps per second are those of collecting and learning together, after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cgopt_rl import TRPO
from cgopt_rl.policies import Policy

RESULTS = Path(__file__).parent / "results"
CARTPOLE = {"n_steps": 512, "gae_lambda": 0.98, "cg_damping": 1e-3, "n_critic_updates": 20, "batch_size": 512}
MUJOCO = {"n_steps": 1024, "cg_max_steps": 25, "n_critic_updates": 20}
PACKAGES = ("numpy", "numba", "torch", "sb3-contrib", "stable-baselines3", "gymnasium")
# Environment, number of them, options, steps of a round for (sb3-contrib, Gymnasium's environment, compiled one).
CASES = {
    "CartPole-v1": (2, CARTPOLE, (8192, 40_960, 102_400)),
    "Pendulum-v1": (1, {"n_steps": 2048}, (8192, 32_768, 102_400)),
    "Hopper-v4": (2, MUJOCO, (8192, 16_384, None)),
}


def ours(env, n_envs, options):
    """A function that trains for some steps and returns steps per second and the share of time spent in rollouts."""
    model = TRPO(env, n_envs=n_envs, seed=0, cg_tolerance=1e-5, **options)
    model.learn(2 * n_envs * options["n_steps"])

    def train(steps):
        shares = []
        clock = time.perf_counter()
        before = model.steps
        model.learn(steps, callback=lambda m, x: shares.append(x["rollout_seconds"]))
        seconds = time.perf_counter() - clock
        return (model.steps - before) / seconds, sum(shares) / seconds

    return train


def theirs(env, n_envs, options):
    """The same for sb3-contrib."""
    import torch
    from sb3_contrib import TRPO as Sb3
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    net = {"net_arch": [64, 64]}
    model = Sb3("MlpPolicy", make_vec_env(env, n_envs=n_envs, seed=0), device="cpu", policy_kwargs=net, **options)
    model.learn(n_envs * options["n_steps"])

    def train(steps):
        clock = time.perf_counter()
        model.learn(steps)
        return model.num_timesteps / (time.perf_counter() - clock), None

    return train


def training(rounds):
    """Steps per second of every case, and the ratios of medians."""
    found = {}
    for env, (n_envs, options, steps) in CASES.items():
        contenders = {"sb3-contrib": theirs(env, n_envs, options), "Gymnasium": ours(env, n_envs, options)}
        if steps[2] is not None:
            contenders["compiled"] = ours(f"cgopt/{env}", n_envs, options)
        raw = {name: [] for name in contenders}
        for _ in range(rounds):
            for (name, train), count in zip(contenders.items(), steps, strict=False):
                raw[name].append(train(count))
        medians = {name: statistics.median(rate for rate, _ in values) for name, values in raw.items()}
        ratios = {name: medians[name] / medians["sb3-contrib"] for name in medians}
        share = statistics.median(s for _, s in raw["Gymnasium"])
        found[env] = {"steps_per_second": medians, "ratio": ratios, "rollout_share_gymnasium": share, "raw": raw}
        print(env, {k: f"{v:,.0f} ({ratios[k]:.1f}x)" for k, v in medians.items()}, f"rollouts {share:.0%}", flush=True)
    return found


# Options that both have under the same names, and steps of a round for (Stable-Baselines3, Gymnasium's, compiled).
ONE_TO_ONE = {"batch_size": 64, "train_freq": 1, "gradient_steps": 1, "target_update_interval": 500}
TUNED = {"batch_size": 64, "train_freq": 256, "gradient_steps": 128, "target_update_interval": 10}
DQN_CASES = {
    "CartPole-v1, 64x64, one gradient step a step": ((64, 64), ONE_TO_ONE, (1024, 8192, 16_384)),
    "CartPole-v1, 256x256, 128 gradient steps in 256 steps": ((256, 256), TUNED, (1024, 4096, 4096)),
}


def dqn(rounds):
    """Steps per second of DQN, and the ratios of medians; and of the paper's protocol for hierarchical Q-learning."""
    import gymnasium
    import torch
    from stable_baselines3 import DQN as Sb3

    from cgopt_rl import DQN, HierarchicalQ
    from cgopt_rl.presets import preset

    torch.set_num_threads(1)
    shared = {"learning_rate": 1e-3, "learning_starts": 256, "buffer_size": 100_000}
    found = {}
    for case, (net, options, steps) in DQN_CASES.items():
        options = {**shared, **options}
        peer = Sb3("MlpPolicy", gymnasium.make("CartPole-v1"), device="cpu", policy_kwargs={"net_arch": [*net]},
                   seed=0, **options)  # fmt: skip
        models = {"Stable-Baselines3": peer}
        for name, env in (("Gymnasium", "CartPole-v1"), ("compiled", "cgopt/CartPole-v1")):
            models[name] = DQN(env, net_arch=net, seed=0, round_steps=1024, **options)
        raw = {name: [] for name in models}
        for turn in range(rounds + 1):  # the first is to compile and to fill the buffer
            for (name, model), count in zip(models.items(), steps, strict=True):
                more = {"reset_num_timesteps": False} if name == "Stable-Baselines3" else {}
                clock = time.perf_counter()
                model.learn(count, **more)
                if turn:
                    raw[name].append(count / (time.perf_counter() - clock))
        medians = {name: statistics.median(values) for name, values in raw.items()}
        ratios = {name: medians[name] / medians["Stable-Baselines3"] for name in medians}
        found[case] = {"steps_per_second": medians, "ratio": ratios, "raw": raw}
        print(case, {k: f"{v:,.0f} ({ratios[k]:.1f}x)" for k, v in medians.items()}, flush=True)
    times = []
    for turn in range(rounds + 1):
        model = HierarchicalQ("cgopt/SixStates-v0", seed=turn, **preset("hierarchical_q", "SixStates-v0"))
        clock = time.perf_counter()
        model.learn(600_000)
        if turn:
            times.append(time.perf_counter() - clock)
    found["hierarchical Q-learning, 600k steps"] = {"seconds": statistics.median(times), "raw": times}
    print(f"hierarchical Q-learning, 600k steps: {statistics.median(times):.2f} s", flush=True)
    return found


def fisher(rounds):
    """One Fisher product, 64 x 64, 2048 samples: J'MJ here, double backward of the mean KL in torch."""
    import torch
    from gymnasium import spaces

    torch.set_num_threads(1)
    found = {}
    for name, d, space in (
        ("CartPole-v1", 4, spaces.Discrete(2)),
        ("Pendulum-v1", 3, spaces.Box(-2, 2, (1,), np.float32)),
        ("Hopper-v4", 11, spaces.Box(-1, 1, (3,), np.float32)),
        ("HalfCheetah-v4", 17, spaces.Box(-1, 1, (6,), np.float32)),
    ):
        rng = np.random.default_rng(0)
        policy = Policy(d, space)
        theta, obs = policy.init(rng), rng.standard_normal((2048, d)).astype(np.float32)
        F, v, out = policy.fisher(theta, obs), rng.standard_normal(policy.n).astype(np.float32), np.empty(policy.n, "f")
        torch_product = double_backward(policy, theta, obs)
        vt = torch.from_numpy(v)
        ratio_of_products = float(np.linalg.norm(F.matvec(v) - torch_product(vt).numpy()) / np.linalg.norm(F.matvec(v)))
        assert ratio_of_products < 1e-4, "the two products differ"
        products = {"torch": partial(torch_product, vt), "cgopt": partial(F.matvec, v, out)}
        times = {label: [] for label in products}
        for _ in range(rounds * 20):
            for label, product in products.items():
                clock = time.perf_counter()
                product()
                times[label].append(time.perf_counter() - clock)
        medians = {label: statistics.median(t) for label, t in times.items()}
        found[name] = {"seconds": medians, "ratio": medians["torch"] / medians["cgopt"]}
        print(name, {k: f"{1e3 * t:.3f} ms" for k, t in medians.items()}, f"{found[name]['ratio']:.1f}x", flush=True)
    return found


def double_backward(policy, theta, obs):
    """The product as PyTorch programs form it: gradient of (gradient of mean KL)'v."""
    import torch

    blocks = [torch.from_numpy(block.of(theta[: policy.network.n]).copy()) for block in policy.network.blocks]
    parameters = [b.requires_grad_() for b in blocks]
    x, gaussian = torch.from_numpy(obs), bool(policy.head.n_extra)
    if gaussian:
        parameters.append(torch.from_numpy(theta[policy.network.n :].copy()).requires_grad_())

    def distribution():
        h = x
        for k, block in enumerate(blocks):
            h = h @ block[:-1] + block[-1]
            h = torch.tanh(h) if k < len(blocks) - 1 else h
        if gaussian:
            return torch.distributions.Independent(torch.distributions.Normal(h, parameters[-1].exp().expand_as(h)), 1)
        return torch.distributions.Categorical(logits=h)

    new = distribution()
    if gaussian:
        base = torch.distributions.Normal(new.base_dist.loc.detach(), new.base_dist.scale.detach())
        old = torch.distributions.Independent(base, 1)
    else:
        old = torch.distributions.Categorical(logits=new.logits.detach())
    kl = torch.distributions.kl_divergence(old, new).mean()
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(kl, parameters, create_graph=True)])

    def product(v):
        found = torch.autograd.grad(gradient @ v, parameters, retain_graph=True)
        return torch.cat([g.reshape(-1) for g in found])

    return product


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("training", "dqn", "fisher"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    record = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in PACKAGES},
    }
    for name, part in (("training", training), ("dqn", dqn), ("fisher", fisher)):
        if options.only in (None, name):
            record[name] = part(options.rounds)
    record["load_at_end"] = os.getloadavg()[0]
    suffix = f"-{options.only}" if options.only else ""
    (options.output / f"rl-peers{suffix}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
