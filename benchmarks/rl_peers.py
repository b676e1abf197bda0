"""Training speed beside Stable-Baselines3 and sb3-contrib, and Fisher products beside torch's double backward.

    python -m benchmarks.rl_peers [--rounds 5] [--only training]
    python -m benchmarks.rl_peers --only dqn
    python -m benchmarks.rl_peers --only ddpg

The same network (64 x 64, tanh), batch, conjugate gradients, epochs and environment for both; contenders take turns in
one process and the medians of the rounds are compared. (sb3-contrib's conjugate gradients stop at a residual of 1e-5,
ours at 1e-5 of the gradient.) sb3-contrib steps Gymnasium's environment with torch on one
thread, which is its best setting for networks of this size. cgopt fits the value network on a second thread while the
policy takes its step. Steps per second are those of collecting and learning together, after a warm-up, by the clock on
the wall; the seconds of processor time for a thousand steps, which other work on the machine does not change, stand
beside them. The simulator's share is that of the time inside Gymnasium's environments. Fisher products are timed by the
processor time of their thread. What BLAS was used, and with the kernels of which processor, is recorded: a variable
OPENBLAS_CORETYPE=Haswell in the environment, for instance, halves its speed where there is AVX-512.

DQN balances the pole, and DDPG makes one gradient step on 256 transitions in each step of Gymnasium's pendulum: in both
packages with the same networks, batches and gradient steps. Each contender runs with one and with two threads, and the
faster of them counts. For DDPG the rate of cgopt's matrix products is counted over the whole loop, and set beside that
of the largest of them alone, on as many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
from threadpoolctl import threadpool_info

from cgopt_rl import DDPG, DQN, TRPO, HierarchicalQ
from cgopt_rl.policies import Policy
from cgopt_rl.presets import preset

from .peers.report import cpu_model

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
    """A function that trains for some steps; see `Measured`."""
    model = TRPO(env, n_envs=n_envs, seed=0, cg_tolerance=1e-5, **options)
    inside = timed_environments(model) if env in gymnasium.registry and not env.startswith("cgopt/") else [0.0]
    model.learn(2 * n_envs * options["n_steps"])

    def train(steps):
        rollouts, inside[0] = [], 0.0
        before, clock, processor = model.steps, time.perf_counter(), time.process_time()
        model.learn(steps, callback=lambda m, x: rollouts.append(x["rollout_seconds"]))
        seconds, done = time.perf_counter() - clock, model.steps - before
        used = time.process_time() - processor
        return Measured(done / seconds, 1000 * used / done, sum(rollouts) / seconds, inside[0] / seconds)

    return train


class Measured(NamedTuple):
    """Steps per second, processor seconds per thousand steps, shares of the time spent in rollouts and simulator."""

    rate: float
    processor: float
    rollouts: float | None = None
    simulator: float | None = None


def timed_environments(model):
    """Time every step and reset of a model's environments; the sum of seconds, in a list."""
    inside = [0.0]

    def timed(call):
        def timing(*args, **kwargs):
            clock = time.perf_counter()
            found = call(*args, **kwargs)
            inside[0] += time.perf_counter() - clock
            return found

        return timing

    for env in model.env.envs:
        env.step, env.reset = timed(env.step), timed(env.reset)
    return inside


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
        clock, processor = time.perf_counter(), time.process_time()
        model.learn(steps)
        seconds, used = time.perf_counter() - clock, time.process_time() - processor
        return Measured(model.num_timesteps / seconds, 1000 * used / model.num_timesteps)

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
        medians = {name: statistics.median(one.rate for one in values) for name, values in raw.items()}
        used = {name: statistics.median(one.processor for one in values) for name, values in raw.items()}
        found[env] = {
            "steps_per_second": medians,
            "ratio": {name: medians[name] / medians["sb3-contrib"] for name in medians},
            "processor_seconds_per_thousand_steps": used,
            "ratio_of_processor_time": {name: used["sb3-contrib"] / used[name] for name in used},
            "rollout_share_gymnasium": statistics.median(one.rollouts for one in raw["Gymnasium"]),
            "simulator_share_gymnasium": statistics.median(one.simulator for one in raw["Gymnasium"]),
            "raw": raw,
        }
        print(line(env, found[env]), flush=True)
    return found


