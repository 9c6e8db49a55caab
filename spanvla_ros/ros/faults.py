"""The simulator node with broken sensors: which faults are on is told by a topic while it drives.

`python -m spanvla_ros.ros.faults --ros-args ...` takes the parameters of the simulator node. The car follows the newest
trajectory, whatever state it came from, as in a real car.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import cv2
import numpy as np
from rclpy.publisher import Publisher
from std_msgs.msg import String

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.ros import conversions, qos
from spanvla_ros.ros.main import spin
from spanvla_ros.ros.sim_node import Episode, SimulatorNode
from spanvla_ros.sim.scenarios.scenario import Scenario

# std_msgs/String: names of the faults that are on, by comma
TOPIC = "/spanvla_simulator/faults"
SENSOR_FAULTS = (
    "camera_dropout",  # no pictures
    "late_camera",  # pictures arrive 0.4 s after their stamp
    "slow_images",  # one picture of five
    "truncated_jpeg",
    "noisy_jpeg",  # some bytes overwritten
    "black_image",
    "frozen_image",
    "resized_image",
    "future_image",  # a stamp one hour ahead
    "odometry_gap",
    "odometry_nan",
    "odometry_repeated",  # the same stamp again and again
    "future_odometry",
    "clock_jump",  # one second back when it begins, one second on when it ends
)
JUMP_NS, FUTURE_NS = -NS_PER_S, 3600 * NS_PER_S
_LATE_FRAMES, _SLOW = 4, 5


class _Tap:
    """Stands in for a publisher: every message goes through `spoil`, which returns what is sent in its place."""

    def __init__(self, publisher: Publisher, spoil: Callable[[Any], list[Any]]):
        self._publisher, self._spoil = publisher, spoil
        self.get_subscription_count = publisher.get_subscription_count

    def publish(self, message: Any) -> None:
        for made in self._spoil(message):
            self._publisher.publish(made)


class FaultySimulator(SimulatorNode):
    """`active`: the faults that are on."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.active: frozenset[str] = frozenset()
        self._rng = Random(0)
        self._late: deque[Any] = deque()
        self._frozen: bytes | None = None
        self._stamp: Any = None
        self._count = 0
        if self.exit_code is not None:
            return
        self._clock = _Tap(self._clock, self._spoil_clock)
        self._odometry = _Tap(self._odometry, self._spoil_odometry)
        self._images = {camera: _Tap(publisher, self._spoil_image) for camera, publisher in self._images.items()}
        self.create_subscription(String, TOPIC, self._on_faults, qos.COMMAND)

    @property
    def jump_ns(self) -> int:
        return JUMP_NS if "clock_jump" in self.active else 0

    def episode(self, scenario: Scenario, offset_ns: int) -> Episode:
        return _Following(self, scenario, offset_ns)

    def _on_faults(self, message: String) -> None:
        self.active = frozenset(message.data.split(",")) - {""}

    def _moved(self, stamp: Any, by_ns: int) -> Any:
        return conversions.time(max(0, stamp.sec * NS_PER_S + stamp.nanosec + by_ns))

    def _spoil_clock(self, message: Any) -> list[Any]:
        message.clock = self._moved(message.clock, self.jump_ns)
        return [message]

    def _spoil_odometry(self, message: Any) -> list[Any]:
        active = self.active
        message.header.stamp = self._moved(message.header.stamp, self.jump_ns)
        if "odometry_gap" in active:
            return []
        if "odometry_repeated" in active:
            message.header.stamp = self._stamp = self._stamp or message.header.stamp
        else:
            self._stamp = None
        if "odometry_nan" in active:
            message.pose.pose.position.x = float("nan")
        if "future_odometry" in active:
            message.header.stamp = self._moved(message.header.stamp, FUTURE_NS)
        return [message]

    def _spoil_image(self, message: Any) -> list[Any]:
        active = self.active
        self._count += 1
        message.header.stamp = self._moved(message.header.stamp, self.jump_ns)
        message.data = self._spoil_jpeg(bytes(message.data))
        if "future_image" in active:
            message.header.stamp = self._moved(message.header.stamp, FUTURE_NS)
        if "camera_dropout" in active or ("slow_images" in active and self._count % _SLOW):
            return []
        self._late.append(message)
        kept = _LATE_FRAMES if "late_camera" in active else 0
        return [self._late.popleft() for _ in range(len(self._late) - kept)]

    def _spoil_jpeg(self, jpeg: bytes) -> bytes:
        active = self.active
        self._frozen = (self._frozen or jpeg) if "frozen_image" in active else None
        jpeg = self._frozen or jpeg
        if active & {"black_image", "resized_image"}:
            pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            pixels = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 3)) if "resized_image" in active else pixels
            jpeg = cv2.imencode(".jpg", np.zeros_like(pixels) if "black_image" in active else pixels)[1].tobytes()
        if "noisy_jpeg" in active:
            made = bytearray(jpeg)
            for _ in range(8):
                made[self._rng.randrange(len(made))] = self._rng.randrange(256)
            jpeg = bytes(made)
        return jpeg[: len(jpeg) // 2] if "truncated_jpeg" in active else jpeg


class _Following(Episode):
    """A drive in which the car follows whatever the planner published last."""

    def _answer(self) -> None:
        super()._answer()
        newest = self.node.link.newest
        if newest is None:
            return
        stamp_ns = newest.stamp_ns - self._offset_ns - self.node.jump_ns
        if abs(stamp_ns - self._simulation.stamp_ns) < 10 * NS_PER_S:  # not that of the drive before
            self._trajectory = dataclasses.replace(newest, stamp_ns=stamp_ns)


if __name__ == "__main__":
    sys.exit(spin(FaultySimulator, sys.argv[1:]))
