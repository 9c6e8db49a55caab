"""A log of NAVSIM / OpenScene: frames at 2 Hz with ego, boxes, route, lights and the paths of the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import Command, DataError
from spanvla_ros.data.navsim.pickles import read_pickle
from spanvla_ros.data.navsim.splits import FUTURE_FRAMES, HISTORY_FRAMES, SceneFilter
from spanvla_ros.evaluation.pdm.scene import MOVERS, STATICS
from spanvla_ros.geometry import to_global

INTERVAL_S = 0.5
COMMANDS = (Command.LEFT, Command.STRAIGHT, Command.RIGHT, Command.UNKNOWN)  # order of the one-hot driving_command
_TOLERANCE_S = 0.06  # frames that are further from 0.5 s apart belong to different drives
_MOST_BOXES = 2000


@dataclass(frozen=True, kw_only=True)
class Box:
    """An annotated object in the global frame: centre, heading, size [m], velocity [m/s] (0 for static things, as in the devkit)."""

    track: str
    type: str
    x: float
    y: float
    heading: float
    length_m: float
    width_m: float
    vx: float
    vy: float


@dataclass(frozen=True, kw_only=True)
class Camera:
    """path: of the picture below the sensor folder; intrinsics (3, 3); rotation (3, 3) and position (3,) in base_link."""

    path: str
    intrinsics: np.ndarray
    rotation: np.ndarray
    position: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One keyframe. log: name of the log's file, by which splits are made; pose (3,) of the rear axle in the city's UTM frame; velocity and
    acceleration (2,) in the ego frame; route: roadblocks as logged; red: lane connectors whose light is red."""

    token: str
    stamp_us: int
    pose: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    route: tuple[str, ...]
    red: tuple[str, ...]
    boxes: tuple[Box, ...]
    log: str = ""
    city: str = ""
    command: Command = Command.UNKNOWN
    cameras: Mapping[str, Camera] = field(default_factory=dict)

    @property
    def state(self) -> np.ndarray:
        """(11,) of the PDM score; logs know no steering and no turn rates."""
        return np.concatenate([self.pose, self.velocity, self.acceleration, np.zeros(4)])


def read_log(path: Path) -> list[Frame]:
    """All frames of a log. DataError where it is no list of frames or one lacks or breaks a field."""
    entries = read_pickle(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} is no log: expected a list of frames, it holds a {type(entries).__name__}")
    return [_frame(entry, path.stem, f"{path} frame {number}") for number, entry in enumerate(entries)]


def windows(frames: Sequence[Frame], chosen: SceneFilter) -> Iterator[int]:
    """Index of t0 of every scene that the filter keeps, as the devkit cuts a log, without those that a gap in time runs through."""
    length = HISTORY_FRAMES + FUTURE_FRAMES
    stamps = np.array([frame.stamp_us for frame in frames]) * 1e-6
    broken = np.abs(np.diff(stamps) - INTERVAL_S) > _TOLERANCE_S
    for first in range(0, len(frames) - length + 1, chosen.interval):
        t0 = first + HISTORY_FRAMES - 1
        if (chosen.has_route and not frames[t0].route) or broken[first : first + length - 1].any():
            continue
        if chosen.tokens is None or frames[t0].token in chosen.tokens:
            yield t0


def yaw_of(quaternion: Any) -> float:
    """Heading of (w, x, y, z) as pyquaternion's yaw_pitch_roll gives it to the devkit: of the intrinsic rotation x-y-z, not z-y-x."""
    w, x, y, z = np.asarray(quaternion, dtype=float) / np.linalg.norm(np.asarray(quaternion, dtype=float))
    return math.atan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))


