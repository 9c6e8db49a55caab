"""Chooses what the expert says: one topic at a time, with hysteresis, in the wording of the episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import NS_PER_S, VEHICLE, Command, Trajectory
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.avoidance import Use
from spanvla_ros.sim.driver.corridor import Corridor
from spanvla_ros.sim.driver.decision import Lateral, Longitudinal
from spanvla_ros.sim.driver.manoeuvre import Manoeuvre
from spanvla_ros.sim.driver.negotiation import Cause, Deal
from spanvla_ros.sim.driver.wording import TOPICS
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads.route import StopLine

_BUCKET_M = 5
_MATTERS_MPS2 = 0.3
_MOVES_M = 0.25
_LINGER_NS = NS_PER_S
_BRAKING = frozenset({Longitudinal.YIELD, Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Longitudinal.LEAD_FOLLOWING, Longitudinal.GAP_SEARCHING})
_STATES = ("red", "pedestrian", "stopped", "give_way", "oncoming_turn", "merge_gap", "wait_to_pass", "blocked")
_NAMES = {"bicycle": "cyclist"}
_GROUPS = {"pedestrian": "VRU", "bicycle": "VRU", "cone": "Road Events", "barrier": "Road Events"}
_BY_USE = {Use.OWN_LANE: ("nudge", Lateral.IN_LANE_NUDGE), Use.ONCOMING: ("pass", Lateral.OUT_OF_LANE_NUDGE)}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the choice of topic depends on; causes: strongest first, with the deceleration that each asks for."""

    corridor: Corridor
    ego: EgoState
    s: float
    lateral_m: float
    heading_rad: float
    causes: Sequence[tuple[float, Cause]]
    deal: Deal
    choice: Manoeuvre
    aborted: bool
    lamp: str
    lines: Sequence[StopLine]
    trajectory: Trajectory
    stamp_ns: int

    @property
    def front_s(self) -> float:
        return self.s + VEHICLE.front_m


