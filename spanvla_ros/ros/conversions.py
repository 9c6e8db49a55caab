"""Contracts -> ROS messages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Transform, Twist, Vector3
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from spanvla_ros.contracts import NS_PER_S, InputError, Plan, Trajectory
from spanvla_ros.planning import messages

try:
    from autoware_planning_msgs.msg import Trajectory as AutowareTrajectory
    from autoware_planning_msgs.msg import TrajectoryPoint as AutowarePoint
except ImportError:  # optional output, only in an Autoware workspace
    AutowareTrajectory = None

try:
    from cv_bridge import CvBridge
except ImportError:  # optional: for encodings that `planning.messages` doesn't know
    CvBridge = None

_LENGTHS, _LAST_BITS = 20, (0, 1, -1, 2, -2)


def time(stamp_ns: int) -> Time:
    return Time(sec=int(stamp_ns // NS_PER_S), nanosec=int(stamp_ns % NS_PER_S))


def duration(seconds: float) -> Duration:
    whole, rest = divmod(round(seconds * NS_PER_S), NS_PER_S)
    return Duration(sec=whole, nanosec=rest)


def header(stamp_ns: int, frame: str) -> Header:
    return Header(stamp=time(stamp_ns), frame_id=frame)


def quaternion(yaw: float) -> Quaternion:
    """A quaternion that `messages.yaw_of` reads back as `yaw` (within -pi and pi) to the last bit.

    Sine, cosine and arctangent round; a plan that comes back by a last bit different would end a drive in lock-step in
    another state than in one process. So last bits of z are tried, and lengths that differ from 1 by parts in a billion.
    """
    z, w = math.sin(yaw / 2), math.cos(yaw / 2)
    for length in 1 + 1e-9 * np.arange(_LENGTHS):
        for bits in _LAST_BITS:
            near = z * float(length)
            made = Quaternion(z=near + bits * math.ulp(near), w=w * float(length))
            if messages.yaw_of(made) == yaw:
                return made
    return Quaternion(z=z, w=w)


def pose(row: np.ndarray) -> Pose:
    """Row (x, y, yaw) -> Pose in the plane z = 0."""
    return Pose(position=Point(x=float(row[0]), y=float(row[1])), orientation=quaternion(float(row[2])))


def twist(speed: float, yaw_rate: float) -> Twist:
    """Body frame: x forward."""
    return Twist(linear=Vector3(x=float(speed)), angular=Vector3(z=float(yaw_rate)))


def trajectory(plan: Trajectory, frame: str, base_frame: str) -> MultiDOFJointTrajectory:
    """Stamp, odometry frame, one joint: the base. Velocities and accelerations are in the body frame like Odometry's twist."""
    angular = np.gradient(plan.yaw_rates_rps, plan.times_s) if len(plan.times_s) > 1 else np.zeros(1)
    points = []
    for time_s, row, speed, acceleration, yaw_rate, yaw_acceleration in zip(
        plan.times_s, plan.poses_odom, plan.speeds_mps, plan.accelerations_mps2, plan.yaw_rates_rps, angular
    ):
        transform = Transform(translation=Vector3(x=float(row[0]), y=float(row[1])), rotation=quaternion(float(row[2])))
        points.append(
            MultiDOFJointTrajectoryPoint(
                transforms=[transform],
                velocities=[twist(speed, yaw_rate)],
                accelerations=[twist(acceleration, yaw_acceleration)],
                time_from_start=duration(float(time_s)),
            )
        )
    return MultiDOFJointTrajectory(header=header(plan.stamp_ns, frame), joint_names=[base_frame], points=points)


def from_trajectory(message: Any) -> Trajectory:
    """The inverse of `trajectory`, to the last bit: for a controller, the simulator or a test."""
    rows = []
    for point in message.points:
        move, after = point.transforms[0].translation, point.time_from_start
        rows.append(
            (
                (after.sec * NS_PER_S + after.nanosec) / NS_PER_S,
                move.x,
                move.y,
                messages.yaw_of(point.transforms[0].rotation),
                point.velocities[0].linear.x,
                point.accelerations[0].linear.x,
                point.velocities[0].angular.z,
            )
        )
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Trajectory(
        stamp_ns=message.header.stamp.sec * NS_PER_S + message.header.stamp.nanosec,
        times_s=table[:, 0],
        poses_odom=table[:, 1:4],
        speeds_mps=table[:, 4],
        accelerations_mps2=table[:, 5],
        yaw_rates_rps=table[:, 6],
    )


