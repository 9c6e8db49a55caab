"""A SUMO net as OpenDRIVE 1.4 in the coordinates of the net, for programs that don't read SUMO's format, CARLA above all.

netconvert has an OpenDRIVE output, but it draws every connection of a junction as one Bezier curve (up to 1 m beside SUMO's
own lane) and puts all lights of a junction under one controller, which CARLA turns green together. Here every edge and every
connector becomes one road that follows the centre of its innermost lane; other lanes are its parallels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import sumolib

from spanvla_ros.sim.roads import lanes as lane_reader
from spanvla_ros.sim.roads.lanes import Lane
from spanvla_ros.sim.roads.markings import entry_control
from spanvla_ros.sim.roads.planview import Curve

_PLANE = "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
# types of signals that CARLA builds something for
_LIGHT, _SIGNS = "1000001", {"stop": "206", "yield": "205"}
_BESIDE_KERB_M = 0.8


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One lane of a road; lane None is a sidewalk."""

    width_m: float
    speed_mps: float
    lane: Lane | None = None


@dataclass(frozen=True, kw_only=True)
class _Road:
    """One road element: its rows from the middle outward, `curve` the centre of the innermost one."""

    number: int
    name: str
    curve: Curve
    rows: tuple[_Row, ...]
    side: int  # of the lanes, seen from the middle of the road: -1 right-hand, +1 left-hand traffic

    def lane_id(self, lane: Lane) -> int:
        return self.side * (1 + [row.lane for row in self.rows].index(lane))

    def centre(self, lane: Lane) -> Curve:
        """Centre line of a lane."""
        widths = [row.width_m for row in self.rows[: abs(self.lane_id(lane))]]
        return self.curve.parallel(self.side * (sum(widths) - widths[0] / 2 - widths[-1] / 2))

    @property
    def border(self) -> Curve:
        """Border of the innermost lane towards the middle of the road."""
        return self.curve.parallel(-self.side * self.rows[0].width_m / 2)


@dataclass(frozen=True, kw_only=True)
class _Connector:
    road: _Road
    lane: Lane
    source: Lane
    target: Lane


def document(net_file: Path) -> str:
    """OpenDRIVE text of a SUMO net (gzip). The same net gives the same text."""
    net = sumolib.net.readNet(str(net_file), withInternal=True, withPedestrianConnections=True, withPrograms=True)
    side = 1 if lane_reader.keeps_left(net_file) else -1
    lanes = lane_reader.read(net, lane_reader.programmes(net))
    edges = lane_reader.streets(net)
    roads = {edge.getID(): _street(edge, number, lanes, side) for number, edge in enumerate(edges, 1)}
    connectors = list(_connectors(roads, lanes, side))
    # CARLA takes a link for one to a junction when no road has that number
    names = dict.fromkeys(connector.lane.junction for connector in connectors)
    junctions = {name: number for number, name in enumerate(names, len(roads) + len(connectors) + 1)}
    into = {connector.target.edge: connector.lane.junction for connector in connectors}
    out_of = {connector.source.edge: connector.lane.junction for connector in connectors}
    crossings = {crossing.getID(): crossing for crossing in net.getEdges(withInternal=True) if crossing.getFunction() == "crossing"}

    root = ElementTree.Element("OpenDRIVE")
    west, south, east, north = net.getBoundary()
    header = _add(root, "header", revMajor=1, revMinor=4, name="", version="1.00", north=north, south=south, east=east, west=west)
    _add(header, "geoReference").text = _PLANE
    for edge in edges:
        road = roads[edge.getID()]
        divided = lane_reader.opposite(net, road.name, -side) is None
        element = _element(root, road, "-1", "white" if divided else "yellow")
        for tag, ends in (("predecessor", into), ("successor", out_of)):
            if road.name in ends:
                _add(element.find("link"), tag, elementType="junction", elementId=junctions[ends[road.name]])
        for crossing in [crossing for crossing in crossings.values() if edge in crossing.getCrossingEdges()]:
            _crosswalk(element, road, crossings.pop(crossing.getID()).getLanes()[0])
        _signal(element, road, lanes)
    for connector in connectors:
        _connect(root, connector, roads, junctions)
    for name, number in junctions.items():
        _junction(root, name, number, [connector for connector in connectors if connector.lane.junction == name], roads)
    ElementTree.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def signal_name(edge: str) -> str:
    """Identifier of the light at the end of an edge; all its lanes share one."""
    return f"light.{edge}"


