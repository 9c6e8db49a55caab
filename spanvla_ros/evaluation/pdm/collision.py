"""NC, TTC and TLC: who touches whom, when, and whose fault it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.evaluation.pdm.areas import Whereabouts
from spanvla_ros.evaluation.pdm.footprint import boxes_touch
from spanvla_ros.evaluation.pdm.scene import MOVERS, STEP_S, STEPS, Agents, Scene
from spanvla_ros.evaluation.pdm.tracks import first_speeds
from spanvla_ros.geometry import wrap

_STANDING_MPS = 0.05
_TTC_STANDING_MPS = 0.005
_BEHIND = np.deg2rad(150.0)
_AHEAD = np.deg2rad(30.0)
TTC_OFFSETS = (0, 3, 6, 9)
_TTC_STEPS = {"v1": 41, "v2": 32}
_RED = "red connectors"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a sub-score isn't 1: the step of 0.1 s, the object (a track, a red light, a signal) and the reason in words."""

    step: int
    cause: str
    reason: str


Outcome = tuple[np.ndarray, list[Failure | None]]


def tracks_per_proposal(agents: Agents, frames: np.ndarray | None, count: int) -> np.ndarray:
    """(K, A, T, 5): reactive tracks as given, or the log's for all proposals."""
    return np.broadcast_to(agents.frames, (count, *agents.frames.shape)) if frames is None else frames


def at_fault_collisions(states: np.ndarray, where: Whereabouts, agents: Agents, frames: np.ndarray) -> Outcome:
    """NC (K,) in {0, 0.5, 1} of states (K, 41, 11) among frames (K, A, T >= 41, 5).

    0 for a fault with a vehicle, pedestrian or cyclist, 0.5 with a static object. A track that is hit without fault is ignored
    from then on; a standing ego is never at fault; a standing track always is hit by fault, however it is touched.
    """
    scores = np.ones(len(states))
    failures: list[Failure | None] = [None] * len(states)
    k, a, i = _contacts(states, where.centers, agents, frames, 0, STEPS)
    if not len(k):
        return scores, failures
    speed = np.hypot(states[k, i, 3], states[k, i, 4])
    box = frames[k, a, i]
    angle = _bearing(states[k, i], box)
    kinds = np.array([kind in MOVERS for kind in agents.types])
    static = ~kinds[a] | (first_speeds(frames)[k, a] <= _STANDING_MPS)
    heading = states[k, i, 2]
    nose = states[k, i, :2] + VEHICLE.front_m * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    front = boxes_touch(nose, heading, 0.0, VEHICLE.width_m, box[:, :2], box[:, 2], agents.sizes[a, 0], agents.sizes[a, 1])
    astray = where.multiple_lanes[k, i] | where.non_drivable[k, i]
    choices = [speed <= _STANDING_MPS, static, angle > _BEHIND, front, astray]
    verdict = np.select(choices, [0, 2, 0, 3, 4], default=0)
    words = {2: "hit a standing object", 3: "hit with the front", 4: "touched sideways while astride lanes or off the road"}
    ignored: set[tuple[int, int]] = set()
    # np.nonzero is sorted by proposal, agent, step, so each track's contacts come in the order of time
    for row in range(len(k)):
        key = (int(k[row]), int(a[row]))
        if key in ignored:
            continue
        if not verdict[row]:
            ignored.add(key)
            continue
        score = 0.0 if kinds[key[1]] else 0.5
        scores[key[0]] = min(scores[key[0]], score)
        known = failures[key[0]]
        if known is None or i[row] < known.step:
            failures[key[0]] = Failure(step=int(i[row]), cause=agents.tokens[key[1]], reason=words[int(verdict[row])])
    return scores, failures


