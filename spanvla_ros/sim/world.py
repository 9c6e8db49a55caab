"""Traffic of one episode on libsumo at 20 Hz. libsumo holds one simulation a process, so a process has one World at a time."""

from __future__ import annotations

import functools
import math
import tempfile
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np

from spanvla_ros.contracts import VEHICLE, SpanVLAError
from spanvla_ros.sim.actor import SIZES, Actor
from spanvla_ros.sim.ego import STEP_S, EgoState
from spanvla_ros.sim.roads import maps
from spanvla_ros.sim.roads.road import RoadMap, load
from spanvla_ros.sim.roads.route import Path
from spanvla_ros.sim.signals import Signals

_WARM_UP_S = 25.0
_EGO = "ego"
_ANY_TRIP = "trip0"  # a puppet needs a route, and never drives it
_DRIVERS = {
    "car": 'accel="1.8" decel="2.5" tau="1.3" minGap="2.5" speedFactor="normc(0.95,0.08,0.75,1.05)"',
    "van": 'accel="1.6" decel="2.5" tau="1.3" minGap="2.5" speedFactor="normc(0.92,0.08,0.75,1.0)"',
    "truck": 'accel="1.2" decel="2.2" tau="1.5" minGap="3" speedFactor="normc(0.85,0.06,0.7,0.95)"',
}
_BRAKE_LIGHT, _RIGHT, _LEFT = 8, 1, 2  # bits of SUMO's vehicle signals


class World:
    """libsumo with seeded IDM traffic, our signals, and the ego and the scenario's vehicles as puppets among its own."""

    _owner: World | None = None

    def __init__(self, road: RoadMap, signals: Signals, *, seed: int, period_s: float | None):
        """Start the traffic and let it run for 25 s. `period_s`: mean time between two departures, None for no traffic."""
        try:
            import libsumo
        except ImportError:
            raise SpanVLAError("libsumo is missing; the simulator needs: pip install 'spanvla_ros[sim]'") from None
        if World._owner is not None:
            World._owner.close()
        self._sumo = libsumo
        self._road = road
        self._signals = signals
        self._shown: dict[str, str] = {}
        self._puppets: set[str] = set()
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
        for _ in range(int(_WARM_UP_S / STEP_S) if period_s is not None else 0):
            self.step(None, ())

    def close(self) -> None:
        """End the SUMO simulation; harmless when it has ended already."""
        if World._owner is self:
            self._sumo.close()
            World._owner = None
            self._folder.cleanup()

    def step(self, ego: EgoState | None, cast: Sequence[Actor]) -> None:
        """Advance traffic and signals by 0.05 s; `ego` and `cast` are where they are at the end of the step."""
        self._signals.step(STEP_S)
        for tls, letters in self._signals.letters.items():
            if letters != self._shown.get(tls):
                self._sumo.trafficlight.setRedYellowGreenState(tls, letters)
                self._shown[tls] = letters
        if ego is not None:
            bumper = ego.x + VEHICLE.front_m * math.cos(ego.yaw), ego.y + VEHICLE.front_m * math.sin(ego.yaw)
            self._place(_EGO, "ego", *bumper, ego.yaw, ego.speed_mps)
        for actor in cast:
            if actor.kind in _DRIVERS or actor.kind == "bus":
                half = actor.length_m / 2
                bumper = actor.x + half * math.cos(actor.yaw), actor.y + half * math.sin(actor.yaw)
                self._place(actor.name, "puppet_" + actor.kind, *bumper, actor.yaw, actor.speed_mps)
        self._sumo.simulationStep()
        self._actors = None

    def clear(self, path: Path, from_s: float, to_s: float, half_width_m: float = 2.2) -> None:
        """Remove the vehicles whose box centre lies on a stretch of the path."""
        for actor in self.actors():
            s, distance = path.project_points(np.array([[actor.x, actor.y]]), from_s - 3, to_s + 3)
            if distance[0] < half_width_m and from_s < s[0] < to_s:
                self._sumo.vehicle.remove(actor.name)
        self._actors = None

    def actors(self) -> tuple[Actor, ...]:
        """The vehicles of the traffic, in SUMO's own (deterministic) order."""
        if self._actors is None:
            vehicle = self._sumo.vehicle
            self._actors = tuple(self._actor(name, vehicle) for name in vehicle.getIDList() if name not in self._puppets)
        return self._actors

    def _actor(self, name: str, vehicle) -> Actor:
        kind = vehicle.getTypeID(name).split("@")[0]
        length, width, height = SIZES[kind]
        x, y = vehicle.getPosition(name)
        yaw = math.radians(90.0 - vehicle.getAngle(name))
        speed, signals = vehicle.getSpeed(name), vehicle.getSignals(name)
        # SUMO's position is the front bumper, its angle a compass course
        return Actor(
            name=name,
            kind=kind,
            x=x - length / 2 * math.cos(yaw),
            y=y - length / 2 * math.sin(yaw),
            yaw=yaw,
            length_m=length,
            width_m=width,
            height_m=height,
            speed_mps=speed,
            braking=bool(signals & _BRAKE_LIGHT) or speed < 0.1,
            paint=zlib.crc32(name.encode()),
            indicator="left" if signals & _LEFT else "right" if signals & _RIGHT else "",
        )

    def _place(self, name: str, kind: str, x: float, y: float, yaw: float, speed_mps: float) -> None:
        """Put a vehicle of ours where it is, with its front bumper at (x, y); SUMO drops one that came to the end of its lane."""
        vehicle = self._sumo.vehicle
        if name not in self._puppets or name not in vehicle.getIDList():
            if name in self._puppets and name in vehicle.getLoadedIDList():
                vehicle.remove(name)
            vehicle.add(name, _ANY_TRIP, typeID=kind, departSpeed="0", departPos="0")
            vehicle.setSpeedMode(name, 0)
            vehicle.setLaneChangeMode(name, 0)
            self._puppets.add(name)
        vehicle.moveToXY(name, "", -1, x, y, 90.0 - math.degrees(yaw), keepRoute=2)
        vehicle.setPreviousSpeed(name, speed_mps)


