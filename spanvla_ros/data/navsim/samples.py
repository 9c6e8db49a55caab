"""Logs of NAVSIM / OpenScene as samples of `mreasoning/1`: what a person drove, to be imitated without a reason (fast thinking).

A shard is a stretch of a log in which scenes overlap, at most a minute long. Its map is the part of the city that its scenes see,
so that no two splits share one. Pictures keep their bytes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spanvla_ros import __version__
from spanvla_ros.contracts import Command, ConfigError, DataError
from spanvla_ros.data.navsim import scene as scenes
from spanvla_ros.data.navsim import splits
from spanvla_ros.data.navsim.city import City, read_city
from spanvla_ros.data.navsim.instants import instants as instants_of
from spanvla_ros.data.navsim.logs import INTERVAL_S, Frame, read_log, windows
from spanvla_ros.data.navsim.observation import CAMERAS, OFFSETS_S, observe
from spanvla_ros.data.navsim.pictures import Pictures
from spanvla_ros.data.navsim.splits import FUTURE_FRAMES, HISTORY_FRAMES, SceneFilter
from spanvla_ros.data.sample import Sample, to_record
from spanvla_ros.data.shards import ShardWriter, finished, write_map
from spanvla_ros.evaluation.pdm.tracks import KEYFRAME_STEPS
from spanvla_ros.geometry import to_local
from spanvla_ros.planning.inputs import Grid
from spanvla_ros.planning.prompt import reasoning_text
from spanvla_ros.sim.frame import Frame as Instant
from spanvla_ros.sim.frame import to_document
from spanvla_ros.workers import spread

GENERATOR = f"spanvla_ros {__version__} navsim/1"
LICENCE = "nuPlan / OpenScene: CC BY-NC-SA 4.0, non-commercial"
_JOIN = FUTURE_FRAMES  # frames between scenes of one shard, at most
_LONGEST = 120  # frames of t0s in one shard: a minute
_DENSE = 50
_BLANK = np.zeros((1, 1, 3), np.uint8)  # stands for a picture that is copied, not decoded
_TURN_RAD, _CHANGE_MPS = 0.5, 2.0
_INSTRUCTIONS = {
    Command.LEFT: "Turn or change lanes to the left.",
    Command.STRAIGHT: "Go straight on.",
    Command.RIGHT: "Turn or change lanes to the right.",
    Command.UNKNOWN: "Follow the road.",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where NAVSIM lies and what of it is wanted.

    logs: folder of *.pkl, e.g. navsim_logs/trainval; sensors: folder that the pictures' paths start from, e.g. sensor_blobs/trainval;
    maps: folder of nuplan-maps-v1.0.json, None where nothing is scored; cameras: name in the sample -> NAVSIM's.
    """

    logs: Path
    sensors: Path
    maps: Path | None
    chosen: SceneFilter
    cameras: Mapping[str, str] = field(default_factory=lambda: dict(CAMERAS))

    def __post_init__(self):
        for name in ("logs", "sensors", "maps"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise ConfigError(f"--{name} {folder} is no folder")

    @property
    def names(self) -> tuple[str, str]:
        """What says which split this is."""
        return self.chosen.name, self.logs.name

    def files(self) -> list[Path]:
        """The wanted logs. ConfigError where there is none."""
        found = [path for path in sorted(self.logs.glob("*.pkl")) if self.chosen.logs is None or path.stem in self.chosen.logs]
        if not found:
            raise ConfigError(f"{self.logs} holds no log (*.pkl)" + (f" of scene filter {self.chosen.name}" if self.chosen.logs else ""))
        return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a log; skipped: reason -> scenes; error: why it gave nothing, None where it did."""

    log: str
    samples: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


def convert(source: Source, folder: Path, workers: int = 1, shard: tuple[int, int] = (0, 1)) -> Iterator[Outcome]:
    """Write the samples of all logs, one outcome per log; stretches that are there already are skipped.

    shard (i, n): only every n-th log from the i-th on, for many machines. DataError when writing fails.
    """
    jobs = [(source, path, folder) for path in source.files()[shard[0] :: shard[1]]]
    if workers == 1:
        yield from map(_work, jobs)
        return
    # one by one: neighbouring logs are of one city, but their lengths differ by a hundred
    yield from spread(_work, jobs, workers, ordered=False)


_cities: dict[tuple[Path, str], City] = {}


def city_of(maps: Path | None, name: str) -> City:
    """The map of a city, read once per process; one at a time, because they are large."""
    if maps is None:
        raise ConfigError("samples and scores need --maps, the folder that nuPlan's maps were unpacked to")
    if (maps, name) not in _cities:
        _cities.clear()
        _cities[maps, name] = read_city(maps, name)
    return _cities[maps, name]


def _work(job: tuple[Source, Path, Path]) -> Outcome:
    source, path, folder = job
    try:
        frames = read_log(path)
        samples, skipped = 0, Counter()
        for stretch in _stretches(list(windows(frames, source.chosen))):
            samples += _write(source, path.stem, frames, stretch, folder, skipped)
    except DataError as error:
        return Outcome(log=path.stem, error=str(error))
    return Outcome(log=path.stem, samples=samples, skipped=dict(skipped))


def _stretches(indices: Sequence[int]) -> Iterator[list[int]]:
    """Indices of t0 in groups whose scenes overlap."""
    group: list[int] = []
    for index in indices:
        if group and (index - group[-1] > _JOIN or index - group[0] >= _LONGEST):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _write(source: Source, log: str, frames: Sequence[Frame], stretch: Sequence[int], folder: Path, skipped: Counter) -> int:
    """One shard; returns its number of samples."""
    first, last = stretch[0] - HISTORY_FRAMES + 1, stretch[-1] + FUTURE_FRAMES
    name = f"{log}_{first:05d}"
    if finished(folder, name):
        return 0
    frames = frames[first : last + 1]
    city = city_of(source.maps, frames[0].city)
    instants = instants_of(frames)
    pictures = Pictures(source.sensors, source.cameras, frames)
    chronicle = scenes.Chronicle(name, city)
    kept = []
    for index in (t0 - first for t0 in stretch):
        reason = pictures.missing(index)
        if reason is None:
            try:
                chronicle.add(index * KEYFRAME_STEPS, scenes.view(city, frames[index]))
                kept.append(index)
            except DataError as error:
                reason = str(error)
        if reason is not None:
            skipped[reason] += 1
    if not kept:
        return 0
    write_map(folder, name, chronicle.chart())
    with ShardWriter(folder, name) as shard:
        cameras = {camera: dataclasses.asdict(pictures.camera(camera, kept[0])) for camera in source.cameras}
        truth = {"map": name, "cameras": cameras, "guide": chronicle.guide().document(), **to_document(instants)}
        shard.truth({**truth, scenes.KEYFRAMES: chronicle.document(frames)})
        for index in kept:
            sample = _sample(source, log, name, frames, instants, index)
            shard.add(to_record(sample), pictures.jpegs(index, [i.stamp_ns for i in sample.observation.images["front"]]))
    return len(kept)


def _sample(source: Source, log: str, drive: str, frames: Sequence[Frame], instants: Sequence[Instant], index: int) -> Sample:
    frame, past = frames[index], frames[index - HISTORY_FRAMES + 1 : index + 1]
    at = index * KEYFRAME_STEPS
    future = to_local(frame.pose, np.stack([later.pose for later in frames[index + 1 : index + FUTURE_FRAMES + 1]]))
    dense = to_local(instants[at].ego[:3], np.stack([later.ego[:3] for later in instants[at + 1 : at + _DENSE + 1]]))
    observation = observe(
        Grid(cameras=tuple(source.cameras), frame_offsets_s=OFFSETS_S, history_offsets_s=OFFSETS_S),
        instants[at].stamp_ns,
        np.stack([earlier.pose for earlier in past]),
        np.array([earlier.velocity[0] for earlier in past]),
        {name: [_BLANK] * HISTORY_FRAMES for name in source.cameras},
        frame.command,
    )
    split = splits.split_of(log, *source.names)
    # a test split is named so that training refuses it wherever it turns up
    family = source.chosen.name if split != "test" or splits.is_navsim_test(source.chosen.name) else "navtest"
    return Sample(
        id=f"{family}_{frame.token}",
        observation=observation,
        future=future,
        dense=dense,
        reasoning=reasoning_text(None),
        mode="fast",
        family=family,
        map=drive,
        label="pos",
        instruction=_INSTRUCTIONS[frame.command],
        split=split,
        decision=_decision(frame, future),
        span=(at - 15, at, 15 + _DENSE + 1),
        provenance={
            "source": "navsim",
            "generator": GENERATOR,
            "driver": "person",
            "future": "driven",
            "lapse": None,
            "log": log,
            "token": frame.token,
            "city": frame.city,
            "cameras": dict(source.cameras),
            "annotation": "rules",
            "licence": LICENCE,
        },
    )


def _decision(frame: Frame, future: np.ndarray) -> dict[str, str]:
    """The least that the motion alone tells; a reason would need an annotator."""
    speeds = np.hypot(*np.diff(future[:, :2], axis=0).T) / INTERVAL_S
    changed = float(np.abs(speeds - frame.velocity[0]).max())
    turned = float(np.abs(np.unwrap(np.append(0.0, future[:, 2]))).max())
    return {
        "longitudinal": "speed adaptation" if changed > _CHANGE_MPS else "set-speed tracking",
        "lateral": "turn" if turned > _TURN_RAD else "keep & centre",
    }
