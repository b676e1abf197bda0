"""What every algorithm shares: construction from a config, the one training loop, predict, save, load, resume.

An algorithm is a subclass that writes `_build` (its parts), `_iterate` (one round of experience and learning),
`_arrays` and `_restore` (what a checkpoint keeps), and `_act` (a policy's action). Everything random comes from streams
that are saved, so a run that is killed and resumed from its last checkpoint ends bit for bit as one that never was.

Where the state of the environments cannot be saved (Gymnasium's cannot), saving starts new episodes with a seed of its
own, in the run that goes on as in the run that is resumed.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from . import checkpoint
from .checks import integer, unknown
from .envs import Environments, environments
from .kernels import advantages as recursions
from .normalization import RunningMoments, normalize, normalizer

Array = npt.NDArray[Any]
RECENT = 100  # episodes that the reported mean return is taken over

# What a random stream is for: the second word of its seed.
ACTIONS, LEARNING, RESETS, PREDICTION = range(4)


@dataclasses.dataclass(frozen=True)
class Config:
    """Options that every algorithm has; the names are Stable-Baselines3's where the meaning is the same."""

    n_envs: int = 1
    """Environments stepped side by side."""
    gamma: float = 0.99
    """Discount of a reward one step later."""
    normalize_observations: bool = False
    """Subtract the running mean and divide by the running standard deviation of observations."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of discounted returns. Returns are reported raw."""
    clip_observations: float = 10.0
    """Bound of normalised observations, in standard deviations."""
    checkpoint_every: int = 100_000
    """Steps between checkpoints; environments that cannot tell their state start new episodes there."""


def configure(kind: type[Config], config: Config | None, options: dict[str, Any]) -> Config:
    """A config from what a constructor was given: a config, options over it, or options alone."""
    names = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            raise TypeError(unknown("option", name, names))
    if config is None:
        return kind(**options)
    if not isinstance(config, kind):
        raise TypeError(f"config must be a {kind.__name__}, got {type(config).__name__}")
    return dataclasses.replace(config, **options)


def config_from(kind: type[Config], values: dict[str, Any], source: str) -> Config:
    """A config from a file's values; lists become tuples, unknown names are refused with the nearest right ones."""
    names = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in names:
            raise ValueError(f"{source}: {unknown('option', name, names)}")
    options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return kind(**options)


