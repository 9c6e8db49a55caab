"""Sparse waypoints -> dense trajectory through the measured pose and speed."""

from __future__ import annotations

import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import Plan, Trajectory

SPACING_S = 0.1
SWING_MPS = 0.2


def densify(plan: Plan, spacing_s: float = SPACING_S) -> Trajectory:
    """Trajectory in the odometry frame, C2 in position, first point = measured state at t0.

    Controllers can't follow knots 0.5 s apart; a plan that starts with another speed than the car has makes them jerk.
    """
    knots = np.arange(len(plan.waypoints_base) + 1) * plan.waypoint_interval_s
    times = np.round(np.arange(0, knots[-1] + spacing_s / 2, spacing_s), 6)
    base = np.concatenate([np.zeros((1, 3)), plan.waypoints_base])
    xy = geometry.clamped_spline(knots, base[:, :2], np.array([plan.speed_mps, 0.0]), times)
    yaw = np.interp(times, knots, np.unwrap(base[:, 2]))
    poses = geometry.to_global(plan.pose_odom, np.column_stack([xy, yaw]))
    speeds, accelerations, yaw_rates = kinematics(times, poses)
    speeds[0] = plan.speed_mps
    # a spline that comes to rest may swing back by a few millimetres; real reversing stays visible
    speeds = np.where((speeds < 0) & (speeds > -SWING_MPS), 0.0, speeds)
    return Trajectory(
        stamp_ns=plan.t0_ns, times_s=times, poses_odom=poses, speeds_mps=speeds, accelerations_mps2=accelerations, yaw_rates_rps=yaw_rates
    )


def kinematics(times_s: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed speed along body x, acceleration and yaw rate (N,) of poses (N, 3) by central differences."""
    velocity = np.gradient(poses[:, :2], times_s, axis=0)
    speeds = velocity[:, 0] * np.cos(poses[:, 2]) + velocity[:, 1] * np.sin(poses[:, 2])
    return speeds, np.gradient(speeds, times_s), np.gradient(np.unwrap(poses[:, 2]), times_s)
