"""Worlds with a finite number of states, as plain Gymnasium environments."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..kernels.environments import CELLS, DOOR, KEY, MOVES, START_X, START_Y, TREASURE, WALL

try:
    import gymnasium
    from gymnasium import spaces
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('environments and agents need Gymnasium: pip install "cgopt[rl]"') from error

Array = npt.NDArray[Any]


class SixStates(gymnasium.Env):  # type: ignore[misc]
    """The stochastic decision process of Kulkarni et al. (2016), section 4.1; ``cgopt/SixStates-v0``.

    Six states in a row, s1 to s6, observed as 0 to 5. An episode starts at s2 and ends at s1. Action 0 moves left; 1
    moves right with probability 1/2, else left, and stays at s6 instead of moving right. The reward is 1 at s1 if s6
    was visited before, and 0.01 if it was not; that the past matters cannot be seen from the state.

    Attributes
    ----------
    goals : (6, 6) bool
        Every state is a goal.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    goals: ClassVar[Array] = np.eye(6, dtype=np.bool_)

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Discrete(6), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.seen = 1, False
        return self.position, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        right = action == 1 and self.np_random.random() < 0.5
        self.position = min(self.position + 1, 5) if right else self.position - 1
        self.seen |= self.position == 5
        terminated = self.position == 0
        return self.position, (1.0 if self.seen else 0.01) if terminated else 0.0, terminated, False, {}


class KeyDoor(gymnasium.Env):  # type: ignore[misc]
    """Two rooms, a key, a door and a treasure; ``cgopt/KeyDoor-v0``.

    The key lies in the room of the start, the door between the rooms opens to who has it, and the treasure in the other
    room is worth 1 and ends the episode. Nothing else has a reward: random steps find the treasure in fewer than one
    of ten thousand episodes of 80 steps, and the shortest way takes 36. Actions are up, right, down and left. An
    observation is ``(key * rows + y) * columns + x``.

    Attributes
    ----------
    goals : (3, states) bool
        To be where the key lies with the key, in the door with the key, at the treasure.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 8}
    goals: ClassVar[Array] = np.stack(
        [np.concatenate([np.zeros(CELLS.size, np.bool_), (CELLS == cell).ravel()]) for cell in (KEY, DOOR, TREASURE)]
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = spaces.Discrete(2 * CELLS.size), spaces.Discrete(4)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.y, self.x, self.key = START_Y, START_X, False
        return self._observation(), {}

    def _observation(self) -> int:
        rows, columns = CELLS.shape
        return (int(self.key) * rows + self.y) * columns + self.x

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        y, x = self.y + int(MOVES[action, 0]), self.x + int(MOVES[action, 1])
        if CELLS[y, x] != WALL and (CELLS[y, x] != DOOR or self.key):
            self.y, self.x = y, x
            self.key |= bool(CELLS[y, x] == KEY)
        found = bool(CELLS[self.y, self.x] == TREASURE)
        return self._observation(), float(found), found, False, {}

    def render(self) -> Array:
        """The rooms from above, (rows * 16, columns * 16, 3) uint8."""
        colors = {WALL: (60, 60, 60), DOOR: (160, 110, 60), TREASURE: (240, 200, 40)}
        picture = np.full((*CELLS.shape, 3), 235, np.uint8)
        for cell, color in colors.items():
            picture[CELLS == cell] = color
        if not self.key:
            picture[CELLS == KEY] = (0, 158, 115)
        picture = picture.repeat(16, axis=0).repeat(16, axis=1)
        y, x = 16 * self.y, 16 * self.x
        picture[y + 3 : y + 13, x + 3 : x + 13] = (0, 114, 178)
        if self.key:
            picture[y + 6 : y + 10, x + 6 : x + 10] = (0, 158, 115)
        return picture
