"""Negatives and recoveries from drives in which a person took over (method section 6: the log before, and the log after).

A take-over is a pair where it makes sense: the automation drove up to it, the person from it on, and the car left the way it was
going, or had been braked harshly before. What lies in its shadow and is no part of the pair is nothing to imitate and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, ConfigError, DataError
from spanvla_ros.data.merge import copy_drive, copy_maps, drives
from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.data.shards import Dataset
from spanvla_ros.geometry import constant_turn, interpolate_poses, to_local

_NEAR_S = 0.3  # a sample of the 2 Hz grid is this near to any instant
_SETTLED_S = 5.0  # after this, it is ordinary driving again
_AHEAD_S = 0.1 * np.arange(1, 51)
_FEWEST_S = 2.0  # of driving after a take-over, to see what it changed
_HARSH_MPS2 = 4.0  # braking that nobody plans; after it there may be nothing left to correct
_TREND_S = 0.5  # over which the acceleration before a take-over is taken


@dataclass(frozen=True, kw_only=True)
class Window:
    """before_s: a negative begins this long before the take-over; after_s: a recovery begins this long after it; correction_m: how far the
    person at least brings the car from where it was heading within 5 s; less is a routine hand-over, unless the car was braked harshly."""

    before_s: float = 3.0
    after_s: float = 0.5
    correction_m: float = 1.0

    def __post_init__(self):
        if not 0 < self.before_s <= 5 or not 0 <= self.after_s <= _SETTLED_S:
            raise ConfigError(f"the window must begin within 5 s before and end within 5 s after, is {self.before_s:g} and {self.after_s:g} s")
        if self.correction_m < 0:
            raise ConfigError(f"correction_m must not be negative, is {self.correction_m:g}")


@dataclass(frozen=True, kw_only=True)
class TakeOver:
    """One change from automation to person. reason: why it is no pair, "" for one that is; negative, recovery: ids of the pair."""

    drive: str
    stamp_ns: int
    correction_m: float
    reason: str = ""
    negative: str = ""
    recovery: str = ""


def mine(folder: Path, out: Path, window: Window = Window(), part: tuple[int, int] = (1, 1)) -> Iterator[list[TakeOver]]:
    """Write a data set `out` with the pairs and all that may still be imitated; yields the take-overs of every drive.

    part: the i-th of n shares of the drives. DataError where no drive says who drove.
    """
    dataset = Dataset(folder)
    rows: dict[Path, list[int]] = {}
    for index, entry in enumerate(dataset.entries):
        rows.setdefault(entry.shard, []).append(index)
    if not any(dataset.truth(indices[0]).get("engagement") for indices in rows.values()):
        raise DataError(f"no drive of {folder} says who drove; name the topic under `engagement` in the topics file of `spanvla data bag`")
    for shard in drives(dataset)[part[0] - 1 :: part[1]]:
        truth = dataset.truth(rows[shard][0])
        engagement = [(int(stamp), bool(value)) for stamp, value in truth.get("engagement", ())]
        records, found = pairs([dataset.record(index) for index in rows[shard]], truth, engagement, window, shard.name.removesuffix(".jsonl"))
        if records:
            copy_drive(shard, out, records)
        yield found
    copy_maps(dataset, out)


def pairs(
    records: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], engagement: Sequence[tuple[int, bool]], window: Window, drive: str
) -> tuple[list[dict[str, Any]], list[TakeOver]]:
    """New records of a drive, by t0, and its take-overs. engagement: when who began to drive, in order."""
    changes = [k for k in range(1, len(engagement)) if engagement[k - 1][1] and not engagement[k][1]]
    found = [_take_over(records, truth, engagement, k, window, drive) for k in changes]
    labels: dict[str, tuple[str, TakeOver]] = {}
    for event in found:
        if not event.reason:
            labels |= {event.negative: ("neg", event), event.recovery: ("rec", event)}
    by_id = {record["id"]: record for record in records}
    kept = []
    for record in records:
        if record["id"] in labels:
            label, event = labels[record["id"]]
            # a negative says what should have been done, which the person did
            teacher = by_id[event.recovery]
            pair = event.recovery if label == "neg" else event.negative
            mark = {"pair": pair, "takeover": {"stamp_ns": event.stamp_ns, "correction_m": round(event.correction_m, 3)}}
            words = {"decision": teacher["decision"], "reasoning": teacher["reasoning"]}
            kept.append({**record, "label": label, **words, "provenance": {**record["provenance"], **mark}})
        elif not any(_in_shadow(record, event, window) for event in found):
            kept.append(dict(record))
    return kept, found


def _take_over(
    records: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], engagement: Sequence[tuple[int, bool]], k: int, window: Window, drive: str
) -> TakeOver:
    stamp = engagement[k][0]
    correction = _correction(truth, stamp)
    negative, recovery = _nearest(records, stamp, -window.before_s), _nearest(records, stamp, window.after_s)
    reason = ""
    if correction is None:
        reason = "DRIVE_ENDS"
    elif correction < window.correction_m and _hardest_braking(truth, stamp, window) < _HARSH_MPS2:
        reason = "NO_CORRECTION"
    elif negative is None or recovery is None:
        reason = "NO_SAMPLE_BEFORE" if negative is None else "NO_SAMPLE_AFTER"
    elif engagement[k - 1][0] > negative["t0_ns"]:
        reason = "AUTOMATION_TOO_SHORT"
    elif k + 1 < len(engagement) and engagement[k + 1][0] < recovery["t0_ns"] + _future_ns(recovery):
        reason = "PERSON_TOO_SHORT"
    ids = {} if reason else {"negative": negative["id"], "recovery": recovery["id"]}
    return TakeOver(drive=drive, stamp_ns=stamp, correction_m=correction or 0.0, reason=reason, **ids)


def _nearest(records: Sequence[Mapping[str, Any]], stamp_ns: int, offset_s: float) -> Mapping[str, Any] | None:
    """The sample at an instant beside the take-over, on its own side of it."""
    wanted = stamp_ns + round(offset_s * NS_PER_S)
    own = [r for r in records if (r["t0_ns"] >= stamp_ns) == (offset_s >= 0) and abs(r["t0_ns"] - wanted) <= _NEAR_S * NS_PER_S]
    return min(own, key=lambda record: abs(record["t0_ns"] - wanted), default=None)


def _correction(truth: Mapping[str, Any], stamp_ns: int) -> float | None:
    """How far the car came, within 5 s, from where it was heading: the nearer one of keeping speed and turn, and of keeping the
    acceleration too. None where too little was recorded."""
    times = np.array([frame["t"] - stamp_ns for frame in truth["frames"]]) / NS_PER_S
    rows = np.array([frame["ego"] for frame in truth["frames"]])
    ahead = _AHEAD_S[_AHEAD_S <= times[-1]]
    if times[0] > -_TREND_S or len(ahead) < _FEWEST_S / 0.1:
        return None
    speed, turn, before = np.interp(0, times, rows[:, 3]), np.interp(0, times, rows[:, 9]), np.interp(-_TREND_S, times, rows[:, 3])
    poses = interpolate_poses(times, rows[:, :3], np.append(0.0, ahead))
    driven = to_local(poses[0], poses[1:])
    speeds = np.maximum(speed + (speed - before) / _TREND_S * ahead, 0.0)
    travelled = np.cumsum((np.append(speed, speeds[:-1]) + speeds) / 2 * 0.1)
    curvature = turn / speed if speed > 0.5 else 0.0
    headings = [constant_turn(speed, turn if speed > 0.5 else 0.0, ahead), constant_turn(1.0, curvature, travelled)]
    return float(min(np.hypot(*(driven - heading)[:, :2].T).max() for heading in headings))


def _hardest_braking(truth: Mapping[str, Any], stamp_ns: int, window: Window) -> float:
    """Greatest deceleration in the window before a take-over, m/s2."""
    begin = stamp_ns - round(window.before_s * NS_PER_S)
    return -min((frame["ego"][5] for frame in truth["frames"] if begin <= frame["t"] <= stamp_ns), default=0.0)


def _in_shadow(record: Mapping[str, Any], event: TakeOver, window: Window) -> bool:
    """Whether a sample's future reaches into what led to a take-over, or it isn't settled yet after it. Routine hand-overs have none."""
    if event.reason == "NO_CORRECTION":
        return False
    begin = event.stamp_ns - round(window.before_s * NS_PER_S)
    return record["t0_ns"] + _future_ns(record) > begin and record["t0_ns"] < event.stamp_ns + round(_SETTLED_S * NS_PER_S)


def _future_ns(record: Mapping[str, Any]) -> int:
    return round(len(record["future"]) * FUTURE_INTERVAL_S * NS_PER_S)
