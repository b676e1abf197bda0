"""The command line ``cgopt-rl``: each command is a dataclass, whose fields are its options.

The exit status is 0 when the command did what was asked, 1 when learning diverged or the demo's policy did not reach
its goal, 2 when the request or a file is at fault, and 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import unknown

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class Refused(Exception):
    """What is wrong with a request, as a sentence for the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return DONE
    except (Refused, ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"cgopt-rl: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("cgopt-rl: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return DONE if words else REFUSED
    if words[0] not in COMMANDS:
        raise Refused(unknown("command", words[0], COMMANDS))
    command = COMMANDS[words[0]]
    if words[0] == "train" and words[1:2] in (["-h"], ["--help"]):
        print(_train_usage())
        return DONE
    try:
        request: Any = train_request(words[1:]) if command is Train else _parse(command, words[0], words[1:])
    except SystemExit as end:  # tyro has printed its help, or what is wrong
        return end.code if isinstance(end.code, int) else REFUSED
    return int(request.run())


def _parse(command: Any, name: str, words: list[str]) -> Any:
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise Refused('the command line needs tyro: pip install "cgopt[rl]"') from error
    config: list[Any] = [tyro.conf.OmitArgPrefixes]
    if command in (Resume, Evaluate, Plot, Animate):  # what they work on comes without a name before it
        config.append(tyro.conf.PositionalRequiredArgs)
    return tyro.cli(command, prog=f"cgopt-rl {name}", args=words, config=tuple(config))


def _usage() -> str:
    lines = ["usage: cgopt-rl COMMAND [options]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<10} {(command.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "cgopt-rl COMMAND --help tells a command's options."])


# --- cgopt-rl bandits -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bandits:
    """Play and draw the figures of Sutton and Barto, chapter 2."""

    figure: str = "all"
    """2.2 to 2.6 as in the book, nonstationary, regret, or all."""
    runs: int = 2000
    """Independent bandits for each curve."""
    seed: int = 0
    """The same seed gives the same numbers."""
    output: Path = Path(".")
    """Folder that the pictures are written to, as bandits-FIGURE.png."""
    plot: bool = True
    """Draw the pictures (needs matplotlib); otherwise only the tables are printed."""

    def run(self) -> int:
        """Play, print, draw."""
        from . import bandits

        if self.figure != "all" and self.figure not in bandits.FIGURES:
            raise Refused(unknown("figure", self.figure, ["all", *bandits.FIGURES]))
        if not self.output.is_dir():
            raise Refused(f"--output must be a folder that exists, and {str(self.output)!r} is none")
        for name in bandits.FIGURES if self.figure == "all" else [self.figure]:
            data = bandits.figure(name, runs=self.runs, seed=self.seed)
            print(data.table())
            if self.plot:
                path = self.output / f"bandits-{name}.png"
                bandits.draw(data, path)
                print(f"The picture is in {path}.")
            print()
        return DONE


# --- cgopt-rl train -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Train:
    """Train an algorithm: cgopt-rl train trpo --env CartPole-v1 --steps 100000."""

    env: str
    """Environment id; cgopt/... are compiled."""
    steps: int
    """Environment steps."""
    seed: int = 0
    """The same seed gives the same run, bit for bit."""
    config: Path | None = None
    """TOML file with options; those on the command line come over it, and it comes over the preset."""
    log_dir: Path | None = None
    """Folder of the run; by default runs/ALGORITHM-ENV-seed."""
    evaluate_episodes: int = 20
    """Episodes that the policy is evaluated on at the end; 0 for none."""
    quiet: bool = False
    """No progress bar."""


def train_request(words: list[str]) -> Any:
    """The request of ``cgopt-rl train``: the options shown and their defaults depend on algorithm and environment."""
    known = algorithms()
    if not words or words[0].startswith("-"):
        raise Refused(f"name the algorithm first\n{_train_usage()}")
    name, words = words[0], words[1:]
    if name not in known:
        raise Refused(unknown("algorithm", name, known))
    kind = known[name].Config
    env, file = _value_of(words, "--env"), _value_of(words, "--config")
    from .presets import preset
    from .training import config_from

    options = preset(name, env) if env else {}
    if file is not None:
        options |= _read_toml(Path(file))
    both = dataclasses.make_dataclass(
        "Train", [("train", Train), ("options", kind, dataclasses.field(default=config_from(kind, options, "options")))]
    )
    request = _parse(both, f"train {name}", words)

    @dataclass(frozen=True)
    class Request:
        def run(self) -> int:
            return _train(known[name], request.train, request.options)

    return Request()


def _train_usage() -> str:
    lines = (
        "usage: cgopt-rl train ALGORITHM --env ID --steps N [options]",
        f"algorithms: {', '.join(algorithms())}",
        "cgopt-rl train ALGORITHM --env ID --help tells the options, with the preset's values for that environment.",
    )
    return "\n".join(lines)


def _train(algorithm: Any, request: Train, options: Any) -> int:
    model = algorithm(request.env, options, seed=request.seed)
    folder = request.log_dir
    if folder is None:
        folder = Path("runs") / f"{model.name}-{request.env.replace('/', '-')}-{request.seed}"
    if (folder / "checkpoint.safetensors").exists():
        raise Refused(f"{folder} holds a run; cgopt-rl resume {folder} goes on with it, --log-dir names another folder")
    model.learn(request.steps, log_dir=folder, progress=_shows(request.quiet))
    return _conclude(model, folder, request.evaluate_episodes)


def _conclude(model: Any, folder: Path, episodes: int) -> int:
    from .evaluation import evaluate

    interrupted = model.steps < model.goal
    print(f"{model.steps:,} steps; the run is in {folder}.")
    if model._broken():
        print(model.status.value)
        return FAILED
    if interrupted:
        print(f"Stopped before {model.goal:,}; cgopt-rl resume {folder} goes on.")
        return INTERRUPTED
    if episodes:
        print(evaluate(model, episodes=episodes))
    return DONE


def _shows(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _value_of(words: list[str], option: str) -> str | None:
    """The value of an option, before the options are parsed."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(option + "="):
            return word.removeprefix(option + "=")
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise Refused(f"there is no file {path}; --config takes a TOML file of options") from error
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{path} is not TOML: {error}") from error


def algorithms() -> dict[str, Any]:
    """The algorithms by name."""
    from .actor_critic import ActorCritic
    from .ddpg import DDPG, TD3
    from .dqn import DQN
    from .hierarchical_dqn import HierarchicalDQN, HierarchicalQ
    from .q_learning import QLearning
    from .trpo import TRPO, NaturalPolicyGradient, Reinforce
    from .vine import VineTRPO

    on_policy = (TRPO, VineTRPO, NaturalPolicyGradient, Reinforce, ActorCritic)
    off_policy = (QLearning, DQN, HierarchicalQ, HierarchicalDQN, DDPG, TD3)
    return {kind.name: kind for kind in on_policy + off_policy}


# --- cgopt-rl resume, evaluate, plot, list --------------------------------------------------------


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped or killed, to the steps that it was started for, or more."""

    run_folder: Path
    """Folder of the run."""
    steps: int | None = None
    """Steps in all, if more than it was started for."""
    evaluate_episodes: int = 20
    """Episodes that the policy is evaluated on at the end; 0 for none."""
    quiet: bool = False
    """No progress bar."""

    def run(self) -> int:
        """Load, train, report."""
        model = load(self.run_folder)
        if self.steps is not None:
            model.goal = max(model.goal, self.steps)
        model.resume(log_dir=self.run_folder, progress=_shows(self.quiet))
        return _conclude(model, self.run_folder, self.evaluate_episodes)


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a trained policy and print the returns."""

    run_folder: Path
    """Folder of a run, or a checkpoint."""
    episodes: int = 100
    """How many."""
    seed: int = 0
    """Of the environments."""
    stochastic: bool = False
    """Draw actions instead of taking the most probable ones."""
    env: str | None = None
    """Another environment with the same spaces, for instance Gymnasium's for a compiled one."""
    video: Path | None = None
    """Folder for films of the first episodes, by Gymnasium's RecordVideo."""

    def run(self) -> int:
        """Evaluate, print, film."""
        from .evaluation import evaluate, interquartile_mean

        model = load(self.run_folder)
        env: Any = self.env
        if self.video is not None:
            env = _filmed(self.env or model.env.id, self.video)
        with _rendering():
            found = evaluate(model, env, self.episodes, deterministic=not self.stochastic, seed=self.seed)
        print(found)
        print(f"interquartile mean {interquartile_mean(found.returns):.2f}, lowest {found.returns.min():.2f}")
        if self.video is not None:
            env.close()
            print(f"The films are in {self.video}.")
        return DONE


def _filmed(id: str, folder: Path) -> Any:
    """An environment whose first episodes are filmed, on machines without a screen too."""
    import os

    from gymnasium.wrappers import RecordVideo

    from .envs.interface import make

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with _rendering():
        return RecordVideo(make(id, render_mode="rgb_array"), str(folder))


@contextlib.contextmanager
def _rendering() -> Iterator[None]:
    """Say which packages are missing: Gymnasium looks for them when the first picture is drawn."""
    from gymnasium.error import DependencyNotInstalled

    try:
        yield
    except DependencyNotInstalled as error:
        raise Refused(f'films need more packages, pip install "cgopt[video]": {error}') from error


@dataclass(frozen=True)
class Plot:
    """Draw learning curves; runs that differ in their seeds only become one curve with a band."""

    folders: tuple[Path, ...]
    """Folders of runs."""
    output: Path = Path("learning-curves.png")
    """Where the picture goes."""
    column: str = "return_mean"
    """Column of progress.csv."""

    def run(self) -> int:
        """Read, draw."""
        from .plotting import learning_curves

        runs: dict[str, list[Path]] = {}
        for folder in self.folders:
            label, _, seed = folder.name.rpartition("-")
            runs.setdefault(label if seed.isdigit() and label else folder.name, []).append(folder)
        learning_curves(runs, self.output, column=self.column)
        print(f"The picture is in {self.output}.")
        return DONE


@dataclass(frozen=True)
class Animate:
    """Play one episode with a trained policy, and write it as an animated picture."""

    run_folder: Path
    """Folder of a run, or a checkpoint."""
    output: Path = Path("episode.gif")
    """Where the animation goes."""
    seed: int = 0
    """Of the environment."""

    def run(self) -> int:
        """Play, draw."""
        from .animation import animate

        frames, returned = animate(load(self.run_folder), self.output, seed=self.seed)
        print(f"{frames - 1} steps, return {returned:g}; the animation is in {self.output}.")
        return DONE


@dataclass(frozen=True)
class List:
    """List algorithms, compiled environments, and presets."""

    def run(self) -> int:
        """Print."""
        from .envs import COMPILED
        from .presets import presets

        width = max(map(len, algorithms()))
        for name, algorithm in algorithms().items():
            print(f"{name:<{width}} {(algorithm.__doc__ or '').splitlines()[0]}")
            for env in presets(name):
                print(f"{'':<{width}}   preset for {env}")
        print("\nCompiled environments (Gymnasium's have the same names without cgopt/):")
        for env in COMPILED:
            print(f"  {env}")
        return DONE


@dataclass(frozen=True)
class Demo:
    """Train TRPO on the compiled cart and pole to 500, and draw the learning curve."""

    output: Path = Path("cgopt-demo-cartpole.png")
    """Where the picture goes."""
    plot: bool = True
    """Draw it (needs matplotlib)."""
    seed: int = 0
    """The same seed gives the same run."""

    def run(self) -> int:
        """Train, print, draw."""
        from . import demo

        return DONE if demo.run(self.output if self.plot else None, seed=self.seed) else FAILED


def load(path: Path) -> Any:
    """The model in a run's folder or a checkpoint, whichever algorithm it is of."""
    from . import checkpoint

    file = path / "checkpoint.safetensors" if path.is_dir() else path
    header, _ = checkpoint.read(file)
    known = algorithms()
    if header.get("algorithm") not in known:
        raise Refused(f"{file}: {unknown('algorithm', str(header.get('algorithm')), known)}")
    return known[header["algorithm"]].load(file)


COMMANDS: dict[str, type] = {
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "plot": Plot,
    "animate": Animate,
    "bandits": Bandits,
    "list": List,
    "demo": Demo,
}
