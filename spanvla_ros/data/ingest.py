"""Samples from ROS 2 bags: one drive per bag, one shard per drive.

t0 is the frame of the first camera nearest to an instant of the 2 Hz grid; frames and poses of a sample are chosen by stamp by the
same `InputBuffer` as in the car. The future is what odometry says was driven. Pictures are stored as they were recorded, and only read
in a second pass, so that memory doesn't grow with the bag.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros import __version__
from spanvla_ros.contracts import NS_PER_S, ConfigError, DataError, InputError, NotReady, Observation, SpanVLAError
from spanvla_ros.data import drive as drives
from spanvla_ros.data import hindsight, rig, tags
from spanvla_ros.data.bag import Bag
from spanvla_ros.data.drive import Drive
from spanvla_ros.data.episode import EXPOSURE_S, GRID
from spanvla_ros.data.footage import with_pictures
from spanvla_ros.data.sample import DENSE_INTERVAL_S, FUTURE_INTERVAL_S, Sample, to_record
from spanvla_ros.data.shards import FOLDER, ShardWriter, finished, write_map
from spanvla_ros.data.topics import DriveTopics
from spanvla_ros.geometry import to_local
from spanvla_ros.planning.inputs import Grid, InputBuffer, InputLimits
from spanvla_ros.planning.prompt import INSTRUCTIONS
from spanvla_ros.sim.chart import Chart
from spanvla_ros.sim.frame import Frame, to_document
from spanvla_ros.workers import spread

GENERATOR = f"spanvla_ros {__version__} bag/1"
_LIMITS = InputLimits()
_BLANK = np.zeros((1, 1, 3), np.uint8)  # stands for a picture that is read later
_STANDING_M, _STANDING_MPS = 0.3, 0.1
_TAKE_OVER_S = 8.0  # around a change of the driver nothing is thinned out


@dataclass(frozen=True, kw_only=True)
class IngestRecipe:
    """How bags become samples. rig: file instead of CameraInfo and TF; every_s: between samples; future_s: seconds of driven future, 1 to 5;
    standstill_s: between samples while nothing moves; blur: share of a camera's usual sharpness below which a frame is blurred, 0 keeps
    all; chart: map document (`sim.chart`) whose frame is that of the odometry; site: name of the place where there is no map."""

    topics: DriveTopics
    rig: Path | None = None
    every_s: float = EXPOSURE_S
    future_s: float = 5.0
    standstill_s: float = 10.0
    blur: float = 0.25
    split: str = "train"
    licence: str = ""
    site: str = "unmapped"
    chart: Mapping[str, Any] | None = None

    def __post_init__(self):
        for name, unit in (("every_s", EXPOSURE_S), ("future_s", FUTURE_INTERVAL_S)):
            value = getattr(self, name)
            if value <= 0 or value % unit:
                raise ConfigError(f"{name} must be a multiple of {unit:g} s, is {value:g} s")
        if not 1.0 <= self.future_s <= 5.0:
            raise ConfigError(f"future_s must be from 1 to 5 s, is {self.future_s:g} s")
        if self.standstill_s < 0 or not 0 <= self.blur < 1:
            raise ConfigError(f"standstill_s must not be negative, is {self.standstill_s:g}; blur must be from 0 to below 1, is {self.blur:g}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one bag gave. skipped: reason code -> how often; error: why it gave nothing; fatal: going on with others makes no sense."""

    bag: Path
    samples: int = 0
    takeovers: int = 0
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    error: str = ""
    fatal: bool = False


def ingest_all(bags: Sequence[Path], folder: Path, recipe: IngestRecipe, workers: int = 1) -> Iterator[Report]:
    """Every bag into a shard of `folder`, by `workers` processes, as they finish. A bag that can't be used doesn't end the others;
    DataError when writing fails."""
    jobs = [(bag, folder, recipe) for bag in bags]
    if workers == 1:
        yield from map(_raised, map(_work, jobs))
        return
    yield from map(_raised, spread(_work, jobs, workers, ordered=False))


