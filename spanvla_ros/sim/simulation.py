"""One episode, step by step: world, ego, expert, pictures. Deterministic for a scenario, with or without pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct

import numpy as np

from spanvla_ros.contracts import NS_PER_S, VEHICLE, Command, InputError, Trajectory
from spanvla_ros.sim import ego as bicycle
from spanvla_ros.sim import road as roads
from spanvla_ros.sim import tracker
from spanvla_ros.sim.camera import CAMERAS, Camera
from spanvla_ros.sim.cells import Cells
from spanvla_ros.sim.decision import Decision
from spanvla_ros.sim.ego import STEP_S, EgoState
from spanvla_ros.sim.expert import Expert
from spanvla_ros.sim.scenario import Scenario
from spanvla_ros.sim.signals import Signals
from spanvla_ros.sim.truth import Truth, Witness
from spanvla_ros.sim.world import Actor, World

_STEP_NS = round(STEP_S * NS_PER_S)
_BLOCKER, _LEAD = "blocker", "lead"
_NEAR_BLOCKER_M = 35.0


class ExpertView:
    """The expert looking at a running simulation: `plan()` for the state as it is now."""

    def __init__(self, simulation: Simulation, expert: Expert):
        self._simulation = simulation
        self._expert = expert

    def plan(self) -> Decision:
        simulation = self._simulation
        return self._expert.plan(simulation.ego, simulation.actors, simulation.lamp, simulation.stamp_ns)


class Simulation:
    """Drives one scenario. `render=False` needs no OpenGL; `black=True` gives black pictures of the same size.

    Call `reset` first. The world frame is the odometry frame.
    """

    def __init__(self, scenario: Scenario, render: bool = True, black: bool = False):
        self.scenario = scenario
        self._black = black
        self._road = roads.load(scenario.map_id)
        self._cells = Cells(self._road, scenario.route.path, scenario.cones)
        self._witness = Witness(self._road, scenario.route)
        self._stage = None
        if render and not black:
            from spanvla_ros.sim.stage import Stage

            self._stage = Stage(self._road, scenario.seed, scenario.cones)
        self._world: World | None = None

    def reset(self) -> None:
        """Back to the first instant of the scenario."""
        scenario, path = self.scenario, self.scenario.route.path
        seed = int(np.random.default_rng([scenario.seed, sum(map(ord, scenario.family))]).integers(1 << 30))
        rng = np.random.default_rng([seed, 2])
        self._signals = Signals(self._road.arms, scenario.cycle_s, int(rng.integers(self._road.arms)), float(rng.uniform(0, 10)))
        self._hold_before_start()
        self._world = World(self._road, self._signals, seed=seed, period_s=scenario.traffic_period_s)
        start = scenario.route.start_s
        self._set_out(path, start)
        x, y, yaw = path.pose(start)
        steer = math.atan(VEHICLE.wheel_base_m * path.curvature_at(start))
        self.ego = EgoState(x=float(x), y=float(y), yaw=float(yaw), speed_mps=scenario.start_speed_mps, steer_rad=steer)
        self._world.add_ego(path, start, self.ego)
        self.stamp_ns = 0
        self.expert = ExpertView(self, Expert(scenario.route, scenario.seed))
        self._route_s = start
        self._near_since_ns: int | None = None
        self._digest = hashlib.sha256()
        self._record()

    def close(self) -> None:
        """Release the traffic simulation; harmless when repeated."""
        if self._world is not None:
            self._world.close()
            self._world = None

    @property
    def actors(self) -> tuple[Actor, ...]:
        """All vehicles but the ego."""
        return self._world.actors()

    @property
    def lamp(self) -> str:
        """Colour of the route's signal: red, yellow or green."""
        return self._signals.state(self.scenario.route.path.arm)

    @property
    def command(self) -> Command:
        return self.scenario.command

    @property
    def route_s(self) -> float:
        """Arc length of the rear axle on the route's path."""
        return self._route_s

    @property
    def time_s(self) -> float:
        return self.stamp_ns / NS_PER_S

    @property
    def finished(self) -> bool:
        """True once the end of the route is reached."""
        return self._route_s >= self.scenario.route.end_s

    @property
    def state_hash(self) -> str:
        """SHA-256 over ego, vehicles and lamps of all steps since `reset`."""
        return self._digest.hexdigest()

    def advance(self, trajectory: Trajectory | None, seconds: float = 0.1) -> None:
        """Follow `trajectory` for a multiple of 0.05 s; None brakes to a stop."""
        for _ in range(round(seconds / STEP_S)):
            acceleration, steer = tracker.control(self.ego, trajectory, self.stamp_ns)
            self.ego = bicycle.advance(self.ego, acceleration, steer)
            self._direct()
            self._world.step(self.ego)
            self.stamp_ns += _STEP_NS
            self._record()

    def kick(self, lateral_m: float, yaw_rad: float, speed_mps: float) -> None:
        """Shift the ego to the left, turn it to the left and change its speed, all relative to its present state."""
        ego = self.ego
        self.ego = dataclasses.replace(
            ego,
            x=ego.x - lateral_m * math.sin(ego.yaw),
            y=ego.y + lateral_m * math.cos(ego.yaw),
            yaw=math.remainder(ego.yaw + yaw_rad, 2 * math.pi),
            speed_mps=max(ego.speed_mps + speed_mps, 0.0),
        )
        self._record()

    def jpeg(self, camera: str = "front") -> bytes:
        """JPEG (quality 90) of a camera at this instant."""
        from spanvla_ros.sim.renderer import encode

        view = self._camera(camera)
        if self._black:
            return encode(np.zeros((view.height, view.width, 3), np.uint8))
        if self._stage is None:
            raise InputError("this simulation was made with render=False, it has no pictures")
        return encode(self._stage.picture(view, self.ego, self.actors, self._signals))

    def cells(self, camera: str = "front") -> np.ndarray:
        """Class bits (18, 32) uint8 of the 14-px cells of a picture; see `Cells`."""
        return self._cells.bits(self._camera(camera), self.ego, self._route_s, self.actors, self._signals)

    def truth(self) -> Truth:
        """What the judge needs; never an input of a planner."""
        return self._witness.truth(self.time_s, self.ego, self._route_s, self.actors, self.lamp)

    @staticmethod
    def _camera(name: str) -> Camera:
        if name not in CAMERAS:
            raise InputError(f"the simulator has no camera '{name}', only {', '.join(CAMERAS)}")
        return CAMERAS[name]

    def _hold_before_start(self) -> None:
        """Lamp of the ego's arm from the warm-up on: as the family wants to find it."""
        scenario = self.scenario
        red = scenario.family == "red" and scenario.starts_red
        serves = scenario.route.crosses or scenario.route.end_s < scenario.route.path.stop_s + 5.0
        self._signals.hold(scenario.route.path.arm, "red" if red else "green" if serves else None)

    def _set_out(self, path, start: float) -> None:
        """Make room for the ego and place the scenario's own vehicles."""
        scenario, world = self.scenario, self._world
        clear_to = start + 22.0
        if scenario.family == "red":
            clear_to = path.stop_s + 3.0
        if scenario.blocker_kind:
            clear_to = scenario.blocker_s + 16.0
        if scenario.slow_lead_mps:
            clear_to = start + 45.0
        world.clear(path, start - 22.0, clear_to)
        if scenario.blocker_kind:
            world.spawn(_BLOCKER, scenario.blocker_kind, path, scenario.blocker_s + world.length(scenario.blocker_kind), 0.0)
            world.halt(_BLOCKER)
        if scenario.slow_lead_mps:
            world.spawn(_LEAD, "car", path, start + 32.0, scenario.slow_lead_mps)
            world.limit(_LEAD, scenario.slow_lead_mps)

    def _direct(self) -> None:
        """The family's plot: when the blocker drives off, when the lamp changes."""
        scenario = self.scenario
        front_s = self._route_s + VEHICLE.front_m
        arm = scenario.route.path.arm
        if scenario.family == "stopped":
            self._near(front_s > scenario.blocker_s - _NEAR_BLOCKER_M)
            if self._waited(scenario.wait_s):
                self._world.release(_BLOCKER)
        elif scenario.family == "red":
            self._near(front_s > scenario.route.path.stop_s - scenario.trigger_m)
            if self._near_since_ns is not None:
                self._signals.hold(arm, "green" if self._waited(scenario.wait_s) else "red")

    def _near(self, is_near: bool) -> None:
        if is_near and self._near_since_ns is None:
            self._near_since_ns = self.stamp_ns

    def _waited(self, seconds: float) -> bool:
        return self._near_since_ns is not None and self.stamp_ns - self._near_since_ns >= seconds * NS_PER_S

    def _record(self) -> None:
        ego = self.ego
        self._route_s = self.scenario.route.path.project(ego.pose, self._route_s)[0]
        values = [ego.x, ego.y, ego.yaw, ego.speed_mps, ego.acceleration_mps2, ego.steer_rad]
        for actor in self.actors:
            values += [actor.x, actor.y, actor.yaw, actor.speed_mps]
        self._digest.update(struct.pack(f"<q{len(values)}d", self.stamp_ns, *values))
        self._digest.update(self._signals.sumo_state(self._road.link_arms).encode())