def line(env, found):
    """What is printed of a case."""
    by_processor = found["ratio_of_processor_time"]
    contenders = (
        f"{name} {rate:,.0f} ({found['ratio'][name]:.1f}x, by processor time {by_processor[name]:.1f}x)"
        for name, rate in found["steps_per_second"].items()
    )
    share = f"{found['simulator_share_gymnasium']:.0%} of the time in Gymnasium's environment"
    return f"{env}: {', '.join(contenders)}; {share}"


DDPG_CASES = {"64x64": ((64, 64), 400, 4000), "400x300": ((400, 300), 100, 200)}
DDPG_BATCH = 256


def our_ddpg(net, threads):
    """A function that trains for some steps and returns steps per second."""
    options = {"net_arch": net, "batch_size": DDPG_BATCH, "learning_starts": 300, "round_steps": 100}
    model = DDPG("Pendulum-v1", seed=0, gamma=0.98, blas_threads=threads, **options).learn(400)

    def train(steps):
        clock = time.perf_counter()
        model.learn(steps)
        return steps / (time.perf_counter() - clock)

    return train, model


def their_ddpg(net, threads):
    """The same for Stable-Baselines3."""
    import torch
    from stable_baselines3 import DDPG as Sb3
    from stable_baselines3.common.noise import NormalActionNoise

    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    options = {"batch_size": DDPG_BATCH, "gamma": 0.98, "train_freq": (1, "step"), "gradient_steps": 1}
    model = Sb3(
        "MlpPolicy", "Pendulum-v1", learning_starts=300, action_noise=noise, device="cpu", seed=0,
        policy_kwargs={"net_arch": list(net)}, **options,
    )  # fmt: skip
    torch.set_num_threads(threads)
    model.learn(340)

    def train(steps):
        torch.set_num_threads(threads)
        clock = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - clock)

    return train, None


def operations(model):
    """Multiplications and additions of the matrix products in one gradient step."""
    actor, critic = ([(b.inputs + 1, b.units) for b in network.blocks] for network in (model.actor, model.critic))
    whole = {name: sum(rows * units for rows, units in sizes) for name, sizes in (("a", actor), ("c", critic))}
    above = {name: whole[name] - sizes[0][0] * sizes[0][1] for name, sizes in (("a", actor), ("c", critic))}
    # Targets of both; the critic forth, gradient, back; the actor forth, the critic forth and back, the actor back.
    products = (whole["a"] + whole["c"]) + (2 * whole["c"] + above["c"])
    products += whole["a"] + 2 * whole["c"] + (whole["a"] + above["a"])
    return 2 * DDPG_BATCH * products


