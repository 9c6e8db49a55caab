"""Where the cameras sit: config/rigs/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spanvla_ros import config


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole of width x height pixels, mounted at (x, y, z) in base_link, looking along yaw (left positive) and pitch (down positive)."""

    width: int
    height: int
    hfov_deg: float
    x_m: float
    y_m: float
    z_m: float
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0

    @property
    def focal_px(self) -> float:
        return self.width / (2 * np.tan(np.radians(self.hfov_deg / 2)))

    @property
    def base_from_optical(self) -> np.ndarray:
        """Pose (4, 4) of the optical frame (x right, y down, z ahead) in base_link."""
        yaw, pitch = np.radians(self.yaw_deg), np.radians(self.pitch_deg)
        ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
        pose[:3, 3] = self.x_m, self.y_m, self.z_m
        return pose


@dataclass(frozen=True, kw_only=True)
class Rig:
    cameras: dict[str, Camera]


def load_rig(path: Path) -> Rig:
    """Read config/rigs/*.yaml."""
    return config.load(Rig, path)
