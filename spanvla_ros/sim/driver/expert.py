"""The expert driver: plans from the present state, and says why.

It chooses a line through what stands on the road, predicts who will be on that line, finds a speed that gets along with
them, and rolls the bicycle 5 s forward. So it has a sensible plan from any state near the route.
"""

from __future__ import annotations

import math

import numpy as np

from spanvla_ros.contracts import NS_PER_S, VEHICLE, Trajectory
from spanvla_ros.geometry import to_local
from spanvla_ros.sim import ego as bicycle
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.conflict import find
from spanvla_ros.sim.driver.corridor import Corridor, Line
from spanvla_ros.sim.driver.decision import Decision
from spanvla_ros.sim.driver.manoeuvre import Manoeuvre, Planner
from spanvla_ros.sim.driver.narrator import Narrator, Scene
from spanvla_ros.sim.driver.negotiation import Cause, Deal, Negotiator, Rules, urgency
from spanvla_ros.sim.driver.overtaking import travellers
from spanvla_ros.sim.driver.prediction import Forecaster, SignalStates
from spanvla_ros.sim.driver.speed import STEP_S, STEPS, Halt, profile
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import Route, StopLine

FIELD_DISTANCES_M = (4.0, 8.0, 14.0, 20.0, 28.0)
FAR_M = 80.0
LAMPS = {"none": 0.0, "red": 1.0, "yellow": 2.0, "green": 3.0}
_LAMP_RANGE_M = 42.0
_HARDEST, _YELLOW_BRAKING = 6.5, 3.0
_NEAR_M = 100.0
_STANDING_MPS, _HALTED_MPS = 0.3, 0.05
_PATIENCE_S = 8.0


