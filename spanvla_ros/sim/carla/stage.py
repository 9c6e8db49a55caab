"""What a CARLA server is told and asked: world, ego, cameras, other actors, lights."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.carla.frame import Body, height_m, pose, transform
from spanvla_ros.sim.ego import STEP_S, EgoState
from spanvla_ros.sim.pictures.camera import Camera
from spanvla_ros.sim.roads import opendrive
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.signals import Signal, Signals

_PICTURE_WAIT_S = 10.0
_SPAWN_Z_M = 0.3  # a vehicle that is put into the ground is refused
_SETTLE_STEPS = 20
# nearest to NAVSIM's 5.18 x 2.30 m with 3.09 m between the axles first; the truth has the real size of the one that was found
_EGO = ("vehicle.nissan.patrol_2021", "vehicle.lincoln.mkz_2020", "vehicle.dodge.charger_2020", "vehicle.*")
_MODELS = {
    "car": ("vehicle.tesla.model3", "vehicle.audi.a2", "vehicle.seat.leon", "vehicle.toyota.prius"),
    "van": ("vehicle.volkswagen.t2", "vehicle.mercedes.sprinter"),
    "truck": ("vehicle.carlamotors.carlacola", "vehicle.carlamotors.european_hgv"),
    "bus": ("vehicle.mitsubishi.fusorosa",),
    "bicycle": ("vehicle.bh.crossbike", "vehicle.diamondback.century"),
    "pedestrian": ("walker.pedestrian.0001", "walker.pedestrian.0004", "walker.pedestrian.0007"),
    "cone": ("static.prop.trafficcone01", "static.prop.constructioncone"),
    "barrier": ("static.prop.streetbarrier",),
}


@contextlib.contextmanager
def answering(doing: str) -> Iterator[None]:
    """Turn what the CARLA client raises into one line."""
    try:
        yield
    except RuntimeError as error:
        raise SpanVLAError(f"the CARLA server failed while {doing}: {' '.join(str(error).split())}") from None


class CarlaStage:
    """A synchronous world on a server, made from our OpenDRIVE.

    Everything that was spawned here is removed by `strike`, settings are put back by `close`. `carla` is the module of the wheel.
    """

    def __init__(self, carla: Any, client: Any, xodr: str, road: RoadMap):
        self._carla = carla
        self._actors: dict[str, tuple[Any, Actor]] = {}
        self._own: list[Any] = []
        self._sensors: list[Any] = []
        with answering(f"loading map {road.map_id}"):
            # flat mesh of the lanes as they are: no walls, no smoothing of heights
            shape = carla.OpendriveGenerationParameters(
                vertex_distance=1.0, max_road_length=50.0, wall_height=0.0, additional_width=0.6, smooth_junctions=False, enable_mesh_visibility=True
            )
            self._world = client.generate_opendrive_world(xodr, shape)
            self._library = self._world.get_blueprint_library()
            self._before = self._world.get_settings()
            settings = self._world.get_settings()
            settings.synchronous_mode = True
            settings.fixed_delta_seconds = STEP_S
            self._world.apply_settings(settings)
            self._world.tick()
            self._lights = {light.get_opendrive_id(): light for light in self._world.get_actors().filter("traffic.traffic_light*")}
            self._world.freeze_all_traffic_lights(True)
        arms = {}
        for lane in road.lanes.values():
            for name in lane.successors:
                if road.lanes[name].signal is not None:
                    arms[road.lanes[name].signal] = opendrive.signal_name(lane.edge)
        self._arms: dict[Signal, str] = arms
        missing = sorted(set(arms.values()) - set(self._lights))
        if missing:
            raise SpanVLAError(f"the CARLA world has no light '{missing[0]}' of map {road.map_id}; was it made from {road.map_id}.xodr?")

    def set_out(self, start: EgoState, cameras: Sequence[Camera]) -> None:
        """Ego at rest at `start`, with cameras, on its springs, then at its speed."""
        carla = self._carla
        with answering("placing the ego"):
            blueprint = self._blueprint(_EGO, 0)
            blueprint.set_attribute("role_name", "hero")
            # which point of the vehicle its origin is shows only once it is there
            self.ego = self._world.spawn_actor(blueprint, transform(carla, start.pose, _SPAWN_Z_M))
            self._own.append(self.ego)
            self._world.tick()
            self.body = Body.measure(self.ego)
            self.ego.set_transform(transform(carla, self.body.origin(start.pose), _SPAWN_Z_M))
            self.ego.apply_control(carla.VehicleControl(throttle=0.0, steer=0.0, brake=1.0))
            for _ in range(_SETTLE_STEPS):
                self._world.tick()
            self._images: dict[str, Any] = {}
            self._queues: dict[str, queue.Queue] = {}
            for camera in cameras:
                self._mount(camera)
            ahead = self.ego.get_transform().get_forward_vector()
            self.ego.set_target_velocity(carla.Vector3D(ahead.x * start.speed_mps, ahead.y * start.speed_mps, 0.0))
            self.tick()

    def drive(self, throttle: float, brake: float, steer: float) -> None:
        """Pedals 0 to 1 and steering -1 (left) to 1 for the next step."""
        with answering("controlling the ego"):
            self.ego.apply_control(self._carla.VehicleControl(throttle=throttle, steer=steer, brake=brake))

    def tick(self) -> None:
        """One step of 0.05 s; waits for the pictures of that step."""
        with answering("advancing the world"):
            frame = self._world.tick()
        for name, arrived in self._queues.items():
            while True:
                try:
                    image = arrived.get(timeout=_PICTURE_WAIT_S)
                except queue.Empty:
                    raise SpanVLAError(f"CARLA's camera '{name}' sent no picture of frame {frame} within {_PICTURE_WAIT_S:g} s") from None
                if image.frame >= frame:
                    break
            self._images[name] = image

    def picture(self, camera: str) -> np.ndarray:
        """RGB picture (H, W, 3) uint8 of the last step."""
        image = self._images[camera]
        pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
        return np.ascontiguousarray(pixels[..., 2::-1])

    def show(self, actors: Sequence[Actor], signals: Signals, own: Mapping[str, Signal]) -> None:
        """Put everything where it shall be at the end of the next step.

        A light has one colour for its whole arm: that of the link `own` names for it, else of its first link.
        """
        carla = self._carla
        with answering("moving actors"):
            for name in set(self._actors) - {actor.name for actor in actors}:
                self._actors.pop(name)[0].destroy()
            for actor in actors:
                if actor.name in self._actors:
                    body = self._actors[actor.name][0]
                else:
                    blueprint = self._blueprint(_MODELS[actor.kind], actor.paint)
                    body = self._world.try_spawn_actor(blueprint, transform(carla, np.array([actor.x, actor.y, actor.yaw]), 1.0))
                    if body is None:  # something stands there still; the next step tries again
                        continue
                    body.set_simulate_physics(False)
                self._actors[actor.name] = body, actor
                body.set_transform(transform(carla, _origin(body, actor), height_m(body)))
            links = {self._arms[signal]: signal for signal in reversed(self._arms)} | dict(own)
            for name, signal in links.items():
                self._lights[name].set_state(getattr(carla.TrafficLightState, signals.state(signal).capitalize()))

    def arm(self, signal: Signal) -> str:
        """Name of the light that a link is shown by."""
        return self._arms[signal]

    def state(self, signal: Signal) -> str:
        """Lamp of a link as the server shows it: red, yellow, green, or "" for a light that is off."""
        name = str(self._lights[self._arms[signal]].get_state()).rpartition(".")[2].lower()
        return name if name in ("red", "yellow", "green") else ""

    def actors(self) -> tuple[Actor, ...]:
        """All that the server shows, in the places and sizes that it has there: ours and vehicles and walkers of others."""
        with answering("reading actors"):
            found = [_seen(body, actor) for body, actor in self._actors.values()]
            known = {body.id for body, _ in self._actors.values()} | {self.ego.id}
            everything = self._world.get_actors()
            for pattern, kind in (("vehicle.*", "car"), ("walker.pedestrian.*", "pedestrian")):
                for body in everything.filter(pattern):
                    if body.id not in known:
                        found.append(_foreign(body, kind))
        return tuple(found)

    def strike(self) -> None:
        """Remove what was spawned; harmless when repeated."""
        with answering("removing actors"):
            for sensor in self._sensors:
                sensor.stop()
            for actor in [*self._sensors, *(body for body, _ in self._actors.values()), *self._own]:
                actor.destroy()
        self._sensors, self._own, self._queues = [], [], {}
        self._actors = {}

    def close(self) -> None:
        """Leave the server as it was found."""
        self.strike()
        with answering("putting its settings back"):
            self._world.apply_settings(self._before)

    def _mount(self, camera: Camera) -> None:
        blueprint = self._library.find("sensor.camera.rgb")
        wanted = {"image_size_x": camera.width, "image_size_y": camera.height, "fov": np.degrees(camera.hfov_rad), "motion_blur_intensity": 0.0}
        for name, value in wanted.items():
            if blueprint.has_attribute(name):
                blueprint.set_attribute(name, str(value))
        place = self.body.mount(self._carla, camera, self.ego.get_transform().location.z)
        sensor = self._world.spawn_actor(blueprint, place, attach_to=self.ego)
        self._queues[camera.name] = queue.Queue()
        sensor.listen(self._queues[camera.name].put)
        self._sensors.append(sensor)

    def _blueprint(self, wanted: Sequence[str], choice: int) -> Any:
        found = [blueprint for pattern in wanted for blueprint in self._library.filter(pattern)]
        if not found:
            raise SpanVLAError(f"the CARLA server has no blueprint {' or '.join(wanted)}; spanvla_ros knows those of CARLA 0.9.16")
        return found[choice % len(found)]


def _origin(body: Any, actor: Actor) -> np.ndarray:
    """Pose (3,) of the origin of a CARLA actor whose box has its centre where the actor is."""
    cos, sin = np.cos(actor.yaw), np.sin(actor.yaw)
    x, y = body.bounding_box.location.x, -body.bounding_box.location.y
    return np.array([actor.x - cos * x + sin * y, actor.y - sin * x - cos * y, actor.yaw])


def _seen(body: Any, actor: Actor) -> Actor:
    """The actor with place and size of its CARLA body. An actor that is moved by hand has no velocity there: its own is kept."""
    there = _foreign(body, actor.kind)
    return replace(actor, x=there.x, y=there.y, yaw=there.yaw, length_m=there.length_m, width_m=there.width_m, height_m=there.height_m)


def _foreign(body: Any, kind: str) -> Actor:
    x, y, yaw = pose(body.get_transform())
    box, velocity = body.bounding_box, body.get_velocity()
    cos, sin = np.cos(yaw), np.sin(yaw)
    ahead, left = box.location.x, -box.location.y
    return Actor(
        name=f"carla-{body.id}",
        kind=kind,
        x=float(x + cos * ahead - sin * left),
        y=float(y + sin * ahead + cos * left),
        yaw=float(yaw),
        length_m=float(2 * box.extent.x),
        width_m=float(2 * box.extent.y),
        height_m=float(2 * box.extent.z),
        speed_mps=float(velocity.x * cos - velocity.y * sin),
    )