def path(plan: Trajectory, frame: str) -> Path:
    """The same poses, each with its own future stamp."""
    poses = [
        PoseStamped(header=header(plan.stamp_ns + round(t * NS_PER_S), frame), pose=pose(row)) for t, row in zip(plan.times_s, plan.poses_odom)
    ]
    return Path(header=header(plan.stamp_ns, frame), poses=poses)


def autoware_trajectory(plan: Trajectory, frame: str) -> Any:
    """autoware_planning_msgs/Trajectory; None where that package is missing."""
    if AutowareTrajectory is None:
        return None
    points = []
    for i, row in enumerate(plan.poses_odom):
        point = AutowarePoint(pose=pose(row), time_from_start=duration(float(plan.times_s[i])))
        point.longitudinal_velocity_mps = float(plan.speeds_mps[i])
        point.acceleration_mps2 = float(plan.accelerations_mps2[i])
        point.heading_rate_rps = float(plan.yaw_rates_rps[i])
        points.append(point)
    return AutowareTrajectory(header=header(plan.stamp_ns, frame), points=points)


def odometry(stamp_ns: int, frame: str, base_frame: str, row: np.ndarray, speed_mps: float, yaw_rate_rps: float) -> Odometry:
    message = Odometry(header=header(stamp_ns, frame), child_frame_id=base_frame)
    message.pose.pose = pose(row)
    message.twist.twist = twist(speed_mps, yaw_rate_rps)
    return message


def bridged(message: Any) -> np.ndarray:
    """sensor_msgs/Image of any encoding that cv_bridge can turn into rgb8. InputError where it can't."""
    try:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # noqa: BLE001 - it raises errors of its own, of cv2 and, with a new numpy, of Python
        raise InputError(f"image encoding {message.encoding!r} can't be converted by cv_bridge: {' '.join(str(error).split())}") from None


# None where cv_bridge is not installed
with_cv_bridge = bridged if CvBridge is not None else None


def camera_info(head: Header, camera: Any) -> CameraInfo:
    """Calibration of a pinhole camera (`sim.camera.Camera`) without distortion."""
    k = camera.intrinsics
    message = CameraInfo(header=head, width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = k.ravel().tolist()
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*k[0].tolist(), 0.0, *k[1].tolist(), 0.0, *k[2].tolist(), 0.0]
    return message


def plan_dict(plan: Plan) -> dict[str, Any]:
    """JSON-ready: what the model said, before supervisor and blending. Floats keep every digit. A text that the deadline cut is left
    out: half a sentence is for the markers alone."""
    return {
        "plan_id": plan.plan_id,
        "t0_ns": plan.t0_ns,
        "revision": plan.revision,
        "kv_age_s": plan.kv_age_s,
        "reasoning": plan.reasoning if plan.cut_tokens is None else "",
        "waypoints_base": plan.waypoints_base.tolist(),
        "waypoint_interval_s": plan.waypoint_interval_s,
        "pose_odom": plan.pose_odom.tolist(),
        "speed_mps": plan.speed_mps,
        "tokens": plan.tokens,
        "budget_tokens": plan.budget_tokens,
        "cut_tokens": plan.cut_tokens,
        "seed": plan.seed,
        "engine_hash": plan.engine_hash,
        "timings_ms": {stage: round(value, 3) for stage, value in plan.timings_ms.items()},
    }


def plan_from(info: Mapping[str, Any]) -> Plan:
    """The inverse of `plan_dict`, but for the rounded timings and a text that was cut: for the simulator, or who judges a node."""
    values = {field.name: info[field.name] for field in dataclasses.fields(Plan)}
    return Plan(**values | {name: np.array(info[name], dtype=np.float64) for name in ("waypoints_base", "pose_odom")})