def product_rate(net, threads):
    """Floating-point operations a second of the largest matrix product."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    X, W = (rng.standard_normal(shape).astype(np.float32) for shape in ((DDPG_BATCH, net[0] + 1), (net[0] + 1, net[1])))
    out, times = np.empty((DDPG_BATCH, net[1]), np.float32), []
    with threadpool_limits(threads, user_api="blas"):
        for _ in range(60):
            clock = time.perf_counter()
            np.dot(X, W, out)
            times.append(time.perf_counter() - clock)
    return 2 * X.size * net[1] / statistics.median(times)


def ddpg(rounds):
    """Steps per second with each number of threads, the ratio of the best medians, and the rate of matrix products."""
    found = {}
    for name, (net, theirs, mine) in DDPG_CASES.items():
        contenders = {("sb3", t): (*their_ddpg(net, t), theirs) for t in (1, 2)}
        contenders |= {("cgopt", t): (*our_ddpg(net, t), mine) for t in (1, 2)}
        raw, products = {key: [] for key in contenders}, {1: [], 2: []}
        for _ in range(rounds):
            for key, (train, _, steps) in contenders.items():
                raw[key].append(train(steps))
                if key[0] == "cgopt":
                    products[key[1]].append(product_rate(net, key[1]))
        medians = {key: statistics.median(values) for key, values in raw.items()}
        best = {who: max(value for key, value in medians.items() if key[0] == who) for who in ("sb3", "cgopt")}
        count = operations(contenders["cgopt", 1][1])
        shares = {
            t: statistics.median(rate * count / p for rate, p in zip(raw["cgopt", t], products[t], strict=True))
            for t in products
        }
        found[name] = {
            "steps_per_second": {f"{who}, {t} threads": value for (who, t), value in medians.items()},
            "ratio": best["cgopt"] / best["sb3"],
            "ratio_one_thread": medians["cgopt", 1] / medians["sb3", 1],
            "share_of_product_rate": shares,
            "product_gflops": {t: statistics.median(values) / 1e9 for t, values in products.items()},
            "raw": {f"{who}, {t} threads": values for (who, t), values in raw.items()},
        }
        text = {k: f"{v:,.0f}" for k, v in found[name]["steps_per_second"].items()}
        print(
            f"DDPG {name}", text, f"{found[name]['ratio']:.1f}x", {t: f"{v:.0%}" for t, v in shares.items()}, flush=True
        )
    return found


# Options that both have under the same names, and steps of a round for (Stable-Baselines3, Gymnasium's, compiled).
ONE_TO_ONE = {"batch_size": 64, "train_freq": 1, "gradient_steps": 1, "target_update_interval": 500}
TUNED = {"batch_size": 64, "train_freq": 256, "gradient_steps": 128, "target_update_interval": 10}
DQN_CASES = {
    "CartPole-v1, 64x64, one gradient step a step": ((64, 64), ONE_TO_ONE, (1024, 8192, 16_384)),
    "CartPole-v1, 256x256, 128 gradient steps in 256 steps": ((256, 256), TUNED, (1024, 4096, 4096)),
}


def our_dqn(env, net, options, threads):
    """A function that trains for some steps and returns steps per second."""
    model = DQN(env, net_arch=net, seed=0, round_steps=1024, blas_threads=threads, **options)

    def train(steps):
        clock = time.perf_counter()
        model.learn(steps)
        return steps / (time.perf_counter() - clock)

    return train


def their_dqn(net, options, threads):
    """The same for Stable-Baselines3."""
    import torch
    from stable_baselines3 import DQN as Sb3

    env, policy = gymnasium.make("CartPole-v1"), {"net_arch": [*net]}
    model = Sb3("MlpPolicy", env, device="cpu", policy_kwargs=policy, seed=0, **options)

    def train(steps):
        torch.set_num_threads(threads)
        clock = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - clock)

    return train


def dqn(rounds):
    """Steps per second of DQN, and the ratios of the best medians; and of the paper's protocol for hierarchical
    Q-learning."""
    shared = {"learning_rate": 1e-3, "learning_starts": 256, "buffer_size": 100_000}
    found = {}
    for case, (net, options, steps) in DQN_CASES.items():
        options, contenders = {**shared, **options}, {}
        for threads in (1, 2):
            contenders["Stable-Baselines3", threads] = their_dqn(net, options, threads)
            contenders["Gymnasium", threads] = our_dqn("CartPole-v1", net, options, threads)
            contenders["compiled", threads] = our_dqn("cgopt/CartPole-v1", net, options, threads)
        counts = dict(zip(("Stable-Baselines3", "Gymnasium", "compiled"), steps, strict=True))
        raw = {key: [] for key in contenders}
        for turn in range(rounds + 1):  # the first is to compile and to fill the buffer
            for (name, threads), train in contenders.items():
                rate = train(counts[name])
                if turn:
                    raw[name, threads].append(rate)
        medians = {key: statistics.median(values) for key, values in raw.items()}
        best = {name: max(medians[name, threads] for threads in (1, 2)) for name in counts}
        ratios = {name: best[name] / best["Stable-Baselines3"] for name in best}
        found[case] = {
            "steps_per_second": {f"{name}, {threads} threads": rate for (name, threads), rate in medians.items()},
            "ratio": ratios,
            "raw": {f"{name}, {threads} threads": values for (name, threads), values in raw.items()},
        }
        text = {k: f"{v:,.0f}" for k, v in found[case]["steps_per_second"].items()}
        print(f"DQN {case}", text, {k: f"{v:.1f}x" for k, v in ratios.items()}, flush=True)
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
                clock = time.thread_time()
                product()
                times[label].append(time.thread_time() - clock)
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
    parser.add_argument("--only", choices=("training", "fisher", "dqn", "ddpg"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    record = {
        "command": f"python -m benchmarks.rl_peers --rounds {options.rounds}"
        + (f" --only {options.only}" if options.only else ""),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "blas": sorted({f"{i['internal_api']} {i['version']} {i.get('architecture', '')}" for i in threadpool_info()}),
        "versions": {name: version(name) for name in PACKAGES},
    }
    for part, measure in (("training", training), ("fisher", fisher), ("dqn", dqn), ("ddpg", ddpg)):
        if options.only in (None, part):
            record[part] = measure(options.rounds)
    record["load_at_end"] = os.getloadavg()[0]
    name = f"rl-peers-{options.only}.json" if options.only else "rl-peers.json"
    (options.output / name).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
