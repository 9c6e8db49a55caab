"""Who agrees with whom: two annotations of the same samples, text and driven motion, annotator and reviewing person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.data.shards import Dataset
from spanvla_ros.planning import consistency
from spanvla_ros.planning.intents import text_intent

AXES = ("longitudinal", "lateral")
PARTS = ("components", "decision", "trace")  # what the paper's human check counts (method section 6.4)
Record = Mapping[str, Any]


def records(folder: Any) -> dict[str, dict[str, Any]]:
    """id -> record of a data set."""
    dataset = Dataset(folder)
    return {entry.id: dataset.record(index) for index, entry in enumerate(dataset.entries)}


def between(first: Mapping[str, Record], second: Mapping[str, Record]) -> dict[str, Any]:
    """Agreement on the samples that both hold. DataError where there are none.

    Per axis of the decision: share of equal labels, Cohen's kappa (None where both always say the same one label), the most
    common differences. components: mean F1 of (class, type) pairs. trace: share of texts with the same intents.
    """
    common = [name for name in first if name in second]
    if not common:
        raise DataError(f"the data sets have no sample in common ({len(first)} and {len(second)} samples); they must come from one source")
    pairs = [(first[name], second[name]) for name in common]
    found: dict[str, Any] = {"samples": len(pairs)}
    for axis in AXES:
        found[axis] = _axis([(a["decision"][axis], b["decision"][axis]) for a, b in pairs])
    found["decision"] = _share(a["decision"] == b["decision"] for a, b in pairs)
    found["components"] = round(float(np.mean([_overlap(a["critical_components"], b["critical_components"]) for a, b in pairs])), 4)
    found["trace"] = _share(text_intent(a["reasoning"]["text"]) == text_intent(b["reasoning"]["text"]) for a, b in pairs)
    return found


def _axis(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    observed = sum(a == b for a, b in pairs) / len(pairs)
    mine, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(mine[label] * theirs[label] for label in mine) / len(pairs) ** 2
    kappa = None if chance == 1 else round((observed - chance) / (1 - chance), 4)
    different = Counter(f"{a} -> {b}" for a, b in pairs if a != b)
    return {"equal": round(observed, 4), "kappa": kappa, "differences": dict(different.most_common(10))}


def _overlap(first: Iterable[Record], second: Iterable[Record]) -> float:
    """F1 of two lists of components, each by class and type; two empty lists agree."""
    a, b = (Counter((c["class"], c["type"].lower()) for c in components) for components in (first, second))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def _share(found: Iterable[bool]) -> float:
    return round(float(np.mean(list(found))), 4)


def verdict(record: Record) -> consistency.Consistency:
    """The rule check of the text against what was driven. Of a negative it should contradict or be unknown."""
    history = record["history"]
    return consistency.compare(record["reasoning"]["text"], np.array(record["future"]), FUTURE_INTERVAL_S, history["speeds_mps"][-1])


def with_motion(found: Iterable[Record]) -> dict[str, dict[str, int]]:
    """label -> verdict of the rule check -> number of samples."""
    counts: dict[str, Counter] = {}
    for record in found:
        counts.setdefault(record["label"], Counter())[verdict(record).verdict.value] += 1
    return {label: {v.value: counts[label][v.value] for v in consistency.Verdict} for label in sorted(counts)}


def reviewed(found: Iterable[Record]) -> dict[str, Any]:
    """What people said: number reviewed, and the shares they left as they were, in all and part by part."""
    reviews = [r["provenance"]["reasons"]["review"] for r in found if "review" in r.get("provenance", {}).get("reasons", {})]
    if not reviews:
        return {"samples": 0}
    kept = {part: _share(part not in review["changed"] for review in reviews) for part in PARTS}
    return {"samples": len(reviews), "accepted": _share(not review["changed"] for review in reviews), **kept}
