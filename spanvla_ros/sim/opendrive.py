"""OpenDRIVE text of a SUMO net: the same lanes for programs that don't read SUMO's format, CARLA above all.

netconvert has an OpenDRIVE output, but it draws every connection of a junction as one Bezier curve (up to 1 m beside SUMO's
own lane) and puts all lights of a junction under one controller, which CARLA turns green together. Here every edge and every
connector becomes one road that follows the centre of its innermost lane; other lanes are its parallels.
"""

from __future__ import annotations

import gzip
import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.sim.planview import Curve

try:
    import sumolib
except ImportError as error:
    raise SpanVLAError(f"{error.name} is missing; the simulator needs: pip install 'spanvla_ros[sim]'") from None

# CARLA builds a traffic light from this type; its subtype is free
_LIGHT = "1000001"
_BESIDE_KERB_M = 0.8


@dataclass(frozen=True, kw_only=True)
class _Road:
    """One road element: `lanes` from the middle outward as (SUMO lane, type), `curve` the centre of the innermost one."""

    number: int
    name: str
    curve: Curve
    lanes: tuple[tuple[sumolib.net.lane.Lane, str], ...]
    side: int  # of the lanes, seen from the middle of the road: -1 right-hand, +1 left-hand traffic

    def lane_id(self, lane) -> int:
        return self.side * (1 + [other for other, _ in self.lanes].index(lane))

    def offset_m(self, lane) -> float:
        """Left offset of a lane's centre from `curve`."""
        widths = [other.getWidth() for other, _ in self.lanes[: abs(self.lane_id(lane))]]
        return self.side * (sum(widths) - widths[0] / 2 - widths[-1] / 2)

    @property
    def kerb_m(self) -> float:
        """Left offset of the outer border of the outermost lane from the reference line."""
        return self.side * sum(lane.getWidth() for lane, _ in self.lanes)


@dataclass(frozen=True, kw_only=True)
class _Connector:
    road: _Road
    source: sumolib.net.lane.Lane
    target: sumolib.net.lane.Lane


def text(net_file: Path) -> str:
    """OpenDRIVE 1.4 of a net (.net.xml or .net.xml.gz). The same net gives the same text."""
    net = sumolib.net.readNet(str(net_file), withInternal=True, withPedestrianConnections=True)
    side = 1 if _lefthand(net_file) else -1
    roads: dict[str, _Road] = {}
    for edge in net.getEdges(withInternal=False):
        lanes = [(lane, _kind(lane)) for lane in reversed(edge.getLanes())]
        if any(kind == "driving" for _, kind in lanes):
            curve = Curve.smooth(_points(lanes[0][0]))
            roads[edge.getID()] = _Road(number=len(roads) + 1, name=edge.getID(), curve=curve, lanes=tuple(lanes), side=side)
    connectors = list(_connectors(net, roads, side))
    # CARLA takes a link for one to a junction when no road has that number
    nodes = dict.fromkeys(c.source.getEdge().getToNode() for c in connectors)
    junctions = {node: number for number, node in enumerate(nodes, len(roads) + len(connectors) + 1)}

    document = ET.Element("OpenDRIVE")
    x0, y0, x1, y1 = net.getBoundary()
    header = {"revMajor": "1", "revMinor": "4", "name": "", "version": "1.00", "north": y1, "south": y0, "east": x1, "west": x0}
    ET.SubElement(document, "header", {name: str(value) for name, value in header.items()})
    ET.SubElement(document.find("header"), "geoReference").text = "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
    crossings = {c.getID(): c for c in net.getEdges(withInternal=True) if c.getFunction() == "crossing"}
    for name, road in roads.items():
        edge = net.getEdge(name)
        element = _element(document, road, "-1")
        for tag, node in (("predecessor", edge.getFromNode()), ("successor", edge.getToNode())):
            if node in junctions:
                ET.SubElement(element.find("link"), tag, elementType="junction", elementId=str(junctions[node]))
        for crossing in [c for c in crossings.values() if edge in c.getCrossingEdges()]:
            _crosswalk(element, road, crossings.pop(crossing.getID()).getLanes()[0])
        if edge.getToNode() in junctions and edge.getTLS() is not None:
            _light(element, road)
    for connector in connectors:
        _connect(document, connector, roads, junctions)
    for node, number in junctions.items():
        _junction(document, node, number, [c for c in connectors if c.source.getEdge().getToNode() is node], roads)
    ET.indent(document, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(document, encoding="unicode") + "\n"


def signal_name(edge: str) -> str:
    """Identifier of the light at the end of an edge; all its lanes share one."""
    return f"light.{edge}"


def _lefthand(net_file: Path) -> bool:
    opener = gzip.open if net_file.suffix == ".gz" else open
    with opener(net_file, "rt", encoding="utf-8") as file:
        head = re.search(r"<net\b[^>]*>", file.read(20000))
    return bool(head and re.search(r'lefthand="(true|1)"', head.group()))


def _kind(lane) -> str:
    if lane.allows("passenger"):
        return "driving"
    return "sidewalk" if lane.allows("pedestrian") else "none"


def _points(lane) -> np.ndarray:
    points = np.array(lane.getShape())[:, :2]
    return points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.02]]


