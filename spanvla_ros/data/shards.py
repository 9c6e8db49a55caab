"""Samples on disk: per drive one JSON-lines file and one file of concatenated JPEGs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.data.sample import SCHEMA, Sample, from_record

FOLDER = "shards"


class ShardWriter:
    """Writes the samples of one drive; nothing is visible under its final name before `close`. A context manager.

    A frame that several samples share is stored once.
    """

    def __init__(self, folder: Path, drive: str):
        self._base = Path(folder) / FOLDER / drive
        self._base.parent.mkdir(parents=True, exist_ok=True)
        self._parts = [self._base.with_suffix(suffix + ".part") for suffix in (".jpegs", ".jsonl")]
        self._jpegs, self._lines = self._parts[0].open("wb"), self._parts[1].open("w")
        self._known: dict[tuple[str, int], dict[str, int]] = {}

    def add(self, record: dict[str, Any], jpegs: Mapping[str, list[tuple[int, bytes]]]) -> None:
        """jpegs: camera -> (stamp_ns, JPEG bytes) oldest first."""
        images = {camera: [self._store(camera, stamp, data) for stamp, data in frames] for camera, frames in jpegs.items()}
        self._lines.write(json.dumps({**record, "images": images}) + "\n")

    def _store(self, camera: str, stamp_ns: int, data: bytes) -> dict[str, int]:
        key = (camera, stamp_ns)
        if key not in self._known:
            self._known[key] = {"stamp_ns": stamp_ns, "offset": self._jpegs.tell(), "length": len(data)}
            self._jpegs.write(data)
        return self._known[key]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind, *_: object) -> None:
        for stream in (self._jpegs, self._lines):
            stream.close()
        for part in self._parts:
            # the JSON lines come last: where they are, the shard is whole
            part.unlink() if kind else os.replace(part, part.with_suffix(""))


def finished(folder: Path, drive: str) -> bool:
    return (Path(folder) / FOLDER / f"{drive}.jsonl").exists()


class Dataset:
    """Random access to the samples of a folder, in the order of their drives; optionally one split only."""

    def __init__(self, folder: str | Path, split: str | None = None):
        self.folder = Path(folder)
        paths = sorted((self.folder / FOLDER).glob("*.jsonl"))
        if not paths:
            raise DataError(f"{self.folder} holds no shards ({FOLDER}/*.jsonl); make some with `spanvla data sim`")
        self.records: list[dict[str, Any]] = []
        self._jpegs: list[Path] = []
        for path in paths:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}:{number} is no JSON: {error}") from None
                if record.get("schema") != SCHEMA:
                    raise DataError(f"{path}:{number} has schema '{record.get('schema')}', expected '{SCHEMA}'")
                if split is None or record["split"] == split:
                    self.records.append(record)
                    self._jpegs.append(path.with_suffix(".jpegs"))
        if not self.records:
            raise DataError(f"{self.folder} holds no sample of split '{split}'")

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        return from_record(self.records[index], self.jpegs(index))

    def jpegs(self, index: int) -> dict[str, list[bytes]]:
        """camera -> encoded frames, oldest first."""
        path = self._jpegs[index]
        with path.open("rb") as stream:
            return {
                camera: [self._read(stream, f, path) for f in frames] for camera, frames in self.records[index]["images"].items()
            }

    @staticmethod
    def _read(stream, frame: Mapping[str, int], path: Path) -> bytes:
        stream.seek(frame["offset"])
        data = stream.read(frame["length"])
        if len(data) != frame["length"]:
            raise DataError(f"{path} ends at {stream.tell()}, a sample needs {frame['length']} bytes at {frame['offset']}")
        return data

    @property
    def sha256(self) -> str:
        """Identity of the data: all records and the sizes of the picture files."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(json.dumps(record, sort_keys=True).encode())
        for path in sorted(set(self._jpegs)):
            digest.update(np.int64(path.stat().st_size).tobytes())
        return digest.hexdigest()