@dataclass(frozen=True, kw_only=True)
class Said:
    topic: str
    trace: str | None
    longitudinal: Longitudinal
    lateral: Lateral
    components: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A topic that may be said: distance [m], actor, sides for its words."""

    topic: str
    weight: float
    distance_m: float = 0.0
    actor: Actor | None = None
    side: str = ""
    way: str = ""


class Narrator:
    """Holds the last topic and distance, so that sentences don't flicker at thresholds."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 13])
        self._wording = {name: int(rng.integers(len(topic.texts))) for name, topic in TOPICS.items() if topic.texts}
        self._topic = "free"
        self._bucket = 0
        self._said: Said | None = None
        self._said_ns = 0

    def tell(self, scene: Scene) -> Said:
        """Topic, decisions, components and sentence (None for a free road)."""
        lateral, moving = self._lateral(scene)
        points = [*self._braking(scene), *moving, *self._quiet(scene)]
        point = max(points, key=lambda p: p.weight * (1.5 if self._holds(p.topic) else 1.0), default=_Point(topic="free", weight=0.0))
        if self._lingers(point, scene):
            return self._said  # type: ignore[return-value]
        fresh = point.topic != self._topic
        self._topic = point.topic
        self._said = self._say(scene, point, points, lateral, fresh)
        self._said_ns = scene.stamp_ns
        return self._said

    def _lingers(self, point: _Point, scene: Scene) -> bool:
        """Whether a reason to brake that has just vanished is still what the car brakes for; it often comes back at once."""
        past, speeds = self._said, scene.trajectory.speeds_mps
        if past is None or past.longitudinal not in _BRAKING or TOPICS[point.topic].longitudinal in _BRAKING:
            return False
        return 0 <= scene.stamp_ns - self._said_ns < _LINGER_NS and speeds[10] < speeds[0] - 0.15

    def _say(self, scene: Scene, point: _Point, points: list[_Point], lateral: Lateral, fresh: bool) -> Said:
        topic = TOPICS[point.topic]
        if point.topic == "free":
            return Said(topic="free", trace=None, longitudinal=topic.longitudinal, lateral=lateral, components=())
        words = {"d": self._rounded(point.distance_m, fresh), "v": _name(point.actor), "side": point.side, "way": point.way}
        shown = [point, *(p for p in points if p is not point and p.weight > 0.5 and (p.topic, p.actor) != (point.topic, point.actor))]
        return Said(
            topic=point.topic,
            trace=topic.texts[self._wording[point.topic]].format(**words),
            longitudinal=topic.longitudinal,
            lateral=lateral,
            components=tuple(_component(scene, p, words["d"] if p is point else None) for p in shown[:3]),
        )

    def _holds(self, topic: str) -> bool:
        return topic == self._topic or topic.removesuffix("_wait") == self._topic.removesuffix("_wait")

    def _braking(self, scene: Scene) -> list[_Point]:
        """What the car brakes or waits for."""
        waits = scene.ego.speed_mps < (0.6 if self._topic.endswith("_wait") else 0.3)
        points = []
        for force, cause in scene.causes:
            if force < _MATTERS_MPS2 / (1.5 if self._holds(cause.topic) else 1.0):
                continue
            topic = cause.topic
            if topic == "lead" and cause.actor is not None:
                if cause.actor.speed_mps < (0.8 if self._topic.startswith("stopped") else 0.5):
                    topic = "stopped"
                elif cause.actor.braking and force > (0.8 if self._topic == "lead_brakes" else 1.6):
                    topic = "lead_brakes"
            if topic == "stopped" and cause.actor is not None and cause.actor.kind in ("cone", "barrier"):
                topic = "blocked"
            distance = max((cause.line.s if cause.line is not None and cause.actor is None else cause.s) - scene.front_s, 0.0)
            if waits and topic in _STATES and distance < 25.0:
                topic += "_wait"
            way = cause.line.turn.value if cause.line is not None and cause.line.turn in (Command.LEFT, Command.RIGHT) else "across"
            points.append(_Point(topic=topic, weight=1.0 + force, distance_m=distance, actor=cause.actor, side=_side(scene, cause.actor), way=way))
        return points

    def _lateral(self, scene: Scene) -> tuple[Lateral, list[_Point]]:
        """The lateral decision that the roll-out shows, and what may be said about it."""
        corridor, choice = scene.corridor, scene.choice
        s, d = corridor.frenet(scene.trajectory.poses_odom[::5, :2], scene.s - 6.0, scene.s + 90.0)
        d = d[np.isfinite(s)]
        ends = s[np.isfinite(s)][-1] if len(d) else scene.s
        most = float(d[int(np.argmax(np.abs(d)))]) if len(d) else 0.0
        ahead = [p for p in choice.passings if p.end_s > scene.s - VEHICLE.rear_m]
        active = [p for p in ahead if p.start_s - VEHICLE.front_m - 4.0 < ends and abs(p.offset) > 0.12]
        if choice.evades is not None and abs(most) > _MOVES_M:
            return Lateral.IN_LANE_NUDGE, [_Point(topic="evade", weight=4.0, actor=choice.evades, way=_word(most), side=_side(scene, choice.evades))]
        if choice.overtakes is not None and abs(most) > _MOVES_M:
            slow = choice.overtakes.actor
            weight = 4.0 if self._topic == "overtake" else 3.0
            gap = choice.overtakes.s - scene.front_s
            return Lateral.LANE_CHANGE, [_Point(topic="overtake", weight=weight, distance_m=gap, actor=slow, way=_word(corridor.side))]
        for passing in active:
            if most * passing.offset * corridor.side > 0 and abs(most) > min(_MOVES_M, 0.7 * abs(passing.offset)):
                topic, lateral = _BY_USE.get(passing.use, ("change", Lateral.LANE_CHANGE))
                if passing.use is Use.OWN_DIRECTION and abs(passing.offset) < 1.6:
                    topic, lateral = "pass", Lateral.OUT_OF_LANE_NUDGE
                actor = passing.main.actor
                point = _Point(
                    topic=topic, weight=2.2 if topic != "nudge" else 1.6, distance_m=max(passing.start_s - scene.front_s, 0.0), actor=actor,
                    side=_word(passing.main.middle * corridor.side), way=_word(passing.offset * corridor.side),
                )  # fmt: skip
                return lateral, [point]
        blend = self._blend(scene)
        if blend:
            return Lateral.MERGE_SPLIT, [_Point(topic="merge", weight=1.5, way=blend)]
        away = abs(scene.lateral_m) > (0.9 if choice.shifts else 1.8)
        back = away and len(d) > 0 and abs(d[-1]) < abs(scene.lateral_m) - 0.5
        if back:
            point = _Point(topic="return", weight=1.8, way=_word(-scene.lateral_m))
            whole = abs(scene.lateral_m) > 2.5
            lateral = Lateral.MANOEUVRE_ABORT if scene.aborted else Lateral.LANE_CHANGE if whole else Lateral.OUT_OF_LANE_NUDGE
            return lateral, [point]
        turn = self._turn(scene)
        return (Lateral.TURN if turn is not None and ends > turn.s - 2.0 else Lateral.KEEP_AND_CENTRE), []

    @staticmethod
    def _turn(scene: Scene) -> StopLine | None:
        near = scene.front_s + 12.0
        turns = (stop for stop in scene.lines if stop.turn in (Command.LEFT, Command.RIGHT))
        return next((stop for stop in turns if stop.s < near and scene.s < stop.exit_s - 2.0), None)

    @staticmethod
    def _blend(scene: Scene) -> str:
        """Side that the path itself merges to within reach, else ''."""
        for start, end in scene.corridor.blends:
            if start - 15.0 < scene.s < end:
                return "left" if scene.corridor.side > 0 else "right"
        return ""

    def _quiet(self, scene: Scene) -> list[_Point]:
        """What shapes the drive without asking for a stop."""
        points = []
        speed = scene.ego.speed_mps

        def wider(*topics: str) -> float:
            return 1.35 if self._topic in topics else 1.0

        turn = self._turn(scene)
        inside = turn is not None and turn.s - VEHICLE.front_m - 1.0 < scene.s
        off = abs(scene.lateral_m) * wider("recover")
        idle = not scene.choice.shifts and abs(scene.lateral_m) < 2.2
        if off > 0.75 and idle and turn is None:
            points.append(_Point(topic="recover", weight=1.2, side=_word(scene.lateral_m)))
        line = next((stop for stop in scene.lines if stop.s > scene.front_s - 1.0), None)
        if scene.lamp == "green" and line is not None and line.s - scene.front_s < 30.0 * wider("green", "green_left", "green_right"):
            topic = "green" if line.turn in (Command.STRAIGHT, Command.UNKNOWN) else f"green_{line.turn.value}"
            points.append(_Point(topic=topic, weight=0.8, distance_m=line.s - scene.front_s))
        for cap, actor in scene.choice.cautions:
            if scene.s < cap.end_s and cap.start_s - scene.s < 2.5 * speed * wider("people", "hidden") and speed > 2.0:
                topic = "people" if actor.kind == "pedestrian" else "hidden"
                points.append(_Point(topic=topic, weight=1.0, distance_m=max(cap.start_s - scene.s, 0.0), actor=actor, side=_side(scene, actor)))
        low = int(scene.s / 0.5)
        bends = scene.corridor.curvature[low : low + int((6.0 + 2.0 * speed) / 0.5) + 1] or [0.0]
        bend = max(bends, key=abs)
        if inside and abs(bend) * wider("turn") > 0.03:
            points.append(_Point(topic="turn", weight=0.9, side="left" if turn.turn is Command.LEFT else "right"))  # type: ignore[union-attr]
        elif abs(bend) * wider("curve") > 0.022 and turn is None:
            points.append(_Point(topic="curve", weight=0.7, side=_word(bend)))
        return points

    def _rounded(self, distance: float, fresh: bool) -> int:
        """Distance in 5-m buckets; the bucket changes only when the distance has left it by a metre."""
        if fresh or abs(distance - self._bucket) > _BUCKET_M / 2 + 1.0:
            self._bucket = max(_BUCKET_M, _BUCKET_M * round(distance / _BUCKET_M))
        return self._bucket


