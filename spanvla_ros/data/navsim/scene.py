"""PDM scenes of a log: straight from its frames and the map of the city, or from what the samples keep of both.

Both ways lead through the same `View`, so that a sample is scored exactly as its log is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim import route as routes
from spanvla_ros.data.navsim.city import City, baseline
from spanvla_ros.data.navsim.logs import Box, Frame
from spanvla_ros.data.navsim.splits import FUTURE_FRAMES, HISTORY_FRAMES
from spanvla_ros.evaluation.pdm.footprint import ego_centers
from spanvla_ros.evaluation.pdm.scene import FRAMES, STEPS, WAYPOINTS, Agents, Area, Scene
from spanvla_ros.evaluation.pdm.simulator import past_states
from spanvla_ros.evaluation.pdm.tracks import KEYFRAME_STEPS, densify
from spanvla_ros.geometry import to_local, wrap
from spanvla_ros.sim.chart import Chart, Guide

KEYFRAMES = "keyframes"  # of a drive's truth: what makes it a NAVSIM log


@dataclass(frozen=True, kw_only=True)
class View:
    """The map as one scene sees it. path: lanes whose baselines are the centreline; route_lanes: of the corrected route;
    lights: connectors of the logged route, whose lamps count."""

    areas: tuple[Area, ...]
    path: tuple[str, ...]
    route_lanes: tuple[str, ...]
    lights: tuple[str, ...]
    centerline: np.ndarray


def view(city: City, frame: Frame) -> View:
    """The map around a frame and the route through it (navsim.md sections 3.1 and 3.2)."""
    state = frame.state
    x, y = ego_centers(state)
    areas = city.areas(float(x), float(y))
    blocks = routes.corrected(city, frame.route, frame.pose)
    lanes = routes.lanes_of(city, blocks)
    around = [area.name for area in areas if area.layer in ("LANE", "LANE_CONNECTOR")]
    path = routes.lane_path(city, blocks, lanes, routes.starting_lane(city, lanes, around, state))
    return View(
        areas=areas,
        path=path,
        route_lanes=lanes,
        lights=tuple(name for name in routes.lanes_of(city, frame.route) if city.lanes[name].connector),
        centerline=routes.centerline(city.lanes[name].baseline for name in path),
    )


def scene(frames: Sequence[Frame], seen: View) -> Scene:
    """The scene of 14 frames, 4 of history (the last is t0) and 10 of future."""
    if len(frames) != HISTORY_FRAMES + FUTURE_FRAMES:
        raise DataError(f"a scene has {HISTORY_FRAMES + FUTURE_FRAMES} frames, got {len(frames)}")
    past, ahead = frames[:HISTORY_FRAMES], frames[HISTORY_FRAMES - 1 :]
    here = ahead[0]
    names = {area.name for area in seen.areas}
    lights = frozenset(seen.lights) & names
    keyframe_of = [step // KEYFRAME_STEPS for step in range(STEPS)]
    red = [tuple(name for name in dict.fromkeys(frame.red) if name in lights) for frame in ahead]
    stamps = np.array([frame.stamp_us for frame in past], dtype=float)
    return Scene(
        name=here.token,
        ego=here.state,
        areas=seen.areas,
        centerline=seen.centerline,
        # the official list goes to the end of the route; only lanes near the ego can hold it
        route_lanes=frozenset(seen.route_lanes) & names,
        traffic={version: _agents(ahead, count) for version, count in FRAMES.items()},
        red_lights=tuple(red[k] for k in keyframe_of),
        history=past_states(stamps, np.stack([frame.state for frame in past])),
        human=to_local(here.pose, np.stack([frame.pose for frame in ahead[1 : WAYPOINTS + 1]])),
        start_us=here.stamp_us,
    )


def _agents(frames: Sequence[Frame], count: int) -> Agents:
    """Tracks in the first `count` frames at 10 Hz, with type and size of their first keyframe."""
    first: dict[str, Box] = {}
    keys: dict[str, list[tuple[int, Box]]] = {}
    for k, frame in enumerate(frames[: (count - 1) // KEYFRAME_STEPS + 1]):
        for box in frame.boxes:
            first.setdefault(box.track, box)
            keys.setdefault(box.track, []).append((k, box))
    tracks = [
        (np.array([k for k, _ in seen]), np.array([(box.x, box.y, box.heading, box.vx, box.vy) for _, box in seen])) for seen in keys.values()
    ]
    return Agents(
        tokens=tuple(first),
        types=tuple(box.type for box in first.values()),
        sizes=np.array([(box.length_m, box.width_m) for box in first.values()]).reshape(-1, 2),
        frames=densify(tracks, count),
    )


class Chronicle:
    """Collects what the samples of one drive need to be scored later: keyframes and, per sample, its `View` of the map.

    The map is written in the form of `sim.chart.Chart`, without rounding.
    """

    def __init__(self, map_id: str, city: City):
        self._map_id, self._city = map_id, city
        self._areas: dict[tuple[str, str], tuple[int, Area]] = {}
        self._views: dict[str, dict[str, Any]] = {}
        self._first: tuple[str, ...] = ()

    def add(self, index: int, seen: View) -> None:
        """A sample whose t0 is frame `index` (at 10 Hz) of the drive."""
        self._first = self._first or seen.path
        along = [self._city.lanes[name].area for name in seen.path]
        self._views[str(index)] = {
            "areas": [self._number(area) for area in seen.areas],
            "path": [self._number(area) for area in along],
            "route_lanes": list(seen.route_lanes),
            "lights": list(seen.lights),
        }

    def chart(self) -> dict[str, Any]:
        """The map document."""
        areas = [area for _, area in self._areas.values()]
        lanes = [self._city.lanes[area.name] for area in areas if area.baseline is not None]
        document = Chart(
            map_id=self._map_id,
            areas=tuple(areas),
            edges={lane.name: lane.block for lane in lanes},
            controlled=frozenset(lane.name for lane in lanes if lane.controlled),
        )
        return document.document(digits=None)

    def guide(self) -> Guide:
        """The route of the first sample, every metre; for looking at, as every sample has its own centreline."""
        lanes = [self._city.lanes[name] for name in self._first]
        line = np.concatenate([lane.baseline for lane in lanes])
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line[:, :2], axis=0).T))])
        at = np.arange(0.0, along[-1], 1.0)
        heading = wrap(np.interp(at, along, np.unwrap(line[:, 2])))
        ends = np.cumsum([lane.length_m for lane in lanes])
        spans = tuple((float(end - lane.length_m), float(end), lane.name) for lane, end in zip(lanes, ends))
        return Guide(line=np.column_stack([*(np.interp(at, along, column) for column in line[:, :2].T), heading]), spans=spans)

    def document(self, frames: Sequence[Frame]) -> dict[str, Any]:
        """What goes into the drive's truth under `KEYFRAMES`."""
        return {"frames": [_to_entry(frame) for frame in frames], "views": self._views}

    def _number(self, area: Area) -> int:
        return self._areas.setdefault((area.layer, area.name), (len(self._areas), area))[0]


