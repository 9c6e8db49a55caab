"""Closed-loop judge: route completion, infractions and driving score, with the formulas of CARLA Leaderboard 2.1 and 2.0.

The numbers are those of our simulator and can't be compared with published CARLA tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# infraction -> (coefficient of Leaderboard 2.1, factor of Leaderboard 2.0)
PENALTIES = {"collision_vehicle": (0.7, 0.60), "red_light": (0.4, 0.70)}
DEVIATION_M = 30.0
BLOCKED_S = 60.0
_STANDING_MPS = 0.1
# two touches of one vehicle within this time are one collision
_SAME_COLLISION_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Truth:
    """State of an episode at one instant, in the world frame: what a simulator shows the judge, and nobody else.

    footprint (4, 2): corners of the ego; boxes: name -> corners (4, 2) of the vehicles within 30 m; route_m: distance
    driven along the route, of route_length_m; off_route_m: distance from the path; front_to_line_m: stop line minus
    front bumper, along the path; off_road: a corner of the ego lies off the drivable area; off_lane: its centre lies off the
    lanes of its direction.
    """

    time_s: float
    pose: np.ndarray
    speed_mps: float
    footprint: np.ndarray
    boxes: dict[str, np.ndarray]
    route_m: float
    route_length_m: float
    off_route_m: float
    front_to_line_m: float
    lamp: str
    off_road: bool
    off_lane: bool


class Judge:
    """Watches one episode. `watch` every simulation step, then `result`.

    Progress counts only while the centre of the car is on the lanes of the route. off_road: a corner of the car beyond the
    kerb; outside_route_lanes: its centre off the lanes. The share q of the driven distance with either is the Leaderboard's
    (1 - q) factor. route_deviation, blocked and timeout end the episode.
    """

    def __init__(self, family: str, seed: int, time_limit_s: float):
        self._family = family
        self._seed = seed
        self._time_limit_s = time_limit_s
        self._last: Truth | None = None
        self._completed_m = 0.0
        self._best_m = 0.0
        self._driven_m = 0.0
        self._outside_m = 0.0
        self._still_since_s: float | None = None
        self._touches: dict[str, float] = {}
        self._open: dict[str, dict[str, Any]] = {}
        self.infractions: list[dict[str, Any]] = []
        self.ended: str | None = None

    def watch(self, now: Truth) -> None:
        """Take in one instant; later ones than the end of the episode change nothing."""
        if self.ended:
            return
        before = self._last or now
        self._last = now
        moved = float(np.hypot(*(now.pose - before.pose)[:2]))
        self._driven_m += moved
        outside = now.off_lane or now.off_road
        self._outside_m += moved if outside else 0.0
        if not now.off_lane:
            self._completed_m += max(now.route_m - self._best_m, 0.0)
        self._best_m = max(self._best_m, now.route_m)
        self._stretch("off_road", now.off_road, now, moved)
        self._stretch("outside_route_lanes", now.off_lane, now, moved)
        self._collisions(now)
        if before.front_to_line_m > 0 >= now.front_to_line_m and now.lamp == "red" and now.off_route_m < 10.0:
            self._report("red_light", now, speed_mps=now.speed_mps)
        self._end(now)

    def _stretch(self, kind: str, holds: bool, now: Truth, moved: float) -> None:
        """One infraction per uninterrupted stretch, with its length."""
        if not holds:
            self._open.pop(kind, None)
            return
        if kind not in self._open:
            self._open[kind] = self._report(kind, now, length_m=0.0)
        self._open[kind]["length_m"] = round(self._open[kind]["length_m"] + moved, 3)

    def _collisions(self, now: Truth) -> None:
        for name, corners in now.boxes.items():
            if not overlap(now.footprint, corners):
                continue
            if now.time_s - self._touches.get(name, -np.inf) > _SAME_COLLISION_S:
                self._report("collision_vehicle", now, actor=name, speed_mps=now.speed_mps)
            self._touches[name] = now.time_s

    def _end(self, now: Truth) -> None:
        if now.speed_mps >= _STANDING_MPS or self._still_since_s is None:
            self._still_since_s = now.time_s
        if now.route_m >= now.route_length_m:
            self.ended = "completed"
        elif now.off_route_m > DEVIATION_M:
            self._report("route_deviation", now)
            self.ended = "route_deviation"
        elif now.time_s - self._still_since_s > BLOCKED_S:
            self._report("blocked", now)
            self.ended = "blocked"
        elif now.time_s > self._time_limit_s:
            self._report("timeout", now)
            self.ended = "timeout"

    def _report(self, kind: str, now: Truth, **values: Any) -> dict[str, Any]:
        rounded = {k: round(float(v), 3) if isinstance(v, (float, np.floating)) else v for k, v in values.items()}
        entry = {"type": kind, "time_s": round(float(now.time_s), 2), **rounded}
        self.infractions.append(entry)
        return entry

    def result(self) -> dict[str, Any]:
        """The episode as plain JSON values; scores are 0-100, route_completion is 0-1."""
        length = self._last.route_length_m if self._last else 1.0
        completion = min(self._completed_m / length, 1.0)
        share = self._outside_m / max(self._driven_m, 1e-6)
        total, product = 0.0, 1.0
        for entry in self.infractions:
            coefficient, factor = PENALTIES.get(entry["type"], (0.0, 1.0))
            total += coefficient
            product *= factor
        return {
            "family": self._family,
            "seed": self._seed,
            "route_completion": round(completion, 4),
            "driving_score_lb21": round(100 * completion * (1 - share) / (1 + total), 3),
            "driving_score_lb20": round(100 * completion * (1 - share) * product, 3),
            "infractions": self.infractions,
            "ended": self.ended or "stopped",
            "duration_s": round(float(self._last.time_s), 2) if self._last else 0.0,
            "route_length_m": round(float(length), 2),
            "outside_share": round(share, 4),
        }


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """True if two convex quadrilaterals (4, 2) overlap (separating axes)."""
    for shape in (a, b):
        edges = np.roll(shape, -1, axis=0) - shape
        axes = np.column_stack([-edges[:, 1], edges[:, 0]])
        first, second = a @ axes.T, b @ axes.T
        if ((first.max(axis=0) < second.min(axis=0)) | (second.max(axis=0) < first.min(axis=0))).any():
            return False
    return True


def summarize(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over episodes, in all and per family."""

    def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
        names = ("route_completion", "driving_score_lb21", "driving_score_lb20")
        values = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}
        return {"episodes": len(rows), **values, "infractions": sum(len(row["infractions"]) for row in rows)}

    if not episodes:
        return {}
    families = list(dict.fromkeys(row["family"] for row in episodes))
    return {"all": means(episodes), "families": {f: means([row for row in episodes if row["family"] == f]) for f in families}}
