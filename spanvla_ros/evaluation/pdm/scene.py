"""One scene as the PDM score sees it: plain arrays and polygons that the simulator, NAVSIM logs and fixtures all fill.

Everything is in one global frame, SI units, radians. States are rows of 11: rear-axle x, y, heading, then in the ego frame
vx, vy, ax, ay, and steering angle, steering rate, angular velocity, angular acceleration.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import shapely

from spanvla_ros.contracts import DataError

STEPS = 41  # states of a proposal: 0.0 .. 4.0 s
STEP_S = 0.1
WAYPOINTS = 8
WAYPOINT_S = 0.5
FRAMES = {"v1": 51, "v2": 41}  # frames of traffic that each version of the score looks at
MOVERS = frozenset({"VEHICLE", "PEDESTRIAN", "BICYCLE"})
STATICS = frozenset({"TRAFFIC_CONE", "BARRIER", "CZONE_SIGN", "GENERIC_OBJECT"})
LAYERS = ("ROADBLOCK", "LANE", "LANE_CONNECTOR", "INTERSECTION", "CARPARK_AREA", "DRIVABLE_AREA")


def require(condition: Any, scene: str, name: str, value: object) -> None:
    """Raise a DataError that names scene, field and value."""
    if not condition:
        raise DataError(f"scene {scene}: {name} is {value}")


@dataclass(frozen=True, kw_only=True)
class Area:
    """One polygon of the map; `speed_limit_mps` and `baseline` (N, 2+) belong to lanes and connectors."""

    name: str
    layer: str
    polygon: shapely.Polygon
    speed_limit_mps: float | None = None
    baseline: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Agents:
    """Traffic at 10 Hz: sizes (A, 2) length and width; frames (A, T, 5) of x, y, heading, vx, vy; a row of NaN is absent."""

    tokens: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sizes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    frames: np.ndarray = field(default_factory=lambda: np.zeros((0, FRAMES["v1"], 5)))

    def without(self, mask: np.ndarray) -> Agents:
        """The agents whose entry of `mask` (A,) is False."""
        keep = np.flatnonzero(~mask)
        return Agents(
            tokens=tuple(self.tokens[i] for i in keep),
            types=tuple(self.types[i] for i in keep),
            sizes=self.sizes[keep],
            frames=self.frames[keep],
        )

    def check(self, scene: str, name: str, length: int) -> None:
        """Errors for counts, shapes, unknown types, sizes and half-missing frames."""
        count = len(self.tokens)
        require(len(set(self.tokens)) == count, scene, f"{name}.tokens", f"not unique: {self.tokens}")
        require(len(self.types) == count, scene, f"{name}.types", f"{len(self.types)} types for {count} tokens")
        for token, kind in zip(self.tokens, self.types):
            require(kind in MOVERS | STATICS, scene, f"{name}[{token}].type", f"{kind}, known are {sorted(MOVERS | STATICS)}")
        require(self.sizes.shape == (count, 2), scene, f"{name}.sizes", f"of shape {self.sizes.shape}, expected {(count, 2)}")
        require((self.sizes > 0).all(), scene, f"{name}.sizes", f"not positive: {self.sizes.tolist()}")
        expected = (count, length, 5)
        good = self.frames.ndim == 3 and self.frames.shape[0] == count and self.frames.shape[1] >= length and self.frames.shape[2] == 5
        require(good, scene, f"{name}.frames", f"of shape {self.frames.shape}, expected at least {expected}")
        missing = np.isnan(self.frames)
        partial = missing.any(axis=2) != missing.all(axis=2)
        if partial.any() or np.isinf(self.frames).any():
            agent, frame = np.argwhere(partial | np.isinf(self.frames).any(axis=2))[0]
            require(False, scene, f"{name}[{self.tokens[agent]}] frame {frame}", f"partly missing: {self.frames[agent, frame].tolist()}")
        present = ~missing.all(axis=2)
        for agent in range(count):
            seen = np.flatnonzero(present[agent])
            require(len(seen) > 0, scene, f"{name}[{self.tokens[agent]}].frames", "missing in every frame")
            gap = np.flatnonzero(np.diff(seen) > 1)
            text = f"missing in frame {int(seen[gap[0]]) + 1} between frames that are there" if len(gap) else ""
            require(not text, scene, f"{name}[{self.tokens[agent]}].frames", text)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one frame is scored against.

    ego (11,) state at t0; centerline (N, 2) of the route,
    or (N, 3) with headings; route_lanes: names of the lanes on the route; traffic: version ->
    Agents (51 frames for v1, 41 for v2; a log may fill them differently, a simulator gives both the same); red_lights: names
    of the red connectors per step (41, may be empty for none); history (H, 11): past states at 0.1 s for history comfort,
    None without; human (8, 3): logged future in the ego frame, None without; references: version -> (41, 3) global poses of the
    progress reference, computed by PDM-Closed where absent.
    """

    name: str
    ego: np.ndarray
    areas: tuple[Area, ...]
    centerline: np.ndarray
    route_lanes: frozenset[str]
    traffic: Mapping[str, Agents]
    red_lights: tuple[tuple[str, ...], ...] = ()
    history: np.ndarray | None = None
    human: np.ndarray | None = None
    references: Mapping[str, np.ndarray] = field(default_factory=dict)
    start_us: int = 0

    def __post_init__(self):
        require(self.ego.shape == (11,), self.name, "ego", f"of shape {self.ego.shape}, expected (11,)")
        require(np.isfinite(self.ego).all(), self.name, "ego", f"not finite: {self.ego.tolist()}")
        self._check_areas()
        line = self.centerline
        require(line.ndim == 2 and line.shape[0] >= 2 and line.shape[1] >= 2, self.name, "centerline", f"of shape {line.shape}, needs (N >= 2, 2)")
        require(np.isfinite(line).all(), self.name, "centerline", f"not finite at vertex {_first(line)}")
        require(shapely.LineString(line[:, :2]).length > 0, self.name, "centerline", f"of no length at {line[0, :2].tolist()}")
        lanes = {area.name for area in self.areas}
        unknown = sorted(self.route_lanes - lanes)
        require(not unknown, self.name, "route_lanes", f"naming lanes that the map lacks: {unknown}")
        for version, length in FRAMES.items():
            require(version in self.traffic, self.name, "traffic", f"lacking version {version}")
            self.traffic[version].check(self.name, f"traffic[{version}]", length)
        require(len(self.red_lights) in (0, STEPS), self.name, "red_lights", f"of {len(self.red_lights)} steps, expected {STEPS}")
        unknown = sorted({name for step in self.red_lights for name in step} - lanes)
        require(not unknown, self.name, "red_lights", f"naming connectors that the map lacks: {unknown}")
        if self.history is not None:
            good = self.history.ndim == 2 and self.history.shape[1] == 11 and np.isfinite(self.history).all()
            require(good, self.name, "history", f"of shape {self.history.shape} or not finite, expected (H, 11)")
        if self.human is not None:
            check_plans(self.name, "human", self.human[None])
        for version, poses in self.references.items():
            good = poses.shape == (STEPS, 3) and np.isfinite(poses).all()
            require(good, self.name, f"references[{version}]", f"of shape {poses.shape} or not finite, expected {(STEPS, 3)}")

    def _check_areas(self) -> None:
        require(self.areas, self.name, "areas", "empty: a scene needs at least one polygon")
        for area in self.areas:
            label = f"areas[{area.layer} {area.name}]"
            require(area.layer in LAYERS, self.name, f"{label}.layer", f"{area.layer}, known are {LAYERS}")
            require(not area.polygon.is_empty, self.name, f"{label}.polygon", "empty")
            require(np.isfinite(area.polygon.bounds).all(), self.name, f"{label}.polygon", f"not finite: bounds {area.polygon.bounds}")
            require(area.polygon.is_valid, self.name, f"{label}.polygon", f"invalid: {shapely.is_valid_reason(area.polygon)}")

    @functools.cached_property
    def line(self) -> shapely.LineString:
        """The centerline as a line string."""
        return shapely.LineString(self.centerline[:, :2])

    @functools.cached_property
    def memory(self) -> dict[str, Any]:
        """What other modules prepare once per scene (geometry, progress reference)."""
        return {}

    def changed(self, **values: Any) -> Scene:
        """A copy with other values, and nothing prepared yet."""
        return replace(self, **values)


def check_plans(scene: str, name: str, plans: np.ndarray) -> None:
    """Errors for plans that are not (K, 8, 3) finite poses in the ego frame."""
    good = plans.ndim == 3 and plans.shape[0] > 0 and plans.shape[1:] == (WAYPOINTS, 3)
    require(good, scene, name, f"of shape {plans.shape}, expected (K, {WAYPOINTS}, 3): poses at {WAYPOINT_S} .. {WAYPOINTS * WAYPOINT_S} s")
    if not np.isfinite(plans).all():
        plan, point = np.argwhere(~np.isfinite(plans).all(axis=2))[0]
        require(False, scene, f"{name}[{plan}] waypoint {point}", f"not finite: {plans[plan, point].tolist()}")


def _first(values: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(values).all(axis=-1))[0]) if not np.isfinite(values).all() else -1
