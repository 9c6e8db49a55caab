"""PDM score of plans for the validation samples whose drive has truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.data import scoring
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.pdm.scene import WAYPOINTS
from spanvla_ros.training.cache import IMITATED, READER
from spanvla_ros.workers import spread

CHUNK = 8  # samples per task of a worker


def has_truth(folder: Path, reader: str) -> bool:
    """Whether plans can be scored in a data set."""
    if reader != READER:
        return False
    dataset = Dataset(folder, "validation", labels=IMITATED)
    try:
        return "truth" in dataset.record(0) and all(scoring.scorable(dataset).values())
    except DataError:
        return False


def score(folder: Path, samples: np.ndarray, plans: np.ndarray, workers: int, say: Callable[[str], None]) -> np.ndarray:
    """PDMS (K, m) in 0..1 of K plans each (K, m, 8+, 3), every 0.5 s, for validation samples (m,) as numbered by the data cache.

    All plans for a sample are judged in one scene, which costs most of the time.
    """
    began, found = time.monotonic(), []
    work = [(samples[k : k + CHUNK], plans[:, k : k + CHUNK, :WAYPOINTS]) for k in range(0, len(samples), CHUNK)]
    for k, part in enumerate(spread(_judge, work, workers, setup=partial(_open, folder)), 1):
        found.append(part)
        if k % 5 == 0 or k == len(work):
            left = (len(work) - k) * (time.monotonic() - began) / k
            say(f"  PDM score {100 * k / len(work):.0f} %  ETA {left:.0f} s")
    return np.concatenate(found, axis=1)


_state: dict[str, object] = {}


def _open(folder: Path) -> None:
    _state.update(dataset=Dataset(folder, "validation", labels=IMITATED), charts={})


def _judge(work: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    samples, plans = work
    values = np.empty(plans.shape[:2])
    for k, index in enumerate(samples):
        scene = scoring.scene_of(_state["dataset"], int(index), _state["charts"])
        values[:, k] = [row["pdms"] for row in scoring.judge(scene, np.asarray(plans[:, k], np.float64), "v1")[0]]
    return values
