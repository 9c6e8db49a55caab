"""Listens to a drive and keeps it in memory: what the planner was shown and what it answered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from nav_msgs.msg import Odometry
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from spanvla_ros.contracts import InputError
from spanvla_ros.evaluation.recording import Recording
from spanvla_ros.planning import messages
from spanvla_ros.ros.background import Background

# nothing may be lost: the black-image check plans again from exactly these messages
_KEEP = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=500, reliability=ReliabilityPolicy.RELIABLE)


class Recorder(Background):
    """Subscribes on a ROS domain in a thread of its own; a context manager. `recording` may be read when it is closed."""

    def __init__(self, env: Mapping[str, str], image_topic: str, odometry_topic: str, info_topic: str):
        """env: what `processes.environment` made for the nodes; the middleware of this process gets the same settings."""
        super().__init__("spanvla_recorder", env)
        self.recording = Recording()
        for kind, topic, callback in (
            (CompressedImage, image_topic, self._on_image),
            (Odometry, odometry_topic, self._on_odometry),
            (String, info_topic, self._on_info),
        ):
            self._node.create_subscription(kind, topic, callback, _KEEP)

    def _on_image(self, message: CompressedImage) -> None:
        self.recording.images[messages.stamp_ns(message.header.stamp)] = bytes(message.data)

    def _on_odometry(self, message: Odometry) -> None:
        try:
            self.recording.odometry.append(messages.odometry(message))
        except InputError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)

    def _on_info(self, message: String) -> None:
        self.recording.infos.append((time.monotonic(), json.loads(message.data)))
