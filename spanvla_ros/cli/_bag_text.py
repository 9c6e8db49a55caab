"""What `spanvla bag` tells on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanvla_ros.evaluation.judgement import text_of

# pieces of the drive (of 2 s) below which no verdict is drawn from a comparison
FEWEST_PIECES = 5


def overview(summary: Mapping[str, Any], out: Path) -> str:
    """What a person wants to see first."""
    lines = [f"{summary['plans']} plans from {summary['images']} images, {summary['plans_with_reasoning']} with reasoning"]
    if summary["skipped"]:
        lines.append("skipped: " + ", ".join(f"{count} {code}" for code, count in summary["skipped"].items()))
    for horizon, entry in summary["ade_m"].items():
        text = "beyond the recording"
        if entry is not None:
            text = f"model {entry['model']:.2f} m, constant velocity {entry['constant_velocity']:.2f} m, n = {entry['n']}"
        lines.append(f"ADE at {horizon} s: {text}")
    latency = summary["plan_latency_ms"]
    if latency:
        lines.append(f"plan latency: p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms, p99 {latency['p99']:.0f} ms")
    lines.append("states: " + ", ".join(f"{state} {share:.1%}" for state, share in summary["states"]["share"].items()))
    if summary["gate"]:
        lines += [f"{c['verdict']:7} {c['name']:22} {text_of(c['name'], c['value']):>9}  {c['limit']}" for c in summary["gate"]["checks"]]
        lines.append("the gate passes" if summary["gate"]["passed"] else "the gate fails")
    return "\n".join([*lines, f"results in {out}: report.html, summary.json, plans.jsonl, {', '.join(summary['pictures'])}"])


def comparison(found: Mapping[str, Any], first: str, second: str) -> list[str]:
    """Lines about two results."""
    lines = [f"A = {first}", f"B = {second}", f"{found['common']} plans in both; only in A {found['only_first']}, only in B {found['only_second']}"]
    lines += [f"identical plans: {found['identical']}", "", f"{'':22}{'A':>10}{'B':>10}{'B - A':>9}  95 % interval"]
    newest = None
    for horizon, entry in found["ade_m"].items():
        if entry is not None:
            newest = entry if float(horizon) <= 3 else newest
            both = f"ADE {horizon} s{'':16}{entry['first']:8.2f} m{entry['second']:8.2f} m"
            lines.append(f"{both}{entry['mean']:+8.2f}m  [{entry['low']:+.2f}, {entry['high']:+.2f}]")
    for name, (one, two) in found["figures"].items():
        if not name.startswith("ade_"):
            lines.append(f"{name:22}{text_of(name, one):>10}{text_of(name, two):>10}")
    if newest is None or newest["pieces"] < FEWEST_PIECES:
        said = "too short a drive to tell them apart"
    else:
        said = (
            "B is nearer to the drive"
            if newest["high"] < 0
            else "B is farther from the drive"
            if newest["low"] > 0
            else "no difference that it can show"
        )
    return [*lines, "", said]
