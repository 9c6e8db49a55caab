"""Samples on disk. A shard is one drive: JSON lines, one file of concatenated JPEGs, and the truth of the whole drive at 10 Hz.

    D/shards/<drive>.jsonl         one record per sample; where it is, the shard is whole
    D/shards/<drive>.jpegs         the pictures, each once
    D/shards/<drive>.truth.json    {"map", "guide": the route, "objects", "frames"}: boxes, lamps and ego, see `sim.frame`
    D/maps/<map>.json              the polygons of a map, see `sim.chart`
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError, ModelSpec
from spanvla_ros.data.sample import SCHEMA, Sample, from_record, picked
from spanvla_ros.planning.inputs import Grid

FOLDER, MAPS = "shards", "maps"
_LINES, _JPEGS, _TRUTH = ".jsonl", ".jpegs", ".truth.json"


class ShardWriter:
    """Writes the samples of one drive; nothing is visible under its final name before the end. A context manager.

    A frame that several samples share is stored once. DataError when the disk is full.
    """

    def __init__(self, folder: Path, drive: str):
        self._base = Path(folder) / FOLDER / drive
        self._base.parent.mkdir(parents=True, exist_ok=True)
        self._paths = {suffix: Path(f"{self._base}{suffix}.part") for suffix in (_JPEGS, _TRUTH, _LINES)}
        self._jpegs, self._lines = self._paths[_JPEGS].open("wb"), self._paths[_LINES].open("w", encoding="utf-8")
        self._known: dict[tuple[str, int], dict[str, int]] = {}

    def add(self, record: dict[str, Any], jpegs: Mapping[str, list[tuple[int, bytes]]]) -> None:
        """jpegs: camera -> (stamp_ns, JPEG bytes) oldest first."""
        images = {camera: [self._store(camera, stamp, data) for stamp, data in frames] for camera, frames in jpegs.items()}
        self._lines.write(json.dumps({**record, "images": images}, separators=(",", ":")) + "\n")

    def truth(self, document: Mapping[str, Any]) -> None:
        """The truth of the drive."""
        self._paths[_TRUTH].write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")

    def _store(self, camera: str, stamp_ns: int, data: bytes) -> dict[str, int]:
        key = (camera, stamp_ns)
        if key not in self._known:
            self._known[key] = {"stamp_ns": stamp_ns, "offset": self._jpegs.tell(), "length": len(data)}
            self._jpegs.write(data)
        return self._known[key]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        failed = kind is not None
        for stream in (self._jpegs, self._lines):
            try:
                stream.close()
            except OSError as late:  # what was buffered doesn't fit any more
                failed, error = True, error or late
        for suffix, part in self._paths.items():
            if failed:
                part.unlink(missing_ok=True)
            elif part.exists():
                os.replace(part, f"{self._base}{suffix}")
        if isinstance(error, OSError):
            raise full(error, self._base.parent) from None


def full(error: OSError, folder: Path) -> DataError:
    """What to say when writing fails."""
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
    return DataError(f"{folder}: {reason}; finished drives are kept, make room and run the same command again")


def finished(folder: Path, drive: str) -> bool:
    return (Path(folder) / FOLDER / f"{drive}{_LINES}").exists()


def write_map(folder: Path, map_id: str, document: Mapping[str, Any]) -> None:
    """Store the polygons of a map where they are not there yet; several processes may try."""
    path = Path(folder) / MAPS / f"{map_id}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise full(error, path.parent) from None


@dataclass(frozen=True)
class Entry:
    """Where a record is, and what samples are chosen by."""

    shard: Path
    offset: int
    length: int
    id: str
    split: str
    label: str
    family: str
    map: str
    seed: int


class Dataset:
    """Random access to the samples of a folder, in the order of their drives.

    split, labels: only these; grid: cameras, frames and history of the samples as a model asks for them (all that is stored
    without one). Records stay on disk until they are asked for.
    """

    def __init__(
        self, folder: str | Path, split: str | None = None, grid: Grid | ModelSpec | None = None, labels: Sequence[str] | None = None
    ):
        self.folder, self.grid = Path(folder), grid
        paths = sorted((self.folder / FOLDER).glob(f"*{_LINES}"))
        if not paths:
            raise DataError(f"{self.folder} holds no shards ({FOLDER}/*{_LINES}); make some with `spanvla data sim` or `spanvla data bag`")
        self.entries: list[Entry] = []
        digest = hashlib.sha256()
        for path in paths:
            before = len(self.entries)
            for number, (offset, line) in enumerate(_lines(path), 1):
                record = _parse(line, path, number)
                if (split is None or record["split"] == split) and (labels is None or record["label"] in labels):
                    keys = (record["id"], record["split"], record["label"], record["family"], record["map"], record.get("seed", 0))
                    self.entries.append(Entry(path, offset, len(line), *keys))
                    digest.update(line)
            if len(self.entries) > before:
                digest.update(np.int64(_beside(path, _JPEGS).stat().st_size).tobytes())
        if not self.entries:
            raise DataError(f"{self.folder} holds no sample of split '{split}'" + (f" with label {' or '.join(labels)}" if labels else ""))
        self.sha256 = digest.hexdigest()  # identity of the data: all records and the sizes of the picture files
        self._truth: tuple[Path, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        return from_record(record, self._read(self.entries[index].shard, record), self.grid)

    def record(self, index: int) -> dict[str, Any]:
        """The JSON object of a sample."""
        entry = self.entries[index]
        with entry.shard.open("rb") as stream:
            stream.seek(entry.offset)
            return _parse(stream.read(entry.length), entry.shard, index)

    def jpegs(self, index: int) -> dict[str, list[bytes]]:
        """camera -> encoded frames, oldest first."""
        return self._read(self.entries[index].shard, self.record(index))

    def truth(self, index: int) -> dict[str, Any]:
        """The truth of the drive that a sample is from; the last one read is kept."""
        path = _beside(self.entries[index].shard, _TRUTH)
        if self._truth is None or self._truth[0] != path:
            try:
                self._truth = path, json.loads(path.read_text(encoding="utf-8"))
            except (OSError, json.JSONDecodeError) as error:
                raise DataError(f"{path} can't be read: {error}") from None
        return self._truth[1]

    def has_chart(self, map_id: str) -> bool:
        """Whether there is a document of a map; recordings of real cars mostly come without."""
        return (self.folder / MAPS / f"{map_id}.json").exists()

    def chart(self, map_id: str) -> dict[str, Any]:
        """The document of a map."""
        path = self.folder / MAPS / f"{map_id}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"map {path} can't be read: {error}") from None

    def stream(self, seed: int, worker: int = 0, workers: int = 1, buffer: int = 64) -> Iterator[Sample]:
        """All samples once, shuffled by `seed`: shards in random order, mixed in a buffer of `buffer` samples.

        Of several workers each reads its own shards. Memory is bounded by the buffer, whatever the size of the data.
        """
        if not 0 <= worker < workers:
            raise DataError(f"worker {worker} of {workers} doesn't exist")
        rng = np.random.default_rng([seed, worker])
        shards: dict[Path, list[int]] = {}
        for index, entry in enumerate(self.entries):
            shards.setdefault(entry.shard, []).append(index)
        # the order of the shards is the same for all workers, so that their shares don't overlap
        order = np.random.default_rng(seed).permutation(len(shards))[worker::workers]
        groups = list(shards.values())
        kept: list[Sample] = []
        for group in order:
            for index in rng.permutation(groups[group]):
                kept.append(self[int(index)])
                if len(kept) >= buffer:
                    yield _take(kept, rng)
        while kept:
            yield _take(kept, rng)

    def _read(self, shard: Path, record: Mapping[str, Any]) -> dict[str, list[bytes]]:
        path = _beside(shard, _JPEGS)
        with path.open("rb") as stream:
            return {camera: [_bytes(stream, f, path) for f in frames] for camera, frames in picked(record, self.grid).items()}


def _take(kept: list[Sample], rng: np.random.Generator) -> Sample:
    index = int(rng.integers(len(kept)))
    kept[index], kept[-1] = kept[-1], kept[index]
    return kept.pop()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, line
            offset += len(line)


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}:{number} is no JSON: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(f"{path}:{number} has schema '{record.get('schema') if isinstance(record, dict) else '?'}', expected '{SCHEMA}'")
    missing = [key for key in ("id", "split", "label", "family", "map") if key not in record]
    if missing:
        raise DataError(f"{path}:{number} lacks {', '.join(missing)}")
    return record


def _beside(shard: Path, suffix: str) -> Path:
    return shard.with_name(shard.name.removesuffix(_LINES) + suffix)


def _bytes(stream: Any, frame: Mapping[str, int], path: Path) -> bytes:
    stream.seek(frame["offset"])
    data = stream.read(frame["length"])
    if len(data) != frame["length"]:
        raise DataError(f"{path} ends at {stream.tell()}, a sample needs {frame['length']} bytes at {frame['offset']}")
    return data