def _street(edge: Any, number: int, lanes: dict[str, Lane], side: int) -> _Road:
    """The road of an edge. SUMO's lanes without cars are sidewalks, all at the kerb."""
    rows = [
        _Row(width_m=lane.getWidth(), speed_mps=lane.getSpeed(), lane=lanes.get(lane.getID()))
        for lane in reversed(edge.getLanes())
    ]  # fmt: skip
    return _Road(number=number, name=edge.getID(), curve=Curve.smooth(rows[0].lane.baseline), rows=tuple(rows), side=side)


def _connectors(roads: dict[str, _Road], lanes: dict[str, Lane], side: int) -> Iterator[_Connector]:
    """Every connector with a road that leads from the very end of its lane to the very start of the next."""
    number = len(roads)
    for source in lanes.values():
        for name in source.successors if source.junction is None else ():
            lane = lanes[name]
            target = lanes[lane.successors[0]]
            before, after = roads[source.edge].centre(source), roads[target.edge].centre(target)
            points = np.concatenate([source.baseline, lane.baseline, target.baseline])
            ends = before.tangent[-1], after.tangent[0]
            curve = Curve.smooth(points).between(before.xy[-1], after.xy[0], ends)
            number += 1
            rows = (_Row(width_m=lane.width_m, speed_mps=lane.speed_mps, lane=lane),)
            yield _Connector(road=_Road(number=number, name=name, curve=curve, rows=rows, side=side), lane=lane, source=source, target=target)


def _element(root: ElementTree.Element, road: _Road, junction: str, colour: str) -> ElementTree.Element:
    """The road element with plan view and lanes; `colour` of the line in the middle of the road."""
    inside = junction != "-1"
    element = _add(root, "road", name=road.name, length=0, id=road.number, junction=junction, rule="LHT" if road.side > 0 else "RHT")
    _add(element, "link")
    _add(_add(element, "type", s=0, type="town"), "speed", max=road.rows[0].speed_mps, unit="m/s")
    # a connector's reference line is its centre, which may turn tighter than its border can; a road's is the inner border
    # of its lanes, because CARLA counts objects and signals from there (with laneOffset it would misplace crosswalks)
    line = road.curve if inside else road.border
    element.set("length", f"{line.geometry(_add(element, 'planView')):.8f}")
    _add(_add(element, "elevationProfile"), "elevation", s=0, a=0, b=0, c=0, d=0)
    _add(element, "lateralProfile")
    lanes = _add(element, "lanes")
    if inside:
        _add(lanes, "laneOffset", s=0, a=-road.side * road.rows[0].width_m / 2, b=0, c=0, d=0)
    section = _add(lanes, "laneSection", s=0)
    left = _add(section, "left") if road.side > 0 else None
    _mark(_add(_add(section, "center"), "lane", id=0, type="none", level="false"), "none" if inside else "solid", colour)
    part = _add(section, "right") if left is None else left
    for k in range(len(road.rows)) if left is None else reversed(range(len(road.rows))):
        row = road.rows[k]
        lane = _add(part, "lane", id=road.side * (k + 1), type="driving" if row.lane else "sidewalk", level="false")
        _add(lane, "width", sOffset=0, a=row.width_m, b=0, c=0, d=0)
        beside = row.lane is not None and row.lane.outer is not None
        _mark(lane, "none" if inside or not row.lane else "broken" if beside else "solid", "white")
        _add(lane, "speed", sOffset=0, max=row.speed_mps, unit="m/s")
    _add(element, "objects")
    _add(element, "signals")
    return element


def _connect(root: ElementTree.Element, connector: _Connector, roads: dict[str, _Road], junctions: dict[str, int]) -> None:
    """The road of a connector with its links."""
    road = connector.road
    source, target = roads[connector.source.edge], roads[connector.target.edge]
    element = _element(root, road, str(junctions[connector.lane.junction]), "white")
    _add(element.find("link"), "predecessor", elementType="road", elementId=source.number, contactPoint="end")
    _add(element.find("link"), "successor", elementType="road", elementId=target.number, contactPoint="start")
    link = ElementTree.Element("link")
    _add(link, "predecessor", id=source.lane_id(connector.source))
    _add(link, "successor", id=target.lane_id(connector.target))
    element.find(f".//lane[@id='{road.side}']").insert(0, link)