def _word(value: float) -> str:
    return "left" if value > 0 else "right"


def _name(actor: Actor | None) -> str:
    return "" if actor is None else _NAMES.get(actor.kind, actor.kind)


def _side(scene: Scene, actor: Actor | None) -> str:
    """Side of the car on which an actor is."""
    if actor is None:
        return ""
    ego = scene.ego
    return _word(math.cos(ego.yaw) * (actor.y - ego.y) - math.sin(ego.yaw) * (actor.x - ego.x))


def _component(scene: Scene, point: _Point, rounded: int | None) -> Mapping[str, str]:
    topic = TOPICS[point.topic]
    key, text = topic.state
    words = {"side": point.side, "way": point.way}
    if point.actor is None:
        group, kind = topic.thing or ("Road Events", "obstacle")
        near = group in ("Lane", "Ego states")
        where = "here" if near else f"{rounded if rounded is not None else max(5, 5 * round(point.distance_m / 5))} m ahead"
    else:
        group, kind = _GROUPS.get(point.actor.kind, "Vehicle"), _name(point.actor)
        where = _location(scene.ego, point.actor)
    return {"class": group, "type": kind, "location": where, key: text.format(**words)}


def _location(ego: EgoState, actor: Actor) -> str:
    """'12 m ahead, left': from the front bumper, sideways where it is not straight ahead."""
    dx, dy = actor.x - ego.x, actor.y - ego.y
    along = math.cos(ego.yaw) * dx + math.sin(ego.yaw) * dy - VEHICLE.front_m - actor.length_m / 2
    across = math.cos(ego.yaw) * dy - math.sin(ego.yaw) * dx
    side = f", {_word(across)}" if abs(across) > 1.4 else ""
    if along < -VEHICLE.length_m - actor.length_m:
        return f"{round(-along - VEHICLE.length_m)} m behind{side}"
    return f"{round(along)} m ahead{side}" if along > 0.5 else f"beside{side or ', ' + _word(across)}"
