"""What off-policy algorithms share: experience goes into a replay buffer, and gradient steps are taken on draws of it.

A round is `round_steps` environment steps with the gradient steps that are due between them. With a compiled
environment it is one compiled call; otherwise each turn (one step of every environment) is one. Either way the order is
the same: act, step, store, learn, follow with the target networks.

Values that grow past what any return can be are watched for (H. van Hasselt et al., "Deep reinforcement learning and
the deadly triad", 2018): `status` names it, and learning ends when they diverge.
"""

from __future__ import annotations

import dataclasses
import math
import time
from abc import abstractmethod
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import checkpoint
from .checks import integer, number, unknown
from .envs.interface import CompiledBatch
from .kernels import off_policy as kernels
from .kernels.random import streams
from .kernels.rollouts import Simulation
from .replay import ReplayBuffer, remove_columns
from .training import ACTIONS, PREDICTION, Algorithm, Config

Array = npt.NDArray[Any]
DRAWS = PREDICTION + 1  # what a random stream is for, beside those of `training`


class Status(Enum):
    """How learning goes. The value is a sentence."""

    WAITING = "No gradient step yet: learning starts after learning_starts steps."
    LEARNING = "Values are within what returns can be."
    OVERESTIMATES = (
        "Values exceed the largest possible return: a target network, double_q=True or a lower learning_rate help."
    )
    DIVERGED = (
        "Values are not finite, or exceed the largest possible return a hundredfold; learning has ended. Lower "
        "learning_rate, use a target network, or normalise rewards."
    )