def ingest(path: Path, folder: Path, recipe: IngestRecipe) -> Report:
    """One bag into one shard; a drive that is there already is left as it is. InputError for a bag that gives no sample."""
    with Bag(path) as bag:
        name = shard_name(bag)
        if finished(folder, name):
            return Report(bag=path)
        twins = [p.name for p in (folder / FOLDER).glob(f"*-{bag.identity}.jsonl")]
        if twins:
            raise InputError(f"bag {path} is the same recording as {twins[0]}, which is in {folder} already")
        cameras = rig.of_bag(bag, recipe.topics, recipe.rig)
        drive = drives.read(bag, recipe.topics)
        skipped: Counter[str] = Counter(drive.skipped)
        moments = _kept(drive, _moments(drive, recipe, skipped), recipe, skipped)
        if not moments:
            raise InputError(f"bag {path} gives no sample of {recipe.future_s:g} s of future; skipped: {dict(skipped)}")
        chart = Chart.from_document(recipe.chart) if recipe.chart else None
        place = chart.map_id if chart else recipe.site
        if chart:
            write_map(folder, place, recipe.chart)
        frames, count = drive.frames(), 0
        with ShardWriter(folder, name) as shard:
            for observation, pictures in with_pictures(bag, moments, recipe.topics.cameras, cameras, blur=recipe.blur, skipped=skipped):
                shard.add(to_record(_sample(name, place, drive, frames, observation, recipe, chart)), pictures)
                count += 1
            if not count:
                raise InputError(f"bag {path} gives no sample; skipped: {dict(skipped)}")
            state = {"engagement": [list(entry) for entry in drive.automatic], "skipped": dict(skipped)}
            shard.truth({"map": place, "cameras": cameras, **state, **to_document(frames)})
    return Report(bag=path, samples=count, takeovers=_takeovers(drive), skipped=dict(skipped))


def _takeovers(drive: Drive) -> int:
    values = [automatic for _, automatic in drive.automatic]
    return sum(before and not after for before, after in zip(values, values[1:]))


def shard_name(bag: Bag) -> str:
    """Name of a bag's drive: that of its file or folder, and what its copies share."""
    stem = bag.path.stem if bag.path.is_file() else bag.path.resolve().name
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', stem)}-{bag.identity}"


def _work(job: tuple[Path, Path, IngestRecipe]) -> Report:
    try:
        return ingest(*job)
    except DataError as error:
        return Report(bag=job[0], error=str(error), fatal=True)
    except SpanVLAError as error:
        return Report(bag=job[0], error=str(error))


def _raised(report: Report) -> Report:
    if report.fatal:
        raise DataError(report.error)
    return report


def _moments(drive: Drive, recipe: IngestRecipe, skipped: Counter[str]) -> Iterator[Observation]:
    """Observations with blank pictures on the grid, where history, frames and future are whole."""
    cameras = tuple(recipe.topics.cameras)
    buffer = InputBuffer(Grid(cameras=cameras, frame_offsets_s=GRID.frame_offsets_s, history_offsets_s=GRID.history_offsets_s), _LIMITS)
    tolerance_ns = round(_LIMITS.frame_tolerance_s * NS_PER_S)
    rows, frames = 0, dict.fromkeys(cameras, 0)
    for t0 in _grid(drive.images[cameras[0]], recipe.every_s, tolerance_ns):
        while rows < len(drive.stamps_ns) and (rows == 0 or drive.stamps_ns[rows - 1] < t0):
            buffer.add_odometry(int(drive.stamps_ns[rows]), drive.poses[rows], drive.speeds_mps[rows], drive.yaw_rates_rps[rows])
            rows += 1
        for camera in cameras:
            stamps = drive.images[camera]
            while frames[camera] < len(stamps) and stamps[frames[camera]] <= t0 + tolerance_ns:
                buffer.add_image(camera, int(stamps[frames[camera]]), _BLANK)
                frames[camera] += 1
        try:
            observation = buffer.observe(t0, drive.command_at(t0))
        except NotReady as error:
            skipped[error.code] += 1
            continue
        gap_s = drive.longest_gap_s(t0, t0 + round(recipe.future_s * NS_PER_S))
        if gap_s > _LIMITS.odometry_gap_s:
            skipped["FUTURE_SHORT" if np.isinf(gap_s) else "ODOMETRY_GAP"] += 1
        else:
            yield observation


