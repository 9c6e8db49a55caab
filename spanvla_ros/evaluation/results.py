"""The folder of a benchmark run. Whatever happens while it is written, what is there stays valid."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import ConfigError, SpanVLAError

SUMMARY, REPORT, EPISODES, PICTURES = "summary.json", "report.html", "episodes.jsonl", "episodes"


class OutputError(SpanVLAError):
    """A result can't be written; the message says what was kept."""


class Results:
    """OUT/episodes.jsonl grows by a line per episode, OUT/episodes/NAME/ holds its pictures; summary.json and report.html come whole or not."""

    def __init__(self, folder: Path):
        """Begin anew: what an earlier run left is removed, so that nobody mistakes it for this one's."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (SUMMARY, REPORT):
                (folder / name).unlink(missing_ok=True)
            (folder / EPISODES).write_bytes(b"")
        except OSError as error:
            raise OutputError(f"{folder} can't be written: {error.strerror or error}") from None
        self._count = 0

    def append(self, result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """One more episode. A line that does not fit is taken back."""
        path = self._folder / EPISODES
        try:
            for name, data in pictures.items():
                write(self.picture(result, name), data)
            size = path.stat().st_size
            try:
                with path.open("ab") as file:
                    file.write((json.dumps(result) + "\n").encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise
        except OSError as error:
            raise self._full(error) from None
        self._count += 1

    def finish(self, name: str, content: str) -> None:
        """Write summary or report."""
        try:
            write(self._folder / name, content.encode())
        except OSError as error:
            raise self._full(error) from None

    def picture(self, result: Mapping[str, Any], name: str) -> Path:
        """Where a picture of an episode lies."""
        return self._folder / PICTURES / f"{result['family']}-{result['seed']}" / name

    def pictures(self, result: Mapping[str, Any]) -> dict[str, bytes]:
        """All that were written for an episode."""
        folder = self.picture(result, "x").parent
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}

    def _full(self, error: OSError) -> OutputError:
        return OutputError(f"{self._folder} can't be written: {error.strerror or error}; the {self._count} episodes in {EPISODES} are complete")


def write(path: Path, data: bytes) -> None:
    """The whole file or what was there before, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON lines file that may still grow."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a finished run. ConfigError where there is none or it is not one of these."""
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["scenarios"][0]["driving_score_lb21"]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the OUT folder of a finished `spanvla sim`") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise ConfigError(f"{path}: not the summary of a benchmark run") from None
    return summary
