"""Is a data set what it says? Schema, ids, pictures, motion, truth, splits, shares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, DataError, InputError, SpanVLAError
from spanvla_ros.data import card, labels, scoring
from spanvla_ros.data.sample import DENSE_INTERVAL_S, FUTURE_INTERVAL_S
from spanvla_ros.data.shards import Dataset
from spanvla_ros.geometry import interpolate_poses, to_local
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.planning.inputs import InputLimits
from spanvla_ros.workers import spread

_ENOUGH = 400  # samples from which on the shares mean something
_SPEED_STEP_MPS = 1.2  # most that the speed changes within 0.1 s, numbers and slip included
_PLACE_M = 0.02
_MOMENT_S = 0.055  # half a step of the truth, and some
_DENSE = round(FUTURE_INTERVAL_S / DENSE_INTERVAL_S)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """errors: one line each; shares: label -> share of the samples."""

    samples: int
    errors: list[str] = field(default_factory=list)
    shares: Mapping[str, float] = field(default_factory=dict)


def check(folder: Path, workers: int = 1) -> Findings:
    """All findings about a data set. SpanVLAError where it can't be read at all."""
    dataset = Dataset(folder)
    shards: dict[Path, list[int]] = {}
    for index, entry in enumerate(dataset.entries):
        shards.setdefault(entry.shard, []).append(index)
    scorable = scoring.scorable(dataset)
    errors = list(_overall(dataset, scorable))
    parts = list(shards.values())
    if workers > 1:
        found = list(spread(_shard_of_worker, parts, workers, setup=partial(_open, folder)))
    else:
        found = list(map(partial(_shard, dataset), parts))
    errors += [line for lines, _, _ in found for line in lines]
    counts = sum((count for _, count, _ in found), Counter())
    seen: dict[str, str] = {}
    for _, _, moments in found:
        for moment, name in moments.items():
            if moment in seen:
                errors.append(f"{name}: is the same moment as {seen[moment]}")
            seen.setdefault(moment, name)
    if sum(counts.values()) >= _ENOUGH:
        for label, planned in labels.PLANNED.items():
            share = counts[label] / sum(counts.values())
            if abs(share - planned) > labels.TOLERANCE:
                errors.append(f"{share:.1%} of the samples are {label}, planned are {planned:.0%} +- {labels.TOLERANCE:.0%}")
    there = Counter(entry.label for entry in dataset.entries)
    return Findings(samples=len(dataset), errors=errors, shares={label: there[label] / len(dataset) for label in labels.PLANNED})


def _overall(dataset: Dataset, scorable: Mapping[str, bool]) -> Iterator[str]:
    """Errors that only all samples together show."""
    for name, count in Counter(entry.id for entry in dataset.entries).items():
        if count > 1:
            yield f"{name}: the id is there {count} times"
    splits: dict[str, set[str]] = {}
    split_by = card.split_by(dataset.folder)
    for entry in dataset.entries:
        splits.setdefault(card.KEYS[split_by](entry), set()).add(entry.split)
    for name, found in splits.items():
        if len(found) > 1:
            yield f"{split_by} {name} is in several splits: {', '.join(sorted(found))}"
    for name in (name for name, scored in scorable.items() if scored):
        try:
            dataset.chart(name)
        except DataError as error:
            yield str(error)


