"""Brings a line and everybody on it together: whom to follow, where to wait, when to go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE, Command
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.conflict import Block, meets
from spanvla_ros.sim.driver.prediction import TIMES_S
from spanvla_ros.sim.driver.speed import Cap, Halt, Lead, SpeedPlan, push, roll
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.roads.route import StopLine

_ROUNDS = 5
_LEAD_BRAKES_MPS2, _LEAD_BRAKES_S = 2.0, 1.2
_SOON_S = 1.2
_BEFORE_BLEND_M = 4.0
_CREEP_GAP_M = 0.8
_SWING_GAP_M, _QUEUE_M = 4.0, 45.0


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why the car slows down: a topic of the narrator, the actor or lamp behind it, and where it waits (arc length)."""

    topic: str
    s: float
    actor: Actor | None = None
    line: StopLine | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The ego's situation. s, speed, acceleration now; error to the line; lines: stop lines ahead; gives_way_to: connectors with priority
    over it; blends: stretches where the path changes lanes; changes: it moves into another lane, where others come first;
    foreign: stretch of the wrong side it wants to use; passes: names of the standing things that the line leads past."""

    s: float
    lateral_m: float
    speed_mps: float
    acceleration_mps2: float
    error: tuple[float, float]
    lines: Sequence[StopLine]
    gives_way_to: frozenset[str]
    blends: Sequence[tuple[float, float]] = ()
    changes: bool = False
    foreign: tuple[float, float] | None = None
    passes: frozenset[str] = frozenset()

    @property
    def front_s(self) -> float:
        return self.s + VEHICLE.front_m


@dataclass(frozen=True, kw_only=True)
class Deal:
    """Outcome: the speed plan, what it heeds (with causes), whether the line can't be had now, whom nobody gets past without evading."""

    plan: SpeedPlan
    leads: list[tuple[Lead, Cause]]
    halts: list[tuple[Halt, Cause]]
    denied: bool
    against: Block | None


