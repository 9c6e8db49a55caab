"""What a drive looked like: instants at 5 Hz with everything that a picture of it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERIOD_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The static map as rings (N, 2) of its areas, outer and inner ones alike (even-odd), and the route (M, 2), in the world frame."""

    drivable: Sequence[np.ndarray]
    sidewalk: Sequence[np.ndarray]
    white: Sequence[np.ndarray]
    yellow: Sequence[np.ndarray]
    route: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Box:
    """A thing: kind as the simulator names it, corners (4, 2)."""

    name: str
    kind: str
    corners: np.ndarray
    braking: bool = False


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One instant. plan (K, 3): poses of the newest one in the world frame; stop (3,): middle and heading of the next line, with the
    colour of its lamp; jpeg: what the front camera delivered; text: the planner's reason."""

    time_s: float
    pose: np.ndarray
    speed_mps: float
    footprint: np.ndarray
    boxes: Sequence[Box]
    plan: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    stop: np.ndarray | None = None
    lamp: str = ""
    jpeg: bytes | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Tape:
    """A whole drive; result: as the judge gave it."""

    result: Mapping[str, Any]
    ground: Ground
    snapshots: Sequence[Snapshot]

    @property
    def name(self) -> str:
        return f"{self.result['family']} {self.result['seed']}"

    @property
    def fault_s(self) -> float | None:
        """When things went wrong: the first infraction but being slow, or the end of a drive that did not succeed; None for a success."""
        if self.result["success"]:
            return None
        times = [entry["time_s"] for entry in self.result["infractions"] if entry["type"] != "min_speed"]
        return times[0] if times else self.result["duration_s"]

    def around(self, time_s: float, before_s: float, after_s: float) -> Iterator[Snapshot]:
        """The instants of a stretch of time."""
        return (s for s in self.snapshots if time_s - before_s <= s.time_s <= time_s + after_s)


def rings(geometry: Any) -> list[np.ndarray]:
    """Rings (N, 2) of a shapely polygon, multipolygon or collection of them."""
    if geometry.geom_type == "Polygon":
        return [np.asarray(ring.coords)[:, :2] for ring in (geometry.exterior, *geometry.interiors)] if not geometry.is_empty else []
    return [ring for part in getattr(geometry, "geoms", ()) for ring in rings(part)]
