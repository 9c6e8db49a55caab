"""A recorded drive without its pictures: motion, who drove, commands, boxes, and the stamps of all frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import NS_PER_S, Command, InputError
from spanvla_ros.data.bag import IMAGE_TYPES, ODOMETRY_TYPES, Bag
from spanvla_ros.data.topics import DriveTopics
from spanvla_ros.planning import messages
from spanvla_ros.sim.frame import Frame, Object

COMMAND_TYPES = ("std_msgs/msg/String",)
DETECTION_TYPES = ("vision_msgs/msg/Detection3DArray",)
# a message may arrive this much later than another one with a younger stamp; what goes back further is a second recording
LATE_S = 1.0
_FRAME_S, _BOXES_AGE_S = 0.1, 0.15
# words in a detection's class -> type of the PDM score; a stop sign is no box of it, but a tag
_KINDS = (
    ("STOP_SIGN", ("stop",)),
    ("PEDESTRIAN", ("pedestrian", "person", "human")),
    ("BICYCLE", ("bicycle", "cyclist", "motorcycle", "bike")),
    ("TRAFFIC_CONE", ("cone",)),
    ("BARRIER", ("barrier",)),
    ("CZONE_SIGN", ("construction", "czone")),
    ("VEHICLE", ("vehicle", "car", "truck", "bus", "van", "trailer")),
)


@dataclass(frozen=True, kw_only=True)
class Drive:
    """stamps_ns (N,) increasing, poses (N, 3) in the odometry frame, speeds_mps and yaw_rates_rps (N,); images: camera -> stamps (M,);
    commands and automatic (whether the automation drives): values with the stamp from which they hold; boxes: stamp -> objects."""

    stamps_ns: np.ndarray
    poses: np.ndarray
    speeds_mps: np.ndarray
    yaw_rates_rps: np.ndarray
    images: Mapping[str, np.ndarray]
    commands: tuple[tuple[int, Command], ...] = ()
    automatic: tuple[tuple[int, bool], ...] = ()
    boxes: Mapping[int, tuple[Object, ...]]
    skipped: Mapping[str, int]

    def poses_at(self, stamps_ns: np.ndarray) -> np.ndarray:
        """Poses (M, 3) at stamps (M,) within the recording."""
        zero = int(self.stamps_ns[0])  # relative seconds: nanosecond stamps exceed the exact range of float64
        return geometry.interpolate_poses((self.stamps_ns - zero) / NS_PER_S, self.poses, (np.asarray(stamps_ns) - zero) / NS_PER_S)

    def longest_gap_s(self, start_ns: int, end_ns: int) -> float:
        """Longest time without odometry between two stamps; infinite where the recording doesn't hold them."""
        first, last = np.searchsorted(self.stamps_ns, start_ns, "right") - 1, np.searchsorted(self.stamps_ns, end_ns, "left")
        if first < 0 or last >= len(self.stamps_ns):
            return np.inf
        return float(np.diff(self.stamps_ns[first : last + 1]).max(initial=0)) / NS_PER_S

    def command_at(self, stamp_ns: int) -> Command:
        return next((value for stamp, value in reversed(self.commands) if stamp <= stamp_ns), Command.UNKNOWN)

    def automatic_at(self, stamp_ns: int) -> bool | None:
        """Whether the automation drives; None where nobody says so."""
        return next((value for stamp, value in reversed(self.automatic) if stamp <= stamp_ns), None)

    def frames(self) -> list[Frame]:
        """The drive at 10 Hz as truth: ego, and boxes where they were detected. What odometry doesn't say (steering) is zero."""
        stamps = np.arange(self.stamps_ns[0], self.stamps_ns[-1] + 1, round(_FRAME_S * NS_PER_S))
        zero = int(self.stamps_ns[0])
        known, at = (self.stamps_ns - zero) / NS_PER_S, (stamps - zero) / NS_PER_S
        speeds, turns = np.interp(at, known, self.speeds_mps), np.interp(at, known, self.yaw_rates_rps)
        braking = np.gradient(speeds, _FRAME_S) if len(speeds) > 1 else np.zeros(1)
        seen = np.array(sorted(self.boxes), np.int64)
        found = []
        for k, pose in enumerate(self.poses_at(stamps)):
            nearest = int(np.argmin(np.abs(seen - stamps[k]))) if len(seen) else -1
            fresh = nearest >= 0 and abs(int(seen[nearest]) - int(stamps[k])) <= _BOXES_AGE_S * NS_PER_S
            ego = np.array([*pose, speeds[k], 0.0, braking[k], speeds[k] * turns[k], 0.0, 0.0, turns[k], 0.0])
            found.append(Frame(stamp_ns=int(stamps[k]), ego=ego, objects=self.boxes[int(seen[nearest])] if fresh else (), red=()))
        return found


