"""Where the others will be: vehicles follow their lanes, everything else keeps its velocity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spanvla_ros.contracts import Command
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.roads.lanes import Lane
from spanvla_ros.sim.roads.road import RoadMap

TIMES_S = np.arange(25) * 0.3
_AHEAD_M = 120.0
_MATCH_M = 2.6
_STOPS_MPS2, _BRAKES_MPS2 = 2.6, 5.0
_WALKING_MPS = 1.0
_PEOPLE = frozenset({"pedestrian"})


class SignalStates(Protocol):
    """What the expert asks of `Signals`."""

    def state(self, signal: tuple[str, int]) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Possible futures, one row per actor and plausible way: xy (H, T, 2) and yaw (H, T) at TIMES_S, the actors, the connectors they
    will drive (empty off the lanes), and whether it drives into a junction where it should have stopped."""

    actors: list[Actor]
    ways: list[tuple[str, ...]]
    runs: list[bool]
    xy: np.ndarray
    yaw: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """A lane with what follows it: where it starts in the flat arrays, its length, names and arc length of its connectors."""

    first: int
    length_m: float
    connectors: tuple[tuple[str, float], ...]


class Forecaster:
    """Predicts actors on one map. `own`: connectors of the ego's path."""

    def __init__(self, road: RoadMap, own: frozenset[str]):
        self._road = road
        self._own = own
        self._chains: dict[str, list[_Chain]] = {}
        self._siblings: dict[str, tuple[str, ...]] = {}
        for lane in road.lanes.values():
            if lane.junction is None:
                for name in lane.successors:
                    self._siblings[name] = lane.successors
        self._flat = np.zeros((0, 3))
        self._names = list(road.lanes)
        rows = []
        for index, name in enumerate(self._names):
            line = _dense(road.lanes[name].baseline, 2.0)
            rows.append(np.column_stack([line, np.full(len(line), index), np.linspace(0.0, road.lanes[name].length_m, len(line))]))
        self._points = np.concatenate(rows)  # x, y, yaw, lane, arc
        self._region: tuple[float, float, np.ndarray, np.ndarray] | None = None

    def predict(self, centre: tuple[float, float], actors: list[Actor], signals: SignalStates, gives_way_to: frozenset[str]) -> Forecast:
        """Futures of `actors` near `centre` (x, y). gives_way_to: connectors whose users have priority over the ego; who stands there will start."""
        if not actors:
            return Forecast(actors=[], ways=[], runs=[], xy=np.zeros((0, len(TIMES_S), 2)), yaw=np.zeros((0, len(TIMES_S))))
        rows: list[tuple[Actor, tuple[str, ...], bool]] = []
        lane_rows: list[tuple[int, int, float, float, float, float, float, float, float]] = []
        matches = self._match(centre, actors)
        for actor, match in zip(actors, matches):
            options = self._options(actor, match) if match is not None else []
            for chain, arc, offset, bearing in options:
                ahead = [(name, at) for name, at in chain.connectors if at > arc + actor.length_m / 2 - 1.0]
                ways = tuple(name for name, at in chain.connectors if at + self._road.lanes[name].length_m > arc)
                stop, starts, runs = math.inf, False, self._ran(match, signals)
                if ahead:
                    name, at = ahead[0]
                    distance = at - arc - actor.length_m / 2
                    if self._must_stop(self._road.lanes[name], signals):
                        # brake lights tell who means to stop
                        can = _BRAKES_MPS2 if actor.braking else _STOPS_MPS2
                        runs = actor.speed_mps**2 >= 2 * can * max(distance, 0.15)
                        stop = math.inf if runs else max(distance, 0.0)
                    elif name in gives_way_to and distance < 30.0:
                        starts = actor.speed_mps < 5.0
                drift, lasting = self._drift(actor, match[0] if match else "", offset, bearing)
                index = len(rows)
                lane_rows.append((index, chain.first, chain.length_m, arc, offset, drift, lasting, stop, 1.3 if starts else 0.0))
                rows.append((actor, ways, runs))
            if not options:
                rows.append((actor, (), False))
        # whoever sets off on foot will soon walk
        speeds = np.array([max(a.speed_mps, _WALKING_MPS) if a.kind in _PEOPLE and a.speed_mps > 0.1 else a.speed_mps for a, _, _ in rows])
        yaw = np.array([row[0].yaw for row in rows])
        x, y = np.array([row[0].x for row in rows]), np.array([row[0].y for row in rows])
        run = speeds[:, None] * TIMES_S
        headings = np.repeat(yaw[:, None], len(TIMES_S), axis=1)
        xy = np.stack([x[:, None] + np.cos(yaw)[:, None] * run, y[:, None] + np.sin(yaw)[:, None] * run], axis=-1)
        if lane_rows:
            table = np.array(lane_rows)
            index = table[:, 0].astype(int)
            first, length, arc, offset, drift, lasting, stop, push = (column[:, None] for column in table[:, 1:].T)
            # who starts from standing speeds up to 8 m/s
            gain = np.minimum(push * TIMES_S, np.maximum(8.0 - speeds[index][:, None], 0.0))
            travel = speeds[index][:, None] * TIMES_S + 0.5 * gain * TIMES_S
            at = arc + np.minimum(travel, stop)
            over = np.maximum(at - length, 0.0)
            at = np.clip(at, 0.0, length)
            low = np.minimum(np.floor(at), length - 1).astype(int)
            share = (at - low)[..., None]
            base = first.astype(int) + low
            place = self._flat[base] * (1 - share) + self._flat[base + 1] * share
            side = offset + drift * np.minimum(TIMES_S, lasting)
            cos, sin = np.cos(place[..., 2]), np.sin(place[..., 2])
            xy[index, :, 0] = place[..., 0] - sin * side + cos * over
            xy[index, :, 1] = place[..., 1] + cos * side + sin * over
            headings[index] = place[..., 2] + np.where(TIMES_S < lasting, np.arctan2(drift, np.maximum(speeds[index][:, None], 1.0)), 0.0)
        return Forecast(actors=[r[0] for r in rows], ways=[r[1] for r in rows], runs=[r[2] for r in rows], xy=xy, yaw=headings)

    def _ran(self, match: tuple[str, float, float, float] | None, signals: SignalStates) -> bool:
        """Whether somebody has entered a junction with a red lamp; further inside nobody can tell his lane from others."""
        if match is None or self._road.lanes[match[0]].signal is None or match[1] > 0.5 * self._road.lanes[match[0]].length_m:
            return False
        return signals.state(self._road.lanes[match[0]].signal) == "red"

    def _must_stop(self, connector: Lane, signals: SignalStates) -> bool:
        """Whether the rules ask a driver before this connector to stop, as far as the ego is concerned."""
        if connector.signal is not None:
            lamp = signals.state(connector.signal)
            if lamp != "green":
                return True
        elif connector.control == "stop":
            return True
        return bool(self._own.intersection(connector.yields_to))

    def _match(self, centre: tuple[float, float], actors: list[Actor]) -> list[tuple[str, float, float, float] | None]:
        """Lane, arc length, offset and heading relative to the lane of each actor; None off the lanes, for people and the like."""
        if self._region is None or abs(self._region[0] - centre[0]) + abs(self._region[1] - centre[1]) > 10.0:
            near = np.abs(self._points[:, :2] - centre).max(axis=1) < 110.0
            part = self._points[near]
            basis = np.column_stack([part[:, 0] - centre[0], part[:, 1] - centre[1]])
            weights = np.column_stack([(basis**2).sum(axis=1), -2 * basis, -8 * np.cos(part[:, 2]), -8 * np.sin(part[:, 2])]).T
            self._region = (centre[0], centre[1], part, weights)
        ox, oy, part, weights = self._region
        if not len(part):
            return [None] * len(actors)
        where = np.array([(1.0, a.x - ox, a.y - oy, math.cos(a.yaw), math.sin(a.yaw)) for a in actors])
        best = np.argmin(where @ weights, axis=1)
        found: list[tuple[str, float, float, float] | None] = []
        for actor, row in zip(actors, part[best]):
            dx, dy = actor.x - row[0], actor.y - row[1]
            cos, sin = math.cos(row[2]), math.sin(row[2])
            along, across = cos * dx + sin * dy, cos * dy - sin * dx
            bearing = math.remainder(actor.yaw - row[2], 2 * math.pi)
            if actor.kind in _PEOPLE or actor.is_static or abs(across) > _MATCH_M or abs(along) > 3.0 or abs(bearing) > 0.8:
                found.append(None)
            else:
                found.append((self._names[int(row[3])], float(row[4] + along), float(across), bearing))
        return found

    def _options(self, actor: Actor, match: tuple[str, float, float, float]) -> list[tuple[_Chain, float, float, float]]:
        """The ways an actor may take: chain, arc length on it, offset, heading error."""
        name, arc, across, bearing = match
        lane = self._road.lanes[name]
        turn = {"left": Command.LEFT, "right": Command.RIGHT}.get(actor.indicator)
        options = []
        if lane.junction is not None:
            siblings = [n for n in self._siblings.get(name, (name,)) if n == name or _near(self._road.lanes[n], actor)]
            fitting = [n for n in siblings if self._road.lanes[n].turn == (turn or Command.STRAIGHT)]
            for sibling in fitting or siblings:
                at, off, angle = (arc, across, bearing) if sibling == name else _project(self._road.lanes[sibling], actor)
                options += [(chain, at, off, angle) for chain in self._chain(sibling)[:1]]
            return options
        chains = self._chain(name)
        turns = [self._road.lanes[c.connectors[0][0]].turn if c.connectors else None for c in chains]
        wanted = turn if turn in turns else Command.STRAIGHT if not turn and Command.STRAIGHT in turns else None
        return [(c, arc, across, bearing) for c, t in zip(chains, turns) if wanted is None or t == wanted]

    def _drift(self, actor: Actor, name: str, offset: float, bearing: float) -> tuple[float, float]:
        """Sideways speed along the lane and how long it lasts: a lane change ends in the next lane, any other drift goes on."""
        lane = self._road.lanes[name]
        rate = actor.speed_mps * math.sin(bearing)
        if lane.junction is not None or abs(rate) < 0.25 or abs(bearing) < 0.03:
            rate = 0.0
        toward = 1 if rate > 0 else -1 if rate < 0 else {"left": 1, "right": -1}.get(actor.indicator, 0)
        neighbour = lane.inner if toward == self._road.side else lane.outer
        if toward and neighbour is not None and actor.indicator:
            rate = rate or 0.5 * toward * min(actor.speed_mps, 1.0)
            if toward * rate < 0.8:
                rate = 0.8 * toward * min(actor.speed_mps / 3.0, 1.0)
            rest = toward * lane.width_m - offset
            return rate, max(rest / rate, 0.0) if rate else 0.0
        # back towards the centre of its lane: it stops drifting there
        if rate * offset < 0:
            return rate, abs(offset / rate)
        return rate, 3.0

    def _chain(self, name: str) -> list[_Chain]:
        if name not in self._chains:
            self._chains[name] = [self._build(names) for names in self._walks(name)]
        return self._chains[name]

    def _walks(self, name: str) -> list[list[str]]:
        """Sequences of lanes from `name`: all connectors of its end, later the straightest."""
        lanes = self._road.lanes
        first = lanes[name]
        starts = [[name, follower] for follower in first.successors] if first.junction is None and first.successors else [[name]]
        walks = []
        for walk in starts:
            length = sum(lanes[n].length_m for n in walk[1:])
            while length < _AHEAD_M and lanes[walk[-1]].successors:
                options = lanes[walk[-1]].successors
                following = next((n for n in options if lanes[n].turn in (None, Command.STRAIGHT)), options[0])
                walk = [*walk, following]
                length += max(lanes[following].length_m, 0.1)
            walks.append(walk)
        return walks

    def _build(self, names: list[str]) -> _Chain:
        lines, connectors, length = [], [], 0.0
        for name in names:
            lane = self._road.lanes[name]
            if lane.junction is not None:
                connectors.append((name, length))
            lines.append(lane.baseline)
            length += lane.length_m
        dense = _dense(np.concatenate(lines), 1.0)
        first = len(self._flat)
        self._flat = np.concatenate([self._flat, dense, dense[-1:]])
        return _Chain(first=first, length_m=float(len(dense) - 1), connectors=tuple(connectors))


