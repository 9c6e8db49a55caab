"""Lens and mounting of the cameras of a drive, as its truth holds them.

A simulated camera is a pinhole without roll ({width, height, hfov_rad, x_m, ...}, see `sim.pictures.camera`), a real one what its
CameraInfo and the static transforms say ({width, height, matrix, base_from_optical, distortion_model, distortion}).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import InputError
from spanvla_ros.data.bag import IMAGE_TYPES, Bag
from spanvla_ros.data.topics import DriveTopics
from spanvla_ros.evaluation.overlay import Camera
from spanvla_ros.planning import rig as rigs

# columns: right, down, forward of an optical frame that looks along x of base_link
_BASE_FROM_LEVEL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def of_bag(bag: Bag, topics: DriveTopics, file: Path | None = None) -> dict[str, dict[str, Any]]:
    """Camera -> document, from CameraInfo and /tf_static, or from a file like config/rigs/minisim.yaml. InputError for what is missing."""
    known = rigs.load_rig(file).cameras if file is not None else {}
    found = {}
    for name, topic in topics.cameras.items():
        bag.require(topic, IMAGE_TYPES, f"camera '{name}'")
        if file is None:
            found[name] = _recorded(bag, name, topic, topics.base_frame)
        elif name in known:
            found[name] = _from_file(known[name])
        else:
            raise InputError(f"rig {file} has no camera '{name}', only {', '.join(known)}")
    return found


def view(document: Mapping[str, Any]) -> Camera:
    """A camera of a drive's truth, of either kind, for drawing into its pictures; distortion is left out."""
    size = document["height"], document["width"]
    if "matrix" in document:
        return Camera(matrix=np.array(document["matrix"]), base_from_optical=np.array(document["base_from_optical"]), size=size)
    place = [document[key] for key in ("x_m", "y_m", "z_m")]
    return Camera(
        matrix=_pinhole(*size, document["hfov_rad"]), base_from_optical=_mounting(place, document["yaw_rad"], document["pitch_rad"]), size=size
    )


def _recorded(bag: Bag, name: str, topic: str, base_frame: str) -> dict[str, Any]:
    info = bag.camera_info(topic)
    cure = "give the car's cameras with --rig FILE (config/rigs/minisim.yaml is an example)"
    if info is None or not info.width or not np.isfinite(info.k).all() or info.k[0] <= 0:
        said = "no CameraInfo beside it" if info is None else f"a CameraInfo without calibration (fx = {info.k[0]:g}, width = {info.width})"
        raise InputError(f"camera '{name}': {topic} has {said} in {bag.path}; {cure}")
    frame = info.header.frame_id
    pose = bag.static_transform(base_frame, frame)
    if pose is None:
        raise InputError(f"camera '{name}': /tf_static of {bag.path} doesn't connect {base_frame} and {frame or 'an empty frame_id'}; {cure}")
    return {
        "width": int(info.width),
        "height": int(info.height),
        "matrix": np.reshape(info.k, (3, 3)).tolist(),
        "base_from_optical": np.round(pose, 9).tolist(),
        "distortion_model": info.distortion_model,
        "distortion": np.asarray(info.d).tolist(),
    }


def _from_file(camera: rigs.Camera) -> dict[str, Any]:
    matrix = _pinhole(camera.height, camera.width, np.radians(camera.hfov_deg))
    pose = _mounting([camera.x_m, camera.y_m, camera.z_m], np.radians(camera.yaw_deg), np.radians(camera.pitch_deg))
    shape = {"width": camera.width, "height": camera.height, "matrix": matrix.tolist(), "base_from_optical": pose.tolist()}
    return {**shape, "distortion_model": "", "distortion": []}


def _pinhole(height: int, width: int, hfov_rad: float) -> np.ndarray:
    focal = width / 2 / np.tan(hfov_rad / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _mounting(place: list[float], yaw_rad: float, pitch_rad: float) -> np.ndarray:
    """base_from_optical (4, 4) of a camera without roll, yaw to the left, then pitch down."""
    cos, sin, level, down = np.cos(yaw_rad), np.sin(yaw_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array([[level, 0, down], [0, 1, 0], [-down, 0, level]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turned @ _BASE_FROM_LEVEL, place
    return pose
