"""Everything static of a map: lanes, drivable area, paint, crossings, signal heads. World frame of the SUMO net."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.sim.roads import maps

try:
    import shapely
    import sumolib
    from shapely.geometry import LineString, Polygon
    from shapely.ops import unary_union

    from spanvla_ros.sim.roads import lanes as lane_reader
    from spanvla_ros.sim.roads import markings, signposts
    from spanvla_ros.sim.roads.lanes import Lane
    from spanvla_ros.sim.roads.route import Path
    from spanvla_ros.sim.roads.signposts import HEAD_LAMPS_M, SignalHead
    from spanvla_ros.sim.roads.strip import lay
except ImportError as error:
    raise SpanVLAError(f"{error.name} is missing; the simulator needs: pip install 'spanvla_ros[sim]'") from None

_PAVED_CORNERS = "town"  # kind of map whose street corners are asphalt up to the outline of the junction

__all__ = ["HEAD_LAMPS_M", "Crossing", "Lane", "RoadMap", "SignalHead", "load"]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A zebra: its area, and the line (N, 2) that people walk from kerb to kerb; junction None in the middle of a street."""

    name: str
    polygon: Polygon
    line: np.ndarray
    junction: str | None


@dataclass(frozen=True, kw_only=True)
class RoadMap:
    """One map. Polygons are shapely geometries.

    lanes: lanes and connectors for cars by name; junctions: their areas by name; programmes: per traffic light the
    phases (seconds, SUMO letters per link) of the net; oncoming: edge -> edge of the other direction where only paint
    lies between, else None; entries, exits: edges where traffic comes in and goes out.
    """

    map_id: str
    lefthand: bool
    lanes: dict[str, Lane]
    junctions: dict[str, Polygon]
    drivable: Polygon
    sidewalk: Polygon
    white: Polygon
    yellow: Polygon
    crossings: tuple[Crossing, ...]
    heads: tuple[SignalHead, ...]
    programmes: dict[str, tuple[tuple[float, str], ...]]
    oncoming: dict[str, str | None]
    entries: tuple[str, ...]
    exits: tuple[str, ...]

    @property
    def side(self) -> int:
        """+1 where the middle of the road lies to the left of a lane (right-hand traffic), else -1."""
        return -1 if self.lefthand else 1

    @functools.cached_property
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Names of the lanes of every edge, kerb to middle."""
        found: dict[str, list[str]] = {}
        for lane in self.lanes.values():
            if lane.junction is None:
                found.setdefault(lane.edge, []).append(lane.name)
        return {edge: tuple(names) for edge, names in found.items()}

    def lanes_of(self, edge: str) -> tuple[Lane, ...]:
        """Lanes of an edge, kerb to middle."""
        return tuple(self.lanes[name] for name in self.rows[edge])

    def walks(self, start_lane: str, length_m: float, limit: int) -> list[tuple[str, ...]]:
        """At most `limit` ways (lane, connector, lane, ...) from a lane onwards that are at least that long; none drives on a lane twice."""
        found: list[tuple[str, ...]] = []
        pending = [((start_lane,), self.lanes[start_lane].length_m)]
        while pending and len(found) < limit:
            names, length = pending.pop()
            if length >= length_m:
                found.append(names)
                continue
            for way in reversed(self.lanes[names[-1]].successors):
                lane = self.lanes[self.lanes[way].successors[0]]
                if lane.name not in names:
                    pending.append(((*names, way, lane.name), length + self.lanes[way].length_m + lane.length_m))
        return found

    def path(self, names: Sequence[str], changes: Iterable[tuple[str, float, float]] = ()) -> Path:
        """Path over lanes and connectors. changes: (lane, start_m, end_m) moves to the inner neighbour on that stretch of the lane."""
        return lay(self, names, changes)

    def route_area(self, path: Path) -> Polygon:
        """Where the centre of a car may be that drives this path: lanes of its direction and its junctions."""
        parts = []
        for span in path.spans:
            lane = self.lanes[span.lane]
            parts += [self.junctions[lane.junction], lane.polygon] if lane.junction else [row.polygon for row in self.lanes_of(lane.edge)]
        area = unary_union(parts).buffer(0.1)
        shapely.prepare(area)
        return area


@functools.lru_cache(maxsize=4)
def load(map_id: str) -> RoadMap:
    """Read a map."""
    file = maps.net_file(map_id)
    lefthand = lane_reader.keeps_left(file)
    side = -1 if lefthand else 1
    net = sumolib.net.readNet(str(file), withInternal=True, withPedestrianConnections=True, withPrograms=True)
    programmes = lane_reader.programmes(net)
    lanes = lane_reader.read(net, programmes)
    streets = lane_reader.streets(net)
    rows = {edge.getID(): [lanes[lane.getID()] for lane in lane_reader.car_lanes(edge)] for edge in streets}
    outlines = {name: Polygon(net.getNode(name).getShape()) for name in {lane.junction for lane in lanes.values()} if name}
    insides = {name: [lane.polygon for lane in lanes.values() if lane.junction == name] for name in outlines}
    oncoming = {edge.getID(): lane_reader.opposite(net, edge.getID(), side) for edge in streets}
    crossings = _crossings(net, {lane.junction for lane in lanes.values() if lane.control not in (None, "priority")})
    white = [stripe for crossing in crossings for stripe in markings.zebra(LineString(crossing.line), net.getLane(f"{crossing.name}_0").getWidth())]
    yellow = []
    for edge, row in rows.items():
        lines = markings.along(row, side, oncoming[edge] is not None)
        white += lines[0]
        yellow += lines[1]
        white += [line for lane in row for line in markings.across(lane, markings.entry_control(lane, lanes) or "")]
    road, walk = _surfaces(net, list(outlines.values()), paved=map_id.startswith(_PAVED_CORNERS))
    reached = {name for lane in lanes.values() if lane.junction for name in lane.successors}
    shapely.prepare(road)
    return RoadMap(
        map_id=map_id,
        lefthand=lefthand,
        lanes=lanes,
        junctions={name: unary_union([outline, *insides[name]]) for name, outline in outlines.items()},
        drivable=road,
        sidewalk=walk.difference(road.buffer(-0.02)),
        white=unary_union(white).intersection(road),
        yellow=unary_union(yellow).intersection(road),
        crossings=crossings,
        heads=tuple(signposts.heads(rows, lanes, outlines, road, side)),
        programmes=programmes,
        oncoming=oncoming,
        entries=tuple(edge for edge, row in rows.items() if not any(lane.name in reached for lane in row)),
        exits=tuple(edge for edge, row in rows.items() if not any(lane.successors for lane in row)),
    )


def _crossings(net: Any, junctions: set[str | None]) -> tuple[Crossing, ...]:
    """`junctions`: names of those where somebody has to give way; all other nodes lie in the middle of a street."""
    found = []
    for edge in net.getEdges(withInternal=True):
        if edge.getFunction() == "crossing":
            lane, node = edge.getLane(0), edge.getFromNode()
            line = np.array(lane.getShape())[:, :2]
            found.append(
                Crossing(
                    name=edge.getID(),
                    polygon=LineString(line).buffer(lane.getWidth() / 2, cap_style="flat"),
                    line=line,
                    junction=node.getID() if node.getID() in junctions else None,
                )
            )
    return tuple(found)


def _surfaces(net: Any, outlines: list[Polygon], paved: bool) -> tuple[Polygon, Polygon]:
    """Drivable area and sidewalks (overlapping it); `paved`: all of the junctions is drivable, else not the corners where people walk."""
    road, walk, corners = [], [], []
    for edge in net.getEdges(withInternal=True):
        for lane in edge.getLanes():
            line = LineString(lane.getShape())
            if line.length < 0.1:
                continue
            body = line.buffer(lane.getWidth() / 2, cap_style="flat", join_style="round")
            if edge.getFunction() == "walkingarea":
                corners.append(Polygon(lane.getShape()).buffer(0.05) if len(lane.getShape()) > 2 else body)
            elif edge.getFunction() == "crossing" or lane.allows("passenger"):
                road.append(body)
            else:
                walk.append(body)
    inside = unary_union(outlines)
    # what is left between two corners is no road either
    road.append(inside if paved else inside.difference(unary_union(corners)).buffer(-0.4).buffer(0.4))
    return unary_union([p.buffer(0.03) for p in road]), unary_union([p.buffer(0.03) for p in (*walk, *corners)])