def time_to_collision(states: np.ndarray, where: Whereabouts, agents: Agents, frames: np.ndarray, version: str) -> Outcome:
    """TTC (K,) in {0, 1}: the ego projected 0, 0.3, 0.6, 0.9 s ahead at constant speed and heading touches a track.

    It counts for tracks ahead of the rear axle, and for those beside it while the ego is astride lanes, off the road or on an
    intersection. The speed is its magnitude, so a reversing ego is projected forwards, as in the official code.
    """
    scores = np.ones(len(states))
    failures: list[Failure | None] = [None] * len(states)
    count = _TTC_STEPS[version]
    speed = np.hypot(states[..., 3], states[..., 4])
    forward = np.stack([np.cos(states[..., 2]), np.sin(states[..., 2])], axis=-1) * speed[..., None]
    found = []
    for offset in TTC_OFFSETS:
        shifted = where.centers + offset * STEP_S * forward
        last = min(count, frames.shape[2] - offset)
        k, a, i = _contacts(states, shifted, agents, frames, offset, last)
        found.append(np.stack([k, a, i, np.full(len(k), offset)], axis=-1))
    k, a, i, offset = np.concatenate(found).T
    moving = speed[k, i] >= _TTC_STANDING_MPS
    k, a, i, offset = k[moving], a[moving], i[moving], offset[moving]
    angle = _bearing(states[k, i], frames[k, a, i + offset])
    astray = where.multiple_lanes[k, i] | where.non_drivable[k, i] | where.axle_in_intersection[k, i]
    ahead = angle < _AHEAD
    guilty = ahead | (astray & (angle <= _BEHIND))
    ignored: set[tuple[int, int]] = set()
    for row in np.lexsort((offset, i, a, k)):
        key = (int(k[row]), int(a[row]))
        if key in ignored:
            continue
        if not guilty[row]:
            ignored.add(key)
            continue
        known = failures[key[0]]
        if known is None or i[row] < known.step:
            side = "ahead" if ahead[row] else "beside"
            reason = f"would touch it {side} in {offset[row] * STEP_S:.1f} s"
            failures[key[0]] = Failure(step=int(i[row]), cause=agents.tokens[key[1]], reason=reason)
            scores[key[0]] = 0.0
    return scores, failures


def red_lights(scene: Scene, where: Whereabouts) -> Outcome:
    """TLC (K,) in {0, 1}: 0 if the ego's box touches a connector in the step in which its light is red."""
    count = len(where.corners)
    scores = np.ones(count)
    failures: list[Failure | None] = [None] * count
    red = _red_connectors(scene)
    low, high = where.corners.min(axis=2), where.corners.max(axis=2)
    for name, (polygon, lit) in red.items():
        west, south, east, north = polygon.bounds
        near = (low[..., 0] <= east) & (high[..., 0] >= west) & (low[..., 1] <= north) & (high[..., 1] >= south) & lit
        k, i = np.nonzero(near)
        if not len(k):
            continue
        touching = shapely.intersects(polygon, shapely.polygons(where.corners[k, i]))
        for proposal, step in zip(k[touching].tolist(), i[touching].tolist()):
            known = failures[proposal]
            if known is None or step < known.step:
                failures[proposal] = Failure(step=step, cause=f"red_light_{name}", reason="on a connector whose light is red")
                scores[proposal] = 0.0
    return scores, failures


def _red_connectors(scene: Scene) -> dict[str, tuple[shapely.Polygon, np.ndarray]]:
    """Connector -> (prepared polygon, (41,) whether it is red), once per scene."""
    if _RED not in scene.memory:
        names = {name for step in scene.red_lights for name in step}
        polygons = {area.name: area.polygon for area in scene.areas if area.name in names and area.layer == "LANE_CONNECTOR"}
        shapely.prepare(list(polygons.values()))
        scene.memory[_RED] = {name: (polygon, np.array([name in step for step in scene.red_lights])) for name, polygon in polygons.items()}
    return scene.memory[_RED]


def _contacts(
    states: np.ndarray, centers: np.ndarray, agents: Agents, frames: np.ndarray, offset: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (proposal, agent, step), sorted, where the ego at `centers` (K, T, 2) touches an agent `offset` steps later."""
    seen = frames[:, :, offset : offset + count]
    reach = (np.hypot(VEHICLE.length_m, VEHICLE.width_m) + np.hypot(agents.sizes[:, 0], agents.sizes[:, 1])) / 2
    # most agents never come near any proposal; the log's tracks are the same for all proposals (stride 0) and looked at once
    tracks = seen[:1, ..., :2] if seen.strides[0] == 0 else seen[..., :2]
    margin = reach[:, None, None] + 1e-6
    within = (tracks >= centers.min(axis=(0, 1)) - margin) & (tracks <= centers.max(axis=(0, 1)) + margin)
    close = np.flatnonzero(within.all(axis=-1).any(axis=(0, 2)))
    seen, reach = seen[:, close], reach[close]
    delta = seen[..., :2] - centers[:, None, :count]
    # squared, with a margin for rounding; NaN (absent) compares false
    k, a, i = np.nonzero(delta[..., 0] ** 2 + delta[..., 1] ** 2 <= (reach[None, :, None] + 1e-6) ** 2)
    box = seen[k, a, i]
    a = close[a]
    touching = boxes_touch(
        centers[k, i], states[k, i, 2], VEHICLE.length_m, VEHICLE.width_m, box[:, :2], box[:, 2], agents.sizes[a, 0], agents.sizes[a, 1]
    )
    return k[touching], a[touching], i[touching]


def _bearing(states: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Angle (N,) in [0, pi] between the ego's heading and the direction from its rear axle to a track's centre."""
    delta = boxes[:, :2] - states[:, :2]
    return np.abs(wrap(np.arctan2(delta[:, 1], delta[:, 0]) - states[:, 2]))
