"""One sample of `mreasoning/1`: an observation, what to do, and why."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Command, DataError, EgoHistory, Image, ModelSpec, Observation
from spanvla_ros.planning.images import decode_jpeg
from spanvla_ros.planning.inputs import Grid, InputLimits

SCHEMA = "mreasoning/1"
LABELS = ("pos", "neg", "rec")
FUTURE_INTERVAL_S = 0.5
DENSE_INTERVAL_S = 0.1
_STAMP_NS = 1_000_000  # stamps of one instant may differ by this
_FRAME_NS = round(InputLimits().frame_tolerance_s * NS_PER_S)  # a real camera's clock knows no grid


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Observation + targets.

    future (10, 3): poses in base_link at t0 every 0.5 s; dense (50, 3): the same every 0.1 s; both are shorter where a recording ends;
    label: pos and rec are driven to be imitated, neg to be avoided (its reasoning says what should have been done); fields: exact scene facts; cells
    (rows, columns) uint8 class bits; lights: signals of the route ahead as {connector, state, distance_m}; span: first frame,
    frame of t0 and number of frames in the drive's truth.
    """

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
    dense: np.ndarray | None = None
    instruction: str = ""
    split: str = "train"
    seed: int = 0
    decision: Mapping[str, str] = field(default_factory=dict)
    components: tuple[Mapping[str, str], ...] = ()
    lights: tuple[Mapping[str, Any], ...] = ()
    span: tuple[int, int, int] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def waypoints(self, spec: ModelSpec) -> np.ndarray:
        """The future (waypoints, 3) at a model's own times. DataError where the sample doesn't hold them."""
        for poses, interval in ((self.future, FUTURE_INTERVAL_S), (self.dense, DENSE_INTERVAL_S)):
            step = spec.waypoint_interval_s / interval
            if poses is not None and abs(step - round(step)) < 1e-6 and round(step) * spec.waypoints <= len(poses):
                return np.asarray(poses)[round(step) - 1 :: round(step)][: spec.waypoints]
        raise DataError(f"sample {self.id} has no {spec.waypoints} waypoints every {spec.waypoint_interval_s:g} s")


def to_record(sample: Sample) -> dict[str, Any]:
    """The JSON object of a sample, without `images`, which the writer fills in."""
    observation, history = sample.observation, sample.observation.history
    record = {
        "schema": SCHEMA,
        "id": sample.id,
        "split": sample.split,
        "family": sample.family,
        "map": sample.map,
        "seed": sample.seed,
        "label": sample.label,
        "t0_ns": observation.t0_ns,
        "pose_odom": _numbers(observation.pose_odom, 9),
        "history": {
            "stamps_ns": list(history.stamps_ns),
            "poses_base": _numbers(history.poses_base, 9),
            "speeds_mps": _numbers(history.speeds_mps, 9),
            "yaw_rates_rps": _numbers(history.yaw_rates_rps, 9),
            "acceleration_mps2": float(history.acceleration_mps2),
        },
        "command": observation.command.value,
        "instruction": sample.instruction,
        "future": _numbers(sample.future, 5),
        "critical_components": [dict(c) for c in sample.components],
        "decision": dict(sample.decision),
        "reasoning": {"mode": sample.mode, "text": sample.reasoning},
        "lights": [dict(light) for light in sample.lights],
        "scene": {k: v for k, v in sample.fields.items()},
        "provenance": dict(sample.provenance),
    }
    if sample.dense is not None:
        record["future_10hz"] = _numbers(sample.dense, 5)
    if sample.span is not None:
        record["truth"] = dict(zip(("first", "t0", "count"), sample.span))
    if sample.cells is not None:
        record["cells"] = {"shape": list(sample.cells.shape), "data": base64.b64encode(sample.cells.tobytes()).decode()}
    return record


def picked(record: Mapping[str, Any], grid: Grid | ModelSpec | None) -> dict[str, list[Mapping[str, int]]]:
    """camera -> entries of the frames that `grid` asks for, oldest first; all of them without one. DataError for one that isn't there."""
    images = record["images"]
    if grid is None:
        return {camera: list(frames) for camera, frames in images.items()}
    missing = [camera for camera in grid.cameras if camera not in images]
    if missing:
        raise DataError(f"sample {record['id']} has no camera {missing}, only {list(images)}")
    return {
        camera: [images[camera][k] for k in _indices(record, [f["stamp_ns"] for f in images[camera]], grid.frame_offsets_s, camera, _FRAME_NS)]
        for camera in grid.cameras
    }


def from_record(record: Mapping[str, Any], jpegs: Mapping[str, list[bytes]], grid: Grid | ModelSpec | None = None) -> Sample:
    """Inverse of `to_record` on a model's grid; decodes the pictures, which are those of `picked`."""
    wanted = None if grid is None else grid.image_size
    try:
        images = {
            camera: tuple(
                Image(stamp_ns=f["stamp_ns"], rgb=decode_jpeg(data, f"sample {record['id']} camera '{camera}'", wanted))
                for f, data in zip(frames, jpegs[camera])
            )
            for camera, frames in picked(record, grid).items()
        }
        observation = Observation(
            t0_ns=record["t0_ns"],
            images=images,
            history=_history(record, grid),
            pose_odom=np.array(record["pose_odom"]),
            command=Command(record["command"]),
        )
        cells, truth = record.get("cells"), record.get("truth")
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
            dense=np.array(record["future_10hz"]) if "future_10hz" in record else None,
            instruction=record.get("instruction", ""),
            split=record["split"],
            seed=record["seed"],
            decision=record["decision"],
            components=tuple(record.get("critical_components", ())),
            lights=tuple(record.get("lights", ())),
            span=(truth["first"], truth["t0"], truth["count"]) if truth else None,
            provenance=record.get("provenance", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"sample {record.get('id', '?')} breaks {SCHEMA}: {type(error).__name__} {error}") from None


def _history(record: Mapping[str, Any], grid: Grid | ModelSpec | None) -> EgoHistory:
    history = record["history"]
    stamps = history["stamps_ns"]
    keep = list(range(len(stamps))) if grid is None else _indices(record, stamps, grid.history_offsets_s, "history")
    speeds = np.array(history["speeds_mps"])[keep]
    acceleration = history["acceleration_mps2"]
    if len(keep) != len(stamps):
        acceleration = float((speeds[-1] - speeds[-2]) / ((stamps[keep[-1]] - stamps[keep[-2]]) / NS_PER_S))
    return EgoHistory(
        stamps_ns=tuple(stamps[k] for k in keep),
        poses_base=np.array(history["poses_base"])[keep],
        speeds_mps=speeds,
        yaw_rates_rps=np.array(history["yaw_rates_rps"])[keep],
        acceleration_mps2=acceleration,
    )


def _indices(record: Mapping[str, Any], stamps: Sequence[int], offsets_s: Sequence[float], what: str, tolerance_ns: int = _STAMP_NS) -> list[int]:
    """Where the grid's instants are among `stamps`."""
    found = []
    for offset in offsets_s:
        wanted = record["t0_ns"] + round(offset * NS_PER_S)
        nearest = min(range(len(stamps)), key=lambda k: abs(stamps[k] - wanted))
        if abs(stamps[nearest] - wanted) > tolerance_ns:
            there = [round((s - record["t0_ns"]) / NS_PER_S, 3) for s in stamps]
            raise DataError(f"sample {record['id']}: {what} has nothing at {offset:g} s, only at {there} s")
        found.append(nearest)
    return found


def _numbers(array: np.ndarray, digits: int) -> list:
    return np.round(np.asarray(array, np.float64), digits).tolist()
