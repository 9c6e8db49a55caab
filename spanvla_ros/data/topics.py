"""Topics of a recorded drive: config/topics/drive.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanvla_ros import config
from spanvla_ros.contracts import ConfigError


@dataclass(frozen=True, kw_only=True)
class Engagement:
    """Topic that says who drives. field: attribute path in the message, as `status.mode`; automatic: its values while the automation drives."""

    topic: str
    field: str = "data"
    automatic: tuple[Any, ...] = (True,)

    def __post_init__(self):
        if not self.automatic:
            raise ConfigError("engagement.automatic is empty; it must list the values that mean that the automation drives")

    def read(self, message: Any) -> bool:
        """Whether the automation drives. ConfigError where the message has no such field."""
        value = message
        for name in self.field.split("."):
            if not hasattr(value, name):
                raise ConfigError(f"engagement.field is '{self.field}', but a message of {self.topic} has no '{name}'")
            value = getattr(value, name)
        return value in self.automatic


@dataclass(frozen=True, kw_only=True)
class DriveTopics:
    """cameras: name -> image topic, of which the first says when a sample is taken; "" or None is a topic that no bag has."""

    cameras: dict[str, str]
    odometry: str
    base_frame: str = "base_link"
    command: str = ""
    engagement: Engagement | None = None
    detections: str = ""

    def __post_init__(self):
        if not self.cameras:
            raise ConfigError("cameras is empty; at least one camera is needed")

    def only(self, cameras: Sequence[str]) -> DriveTopics:
        """The same with these cameras, in this order."""
        unknown = [name for name in cameras if name not in self.cameras]
        if unknown:
            raise ConfigError(f"camera '{unknown[0]}' has no topic; there are {', '.join(self.cameras)}")
        return dataclasses.replace(self, cameras={name: self.cameras[name] for name in cameras})


def load(path: Path) -> DriveTopics:
    """Read a file like config/topics/drive.yaml."""
    return config.load(DriveTopics, path)
