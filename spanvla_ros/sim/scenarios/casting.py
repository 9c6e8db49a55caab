"""Turns the actors of a family into roles on the route of an episode."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
import shapely.ops
from shapely.geometry import LineString, Point

from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import SPACING_M, Path
from spanvla_ros.sim.scenarios.cast import Phase, Role, Track
from spanvla_ros.sim.scenarios.family import ActorSpec, Draw, PhaseSpec, draw
from spanvla_ros.sim.scenarios.place import NoPlace

_KERB_M = 1.4  # a walker waits so far from the lanes
_REACH_M = 130.0
_ORIGINS = {"left": ("left",), "right": ("right",), "opposite": ("opposite",), "side": ("left", "right")}


class Casting:
    """Turns actor specs into roles on the route at hand."""

    def __init__(self, world: RoadMap, path: Path, feature_s: float, rng: np.random.Generator):
        self._road, self._path, self._feature_s, self._rng = world, path, feature_s, rng
        self._own = Track(xy=path.xy, yaw=path.yaw)
        self._width_m = world.lanes[path.lane_at(feature_s)].width_m

    def roles(self, specs: tuple[ActorSpec, ...]) -> tuple[Role, ...]:
        found: list[Role] = []
        for number, spec in enumerate(specs):
            if self._rng.random() < spec.chance:
                found += self._row(spec, f"{spec.line}{number}")
        return tuple(found)

    def _row(self, spec: ActorSpec, name: str) -> Iterator[Role]:
        rng, side = self._rng, self._road.side
        count, at_m = round(draw(spec.count, rng)), float(draw(spec.at_m, rng))
        inward = draw(spec.inward_m, rng) + round(draw(spec.lane, rng)) * self._width_m
        last = inward if spec.inward_to_m is None else draw(spec.inward_to_m, rng)
        track, origin_s, meet_s = self._track(spec, at_m)
        for k in range(count):
            kind = draw(spec.kind, rng)
            speed = float(draw(spec.speed_mps, rng))
            here = inward + (last - inward) * k / max(count - 1, 1)
            # a row stands behind its first one on the way it drives, ahead of it along the route
            step = k * draw(spec.spacing_m, rng)
            yield Role(
                name=f"{name}_{k}",
                kind=kind,
                track=track,
                s=origin_s + (step if spec.line == "route" else -step),
                lateral_m=side * here,
                speed_mps=speed,
                meet_s=meet_s,
                turned_rad=math.radians(draw(spec.turned_deg, rng)),
                careful=spec.careful,
                paint=zlib.crc32(f"{name}{k}{rng.integers(1 << 16)}".encode()),
                phases=tuple(self._phase(p) for p in spec.phases),
            )

    def _phase(self, spec: PhaseSpec) -> Phase:
        def number(value: Draw) -> float | None:
            return None if value is None else float(draw(value, self._rng))

        inward = number(spec.inward_m)
        return Phase(
            ego_gap_m=number(spec.ego_gap_m),
            ego_eta_s=number(spec.ego_eta_s),
            after_s=number(spec.after_s),
            speed_mps=number(spec.speed_mps),
            acceleration_mps2=float(draw(spec.acceleration_mps2, self._rng)),
            lateral_m=None if inward is None else self._road.side * inward,
            over_s=float(draw(spec.over_s, self._rng)),
        )

    def _track(self, spec: ActorSpec, at_m: float) -> tuple[Track, float, float]:
        """Track, station on it, station on the ego's path where they meet."""
        path, at = self._path, self._feature_s + at_m
        if spec.line == "route":
            return self._own, at, at
        if spec.line == "oncoming":
            i = min(round(self._feature_s / SPACING_M), len(path.xy) - 1)
            # their lane's centre as seen from ours
            across = self._road.side * float(path.inner_m[i] + path.oncoming_m[i] / 2)
            normal = np.column_stack([-np.sin(path.yaw), np.cos(path.yaw)])
            track = Track.of((path.xy + across * normal)[::-1])
            pose = path.pose(at)
            s, _ = track.project(*(pose[:2] + across * np.array([-math.sin(pose[2]), math.cos(pose[2])])))
            return track, s, at
        if spec.line == "across":
            return self._walk(spec, at)
        if spec.line == "zebra":
            return self._zebra(spec, at)
        return self._main(at_m) if spec.line == "main" else self._foe(spec, at_m)

    def _walk(self, spec: ActorSpec, at: float) -> tuple[Track, float, float]:
        path, side = self._path, self._road.side
        i = min(round(at / SPACING_M), len(path.xy) - 1)
        near, far = path.outer_m[i] + _KERB_M, path.inner_m[i] + path.oncoming_m[i] + _KERB_M
        x, y, yaw = path.pose(at)
        left = np.array([-math.sin(yaw), math.cos(yaw)]) * side
        ends = np.array([(x, y) - left * near, (x, y) + left * far])
        if draw(spec.side, self._rng) == "far":
            ends = ends[::-1]
        return Track.of(ends), 0.0, at

    def _zebra(self, spec: ActorSpec, from_s: float) -> tuple[Track, float, float]:
        """A walk over the first crossing of the route at or behind a station."""
        line = LineString(self._path.xy)
        found = []
        for crossing in self._road.crossings:
            point = line.intersection(LineString(crossing.line))
            if isinstance(point, Point) and not point.is_empty and line.project(point) >= from_s:
                found.append((float(line.project(point)), crossing))
        if not found:
            raise NoPlace(f"map {self._road.map_id}: no crossing on the route after {from_s:.0f} m")
        station, crossing = min(found, key=lambda pair: pair[0])
        ends = np.array([crossing.line[0], crossing.line[-1]])
        along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0])) * _KERB_M
        ends = np.array([ends[0] - along, ends[1] + along])
        yaw = float(self._path.pose(station)[2])
        starts_left = float(np.array([-math.sin(yaw), math.cos(yaw)]) @ (ends[0] - ends[1])) > 0
        # the near kerb is on the right in right-hand traffic
        near_first = starts_left == (self._road.side < 0)
        if (draw(spec.side, self._rng) == "near") != near_first:
            ends = ends[::-1]
        return Track.of(ends), 0.0, station

    def _main(self, at_m: float) -> tuple[Track, float, float]:
        """The lane that the route's acceleration lane joins at the feature."""
        accelerating = self._road.lanes[self._path.lane_at(self._feature_s - 1.0)]
        if accelerating.inner is None:
            raise NoPlace(f"map {self._road.map_id}: lane {accelerating.name} joins no other")
        names = [*self._upstream(accelerating.inner), *self._downstream(accelerating.inner)]
        line = self._road.path(names)
        track = Track(xy=line.xy, yaw=line.yaw)
        s, _ = track.project(*self._path.pose(self._feature_s)[:2])
        return track, s + at_m, self._feature_s

    def _foe(self, spec: ActorSpec, at: float) -> tuple[Track, float, float]:
        """Someone who comes through the feature's junction and crosses our way."""
        world, path = self._road, self._path
        stop = min(path.stops, key=lambda stop: abs(stop.s - self._feature_s))
        mine = LineString(path.xy[int(stop.s / SPACING_M) : int(stop.exit_s / SPACING_M) + 1])
        heading = float(path.yaw[int(stop.s / SPACING_M)])
        options = []
        for lane in world.lanes.values():
            for name in lane.successors if lane.junction is None else ():
                connector = world.lanes[name]
                if connector.junction != stop.junction or not mine.intersects(LineString(connector.baseline)):
                    continue
                first = connector.baseline[1] - connector.baseline[0]
                if _origin(math.remainder(math.atan2(first[1], first[0]) - heading, 2 * math.pi)) in _ORIGINS[spec.origin]:
                    options.append((lane.name, name))
        if not options:
            raise NoPlace(f"map {world.map_id}: nobody comes from {spec.origin} at the junction {stop.junction}")
        lane, connector = options[int(self._rng.integers(len(options)))]
        before = self._upstream(lane)
        line = world.path([*before, connector, *self._downstream(connector)])
        # the smoothed path may just miss what the connectors' centre lines touch
        point = np.array(shapely.ops.nearest_points(mine, LineString(line.xy))[0].coords[0])
        track = Track(xy=line.xy, yaw=line.yaw)
        s, _ = track.project(*point)
        meet_s, _ = path.project_points(point[None], stop.s, stop.exit_s)
        return track, s + at, float(meet_s[0])

    def _upstream(self, lane: str) -> list[str]:
        names, length = [lane], self._road.lanes[lane].length_m
        while length < _REACH_M:
            before = sorted(n for n, other in self._road.lanes.items() if names[0] in other.successors)
            if not before:
                break
            names.insert(0, before[0])
            length += self._road.lanes[before[0]].length_m
        return names

    def _downstream(self, name: str) -> list[str]:
        names, length = [], 0.0
        following = self._road.lanes[name].successors
        while following and length < _REACH_M:
            names.append(sorted(following)[0])
            length += self._road.lanes[names[-1]].length_m
            following = self._road.lanes[names[-1]].successors
        return names


def _origin(turned: float) -> str:
    """Where someone comes from whose heading is ours turned by `turned` radians."""
    if abs(turned) > 2.3:
        return "opposite"
    if abs(turned) < 0.8:
        return "behind"
    # who drives to our right comes from our left
    return "left" if turned < 0 else "right"
