"""One 10-Hz instant of the truth, and a run of them as a scene of the PDM score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spanvla_ros.contracts import VEHICLE, DataError
from spanvla_ros.evaluation.pdm.footprint import boxes_touch, ego_centers
from spanvla_ros.evaluation.pdm.scene import FRAMES, STEP_S, STEPS, WAYPOINT_S, WAYPOINTS, Agents, Scene
from spanvla_ros.geometry import to_local, wrap
from spanvla_ros.sim import chart as charts
from spanvla_ros.sim.chart import Chart, Guide
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.roads.route import Route

if TYPE_CHECKING:
    from spanvla_ros.sim.simulation import Simulation

RATE_HZ = 10
HISTORY = 14  # past states that history comfort looks at
AHEAD = FRAMES["v1"] - 1  # frames needed behind the one that is scored
_RADIUS_M = 100.0


@dataclass(frozen=True, kw_only=True)
class Object:
    """A box of the PDM score: type as in `evaluation.pdm.scene`, centre, heading, size [m] and velocity [m/s] in the world frame."""

    name: str
    type: str
    x: float
    y: float
    yaw: float
    length_m: float
    width_m: float
    vx: float
    vy: float


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The truth at one instant.

    ego (11,): rear-axle x, y, yaw, then in the ego frame vx, vy, ax, ay, and steering angle and rate, yaw rate and
    acceleration; objects within 100 m; red: names of the connectors near by whose lamp is red.
    """

    stamp_ns: int
    ego: np.ndarray
    objects: tuple[Object, ...]
    red: tuple[str, ...]


def take(simulation: Simulation) -> Frame:
    """The frame of a simulation as it stands now."""
    ego = simulation.ego
    signals = simulation.signals
    near = [a for a in simulation.actors if abs(a.x - ego.x) < _RADIUS_M and abs(a.y - ego.y) < _RADIUS_M]
    return Frame(
        stamp_ns=simulation.stamp_ns,
        ego=ego_row(ego),
        objects=tuple(
            Object(
                name=a.name,
                type=a.pdm_type,
                x=a.x,
                y=a.y,
                yaw=a.yaw,
                length_m=a.length_m,
                width_m=a.width_m,
                vx=a.speed_mps * math.cos(a.yaw),
                vy=a.speed_mps * math.sin(a.yaw),
            )
            for a in near
        ),
        red=tuple(
            lane.name
            for lane in simulation.road.lanes.values()
            if lane.signal is not None and np.abs(lane.baseline[0, :2] - (ego.x, ego.y)).max() < _RADIUS_M and signals.state(lane.signal) == "red"
        ),
    )


def ego_row(ego: EgoState) -> np.ndarray:
    """(11,) of the simulated car; NAVSIM's logs know no steering rate and no yaw acceleration either."""
    turn = ego.yaw_rate_rps
    return np.array([ego.x, ego.y, ego.yaw, ego.speed_mps, 0.0, ego.acceleration_mps2, ego.speed_mps * turn, ego.steer_rad, 0.0, turn, 0.0])


def pdm_scene(road: RoadMap, route: Route, frames: Sequence[Frame], index: int, human: np.ndarray | None = None) -> Scene:
    """`frames[index]` of a run at 10 Hz as a scene; 50 frames must follow it. human (8, 3): see `Scene`."""
    return scene(charts.chart(road), charts.guide(route), frames, index, human)


def scene(chart: Chart, guide: Guide, frames: Sequence[Frame], index: int, human: np.ndarray | None = None) -> Scene:
    """The same from a chart and a guide.

    Traffic is what these frames show: things may appear and vanish, and are filled in where they were out of sight between.
    The lamps of the route count, red as SUMO's 'r', not the connectors of crossing traffic.
    """
    if not 0 <= index < len(frames) - AHEAD:
        raise DataError(f"frame {index} of {len(frames)} can't be scored: {AHEAD} frames (5 s at 10 Hz) must follow it")
    here, ahead = frames[index], frames[index : index + AHEAD + 1]
    areas = chart.near(float(here.ego[0]), float(here.ego[1]), _RADIUS_M)
    names = {area.name for area in areas}
    line, under = guide.around(float(here.ego[0]), float(here.ego[1]))
    edges = {chart.edges[name] for name in under if name in chart.edges}
    route_lanes = frozenset(name for name, edge in chart.edges.items() if edge in edges and name in names)
    agents = _agents(ahead)
    present = ~np.isnan(agents.frames[:, : FRAMES["v2"], 0]).all(axis=1)
    short = agents.without(~present)
    return Scene(
        name=f"{chart.map_id}@{here.stamp_ns}",
        ego=here.ego,
        areas=areas,
        centerline=line,
        route_lanes=route_lanes,
        traffic={
            "v1": agents,
            "v2": Agents(tokens=short.tokens, types=short.types, sizes=short.sizes, frames=short.frames[:, : FRAMES["v2"]]),
        },
        red_lights=tuple(tuple(name for name in frame.red if name in route_lanes) for frame in ahead[:STEPS]),
        history=np.stack([frame.ego for frame in frames[index - HISTORY : index]]) if index >= HISTORY else None,
        human=human,
        start_us=here.stamp_ns // 1000,
    )


