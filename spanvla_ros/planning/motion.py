"""The numeric side of the ego history: what the action expert starts from."""

from __future__ import annotations

import numpy as np

from spanvla_ros.contracts import Command, EgoHistory, ModelSpec
from spanvla_ros.geometry import constant_turn

COMMANDS = tuple(Command)
POSE_UNIT = np.array([10.0, 2.0, 0.5])
SPEED_UNIT_MPS, ACCELERATION_UNIT_MPS2, YAW_RATE_UNIT_RPS = 10.0, 3.0, 0.5
STANDSTILL_MPS = 0.3
MAX_YAW_RATE_RPS = 1.0
AGE_UNIT_S = 0.5
AGE_FEATURES = 4


def features(history: EgoHistory, command: Command) -> np.ndarray:
    """Ego vector (E,) float32: past poses, speeds, acceleration, yaw rate in fixed units, command one-hot."""
    return np.concatenate(
        [
            (history.poses_base[:-1] / POSE_UNIT).ravel(),
            history.speeds_mps / SPEED_UNIT_MPS,
            [history.acceleration_mps2 / ACCELERATION_UNIT_MPS2, history.yaw_rates_rps[-1] / YAW_RATE_UNIT_RPS],
            [float(command is c) for c in COMMANDS],
        ]
    ).astype(np.float32)


def age_features(age_s: float, moved_base: np.ndarray) -> np.ndarray:
    """What the expert knows about old KV (4,) float32: its age, and the pose (3,) of base_link now in base_link at its t0."""
    return np.append(age_s / AGE_UNIT_S, np.asarray(moved_base) / POSE_UNIT).astype(np.float32)


def base(history: EgoHistory, spec: ModelSpec) -> np.ndarray:
    """Constant-turn roll-out (T, 3) float32 in base_link: the physical prior of the history-initialised source."""
    return roll_out(history, spec.waypoint_interval_s * np.arange(1, spec.waypoints + 1))


def roll_out(history: EgoHistory, times_s: np.ndarray) -> np.ndarray:
    """Poses (T, 3) float32 in base_link of a car that keeps its speed and yaw rate."""
    speed = float(history.speeds_mps[-1])
    # the yaw rate of a car that stands is sensor noise
    turn = float(np.clip(history.yaw_rates_rps[-1], -MAX_YAW_RATE_RPS, MAX_YAW_RATE_RPS)) if abs(speed) > STANDSTILL_MPS else 0.0
    return constant_turn(speed, turn, times_s).astype(np.float32)
