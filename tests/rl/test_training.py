"""Training: the same bits from the same seed, after real kills too; files that are damaged; what is logged."""

from __future__ import annotations

import csv
import json
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

import cgopt_rl  # noqa: E402
from cgopt_rl import TRPO, Reinforce, callbacks, checkpoint  # noqa: E402

ROOT = Path(cgopt_rl.__file__).parent.parent
SMALL = {
    "n_steps": 64, "n_envs": 2, "net_arch": (8,), "n_critic_updates": 2, "normalize_observations": True,
    "normalize_rewards": True, "checkpoint_every": 512,
}  # fmt: skip
REPLAY = {
    "n_envs": 2, "net_arch": (8,), "batch_size": 16, "learning_starts": 128, "round_steps": 128, "buffer_size": 1000,
    "normalize_observations": True, "normalize_rewards": True, "checkpoint_every": 512,
}  # fmt: skip
OPTIONS = {
    "ActorCritic": {
        "n_envs": 2, "n_steps": 8, "log_interval": 8, "net_arch": (8,), "normalize_observations": True,
        "normalize_rewards": True, "checkpoint_every": 512,
    },
    "DDPG": REPLAY | {"action_noise": "ornstein_uhlenbeck"},
    "TD3": REPLAY,
}  # fmt: skip
FILE = "checkpoint.safetensors"


def rows_of(folder):
    with open(folder / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def arrays_of(path):
    return checkpoint.read(path)[1]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [TRPO, Reinforce])
@pytest.mark.parametrize("env", ["cgopt/Pendulum-v1", "cgopt/CartPole-v1", "CartPole-v1"])
def test_a_saved_and_loaded_model_goes_on_bit_for_bit(algorithm, env, tmp_path):
    """Where environments cannot tell their state, saving starts new episodes in both."""
    one = algorithm(env, seed=3, **SMALL).learn(512)
    one.save(tmp_path / "model")
    two = algorithm.load(tmp_path / "model")
    one.learn(512)
    two.learn(512)
    assert np.array_equal(one.theta, two.theta)
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    same(arrays_of(tmp_path / "one"), arrays_of(tmp_path / "two"))
    assert checkpoint.read(tmp_path / "one")[0] == checkpoint.read(tmp_path / "two")[0]


def test_compiled_environments_do_not_notice_a_save(tmp_path):
    one = TRPO("cgopt/CartPole-v1", seed=3, **SMALL).learn(1024)
    two = TRPO("cgopt/CartPole-v1", seed=3, **SMALL).learn(384)
    two.save(tmp_path / "model")
    two.learn(640)
    assert np.array_equal(one.theta, two.theta)


def test_same_seed_same_bits_and_other_seed_other_bits():
    thetas = [TRPO("cgopt/CartPole-v1", seed=seed, **SMALL).learn(512).theta for seed in (5, 5, 6)]
    assert np.array_equal(thetas[0], thetas[1])
    assert not np.array_equal(thetas[0], thetas[2])


SCRIPT = """
import sys, time
from cgopt_rl import {algorithm}
env, folder, mode = sys.argv[1:]
slow = (lambda model, metrics: time.sleep(0.05)) if mode == "slow" else None
if mode == "resume":
    {algorithm}.load(folder + "/checkpoint.safetensors").resume(log_dir=folder)
else:
    {algorithm}(env, seed=3, **{options!r}).learn(3072, callback=slow, log_dir=folder)
"""


