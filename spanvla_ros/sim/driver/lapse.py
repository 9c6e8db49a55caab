"""Bad drivers: the expert with one lapse of a few seconds, where it matters, after which the good driver takes over again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE, Command, Trajectory
from spanvla_ros.sim.driver.decision import Decision, Lateral, Longitudinal
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads.route import SPACING_M, Route
from spanvla_ros.sim.scenarios.scenario import Scenario
from spanvla_ros.sim.signals import Signals
from spanvla_ros.sim.simulation import Simulation

KINDS = ("hesitation", "late_braking", "lane_bias", "corner_cutting", "forced_merge", "red_run", "tailgating")
# what goes wrong in a family, the likeliest first; only what the route offers is taken
_OF_FAMILY: Mapping[str, tuple[str, ...]] = {
    "lane": ("lane_bias", "tailgating", "hesitation"),
    "curve": ("corner_cutting", "lane_bias"),
    "lead": ("tailgating", "late_braking"),
    "stopped": ("late_braking", "hesitation"),
    "cut_in": ("tailgating", "late_braking"),
    "red": ("red_run", "late_braking"),
    "left_turn": ("forced_merge", "corner_cutting", "hesitation"),
    "right_turn": ("corner_cutting", "forced_merge"),
    "pedestrian": ("forced_merge", "late_braking"),
    "cones": ("lane_bias", "hesitation"),
    "parked": ("forced_merge", "hesitation", "lane_bias"),
    "truck": ("tailgating", "hesitation", "forced_merge"),
    "runner": ("hesitation", "late_braking"),
    "merge": ("forced_merge", "hesitation"),
    "blocked": ("late_braking", "hesitation"),
    "recovery": ("lane_bias", "hesitation"),
    "crash": ("late_braking", "lane_bias"),
}
_ALWAYS = ("lane_bias", "hesitation")
_EARLIEST_S, _LATEST_S = 4.0, 15.0
_PATIENCE_S = (8.0, 11.0)  # after this, something that is always possible goes wrong
_LASTING_S = (3.5, 6.0)
_GIVE_UP_M = 4.5  # this far off the path nobody looks on any longer
_MERGING = (Lateral.MERGE_SPLIT, Lateral.LANE_CHANGE)


@dataclass(frozen=True, kw_only=True)
class Lapse:
    """What went wrong and when, in seconds of the episode."""

    kind: str
    style: Style
    start_s: float
    end_s: float


def kinds(scenario: Scenario, attempt: int = 0) -> tuple[str, ...]:
    """Lapses that suit a scenario: those of its family that its route offers, in an order that seed and attempt rotate.

    From the third attempt on, what is wrong everywhere.
    """
    if attempt >= 2:
        return _ALWAYS
    fitting = [kind for kind in _OF_FAMILY.get(scenario.family, _ALWAYS) if _offered(kind, scenario.route)] or list(_ALWAYS)
    first = (scenario.seed // 2 + attempt) % len(fitting)
    return (*fitting[first:], *fitting[:first])


def style(kind: str, rng: np.random.Generator, side: int = 1) -> Style:
    """A driver of that kind; `side` +1 where the middle of the road is to the left."""
    if kind == "hesitation":
        return Style(hesitates=float(rng.uniform(0.88, 0.97)), accelerate_mps2=0.7)
    if kind == "late_braking":
        return Style(late_braking_mps2=float(rng.uniform(5.0, 6.5)), headway_s=0.3, gap_m=1.0)
    if kind == "lane_bias":
        # mostly towards the oncoming lane: on the other side is the kerb
        towards = side if rng.random() < 0.75 else -side
        return Style(lateral_bias_m=towards * float(rng.uniform(0.8, 1.4)))
    if kind == "corner_cutting":
        return Style(cuts_corner_m=float(rng.uniform(1.3, 2.0)), curve_acceleration_mps2=3.0)
    if kind == "forced_merge":
        return Style(ignores_priority=True, headway_s=0.3, gap_m=1.0, cruise_share=1.05)
    if kind == "red_run":
        return Style(ignores_lamp=True, cruise_share=1.05)
    return Style(headway_s=0.15, gap_m=1.0, cruise_share=1.15, late_braking_mps2=4.0)


class Careless:
    """Drives an episode of a simulation with one lapse. `plan` at every planning instant says what is driven and what should be.

    The moment is chosen while driving: the first kind that suits the scenario waits for its occasion, the others get their
    chance a little later. `attempt` chooses another kind and moment in the same episode.
    """

    def __init__(self, simulation: Simulation, attempt: int = 0):
        self._simulation = simulation
        self._rng = np.random.default_rng([simulation.scenario.seed, sum(map(ord, simulation.scenario.family)), 7 + attempt])
        self._kinds = kinds(simulation.scenario, attempt)
        self._patience_s = float(self._rng.uniform(*_PATIENCE_S))
        self._earliest_s = _EARLIEST_S + float(self._rng.uniform(0.0, 2.5))
        self._bad = None
        self.lapse: Lapse | None = None

    @property
    def active(self) -> bool:
        """True while the lapse lasts."""
        return self.lapse is not None and self._simulation.time_s < self.lapse.end_s

    def plan(self, good: Decision) -> Trajectory:
        """What is driven now; `good` is the expert's decision for the same state."""
        simulation = self._simulation
        now = simulation.time_s
        if self.lapse is None and self._earliest_s <= now <= _LATEST_S:
            kind = self._occasion(good, now)
            if kind:
                chosen = style(kind, self._rng, simulation.road.side)
                self.lapse = Lapse(kind=kind, style=chosen, start_s=now, end_s=now + float(self._rng.uniform(*_LASTING_S)))
                self._bad = simulation.expert_with(chosen)
        if not self.active:
            return good.trajectory
        _, lateral, _ = simulation.route.path.project(simulation.ego.pose, simulation.route_s)
        if abs(lateral) > _GIVE_UP_M:
            self.lapse = Lapse(kind=self.lapse.kind, style=self.lapse.style, start_s=self.lapse.start_s, end_s=now)
            return good.trajectory
        return self._bad.plan().trajectory

    def _occasion(self, good: Decision, now: float) -> str:
        """The lapse whose moment has come, "" for none."""
        simulation = self._simulation
        waiting = self._kinds[:1] if now < self._patience_s else (*self._kinds, *_ALWAYS)
        facts = (good, simulation.ego, simulation.route, simulation.route_s, simulation.signals)
        return next((kind for kind in waiting if _due(kind, *facts)), "")


def _offered(kind: str, route: Route) -> bool:
    """Whether a route has what a lapse needs."""
    path = route.path
    stops = [stop for stop in path.stops if route.start_s < stop.s < route.end_s]
    if kind == "red_run":
        return any(stop.signal is not None for stop in stops)
    if kind == "corner_cutting":
        low, high = int(route.start_s / SPACING_M), int(route.end_s / SPACING_M)
        return bool(np.abs(path.curvature[low:high]).max(initial=0.0) > 0.02)
    return True


def _due(kind: str, good: Decision, ego: EgoState, route: Route, s: float, signals: Signals) -> bool:
    """Whether this is the moment at which a lapse shows."""
    path, speed = route.path, ego.speed_mps
    planned = good.trajectory.speeds_mps
    stop = path.next_stop(s)
    to_line = stop.s - s - VEHICLE.front_m if stop is not None else math.inf
    if kind == "red_run":
        return stop is not None and stop.signal is not None and signals.state(stop.signal) != "green" and 4.0 < to_line < 25.0 and speed > 3.0
    if kind == "late_braking":
        return speed > 4.0 and float(planned[:41].min()) < 0.5 * speed
    if kind == "tailgating":
        return good.fields["lead_gap_m"] < 35.0 and good.fields["lead_speed_mps"] > 1.5 and speed > 3.0
    if kind == "corner_cutting":
        ahead = path.curvature[path.index(s) : path.index(s + 14.0) + 1]
        return bool(np.abs(ahead).max(initial=0.0) > 0.02) and speed > 2.0
    if kind == "forced_merge":
        gives_way = stop is not None and (stop.control in ("yield", "stop") or stop.turn is Command.LEFT) and 3.0 < to_line < 20.0
        return good.longitudinal in (Longitudinal.YIELD, Longitudinal.GAP_SEARCHING) or good.lateral in _MERGING or gives_way
    if kind == "hesitation":
        return float(planned[20:].mean()) > 4.0
    return speed > 3.0 and float(planned.min()) > 2.5 and good.lateral is Lateral.KEEP_AND_CENTRE
