"""Small ROS 2 bags for tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

S = 1_000_000_000
START_NS = 1_700_000_000 * S
STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
IMAGE, ODOMETRY = "/cam/front/image/compressed", "/odom"


def header(stamp_ns: int, frame: str):
    return T["std_msgs/msg/Header"](stamp=T["builtin_interfaces/msg/Time"](sec=stamp_ns // S, nanosec=stamp_ns % S), frame_id=frame)


def vector(x: float = 0.0, y: float = 0.0, z: float = 0.0):
    return T["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)


def odometry(stamp_ns: int, x: float, speed: float, quaternion=(0.0, 0.0, 0.0, 1.0)):
    """A car on the x axis."""
    pose = T["geometry_msgs/msg/Pose"](
        position=T["geometry_msgs/msg/Point"](x=x, y=0.0, z=0.0),
        orientation=T["geometry_msgs/msg/Quaternion"](**dict(zip("xyzw", quaternion))),
    )
    return T["nav_msgs/msg/Odometry"](
        header=header(stamp_ns, "odom"),
        child_frame_id="base_link",
        pose=T["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
        twist=T["geometry_msgs/msg/TwistWithCovariance"](
            twist=T["geometry_msgs/msg/Twist"](linear=vector(speed), angular=vector()), covariance=np.zeros(36)
        ),
    )


def jpeg(shade: int, size=(252, 448)) -> bytes:
    return cv2.imencode(".jpg", np.full((*size, 3), shade, np.uint8))[1].tobytes()


def compressed(stamp_ns: int, data: bytes):
    return T["sensor_msgs/msg/CompressedImage"](header=header(stamp_ns, "front_optical"), format="jpeg", data=np.frombuffer(data, np.uint8))


def camera_info(stamp_ns: int, focal: float = 320.0, size=(252, 448)):
    roi = T["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    matrix = np.array([focal, 0, size[1] / 2, 0, focal, size[0] / 2, 0, 0, 1.0])
    return T["sensor_msgs/msg/CameraInfo"](
        header=header(stamp_ns, "front_optical"), height=size[0], width=size[1], distortion_model="plumb_bob", d=np.zeros(5),
        k=matrix, r=np.eye(3).ravel(), p=np.zeros(12), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def transform(parent: str, child: str, translation, quaternion):
    return T["geometry_msgs/msg/TransformStamped"](
        header=header(START_NS, parent),
        child_frame_id=child,
        transform=T["geometry_msgs/msg/Transform"](
            translation=vector(*translation), rotation=T["geometry_msgs/msg/Quaternion"](**dict(zip("xyzw", quaternion)))
        ),
    )


def write(path: Path, messages, storage: StoragePlugin = StoragePlugin.MCAP, topics=()) -> Path:
    """A bag of (topic, stamp_ns, message), recorded in this order; `topics` (name, type) are there without messages."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, kind in [*topics, *((topic, message.__msgtype__) for topic, _, message in messages)]:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
        for topic, stamp_ns, message in messages:
            writer.write(connections[topic], stamp_ns, STORE.serialize_cdr(message, message.__msgtype__))
    return path


def drive(seconds: float = 3.0, speed: float = 8.0, image_hz: int = 10, odometry_hz: int = 50) -> list:
    """A straight drive at constant speed, as (topic, stamp_ns, message)."""
    messages = []
    for k in range(round(seconds * odometry_hz) + 1):
        stamp = START_NS + k * S // odometry_hz
        messages.append((ODOMETRY, stamp, odometry(stamp, speed * k / odometry_hz, speed)))
    for k in range(round(seconds * image_hz) + 1):
        stamp = START_NS + k * S // image_hz
        messages.append((IMAGE, stamp, compressed(stamp, jpeg(20 + 3 * k))))
    return sorted(messages, key=lambda entry: entry[1])
