"""Planner-in-the-loop mining: an engine plans for every sample of a data set, and where it goes wrong its plan becomes a negative.

The recovery of such a pair is what was really driven from the same state. That is a stand-in for real take-overs, and marked as one
by `provenance.future = plan`. Where a drive has a map and a route the PDM score decides, else the distance from what was driven.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import InputError, Plan
from spanvla_ros.data import scoring
from spanvla_ros.data.merge import copy_drive, copy_maps, drives
from spanvla_ros.data.sample import DENSE_INTERVAL_S, FUTURE_INTERVAL_S
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.pdm.scene import WAYPOINT_S, WAYPOINTS
from spanvla_ros.geometry import to_local
from spanvla_ros.planning import validity
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.sim.chart import Chart
from spanvla_ros.sim.frame import AHEAD

IMITATED = ("pos", "rec")
_FAULTS = ("nc", "dac", "ddc", "ttc")
_WORSE = 0.12  # PDMS that a plan loses against what was driven
_EVERY = round(FUTURE_INTERVAL_S / DENSE_INTERVAL_S)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One plan. fault: what is wrong with it in words, "" for nothing."""

    id: str
    fault: str


def mine(folder: Path, out: Path, planner: Planner, worse_m: float, part: tuple[int, int] = (1, 1)) -> Iterator[list[Judged]]:
    """Write a data set `out`: all samples of `folder`, and for every bad plan a negative with the sample itself as its recovery.

    worse_m: mean distance from what was driven that is too much, where no PDM score can be made; part: the i-th of n shares of the
    drives. Yields what was found drive by drive.
    """
    dataset, charts = Dataset(folder, grid=planner.spec), {}
    rows: dict[Path, list[int]] = {}
    for index, entry in enumerate(dataset.entries):
        rows.setdefault(entry.shard, []).append(index)
    for shard in drives(dataset)[part[0] - 1 :: part[1]]:
        found, records = [], []
        for index in rows[shard]:
            record = dataset.record(index)
            made = judged(dataset, index, planner, worse_m, charts) if record["label"] in IMITATED else (None, None)
            fault, plan = made
            if fault is not None:
                found.append(Judged(id=record["id"], fault=fault))
            records += _pair(record, plan, fault, planner.engine_hash) if fault and plan is not None else [record]
        copy_drive(shard, out, records)
        yield found
    copy_maps(dataset, out)


def judged(dataset: Dataset, index: int, planner: Planner, worse_m: float, charts: dict[str, Chart]) -> tuple[str, Plan | None]:
    """What is wrong with the plan for a sample, "" for nothing, and the plan; None where the planner gave none."""
    sample = dataset[index]
    try:
        plan = planner.plan(sample.observation)
    except InputError as error:
        return f"no plan: {error}", None
    broken = validity.violations(densify(plan), validity.Limits())
    if broken:
        return f"not drivable: {broken[0]}", plan
    truth, span = dataset.truth(index), dataset.record(index)["truth"]
    count = round(WAYPOINTS * WAYPOINT_S / FUTURE_INTERVAL_S)
    planned = _dense(plan)[_EVERY - 1 :: _EVERY]
    if "guide" in truth and span["count"] - (span["t0"] - span["first"]) > AHEAD and min(len(planned), len(sample.future)) >= count:
        return _scored(scoring.scene_of(dataset, index, charts), planned[:count], sample.future[:count]), plan
    both = min(len(planned), len(sample.future))
    away = float(np.hypot(*(planned[:both] - sample.future[:both])[:, :2].T).mean())
    return (f"{away:.1f} m from what was driven on average over {both * FUTURE_INTERVAL_S:g} s" if away > worse_m else ""), plan


def _scored(scene: Any, planned: np.ndarray, driven: np.ndarray) -> str:
    (mine, human), (reasons, _) = scoring.judge(scene, np.stack([planned, driven]), "v1")
    for name in _FAULTS:
        if mine.get(name, 1.0) < human.get(name, 1.0):
            return f"{name}: {reasons.get(name, 'worse than what was driven')}"
    if mine["pdms"] < human["pdms"] - _WORSE:
        return f"PDMS {mine['pdms']:.2f}, what was driven has {human['pdms']:.2f}"
    return ""


def _dense(plan: Plan) -> np.ndarray:
    """Poses (N, 3) in base_link every 0.1 s, whole half seconds, at most 5 s."""
    poses = to_local(plan.pose_odom, densify(plan).poses_odom[1:])
    return poses[: min(len(poses) // _EVERY, 10) * _EVERY]


def _pair(record: Mapping[str, Any], plan: Plan, fault: str, engine: str) -> list[dict[str, Any]]:
    """The sample as a recovery, and the plan as its negative; the words stay those of the sample: what should have been done."""
    name, dense = f"{record['id']}_plan", np.round(_dense(plan), 5)
    provenance = {**record["provenance"], "driver": "engine", "future": "plan", "fault": fault, "engine": engine, "pair": record["id"]}
    futures = {"future": dense[_EVERY - 1 :: _EVERY].tolist(), "future_10hz": dense.tolist()}
    return [
        {**record, "label": "rec", "provenance": {**record["provenance"], "pair": name}},
        {**record, "id": name, "label": "neg", **futures, "provenance": provenance},
    ]
