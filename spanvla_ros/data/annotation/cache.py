"""Replies that were paid for, one file each, under the hash of what was asked: what makes an annotation resumable."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spanvla_ros.data import shards


def digest(question: Mapping[str, Any]) -> str:
    """Name of a question: model, words, pictures and settings, all of it."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class Cache:
    """Several threads, processes and machines may share a folder: a file is whole or not there."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def get(self, name: str) -> dict[str, Any] | None:
        """What was stored, None where nothing was or where it can't be read."""
        try:
            found = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def put(self, name: str, document: Mapping[str, Any]) -> None:
        """DataError when the disk is full."""
        path = self._path(name)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(document), encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise shards.full(error, self.folder) from None

    def some(self, most: int) -> Iterator[dict[str, Any]]:
        """A few of the stored ones, for an estimate."""
        for k, path in enumerate(self.folder.glob("*/*.json")):
            if k >= most:
                return
            found = self.get(path.stem)
            if found:
                yield found

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.json"
