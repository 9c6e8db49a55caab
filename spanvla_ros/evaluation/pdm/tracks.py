"""Traffic over time: keyframes at 2 Hz to frames at 10 Hz with the ghosts of the official code, and tracks that start in the ego."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.evaluation.pdm.footprint import boxes_touch, ego_centers
from spanvla_ros.evaluation.pdm.scene import Agents
from spanvla_ros.geometry import wrap

KEYFRAME_STEPS = 5  # frames per keyframe


def densify(keyframes: Sequence[tuple[np.ndarray, np.ndarray]], frames: int) -> np.ndarray:
    """Frames (A, frames, 5) from keyframes: per agent the indices (N,) at 2 Hz and values (N, 5) of x, y, heading, vx, vy.

    Only keyframes within the window count. A track with a single one stands in every frame, as in the official code (a "ghost").
    Otherwise it is there from its first to its last keyframe; outside it is NaN.
    """
    result = np.full((len(keyframes), frames, 5), np.nan)
    for row, (index, values) in enumerate(keyframes):
        at = np.asarray(index) * KEYFRAME_STEPS
        kept = at < frames
        at, values = at[kept], np.array(values, dtype=float)[kept]
        if len(at) == 1:
            result[row] = values[0]
        elif len(at) > 1:
            values[:, 2] = np.unwrap(values[:, 2])
            steps = np.arange(at[0], at[-1] + 1)
            result[row, steps] = np.stack([np.interp(steps, at, column) for column in values.T], axis=-1)
            result[row, steps, 2] = wrap(result[row, steps, 2])
    return result


def cleared(agents: Agents, ego: np.ndarray) -> Agents:
    """v2 log replay: without the tracks whose box at t0 touches the ego's box at t0."""
    if not agents.tokens:
        return agents
    first = agents.frames[:, 0]
    center = ego_centers(ego)
    touching = boxes_touch(center, ego[2], VEHICLE.length_m, VEHICLE.width_m, first[:, :2], first[:, 2], agents.sizes[:, 0], agents.sizes[:, 1])
    return agents.without(touching)


def first_speeds(frames: np.ndarray) -> np.ndarray:
    """Speed (..., A) of each track in the first frame it is seen in; the official code never looks at later ones. NaN if never seen."""
    present = ~np.isnan(frames[..., 0])
    first = np.argmax(present, axis=-1)
    velocity = np.take_along_axis(frames[..., 3:5], first[..., None, None], axis=-2)[..., 0, :]
    return np.hypot(velocity[..., 0], velocity[..., 1])
