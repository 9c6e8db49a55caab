"""What is in a data set: counts and distributions, as numbers and as a picture; scores by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from spanvla_ros.data.labels import PLANNED
from spanvla_ros.data.scoring import Verdict
from spanvla_ros.data.shards import Dataset

_STANDING_MPS = 0.3


def statistics(dataset: Dataset) -> dict[str, Any]:
    """Counts by everything that has a name, and the raw values behind the histograms under "values"."""
    counts: dict[str, Counter] = {name: Counter() for name in ("label", "family", "map kind", "split", "command", "mode", "lapse", "component")}
    pairs: Counter = Counter()
    by_family: dict[str, Counter] = {}
    texts: Counter = Counter()
    values: dict[str, list[float]] = {name: [] for name in ("speed, m/s", "acceleration, m/s2", "curvature, 1/m", "text, words", "objects")}
    for index in range(len(dataset)):
        record = dataset.record(index)
        lapse = record["provenance"].get("lapse")
        counts["label"][record["label"]] += 1
        counts["family"][record["family"]] += 1
        by_family.setdefault(record["family"], Counter())[record["label"]] += 1
        counts["map kind"][record["map"].rsplit("-", 1)[0]] += 1
        counts["split"][record["split"]] += 1
        counts["command"][record["command"]] += 1
        counts["mode"][record["reasoning"]["mode"]] += 1
        counts["component"].update(f"{c['class']}: {c['type']}" for c in record["critical_components"])
        if lapse and record["label"] != "pos":
            counts["lapse"][lapse["kind"]] += 1
        pairs[(record["decision"]["longitudinal"], record["decision"]["lateral"])] += 1
        texts[record["reasoning"]["text"]] += 1
        speed = record["history"]["speeds_mps"][-1]
        values["speed, m/s"].append(speed)
        values["acceleration, m/s2"].append(record["history"]["acceleration_mps2"])
        if speed > _STANDING_MPS:
            values["curvature, 1/m"].append(_curvature(np.array(record["future_10hz"])))
        values["text, words"].append(len(record["reasoning"]["text"].split()))
        span = record["truth"]
        values["objects"].append(len(dataset.truth(index)["frames"][span["t0"]]["boxes"]))
    return {
        "samples": len(dataset),
        "shares": {label: counts["label"][label] / len(dataset) for label in PLANNED},
        "counts": {name: dict(counter.most_common()) for name, counter in counts.items()},
        "labels by family": {family: dict(counter) for family, counter in sorted(by_family.items())},
        "decisions": {f"{a} | {b}": count for (a, b), count in pairs.most_common()},
        "texts": {"different": len(texts), "most common": dict(texts.most_common(15))},
        "quantiles": {name: _quantiles(row) for name, row in values.items() if row},
        "values": {name: np.round(row, 4).tolist() for name, row in values.items()},
    }


def _curvature(dense: np.ndarray) -> float:
    """Mean over the next 5 s, of what is driven: turned angle by distance."""
    distance = float(np.hypot(*np.diff(dense[:, :2], axis=0).T).sum())
    return float((np.unwrap(dense[:, 2])[-1] - dense[0, 2]) / distance) if distance > 2.0 else 0.0


def _quantiles(row: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(row, p)), 4) for p in (0, 5, 50, 95, 100)}


def panels(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `evaluation.panels.draw` shows of `statistics`: title -> counts or values."""
    return {
        "labels": found["counts"]["label"],
        "families, by label": found["labels by family"],
        "decisions": found["decisions"],
        "lapses (neg, rec)": found["counts"]["lapse"],
        "critical components": dict(list(found["counts"]["component"].items())[:18]),
        "commands and map kinds": {**found["counts"]["command"], **found["counts"]["map kind"]},
        **found["values"],
    }


def summary(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Means by label and by mode of the labelled text, the gap of the negatives, means by family and by lapse, and what positives failed at."""
    verdicts = list(verdicts)
    means = _means(verdicts, "label")
    families = {name: _means([v for v in verdicts if v.family == name], "label") for name in sorted({v.family for v in verdicts})}
    lapsed = [v for v in verdicts if v.lapse and v.label != "pos"]
    lapses = {name: _means([v for v in lapsed if v.lapse == name], "label") for name in sorted({v.lapse for v in lapsed})}
    failed = Counter(f"{v.family}: {name}" for v in verdicts if v.label == "pos" for name in v.failures)
    gap = {name: means["pos"][name] - means["neg"][name] for name in ("pdms", "epdms")} if {"pos", "neg"} <= set(means) else {}
    return {
        "samples": len(verdicts),
        "labels": means,
        "modes": _means(verdicts, "mode"),
        "pos minus neg": gap,
        "families": families,
        "lapses": lapses,
        "pos failures": dict(failed.most_common(60)),
    }


def _means(verdicts: list[Verdict], by: str) -> dict[str, dict[str, float]]:
    """Number, and means of every value over those that have it, for every label, or mode, that is there."""
    found = {}
    for group in sorted({getattr(v, by) for v in verdicts}):
        rows = [v.values for v in verdicts if getattr(v, by) == group]
        names = dict.fromkeys(name for row in rows for name in row)
        found[group] = {"n": len(rows), **{name: round(float(np.mean([row[name] for row in rows if name in row])), 4) for name in names}}
    return found
