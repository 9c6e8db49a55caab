"""One episode, step by step: world, cast, ego, expert, pictures. Deterministic for a scenario, with or without pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct

import numpy as np

from spanvla_ros.contracts import NS_PER_S, VEHICLE, Command, InputError, Trajectory
from spanvla_ros.sim import ego as bicycle
from spanvla_ros.sim import tracker
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.decision import Decision
from spanvla_ros.sim.driver.expert import Expert
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.ego import STEP_S, EgoState
from spanvla_ros.sim.pictures.camera import Camera
from spanvla_ros.sim.pictures.cells import Cells
from spanvla_ros.sim.roads import road as roads
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import Route
from spanvla_ros.sim.scenarios.cast import Cast
from spanvla_ros.sim.scenarios.scenario import Scenario
from spanvla_ros.sim.scenarios.schedule import Schedule
from spanvla_ros.sim.shutter import Shutter
from spanvla_ros.sim.signals import Signals
from spanvla_ros.sim.truth import Truth, Witness
from spanvla_ros.sim.world import World

_STEP_NS = round(STEP_S * NS_PER_S)
_CLEAR_BEHIND_M, _CLEAR_AHEAD_M = 22.0, 22.0


class ExpertView:
    """The expert looking at a running simulation: `plan()` for the state as it is now."""

    def __init__(self, simulation: Simulation, style: Style | None = None):
        self._simulation = simulation
        scenario = simulation.scenario
        self._expert = Expert(simulation.road, scenario.route, scenario.seed, style or Style())

    def plan(self) -> Decision:
        simulation = self._simulation
        return self._expert.plan(simulation.ego, simulation.actors, simulation.signals, simulation.stamp_ns)


class Simulation:
    """Drives one scenario. `render=False` needs no OpenGL; `black=True` gives black pictures of the same size.

    Call `reset` first. The world frame is the odometry frame.
    """

    def __init__(self, scenario: Scenario, render: bool = True, black: bool = False):
        self.scenario = scenario
        self.road: RoadMap = roads.load(scenario.map_id)
        self._black = black
        self._cells = Cells(self.road, scenario.route.path)
        self._witness = Witness(self.road, scenario)
        self._stage = None
        if render and not black:
            from spanvla_ros.sim.pictures.stage import Stage

            self._stage = Stage(self.road, scenario.seed, scenario.look)
        self._world: World | None = None
        self.delivered: dict[str, bytes] = {}  # camera -> the JPEG that it delivered last

    def reset(self) -> None:
        """Back to the first instant of the scenario."""
        scenario, path = self.scenario, self.route.path
        seed = int(np.random.default_rng([scenario.seed, sum(map(ord, scenario.family))]).integers(1 << 30))
        self.signals = Signals(self.road, scenario.lights.plan, scenario.lights.offset_s)
        self._schedule = Schedule(scenario, self.signals)
        self._world = World(self.road, self.signals, seed=seed, period_s=scenario.traffic_s)
        self._cast = Cast(scenario.roles)
        self._shutter = Shutter(scenario.faults)
        self.delivered = {}
        start = scenario.route.start_s
        # nobody of the traffic stands where the ego or the cast begin
        self._world.clear(path, start - _CLEAR_BEHIND_M, self._clear_to())
        x, y, yaw = path.pose(start)
        steer = math.atan(VEHICLE.wheel_base_m * path.curvature_at(start))
        self.ego = EgoState(x=float(x), y=float(y), yaw=float(yaw), speed_mps=scenario.start_speed_mps, steer_rad=steer)
        self.stamp_ns = 0
        self._route_s = start
        self._held_s = 0.0
        self._digest = hashlib.sha256()
        if scenario.start_lateral_m or scenario.start_yaw_rad:
            self._shift(scenario.start_lateral_m, scenario.start_yaw_rad, 0.0)
        self._world.step(self.ego, self._cast.actors)
        self.expert = ExpertView(self)
        self._record()

    def close(self) -> None:
        """Release the traffic simulation; harmless when repeated."""
        if self._world is not None:
            self._world.close()
            self._world = None

    @property
    def route(self) -> Route:
        return self.scenario.route

    @property
    def actors(self) -> tuple[Actor, ...]:
        """Everything but the ego: the traffic, then the scenario's own."""
        return (*self._world.actors(), *self._cast.actors)

    @property
    def renders(self) -> bool:
        """True if its pictures show the scene."""
        return self._stage is not None

    @property
    def command(self) -> Command:
        """The instruction at this place of the route."""
        return self.route.command(self._route_s)

    @property
    def route_s(self) -> float:
        """Arc length of the rear axle on the route's path."""
        return self._route_s

    @property
    def time_s(self) -> float:
        return self.stamp_ns / NS_PER_S

    @property
    def finished(self) -> bool:
        """True once the expected outcome is there: the end of the route, or three seconds of standstill where it is due."""
        return self._route_s >= self.route.end_s or self._held_s >= 3.0

    @property
    def state_hash(self) -> str:
        """SHA-256 over ego, actors and lamps of all steps since `reset`."""
        return self._digest.hexdigest()

    def expert_with(self, style: Style) -> ExpertView:
        """An expert of another style in this simulation."""
        return ExpertView(self, style)

    def advance(self, trajectory: Trajectory | None, seconds: float = 0.1) -> None:
        """Follow `trajectory` for a multiple of 0.05 s; None brakes to a stop."""
        for _ in range(round(seconds / STEP_S)):
            acceleration, steer = tracker.control(self.ego, trajectory, self.stamp_ns)
            self.ego = bicycle.advance(self.ego, acceleration, steer)
            self._schedule.step(self.time_s, self._route_s)
            self._cast.step(STEP_S, self.ego, self.route.path, self._route_s, self._world.actors())
            self._world.step(self.ego, self._cast.actors)
            self.stamp_ns += _STEP_NS
            self._record()

    def kick(self, lateral_m: float, yaw_rad: float, speed_mps: float) -> None:
        """Shift the ego to the left, turn it to the left and change its speed, all relative to its present state."""
        self._shift(lateral_m, yaw_rad, speed_mps)
        self._record()

    def jpeg(self, camera: str = "front") -> bytes:
        """JPEG of a camera at this instant, in the quality of the scenario."""
        if self._black:
            return self._dark(camera)
        if self._stage is None:
            raise InputError("this simulation was made with render=False, it has no pictures")
        from spanvla_ros.sim.pictures.renderer import encode

        return encode(self._stage.picture(self._camera(camera), self.ego, self.actors, self.signals, self.stamp_ns), self.scenario.jpeg_quality)

    def exposures(self, camera: str, picture: np.ndarray | None = None) -> list[tuple[int, bytes | np.ndarray]]:
        """(stamp, JPEG) of the frames that arrive from a camera now; call it once per exposure. `picture` stands in for a rendered one."""
        if picture is not None:
            return self._shutter.expose(camera, self.stamp_ns, lambda: picture, lambda: picture)
        arriving = self._shutter.expose(camera, self.stamp_ns, lambda: self.jpeg(camera), lambda: self._dark(camera))
        if arriving:
            self.delivered[camera] = arriving[-1][1]
        return arriving

    def cells(self, camera: str = "front") -> np.ndarray:
        """Class bits (18, 32) uint8 of the 14-px cells of a picture; see `Cells`."""
        return self._cells.bits(self._camera(camera), self.ego, self._route_s, self.actors, self.signals)

    def truth(self) -> Truth:
        """What the judge needs; never an input of a planner."""
        return self._witness.truth(self.time_s, self.ego, self._route_s, self._held_s, self.actors, self.signals)

    def _dark(self, camera: str) -> bytes:
        from spanvla_ros.sim.pictures.renderer import encode

        view = self._camera(camera)
        return encode(np.zeros((view.height, view.width, 3), np.uint8), self.scenario.jpeg_quality)

    def _camera(self, name: str) -> Camera:
        cameras = self.scenario.cameras
        if name not in cameras:
            raise InputError(f"the simulator has no camera '{name}', only {', '.join(cameras)}")
        return cameras[name]

    def _clear_to(self) -> float:
        """Station up to which the lane ahead is emptied of traffic."""
        own = [role.meet_s for role in self.scenario.roles]
        start = self.route.start_s
        lights = [self.scenario.feature_s + 3.0] if self.scenario.lights.own == "plot" else []
        return max(start + _CLEAR_AHEAD_M, *(min(s + 16.0, self.route.end_s) for s in own), *lights, 0.0)

    def _shift(self, lateral_m: float, yaw_rad: float, speed_mps: float) -> None:
        ego = self.ego
        self.ego = dataclasses.replace(
            ego,
            x=ego.x - lateral_m * math.sin(ego.yaw),
            y=ego.y + lateral_m * math.cos(ego.yaw),
            yaw=math.remainder(ego.yaw + yaw_rad, 2 * math.pi),
            speed_mps=max(ego.speed_mps + speed_mps, 0.0),
        )

    def _record(self) -> None:
        ego, scenario = self.ego, self.scenario
        self._route_s = self.route.path.project(ego.pose, self._route_s)[0]
        if scenario.goal == "standstill":
            low, high = scenario.standstill_m
            due = low <= scenario.feature_s - self._route_s - VEHICLE.front_m <= high
            self._held_s = self._held_s + STEP_S if due and ego.speed_mps < 0.1 else 0.0
        values = [ego.x, ego.y, ego.yaw, ego.speed_mps, ego.acceleration_mps2, ego.steer_rad]
        for actor in self.actors:
            values += [actor.x, actor.y, actor.yaw, actor.speed_mps]
        self._digest.update(struct.pack(f"<q{len(values)}d", self.stamp_ns, *values))
        self._digest.update("".join(self.signals.letters.values()).encode())
