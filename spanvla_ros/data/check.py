"""Is a data set what it says? Schema, ids, pictures, motion, truth, splits, shares."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError, InputError, SpanVLAError
from spanvla_ros.data import labels
from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.data.scoring import scene_of
from spanvla_ros.data.shards import Dataset
from spanvla_ros.geometry import to_local
from spanvla_ros.planning.images import decode_jpeg

_ENOUGH = 400  # samples from which on the shares mean something
_SPEED_STEP_MPS = 1.2  # most that the speed changes within 0.1 s, numbers and slip included
_PLACE_M = 0.02


@dataclass(frozen=True, kw_only=True)
class Findings:
    """errors: one line each; shares: label -> share of the samples that were driven for it."""

    samples: int
    errors: list[str] = field(default_factory=list)
    shares: Mapping[str, float] = field(default_factory=dict)


def check(folder: Path, workers: int = 1) -> Findings:
    """All findings about a data set. SpanVLAError where it can't be read at all."""
    dataset = Dataset(folder)
    shards: dict[Path, list[int]] = {}
    for index, entry in enumerate(dataset.entries):
        shards.setdefault(entry.shard, []).append(index)
    errors = list(_overall(dataset))
    parts = list(shards.values())
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers, _open, (folder,)) as pool:
            found = pool.map(_shard_of_worker, parts, chunksize=4)
    else:
        found = list(map(partial(_shard, dataset), parts))
    errors += [line for lines, _ in found for line in lines]
    counts = sum((count for _, count in found), Counter())
    total = max(sum(counts.values()), 1)
    shares = {label: counts[label] / total for label in labels.PLANNED}
    if sum(counts.values()) >= _ENOUGH:
        for label, planned in labels.PLANNED.items():
            if abs(shares[label] - planned) > labels.TOLERANCE:
                errors.append(f"{shares[label]:.1%} of the samples are {label}, planned are {planned:.0%} +- {labels.TOLERANCE:.0%}")
    return Findings(samples=len(dataset), errors=errors, shares=shares)


def _overall(dataset: Dataset) -> Iterator[str]:
    """Errors that only all samples together show."""
    for name, count in Counter(entry.id for entry in dataset.entries).items():
        if count > 1:
            yield f"{name}: the id is there {count} times"
    splits: dict[str, set[str]] = {}
    for entry in dataset.entries:
        splits.setdefault(entry.map, set()).add(entry.split)
    for name, found in splits.items():
        if len(found) > 1:
            yield f"map {name} is in several splits: {', '.join(sorted(found))}"
    for name in splits:
        try:
            dataset.chart(name)
        except DataError as error:
            yield str(error)


def _shard(dataset: Dataset, indices: list[int]) -> tuple[list[str], Counter]:
    """Errors of the samples of one shard, and how many have which label (drives of engines apart)."""
    import jsonschema

    schema = json.loads(resources.files("spanvla_ros.data").joinpath("mreasoning_1.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    errors: list[str] = []
    counts: Counter = Counter()
    seen: set[tuple[str, int]] = set()
    for number, index in enumerate(indices):
        record = dataset.record(index)
        broken = [f"{record['id']}: {'/'.join(map(str, e.path))} {e.message[:120]}" for e in validator.iter_errors(record)]
        errors += broken
        if broken:
            continue
        if record["provenance"]["driver"] != "engine":
            counts[record["label"]] += 1
        try:
            texts = *_pictures(dataset, index, record, seen), *_motion(record), *_truth(dataset, index, record)
            errors += [f"{record['id']}: {text}" for text in texts]
            if number == 0:
                scene_of(dataset, index, {})
        except (SpanVLAError, OSError, KeyError, IndexError, ValueError) as error:
            errors.append(f"{record['id']}: {error if isinstance(error, SpanVLAError) else repr(error)}")
    return errors, counts


def _pictures(dataset: Dataset, index: int, record: Mapping[str, Any], seen: set[tuple[str, int]]) -> Iterator[str]:
    """Every picture of a shard is decoded once."""
    offsets = [f["stamp_ns"] - record["t0_ns"] for f in record["images"]["front"]]
    if any([f["stamp_ns"] - record["t0_ns"] for f in frames] != offsets for frames in record["images"].values()) or offsets[-1] != 0:
        yield f"the cameras' frames don't end at t0 together: {offsets} ns"
    sizes = set()
    for camera, encoded in dataset.jpegs(index).items():
        for entry, data in zip(record["images"][camera], encoded):
            if (camera, entry["offset"]) not in seen:
                seen.add((camera, entry["offset"]))
                try:
                    sizes.add(decode_jpeg(data, f"camera '{camera}'").shape)
                except InputError as error:
                    yield str(error)
    if len(sizes) > 1:
        yield f"pictures of several sizes: {sorted(sizes)}"


def _motion(record: Mapping[str, Any]) -> Iterator[str]:
    """The future begins where the history ends, with its speed, and both futures are the same."""
    history = record["history"]
    future, dense = np.array(record["future"], float), np.array(record["future_10hz"], float)
    if dense.shape != (50, 3) or not (np.isfinite(dense).all() and np.isfinite(future).all()):
        yield f"future_10hz is no (50, 3) of finite numbers but {dense.shape}"
        return
    if np.abs(history["poses_base"][-1]).max() > 1e-6 or history["stamps_ns"][-1] != record["t0_ns"]:
        yield "the history doesn't end at t0"
    if np.abs(dense[round(FUTURE_INTERVAL_S / 0.1) - 1 :: 5] - future).max() > 0.1:
        yield "future and future_10hz are different"
    path = np.concatenate([np.zeros((1, 3)), dense])
    step = np.diff(path[:, :2], axis=0)
    speeds = np.append(history["speeds_mps"][-1], (step[:, 0] * np.cos(path[1:, 2]) + step[:, 1] * np.sin(path[1:, 2])) / 0.1)
    jump = np.abs(np.diff(speeds))
    if jump.max() > _SPEED_STEP_MPS:
        yield f"the speed jumps by {jump.max():.1f} m/s at {0.1 * int(jump.argmax()):.1f} s"


def _truth(dataset: Dataset, index: int, record: Mapping[str, Any]) -> Iterator[str]:
    """The drive's truth covers the sample and says the same of the ego."""
    truth, span = dataset.truth(index), record["truth"]
    frames = truth["frames"][span["first"] : span["first"] + span["count"]]
    if len(frames) != span["count"] or truth["map"] != record["map"]:
        yield f"its truth has {len(frames)} frames of map {truth['map']}, wanted are {span['count']} of {record['map']}"
        return
    here = truth["frames"][span["t0"]]
    if here["t"] != record["t0_ns"] or np.abs(np.array(here["ego"][:2]) - record["pose_odom"][:2]).max() > _PLACE_M:
        yield f"frame {span['t0']} of its truth is another moment or place"
        return
    after = np.array([frame["ego"][:3] for frame in truth["frames"][span["t0"] + 1 : span["first"] + span["count"]]])
    if record["provenance"]["future"] == "driven" and len(after) >= 50:
        away = np.abs(to_local(np.array(here["ego"][:3]), after[:50])[:, :2] - np.array(record["future_10hz"])[:, :2]).max()
        if away > _PLACE_M:
            yield f"the future is {away:.2f} m from what was driven"


_state: dict[str, Dataset] = {}


def _open(folder: Path) -> None:
    _state["dataset"] = Dataset(folder)


def _shard_of_worker(indices: list[int]) -> tuple[list[str], Counter]:
    return _shard(_state["dataset"], indices)
