"""An annotated copy of a data set: the same drives with new reasons, beside what was not changed.

    OUT/shards/<drive>.jsonl       the records that have an annotation, in the order of the source
    OUT/shards/<drive>.*, maps/*   pictures, truth and maps as they are: hard links where the file system can
    OUT/failed/<drive>.jsonl       {"id", "reason"} of the samples that could not be annotated; they are tried again the next time
    OUT/annotation.json            who annotates here
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import ConfigError, DataError
from spanvla_ros.data.annotation.reply import Annotation
from spanvla_ros.data.shards import FOLDER, MAPS, full

FAILED, IDENTITY = "failed", "annotation.json"


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, none where it isn't there. DataError where it is damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from None


def replace(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file at once: it is the old one or the new one, never a part. DataError when the disk is full."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
            stream.flush()
            os.fsync(stream.fileno())  # a review is a person's work
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise full(error, path.parent) from None


def annotated(record: Mapping[str, Any], annotation: Annotation, identity: Mapping[str, Any]) -> dict[str, Any]:
    """A record with new reasons; who gave them and what else was seen stands in its provenance."""
    reasons = {**identity, "elements": [dict(element) for element in annotation.elements]}
    return {
        **record,
        "critical_components": annotation.components,
        "decision": dict(annotation.decision),
        "reasoning": annotation.reasoning,
        "provenance": {**record.get("provenance", {}), "annotation": identity.get("model", identity["backend"]), "reasons": reasons},
    }


class Output:
    """The annotated copy `out` of the data set `source` by one annotator. ConfigError where it is another's."""

    def __init__(self, source: Path, out: Path, identity: Mapping[str, Any]):
        self.source, self.out = Path(source), Path(out)
        if self.out.resolve() == self.source.resolve():
            raise ConfigError(f"--out {out} is the data set itself; annotations go to a new folder, the original stays")
        self._identity = dict(identity)
        there = read(self.out / IDENTITY)
        if there and there[0] != self._identity:
            raise ConfigError(f"{out} holds annotations by {json.dumps(there[0])}, not by {json.dumps(self._identity)}; take another --out")
        if not there and (self.out / FOLDER).exists():
            raise ConfigError(f"{out} is a data set, but none of annotations; take another --out")

    def shard(self, drive: str) -> Path:
        return self.out / FOLDER / f"{drive}.jsonl"

    def failures(self, drive: str) -> list[dict[str, Any]]:
        """Failed samples of a drive by the last run."""
        return read(self.out / FAILED / f"{drive}.jsonl")

    def write(self, drive: str, order: Sequence[str], done: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> None:
        """Add `done` (id -> record) to a drive and note `failed` (id -> reason); what a person has reviewed meanwhile stays."""
        if not (self.out / IDENTITY).exists():
            replace(self.out / IDENTITY, [self._identity])
        there = {record["id"]: record for record in read(self.shard(drive))}
        records = {**done, **there}
        if done:
            self._link(drive)
            replace(self.shard(drive), [records[name] for name in order if name in records])
        reasons = {**{line["id"]: line["reason"] for line in self.failures(drive)}, **failed}
        left = [{"id": name, "reason": reasons[name]} for name in order if name in reasons and name not in records]
        path = self.out / FAILED / f"{drive}.jsonl"
        if left:
            replace(path, left)
        else:
            path.unlink(missing_ok=True)

    def _link(self, drive: str) -> None:
        """What stands beside the records of a drive, and the maps."""
        shards = self.source / FOLDER
        beside = [Path(name) for name in glob.glob(f"{glob.escape(str(shards / drive))}.*") if not name.endswith((".jsonl", ".part"))]
        for path in [*beside, *(self.source / MAPS).glob("*.json")]:
            _link(path, self.out / path.parent.name / path.name)


def _link(path: Path, to: Path) -> None:
    if to.exists():
        return
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, part)
        os.replace(part, to)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise full(error, to.parent) from None
