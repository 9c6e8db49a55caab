"""/diagnostics: one status per task, once a second and whenever a level or message changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
TASKS = ("inputs", "rig", "model", "latency", "plan", "consistency", "qos")


class Diagnostics:
    """Holds the newest status of every task. Thread-safe."""

    def __init__(self, node: Node):
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._lock = threading.Lock()
        self._states: dict[str, tuple[bytes, str, Mapping[str, Any]]] = {task: (OK, "not configured", {}) for task in TASKS}

    def set(self, task: str, level: bytes, message: str, values: Mapping[str, Any] | None = None) -> None:
        """Store a status; a change of level or message is published at once."""
        with self._lock:
            changed = self._states[task][:2] != (level, message)
            self._states[task] = (level, message, values or {})
        if changed:
            self.publish()

    def publish(self) -> None:
        with self._lock:
            states = dict(self._states)
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for task, (level, text, values) in states.items():
            message.status.append(
                DiagnosticStatus(
                    name=f"{self._node.get_name()}: {task}",
                    hardware_id=self._node.get_name(),
                    level=level,
                    message=text,
                    values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
                )
            )
        self._publisher.publish(message)


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
