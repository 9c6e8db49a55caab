"""ROS messages become numpy by attribute access alone, so that rclpy and rosbags objects share one way in.

Every function raises InputError with the offending value; nothing here imports ROS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from spanvla_ros.contracts import NS_PER_S, Command, InputError
from spanvla_ros.geometry import to_local, wrap

# channels of a pixel and the order that makes them red, green, blue
_ENCODINGS = {"rgb8": (3, (0, 1, 2)), "bgr8": (3, (2, 1, 0)), "rgba8": (4, (0, 1, 2)), "bgra8": (4, (2, 1, 0)), "mono8": (1, (0, 0, 0))}
# two pixels share their colour; "yuv422" without a suffix has meant UYVY since ROS 1
_YUV = {"yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2}

TURN_RAD = np.radians(30)


class OdometrySample(NamedTuple):
    """One odometry message: pose_odom (3,) of base_link, twist in the body frame."""

    stamp_ns: int
    pose_odom: np.ndarray
    speed_mps: float
    yaw_rate_rps: float


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> integer nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def yaw_of(quaternion: Any) -> float:
    """Yaw in radians of a geometry_msgs/Quaternion; roll and pitch are dropped."""
    x, y, z, w = (float(getattr(quaternion, k)) for k in "xyzw")
    norm = np.sqrt(x * x + y * y + z * z + w * w)
    # a driver that forgot the orientation sends zeros; anything far from unit length is no rotation
    if not np.isfinite(norm) or abs(norm - 1) > 0.1:
        raise InputError(f"orientation ({x:g}, {y:g}, {z:g}, {w:g}) is not a unit quaternion, its length is {norm:g}")
    # this form doesn't depend on the length
    return float(np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z))


def odometry(message: Any) -> OdometrySample:
    """nav_msgs/Odometry (frame odom or map -> base_link, twist in the child frame) -> OdometrySample."""
    pose, twist = message.pose.pose, message.twist.twist
    values = {
        "pose.position.x": float(pose.position.x),
        "pose.position.y": float(pose.position.y),
        "twist.linear.x": float(twist.linear.x),
        "twist.angular.z": float(twist.angular.z),
    }
    for name, value in values.items():
        if not np.isfinite(value):
            raise InputError(f"odometry {name} is {value} at {stamp_ns(message.header.stamp)} ns")
    try:
        yaw = yaw_of(pose.orientation)
    except InputError as error:
        raise InputError(f"odometry {error} at {stamp_ns(message.header.stamp)} ns") from None
    x, y, speed, yaw_rate = values.values()
    return OdometrySample(stamp_ns(message.header.stamp), np.array([x, y, yaw]), speed, yaw_rate)


def image(message: Any, convert: Callable[[Any], np.ndarray] | None = None) -> bytes | np.ndarray:
    """sensor_msgs/CompressedImage -> its encoded bytes (not decoded here); sensor_msgs/Image -> rgb (H, W, 3) uint8.

    convert: message -> rgb for the encodings that are not known here (cv_bridge, where it is installed).
    """
    if not hasattr(message, "encoding"):
        payload = bytes(message.data)
        if not payload:
            raise InputError(f"compressed image of format {message.format!r} is empty")
        return payload
    height, width, step = int(message.height), int(message.width), int(message.step)
    packed = message.encoding in _YUV
    if not packed and message.encoding not in _ENCODINGS:
        if convert is not None:
            return convert(message)
        raise InputError(f"image encoding {message.encoding!r} is not one of {', '.join((*_ENCODINGS, *_YUV))}; cv_bridge knows more")
    channels, order = (2, ()) if packed else _ENCODINGS[message.encoding]
    data = np.frombuffer(message.data, np.uint8)
    if not height or not width or step < width * channels or data.size < height * step or (packed and width % 2):
        raise InputError(f"image of {width}x{height} {message.encoding} with step {step} holds {data.size} bytes")
    # rows may be padded: step, not width, leads to the next one
    pixels = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if packed:
        return cv2.cvtColor(np.ascontiguousarray(pixels), _YUV[message.encoding])
    return np.ascontiguousarray(pixels[:, :, list(order)])


def path(message: Any) -> np.ndarray:
    """nav_msgs/Path -> points (N, 2) in the frame of the message, without repeated ones."""
    points = np.array([(p.pose.position.x, p.pose.position.y) for p in message.poses], dtype=np.float64).reshape(-1, 2)
    if len(points) < 2 or not np.isfinite(points).all():
        raise InputError(f"route has {len(points)} points, finite: {bool(np.isfinite(points).all())}; two or more are needed")
    keep = np.r_[True, np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3]
    if keep.sum() < 2:
        raise InputError(f"all {len(points)} points of the route coincide")
    return points[keep]


def recorded_budget(message: Any) -> tuple[int, int] | None:
    """std_msgs/String of plan_info -> (t0 in ns, most tokens of its text) of a plan: where the deadline cut the text, that number,
    else the budget. None for messages that tell of no plan."""
    try:
        info = json.loads(message.data)
        if info["event"] != "plan":
            return None
        tokens = info["budget_tokens"] if info["cut_tokens"] is None else info["cut_tokens"]
        return int(info["t0_ns"]), int(tokens)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"plan_info {str(message.data)[:60]!r} can't be replayed: {type(error).__name__} {error}") from None


def route_command(points: np.ndarray, pose_odom: np.ndarray, horizon_m: float = 30.0) -> tuple[Command, float]:
    """Geometry of the route ahead -> (command, distance in metres to where the turn begins; the horizon when straight).

    points (N, 2) in the frame of pose_odom (3,). The route turns where its heading differs by more than 30 degrees from
    the heading at the point nearest to the car, within `horizon_m` along it.
    """
    local = to_local(pose_odom, np.c_[points, np.zeros(len(points))])[:, :2]
    nearest = min(int(np.argmin(np.linalg.norm(local, axis=1))), len(local) - 2)
    steps = np.diff(local[nearest:], axis=0)
    distance = np.r_[0.0, np.cumsum(np.linalg.norm(steps, axis=1))[:-1]]
    turn = wrap(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])) - np.arctan2(steps[0, 1], steps[0, 0]))
    bends = np.flatnonzero((np.abs(turn) > TURN_RAD) & (distance <= horizon_m))
    if not len(bends):
        return Command.STRAIGHT, horizon_m
    return (Command.LEFT if turn[bends[0]] > 0 else Command.RIGHT), float(distance[bends[0]])


def command(text: str) -> Command:
    """std_msgs/String -> Command; empty text is unknown."""
    word = text.strip().lower() or Command.UNKNOWN.value
    try:
        return Command(word)
    except ValueError:
        raise InputError(f"command {text!r} is not one of {', '.join(c.value for c in Command)}; this model takes no free text") from None
