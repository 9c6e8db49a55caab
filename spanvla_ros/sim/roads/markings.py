"""Paint on the road: borders, lane dashes, the line against oncoming traffic, stop and yield lines, zebras."""

from __future__ import annotations

import numpy as np
from shapely.geometry import LineString, Polygon
from shapely.ops import substring

from spanvla_ros.sim.roads.lanes import Lane

_SHORTEST_M = 5.0  # shorter pieces of road, between two junctions, have no lines along them


def zebra(line: LineString, width: float) -> list[Polygon]:
    """Stripes parallel to the traffic of a crossing, which lies across the road."""
    stripes = []
    for start in np.arange(0.5, line.length - 0.3, 1.0):
        a, b = line.interpolate(start), line.interpolate(min(start + 0.5, line.length))
        stripes.append(LineString([a, b]).buffer(width * 0.4, cap_style="flat"))
    return stripes


def along(row: list[Lane], side: int, oncoming: bool) -> tuple[list[Polygon], list[Polygon]]:
    """White and yellow paint along the lanes of one edge, kerb to middle; `side` +1 where the middle is to the left."""
    white, yellow = [], []
    if row[0].length_m < _SHORTEST_M:
        return white, yellow
    for k, lane in enumerate(row):
        half = lane.width_m / 2
        if k == 0:
            white.append(_solid(lane, side * (-half + 0.2)))
        if k < len(row) - 1:
            border = _offset(lane, side * half)
            white += [substring(border, at, at + 3.0).buffer(0.08, cap_style="flat") for at in np.arange(0, border.length - 3, 7.5)]
        elif oncoming:
            yellow.append(_solid(lane, side * (half - 0.16)))
        else:
            white.append(_solid(lane, side * (half - 0.2)))
    return white, yellow


def across(lane: Lane, control: str) -> list[Polygon]:
    """What is painted at the end of a lane: a stop line for "signal" and "stop", a row of dashes for "yield"."""
    points, half = lane.baseline, lane.width_m / 2
    ahead = points[-1] - points[-2]
    ahead = ahead / np.hypot(*ahead)
    left = np.array([-ahead[1], ahead[0]]) * (half - 0.1)
    middle = points[-1] - ahead * 0.25
    line = LineString([middle - left, middle + left])
    if control == "yield":
        starts = np.arange(0.1, line.length - 0.4, 0.8)
        return [substring(line, at, at + 0.45).buffer(0.25, cap_style="flat") for at in starts]
    return [line.buffer(0.25, cap_style="flat")] if control in ("signal", "stop") else []


def entry_control(lane: Lane, lanes: dict[str, Lane]) -> str | None:
    """Control that holds for everything that leaves a lane; None where some of it has the right of way."""
    controls = {lanes[name].control for name in lane.successors}
    if "priority" in controls or not controls:
        return None
    return next(control for control in ("signal", "stop", "yield") if control in controls)


def _offset(lane: Lane, distance: float) -> LineString:
    return LineString(lane.baseline).offset_curve(distance)


def _solid(lane: Lane, distance: float) -> Polygon:
    return _offset(lane, distance).buffer(0.08, cap_style="flat")