def rotation_of(quaternion: Any) -> np.ndarray:
    """Rotation matrix (3, 3) of (w, x, y, z)."""
    w, x, y, z = np.asarray(quaternion, dtype=float) / np.linalg.norm(np.asarray(quaternion, dtype=float))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _frame(entry: Any, log: str, where: str) -> Frame:
    try:
        place = _numbers(entry["ego2global_translation"], (3,), "ego2global_translation")
        pose = np.array([place[0], place[1], yaw_of(_numbers(entry["ego2global_rotation"], (4,), "ego2global_rotation"))])
        motion = _numbers(entry["ego_dynamic_state"], (4,), "ego_dynamic_state")
        return Frame(
            token=str(entry["token"]),
            stamp_us=int(entry["timestamp"]),
            pose=pose,
            # the devkit keeps these as float32
            velocity=motion[:2].astype(np.float32).astype(float),
            acceleration=motion[2:].astype(np.float32).astype(float),
            route=tuple(str(name) for name in entry["roadblock_ids"]),
            red=tuple(str(name) for name, red in entry["traffic_lights"] if red),
            boxes=tuple(_boxes(entry["anns"], pose)),
            log=log,
            city=str(entry["map_location"]),
            command=_command(_numbers(entry["driving_command"], (4,), "driving_command")),
            cameras=_cameras(entry),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
        raise DataError(f"{where} {what}") from None


def _command(one_hot: np.ndarray) -> Command:
    return COMMANDS[int(np.argmax(one_hot))] if one_hot.max() > 0 else Command.UNKNOWN


def _boxes(annotations: Mapping[str, Any], pose: np.ndarray) -> Iterator[Box]:
    """gt_boxes (N, 7) in the ego frame: x, y, z, length, width, height, heading. A track that is there twice counts once."""
    names, tracks = list(annotations["gt_names"]), list(annotations["track_tokens"])
    count = len(tracks)
    if count > _MOST_BOXES or len(names) != count:
        raise ValueError(f"{count} boxes with {len(names)} names")
    boxes = _numbers(annotations["gt_boxes"], (count, 7), "gt_boxes")
    speeds = _numbers(annotations["gt_velocity_3d"], (count, 3), "gt_velocity_3d")
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    seen: set[str] = set()
    for name, track, box, speed in zip(names, tracks, boxes, speeds):
        kind = str(name).upper()
        if kind not in MOVERS | STATICS:
            if kind == "EGO":
                continue
            raise ValueError(f"object of type {str(name)!r}")
        if track in seen:
            continue
        seen.add(track)
        x, y, heading = to_global(pose, box[[0, 1, 6]])
        moves = kind in MOVERS
        yield Box(
            track=str(track),
            type=kind,
            x=float(x),
            y=float(y),
            heading=float(heading),
            length_m=float(box[3]),
            width_m=float(box[4]),
            vx=float(speed[0] * cos - speed[1] * sin) if moves else 0.0,
            vy=float(speed[0] * sin + speed[1] * cos) if moves else 0.0,
        )


def _cameras(entry: Mapping[str, Any]) -> dict[str, Camera]:
    """Cameras with a picture; their mounting goes over the lidar, to which the logs relate them."""
    turn, shift = np.eye(3), np.zeros(3)
    if "lidar2ego_rotation" in entry:
        turn = rotation_of(_numbers(entry["lidar2ego_rotation"], (4,), "lidar2ego_rotation"))
        shift = _numbers(entry["lidar2ego_translation"], (3,), "lidar2ego_translation")
    return {
        str(name).upper(): Camera(
            path=str(camera["data_path"]),
            intrinsics=_numbers(camera["cam_intrinsic"], (3, 3), f"{name} cam_intrinsic"),
            rotation=turn @ _numbers(camera["sensor2lidar_rotation"], (3, 3), f"{name} sensor2lidar_rotation"),
            position=turn @ _numbers(camera["sensor2lidar_translation"], (3,), f"{name} sensor2lidar_translation") + shift,
        )
        for name, camera in entry["cams"].items()
        if camera and camera.get("data_path")
    }


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A float array of exactly this shape and finite; lists are measured before numpy copies them."""
    if isinstance(value, (list, tuple)):
        rows = value if len(shape) > 1 else [value]
        if len(value) != shape[0] or any(not isinstance(row, (list, tuple, np.ndarray)) or len(row) != shape[-1] for row in rows):
            raise ValueError(f"{name} is not of shape {shape}")
    array = np.asarray(value, dtype=float)
    if array.size == 0 and 0 in shape:
        return np.zeros(shape)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is of shape {array.shape} or not finite, expected {shape}")
    return array
