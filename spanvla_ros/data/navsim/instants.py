"""A stretch of a NAVSIM log at 10 Hz: what `sim.frame` holds of a simulated drive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.data.navsim.logs import INTERVAL_S, Frame
from spanvla_ros.evaluation.pdm.tracks import KEYFRAME_STEPS
from spanvla_ros.geometry import clamped_spline, interpolate_poses, wrap
from spanvla_ros.sim.frame import Frame as Instant
from spanvla_ros.sim.frame import Object


def instants(frames: Sequence[Frame]) -> list[Instant]:
    """A stretch of a log at 10 Hz, on a clock that ticks exactly every 0.1 s from the first frame's stamp on."""
    steps = (len(frames) - 1) * KEYFRAME_STEPS + 1
    knots, at = INTERVAL_S * np.arange(len(frames)), INTERVAL_S / KEYFRAME_STEPS * np.arange(steps)
    states = np.stack([frame.state for frame in frames])
    cos, sin = np.cos(states[0, 2]), np.sin(states[0, 2])
    slope = np.array([cos * states[0, 3] - sin * states[0, 4], sin * states[0, 3] + cos * states[0, 4]])
    ego = np.stack([np.interp(at, knots, column) for column in states.T], axis=1)
    # relative to the first place: the spline's equations lose digits on UTM coordinates
    ego[:, :2] = states[0, :2] + clamped_spline(knots, states[:, :2] - states[0, :2], slope, at)
    ego[:, 2] = interpolate_poses(knots, states[:, :3], at)[:, 2]
    objects = _objects(frames, steps)
    start_ns = frames[0].stamp_us * 1000
    return [
        Instant(
            stamp_ns=start_ns + k * NS_PER_S // 10,
            ego=ego[k],
            objects=tuple(objects[k]),
            red=frames[k // KEYFRAME_STEPS].red,
        )
        for k in range(steps)
    ]


def _objects(frames: Sequence[Frame], steps: int) -> list[list[Object]]:
    """Boxes at every step, between keyframes that both show them on the line from one to the other."""
    found: list[list[Object]] = [[] for _ in range(steps)]
    known = [{box.track: box for box in frame.boxes} for frame in frames]
    for k, boxes in enumerate(known):
        for track, box in boxes.items():
            later = known[k + 1].get(track) if k + 1 < len(known) else None
            for step in range(KEYFRAME_STEPS if later is not None else 1):
                share = step / KEYFRAME_STEPS
                end = later if later is not None else box
                found[k * KEYFRAME_STEPS + step].append(
                    Object(
                        name=track,
                        type=box.type,
                        x=box.x + share * (end.x - box.x),
                        y=box.y + share * (end.y - box.y),
                        yaw=float(wrap(box.heading + share * wrap(end.heading - box.heading))),
                        length_m=box.length_m,
                        width_m=box.width_m,
                        vx=box.vx + share * (end.vx - box.vx),
                        vy=box.vy + share * (end.vy - box.vy),
                    )
                )
    return found
