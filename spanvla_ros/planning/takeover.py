"""From what the car does now to the first plan after HOLD, STOPPING or STOPPED: no step in place, speed or acceleration.

The plan is kept as a path and as a timing of it; the car is led to both from where odometry has it. Only small differences are
smoothed away: a plan that is further from the car than OFFSET_M or YAW_RAD is taken as it is, and said so.
"""

from __future__ import annotations

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Trajectory
from spanvla_ros.geometry import wrap
from spanvla_ros.planning.braking import Path, progress
from spanvla_ros.planning.messages import OdometrySample

BLEND_S = 1.0
OFFSET_M = 0.3
YAW_RAD = np.radians(5.0)
BACKWARDS_MPS = 0.1
_STEP_S = 0.01
_CORRECTION_MPS2 = 2.0
_URGENT_S = 0.3  # braking harder than now is there at the latest after this time, whatever the jerk
# critically damped towards the plan's own timing: 1 rad/s
_PER_M, _PER_MPS = 1.0, 2.0


class Jump(Exception):
    """The car can't be led over to the plan, which is too far from it or goes backwards; the message has the numbers."""


def take_over(plan: Trajectory, before: Trajectory, sample: OdometrySample, *, jerk_mps3: float) -> Trajectory:
    """`plan` as the car, which has followed `before`, can take it up from `sample`, the newest odometry, on.

    Same stamp, times and end; the first point stays the measured state at t0. Raises Jump.
    """
    if plan.speeds_mps.min() < -BACKWARDS_MPS:
        raise Jump(f"the plan goes backwards at {-plan.speeds_mps.min():.2f} m/s")
    begin_s = max((sample.stamp_ns - plan.stamp_ns) / NS_PER_S, 0.0)
    path = Path(plan.poses_odom)
    start_m = path.project(sample.pose_odom)
    nearest = path.at(np.array([start_m]), 1.0)[0]
    offset = sample.pose_odom[:2] - nearest[:2]
    turn = float(wrap(sample.pose_odom[2] - nearest[2]))
    if np.hypot(*offset) > OFFSET_M or abs(turn) > YAW_RAD:
        raise Jump(f"the plan begins {np.hypot(*offset):.2f} m and {np.degrees(abs(turn)):.1f} deg from the car")
    after = plan.times_s > begin_s
    grid = np.r_[begin_s, plan.times_s[after]]
    distance, speeds, accelerations = _timing(plan, before, sample, start_m, grid, jerk_mps3)
    share = 1 - _smooth((grid - begin_s) / BLEND_S)
    led = path.at(start_m + distance, 1.0)
    led[:, :2] += share[:, None] * offset
    led[:, 2] += share * turn
    # until odometry was there: from the measured state at t0 to it
    times = np.r_[0.0, grid] if begin_s > 0 else grid
    if begin_s > 0:
        led = np.vstack([plan.poses_odom[:1], led])
        speeds = np.r_[plan.speeds_mps[0], speeds]
        accelerations = np.r_[accelerations[0], accelerations]
    yaw = np.interp(plan.times_s, times, np.unwrap(led[:, 2]))
    return Trajectory(
        stamp_ns=plan.stamp_ns,
        times_s=plan.times_s,
        poses_odom=np.stack([np.interp(plan.times_s, times, led[:, 0]), np.interp(plan.times_s, times, led[:, 1]), wrap(yaw)], axis=1),
        speeds_mps=np.interp(plan.times_s, times, speeds),
        accelerations_mps2=np.interp(plan.times_s, times, accelerations),
        yaw_rates_rps=np.gradient(yaw, plan.times_s),
    )


def _timing(
    plan: Trajectory, before: Trajectory, sample: OdometrySample, start_m: float, grid: np.ndarray, jerk: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from `start_m`, speed, acceleration (M,) at the times of `grid`, from the measured speed to the plan's own timing."""
    fine = np.append(np.arange(grid[0], grid[-1], _STEP_S), grid[-1])
    wanted_m = np.interp(fine, plan.times_s, progress(plan.poses_odom)) - start_m
    wanted_speeds, wanted_accelerations = (np.interp(fine, plan.times_s, v) for v in (plan.speeds_mps, plan.accelerations_mps2))
    speed = sample.speed_mps
    acceleration = float(np.interp((sample.stamp_ns - before.stamp_ns) / NS_PER_S, before.times_s, before.accelerations_mps2))
    rows, position = [(0.0, speed, acceleration)], 0.0
    for k in range(1, len(fine)):
        step = fine[k] - fine[k - 1]
        behind = _PER_M * (wanted_m[k] - position) + _PER_MPS * (wanted_speeds[k] - speed)
        target = wanted_accelerations[k] + float(np.clip(behind, -_CORRECTION_MPS2, _CORRECTION_MPS2))
        fall = max(jerk, (acceleration - target) / _URGENT_S)
        acceleration += float(np.clip(target - acceleration, -fall * step, jerk * step))
        lower = speed + acceleration * step
        if lower < 0 <= speed:
            lower, acceleration = 0.0, 0.0
        position += (speed + lower) / 2 * step
        speed = lower
        rows.append((position, speed, acceleration))
    return tuple(np.interp(grid, fine, column) for column in np.array(rows).T)


def _smooth(share: np.ndarray) -> np.ndarray:
    """0 to 1 with no step in slope or bend."""
    s = np.clip(share, 0.0, 1.0)
    return s**3 * (10 - 15 * s + 6 * s * s)
