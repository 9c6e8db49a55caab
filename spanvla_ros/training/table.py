"""The ablation as one table: mean and spread over seeds, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = {"ade_1s": "ADE 1 s", "ade_2s": "ADE 2 s", "ade_3s": "ADE 3 s", "ade_5s": "ADE 5 s", "fde": "FDE 5 s", "pdms": "PDMS"}
SHOWN = {"validation": "", "black": ", black images", "silent": ", KV without text"}


def collect(seeds: Sequence[Path], names: Sequence[str], times: Mapping[str, float], steps: int) -> dict[str, Any]:
    """The named rows of all seeds: name, Euler steps, seeds, and per metric mean and spread (sample standard deviation; none for one seed)."""
    rows: dict[tuple[str, int | None, str], list[dict[str, Any]]] = {}
    for seed in seeds:
        for path in (seed / name / "result.json" for name in names):
            scores = path.with_name("pdm.json")
            known = json.loads(scores.read_text(encoding="utf-8")) if scores.exists() else None
            for k, entry in enumerate(json.loads(path.read_text(encoding="utf-8"))["entries"]):
                values = entry | ({"pdms": known[k]} if known else {})
                rows.setdefault((path.parent.name, entry["steps"], entry["shown"]), []).append(values)
    found = []
    for (name, count, shown), entries in rows.items():
        found.append({
            "name": name, "steps": count, "shown": shown, "seeds": len(entries),
            "time_ms": times.get(f"{name}@{count}"),
            **{key: _spread([e[key] for e in entries if key in e]) for key in COLUMNS},
        })  # fmt: skip
    return {"stage_two_steps": steps, "seeds": len(seeds), "rows": found}


def _spread(values: Sequence[float]) -> dict[str, float | None] | None:
    if not values:
        return None
    return {"mean": round(float(np.mean(values)), 4), "spread": round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None}


def markdown(found: Mapping[str, Any]) -> str:
    """One line per row: metres, PDM score of 0..1, milliseconds of the expert per plan and relative to the first row."""
    first = next((row["time_ms"] for row in found["rows"] if row["time_ms"]), None)
    head = ["Row", "Euler steps", *COLUMNS.values(), "trajectory, ms", "relative"]
    lines = [
        f"{found['stage_two_steps']} stage-two steps per row, {found['seeds']} seed{'s' * (found['seeds'] > 1)} (mean ± standard deviation).\n",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row in found["rows"]:
        values = [_cell(row[key]) for key in COLUMNS]
        relative = f"{row['time_ms'] / first:.2f}" if row["time_ms"] and first else "-"
        taken = f"{row['time_ms']:.2f}" if row["time_ms"] else "-"
        lines.append(f"| {' | '.join([row['name'] + SHOWN[row['shown']], str(row['steps'] or '-'), *values, taken, relative])} |")
    for count, taken in found.get("tokens_ms", {}).items():
        lines.append(f"\n{count} action tokens, one by one: {taken:.2f} ms" + (f", {taken / first:.2f} relative." if first else "."))
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.3f}" + (f" ± {value['spread']:.3f}" if value["spread"] is not None else "")
