"""A collision: where the boxes touch, whose fault it is, how hard it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from spanvla_ros.geometry import to_local

if TYPE_CHECKING:
    from spanvla_ros.evaluation.driving import Thing, Truth

_STANDING_MPS = 0.1
# behind this part of the ego's length, counted from its rear bumper, a contact is "from behind"
_REAR_SHARE = 0.25
THREAT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Contact:
    """First instant of a collision.

    at_fault: unless the ego stood (below 0.1 m/s) or was struck from behind: by a thing that moves faster along the ego's
    heading than the ego itself, with the middle of the contact in the rear quarter of the ego. A car that is hit from the side
    by somebody who runs a red light is at fault by this rule: it is supposed to see it coming.
    impact_mps: relative speed. reference_mps: what it would have been had the ego kept the highest speed of the 5 s before, the
    thing doing what it did; NeuroNCAP's "impact speed if nothing is done" without a second run.
    """

    at_fault: bool
    speed_mps: float
    impact_mps: float
    reference_mps: float

    @property
    def neuroncap(self) -> float:
        """Score of NeuroNCAP for a run with this collision: 4 max(0, 1 - v_impact / v_reference)."""
        return 4 * max(0.0, 1 - self.impact_mps / max(self.reference_mps, 1e-6))

    def as_dict(self) -> dict[str, Any]:
        names = ("at_fault", "speed_mps", "impact_mps", "reference_mps")
        return {name: getattr(self, name) for name in names}


class Approach:
    """Highest speed of the ego in the last 5 s."""

    def __init__(self):
        self._speeds: deque[tuple[float, float]] = deque()

    def watch(self, now: Truth) -> None:
        self._speeds.append((now.time_s, now.speed_mps))
        while self._speeds[0][0] < now.time_s - THREAT_S:
            self._speeds.popleft()

    @property
    def top_mps(self) -> float:
        return max(speed for _, speed in self._speeds)


def touch(now: Truth, thing: Thing, approach: Approach) -> Contact:
    """The contact of the ego with a thing that overlaps it."""
    heading = np.array([np.cos(now.pose[2]), np.sin(now.pose[2])])
    velocity = thing.velocity
    along = float(velocity @ heading)
    from_behind = _from_rear(now, thing) and along > now.speed_mps
    return Contact(
        at_fault=not (now.speed_mps < _STANDING_MPS or from_behind),
        speed_mps=now.speed_mps,
        impact_mps=float(np.hypot(*(now.speed_mps * heading - velocity))),
        reference_mps=float(np.hypot(*(approach.top_mps * heading - velocity))),
    )


def _from_rear(now: Truth, thing: Thing) -> bool:
    mine, theirs = (to_local(now.pose, np.column_stack([box, np.zeros(4)]))[:, :2] for box in (now.footprint, thing.corners))
    _, shared = cv2.intersectConvexConvex(mine.astype(np.float32), theirs.astype(np.float32))
    if shared is None:
        return False
    rear, front = mine[:, 0].min(), mine[:, 0].max()
    return float(shared.reshape(-1, 2)[:, 0].mean()) < rear + _REAR_SHARE * (front - rear)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """True if two convex quadrilaterals (4, 2) overlap (separating axes)."""
    low, high = np.maximum(a.min(axis=0), b.min(axis=0)), np.minimum(a.max(axis=0), b.max(axis=0))
    if (low > high).any():  # most pairs are far apart: decide that cheaply
        return False
    for shape in (a, b):
        edges = np.roll(shape, -1, axis=0) - shape
        axes = np.column_stack([-edges[:, 1], edges[:, 0]])
        first, second = a @ axes.T, b @ axes.T
        if ((first.max(axis=0) < second.min(axis=0)) | (second.max(axis=0) < first.min(axis=0))).any():
            return False
    return True
