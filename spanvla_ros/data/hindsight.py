"""Decision and words for a recorded moment, from what was driven next and its scenario tags. A stand-in until it is annotated.

Without tags nobody knows why the car did what it did: the text names the action alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.data.tags import Tag
from spanvla_ros.planning.consistency import plan_intent
from spanvla_ros.planning.intents import Lateral, Longitudinal, Manoeuvre
from spanvla_ros.planning.prompt import reasoning_text

_ACTIONS = {
    Longitudinal.STOP: "stop",
    Longitudinal.SLOW: "slow down",
    Longitudinal.KEEP: "keep the speed",
    Longitudinal.ACCELERATE: "accelerate",
    None: "adapt the speed",
}
_LONGITUDINAL = {
    Longitudinal.STOP: "stop for static constraints",
    Longitudinal.SLOW: "speed adaptation",
    Longitudinal.KEEP: "set-speed tracking",
    Longitudinal.ACCELERATE: "set-speed tracking",
    None: "speed adaptation",
}
_LATERAL = {Manoeuvre.KEEP: "keep & centre", Manoeuvre.NUDGE: "in-lane nudge", Manoeuvre.LANE_CHANGE: "lane change", Manoeuvre.TURN: "turn"}
_SLOWS = (Longitudinal.STOP, Longitudinal.SLOW)


def explain(future: np.ndarray, speed_mps: float, tags: Sequence[Tag], seen: bool) -> tuple[dict[str, str], str, str]:
    """Decision, mode and reasoning text for a future (T, 3) every 0.5 s from speed_mps on. seen: whether objects were detected at all;
    only then may an uneventful moment say that the road is clear."""
    intent = plan_intent(future, FUTURE_INTERVAL_S, speed_mps)
    along, across = intent.longitudinal, intent.lateral
    names = {tag.name for tag in tags}
    longitudinal = _LONGITUDINAL[along]
    if along in _SLOWS and names & {"lead_braking", "cut_in"}:
        longitudinal = "lead following"
    elif along in _SLOWS and "vru" in names:
        longitudinal = "yield"
    lateral = "lane change" if "ego_lane_change" in names else _LATERAL[across.manoeuvre] if across else "keep & centre"
    decision = {"longitudinal": longitudinal, "lateral": lateral}
    if seen and not tags and along is Longitudinal.KEEP and (across is None or across.manoeuvre is Manoeuvre.KEEP):
        return decision, "fast", reasoning_text(None)
    cause = f"{tags[0].cause}, " if tags else ""
    said = f"{cause}{_ACTIONS[along]}{_sideways(across)}."
    return decision, "slow", reasoning_text(said[0].upper() + said[1:])


def _sideways(lateral: Lateral | None) -> str:
    if lateral is None or lateral.manoeuvre is Manoeuvre.KEEP:
        return ""
    side = "left" if lateral.side > 0 else "right"
    return {
        Manoeuvre.TURN: f" and turn {side}",
        Manoeuvre.LANE_CHANGE: f" and change to the {side} lane",
        Manoeuvre.NUDGE: f" and keep to the {side}",
    }[lateral.manoeuvre]
