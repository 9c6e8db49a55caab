"""Class bits per picture cell by geometry: dense training labels without a second rendering."""

from __future__ import annotations

import numpy as np
import shapely

from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.pictures import scenery
from spanvla_ros.sim.pictures.assets import LAMP_RADIUS_M
from spanvla_ros.sim.pictures.camera import Camera
from spanvla_ros.sim.roads.road import HEAD_LAMPS_M, RoadMap, SignalHead
from spanvla_ros.sim.roads.route import Path
from spanvla_ros.sim.signals import Signals

CELL_PX = 14
ROAD, CORRIDOR, VEHICLE, STOP_LAMP, GREEN_LAMP, CONE, PEDESTRIAN = (1 << bit for bit in range(7))
_CORRIDOR_M = 1.6
_GROUND_M, _LAMP_M = 70.0, 75.0
# kind -> bit, distance up to which it is marked; all other kinds are vehicles
_KINDS = {"cone": (CONE, 40.0), "barrier": (CONE, 60.0), "pedestrian": (PEDESTRIAN, 50.0)}
_VEHICLE = VEHICLE, 70.0


class Cells:
    """Bits of one route: 0 drivable road, 1 corridor within 1.6 m of the own path, 2 vehicle or cyclist, 3 red or yellow
    lamp of our next signal, 4 its green lamp, 5 cone or barrier, 6 pedestrian. Ground by the ray through the cell's
    centre, things by their projected box unless a house hides their middle."""

    def __init__(self, road: RoadMap, path: Path):
        self._road = road
        self._path = path
        self._houses: shapely.STRtree | None = None
        self._heads = {stop.connector: _heads(road, stop.connector, stop.signal) for stop in path.stops if stop.signal is not None}

    def bits(self, camera: Camera, ego: EgoState, route_s: float, actors: tuple[Actor, ...], signals: Signals) -> np.ndarray:
        """(rows, columns) uint8 of the cells of `camera`'s picture."""
        bits = np.zeros((camera.height // CELL_PX, camera.width // CELL_PX), np.uint8)
        self._ground(bits, camera, ego, route_s)
        pose = ego.pose
        eye = camera.eye(pose)[:2]
        for actor in actors:
            bit, reach = _KINDS.get(actor.kind, _VEHICLE)
            if abs(actor.x - ego.x) < reach and abs(actor.y - ego.y) < reach and not self._hidden(eye, actor.x, actor.y):
                points = np.column_stack([np.tile(actor.corners, (2, 1)), np.repeat([0.0, actor.height_m], 4)])
                _mark(bits, camera, pose, points, bit, reach, least_px=0.0 if bit == VEHICLE else 4.0)
        stop = self._path.next_stop(route_s)
        for head in self._heads.get(stop.connector, ()) if stop else ():
            x, y, z = head.head
            if self._hidden(eye, x, y):
                continue
            lamp = signals.state((head.tls, head.link))
            z += HEAD_LAMPS_M[lamp]
            points = np.array([(x, y, z - LAMP_RADIUS_M), (x, y, z + LAMP_RADIUS_M)])
            _mark(bits, camera, pose, points, GREEN_LAMP if lamp == "green" else STOP_LAMP, _LAMP_M, least_px=4.0)
        return bits

    def _hidden(self, eye: np.ndarray, x: float, y: float) -> bool:
        """True where a house stands between the camera and (x, y)."""
        if self._houses is None:
            self._houses = shapely.STRtree([house.footprint for house in scenery.layout(self._road)[0]])
        return len(self._houses.query(shapely.linestrings([eye, (x, y)]), predicate="intersects")) > 0

    def _ground(self, bits: np.ndarray, camera: Camera, ego: EgoState, route_s: float) -> None:
        rows, columns = bits.shape
        right = ((np.arange(columns) + 0.5) * CELL_PX - camera.width / 2) / camera.focal_px
        down = ((np.arange(rows) + 0.5) * CELL_PX - camera.height / 2) / camera.focal_px
        axes = camera.axes(ego.pose)
        rays = right[None, :, None] * axes[0] - down[:, None, None] * axes[1] + axes[2]  # one metre of depth each
        depth = camera.z_m / np.maximum(-rays[..., 2], 1e-6)
        seen = depth < _GROUND_M
        ground = camera.eye(ego.pose)[:2] + rays[seen][:, :2] * depth[seen][:, None]
        on_road = shapely.contains_xy(self._road.drivable, ground[:, 0], ground[:, 1])
        _, distance = self._path.project_points(ground, route_s - 5.0, route_s + _GROUND_M + 10.0)
        bits[seen] |= (on_road * ROAD + (distance < _CORRIDOR_M) * CORRIDOR).astype(np.uint8)


def _heads(road: RoadMap, connector: str, signal: tuple[str, int]) -> list[SignalHead]:
    """The heads that serve a connector: those of its own link, else those of its approach."""
    own = [head for head in road.heads if (head.tls, head.link) == signal]
    if own:
        return own
    edges = {lane.edge for lane in road.lanes.values() if connector in lane.successors}
    links = {
        road.lanes[name].signal for lane in road.lanes.values() if lane.edge in edges and lane.junction is None for name in lane.successors
    }
    return [head for head in road.heads if (head.tls, head.link) in links]


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
