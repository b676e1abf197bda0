"""Environments: classic control as Gymnasium has it, in its order of operations and its precisions, and small tables.

Each environment is three functions on row i of an array of states (fp64):

* ``reset(state, i, s)`` draws a start and returns the stream moved on;
* ``step(state, i, action)`` moves the state and returns reward and whether the episode has terminated. The action is a
  whole number, or a float32 for those with a continuous action;
* ``observe(state, i, obs, k)`` writes the observation to row k of a float32 array.

Sines and cosines are the C library's; NumPy's, which Gymnasium uses, may differ from them in the last bit.

References
----------
A. Barto, R. Sutton and C. Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems",
IEEE Trans. SMC 13, 1983 (cart and pole); A. Moore, "Efficient memory-based learning for robot control", 1990 (mountain
car); R. Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse coding", 1996
(Acrobot). T. Kulkarni, K. Narasimhan, A. Saeedi and J. Tenenbaum, "Hierarchical deep reinforcement learning", NeurIPS
2016, section 4.1 (six states). M. Towers et al., "Gymnasium", 2024: constants and order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from cgopt.kernels.cpu.compile import compiled, helper, named
from cgopt.kernels.loops import bind

from .random import bits, uniform

f32 = np.float32


@helper
def between(s: Any, low: Any, high: Any) -> Any:
    """Uniform on [low, high)."""
    s, u = uniform(s)
    return s, low + (high - low) * u


# --- cart and pole: position, velocity, angle, angular velocity -----------------------------------

GRAVITY, POLE_MASS, TOTAL_MASS, HALF_LENGTH, FORCE, TAU = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
POLE_MOMENT = POLE_MASS * HALF_LENGTH
POSITION_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360


@helper
def reset_cartpole(state: Any, i: Any, s: Any) -> Any:
    """All four uniform on [-0.05, 0.05)."""
    for j in range(4):
        s, state[i, j] = between(s, -0.05, 0.05)
    return s


@helper
def step_cartpole(state: Any, i: Any, action: Any) -> Any:
    """One Euler step of 0.02 s under a force of 10 N to the left (0) or right (1)."""
    x, v, angle, w = state[i, 0], state[i, 1], state[i, 2], state[i, 3]
    force = FORCE if action == 1 else -FORCE
    cos, sin = math.cos(angle), math.sin(angle)
    push = (force + POLE_MOMENT * (w * w) * sin) / TOTAL_MASS
    turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS))
    accelerate = push - POLE_MOMENT * turn * cos / TOTAL_MASS
    x, v, angle, w = x + TAU * v, v + TAU * accelerate, angle + TAU * w, w + TAU * turn
    state[i, 0], state[i, 1], state[i, 2], state[i, 3] = x, v, angle, w
    return 1.0, not (-POSITION_LIMIT <= x <= POSITION_LIMIT and -ANGLE_LIMIT <= angle <= ANGLE_LIMIT)


@helper
def observe_all(state: Any, i: Any, obs: Any, k: Any) -> None:
    """The state itself."""
    for j in range(obs.shape[1]):
        obs[k, j] = f32(state[i, j])


# --- pendulum: angle from upright, angular velocity -----------------------------------------------

MAX_SPEED, MAX_TORQUE, DT = 8.0, f32(2.0), 0.05


@helper
def reset_pendulum(state: Any, i: Any, s: Any) -> Any:
    """Any angle, angular velocity uniform on [-1, 1)."""
    s, state[i, 0] = between(s, -math.pi, math.pi)
    s, state[i, 1] = between(s, -1.0, 1.0)
    return s


@helper
def step_pendulum(state: Any, i: Any, action: Any) -> Any:
    """One semi-implicit Euler step of 0.05 s under a torque, clipped to [-2, 2]."""
    angle, w = state[i, 0], state[i, 1]
    torque = min(max(f32(action), -MAX_TORQUE), MAX_TORQUE)
    off = (angle + math.pi) % (2 * math.pi) - math.pi
    effort = f32(f32(0.001) * f32(torque * torque))
    cost = off * off + 0.1 * (w * w) + np.float64(effort)
    w = w + (15.0 * math.sin(angle) + np.float64(f32(f32(3.0) * torque))) * DT
    w = min(max(w, -MAX_SPEED), MAX_SPEED)
    state[i, 0], state[i, 1] = angle + w * DT, w
    return -cost, False


@helper
def observe_pendulum(state: Any, i: Any, obs: Any, k: Any) -> None:
    """Cosine and sine of the angle, angular velocity."""
    obs[k, 0] = f32(math.cos(state[i, 0]))
    obs[k, 1] = f32(math.sin(state[i, 0]))
    obs[k, 2] = f32(state[i, 1])


# --- acrobot: two angles, two angular velocities --------------------------------------------------


@helper
def reset_acrobot(state: Any, i: Any, s: Any) -> Any:
    """All four uniform on [-0.1, 0.1), in float32."""
    for j in range(4):
        s, x = between(s, -0.1, 0.1)
        state[i, j] = np.float64(f32(x))
    return s


@helper
def acrobot_rates(a1: Any, a2: Any, w1: Any, w2: Any, torque: Any) -> Any:
    """Angular accelerations (the book's equations; links of 1 kg, 1 m, moment of inertia 1)."""
    cos2, sin2 = math.cos(a2), math.sin(a2)
    d1 = 0.25 + (1.25 + cos2) + 1.0 + 1.0
    d2 = (0.25 + 0.5 * cos2) + 1.0
    phi2 = 0.5 * 9.8 * math.cos(a1 + a2 - math.pi / 2.0)
    phi1 = -0.5 * (w2 * w2) * sin2 - w2 * w1 * sin2 + 1.5 * 9.8 * math.cos(a1 - math.pi / 2) + phi2
    r2 = (torque + d2 / d1 * phi1 - 0.5 * (w1 * w1) * sin2 - phi2) / (1.25 - d2 * d2 / d1)
    return -(d2 * r2 + phi1) / d1, r2


@helper
def wrap(x: Any) -> Any:
    """An angle brought to [-pi, pi] by whole turns."""
    while x > math.pi:
        x = x - 2 * math.pi
    while x < -math.pi:
        x = x + 2 * math.pi
    return x


@helper
def step_acrobot(state: Any, i: Any, action: Any) -> Any:
    """One Runge-Kutta step (fourth order) of 0.2 s under a torque of -1, 0 or 1 at the joint."""
    torque = np.float64(action) - 1.0
    a1, a2, w1, w2 = state[i, 0], state[i, 1], state[i, 2], state[i, 3]
    h, half, sixth = 0.2, 0.1, 0.2 / 6.0
    p1, q1 = w1, w2
    r1, s1 = acrobot_rates(a1, a2, w1, w2, torque)
    p2, q2 = w1 + half * r1, w2 + half * s1
    r2, s2 = acrobot_rates(a1 + half * p1, a2 + half * q1, p2, q2, torque)
    p3, q3 = w1 + half * r2, w2 + half * s2
    r3, s3 = acrobot_rates(a1 + half * p2, a2 + half * q2, p3, q3, torque)
    p4, q4 = w1 + h * r3, w2 + h * s3
    r4, s4 = acrobot_rates(a1 + h * p3, a2 + h * q3, p4, q4, torque)
    a1 = wrap(a1 + sixth * (p1 + 2.0 * p2 + 2.0 * p3 + p4))
    a2 = wrap(a2 + sixth * (q1 + 2.0 * q2 + 2.0 * q3 + q4))
    w1 = min(max(w1 + sixth * (r1 + 2.0 * r2 + 2.0 * r3 + r4), -4 * math.pi), 4 * math.pi)
    w2 = min(max(w2 + sixth * (s1 + 2.0 * s2 + 2.0 * s3 + s4), -9 * math.pi), 9 * math.pi)
    state[i, 0], state[i, 1], state[i, 2], state[i, 3] = a1, a2, w1, w2
    terminated = -math.cos(a1) - math.cos(a2 + a1) > 1.0
    return 0.0 if terminated else -1.0, terminated


@helper
def observe_acrobot(state: Any, i: Any, obs: Any, k: Any) -> None:
    """Cosines and sines of the angles, angular velocities."""
    obs[k, 0], obs[k, 1] = f32(math.cos(state[i, 0])), f32(math.sin(state[i, 0]))
    obs[k, 2], obs[k, 3] = f32(math.cos(state[i, 1])), f32(math.sin(state[i, 1]))
    obs[k, 4], obs[k, 5] = f32(state[i, 2]), f32(state[i, 3])


# --- mountain car: position, velocity, and whether the state is fresh from a reset ----------------


@helper
def reset_mountain_car(state: Any, i: Any, s: Any) -> Any:
    """At rest, position uniform on [-0.6, -0.4)."""
    s, state[i, 0] = between(s, -0.6, -0.4)
    state[i, 1] = 0.0
    state[i, 2] = 1.0
    return s


@helper
def step_mountain_car(state: Any, i: Any, action: Any) -> Any:
    """Push left (0), not at all (1) or right (2); the goal is at 0.5."""
    x, v = state[i, 0], state[i, 1]
    v += np.float64(action - 1) * 0.001 + math.cos(3 * x) * -0.0025
    v = min(max(v, -0.07), 0.07)
    x = min(max(x + v, -1.2), 0.6)
    if x == -1.2 and v < 0.0:
        v = 0.0
    state[i, 0], state[i, 1], state[i, 2] = x, v, 0.0
    return -1.0, x >= 0.5 and v >= 0.0


@helper
def step_mountain_car_continuous(state: Any, i: Any, action: Any) -> Any:
    """Push with a force clipped to [-1, 1]; the goal is at 0.45 and worth 100, a push costs its square over 10.

    Gymnasium holds this state in float32, except the one fresh from a reset, and a push that is not clipped is
    multiplied in float32.
    """
    x, v, fresh = state[i, 0], state[i, 1], state[i, 2] != 0.0
    push = f32(action)
    pull = 0.0025 * math.cos(3 * x if fresh else np.float64(f32(f32(3.0) * f32(x))))
    if push > f32(1.0):
        change = 0.0015 - pull
    elif push < f32(-1.0):
        change = -0.0015 - pull
    else:
        change = np.float64(f32(f32(push * f32(0.0015)) - f32(pull)))
    if not fresh:
        change = np.float64(f32(change))
    v = v + change
    if not fresh:
        v = np.float64(f32(v))
    v = min(max(v, -0.07), 0.07)
    x = x + (v if fresh else np.float64(f32(v)))
    if not fresh:
        x = np.float64(f32(x))
    x = min(max(x, -1.2), 0.6)
    if x == -1.2 and v < 0.0:
        v = 0.0
    reward = -(np.float64(push) * np.float64(push)) * 0.1
    terminated = x >= 0.45 and v >= 0.0
    state[i, 0], state[i, 1], state[i, 2] = np.float64(f32(x)), np.float64(f32(v)), 0.0
    return reward + 100.0 if terminated else reward, terminated


# --- states in a table: observations are unit vectors ---------------------------------------------

HIGH, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@helper
def reset_six_states(state: Any, i: Any, s: Any) -> Any:
    """At the second state. The stream of the episode's draws lies in the state, as two halves that a float holds."""
    s, z = bits(s)
    state[i, 0], state[i, 1], state[i, 2], state[i, 3] = 1.0, 0.0, np.float64(z >> HIGH), np.float64(z & LOW)
    return s


@helper
def step_six_states(state: Any, i: Any, action: Any) -> Any:
    """Left (0) moves left; right (1) moves right or left, evenly, and at the last state stays or moves left.

    The first state ends the episode, with 1 if the last had been seen and 0.01 if not.
    """
    x = state[i, 0]
    right = False
    if action == 1:
        z, u = uniform((np.uint64(state[i, 2]) << HIGH) | np.uint64(state[i, 3]))
        state[i, 2], state[i, 3] = np.float64(z >> HIGH), np.float64(z & LOW)
        right = u < 0.5
    x = min(x + 1.0, 5.0) if right else x - 1.0
    state[i, 0] = x
    if x == 5.0:
        state[i, 1] = 1.0
    if x > 0.0:
        return 0.0, False
    return 1.0 if state[i, 1] == 1.0 else 0.01, True


@helper
def observe_position(state: Any, i: Any, obs: Any, k: Any) -> None:
    """The unit vector of the position; what had been seen before is hidden."""
    for j in range(obs.shape[1]):
        obs[k, j] = f32(0.0)
    obs[k, np.int64(state[i, 0])] = f32(1.0)


# A room with the start (S) and a key (K), a door (D) that lets pass who has the key, a room with a treasure (T).
MAP = (
    "###############",
    "#S.....D......#",
    *("#......#......#",) * 7,
    "#K.....#.....T#",
    "###############",
)
CELLS = np.array([[ord(cell) for cell in row] for row in MAP], np.int64)
WALL, START, KEY, DOOR, TREASURE = (ord(cell) for cell in "#SKDT")
START_Y, START_X = (int(place[0]) for place in np.nonzero(CELLS == START))
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # up, right, down, left


@helper
def reset_key_door(state: Any, i: Any, s: Any) -> Any:
    """At the start, without the key."""
    state[i, 0], state[i, 1], state[i, 2] = np.float64(START_Y), np.float64(START_X), 0.0
    return s


@helper
def step_key_door(state: Any, i: Any, action: Any) -> Any:
    """One cell up, right, down or left; into walls, and into the door without the key, nothing moves."""
    y, x = np.int64(state[i, 0]) + MOVES[action, 0], np.int64(state[i, 1]) + MOVES[action, 1]
    cell = CELLS[y, x]
    if cell != WALL and (cell != DOOR or state[i, 2] == 1.0):
        state[i, 0], state[i, 1] = np.float64(y), np.float64(x)
        if cell == KEY:
            state[i, 2] = 1.0
        if cell == TREASURE:
            return 1.0, True
    return 0.0, False


@helper
def observe_key_door(state: Any, i: Any, obs: Any, k: Any) -> None:
    """The unit vector of the cell and the key: index (key * rows + y) * columns + x."""
    for j in range(obs.shape[1]):
        obs[k, j] = f32(0.0)
    rows, columns = CELLS.shape
    obs[k, (np.int64(state[i, 2]) * rows + np.int64(state[i, 0])) * columns + np.int64(state[i, 1])] = f32(1.0)


# --- many environments, one step ------------------------------------------------------------------


class Dynamics(NamedTuple):
    """An environment's functions, the columns of its state, and the name that its compiled loops carry."""

    name: str
    columns: int
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observe: Callable[..., Any]

    def bind(self, text: Callable[..., Any], **names: Any) -> Callable[..., Any]:
        """A text whose free names ``reset``, ``step`` and ``observe`` are this environment's."""
        primitives = {"reset": self.reset, "step": self.step, "observe": self.observe}
        return bind(text, f"{text.__name__}_{self.name}", primitives | names)

    def compile(self, text: Callable[..., Any], suffix: str = "", **names: Any) -> tuple[Any, Any]:
        """The serial and the threaded form of a bound text."""
        bound = self.bind(text, **names)
        return (
            compiled(named(bound, f"{suffix}serial"), threaded=False),
            compiled(named(bound, f"{suffix}threaded"), threaded=True),
        )


CARTPOLE = Dynamics("cartpole", 4, reset_cartpole, step_cartpole, observe_all)
PENDULUM = Dynamics("pendulum", 2, reset_pendulum, step_pendulum, observe_pendulum)
ACROBOT = Dynamics("acrobot", 4, reset_acrobot, step_acrobot, observe_acrobot)
MOUNTAIN_CAR = Dynamics("mountain_car", 3, reset_mountain_car, step_mountain_car, observe_all)
MOUNTAIN_CAR_CONTINUOUS = Dynamics(
    "mountain_car_continuous", 3, reset_mountain_car, step_mountain_car_continuous, observe_all
)
SIX_STATES = Dynamics("six_states", 4, reset_six_states, step_six_states, observe_position)
KEY_DOOR = Dynamics("key_door", 3, reset_key_door, step_key_door, observe_key_door)


def reset(state: Any, i: Any, s: Any) -> Any:
    """Stand for the environment's own in the texts below."""
    raise NotImplementedError


def step(state: Any, i: Any, action: Any) -> Any:
    """Stand for the environment's own in the texts below."""
    raise NotImplementedError


def observe(state: Any, i: Any, obs: Any, k: Any) -> None:
    """Stand for the environment's own in the texts below."""
    raise NotImplementedError


def reset_many(state: Any, elapsed: Any, streams: Any, where: Any, obs: Any) -> None:
    """Start new episodes where `where` says so, and observe them."""
    for i in prange(state.shape[0]):
        if where[i]:
            streams[i] = reset(state, i, streams[i])
            elapsed[i] = 0
            observe(state, i, obs, i)


def step_many(
    state: Any,
    elapsed: Any,
    streams: Any,
    limit: Any,
    actions: Any,
    obs: Any,
    final: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
) -> None:
    """One step of each environment; where an episode ends, `final` has its last observation and `obs` a new start."""
    for i in prange(state.shape[0]):
        rewards[i], terminated[i] = step(state, i, actions[i])
        elapsed[i] += 1
        truncated[i] = elapsed[i] >= limit
        observe(state, i, final, i)
        if terminated[i] or truncated[i]:
            streams[i] = reset(state, i, streams[i])
            elapsed[i] = 0
            observe(state, i, obs, i)
        else:
            for j in range(obs.shape[1]):
                obs[i, j] = final[i, j]


def step_one(state: Any, action: Any, obs: Any) -> Any:
    """One step of one environment, and its observation."""
    reward, terminated = step(state, 0, action)
    observe(state, 0, obs, 0)
    return reward, terminated
