"""Speed of the ego compared with the traffic around it: the Leaderboard's minimum speed, Bench2Drive's efficiency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spanvla_ros.geometry import to_local

if TYPE_CHECKING:
    from spanvla_ros.evaluation.driving import Truth

# the time that a car needs to get going, at first and whenever it was held up
_GO_S = 4.0
_JUNCTION_M = 15.0
_LAMP_M = 50.0
_GOAL_M = 40.0
_GAP_M, _HEADWAY_S = 6.0, 2.0
_MARGIN_M = 0.5
_ENOUGH_S = 3.0


class Pace:
    """Compares where nothing hinders the ego: a car that waits for a lamp, a pedestrian or its leader is not slow.

    Left out are junctions from 15 m before the line on, the last 50 m before a lamp that is not green, the last 40 m before a
    goal "standstill", instants with something in the ego's way within 6 m plus 2 s of driving, and the 4 s after each of these
    and after the start. Our routes are shorter than one of the four stretches that CARLA compares on, so a route has one.
    """

    def __init__(self):
        self._ego = self._traffic = self._seconds = 0.0
        self._last_s = self._held_s = 0.0

    def watch(self, now: Truth) -> None:
        passed, self._last_s = now.time_s - self._last_s, now.time_s
        if _regulated(now) or _hindered(now):
            self._held_s = now.time_s
        if now.traffic_speed_mps is None or now.time_s < self._held_s + _GO_S:
            return
        self._ego += now.speed_mps * passed
        self._traffic += now.traffic_speed_mps * passed
        self._seconds += passed

    @property
    def percent(self) -> float | None:
        """Mean speed in percent of the traffic's, which may exceed 100; None when less than 3 s could be compared."""
        return 100 * self._ego / self._traffic if self._seconds >= _ENOUGH_S and self._traffic > 0 else None


def _regulated(now: Truth) -> bool:
    if now.goal == "standstill" and (now.held_s > 0 or now.route_length_m - now.route_m < _GOAL_M):
        return True
    reach = _LAMP_M if now.lamp in ("red", "yellow") else _JUNCTION_M
    return bool(now.line) and now.front_to_line_m < reach


def _hindered(now: Truth) -> bool:
    """Something overlaps the straight corridor ahead of the front bumper."""
    if not now.things:
        return False
    corners = np.stack([thing.corners for thing in now.things.values()])
    local = to_local(now.pose, np.concatenate([corners, np.zeros((len(corners), 4, 1))], axis=2))
    mine = to_local(now.pose, np.column_stack([now.footprint, np.zeros(4)]))
    front, half = mine[:, 0].max(), mine[:, 1].max() + _MARGIN_M
    reach = front + _GAP_M + _HEADWAY_S * now.speed_mps
    x, y = local[..., 0], local[..., 1]
    return bool(((x.max(1) > front) & (x.min(1) < reach) & (y.max(1) > -half) & (y.min(1) < half)).any())