def _grid(stamps: np.ndarray, every_s: float, tolerance_ns: int) -> list[int]:
    """The stamps nearest to a regular grid that begins with the first of them."""
    if not len(stamps):
        return []
    wanted = np.arange(stamps[0], stamps[-1] + tolerance_ns, round(every_s * NS_PER_S))
    after = np.clip(np.searchsorted(stamps, wanted), 1, max(1, len(stamps) - 1))
    low, high = stamps[after - 1], stamps[np.minimum(after, len(stamps) - 1)]
    nearest = np.where(wanted - low <= high - wanted, low, high)
    return sorted({int(stamp) for stamp, goal in zip(nearest, wanted) if abs(int(stamp) - int(goal)) <= tolerance_ns})


def _kept(drive: Drive, moments: Iterator[Observation], recipe: IngestRecipe, skipped: Counter[str]) -> list[Observation]:
    """Without most of the moments at which the car stands and goes on standing."""
    changes = [stamp for stamp, _ in drive.automatic[1:]]
    kept, standing_ns = [], None
    for observation in moments:
        t0 = observation.t0_ns
        after = drive.poses_at(np.array([t0 + round(recipe.future_s * NS_PER_S)]))[0]
        stands = bool(
            np.abs(observation.history.speeds_mps).max() < _STANDING_MPS and np.hypot(*(after - observation.pose_odom)[:2]) < _STANDING_M
        )
        event = any(abs(t0 - stamp) < _TAKE_OVER_S * NS_PER_S for stamp in changes)
        if stands and not event and standing_ns is not None and t0 - standing_ns < recipe.standstill_s * NS_PER_S:
            skipped["STANDSTILL"] += 1
            continue
        standing_ns = t0 if stands else None
        kept.append(observation)
    return kept


def _sample(
    name: str, place: str, drive: Drive, frames: Sequence[Frame], observation: Observation, recipe: IngestRecipe, chart: Chart | None
) -> Sample:
    t0, count = observation.t0_ns, round(recipe.future_s / DENSE_INTERVAL_S)
    stamps = t0 + np.arange(1, count + 1) * round(DENSE_INTERVAL_S * NS_PER_S)
    dense = to_local(observation.pose_odom, drive.poses_at(stamps))
    future = dense[round(FUTURE_INTERVAL_S / DENSE_INTERVAL_S) - 1 :: round(FUTURE_INTERVAL_S / DENSE_INTERVAL_S)]
    index = min(round((t0 - frames[0].stamp_ns) / NS_PER_S / DENSE_INTERVAL_S), len(frames) - 1)
    first = max(0, index - round(-GRID.frame_offsets_s[0] / DENSE_INTERVAL_S))
    found = tags.find(frames, index, chart)
    decision, mode, text = hindsight.explain(future, float(observation.history.speeds_mps[-1]), found, seen=bool(drive.boxes))
    automatic = drive.automatic_at(t0)
    return Sample(
        id=f"{name}_{(t0 - int(drive.stamps_ns[0])) // 1_000_000:07d}",
        observation=observation,
        future=future,
        dense=dense,
        reasoning=text,
        mode=mode,
        family=found[0].name if found else tags.OTHERS,
        map=place,
        label="pos",
        instruction=f"{INSTRUCTIONS[observation.command].capitalize()}.",
        split=recipe.split,
        decision=decision,
        components=tuple(tag.component for tag in found if tag.component),
        span=(first, index, min(index + count, len(frames) - 1) - first + 1),
        provenance={
            "source": "bag",
            "generator": GENERATOR,
            "driver": "unknown" if automatic is None else "automation" if automatic else "person",
            "future": "driven",
            "lapse": None,
            "drive": name,
            "licence": recipe.licence or "not stated",
            "tags": [tag.name for tag in found],
            "annotation": "rules",
        },
    )
