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


class Longitudinal(str, enum.Enum):
    STOP = "stop"
    YIELD = "yield"
    SLOW = "slow down"
    KEEP = "drive on"
    ACCELERATE = "accelerate"


class Manoeuvre(str, enum.Enum):
    KEEP = "keep the lane"
    NUDGE = "nudge"
    LANE_CHANGE = "lane change"
    TURN = "turn"


class Verdict(str, enum.Enum):
    AGREES = "agrees"
    CONTRADICTS = "contradicts"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Lateral:
    """side: 1 left, -1 right, 0 for keeping the lane."""

    manoeuvre: Manoeuvre
    side: int = 0

    def __str__(self) -> str:
        return self.manoeuvre.value + {1: " left", -1: " right", 0: ""}[self.side]


@dataclass(frozen=True, kw_only=True)
class Intent:
    """None where there is nothing clear to say."""

    longitudinal: Longitudinal | None = None
    lateral: Lateral | None = None

    def __str__(self) -> str:
        said = [self.longitudinal.value if self.longitudinal else None, str(self.lateral) if self.lateral else None]
        return ", ".join(part for part in said if part) or "nothing clear"


@dataclass(frozen=True, kw_only=True)
class Consistency:
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
PARALLEL_RAD = 0.15
COMFORT_MPS2 = 2.5  # braking that is still to come after the plan, where the text says how far it is to the stop

