"""Closed-loop judge of one episode: route completion, infractions and driving score (CARLA Leaderboard 2.1 and 2.0).

The numbers are those of our simulator ("minisim DS") and can't be compared with published CARLA tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spanvla_ros.evaluation.contact import Approach, Contact, overlap, touch
from spanvla_ros.evaluation.pace import Pace
from spanvla_ros.evaluation.smoothness import Motion

# infraction -> (coefficient of Leaderboard 2.1, factor of Leaderboard 2.0); min_speed scales with what is missing
PENALTIES = {
    "collision_pedestrian": (1.0, 0.50),
    "collision_vehicle": (0.7, 0.60),
    "collision_static": (0.6, 0.65),
    "red_light": (0.4, 0.70),
    "stop_sign": (0.25, 0.80),
    "scenario_timeout": (0.4, 0.70),
    "min_speed": (0.4, 0.70),
}
DEVIATION_M = 30.0
BLOCKED_S = 60.0  # as in Bench2Drive; the Leaderboard waits 180 s
HELD_S = 3.0  # this long in place where the scenario wants a standstill is its whole route
STANDING_MPS = 0.1
STOP_ZONE_M = 4.0  # a stop sign is obeyed by a standstill with the bumper this close before the line
EXCUSED_S = 5.0
# two touches of one thing within this time are one collision
_SAME_COLLISION_S = 3.0
# a line whose approach nobody saw, because another junction hid it, was crossed at most this long ago
_LATE_LINE_M = 6.0


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that can be hit: kind "vehicle", "pedestrian" or "static"; corners (4, 2); speed along its yaw."""

    kind: str
    corners: np.ndarray
    speed_mps: float
    yaw: float

    @property
    def velocity(self) -> np.ndarray:
        """(2,) in the world frame."""
        return self.speed_mps * np.array([np.cos(self.yaw), np.sin(self.yaw)])


@dataclass(frozen=True, kw_only=True)
class Truth:
    """State of an episode at one instant, in the world frame: what a simulator shows the judge, and nobody else.

    pose (3,) of the rear axle; footprint (4, 2): corners of the ego; things: by name, all that are near; route_m: distance
    along the route, of route_length_m; off_route_m: distance from the path; line: name of the next or current stop line,
    "" without one; front_to_line_m: that line minus front bumper along the path; lamp: its colour, "" without a signal;
    control: "signal", "stop", "yield", "priority" or None; off_road: a corner of the ego lies off the drivable area; off_lane:
    its centre lies off the lanes that the route lets it use; traffic_speed_mps: mean of the vehicles within 50 m that go the
    same way on the same road, None without any; held_s: how long the ego has stood where a goal "standstill" wants it; goal:
    "route" or "standstill".
    """

    time_s: float
    pose: np.ndarray
    speed_mps: float
    acceleration_mps2: float
    yaw_rate_rps: float
    footprint: np.ndarray
    things: dict[str, Thing]
    route_m: float
    route_length_m: float
    off_route_m: float
    line: str
    front_to_line_m: float
    lamp: str
    control: str | None
    off_road: bool
    off_lane: bool
    traffic_speed_mps: float | None
    held_s: float = 0.0
    goal: str = "route"


