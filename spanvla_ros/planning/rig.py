"""Where the cameras sit: config/rigs/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, kw_only=True)
class Rig:
    cameras: dict[str, Camera]


def load_rig(path: Path) -> Rig:
    """Read config/rigs/*.yaml."""
    return config.load(Rig, path)
