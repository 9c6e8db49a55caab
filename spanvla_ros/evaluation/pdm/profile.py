"""Speed and curvature profiles of proposals: closed-form regularised least squares, all proposals at once.

The reference of the NAVSIM tracker. Its speed fit was meant to punish jerk, but the difference matrix of the official code
leaves the sum of squared accelerations (and one true difference at the end); official numbers need exactly that.
"""

from __future__ import annotations

import functools

import numpy as np

from spanvla_ros.evaluation.pdm.scene import STEP_S, STEPS
from spanvla_ros.geometry import wrap

_COUNT = STEPS - 1
_SPEED_WEIGHT = 1e-4
_CURVATURE_WEIGHT = 1e-2
_START_WEIGHT = 1e-10


def _sums() -> np.ndarray:
    """(40, 40): profile = sums @ (start value, 39 rates)."""
    matrix = STEP_S * np.tri(_COUNT, _COUNT)
    matrix[:, 0] = 1.0
    return matrix


@functools.cache
def _speed_operator() -> np.ndarray:
    """(40, 40) from displacements along the heading to the speed profile.

    cos^2 + sin^2 = 1 makes the normal matrix the same for all proposals, so the whole fit is one matrix.
    """
    sums = _sums()
    penalty = np.zeros((_COUNT, _COUNT))
    penalty[1:38, 1:38] = np.eye(37)
    difference = np.zeros(_COUNT)
    difference[38:] = -1.0, 1.0
    penalty += np.outer(difference, difference)
    normal = STEP_S**2 * sums.T @ sums + _SPEED_WEIGHT * penalty
    return sums @ np.linalg.solve(normal, STEP_S * sums.T)


def profiles(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed (K, 40) in m/s and curvature (K, 40) in 1/m of proposals (K, 41, 3)."""
    moved = np.diff(poses, axis=1)
    heading = poses[:, :-1, 2]
    along = np.cos(heading) * moved[..., 0] + np.sin(heading) * moved[..., 1]
    speed = along @ _speed_operator().T
    sums = _sums()
    design = STEP_S * speed[..., None] * sums
    weights = np.full(_COUNT, _CURVATURE_WEIGHT)
    weights[0] = _START_WEIGHT
    normal = design.transpose(0, 2, 1) @ design + np.diag(weights)
    turned = wrap(moved[..., 2])
    right = np.einsum("kij,ki->kj", design, turned)
    curvature = np.linalg.solve(normal, right[..., None])[..., 0] @ sums.T
    return speed, curvature
