"""What a scenario family is: the content of config/scenarios/<name>.yaml, still open where a seed has to choose.

A value to draw is a constant, [low, high] for a uniform number, or {value: weight, ...} for a choice.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spanvla_ros import config
from spanvla_ros.contracts import ConfigError
from spanvla_ros.share import share

# in the order of the families' numbers, which seed their episodes
FAMILIES = (
    "lane", "curve", "lead", "stopped", "cut_in", "red", "left_turn", "right_turn", "pedestrian", "cones", "parked", "truck", "runner",
    "merge", "blocked", "recovery", "sensor_fault", "crash",
)  # fmt: skip
Draw = Any


def draw(value: Draw, rng: np.random.Generator) -> Any:
    """A value for one episode."""
    if isinstance(value, dict):
        weights = np.array(list(value.values()), float)
        return list(value)[int(rng.choice(len(value), p=weights / weights.sum()))]
    if isinstance(value, list):
        return float(rng.uniform(*value))
    return value


@dataclass(frozen=True, kw_only=True)
class RouteSpec:
    """Where the episode happens. The feature is the place that it is about; all stations of actors count from there.

    feature: "any" place; "signal" or "junction" (with or without one): its stop line; "straight": the first metre of `stretch_m`
    without bend and junction; "bend": the sharpest point; "crossing": a zebra crossing; "merge": the end of an acceleration
    lane. lanes: at least so many of the own direction; oncoming: True for a road with one lane each way and
    nothing but paint between them.
    """

    feature: Literal["any", "signal", "junction", "straight", "bend", "crossing", "merge"] = "any"
    turn: Literal["left", "straight", "right"] | None = None
    before_m: Draw = 0.0
    length_m: Draw = 170.0
    stretch_m: float = 0.0
    lanes: int = 1
    oncoming: bool = False
    radius_m: tuple[float, float] = (15.0, 80.0)


@dataclass(frozen=True, kw_only=True)
class LightSpec:
    """Traffic lights. plan: see `Signals`. own: what those of the route show, "green", their "cycle", or a "plot": red at
    the start with the chance red_at_start, or turning red when the front bumper comes nearer than turns_red_m;
    green again green_after_s later."""

    plan: Literal["net", "split"] = "net"
    own: Literal["green", "cycle", "plot"] = "green"
    red_at_start: float = 0.65
    turns_red_m: Draw = 30.0
    green_after_s: Draw = 8.0


@dataclass(frozen=True, kw_only=True)
class PhaseSpec:
    """What an actor does next, once every condition given holds: the ego's front bumper is nearer to it than ego_gap_m along the route;
    the ego, at its present speed, reaches the actor's meeting point within ego_eta_s; after_s have passed since the last phase."""

    ego_gap_m: Draw = None
    ego_eta_s: Draw = None
    after_s: Draw = None
    speed_mps: Draw = None
    acceleration_mps2: Draw = 2.0
    inward_m: Draw = None
    over_s: Draw = 3.0


@dataclass(frozen=True, kw_only=True)
class ActorSpec:
    """One actor, or a row of `count` of them `spacing_m` apart.

    line: "route" (the ego's path), "oncoming" (the same, the other way), "foe" (a lane that crosses the route at the feature, coming
    from `origin`), "main" (the lane that an acceleration lane joins), "across" (a walk from kerb to kerb), "zebra" (the same on
    the next crossing). at_m: station; along the route from the feature, for foes along their own
    path from the crossing point. inward_m: sideways towards the middle of the road; lane: whole lanes towards it. inward_to_m:
    sideways place of the last one of a row. side: the kerb where a walk begins. careful: it brakes for what is ahead.
    """

    kind: Draw
    line: Literal["route", "oncoming", "foe", "main", "across", "zebra"] = "route"
    origin: Literal["left", "right", "opposite", "side"] = "side"
    chance: float = 1.0
    at_m: Draw = 0.0
    inward_m: Draw = 0.0
    inward_to_m: Draw = None
    lane: Draw = 0
    side: Draw = "near"
    speed_mps: Draw = 0.0
    count: Draw = 1
    spacing_m: Draw = 4.0
    careful: bool = True
    turned_deg: Draw = 0.0
    phases: tuple[PhaseSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FaultSpec:
    """A camera that fails from at_s on for lasting_s: frames "drop", come "late" by one frame, "freeze" or go "black"."""

    kind: Draw
    at_s: Draw
    lasting_s: Draw


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An alternative of a family: its own actors, and its own route where it has one."""

    actors: tuple[ActorSpec, ...]
    route: RouteSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. traffic_s: mean seconds between two departures on the map, None for an empty one.

    outcome: "route" (its end is reached) or "standstill" (the ego stops for good where it must, with its front bumper
    standstill_m short of the feature). passes: the lanes of the other direction may be used within this distance of the feature. variants: alternatives
    one of which replaces `actors` (and the route), chosen by the seed in turn.
    """

    number: int
    title: str
    maps: tuple[str, ...]
    route: RouteSpec = RouteSpec()
    start_speed_mps: Draw = 6.0
    start_lateral_m: Draw = 0.0
    start_yaw_deg: Draw = 0.0
    traffic_s: Draw = None
    lights: LightSpec = LightSpec()
    actors: tuple[ActorSpec, ...] = ()
    variants: dict[str, Variant] | None = None
    faults: tuple[FaultSpec, ...] = ()
    outcome: Literal["route", "standstill"] = "route"
    standstill_m: tuple[float, float] = (1.0, 15.0)
    passes_m: float = 0.0
    look: Draw = "day"
    jpeg_quality: Draw = 90.0


@functools.lru_cache(maxsize=None)
def load(name: str) -> Family:
    """The family of a name; ConfigError for an unknown one or a fault in its file."""
    if name not in FAMILIES:
        raise ConfigError(f"scenario '{name}' is unknown; there are {', '.join(FAMILIES)}")
    path = share(f"config/scenarios/{name}.yaml")
    family = config.load(Family, path)
    if family.number != FAMILIES.index(name) + 1:
        raise ConfigError(f"{path}: number must be {FAMILIES.index(name) + 1}, is {family.number}")
    return family
