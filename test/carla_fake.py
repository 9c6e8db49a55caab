"""A stand-in for a CARLA server: the part of the Python API that spanvla_ros uses, over a bicycle model in CARLA's own frame.

With the carla wheel its types are the real ones, else simple ones. Nothing here uses the conversions under test: vehicles move
in the left-handed frame, cameras project with CARLA's matrices and axes. `Client.calls` records what was asked.
"""

from __future__ import annotations

import enum
import fnmatch
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

STEP_S = 0.05
WHEEL_BASE_M, AXLE_M, LOCK_DEG = 3.07, -1.33, 70.0
ORIGIN_Z_M = 0.02
CURVE = ((0.0, 1.0), (20.0, 0.9), (60.0, 0.8), (120.0, 0.7))
# (length, width, height) and how far the middle of the box lies ahead of the origin
EGO_BOX = (5.31, 2.0, 1.95, 0.03)
BOXES = {
    "vehicle.*": (4.6, 1.9, 1.5, 0.0),
    "vehicle.carlamotors.carlacola": (5.2, 2.4, 2.5, 0.0),
    "vehicle.mitsubishi.fusorosa": (10.3, 2.8, 3.3, 0.0),
    "vehicle.bh.crossbike": (1.5, 0.9, 1.1, 0.0),
    "walker.*": (0.4, 0.4, 1.9, 0.0),
    "static.prop.trafficcone01": (0.4, 0.4, 0.8, 0.0),
    "static.prop.streetbarrier": (1.2, 0.4, 1.1, 0.0),
    "*": (0.1, 0.1, 0.1, 0.0),
}


@dataclass
class Vector3D:
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


@dataclass
class Rotation:
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0


class Location(Vector3D):
    pass


@dataclass
class Transform:
    location: Any = field(default_factory=Location)
    rotation: Any = field(default_factory=Rotation)

    def get_forward_vector(self):
        return Vector3D(*matrix(self)[:3, 0])


@dataclass
class VehicleControl:
    throttle: float = 0.0
    steer: float = 0.0
    brake: float = 0.0


class TrafficLightState(enum.Enum):
    Red = 0
    Yellow = 1
    Green = 2
    Off = 3
    Unknown = 4


def simple_types():
    """What the tests use of the module `carla` where the wheel is not installed."""
    return SimpleNamespace(
        Vector3D=Vector3D,
        Location=Location,
        Rotation=Rotation,
        Transform=Transform,
        VehicleControl=VehicleControl,
        TrafficLightState=TrafficLightState,
        OpendriveGenerationParameters=lambda **shape: SimpleNamespace(**shape),
    )


def matrix(transform) -> np.ndarray:
    """(4, 4) from a transform's frame to the world's, as carla.Transform.get_matrix gives it."""
    pitch, yaw, roll = (math.radians(v) for v in (transform.rotation.pitch, transform.rotation.yaw, transform.rotation.roll))
    cp, sp, cy, sy, cr, sr = math.cos(pitch), math.sin(pitch), math.cos(yaw), math.sin(yaw), math.cos(roll), math.sin(roll)
    at = transform.location
    return np.array([
        [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr, at.x],
        [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr, at.y],
        [sp, -cp * sr, cp * cr, at.z],
        [0.0, 0.0, 0.0, 1.0],
    ])  # fmt: skip


def project(camera_to_world: np.ndarray, width: int, height: int, fov_deg: float, points: np.ndarray):
    """Pixels (N, 2) and depth (N,) of world points (N, 3) in CARLA's frame: x forward, y right, z up."""
    focal = width / (2 * math.tan(math.radians(fov_deg) / 2))
    local = (np.linalg.inv(camera_to_world) @ np.column_stack([points, np.ones(len(points))]).T).T
    depth = np.maximum(local[:, 0], 0.2)
    return np.column_stack([width / 2 + focal * local[:, 1] / depth, height / 2 - focal * local[:, 2] / depth]), local[:, 0]