@functools.lru_cache(maxsize=4)
def _trips(map_id: str) -> tuple[tuple[str, ...], ...]:
    """Shortest chains of edges from every entry of the map to every exit."""
    road = load(map_id)
    onward: dict[str, set[str]] = {}
    for lane in road.lanes.values():
        if lane.junction is None:
            ends = {road.lanes[end].edge for name in lane.successors for end in road.lanes[name].successors}
            onward.setdefault(lane.edge, set()).update(ends)
    found = []
    for entry in sorted(road.entries):
        before: dict[str, str | None] = {entry: None}
        queue = deque([entry])
        while queue:
            edge = queue.popleft()
            for following in sorted(onward.get(edge, ())):
                if following not in before:
                    before[following] = edge
                    queue.append(following)
        for end in sorted(set(road.exits) & set(before) - {entry}):
            chain = [end]
            while before[chain[0]] is not None:
                chain.insert(0, before[chain[0]])
            found.append(tuple(chain))
    return tuple(found)


def _demand(road: RoadMap, seed: int, period_s: float | None) -> str:
    """Vehicle types, all routes and a seeded flow of vehicles for ten minutes."""
    rng = np.random.default_rng([seed, 5])
    trips = _trips(road.map_id)
    lines = []
    for kind, (length, width, _) in SIZES.items():
        size = f'length="{length}" width="{width}"'
        if kind in _DRIVERS:
            lines.append(f'<vType id="{kind}" carFollowModel="IDM" {size} {_DRIVERS[kind]}/>')
        lines.append(f'<vType id="puppet_{kind}" {size} minGap="2.5"/>')
    lines.append(f'<vType id="ego" length="{VEHICLE.length_m}" width="{VEHICLE.width_m}" minGap="2.5"/>')
    lines += [f'<route id="trip{k}" edges="{" ".join(chain)}"/>' for k, chain in enumerate(trips)]
    depart = 0.0
    for k in range(int(600 / period_s) if period_s is not None else 0):
        depart += rng.exponential(period_s)
        chain = int(rng.integers(len(trips)))
        kind = rng.choice(list(_DRIVERS), p=[0.72, 0.16, 0.12])
        lines.append(f'<vehicle id="npc{k}" type="{kind}" route="trip{chain}" depart="{depart:.2f}" departLane="best" departSpeed="max"/>')
    return f"<routes>{''.join(lines)}</routes>"
