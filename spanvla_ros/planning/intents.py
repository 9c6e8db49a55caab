"""What a reasoning text says the car will do: one longitudinal and one lateral intent from its words (method section 5.2).

Made for the sentences of the simulator's expert and for plain English of the same kind. What others do ("the van ahead
brakes"), what things are called ("stop line") and what is denied ("no need to stop") is taken out first.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Longitudinal(str, enum.Enum):
    STOP = "stop"
    YIELD = "yield"
    SLOW = "slow down"
    FOLLOW = "follow"
    KEEP = "drive on"
    ACCELERATE = "accelerate"


class Manoeuvre(str, enum.Enum):
    KEEP = "keep the lane"
    NUDGE = "nudge"
    LANE_CHANGE = "lane change"
    TURN = "turn"


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


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(phrases)})(?!\w)", re.IGNORECASE)


_ACT = (
    r"(?:stop(?:ping)?|brak(?:e|ing)|wait(?:ing)?|yield(?:ing)?|slow(?:ing)?(?: down)?|accelerat(?:e|ing)|mov(?:e|ing)|turn(?:ing)?"
    r"|chang(?:e|ing))"
)
_ACTS = (
    r"(?:stop(?:s|ped|ping)?|brak(?:es|ed|ing)|slow(?:s|ed|ing)?(?: down)?|wait(?:s|ed|ing)|yield(?:s|ed|ing)|turn(?:s|ed|ing)"
    r"|accelerat(?:es|ed|ing)|merg(?:es|ed|ing)|stand(?:s|ing)|goes|chang(?:es|ed|ing)|cut(?:s|ting)|mov(?:es|ed|ing)|swerv(?:es|ed|ing)"
    r"|pass(?:es|ed|ing))"
)
_WHO = (
    r"(?:ahead|in front|before us|behind|lead(?:er)?|vehicle|car|truck|bus|van|cyclist|bicycle|motorcycle|pedestrian|trailer|somebody"
    r"|he|she|it|they)"
)
_STATE = r"(?:stopped|stopping|slow(?:er|-moving)?|slowing|braking|turning|yielding|waiting|standing|accelerating|merging|parked|halted)"
_NOT_OURS = _any(
    # denied
    r"(?:do(?:es)?|did|will|must|should|need) ?n[o']t (?:need to )?\w+",
    rf"(?:do|does|did|is|are|not|never|no|without|instead of) (?:any )?(?:not )?(?:need to |reason to )?{_ACT}",
    # names
    r"stop(?: line| sign| and go|light)s?",
    r"brake lights?",
    r"(?:acceleration|turn(?:ing)?|slow|fast|passing) lanes?",
    # possible only
    r"(?:far|near|close|time|room|distance) enough to \w+",
    r"(?:ready|prepared|able|about) to \w+",
    # others
    r"(?:that|which|who) (?:is |has |was )?(?:\w+ly )?\w+",
    rf"{_STATE} (?!down|for|behind|at|before|to|too|until|in|on|there)\w+",
    rf"{_WHO} (?:is |are |has |have )?(?:\w+ly )?{_ACTS}(?: (?:hard|first|still|suddenly))?",
    # no sides
    r"right (?:of way|ahead|behind|before|now|away|here|in front)",
    r"left (?:over|behind|no|only)",
    r"(?:has|have|is|are|was|were|been) left",
)

# strongest first: who stops also slows down
_LONGITUDINAL = (
    (
        Longitudinal.STOP,
        _any(
            r"stop(?:ping)?(?! of)", r"halt(?:ing)?", r"stay stopped", r"remain (?:stopped|stationary)", r"keep (?:standing|waiting|still)",
            r"stay (?:at|put)", r"wait(?:ing)?(?! and)", r"hold(?= before|[.,;!]|$| (?:at|here|still|position))", r"stand still", r"standstill",
            r"stationary",
        ),
    ),
    (Longitudinal.YIELD, _any(r"yield(?:ing)?", r"giv(?:e|ing) way", r"let (?:\w+ ){1,3}?(?:pass|in|go|cross|through|merge)")),
    (
        Longitudinal.SLOW,
        _any(
            r"slow(?:ing)? (?:down|up)", r"slow(?=[.,;!]|$)", r"brak(?:e|ing)", r"decelerat(?:e|ing)", r"eas(?:e|ing) off",
            r"open the gap", r"back off",
            r"(?:reduc(?:e|ing)|lower(?:ing)?|drop(?:ping)?) (?:the |my |our |its )?speed",
        ),
    ),
    (
        Longitudinal.ACCELERATE,
        _any(
            r"accelerat(?:e|ing)", r"speed(?:ing)? up", r"(?:increas(?:e|ing)|pick(?:ing)? up|gain(?:ing)?) (?:the |my |our )?speed",
            r"pull(?:ing)? (?:away|off)", r"set(?:ting)? off", r"go faster",
        ),
    ),
    (
        Longitudinal.FOLLOW,
        _any(
            r"follow(?:ing)? (?:the|a|this) (?:\w+ ){1,2}(?:ahead|in front)", r"(?:keep|hold)(?:ing)? (?:the|our|my) (?:gap|distance)",
            r"adapt to (?:it|him|its speed)",
        ),
    ),
    (
        Longitudinal.KEEP,
        _any(
            r"drive on", r"keep going", r"go (?:on|through)", r"go(?= and|[.,;!]|$)",
            r"(?:continue|proceed)(?:ing)?", r"(?:road|way|path) is (?:clear|free)",
            r"cruis(?:e|ing)",
            r"(?:keep|maintain|hold)(?:ing)? (?:the |my |our |this |a )?(?:current |constant |steady |same )?(?:speed|pace|velocity)",
        ),
    ),
)  # fmt: skip

_SIDE = r"(left|right)"
_TO_SIDE = rf"(?:(?:to|on|onto|into|towards?) )?(?:the |our |my )?(?:far |own )?{_SIDE}"
_LITTLE = r"(?:slightly|a bit|a little)"
_MOVE = r"(?:chang(?:e|ing)|mov(?:e|ing)|switch(?:ing)?|merg(?:e|ing)|shift(?:ing)?)"
_AROUND = r"(?:overtak(?:e|ing)|pass(?:ing)?|go(?:ing)? around|swing(?:ing)?|steer(?:ing)? around)"
_NUDGE = r"(?:nudg(?:e|ing)|keep(?:ing)?|veer(?:ing)?|swerv(?:e|ing)|bear(?:ing)?|drift(?:ing)?)"
_LATERAL = (
    (Manoeuvre.LANE_CHANGE, _any(rf"{_MOVE}(?: lanes?| over| back)? {_TO_SIDE}(?! side| edge)")),
    (Manoeuvre.LANE_CHANGE, _any(rf"{_SIDE}[ -]lane[ -]change")),
    (Manoeuvre.LANE_CHANGE, _any(rf"use the {_SIDE} lane")),
    (Manoeuvre.LANE_CHANGE, _any(rf"the {_SIDE} lane is free,? (?:change|use|and)")),
    (Manoeuvre.LANE_CHANGE, _any(rf"{_AROUND}(?: (?!left|right|and|wait|brake|from)\w+){{0,4}}? {_TO_SIDE}(?! and| lane is| side is)")),
    (Manoeuvre.LANE_CHANGE, _any(rf"(?:return|go back|get back)(?: \w+){{0,4}}? (?:on|to) the {_SIDE}")),
    (Manoeuvre.NUDGE, _any(rf"{_NUDGE}(?: {_LITTLE})? {_TO_SIDE}(?! side of)")),
    (Manoeuvre.NUDGE, _any(rf"mov(?:e|ing) {_LITTLE} {_TO_SIDE}")),
    (Manoeuvre.NUDGE, _any(rf"mak(?:e|ing) room {_TO_SIDE}")),
    (Manoeuvre.TURN, _any(rf"turn(?:ing|s)? {_TO_SIDE}")),
    (Manoeuvre.TURN, _any(rf"(?:bend|curve)s? {_TO_SIDE}")),
    (Manoeuvre.TURN, _any(rf"{_SIDE}[ -]turn")),
    (
        Manoeuvre.KEEP,
        _any(
            r"(?:keep|stay|remain)(?:ing)? (?:in|within|to) (?:the |our |my |this )?(?:current |same |own )?lane",
            r"(?:keep|hold)(?:ing)? (?:the|our|my) lane", r"lane keeping", r"(?:go|drive|continue|keep)(?:ing)? straight",
        ),
    ),
)  # fmt: skip


def text_intent(text: str) -> Intent:
    """What the car is said to do; an axis that is named twice in opposite directions, or not at all, is None."""
    own = " ".join(_NOT_OURS.sub(" ", text).split())
    found = [intent for intent, words in _LONGITUDINAL if words.search(own)]
    if Longitudinal.ACCELERATE in found and len({*found} - {Longitudinal.KEEP}) > 1:
        found = []
    laterals = []
    for manoeuvre, words in _LATERAL:
        for match in words.finditer(own):
            sides = [side.lower() for side in match.groups()]
            laterals.append(Lateral(manoeuvre=manoeuvre, side=0 if not sides else 1 if sides[0] == "left" else -1))
    if found and found[0] is Longitudinal.SLOW and any(lateral.manoeuvre is Manoeuvre.TURN for lateral in laterals):
        found = []  # as slow as the bend asks for, which may be faster than now
    sides = {lateral.side for lateral in laterals} - {0}
    moving = [lateral for lateral in laterals if lateral.side] or laterals
    return Intent(longitudinal=found[0] if found else None, lateral=moving[0] if moving and len(sides) < 2 else None)
