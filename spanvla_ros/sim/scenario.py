"""Scenario families: what happens on which route, chosen by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Command, ConfigError
from spanvla_ros.sim import maps, road
from spanvla_ros.sim.route import Path, Route

FAMILIES = ("lane", "stopped", "red")
_MARGIN_START_M = 22.0  # room for traffic behind the ego at the map's edge
_MARGIN_END_M = 55.0  # a plan of 5 s must not leave the map


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One episode. Speeds in m/s, arc lengths on the route's path in metres, times in seconds.

    stopped: a vehicle of `blocker_kind` stands with its rear at `blocker_s` and drives off `wait_s` after the ego came
    near. red: the lamp turns (or is) red until `wait_s` after the ego's bumper came within `trigger_m` of the line.
    slow_lead_mps: top speed of a lead put ahead of the ego, None without one. cones: (x, y) of cones on the kerb.
    """

    family: str
    seed: int
    map_id: int
    route: Route
    start_speed_mps: float
    traffic_period_s: float
    cycle_s: float
    blocker_kind: str | None = None
    blocker_s: float = 0.0
    wait_s: float = 0.0
    trigger_m: float = 0.0
    starts_red: bool = True
    slow_lead_mps: float | None = None
    cones: tuple[tuple[float, float], ...] = ()

    @property
    def command(self) -> Command:
        """The instruction for the whole route: the turn it takes, straight where it takes none."""
        return self.route.path.turn if self.route.crosses else Command.STRAIGHT

    @property
    def name(self) -> str:
        return f"{self.family}-{self.seed}"

    @property
    def time_limit_s(self) -> float:
        """Generous: a third of the speed limit plus a minute."""
        return self.route.length_m / (maps.SPEED_LIMIT_MPS / 3) + 60.0


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
    if family not in FAMILIES:
        raise ConfigError(f"family '{family}' is unknown; there are {', '.join(FAMILIES)}")
    map_id = maps.map_seed(seed)
    paths = road.load(map_id).paths
    rng = np.random.default_rng([seed, FAMILIES.index(family), 1])
    length = rng.uniform(152.0, 205.0)
    common = {
        "family": family,
        "seed": seed,
        "map_id": map_id,
        "start_speed_mps": float(rng.uniform(4.0, 7.5)),
        "traffic_period_s": float(rng.uniform(3.0, 7.0)),
        "cycle_s": float(rng.uniform(36.0, 44.0)),
    }
    path = paths[rng.integers(len(paths))]
    if family == "red":
        start = path.stop_s - rng.uniform(62.0, 105.0)
        route = _route(path, start, length)
        return Scenario(
            route=route,
            cones=_cones(route, rng),
            wait_s=float(rng.uniform(6.0, 11.0)),
            trigger_m=float(rng.uniform(26.0, 40.0)),
            starts_red=bool(rng.random() < 0.65),
            **common,
        )
    starts = [_before_junction(path, length, rng), _behind_junction(path, length, rng)]
    if family == "lane":
        starts.append(path.stop_s - rng.uniform(55.0, 110.0))
        start = starts[rng.choice(3, p=[0.4, 0.3, 0.3])]
        lead = float(rng.uniform(3.5, 6.0)) if rng.random() < 0.25 else None
        route = _route(path, start, length)
        return Scenario(route=route, slow_lead_mps=lead, cones=_cones(route, rng), **common)
    start = starts[rng.choice(2)]
    route = _route(path, start, length)
    return Scenario(
        route=route,
        cones=_cones(route, rng),
        blocker_kind=str(rng.choice(["car", "van", "truck"], p=[0.6, 0.2, 0.2])),
        blocker_s=route.start_s + rng.uniform(60.0, 100.0),
        wait_s=float(rng.uniform(6.0, 10.0)),
        **common,
    )


def _before_junction(path: Path, length: float, rng: np.random.Generator) -> float:
    """Start of a route that ends short of the stop line."""
    return max(_MARGIN_START_M, path.stop_s - 8.0 - length - rng.uniform(0.0, max(path.stop_s - 8.0 - length - _MARGIN_START_M, 0.1)))


def _behind_junction(path: Path, length: float, rng: np.random.Generator) -> float:
    """Start of a route that begins past the junction; on a short arm `_route` cuts its end."""
    return path.exit_s + 5.0 + rng.uniform(0.0, max(path.length_m - _MARGIN_END_M - length - path.exit_s - 5.0, 0.1))


def _cones(route: Route, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """In every fourth episode a row of cones on the kerb beside the lane."""
    if rng.random() > 0.25 or route.path.lanes[0] != 1 or route.path.lanes[1] != 1:
        return ()
    first = rng.uniform(route.start_s + 30.0, route.end_s - 30.0)
    stations = first + np.arange(rng.integers(3, 6)) * 4.0
    # not where the kerb turns away
    stations = stations[(stations < route.path.stop_s - 8.0) | (stations > route.path.exit_s + 8.0)]
    places = route.path.pose(stations)
    right = maps.LANE_WIDTH_M / 2 + 0.2
    return tuple((float(x + right * math.sin(yaw)), float(y - right * math.cos(yaw))) for x, y, yaw in places)


def _route(path: Path, start: float, length: float) -> Route:
    start = max(start, _MARGIN_START_M)
    return Route(path=path, start_s=start, end_s=min(start + length, path.length_m - _MARGIN_END_M))
