"""The pictures of a stretch of a NAVSIM log, as files and as cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim.logs import Frame
from spanvla_ros.data.navsim.splits import HISTORY_FRAMES
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.sim.pictures.camera import Camera


class Pictures:
    """The files of the frames below `sensors`, each read once while it is needed. cameras: name in the sample -> NAVSIM's."""

    def __init__(self, sensors: Path, cameras: Mapping[str, str], frames: Sequence[Frame]):
        self._sensors, self._cameras, self._frames = sensors, cameras, frames
        self._held: dict[Path, bytes] = {}

    def missing(self, index: int) -> str | None:
        """Why the pictures of the sample at frame `index` can't be used, None where they can."""
        for camera in self._cameras.values():
            for frame in self._frames[index - HISTORY_FRAMES + 1 : index + 1]:
                if camera not in frame.cameras:
                    return f"no camera {camera} in the log"
                path = self._path(frame, camera)
                if not path.is_file():
                    return "picture missing"
                if not _whole(path):
                    return "picture damaged"
        return None

    def jpegs(self, index: int, stamps: Sequence[int]) -> dict[str, list[tuple[int, bytes]]]:
        """camera -> (stamp, bytes) of the four frames up to `index`."""
        around = self._frames[index - HISTORY_FRAMES + 1 : index + 1]
        needed = {(name, k): self._path(frame, camera) for name, camera in self._cameras.items() for k, frame in enumerate(around)}
        self._held = {path: self._held.get(path) or path.read_bytes() for path in needed.values()}
        return {name: [(stamp, self._held[needed[name, k]]) for k, stamp in enumerate(stamps)] for name in self._cameras}

    def camera(self, name: str, index: int) -> Camera:
        """The pinhole camera next to the calibration of a frame: without roll, principal point in the middle."""
        camera = self._frames[index].cameras[self._cameras[name]]
        height, width = decode_jpeg(self._path(self._frames[index], self._cameras[name]).read_bytes(), name).shape[:2]
        ahead = camera.rotation[:, 2]
        x, y, z = camera.position
        return Camera(
            name=name,
            width=width,
            height=height,
            hfov_rad=2 * math.atan(width / 2 / camera.intrinsics[0, 0]),
            x_m=float(x),
            y_m=float(y),
            z_m=float(z),
            yaw_rad=math.atan2(ahead[1], ahead[0]),
            pitch_rad=-math.asin(float(np.clip(ahead[2], -1, 1))),
        )

    def _path(self, frame: Frame, camera: str) -> Path:
        path = self._sensors / frame.cameras[camera].path
        if ".." in path.parts or Path(frame.cameras[camera].path).is_absolute():
            raise DataError(f"log {frame.log}: picture {frame.cameras[camera].path} leads out of the sensor folder")
        return path


def _whole(path: Path) -> bool:
    """Whether a JPEG begins and ends with its marks; what is between is decoded by `data check`."""
    with path.open("rb") as stream:
        start = stream.read(2)
        stream.seek(max(2, path.stat().st_size - 64))
        return start == b"\xff\xd8" and b"\xff\xd9" in stream.read()
