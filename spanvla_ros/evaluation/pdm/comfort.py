"""Comfort of v1, history comfort and extended comfort of v2, with the smoothing windows of the official code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter

from spanvla_ros.contracts import VEHICLE, DataError
from spanvla_ros.evaluation.pdm.collision import Failure
from spanvla_ros.evaluation.pdm.scene import STEP_S

SIGNALS = ("longitudinal acceleration", "lateral acceleration", "jerk", "longitudinal jerk", "yaw acceleration", "yaw rate")
_LOW = np.array([-4.05, -4.89, -8.37, -4.13, -1.93, -0.95])
_HIGH = np.array([2.40, 4.89, 8.37, 4.13, 1.93, 0.95])
_SMOOTH = 8  # even on purpose: so is the official window, with its shift of half a sample
_YAW = 5
_EXTENDED = ("acceleration", "jerk", "yaw_rate", "yaw_accel")
_EXTENDED_LIMITS = np.array([0.7, 0.5, 0.1, 0.1])
_MAX_GAP_S = 0.55


def _filter(values: np.ndarray, window: int, derivative: int = 0, order: int = 2) -> np.ndarray:
    return savgol_filter(values, window, order, deriv=derivative, delta=STEP_S if derivative else 1.0, axis=-1)


def signals(states: np.ndarray, version: str) -> np.ndarray:
    """The six signals (K, 6, N) of states (K, N, 11), in the order of SIGNALS, rounded to 8 decimals.

    v1 looks at the rear axle and fits one parabola over all samples. v2 looks at the centre, whose official acceleration
    gets the angular acceleration on its x (not its y) component.
    """
    count = states.shape[1]
    ax, ay = states[..., 5], states[..., 6]
    heading = np.unwrap(states[..., 2], axis=-1)
    if version == "v1":
        window, jerk_window = count, count
    else:
        ax = ax + VEHICLE.center_m * (states[..., 9] ** 2 + states[..., 10])
        window, jerk_window = _SMOOTH, 15
    total = np.hypot(states[..., 5], states[..., 6])
    along, across = _filter(np.stack([ax, ay]), window)
    jerk, jerk_along = _filter(_filter(np.stack([total, ax]), _SMOOTH), jerk_window, 1)
    yaw_acceleration = _filter(heading, _YAW, 2, 3)
    yaw_rate = _filter(heading, _YAW, 1)
    return np.round(np.stack([along, across, jerk, jerk_along, yaw_acceleration, yaw_rate], axis=1), 8)


def comfort(states: np.ndarray, version: str, history: np.ndarray | None = None) -> tuple[np.ndarray, list[Failure | None], np.ndarray]:
    """C of v1 or HC of v2: (K,) in {0, 1}, failures, and the six parts (K, 6). HC without a history (H, 11) is 1."""
    count, past = len(states), 0
    if version == "v2":
        if history is None:
            return np.ones(count), [None] * count, np.ones((count, 6), dtype=bool)
        past = len(history)
        states = np.concatenate([np.broadcast_to(history, (count, *history.shape)), states], axis=1)
    values = signals(states, version)
    bad = (values <= _LOW[:, None]) | (values >= _HIGH[:, None])
    parts = ~bad.any(axis=2)
    failures: list[Failure | None] = [None] * count
    for k in np.flatnonzero(~parts.all(axis=1)):
        sample = int(np.argmax(bad[k].any(axis=0)))
        signal = int(np.argmax(bad[k, :, sample]))
        value = values[k, signal, sample]
        limit = _HIGH[signal] if value > 0 else _LOW[signal]
        failures[k] = Failure(step=sample - past, cause=SIGNALS[signal], reason=f"{value:.2f} beyond {limit:.2f}")
    return parts.all(axis=1).astype(float), failures, parts


@dataclass(frozen=True, kw_only=True)
class Extended:
    """Extended comfort of K pairs: scores (K,) in {0, 1}, failures, rms: name -> (K,)."""

    scores: np.ndarray
    failures: list[Failure | None]
    rms: dict[str, np.ndarray]


def extended_comfort(current: np.ndarray, previous: np.ndarray, gap_s: float) -> Extended:
    """EC: how much the simulated states (K, 41, 11) differ from those of the plan made `gap_s` seconds earlier.

    Both are cut to the time they share before they are smoothed.
    """
    if not 0 < gap_s < _MAX_GAP_S:
        raise DataError(f"extended comfort: the frames are {gap_s} s apart, expected more than 0 and less than {_MAX_GAP_S}")
    if current.shape != previous.shape:
        raise DataError(f"extended comfort: states of shapes {current.shape} and {previous.shape} don't match")
    shift = round(gap_s / STEP_S)
    difference = _features(current[:, :-shift]) - _features(previous[:, shift:])
    rms = np.sqrt((difference**2).mean(axis=-1))
    bad = rms > _EXTENDED_LIMITS
    failures: list[Failure | None] = [None] * len(current)
    for k in np.flatnonzero(bad.any(axis=1)):
        signal = int(np.argmax(rms[k] / _EXTENDED_LIMITS))
        step = int(np.argmax(np.abs(difference[k, signal])))
        reason = f"rms difference {rms[k, signal]:.2f} to the previous plan, allowed {_EXTENDED_LIMITS[signal]}"
        failures[k] = Failure(step=step, cause=_EXTENDED[signal], reason=reason)
    return Extended(scores=np.where(bad.any(axis=1), 0.0, 1.0), failures=failures, rms=dict(zip(_EXTENDED, rms.T)))


def _features(states: np.ndarray) -> np.ndarray:
    """(K, 4, N) of acceleration, jerk, yaw rate, yaw acceleration."""
    acceleration = _filter(np.hypot(states[..., 5], states[..., 6]), _SMOOTH)
    heading = np.unwrap(states[..., 2], axis=-1)
    return np.stack([acceleration, _filter(acceleration, 15, 1), _filter(heading, _YAW, 1), _filter(heading, _YAW, 2)], axis=1)
