"""A recorded bag as a sequence of observations, chosen by stamp exactly as in the car."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from spanvla_ros.contracts import Command, InputError, ModelSpec, NotReady, Observation
from spanvla_ros.data.bag import IMAGE_TYPES, Bag
from spanvla_ros.data.cues import COMMAND_TYPES, Cue, cues, require
from spanvla_ros.data.topics import DriveTopics
from spanvla_ros.planning import messages
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.planning.inputs import InputBuffer, InputLimits
from spanvla_ros.planning.lens import fitting
from spanvla_ros.planning.messages import OdometrySample
from spanvla_ros.planning.rig import Rig
from spanvla_ros.planning.supervisor import Reason

log = logging.getLogger(__name__)

# as the planner node has it by default
NODE_LIMITS = InputLimits(max_skew_s=0.05, refuse_black=True, refuse_frozen=True)


class Track:
    """What the cues of a drive tell apart from pictures: motion, stamps of the frames, who drove; and what could not be used.

    skipped: counts by code; refused: (stamp, reason code of the node) of images of the anchor camera that gave no plan.
    """

    def __init__(self, topics: DriveTopics):
        self._topics = topics
        self._odometry: dict[int, OdometrySample] = {}
        self._images: dict[str, set[int]] = {name: set() for name in topics.cameras}
        self._engagement: list[tuple[int, bool]] = []
        self.skipped: Counter[str] = Counter()
        self.refused: list[tuple[int, str]] = []
        self.reason = "no image of the anchor camera was readable"

    def take(self, cue: Cue) -> OdometrySample | None:
        """Remember a cue; the sample where it is odometry that can be used."""
        if cue.camera:
            self._images[cue.camera].add(cue.stamp_ns)
        elif cue.topic == self._topics.odometry:
            try:
                self._odometry[cue.stamp_ns] = sample = messages.odometry(cue.message)
            except InputError as error:
                self.skip("ODOMETRY_INVALID", error)
            else:
                return sample
        elif self._topics.engagement and cue.topic == self._topics.engagement.topic:
            automatic = self._topics.engagement.read(cue.message)
            if not self._engagement or self._engagement[-1][1] != automatic:
                self._engagement.append((cue.stamp_ns, automatic))
        return None

    def skip(self, code: str, error: Exception | str) -> None:
        """Count something that gives no plan; the first of each kind is logged."""
        if not self.skipped[code]:
            log.log(logging.INFO if code == "HISTORY_SHORT" else logging.WARNING, "skipped (%s): %s", code, error)
        self.skipped[code] += 1
        self.reason = str(error)

    @property
    def odometry(self) -> list[OdometrySample]:
        """By stamp."""
        return [self._odometry[stamp] for stamp in sorted(self._odometry)]

    @property
    def images(self) -> dict[str, list[int]]:
        """Camera -> stamps, increasing."""
        return {name: sorted(stamps) for name, stamps in self._images.items()}

    @property
    def engagement(self) -> list[tuple[int, bool]]:
        """Stamps at which it changed whether the automation drives, the first one included."""
        return self._engagement

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps (N,) increasing and poses (N, 3) in the odometry frame."""
        samples = self.odometry
        return np.array([s.stamp_ns for s in samples], np.int64), np.array([s.pose_odom for s in samples]).reshape(-1, 3)


class Replay:
    """Feeds a bag to an InputBuffer and counts, by reason code, what can't be used.

    topics.cameras: exactly those of the model. command None: by `topics.command`, unknown until it says something. rig: the cameras of
    the training; where camera_info or /tf_static of the bag differ, pictures are turned into theirs, as in the node. Raises InputError
    for cameras or topics that don't fit.
    """

    def __init__(self, bag: Bag, spec: ModelSpec, topics: DriveTopics, command: Command | None = None, rig: Rig | None = None):
        _check_cameras(bag, spec, topics)
        require(bag, topics)
        self.bag, self.spec = bag, spec
        self.topics = topics.only(spec.cameras)
        self.track = Track(self.topics)
        self._fixed = command is not None
        self._command = command or Command.UNKNOWN
        self._buffer = InputBuffer(spec, NODE_LIMITS)
        for name, camera in (rig.cameras if rig else {}).items():
            info = bag.camera_info(self.topics.cameras[name]) if name in spec.cameras else None
            if info is not None:
                lens, _ = fitting(name, camera, info, bag.static_transform(topics.base_frame, info.header.frame_id))
                self._buffer.set_lens(name, None if lens is None or lens.same else lens)

    def observations(self) -> Iterator[Observation]:
        """One per image of the anchor (first) camera that has its history and odometry on both sides."""
        for cue in cues(self.bag, self.topics):
            sample = self.track.take(cue)
            if sample is not None:
                self._buffer.add_odometry(*sample)
            elif cue.topic == self.topics.command and not self._fixed:
                self._add_command(cue)
            elif cue.camera and self._add_image(cue) and cue.asks:
                try:
                    yield self._buffer.observe(cue.stamp_ns, self._command)
                except NotReady as error:
                    self.track.skip(error.code, error)
                    self.track.refused.append((cue.stamp_ns, error.code))

    def _add_command(self, cue: Cue) -> None:
        try:
            self._command = messages.command(cue.message.data)
        except InputError as error:
            self.track.skip("COMMAND_UNKNOWN", error)

    def _add_image(self, cue: Cue) -> bool:
        try:
            payload = messages.image(cue.message)
            # decoded at once: a broken picture must not stand in the buffer as the frame of a later plan
            name = f"camera '{cue.camera}' at {cue.stamp_ns} ns"
            rgb = decode_jpeg(payload, name, self.spec.image_size) if isinstance(payload, bytes) else payload
        except InputError as error:
            self.track.skip("IMAGE_UNREADABLE", error)
            if cue.asks:
                self.track.refused.append((cue.stamp_ns, Reason.IMAGE_INVALID.value))
            return False
        self._buffer.add_image(cue.camera, cue.stamp_ns, rgb)
        return True


def recorded_infos(bag: Bag, topic: str, odometry: str) -> tuple[list[tuple[int, dict[str, Any]]], dict[int, int]]:
    """What a planner told by plan_info in the car: (stamp of the odometry that came last, message as in docs/plan_info.md), and
    t0 in ns -> most tokens of the text, of every plan."""
    bag.require(topic, COMMAND_TYPES, "plan_info")
    stamp_ns, infos, budgets = 0, [], {}
    for name, message in bag.messages([topic, odometry]):
        if name == odometry:
            stamp_ns = messages.stamp_ns(message.header.stamp)
            continue
        budget = messages.recorded_budget(message)
        if budget is not None:
            budgets[budget[0]] = budget[1]
        infos.append((stamp_ns, json.loads(message.data)))
    return infos, budgets


def _check_cameras(bag: Bag, spec: ModelSpec, topics: DriveTopics) -> None:
    for name in topics.cameras:
        if name not in spec.cameras:
            raise InputError(f"camera '{name}' is unknown; the model has: {', '.join(spec.cameras)}")
    for name in spec.cameras:
        if name not in topics.cameras:
            images = [topic for topic, kind in sorted(bag.topics.items()) if kind in IMAGE_TYPES]
            raise InputError(f"camera '{name}' of the model has no topic; image topics of the bag: {', '.join(images) or 'none'}")
