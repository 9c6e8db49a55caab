"""Listens to a drive and keeps it in memory: what the planner was shown and what it answered."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from spanvla_ros.contracts import InputError
from spanvla_ros.planning import messages

# nothing may be lost: the black-image check plans again from exactly these messages
_KEEP = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=500, reliability=ReliabilityPolicy.RELIABLE)


@dataclass
class Recording:
    """images: stamp_ns -> JPEG bytes of the anchor camera; odometry: samples in order of arrival; infos: (steady time in
    seconds of arrival, plan_info)."""

    images: dict[int, bytes] = field(default_factory=dict)
    odometry: list[messages.OdometrySample] = field(default_factory=list)
    infos: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def plans(self) -> list[tuple[float, dict[str, Any]]]:
        """The infos that carry a whole plan."""
        return [(at, info) for at, info in self.infos if info["event"] == "plan"]


class Recorder:
    """Subscribes on a ROS domain in a thread of its own; a context manager. `recording` may be read when it is closed."""

    def __init__(self, domain: int, planner: str, camera: str):
        self.recording = Recording()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("spanvla_recorder", context=self._context)
        for kind, topic, callback in (
            (CompressedImage, f"{planner}/input/image/{camera}", self._on_image),
            (Odometry, f"{planner}/input/odometry", self._on_odometry),
            (String, f"{planner}/output/plan_info", self._on_info),
        ):
            self._node.create_subscription(kind, topic, callback, _KEEP)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=5.0)
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _on_image(self, message: CompressedImage) -> None:
        self.recording.images[messages.stamp_ns(message.header.stamp)] = bytes(message.data)

    def _on_odometry(self, message: Odometry) -> None:
        try:
            self.recording.odometry.append(messages.odometry(message))
        except InputError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def _on_info(self, message: String) -> None:
        self.recording.infos.append((time.monotonic(), json.loads(message.data)))