@dataclasses.dataclass(frozen=True)
class StepwiseConfig(Config):
    """Options of every algorithm that learns between steps."""

    round_steps: int = 1000
    """Environment steps between reports; training ends after whole rounds."""

    def __post_init__(self) -> None:
        for name in ("n_envs", "checkpoint_every", "round_steps"):
            integer(name, getattr(self, name))
        number("gamma", self.gamma, low=0.0, high=1.0)
        number("clip_observations", self.clip_observations, low=0.0, open_low=True)


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(StepwiseConfig):
    """Options of every algorithm that learns from replay."""

    buffer_size: int = 100_000
    """Transitions in the replay buffer."""
    learning_starts: int = 1000
    """Steps, with random actions, before the first gradient step."""
    batch_size: int = 64
    """Transitions of a gradient step."""
    train_freq: int = 1
    """Steps of each environment between learning."""
    gradient_steps: int = 1
    """Gradient steps then; -1 for as many as there were environment steps."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    tau: float = 1.0
    """Share of the network that a target network takes on; 1 copies it."""
    n_steps: int = 1
    """Rewards summed in a transition before a value stands for the rest."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden units."""
    activation: str = "relu"
    """Of the hidden units: tanh or relu."""
    max_grad_norm: float = 10.0
    """Norm that longer gradients are shortened to; inf for no bound."""
    prioritized_replay: bool = False
    """Draw transitions in proportion to their errors."""
    priority_exponent: float = 0.6
    """Alpha: 0 draws evenly."""
    importance_exponent: float = 0.4
    """Beta at the start: 1 corrects for the priorities completely."""
    importance_steps: int = 100_000
    """Steps over which it rises to 1."""
    buffer_memory: int = 1 << 30
    """Bytes of replay above which it is kept in files."""
    blas_threads: int = 1
    """Threads of matrix products: two pay from about 256 units on. Their number is part of what gives the same bits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("buffer_size", "batch_size", "train_freq", "n_steps", "importance_steps", "blas_threads"):
            integer(name, getattr(self, name))
        for name, least in (("learning_starts", 0), ("gradient_steps", -1), ("buffer_memory", 0)):
            integer(name, getattr(self, name), minimum=least)
        for name in ("priority_exponent", "importance_exponent"):
            number(name, getattr(self, name), low=0.0, high=1.0)
        number("tau", self.tau, low=0.0, high=1.0, open_low=True)
        number("learning_rate", self.learning_rate, low=0.0, open_low=True)
        if self.max_grad_norm != math.inf:
            number("max_grad_norm", self.max_grad_norm, low=0.0, open_low=True)
        for units in self.net_arch:
            integer("net_arch", units)
        if self.activation not in ("tanh", "relu"):
            raise ValueError(unknown("activation", str(self.activation), ("tanh", "relu")))


class Stepwise(Algorithm):
    """An algorithm that acts and learns in turns, in one compiled loop.

    A subclass writes `_make_agent` (which sets `agent`, the arrays that its compiled functions work on), `_state`
    (those of them that change) and `_act`, and names its compiled functions in `learner`. Actions are whole numbers
    where `discrete` is true.

    Attributes
    ----------
    status : Status
    """

    Config = StepwiseConfig
    learner: ClassVar[kernels.Learner]
    discrete: ClassVar[bool]
    agent: Any

    @abstractmethod
    def _make_agent(self) -> None:
        """Set `agent`."""

    @abstractmethod
    def _state(self) -> dict[str, Array]:
        """The arrays of `agent` that learning changes in place."""

    def _make_replay(self) -> ReplayBuffer:
        """The buffer; one that holds nothing, where learning is from the step at hand."""
        return ReplayBuffer(1, 1, discrete=self.discrete)

    def _schedule(self) -> tuple[int, int, int]:
        """Steps before gradient steps start, turns between them, and how many are taken then."""
        return 0, 1, 0

    def _n_actions(self) -> int:
        """Numbers in an action."""
        return int(np.prod(self.env.action_space.shape))

    def _build(self) -> None:
        c, n, d, m = self.config, self.env.count, self.env.n_inputs, self._n_actions()
        self.replay = self._make_replay()
        self.batch = self.replay.batch(getattr(c, "batch_size", 1))
        kind = np.int32 if self.discrete else np.float32
        totals = np.zeros(9)
        totals[kernels.HORIZON] = 1.0 / (1.0 - c.gamma) if c.gamma < 1.0 else np.inf
        totals[kernels.SCALE] = 1.0
        self.loop = kernels.Loop(
            np.zeros(4, np.int64),
            totals,
            streams(self._seed(ACTIONS), n),
            np.zeros((n, d), np.float32),
            np.zeros((n, m), kind),
            np.zeros((n, m), kind),
            np.ones(n, np.bool_),
            *self._schedule(),
        )
        self.turns = max(1, c.round_steps // n)
        self.record = kernels.Record(
            np.zeros((self.turns, n, d), np.float32),
            np.zeros((self.turns, n)),
            np.zeros((self.turns, n), np.bool_),
            np.zeros((self.turns, n), np.bool_),
            np.ones((self.turns, n), np.bool_),
        )
        self.current = np.zeros((n, d), np.float32)
        self.status = Status.WAITING
        self._make_agent()

    def _start(self, seed: np.random.SeedSequence) -> None:
        if self.replay.columns.window[:, 1].any():
            self.replay.flush(self.current)
        self.current = self.env.reset(seed).astype(np.float32)
        self.loop.fresh[:] = True
        if not isinstance(self.env, CompiledBatch):
            self.learner.compile(kernels.begin)(self.agent, self.loop, self._normalizer(), self.current)

    def _iterate(self) -> dict[str, float]:
        clock, totals = time.perf_counter(), self.loop.totals
        totals[: kernels.ROUND] = 0.0
        if self.returns is not None:
            totals[kernels.SCALE] = self.returns.scale[0]
        if isinstance(self.env, CompiledBatch):
            self._play(self.env)
        else:
            self._respond()
        record = self.record
        self.steps += record.rewards.size
        for name, array in (("observation", record.raw), ("reward", record.rewards)):
            if not np.isfinite(array).all():
                t, i = np.argwhere(~np.isfinite(array))[0][:2]
                raise ValueError(f"{self.env.id} gave {name} {array[t, i]} at turn {t}; it must be finite")
        ended = record.terminated | record.truncated
        metrics = self._note_episodes(record.rewards, ended, record.valid)
        self._scaled_rewards(record.rewards, ended)
        if self.observations is not None:
            self.observations.update(record.raw[record.valid])
        return metrics | self._learning(time.perf_counter() - clock)

    def _play(self, env: CompiledBatch) -> None:
        envs = env.envs
        simulation = Simulation(envs.state, envs.elapsed, envs.streams, envs.obs, envs.max_episode_steps)
        play = self.learner.compile(kernels.play, envs.kind.dynamics)
        play(
            self.agent,
            self.replay.columns,
            self.batch,
            self.loop,
            self._normalizer(),
            simulation,
            self.record,
            np.empty_like(envs.obs),
            self.turns,
        )
        self.current = envs.obs.copy()

    def _respond(self) -> None:
        respond, norm, record, loop = self.learner.compile(kernels.respond), self._normalizer(), self.record, self.loop
        agent, columns, batch, environments = self.agent, self.replay.columns, self.batch, self.env
        # The actions that environments take are those that the turn before chose: one compiled call for each turn.
        actions = loop.taken[:, 0] if self.discrete else loop.taken
        for t in range(self.turns):
            record.raw[t] = loop.before
            step = environments.step(actions)
            record.rewards[t], record.terminated[t], record.truncated[t] = step.rewards, step.terminated, step.truncated
            record.valid[t] = step.valid
            respond(
                agent, columns, batch, loop, norm, step.obs, record.rewards[t], record.terminated[t],
                record.truncated[t], step.final, record.valid[t],
            )  # fmt: skip
        self.current = loop.before.copy()

    def _learning(self, seconds: float) -> dict[str, Any]:
        """What there is to report of the round's gradient steps, and `status`."""
        totals, counts = self.loop.totals, self.loop.counts
        made = totals[kernels.MADE]
        largest = totals[kernels.REWARD] * totals[kernels.SCALE] * totals[kernels.HORIZON]
        if counts[kernels.BROKEN]:
            self.status = Status.DIVERGED
        elif not counts[kernels.UPDATES]:
            self.status = Status.WAITING
        elif totals[kernels.HIGHEST] > max(largest, totals[kernels.FIRST]):
            self.status = Status.OVERESTIMATES
        else:
            self.status = Status.LEARNING
        mean = {
            name: float(totals[place] / made) if made else np.nan
            for name, place in (("loss", kernels.LOSS), ("value", kernels.VALUE), ("gradient_norm", kernels.NORM))
        }
        return {
            **mean,
            "value_highest": float(totals[kernels.HIGHEST]) if made else np.nan,
            "gradient_steps": int(counts[kernels.UPDATES]),
            "status": self.status.name,
            "round_seconds": seconds,
        }

    def _broken(self) -> bool:
        return bool(self.loop.counts[kernels.BROKEN])

    # --- checkpoints --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write everything to a file, atomically; replay that lies in files goes to a folder beside it."""
        self._columns = self.replay.write_columns(Path(path)) if self.replay.mapped else ""
        super().save(path)
        if self.replay.mapped:
            remove_columns(Path(path), self._columns)

    def _arrays(self) -> dict[str, dict[str, Array]]:
        loop = {
            name: getattr(self.loop, name)
            for name in ("counts", "totals", "streams", "before", "stored", "taken", "fresh")
        }
        columns = np.frombuffer(self._columns.encode(), np.uint8)
        return {
            "agent": self._state(),
            "loop": {**loop, "current": self.current, "columns": columns},
            "replay": self.replay.arrays(),
        }

    def _set(self, header: dict[str, Any], arrays: dict[str, Array], path: Any) -> None:
        self._file = Path(path)
        super()._set(header, arrays, path)

    def _restore(self, arrays: dict[str, Array]) -> None:
        loop = checkpoint.group(arrays, "loop")
        for saved, here in (
            (checkpoint.group(arrays, "agent"), self._state()),
            (loop, {name: getattr(self.loop, name) for name in loop if name not in ("current", "columns")}),
        ):
            for name, array in here.items():
                if saved[name].shape != array.shape:
                    raise ValueError(f"{name} has shape {array.shape} here, and {saved[name].shape} in the file")
                array[...] = saved[name]
        self.current = loop["current"].copy()
        self.replay.restore(checkpoint.group(arrays, "replay"))
        if self.replay.mapped:
            self.replay.read_columns(self._file, loop["columns"].tobytes().decode())
        self._learning(0.0)

    def _resume_environments(self, obs: Array) -> None:
        self.current = obs


