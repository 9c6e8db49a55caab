"""Listens to a drive and keeps it in memory: what the planner was shown and what it answered."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping

import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from spanvla_ros.contracts import InputError
from spanvla_ros.evaluation.recording import Recording
from spanvla_ros.planning import messages
from spanvla_ros.ros.executor import make_executor

_POLL_S = 0.1
# nothing may be lost: the black-image check plans again from exactly these messages
_KEEP = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=500, reliability=ReliabilityPolicy.RELIABLE)


class Recorder:
    """Subscribes on a ROS domain in a thread of its own; a context manager. `recording` may be read when it is closed."""

    def __init__(self, env: Mapping[str, str], image_topic: str, odometry_topic: str, info_topic: str):
        """env: what `processes.environment` made for the nodes; the middleware of this process gets the same settings."""
        os.environ.update({name: value for name, value in env.items() if name.startswith(("ROS_", "FASTDDS_", "FASTRTPS_"))})
        self.recording = Recording()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=int(env["ROS_DOMAIN_ID"]))
        self._node = rclpy.create_node("spanvla_recorder", context=self._context)
        for kind, topic, callback in (
            (CompressedImage, image_topic, self._on_image),
            (Odometry, odometry_topic, self._on_odometry),
            (String, info_topic, self._on_info),
        ):
            self._node.create_subscription(kind, topic, callback, _KEEP)
        self._executor = make_executor(self._context)
        self._executor.add_node(self._node)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join(5.0)
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        try:
            while not self._ending.is_set():
                self._executor.spin_once(timeout_sec=_POLL_S)
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