def _connectors(net, roads: dict[str, _Road], side: int):
    """Connections for cars, each with the road along its internal lanes, from the end of one road to the start of another."""
    number = len(roads)
    for name, source_road in roads.items():
        for lane, kind in source_road.lanes:
            links = [link for link in lane.getOutgoing() if kind == "driving" and link.getViaLaneID()]
            for link in links:
                target = link.getToLane()
                if target.getEdge().getFunction() or not target.allows("passenger"):
                    continue
                first, chain = link.getViaLaneID(), [_points(lane)]
                via = first
                while via:
                    chain.append(_points(net.getLane(via)))
                    via = next((out.getViaLaneID() for out in net.getLane(via).getOutgoing() if out.getViaLaneID()), "")
                target_road = roads[target.getEdge().getID()]
                points = np.concatenate([*chain, _points(target)])
                whole = Curve.smooth(points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.02]])
                curve = whole.between(
                    source_road.curve.parallel(source_road.offset_m(lane)).xy[-1],
                    target_road.curve.parallel(target_road.offset_m(target)).xy[0],
                    (source_road.curve.tangent[-1], target_road.curve.tangent[0]),
                )
                number += 1
                road = _Road(number=number, name=first, curve=curve, lanes=((net.getLane(first), "driving"),), side=side)
                yield _Connector(road=road, source=lane, target=target)


def _element(document: ET.Element, road: _Road, junction: str) -> ET.Element:
    """The road element with plan view and lanes."""
    rule = "LHT" if road.side > 0 else "RHT"
    element = ET.SubElement(document, "road", name=road.name, length="0", id=str(road.number), junction=junction, rule=rule)
    ET.SubElement(element, "link")
    speed = f"{road.lanes[0][0].getSpeed():.2f}"
    ET.SubElement(ET.SubElement(element, "type", s="0", type="town"), "speed", max=speed, unit="m/s")
    # a connector's reference line is its centre, which may turn tighter than its border can; a road's is the inner border
    # of its lanes, because CARLA counts objects and signals from there (with laneOffset it would misplace crosswalks)
    inside = junction != "-1"
    half = road.lanes[0][0].getWidth() / 2
    line = road.curve if inside else road.curve.parallel(-road.side * half)
    length = line.geometry(ET.SubElement(element, "planView"))
    element.set("length", f"{length:.8f}")
    ET.SubElement(ET.SubElement(element, "elevationProfile"), "elevation", s="0", a="0", b="0", c="0", d="0")
    ET.SubElement(element, "lateralProfile")
    lanes = ET.SubElement(element, "lanes")
    if inside:
        ET.SubElement(lanes, "laneOffset", s="0", a=f"{-road.side * half:.3f}", b="0", c="0", d="0")
    section = ET.SubElement(lanes, "laneSection", s="0")
    sides = {"left": 1, "center": 0, "right": -1}
    for name, sign in sides.items():
        if sign == 0:
            centre = ET.SubElement(ET.SubElement(section, name), "lane", id="0", type="none", level="false")
            _mark(centre, "none" if inside else "solid", "none", "yellow")
        elif sign == road.side:
            part = ET.SubElement(section, name)
            rows = list(enumerate(road.lanes, 1))
            for k, (lane, kind) in reversed(rows) if sign > 0 else rows:
                row = ET.SubElement(part, "lane", id=str(sign * k), type=kind, level="false")
                ET.SubElement(row, "width", sOffset="0", a=f"{lane.getWidth():.3f}", b="0", c="0", d="0")
                beside = k < len(road.lanes) and road.lanes[k][1] == kind == "driving"
                _mark(row, "none" if inside else "broken" if beside else "solid", "both" if beside else "none")
                ET.SubElement(row, "speed", sOffset="0", max=f"{lane.getSpeed():.2f}", unit="m/s")
    ET.SubElement(element, "objects")
    ET.SubElement(element, "signals")
    return element


def _mark(lane: ET.Element, kind: str, change: str, colour: str = "standard") -> None:
    ET.SubElement(lane, "roadMark", sOffset="0", type=kind, weight="standard", color=colour, width="0.15", laneChange=change)


