"""Closed loop on a CARLA 0.9.16 server through its Python API: our scenarios with CARLA's physics and pictures.

NOT RUN AGAINST A SERVER: the tests drive a recorded stand-in that has the same interface, and check maps, frames and types
against the real wheel. Expect to tune `carla_frame.Pedals` and the mounting heights on the first real server.

CARLA has the ego and the cameras; traffic, cast and lights of a scenario are ours, shown in CARLA step by step (no physics of
their own). What the expert and the judge see of them is read back from the server. The ego's size is that of its CARLA model.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import shapely

from spanvla_ros.contracts import NS_PER_S, VEHICLE, ConfigError, ModelSpec, SpanVLAError, Trajectory
from spanvla_ros.planning.inputs import Grid
from spanvla_ros.sim import tracker
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.carla.frame import Pedals
from spanvla_ros.sim.carla.stage import CarlaStage
from spanvla_ros.sim.ego import STEP_S
from spanvla_ros.sim.roads import maps
from spanvla_ros.sim.scenarios.scenario import Scenario
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource
from spanvla_ros.sim.truth import Truth

_STEP_NS = round(STEP_S * NS_PER_S)


def connect(address: str, timeout_s: float = 20.0) -> tuple[Any, Any]:
    """Module and client for a server at "HOST:PORT" of the version that the wheel was made for."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"CARLA server '{address}' is not HOST:PORT such as localhost:2000")
    try:
        import carla
    except ImportError:
        raise SpanVLAError("carla is missing; driving on a CARLA server needs: pip install 'spanvla_ros[carla]'") from None
    client = carla.Client(host, int(port))
    client.set_timeout(timeout_s)
    check_version(client, address)
    return carla, client


def check_version(client: Any, address: str) -> None:
    """Refuse a server that is not there, or not of the version of the wheel."""
    try:
        server = client.get_server_version()
    except RuntimeError:
        raise SpanVLAError(f"no CARLA server answers at {address}; start CarlaUE4.sh -carla-rpc-port=PORT there or give its HOST:PORT") from None
    wheel = client.get_client_version()
    if server != wheel:
        raise SpanVLAError(f"the CARLA server at {address} is {server}, the wheel is {wheel}; start server {wheel} or install carla=={server}")


class CarlaSimulation(Simulation):
    """A scenario whose ego drives in CARLA; see the module. `cameras`: names of the scenario's cameras that are needed."""

    def __init__(self, carla: Any, client: Any, scenario: Scenario, cameras: tuple[str, ...] = ()):
        super().__init__(scenario, render=False)
        self._cameras = [self._camera(name) for name in cameras]
        xodr = gzip.decompress(maps.xodr_file(scenario.map_id).read_bytes()).decode()
        self._carla_stage = CarlaStage(carla, client, xodr, self.road)
        self._shown: tuple[Actor, ...] | None = None
        # one colour per arm: where the route crosses, that of its own link
        self._own = {self._carla_stage.arm(stop.signal): stop.signal for stop in self.route.path.stops if stop.signal is not None}
        self._drivable = self.road.drivable.buffer(0.05)
        shapely.prepare(self._drivable)

    def reset(self) -> None:
        """Back to the first instant, with new actors on the server."""
        self._shown = None
        self._carla_stage.strike()
        super().reset()
        self._pedals = Pedals()
        self._carla_stage.show(super().actors, self.signals, self._own)
        self._carla_stage.set_out(self.ego, self._cameras)
        self.ego = self._carla_stage.body.state(self._carla_stage.ego, None)
        self._shown = self._carla_stage.actors()
        self._record()

    def close(self) -> None:
        """End traffic and leave the server as it was found."""
        super().close()
        self._carla_stage.close()

    @property
    def renders(self) -> bool:
        """True if there are cameras on the server."""
        return bool(self._cameras)

    @property
    def actors(self) -> tuple[Actor, ...]:
        """Everything but the ego, as the server shows it."""
        return super().actors if self._shown is None else self._shown

    def advance(self, trajectory: Trajectory | None, seconds: float = 0.1) -> None:
        """Follow `trajectory` for a multiple of 0.05 s; None brakes to a stop."""
        stage = self._carla_stage
        for _ in range(round(seconds / STEP_S)):
            acceleration, steer = tracker.control(self.ego, trajectory, self.stamp_ns)
            stage.drive(*self._pedals.press(acceleration, self.ego), stage.body.wheel(steer, self.ego.speed_mps))
            # the others take their step first: the picture of a step has all of them where they are at its end
            self._schedule.step(self.time_s, self._route_s)
            self._cast.step(STEP_S, self.ego, self.route.path, self._route_s, self._world.actors())
            self._world.step(self.ego, self._cast.actors)
            stage.show(super().actors, self.signals, self._own)
            stage.tick()
            self.ego = stage.body.state(stage.ego, self.ego)
            self._shown = stage.actors()
            self.stamp_ns += _STEP_NS
            self._record()

    def jpeg(self, camera: str = "front") -> bytes:
        """CARLA's picture of this instant, encoded like one of our own."""
        from spanvla_ros.sim.pictures.renderer import encode

        return encode(self._carla_stage.picture(camera), self.scenario.jpeg_quality)

    def truth(self) -> Truth:
        """What the judge needs, with the lamps of the server and the size of the CARLA model."""
        seen = self._witness.truth(self.time_s, self.ego, self._route_s, self._held_s, self.actors, self._carla_stage)
        corners = self._carla_stage.body.footprint(self.ego)
        return replace(
            seen,
            footprint=corners,
            front_to_line_m=seen.front_to_line_m + VEHICLE.front_m - self._carla_stage.body.size.front_m,
            off_road=not bool(shapely.contains_xy(self._drivable, corners[:, 0], corners[:, 1]).all()),
        )


class CarlaSource(SimulationSource):
    """A scenario on a CARLA server as a Source: the same observations, plans and judge as in our own simulator."""

    def __init__(
        self,
        carla: Any,
        client: Any,
        scenario: Scenario,
        spec: ModelSpec | Grid,
        *,
        period_s: float = 0.1,
        pictures: bool = True,
        on_step: Callable[[], None] | None = None,
    ):
        simulation = CarlaSimulation(carla, client, scenario, tuple(spec.cameras) if pictures else ())
        super().__init__(simulation, spec, period_s=period_s, pictures=pictures, on_step=on_step)
