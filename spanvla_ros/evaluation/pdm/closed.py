"""PDM-Closed, the progress reference of the PDM score: 15 proposals that follow the centerline with IDM, scored, the best chosen.

Three lateral paths (centerline, 1 m right, 1 m left) by five target speeds, after Dauner et al., "Parting with Misconceptions
about Learning-based Vehicle Motion Planning". It sees the traffic at t0 only and forecasts it at constant velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.evaluation.pdm import scorer
from spanvla_ros.evaluation.pdm.areas import contains, prepared
from spanvla_ros.evaluation.pdm.footprint import corners, ego_centers, ego_corners
from spanvla_ros.evaluation.pdm.scene import FRAMES, STEP_S, STEPS, Agents, Area, Scene
from spanvla_ros.evaluation.pdm.simulator import simulate
from spanvla_ros.evaluation.pdm.tracks import cleared
from spanvla_ros.geometry import wrap

_OFFSETS_M = (0.0, -1.0, 1.0)
_SHARES = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
_FALLBACK_MPS = 15.0
_MIN_GAP_M, _HEADWAY_S, _ACCELERATION, _DECELERATION, _EXPONENT = 1.0, 1.5, 1.5, 3.0, 10
_REFRESH = 2  # the leader is looked up every second step, in a forecast of 0.2 s
_RADIUS_M = 100.0
_NEAREST = {"VEHICLE": 50, "PEDESTRIAN": 25, "BICYCLE": 10}
_NEAREST_STATIC = 50
# movers that come towards the ego are no leaders; the official limit lies somewhere between 91 and 143 degrees
_ONCOMING = np.deg2rad(135.0)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """poses (15, 41, 3) global and scores (15,) of the proposals; the first best one is chosen."""

    poses: np.ndarray
    scores: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """Poses (41, 3) of the best proposal."""
        return self.poses[int(np.argmax(self.scores))]


class _Path:
    """A polyline with headings: positions by distance along it."""

    def __init__(self, states: np.ndarray):
        self.line = shapely.LineString(states[:, :2])
        self._distance = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(states[:, :2], axis=0).T))])
        self._states = np.column_stack([states[:, :2], np.unwrap(states[:, 2])])
        self.corridor = self.line.buffer(VEHICLE.width_m / 2, cap_style="square")
        shapely.prepare(self.corridor)

    @property
    def length(self) -> float:
        return float(self._distance[-1])

    def at(self, distance: np.ndarray) -> np.ndarray:
        """Poses (..., 3) at `distance` (...)."""
        values = [np.interp(distance, self._distance, column) for column in self._states.T]
        return np.stack([values[0], values[1], wrap(values[2])], axis=-1)


def choose(scene: Scene, version: str) -> np.ndarray:
    """Global poses (41, 3) of PDM-Closed's choice."""
    return propose(scene, version).chosen


def propose(scene: Scene, version: str) -> Offer:
    """The 15 proposals and their scores with the given version of the score, once per scene."""
    key = ("closed", version)
    if key not in scene.memory:
        if "closed" not in scene.memory:
            agents = _forecast(scene)
            scene.memory["closed"] = agents, _proposals(scene, agents)
        agents, poses = scene.memory["closed"]
        count = FRAMES[version]
        seen = Agents(tokens=agents.tokens, types=agents.types, sizes=agents.sizes, frames=agents.frames[:, :count])
        red = (scene.red_lights[0],) * STEPS if scene.red_lights else ()
        forecast = scene.changed(traffic={**scene.traffic, version: seen}, red_lights=red, references={})
        scores = scorer.score_alone(forecast, simulate(scene.ego, poses), version)
        scene.memory[key] = Offer(poses=poses, scores=scores.total)
    return scene.memory[key]


