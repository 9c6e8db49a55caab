"""Topic names of a simulated car: a preset in config/topics/."""

from __future__ import annotations

from dataclasses import dataclass

from spanvla_ros import config
from spanvla_ros.contracts import ConfigError
from spanvla_ros.share import share

PRESETS = ("minisim", "carla_bridge")
TRANSPORTS = ("compressed", "raw")


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Names with `{camera}` where they depend on the camera; transport: "compressed" or "raw" (bgra8)."""

    clock: str
    image: str
    camera_info: str
    odometry: str
    command: str
    transport: str
    frame: str
    base_frame: str
    camera_frame: str

    def __post_init__(self):
        if self.transport not in TRANSPORTS:
            raise ConfigError(f"transport is {self.transport!r}, it must be one of {', '.join(TRANSPORTS)}")
        for name in ("image", "camera_info", "camera_frame"):
            if "{camera}" not in getattr(self, name):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, it lacks {{camera}}")

    def inputs(self, cameras: tuple[str, ...]) -> dict[str, str]:
        """Input of the planner node (below ~/input/) -> topic."""
        wired = {"odometry": self.odometry, "command": self.command}
        for camera in cameras:
            wired |= {f"image/{camera}": self.image.format(camera=camera), f"camera_info/{camera}": self.camera_info.format(camera=camera)}
        return wired


def load(preset: str) -> Topics:
    """The topics of a preset."""
    return config.load(Topics, share(f"config/topics/{preset}.yaml"))