def draw(pixels: np.ndarray, depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """RGB picture (H, W, 3) of the points on a coloured ground."""
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[:] = np.linspace(40, 160, height)[:, None, None] * [1.0, 0.8, 0.5]
    for u, v in np.round(pixels[(depth > 1.0) & (depth < 60.0)]).astype(int):
        if 2 <= u < width - 2 and 2 <= v < height - 2:
            rgb[v - 2 : v + 3, u - 2 : u + 3] = (230, 60, 20)
    return rgb


def box(name: str) -> tuple[float, float, float, float]:
    """Size of a model: its own, else that of its kind."""
    return BOXES.get(name) or next(size for pattern, size in BOXES.items() if fnmatch.fnmatch(name, pattern))


class Blueprint:
    def __init__(self, name: str):
        self.id = name
        self.attributes: dict[str, str] = {}

    def has_attribute(self, name: str) -> bool:
        return self.id.startswith("sensor") or name == "role_name"

    def set_attribute(self, name: str, value: str) -> None:
        assert isinstance(value, str), f"CARLA takes strings, {name} is {value!r}"
        self.attributes[name] = value


class Library:
    def __init__(self, names):
        self.names = names

    def filter(self, pattern: str) -> list[Blueprint]:
        return [Blueprint(name) for name in self.names if fnmatch.fnmatch(name, pattern)]

    def find(self, name: str) -> Blueprint:
        return Blueprint(name)


class Actors(list):
    def filter(self, pattern: str) -> Actors:
        return Actors(actor for actor in self if fnmatch.fnmatch(actor.type_id, pattern))


class Actor:
    def __init__(self, world: World, blueprint: Blueprint, transform, box):
        length, width, height, ahead = box
        carla = world.carla
        self.world, self.type_id, self.attributes = world, blueprint.id, blueprint.attributes
        self.transform, self.physics, self.is_alive = transform, True, True
        walker = blueprint.id.startswith("walker")
        self.bounding_box = SimpleNamespace(
            location=carla.Location(x=ahead, y=0.0, z=0.0 if walker else height / 2),
            extent=carla.Vector3D(x=length / 2, y=width / 2, z=height / 2),
        )

    def get_transform(self):
        at, turn = self.transform.location, self.transform.rotation
        carla = self.world.carla
        return carla.Transform(carla.Location(x=at.x, y=at.y, z=at.z), carla.Rotation(pitch=turn.pitch, yaw=turn.yaw, roll=turn.roll))

    def set_transform(self, transform) -> None:
        self.world.pending.append((self, transform))

    def get_velocity(self):
        return self.world.carla.Vector3D(0.0, 0.0, 0.0)

    def get_angular_velocity(self):
        return self.world.carla.Vector3D(0.0, 0.0, 0.0)

    def set_simulate_physics(self, on: bool) -> None:
        self.physics = on

    def destroy(self) -> bool:
        assert self.is_alive, f"{self.type_id} was destroyed twice"
        self.is_alive = False
        self.world.living.remove(self)
        return True


class Vehicle(Actor):
    """Drives about its rear axle: yaw clockwise positive, steering to the right positive."""

    speed = turn_dps = steer_rad = 0.0

    def __init__(self, *args):
        super().__init__(*args)
        self.control = self.world.carla.VehicleControl()

    def apply_control(self, control) -> None:
        assert 0 <= control.throttle <= 1 and 0 <= control.brake <= 1 and -1 <= control.steer <= 1
        self.control = control

    def set_target_velocity(self, velocity) -> None:
        yaw = math.radians(self.transform.rotation.yaw)
        self.speed = velocity.x * math.cos(yaw) + velocity.y * math.sin(yaw)

    def get_velocity(self):
        yaw = math.radians(self.transform.rotation.yaw)
        # the origin lies ahead of the rear axle and swings out
        side = -AXLE_M * math.radians(self.turn_dps)
        return self.world.carla.Vector3D(self.speed * math.cos(yaw) - side * math.sin(yaw), self.speed * math.sin(yaw) + side * math.cos(yaw), 0.0)

    def get_angular_velocity(self):
        return self.world.carla.Vector3D(0.0, 0.0, self.turn_dps)

    def get_physics_control(self):
        frame = matrix(self.transform)
        places = [(AXLE_M + ahead, side) for ahead in (WHEEL_BASE_M, 0.0) for side in (-0.8, 0.8)]
        wheels = []
        for (x, y), lock in zip(places, (LOCK_DEG, LOCK_DEG, 0.0, 0.0)):
            # in the world and in centimetres
            where = 100 * (frame @ [x, y, 0.35, 1.0])
            wheels.append(SimpleNamespace(position=SimpleNamespace(x=where[0], y=where[1], z=where[2]), max_steer_angle=lock))
        return SimpleNamespace(wheels=wheels, steering_curve=[SimpleNamespace(x=x, y=y) for x, y in CURVE])

    def move(self) -> None:
        if not self.physics:
            return
        control = self.control
        force = 3.4 * control.throttle - 9.0 * control.brake - 0.12 - 0.01 * self.speed
        before = self.speed
        self.speed = max(self.speed + force * STEP_S, 0.0)
        share = np.interp(3.6 * self.speed, *zip(*CURVE))
        wanted = control.steer * math.radians(LOCK_DEG) * share
        self.steer_rad += min(max(wanted - self.steer_rad, -0.05), 0.05)
        middle = (before + self.speed) / 2
        rate = middle * math.tan(self.steer_rad) / WHEEL_BASE_M
        at, turn = self.transform.location, self.transform.rotation
        yaw = math.radians(turn.yaw)
        x, y = at.x + AXLE_M * math.cos(yaw), at.y + AXLE_M * math.sin(yaw)
        x += middle * STEP_S * math.cos(yaw + rate * STEP_S / 2)
        y += middle * STEP_S * math.sin(yaw + rate * STEP_S / 2)
        yaw += rate * STEP_S
        carla = self.world.carla
        place = carla.Location(x=x - AXLE_M * math.cos(yaw), y=y - AXLE_M * math.sin(yaw), z=ORIGIN_Z_M)
        self.transform = carla.Transform(place, carla.Rotation(pitch=0.0, yaw=math.degrees(yaw), roll=0.0))
        self.turn_dps = math.degrees(rate)


class Light(Actor):
    def __init__(self, world: World, name: str):
        super().__init__(world, Blueprint("traffic.traffic_light"), world.carla.Transform(), box("traffic"))
        self.name, self.colour = name, world.carla.TrafficLightState.Red

    def get_opendrive_id(self) -> str:
        return self.name

    def set_state(self, state) -> None:
        assert self.world.frozen, "a light that is not frozen changes by itself"
        self.colour = state

    def get_state(self):
        return self.colour


class Camera(Actor):
    listener = None
    broken = False

    def listen(self, listener) -> None:
        self.listener = listener

    def stop(self) -> None:
        self.listener = None

    def expose(self, frame: int) -> None:
        if self.listener is None or self.broken:
            return
        width, height, fov = (float(self.attributes[name]) for name in ("image_size_x", "image_size_y", "fov"))
        eye = matrix(self.parent.transform) @ matrix(self.transform)
        pixels, depth = project(eye, int(width), int(height), fov, self.world.points)
        self.listener(Image(frame, int(width), int(height), pixels, depth))


@dataclass
class Image:
    frame: int
    width: int
    height: int
    pixels: np.ndarray
    depth: np.ndarray

    @property
    def raw_data(self) -> bytes:
        """BGRA, drawn when somebody looks."""
        rgb = draw(self.pixels, self.depth, self.width, self.height)
        return np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 255, np.uint8)]).tobytes()