class Negotiator:
    """Finds a speed plan for one line among its blocks."""

    def __init__(self, style: Style, speeds: list[float]):
        self._style = style
        self._speeds = speeds

    def settle(
        self, rules: Rules, blocks: list[Block], halts: list[tuple[Halt, Cause]], caps: list[Cap], followers: frozenset[str]
    ) -> Deal:
        """Speed plan from the present state. halts: what must be stopped for in any case; followers: names of who drives behind the ego."""
        leads: list[tuple[Lead, Cause]] = []
        halts = list(halts)
        later: list[Block] = []
        against: Block | None = None
        for block in blocks:
            if not block.now or self._goes(rules, block):
                later.append(block)
            elif block.actor.speed_mps < 0.3 and block.low[0] < rules.front_s - 0.3:
                continue  # beside the car without touching it: the line leads away from it
            elif block.low[0] >= rules.s + VEHICLE.center_m:
                if block.against and block.actor.speed_mps > 0.5 and not _crossing(rules, float(block.low[0])):
                    against = against or block
                self._present(rules, block, leads, halts)
        plan = self._roll(rules, leads, halts, caps)
        denied = False
        pending = [b for b in later if not (b.along and b.actor.name in followers)]
        for _ in range(_ROUNDS):
            answers = [(block, self._answer(rules, block, plan)) for block in pending]
            answers = [(block, answer) for block, answer in answers if answer is not None]
            if not answers:
                break
            for block, answer in answers:
                pending.remove(block)
                if answer == "denied":
                    denied = True
                elif isinstance(answer, Lead):
                    low = float(block.low[block.first])
                    joins = rules.changes or rules.gives_way_to.intersection(block.ways) or _blend(rules, low) is not None
                    leads.append((answer, Cause(topic="merge_gap" if joins else "cut_in", s=low, actor=block.actor)))
                else:
                    if block.against and not _crossing(rules, float(block.low[block.first])):
                        against = against or block
                    halt, cause = self._wait(rules, block)
                    halts.append((halt, cause))
            plan = self._roll(rules, leads, halts, caps)
        return Deal(plan=plan, leads=leads, halts=halts, denied=denied, against=against)

    def _roll(self, rules: Rules, leads: list, halts: list, caps: list[Cap]) -> SpeedPlan:
        return roll(
            self._style,
            self._speeds,
            (rules.s, rules.speed_mps, rules.acceleration_mps2),
            [lead for lead, _ in leads],
            [halt for halt, _ in halts],
            caps,
            rules.error,
        )

    @staticmethod
    def _goes(rules: Rules, block: Block) -> bool:
        """Whether somebody in the corridor only crosses it: people, cross traffic, oncoming traffic where we use its lane or cross its way."""
        if block.actor.kind == "pedestrian":
            return not block.along
        if block.actor.speed_mps < 0.5:
            return False
        if block.against:
            return rules.foreign is not None or (_crossing(rules, float(block.low[0])) and math.isfinite(block.leaves_s))
        return abs(block.heading) < 0.6 and math.isfinite(block.leaves_s)

    def _present(self, rules: Rules, block: Block, leads: list, halts: list) -> None:
        """Heed what is in the corridor already."""
        actor = block.actor
        if self._style.ignores_leads:
            return
        rear, pace = _braking(block, block.low)
        topic = "stopped" if actor.speed_mps < 0.5 else "oncoming" if block.against else "lead"
        # behind what may stay for good there has to be room to swing out, in a queue at a line there hasn't
        queue = any(block.low[0] < stop.s < block.low[0] + _QUEUE_M for stop in rules.lines)
        extra = _SWING_GAP_M if actor.is_static or (actor.speed_mps < 0.3 and not queue) else 0.0
        if actor.name in rules.passes or (rules.passes and block.against and actor.speed_mps < 0.5):
            extra = _CREEP_GAP_M - self._style.gap_m
        lead = Lead(rear_s=rear.tolist(), speed_mps=pace, extra_m=extra)
        leads.append((lead, Cause(topic=topic, s=float(block.low[0]), actor=actor)))

    def _answer(self, rules: Rules, block: Block, plan: SpeedPlan) -> Lead | str | None:
        """None: no conflict; "denied": not on this line; a Lead to stay behind; "wait"."""
        at = np.array(plan.s)
        actor = block.actor
        person = actor.kind in ("pedestrian", "bicycle")
        priority = bool(rules.gives_way_to.intersection(block.ways)) or person
        if self._style.ignores_priority and priority:
            return None
        if block.along and not person:
            return self._merging(rules, block, plan, priority)
        low = float(block.low[np.isfinite(block.low)].min())
        inside = rules.front_s > low + 0.3
        line = self._line(rules, block)
        before, after, space = (1.0, 0.5, 1.2) if person else (1.3, 0.6, 0.8) if priority else (1.0, 0.9, 1.5)
        if line is None and not person:
            before = 0.6
        elif rules.speed_mps < 0.4:
            # who stands starts only into a clear gap, and then need not think again
            before, after, space = before + 0.6, after + 0.3, space + 0.4
        if rules.foreign is not None and block.against:
            before, after, space = 1.2, 0.5, 3.0
        if inside or not meets(block, plan.times, at, before, after, space):
            return None
        if rules.foreign is not None and block.against:
            return "denied"
        return "wait"

    def _merging(self, rules: Rules, block: Block, plan: SpeedPlan, priority: bool) -> Lead | str | None:
        """Somebody who will drive our way in the same corridor: ahead a lead, behind only with a gap."""
        k = block.first
        when = float(TIMES_S[k])
        index = min(int(when / 0.1), len(plan.s) - 1)
        at = plan.s[index] + max(when - 5.0, 0.0) * plan.speeds[-1]
        speed = block.actor.speed_mps
        low, high = float(block.low[k]), float(block.high[k])
        ours = priority or rules.changes or _blend(rules, low) is not None
        if low > at + VEHICLE.center_m or (not ours and low > at):
            gap = low - at - VEHICLE.front_m
            closing = max(plan.speeds[index] - block.pace_mps, 0.0)
            if rules.changes and (gap < 2.0 + 0.3 * speed or closing**2 / (2 * gap) > 1.0):
                return "denied"
            back = block.low.copy()
            back[:k] = low - speed * (when - TIMES_S[:k])
            back, pace = _braking(block, back)
            return Lead(rear_s=back.tolist(), speed_mps=pace, gentle=when > _SOON_S or (ours and gap > 2.0))
        if not ours:
            return None
        later = plan.speeds[min(index + 15, len(plan.speeds) - 1)]
        space = at - VEHICLE.rear_m - high
        if space >= 2.0 + 0.35 * speed + max(speed - later, 0.0) ** 2 / 4.4:
            return None
        return "denied" if rules.changes else "wait"

    @staticmethod
    def _line(rules: Rules, block: Block) -> StopLine | None:
        """The line before the junction where a block lies, if the ego has not crossed it."""
        low = float(block.low[block.first])
        return next((stop for stop in rules.lines if rules.front_s < stop.s + 0.7 and stop.s < low + 3.0 and low < stop.exit_s + 12.0), None)

    def _wait(self, rules: Rules, block: Block) -> tuple[Halt, Cause]:
        """Where to wait for somebody who comes across, until he has gone."""
        actor = block.actor
        there = np.isfinite(block.low)
        low = float(block.low[there].min())
        until = block.leaves_s + 0.2
        line = self._line(rules, block)
        if actor.kind == "pedestrian":
            place, topic = low - 1.6, "pedestrian"
            if line is not None and line.s < low < line.s + 7.0:
                place = min(place, line.s)
        elif line is not None:
            place, topic = line.s, _topic(rules, block, line)
            if block.along:
                # whoever merges ahead is followed afterwards, the line is free once he is past the meeting point
                past = np.flatnonzero(block.low > float(block.low[block.first]) + 3.0)
                until = float(TIMES_S[past[0]]) if len(past) and past[0] > 0 else until
        else:
            place, topic = low - 0.5, "oncoming" if block.against and not _crossing(rules, low) else _topic(rules, block, None)
            blend = _blend(rules, low)
            if block.along and blend is not None:
                place, topic = max(blend[0] + _BEFORE_BLEND_M, rules.front_s + 1.0), "merge_gap"
                past = np.flatnonzero(there & (block.low > place + 1.0))
                until = float(TIMES_S[past[0]]) if len(past) else until
        needed = rules.speed_mps**2 / (2 * max(place - rules.front_s, 0.1))
        if needed > 6.5 and place < low - 0.4:
            place = max(min(low - 0.4, rules.front_s + rules.speed_mps**2 / 13.0), place)
        return Halt(s=place, until_s=until), Cause(topic=topic, s=low, actor=actor, line=line)


