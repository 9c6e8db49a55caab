"""Scenario tags of a recorded moment by rules, from detected boxes and, where there is one, a map (categories of method section 6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spanvla_ros.geometry import to_local, wrap
from spanvla_ros.sim.chart import Chart
from spanvla_ros.sim.frame import Frame, Object

# the rarest first: the first tag of a sample is its family
NAMES = ("cut_in", "ego_lane_change", "lead_braking", "stop_sign", "vru", "construction_zone", "lane_bias")
OTHERS = "others"

_BEFORE, _AFTER = 20, 20  # frames around t0 in which a manoeuvre of somebody else shows
_AHEAD_FRAMES = 50
_STRAIGHT_ON_M = 40.0  # the driven path is continued by this, for a car that stands
_BESIDE_M, _INSIDE_M, _CUT_IN_M = 1.9, 1.2, 40.0  # from the path; a cut-in goes from beside to inside
_ALIGNED_RAD = 0.6
_LEAD_M, _BRAKES_MPS, _MOVES_MPS = 50.0, 2.0, 1.5  # a lead that loses this much speed in two seconds
_VRU_M, _VRU_SIDE_M = 30.0, 3.5
_ZONE_M, _ZONE_SIDE_M, _ZONE_THINGS = 40.0, 5.0, 3
_SIGN_M, _SIGN_SIDE_M = 30.0, 8.0
_BIAS_M, _HERE_M = 0.6, 0.05


@dataclass(frozen=True, kw_only=True)
class Tag:
    """name: one of NAMES; cause: the half sentence that it gives a reason; component: what matters, as in a sample; None for the car itself."""

    name: str
    cause: str
    component: Mapping[str, str] | None = None


def find(frames: Sequence[Frame], index: int, chart: Chart | None = None) -> list[Tag]:
    """Tags of the moment `frames[index]` of a drive at 10 Hz, in the order of NAMES. Without boxes and map there is nothing to find."""
    path = _path(frames, index)
    near = [(thing, *_on(path, np.array([[thing.x, thing.y]]))) for thing in frames[index].objects]
    found = [
        _cut_in(frames, index, path),
        _lead_braking(frames, index, near),
        _stop_sign(near),
        _vru(near),
        _construction(near),
        *(() if chart is None else (_lane_change(frames, index, chart), _lane_bias(frames, index, chart))),
    ]
    return sorted((tag for tag in found if tag is not None), key=lambda tag: NAMES.index(tag.name))


def _path(frames: Sequence[Frame], index: int) -> np.ndarray:
    """Points (N, 2) from the ego's place at t0 along what it drove next, and straight on."""
    poses = np.stack([frame.ego[:3] for frame in frames[index : index + _AHEAD_FRAMES + 1]])
    steps = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    kept = poses[np.r_[True, steps > 0.02]]
    end = kept[-1]
    return np.concatenate([kept[:, :2], [end[:2] + _STRAIGHT_ON_M * np.array([np.cos(end[2]), np.sin(end[2])])]])


