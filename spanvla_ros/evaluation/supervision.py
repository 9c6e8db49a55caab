"""State and reason of the planner over a recorded drive: as it told them in the car, or as its supervisor would have had them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spanvla_ros.contracts import NS_PER_S, Plan
from spanvla_ros.planning.messages import OdometrySample
from spanvla_ros.planning.supervisor import Limits, Reason, State, Supervisor
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.planning.watch import InputWatch

_BEAT_NS = NS_PER_S // 10


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """beats: (stamp in ns, state, reason) of every heartbeat; plans: how many were made; source: "recorded" or "simulated"."""

    beats: tuple[tuple[int, str, str], ...]
    plans: int
    deadline_misses: int
    source: str

    def shares(self) -> dict[str, float]:
        """State -> share of the heartbeats from the first plan on; empty where there are none."""
        states = [state for _, state, _ in self.beats]
        first = next((k for k, state in enumerate(states) if state != State.WAITING.value), len(states))
        counts = Counter(states[first:])
        return {state: count / sum(counts.values()) for state, count in counts.most_common()}

    def changes(self) -> list[tuple[int, str, str]]:
        """The beats at which state or reason become another."""
        return [beat for k, beat in enumerate(self.beats) if not k or beat[1:] != self.beats[k - 1][1:]]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What an anchor image led to, and how long it took: a plan, or the reason code why there is none that may be driven."""

    anchor_ns: int
    took_ms: float = 0.0
    plan: Plan | None = None
    reason: str = ""


def recorded(infos: Iterable[tuple[int, Mapping[str, Any]]], deadline_s: float) -> Supervision:
    """From (stamp in ns, plan_info as in docs/plan_info.md). A deadline is missed by a plan that took longer, or by a heartbeat that says so."""
    beats, missed = [], 0
    took_ms: dict[int, float] = {}  # anchor image -> time until its first plan
    for stamp_ns, info in infos:
        if info["event"] == "plan":
            took_ms.setdefault(info["anchor_ns"], info["timings_ms"].get("total", 0.0))
        elif info["event"] == "heartbeat":
            now = info["reason"] == Reason.DEADLINE_MISSED.value
            missed += now and not (beats and beats[-1][2] == Reason.DEADLINE_MISSED.value)
            beats.append((stamp_ns, info["state"], info["reason"]))
    late = sum(took > 1e3 * deadline_s for took in took_ms.values())
    return Supervision(beats=tuple(beats), plans=len(took_ms), deadline_misses=max(late, missed), source="recorded")


def simulated(attempts: Sequence[Attempt], images: Mapping[str, Sequence[int]], odometry: Sequence[OdometrySample], limits: Limits) -> Supervision:
    """The supervisor over the stamps of the recording, with the time that each plan took here; one inference at a time, newest image only.

    images: camera -> stamps, increasing; odometry by stamp. The clock of the drive stands for ROS time and steady time.
    """
    supervisor, watch = Supervisor(limits), InputWatch(tuple(images), limits.max_input_age_s)
    schedule = _schedule(attempts)
    events: list[tuple[int, int, Any]] = [(sample.stamp_ns, 0, sample) for sample in odometry]
    events += [(stamp, 1, camera) for camera, stamps in images.items() for stamp in stamps]
    events += [(attempt.anchor_ns, 2, None) for attempt in attempts] + [(end_ns, 3, attempt) for attempt, end_ns in schedule]
    start, end = odometry[0].stamp_ns, max(stamp for stamps in images.values() for stamp in stamps)
    events += [(stamp, 4, None) for stamp in range(start, end + 1, _BEAT_NS)]
    newest, beats = None, []
    for stamp_ns, kind, what in sorted(events, key=lambda event: event[:2]):
        seconds = (stamp_ns - start) / NS_PER_S
        if kind == 0:
            newest = what
            watch.odometry(stamp_ns)
        elif kind == 1:
            watch.image(what, stamp_ns)
        elif kind == 2:
            supervisor.begin(seconds)
        elif kind == 3 and what.plan is not None:
            supervisor.accept(densify(what.plan), seconds)
        elif kind == 3:
            supervisor.reject(Reason(what.reason), seconds)
        else:
            fault = watch.fault(stamp_ns)
            output = supervisor.tick(seconds, stamp_ns, newest, fault.reason if fault else None)
            beats.append((stamp_ns, output.state.value, output.reason.value))
    plans = sum(attempt.took_ms > 0 for attempt, _ in schedule)
    return Supervision(beats=tuple(beats), plans=plans, deadline_misses=supervisor.deadline_misses, source="simulated")


def _schedule(attempts: Sequence[Attempt]) -> list[tuple[Attempt, int]]:
    """Which anchor images one thread would have planned for, and when it would have been done."""
    found: list[tuple[Attempt, int]] = []
    free_ns = 0
    for k, attempt in enumerate(attempts):
        if k + 1 < len(attempts) and attempts[k + 1].anchor_ns <= free_ns:
            continue  # a newer image has replaced it before the thread was free
        free_ns = max(free_ns, attempt.anchor_ns) + round(1e6 * attempt.took_ms)
        found.append((attempt, free_ns))
    return found
