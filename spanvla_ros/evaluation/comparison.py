"""Two judgements of one recorded drive, plan by plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, ConfigError
from spanvla_ros.evaluation.judgement import FIGURES
from spanvla_ros.evaluation.openloop import HORIZONS_S
from spanvla_ros.evaluation.results import SUMMARY

_RESAMPLES = 4000
# plans at 10 Hz repeat each other: what is drawn again is not a plan, but a piece of the drive this long
_PIECE_S = 2.0


def read(folder: Path) -> dict[str, Any]:
    """summary.json of a finished `spanvla bag`. ConfigError where there is none or it is not one of these."""
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["rows"][0]["t0_ns"], summary["figures"]["plans"]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the OUT folder of a finished `spanvla bag`") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ConfigError(f"{path}: not the summary of `spanvla bag`") from None
    return summary


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of both, and for the plans of the same instants the difference of their errors, second minus first.

    ade_m: horizon -> {first, second, mean, low, high, n, pieces}: means in metres over n plans and the difference with its 95 % interval
    (bootstrap over pieces of the drive, seeded), None without such plans. identical: plans with the same waypoints and
    text, to the last digit. ConfigError without a common plan.
    """
    one, two = ({row["t0_ns"]: row for row in summary["rows"]} for summary in (first, second))
    common = sorted(one.keys() & two.keys())
    if not common:
        raise ConfigError(f"no plan of {first['bag']} and {second['bag']} has the same stamp; compare two results of one bag")
    return {
        "common": len(common),
        "only_first": len(one) - len(common),
        "only_second": len(two) - len(common),
        "identical": sum(one[t]["plan_hash"] == two[t]["plan_hash"] for t in common),
        "figures": {name: (first["figures"].get(name), second["figures"].get(name)) for name in FIGURES},
        "ade_m": {str(h): _paired([(t, one[t]["ade_m"], two[t]["ade_m"]) for t in common], str(h)) for h in HORIZONS_S},
    }


def _paired(rows: list[tuple[int, Mapping[str, Any], Mapping[str, Any]]], horizon: str) -> dict[str, float] | None:
    known = [(t, a[horizon][0], b[horizon][0]) for t, a, b in rows if horizon in a and horizon in b]
    if not known:
        return None
    gains = np.array([b - a for _, a, b in known])
    pieces = (np.array([t for t, *_ in known], np.int64) - known[0][0]) // round(_PIECE_S * NS_PER_S)
    sums, counts = (np.array([f(gains[pieces == piece]) for piece in np.unique(pieces)], float) for f in (np.sum, len))
    picks = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), (2.5, 97.5))
    means = {"first": float(np.mean([a for _, a, _ in known])), "second": float(np.mean([b for *_, b in known]))}
    return {**means, "mean": float(gains.mean()), "low": float(low), "high": float(high), "n": len(known), "pieces": len(sums)}
