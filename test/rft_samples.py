"""A small data set with truth: one straight road, a car ahead, and samples of all labels, for tests of reinforcement fine-tuning."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from helpers import S, history  # noqa: E402

from spanvla_ros.contracts import Command, Image, Observation  # noqa: E402
from spanvla_ros.data.sample import Sample, to_record  # noqa: E402
from spanvla_ros.data.shards import ShardWriter, write_map  # noqa: E402
from spanvla_ros.geometry import constant_turn  # noqa: E402

MPS, FRAMES = 8.0, 90
LABELS = ("pos", "neg", "rec", "pos")


def box(west: float, east: float, bottom: float, top: float) -> list:
    return [[[[west, bottom], [east, bottom], [east, top], [west, top]]]]


def lane(name: str, bottom: float) -> dict:
    line = [[-50.0, bottom + 1.8], [250.0, bottom + 1.8]]
    return {"name": name, "layer": "LANE", "polygons": box(-50, 250, bottom, bottom + 3.6), "baseline": line, "limit_mps": 13.9}


def road() -> dict:
    block = {"name": "e", "layer": "ROADBLOCK", "polygons": box(-50, 250, -1.8, 5.4)}
    return {"map": "straight", "areas": [block, lane("e_0", -1.8), lane("e_1", 1.8)], "edges": {"e_0": "e", "e_1": "e"}, "controlled": []}


def truth() -> dict:
    """The ego drives at 8 m/s along x; a car 25 m ahead does 6 m/s."""
    frames = []
    for k in range(FRAMES):
        t = 0.1 * k
        ego = [MPS * t, 0.0, 0.0, MPS, *[0.0] * 7]
        frames.append({"t": int(t * S), "ego": ego, "boxes": [["car", 25 + 6 * t, 0.0, 0.0, 6.0, 0.0]], "red": []})
    line = [[x, 0.0, 0.0] for x in np.arange(-30.0, 200.0)]
    return {"map": "straight", "guide": {"line": line, "spans": [[0.0, 230.0, "e_0"]]}, "objects": {"car": ["VEHICLE", 4.6, 1.9]}, "frames": frames}


def future(label: str) -> np.ndarray:
    """What was driven (50, 3): on, for a negative almost stopping, for a recovery a little to the left."""
    times = 0.1 * np.arange(1, 51)
    if label == "neg":
        return constant_turn(1.0, 0.0, times)
    return constant_turn(7.0, 0.01 if label == "rec" else 0.0, times)


def sample(name: str, label: str, split: str, frame: int) -> Sample:
    t0 = int(0.1 * frame * S)
    stamps = [t0 + k * S // 2 for k in range(-3, 1)]
    dense = future(label)
    blank = np.zeros((252, 448, 3), np.uint8)
    return Sample(
        id=name,
        observation=Observation(
            t0_ns=t0,
            images={"front": tuple(Image(stamp_ns=stamp, rgb=blank) for stamp in stamps)},
            history=dataclasses.replace(history(MPS, 0.0, t0), stamps_ns=tuple(stamps)),
            pose_odom=np.array([MPS * 0.1 * frame, 0.0, 0.0]),
            command=Command.STRAIGHT,
        ),
        future=dense[4::5],
        dense=dense,
        reasoning="The road is clear, I act directly.",
        mode="fast",
        family="straight",
        map="straight",
        label=label,
        split=split,
        span=(frame - 15, frame, 66),
    )


def write(folder: Path, damaged: int = 0, drives: int = 2) -> Path:
    """One drive per split and number; of the training samples the first `damaged` have no truth."""
    rng = np.random.default_rng(0)
    write_map(folder, "straight", road())
    for split, count in (("train", drives), ("validation", 1)):
        for drive in range(count):
            with ShardWriter(folder, f"{split}_{drive}") as shard:
                shard.truth(truth())
                for k, label in enumerate(LABELS):
                    frame = 20 + 4 * k
                    pictures = [cv2.imencode(".jpg", rng.integers(0, 255, (252, 448, 3), np.uint8))[1].tobytes() for _ in range(4)]
                    t0 = int(0.1 * frame * S)
                    jpegs = [(t0 + i * S // 2, data) for i, data in zip(range(-3, 1), pictures)]
                    record = to_record(sample(f"{split}-{drive}-{k}", label, split, frame))
                    if split == "train" and damaged > 0:
                        damaged -= 1
                        del record["truth"]
                    shard.add(record, {"front": jpegs})
    return folder


def start(folder: Path, model) -> Path:
    """A run that a training can start from."""
    from spanvla_ros.model import checkpoint

    checkpoint.save(model, folder / "model")
    (folder / "record.json").write_text(json.dumps({}))
    return folder
