"""A lane-correct path through the map with everything the driver and the judge ask along it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Command
from spanvla_ros.geometry import wrap

SPACING_M = 0.5
_SMOOTH_M = 1.5


@dataclass(frozen=True, kw_only=True)
class Path:
    """Centre line from the outer end of one arm through the junction to the outer end of another, in the world frame.

    xy (N, 2), yaw (N,) unwrapped and curvature (N,) are sampled every SPACING_M; stop_s and exit_s are the arc lengths
    of the stop line and of the junction's exit. edges: SUMO ids (in, out); lanes: SUMO lane indices on them.
    """

    xy: np.ndarray
    yaw: np.ndarray
    curvature: np.ndarray
    stop_s: float
    exit_s: float
    turn: Command
    arm: int
    edges: tuple[str, str]
    lanes: tuple[int, int]

    @classmethod
    def from_points(cls, points: np.ndarray, *, stop_at: np.ndarray, exit_at: np.ndarray, **names) -> Path:
        """Path of the polyline (M, 2), resampled and smoothed; `stop_at`, `exit_at` (2,) are points of the polyline."""
        points = points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 0.05]]
        xy = _resample(_smooth(_resample(points)))
        step = np.gradient(xy, axis=0)
        yaw = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        curvature = _smooth(np.gradient(yaw, SPACING_M)[:, None])[:, 0]
        nearest = [int(np.argmin(np.hypot(*(xy - q).T))) * SPACING_M for q in (stop_at, exit_at)]
        return cls(xy=xy, yaw=yaw, curvature=curvature, stop_s=nearest[0], exit_s=nearest[1], **names)

    @property
    def length_m(self) -> float:
        return (len(self.xy) - 1) * SPACING_M

    def pose(self, s: float | np.ndarray) -> np.ndarray:
        """Pose (..., 3) of the centre line at arc length s (clipped to the path)."""
        knots = np.arange(len(self.xy)) * SPACING_M
        return np.stack(
            [np.interp(s, knots, self.xy[:, 0]), np.interp(s, knots, self.xy[:, 1]), wrap(np.interp(s, knots, self.yaw))], axis=-1
        )

    def curvature_at(self, s: float) -> float:
        return float(self.curvature[min(max(round(s / SPACING_M), 0), len(self.curvature) - 1)])

    def project(self, pose: np.ndarray, near_s: float | None = None, window_m: float = 15.0) -> tuple[float, float, float]:
        """Arc length, signed lateral offset (left positive) and heading error of a pose (3,).

        With `near_s` only that neighbourhood of the path is searched, which keeps the answer on the right branch.
        """
        low, high = 0, len(self.xy)
        if near_s is not None:
            low = max(0, int((near_s - window_m) / SPACING_M))
            high = min(high, int((near_s + window_m) / SPACING_M) + 2)
            low = min(low, high - 1)
        delta = self.xy[low:high] - pose[:2]
        i = low + int(np.argmin(delta[:, 0] ** 2 + delta[:, 1] ** 2))
        x, y = pose[0] - self.xy[i, 0], pose[1] - self.xy[i, 1]
        cos, sin = math.cos(self.yaw[i]), math.sin(self.yaw[i])
        along, lateral = cos * x + sin * y, -sin * x + cos * y
        s = min(max(i * SPACING_M + along, 0.0), self.length_m)
        heading = float(wrap(pose[2] - self.yaw[i] - self.curvature[i] * along))
        return s, float(lateral), heading

    def project_points(self, xy: np.ndarray, from_s: float, to_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Arc length (M,) and distance (M,) of points (M, 2) from the stretch [from_s, to_s] of the path."""
        low = max(0, int(from_s / SPACING_M))
        high = max(low + 1, min(len(self.xy), int(to_s / SPACING_M) + 1))
        part = self.xy[low:high]
        square = ((xy[:, None, :] - part[None]) ** 2).sum(-1)
        i = square.argmin(1)
        return (low + i) * SPACING_M, np.sqrt(square[np.arange(len(xy)), i])


@dataclass(frozen=True, kw_only=True)
class Route:
    """The stretch [start_s, end_s] of a path that an episode drives."""

    path: Path
    start_s: float
    end_s: float

    @property
    def length_m(self) -> float:
        return self.end_s - self.start_s

    @property
    def crosses(self) -> bool:
        """True if the route passes the signal."""
        return self.start_s < self.path.stop_s < self.end_s

    def completion(self, s: float) -> float:
        """Share of the route driven at arc length s, 0 to 1."""
        return min(max((s - self.start_s) / self.length_m, 0.0), 1.0)


def _resample(points: np.ndarray) -> np.ndarray:
    distance = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    at = np.arange(0, distance[-1], SPACING_M)
    return np.stack([np.interp(at, distance, points[:, k]) for k in (0, 1)], axis=-1)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Gaussian filter along axis 0 that keeps the ends in place (odd reflection)."""
    radius = int(3 * _SMOOTH_M / SPACING_M)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) * SPACING_M / _SMOOTH_M) ** 2)
    kernel /= kernel.sum()
    head = 2 * values[0] - values[radius:0:-1]
    tail = 2 * values[-1] - values[-2 : -radius - 2 : -1]
    padded = np.concatenate([head, values, tail])
    return np.stack([np.convolve(padded[:, k], kernel, mode="valid") for k in range(values.shape[1])], axis=-1)