class Judge:
    """Watches one episode. `watch` every simulation step, then `result`.

    The share q of the driven distance with a corner beyond the kerb (off_road) or the centre off the lanes
    (outside_route_lanes) is the Leaderboard's (1 - q) factor. route_deviation, blocked and scenario_timeout end the episode;
    here a route holds one scenario, so the time limit of both is the same. A drive that the scenario lets begin off the lanes
    has 5 s to come back.
    """

    def __init__(self, family: str, seed: int, time_limit_s: float):
        self._family, self._seed, self._time_limit_s = family, seed, time_limit_s
        self._last: Truth | None = None
        self._best_m = self._driven_m = self._outside_m = 0.0
        self._still_since_s = 0.0
        self._excused = True  # outside since the first instant
        self._touches: dict[str, float] = {}
        self._open: dict[str, dict[str, Any]] = {}
        self._lines: dict[str, float] = {}  # stop line -> front_to_line_m when it was last seen
        self._stopped_at: set[str] = set()
        self._pace, self._motion, self._approach = Pace(), Motion(), Approach()
        self._contacts: list[Contact] = []
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
        self._excused = self._excused and (now.off_lane or now.off_road) and now.time_s < EXCUSED_S
        off_road, off_lane = (now.off_road, now.off_lane) if not self._excused else (False, False)
        self._outside_m += moved if off_lane or off_road else 0.0
        self._best_m = max(self._best_m, now.route_m)
        self._pace.watch(now)
        self._motion.watch(now)
        self._approach.watch(now)
        self._stretch("off_road", off_road, now, moved)
        self._stretch("outside_route_lanes", off_lane, now, moved)
        self._collisions(now)
        self._stop_line(now, first=before is now)
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
        for name, thing in now.things.items():
            if not overlap(now.footprint, thing.corners):
                continue
            if now.time_s - self._touches.get(name, -np.inf) > _SAME_COLLISION_S:
                contact = touch(now, thing, self._approach)
                self._contacts.append(contact)
                self._report(f"collision_{thing.kind}", now, actor=name, **contact.as_dict())
            self._touches[name] = now.time_s

    def _stop_line(self, now: Truth, first: bool) -> None:
        """Crossing of the line by the front bumper, against a red lamp or a stop sign without a standstill."""
        if not now.line:
            return
        ahead_m = now.front_to_line_m
        previous_m = self._lines.get(now.line, 0.0 if first or ahead_m < -_LATE_LINE_M else np.inf)
        self._lines[now.line] = ahead_m
        if 0 < ahead_m <= STOP_ZONE_M and now.speed_mps < STANDING_MPS:
            self._stopped_at.add(now.line)
        if not previous_m > 0 >= ahead_m or now.off_route_m >= 10.0:
            return
        if now.lamp == "red":
            self._report("red_light", now, speed_mps=now.speed_mps, line=now.line)
        elif now.control == "stop" and now.line not in self._stopped_at:
            self._report("stop_sign", now, speed_mps=now.speed_mps, line=now.line)
        self._stopped_at.discard(now.line)

    def _end(self, now: Truth) -> None:
        if now.speed_mps >= STANDING_MPS:
            self._still_since_s = now.time_s
        if now.held_s >= HELD_S if now.goal == "standstill" else now.route_m >= now.route_length_m:
            self.ended = "completed"
        elif now.off_route_m > DEVIATION_M:
            self._report("route_deviation", now)
            self.ended = "route_deviation"
        elif now.time_s - self._still_since_s > BLOCKED_S:
            self._report("blocked", now)
            self.ended = "blocked"
        elif now.time_s > self._time_limit_s:
            self._report("scenario_timeout", now)
            self.ended = "scenario_timeout"

    def _report(self, kind: str, now: Truth, **values: Any) -> dict[str, Any]:
        rounded = {k: round(float(v), 3) if isinstance(v, (float, np.floating)) else v for k, v in values.items()}
        entry = {"type": kind, "time_s": round(float(now.time_s), 2), **rounded}
        self.infractions.append(entry)
        return entry

    def result(self) -> dict[str, Any]:
        """The episode as plain JSON values; scores are 0-100, shares (route_completion, outside_share, smoothness) 0-1.

        success: completed and nothing wrong but perhaps too slow (Bench2Drive). at_fault: collisions with at_fault.
        """
        now = self._last
        length = now.route_length_m if now else 1.0
        standstill = now is not None and now.goal == "standstill"
        completion = 1.0 if self.ended == "completed" else min(self._best_m / length, 1.0)
        if standstill and self.ended != "completed":
            completion = min(completion, 0.99)  # it went by where it should have stood, or did not stay
        share = self._outside_m / max(self._driven_m, 1e-6)
        found = self._pace.percent
        infractions = list(self.infractions)
        if found is not None and found < 100:
            infractions.append({"type": "min_speed", "time_s": round(float(now.time_s), 2), "percent": round(found, 1)})
        lb21, lb20 = penalties(infractions)
        return {
            "family": self._family,
            "seed": self._seed,
            "route_completion": round(completion, 4),
            "driving_score_lb21": round(100 * completion * (1 - share) / (1 + lb21), 3),
            "driving_score_lb20": round(100 * completion * (1 - share) * lb20, 3),
            "success": self.ended == "completed" and all(entry["type"] == "min_speed" for entry in infractions),
            "at_fault": sum(contact.at_fault for contact in self._contacts),
            "infractions": infractions,
            "ended": self.ended or "stopped",
            "goal": now.goal if now else "route",
            "duration_s": round(float(now.time_s), 2) if now else 0.0,
            "distance_m": round(self._driven_m, 2),
            "route_length_m": round(float(length), 2),
            "outside_share": round(share, 4),
            "smoothness": self._motion.smooth_share,
            "efficiency": None if found is None else round(found, 1),
            "neuroncap": round(self._contacts[0].neuroncap, 3) if self._contacts else 5.0,
        }


def penalties(infractions: list[dict[str, Any]]) -> tuple[float, float]:
    """Sum of the coefficients of Leaderboard 2.1 and product of the factors of 2.0."""
    total, product = 0.0, 1.0
    for entry in infractions:
        coefficient, factor = PENALTIES.get(entry["type"], (0.0, 1.0))
        missing = 1 - entry["percent"] / 100 if entry["type"] == "min_speed" else 1.0
        total += coefficient * missing
        product *= 1 - (1 - factor) * missing
    return total, product
