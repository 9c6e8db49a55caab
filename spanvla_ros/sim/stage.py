"""What the cameras see of an episode: road, scenery and look by seed, vehicles and lamps by state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Point, Polygon

from spanvla_ros.sim import assets
from spanvla_ros.sim.camera import Camera
from spanvla_ros.sim.ego import EgoState, box
from spanvla_ros.sim.mesh import ASPHALT, GRASS, PAVEMENT, WHITE, YELLOW, Mesh
from spanvla_ros.sim.renderer import Look, Renderer, Thing
from spanvla_ros.sim.road import HEAD_LAMPS_M, RoadMap
from spanvla_ros.sim.signals import Signals
from spanvla_ros.sim.world import Actor

_SEEN_M = 180.0
_KERB_M = 0.10
_TILE_M = 40.0
_KEPT_MAPS = 3


class Stage:
    """Pictures of one episode. Meshes of the latest maps stay on the renderer for later episodes."""

    _kept: dict[int, list[Thing]] = {}
    _models: dict[tuple, object] = {}

    def __init__(self, road: RoadMap, seed: int, cones: Sequence[tuple[float, float]] = ()):
        self._renderer = Renderer.shared()
        self._heads = road.heads
        self._look = _look(np.random.default_rng([seed, 31]))
        self._seed = seed
        self._cones = [Thing(mesh=self._model("cone"), position=(x, y, _KERB_M)) for x, y in cones]
        if road.map_id not in Stage._kept:
            if len(Stage._kept) >= _KEPT_MAPS:
                oldest = Stage._kept.pop(next(iter(Stage._kept)))
                self._renderer.release([thing.mesh for thing in oldest])
            parts = [mesh.tiles(_TILE_M) for mesh in (_plain(road), _ground(road), _scenery(road))]
            Stage._kept[road.map_id] = [
                Thing(mesh=self._renderer.upload(vertices), tiles=tiles, position=(0.0, 0.0, 0.0)) for vertices, tiles in parts
            ]
        plain, ground, self._scenery = Stage._kept[road.map_id]
        self._ground = [ground, plain]

    def picture(self, camera: Camera, ego: EgoState, actors: Sequence[Actor], signals: Signals) -> np.ndarray:
        """RGB (H, W, 3) uint8 of a camera."""
        things = [self._vehicle(a) for a in actors if abs(a.x - ego.x) < _SEEN_M and abs(a.y - ego.y) < _SEEN_M]
        things += [*self._cones, self._scenery]
        for head in self._heads:
            colour = signals.state(head.arm)
            x, y, z = head.head
            # a finger's breadth in front of the dark lamp
            position = (x - 0.25 * math.cos(head.yaw), y - 0.25 * math.sin(head.yaw), z + HEAD_LAMPS_M[colour])
            things.append(Thing(mesh=self._model("lamp", colour), position=position, yaw=head.yaw))
        return self._renderer.picture(camera, ego.pose, self._look, self._ground, things)

    def _vehicle(self, actor: Actor) -> Thing:
        paint = assets.PAINTS[(actor.paint + self._seed) % len(assets.PAINTS)] * (0.8 + 0.4 * (actor.paint // 16 % 16) / 15)
        model = self._model("vehicle", actor.kind, actor.length_m, actor.width_m, actor.height_m, actor.braking)
        return Thing(mesh=model, position=(actor.x, actor.y, 0.0), yaw=actor.yaw, paint=tuple(np.minimum(paint, 1.0)))

    def _model(self, *key):
        if key not in Stage._models:
            make = {"lamp": assets.lamp, "vehicle": assets.vehicle, "cone": assets.cone}[key[0]]
            Stage._models[key] = self._renderer.upload(make(*key[1:]).vertices())
        return Stage._models[key]


def _look(rng: np.random.Generator) -> Look:
    """Weather and wear of an episode."""
    height, around = rng.uniform(0.45, 1.2), rng.uniform(0, 2 * math.pi)
    sun = (math.cos(height) * math.cos(around), math.cos(height) * math.sin(around), math.sin(height))
    overcast = rng.random()
    grey = rng.uniform(0.62, 0.84)
    haze = np.array([grey * 0.96, grey, grey * 1.05]) * rng.uniform(0.95, 1.05, 3)
    zenith = (1 - overcast) * np.array([0.30, 0.50, 0.82]) + overcast * haze * 0.9
    palette = np.ones((8, 3))
    palette[0] = rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3)
    palette[ASPHALT] = rng.uniform(0.75, 1.45) * rng.uniform(0.96, 1.04, 3)
    palette[GRASS] = rng.uniform(0.7, 1.25) * rng.uniform(0.85, 1.15, 3)
    palette[PAVEMENT] = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
    palette[WHITE] = rng.uniform(0.78, 1.0)
    palette[YELLOW] = rng.uniform(0.8, 1.0)
    return Look(
        sun=sun,
        light=(0.62 + 0.22 * overcast, 0.55 - 0.40 * overcast),
        palette=palette,
        haze=tuple(np.clip(haze, 0, 1)),
        zenith=tuple(np.clip(zenith, 0, 1)),
        density=1 / rng.uniform(180, 420) ** 2,
        grain=rng.uniform(0.25, 0.5),
    )


def _ground(road: RoadMap) -> Mesh:
    """Road, pavement and paint, cut into tiles: a triangulated road has triangles as long as the road."""
    mesh = Mesh()
    left, bottom, right, top = road.drivable.bounds
    layers = (
        (road.sidewalk, _KERB_M, (0.63, 0.62, 0.58), PAVEMENT),
        (road.drivable, 0.0, (0.25, 0.25, 0.26), ASPHALT),
        (road.white, 0.015, (0.92, 0.92, 0.90), WHITE),
        (road.yellow, 0.015, (0.92, 0.70, 0.12), YELLOW),
    )
    squares = [
        shapely.box(x, y, x + _TILE_M, y + _TILE_M)
        for x in np.arange(left // _TILE_M * _TILE_M, right, _TILE_M)
        for y in np.arange(bottom // _TILE_M * _TILE_M, top, _TILE_M)
    ]
    for shape, height, colour, material in layers:
        shape = shape.simplify(0.015)
        for square in squares:
            mesh.polygon(shape.intersection(square), height, colour, material)
    for part in shapely.get_parts(road.sidewalk.simplify(0.03)):
        mesh.wall(part, -0.08, _KERB_M, (0.50, 0.50, 0.48), PAVEMENT)
    return mesh


def _plain(road: RoadMap) -> Mesh:
    """Grass all around, in squares small enough for fog per vertex."""
    mesh = Mesh()
    left, bottom, right, top = (edge // _TILE_M for edge in road.drivable.bounds)
    x, y = np.meshgrid(np.arange(left - 7, right + 8) * _TILE_M, np.arange(bottom - 7, top + 8) * _TILE_M)
    x, y = x.ravel(), y.ravel()
    corners = [np.c_[x + dx, y + dy, np.full(len(x), -0.08)] for dx, dy in ((0, 0), (_TILE_M, 0), (_TILE_M, _TILE_M), (0, _TILE_M))]
    i, count = np.arange(len(x)), len(x)
    faces = np.concatenate([np.c_[i, count + i, 2 * count + i], np.c_[i, 2 * count + i, 3 * count + i]])
    mesh.add(np.concatenate(corners), faces, (0.33, 0.43, 0.22), GRASS)
    return mesh


def _scenery(road: RoadMap) -> Mesh:
    """Signals, buildings and trees; the last two at random places clear of the road."""
    mesh = Mesh()
    for head in road.heads:
        assets.signal_post(mesh, head.post, head.head)
        assets.signal_head(mesh, *head.head, head.yaw)
    rng = np.random.default_rng([road.map_id, 41])
    left, bottom, right, top = road.drivable.bounds
    taken = road.drivable.union(road.sidewalk).buffer(4.5)
    shapely.prepare(taken)
    placed: list[Polygon] = []
    for _ in range(1100):
        x, y = rng.uniform(left - 35, right + 35), rng.uniform(bottom - 35, top + 35)
        house = rng.random() < 0.3
        size = (rng.uniform(10, 22), rng.uniform(8, 15), rng.uniform(5, 17))
        yaw, radius, height, green = rng.uniform(0, math.pi), rng.uniform(1.3, 2.6), rng.uniform(4.5, 9), rng.uniform(0.22, 0.42)
        tone = rng.uniform(0.42, 0.78) * np.array([1.0, rng.uniform(0.82, 1.0), rng.uniform(0.68, 1.0)])
        if road.drivable.distance(Point(x, y)) > 45:
            continue
        area = Polygon(box(x, y, yaw, size[0] + 3, size[1] + 3)) if house else Point(x, y).buffer(radius)
        if taken.intersects(area) or any(area.intersects(other) for other in placed):
            continue
        placed.append(area)
        if house:
            assets.building(mesh, x, y, yaw, size, tuple(tone))
        else:
            assets.tree(mesh, x, y, radius, height, green)
    return mesh