class Algorithm(ABC):
    """An agent that learns; see the module's text.

    Parameters
    ----------
    env : str, gymnasium.Env, gymnasium.vector.VectorEnv, or callable
        As `cgopt_rl.envs.environments` takes it; ``"cgopt/CartPole-v1"`` names a compiled environment. Of an id or a
        function there will be ``n_envs``; an environment is one, a vector has its own number, and the config follows.
    config : Config, optional
        Of the algorithm; by default its default values.
    seed : int, default 0
        The same seed gives the same bits.
    **options
        Options of the config by name, over those of `config`.

    Attributes
    ----------
    steps, iterations : int
        Environment steps and rounds of learning so far.
    env : Environments
    config : Config
    """

    name: ClassVar[str]
    Config: ClassVar[Any]

    def __init__(self, env: Any, config: Any = None, *, seed: int = 0, **options: Any) -> None:
        self.config: Any = configure(self.Config, config, options)
        self.seed = integer("seed", seed, minimum=0)
        vector = getattr(env, "num_envs", None)
        count = None if not isinstance(env, str) and not callable(env) else self.config.n_envs
        self.env: Environments = environments(env, count)
        if vector is not None or self.env.count != self.config.n_envs:
            self.config = dataclasses.replace(self.config, n_envs=self.env.count)
        self.steps = self.iterations = 0
        self.goal = 0
        self.resets = 0
        self.rng = np.random.default_rng(self._seed(LEARNING))
        self._prediction = np.random.default_rng(self._seed(PREDICTION))
        n = self.env.count
        moments = self.config.normalize_observations
        self.observations = RunningMoments(self.env.n_inputs) if moments else None
        self.returns = RunningMoments(1) if self.config.normalize_rewards else None
        self.discounted = np.zeros(n)
        self.episode_returns, self.episode_lengths = np.zeros(n), np.zeros(n, np.int64)
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self.episodes = 0
        self._fresh = True  # episodes are to be started before the next step
        self._log_rows = 0
        self._build()

    # --- what an algorithm writes -------------------------------------------------------------------

    @abstractmethod
    def _build(self) -> None:
        """Make the algorithm's parts."""

    @abstractmethod
    def _start(self, seed: np.random.SeedSequence) -> None:
        """Start new episodes everywhere."""

    @abstractmethod
    def _iterate(self) -> dict[str, float]:
        """One round; adds to `steps`, and returns what to report."""

    @abstractmethod
    def _arrays(self) -> dict[str, dict[str, Array]]:
        """Groups of arrays that a checkpoint keeps."""

    @abstractmethod
    def _restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `_arrays` returned, by `checkpoint.group`."""

    @abstractmethod
    def _act(self, obs: Array, deterministic: bool, rng: np.random.Generator) -> Array:
        """Actions for normalised observations (N, d): (N, k) choices from 0, or (N, m) floats."""

    def _broken(self) -> bool:
        """Whether learning cannot go on, which ends the training."""
        return False

    def _threads(self) -> int:
        """Threads of matrix products while training: one, since most are small, and keep their bits anywhere."""
        return 1

    # --- the loop -----------------------------------------------------------------------------------

    def learn(
        self,
        total_steps: int,
        *,
        callback: Any = None,
        log_dir: str | Path | None = None,
        progress: bool = False,
    ) -> Self:
        """Train for `total_steps` more environment steps, rounded up to whole rounds.

        Ctrl-C ends the training after the round at hand, saves a checkpoint (with `log_dir`) and returns.

        Parameters
        ----------
        total_steps : int
        callback : callable, or sequence of them, optional
            Called after each round as ``callback(model, metrics)``; True ends the training. See
            `cgopt_rl.callbacks`.
        log_dir : path, optional
            Folder for ``progress.csv``, ``checkpoint.safetensors`` and TensorBoard's files.
        progress : bool, default False
            Show a progress bar with rate, time left and mean return (needs rich).

        Returns
        -------
        Algorithm
            Itself.
        """
        self.goal = self.steps + integer("total_steps", total_steps)
        return self._run(callback, log_dir, progress)

    def resume(self, *, callback: Any = None, log_dir: str | Path | None = None, progress: bool = False) -> Self:
        """Go on to the goal of the `learn` that the loaded checkpoint was part of; parameters as for `learn`."""
        return self._run(callback, log_dir, progress)

    def _run(self, callback: Any, log_dir: str | Path | None, progress: bool) -> Self:
        from .reporting import Reporter

        callbacks = _callbacks(callback)
        folder = None if log_dir is None else Path(log_dir)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        every = integer("checkpoint_every", self.config.checkpoint_every)
        with _blas_threads(self._threads()), _Interrupt() as interrupt, Reporter(self, folder, progress) as reporter:
            if folder is not None and not self.steps:
                self._pause(folder)  # a run may be killed before its first checkpoint is due
            stop = False
            while self.steps < self.goal and not stop:
                if self._fresh:
                    self._begin()
                before, clock = self.steps, time.perf_counter()
                metrics = self._iterate()
                self.iterations += 1
                metrics = {"steps": self.steps, "iterations": self.iterations, **metrics}
                metrics["steps_per_second"] = (self.steps - before) / (time.perf_counter() - clock)
                reporter.report(metrics)
                stop = any([call(self, metrics) is True for call in callbacks]) or interrupt.asked or self._broken()
                if self.steps // every > before // every or stop or self.steps >= self.goal:
                    self._pause(folder)
        return self

    def _begin(self) -> None:
        """Start new episodes, with the next seed kept for that."""
        self._start(self._seed(RESETS, self.resets))
        self.resets += 1
        self.discounted[:] = 0.0
        self.episode_returns[:], self.episode_lengths[:] = 0.0, 0
        self._fresh = False

    def _pause(self, folder: Path | None) -> None:
        """A point that a run may be resumed from: the state is brought to what a file can hold, and written."""
        if folder is not None:
            self.save(folder / "checkpoint.safetensors")
        elif self.env.get_state() is None:
            self._fresh = True

    def _seed(self, *key: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=key)

    # --- what rounds share --------------------------------------------------------------------------

    def _normalizer(self) -> Any:
        """How observations are normalised in this round."""
        return normalizer(self.observations, self.env.n_inputs, self.config.clip_observations)

    def _scaled_rewards(self, rewards: Array, ended: Array) -> Array:
        """Rewards (T, n) over the standard deviation of discounted returns, this round's among them."""
        if self.returns is None:
            return rewards
        so_far = np.empty_like(rewards)
        recursions.discounted_so_far(rewards, ended, self.config.gamma, self.discounted, so_far)
        self.returns.update(so_far.reshape(-1, 1))
        scaled: Array = rewards * self.returns.scale
        return scaled

    def _note_episodes(self, rewards: Array, ended: Array, valid: Array) -> dict[str, float]:
        """Raw returns and lengths of the episodes that ended in this round, and the mean of the last ones."""
        returns, lengths = np.empty(rewards.size), np.empty(rewards.size, np.int64)
        count = recursions.episode_sums(
            rewards, ended, valid, self.episode_returns, self.episode_lengths, returns, lengths
        )
        self.recent.extend(zip(returns[:count].tolist(), lengths[:count].tolist(), strict=True))
        self.episodes += count
        seen = np.array(self.recent).reshape(-1, 2)
        mean_return, mean_length = seen.mean(axis=0) if seen.size else (np.nan, np.nan)
        batch = float(returns[:count].mean()) if count else np.nan
        return {
            "episodes": self.episodes,
            "return_mean": float(mean_return),
            "return_round": batch,
            "length_mean": float(mean_length),
        }

    # --- using a policy -----------------------------------------------------------------------------

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        """An action for an observation, as the environment takes it.

        Parameters
        ----------
        observation : array or int
            One observation of the environment, or a batch of them with one more axis in front.
        deterministic : bool, default False
            The most probable action instead of a random one.

        Returns
        -------
        action
            For a batch, with an axis in front.
        None
            In the place where recurrent policies have a state.
        """
        obs, batched = self._flat(observation)
        raw = self.act(obs, deterministic=deterministic, rng=self._prediction)
        from .envs.interface import actor

        act = actor(self.env.action_space)
        single = hasattr(self.env.action_space, "n")
        actions = [act(row[0] if single else row) for row in raw]
        return (np.array(actions) if batched else actions[0]), None

    def act(self, obs: Array, *, deterministic: bool, rng: np.random.Generator) -> Array:
        """Actions for flat observations (N, d) as environments give them: (N, k) choices from 0, or (N, m) floats."""
        return self._act(normalize(self._normalizer(), obs), deterministic, rng)

    def start_episodes(self, where: Array) -> None:  # noqa: B027
        """Tell a policy that carries something from step to step where (N,) episodes start; most carry nothing."""

    def _flat(self, observation: Any) -> tuple[Array, bool]:
        """Observations (N, d), and whether a batch was given."""
        from .envs.interface import flattener

        space = self.env.observation_space
        values = np.asarray(observation)
        ndim = len(space.shape)
        if values.ndim not in (ndim, ndim + 1) or values.shape[values.ndim - ndim :] != tuple(space.shape):
            raise ValueError(
                f"observation must have shape {space.shape}, or one more axis in front; got {values.shape}"
            )
        batched = values.ndim == ndim + 1
        rows = values if batched else values[None]
        out = np.empty((rows.shape[0], self.env.n_inputs), np.float32)
        flatten = flattener(space)
        for i, row in enumerate(rows):
            flatten(row, out, i)
        if not np.isfinite(out).all():
            raise ValueError("observation holds NaN or infinity")
        return out, batched

    # --- checkpoints --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write everything to a file, atomically: policy with its normaliser, optimiser, random streams, environments.

        Environments that cannot tell their state start new episodes when training goes on, here and in what is loaded.
        """
        state = self.env.get_state()
        if state is None:
            self._fresh = True
        arrays = self._arrays()
        arrays["frame"] = {
            "discounted": self.discounted,
            "episode_returns": self.episode_returns,
            "episode_lengths": self.episode_lengths,
            "recent": np.array(self.recent, np.float64).reshape(-1, 2),
        }
        for name, moments in (("observations", self.observations), ("returns", self.returns)):
            if moments is not None:
                arrays[name] = moments.arrays()
        if state is not None:
            arrays["environment"] = state
        header = {
            "algorithm": self.name,
            "config": dataclasses.asdict(self.config),
            "env": self.env.id,
            "seed": self.seed,
            "steps": self.steps,
            "iterations": self.iterations,
            "goal": self.goal,
            "resets": self.resets,
            "episodes": self.episodes,
            "fresh": self._fresh,
            "log_rows": self._log_rows,
            "rng": self.rng.bit_generator.state,
            "prediction": self._prediction.bit_generator.state,
        }
        checkpoint.write(path, header, checkpoint.nest(arrays))

    @classmethod
    def load(cls, path: str | Path, env: Any = None) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
        env : optional
            As for the constructor; by default the id that the file names.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, foreign, of another algorithm, or does not fit the environment.
        """
        header, arrays = checkpoint.read(path)
        if header.get("algorithm") != cls.name:
            raise ValueError(f"{path} holds a model of {header.get('algorithm')!r}, not {cls.name!r}")
        config = config_from(cls.Config, header["config"], str(path))
        model = cls(header["env"] if env is None else env, config, seed=header["seed"])
        model._set(header, arrays, path)
        return model

    def _set(self, header: dict[str, Any], arrays: dict[str, Array], path: Any) -> None:
        self.steps, self.iterations, self.goal = header["steps"], header["iterations"], header["goal"]
        self.resets, self.episodes, self._fresh = header["resets"], header["episodes"], header["fresh"]
        self._log_rows = header["log_rows"]
        self.rng.bit_generator.state = header["rng"]
        self._prediction.bit_generator.state = header["prediction"]
        frame = checkpoint.group(arrays, "frame")
        self.recent.extend((float(r), int(n)) for r, n in frame["recent"])
        for name, moments in (("observations", self.observations), ("returns", self.returns)):
            if moments is not None:
                moments.restore(checkpoint.group(arrays, name))
        if self.observations is not None and self.observations.mean.shape != (self.env.n_inputs,):
            raise ValueError(f"{path} is of an environment with {self.observations.mean.size} inputs, not this one")
        try:
            self._restore(arrays)
            state = checkpoint.group(arrays, "environment")
            same = frame["discounted"].shape == self.discounted.shape
            if state and same and self.env.get_state() is not None and header["env"] == self.env.id:
                self._resume_environments(self.env.set_state(state))
            else:
                self._fresh = True
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} does not fit this environment or config: {error}") from error
        if same:
            self.discounted[:] = frame["discounted"]
            self.episode_returns[:], self.episode_lengths[:] = frame["episode_returns"], frame["episode_lengths"]

    @abstractmethod
    def _resume_environments(self, obs: Array) -> None:
        """Take up the observations that restored environments stand at."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env!r}, {self.steps:,} steps, {self.config!r})"


def _callbacks(callback: Any) -> list[Callable[[Any, dict[str, float]], Any]]:
    if callback is None:
        return []
    found = list(callback) if isinstance(callback, Iterable) else [callback]
    for one in found:
        if not callable(one):
            raise TypeError(f"callback must be callable as callback(model, metrics), got {one!r}")
    return found


def _blas_threads(number: int) -> Any:
    """While it is entered, matrix products run on so many threads."""
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('training needs threadpoolctl: pip install "cgopt[rl]"') from error
    return threadpool_limits(number, user_api="blas")


class _Interrupt:
    """While it is entered, the first Ctrl-C asks for the end; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
