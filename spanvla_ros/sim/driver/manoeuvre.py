"""Which line to drive: candidates for passing what stands or crawls in the way, best first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spanvla_ros.contracts import VEHICLE, Command
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.avoidance import STANDING_MPS, Obstacle, Passing, Use, clusters, standing
from spanvla_ros.sim.driver.conflict import Block
from spanvla_ros.sim.driver.corridor import HALF_WIDTH_M, Corridor, Shift
from spanvla_ros.sim.driver.negotiation import Cause
from spanvla_ros.sim.driver.overtaking import Traveller, back, overtake, stay
from spanvla_ros.sim.driver.prediction import Forecast
from spanvla_ros.sim.driver.speed import Cap, Halt
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import StopLine

_BLOCKED_GAP_M = 4.5
_WAIT_GAP_M = 8.0
_QUEUE_M = 45.0
_OCCLUDED_MPS, _CROSSING_MPS = 6.0, 3.5
_ZEBRA_M = 3.0
_SWING_MPS = 2.0
_AWAY_M = 1.3  # further off than this the car changes lanes to get home
_BEHIND_M = 40.0


@dataclass(frozen=True, kw_only=True)
class Manoeuvre:
    """One candidate. shifts of the line; halts and caps that go with it; passings that it carries out; overtakes: vehicle passed by a lane
    change; changes: it enters another lane of the own direction; foreign: stretch of the oncoming lane it uses."""

    shifts: list[Shift]
    halts: list[tuple[Halt, Cause]]
    caps: list[Cap]
    passings: tuple[Passing, ...] = ()
    overtakes: Traveller | None = None
    changes: bool = False
    foreign: tuple[float, float] | None = None
    evades: Actor | None = None
    cautions: tuple[tuple[Cap, Actor], ...] = ()


class Planner:
    """Makes the candidates of one route."""

    def __init__(self, road: RoadMap, corridor: Corridor, style: Style):
        self._zebras = np.array([end for crossing in road.crossings for end in (crossing.line[0], crossing.line[-1])]).reshape(-1, 2)
        self._corridor = corridor
        self._style = style

    def choices(
        self, actors: list[Actor], around: list[Traveller], s: float, lateral: float, speed: float, cruise: float,
        lines: Sequence[StopLine], reach: float, parked: frozenset[str],
    ) -> list[Manoeuvre]:  # fmt: skip
        """Candidates, best first; the last one can always be had. parked: names of those who have stood too long to wait for."""
        corridor, style = self._corridor, self._style
        u = lateral * corridor.side
        still = [a for a in actors if a.speed_mps < STANDING_MPS]
        found = [o for o in standing(corridor, still, s - _BEHIND_M, s + reach) if self._is_obstacle(o, s, u, lines, parked)]
        passings = clusters(corridor, found, style.clearance_share)
        cautions = self._caution(found, s, lines)
        caps = [cap for cap, _ in cautions] + [p.cap() for p in passings if p.use < Use.NOTHING_HELPS]
        # close behind it the car swings out at walking pace
        caps += [
            Cap(start_s=s, end_s=p.start_s + 1.0, speed_mps=_SWING_MPS)
            for p in passings
            if -1.0 < p.start_s - s < 12.0 and abs(u - p.offset) > 0.4 and p.use in (Use.OWN_DIRECTION, Use.ONCOMING)
        ]
        shifts, halts = [], []
        covered = False
        open_questions: list[Passing] = []
        carried: list[Passing] = []
        for passing in passings:
            shift = passing.shift(corridor.side, speed)
            if shift.end_s + shift.ramp_m < s:
                continue
            within = shift.start_s - shift.ramp_m - 2.0 < s < shift.end_s + shift.ramp_m
            covered |= within and passing.offset * u > 0 and abs(passing.offset) > 0.6 * abs(u)
            if passing.use is Use.NOTHING_HELPS:
                # its own box is a lead already; this stop is further away and certain
                halts.append((Halt(s=passing.start_s - _BLOCKED_GAP_M), Cause(topic="blocked", s=passing.start_s, actor=passing.main.actor)))
            elif passing.use is Use.OWN_LANE or self._committed(passing, s, u):
                shifts.append(shift)
                carried.append(passing)
            else:
                open_questions.append(passing)
        certain = Manoeuvre(shifts=shifts, halts=halts, caps=caps, passings=tuple(carried), cautions=tuple(cautions))
        result = [] if halts else self._lane_changes(certain, around, s, u, speed, cruise, lines, home=abs(u) > _AWAY_M and not covered)
        if open_questions:
            waiting = [
                (Halt(s=p.start_s - _WAIT_GAP_M), Cause(topic="wait_to_pass", s=p.start_s, actor=p.main.actor)) for p in open_questions
            ]
            hesitates = style.hesitates >= 0.5 and not parked
            if not hesitates:
                result.append(self._with(certain, open_questions, speed))
            first = open_questions[0]
            if len(open_questions) > 1 and not hesitates:
                result.append(replace(self._with(certain, [first], speed), halts=[*halts, *waiting[1:]]))
            result.append(replace(certain, halts=[*halts, *waiting]))
        else:
            result.append(certain)
        return result

    def _with(self, base: Manoeuvre, passings: list[Passing], speed: float) -> Manoeuvre:
        side = self._corridor.side
        foreign = [p for p in passings if p.use is Use.ONCOMING]
        return replace(
            base,
            shifts=[*base.shifts, *(p.shift(side, speed) for p in passings)],
            passings=(*base.passings, *passings),
            changes=base.changes or any(p.use is Use.OWN_DIRECTION for p in passings),
            foreign=(foreign[0].start_s, foreign[-1].end_s) if foreign else None,
        )

    def _lane_changes(
        self, base: Manoeuvre, around: list[Traveller], s: float, u: float, speed: float, cruise: float, lines: Sequence[StopLine], home: bool
    ) -> list[Manoeuvre]:
        """Overtaking somebody slow; or, if `home` is wanted, the way back from another lane, with staying there while somebody is beside."""
        corridor = self._corridor
        junction = next((stop.s for stop in lines if stop.s > s), math.inf)
        found = overtake(corridor, around, s, u, speed, cruise, junction - s - 15.0)
        result = []
        if found is not None:
            result.append(replace(base, shifts=[*base.shifts, found[0]], overtakes=found[1], changes=True))
        if home:
            half, inner, outer, _ = corridor.room(s, s + 10.0)
            homeward = replace(base, shifts=[*base.shifts, back(corridor, s, u, speed)], changes=True)
            result.append(homeward)
            if (inner if u > 0 else outer) > 2 * half:
                result.append(replace(base, shifts=[*base.shifts, stay(corridor, s, u)]))
            result.append(replace(homeward, changes=False))
        return result

    def _is_obstacle(self, obstacle: Obstacle, s: float, u: float, lines: Sequence[StopLine], parked: frozenset[str]) -> bool:
        """Whether a standing thing is one to drive around, rather than to wait behind."""
        actor = obstacle.actor
        if actor.is_static:
            return True
        if actor.kind == "pedestrian":
            return max(obstacle.low, -obstacle.high) > 0.2
        if any(stop.s - 2.0 < obstacle.end_s and obstacle.start_s < stop.exit_s for stop in lines):
            return False
        if abs(obstacle.middle) > 0.65:
            return True
        beside = obstacle.start_s - s - VEHICLE.front_m < 1.0 and abs(u) > 0.8
        queue = any(obstacle.end_s < stop.s < obstacle.end_s + _QUEUE_M for stop in lines)
        close = obstacle.start_s - s - VEHICLE.front_m < _WAIT_GAP_M + 6.0
        return beside or (actor.name in parked and not queue) or (abs(u) > 0.6 and close)

    @staticmethod
    def _committed(passing: Passing, s: float, u: float) -> bool:
        """Already on the way past: beside it, or so far out and close that going back would be worse."""
        if s + VEHICLE.front_m > passing.start_s - 1.0:
            return True
        return abs(u - passing.offset) < 0.5 * abs(passing.offset) and s + VEHICLE.front_m > passing.start_s - 5.0

    def _caution(self, obstacles: list[Obstacle], s: float, lines: Sequence[StopLine]) -> list[tuple[Cap, Actor]]:
        """Slow beside parked vehicles that hide who steps out behind them, and where people stand at the kerb."""
        if self._style.ignores_priority:
            return []
        caps = []
        for o in obstacles:
            if o.actor.is_static or o.end_s < s:
                continue
            beside = max(o.low, -o.high) - HALF_WIDTH_M
            if o.actor.height_m > 1.8 and beside < 1.4:
                caps.append((Cap(start_s=o.start_s - VEHICLE.front_m - 2.0, end_s=o.end_s + 1.0, speed_mps=_OCCLUDED_MPS), o.actor))
            elif o.actor.kind == "pedestrian" and beside < 3.0:
                speed = _CROSSING_MPS if self._waits_to_cross(o, lines) else _OCCLUDED_MPS if beside < 2.0 else math.inf
                if math.isfinite(speed):
                    caps.append((Cap(start_s=o.start_s - VEHICLE.front_m - 4.0, end_s=o.end_s, speed_mps=speed), o.actor))
        return caps

    def _waits_to_cross(self, person: Obstacle, lines: Sequence[StopLine]) -> bool:
        """Whether somebody stands at the end of a zebra where he may walk: not before a green light that we drive straight through."""
        place = (person.actor.x, person.actor.y)
        ends = self._zebras
        if not len(ends) or np.abs(ends - place).sum(axis=1).min() > _ZEBRA_M:
            return False
        line = next((stop for stop in lines if stop.s - 8.0 < person.start_s < stop.exit_s + 8.0), None)
        return line is None or line.signal is None or line.turn in (Command.LEFT, Command.RIGHT)

    def evade(self, choice: Manoeuvre, block: Block, s: float, lateral: float, forecast: Forecast) -> Manoeuvre | None:
        """The same with a swerve away from somebody who comes head-on in our lane."""
        corridor = self._corridor
        there = np.isfinite(block.low)
        high = float(block.high[there].max())
        _, inner, outer, _ = corridor.room(s, s + 30.0)
        middle = self._middle(block, forecast, s)
        # out on the other side already there is nowhere to go but on
        if middle is None or any(p.use is Use.ONCOMING for p in choice.passings):
            return None
        side = 1.0 if middle < 0 else -1.0
        room = outer - HALF_WIDTH_M - 0.1 if side * corridor.side < 0 else max(inner - HALF_WIDTH_M - 0.1, 0.0)
        if room < 0.2 or s > high:
            return None
        swerve = Shift(start_s=s + 4.0, end_s=s + 45.0, offset_m=side * min(room, 3.5), ramp_m=12.0)
        return replace(choice, shifts=[swerve], passings=(), overtakes=None, evades=block.actor)

    def _middle(self, block: Block, forecast: Forecast, s: float) -> float | None:
        """Mean offset of an actor while it is in the corridor."""
        row = next((k for k, a in enumerate(forecast.actors) if a.name == block.actor.name), None)
        if row is None:
            return None
        _, d = self._corridor.frenet(forecast.xy[row][np.isfinite(block.low)], s - 12.0, s + 90.0)
        return float(np.mean(d))
