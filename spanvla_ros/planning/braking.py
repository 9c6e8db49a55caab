"""Trajectories that the supervisor makes itself: a plan moved on in time, comfortable braking, standing."""

from __future__ import annotations

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Trajectory
from spanvla_ros.geometry import wrap
from spanvla_ros.planning.messages import OdometrySample

INTERVAL_S = 0.1
STAND_S = 1.0  # shortest trajectory that is published
_SUBSTEPS = 10
_STANDING_MPS = 0.3  # a car that hardly moves doesn't set off to stop
_EASE_S = 0.5  # longest time in which a plan that speeds up goes on doing so


def stand(pose_odom: np.ndarray, stamp_ns: int) -> Trajectory:
    """Stay at pose_odom (3,)."""
    times = np.arange(0, STAND_S + INTERVAL_S / 2, INTERVAL_S)
    zero = np.zeros(len(times))
    poses = np.tile(pose_odom, (len(times), 1))
    return Trajectory(stamp_ns=stamp_ns, times_s=times, poses_odom=poses, speeds_mps=zero, accelerations_mps2=zero, yaw_rates_rps=zero)


def shift(trajectory: Trajectory, stamp_ns: int) -> Trajectory:
    """The rest of `trajectory` from `stamp_ns` on, on the 0.1 s grid; its end is held for at least STAND_S."""
    offset_s = (stamp_ns - trajectory.stamp_ns) / NS_PER_S
    rest_s = max(trajectory.times_s[-1] - offset_s, STAND_S)
    times = np.arange(0, rest_s + INTERVAL_S / 1000, INTERVAL_S)
    at = times + offset_s

    def pick(values: np.ndarray) -> np.ndarray:
        return np.interp(at, trajectory.times_s, values)

    yaw = wrap(pick(np.unwrap(trajectory.poses_odom[:, 2])))
    return Trajectory(
        stamp_ns=stamp_ns,
        times_s=times,
        poses_odom=np.stack([pick(trajectory.poses_odom[:, 0]), pick(trajectory.poses_odom[:, 1]), yaw], axis=1),
        speeds_mps=pick(trajectory.speeds_mps),
        accelerations_mps2=pick(trajectory.accelerations_mps2),
        yaw_rates_rps=pick(trajectory.yaw_rates_rps),
    )


def brake(
    trajectory: Trajectory, stamp_ns: int, odometry: OdometrySample | None, *, decel_mps2: float, jerk_mps3: float
) -> Trajectory:
    """Brake to standstill along the path of `trajectory`, never later than the plan itself would.

    The acceleration begins as the plan has it and changes with bounded jerk. With odometry it starts at the measured speed from the
    point of the path nearest to the car; without, from where the plan has the car at `stamp_ns`. Beyond its end the path goes
    straight on.
    """
    start = shift(trajectory, odometry.stamp_ns if odometry is not None else stamp_ns)
    path = Path(trajectory.poses_odom)
    at = path.project(odometry.pose_odom if odometry is not None else start.poses_odom[0])
    speed = odometry.speed_mps if odometry is not None else float(start.speeds_mps[0])
    direction = -1.0 if speed < 0 else 1.0
    times, distance, speeds, accelerations = _profile(abs(speed), start, direction, decel_mps2, jerk_mps3)
    poses = path.at(at + distance, direction)
    yaw_rates = np.gradient(np.unwrap(poses[:, 2]), times)
    return Trajectory(
        stamp_ns=start.stamp_ns,
        times_s=times,
        poses_odom=poses,
        speeds_mps=direction * speeds,
        accelerations_mps2=direction * accelerations,
        yaw_rates_rps=yaw_rates,
    )


def _profile(
    speed: float, plan: Trajectory, direction: float, decel: float, jerk: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, distance, speed, acceleration (N,) of braking from `speed` >= 0 with bounded jerk, ending after STAND_S at rest."""
    step = INTERVAL_S / _SUBSTEPS
    planned = direction * plan.accelerations_mps2
    first = float(planned[0]) if speed > _STANDING_MPS else min(float(planned[0]), 0.0)
    acceleration, fall = max(first, -decel), max(jerk, first / _EASE_S)
    rows = [(0.0, 0.0, speed, first if speed else 0.0)]
    position, resting_s, count = 0.0, 0.0, 0
    while resting_s < STAND_S:
        # ease off towards the end: sqrt(2 j v) still fades to zero with jerk j; half of the jerk allowed leaves room to track it
        target = -min(decel, np.sqrt(jerk * speed))
        acceleration += float(np.clip(target - acceleration, -(fall if acceleration > 0 else jerk) * step, jerk * step))
        # a plan that brakes harder than comfortable had a reason to
        applied = min(acceleration, float(np.interp(count * step, plan.times_s, planned)))
        lower = speed + applied * step
        if lower < 0.02:
            lower, applied, acceleration = 0.0, 0.0, 0.0
            resting_s += step
        position += (speed + lower) / 2 * step
        speed = lower
        count += 1
        if count % _SUBSTEPS == 0:
            rows.append((count * step, position, speed, applied))
    return tuple(np.array(column) for column in zip(*rows))


def progress(poses: np.ndarray) -> np.ndarray:
    """Arc lengths (N,) in metres of poses (N, 3) from the first on."""
    return np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1))]


class Path:
    """A polyline of poses (N, 3) by arc length; beyond its end it goes on along the last heading."""

    def __init__(self, poses: np.ndarray):
        steps = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1)
        keep = np.r_[True, steps > 1e-4]
        self._poses = poses[keep]
        self._arc = progress(self._poses)
        self._yaw = np.unwrap(self._poses[:, 2])

    def project(self, pose: np.ndarray) -> float:
        """Arc length of the point nearest to pose (3,) in metres."""
        if len(self._poses) == 1:
            return 0.0
        start, step = self._poses[:-1, :2], np.diff(self._poses[:, :2], axis=0)
        share = np.clip(((pose[:2] - start) * step).sum(1) / (step**2).sum(1), 0, 1)
        nearest = int(np.argmin(np.linalg.norm(start + share[:, None] * step - pose[:2], axis=1)))
        return float(self._arc[nearest] + share[nearest] * (self._arc[nearest + 1] - self._arc[nearest]))

    def at(self, arc: np.ndarray, direction: float) -> np.ndarray:
        """Poses (M, 3) at arc lengths (M,); direction -1 when the car drives backwards along the path."""
        beyond = direction * np.maximum(arc - self._arc[-1], 0.0)
        x = np.interp(arc, self._arc, self._poses[:, 0]) + beyond * np.cos(self._yaw[-1])
        y = np.interp(arc, self._arc, self._poses[:, 1]) + beyond * np.sin(self._yaw[-1])
        return np.stack([x, y, wrap(np.interp(arc, self._arc, self._yaw))], axis=1)
