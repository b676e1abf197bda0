"""The command line of the front end: what it does, what it refuses, and which names it proposes."""

from __future__ import annotations

import pytest

pytest.importorskip("gymnasium", reason='agents need the extra "rl"')
pytest.importorskip("tyro", reason='the command line needs the extra "rl"')

from cgopt_rl import cli

FOLDER = "runs/trpo-cgopt-CartPole-v1-3"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """The command, run in this process in a folder of its own: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def test_a_run_from_start_to_picture(command, tmp_path):
    train = ("train", "trpo", "--env", "cgopt/CartPole-v1", "--seed", 3, "--quiet", "--evaluate-episodes", 2)
    status, out, err = command(*train, "--steps", 2048, "--n-steps", 256, "--target-kl", 0.02)
    assert (status, err) == (0, "")
    assert f"2,048 steps; the run is in {FOLDER}" in out
    model = cli.load(tmp_path / FOLDER)
    # The preset's options, and over them those of the command line.
    assert (model.config.n_envs, model.config.gae_lambda) == (8, 0.98)
    assert (model.config.n_steps, model.config.target_kl, model.seed) == (256, 0.02, 3)

    assert command(*train, "--steps", 10)[0] == 2  # a run is not overwritten
    status, out, _ = command("resume", FOLDER, "--steps", 3000, "--evaluate-episodes", 0)
    assert status == 0
    assert "4,096 steps" in out
    status, out, _ = command("evaluate", FOLDER, "--episodes", 3, "--env", "CartPole-v1")
    assert status == 0
    assert "3 episodes" in out
    pytest.importorskip("matplotlib")
    assert command("plot", FOLDER)[0] == 0
    assert (tmp_path / "learning-curves.png").stat().st_size > 0


def test_options_come_from_a_file_too(command, tmp_path):
    (tmp_path / "options.toml").write_text("gamma = 0.9\nnet_arch = [8, 8]\nn_steps = 64\n")
    words = ("train", "trpo", "--env", "cgopt/Pendulum-v1", "--steps", 64, "--log-dir", "run", "--quiet")
    status, _, _ = command(*words, "--config", "options.toml", "--n-steps", 32, "--evaluate-episodes", 0)
    assert status == 0
    config = cli.load(tmp_path / "run").config
    assert (config.gamma, config.net_arch, config.n_steps) == (0.9, (8, 8), 32)
    (tmp_path / "options.toml").write_text("gama = 0.9\n")
    status, _, err = command(*words, "--config", "options.toml")
    assert status == 2
    assert "gamma" in err


TRAIN = (
    "train", "trpo", "--env", "cgopt/CartPole-v1", "--steps", 64, "--n-steps", 32, "--log-dir", "run", "--quiet",
)  # fmt: skip


def test_episodes_are_filmed(command, tmp_path):
    pytest.importorskip("moviepy", reason='films need the extra "video"')
    pytest.importorskip("pygame", reason='films need the extra "video"')
    assert command(*TRAIN, "--evaluate-episodes", 0)[0] == 0
    status, out, _ = command("evaluate", "run", "--episodes", 2, "--video", "films")
    assert status == 0
    assert "films are in films" in out
    films = sorted(file.name for file in (tmp_path / "films").glob("*.mp4"))
    assert films == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]
    assert min(file.stat().st_size for file in (tmp_path / "films").iterdir()) > 1000
    status, _, err = command("evaluate", "run", "--video", "films", "--env", "CartPol-v1")
    assert status == 2
    assert "CartPole-v1" in err


def test_missing_packages_for_films_are_named(command, monkeypatch):
    from gymnasium.error import DependencyNotInstalled

    def refuse(*args, **kwargs):
        raise DependencyNotInstalled("no pygame here")

    assert command(*TRAIN, "--evaluate-episodes", 0)[0] == 0
    monkeypatch.setattr("gymnasium.wrappers.RecordVideo", refuse)
    status, _, err = command("evaluate", "run", "--video", "films")
    assert status == 2
    assert 'pip install "cgopt[video]"' in err


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["trian"], "train"),
        (["train", "trop", "--env", "cgopt/CartPole-v1"], "trpo"),
        (["train", "trpo", "--env", "cgopt/CartPol-v1", "--steps", "9"], "cgopt/CartPole-v1"),
        (["train", "trpo", "--env", "cgopt/CartPole-v1", "--steps", "9", "--target-k", "3"], "--target-kl"),
        (["train", "trpo", "--env", "cgopt/CartPole-v1", "--steps", "9", "--gamma", "7"], "gamma"),
        (["bandits", "--figure", "2.33"], "2.3"),
        (["evaluate", "nowhere"], "nowhere"),
        (["train"], "trpo"),
        (["train", "trpo", "--env", "cgopt/CartPole-v1", "--steps", "9", "--config", "no.toml"], "no file no.toml"),
    ],
)
def test_wrong_words_are_refused_with_the_nearest_right_ones(command, words, proposed):
    status, out, err = command(*words)
    assert status == 2
    assert proposed in out + err


def test_bandits_list_and_help(command, tmp_path):
    status, out, _ = command("bandits", "--figure", "2.2", "--runs", 20, "--no-plot")
    assert status == 0
    assert "epsilon 0.1" in out
    status, out, _ = command("list")
    assert status == 0
    assert "cgopt/Acrobot-v1" in out
    assert "trpo" in out
    assert command("--help")[0] == 0
    status, out, _ = command("train", "--help")
    assert status == 0
    assert "usage: cgopt-rl train ALGORITHM" in out
    status, out, _ = command("train", "trpo", "--env", "cgopt/CartPole-v1", "--help")
    assert status == 0
    assert "--cg-damping" in out


def test_demo_reaches_500(command, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, _ = command("demo")
    assert status == 0
    assert "the lowest of 20 episodes" in out
    assert (tmp_path / "cgopt-demo-cartpole.png").stat().st_size > 0


def test_every_preset_is_valid():
    from cgopt_rl.presets import preset, presets

    for name in ("trpo", "a2c", "ddpg", "td3"):
        kind = cli.algorithms()[name].Config
        for env in presets(name):
            options = preset(name, env)
            config = kind(**options)
            assert {option: getattr(config, option) for option in options} == options
    assert preset("trpo", "Nothing-v0") == {}
