"""What the expert decides, and why."""

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
    components: things that matter, each with class, type, location and behavior or impact; mode: "slow" where something
    matters, else "fast"; trace: the reason as one or two short sentences, None in fast mode; topic: the key of that
    sentence; fields: scene facts as floats (distances capped at 80 m, lamp 0 none 1 red 2 yellow 3 green).
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
