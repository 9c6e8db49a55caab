"""A stand-in for `data.shards.Dataset`: drawn scenes whose text, labels and future follow from what the picture shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import Command, EgoHistory, Image, Observation
from spanvla_ros.data.sample import Sample
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning import prompt

HEIGHT, WIDTH, CELL = 252, 448, 14
NS = 1_000_000_000


class Dataset:
    """folder is a file name with the number of samples in it, e.g. `/anywhere/200`; validation has a quarter of that."""

    def __init__(self, folder: str | Path, split: str = "train", grid: object = None, labels: tuple[str, ...] | None = None):
        self.count = int(Path(folder).name) // (1 if split == "train" else 4)
        self.split = split

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(self.count))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.count} {self.split}".encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        r = np.random.default_rng((index, self.split == "train"))
        speed, offset, red = r.uniform(2, 12), r.uniform(-1.2, 1.2), r.random() < 0.3
        gap = r.uniform(8, 40) if r.random() < 0.4 else None
        rgb = np.full((HEIGHT, WIDTH, 3), (150, 180, 210), np.uint8)
        cells = np.zeros((HEIGHT // CELL, WIDTH // CELL), np.uint8)
        rgb[126:] = (70, 110, 60)
        for y in range(126, HEIGHT):
            half, centre = 2.0 * (y - 120), 224 + offset * (y - 120) * 1.2
            low, high = (int(np.clip(centre + side * half, 0, WIDTH)) for side in (-1, 1))
            rgb[y, low:high] = 90
            cells[y // CELL, low // CELL : high // CELL] |= 3
        if gap is not None:
            size = int(600 / gap)
            rgb[150 - size : 150 + size // 2, 224 - size : 224 + size] = (20, 20, 160)
            cells[(150 - size) // CELL : (150 + size // 2) // CELL + 1, (224 - size) // CELL : (224 + size) // CELL + 1] |= 4
        if red:
            rgb[60:84, 300:324] = (250, 20, 20)
            cells[60 // CELL : 84 // CELL + 1, 300 // CELL : 324 // CELL + 1] |= 8
        rgb = np.clip(rgb + r.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
        target = 0.0 if red else min(speed, gap / 4) if gap else speed
        stamps = tuple(int((10 + t) * NS) for t in (-1.5, -1.0, -0.5, 0.0))
        times = np.array([-1.5, -1.0, -0.5, 0.0])
        future = constant_turn(1.0, 0.0, 0.5 * np.arange(1, 11))
        progress = np.cumsum(speed + (target - speed) * np.minimum(1, np.arange(1, 11) * 0.2)) * 0.5
        future[:, 0], future[:, 1] = progress, -offset * np.minimum(1, progress / 15)
        # the same motion at 10 Hz
        knots, dense_times = 0.5 * np.arange(11), 0.1 * np.arange(1, 51)
        dense = np.column_stack([np.interp(dense_times, knots, np.append(0.0, future[:, k])) for k in range(3)])
        trace = "red lamp, stop at the line." if red else f"vehicle ahead at {5 * round(gap / 5)} m, follow it." if gap else None
        return Sample(
            id=f"{self.split}-{index}",
            observation=Observation(
                t0_ns=stamps[-1],
                images={"front": (Image(stamp_ns=stamps[-2], rgb=rgb), Image(stamp_ns=stamps[-1], rgb=rgb))},
                history=EgoHistory(
                    stamps_ns=stamps,
                    poses_base=np.stack([speed * times, 0 * times, 0 * times], axis=1),
                    speeds_mps=np.full(4, speed),
                    yaw_rates_rps=np.zeros(4),
                    acceleration_mps2=0.0,
                ),
                pose_odom=np.zeros(3),
                command=Command.STRAIGHT,
            ),
            future=future,
            dense=dense,
            reasoning=prompt.reasoning_text(trace),
            mode="fast" if trace is None else "slow",
            family="synthetic",
            map=f"{self.split}{index % 3}",
            label="pos",
            fields={
                "lateral_offset_m": offset,
                "heading_error_rad": 0.0,
                "curvature_1pm": [0.0] * 5,
                "lamp": 3 if red else 0,
                "stop_distance_m": 20.0 if red else None,
                "lead_gap_m": gap,
                "lead_speed_mps": None,
                "target_speed_mps": target,
            },
            cells=cells,
        )