def _connect(document: ET.Element, connector: _Connector, roads: dict[str, _Road], junctions: dict) -> None:
    """The road of a connector with its links."""
    road = connector.road
    source, target = (roads[lane.getEdge().getID()] for lane in (connector.source, connector.target))
    element = _element(document, road, str(junctions[connector.source.getEdge().getToNode()]))
    link = element.find("link")
    ET.SubElement(link, "predecessor", elementType="road", elementId=str(source.number), contactPoint="end")
    ET.SubElement(link, "successor", elementType="road", elementId=str(target.number), contactPoint="start")
    row = element.find(f".//lane[@id='{road.side}']")
    inner = ET.Element("link")
    ET.SubElement(inner, "predecessor", id=str(source.lane_id(connector.source)))
    ET.SubElement(inner, "successor", id=str(target.lane_id(connector.target)))
    row.insert(0, inner)


def _junction(document: ET.Element, node, number: int, connectors: list[_Connector], roads: dict[str, _Road]) -> None:
    """The junction and one controller per arm with a light, which CARLA serves one after the other."""
    lit = list(dict.fromkeys(c.source.getEdge().getID() for c in connectors if c.source.getEdge().getTLS() is not None))
    for k, edge in enumerate(lit):
        controller = ET.SubElement(document, "controller", id=f"arm.{edge}", name=f"arm.{edge}", sequence=str(k))
        ET.SubElement(controller, "control", signalId=signal_name(edge), type="0")
    junction = ET.SubElement(document, "junction", id=str(number), name=node.getID())
    for k, connector in enumerate(connectors):
        source = roads[connector.source.getEdge().getID()]
        ids = {"incomingRoad": str(source.number), "connectingRoad": str(connector.road.number)}
        row = ET.SubElement(junction, "connection", id=str(k), **ids, contactPoint="start")
        ET.SubElement(row, "laneLink", {"from": str(source.lane_id(connector.source)), "to": str(connector.road.side)})
    for edge in lit:
        ET.SubElement(junction, "controller", id=f"arm.{edge}", type="0")


def _last(element: ET.Element) -> str:
    """Station just before the end of a road; CARLA finds no lane at the very end."""
    return f"{float(element.get('length')) - 0.01:.4f}"


def _light(element: ET.Element, road: _Road) -> None:
    """One light at the stop line, its post behind the kerb."""
    signal = ET.SubElement(element.find("signals"), "signal", {
        "id": signal_name(road.name), "name": signal_name(road.name), "s": _last(element), "t": f"{road.kerb_m + road.side * _BESIDE_KERB_M:.3f}",
        "orientation": "+", "dynamic": "yes", "zOffset": "0", "country": "OpenDRIVE", "type": _LIGHT, "subtype": "-1", "value": "-1",
    })  # fmt: skip
    ids = sorted(road.lane_id(lane) for lane, kind in road.lanes if kind == "driving")
    ET.SubElement(signal, "validity", fromLane=str(ids[0]), toLane=str(ids[-1]))


def _crosswalk(element: ET.Element, road: _Road, lane) -> None:
    """A crosswalk object at the nearer end of the road, u along the crossing.

    The crossing lies beyond the end, where a road has no stations: t puts the origin beside its middle, v reaches over to it.
    """
    line, half = np.array(lane.getShape())[:, :2], lane.getWidth() / 2
    middle = (line[0] + line[-1]) / 2
    border = road.curve.parallel(-road.side * road.lanes[0][0].getWidth() / 2)
    at_end = np.hypot(*(border.xy[-1] - middle)) < np.hypot(*(border.xy[0] - middle))
    origin, tangent = (border.xy[-1], border.tangent[-1]) if at_end else (border.xy[0], border.tangent[0])
    left = np.array([-tangent[1], tangent[0]])
    along = line[-1] - line[0]
    length = float(np.hypot(*along))
    along = along / length
    t = float((middle - origin) @ along / (left @ along))
    away = float((middle - origin - t * left) @ np.array([-along[1], along[0]]))
    thing = ET.SubElement(element.find("objects"), "object", {
        "id": lane.getID(), "name": lane.getID(), "type": "crosswalk", "s": _last(element) if at_end else "0",
        "t": f"{t:.4f}", "zOffset": "0", "hdg": f"{math.atan2(along @ left, along @ tangent):.6f}", "pitch": "0", "roll": "0",
        "orientation": "none", "length": f"{length:.3f}", "width": f"{2 * half:.3f}",
    })  # fmt: skip
    outline = ET.SubElement(thing, "outline")
    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)):
        ET.SubElement(outline, "cornerLocal", u=f"{u * length / 2:.4f}", v=f"{away + v * half:.4f}", z="0")
