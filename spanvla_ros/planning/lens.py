"""What a camera of this car would show through the lens that the model was trained with."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from spanvla_ros.contracts import InputError, NotReady
from spanvla_ros.planning.rig import Camera

_SAME_PX = 1.0  # maps that move no pixel further than this, at the trained size, are none
_ASPECT = 0.01
_RETURN_RAD = np.radians(0.2)
_FISHEYE = ("equidistant", "fisheye")
_POLYNOMIALS = ("", "plumb_bob", "rational_polynomial")


class Lens:
    """Maps pictures of a real camera to those of the trained pinhole. InputError where the calibration can't be used.

    info: sensor_msgs/CameraInfo by attribute (k, d, distortion_model, width, height); pictures that a driver has scaled are used with
    a calibration that is scaled alike. base_from_optical (4, 4): mounting of the camera where it is known; then the view is also turned
    to the trained direction. `same` says that nothing has to be done, `covers` that every pixel of the trained view is there.
    """

    def __init__(self, name: str, camera: Camera, info: Any, base_from_optical: np.ndarray | None = None):
        self.name, self.camera = name, camera
        self._k = np.array(info.k, np.float64).reshape(3, 3)
        self._d = np.array(info.d, np.float64)
        self._size = int(info.width), int(info.height)
        self._fisheye = info.distortion_model in _FISHEYE
        if not self._fisheye and info.distortion_model not in _POLYNOMIALS:
            raise InputError(f"camera {name}: distortion model {info.distortion_model!r} is not one of {', '.join((*_POLYNOMIALS[1:], *_FISHEYE))}")
        if not (np.isfinite(self._k).all() and np.isfinite(self._d).all() and self._k[0, 0] > 0 and self._k[1, 1] > 0 and min(self._size) > 0):
            line = f"fx = {self._k[0, 0]:g}, fy = {self._k[1, 1]:g}, {self._size[0]}x{self._size[1]} px"
            raise InputError(f"camera {name}: camera_info has no calibration ({line})")
        if len(self._d) not in ((0, 4) if self._fisheye else (0, 4, 5, 8, 12, 14)):
            raise InputError(f"camera {name}: camera_info has {len(self._d)} distortion coefficients for {info.distortion_model!r}")
        self._coefficients = self._d if len(self._d) else np.zeros(4)
        turn = np.eye(3) if base_from_optical is None else base_from_optical[:3, :3].T @ camera.base_from_optical[:3, :3]
        self._pixels = self._map(turn)
        self.covers = self._covered()
        self.same = self._unmoved()
        self._maps: dict[tuple[int, int], tuple[np.ndarray, int]] = {}

    @property
    def hfov_deg(self) -> float:
        """Horizontal field of view of the real camera, without its distortion."""
        return float(np.degrees(2 * np.arctan(self._size[0] / (2 * self._k[0, 0]))))

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Picture (H, W, 3) of the real camera -> (height, width, 3) of the trained one. NotReady where its size is not that of the
        calibration, nor the same scaled."""
        size = rgb.shape[1], rgb.shape[0]
        if size not in self._maps:
            scale = np.array(size) / self._size
            if abs(scale[0] / scale[1] - 1) > _ASPECT:
                calibrated = "{}x{}".format(*self._size)
                raise NotReady("IMAGE_RESIZED", f"camera '{self.name}' sends {size[0]}x{size[1]} px, its camera_info is for {calibrated}")
            # interpolation between neighbours skips pixels where the real picture is much finer: shrink it first
            step = np.linalg.norm(np.diff(self._pixels[self.camera.height // 2], axis=0) * scale, axis=1)
            shrink = max(int(np.median(step)), 1)
            self._maps = {size: (((self._pixels + 0.5) * (scale / shrink) - 0.5).astype(np.float32), shrink)}
        pixels, shrink = self._maps[size]
        if shrink > 1:
            rgb = cv2.resize(rgb, (round(size[0] / shrink), round(size[1] / shrink)), interpolation=cv2.INTER_AREA)
        return cv2.remap(rgb, pixels, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _map(self, turn: np.ndarray) -> np.ndarray:
        """Where in the real picture the pixels of the trained one lie, (H, W, 2) float32 px; turn (3, 3): trained optical frame -> real one.
        What is behind the real camera comes to lie far outside."""
        camera, focal = self.camera, self.camera.focal_px
        # the centre of the first pixel is at 0, its corner at -0.5
        trained = np.array([[focal, 0, (camera.width - 1) / 2], [0, focal, (camera.height - 1) / 2], [0, 0, 1]])
        size = camera.width, camera.height
        # not projectPoints, which also takes the derivatives: 1.3 s and 720 MB for 1600 x 900 px, in which no heartbeat would come
        find = cv2.fisheye.initUndistortRectifyMap if self._fisheye else cv2.initUndistortRectifyMap
        pixels = np.stack(find(self._k, self._coefficients, turn.T, trained, size, cv2.CV_32FC1), axis=-1)
        x, y = (np.arange(length) + 0.5 - length / 2 for length in size)
        pixels[turn[2, 0] * x + turn[2, 1] * y[:, None] + turn[2, 2] * focal <= 0] = -1e6
        return pixels

    def _project(self, rays: np.ndarray) -> np.ndarray:
        """Directions (N, 3) in the real optical frame, ahead of it -> pixels (N, 2)."""
        none, project = np.zeros(3), cv2.fisheye.projectPoints if self._fisheye else cv2.projectPoints
        return project(rays[:, None], none, none, self._k, self._coefficients)[0].reshape(-1, 2)

    def _covered(self) -> bool:
        """Whether the border of the trained view lies within the real picture, where the distortion can be undone."""
        border = np.concatenate([self._pixels[0], self._pixels[-1], self._pixels[:, 0], self._pixels[:, -1]]).astype(np.float64)
        inside = (border >= -0.5).all() and (border[:, 0] <= self._size[0] - 0.5).all() and (border[:, 1] <= self._size[1] - 0.5).all()
        if not inside or not len(self._d):
            return bool(inside)
        # a polynomial that folds back shows one place twice
        undo = cv2.fisheye.undistortPoints if self._fisheye else cv2.undistortPoints
        back = undo(border[:, None], self._k, self._d).reshape(-1, 2)
        again = self._project(np.c_[back, np.ones(len(back))])
        reach = np.abs(back).max() if np.isfinite(back).all() else np.inf
        limit = np.tan(np.radians(self.camera.hfov_deg / 2) + np.radians(30))
        return bool(reach < limit and np.abs(again - border).max() < _RETURN_RAD * self._k[0, 0])

    def _unmoved(self) -> bool:
        """Whether the picture, scaled to the trained size, is already that of the trained camera."""
        camera = self.camera
        scale = np.array([camera.width, camera.height]) / self._size
        if abs(scale[0] / scale[1] - 1) > _ASPECT:
            return False
        x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        moved = (self._pixels + 0.5) * scale - 0.5 - np.stack([x, y], axis=-1)
        return bool(np.abs(moved).max() <= _SAME_PX)


def fitting(name: str, camera: Camera, info: Any, base_from_optical: np.ndarray | None) -> tuple[Lens | None, bool]:
    """The lens that shows the trained view, and whether it also turns to the trained direction; None where the camera doesn't see all of
    it, or its calibration can't be used."""
    for mounting in (base_from_optical, None) if base_from_optical is not None else (None,):
        try:
            lens = Lens(name, camera, info, mounting)
        except InputError:
            return None, False
        if lens.covers:
            return lens, mounting is not None
    return None, False
