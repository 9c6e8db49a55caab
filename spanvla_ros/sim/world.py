"""Traffic of one episode on libsumo at 20 Hz. libsumo holds one simulation a process, so a process has one World at a time."""

from __future__ import annotations

import math
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np

from spanvla_ros.contracts import VEHICLE, SpanVLAError
from spanvla_ros.sim import maps
from spanvla_ros.sim.ego import STEP_S, EgoState
from spanvla_ros.sim.road import RoadMap
from spanvla_ros.sim.route import Path
from spanvla_ros.sim.signals import Signals

_WARM_UP_S = 25.0
_EGO = "ego"
_TYPES = {
    "car": (
        'length="4.5" width="1.85" accel="1.8" decel="2.5" tau="1.3" minGap="2.5" speedFactor="normc(0.95,0.08,0.75,1.05)"',
        1.5,
    ),
    "van": (
        'length="5.4" width="2.0" accel="1.6" decel="2.5" tau="1.3" minGap="2.5" speedFactor="normc(0.92,0.08,0.75,1.0)"',
        2.1,
    ),
    "truck": (
        'length="8.5" width="2.45" accel="1.2" decel="2.2" tau="1.5" minGap="3" speedFactor="normc(0.85,0.06,0.7,0.95)"',
        3.1,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A vehicle as an oriented box: centre (x, y) and yaw in the world frame; `paint` picks its colour."""

    name: str
    kind: str
    x: float
    y: float
    yaw: float
    length_m: float
    width_m: float
    height_m: float
    speed_mps: float
    braking: bool
    paint: int


class World:
    """libsumo with seeded IDM traffic, our signals and the ego as one of its vehicles."""

    _owner: World | None = None

    def __init__(self, road: RoadMap, signals: Signals, *, seed: int, period_s: float):
        """Start the traffic and let it run for 25 s. `period_s`: mean time between two departures on the whole map."""
        try:
            import libsumo
        except ImportError:
            raise SpanVLAError("libsumo is missing; the simulator needs: pip install 'spanvla_ros[sim]'") from None
        if World._owner is not None:
            World._owner.close()
        self._sumo = libsumo
        self._road = road
        self._signals = signals
        self._shown = ""
        self._has_ego = False
        self._actors: tuple[Actor, ...] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="spanvla_")
        demand = FilePath(self._folder.name) / "demand.rou.xml"
        demand.write_text(_demand(road, seed, period_s))
        libsumo.start([
            "sumo", "-n", str(maps.net_file(road.map_id)), "-r", str(demand), "--step-length", str(STEP_S), "--seed", str(seed),
            "--collision.action", "none", "--time-to-teleport", "-1", "--lanechange.duration", "3", "--max-depart-delay", "8",
            "--no-step-log", "true", "--no-warnings", "true", "--xml-validation", "never",
        ])  # fmt: skip
        World._owner = self
        for _ in range(int(_WARM_UP_S / STEP_S)):
            self.step(None)

    def close(self) -> None:
        """End the SUMO simulation; harmless when it has ended already."""
        if World._owner is self:
            self._sumo.close()
            World._owner = None
            self._folder.cleanup()

    def step(self, ego: EgoState | None) -> None:
        """Advance traffic and signals by 0.05 s; `ego` is where the car is at the end of the step."""
        self._signals.step(STEP_S)
        shown = self._signals.sumo_state(self._road.link_arms)
        if shown != self._shown:
            self._sumo.trafficlight.setRedYellowGreenState("J", shown)
            self._shown = shown
        if ego is not None and self._has_ego:
            self._place(ego)
        self._sumo.simulationStep()
        self._actors = None

    def add_ego(self, path: Path, s: float, ego: EgoState) -> None:
        """Make the ego a vehicle that the traffic sees. Takes one SUMO step."""
        self.spawn(_EGO, "ego", path, s + VEHICLE.front_m, 0.0)
        self._sumo.vehicle.setSpeedMode(_EGO, 0)
        self._sumo.vehicle.setLaneChangeMode(_EGO, 0)
        self._has_ego = True
        self.step(ego)

    def spawn(self, name: str, kind: str, path: Path, front_s: float, speed_mps: float) -> None:
        """Add a vehicle on the path's lane with its front bumper at arc length `front_s`; it drives on along the path."""
        sumo = self._sumo
        route = f"route_{path.edges[0]}_{path.edges[1]}"
        leg = 0 if front_s < path.stop_s else 1
        lane = f"{path.edges[leg]}_{path.lanes[leg]}"
        # SUMO may give a lane another length than its shape
        start, end = ((0.0, path.stop_s), (path.exit_s, path.length_m))[leg]
        share = min(max((front_s - start) / (end - start), 0.0), 1.0)
        sumo.vehicle.add(name, route, typeID=kind, departLane=str(path.lanes[0]), departPos="10", departSpeed="0")
        sumo.vehicle.moveTo(name, lane, share * sumo.lane.getLength(lane))
        sumo.vehicle.setPreviousSpeed(name, speed_mps)
        self._actors = None

    def length(self, kind: str) -> float:
        """Length in metres of a kind of vehicle."""
        return self._sumo.vehicletype.getLength(kind)

    def halt(self, name: str) -> None:
        """Keep a vehicle at standstill until `release`."""
        self._sumo.vehicle.setSpeed(name, 0.0)

    def release(self, name: str) -> None:
        """Let a halted vehicle drive on; nothing happens if it has left the map."""
        if name in self._sumo.vehicle.getIDList():
            self._sumo.vehicle.setSpeed(name, -1.0)

    def limit(self, name: str, speed_mps: float) -> None:
        """Top speed of one vehicle."""
        self._sumo.vehicle.setMaxSpeed(name, speed_mps)

    def clear(self, path: Path, from_s: float, to_s: float, half_width_m: float = 2.2) -> None:
        """Remove the vehicles whose box centre lies on a stretch of the path."""
        for actor in self.actors():
            s, distance = path.project_points(np.array([[actor.x, actor.y]]), from_s - 3, to_s + 3)
            if distance[0] < half_width_m and from_s < s[0] < to_s:
                self._sumo.vehicle.remove(actor.name)
        self._actors = None

    def actors(self) -> tuple[Actor, ...]:
        """All vehicles but the ego, in SUMO's own (deterministic) order."""
        if self._actors is None:
            vehicle = self._sumo.vehicle
            self._actors = tuple(self._actor(name, vehicle) for name in vehicle.getIDList() if name != _EGO)
        return self._actors

    def _actor(self, name: str, vehicle) -> Actor:
        kind = vehicle.getTypeID(name).split("@")[0]
        length = vehicle.getLength(name)
        x, y = vehicle.getPosition(name)
        yaw = math.radians(90.0 - vehicle.getAngle(name))
        # SUMO's position is the front bumper, its angle a compass course
        return Actor(
            name=name,
            kind=kind,
            x=x - length / 2 * math.cos(yaw),
            y=y - length / 2 * math.sin(yaw),
            yaw=yaw,
            length_m=length,
            width_m=vehicle.getWidth(name),
            height_m=_TYPES[kind][1],
            speed_mps=vehicle.getSpeed(name),
            braking=bool(vehicle.getSignals(name) & 8) or vehicle.getSpeed(name) < 0.1,
            paint=zlib.crc32(name.encode()),
        )

    def _place(self, ego: EgoState) -> None:
        x = ego.x + VEHICLE.front_m * math.cos(ego.yaw)
        y = ego.y + VEHICLE.front_m * math.sin(ego.yaw)
        self._sumo.vehicle.moveToXY(_EGO, "", -1, x, y, 90.0 - math.degrees(ego.yaw), keepRoute=2)
        self._sumo.vehicle.setPreviousSpeed(_EGO, ego.speed_mps)


def _demand(road: RoadMap, seed: int, period_s: float) -> str:
    """Vehicle types, all routes and a seeded flow of vehicles for ten minutes."""
    rng = np.random.default_rng([seed, 5])
    pairs = sorted({path.edges for path in road.paths})
    lines = [f'<vType id="{kind}" carFollowModel="IDM" {values}/>' for kind, (values, _) in _TYPES.items()]
    lines.append(f'<vType id="ego" length="{VEHICLE.length_m}" width="{VEHICLE.width_m}" minGap="2.5"/>')
    lines += [f'<route id="route_{a}_{b}" edges="{a} {b}"/>' for a, b in pairs]
    depart = 0.0
    for k in range(int(600 / period_s)):
        depart += rng.exponential(period_s)
        a, b = pairs[rng.integers(len(pairs))]
        kind = rng.choice(["car", "van", "truck"], p=[0.72, 0.16, 0.12])
        lines.append(
            f'<vehicle id="npc{k}" type="{kind}" route="route_{a}_{b}" depart="{depart:.2f}" departLane="best" departSpeed="max"/>'
        )
    return f"<routes>{''.join(lines)}</routes>"