class World:
    NAMES = (
        "vehicle.nissan.patrol_2021", "vehicle.tesla.model3", "vehicle.mercedes.sprinter", "vehicle.carlamotors.carlacola",
        "vehicle.mitsubishi.fusorosa", "vehicle.bh.crossbike", "walker.pedestrian.0001", "static.prop.trafficcone01",
        "static.prop.streetbarrier", "sensor.camera.rgb",
    )  # fmt: skip

    def __init__(self, carla, xodr: str):
        self.carla, self.xodr, self.names = carla, xodr, self.NAMES
        self.living: list[Actor] = []
        self.pending: list[tuple[Actor, Any]] = []
        self.settings = {"synchronous_mode": False, "fixed_delta_seconds": None}
        self.frame, self.frozen, self.count = 100, False, 0
        self.points = np.zeros((0, 3))
        for signal in ET.fromstring(xodr).iter("signal"):
            self._enter(Light(self, signal.get("id")))

    def get_blueprint_library(self) -> Library:
        return Library(self.names)

    def get_settings(self):
        return SimpleNamespace(**self.settings)

    def apply_settings(self, settings) -> None:
        self.settings = dict(vars(settings))

    def freeze_all_traffic_lights(self, frozen: bool) -> None:
        self.frozen = frozen

    def get_actors(self) -> Actors:
        return Actors(self.living)

    def spawn_actor(self, blueprint: Blueprint, transform, attach_to=None) -> Actor:
        kind = {"vehicle": Vehicle, "sensor": Camera}.get(blueprint.id.split(".")[0], Actor)
        actor = kind(self, blueprint, transform, EGO_BOX if blueprint.attributes.get("role_name") == "hero" else box(blueprint.id))
        actor.parent = attach_to
        return self._enter(actor)

    def try_spawn_actor(self, blueprint: Blueprint, transform) -> Actor | None:
        at = transform.location
        for other in self.living:
            there = other.transform.location
            if isinstance(other, Vehicle) and math.hypot(there.x - at.x, there.y - at.y) < 2:
                return None
        return self.spawn_actor(blueprint, transform)

    def tick(self) -> int:
        assert self.settings["synchronous_mode"] and self.settings["fixed_delta_seconds"] == STEP_S
        self.frame += 1
        for actor, transform in self.pending:
            if actor.is_alive:
                actor.transform = transform
        self.pending = []
        for actor in self.living:
            if isinstance(actor, Vehicle):
                actor.move()
        for actor in self.living:
            if isinstance(actor, Camera):
                actor.expose(self.frame)
        return self.frame

    def _enter(self, actor: Actor) -> Actor:
        self.count += 1
        actor.id = self.count
        self.living.append(actor)
        return actor


class Client:
    """carla.Client over a World; `points` (N, 3) in CARLA's frame are what its cameras see."""

    def __init__(self, carla, points: np.ndarray, server: str = "0.9.16"):
        self.carla, self.points, self.server = carla, points, server
        self.calls: list[str] = []
        self.world: World | None = None

    def get_server_version(self) -> str:
        if not self.server:
            raise RuntimeError("time-out of 20000ms while waiting for the simulator, make sure the simulator is ready")
        return self.server

    def get_client_version(self) -> str:
        return "0.9.16"

    def generate_opendrive_world(self, xodr: str, shape) -> World:
        self.calls.append("generate_opendrive_world")
        self.world = World(self.carla, xodr)
        self.world.points = self.points
        return self.world