def _blend(rules: Rules, s: float) -> tuple[float, float] | None:
    """The lane change of the path itself in which somebody at arc length `s` gets into our way."""
    return next((blend for blend in rules.blends if blend[0] - 25.0 < s < blend[1] + 15.0), None)


def _crossing(rules: Rules, s: float) -> bool:
    """Whether an arc length lies in a junction, where paths cross by design."""
    return any(stop.s - 3.0 < s < stop.exit_s + 6.0 for stop in rules.lines)


def _braking(block: Block, rear: np.ndarray) -> tuple[np.ndarray, float]:
    """Rear and pace of a lead that shows brake lights: it will be slower than it is."""
    actor = block.actor
    if not (actor.braking and block.along and actor.speed_mps > 1.0):
        return rear, block.pace_mps
    lasts = np.minimum(np.minimum(TIMES_S, _LEAD_BRAKES_S), actor.speed_mps / _LEAD_BRAKES_MPS2)
    return rear - _LEAD_BRAKES_MPS2 * lasts * (TIMES_S - 0.5 * lasts), max(block.pace_mps - 1.5, 0.0)


def _topic(rules: Rules, block: Block, line: StopLine | None) -> str:
    if block.actor.kind == "pedestrian":
        return "pedestrian"
    if block.runs:
        return "runner"
    low = float(block.low[block.first])
    here = line or next((stop for stop in rules.lines if stop.s - 3.0 < low < stop.exit_s + 6.0), None)
    turning = here is not None and here.turn in (Command.LEFT, Command.RIGHT)
    if here is not None and turning and (here.control == "signal" or block.against):
        return "oncoming_turn"
    if here is not None and (turning or here.control != "signal"):
        return "merge_gap" if block.along else "give_way"
    return "merge_gap" if block.along else "runner"


def urgency(style: Style, rules: Rules, deal: Deal) -> list[tuple[float, Cause]]:
    """Every cause with the deceleration [m/s^2] that it asks for now, strongest first."""
    rows = [(push(style, rules.s, rules.speed_mps, lead=lead), cause) for lead, cause in deal.leads]
    rows += [(push(style, rules.s, rules.speed_mps, halt=halt), cause) for halt, cause in deal.halts]
    return sorted(rows, key=lambda row: -row[0])

