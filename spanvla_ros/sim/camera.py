"""Pinhole cameras of the simulated car and their projections."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A level pinhole camera. x_m, y_m, z_m: mounting in base_link; yaw_rad: viewing direction, left positive."""

    name: str
    width: int
    height: int
    hfov_rad: float
    x_m: float
    y_m: float = 0.0
    z_m: float
    yaw_rad: float = 0.0

    @property
    def focal_px(self) -> float:
        return self.width / 2 / math.tan(self.hfov_rad / 2)

    @property
    def intrinsics(self) -> np.ndarray:
        """K (3, 3); the principal point is the middle of the picture."""
        return np.array([[self.focal_px, 0, self.width / 2], [0, self.focal_px, self.height / 2], [0, 0, 1]])

    def eye(self, pose: np.ndarray) -> np.ndarray:
        """Position and viewing direction (x, y, z, yaw) in the world of a camera on a car at `pose` (3,)."""
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        return np.array([
            pose[0] + self.x_m * cos - self.y_m * sin, pose[1] + self.x_m * sin + self.y_m * cos, self.z_m, pose[2] + self.yaw_rad
        ])  # fmt: skip

    def project(self, pose: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels u, v and depth [m] of world points (N, 3). Points behind the camera get a small positive depth."""
        eye = self.eye(pose)
        cos, sin = math.cos(eye[3]), math.sin(eye[3])
        delta = points - eye[:3]
        depth = cos * delta[:, 0] + sin * delta[:, 1]
        left = -sin * delta[:, 0] + cos * delta[:, 1]
        safe = np.maximum(depth, 0.2)
        return self.width / 2 - left / safe * self.focal_px, self.height / 2 - delta[:, 2] / safe * self.focal_px, depth

    def clip_matrix(self, pose: np.ndarray, near: float = 0.3, far: float = 400.0) -> np.ndarray:
        """World -> OpenGL clip space (4, 4)."""
        eye = self.eye(pose)
        cos, sin = math.cos(eye[3]), math.sin(eye[3])
        # rows: right, up, backward
        rotation = np.array([[sin, -cos, 0.0], [0.0, 0.0, 1.0], [-cos, -sin, 0.0]])
        view = np.eye(4)
        view[:3, :3] = rotation
        view[:3, 3] = -rotation @ eye[:3]
        projection = np.zeros((4, 4))
        projection[0, 0] = 2 * self.focal_px / self.width
        projection[1, 1] = 2 * self.focal_px / self.height
        projection[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
        projection[3, 2] = -1
        return projection @ view


# the rig of config/rigs/demo.yaml
FRONT = Camera(name="front", width=448, height=252, hfov_rad=math.radians(70), x_m=1.5, z_m=1.55)
CAMERAS = {FRONT.name: FRONT}