def _on(path: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arc length and distance to the left (M,) of points (M, 2) on a path (N, 2); negative arc length is behind its start."""
    a, step = path[:-1], np.diff(path, axis=0)
    length = np.maximum(np.hypot(*step.T), 1e-9)
    unit = step / length[:, None]
    delta = points[:, None] - a
    along = (delta * unit).sum(2)
    inside = np.clip(along, 0.0, length)
    best = np.argmin(np.hypot(*np.moveaxis(delta - inside[..., None] * unit, 2, 0)), axis=1)
    rows = np.arange(len(points))
    # before the first segment the line goes on backwards
    where = np.where(best == 0, np.minimum(along[rows, best], length[0]), inside[rows, best])
    start = np.r_[0.0, np.cumsum(length)[:-1]][best]
    d = delta[rows, best]
    return start + where, unit[best, 0] * d[:, 1] - unit[best, 1] * d[:, 0]


def _cut_in(frames: Sequence[Frame], index: int, path: np.ndarray) -> Tag | None:
    first, last = max(0, index - _BEFORE), min(len(frames) - 1, index + _AFTER)
    before, after = ({o.name: o for o in frames[k].objects if o.type == "VEHICLE"} for k in (first, last))
    ego = _on(path, frames[last].ego[None, :2])[0][0]
    for name in before.keys() & after.keys():
        (_, s), (d0, d1) = _on(path, np.array([[before[name].x, before[name].y], [after[name].x, after[name].y]]))
        heading = frames[last].ego[2]
        if abs(d0) > _BESIDE_M and abs(d1) < _INSIDE_M and 0 < s - ego < _CUT_IN_M and abs(wrap(after[name].yaw - heading)) < _ALIGNED_RAD:
            side = "left" if d0 > 0 else "right"
            return Tag(name="cut_in", cause=f"a vehicle cuts in from the {side}", component=_part("Vehicle", "vehicle", s, "cuts in"))
    return None


def _lead_braking(frames: Sequence[Frame], index: int, near: Sequence[tuple[Object, np.ndarray, np.ndarray]]) -> Tag | None:
    leads = [(s[0], o) for o, s, d in near if o.type == "VEHICLE" and abs(d[0]) < _INSIDE_M and 0 < s[0] < _LEAD_M]
    if not leads:
        return None
    distance, lead = min(leads, key=lambda pair: pair[0])
    first, last = max(0, index - _BEFORE // 2), min(len(frames) - 1, index + _AFTER // 2)
    speeds = [next((np.hypot(o.vx, o.vy) for o in frames[k].objects if o.name == lead.name), None) for k in (first, last)]
    if None in speeds or speeds[0] < _MOVES_MPS or speeds[0] - speeds[1] < _BRAKES_MPS:
        return None
    return Tag(name="lead_braking", cause="the vehicle ahead brakes", component=_part("Vehicle", "vehicle", distance, "brakes"))


def _vru(near: Sequence[tuple[Object, np.ndarray, np.ndarray]]) -> Tag | None:
    found = [(s[0], o) for o, s, d in near if o.type in ("PEDESTRIAN", "BICYCLE") and abs(d[0]) < _VRU_SIDE_M and 0 < s[0] < _VRU_M]
    if not found:
        return None
    distance, thing = min(found, key=lambda pair: pair[0])
    kind = "pedestrian" if thing.type == "PEDESTRIAN" else "cyclist"
    return Tag(name="vru", cause=f"there is a {kind} at our path", component=_part("VRU", kind, distance, "is close to our path"))


def _construction(near: Sequence[tuple[Object, np.ndarray, np.ndarray]]) -> Tag | None:
    kinds = ("TRAFFIC_CONE", "BARRIER", "CZONE_SIGN")
    found = [(s[0], o.type) for o, s, d in near if o.type in kinds and abs(d[0]) < _ZONE_SIDE_M and 0 < s[0] < _ZONE_M]
    if len(found) < _ZONE_THINGS and "CZONE_SIGN" not in {kind for _, kind in found}:
        return None
    distance = min(s for s, _ in found)
    return Tag(name="construction_zone", cause="construction zone", component=_part("Road Events", "construction zone", distance, "narrows the road"))


def _stop_sign(near: Sequence[tuple[Object, np.ndarray, np.ndarray]]) -> Tag | None:
    found = [s[0] for o, s, d in near if o.type == "STOP_SIGN" and abs(d[0]) < _SIGN_SIDE_M and 0 < s[0] < _SIGN_M]
    if not found:
        return None
    return Tag(name="stop_sign", cause="stop sign", component=_part("Traffic Sign", "stop sign", min(found), "asks for a full stop"))


def _lane_change(frames: Sequence[Frame], index: int, chart: Chart) -> Tag | None:
    lanes = [_lane(chart, frames[k].ego) for k in (index, min(len(frames) - 1, index + _AHEAD_FRAMES))]
    if None in lanes or lanes[0] == lanes[1] or chart.edges[lanes[0]] != chart.edges[lanes[1]]:
        return None
    after = to_local(frames[index].ego[:3], frames[min(len(frames) - 1, index + _AHEAD_FRAMES)].ego[:3])
    return Tag(name="ego_lane_change", cause=f"we need the {'left' if after[1] > 0 else 'right'} lane")


def _lane_bias(frames: Sequence[Frame], index: int, chart: Chart) -> Tag | None:
    ego = frames[index].ego
    name = _lane(chart, ego)
    baseline = next((area.baseline for area in chart.areas if area.name == name), None)
    if baseline is None:
        return None
    offset = float(_on(np.asarray(baseline)[:, :2], ego[None, :2])[1][0])
    if abs(offset) < _BIAS_M:
        return None
    part = {"class": "Lane", "type": "own lane", "location": f"{abs(offset):.1f} m off its centre", "impact": "we are too far to one side"}
    return Tag(name="lane_bias", cause=f"we are {abs(offset):.1f} m off the centre of the lane", component=part)


def _lane(chart: Chart, ego: np.ndarray) -> str | None:
    """Name of the only lane under the rear axle, None in junctions and where several meet."""
    names = [area.name for area in chart.near(float(ego[0]), float(ego[1]), _HERE_M) if area.layer == "LANE"]
    return names[0] if len(names) == 1 else None


def _part(kind: str, what: str, distance_m: float, does: str) -> dict[str, str]:
    key = "impact" if kind in ("Road Events", "Traffic Sign") else "behavior"
    return {"class": kind, "type": what, "location": f"{round(float(distance_m))} m ahead", key: does}
