"""A node beside those that are watched: what demo, bag player, soak and bench listen and talk with."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException

from spanvla_ros.ros.executor import make_executor

_MIDDLEWARE = ("FASTDDS_", "FASTRTPS_")
_POLL_S = 0.1
_MOST_S = 5.0  # that a thread takes to end

Own = TypeVar("Own", bound="Background")


class Background:
    """`_node` on a context of its own; entered, a thread spins it until it is left. Subclasses make topics before, and may add to `_threads`."""

    def __init__(self, name: str, env: Mapping[str, str] | None = None):
        """env: what `processes.environment` made for the nodes; the middleware of this process gets the same settings."""
        if env is not None:
            for key in [key for key in os.environ if key.startswith(_MIDDLEWARE)]:
                del os.environ[key]
            os.environ.update({key: value for key, value in env.items() if key.startswith(("ROS_", *_MIDDLEWARE))})
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=None if env is None else int(env["ROS_DOMAIN_ID"]))
        self._node = rclpy.create_node(name, context=self._context)
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._spin, name=name, daemon=True)]

    def __enter__(self: Own) -> Own:
        self._executor = make_executor(self._context)
        self._executor.add_node(self._node)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(_MOST_S)
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        try:
            while not self._ending.is_set():
                self._executor.spin_once(timeout_sec=_POLL_S)
        except ExternalShutdownException:
            pass