class Expert:
    """Planner of one episode. The plan depends on the given state; memory serves the wording, and knows how long the car and others have stood."""

    def __init__(self, road: RoadMap, route: Route, seed: int, style: Style = Style()):
        self.route = route
        self.style = style
        path = route.path
        self._road = road
        self._corridor = Corridor(road, path)
        self._forecaster = Forecaster(road, frozenset(stop.connector for stop in path.stops))
        self._speeds = profile(path, style)
        self._planner = Planner(road, self._corridor, style)
        self._negotiator = Negotiator(style, self._speeds)
        self._narrator = Narrator(seed)
        self._near_s = route.start_s
        self._halted: set[float] = set()
        self._waits_since_ns: int | None = None
        self._last_lead = ""
        self._parked: set[str] = set()

    def plan(self, ego: EgoState, actors: tuple[Actor, ...], signals: SignalStates, stamp_ns: int) -> Decision:
        """Decision for the ego among `actors` (everything but the ego), with the lamps as they are now."""
        path, corridor = self.route.path, self._corridor
        s, lateral, heading = path.project(ego.pose, self._near_s)
        if abs(lateral) > 8.0:
            s, lateral, heading = path.project(ego.pose)
        self._near_s = s
        front = s + VEHICLE.front_m
        if self._waited(ego, front, stamp_ns) > _PATIENCE_S and self._last_lead:
            self._parked.add(self._last_lead)
        reach = min(max(7.0 * ego.speed_mps + 25.0, 50.0), 100.0)
        near = [a for a in actors if abs(a.x - ego.x) < _NEAR_M and abs(a.y - ego.y) < _NEAR_M]
        lines = [stop for stop in path.stops if stop.exit_s > s and stop.s < s + reach]
        gives_way = frozenset(name for stop in lines for name in self._road.lanes[stop.connector].yields_to)
        blends = [blend for blend in corridor.blends if blend[1] > s and blend[0] < s + reach]
        around = travellers(corridor, near, s)
        followers = frozenset(t.actor.name for t in around if t.s < s and abs(t.u - lateral * corridor.side) < 1.6)
        forecast = self._forecaster.predict((ego.x, ego.y), near, signals, gives_way)
        halts = self._signs(lines, front, ego.speed_mps, signals)
        cruise = self._speeds[min(int(s / 0.5), len(self._speeds) - 1)]

        def deal(choice: Manoeuvre) -> tuple[Deal, Rules, Line]:
            line = corridor.line(s, reach, choice.shifts, self.style.lateral_bias_m, self.style.cuts_corner_m)
            wanted = line.at(s)
            error = abs(lateral - wanted[0]), abs(heading - wanted[1])
            sweep = corridor.drift(s, lateral, heading, ego.speed_mps, ego.steer_rad, line, reach)
            blocks = find(corridor, forecast, sweep, s - 12.0, s + reach, strict=choice.foreign is not None)
            rules = Rules(
                s=s, lateral_m=lateral, speed_mps=ego.speed_mps, acceleration_mps2=ego.acceleration_mps2, error=error, lines=lines,
                gives_way_to=gives_way, blends=blends, changes=choice.changes, foreign=choice.foreign,
                passes=frozenset(o.actor.name for p in choice.passings for o in p.obstacles),
            )  # fmt: skip
            stops = [*halts, *choice.halts]
            return self._negotiator.settle(rules, blocks, stops, choice.caps, followers), rules, line

        choices = self._planner.choices(
            near, around, s, lateral, ego.speed_mps, cruise, lines, reach, frozenset(self._parked)
        )
        for choice in choices:
            bargain, rules, line = deal(choice)
            if not bargain.denied:
                break
        aborted = choice is not choices[0]
        if bargain.against is not None:
            evasive = self._planner.evade(choice, bargain.against, s, lateral, forecast)
            if evasive is not None:
                other, other_rules, other_line = deal(evasive)
                if other.plan.s[-1] > bargain.plan.s[-1] - 2.0 or other.against is None:
                    choice, bargain, rules, line = evasive, other, other_rules, other_line
        trajectory = self._drive(ego, s, lateral, heading, bargain, line, stamp_ns)
        causes = urgency(self.style, rules, bargain)
        # whoever stands right ahead while we stand, for patience
        standing = (c.actor for _, c in causes if c.topic in ("stopped", "wait_to_pass") and c.actor is not None and c.s - front < 12.0)
        self._last_lead = next((actor.name for actor in standing), "")
        fields, shown = self._fields(s, lateral, heading, bargain, lines, signals)
        scene = Scene(
            corridor=corridor, ego=ego, s=s, lateral_m=lateral, heading_rad=heading, causes=causes, deal=bargain, choice=choice, aborted=aborted,
            lamp=shown, lines=lines, trajectory=trajectory, stamp_ns=stamp_ns,
        )  # fmt: skip
        said = self._narrator.tell(scene)
        return Decision(
            waypoints_base=to_local(trajectory.poses_odom[0], trajectory.poses_odom[5::5]),
            trajectory=trajectory,
            longitudinal=said.longitudinal,
            lateral=said.lateral,
            components=said.components,
            mode="fast" if said.trace is None else "slow",
            topic=said.topic,
            trace=said.trace,
            fields={name: float(value) for name, value in fields.items()},
        )

    def _waited(self, ego: EgoState, front: float, stamp_ns: int) -> float:
        """Seconds that the car has been standing; remembers at which stop lines it has."""
        if ego.speed_mps > _STANDING_MPS:
            self._waits_since_ns = None
            return 0.0
        if self._waits_since_ns is None or stamp_ns < self._waits_since_ns:
            self._waits_since_ns = stamp_ns
        for stop in self.route.path.stops:
            if -0.5 < stop.s - front < 3.8 and ego.speed_mps < _HALTED_MPS:
                self._halted.add(stop.s)
        return (stamp_ns - self._waits_since_ns) / NS_PER_S

    def _signs(self, lines: list[StopLine], front: float, speed: float, signals: SignalStates) -> list[tuple[Halt, Cause]]:
        """Red and yellow lamps that can still be stopped for, stop signs not stopped at yet."""
        halts = []
        for stop in lines:
            gap = stop.s - front
            needed = speed**2 / (2 * max(gap, 0.1))
            if gap < -0.5:
                continue
            if stop.signal is not None and not self.style.ignores_lamp:
                lamp = signals.state(stop.signal)
                if (lamp == "red" and needed < _HARDEST) or (lamp == "yellow" and needed < _YELLOW_BRAKING):
                    halts.append((Halt(s=stop.s), Cause(topic=lamp, s=stop.s, line=stop)))
            if stop.control == "stop" and stop.s not in self._halted and needed < _HARDEST and not self.style.ignores_priority:
                halts.append((Halt(s=stop.s), Cause(topic="stop_sign", s=stop.s, line=stop)))
            if self.style.hesitates >= 0.5 and stop.s not in self._halted and needed < _HARDEST:
                halts.append((Halt(s=stop.s), Cause(topic="hesitation", s=stop.s, line=stop)))
        return halts

    def _drive(self, ego: EgoState, s: float, lateral: float, heading: float, deal: Deal, line: Line, stamp_ns: int) -> Trajectory:
        """The bicycle under the speed plan's commands and the steering that follows the line."""
        states = [ego]
        state = ego
        corridor = self._corridor
        for command in deal.plan.commands:
            steer = corridor.steer(s, lateral, heading, state.speed_mps, line)
            after = bicycle.advance(state, command, steer, STEP_S)
            s, lateral, heading = corridor.follow(after, s + 0.5 * (state.speed_mps + after.speed_mps) * STEP_S)
            state = after
            states.append(state)
        return Trajectory(
            stamp_ns=stamp_ns,
            times_s=np.arange(STEPS + 1) * STEP_S,
            poses_odom=np.array([(state.x, state.y, state.yaw) for state in states]),
            speeds_mps=np.array([state.speed_mps for state in states]),
            accelerations_mps2=np.array([state.acceleration_mps2 for state in states]),
            yaw_rates_rps=np.array([state.yaw_rate_rps for state in states]),
        )

    def _fields(self, s: float, lateral: float, heading: float, deal: Deal, lines: list[StopLine], signals: SignalStates):
        """Scene facts for training, and the lamp of the next stop line (none where it is far or has no signal)."""
        path = self.route.path
        front = s + VEHICLE.front_m
        ahead = next((stop for stop in lines if stop.s - front > -1.0 and stop.control != "priority"), None)
        to_line = ahead.s - front if ahead is not None else FAR_M
        shown = signals.state(ahead.signal) if ahead is not None and ahead.signal is not None and to_line < _LAMP_RANGE_M else "none"
        nearest = min(((lead.rear_s[0], lead.speed_mps) for lead, _ in deal.leads if math.isfinite(lead.rear_s[0])), default=None)
        gap = min(nearest[0] - front, FAR_M) if nearest else FAR_M
        return {
            "lateral_offset_m": lateral,
            "heading_error_rad": heading,
            **{f"curvature_1pm_{d:.0f}": path.curvature_at(s + d) for d in FIELD_DISTANCES_M},
            "lamp": LAMPS[shown],
            "stop_distance_m": min(to_line, FAR_M),
            "lead_gap_m": gap,
            "lead_speed_mps": max(nearest[1], 0.0) if nearest and gap < FAR_M else 0.0,
            "target_speed_mps": deal.plan.target_mps,
        }, shown
