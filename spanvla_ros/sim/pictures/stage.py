"""What the cameras see of an episode: the map's scenery, the look of the seed, actors and lamps by state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Point

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.pictures import assets, figures, scenery
from spanvla_ros.sim.pictures import look as looks
from spanvla_ros.sim.pictures.camera import Camera
from spanvla_ros.sim.pictures.renderer import Renderer, Thing
from spanvla_ros.sim.roads.road import HEAD_LAMPS_M, RoadMap
from spanvla_ros.sim.signals import Signals

_SEEN_M = 180.0
_KEPT_MAPS = 3
_KEPT_MODELS = 400
_BLINK_S = 0.7  # half of it lit
_WORKS_AHEAD_M = 22.0
_MAKE = {
    "lamp": assets.lamp, "vehicle": assets.vehicle, "cone": assets.cone, "barrier": assets.barrier, "sign": assets.sign,
    "pedestrian": figures.pedestrian, "bicycle": figures.bicycle,
}  # fmt: skip


class Stage:
    """Pictures of one episode. Meshes of the latest maps and the models stay on the renderer for later episodes.

    `look` is one of look.LOOKS.
    """

    _kept: dict[str, list[Thing]] = {}
    _models: dict[tuple, object] = {}

    def __init__(self, road: RoadMap, seed: int, look: str = "day"):
        self._renderer = Renderer.shared()
        self._road = road
        self._look = looks.draw(look, seed)
        self._seed = seed
        self._works: tuple[tuple[Actor, ...], list[Thing]] = ((), [])
        if len(Stage._models) > _KEPT_MODELS:
            self._renderer.release(list(Stage._models.values()))
            Stage._models.clear()
        if road.map_id not in Stage._kept:
            if len(Stage._kept) >= _KEPT_MAPS:
                oldest = Stage._kept.pop(next(iter(Stage._kept)))
                self._renderer.release([thing.mesh for thing in oldest])
            parts = [mesh.tiles(scenery.TILE_M) for mesh in (scenery.plain(road), scenery.ground(road), scenery.standing(road))]
            Stage._kept[road.map_id] = [
                Thing(mesh=self._renderer.upload(vertices), tiles=tiles, position=(0.0, 0.0, 0.0)) for vertices, tiles in parts
            ]
        plain, ground, self._scenery = Stage._kept[road.map_id]
        self._ground = [ground, plain]

    def picture(self, camera: Camera, ego: EgoState, actors: Sequence[Actor], signals: Signals, stamp_ns: int) -> np.ndarray:
        """RGB (H, W, 3) uint8 of a camera; `stamp_ns` times the indicators."""
        lit = stamp_ns / NS_PER_S % _BLINK_S < _BLINK_S / 2
        view = _View(camera, ego.pose)
        things = [self._thing(actor, lit) for actor in actors if view.holds(actor.x, actor.y, 0.6 * actor.length_m)]
        things += [*self._signs(actors), self._scenery]
        for head in self._road.heads:
            x, y, z = head.head
            if view.holds(x, y, 1.0):
                colour = signals.state((head.tls, head.link))
                # a finger's breadth in front of the dark lamp
                position = (x - 0.25 * math.cos(head.yaw), y - 0.25 * math.sin(head.yaw), z + HEAD_LAMPS_M[colour])
                things.append(Thing(mesh=self._model("lamp", colour), position=position, yaw=head.yaw))
        return self._renderer.picture(camera, ego.pose, self._look, self._ground, things)

    def _thing(self, actor: Actor, lit: bool) -> Thing:
        paints, number = assets.PAINTS, actor.paint + self._seed
        shade = 0.8 + 0.4 * (actor.paint // 16 % 16) / 15
        z = 0.0
        if actor.kind in ("cone", "barrier", "pedestrian"):
            z = 0.0 if shapely.contains_xy(self._road.drivable, actor.x, actor.y) else scenery.KERB_M
        if actor.kind == "cone":
            model = self._model("cone")
        elif actor.kind == "barrier":
            model = self._model("barrier", actor.length_m, actor.width_m, actor.height_m)
        elif actor.kind in ("pedestrian", "bicycle"):
            paints = figures.CLOTHES
            posture, outfit = figures.gait(actor.kind, actor.gait_m, actor.speed_mps), number // 7 % figures.OUTFITS
            sizes = (actor.height_m,) if actor.kind == "pedestrian" else (actor.length_m, actor.height_m)
            model = self._model(actor.kind, *sizes, posture, outfit)
        else:
            blinking = actor.indicator if lit else ""
            model = self._model("vehicle", actor.kind, actor.length_m, actor.width_m, actor.height_m, actor.braking, blinking)
        paint = np.minimum(paints[number % len(paints)] * shade, 1.0)
        return Thing(mesh=model, position=(actor.x, actor.y, z), yaw=actor.yaw, paint=tuple(paint))

    def _signs(self, actors: Sequence[Actor]) -> list[Thing]:
        """Signs of road works: beside every road on which cones or barriers stand, some way before the first of them."""
        static = tuple(actor for actor in actors if actor.is_static)
        if static != self._works[0]:
            first: dict[str, float] = {}
            for lane in self._road.lanes.values():
                if lane.junction is None:
                    inside = [a for a in static if shapely.contains_xy(lane.polygon, a.x, a.y)]
                    along = [shapely.LineString(lane.baseline).project(Point(a.x, a.y)) for a in inside]
                    if along:
                        first[lane.edge] = min(*along, first.get(lane.edge, math.inf))
            signs = []
            for edge, along in first.items():
                x, y, yaw = scenery.beside(self._road, self._road.lanes_of(edge)[0], max(along - _WORKS_AHEAD_M, 3.0))
                signs.append(Thing(mesh=self._model("sign", "works"), position=(x, y, 0.0), yaw=yaw))
            self._works = static, signs
        return self._works[1]

    def _model(self, *key):
        if key not in Stage._models:
            Stage._models[key] = self._renderer.upload(_MAKE[key[0]](*key[1:]).vertices())
        return Stage._models[key]


class _View:
    """The wedge of ground that a camera sees, up to _SEEN_M."""

    def __init__(self, camera: Camera, pose: np.ndarray):
        self._x, self._y, _, yaw, _ = camera.eye(pose)
        self._cos, self._sin = math.cos(yaw), math.sin(yaw)
        self._edge = math.cos(camera.hfov_rad / 2), math.sin(camera.hfov_rad / 2)

    def holds(self, x: float, y: float, radius: float) -> bool:
        dx, dy = x - self._x, y - self._y
        ahead, aside = self._cos * dx + self._sin * dy, abs(self._cos * dy - self._sin * dx)
        return -radius < ahead < _SEEN_M and aside * self._edge[0] - ahead * self._edge[1] < radius + 0.5