def _dense(points: np.ndarray, spacing: float) -> np.ndarray:
    """x, y, unwrapped yaw (N, 3) every `spacing` metres along a polyline (M, 2)."""
    points = np.asarray(points, float)[:, :2]
    points = points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.01]]
    if len(points) < 2:
        points = np.concatenate([points, points + (0.1, 0.0)])
    distance = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    at = np.linspace(0, distance[-1], max(round(distance[-1] / spacing), 1) + 1)
    xy = np.stack([np.interp(at, distance, points[:, k]) for k in (0, 1)], axis=-1)
    step = np.gradient(xy, axis=0)
    return np.column_stack([xy, np.unwrap(np.arctan2(step[:, 1], step[:, 0]))])


def _project(lane: Lane, actor: Actor) -> tuple[float, float, float]:
    """Arc length, offset and heading error of an actor on a connector."""
    line = _dense(lane.baseline, 1.0)
    i = int(np.argmin((line[:, 0] - actor.x) ** 2 + (line[:, 1] - actor.y) ** 2))
    x, y, yaw = line[i]
    cos, sin = math.cos(yaw), math.sin(yaw)
    dx, dy = actor.x - x, actor.y - y
    return i + cos * dx + sin * dy, cos * dy - sin * dx, math.remainder(actor.yaw - yaw, 2 * math.pi)


def _near(lane: Lane, actor: Actor) -> bool:
    _, across, bearing = _project(lane, actor)
    return abs(across) < 0.9 and abs(bearing) < 0.3
