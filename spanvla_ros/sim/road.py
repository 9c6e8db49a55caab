"""Road geometry of a map: drivable area, markings, paths through the junction, signal heads. World frame of the SUMO net."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Command, SpanVLAError
from spanvla_ros.sim import maps
from spanvla_ros.sim.route import Path

try:
    import shapely
    import sumolib
    from shapely.geometry import LineString, Point, Polygon
    from shapely.ops import substring, unary_union
except ImportError as error:
    raise SpanVLAError(f"{error.name} is missing; the simulator needs: pip install 'spanvla_ros[sim]'") from None

_TURNS = {"s": Command.STRAIGHT, "l": Command.LEFT, "L": Command.LEFT, "r": Command.RIGHT, "R": Command.RIGHT}
HEAD_LAMPS_M = {"green": 0.4, "yellow": 1.15, "red": 1.9}  # lamp centres above the lower edge of a head


@dataclass(frozen=True, kw_only=True)
class SignalHead:
    """A three-lamp head: foot (x, y) of its post, (x, y, z) of the head's lower edge, yaw = driving direction it serves."""

    arm: int
    post: tuple[float, float]
    head: tuple[float, float, float]
    yaw: float


@dataclass(frozen=True, kw_only=True)
class RoadMap:
    """Everything static of one map. Polygons are shapely geometries; `lane_area` maps an edge to its lanes and, under
    "J", to the inside of the junction."""

    map_id: int
    drivable: Polygon
    sidewalk: Polygon
    white: Polygon
    yellow: Polygon
    lane_area: dict[str, Polygon]
    paths: tuple[Path, ...]
    heads: tuple[SignalHead, ...]
    arms: int
    link_arms: tuple[int, ...]  # per signal link: arm whose vehicles it serves, -1 for crossings

    def route_area(self, path: Path) -> Polygon:
        """Where the centre of a car may be that drives this path: lanes of its direction and the junction."""
        area = unary_union([self.lane_area[path.edges[0]], self.lane_area["J"], self.lane_area[path.edges[1]]]).buffer(0.1)
        shapely.prepare(area)
        return area


@functools.lru_cache(maxsize=4)
def load(map_id: int) -> RoadMap:
    """Read the net of a map seed."""
    net = sumolib.net.readNet(str(maps.net_file(map_id)), withInternal=True, withPedestrianConnections=True)
    road, walk, white, yellow = [], [], [], []
    lane_area: dict[str, list] = {}
    for edge in net.getEdges(withInternal=True):
        for lane in edge.getLanes():
            line = LineString(lane.getShape())
            if line.length < 0.1:
                continue
            body = line.buffer(lane.getWidth() / 2, cap_style="flat", join_style="round")
            function = edge.getFunction()
            if function == "crossing":
                road.append(body)
                white += _zebra(line, lane.getWidth())
            elif function == "walkingarea":
                walk.append(Polygon(lane.getShape()).buffer(0.05) if len(lane.getShape()) > 2 else body)
            elif lane.allows("passenger"):
                road.append(body)
                lane_area.setdefault("J" if function == "internal" else edge.getID(), []).append(body)
            else:
                walk.append(body)
    junction = net.getNode("J")
    road.append(Polygon(junction.getShape()))
    lane_area["J"].append(Polygon(junction.getShape()))
    drivable = unary_union([p.buffer(0.03) for p in road])
    for edge in net.getEdges(withInternal=False):
        lines = _markings(_car_lanes(edge), stops=edge.getToNode() is junction)
        white += lines[0]
        yellow += lines[1]
    arms = sum(edge.getID().startswith("i") for edge in net.getEdges(withInternal=False))
    shapely.prepare(drivable)
    return RoadMap(
        map_id=map_id,
        drivable=drivable,
        sidewalk=unary_union([p.buffer(0.03) for p in walk]).difference(drivable.buffer(-0.02)),
        white=unary_union(white).intersection(drivable),
        yellow=unary_union(yellow).intersection(drivable),
        lane_area={name: unary_union(parts) for name, parts in lane_area.items()},
        paths=tuple(_paths(net, arms)),
        heads=tuple(_heads(net, arms, drivable)),
        arms=arms,
        link_arms=_link_arms(net),
    )


def _car_lanes(edge) -> list:
    """Lanes for cars from the right to the left."""
    return [lane for lane in edge.getLanes() if lane.allows("passenger")]


def _offset(points, distance: float) -> LineString:
    return LineString(points).offset_curve(distance)