def read(bag: Bag, topics: DriveTopics) -> Drive:
    """Everything but the pictures. InputError for a topic that is missing, stamps that go back, or odometry that never is valid."""
    for name, topic in topics.cameras.items():
        bag.require(topic, IMAGE_TYPES, f"camera '{name}'")
    bag.require(topics.odometry, ODOMETRY_TYPES, "odometry")
    reading = _Reading(bag, topics)
    for topic, message in bag.messages(reading.wanted):
        reading.take(topic, message)
    return reading.drive()


class _Reading:
    """What has been read so far."""

    def __init__(self, bag: Bag, topics: DriveTopics):
        self._bag, self._topics = bag, topics
        self._cameras = {topic: name for name, topic in topics.cameras.items()}
        self._track: dict[int, messages.OdometrySample] = {}
        self._images: dict[str, set[int]] = {name: set() for name in topics.cameras}
        self._commands: list[tuple[int, Command]] = []
        self._automatic: list[tuple[int, bool]] = []
        self._detections: list[Any] = []
        self._newest: dict[str, int] = {}
        self._skipped: Counter[str] = Counter()
        self._odometry_frame = ""
        self._mountings: dict[str, np.ndarray] = {}
        self.wanted = [*topics.cameras.values(), topics.odometry]
        engagement = topics.engagement.topic if topics.engagement else ""
        for topic, types in ((topics.command, COMMAND_TYPES), (engagement, None), (topics.detections, DETECTION_TYPES)):
            if topic and topic in bag.topics:
                bag.require(topic, types or [bag.topics[topic]], "drive")
                self.wanted.append(topic)

    def take(self, topic: str, message: Any) -> None:
        topics = self._topics
        if hasattr(message, "header"):
            self._check_order(topic, messages.stamp_ns(message.header.stamp))
        if topic in self._cameras:
            stamps, stamp = self._images[self._cameras[topic]], messages.stamp_ns(message.header.stamp)
            self._skipped["IMAGE_REPEATED"] += stamp in stamps
            stamps.add(stamp)
        elif topic == topics.odometry:
            self._odometry_frame = message.header.frame_id.lstrip("/")
            try:
                sample = messages.odometry(message)
            except InputError:
                self._skipped["ODOMETRY_INVALID"] += 1
            else:
                self._track[sample.stamp_ns] = sample
        elif topic == topics.detections:
            self._detections.append(message)
        else:
            self._take_state(topic, message)

    def _take_state(self, topic: str, message: Any) -> None:
        """Commands and engagement. Without a header a message has the stamp of the odometry that arrived last: a recorder's own clock
        needn't be that of the stamps, as in simulation."""
        stamp = messages.stamp_ns(message.header.stamp) if hasattr(message, "header") else self._newest.get(self._topics.odometry)
        if stamp is None:
            return
        if self._topics.engagement and topic == self._topics.engagement.topic:
            automatic = self._topics.engagement.read(message)
            if not self._automatic or self._automatic[-1][1] != automatic:
                self._automatic.append((stamp, automatic))
            return
        try:
            self._commands.append((stamp, messages.command(message.data)))
        except InputError:
            self._skipped["COMMAND_UNKNOWN"] += 1

    def _check_order(self, topic: str, stamp_ns: int) -> None:
        newest = self._newest.get(topic, stamp_ns)
        if stamp_ns < newest - LATE_S * NS_PER_S:
            back_s = (newest - stamp_ns) / NS_PER_S
            raise InputError(f"stamps of {topic} in {self._bag.path} go back by {back_s:.1f} s at {stamp_ns} ns; a bag must hold one drive, split it")
        self._skipped["STAMP_LATE"] += stamp_ns < newest
        self._newest[topic] = max(newest, stamp_ns)

    def drive(self) -> Drive:
        if len(self._track) < 2:
            raise InputError(f"odometry {self._topics.odometry} of {self._bag.path} has {len(self._track)} valid messages; two or more are needed")
        samples = [self._track[stamp] for stamp in sorted(self._track)]
        stamps = np.array([s.stamp_ns for s in samples], np.int64)
        poses = np.stack([s.pose_odom for s in samples])
        drive = Drive(
            stamps_ns=stamps,
            poses=poses,
            speeds_mps=np.array([s.speed_mps for s in samples]),
            yaw_rates_rps=np.array([s.yaw_rate_rps for s in samples]),
            images={name: np.array(sorted(found), np.int64) for name, found in self._images.items()},
            commands=tuple(self._commands),
            automatic=tuple(self._automatic),
            boxes={},
            skipped={code: count for code, count in self._skipped.items() if count},
        )
        boxes = {messages.stamp_ns(m.header.stamp): m for m in self._detections}
        inside = {stamp: m for stamp, m in boxes.items() if stamps[0] <= stamp <= stamps[-1]}
        return _with_boxes(drive, {stamp: self._objects(m, drive.poses_at(np.array([stamp]))[0]) for stamp, m in sorted(inside.items())})

    def _objects(self, message: Any, pose: np.ndarray) -> list[Object]:
        """Boxes of one Detection3DArray in the odometry frame, without velocities yet."""
        frame = message.header.frame_id.lstrip("/")
        found = []
        for k, detection in enumerate(message.detections):
            box = detection.bbox
            local = np.array([box.center.position.x, box.center.position.y, messages.yaw_of(box.center.orientation)])
            if frame != self._odometry_frame:
                local = geometry.to_global(pose, geometry.to_global(self._mounting(frame), local))
            label = str(max(detection.results, key=lambda r: r.hypothesis.score).hypothesis.class_id).lower() if detection.results else ""
            kind = next((kind for kind, words in _KINDS if any(word in label for word in words)), "GENERIC_OBJECT")
            place = dict(zip(("x", "y", "yaw"), map(float, local)))
            size = {"length_m": float(box.size.x), "width_m": float(box.size.y)}
            found.append(Object(name=detection.id or f"unnamed{k}", type=kind, **place, **size, vx=0.0, vy=0.0))
        return found

    def _mounting(self, frame: str) -> np.ndarray:
        """Pose (3,) of a frame of the car in base_link."""
        base = self._topics.base_frame
        if frame not in self._mountings:
            matrix = np.eye(4) if frame == base else self._bag.static_transform(base, frame)
            if matrix is None:
                raise InputError(f"{self._topics.detections} is in frame '{frame}', which /tf_static of {self._bag.path} doesn't connect with {base}")
            self._mountings[frame] = np.array([matrix[0, 3], matrix[1, 3], np.arctan2(matrix[1, 0], matrix[0, 0])])
        return self._mountings[frame]


def _with_boxes(drive: Drive, boxes: Mapping[int, list[Object]]) -> Drive:
    """The drive with boxes whose velocity is that from the sighting before, by the name of the track."""
    before: dict[str, tuple[int, Object]] = {}
    found: dict[int, tuple[Object, ...]] = {}
    for stamp, objects in boxes.items():
        moving = []
        for thing in objects:
            known = before.get(thing.name)
            if known is not None and not thing.name.startswith("unnamed"):
                seconds = (stamp - known[0]) / NS_PER_S
                thing = replace(thing, vx=(thing.x - known[1].x) / seconds, vy=(thing.y - known[1].y) / seconds)
            before[thing.name] = stamp, thing
            moving.append(thing)
        found[stamp] = tuple(moving)
    return replace(drive, boxes=found)
