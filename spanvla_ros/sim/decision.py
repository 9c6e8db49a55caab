"""What the expert decides, why, and the words it has for it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Trajectory


class Longitudinal(str, enum.Enum):
    """Closed set of longitudinal decisions (method section 6.3)."""

    SET_SPEED_TRACKING = "set-speed tracking"
    LEAD_FOLLOWING = "lead following"
    SPEED_ADAPTATION = "speed adaptation"
    GAP_SEARCHING = "gap searching"
    ACCELERATION_FOR_PASSING = "acceleration for passing"
    YIELD = "yield"
    STOP_FOR_STATIC_CONSTRAINTS = "stop for static constraints"


class Lateral(str, enum.Enum):
    """Closed set of lateral decisions (method section 6.3)."""

    KEEP_AND_CENTRE = "keep & centre"
    MERGE_SPLIT = "merge/split"
    OUT_OF_LANE_NUDGE = "out-of-lane nudge"
    IN_LANE_NUDGE = "in-lane nudge"
    LANE_CHANGE = "lane change"
    PULL_OVER = "pull-over"
    TURN = "turn"
    MANOEUVRE_ABORT = "manoeuvre abort"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The expert's answer for one instant.

    waypoints_base (10, 3) every 0.5 s in base_link; trajectory: the same roll-out every 0.1 s in the world frame;
    components: things that matter, each with class, type, location, behavior; mode: "slow" where something matters,
    else "fast"; trace: the reason as one short sentence, None in fast mode; topic: the key of that sentence;
    fields: scene facts as floats (distances capped at 80 m, lamp 0 none 1 red 2 yellow 3 green).
    """

    waypoints_base: np.ndarray
    trajectory: Trajectory
    longitudinal: Longitudinal
    lateral: Lateral
    components: tuple[Mapping[str, str], ...]
    mode: str
    topic: str
    trace: str | None
    fields: Mapping[str, float]


# topic -> wordings; {d} distance in metres, {v} kind of vehicle, {side} left or right
TRACES: Mapping[str, tuple[str, ...]] = {
    "red": ("Red light ahead, stop at the line in {d} m.", "The light is red, brake for the line in {d} m."),
    "red_wait": ("The light is red, wait at the line.", "Red light, stay stopped at the line."),
    "yellow": ("Yellow light ahead, stop at the line in {d} m.", "The light is yellow, brake for the line in {d} m."),
    "green": ("Green light ahead, drive on.", "The light is green, go through the junction."),
    "green_left": ("Green light, turn left at the junction.", "The light is green, go and turn left."),
    "green_right": ("Green light, turn right at the junction.", "The light is green, go and turn right."),
    "stopped": ("A stopped {v} blocks our lane in {d} m, brake.", "A {v} stands ahead in {d} m, stop behind it."),
    "stopped_wait": ("A stopped {v} is right ahead, wait behind it.", "A {v} stands right ahead, stay stopped."),
    "lead": ("A {v} drives {d} m ahead, keep the gap.", "Follow the {v} ahead in {d} m."),
    "curve": ("The road bends to the {side}, slow down.", "Tight curve to the {side}, reduce speed."),
    "turn": ("Turn {side} through the junction slowly.", "In the junction, follow the turn to the {side}."),
    "recover": ("Too far {side} in the lane, steer back to its centre.", "The car is off centre to the {side}, steer back."),
}

_SITUATIONS: Mapping[str, tuple[Longitudinal, Lateral, tuple[str, str, str] | None]] = {
    "red": (Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Lateral.KEEP_AND_CENTRE, ("Traffic Sign", "traffic light", "red")),
    "red_wait": (Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Lateral.KEEP_AND_CENTRE, ("Traffic Sign", "traffic light", "red")),
    "yellow": (Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Lateral.KEEP_AND_CENTRE, ("Traffic Sign", "traffic light", "yellow")),
    "green": (Longitudinal.SET_SPEED_TRACKING, Lateral.KEEP_AND_CENTRE, ("Traffic Sign", "traffic light", "green")),
    "green_left": (Longitudinal.SPEED_ADAPTATION, Lateral.TURN, ("Traffic Sign", "traffic light", "green")),
    "green_right": (Longitudinal.SPEED_ADAPTATION, Lateral.TURN, ("Traffic Sign", "traffic light", "green")),
    "stopped": (Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Lateral.KEEP_AND_CENTRE, ("Vehicle", "{v}", "stopped")),
    "stopped_wait": (Longitudinal.STOP_FOR_STATIC_CONSTRAINTS, Lateral.KEEP_AND_CENTRE, ("Vehicle", "{v}", "stopped")),
    "lead": (Longitudinal.LEAD_FOLLOWING, Lateral.KEEP_AND_CENTRE, ("Vehicle", "{v}", "driving ahead")),
    "curve": (Longitudinal.SPEED_ADAPTATION, Lateral.KEEP_AND_CENTRE, ("Lane", "curve", "bends to the {side}")),
    "turn": (Longitudinal.SPEED_ADAPTATION, Lateral.TURN, ("Lane", "junction", "turns to the {side}")),
    "recover": (Longitudinal.SET_SPEED_TRACKING, Lateral.KEEP_AND_CENTRE, ("Ego states", "lane position", "off centre to the {side}")),
    "free": (Longitudinal.SET_SPEED_TRACKING, Lateral.KEEP_AND_CENTRE, None),
}


def situation(topic: str, words: Mapping[str, object]) -> tuple[Longitudinal, Lateral, tuple[Mapping[str, str], ...]]:
    """Decisions and critical components that belong to a topic; `words` fills d, v and side."""
    longitudinal, lateral, thing = _SITUATIONS[topic]
    if thing is None:
        return longitudinal, lateral, ()
    group, kind, behavior = (part.format(**words) for part in thing)
    where = f"{words['d']} m ahead" if group in ("Vehicle", "Traffic Sign") else "here"
    return longitudinal, lateral, ({"class": group, "type": kind, "location": where, "behavior": behavior},)
