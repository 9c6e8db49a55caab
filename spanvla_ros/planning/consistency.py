"""Does the plan do what the text says? The rule of the alignment detector (method section 5.2).

One longitudinal and one lateral intent are read from the words and one of each from the waypoints. They contradict only where
both sides are sure and point in opposite directions: speeding up against slowing or stopping, left against right. They agree
where they point the same way on one axis and contradict on none; else the verdict is unknown. Few false alarms, at the price
of missed ones.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Plan
from spanvla_ros.geometry import wrap
from spanvla_ros.planning.intents import Intent, Lateral, Longitudinal, Manoeuvre, text_intent


class Verdict(str, enum.Enum):
    AGREES = "agrees"
    CONTRADICTS = "contradicts"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """A verdict and what it was reached from."""

    verdict: Verdict
    text: Intent
    plan: Intent

    def __str__(self) -> str:
        return f"{self.verdict.value}: the text says {self.text}, the plan does {self.plan}"


# thresholds of the predecessor on what a trajectory does
STOP_MPS = 0.3
CONSTANT_MPS = 0.8  # change of speed below which it is kept
STRAIGHT_M = 2.0  # of lateral offset throughout
LANE_CHANGE_M = 4.0  # of final offset; beyond it is a turn
# ours, against false alarms: words are about now, so what comes later in the plan only is not sure
NEAR_S = 2.0
NEAR_M = 1.0  # of a lane change that must be done in that time
# a lane change ends about parallel to its start; what doesn't follows a road that bends
PARALLEL_RAD = 0.05
COMFORT_MPS2 = 2.5  # braking that is still to come after the plan, where the text says how far it is to the stop
DRIVES_ON_MPS = 2.0  # a plan that is this fast at its end, and was never slower, does not stop
_DISTANCE = re.compile(r"(\d+(?:\.\d+)?) ?m(?:et(?:re|er)s?)?\b")


def plan_intent(waypoints_base: np.ndarray, interval_s: float, speed_mps: float) -> Intent:
    """What waypoints (T, 3) in base_link do from speed_mps on; an axis on which they do one thing and then the opposite is None."""
    poses = np.concatenate([np.zeros((1, 3)), np.asarray(waypoints_base, np.float64)])
    near = max(1, min(round(NEAR_S / interval_s), len(poses) - 1))
    return Intent(longitudinal=_longitudinal(_speeds(poses, interval_s), abs(speed_mps), near), lateral=_lateral(poses, near))


def _speeds(poses: np.ndarray, interval_s: float) -> np.ndarray:
    return np.hypot(*np.diff(poses[:, :2], axis=0).T) / interval_s


def _longitudinal(speeds: np.ndarray, start: float, near: int) -> Longitudinal | None:
    if speeds[-1] < STOP_MPS:
        return Longitudinal.STOP
    rise, fall, change = speeds.max() - start, start - speeds.min(), speeds[-1] - start
    if rise < CONSTANT_MPS and fall < CONSTANT_MPS:
        return Longitudinal.KEEP
    if change >= CONSTANT_MPS and fall < CONSTANT_MPS and speeds.max() - speeds[-1] < CONSTANT_MPS:
        return Longitudinal.ACCELERATE if speeds[near - 1] - start >= CONSTANT_MPS else None
    if change <= -CONSTANT_MPS and rise < CONSTANT_MPS:
        return Longitudinal.SLOW
    return None


def _lateral(poses: np.ndarray, near: int) -> Lateral | None:
    offset, end = poses[:, 1], poses[-1]
    if np.abs(offset).max() < STRAIGHT_M:
        return Lateral(manoeuvre=Manoeuvre.KEEP)
    if offset.max() >= STRAIGHT_M and offset.min() <= -STRAIGHT_M:
        return None
    side = 1 if offset[np.abs(offset).argmax()] > 0 else -1
    if abs(end[1]) > LANE_CHANGE_M:
        return Lateral(manoeuvre=Manoeuvre.TURN, side=side)
    sure = abs(wrap(end[2])) < PARALLEL_RAD and side * offset[near] >= NEAR_M
    return Lateral(manoeuvre=Manoeuvre.LANE_CHANGE, side=side) if sure else None


def compare(text: str, waypoints_base: np.ndarray, interval_s: float, speed_mps: float) -> Consistency:
    """Verdict on a reasoning text and waypoints (T, 3) in base_link that start at speed_mps."""
    said, done = text_intent(text), plan_intent(waypoints_base, interval_s, speed_mps)
    along = _along(said.longitudinal, done.longitudinal)
    if said.longitudinal in _STANDS and _waits(waypoints_base, interval_s):
        along = Verdict.AGREES
    elif along is Verdict.CONTRADICTS and said.longitudinal in _BRAKES and _later(text, waypoints_base, interval_s):
        along = Verdict.UNKNOWN
    axes = [along, _across(said.lateral, done.lateral)]
    verdict = next((v for v in (Verdict.CONTRADICTS, Verdict.AGREES) if v in axes), Verdict.UNKNOWN)
    return Consistency(verdict=verdict, text=said, plan=done)


def _later(text: str, waypoints_base: np.ndarray, interval_s: float) -> bool:
    """Whether what the text brakes for is so far ahead that the plan leaves room to stop before it."""
    named = _DISTANCE.search(text)
    if named is None:
        return False
    poses = np.concatenate([np.zeros((1, 3)), np.asarray(waypoints_base, np.float64)])
    speeds = _speeds(poses, interval_s)
    return float(named[1]) - speeds.sum() * interval_s >= speeds[-1] ** 2 / (2 * COMFORT_MPS2)


def _waits(waypoints_base: np.ndarray, interval_s: float) -> bool:
    """Whether the car stands for as long as words are about, even where it sets off later."""
    near = max(1, min(round(NEAR_S / interval_s), len(waypoints_base)))
    path = np.concatenate([np.zeros((1, 2)), np.asarray(waypoints_base, np.float64)[:near, :2]])
    return bool(np.hypot(*np.diff(path, axis=0).T).sum() < STOP_MPS * near * interval_s)


def check(plan: Plan) -> Consistency:
    """`compare` for a plan as it stands."""
    return compare(plan.reasoning, plan.waypoints_base, plan.waypoint_interval_s, plan.speed_mps)


def alarm(plan: Plan) -> str:
    """One line where text and plan can't both be right, else empty: they contradict, or the text says stop and the plan keeps its speed to
    its end, though no distance in the text leaves room. Stricter than `check`, for people who watch a car."""
    found = check(plan)
    if found.verdict is Verdict.CONTRADICTS:
        return f"the text says {found.text}, the plan does {found.plan}"
    speeds = _speeds(np.concatenate([np.zeros((1, 3)), plan.waypoints_base]), plan.waypoint_interval_s)
    drives_on = found.plan.longitudinal is Longitudinal.KEEP and speeds[-1] >= DRIVES_ON_MPS
    if found.text.longitudinal is Longitudinal.STOP and drives_on and not _later(plan.reasoning, plan.waypoints_base, plan.waypoint_interval_s):
        return f"the text says stop, the plan drives on at {speeds[-1]:.1f} m/s"
    return ""


_BRAKES = {Longitudinal.STOP, Longitudinal.YIELD, Longitudinal.SLOW}
_STANDS = {Longitudinal.STOP, Longitudinal.YIELD}
# what also is done by who does as said; who follows goes by another's speed, which the words don't tell
_BROAD = {
    Longitudinal.KEEP: {Longitudinal.KEEP, Longitudinal.ACCELERATE},
    Longitudinal.FOLLOW: {Longitudinal.KEEP, Longitudinal.SLOW, Longitudinal.STOP},
}


def _along(said: Longitudinal | None, done: Longitudinal | None) -> Verdict:
    if said is None or done is None:
        return Verdict.UNKNOWN
    if {said, done} & _BRAKES and Longitudinal.ACCELERATE in (said, done):
        return Verdict.CONTRADICTS
    # the same speed for these seconds proves nothing against braking or speeding up later
    same = said is done or {said, done} <= _BRAKES or done in _BROAD.get(said, ())
    return Verdict.AGREES if same else Verdict.UNKNOWN


def _across(said: Lateral | None, done: Lateral | None) -> Verdict:
    if said is None or done is None:
        return Verdict.UNKNOWN
    if said.side * done.side > 0 or said.side == done.side or said.manoeuvre is Manoeuvre.NUDGE and not done.side:
        return Verdict.AGREES
    # a bend of the road hides what the car does within it
    bend = Manoeuvre.TURN in (said.manoeuvre, done.manoeuvre) and said.manoeuvre is not done.manoeuvre
    return Verdict.UNKNOWN if bend or not said.side * done.side else Verdict.CONTRADICTS
