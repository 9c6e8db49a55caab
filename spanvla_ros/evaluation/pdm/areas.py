"""Where on the map the ego is: prepared polygons and the per-step flags that NC, DAC, DDC, LK and TTC share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from spanvla_ros.evaluation.pdm.footprint import ego_centers, ego_corners
from spanvla_ros.evaluation.pdm.scene import Area, Scene

_LANES = frozenset({"LANE", "LANE_CONNECTOR"})
_DRIVABLE = frozenset({"ROADBLOCK", "INTERSECTION", "CARPARK_AREA", "DRIVABLE_AREA"})
_MAP = "map"


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """Flags (K, T) of proposals, and the boxes they were asked for: corners (K, T, 4, 2), centers (K, T, 2).

    outside (K, T, 4): this corner is on nothing drivable.
    """

    corners: np.ndarray
    centers: np.ndarray
    multiple_lanes: np.ndarray
    outside: np.ndarray
    oncoming: np.ndarray
    center_in_intersection: np.ndarray
    axle_in_intersection: np.ndarray

    @property
    def non_drivable(self) -> np.ndarray:
        """(K, T): at least one corner is off the drivable area."""
        return self.outside.any(axis=-1)


def locate(scene: Scene, states: np.ndarray) -> Whereabouts:
    """Flags of states (K, T, 11 or 3).

    multiple_lanes: several lanes hold a corner and no single lane holds all four. oncoming: the centre is on no lane of the
    route (so also off the road). A point on a boundary is outside.
    """
    corners, centers = ego_corners(states), ego_centers(states)
    points = np.concatenate([corners, centers[..., None, :], states[..., None, :2]], axis=-2)
    shape = points.shape[:-1]
    flat = points.reshape(-1, 2)
    low, high = flat.min(axis=0), flat.max(axis=0)
    touched = np.zeros(shape[:-1], dtype=np.int16)
    whole = np.zeros(shape[:-1], dtype=bool)
    drivable = np.zeros((*shape[:-1], 4), dtype=bool)
    on_route = np.zeros(shape[:-1], dtype=bool)
    intersection = np.zeros((*shape[:-1], 2), dtype=bool)
    for area in prepared(scene):
        bounds = area.polygon.bounds
        if bounds[0] > high[0] or bounds[1] > high[1] or bounds[2] < low[0] or bounds[3] < low[1]:
            continue
        inside = contains(area.polygon, flat).reshape(shape)
        if area.layer in _LANES:
            count = inside[..., :4].sum(axis=-1)
            touched += count > 0
            whole |= count == 4
            if area.name in scene.route_lanes:
                on_route |= inside[..., 4]
        if area.layer in _DRIVABLE:
            drivable |= inside[..., :4]
        if area.layer == "INTERSECTION":
            intersection |= inside[..., 4:]
    return Whereabouts(
        corners=corners,
        centers=centers,
        multiple_lanes=(touched > 1) & ~whole,
        outside=~drivable,
        oncoming=~on_route,
        center_in_intersection=intersection[..., 0],
        axle_in_intersection=intersection[..., 1],
    )


def prepared(scene: Scene) -> tuple[Area, ...]:
    """The scene's areas with their geometry prepared, once per scene."""
    if _MAP not in scene.memory:
        shapely.prepare([area.polygon for area in scene.areas])
        scene.memory[_MAP] = scene.areas
    return scene.memory[_MAP]


def contains(polygon: shapely.Polygon, points: np.ndarray) -> np.ndarray:
    """(N,) whether points (N, 2) lie strictly within a prepared polygon; only those in its bounds are asked."""
    x, y = points[:, 0], points[:, 1]
    west, south, east, north = polygon.bounds
    near = np.flatnonzero((x > west) & (x < east) & (y > south) & (y < north))
    inside = np.zeros(len(points), dtype=bool)
    if len(near):
        inside[near] = shapely.contains_xy(polygon, x[near], y[near])
    return inside
