"""How the car follows a plan: waypoints to 41 poses, LQR tracker and kinematic bicycle, all proposals at once."""

from __future__ import annotations

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.evaluation.pdm.profile import profiles
from spanvla_ros.evaluation.pdm.scene import STEP_S, STEPS, WAYPOINT_S, Scene, check_plans
from spanvla_ros.geometry import to_global, wrap

_WINDOW = 10  # steps that the tracker looks ahead
_STOP_MPS = 0.2
_STEERING_LIMIT = np.pi / 3
_ACCELERATION_LAG_S = 0.2
_STEERING_LAG_S = 0.05
_LATERAL_WEIGHT = 1.0
_HEADING_WEIGHT = 10.0


def interpolate(scene: Scene, plans: np.ndarray) -> np.ndarray:
    """Plans (K, 8, 3) in the ego frame to global poses (K, 41, 3) at 0.0 .. 4.0 s, the ego's pose first."""
    check_plans(scene.name, "plans", plans)
    poses = to_global(scene.ego[:3], np.asarray(plans, dtype=float))
    start = np.broadcast_to(scene.ego[:3], (len(plans), 1, 3))
    poses = np.concatenate([start, poses], axis=1)
    stamps = scene.start_us + np.rint(np.arange(poses.shape[1]) * WAYPOINT_S * 1e6)
    return resample(stamps, poses, query_stamps(scene.start_us))


def query_stamps(start_us: int) -> np.ndarray:
    """Stamps (41,) in microseconds; the official code truncates float seconds, so some are 1 us early."""
    return np.clip(truncated_us(np.arange(STEPS) * STEP_S + start_us * 1e-6), start_us, start_us + 4_000_000)


def truncated_us(times_s: np.ndarray) -> np.ndarray:
    """Seconds to whole microseconds, rounded towards zero."""
    return np.trunc(times_s * 1e6)


def resample(stamps: np.ndarray, poses: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Poses (K, N, 3) at `stamps` (N,), linear and with unwrapped heading, at `at` (M,) -> (K, M, 3)."""
    values = poses.copy()
    values[..., 2] = np.unwrap(values[..., 2], axis=1)
    right = np.clip(np.searchsorted(stamps, at, side="left"), 1, len(stamps) - 1)
    share = (at - stamps[right - 1]) / (stamps[right] - stamps[right - 1])
    result = values[:, right - 1] + share[:, None] * (values[:, right] - values[:, right - 1])
    result[..., 2] = wrap(result[..., 2])
    return result


def past_states(stamps_us: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Past states (H, 11) at 0.1 s from logged ones (N, 11) at `stamps_us` (N,), the last at t0.

    As in the official code the last sample before t0 is left out, and so are turn rates.
    """
    times = np.arange(stamps_us[0] * 1e-6, stamps_us[-1] * 1e-6, STEP_S)[:-1]
    at = np.clip(truncated_us(times), stamps_us[0], stamps_us[-1])
    poses = resample(stamps_us, states[None, :, :3], at)[0]
    others = np.stack([np.interp(at, stamps_us, column) for column in states[:, 3:].T], axis=-1)
    others[:, 5:] = 0.0
    return np.concatenate([poses, others], axis=1)


def simulate(start: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """States (K, 41, 11) of the car that starts in state `start` (11,) and tracks poses (K, 41, 3)."""
    speed, curvature = profiles(poses)
    states = np.empty((len(poses), STEPS, 11))
    states[:, 0] = start
    for k in range(STEPS - 1):
        acceleration, steering_rate = _commands(k, states[:, k], poses[:, k], speed, curvature)
        states[:, k + 1] = _bicycle(states[:, k], acceleration, steering_rate)
    return states


def _commands(k: int, state: np.ndarray, pose: np.ndarray, speeds: np.ndarray, curvatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Acceleration (K,) and steering rate (K,) at step k: one-step LQR along, ten-step LQR across the path."""
    last = speeds.shape[1] - 1
    target = min(k + _WINDOW, last)
    wanted = speeds[:, target]
    speed = state[:, 3]
    stopping = (wanted <= _STOP_MPS) & (speed <= _STOP_MPS)
    acceleration = np.where(stopping, -0.5, -10.0 / 11.0) * (speed - wanted)

    ahead = np.minimum(np.arange(k, k + _WINDOW), target)
    curvature = curvatures[:, ahead]
    cos, sin = np.cos(pose[:, 2]), np.sin(pose[:, 2])
    offset = state[:, :2] - pose[:, :2]
    lateral = -offset[:, 0] * sin + offset[:, 1] * cos
    heading = wrap(state[:, 2] - pose[:, 2])
    steering = state[:, 7]
    # M is the identity plus two entries, so the roll-out of the affine system is a handful of running sums
    step_m = (speed[:, None] + acceleration[:, None] * (STEP_S * np.arange(_WINDOW))) * STEP_S
    turn = step_m / VEHICLE.wheel_base_m
    rates = np.stack([turn * (STEP_S * np.arange(_WINDOW)), turn * steering[:, None] - step_m * curvature])
    after = np.cumsum(rates, axis=2)
    before = after - rates
    effect_heading, effect_lateral = after[0, :, -1], (step_m * before[0]).sum(axis=1)
    error_lateral = lateral + (step_m * (heading[:, None] + before[1])).sum(axis=1)
    error_heading = wrap(heading + after[1, :, -1])
    numerator = _LATERAL_WEIGHT * effect_lateral * error_lateral + _HEADING_WEIGHT * effect_heading * error_heading
    denominator = _LATERAL_WEIGHT * effect_lateral**2 + _HEADING_WEIGHT * effect_heading**2 + 1.0
    return acceleration, np.where(stopping, 0.0, -numerator / denominator)


def _bicycle(state: np.ndarray, acceleration: np.ndarray, steering_rate: np.ndarray) -> np.ndarray:
    """One Euler step of 0.1 s of the bicycle with first-order lags; positions move with the old speed and heading."""
    x, y, heading, speed, steering = state[:, 0], state[:, 1], state[:, 2], state[:, 3], state[:, 7]
    achieved = state[:, 5] + STEP_S / (STEP_S + _ACCELERATION_LAG_S) * (acceleration - state[:, 5])
    turned = STEP_S / (STEP_S + _STEERING_LAG_S) * (STEP_S * steering_rate)
    rate = turned / STEP_S
    new = np.zeros_like(state)
    new[:, 0] = x + speed * np.cos(heading) * STEP_S
    new[:, 1] = y + speed * np.sin(heading) * STEP_S
    new[:, 2] = wrap(heading + speed * np.tan(steering) / VEHICLE.wheel_base_m * STEP_S)
    new[:, 3] = speed + achieved * STEP_S
    new[:, 5] = achieved
    new[:, 7] = np.clip(steering + rate * STEP_S, -_STEERING_LIMIT, _STEERING_LIMIT)
    new[:, 8] = rate
    new[:, 9] = new[:, 3] * np.tan(new[:, 7]) / VEHICLE.wheel_base_m
    new[:, 10] = (new[:, 9] - state[:, 9]) / STEP_S
    return new