def _junction(root: ElementTree.Element, name: str, number: int, connectors: list[_Connector], roads: dict[str, _Road]) -> None:
    """The junction and one controller per arm with a light, which CARLA serves one after the other."""
    lit = list(dict.fromkeys(connector.source.edge for connector in connectors if connector.lane.signal))
    for k, edge in enumerate(lit):
        controller = _add(root, "controller", id=f"arm.{edge}", name=f"arm.{edge}", sequence=k)
        _add(controller, "control", signalId=signal_name(edge), type=0)
    junction = _add(root, "junction", id=number, name=name)
    for k, connector in enumerate(connectors):
        source = roads[connector.source.edge]
        row = _add(junction, "connection", id=k, incomingRoad=source.number, connectingRoad=connector.road.number, contactPoint="start")
        _add(row, "laneLink", **{"from": source.lane_id(connector.source), "to": connector.road.side})
    for edge in lit:
        _add(junction, "controller", id=f"arm.{edge}", type=0)


def _signal(element: ElementTree.Element, road: _Road, lanes: dict[str, Lane]) -> None:
    """At the end of an edge, behind the kerb: its light, or its stop or yield sign."""
    cars = [row.lane for row in road.rows if row.lane]
    controls = {entry_control(lane, lanes) for lane in cars}
    if any(lanes[name].signal for lane in cars for name in lane.successors):
        name, kind, dynamic = signal_name(road.name), _LIGHT, "yes"
    elif sign := next((control for control in _SIGNS if control in controls), None):
        name, kind, dynamic = f"{sign}.{road.name}", _SIGNS[sign], "no"
    else:
        return
    kerb = sum(row.width_m for row in road.rows) + _BESIDE_KERB_M
    place = {"s": _last(element), "t": road.side * kerb, "orientation": "+", "zOffset": 0}
    signal = _add(
        element.find("signals"), "signal", id=name, name=name, **place, dynamic=dynamic, country="OpenDRIVE", type=kind, subtype=-1, value=-1
    )  # fmt: skip
    ids = sorted(road.lane_id(lane) for lane in cars if lane.successors)
    _add(signal, "validity", fromLane=ids[0], toLane=ids[-1])


def _crosswalk(element: ElementTree.Element, road: _Road, lane: Any) -> None:
    """A crosswalk object at the nearer end of the road, u along the crossing (a sumolib lane).

    The crossing lies beyond the end, where a road has no stations: t puts the origin beside its middle, v reaches over to it.
    """
    line, half = np.array(lane.getShape())[[0, -1], :2], lane.getWidth() / 2
    middle, border = line.mean(axis=0), road.border
    at_end = np.hypot(*(border.xy[-1] - middle)) < np.hypot(*(border.xy[0] - middle))
    origin, ahead = (border.xy[-1], border.tangent[-1]) if at_end else (border.xy[0], border.tangent[0])
    left = np.array([-ahead[1], ahead[0]])
    length = float(np.hypot(*(line[1] - line[0])))
    along = (line[1] - line[0]) / length
    t = float((middle - origin) @ along / (left @ along))
    away = float((middle - origin - t * left) @ np.array([-along[1], along[0]]))
    place = {"s": _last(element) if at_end else 0, "t": t, "zOffset": 0, "hdg": math.atan2(along @ left, along @ ahead), "pitch": 0, "roll": 0}
    size = {"orientation": "none", "length": length, "width": 2 * half}
    outline = _add(_add(element.find("objects"), "object", id=lane.getID(), name=lane.getID(), type="crosswalk", **place, **size), "outline")
    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)):
        _add(outline, "cornerLocal", u=u * length / 2, v=away + v * half, z=0)


def _last(element: ElementTree.Element) -> float:
    """Station just before the end of a road; CARLA finds no lane at the very end."""
    return float(element.get("length")) - 0.01


def _mark(lane: ElementTree.Element, kind: str, colour: str) -> None:
    _add(lane, "roadMark", sOffset=0, type=kind, weight="standard", color=colour, width=0.16, laneChange="both" if kind == "broken" else "none")


def _add(parent: ElementTree.Element, tag: str, **values: object) -> ElementTree.Element:
    texts = {name: f"{value:.8g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ElementTree.SubElement(parent, tag, texts)
