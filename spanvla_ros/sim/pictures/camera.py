"""Pinhole cameras of the simulated car and their projections."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

# what a mounting may be off by: angles, position, focal length (share)
_JITTER_RAD, _JITTER_M, _JITTER_FOCAL = math.radians(1.0), 0.04, 0.01


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera without roll. x_m, y_m, z_m: mounting in base_link; yaw_rad: viewing direction, left positive;
    pitch_rad: down positive, as turning about base_link's y axis."""

    name: str
    width: int
    height: int
    hfov_rad: float
    x_m: float
    y_m: float = 0.0
    z_m: float
    yaw_rad: float = 0.0
    pitch_rad: float = 0.0

    @property
    def focal_px(self) -> float:
        return self.width / 2 / math.tan(self.hfov_rad / 2)

    @property
    def intrinsics(self) -> np.ndarray:
        """K (3, 3); the principal point is the middle of the picture."""
        return np.array([[self.focal_px, 0, self.width / 2], [0, self.focal_px, self.height / 2], [0, 0, 1]])

    def jittered(self, rng: np.random.Generator) -> Camera:
        """This camera as another car carries it: +-1 deg in yaw and pitch, +-4 cm, +-1 % focal length."""
        yaw, pitch = rng.uniform(-_JITTER_RAD, _JITTER_RAD, 2)
        x, y, z = rng.uniform(-_JITTER_M, _JITTER_M, 3)
        focal = self.focal_px * (1.0 + rng.uniform(-_JITTER_FOCAL, _JITTER_FOCAL))
        return dataclasses.replace(
            self,
            hfov_rad=2 * math.atan(self.width / 2 / focal),
            x_m=self.x_m + float(x),
            y_m=self.y_m + float(y),
            z_m=self.z_m + float(z),
            yaw_rad=self.yaw_rad + float(yaw),
            pitch_rad=self.pitch_rad + float(pitch),
        )

    def eye(self, pose: np.ndarray) -> np.ndarray:
        """Position and viewing direction (x, y, z, yaw, pitch) in the world of a camera on a car at `pose` (3,)."""
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        x, y = pose[0] + self.x_m * cos - self.y_m * sin, pose[1] + self.x_m * sin + self.y_m * cos
        return np.array([x, y, self.z_m, pose[2] + self.yaw_rad, self.pitch_rad])

    def axes(self, pose: np.ndarray) -> np.ndarray:
        """World directions (3, 3) of the camera on a car at `pose`; rows: right, up, ahead."""
        yaw = pose[2] + self.yaw_rad
        cos, sin = math.cos(yaw), math.sin(yaw)
        level, down = math.cos(self.pitch_rad), math.sin(self.pitch_rad)
        return np.array([[sin, -cos, 0.0], [down * cos, down * sin, level], [level * cos, level * sin, -down]])

    def project(self, pose: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels u, v and depth [m] of world points (N, 3). Points behind the camera get pixels as if a hand's breadth before it."""
        right, up, depth = self.axes(pose) @ (points - self.eye(pose)[:3]).T
        safe = np.maximum(depth, 0.2)
        return self.width / 2 + right / safe * self.focal_px, self.height / 2 - up / safe * self.focal_px, depth

    def clip_matrix(self, pose: np.ndarray, near: float = 0.3, far: float = 400.0) -> np.ndarray:
        """World -> OpenGL clip space (4, 4)."""
        rotation = self.axes(pose) * [[1.0], [1.0], [-1.0]]  # rows: right, up, backward
        view = np.eye(4)
        view[:3, :3] = rotation
        view[:3, 3] = -rotation @ self.eye(pose)[:3]
        projection = np.zeros((4, 4))
        projection[0, 0] = 2 * self.focal_px / self.width
        projection[1, 1] = 2 * self.focal_px / self.height
        projection[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
        projection[3, 2] = -1
        return projection @ view


# the rig of config/rigs/minisim.yaml; its front camera alone is that of config/rigs/demo.yaml
FRONT = Camera(name="front", width=448, height=252, hfov_rad=math.radians(70), x_m=1.5, z_m=1.55)
FRONT_LEFT = Camera(name="front_left", width=448, height=252, hfov_rad=math.radians(70), x_m=1.4, y_m=0.45, z_m=1.55, yaw_rad=math.radians(55))
FRONT_RIGHT = Camera(name="front_right", width=448, height=252, hfov_rad=math.radians(70), x_m=1.4, y_m=-0.45, z_m=1.55, yaw_rad=math.radians(-55))
CAMERAS = {camera.name: camera for camera in (FRONT, FRONT_LEFT, FRONT_RIGHT)}
