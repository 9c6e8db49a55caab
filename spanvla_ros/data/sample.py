"""One sample of `mreasoning/1`: an observation, what to do, and why."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spanvla_ros.contracts import Command, DataError, EgoHistory, Image, Observation
from spanvla_ros.planning.images import decode_jpeg

SCHEMA = "mreasoning/1"
FUTURE_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Observation + targets. future (T, 3): poses in base_link at t0 every 0.5 s; cells (rows, columns) uint8 class bits."""

    id: str
    observation: Observation
    future: np.ndarray
    reasoning: str
    mode: str
    family: str
    map: str
    label: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    cells: np.ndarray | None = None


def to_record(sample: Sample, *, split: str, seed: int, decision: Mapping[str, str], components: list[dict], provenance: dict) -> dict[str, Any]:
    """The JSON object of a sample, without `images`, which the writer fills in."""
    observation, history = sample.observation, sample.observation.history
    record = {
        "schema": SCHEMA,
        "id": sample.id,
        "split": split,
        "family": sample.family,
        "map": sample.map,
        "seed": seed,
        "label": sample.label,
        "t0_ns": observation.t0_ns,
        "pose_odom": _numbers(observation.pose_odom),
        "history": {
            "stamps_ns": list(history.stamps_ns),
            "poses_base": _numbers(history.poses_base),
            "speeds_mps": _numbers(history.speeds_mps),
            "yaw_rates_rps": _numbers(history.yaw_rates_rps),
            "acceleration_mps2": float(history.acceleration_mps2),
        },
        "command": observation.command.value,
        "future": _numbers(sample.future),
        "critical_components": components,
        "decision": dict(decision),
        "reasoning": {"mode": sample.mode, "text": sample.reasoning},
        "scene": {k: v for k, v in sample.fields.items()},
        "provenance": provenance,
    }
    if sample.cells is not None:
        record["cells"] = {"shape": list(sample.cells.shape), "data": base64.b64encode(sample.cells.tobytes()).decode()}
    return record


def from_record(record: Mapping[str, Any], jpegs: Mapping[str, list[bytes]]) -> Sample:
    """Inverse of `to_record`; decodes the pictures."""
    try:
        history = record["history"]
        images = {
            camera: tuple(
                Image(stamp_ns=f["stamp_ns"], rgb=decode_jpeg(data, f"sample {record['id']} camera '{camera}'"))
                for f, data in zip(frames, jpegs[camera])
            )
            for camera, frames in record["images"].items()
        }
        observation = Observation(
            t0_ns=record["t0_ns"],
            images=images,
            history=EgoHistory(
                stamps_ns=tuple(history["stamps_ns"]),
                poses_base=np.array(history["poses_base"]),
                speeds_mps=np.array(history["speeds_mps"]),
                yaw_rates_rps=np.array(history["yaw_rates_rps"]),
                acceleration_mps2=history["acceleration_mps2"],
            ),
            pose_odom=np.array(record["pose_odom"]),
            command=Command(record["command"]),
        )
        cells = record.get("cells")
        return Sample(
            id=record["id"],
            observation=observation,
            future=np.array(record["future"]),
            reasoning=record["reasoning"]["text"],
            mode=record["reasoning"]["mode"],
            family=record["family"],
            map=record["map"],
            label=record["label"],
            fields=record.get("scene", {}),
            cells=np.frombuffer(base64.b64decode(cells["data"]), np.uint8).reshape(cells["shape"]) if cells else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"sample {record.get('id', '?')} breaks {SCHEMA}: {type(error).__name__} {error}") from None


def _numbers(array: np.ndarray) -> list:
    return np.round(np.asarray(array, np.float64), 9).tolist()
