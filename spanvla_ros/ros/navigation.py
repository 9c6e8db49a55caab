"""The instruction of the next plan: the newest of route and command, a route wins."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from spanvla_ros.contracts import Command, InputError
from spanvla_ros.planning import messages


class Navigation:
    """Thread-safe: callbacks write, the planning thread reads."""

    def __init__(self, horizon_m: float):
        self.horizon_m = horizon_m
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self._word = Command.UNKNOWN
            self._route: np.ndarray | None = None
            self._pose_odom: np.ndarray | None = None

    def commanded(self, text: str) -> None:
        word = messages.command(text)
        with self._lock:
            self._word = word

    def routed(self, message: Any, odometry_frame: str) -> None:
        """A nav_msgs/Path in the odometry frame; an empty one ends the route."""
        frame = message.header.frame_id
        if odometry_frame and frame not in ("", odometry_frame):
            raise InputError(f"route is in frame {frame!r}, the odometry in {odometry_frame!r}; publish it in the odometry frame")
        route = messages.path(message) if message.poses else None
        with self._lock:
            self._route = route

    def moved(self, pose_odom: np.ndarray) -> None:
        with self._lock:
            self._pose_odom = pose_odom

    def command(self) -> Command:
        with self._lock:
            if self._route is None or self._pose_odom is None:
                return self._word
            return messages.route_command(self._route, self._pose_odom, self.horizon_m)[0]