# what is no action of ours, taken out before anything is looked for
_OTHERS = re.compile(
    r"""\b(?:
        (?:do(?:es)?|did|will|must|should|need)\ ?n[o']t\ (?:need\ to\ )?\w+ | (?:do|does|did|is|are|not|never|no|without|instead\ of)\ (?:any\ )?(?:not\ )?(?:need\ to\ |reason\ to\ )?
            (?:stop(?:ping)?|brak(?:e|ing)|wait(?:ing)?|yield(?:ing)?|slow(?:ing)?(?:\ down)?|accelerat(?:e|ing)|mov(?:e|ing)|turn(?:ing)?|chang(?:e|ing))
      | stop(?:\ line|\ sign|\ and\ go|light)s? | brake\ lights? | (?:acceleration|turn(?:ing)?|slow|fast|passing)\ lanes?
      | (?:far|near|close|time|room|distance)\ enough\ to\ \w+ | (?:ready|prepared|able|about)\ to\ \w+
      | (?:that|which|who)\ (?:is\ |has\ |was\ )?(?:\w+ly\ )?\w+
      | (?:stopped|stopping|slow(?:er|-moving)?|slowing|braking|turning|yielding|waiting|standing|accelerating|merging|parked|halted)\ (?!down|for|behind|at|before|to|too|until|in|on|there)\w+
      | (?:ahead|in\ front|before\ us|behind|lead(?:er)?|vehicle|car|truck|bus|van|cyclist|bicycle|motorcycle|pedestrian|trailer|somebody|he|she|it|they)\ (?:is\ |are\ |has\ |have\ )?
            (?:\w+ly\ )?(?:stop(?:s|ped|ping)?|brak(?:es|ed|ing)|slow(?:s|ed|ing)?(?:\ down)?|wait(?:s|ed|ing)|yield(?:s|ed|ing)|turn(?:s|ed|ing)|accelerat(?:es|ed|ing)|merg(?:es|ed|ing)|stand(?:s|ing)|goes|chang(?:es|ed|ing)|cut(?:s|ting)|mov(?:es|ed|ing)|swerv(?:es|ed|ing)|pass(?:es|ed|ing))(?:\ (?:hard|first|still|suddenly))?
      | right\ (?:of\ way|ahead|behind|before|now|away|here|in\ front) | left\ (?:over|behind|no|only) | (?:has|have|is|are|was|were|been)\ left
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)

# strongest first: who stops also slows down
_LONGITUDINAL: tuple[tuple[Longitudinal, re.Pattern[str]], ...] = tuple(
    (intent, re.compile(rf"\b(?:{words})\b", re.IGNORECASE))
    for intent, words in (
        (Longitudinal.STOP, r"stop(?:ping)?(?! of)|halt(?:ing)?|stay stopped|remain (?:stopped|stationary)|keep (?:standing|waiting|still)|stay (?:at|put)|wait(?:ing)?(?! and)|hold(?= before|[.,;!]|$| (?:at|here|still|position))|stand still|standstill|stationary"),
        (Longitudinal.YIELD, r"yield(?:ing)?|give way|giving way|let (?:\w+ ){1,3}?(?:pass|in|go|cross|through|merge)"),
        (Longitudinal.SLOW, r"slow(?:ing)? (?:down|up)|slow(?=[.,;!]|$)|brak(?:e|ing)|decelerat(?:e|ing)|(?:reduce|reducing|lower(?:ing)?|drop(?:ping)?) (?:the |my |our |its )?speed|eas(?:e|ing) off|open the gap|back off"),
        (Longitudinal.ACCELERATE, r"accelerat(?:e|ing)(?: (?:to|for|away|past|gently|smoothly))?|speed(?:ing)? up|(?:increas(?:e|ing)|pick(?:ing)? up|gain(?:ing)?) (?:the |my |our )?speed|pull(?:ing)? (?:away|off)|set(?:ting)? off|go faster"),
        (Longitudinal.KEEP, r"drive on|keep going|go (?:on|through)|(?:continue|proceed)(?:ing)?|(?:road|way|path) is (?:clear|free)|(?:keep|keeping|maintain(?:ing)?|hold(?:ing)?) (?:the |my |our |this |a )?(?:current |constant |steady |same )?(?:speed|pace|velocity)|cruis(?:e|ing)"),
    )
)  # fmt: skip

_SIDE = r"(?P<side>left|right)"
_TO = r"(?:(?:to|on|onto|into|towards?) )?(?:the |our |my )?(?:far |own )?"
_LATERAL: tuple[tuple[Manoeuvre, re.Pattern[str]], ...] = tuple(
    (manoeuvre, re.compile(rf"\b(?:{words})", re.IGNORECASE))
    for manoeuvre, words in (
        (
            Manoeuvre.LANE_CHANGE,
            rf"(?:chang(?:e|ing)|mov(?:e|ing)|switch(?:ing)?|merg(?:e|ing)|shift(?:ing)?)(?: lanes?| over| back)? {_TO}{_SIDE}\b(?! side| edge)"
            rf"|{_SIDE.replace('side', 'side2')}[ -]lane[ -]change|use the {_SIDE.replace('side', 'side3')} lane"
            rf"|(?:overtak(?:e|ing)|pass(?:ing)?|go(?:ing)? around|swing(?:ing)?|steer(?:ing)? around)(?: (?!left|right|and|wait|brake|from)\w+){{0,4}}? {_TO}{_SIDE.replace('side', 'side4')}\b(?! and| lane is| side is)"
            rf"|(?:return|go back|get back)(?: \w+){{0,4}}? (?:on|to) the {_SIDE.replace('side', 'side5')}\b"
            rf"|the {_SIDE.replace('side', 'side6')} lane is free,? (?:change|use|and)",
        ),
        (
            Manoeuvre.NUDGE,
            rf"(?:nudg(?:e|ing)|keep(?:ing)?|veer(?:ing)?|swerv(?:e|ing)|bear(?:ing)?|drift(?:ing)?|mak(?:e|ing) room)"
            rf"(?: (?:slightly|a bit|a little))? {_TO}{_SIDE}\b(?! side of)|mov(?:e|ing) (?:slightly|a bit|a little) {_TO}{_SIDE.replace('side', 'side2')}\b",
        ),
        (
            Manoeuvre.TURN,
            rf"turn(?:ing)? {_TO}{_SIDE}\b|(?:take|follow)(?: \w+){{0,3}}? {_TO}{_SIDE.replace('side', 'side2')} turn|{_SIDE.replace('side', 'side3')}[ -]turn\b"
            rf"|(?:bend|curve|turn)s? {_TO}{_SIDE.replace('side', 'side4')}\b",
        ),
        (Manoeuvre.KEEP, r"(?:keep|stay|remain)(?:ing)? (?:in|within|to) (?:the |our |my |this )?(?:current |same |own )?lane\b|(?:keep|hold)(?:ing)? (?:the|our|my) lane\b|lane keeping|(?:go|drive|continue|keep)(?:ing)? straight"),
    )
)  # fmt: skip


def text_intent(text: str) -> Intent:
    """What a reasoning text says the car will do; an axis that is named twice in opposite directions, or not at all, is None."""
    own = " ".join(_OTHERS.sub(" ", text).split())
    found = [intent for intent, words in _LONGITUDINAL if words.search(own)]
    if Longitudinal.ACCELERATE in found and len({*found} - {Longitudinal.KEEP}) > 1:
        found = []
    laterals = []
    for manoeuvre, words in _LATERAL:
        for match in words.finditer(own):
            sides = [value.lower() for value in match.groupdict().values() if value]
            laterals.append(Lateral(manoeuvre=manoeuvre, side=0 if not sides else 1 if sides[0] == "left" else -1))
    if found and found[0] is Longitudinal.SLOW and any(lateral.manoeuvre is Manoeuvre.TURN for lateral in laterals):
        found = []  # as slow as the bend asks for, which may be faster than now
    sides = {lateral.side for lateral in laterals} - {0}
    moving = [lateral for lateral in laterals if lateral.side] or laterals
    return Intent(longitudinal=found[0] if found else None, lateral=moving[0] if moving and len(sides) < 2 else None)


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
    if along is Verdict.CONTRADICTS and said.longitudinal in _BRAKES and _later(text, waypoints_base, interval_s):
        along = Verdict.UNKNOWN
    axes = [along, _across(said.lateral, done.lateral)]
    verdict = next((v for v in (Verdict.CONTRADICTS, Verdict.AGREES) if v in axes), Verdict.UNKNOWN)
    return Consistency(verdict=verdict, text=said, plan=done)


def _later(text: str, waypoints_base: np.ndarray, interval_s: float) -> bool:
    """Whether what the text brakes for is so far ahead that the plan leaves room to stop before it."""
    named = re.search(r"(\d+(?:\.\d+)?) ?m(?:et(?:re|er)s?)?\b", text)
    if named is None:
        return False
    poses = np.concatenate([np.zeros((1, 3)), np.asarray(waypoints_base, np.float64)])
    speeds = _speeds(poses, interval_s)
    return float(named[1]) - speeds.sum() * interval_s >= speeds[-1] ** 2 / (2 * COMFORT_MPS2)


def check(plan: Plan) -> Consistency:
    """`compare` for a plan as it stands."""
    return compare(plan.reasoning, plan.waypoints_base, plan.waypoint_interval_s, plan.speed_mps)


_BRAKES = {Longitudinal.STOP, Longitudinal.YIELD, Longitudinal.SLOW}
_DRIVES = {Longitudinal.KEEP, Longitudinal.ACCELERATE}


def _along(said: Longitudinal | None, done: Longitudinal | None) -> Verdict:
    if said is None or done is None:
        return Verdict.UNKNOWN
    if {said, done} & _BRAKES and Longitudinal.ACCELERATE in (said, done):
        return Verdict.CONTRADICTS
    # the same speed for these seconds proves nothing against braking or speeding up later
    same = said is done or {said, done} <= _BRAKES or said is Longitudinal.KEEP and done in _DRIVES
    return Verdict.AGREES if same else Verdict.UNKNOWN


def _across(said: Lateral | None, done: Lateral | None) -> Verdict:
    if said is None or done is None:
        return Verdict.UNKNOWN
    if said.side * done.side > 0 or said.side == done.side or said.manoeuvre is Manoeuvre.NUDGE and not done.side:
        return Verdict.AGREES
    # a bend of the road hides what the car does within it
    bend = Manoeuvre.TURN in (said.manoeuvre, done.manoeuvre) and said.manoeuvre is not done.manoeuvre
    return Verdict.UNKNOWN if bend or not said.side * done.side else Verdict.CONTRADICTS