def scene_of(chart: Chart, truth: Mapping[str, Any], index: int) -> Scene:
    """The scene of the sample whose t0 is frame `index` (at 10 Hz) of a drive. DataError where the drive doesn't hold it."""
    kept = truth[KEYFRAMES]
    try:
        entry = kept["views"][str(index)]
        areas = tuple(chart.areas[k] for k in entry["areas"])
        path = [chart.areas[k] for k in entry["path"]]
        first = index // KEYFRAME_STEPS - HISTORY_FRAMES + 1
        frames = [_from_entry(row) for row in kept["frames"][first : first + HISTORY_FRAMES + FUTURE_FRAMES]]
        seen = View(
            areas=areas,
            path=tuple(area.name for area in path),
            route_lanes=tuple(entry["route_lanes"]),
            lights=tuple(entry["lights"]),
            centerline=routes.centerline(baseline(area.baseline) for area in path),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"the drive's keyframes don't hold the scene of frame {index}: {type(error).__name__} {error}") from None
    return scene(frames, seen)


def _to_entry(frame: Frame) -> dict[str, Any]:
    return {
        "token": frame.token,
        "t_us": frame.stamp_us,
        "pose": frame.pose.tolist(),
        "velocity": frame.velocity.tolist(),
        "acceleration": frame.acceleration.tolist(),
        "route": list(frame.route),
        "red": list(frame.red),
        "boxes": [list(vars(box).values()) for box in frame.boxes],
    }


def _from_entry(entry: Mapping[str, Any]) -> Frame:
    names = tuple(Box.__dataclass_fields__)
    return Frame(
        token=entry["token"],
        stamp_us=entry["t_us"],
        pose=np.array(entry["pose"]),
        velocity=np.array(entry["velocity"]),
        acceleration=np.array(entry["acceleration"]),
        route=tuple(entry["route"]),
        red=tuple(entry["red"]),
        boxes=tuple(Box(**dict(zip(names, row))) for row in entry["boxes"]),
    )
