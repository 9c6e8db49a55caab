"""`spanvla train codebook`: K-disk over the motions of a data set (method section 2.4).

Pick a random motion, take everything within a small distance of it away, keep the mean of what was taken; again, K times.
Frequent motions are covered first, and no two entries mean the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import ConfigError, DataError
from spanvla_ros.geometry import to_local, wrap
from spanvla_ros.model.actions import Box, Codebook, distance
from spanvla_ros.training import cache

HORIZON_S = 5.0
# record key by interval of its poses
FUTURES = {0.5: "future", 0.1: "future_10hz"}
_SHRINK = 0.8  # of the radius, where fewer than K disks cover everything


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Everything that `spanvla train codebook` may be told."""

    size: int = 2048
    interval_s: float = 0.5
    radius_m: float = 0.05  # of a disk at most, mean over the corners of the box
    box: Box = field(default_factory=Box)
    segments: int = 1_000_000  # drawn at most, to bound time and memory
    seed: int = 0
    reader: str = cache.READER

    def __post_init__(self):
        if self.size < 1 or self.radius_m <= 0 or self.segments < self.size:
            raise ConfigError(f"size {self.size}, radius_m {self.radius_m} and segments {self.segments} must be positive, segments at least size")
        if self.interval_s not in FUTURES:
            raise ConfigError(f"interval_s must be one of {sorted(FUTURES)}, is {self.interval_s}")


@dataclass(frozen=True, kw_only=True)
class Error:
    """What tokens lose of n trajectories, as distance in x and y: mean and 99th percentile over all waypoints, worst of them, mean heading."""

    count: int
    mean_m: float
    p99_m: float
    worst_m: float
    heading_rad: float


def futures(dataset: Any, interval_s: float) -> np.ndarray:
    """Futures (n, T, 3) over 5 s in base_link of all samples; pictures stay where they are. DataError where a sample has none."""
    name, count = FUTURES[interval_s], round(HORIZON_S / interval_s)
    rows = []
    for index in range(len(dataset)):
        record = dataset.record(index)
        poses = np.asarray(record.get(name, []), np.float64)
        if poses.shape != (count, 3) or not np.isfinite(poses).all():
            raise DataError(f"sample {record.get('id', index)} has no {name} of {count} poses, needed for an interval of {interval_s:g} s")
        rows.append(poses)
    return np.stack(rows)


def motions(trajectories: np.ndarray, lag: int = 1) -> np.ndarray:
    """All motions (m, 3) over `lag` waypoints in trajectories (n, T, 3), whose pose before the first is base_link."""
    poses = np.concatenate([np.zeros((len(trajectories), 1, 3)), trajectories], axis=1)
    return to_local(poses[:, :-lag], poses[:, lag:]).reshape(-1, 3)


def collect(dataset: Any, interval_s: float) -> np.ndarray:
    """All motions (m, 3) of a data set: from every tenth of a second where it stores them so finely, else back to back."""
    dense = FUTURES[min(FUTURES)]
    if dense in dataset.record(0):
        return motions(futures(dataset, min(FUTURES)), round(interval_s / min(FUTURES)))
    return motions(futures(dataset, interval_s))


def build(segments: np.ndarray, config: CodebookConfig, data_sha256: str) -> Codebook:
    """Codebook of `config.size` motions from segments (n, 3).

    Where fewer disks cover everything, they are made smaller until that many fit. DataError where the data holds too few
    different motions.
    """
    rng = np.random.default_rng(config.seed)
    if len(segments) > config.segments:
        segments = segments[rng.choice(len(segments), config.segments, replace=False)]
    different = len(np.unique(segments.round(4), axis=0))
    if different < config.size:
        raise DataError(f"the data holds {different} different motions, a codebook of {config.size} needs more; make more samples or lower size")
    radius = config.radius_m
    while (found := _disks(segments, config, radius, np.random.default_rng([config.seed, 1]))) is None:
        radius *= _SHRINK
    return Codebook(
        segments=found.astype(np.float32), interval_s=config.interval_s, box=config.box, radius_m=radius, data_sha256=data_sha256
    )


def _disks(segments: np.ndarray, config: CodebookConfig, radius: float, rng: np.random.Generator) -> np.ndarray | None:
    """The means of `size` disks; None where nothing is left before that."""
    # a disk is found among its neighbours along x only: no mean of distances is shorter than the distance of the centres
    centre = segments[:, 0] + config.box.centre_m * np.cos(segments[:, 2])
    order = np.argsort(centre, kind="stable")
    segments, centre = segments[order], centre[order]
    corners = config.box.corners(segments)
    left = np.ones(len(segments), bool)
    kept = []
    # the first disk is around standstill, and stands for exactly that
    pick, at = config.box.corners(np.zeros(3)), config.box.centre_m
    while True:
        low, high = np.searchsorted(centre, [at - radius, at + radius])
        near = low + np.flatnonzero(left[low:high])
        inside = near[distance(corners[near], pick) <= radius]
        kept.append(_mean(segments[inside]) if kept else np.zeros(3))
        left[inside] = False
        if len(kept) == config.size:
            return np.stack(kept)
        remaining = np.flatnonzero(left)
        if not len(remaining):
            return None
        chosen = remaining[rng.integers(len(remaining))]
        pick, at = corners[chosen], centre[chosen]


def _mean(segments: np.ndarray) -> np.ndarray:
    """Mean pose of motions that are all close to the first."""
    first = segments[0]
    delta = segments - first
    delta[:, 2] = wrap(delta[:, 2])
    return first + delta.mean(axis=0)


def error(codebook: Codebook, trajectories: np.ndarray) -> Error:
    """Reconstruction error of trajectories (n, T, 3)."""
    delta = codebook.detokenise(codebook.tokenise(trajectories)) - trajectories
    off = np.hypot(delta[..., 0], delta[..., 1])
    return Error(
        count=len(trajectories),
        mean_m=float(off.mean()),
        p99_m=float(np.quantile(off, 0.99)),
        worst_m=float(off.max()),
        heading_rad=float(np.abs(wrap(delta[..., 2])).mean()),
    )


def run_codebook(config: CodebookConfig, data: Path, out: Path, say: Callable[[str], None]) -> Codebook:
    """Build a codebook from the training split, write it, and say what it loses on the validation split where there is one."""
    training = _open(data, "train", config)
    segments = collect(training, config.interval_s)
    codebook = build(segments, config, training.sha256)
    codebook.save(out)
    shrunk = "" if codebook.radius_m == config.radius_m else f", disks of {codebook.radius_m:.4f} m instead of {config.radius_m:g} m"
    say(f"{len(codebook)} motions of {config.interval_s:g} s from {len(segments)} in {len(training)} samples{shrunk}: {out}")
    try:
        held_out = _open(data, "validation", config)
    except DataError as missing:
        say(f"no reconstruction error: {missing}")
        return codebook
    found = error(codebook, futures(held_out, config.interval_s))
    say(
        f"reconstruction over {HORIZON_S:g} s of {found.count} held-out samples: mean {found.mean_m:.3f} m, 99 % {found.p99_m:.3f} m, "
        f"worst {found.worst_m:.2f} m, heading {found.heading_rad:.4f} rad"
    )
    return codebook


def _open(data: Path, split: str, config: CodebookConfig) -> Any:
    return cache.open_reader(data, split, None, config.reader)
