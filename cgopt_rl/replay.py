"""Replay: the past transitions that off-policy algorithms learn from.

L.-J. Lin, "Self-improving reactive agents based on reinforcement learning, planning and teaching", 1992. The next
observation is a column of its own: with one shared column it would be the one after the reset where an episode was cut
off by a time limit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import integer, number
from .kernels import replay as kernels
from .kernels.random import streams
from .normalization import normalizer

Array = npt.NDArray[Any]
COLUMNS = ("obs", "actions", "rewards", "next_obs", "terminated", "discounts")
MOVING = ("place", "stream", "window_obs", "window_actions", "window_rewards", "window", "priority")
PIECE = 1 << 26  # bytes copied at a time
PRIORITY_EPSILON = 1e-6  # what keeps a transition with no error from never being seen again (Schaul et al. 2016)


class ReplayBuffer:
    """A ring of transitions in preallocated columns, from which batches are drawn with replacement.

    Parameters
    ----------
    capacity : int
        Transitions; the oldest make room.
    n_inputs : int
        Length of an observation.
    n_actions : int, default 1
        Numbers in an action.
    discrete : bool, default False
        Whether they are whole numbers (int32), or floats (float32).
    n_envs : int, default 1
        Environments that steps come from side by side.
    n_steps : int, default 1
        Steps of a transition: the sum of so many discounted rewards, and the observation behind them. Where an episode
        ends before, terminated or truncated, it is as many as there were.
    gamma : float, default 0.99
        Discount of rewards inside a transition.
    obs_dtype : dtype, default float32
        uint8 is kept as such; everything else becomes float32.
    prioritized : bool, default False
        Draw in proportion to ``(|error| + 1e-6)^alpha`` instead of evenly.
    alpha, beta : float, default 0.6 and 0.4
        Exponents of priorities and of importance weights ``(N P(i))^-beta``; `beta` may be set later.
    memory_limit : int, default 2^30
        Bytes of columns above which they are files mapped into memory instead.
    folder : path, optional
        For those files: by default a new folder among the system's temporary files. They are removed with the buffer.
    seed : numpy.random.SeedSequence or int, default 0
        Of drawing.

    Attributes
    ----------
    columns : cgopt_rl.kernels.replay.Replay
        The arrays, as compiled loops take them.

    Examples
    --------
    >>> import numpy as np
    >>> from cgopt_rl.replay import ReplayBuffer
    >>> buffer = ReplayBuffer(1000, n_inputs=2, n_steps=2, gamma=0.5)
    >>> steps = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> for obs, final in zip(steps[:-1], steps[1:]):
    ...     buffer.add([obs], [[0.3]], [8.0], [final], [False], [False])
    >>> len(buffer), float(buffer.columns.rewards[0]), float(buffer.columns.discounts[0])
    (1, 12.0, 0.25)
    >>> batch = buffer.sample(buffer.batch(64))
    >>> batch.next_obs.shape, batch.next_obs[0]
    ((64, 2), array([2., 2.], dtype=float32))
    """

    def __init__(
        self,
        capacity: int,
        n_inputs: int,
        n_actions: int = 1,
        *,
        discrete: bool = False,
        n_envs: int = 1,
        n_steps: int = 1,
        gamma: float = 0.99,
        obs_dtype: Any = np.float32,
        prioritized: bool = False,
        alpha: float = 0.6,
        beta: float = 0.4,
        memory_limit: int = 1 << 30,
        folder: str | Path | None = None,
        seed: np.random.SeedSequence | int = 0,
    ) -> None:
        capacity, d, m = (
            integer(name, value)
            for name, value in (("capacity", capacity), ("n_inputs", n_inputs), ("n_actions", n_actions))
        )
        n, steps = integer("n_envs", n_envs), integer("n_steps", n_steps)
        for name, value in (("gamma", gamma), ("alpha", alpha), ("beta", beta)):
            number(name, value, low=0.0, high=1.0)
        kept = np.dtype(np.uint8 if np.dtype(obs_dtype) == np.uint8 else np.float32)
        action = np.dtype(np.int32 if discrete else np.float32)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "obs": ((capacity, d), kept),
            "actions": ((capacity, m), action),
            "rewards": ((capacity,), np.float32),
            "next_obs": ((capacity, d), kept),
            "terminated": ((capacity,), np.bool_),
            "discounts": ((capacity,), np.float32),
        }
        self.nbytes = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
        self.folder: Path | None = None
        if self.nbytes > integer("memory_limit", memory_limit, minimum=0):
            self.folder = Path(tempfile.mkdtemp(prefix="replay-", dir=folder))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        columns = {name: self._column(name, shape, kind) for name, (shape, kind) in shapes.items()}
        leaves = 1 << (capacity - 1).bit_length() if prioritized else 0
        sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        self.columns = kernels.Replay(
            **columns,
            place=np.zeros(2, np.int64),
            stream=streams(sequence, 1),
            window_obs=np.zeros((n, steps, d), kept),
            window_actions=np.zeros((n, steps, m), action),
            window_rewards=np.zeros((n, steps)),
            window=np.zeros((n, 2), np.int64),
            tree=np.zeros(2 * leaves),
            priority=np.array([1.0, alpha, beta, PRIORITY_EPSILON]),
            gamma=float(gamma),
        )

    def _column(self, name: str, shape: tuple[int, ...], kind: Any) -> Array:
        if self.folder is None:
            return np.zeros(shape, kind)
        file = np.memmap(self.folder / name, np.dtype(kind), "w+", shape=shape)
        return file.view(np.ndarray)

    @property
    def capacity(self) -> int:
        """Transitions that there is room for."""
        return self.columns.obs.shape[0]

    @property
    def mapped(self) -> bool:
        """Whether the columns are files."""
        return self.folder is not None

    @property
    def beta(self) -> float:
        """Exponent of the importance weights."""
        return float(self.columns.priority[kernels.BETA])

    @beta.setter
    def beta(self, value: float) -> None:
        self.columns.priority[kernels.BETA] = number("beta", value, low=0.0, high=1.0)

    def __len__(self) -> int:
        return int(self.columns.place[kernels.FILL])

    def add(
        self, obs: Any, actions: Any, rewards: Any, final: Any, terminated: Any, truncated: Any, valid: Any = None
    ) -> None:
        """Add one step of every environment.

        Parameters
        ----------
        obs, final : (n, d)
            What was acted on, and what the action led to, before any reset.
        actions : (n, m)
        rewards : (n,)
        terminated, truncated : (n,) bool
        valid : (n,) bool, optional
            False where a step only reset the environment: it is not added.
        """
        c = self.columns
        n = c.window.shape[0]
        sources = (
            ("obs", obs, c.window_obs.dtype, (n, c.obs.shape[1])),
            ("actions", actions, c.actions.dtype, (n, c.actions.shape[1])),
            ("rewards", rewards, np.float64, (n,)),
            ("final", final, c.window_obs.dtype, (n, c.obs.shape[1])),
            ("terminated", terminated, np.bool_, (n,)),
            ("truncated", truncated, np.bool_, (n,)),
            ("valid", np.ones(n, np.bool_) if valid is None else valid, np.bool_, (n,)),
        )
        arrays = []
        for name, value, kind, shape in sources:
            array = np.ascontiguousarray(value, kind)
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, got {array}")
            arrays.append(array)
        kernels.add_many(c, *arrays)

    def flush(self, final: Any) -> None:
        """Store the steps that wait for later ones as if their episodes were cut off at observations `final` (n, d)."""
        final = np.ascontiguousarray(final, self.columns.window_obs.dtype)
        shape = self.columns.window_obs.shape[0], self.columns.obs.shape[1]
        if final.shape != shape:
            raise ValueError(f"final must have shape {shape}, got {final.shape}")
        kernels.flush(self.columns, final)

    def batch(self, size: int) -> kernels.Batch:
        """Arrays for `sample` to fill, of `size` transitions."""
        size, c = integer("size", size), self.columns
        d = c.obs.shape[1]
        return kernels.Batch(
            np.zeros((size, d), np.float32),
            np.zeros((size, c.actions.shape[1]), c.actions.dtype),
            np.zeros(size, np.float32),
            np.zeros((size, d), np.float32),
            np.zeros(size, np.float32),
            np.ones(size, np.float32),
            np.zeros(size, np.int64),
        )

    def sample(self, batch: kernels.Batch, norm: Any = None, reward_scale: float = 1.0) -> kernels.Batch:
        """Fill a batch with transitions drawn with replacement.

        Parameters
        ----------
        batch : cgopt_rl.kernels.replay.Batch
            From `batch`.
        norm : cgopt_rl.kernels.rollouts.Normalizer, optional
            Of observations.
        reward_scale : float, default 1

        Returns
        -------
        Batch
            The same one.
        """
        if not len(self):
            raise ValueError("the buffer is empty: add transitions before drawing")
        norm = normalizer(None, self.columns.obs.shape[1], np.inf) if norm is None else norm
        kernels.draw_batch(self.columns, batch, norm, float(reward_scale))
        return batch

    def set_errors(self, batch: kernels.Batch, errors: Any) -> None:
        """Set the priorities of a batch's transitions by their errors (B,); nothing where draws are even."""
        errors = np.ascontiguousarray(errors, np.float32)
        if errors.shape != batch.rows.shape or not np.isfinite(errors).all():
            raise ValueError(f"errors must be {batch.rows.size} finite numbers, got shape {errors.shape}")
        kernels.reprioritize_batch(self.columns, batch, errors)

    # --- checkpoints ----------------------------------------------------------------------------------

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint keeps; without the columns where they are files, which `write_columns` copies."""
        fill = len(self)
        kept = {name: getattr(self.columns, name) for name in MOVING}
        leaves = self.columns.tree.size // 2
        if leaves:
            kept["priorities"] = self.columns.tree[leaves : leaves + fill]
        if not self.mapped:
            kept |= {name: getattr(self.columns, name)[:fill] for name in COLUMNS}
        return kept

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` returned."""
        for name in MOVING:
            here = getattr(self.columns, name)
            if arrays[name].shape != here.shape:
                raise ValueError(f"the file's replay has {name} of shape {arrays[name].shape}, here it is {here.shape}")
            here[...] = arrays[name]
        fill = len(self)
        if fill > self.capacity:
            raise ValueError(f"the file's replay has {fill} transitions, and there is room for {self.capacity}")
        if not self.mapped:
            for name in COLUMNS:
                getattr(self.columns, name)[:fill] = arrays[name]
        tree = self.columns.tree
        leaves = tree.size // 2
        if leaves:
            tree[leaves : leaves + fill] = arrays["priorities"]
            while leaves > 1:
                leaves //= 2
                tree[leaves : 2 * leaves] = tree[2 * leaves : 4 * leaves : 2] + tree[2 * leaves + 1 : 4 * leaves : 2]

    def write_columns(self, beside: Path) -> str:
        """Copy the columns that are files to a folder beside a checkpoint; returns its name's end.

        The folder is named after the contents, and renamed into its place when it is complete and on disk. So the
        checkpoint before, which names another folder, stays whole until it is replaced.
        """
        fill, digest = len(self), hashlib.sha256()
        part = beside.with_name(f".{beside.name}.{os.getpid()}.replay")
        part.mkdir()
        try:
            for name in COLUMNS:
                column = getattr(self.columns, name)[:fill].reshape(-1).view(np.uint8)
                with open(part / name, "wb") as file:
                    for start in range(0, column.size, PIECE):
                        piece = memoryview(column[start : start + PIECE])
                        digest.update(piece)
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
            name = digest.hexdigest()[:32]
            final = _columns_folder(beside, name)
            if not final.is_dir():
                os.replace(part, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return name

    def read_columns(self, beside: Path, name: str) -> None:
        """Fill the columns with what `write_columns` wrote."""
        folder, fill, digest = _columns_folder(beside, name), len(self), hashlib.sha256()
        for column_name in COLUMNS:
            column = getattr(self.columns, column_name)[:fill].reshape(-1).view(np.uint8)
            path = folder / column_name
            if not path.is_file() or path.stat().st_size != column.nbytes:
                raise ValueError(f"{folder}, which belongs to {beside.name}, is missing or damaged")
            with open(path, "rb") as file:
                for start in range(0, column.size, PIECE):
                    piece = memoryview(column[start : start + PIECE])
                    file.readinto(piece)
                    digest.update(piece)
        if digest.hexdigest()[:32] != name:
            raise ValueError(f"{folder} is damaged: its contents are not those that were written")

    def __repr__(self) -> str:
        where = "in files" if self.mapped else "in memory"
        return f"ReplayBuffer({len(self):,} of {self.capacity:,} transitions, {self.nbytes:,} bytes {where})"


def _columns_folder(beside: Path, name: str) -> Path:
    return beside.with_name(f"{beside.name}.replay-{name}")


def remove_columns(beside: Path, keep: str) -> None:
    """Remove the folders of earlier checkpoints of this name."""
    for folder in beside.parent.glob(f"{beside.name}.replay-*"):
        if folder != _columns_folder(beside, keep):
            shutil.rmtree(folder, ignore_errors=True)
