"""DAC, DDC, LK and progress: how a proposal uses the road."""

from __future__ import annotations

import numpy as np
import shapely

from spanvla_ros.evaluation.pdm.areas import Whereabouts
from spanvla_ros.evaluation.pdm.collision import Failure, Outcome
from spanvla_ros.evaluation.pdm.scene import Scene

_WINDOW = 11  # increments of distance in the window of DDC
_HALF_M, _FULL_M = 2.0, 6.0
_LANE_M = 0.5
_LANE_STEPS = 20
_CORNERS = ("front left", "rear left", "rear right", "front right")
PROGRESS_M = 5.0  # below this, nobody's progress is judged


def drivable_area(where: Whereabouts) -> Outcome:
    """DAC (K,) in {0, 1}: 0 if a corner is on nothing drivable in any step."""
    bad = where.non_drivable
    failures: list[Failure | None] = [None] * len(bad)
    for k in np.flatnonzero(bad.any(axis=1)):
        step = int(np.argmax(bad[k]))
        names = ", ".join(name for name, out in zip(_CORNERS, where.outside[k, step]) if out)
        failures[k] = Failure(step=step, cause="map", reason=f"off the drivable area: {names}")
    return np.where(bad.any(axis=1), 0.0, 1.0), failures


def driving_direction(where: Whereabouts, version: str) -> Outcome:
    """DDC (K,) in {0, 0.5, 1}: the most distance within a second off the lanes of the route; v2 doesn't count intersections."""
    wrong = where.oncoming.copy()
    if version == "v2":
        wrong &= ~where.center_in_intersection
    moved = np.zeros(wrong.shape)
    moved[:, 1:] = np.hypot(*np.moveaxis(np.diff(where.centers, axis=1), -1, 0))
    total = np.cumsum(np.where(wrong, moved, 0.0), axis=1)
    window = total.copy()
    window[:, _WINDOW:] -= total[:, :-_WINDOW]
    worst = window.max(axis=1)
    scores = np.where(worst < _HALF_M, 1.0, np.where(worst < _FULL_M, 0.5, 0.0))
    failures: list[Failure | None] = [None] * len(wrong)
    for k in np.flatnonzero(scores < 1):
        step = int(np.argmax(window[k] >= (_FULL_M if scores[k] == 0 else _HALF_M)))
        failures[k] = Failure(step=step, cause="map", reason=f"{window[k, step]:.1f} m within 1 s off the lanes of the route")
    return scores, failures


def lane_keeping(scene: Scene, where: Whereabouts) -> Outcome:
    """LK (K,) in {0, 1}: 0 after 20 steps in a row more than 0.5 m from the centerline; steps on intersections don't count at all."""
    count, steps = where.oncoming.shape
    points = shapely.points(where.centers)
    shapely.prepare(scene.line)
    far = ~shapely.dwithin(scene.line, points, _LANE_M)
    run = np.zeros(count, dtype=int)
    scores = np.ones(count)
    failures: list[Failure | None] = [None] * count
    for step in range(steps):
        run = np.where(where.center_in_intersection[:, step], run, np.where(far[:, step], run + 1, 0))
        for k in np.flatnonzero((run >= _LANE_STEPS) & (scores > 0)):
            scores[k] = 0.0
            failures[k] = Failure(step=step, cause="centerline", reason=f"{scene.line.distance(points[k, step]):.2f} m from it, for 2 s")
    return scores, failures


def raw_progress(scene: Scene, where: Whereabouts) -> np.ndarray:
    """Metres (K,) that the box centre moves along the centerline, not below zero."""
    ends = shapely.line_locate_point(scene.line, shapely.points(where.centers[:, [0, -1]]))
    return np.maximum(ends[:, 1] - ends[:, 0], 0.0)


def ego_progress(version: str, raw: np.ndarray, product: np.ndarray, reference_raw: np.ndarray, reference_product: np.ndarray) -> np.ndarray:
    """EP (K,) from metres and products of the multiplicative sub-scores, of the proposals and of the reference.

    v1 counts only progress without fault; v2 forgives it here (the fault costs the score elsewhere). If neither gets
    beyond 5 m, EP is 1, in v1 only without fault.
    """
    masked = raw * product
    best = np.maximum(masked, reference_raw * reference_product)
    safe = np.where(best > PROGRESS_M, best, 1.0)
    if version == "v1":
        return np.where(best > PROGRESS_M, masked / safe, np.where(product > 0, 1.0, 0.0))
    return np.where(best > PROGRESS_M, np.clip(raw / safe, 0.0, 1.0), 1.0)
