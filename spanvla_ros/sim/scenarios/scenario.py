"""One episode of a scenario family: everything that its seed decides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import ConfigError
from spanvla_ros.sim.pictures.camera import CAMERAS, Camera
from spanvla_ros.sim.roads import maps, road
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import Route
from spanvla_ros.sim.scenarios import family as families
from spanvla_ros.sim.scenarios import place
from spanvla_ros.sim.scenarios.cast import Role
from spanvla_ros.sim.scenarios.casting import Casting
from spanvla_ros.sim.scenarios.family import FAMILIES, Family, Variant, draw
from spanvla_ros.sim.scenarios.place import NoPlace


@dataclass(frozen=True, kw_only=True)
class Lights:
    """Plan of the traffic lights and what those of the route do; see `LightSpec`."""

    plan: str
    own: str
    starts_red: bool
    turns_red_m: float
    green_after_s: float
    offset_s: float


@dataclass(frozen=True, kw_only=True)
class Fault:
    """All cameras fail in one way ("drop", "late", "freeze", "black") from at_s until until_s."""

    kind: str
    at_s: float
    until_s: float


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One episode. feature_s: station on the route's path of what it is about; variant: name of the chosen alternative.

    Speeds in m/s, lengths in metres, angles in radians, left positive.
    """

    family: str
    seed: int
    map_id: str
    route: Route
    feature_s: float
    start_speed_mps: float
    start_lateral_m: float
    start_yaw_rad: float
    traffic_s: float | None
    lights: Lights
    roles: tuple[Role, ...]
    faults: tuple[Fault, ...]
    goal: str
    standstill_m: tuple[float, float]
    passes_m: float
    variant: str
    look: str
    jpeg_quality: int
    cameras: dict[str, Camera]

    @property
    def name(self) -> str:
        return f"{self.family}-{self.seed}"

    @property
    def time_limit_s(self) -> float:
        """Generous: a third of the speed limit plus a minute."""
        limit = float(np.mean(self.route.path.limit_mps))
        return self.route.length_m / (limit / 3) + 60.0


def parse_families(text: str) -> list[str]:
    """'lane,red' or 'all' -> names of families."""
    names = list(FAMILIES) if text == "all" else [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        raise ConfigError(f"families '{text}': {unknown[0] if unknown else 'nothing'} is no family; there are all, {', '.join(FAMILIES)}")
    return names


def parse_seeds(text: str) -> range:
    """'6000:6002' -> seeds 6000 and 6001; a third part is the step."""
    try:
        first, end, *step = (int(part) for part in text.split(":"))
        seeds = range(first, end, *step)
    except (TypeError, ValueError):
        raise ConfigError(f"seeds '{text}' are no range FIRST:END or FIRST:END:STEP such as 6000:6002") from None
    if not seeds:
        raise ConfigError(f"seeds '{text}' are empty; the range is half-open, as in Python")
    return seeds


def split(seed: int) -> str:
    """Data split of an episode seed."""
    if 0 <= seed < 5000:
        return "train"
    return "validation" if seed < 6000 else "test"


def build(family: str, seed: int) -> Scenario:
    """The scenario of a family and seed; the same arguments give the same scenario."""
    spec = families.load(family)
    rng = np.random.default_rng([seed, spec.number, 1])
    name = sorted(spec.variants)[seed // len(spec.maps) % len(spec.variants)] if spec.variants else ""
    variant = spec.variants[name] if spec.variants else Variant(actors=spec.actors)
    for world in _worlds(spec, seed):
        try:
            route, feature_s = place.find(world, variant.route or spec.route, rng)
            roles = Casting(world, route.path, feature_s, rng).roles(variant.actors)
        except NoPlace:
            continue
        break
    else:
        raise NoPlace(f"scenario {family}-{seed}: none of the maps {', '.join(w.map_id for w in _worlds(spec, seed))} has a place for it")
    lights = spec.lights
    jitter = np.random.default_rng([seed, spec.number, 2])
    return Scenario(
        family=family,
        seed=seed,
        map_id=world.map_id,
        route=route,
        feature_s=feature_s,
        start_speed_mps=float(draw(spec.start_speed_mps, rng)),
        start_lateral_m=float(draw(spec.start_lateral_m, rng)),
        start_yaw_rad=math.radians(draw(spec.start_yaw_deg, rng)),
        traffic_s=None if spec.traffic_s is None else float(draw(spec.traffic_s, rng)),
        lights=Lights(
            plan=lights.plan,
            own=lights.own,
            starts_red=lights.own == "plot" and bool(rng.random() < lights.red_at_start),
            turns_red_m=float(draw(lights.turns_red_m, rng)),
            green_after_s=float(draw(lights.green_after_s, rng)),
            offset_s=float(rng.uniform(0.0, 60.0)),
        ),
        roles=roles,
        faults=tuple(_faults(spec, rng)),
        goal=spec.outcome,
        standstill_m=spec.standstill_m,
        passes_m=spec.passes_m,
        variant=name,
        look=draw(spec.look, jitter),
        jpeg_quality=int(draw(spec.jpeg_quality, jitter)),
        cameras={name: camera.jittered(jitter) for name, camera in CAMERAS.items()},
    )


def _worlds(spec: Family, seed: int) -> Iterator[RoadMap]:
    """The maps on which the scenario may happen, in the seed's order: neighbouring seeds see the kinds in turn."""
    kinds = list(dict.fromkeys(spec.maps[(seed + k) % len(spec.maps)] for k in range(len(spec.maps))))
    for kind in kinds:
        yield road.load(maps.map_id(kind, seed))


def _faults(spec: Family, rng: np.random.Generator) -> Iterator[Fault]:
    for fault in spec.faults:
        at_s = float(draw(fault.at_s, rng))
        yield Fault(kind=draw(fault.kind, rng), at_s=at_s, until_s=at_s + float(draw(fault.lasting_s, rng)))
