"""ROS 2 bags (sqlite3 and MCAP) as stamped messages, without ROS."""

from __future__ import annotations

import functools
import hashlib
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from spanvla_ros.contracts import InputError

IMAGE_TYPES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
ODOMETRY_TYPES = ("nav_msgs/msg/Odometry",)
_HEAD, _TAIL_NS = 200, 1_000_000_000  # messages and nanoseconds that tell recordings apart


class Bag:
    """A bag folder, or a single .mcap or .db3 file, open for reading; a context manager. Raises InputError."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"bag {path} doesn't exist")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise InputError(f"{path} is no ROS 2 bag: it has no metadata.yaml")
        try:
            self._reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            self._reader.open()
        except (AnyReaderError, OSError, sqlite3.Error, ValueError, KeyError) as error:
            raise InputError(f"bag {path} can't be read: {error}") from None
        if not self._reader.message_count:
            raise InputError(f"bag {path} is empty: {len(self.topics)} topics, 0 messages")

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()

    @property
    def topics(self) -> dict[str, str]:
        """Topic -> message type."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    @functools.cached_property
    def identity(self) -> str:
        """Eight hexadecimal digits that copies of one recording share: of its length and of its first and last messages."""
        reader = self._reader
        digest = hashlib.sha256(f"{reader.start_time} {reader.end_time} {reader.message_count}".encode())
        last = reader.messages(start=max(reader.start_time, reader.end_time - _TAIL_NS))
        for _, _, raw in itertools.chain(itertools.islice(reader.messages(), _HEAD), last):
            digest.update(raw)
        return digest.hexdigest()[:8]

    def require(self, topic: str, types: Sequence[str], purpose: str) -> None:
        """InputError unless `topic` is in the bag with messages of one of `types`."""
        listing = ", ".join(f"{name} ({kind})" for name, kind in sorted(self.topics.items()))
        if topic not in self.topics:
            raise InputError(f"{purpose}: topic {topic} is not in {self.path}; it holds {listing}")
        if self.topics[topic] not in types:
            raise InputError(f"{purpose}: topic {topic} has type {self.topics[topic]}, needed is {' or '.join(types)}; the bag holds {listing}")
        if not sum(connection.msgcount for connection in self._connections([topic])):
            raise InputError(f"{purpose}: topic {topic} has no message in {self.path}")

    def messages(self, topics: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """(topic, message) in the order of recording."""
        for topic, message, _ in self.records(topics):
            yield topic, message

    def records(self, topics: Sequence[str]) -> Iterator[tuple[str, Any, bytes]]:
        """(topic, message, its CDR bytes) in the order of recording."""
        connections = self._connections(topics)
        if not connections:
            return
        try:
            for connection, _, raw in self._reader.messages(connections=connections):
                yield connection.topic, self._reader.deserialize(raw, connection.msgtype), bytes(raw)
        except (AnyReaderError, OSError, sqlite3.Error) as error:
            raise InputError(f"bag {self.path} breaks off: {error}") from None

    def first(self, topic: str) -> Any | None:
        """The first message of a topic, None where there is none."""
        return next((message for _, message in self.messages([topic])), None)

    def camera_info(self, image_topic: str) -> Any | None:
        """The first CameraInfo that belongs to an image topic."""
        topic = self.camera_info_topic(image_topic)
        return self.first(topic) if topic else None

    def camera_info_topic(self, image_topic: str) -> str:
        """The nearest `camera_info` up the name of an image topic, "" where there is none."""
        parts = image_topic.split("/")
        names = ("/".join([*parts[:depth], "camera_info"]) for depth in range(len(parts) - 1, 1, -1))
        return next((name for name in names if self.topics.get(name) == "sensor_msgs/msg/CameraInfo"), "")

    def static_transform(self, parent: str, child: str) -> np.ndarray | None:
        """parent_from_child (4, 4) by /tf_static, None where the tree doesn't connect them."""
        edges: dict[str, tuple[str, np.ndarray]] = {}
        for _, message in self.messages(["/tf_static"]):
            for transform in message.transforms:
                edges[_frame(transform.child_frame_id)] = _frame(transform.header.frame_id), _matrix(transform.transform)
        up, down = _to_root(edges, _frame(parent)), _to_root(edges, _frame(child))
        common = next((frame for frame in down if frame in up), None)
        return None if common is None else np.linalg.inv(up[common]) @ down[common]

    def _connections(self, topics: Sequence[str]) -> list[Connection]:
        return [connection for connection in self._reader.connections if connection.topic in topics]


def _frame(name: str) -> str:
    return name.lstrip("/")


def _to_root(edges: dict[str, tuple[str, np.ndarray]], frame: str) -> dict[str, np.ndarray]:
    """Ancestor -> ancestor_from_frame (4, 4), the frame itself first."""
    found = {frame: np.eye(4)}
    while frame in edges and edges[frame][0] not in found:
        above, matrix = edges[frame]
        found[above] = matrix @ found[frame]
        frame = above
    return found


def _matrix(transform: Any) -> np.ndarray:
    q, t = transform.rotation, transform.translation
    x, y, z, w = np.array([q.x, q.y, q.z, q.w]) / max(np.sqrt(q.x**2 + q.y**2 + q.z**2 + q.w**2), 1e-9)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix
