"""Plans that take their time: what a planner says is followed when it would have been there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from spanvla_ros.contracts import NS_PER_S, ConfigError, InputError, Observation, Plan
from spanvla_ros.planning.planner import Rate
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.planning.validity import Limits, violations
from spanvla_ros.sim.planners import EnginePlanner
from spanvla_ros.sim.source import SimulationSource

_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of simulated time: prefill_s from a picture to keys and values (transport, decoding, preprocessing, vision, prefill), token_s
    for a token of the text, flow_s for a trajectory. Fixed numbers: a drive stays repeatable to the last bit."""

    prefill_s: float
    token_s: float
    flow_s: float

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 10:
                raise ConfigError(f"{name} is {value:g} s, it must be from 0 to 10")

    @classmethod
    def parse(cls, text: str) -> Latency:
        """'0.13,0.02,0.02' -> Latency."""
        try:
            prefill_s, token_s, flow_s = (float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(f"latency {text!r} is not of the form PREFILL,TOKEN,FLOW in seconds, such as 0.13,0.02,0.02") from None
        return cls(prefill_s=prefill_s, token_s=token_s, flow_s=flow_s)


def drivable(plan: Plan) -> bool:
    """Whether the planner node would let it pass."""
    return not violations(densify(plan), _LIMITS)


class Thinker:
    """The planning thread of the node in simulated time: one inference in flight, the newest picture only.

    `see` every observation, `stepped` after every 0.05 s. A plan is followed from the first step after it is there. An early plan costs a
    token, the one that closes the empty text, and a trajectory more; the expert alone plans while nothing else is to be done.
    """

    def __init__(
        self,
        planner: EnginePlanner,
        source: SimulationSource,
        latency: Latency,
        rate: Rate,
        planned: Callable[[Plan, float], None],
        refused: Callable[[], None],
    ):
        self._planner, self._source, self._latency, self._rate = planner, source, latency, rate
        self._planned, self._refused = planned, refused
        self._waiting: tuple[Observation, int] | None = None  # and when it came
        self._seen: Observation | None = None  # what the keys and values are of
        self._planned_ns = 0  # stamp that was planned from last
        self._free_ns = 0
        self._coming: list[tuple[int, Plan | None]] = []  # when it is there; None: no plan a car can drive

    def see(self, observation: Observation) -> None:
        """The newest picture; one that still waits is dropped."""
        self._waiting = observation, self._source.simulation.stamp_ns
        self.stepped()

    def stepped(self) -> None:
        """Follow what is there by now, and go on thinking."""
        now_ns = self._source.simulation.stamp_ns
        while self._coming and self._coming[0][0] <= now_ns:
            at_ns, plan = self._coming.pop(0)
            if plan is None:
                self._refused()
            else:
                self._source.follow(plan)
                self._planned(plan, (at_ns - plan.t0_ns) / 1e6)
        if self._free_ns > now_ns:
            return
        if self._waiting is not None:
            self._plan(*self._waiting)
        elif self._seen is not None and self._rate.due(now_ns, self._planned_ns, self._seen.t0_ns):
            self._replan(now_ns)

    def _plan(self, observation: Observation, came_ns: int) -> None:
        self._waiting, self._planned_ns = None, observation.t0_ns
        latency, early = self._latency, []
        self._free_ns = max(self._free_ns, came_ns)
        self._spend(latency.prefill_s)
        try:
            plan = self._planner.plan(observation, early=early.append if self._rate.plan_early else None)
        except InputError:
            self._seen = None
            self._coming.append((self._free_ns, None))
            return
        self._seen = observation
        for hasty in early:
            self._spend(latency.token_s + latency.flow_s)
            if drivable(hasty):
                self._coming.append((self._free_ns, hasty))
        self._spend(plan.tokens * latency.token_s + latency.flow_s)
        self._coming.append((self._free_ns, plan if drivable(plan) else None))

    def _replan(self, now_ns: int) -> None:
        self._planned_ns = self._free_ns = now_ns
        self._spend(self._latency.flow_s)
        try:
            plan = self._planner.replan(*self._source.motion(), self._source.simulation.command)
        except InputError:
            return
        if drivable(plan):
            self._coming.append((self._free_ns, plan))

    def _spend(self, seconds: float) -> None:
        self._free_ns += round(seconds * NS_PER_S)
