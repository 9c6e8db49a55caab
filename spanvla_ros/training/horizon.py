"""What the expert gets and is to answer, at the horizon of its own spec, and for a present later than that of the KV."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import NS_PER_S, Command, DataError, EgoHistory, ModelSpec
from spanvla_ros.data.sample import DENSE_INTERVAL_S, Sample, from_record
from spanvla_ros.planning import motion
from spanvla_ros.training import cache
from spanvla_ros.training.cache import Cache

AGES = 6  # 0, 0.1, ... 0.5 s: the steps of the dense future
VERSION = 1  # of the arrays below


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Per sample and age of the KV (A of them: 1, or AGES): ego (n, A, E), base and future (n, A, T, 3), age (n, A, 4), all float32.

    known (A, T) bool: waypoints that the data hold; the future ends 5 s after the KV, not after the later present.
    """

    ego: np.ndarray
    base: np.ndarray
    future: np.ndarray
    age: np.ndarray
    known: np.ndarray


def build(data: Cache, folder: Path, split: str, spec: ModelSpec, *, reader: str, say: Callable[[str], None]) -> Horizon:
    """Arrays of all samples of a data cache for a spec: the cache's own where they fit, else read from the data set once and kept beside it."""
    made_for = json.loads((data.path / "meta.json").read_text(encoding="utf-8"))["spec"]
    wanted = (spec.waypoints, spec.waypoint_interval_s)
    if not spec.kv_age and wanted == (made_for["waypoints"], made_for["waypoint_interval_s"]):
        age = np.tile(motion.age_features(0.0, np.zeros(3)), (len(data), 1, 1))
        known = np.ones((1, spec.waypoints), bool)
        return Horizon(ego=data["ego"][:, None], base=data["base"][:, None], future=data["future"][:, None], age=age, known=known)
    ages = AGES if spec.kv_age else 1
    path = data.path / f"horizon-{spec.waypoints}-{ages}-v{VERSION}.npz"
    if not path.exists():
        _write(path, cache.open_reader(folder, split, spec, reader), spec, ages, say)
    with np.load(path) as stored:
        return Horizon(**{name: stored[name] for name in stored.files})


def _write(path: Path, dataset: Any, spec: ModelSpec, ages: int, say: Callable[[str], None]) -> None:
    began, rows = time.monotonic(), []
    say(f"futures of {len(dataset)} samples: {spec.waypoints} waypoints, {ages} ages of the KV")
    for index in range(len(dataset)):
        sample = _without_pictures(dataset, index, spec)
        rows.append([shifted(sample, spec, DENSE_INTERVAL_S * k) for k in range(ages)])
        if (index + 1) % 5000 == 0:
            rate = (index + 1) / (time.monotonic() - began)
            say(f"  {index + 1}/{len(dataset)} samples  {rate:.0f}/s  ETA {(len(dataset) - index - 1) / rate:.0f} s")
    names = ("ego", "base", "future", "age")
    arrays = {name: np.array([[entry[name] for entry in row] for row in rows], np.float32) for name in names}
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays, known=np.array([entry["known"] for entry in rows[0]]))
    temporary.replace(path)


def _without_pictures(dataset: Any, index: int, spec: ModelSpec) -> Sample:
    """A sample; where the data set keeps records apart from pictures, these are not decoded."""
    if not hasattr(dataset, "record"):
        return dataset[index]
    return from_record(dataset.record(index), {camera: [] for camera in spec.cameras}, spec)


def shifted(sample: Sample, spec: ModelSpec, shift_s: float) -> dict[str, np.ndarray]:
    """ego, base, future, age, known of a sample whose present is `shift_s` after that of its pictures and text.

    Between the instants of the history poses are interpolated by a spline and speeds linearly; from t0 on they are those
    of the dense future. Waypoints beyond it continue its last motion, and are not known.
    """
    history, observation = sample.observation.history, sample.observation
    if shift_s == 0:
        return _row(history, observation.command, spec, sample.waypoints(spec), np.ones(spec.waypoints, bool), motion.age_features(0.0, np.zeros(3)))
    if sample.dense is None:
        raise DataError(f"sample {sample.id} has no future at 10 Hz; aged KV needs one. Collect the data again")
    offsets = (np.array(history.stamps_ns) - observation.t0_ns) / NS_PER_S
    times = np.concatenate([offsets, DENSE_INTERVAL_S * np.arange(1, len(sample.dense) + 1)])
    poses = np.concatenate([history.poses_base, sample.dense])
    yaw = np.unwrap(poses[:, 2])
    at = shift_s + np.array(spec.history_offsets_s)
    near = slice(0, len(offsets) + 10)
    slope = history.speeds_mps[0] * np.array([np.cos(yaw[0]), np.sin(yaw[0])])
    xy = geometry.clamped_spline(times[near], poses[near, :2], slope, at)
    past = np.column_stack([xy, np.interp(at, times, yaw)])
    driven, turned = _rates(times[len(offsets) - 1 :], poses[len(offsets) - 1 :])
    speeds = np.interp(at, times, np.concatenate([history.speeds_mps, driven[1:]]))
    rates = np.interp(at, times, np.concatenate([history.yaw_rates_rps, turned[1:]]))
    now = past[-1].copy()
    relative = geometry.to_local(now, past)
    relative[-1] = 0.0
    later = EgoHistory(
        stamps_ns=tuple(observation.t0_ns + round(t * NS_PER_S) for t in at),
        poses_base=relative,
        speeds_mps=speeds,
        yaw_rates_rps=rates,
        acceleration_mps2=float((speeds[-1] - speeds[-2]) / (at[-1] - at[-2])),
    )
    wanted = shift_s + spec.waypoint_interval_s * np.arange(1, spec.waypoints + 1)
    known = wanted <= times[-1] + 1e-6
    beyond = np.maximum(0.0, wanted - times[-1])
    end = geometry.constant_turn(driven[-1], turned[-1], beyond)
    future = np.where(known[:, None], geometry.interpolate_poses(times, poses, wanted), geometry.to_global(poses[-1], end))
    return _row(later, observation.command, spec, geometry.to_local(now, future), known, motion.age_features(shift_s, now))


def _rates(times: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed along x and yaw rate (N,) of poses (N, 3), by central differences."""
    velocity, yaw = np.gradient(poses[:, :2], times, axis=0), np.unwrap(poses[:, 2])
    return velocity[:, 0] * np.cos(yaw) + velocity[:, 1] * np.sin(yaw), np.gradient(yaw, times)


def _row(history: EgoHistory, command: Command, spec: ModelSpec, future: np.ndarray, known: np.ndarray, age: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "ego": motion.features(history, command),
        "base": motion.base(history, spec),
        "future": np.asarray(future, np.float32),
        "age": age,
        "known": known,
    }
