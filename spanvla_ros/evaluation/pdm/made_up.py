"""A made-up crossroads with traffic, and groups of plans: for benchmarks and tests that need no data."""

from __future__ import annotations

import numpy as np
import shapely

from spanvla_ros.evaluation.pdm.scene import FRAMES, STEP_S, WAYPOINT_S, WAYPOINTS, Agents, Area, Scene
from spanvla_ros.geometry import constant_turn

_LANE_M = 3.6
_REACH_M = 100.0


def crossroads(speed_mps: float = 9.0) -> Scene:
    """Two lanes each way along x, a crossing road, eight agents; the ego is 30 m before the crossing, heading along x."""
    ego = np.zeros(11)
    ego[:4] = -30.0, 0.0, 0.0, speed_mps
    half = 2 * _LANE_M
    areas = []
    for side, (west, east) in {"west": (-_REACH_M, -half), "east": (half, _REACH_M)}.items():
        areas.append(Area(name=f"block_{side}", layer="ROADBLOCK", polygon=shapely.box(west, -1.5 * _LANE_M, east, 2.5 * _LANE_M)))
    for side, (west, east) in {"west": (-_REACH_M, -half), "east": (half, _REACH_M)}.items():
        for lane in range(-1, 3):
            bottom = (lane - 0.5) * _LANE_M
            areas.append(_lane(f"{side}_{lane}", "LANE", west, east, bottom))
    areas.extend(_lane(f"cross_{lane}", "LANE_CONNECTOR", -half, half, (lane - 0.5) * _LANE_M) for lane in range(-1, 3))
    areas.append(Area(name="crossing", layer="INTERSECTION", polygon=shapely.box(-half, -half, half, half + _LANE_M)))
    x = np.arange(-_REACH_M, _REACH_M + 1)
    return Scene(
        name="crossroads",
        ego=ego,
        areas=tuple(areas),
        centerline=np.column_stack([x, np.zeros_like(x), np.zeros_like(x)]),
        route_lanes=frozenset({"west_0", "east_0", "cross_0"}),
        traffic={version: _agents(frames) for version, frames in FRAMES.items()},
        red_lights=(("cross_1",),) * FRAMES["v2"],
    )


def plans(count: int, speed_mps: float = 9.0, seed: int = 0) -> np.ndarray:
    """`count` plans (K, 8, 3) in the ego frame: constant turns at various speeds."""
    random = np.random.default_rng(seed)
    times = WAYPOINT_S * np.arange(1, WAYPOINTS + 1)
    return np.stack([constant_turn(speed_mps * random.uniform(0.6, 1.2), random.normal(0.0, 0.03), times) for _ in range(count)])


def _lane(name: str, layer: str, west: float, east: float, bottom: float) -> Area:
    line = np.array([[west, bottom + _LANE_M / 2], [east, bottom + _LANE_M / 2]])
    return Area(name=name, layer=layer, polygon=shapely.box(west, bottom, east, bottom + _LANE_M), speed_limit_mps=13.9, baseline=line)


def _agents(frames: int) -> Agents:
    rows = [  # x, y, heading, speed
        (-5.0, 0.0, 0.0, 7.0),
        (-28.0, -_LANE_M, 0.0, 8.0),
        (-50.0, 0.0, 0.0, 9.0),
        (60.0, _LANE_M, np.pi, 9.0),
        (30.0, 2 * _LANE_M, np.pi, 9.0),
        (0.0, -40.0, np.pi / 2, 8.0),
        (40.0, -_LANE_M, 0.0, 0.0),
        (10.0, -6.5, np.pi / 2, 1.2),
    ]
    times = STEP_S * np.arange(frames)
    x, y, heading, speed = np.array(rows).T
    velocity = speed[:, None] * np.column_stack([np.cos(heading), np.sin(heading)])
    tracks = np.empty((len(rows), frames, 5))
    tracks[..., :2] = np.column_stack([x, y])[:, None] + times[:, None] * velocity[:, None]
    tracks[..., 2] = heading[:, None]
    tracks[..., 3:] = velocity[:, None]
    kinds = ("VEHICLE",) * 7 + ("PEDESTRIAN",)
    sizes = np.array([[4.7, 1.95]] * 7 + [[0.7, 0.7]])
    return Agents(tokens=tuple(f"agent_{i}" for i in range(len(rows))), types=kinds, sizes=sizes, frames=tracks)
