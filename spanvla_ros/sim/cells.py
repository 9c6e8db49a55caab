"""Class bits per picture cell by geometry: dense training labels without a second rendering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from spanvla_ros.sim.assets import CONE_HEIGHT_M, LAMP_RADIUS_M
from spanvla_ros.sim.camera import Camera
from spanvla_ros.sim.ego import EgoState, box
from spanvla_ros.sim.road import HEAD_LAMPS_M, RoadMap
from spanvla_ros.sim.route import Path
from spanvla_ros.sim.signals import Signals
from spanvla_ros.sim.world import Actor

CELL_PX = 14
ROAD, CORRIDOR, VEHICLE, STOP_LAMP, GREEN_LAMP, CONE = (1 << bit for bit in range(6))
_CORRIDOR_M = 1.6
_GROUND_M, _VEHICLE_M, _LAMP_M, _CONE_M = 70.0, 70.0, 75.0, 40.0


class Cells:
    """Bits of one route: 0 drivable road, 1 corridor within 1.6 m of the own path, 2 vehicle, 3 red or yellow lamp of our
    arm, 4 its green lamp, 5 cone. Ground by the ray through the cell's centre, things by their projected box."""

    def __init__(self, road: RoadMap, path: Path, cones: Sequence[tuple[float, float]] = ()):
        self._road = road
        self._cones = cones
        self._path = path
        self._heads = [head for head in road.heads if head.arm == path.arm]

    def bits(self, camera: Camera, ego: EgoState, route_s: float, actors: tuple[Actor, ...], signals: Signals) -> np.ndarray:
        """(rows, columns) uint8 of the cells of `camera`'s picture."""
        bits = np.zeros((camera.height // CELL_PX, camera.width // CELL_PX), np.uint8)
        self._ground(bits, camera, ego, route_s)
        pose = ego.pose
        for actor in actors:
            if abs(actor.x - ego.x) < _VEHICLE_M and abs(actor.y - ego.y) < _VEHICLE_M:
                corners = box(actor.x, actor.y, actor.yaw, actor.length_m, actor.width_m)
                points = np.column_stack([np.tile(corners, (2, 1)), np.repeat([0.0, actor.height_m], 4)])
                _mark(bits, camera, pose, points, VEHICLE, _VEHICLE_M)
        for x, y in self._cones:
            points = np.array([(x, y, 0.0), (x, y, CONE_HEIGHT_M)])
            _mark(bits, camera, pose, points, CONE, _CONE_M, least_px=4.0)
        lamp = signals.state(self._path.arm)
        for head in self._heads:
            x, y, z = head.head
            z += HEAD_LAMPS_M[lamp]
            points = np.array([(x, y, z - LAMP_RADIUS_M), (x, y, z + LAMP_RADIUS_M)])
            _mark(bits, camera, pose, points, GREEN_LAMP if lamp == "green" else STOP_LAMP, _LAMP_M, least_px=4.0)
        return bits

    def _ground(self, bits: np.ndarray, camera: Camera, ego: EgoState, route_s: float) -> None:
        rows, columns = bits.shape
        v = (np.arange(rows) + 0.5) * CELL_PX - camera.height / 2
        depth = np.where(v > 0, camera.z_m * camera.focal_px / np.maximum(v, 1e-3), np.inf)
        first = int(np.argmax(depth < _GROUND_M))
        u = (np.arange(columns) + 0.5) * CELL_PX - camera.width / 2
        ahead = np.repeat(depth[first:], columns)
        left = (-u[None] / camera.focal_px * depth[first:, None]).ravel()
        x, y, _, yaw = camera.eye(ego.pose)
        ground = np.column_stack([x + ahead * np.cos(yaw) - left * np.sin(yaw), y + ahead * np.sin(yaw) + left * np.cos(yaw)])
        on_road = shapely.contains_xy(self._road.drivable, ground[:, 0], ground[:, 1])
        _, distance = self._path.project_points(ground, route_s - 5.0, route_s + _GROUND_M + 10.0)
        value = on_road * ROAD + (distance < _CORRIDOR_M) * CORRIDOR
        bits[first:] |= value.reshape(-1, columns).astype(np.uint8)


def _mark(bits: np.ndarray, camera: Camera, pose: np.ndarray, points: np.ndarray, bit: int, reach_m: float, least_px: float = 0.0) -> None:
    """Set `bit` in the cells that the bounding box of projected world points (N, 3) covers by more than its rim."""
    u, v, depth = camera.project(pose, points)
    if depth.max() < 1.0 or depth.min() > reach_m:
        return
    u, v = u[depth > 0.2], v[depth > 0.2]
    rim = 3.0
    low_u, high_u = u.min() + rim, u.max() - rim
    low_v, high_v = v.min() + rim, v.max() - rim
    if high_u - low_u < least_px:
        low_u, high_u = u.mean() - least_px / 2, u.mean() + least_px / 2
    if high_v - low_v < least_px:
        low_v, high_v = v.mean() - least_px / 2, v.mean() + least_px / 2
    if high_u <= 0 or low_u >= camera.width or high_v <= 0 or low_v >= camera.height or high_u <= low_u or high_v <= low_v:
        return
    rows = slice(max(int(low_v // CELL_PX), 0), int(high_v // CELL_PX) + 1)
    columns = slice(max(int(low_u // CELL_PX), 0), int(high_u // CELL_PX) + 1)
    bits[rows, columns] |= bit