def touching(frame: Frame) -> tuple[str, ...]:
    """Names of the objects that the ego touches."""
    if not frame.objects:
        return ()
    x, y, yaw, length, width = np.array([(o.x, o.y, o.yaw, o.length_m, o.width_m) for o in frame.objects]).T
    ego = ego_centers(frame.ego), frame.ego[2], VEHICLE.length_m, VEHICLE.width_m
    return tuple(frame.objects[k].name for k in np.flatnonzero(boxes_touch(*ego, np.column_stack([x, y]), yaw, length, width)))


def driven(frames: Sequence[Frame], index: int, interval_s: float = WAYPOINT_S, count: int = WAYPOINTS) -> np.ndarray:
    """Poses (count, 3) in base_link at `frames[index]` that were driven afterwards, every `interval_s` (a multiple of 0.1 s)."""
    step = round(interval_s / STEP_S)
    last = index + step * count
    if last >= len(frames):
        raise DataError(f"the drive ends {(len(frames) - 1 - index) * STEP_S:.1f} s after frame {index}, wanted are {count * interval_s:g} s")
    return to_local(frames[index].ego[:3], np.stack([frame.ego[:3] for frame in frames[index + step : last + 1 : step]]))


def _agents(frames: Sequence[Frame]) -> Agents:
    """Tracks over `frames`, each object with the type and size it was first seen with."""
    first: dict[str, Object] = {}
    for frame in frames:
        for thing in frame.objects:
            first.setdefault(thing.name, thing)
    tracks = np.full((len(first), len(frames), 5), np.nan)
    rows = {name: row for row, name in enumerate(first)}
    for step, frame in enumerate(frames):
        for thing in frame.objects:
            tracks[rows[thing.name], step] = thing.x, thing.y, thing.yaw, thing.vx, thing.vy
    for track in tracks:
        _fill(track)
    return Agents(
        tokens=tuple(first),
        types=tuple(thing.type for thing in first.values()),
        sizes=np.array([(thing.length_m, thing.width_m) for thing in first.values()]).reshape(-1, 2),
        frames=tracks,
    )


def _fill(track: np.ndarray) -> None:
    """Interpolate (T, 5) in place where it was out of sight between two sightings."""
    seen = np.flatnonzero(~np.isnan(track[:, 0]))
    gap = np.setdiff1d(np.arange(seen[0], seen[-1] + 1), seen)
    if len(gap):
        known = track[seen]
        known[:, 2] = np.unwrap(known[:, 2])
        track[gap] = np.stack([np.interp(gap, seen, column) for column in known.T], axis=-1)
        track[gap, 2] = wrap(track[gap, 2])


def to_document(frames: Sequence[Frame]) -> dict[str, Any]:
    """JSON form of a run of frames: sizes once per object, millimetres and tenths of milliradians."""
    kinds: dict[str, list[Any]] = {}
    rows = []
    for frame in frames:
        boxes = []
        for o in frame.objects:
            kinds.setdefault(o.name, [o.type, round(o.length_m, 3), round(o.width_m, 3)])
            boxes.append([o.name, round(o.x, 3), round(o.y, 3), round(o.yaw, 4), round(o.vx, 3), round(o.vy, 3)])
        rows.append({"t": frame.stamp_ns, "ego": np.round(frame.ego, 5).tolist(), "boxes": boxes, "red": list(frame.red)})
    return {"objects": kinds, "frames": rows}


def from_document(document: Mapping[str, Any]) -> list[Frame]:
    """Inverse of `to_document`. DataError where something is missing."""
    try:
        kinds = document["objects"]
        return [
            Frame(
                stamp_ns=row["t"],
                ego=np.array(row["ego"], dtype=float),
                objects=tuple(
                    Object(name=name, type=kinds[name][0], x=x, y=y, yaw=yaw, length_m=kinds[name][1], width_m=kinds[name][2], vx=vx, vy=vy)
                    for name, x, y, yaw, vx, vy in row["boxes"]
                ),
                red=tuple(row["red"]),
            )
            for row in document["frames"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"frames of a drive are damaged: {type(error).__name__} {error}") from None
