"""A hand-made street with a crossing, actors on it, and a closed loop: what the tests of the expert drive on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from shapely.geometry import LineString

from spanvla_ros.contracts import NS_PER_S, Command
from spanvla_ros.sim import ego as bicycle
from spanvla_ros.sim import tracker
from spanvla_ros.sim.actor import SIZES, Actor
from spanvla_ros.sim.driver.expert import Expert
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads.lanes import Lane
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import Route

CROSS_X = 150.0  # the junction's middle; the stop line of the route lies 10 m before it
LINE_X = CROSS_X - 10.0
CRUISE = 0.9364 * 8.33


class Lamps:
    """Every light shows one colour."""

    def __init__(self, colour: str = "green"):
        self.colour = colour

    def state(self, signal) -> str:
        return self.colour


def lane(name, points, *, edge, width=3.5, junction=None, successors=(), **values) -> Lane:
    line = np.array(points, float)
    length = float(np.hypot(*np.diff(line, axis=0).T).sum())
    fields = dict(
        name=name, edge=edge, index=0, baseline=line, width_m=width, speed_mps=8.33, polygon=LineString(line).buffer(width / 2, cap_style="flat"),
        length_m=length, successors=successors, inner=None, outer=None, junction=junction, turn=Command.STRAIGHT if junction else None,
        signal=None, control=None, yields_to=(),
    )  # fmt: skip
    return Lane(**{**fields, **values})


def make_road(*, control="signal", lanes=1, side=1, turn=None) -> RoadMap:
    """A street along x (own direction at y = 0, oncoming beyond its inner border) that a street from the right crosses at CROSS_X."""
    signal = ("T", 0) if control == "signal" else None
    far = 400.0
    own = {}
    for k in range(lanes):
        y = side * 3.5 * k
        inner = f"in{k + 1}" if k + 1 < lanes else None
        outer = f"in{k - 1}" if k else None
        own[f"in{k}"] = lane(f"in{k}", [(0, y), (LINE_X, y)], edge="in", index=k, successors=(f"c{k}",), inner=inner, outer=outer)
        own[f"c{k}"] = lane(
            f"c{k}", [(LINE_X, y), (CROSS_X + 10, y)], edge="c", junction="J", successors=(f"out{k}",), signal=signal, control=control,
            yields_to=() if control in ("signal", "priority") else ("f",),
        )  # fmt: skip
        inner, outer = (name.replace("in", "out") if name else None for name in (inner, outer))
        own[f"out{k}"] = lane(f"out{k}", [(CROSS_X + 10, y), (far, y)], edge="out", index=k, inner=inner, outer=outer)
    y = side * 3.5 * lanes
    others = {
        "back": lane("back", [(far, y), (0, y)], edge="back"),
        "fi": lane("fi", [(CROSS_X, -120), (CROSS_X, -10)], edge="fi", successors=("f",)),
        "f": lane(
            "f", [(CROSS_X, -10), (CROSS_X, 10)], edge="f", junction="J", successors=("fo",), signal=("T", 1) if signal else None,
            control="signal" if signal else "priority", yields_to=("c0",) if control == "priority" else (),
        ),
        "fo": lane("fo", [(CROSS_X, 10), (CROSS_X, 120)], edge="fo"),
    }  # fmt: skip
    every = {**own, **others}
    oncoming = {"in": "back", "out": "back", "back": None, "fi": None, "fo": None}
    area = LineString([(0, 0), (far, 0)]).buffer(20)
    return RoadMap(
        map_id="test-0", lefthand=side < 0, lanes=every, junctions={"J": area}, drivable=area, sidewalk=area, white=area, yellow=area, crossings=(),
        heads=(), programmes={}, oncoming=oncoming, entries=("in",), exits=("out",),
    )  # fmt: skip


def make_expert(road: RoadMap, style: Style = Style(), seed: int = 0) -> Expert:
    path = road.path(("in0", "c0", "out0"))
    return Expert(road, Route(path=path, start_s=5.0, end_s=380.0), seed, style)


def at(x: float, speed: float, y: float = 0.0, yaw: float = 0.0) -> EgoState:
    return EgoState(x=x, y=y, yaw=yaw, speed_mps=speed)


def thing(kind: str, x: float, y: float, *, speed: float = 0.0, yaw: float = 0.0, name: str = "", **values) -> Actor:
    length, width, height = SIZES[kind]
    return Actor(name=name or f"{kind}{x}", kind=kind, x=x, y=y, yaw=yaw, length_m=length, width_m=width, height_m=height, speed_mps=speed, **values)


def moved(actor: Actor, seconds: float) -> Actor:
    way = actor.speed_mps * seconds
    return replace(actor, x=actor.x + way * math.cos(actor.yaw), y=actor.y + way * math.sin(actor.yaw))


def drive(expert: Expert, state: EgoState, actors, lamps=Lamps(), seconds: float = 20.0):
    """Closed loop with actors at constant velocity (or given as a function of time): states and decisions every 0.1 s."""
    states, decisions, stamp = [state], [], 0
    for _ in range(round(seconds / 0.1)):
        now = actors(stamp / NS_PER_S) if callable(actors) else tuple(moved(a, stamp / NS_PER_S) for a in actors)
        decision = expert.plan(state, now, lamps, stamp)
        decisions.append(decision)
        for _ in range(2):
            state = bicycle.advance(state, *tracker.control(state, decision.trajectory, stamp))
            stamp += NS_PER_S // 20
        states.append(state)
        hit = [a.name for a in now if separated(bicycle.footprint(state), a.corners) < 0]
        assert not hit, f"hits {hit} at {stamp / NS_PER_S} s, {decision.topic}"
    return states, decisions


def separated(a: np.ndarray, b: np.ndarray) -> float:
    """Largest gap between two boxes along their own axes; negative where they overlap."""
    gaps = []
    for shape in (a, b):
        for edge in (shape[1] - shape[0], shape[2] - shape[1]):
            axis = edge / np.hypot(*edge)
            first, second = a @ axis, b @ axis
            gaps.append(max(first.min() - second.max(), second.min() - first.max()))
    return max(gaps)
