"""Finds a place on a map that suits a scenario family."""

from __future__ import annotations

import numpy as np
from shapely.geometry import LineString, Point

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import SPACING_M, Path, Route
from spanvla_ros.sim.scenarios.family import RouteSpec, draw

_MARGIN_START_M = 22.0  # room for traffic behind the ego at the map's edge
_MARGIN_END_M = 55.0  # a plan of 5 s must not leave the map
_ATTEMPTS = 200
_BEND_MARGIN_M = 25.0


class NoPlace(SpanVLAError):
    """The map has no place as the scenario needs it."""


def find(road: RoadMap, spec: RouteSpec, rng: np.random.Generator) -> tuple[Route, float]:
    """A route that suits `spec` and the station of its feature on the route's path. NoPlace where the map has none."""
    starts = sorted(name for name, lane in road.lanes.items() if lane.junction is None and lane.length_m > 5.0)
    for _ in range(_ATTEMPTS):
        path = _stroll(road, str(rng.choice(starts)), spec, rng)
        before, length = float(draw(spec.before_m, rng)), float(draw(spec.length_m, rng))
        low, high = _MARGIN_START_M, path.length_m - _MARGIN_END_M - length
        if high <= low:
            continue
        if spec.feature == "any":
            start = float(rng.uniform(low, high))
            return Route(path=path, start_s=start, end_s=start + length), start + before
        stations = [s for s in _stations(road, path, spec) if low <= s - before <= high]
        if stations:
            station = float(rng.choice(stations))
            return Route(path=path, start_s=station - before, end_s=station - before + length), station
    raise NoPlace(f"map {road.map_id} has no place for a route with {spec.feature}{f' to the {spec.turn}' if spec.turn else ''}")


def _stroll(road: RoadMap, start: str, spec: RouteSpec, rng: np.random.Generator) -> Path:
    """A random way from a lane onwards, some 450 m long where the map allows it."""
    names, length, changes = [start], road.lanes[start].length_m, []
    while length < 450.0:
        lane = road.lanes[names[-1]]
        following = lane.successors
        if not following and lane.inner is not None and lane.length_m > 60.0:
            # an acceleration lane ends: over to its neighbour, whose onward ways are ours
            changes.append((lane.name, lane.length_m - 55.0, lane.length_m - 10.0))
            following = road.lanes[lane.inner].successors
        if not following:
            break
        names.append(str(rng.choice(sorted(following))))
        length += road.lanes[names[-1]].length_m
    return road.path(names, tuple(changes))


def _stations(road: RoadMap, path: Path, spec: RouteSpec) -> list[float]:
    knots = np.arange(len(path.xy)) * SPACING_M
    if spec.feature in ("signal", "junction"):
        signals = spec.feature == "signal"
        return [stop.s for stop in path.stops if (stop.signal is not None or not signals) and spec.turn in (None, stop.turn.value)]
    if spec.feature == "crossing":
        line = LineString(path.xy)
        found = [line.intersection(LineString(crossing.line)) for crossing in road.crossings]
        return [float(line.project(point)) for point in found if isinstance(point, Point) and not point.is_empty]
    if spec.feature == "merge":
        return [span.end_s for span in path.spans if not road.lanes[span.lane].successors and road.lanes[span.lane].inner is not None]
    if spec.feature == "bend":
        sharp = np.abs(path.curvature)
        inside = (sharp >= 1 / spec.radius_m[1]) & (sharp <= 1 / spec.radius_m[0]) & ~_near_junction(path, _BEND_MARGIN_M)
        # the peak of every bend
        peak = inside & (sharp >= np.roll(sharp, 1)) & (sharp > np.roll(sharp, -1))
        return knots[peak].tolist()
    free = (np.abs(path.curvature) < 0.006) & ~_near_junction(path, 12.0)
    width = road.lanes[path.spans[0].lane].width_m
    if spec.lanes > 1:
        free &= path.inner_m > (spec.lanes - 0.6) * width
    if spec.oncoming:
        free &= (path.oncoming_m > 2.5) & (path.inner_m < width) & (path.outer_m < width)
    need = int(spec.stretch_m / SPACING_M)
    total = np.r_[0, np.cumsum(free)]
    starts = np.flatnonzero(total[need:] - total[: len(total) - need] == need)
    return knots[starts[::8]].tolist()


def _near_junction(path: Path, margin_m: float) -> np.ndarray:
    """(N,) True within `margin_m` of a junction."""
    knots = np.arange(len(path.xy)) * SPACING_M
    near = np.zeros(len(knots), bool)
    for stop in path.stops:
        near |= (knots > stop.s - margin_m) & (knots < stop.exit_s + margin_m)
    return near
