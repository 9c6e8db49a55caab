"""What a soak test found, held against its limits, and its picture."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from spanvla_ros.evaluation.report import STATE_COLORS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """growth_percent: of the resident memory between a sixth of the time (minute 10 of 60) and its end; judged where that sixth is long
    enough for caches and pools to have filled."""

    gap_s: float = 0.25
    growth_percent: float = 2.0
    growth_from_minutes: float = 10.0


class Record(Protocol):
    """As `ros.soak.Record`."""

    minutes: float
    seed: int
    beats: list[tuple[float, float]]
    states: list[tuple[float, str, str, str]]
    rss_mb: list[tuple[float, float]]
    silent: list[tuple[float, float]]
    faults: list[dict[str, Any]]
    crashes: list[str]
    beyond_limits: list[str]
    plans: int
    callback_errors: int


def gaps(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between heartbeats: when they end, how long they were, and what is left without the time that planner and listener waited for a
    processor. Gaps in which the planner was told to be silent are left out."""
    table = np.array(record.beats, float).reshape(-1, 2)
    times, waited = table.T
    if len(times) < 2:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    # the sum over the threads of a process falls when one ends
    spoken = np.ones(len(times) - 1, bool)
    for begin_s, end_s in record.silent:
        spoken &= ~((times[1:] > begin_s) & (times[:-1] < end_s))
    raw = np.diff(times)
    return times[1:][spoken], raw[spoken], np.maximum(raw - np.maximum(np.diff(waited), 0.0), 0.0)[spoken]


def growth_percent(rss_mb: Sequence[tuple[float, float]], end_s: float) -> float | None:
    """Median memory of the last twelfth of the time against that of the twelfth after its first sixth; None without samples there."""
    table = np.array(rss_mb, float).reshape(-1, 2)
    early = table[(table[:, 0] >= end_s / 6) & (table[:, 0] < end_s / 4), 1]
    late = table[table[:, 0] >= end_s * 11 / 12, 1]
    return 100.0 * float(np.median(late) / np.median(early) - 1) if len(early) and len(late) else None


def summarize(record: Record, limits: Limits | None = None) -> dict[str, Any]:
    """What summary.json holds; `broken` names every limit that was broken."""
    limits = limits or Limits()
    _, raw, own = gaps(record)
    beats = [(at_s, state, reason) for at_s, event, state, reason in record.states if event == "heartbeat"]
    unrecovered = [f"{' + '.join(entry['names'])} at {entry['begin_s']:.0f} s" for entry in record.faults if entry.get("recovered_s") is None]
    growth = growth_percent(record.rss_mb, 60 * record.minutes)
    count = max(len(beats), 1)
    memory = [value for _, value in record.rss_mb]
    shares = Counter(state for _, state, _ in beats)
    changes = Counter(f"{before[1]} -> {after[1]}" for before, after in zip(beats, beats[1:]) if before[1] != after[1])
    recovery_s = [entry["recovered_s"] - entry["end_s"] for entry in record.faults if entry.get("recovered_s") is not None]
    broken = [*record.crashes]
    broken += [f"{record.callback_errors} callbacks of the planner failed"] if record.callback_errors else []
    if not len(own) or own.max() > limits.gap_s:
        broken.append(f"largest gap between heartbeats {own.max(initial=0.0):.3f} s of {len(own)}, allowed are {limits.gap_s:g} s")
    if growth is not None and growth > limits.growth_percent and record.minutes >= limits.growth_from_minutes:
        broken.append(f"memory grew by {growth:.1f} %, allowed are {limits.growth_percent:g} %")
    broken += [f"no recovery from {line}" for line in unrecovered]
    broken += [f"{len(record.beyond_limits)} trajectories beyond the limits, the first at {record.beyond_limits[0]}"] if record.beyond_limits else []
    return {
        "minutes": record.minutes,
        "seed": record.seed,
        "passed": not broken,
        "broken": broken,
        "plans": record.plans,
        "crashes": len(record.crashes),
        "callback_errors": record.callback_errors,
        "heartbeats": len(beats),
        "heartbeat_gap_s": {"largest": _largest(raw), "largest_without_waiting_for_a_processor": _largest(own)},
        "heartbeat_gaps_above_limit": {"all": int((raw > limits.gap_s).sum()), "without_waiting_for_a_processor": int((own > limits.gap_s).sum())},
        "rss_mb": {"first": memory[0], "last": memory[-1], "largest": max(memory)} if memory else None,
        "rss_growth_percent": growth,
        "faults": len(record.faults),
        "fault_kinds": dict(sorted(Counter(name for entry in record.faults for name in entry["names"]).items())),
        "recovery_s": {"median": float(np.median(recovery_s)), "largest": max(recovery_s)} if recovery_s else None,
        "state_share": {state: shares[state] / count for state in STATE_COLORS if shares[state]},
        "state_changes": dict(sorted(changes.items())),
        "reasons": dict(Counter(reason for _, _, reason in beats if reason != "OK").most_common()),
        "events": record.faults,
    }


def _largest(values: np.ndarray) -> float | None:
    return round(float(values.max()), 4) if len(values) else None


def picture(record: Record, limits: Limits | None = None) -> bytes:
    """PNG over time: states with faults, gaps between heartbeats, memory."""
    limits = limits or Limits()
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 1, 1))
    beats = [(at_s, state) for at_s, event, state, _ in record.states if event == "heartbeat"]
    order = list(STATE_COLORS)[::-1]
    for state, color in STATE_COLORS.items():
        top.plot([t for t, s in beats if s == state], [order.index(state)] * sum(s == state for _, s in beats), "|", color=color, ms=11)
    for entry in record.faults:
        lost = entry.get("recovered_s") is None
        top.axvspan(entry["begin_s"], entry.get("end_s", entry["begin_s"]), color="#cf222e" if lost else "#0a58ca", alpha=0.15, lw=0)
    top.set(yticks=range(len(order)), yticklabels=order, ylim=(-0.6, len(order) - 0.4))
    top.set_title("state at every heartbeat; faults are blue, red without recovery")
    times, raw, own = gaps(record)
    middle.plot(times, raw, ".", ms=3, color="#9aa0a6", label="all")
    middle.plot(times, own, ".", ms=3, color="#0a3d91", label="without waiting for a processor")
    middle.axhline(limits.gap_s, color="#cf222e", lw=1)
    middle.set(ylabel="heartbeat gap, s", ylim=(0, None))
    middle.legend(loc="upper right", fontsize=8, frameon=False)
    bottom.plot(*np.array(record.rss_mb, float).reshape(-1, 2).T, color="#0a3d91")
    bottom.set(ylabel="memory of the planner, MB", xlabel="s since the first plan")
    for axes in (top, middle, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