class OffPolicy(Stepwise):
    """An algorithm that learns from replay.

    Attributes
    ----------
    replay : ReplayBuffer
    """

    Config = OffPolicyConfig

    def _make_replay(self) -> ReplayBuffer:
        c = self.config
        return ReplayBuffer(
            c.buffer_size,
            self.env.n_inputs,
            self._n_actions(),
            discrete=self.discrete,
            n_envs=self.env.count,
            n_steps=c.n_steps,
            gamma=c.gamma,
            obs_dtype=np.uint8 if self.env.observation_space.dtype == np.uint8 else np.float32,
            prioritized=c.prioritized_replay,
            alpha=c.priority_exponent,
            beta=c.importance_exponent,
            memory_limit=c.buffer_memory,
            seed=self._seed(DRAWS),
        )

    def _schedule(self) -> tuple[int, int, int]:
        return self.config.learning_starts, self.config.train_freq, self.config.gradient_steps

    def _threads(self) -> int:
        return int(self.config.blas_threads)

    def _iterate(self) -> dict[str, float]:
        c = self.config
        share = min(1.0, self.steps / c.importance_steps)
        self.replay.beta = c.importance_exponent + share * (1.0 - c.importance_exponent)
        return super()._iterate()


def fan_in_start(network: Any, rng: np.random.Generator) -> Array:
    """Weights and biases uniform on +-1/sqrt(inputs of the layer) (Lillicrap et al. 2016, section 7), float32.

    The outputs start small, a third of what orthogonal layers give: values that start large overestimate sooner.
    """
    theta = np.empty(network.n, np.float32)
    for block in network.blocks:
        bound = block.inputs**-0.5
        block.of(theta)[...] = rng.uniform(-bound, bound, (block.rows, block.units))
    return theta