def start(algorithm, env, folder, mode):
    code = SCRIPT.format(algorithm=algorithm, options=OPTIONS.get(algorithm, SMALL))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, env, str(folder), mode], env={**os.environ, "PYTHONPATH": path}
    )


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        ("TRPO", "cgopt/CartPole-v1"),
        ("TRPO", "Pendulum-v1"),
        ("ActorCritic", "cgopt/CartPole-v1"),
        ("DDPG", "cgopt/Pendulum-v1"),
        ("TD3", "Pendulum-v1"),
        pytest.param("ActorCritic", "Pendulum-v1", marks=pytest.mark.long),
        pytest.param("NaturalPolicyGradient", "cgopt/Acrobot-v1", marks=pytest.mark.long),
        pytest.param("Reinforce", "cgopt/MountainCarContinuous-v0", marks=pytest.mark.long),
        pytest.param("TRPO", "Acrobot-v1", marks=pytest.mark.long),
    ],
)
def test_killed_and_resumed_ends_as_the_uninterrupted_run(algorithm, env, tmp_path):
    """SIGKILL somewhere after the first checkpoint, resume in a new process: file and log are those of a whole run."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(algorithm, env, whole, "fast").wait() == 0
    process = start(algorithm, env, killed, "slow")
    log, deadline = killed / "progress.csv", time.monotonic() + 120
    while not log.is_file() or log.read_text().count("\n") < 14:  # past the third checkpoint, within a round
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    header, _ = checkpoint.read(killed / FILE)
    assert 512 <= header["steps"] < 3072
    assert start(algorithm, env, killed, "resume").wait() == 0
    same(arrays_of(whole / FILE), arrays_of(killed / FILE))
    for a, b in zip(rows_of(whole), rows_of(killed), strict=True):
        for name in a:
            if "second" not in name:
                assert a[name] == b[name], name


def test_ctrl_c_saves_and_stops_cleanly(tmp_path):
    process = start("TRPO", "cgopt/CartPole-v1", tmp_path, "slow")
    log = tmp_path / "progress.csv"
    while not log.is_file() or log.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    stopped = TRPO.load(tmp_path / FILE)
    assert 0 < stopped.steps < 3072
    whole = TRPO("cgopt/CartPole-v1", seed=3, **SMALL).learn(3072)
    assert np.array_equal(stopped.resume().theta, whole.theta)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model"
    TRPO("cgopt/CartPole-v1", seed=0, **SMALL).learn(128).save(path)
    return path


def test_normaliser_travels_with_the_policy(saved):
    model = TRPO("cgopt/CartPole-v1", seed=0, **SMALL).learn(128)
    other = TRPO.load(saved)
    obs = np.array([0.1, -0.2, 0.05, 0.3], np.float32)
    Z, Z2 = (
        m.policy.outputs(m.theta, (obs[None] - m.observations.mean) * m.observations.scale) for m in (model, other)
    )
    assert np.array_equal(Z, Z2)
    assert not np.allclose(other.observations.mean, 0.0)
    assert other.predict(obs, deterministic=True) == model.predict(obs, deterministic=True)


def test_a_model_may_be_given_another_environment(saved):
    model = TRPO.load(saved, env="CartPole-v1")
    assert model.env.id == "CartPole-v1"
    model.learn(128)
    with pytest.raises(ValueError, match="not this one"):
        TRPO.load(saved, env="cgopt/Acrobot-v1")
    with pytest.raises(ValueError, match="'trpo', not 'reinforce'"):
        Reinforce.load(saved)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: b"\x80\x04K\x01.", "damaged"),
        (lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], "damaged"),
        (lambda data: data.replace(b"cgopt_rl checkpoint 1", b"cgopt_rl checkpoint 9"), "format"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(saved, spoil, words):
    data = saved.read_bytes()
    saved.write_bytes(spoil(data))
    with pytest.raises(ValueError, match=words) as caught:
        TRPO.load(saved)
    assert str(saved) in str(caught.value)


def test_foreign_and_missing_files(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="not a checkpoint of cgopt_rl"):
        TRPO.load(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError, match="nothing"):
        TRPO.load(tmp_path / "nothing")


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def broken(number):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(saved, {}, {"x": np.zeros(2)})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_checkpoints_hold_numbers_and_json_only(saved):
    header, arrays = checkpoint.read(saved)
    assert json.loads(json.dumps(header)) == header
    assert header["config"]["n_steps"] == 64
    assert header["env"] == "cgopt/CartPole-v1"
    for array in arrays.values():
        assert array.dtype.kind in "fiub"


# --- options, logs, callbacks ---------------------------------------------------------------------


class WithoutChoice(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TRPO("cgopt/CartPole-v1", target_kll=1.0), TypeError, "target_kl"),
        (lambda: TRPO("cgopt/CartPole-v1", target_kl=-1.0), ValueError, "target_kl"),
        (lambda: TRPO("cgopt/CartPole-v1", gamma=1.5), ValueError, "gamma"),
        (lambda: TRPO("cgopt/CartPole-v1", value_fit="adan"), ValueError, "adam"),
        (lambda: TRPO("cgopt/CartPole-v1", {"gamma": 0.9}), TypeError, "TRPOConfig"),
        (lambda: TRPO("cgopt/CartPole-v1", n_steps=0), ValueError, "n_steps"),
        (lambda: TRPO("cgopt/CartPole-v1", normalize_rewards="yes"), TypeError, "normalize_rewards"),
        (lambda: TRPO("cgopt/CartPole-v1", net_arch=64), TypeError, "net_arch"),
        (lambda: TRPO("cgopt/CartPole-v1", net_arch=[64, 0]), ValueError, "net_arch"),
        (lambda: TRPO(gymnasium.make_vec("CartPole-v1", 2), n_steps=0), ValueError, "n_steps"),
        (lambda: TRPO(lambda: WithoutChoice()), ValueError, "nothing to choose"),
        (lambda: TRPO("CartPole-v7"), ValueError, "CartPole-v1"),
        (lambda: TRPO("cgopt/CartPole-v1", seed=-1), ValueError, "seed"),
        (lambda: TRPO("cgopt/CartPole-v1").learn(0), ValueError, "total_steps"),
        (lambda: TRPO("cgopt/CartPole-v1").learn(10, callback=3), TypeError, "callback"),
        (lambda: TRPO("cgopt/CartPole-v1").predict(np.zeros(3)), ValueError, "observation"),
        (lambda: TRPO("cgopt/CartPole-v1").predict(np.full(4, np.nan)), ValueError, "NaN"),
    ],
)
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_folders_of_a_file_are_made_and_lists_are_options_too(tmp_path):
    model = TRPO("cgopt/CartPole-v1", net_arch=[8, 8])
    assert model.config.net_arch == (8, 8)
    model.save(tmp_path / "some" / "where.safetensors")
    assert TRPO.load(tmp_path / "some" / "where.safetensors").config == model.config


def test_a_config_and_options_over_it():
    config = cgopt_rl.TRPOConfig(gamma=0.9, n_envs=3)
    model = TRPO("cgopt/CartPole-v1", config, gamma=0.95)
    assert (model.config.gamma, model.config.n_envs, model.env.count) == (0.95, 3, 3)
    assert config.gamma == 0.9


def test_raw_returns_are_logged_whatever_is_normalised(tmp_path):
    """Pendulum's raw returns lie below -100 a step limit of 200; rewards are scaled for learning only."""
    model = TRPO("cgopt/Pendulum-v1", **{**SMALL, "n_steps": 256}).learn(1024, log_dir=tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    assert float(rows[-1]["return_mean"]) < -500.0
    assert int(rows[-1]["steps"]) == model.steps == 1024
    assert model.returns.scale[0] < 0.5


def test_callbacks(tmp_path):
    evaluation = callbacks.Evaluate(every=256, episodes=3, save_best=tmp_path / "best")
    kept = callbacks.Checkpoint(256, tmp_path / "kept")
    model = TRPO("cgopt/CartPole-v1", **SMALL)
    model.learn(1024, callback=[evaluation, kept, callbacks.StopAtReturn(1e9)])
    assert [steps for steps, _ in evaluation.history] == [128, 384, 640, 896]
    assert (tmp_path / "best").is_file()
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "trpo-1024.safetensors", "trpo-256.safetensors", "trpo-512.safetensors", "trpo-768.safetensors",
    ]  # fmt: skip
    early = TRPO("cgopt/CartPole-v1", **SMALL).learn(100_000, callback=callbacks.StopAtReturn(5.0))
    assert early.steps < 1000
    stopped = TRPO("cgopt/CartPole-v1", **SMALL)
    stopped.learn(100_000, callback=callbacks.Evaluate(every=1, episodes=2, stop_at=1.0))
    assert stopped.steps == 128


def test_tensorboard_files_are_written_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []
    model = TRPO("cgopt/CartPole-v1", **SMALL)
    model.learn(256, log_dir=tmp_path, callback=lambda _, metrics: seen.append(metrics))
    events = EventAccumulator(str(tmp_path)).Reload()
    written = events.Tensors("kl")
    assert [event.step for event in written] == [metrics["steps"] for metrics in seen]
    assert [event.tensor_proto.float_val[0] for event in written] == [np.float32(metrics["kl"]) for metrics in seen]


def test_progress_is_shown(capsys):
    pytest.importorskip("rich")
    TRPO("cgopt/CartPole-v1", **SMALL).learn(256, progress=True)
    assert "steps/s" in capsys.readouterr().out
