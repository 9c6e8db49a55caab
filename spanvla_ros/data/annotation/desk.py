"""What a person sees of a sample, and what becomes of what the person says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, VEHICLE, DataError
from spanvla_ros.data import rig, sheet
from spanvla_ros.data.annotation import agreement, reply
from spanvla_ros.data.annotation.output import replace
from spanvla_ros.data.shards import Dataset
from spanvla_ros.geometry import to_local
from spanvla_ros.planning.consistency import Consistency
from spanvla_ros.planning.prompt import FAST_TEXT, SLOW_LEAD, reasoning_text

_SEEN_M = 70.0  # of the map and the things on it, around the car
_LAYERS = ("ROADBLOCK", "INTERSECTION", "LANE")
_PARTS = ("critical_components", "decision")


class Conflict(DataError):
    """A sample was changed since the person got to see it."""


class Desk:
    """Samples of a data set for review: all of them, or `count` spread over labels and families. Thread-safe.

    What a person changes is written into the data set at once; what stood there before is kept in the record's provenance
    (`reasons.before`), with who reviewed it, when, and which parts were changed (`reasons.review`).
    """

    def __init__(self, folder: Path, count: int | None = None):
        self._dataset = Dataset(folder)
        total = len(self._dataset)
        self._chosen = list(range(total)) if count is None or count >= total else sheet.choose(self._dataset, count)
        self._charts: dict[str, list[tuple[str, np.ndarray]]] = {}
        self._lock = threading.RLock()
        records = map(self._dataset.record, self._chosen)
        self._rows = [_row(record) for record in records]

    def __len__(self) -> int:
        return len(self._chosen)

    def rows(self) -> list[dict[str, Any]]:
        """One line per sample: id, label, family, decision, verdict of the rule check, review."""
        return self._rows

    def picture(self, number: int, camera: str, frame: int) -> bytes:
        """JPEG bytes."""
        with self._lock:
            jpegs = self._dataset.jpegs(self._chosen[number])
        if camera not in jpegs or not 0 <= frame < len(jpegs[camera]):
            raise DataError(f"sample {self._rows[number]['id']} has no picture {frame} of camera '{camera}'")
        return jpegs[camera][frame]

    def show(self, number: int) -> dict[str, Any]:
        """All that the page shows of a sample."""
        with self._lock:
            index = self._chosen[number]
            record = self._dataset.record(index)
            truth = self._truth(index)
            areas = self._areas(record["map"])
        note = record.get("provenance", {}).get("reasons", {})
        history = record["history"]
        pose = np.array(record["pose_odom"])
        dense = np.array(record.get("future_10hz") or record["future"], float)
        seen = {
            "history": history["poses_base"],
            "future": np.round(dense, 2).tolist(),
            "half_seconds": record["future"],
            "ego": [VEHICLE.front_m, VEHICLE.rear_m, VEHICLE.width_m],
            "boxes": _boxes(record, truth, pose),
            "areas": _near(areas, pose),
        }
        return {
            **_row(record),
            "revision": _revision(record),
            "instruction": record.get("instruction") or record["command"],
            "speeds_mps": history["speeds_mps"],
            "acceleration_mps2": history["acceleration_mps2"],
            "cameras": {
                camera: [round((f["stamp_ns"] - record["t0_ns"]) / NS_PER_S, 2) for f in frames] for camera, frames in record["images"].items()
            },
            "paths": {camera: _projected(view, dense) for camera, view in truth.get("cameras", {}).items() if camera in record["images"]},
            "by": record.get("provenance", {}).get("annotation", "who recorded it"),
            "elements": note.get("elements", []),
            "components": record["critical_components"],
            "trace": _trace(record),
            "motion": _motion(agreement.verdict(record)),
            "scene": seen,
        }

    def motion(self, number: int, trace: str) -> dict[str, str]:
        """The rule check of a text that is being written."""
        with self._lock:
            record = self._dataset.record(self._chosen[number])
        found = agreement.verdict({**record, "reasoning": {"text": trace}})
        return {"verdict": found.verdict.value, "motion": _motion(found)}

    def save(self, number: int, said: Mapping[str, Any], by: str) -> dict[str, Any]:
        """Store components, decision and trace as a person wants them; returns the sample's row.

        said: {"revision", "components", "decision", "trace"}. ReplyError for what the schema doesn't allow, Conflict where the
        sample has changed meanwhile.
        """
        with self._lock:
            index = self._chosen[number]
            entry, record = self._dataset.entries[index], self._dataset.record(index)
            if said.get("revision") != _revision(record):
                raise Conflict(f"sample {record['id']} was changed since you opened it; load it again")
            changed = _reviewed(record, said, by)
            inside = [k for k, other in enumerate(self._dataset.entries) if other.shard == entry.shard]
            records = [changed if k == index else self._dataset.record(k) for k in inside]
            replace(entry.shard, records)
            offset = 0
            with entry.shard.open("rb") as stream:
                for k, line in zip(inside, stream):
                    self._dataset.entries[k] = dataclasses.replace(self._dataset.entries[k], offset=offset, length=len(line))
                    offset += len(line)
            self._rows[number] = _row(changed)
            return self._rows[number]

    def _truth(self, index: int) -> dict[str, Any]:
        """Empty where the data set has none, as for drives of real cars."""
        try:
            return self._dataset.truth(index)
        except DataError:
            return {}

    def _areas(self, name: str) -> list[tuple[str, np.ndarray]]:
        if name not in self._charts:
            try:
                areas = self._dataset.chart(name)["areas"]
            except DataError:
                areas = []
            self._charts[name] = [(a["layer"], np.array(rings[0])) for a in areas if a["layer"] in _LAYERS for rings in a["polygons"]]
        return self._charts[name]


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    found = agreement.verdict(record).verdict.value
    review = record.get("provenance", {}).get("reasons", {}).get("review")
    return {**{key: record[key] for key in ("id", "label", "family", "split", "decision")}, "verdict": found, "review": review}


def _motion(found: Consistency) -> str:
    return f"{found.verdict.value}: the text says {found.text}; driven was {found.plan}"


def _revision(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _trace(record: Mapping[str, Any]) -> str:
    text = record["reasoning"]["text"]
    return "" if text == FAST_TEXT else text.removeprefix(SLOW_LEAD).strip()


def _reviewed(record: Mapping[str, Any], said: Mapping[str, Any], by: str) -> dict[str, Any]:
    """The record with what a person said."""
    import jsonschema

    try:
        components = [{key: " ".join(str(value).split()) for key, value in c.items()} for c in said["components"]]
        decision, trace = dict(said["decision"]), " ".join(said["trace"].split())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise reply.ReplyError(f"a review needs components, decision and trace: {type(error).__name__} {error}") from None
    empty = next((f"component {k}: {key} is empty" for k, c in enumerate(components, 1) for key, value in c.items() if not value), None)
    if empty:
        raise reply.ReplyError(empty)
    schema = {"properties": {name: reply.record_schema()["properties"][name] for name in _PARTS}}
    error = next(jsonschema.Draft202012Validator(schema).iter_errors({"critical_components": components, "decision": decision}), None)
    if error is not None:
        raise reply.ReplyError(f"{'/'.join(map(str, error.path))}: {error.message[:160]}")
    reasoning = record["reasoning"]
    if components and not trace or trace != _trace(record):
        if components or trace:
            reply.check_trace(trace)
        reasoning = {"mode": "slow" if trace else "fast", "text": reasoning_text(trace or None)}
    note = dict(record.get("provenance", {}).get("reasons", {}))
    before = note.get("before") or {name: record[name] for name in (*_PARTS, "reasoning")}
    after = {"critical_components": components, "decision": decision, "reasoning": reasoning}
    names = dict(zip((*_PARTS, "reasoning"), agreement.PARTS))
    changed = [part for name, part in names.items() if after[name] != before[name]]
    note["review"] = {"by": by, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "changed": changed}
    if changed:
        note["before"] = before
    else:
        note.pop("before", None)
    return {**record, **after, "provenance": {**record.get("provenance", {}), "reasons": note}}


def _boxes(record: Mapping[str, Any], truth: Mapping[str, Any], pose: np.ndarray) -> list[list[Any]]:
    """[type, x, y, yaw, length, width] in base_link at t0."""
    frames = truth.get("frames", [])[record.get("truth", {}).get("t0", 0) :]
    found = []
    for name, x, y, yaw, *_ in frames[0]["boxes"] if frames else ():
        local = to_local(pose, np.array([[x, y, yaw]]))[0]
        if np.abs(local[:2]).max() < _SEEN_M:
            found.append([truth["objects"][name][0], *np.round(local, 3).tolist(), *truth["objects"][name][1:]])
    return found


def _near(areas: Sequence[tuple[str, np.ndarray]], pose: np.ndarray) -> list[list[Any]]:
    """[layer, outline] in base_link of the areas in sight."""
    found = []
    for layer, outline in areas:
        if np.all(outline.max(axis=0) > pose[:2] - _SEEN_M) and np.all(outline.min(axis=0) < pose[:2] + _SEEN_M):
            local = to_local(pose, np.column_stack([outline[:, :2], np.zeros(len(outline))]))
            found.append([layer, np.round(local[:, :2], 1).tolist()])
    return found


def _projected(document: Mapping[str, Any], dense: np.ndarray) -> list[list[float]]:
    """The driven path in a picture, as shares of its width and height."""
    camera = rig.view(document)
    pixels, ahead = camera.project(np.column_stack([dense[:, :2], np.zeros(len(dense))]))
    height, width = camera.size
    inside = ahead & (np.abs(pixels) < 3 * np.array([width, height])).all(axis=1)
    return np.round(pixels[inside] / [width, height], 4).tolist()