def _zebra(line: LineString, width: float) -> list:
    """Stripes parallel to the traffic of a crossing, which lies across the road."""
    stripes = []
    for start in np.arange(0.5, line.length - 0.3, 1.0):
        a, b = line.interpolate(start), line.interpolate(min(start + 0.5, line.length))
        stripes.append(LineString([a, b]).buffer(width * 0.4, cap_style="flat"))
    return stripes


def _markings(lanes: list, stops: bool) -> tuple[list, list]:
    """White and yellow paint of one edge: right border, lane dashes, line against oncoming traffic, stop line."""
    white, yellow = [], []
    for k, lane in enumerate(lanes):
        points, half = np.array(lane.getShape()), lane.getWidth() / 2
        if k == 0:
            white.append(_offset(points, -half + 0.2).buffer(0.08, cap_style="flat"))
        if k < len(lanes) - 1:
            border = _offset(points, half)
            white += [substring(border, at, at + 3.0).buffer(0.08, cap_style="flat") for at in np.arange(0, border.length - 3, 7.5)]
        else:
            yellow.append(_offset(points, half - 0.16).buffer(0.08, cap_style="flat"))
        if stops:
            along = points[-1] - points[-2]
            along = along / np.hypot(*along)
            across = np.array([-along[1], along[0]]) * (half - 0.1)
            middle = points[-1] - along * 0.25
            white.append(LineString([middle - across, middle + across]).buffer(0.25, cap_style="flat"))
    return white, yellow


def _paths(net, arms: int):
    for arm in range(arms):
        for lane in _car_lanes(net.getEdge(f"i{arm}")):
            for link in lane.getOutgoing():
                target = link.getToLane()
                if not link.getViaLaneID() or target.getEdge().getFunction() or not target.allows("passenger"):
                    continue
                inside = []
                via = link.getViaLaneID()
                while via:
                    inner = net.getLane(via)
                    inside += inner.getShape()
                    via = next((out.getViaLaneID() for out in inner.getOutgoing() if out.getViaLaneID()), "")
                points = np.array(list(lane.getShape()) + inside + list(target.getShape()))[:, :2]
                yield Path.from_points(
                    points,
                    stop_at=np.array(lane.getShape()[-1]),
                    exit_at=np.array(target.getShape()[0]),
                    turn=_TURNS[link.getDirection()],
                    arm=arm,
                    edges=(f"i{arm}", target.getEdge().getID()),
                    lanes=(lane.getIndex(), target.getIndex()),
                )


def _link_arms(net) -> tuple[int, ...]:
    links: dict[int, int] = {}
    for light in net.getTrafficLights():
        for source, _, index in light.getConnections():
            name = source.getEdge().getID()
            links[index] = int(name[1:]) if name.startswith("i") else -1
    return tuple(links.get(k, -1) for k in range(max(links) + 1))


def _heads(net, arms: int, drivable: Polygon):
    """Two heads per arm: one just past the stop line on the right, one above the far side.

    The near one is what a driver (or a 70-degree camera) at the stop line sees; with two lanes it stands further on,
    so that it stays in the picture of the left lane.
    """
    for arm in range(arms):
        lanes = _car_lanes(net.getEdge(f"i{arm}"))
        points = np.array(lanes[0].getShape())
        along = points[-1] - points[-2]
        yaw = math.atan2(along[1], along[0])
        half = lanes[0].getWidth() / 2
        near = _local(points[-1], yaw, 5.0 if len(lanes) == 1 else 6.5, -half - 0.3)
        yield SignalHead(arm=arm, post=_beside(points[-1], yaw, 5.0 if len(lanes) == 1 else 6.5, half, drivable), head=(*near, 2.0), yaw=yaw)
        depth = float(np.max((np.array(net.getNode("J").getShape())[:, :2] - points[-1]) @ [math.cos(yaw), math.sin(yaw)]))
        middle = half * (len(lanes) - 1)
        far = _local(points[-1], yaw, depth - 1.0, middle)
        yield SignalHead(arm=arm, post=_beside(points[-1], yaw, depth - 1.0, half, drivable), head=(*far, 4.6), yaw=yaw)


def _local(origin: np.ndarray, yaw: float, ahead: float, left: float) -> tuple[float, float]:
    return (
        float(origin[0] + ahead * math.cos(yaw) - left * math.sin(yaw)),
        float(origin[1] + ahead * math.sin(yaw) + left * math.cos(yaw)),
    )


def _beside(origin: np.ndarray, yaw: float, ahead: float, half: float, drivable: Polygon) -> tuple[float, float]:
    """First place to the right of the road where a post is clear of it."""
    right = half + 0.8
    while drivable.distance(Point(_local(origin, yaw, ahead, -right))) < 0.6 and right < 25.0:
        right += 0.25
    return _local(origin, yaw, ahead, -right)
