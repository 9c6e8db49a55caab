"""Lanes of a SUMO net for cars, and the connectors that join them inside junctions."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from shapely.geometry import LineString, Polygon

from spanvla_ros.contracts import Command

_TURNS = {"s": Command.STRAIGHT, "t": Command.STRAIGHT, "l": Command.LEFT, "L": Command.LEFT, "r": Command.RIGHT, "R": Command.RIGHT}


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A lane of an edge, or a connector: the way through a junction from one lane to another. World frame.

    name: SUMO's name (its last number counts the sidewalk too); edge: SUMO's edge, for a connector its internal edge;
    index: 0 at the kerb, among the lanes for cars. baseline (N, 2): centre line in driving direction. successors: a
    lane's connectors, a connector's one lane. inner, outer: neighbours of the same direction towards the middle of the
    road and towards the kerb. The rest speaks of connectors alone: turn; signal: (traffic light, link index); control:
    who rules the entry, "signal", "priority", "yield" or "stop"; yields_to: connectors with right of way over this one,
    at a signal those that have green at the same time.
    """

    name: str
    edge: str
    index: int
    baseline: np.ndarray
    width_m: float
    speed_mps: float
    polygon: Polygon
    length_m: float
    successors: tuple[str, ...]
    inner: str | None = None
    outer: str | None = None
    junction: str | None = None
    turn: Command | None = None
    signal: tuple[str, int] | None = None
    control: str | None = None
    yields_to: tuple[str, ...] = ()


def keeps_left(net_file: Path) -> bool:
    """True if a net (gzip) is one of left-hand traffic; sumolib does not tell."""
    with gzip.open(net_file, "rt", encoding="utf-8") as text:
        return 'lefthand="true"' in text.read(2000)


def programmes(net: Any) -> dict[str, tuple[tuple[float, str], ...]]:
    """Phases (seconds, SUMO letters per link) of every traffic light."""
    found = {}
    for light in net.getTrafficLights():
        (programme,) = light.getPrograms().values()
        found[light.getID()] = tuple((float(phase.duration), phase.state) for phase in programme.getPhases())
    return found


def car_lanes(edge: Any) -> list[Any]:
    """sumolib lanes of a sumolib edge that cars may use, from the kerb to the middle."""
    return [lane for lane in edge.getLanes() if lane.allows("passenger")]


def streets(net: Any) -> list[Any]:
    """sumolib edges outside junctions that cars may use."""
    return [edge for edge in net.getEdges(withInternal=False) if car_lanes(edge)]


def read(net: Any, programmes: dict[str, tuple[tuple[float, str], ...]]) -> dict[str, Lane]:
    """All lanes and connectors for cars of a sumolib net, by name."""
    lanes: dict[str, Lane] = {}
    links = {}
    for edge in streets(net):
        row = car_lanes(edge)
        for index, lane in enumerate(row):
            ways = [link for link in lane.getOutgoing() if link.getViaLaneID() and link.getToLane().allows("passenger")]
            links.update({link.getViaLaneID(): link for link in ways})
            lanes[lane.getID()] = Lane(
                **_body(lane, _points(lane)),
                index=index,
                successors=tuple(link.getViaLaneID() for link in ways),
                inner=row[index + 1].getID() if index + 1 < len(row) else None,
                outer=row[index - 1].getID() if index else None,
            )
    for name, link in links.items():
        rivals = _rivals(name, link, links, programmes)
        lanes[name] = Lane(
            **_body(net.getLane(name), _through(net, name), min(link.getFromLane().getSpeed(), link.getToLane().getSpeed())),
            index=0,
            successors=(link.getToLane().getID(),),
            junction=link.getJunction().getID(),
            turn=_TURNS[link.getDirection()],
            signal=_signal(link),
            control=_control(link, rivals),
            yields_to=rivals,
        )
    return lanes


def opposite(net: Any, name: str, side: int) -> str | None:
    """Edge of the other direction with nothing but paint between its lanes and those of this edge; `side` +1 in right-hand traffic."""
    edge = net.getEdge(name)
    border = _middle(edge, side)
    for other in edge.getToNode().getOutgoing():
        if other.getToNode() is edge.getFromNode() and car_lanes(other):
            facing = _middle(other, side)
            probes = [border.interpolate(share, normalized=True) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
            if sum(facing.distance(probe) < 0.4 for probe in probes) >= 4:
                return other.getID()
    return None


def _middle(edge: Any, side: int) -> LineString:
    """Border of an edge towards the middle of the road."""
    lane = car_lanes(edge)[-1]
    return LineString(_points(lane)).offset_curve(side * lane.getWidth() / 2)


def _points(lane: Any) -> np.ndarray:
    return np.array(lane.getShape())[:, :2]


def _through(net: Any, name: str) -> np.ndarray:
    """Points of the chain of internal lanes that begins with `name`."""
    inside = []
    while name:
        inner = net.getLane(name)
        inside.append(_points(inner))
        name = next((out.getViaLaneID() for out in inner.getOutgoing() if out.getViaLaneID()), "")
    return np.concatenate(inside)


def _body(lane: Any, points: np.ndarray, speed_mps: float | None = None) -> dict[str, Any]:
    line = LineString(points)
    return {
        "name": lane.getID(),
        "edge": lane.getEdge().getID(),
        "baseline": points,
        "width_m": lane.getWidth(),
        "speed_mps": lane.getSpeed() if speed_mps is None else speed_mps,
        "polygon": line.buffer(lane.getWidth() / 2, cap_style="flat", join_style="round"),
        "length_m": line.length,
    }


def _signal(link: Any) -> tuple[str, int] | None:
    return (link.getTLSID(), link.getTLLinkIndex()) if link.getTLSID() else None


def _index(via: str) -> int:
    """Index of a connector in the request matrix of its junction: SUMO counts the lanes of internal edges through."""
    edge, lane = via.rsplit("_", 1)
    return int(edge.rsplit("_", 1)[1]) + int(lane)


def _rivals(name: str, link: Any, links: dict[str, Any], programmes: dict[str, tuple[tuple[float, str], ...]]) -> tuple[str, ...]:
    """Connectors that go first where both want to go."""
    junction = link.getJunction()
    found = []
    for other, rival in links.items():
        if rival.getJunction() is not junction or rival.getFromLane() is link.getFromLane():
            continue
        if not junction.areFoes(_index(name), _index(other)) or not junction.forbids(rival, link):
            continue
        if link.getTLSID():
            phases = (letters for _, letters in programmes[link.getTLSID()])
            if not any(p[link.getTLLinkIndex()] == "g" and p[rival.getTLLinkIndex()] in "gG" for p in phases):
                continue
        found.append(other)
    return tuple(found)


def _control(link: Any, rivals: tuple[str, ...]) -> str:
    if link.getTLSID():
        return "signal"
    if link.getState() in "sw":
        return "stop"
    return "yield" if rivals else "priority"
