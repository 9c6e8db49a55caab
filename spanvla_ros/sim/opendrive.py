"""A SUMO net as OpenDRIVE 1.4, in the coordinates of the net: the same centre lines, point for point.

Every edge and every connector becomes a road whose reference line is made of straight pieces beside the centre line of
one of its lanes (netconvert's own export fits splines, which miss the lanes inside junctions by up to a metre). All
lanes lie to the right of that line, in left-hand traffic too, because readers take a lane's direction from its sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import sumolib

from spanvla_ros.sim import lanes as lane_reader
from spanvla_ros.sim import markings
from spanvla_ros.sim.lanes import Lane

_PLANE = "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
_SIGNS = {"stop": "206", "yield": "205"}
_LIGHT = "1000001"


@dataclass(frozen=True, kw_only=True)
class _Strip:
    """One lane of a road, from the left to the right: kind "driving" or "sidewalk", mark (type, colour) of its right border."""

    kind: str
    width_m: float
    mark: tuple[str, str]
    lane: Lane | None = None


def document(net_file: Path) -> str:
    """OpenDRIVE text of a SUMO net (gzip)."""
    return _Writer(net_file).text()


class _Writer:
    def __init__(self, net_file: Path):
        net = sumolib.net.readNet(str(net_file), withInternal=True, withPedestrianConnections=True, withPrograms=True)
        self._net = net
        self._side = -1 if lane_reader.keeps_left(net_file) else 1
        self._lanes = lane_reader.read(net, lane_reader.programmes(net))
        self._rows = {edge.getID(): [self._lanes[lane.getID()] for lane in lane_reader.car_lanes(edge)] for edge in lane_reader.streets(net)}
        connectors = [lane for lane in self._lanes.values() if lane.junction]
        self._from = {way: lane for row in self._rows.values() for lane in row for way in lane.successors}
        self._into = {self._lanes[lane.successors[0]].edge: lane.junction for lane in connectors}
        self._roads = {name: str(k + 1) for k, name in enumerate([*self._rows, *(lane.name for lane in connectors)])}
        # no number is that of a road and of a junction: CARLA tells them apart by their numbers
        names = dict.fromkeys(lane.junction for lane in connectors)
        self._junctions = {name: str(len(self._roads) + k + 1) for k, name in enumerate(names)}
        self._strips = {edge: list(self._across(edge, row)) for edge, row in self._rows.items()}
        self._number = {s.lane.name: str(-k - 1) for strips in self._strips.values() for k, s in enumerate(strips) if s.lane}
        self._lights: dict[str, list[str]] = {}

    def text(self) -> str:
        root = ElementTree.Element("OpenDRIVE")
        west, south, east, north = self._net.getBoundary()
        header = _add(root, "header", revMajor=1, revMinor=4, name="", version="1.00", north=north, south=south, east=east, west=west)
        _add(header, "geoReference").text = _PLANE
        for edge in self._rows:
            self._edge(root, edge)
        for lane in self._lanes.values():
            if lane.junction:
                self._connector(root, lane)
        for light, signals in self._lights.items():
            controller = _add(root, "controller", id=light, name=light)
            for signal in signals:
                _add(controller, "control", signalId=signal, type="0")
        for name, number in self._junctions.items():
            junction = _add(root, "junction", id=number, name=name)
            for lane in self._lanes.values():
                if lane.junction == name:
                    before = self._from[lane.name]
                    link = {"incomingRoad": self._roads[before.edge], "connectingRoad": self._roads[lane.name]}
                    connection = _add(junction, "connection", id=len(junction), **link, contactPoint="start")
                    _add(connection, "laneLink", **{"from": self._number[before.name], "to": "-1"})
            if name in self._lights:
                _add(junction, "controller", id=name, type="0")
        ElementTree.indent(root, " ")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'

    def _across(self, edge: str, row: list[Lane]) -> Iterator[_Strip]:
        """Lanes of an edge from the left to the right."""
        white, middle = ("solid", "white"), ("solid", "yellow" if lane_reader.opposite(self._net, edge, self._side) else "white")
        walks = [lane for lane in self._net.getEdge(edge).getLanes() if not lane.allows("passenger")]
        strips = [_Strip(kind="sidewalk", width_m=lane.getWidth(), mark=("none", "white")) for lane in walks]
        for k, lane in enumerate(row):
            inner, outer = middle if k == len(row) - 1 else ("broken", "white"), white if k == 0 else ("broken", "white")
            strips.append(_Strip(kind="driving", width_m=lane.width_m, mark=outer if self._side > 0 else inner, lane=lane))
        if self._side < 0 and walks:
            strips[len(walks) - 1] = _Strip(kind="sidewalk", width_m=strips[len(walks) - 1].width_m, mark=white)
        yield from strips[:: -self._side]

    def _edge(self, root: ElementTree.Element, edge: str) -> None:
        row, strips = self._rows[edge], self._strips[edge]
        middle = row[len(row) // 2]
        at = next(k for k, strip in enumerate(strips) if strip.lane is middle)
        line = _beside(middle.baseline, sum(strip.width_m for strip in strips[:at]) + middle.width_m / 2)
        road, length = self._road(root, edge, line, "-1")
        link = _add(road, "link")
        if edge in self._into:
            _add(link, "predecessor", elementType="junction", elementId=self._junctions[self._into[edge]])
        ways = [self._lanes[name] for lane in row for name in lane.successors]
        if ways:
            _add(link, "successor", elementType="junction", elementId=self._junctions[ways[0].junction])
        self._body(road, line, middle.speed_mps)
        border = ("solid", "yellow" if lane_reader.opposite(self._net, edge, self._side) else "white") if self._side > 0 else ("none", "white")
        section = self._sections(road, border)
        for k, strip in enumerate(strips):
            self._lane(section, -k - 1, strip)
        objects = _add(road, "objects")
        for crossing in self._net.getEdges(withInternal=True):
            if crossing.getFunction() == "crossing" and edge in [crossed.getID() for crossed in crossing.getCrossingEdges()][:1]:
                _crosswalk(objects, crossing, line, at_end=crossing.getFromNode() is self._net.getEdge(edge).getToNode(), length=length)
        self._signals(_add(road, "signals"), row, ways, length)

    def _connector(self, root: ElementTree.Element, lane: Lane) -> None:
        before, after = self._from[lane.name], self._lanes[lane.successors[0]]
        line = _beside(lane.baseline, lane.width_m / 2)
        road, _ = self._road(root, lane.name, line, self._junctions[lane.junction])
        link = _add(road, "link")
        _add(link, "predecessor", elementType="road", elementId=self._roads[before.edge], contactPoint="end")
        _add(link, "successor", elementType="road", elementId=self._roads[after.edge], contactPoint="start")
        self._body(road, line, lane.speed_mps)
        section = self._sections(road, ("none", "white"))
        strip = _Strip(kind="driving", width_m=lane.width_m, mark=("none", "white"), lane=lane)
        self._lane(section, -1, strip, self._number[before.name], self._number[after.name])
        _add(road, "objects")
        _add(road, "signals")

    def _road(self, root: ElementTree.Element, name: str, line: np.ndarray, junction: str) -> tuple[ElementTree.Element, float]:
        length = float(np.hypot(*np.diff(line, axis=0).T).sum())
        return _add(root, "road", name=name, length=length, id=self._roads[name], junction=junction), length

    def _body(self, road: ElementTree.Element, line: np.ndarray, speed_mps: float) -> None:
        _add(_add(road, "type", s="0", type="town"), "speed", max=speed_mps, unit="m/s")
        plan, s = _add(road, "planView"), 0.0
        for (x, y), (dx, dy) in zip(line, np.diff(line, axis=0)):
            length = math.hypot(dx, dy)
            _add(_add(plan, "geometry", s=s, x=x, y=y, hdg=math.atan2(dy, dx), length=length), "line")
            s += length
        _add(_add(road, "elevationProfile"), "elevation", s="0", a="0", b="0", c="0", d="0")
        _add(road, "lateralProfile")

    def _sections(self, road: ElementTree.Element, border: tuple[str, str]) -> ElementTree.Element:
        """Lane 0 with the mark of the left border; returns the place for the lanes to its right."""
        section = _add(_add(road, "lanes"), "laneSection", s="0")
        _mark(_add(_add(section, "center"), "lane", id="0", type="none", level="false"), border)
        return _add(section, "right")

    def _lane(self, section: ElementTree.Element, number: int, strip: _Strip, before: str | None = None, after: str | None = None) -> None:
        lane = _add(section, "lane", id=number, type=strip.kind, level="false")
        link = _add(lane, "link")
        if before and after:
            _add(link, "predecessor", id=before)
            _add(link, "successor", id=after)
        _add(lane, "width", sOffset="0", a=strip.width_m, b="0", c="0", d="0")
        _mark(lane, strip.mark)
        if strip.lane:
            _add(lane, "speed", sOffset="0", max=strip.lane.speed_mps, unit="m/s")

    def _signals(self, place: ElementTree.Element, row: list[Lane], ways: list[Lane], length: float) -> None:
        """At the end of an edge, beside the kerb: its light, or its stop or yield sign."""
        edge = row[0].edge
        across = sum(strip.width_m for strip in self._strips[edge])
        kerb = -across - 0.5 if self._side > 0 else 0.5
        values = {"s": length - 0.25, "t": kerb, "orientation": "+", "country": "OpenDRIVE", "subtype": "-1", "value": "-1", "width": 0.6}
        light = next((way.signal[0] for way in ways if way.signal), None)
        controls = {markings.entry_control(lane, self._lanes) for lane in row if lane.successors}
        sign = next((_SIGNS[control] for control in ("stop", "yield") if control in controls), None)
        if light:
            name = f"{light}:{edge}"
            self._lights.setdefault(light, []).append(name)
            signal = _add(place, "signal", id=name, name=light, dynamic="yes", zOffset=2.0, type=_LIGHT, height=2.3, **values)
        elif sign:
            signal = _add(place, "signal", id=f"{sign}:{edge}", name=sign, dynamic="no", zOffset=2.0, type=sign, height=0.6, **values)
        else:
            return
        numbers = sorted(int(self._number[lane.name]) for lane in row if lane.successors)
        _add(signal, "validity", fromLane=numbers[0], toLane=numbers[-1])


def _crosswalk(objects: ElementTree.Element, crossing, line: np.ndarray, *, at_end: bool, length: float) -> None:
    """A zebra, seen from the start or the end of the edge whose reference line (N, 2) is given."""
    lane = crossing.getLane(0)
    a, b = np.array(lane.getShape())[[0, -1], :2]
    along = (b - a) / np.hypot(*(b - a))
    side = np.array([-along[1], along[0]]) * lane.getWidth() / 2
    corners = np.array([a + side, b + side, b - side, a - side, a + side])
    origin, ahead = (line[-1], line[-1] - line[-2]) if at_end else (line[0], line[1] - line[0])
    ahead = ahead / np.hypot(*ahead)
    local = np.stack([(corners - origin) @ ahead, (corners - origin) @ [-ahead[1], ahead[0]]], axis=-1)
    place = {"s": length if at_end else 0.0, "t": "0", "zOffset": "0", "hdg": "0", "pitch": "0", "roll": "0", "orientation": "none"}
    size = {"length": lane.getWidth(), "width": float(np.hypot(*(b - a)))}
    outline = _add(_add(objects, "object", id=crossing.getID(), name=crossing.getID(), type="crosswalk", **place, **size), "outline")
    for u, v in local:
        _add(outline, "cornerLocal", u=u, v=v, z="0", height="0")


def _beside(points: np.ndarray, left_m: float) -> np.ndarray:
    """The polyline (N, 2), every piece moved to its left by the same distance, without points on top of each other."""
    points = points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.01]]
    along = np.diff(points, axis=0)
    along /= np.hypot(*along.T)[:, None]
    normals = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    before, after = np.concatenate([normals[:1], normals]), np.concatenate([normals, normals[-1:]])
    return points + left_m * (before + after) / (1 + (before * after).sum(1, keepdims=True))


def _mark(lane: ElementTree.Element, mark: tuple[str, str]) -> None:
    change = "both" if mark[0] == "broken" else "none"
    _add(lane, "roadMark", sOffset="0", type=mark[0], weight="standard", color=mark[1], width="0.16", laneChange=change)


def _add(parent: ElementTree.Element, tag: str, **values: object) -> ElementTree.Element:
    texts = {name: f"{value:.8g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ElementTree.SubElement(parent, tag, texts)