def _shard(dataset: Dataset, indices: list[int]) -> tuple[list[str], Counter, dict[str, str]]:
    """Errors of the samples of one shard, how many have which label (of those that the simulator drove for their label), and the
    fingerprint of every moment with its id."""
    import jsonschema

    schema = json.loads(resources.files("spanvla_ros.data").joinpath("mreasoning_1.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    errors: list[str] = []
    counts: Counter = Counter()
    moments: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    for number, index in enumerate(indices):
        record = dataset.record(index)
        broken = [f"{record['id']}: {'/'.join(map(str, e.path))} {e.message[:120]}" for e in validator.iter_errors(record)]
        errors += broken
        if broken:
            continue
        name = fingerprint(record)
        if name in moments:
            errors.append(f"{record['id']}: is the same moment as {moments[name]}")
        moments[name] = record["id"]
        if record["provenance"]["driver"] in ("expert", "lapse") and "pair" not in record["provenance"]:
            counts[record["label"]] += 1
        try:
            texts = *_pictures(dataset, index, record, seen), *_motion(record), *_truth(dataset, index, record)
            errors += [f"{record['id']}: {text}" for text in texts]
            if number == 0 and "guide" in dataset.truth(index):
                scoring.scene_of(dataset, index, {})
        except (SpanVLAError, OSError, KeyError, IndexError, ValueError) as error:
            errors.append(f"{record['id']}: {error if isinstance(error, SpanVLAError) else repr(error)}")
    return errors, counts, moments


def fingerprint(record: Mapping[str, Any]) -> str:
    """What two samples of the same moment with the same future share, whatever they are called; sizes stand for the pictures."""
    sizes = {camera: [frame["length"] for frame in frames] for camera, frames in record["images"].items()}
    return json.dumps([record["t0_ns"], record["label"], record["pose_odom"], record["future"], sizes])


def _pictures(dataset: Dataset, index: int, record: Mapping[str, Any], seen: set[tuple[str, int]]) -> Iterator[str]:
    """Every picture of a shard is decoded once."""
    offsets = {camera: [f["stamp_ns"] - record["t0_ns"] for f in frames] for camera, frames in record["images"].items()}
    wanted = [stamp - record["t0_ns"] for stamp in record["history"]["stamps_ns"]]
    within = 0 if record["provenance"]["source"] == "simulator" else InputLimits().frame_tolerance_s * NS_PER_S
    for camera, row in offsets.items():
        if len(row) != len(wanted) or any(abs(a - b) > within for a, b in zip(row, wanted)):
            yield f"the cameras' frames don't end at t0 together: {camera} has them at {row} ns, wanted are {wanted} ns"
    for camera, encoded in dataset.jpegs(index).items():
        sizes = set()
        for entry, data in zip(record["images"][camera], encoded):
            if (camera, entry["offset"]) not in seen:
                seen.add((camera, entry["offset"]))
                try:
                    sizes.add(decode_jpeg(data, f"camera '{camera}'").shape)
                except InputError as error:
                    yield str(error)
        if len(sizes) > 1:
            yield f"camera '{camera}' has pictures of several sizes: {sorted(sizes)}"


def _motion(record: Mapping[str, Any]) -> Iterator[str]:
    """The future begins where the history ends, with its speed, and both futures are the same."""
    history = record["history"]
    future, dense = np.array(record["future"], float), np.array(record["future_10hz"], float)
    if dense.shape != (_DENSE * len(future), 3) or not (np.isfinite(dense).all() and np.isfinite(future).all()):
        yield f"future_10hz is no ({_DENSE * len(future)}, 3) of finite numbers but {dense.shape}"
        return
    if np.abs(history["poses_base"][-1]).max() > 1e-6 or history["stamps_ns"][-1] != record["t0_ns"]:
        yield "the history doesn't end at t0"
    if np.abs(dense[_DENSE - 1 :: _DENSE] - future).max() > 0.1:
        yield "future and future_10hz are different"
    path = np.concatenate([np.zeros((1, 3)), dense])
    step = np.diff(path[:, :2], axis=0)
    speeds = np.append(history["speeds_mps"][-1], (step[:, 0] * np.cos(path[1:, 2]) + step[:, 1] * np.sin(path[1:, 2])) / 0.1)
    jump = np.abs(np.diff(speeds))
    if jump.max() > _SPEED_STEP_MPS and not (record["label"] == "neg" and record["provenance"]["future"] == "plan"):
        yield f"the speed jumps by {jump.max():.1f} m/s at {0.1 * int(jump.argmax()):.1f} s"


def _truth(dataset: Dataset, index: int, record: Mapping[str, Any]) -> Iterator[str]:
    """The drive's truth covers the sample and says the same of the ego."""
    truth, span = dataset.truth(index), record["truth"]
    frames = truth["frames"][span["first"] : span["first"] + span["count"]]
    if len(frames) != span["count"] or truth["map"] != record["map"]:
        yield f"its truth has {len(frames)} frames of map {truth['map']}, wanted are {span['count']} of {record['map']}"
        return
    here = truth["frames"][span["t0"]]
    # frames of a real drive are at 10 Hz from its first instant, wherever its pictures are
    times = np.array([frame["t"] - record["t0_ns"] for frame in frames]) / NS_PER_S
    driven = np.array([frame["ego"][:3] for frame in frames])
    place = interpolate_poses(times, driven, np.zeros(1))[0]
    if abs(here["t"] - record["t0_ns"]) > _MOMENT_S * NS_PER_S or np.abs(place - record["pose_odom"])[:2].max() > _PLACE_M:
        yield f"frame {span['t0']} of its truth is another moment or place"
        return
    ahead = 0.1 * np.arange(1, len(record["future_10hz"]) + 1)
    known = ahead <= times[-1] + 1e-6
    if record["provenance"]["future"] == "driven" and known.any():
        after = to_local(np.array(record["pose_odom"]), interpolate_poses(times, driven, ahead[known]))
        away = np.abs(after - np.array(record["future_10hz"])[known])[:, :2].max()
        if away > _PLACE_M:
            yield f"the future is {away:.2f} m from what was driven"


_state: dict[str, Dataset] = {}


def _open(folder: Path) -> None:
    _state["dataset"] = Dataset(folder)


def _shard_of_worker(indices: list[int]) -> tuple[list[str], Counter, dict[str, str]]:
    return _shard(_state["dataset"], indices)
