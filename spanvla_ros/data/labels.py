"""Which moments of a drive become samples, and with which label.

pos: the expert drives, before and after. neg: a lapse dominates the next seconds and makes them clearly worse than what the
expert would have done from the same state. rec: from the take-over on, where it ends in safe driving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spanvla_ros.data.episode import FUTURE_FRAMES, Instant, Log
from spanvla_ros.data.scoring import judge
from spanvla_ros.sim import frame as frames_of
from spanvla_ros.sim.chart import Chart, Guide
from spanvla_ros.sim.driver.lapse import Lapse

# shares of the labels over many drives, in equal parts with and without a lapse; +-TOLERANCE is as planned
PLANNED = {"pos": 0.70, "neg": 0.15, "rec": 0.15}
TOLERANCE = 0.05
SPACING = 2  # of samples that are to be imitated, in steps of 0.5 s
MOST = {"neg": 6, "rec": 5}  # per drive
_STANDING_MPS, _STANDING = 0.1, 4  # while nothing moves and nothing changes, one moment in so many is enough
_DOMINATED_S = 2.0  # of the next 5 s
_EARLY_S = 0.5  # a negative may begin this long before the lapse
_FRESH_S = 2.5  # a recovery begins at most this long after the take-over
_SETTLED_S = 5.0  # after this, it is ordinary driving again
_WORSE = 0.12  # EPDMS that a negative loses at least against what the expert would have done
_AGREES_M = 3.0  # what is to be imitated is driven as the expert meant it, on average over 5 s; else its text is another story's
_FAULTS = ("nc", "dac", "ddc", "tlc", "ttc")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A moment, its label, and what was driven afterwards: (10, 3) every 0.5 s and (50, 3) every 0.1 s."""

    instant: Instant
    label: str
    future: np.ndarray
    dense: np.ndarray


def negatives(chosen: Sequence[Choice]) -> int:
    """Number of negatives: how much harm a lapse did."""
    return sum(choice.label == "neg" for choice in chosen)


def choose(log: Log, lapse: Lapse | None, chart: Chart, guide: Guide, spacing: int = SPACING) -> list[Choice]:
    """The samples of a drive. Only moments that 5 s of truth follow, and none after the ego has touched something: from there on
    the world is no example. What is to be imitated doesn't end there either."""
    contact = next((k for k, frame in enumerate(log.frames) if frames_of.touching(frame)), len(log.frames))
    found: dict[str, list[Instant]] = {"pos": [], "neg": [], "rec": []}
    for instant in log.instants:
        label = _label(log.frames[instant.index].stamp_ns / 1e9, lapse)
        last = instant.index + FUTURE_FRAMES
        if label and last < len(log.frames) and (instant.index if label == "neg" else last) < contact:
            found[label].append(instant)
    bad = [i for i in found["neg"] if _clearly_worse(log, i, chart, guide)]
    kept = {
        "pos": [i for i in thinned(log, found["pos"], spacing) if _as_meant(log, i)],
        "neg": bad,
        # a lapse that did no harm leaves nothing to recover from
        "rec": [i for i in found["rec"] if _as_meant(log, i) and _ends_well(log, i, chart, guide)] if bad else [],
    }
    chosen = [(i, label) for label, instants in kept.items() for i in _spread(instants, MOST.get(label))]
    return [_choice(log, instant, label) for instant, label in sorted(chosen, key=lambda pair: pair[0].index)]


def _label(time_s: float, lapse: Lapse | None) -> str:
    if lapse is None or time_s + 5.0 <= lapse.start_s or time_s >= lapse.end_s + _SETTLED_S:
        return "pos"
    if lapse.end_s <= time_s <= lapse.end_s + _FRESH_S:
        return "rec"
    dominated = min(time_s + 5.0, lapse.end_s) - max(time_s, lapse.start_s)
    return "neg" if time_s >= lapse.start_s - _EARLY_S and dominated >= _DOMINATED_S else ""


def thinned(log: Log, instants: Sequence[Instant], spacing: int) -> list[Instant]:
    """Moments that are `spacing` steps apart; fewer where the car stands and the decision stays the same."""
    kept: list[Instant] = []
    for instant in instants:
        apart = round((log.frames[instant.index].stamp_ns - log.frames[kept[-1].index].stamp_ns) / 5e8) if kept else spacing
        stands = bool(kept) and all(log.frames[i.index].ego[3] < _STANDING_MPS for i in (kept[-1], instant))
        same = stands and kept[-1].decision.topic == instant.decision.topic
        if apart >= spacing * (_STANDING if same else 1):
            kept.append(instant)
    return kept


def _as_meant(log: Log, instant: Instant) -> bool:
    """Whether the world let the expert drive what it planned at this moment."""
    driven = frames_of.driven(log.frames, instant.index, 0.5, 10)
    return float(np.hypot(*(driven - instant.decision.waypoints_base)[:, :2].T).mean()) < _AGREES_M


def _clearly_worse(log: Log, instant: Instant, chart: Chart, guide: Guide) -> bool:
    scene = frames_of.scene(chart, guide, log.frames, instant.index)
    plans = np.stack([frames_of.driven(log.frames, instant.index), instant.decision.waypoints_base[:8]])
    driven, wanted = judge(scene, plans, "v2")[0]
    # where the expert can't save the situation either, its text doesn't say what should have been done
    return any(driven[name] < wanted[name] for name in _FAULTS) or driven["epdms"] < wanted["epdms"] - _WORSE


def _ends_well(log: Log, instant: Instant, chart: Chart, guide: Guide) -> bool:
    scene = frames_of.scene(chart, guide, log.frames, instant.index)
    values = judge(scene, frames_of.driven(log.frames, instant.index)[None], "v2")[0][0]
    return min(values[name] for name in ("nc", "dac", "ddc", "tlc")) == 1.0


def _spread(instants: Sequence[Instant], most: int | None) -> list[Instant]:
    """At most so many, evenly."""
    if most is None or len(instants) <= most:
        return list(instants)
    return [instants[k] for k in np.unique(np.linspace(0, len(instants) - 1, most).round().astype(int))]


def _choice(log: Log, instant: Instant, label: str) -> Choice:
    dense = frames_of.driven(log.frames, instant.index, 0.1, FUTURE_FRAMES)
    return Choice(instant=instant, label=label, future=dense[4::5], dense=dense)
