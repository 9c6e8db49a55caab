"""Everything in the world that is not the ego: vehicles, people and obstacles as oriented boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# kind -> (length, width, height) in metres, where an actor brings no own size
SIZES = {
    "car": (4.5, 1.85, 1.5),
    "van": (5.4, 2.0, 2.1),
    "truck": (8.5, 2.45, 3.1),
    "bus": (11.0, 2.5, 3.1),
    "bicycle": (1.8, 0.6, 1.75),
    "pedestrian": (0.5, 0.6, 1.75),
    "cone": (0.44, 0.44, 0.75),
    "barrier": (2.4, 0.45, 1.0),
}
STATIC = frozenset({"cone", "barrier"})
_PDM_TYPES = {"bicycle": "BICYCLE", "pedestrian": "PEDESTRIAN", "cone": "TRAFFIC_CONE", "barrier": "BARRIER"}


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A box with its centre at (x, y), yaw and speed in the world frame.

    `paint` picks its colour; `indicator` is "", "left" or "right"; `gait_m` is the distance walked, for the legs.
    """

    name: str
    kind: str
    x: float
    y: float
    yaw: float
    length_m: float
    width_m: float
    height_m: float
    speed_mps: float
    braking: bool = False
    paint: int = 0
    indicator: str = ""
    gait_m: float = 0.0

    @property
    def is_static(self) -> bool:
        return self.kind in STATIC

    @property
    def pdm_type(self) -> str:
        """Type as the PDM score knows it."""
        return _PDM_TYPES.get(self.kind, "VEHICLE")

    @property
    def corners(self) -> np.ndarray:
        """(4, 2) front left, rear left, rear right, front right."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        ahead = np.array([cos, sin]) * self.length_m / 2
        left = np.array([-sin, cos]) * self.width_m / 2
        return np.array([self.x, self.y]) + np.array([ahead + left, -ahead + left, -ahead - left, ahead - left])
