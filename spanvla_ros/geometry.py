"""SE(2) poses as rows (x, y, yaw), resampling by stamp, kinematics of trajectories."""

from __future__ import annotations

import numpy as np


def wrap(angle: np.ndarray | float) -> np.ndarray | float:
    """Angle in radians to (-pi, pi]."""
    return np.pi - np.mod(np.pi - angle, 2 * np.pi)


def to_local(origin: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Express poses (..., 3), given in the frame of `origin` (..., 3), relative to `origin`; one origin or one per pose."""
    cos, sin = np.cos(origin[..., 2]), np.sin(origin[..., 2])
    delta = poses - origin
    return np.stack(
        [cos * delta[..., 0] + sin * delta[..., 1], -sin * delta[..., 0] + cos * delta[..., 1], wrap(delta[..., 2])], axis=-1
    )


def to_global(origin: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Inverse of `to_local`."""
    cos, sin = np.cos(origin[..., 2]), np.sin(origin[..., 2])
    x, y = poses[..., 0], poses[..., 1]
    return np.stack([origin[..., 0] + cos * x - sin * y, origin[..., 1] + sin * x + cos * y, wrap(origin[..., 2] + poses[..., 2])], axis=-1)


def interpolate_poses(stamps: np.ndarray, poses: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Poses (N, 3) at increasing `stamps` (N,), linear in x and y and along the shorter arc in yaw, at `at` (M,) -> (M, 3)."""
    yaw = np.unwrap(poses[:, 2])
    return np.stack([np.interp(at, stamps, poses[:, 0]), np.interp(at, stamps, poses[:, 1]), wrap(np.interp(at, stamps, yaw))], axis=-1)


def constant_turn(speed_mps: float, yaw_rate_rps: float, times_s: np.ndarray) -> np.ndarray:
    """Poses (T, 3) in base_link of a car that keeps its speed and yaw rate."""
    angle = yaw_rate_rps * times_s
    # sin(a)/a and (1-cos(a))/a, written so that a straight line is no special case
    x = speed_mps * times_s * np.sinc(angle / np.pi)
    y = speed_mps * times_s * np.sin(angle / 2) * np.sinc(angle / (2 * np.pi))
    return np.stack([x, y, wrap(angle)], axis=-1)


def clamped_spline(knots: np.ndarray, values: np.ndarray, start_slope: np.ndarray, at: np.ndarray) -> np.ndarray:
    """C2 cubic spline through `values` (K, D) at `knots` (K,), with a given slope (D,) at the start and zero curvature at the end, evaluated at `at` (M,) -> (M, D)."""
    step = np.diff(knots)
    count = len(knots)
    matrix = np.zeros((count, count))
    right = np.zeros((count, values.shape[1]))
    # unknowns are the slopes at the knots; the first is given, the last row asks for zero second derivative
    matrix[0, 0] = 1
    right[0] = start_slope
    for i in range(1, count - 1):
        a, b = step[i - 1], step[i]
        matrix[i, i - 1 : i + 2] = 1 / a, 2 / a + 2 / b, 1 / b
        right[i] = 3 * (values[i] - values[i - 1]) / a**2 + 3 * (values[i + 1] - values[i]) / b**2
    matrix[-1, -2:] = 1 / step[-1], 2 / step[-1]
    right[-1] = 3 * (values[-1] - values[-2]) / step[-1] ** 2
    slope = np.linalg.solve(matrix, right)
    return _hermite(knots, values, slope, at)


def monotone_cubic(knots: np.ndarray, values: np.ndarray, start_slope: float, at: np.ndarray) -> np.ndarray:
    """C1 cubic through non-decreasing `values` (K,) at `knots` (K,) that never decreases either (Fritsch and Butland's slopes), at `at` (M,).

    The start slope is kept as far as monotony allows.
    """
    rise = np.diff(values) / np.diff(knots)
    slope = np.zeros(len(knots))
    both = (rise[:-1] > 0) & (rise[1:] > 0)
    slope[1:-1][both] = 2 * rise[:-1][both] * rise[1:][both] / (rise[:-1] + rise[1:])[both]
    slope[0] = np.clip(start_slope, 0, 3 * rise[0])
    slope[-1] = np.clip(1.5 * rise[-1] - 0.5 * slope[-2], 0, 3 * rise[-1])
    return _hermite(knots, values[:, None], slope[:, None], at)[:, 0]


def _hermite(knots: np.ndarray, values: np.ndarray, slope: np.ndarray, at: np.ndarray) -> np.ndarray:
    i = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    step = np.diff(knots)
    h = step[i][:, None]
    s = ((at - knots[i]) / step[i])[:, None]
    return (
        (1 + 2 * s) * (1 - s) ** 2 * values[i]
        + s * (1 - s) ** 2 * h * slope[i]
        + s**2 * (3 - 2 * s) * values[i + 1]
        + s**2 * (s - 1) * h * slope[i + 1]
    )