def _forecast(scene: Scene) -> Agents:
    """Tracks of t0 at constant velocity along their heading, in steps of 0.2 s held for two frames; none that touches the ego."""
    agents = scene.traffic["v2"]
    present = ~np.isnan(agents.frames[:, 0, 0]) if agents.tokens else np.zeros(0, dtype=bool)
    agents = cleared(agents.without(~present), scene.ego)
    distance = np.hypot(*(agents.frames[:, 0, :2] - ego_centers(scene.ego)).T)
    drop = distance > _RADIUS_M
    for wanted, limit in (*_NEAREST.items(), (None, _NEAREST_STATIC)):
        same = np.array([kind == wanted if wanted else kind not in _NEAREST for kind in agents.types], dtype=bool)
        for row in np.flatnonzero(same)[np.argsort(distance[same], kind="stable")][limit:]:
            drop[row] = True
    agents = agents.without(drop)
    start = agents.frames[:, 0]
    heading, velocity = start[:, 2], start[:, 3:5]
    speed = np.hypot(velocity[:, 0], velocity[:, 1])
    forward = np.abs(wrap(heading - np.arctan2(velocity[:, 1], velocity[:, 0]))) < np.pi / 2
    course = np.where(forward, heading, heading + np.pi)
    moves = np.array([kind in _NEAREST for kind in agents.types], dtype=bool)
    step_mps = np.where(moves, speed, 0.0)[:, None] * np.stack([np.cos(course), np.sin(course)], axis=-1)
    times = (np.arange(FRAMES["v1"]) // _REFRESH) * (_REFRESH * STEP_S)
    frames = np.repeat(start[:, None], FRAMES["v1"], axis=1)
    frames[..., :2] += times[:, None] * step_mps[:, None]
    return Agents(tokens=agents.tokens, types=agents.types, sizes=agents.sizes, frames=frames)


def _proposals(scene: Scene, agents: Agents) -> np.ndarray:
    """Poses (15, 41, 3)."""
    limit = _starting_lane(scene).speed_limit_mps
    wanted = (_FALLBACK_MPS if limit is None else limit) * _SHARES
    centerline = scene.centerline if scene.centerline.shape[1] > 2 else _with_heading(scene.centerline)
    boxes = shapely.polygons(
        corners(agents.frames[..., :2], agents.frames[..., 2], agents.sizes[:, 0, None], agents.sizes[:, 1, None])
    ).reshape(len(agents.tokens), FRAMES["v1"])
    red = scene.red_lights[0] if scene.red_lights else ()
    stops = np.array([area.polygon for area in scene.areas if area.layer == "LANE_CONNECTOR" and area.name in red], dtype=object)
    found = []
    for offset in _OFFSETS_M:
        shift = offset * np.stack([-np.sin(centerline[:, 2]), np.cos(centerline[:, 2])], axis=-1)
        path = _Path(np.column_stack([centerline[:, :2] + shift, centerline[:, 2]]))
        found.append(path.at(_follow(path, scene.ego, wanted, agents, boxes, stops)))
    return np.concatenate(found)


def _follow(path: _Path, ego: np.ndarray, wanted: np.ndarray, agents: Agents, boxes: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Distance (5, 41) along a path with IDM and target speeds `wanted` (5,)."""
    result = np.empty((len(wanted), STEPS))
    result[:, 0] = path.line.project(shapely.Point(ego[:2]))
    speed = np.full(len(wanted), ego[3])
    # until its first look-up the official code knows a standing leader right ahead
    leader = np.zeros((len(wanted), 2))
    for step in range(1, STEPS):
        along = result[:, step - 1]
        if step % _REFRESH == 0:
            leader = _leaders(path, along, agents, step, boxes[:, step] if len(boxes) else boxes.ravel(), stops)
        gap = np.maximum(leader[:, 0] - along, _MIN_GAP_M)
        closing = speed * (speed - leader[:, 1]) / (2 * np.sqrt(_ACCELERATION * _DECELERATION))
        wish = _MIN_GAP_M + speed * _HEADWAY_S + closing
        acceleration = _ACCELERATION * (1 - (speed / wanted) ** _EXPONENT - (wish / gap) ** 2)
        result[:, step] = along + STEP_S * speed
        speed = speed + STEP_S * np.clip(acceleration, -_DECELERATION, _ACCELERATION)
    return result


def _leaders(path: _Path, along: np.ndarray, agents: Agents, step: int, boxes: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """(5, 2): where the own rear axle would touch the leader, as distance along the path, and the leader's speed along it."""
    objects = np.concatenate([boxes, stops])
    free = np.array([path.length - VEHICLE.length_m / 2, 0.0])
    result = np.tile(free, (len(along), 1))
    if not len(objects):
        return result
    crossing = np.flatnonzero(shapely.intersects(path.corridor, objects))
    progress = shapely.line_locate_point(path.line, shapely.centroid(objects[crossing]))
    moving = np.array([index < len(boxes) and agents.types[index] in _NEAREST for index in crossing], dtype=bool)
    course = np.zeros(len(crossing))
    course[moving] = agents.frames[crossing[moving], step, 2]
    coming = moving & (np.abs(wrap(course - path.at(progress)[:, 2])) > _ONCOMING)
    crossing, progress = crossing[~coming], progress[~coming]
    poses = path.at(along)
    gaps = np.where(progress > along[:, None], shapely.distance(shapely.polygons(ego_corners(poses))[:, None], objects[crossing]), np.inf)
    speed = 0.0
    for row, gap in enumerate(gaps):
        nearest = int(np.argmin(gap)) if len(gap) else 0
        if len(gap) and np.isfinite(gap[nearest]):
            result[row, 0] = along[row] + gap[nearest]
            speed = 0.0
            if crossing[nearest] < len(boxes):
                _, _, heading, vx, vy = agents.frames[crossing[nearest], step]
                speed = np.hypot(vx, vy) * np.cos(heading - poses[row, 2])
        # a proposal with a free road gets, in the official code, the speed of the leader of the next slower one
        result[row, 1] = speed
    return result


def _starting_lane(scene: Scene) -> Area:
    """The lane on the route that holds the rear axle and fits its heading best; else the one that holds the centre, else the closest."""
    lanes = [area for area in prepared(scene) if area.name in scene.route_lanes and area.layer in ("LANE", "LANE_CONNECTOR")]
    if not lanes:
        return Area(name="", layer="LANE", polygon=shapely.Polygon())
    axle, center = shapely.Point(scene.ego[:2]), ego_centers(scene.ego)[None]
    holding = [lane for lane in lanes if lane.polygon.intersects(axle) and lane.baseline is not None]
    if holding:
        return min(holding, key=lambda lane: _heading_error(lane, scene.ego))
    for lane in lanes:
        if contains(lane.polygon, center)[0]:
            return lane
    return min(lanes, key=lambda lane: lane.polygon.distance(shapely.Point(center[0])))


def _heading_error(lane: Area, ego: np.ndarray) -> float:
    states = _with_heading(lane.baseline)
    nearest = int(np.argmin(np.hypot(*(states[:, :2] - ego[:2]).T)))
    return float(np.abs(wrap(states[nearest, 2] - ego[2])))


def _with_heading(line: np.ndarray) -> np.ndarray:
    """(N, 3) of a polyline (N, 2+): each vertex heads for the next."""
    if line.shape[1] > 2:
        return line[:, :3]
    delta = np.diff(line, axis=0)
    heading = np.arctan2(delta[:, 1], delta[:, 0])
    return np.column_stack([line, np.append(heading, heading[-1])])
