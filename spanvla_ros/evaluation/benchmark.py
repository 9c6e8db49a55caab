"""Figures of many judged episodes, overall and per family; and two such sets compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spanvla_ros.contracts import ConfigError

LABEL = "minisim DS (LB2.1)"
# families whose NeuroNCAP score is asked for
CRASH_FAMILIES = ("crash",)
_MEANS = ("driving_score_lb21", "driving_score_lb20", "route_completion")
_RESAMPLES = 4000


def summarize(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures over all episodes, and the same under `families`.

    Scores are 0-100, route_completion, success_rate, smoothness and PDM sub-scores 0-1. infractions_per_km counts everything
    but min_speed, which is a degree and no event; it has its own entry in infractions_per_km_by_type.
    """
    families = list(dict.fromkeys(row["family"] for row in episodes))
    return {**_figures(episodes), "families": {f: _figures([row for row in episodes if row["family"] == f]) for f in families}}


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {"episodes": 0}
    counts = Counter(entry["type"] for row in rows for entry in row["infractions"])
    km = max(sum(row["distance_m"] for row in rows), 1.0) / 1000
    wrong = sum(count for kind, count in counts.items() if kind != "min_speed")
    crash = [row["neuroncap"] for row in rows if row["family"] in CRASH_FAMILIES]
    collided = [any(entry["type"].startswith("collision") for entry in row["infractions"]) for row in rows]
    return {
        "episodes": len(rows),
        **{name: _mean(row[name] for row in rows) for name in _MEANS},
        "success_rate": _mean(float(row["success"]) for row in rows),
        "infractions": wrong,
        "infractions_per_km": round(wrong / km, 4),
        "infractions_per_km_by_type": {kind: round(count / km, 4) for kind, count in sorted(counts.items())},
        "distance_km": round(km, 4),
        "collision_rate": _mean(map(float, collided)),
        "at_fault_collisions": sum(row["at_fault"] for row in rows),
        "smoothness": _mean(row["smoothness"] for row in rows),
        "efficiency": _mean(row["efficiency"] for row in rows),
        "neuroncap_score": _mean(crash),
        "reactions": sum(row.get("reaction_s") is not None for row in rows),
        "reaction_s": _mean(row.get("reaction_s") for row in rows),
        "pdm": _pdm([row["pdm"] for row in rows if row.get("pdm")]),
        "reasoning": _reasoning([row["reasoning"] for row in rows if row.get("reasoning")]),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _pdm(found: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Mean over plans of what every episode has as means over its own."""
    plans = sum(entry["plans"] for entry in found)
    if not plans:
        return None
    names = [name for name in found[0] if name != "plans"]
    return {"plans": plans, **{name: round(sum(entry[name] * entry["plans"] for entry in found) / plans, 4) for name in names}}


def _reasoning(found: Sequence[Mapping[str, int]]) -> dict[str, float | None] | None:
    """Shares over all plans with a text. agrees, contradicts: verdict of the rule check, the rest says nothing that it can check;
    agreement: agrees among those two; slow_in_complex, slow_in_free: slow thinking where the simulator's expert thinks slowly, and elsewhere."""
    if not found:
        return None
    total = Counter[str]()
    for entry in found:
        total.update(entry)

    def share(part: int, whole: int) -> float | None:
        return round(part / whole, 4) if whole else None

    return {
        "plans": total["plans"],
        "agrees": share(total["agrees"], total["plans"]),
        "contradicts": share(total["contradicts"], total["plans"]),
        "agreement": share(total["agrees"], total["agrees"] + total["contradicts"]),
        "slow_in_complex": share(total["slow_in_complex"], total["complex"]),
        "slow_in_free": share(total["slow_in_free"], total["plans"] - total["complex"]),
    }


def latency(times_ms: Sequence[float]) -> dict[str, float] | None:
    """Mean, median and 95th percentile of plan latencies."""
    if not len(times_ms):
        return None
    p50, p95 = np.percentile(times_ms, (50, 95))
    return {"mean": round(float(np.mean(times_ms)), 3), "p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two summaries on the scenarios that both have: figures of each, and the paired difference of the driving score.

    difference: mean of second minus first with its 95 % interval (bootstrap over scenarios, seeded); changed: scenarios by
    size of their difference; identical: drives with the same state hash. ConfigError without a common scenario.
    """
    one, two = ({(row["family"], row["seed"]): row for row in summary["scenarios"]} for summary in (first, second))
    common = [key for key in one if key in two]
    if not common:
        raise ConfigError("the two results have no scenario (family and seed) in common")
    gains = np.array([two[key]["driving_score_lb21"] - one[key]["driving_score_lb21"] for key in common])
    order = sorted((i for i in range(len(common)) if gains[i]), key=lambda i: -abs(gains[i]))
    families = list(dict.fromkeys(family for family, _ in common))
    return {
        "common": len(common),
        "only_first": len(one) - len(common),
        "only_second": len(two) - len(common),
        "identical": sum(bool(one[key].get("state_hash")) and one[key].get("state_hash") == two[key].get("state_hash") for key in common),
        "first": summarize([one[key] for key in common]),
        "second": summarize([two[key] for key in common]),
        "difference": _interval(gains),
        "families": {f: _interval(np.array([gain for gain, (family, _) in zip(gains, common) if family == f])) for f in families},
        "reactions": _reactions([(one[key].get("reaction_s"), two[key].get("reaction_s")) for key in common]),
        "changed": [{"family": common[i][0], "seed": common[i][1], "gain": round(float(gains[i]), 2)} for i in order],
    }


def _reactions(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, float | None]:
    """Mean reaction times over the drives in which both reacted."""
    both = [pair for pair in pairs if None not in pair]
    return {"drives": len(both), "first": _mean(pair[0] for pair in both), "second": _mean(pair[1] for pair in both)}


def _interval(gains: np.ndarray) -> dict[str, float]:
    picks = np.random.default_rng(0).integers(len(gains), size=(_RESAMPLES, len(gains)))
    low, high = np.percentile(gains[picks].mean(axis=1), (2.5, 97.5))
    return {"mean": round(float(gains.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}
