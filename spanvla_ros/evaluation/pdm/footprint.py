"""Boxes of the ego and of the traffic: corners, centres, and whether two boxes touch."""

from __future__ import annotations

import numpy as np

from spanvla_ros.contracts import VEHICLE


def ego_centers(states: np.ndarray) -> np.ndarray:
    """Centres (..., 2) of the ego's box for states (..., >= 3) at the rear axle."""
    heading = states[..., 2]
    return states[..., :2] + VEHICLE.center_m * np.stack([np.cos(heading), np.sin(heading)], axis=-1)


def ego_corners(states: np.ndarray) -> np.ndarray:
    """Corners (..., 4, 2) of the ego's box: front left, rear left, rear right, front right."""
    return corners(ego_centers(states), states[..., 2], VEHICLE.length_m, VEHICLE.width_m)


def corners(center: np.ndarray, heading: np.ndarray, length: np.ndarray | float, width: np.ndarray | float) -> np.ndarray:
    """Corners (..., 4, 2) of boxes: front left, rear left, rear right, front right."""
    along = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * np.expand_dims(np.asarray(length) / 2, -1)
    left = np.stack([-np.sin(heading), np.cos(heading)], axis=-1) * np.expand_dims(np.asarray(width) / 2, -1)
    return np.stack([center + along + left, center - along + left, center - along - left, center + along - left], axis=-2)


def boxes_touch(
    center_a: np.ndarray,
    heading_a: np.ndarray,
    length_a: np.ndarray | float,
    width_a: np.ndarray | float,
    center_b: np.ndarray,
    heading_b: np.ndarray,
    length_b: np.ndarray | float,
    width_b: np.ndarray | float,
) -> np.ndarray:
    """True where two oriented boxes overlap or touch (separating axes); all arguments broadcast; NaN touches nothing."""
    delta = center_b - center_a
    dx, dy = delta[..., 0], delta[..., 1]
    cos_a, sin_a = np.cos(heading_a), np.sin(heading_a)
    cos_b, sin_b = np.cos(heading_b), np.sin(heading_b)
    cos = np.abs(cos_a * cos_b + sin_a * sin_b)
    sin = np.abs(sin_a * cos_b - cos_a * sin_b)
    la, wa, lb, wb = (np.asarray(value) / 2 for value in (length_a, width_a, length_b, width_b))
    return (
        (np.abs(dx * cos_a + dy * sin_a) <= la + lb * cos + wb * sin)
        & (np.abs(dy * cos_a - dx * sin_a) <= wa + lb * sin + wb * cos)
        & (np.abs(dx * cos_b + dy * sin_b) <= lb + la * cos + wa * sin)
        & (np.abs(dy * cos_b - dx * sin_b) <= wb + la * sin + wa * cos)
    )
