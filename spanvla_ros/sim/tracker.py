"""Follows a trajectory: pure pursuit for the steering, feed-forward and feedback for the speed, both looked up by time."""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.contracts import NS_PER_S, VEHICLE, Trajectory
from spanvla_ros.geometry import interpolate_poses, to_local
from spanvla_ros.sim.ego import ACCELERATION_LAG_S, EgoState

_SPEED_GAIN = 1.2  # 1/s
_POSITION_GAIN = 0.25  # 1/s^2
_LOOK_AHEAD_S = 0.55
_MIN_LOOK_AHEAD_M = 3.2
_HOLD_SPEED_MPS = 0.15
_CREEP_MPS = 0.6
_HOLD_BRAKING_MPS2 = 1.5
_COMFORT_BRAKING_MPS2 = 2.5


def control(state: EgoState, trajectory: Trajectory | None, stamp_ns: int) -> tuple[float, float]:
    """Acceleration [m/s^2] and steering angle [rad] at `stamp_ns`.

    Without a trajectory, or past its end, the car brakes to a stop along the steering it has.
    """
    if trajectory is None:
        return (-_COMFORT_BRAKING_MPS2 if state.speed_mps > 0 else 0.0), state.steer_rad
    now = (stamp_ns - trajectory.stamp_ns) / NS_PER_S
    end = float(trajectory.times_s[-1])
    if now >= end:
        return (-_COMFORT_BRAKING_MPS2 if state.speed_mps > 0 else 0.0), state.steer_rad
    ahead = min(now + ACCELERATION_LAG_S, end)
    speed = float(np.interp(now, trajectory.times_s, trajectory.speeds_mps))
    feed = float(np.interp(ahead, trajectory.times_s, trajectory.accelerations_mps2))
    soon = float(np.interp(min(now + 0.5, end), trajectory.times_s, trajectory.speeds_mps))
    # a plan made in the last moment before a standstill begins with the measured speed: without its next half second a car would creep on
    if state.speed_mps < _CREEP_MPS and soon < _HOLD_SPEED_MPS:
        return -_HOLD_BRAKING_MPS2, state.steer_rad
    reference = interpolate_poses(trajectory.times_s, trajectory.poses_odom, np.array([now]))[0]
    lag = float(to_local(state.pose, reference)[0])
    acceleration = feed + _SPEED_GAIN * (speed - state.speed_mps) + _POSITION_GAIN * min(max(lag, -2.0), 2.0)
    return acceleration, _pursue(state, trajectory)


def _pursue(state: EgoState, trajectory: Trajectory) -> float:
    """Steering angle of the arc through the path point one look-ahead distance away (front of the car only)."""
    local = to_local(state.pose, trajectory.poses_odom)
    nearest = int(np.argmin(local[:, 0] ** 2 + local[:, 1] ** 2))
    local = local[nearest:]
    reach = max(_MIN_LOOK_AHEAD_M, _LOOK_AHEAD_S * state.speed_mps)
    distance = np.hypot(local[:, 0], local[:, 1])
    beyond = np.flatnonzero((distance >= reach) & (local[:, 0] > 0))
    if len(beyond):
        i = int(beyond[0])
        target = local[i, :2]
        if i > 0:
            before = local[i - 1, :2]
            share = (reach - distance[i - 1]) / max(distance[i] - distance[i - 1], 1e-6)
            target = before + min(max(share, 0.0), 1.0) * (target - before)
    else:
        # a path that ends early goes on straight along its last heading
        last = local[-1]
        missing = max(reach - max(float(last[0]), 0.0), 0.0)
        target = last[:2] + missing * np.array([math.cos(last[2]), math.sin(last[2])])
    square = float(target @ target)
    if square < 0.25:
        return state.steer_rad
    return math.atan(2 * VEHICLE.wheel_base_m * float(target[1]) / square)
