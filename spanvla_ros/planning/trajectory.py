"""Sparse waypoints -> dense trajectory through the measured pose and speed."""

from __future__ import annotations

import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import Plan, Trajectory

SPACING_S = 0.1
REVERSE_M = 0.5  # going back this far is meant; less is the jitter of a plan for a car that stands
STANDING_M = 0.1


def densify(plan: Plan, spacing_s: float = SPACING_S) -> Trajectory:
    """Trajectory in the odometry frame through all waypoints, first point = measured state at t0.

    Controllers can't follow knots 0.5 s apart; a plan that starts with another speed than the car has makes them jerk.
    Where and when are interpolated apart: one spline through both swings back behind a car that comes to rest.
    """
    knots = np.arange(len(plan.waypoints_base) + 1) * plan.waypoint_interval_s
    times = np.round(np.arange(0, knots[-1] + spacing_s / 2, spacing_s), 6)
    base = np.concatenate([np.zeros((1, 3)), plan.waypoints_base])
    moved = np.diff(base[:, :2], axis=0)
    progress = np.append(0.0, np.cumsum(moved[:, 0] * np.cos(base[1:, 2]) + moved[:, 1] * np.sin(base[1:, 2])))
    furthest = np.maximum.accumulate(progress)
    if (furthest - progress).max() > REVERSE_M:
        xy = geometry.clamped_spline(knots, base[:, :2], np.array([plan.speed_mps, 0.0]), times)
    else:
        xy = _forward(knots, base[:, :2], progress, plan.speed_mps, times)
    yaw = np.interp(times, knots, np.unwrap(base[:, 2]))
    poses = geometry.to_global(plan.pose_odom, np.column_stack([xy, yaw]))
    speeds, accelerations, yaw_rates = kinematics(times, poses)
    speeds[0] = plan.speed_mps
    return Trajectory(
        stamp_ns=plan.t0_ns, times_s=times, poses_odom=poses, speeds_mps=speeds, accelerations_mps2=accelerations, yaw_rates_rps=yaw_rates
    )


def _forward(knots: np.ndarray, points: np.ndarray, progress: np.ndarray, speed: float, times: np.ndarray) -> np.ndarray:
    """Positions (N, 2) at `times` of a car that follows points (K, 2) at `knots` without turning back; it leaves the first along x."""
    kept = [0]
    for k in range(1, len(points)):
        if progress[k] > progress[kept[-1]] + STANDING_M:
            kept.append(k)
    if len(kept) == 1:
        return np.zeros((len(times), 2))
    arc = np.append(0.0, np.cumsum(np.hypot(*np.diff(points[kept], axis=0).T)))
    when, where = knots[kept], arc
    if kept[-1] != len(points) - 1:  # it stands at the end
        when, where = np.append(when, knots[-1]), np.append(arc, arc[-1])
    return geometry.clamped_spline(arc, points[kept], np.array([1.0, 0.0]), geometry.monotone_cubic(when, where, speed, times))


def kinematics(times_s: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed speed along body x, acceleration and yaw rate (N,) of poses (N, 3) by central differences."""
    velocity = np.gradient(poses[:, :2], times_s, axis=0)
    speeds = velocity[:, 0] * np.cos(poses[:, 2]) + velocity[:, 1] * np.sin(poses[:, 2])
    return speeds, np.gradient(speeds, times_s), np.gradient(np.unwrap(poses[:, 2]), times_s)
