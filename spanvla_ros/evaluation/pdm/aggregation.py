"""Scores of many frames: the two-stage pseudo-simulation of NAVSIM v2, and plain means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import DataError

VARIANCE_M2 = 0.1
_NOTHING = 1e-8

Row = Mapping[str, float]  # sub-scores and "score" of one frame


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of the two-stage score: the frames now and 0.5 s earlier, and K synthetic pairs of the second stage.

    endpoints: (now, prev) planned end points (2,) of the first stage at the rear axle; starts: (now, prev) start points (K, 2)
    of the second stage; rows: first-stage rows (now, prev) and per column the K second-stage rows.
    """

    name: str
    endpoints: tuple[np.ndarray, np.ndarray]
    starts: tuple[np.ndarray, np.ndarray]
    first: tuple[Row, Row]
    second: tuple[Sequence[Row], Sequence[Row]]

    def __post_init__(self):
        for starts, rows in zip(self.starts, self.second):
            if len(rows) == 0 or starts.shape != (len(rows), 2):
                raise DataError(f"group {self.name}: start points of shape {starts.shape} for {len(rows)} second-stage frames")
        if not all(np.isfinite(value).all() for value in (*self.endpoints, *self.starts)):
            raise DataError(f"group {self.name}: a point isn't finite: {self.endpoints} {self.starts}")


def stage_weights(endpoint: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Weights (K,) of second-stage frames that start at `starts` (K, 2) for a plan that ends at `endpoint` (2,).

    Gaussian in the distance, normalised; uniform if the plan ends far from all of them.
    """
    weights = np.exp(-((starts - endpoint) ** 2).sum(axis=1) / (2 * VARIANCE_M2))
    total = weights.sum()
    return weights / total if total > _NOTHING else np.full(len(starts), 1 / len(starts))


def two_stage(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Means over groups: "combined", "stage_one", "stage_two" -> sub-score or "score" -> value."""
    if not groups:
        raise DataError("two-stage aggregation: there are no groups")
    names = list(groups[0].first[0])
    per_group = [_combine(group, names) for group in groups]
    return {stage: {name: float(np.mean([values[stage][name] for values in per_group])) for name in names} for stage in per_group[0]}


def _combine(group: Group, names: Sequence[str]) -> dict[str, dict[str, float]]:
    columns = []
    for first, second, endpoint, starts in zip(group.first, group.second, group.endpoints, group.starts):
        weights = stage_weights(endpoint, starts)
        columns.append({name: (first[name], float(weights @ [row[name] for row in second])) for name in names})
    stages = {
        "combined": lambda pair: pair[0] * pair[1],
        "stage_one": lambda pair: pair[0],
        "stage_two": lambda pair: pair[1],
    }
    return {stage: {name: float(np.mean([rule(column[name]) for column in columns])) for name in names} for stage, rule in stages.items()}
