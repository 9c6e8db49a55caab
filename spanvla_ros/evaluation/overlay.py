"""Plans drawn into camera pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spanvla_ros.contracts import VEHICLE, InputError
from spanvla_ros.planning.rig import Camera as Mounting

PLAN_RGB, TRUTH_RGB, CAPTION_RGB = (40, 160, 255), (255, 170, 40), (255, 255, 255)
NEAR_M = 0.5
DEMO_MOUNTING = Mounting(width=448, height=252, hfov_deg=70.0, x_m=1.5, y_m=0.0, z_m=1.55)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Pinhole camera: matrix (3, 3) in pixels of `size` (height, width), base_from_optical (4, 4), base_link on the ground."""

    matrix: np.ndarray
    base_from_optical: np.ndarray
    size: tuple[int, int]

    @classmethod
    def mounted(cls, mounting: Mounting, size: tuple[int, int]) -> Camera:
        """A camera of a rig file, for pictures of `size`."""
        height, width = size
        focal = mounting.focal_px * width / mounting.width
        matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return cls(matrix=matrix, base_from_optical=mounting.base_from_optical, size=size)

    @classmethod
    def level(cls, size: tuple[int, int]) -> Camera:
        """The front camera of the demo model."""
        return cls.mounted(DEMO_MOUNTING, size)

    def project(self, points_base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 3) in base_link -> pixels (N, 2) and whether each lies in front of the camera (N,)."""
        rotation, position = self.base_from_optical[:3, :3], self.base_from_optical[:3, 3]
        optical = (points_base - position) @ rotation
        depth = np.maximum(optical[:, 2:], 1e-6)
        return (optical / depth @ self.matrix.T)[:, :2], optical[:, 2] > NEAR_M


def draw_plan(
    rgb: np.ndarray, camera: Camera, poses_base: np.ndarray, color: tuple[int, int, int] = PLAN_RGB, width_m: float = VEHICLE.width_m
) -> np.ndarray:
    """A copy of `rgb` (H, W, 3) with the strip of ground that a car of `width_m` on `poses_base` (T, 3) covers.

    The strip starts under the car; poses without motion give an untouched copy.
    """
    if rgb.shape[:2] != tuple(camera.size):
        raise InputError(f"picture of {rgb.shape[1]}x{rgb.shape[0]} pixels, but the camera is calibrated for {camera.size[1]}x{camera.size[0]}")
    path = _dense(np.concatenate([np.zeros((1, 3)), poses_base]))
    side = width_m / 2 * np.column_stack([-np.sin(path[:, 2]), np.cos(path[:, 2])])
    edges, shown = [], np.ones(len(path), bool)
    for sign in (1, -1):
        pixels, ahead = camera.project(np.column_stack([path[:, :2] + sign * side, np.zeros(len(path))]))
        edges.append(pixels)
        shown &= ahead
    layer, limit = rgb.copy(), 4.0 * max(rgb.shape[:2])
    left, right = (np.clip(e, -limit, limit).round().astype(np.int32) for e in edges)
    for i in np.flatnonzero(shown[:-1] & shown[1:]):
        cv2.fillConvexPoly(layer, np.stack([left[i], left[i + 1], right[i + 1], right[i]]), color, cv2.LINE_AA)
    drawn = cv2.addWeighted(layer, 0.4, rgb, 0.6, 0)
    for edge in (left, right):
        for i in np.flatnonzero(shown[:-1] & shown[1:]):
            cv2.line(drawn, edge[i].tolist(), edge[i + 1].tolist(), color, 1, cv2.LINE_AA)
    return drawn


def draw_line(rgb: np.ndarray, camera: Camera, poses_base: np.ndarray, color: tuple[int, int, int] = TRUTH_RGB) -> np.ndarray:
    """A copy of `rgb` with a thin line on the ground along `poses_base` (T, 3)."""
    drawn = rgb.copy()
    points = _dense(poses_base)[:, :2]
    pixels, ahead = camera.project(np.column_stack([points, np.zeros(len(points))]))
    limit = 4.0 * max(rgb.shape[:2])
    pixels = np.clip(pixels, -limit, limit).round().astype(np.int32)
    for i in np.flatnonzero(ahead[:-1] & ahead[1:]):
        cv2.line(drawn, pixels[i].tolist(), pixels[i + 1].tolist(), color, 2, cv2.LINE_AA)
    return drawn


def caption(rgb: np.ndarray, lines: Sequence[str], height_px: int = 18, min_lines: int = 1) -> np.ndarray:
    """`rgb` with a dark strip below that holds the text lines; long lines wrap, `min_lines` keeps room."""
    scale = height_px / 36
    font = cv2.FONT_HERSHEY_SIMPLEX
    width = rgb.shape[1]
    wrapped = [part for line in lines for part in _wrap(line, lambda t: cv2.getTextSize(t, font, scale, 1)[0][0] <= width - 12)]
    strip = np.full((height_px * max(len(wrapped), min_lines) + 8, width, 3), 24, np.uint8)
    for i, text in enumerate(wrapped):
        cv2.putText(strip, text, (6, height_px * (i + 1) - 2), font, scale, CAPTION_RGB, 1, cv2.LINE_AA)
    return np.concatenate([rgb, strip])


def _dense(poses: np.ndarray, count: int = 80) -> np.ndarray:
    at, knots = np.linspace(0, len(poses) - 1, count), np.arange(len(poses))
    return np.column_stack([np.interp(at, knots, poses[:, 0]), np.interp(at, knots, poses[:, 1]), np.interp(at, knots, np.unwrap(poses[:, 2]))])


def _wrap(text: str, fits) -> list[str]:
    """Words of `text` in as few lines as `fits` allows; always at least one line."""
    lines = [""]
    for word in text.encode("ascii", "replace").decode().split():
        longer = f"{lines[-1]} {word}".strip()
        if fits(longer) or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
