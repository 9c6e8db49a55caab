"""A recorded bag as a sequence of observations, chosen by stamp exactly as in the car."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Command, InputError, ModelSpec, NotReady, Observation
from spanvla_ros.data.bag import IMAGE_TYPES, ODOMETRY_TYPES, Bag
from spanvla_ros.planning import messages
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.planning.inputs import InputBuffer

# how long an observation waits for the other cameras' frames of the same moment
PATIENCE_NS = NS_PER_S // 3

log = logging.getLogger(__name__)


class Replay:
    """Feeds a bag to an InputBuffer in the order of recording and counts, by reason code, what can't be used.

    cameras: name -> image topic, exactly those of the model. Raises InputError for cameras or topics that don't fit.
    """

    def __init__(self, bag: Bag, spec: ModelSpec, cameras: Mapping[str, str], odometry: str, command: Command = Command.UNKNOWN):
        _check_cameras(bag, spec, cameras)
        bag.require(odometry, ODOMETRY_TYPES, "odometry")
        self.bag, self.spec, self.command = bag, spec, command
        self.images = 0
        self.skipped: Counter[str] = Counter()
        self.reason = "no image of the anchor camera was readable"
        self._cameras = {topic: name for name, topic in cameras.items()}
        self._odometry_topic = odometry
        self._buffer = InputBuffer(spec)
        self._newest = dict.fromkeys(spec.cameras, 0)
        self._track: dict[int, np.ndarray] = {}

    def observations(self) -> Iterator[Observation]:
        """One per image of the anchor (first) camera that has its history and odometry on both sides."""
        waiting: list[int] = []
        for topic, message in self.bag.messages([*self._cameras, self._odometry_topic]):
            if topic == self._odometry_topic:
                self._add_odometry(message)
            else:
                stamp = self._add_image(self._cameras[topic], message)
                if stamp is not None and self._cameras[topic] == self.spec.cameras[0]:
                    waiting.append(stamp)
            while waiting and self._due(waiting[0]):
                yield from self._observe(waiting.pop(0))
        for t0_ns in waiting:
            yield from self._observe(t0_ns)

    def track(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps (N,) increasing and poses (N, 3) in the odometry frame that the bag has given so far."""
        stamps = sorted(self._track)
        return np.array(stamps, np.int64), np.array([self._track[stamp] for stamp in stamps]).reshape(-1, 3)

    def skip(self, code: str, error: Exception) -> None:
        """Count something that gives no plan; the first of each kind is logged."""
        if not self.skipped[code]:
            log.log(logging.INFO if code == "HISTORY_SHORT" else logging.WARNING, "skipped (%s): %s", code, error)
        self.skipped[code] += 1
        self.reason = str(error)

    def _due(self, t0_ns: int) -> bool:
        newest = self._buffer.newest_odometry_ns or 0
        return newest >= t0_ns and (min(self._newest.values()) >= t0_ns or newest > t0_ns + PATIENCE_NS)

    def _observe(self, t0_ns: int) -> Iterator[Observation]:
        try:
            observation = self._buffer.observe(t0_ns, self.command)
        except NotReady as error:
            self.skip(error.code, error)
        else:
            yield observation

    def _add_image(self, camera: str, message: Any) -> int | None:
        self.images += camera == self.spec.cameras[0]
        stamp = messages.stamp_ns(message.header.stamp)
        try:
            payload = messages.image(message)
            # decoded at once: a broken picture must not stand in the buffer as the frame of a later plan
            rgb = decode_jpeg(payload, f"camera '{camera}' at {stamp} ns", self.spec.image_size) if isinstance(payload, bytes) else payload
        except InputError as error:
            self.skip("IMAGE_UNREADABLE", error)
            return None
        self._buffer.add_image(camera, stamp, rgb)
        self._newest[camera] = max(self._newest[camera], stamp)
        return stamp

    def _add_odometry(self, message: Any) -> None:
        try:
            sample = messages.odometry(message)
        except InputError as error:
            self.skip("ODOMETRY_INVALID", error)
            return
        self._buffer.add_odometry(*sample)
        self._track[sample.stamp_ns] = sample.pose_odom


def _check_cameras(bag: Bag, spec: ModelSpec, cameras: Mapping[str, str]) -> None:
    for name in cameras:
        if name not in spec.cameras:
            raise InputError(f"camera '{name}' is unknown; the model has: {', '.join(spec.cameras)}")
    for name in spec.cameras:
        if name not in cameras:
            images = [topic for topic, kind in sorted(bag.topics.items()) if kind in IMAGE_TYPES]
            raise InputError(f"camera '{name}' of the model has no topic; image topics of the bag: {', '.join(images) or 'none'}")
        bag.require(cameras[name], IMAGE_TYPES, f"camera '{name}'")
