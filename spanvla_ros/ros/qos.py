"""Quality of service of every topic, in one place."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

from spanvla_ros.ros import diagnostics


def _profile(depth: int, *, reliable: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


IMAGE = _profile(10, reliable=False)
CAMERA_INFO = _profile(1, reliable=False)
ODOMETRY = _profile(200, reliable=False)
# a latched subscription does not match a volatile publisher, which `ros2 topic pub` makes by default
COMMAND = _profile(1, reliable=True)
ROUTE = _profile(1, reliable=True, latched=True)
TF = _profile(100, reliable=True)
TF_STATIC = _profile(100, reliable=True, latched=True)
OUTPUT = _profile(1, reliable=True)
PLAN_INFO = _profile(10, reliable=True)

# a simulator in lock-step must lose nothing
SIM_IMAGE = _profile(2, reliable=True)
SIM_ODOMETRY = _profile(100, reliable=True)
SIM_CLOCK = _profile(10, reliable=True)


class Mismatches:
    """Topics whose other end asks for or offers another quality of service: they connect, say nothing and carry nothing. Thread-safe.

    Keeps the diagnostic task `qos`. A mismatch stays until the next configure: nobody says when its other end has gone.
    """

    def __init__(self, node: Any):
        self._node, self._lock = node, threading.Lock()
        self._lines: dict[str, str] = {}
        node.diagnostics.set("qos", diagnostics.OK, "no mismatch")

    def subscription(self, name: str) -> SubscriptionEventCallbacks:
        """For `create_subscription(..., event_callbacks=)` of topic `name`."""
        return SubscriptionEventCallbacks(incompatible_qos=lambda event: self._add(name, event, "a publisher offers", "nothing comes from it"))

    def publisher(self, name: str) -> PublisherEventCallbacks:
        """For `create_publisher(..., event_callbacks=)` of topic `name`."""
        return PublisherEventCallbacks(incompatible_qos=lambda event: self._add(name, event, "a subscriber asks for", "nothing reaches it"))

    def _add(self, name: str, event: Any, what: str, effect: str) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        with self._lock:
            self._lines[name] = f"{name}: {what} another {policy} than the planner, {effect}"
            text = "; ".join(self._lines.values())
        self._node.get_logger().warning(self._lines[name])
        self._node.diagnostics.set("qos", diagnostics.WARN, text, {"topics": len(self._lines)})
