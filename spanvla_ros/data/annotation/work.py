"""Annotation of a data set: what is left to do, many samples at a time, nothing lost when it breaks off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import DataError, SpanVLAError
from spanvla_ros.data.annotation.annotators import Annotator, Answer
from spanvla_ros.data.annotation.client import Stop
from spanvla_ros.data.annotation.output import Output, annotated, read
from spanvla_ros.data.shards import Dataset


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one sample: an answer, or why there is none."""

    id: str
    answer: Answer | None = None
    reason: str = ""


@dataclass(kw_only=True)
class _Drive:
    """One shard of the source: all its ids in order, what this run has to do there, and what came of it."""

    name: str
    order: list[str] = field(default_factory=list)
    todo: list[int] = field(default_factory=list)
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        return len(self.done) + len(self.failed) == len(self.todo)


class Work:
    """What is left to annotate in part `part` (k, n) of the drives, at most `count` samples; drives are dealt in turn."""

    def __init__(self, source: Path, output: Output, part: tuple[int, int] = (1, 1), count: int | None = None):
        self.dataset, self._output = Dataset(source), output
        shards: dict[str, _Drive] = {}
        for index, entry in enumerate(self.dataset.entries):
            drive = shards.setdefault(entry.shard.stem, _Drive(name=entry.shard.stem))
            if entry.id in drive.order:
                raise DataError(f"{entry.shard}: the id {entry.id} is there twice; `spanvla data check {source}` says more")
            drive.order.append(entry.id)
            drive.todo.append(index)
        self._drives = list(shards.values())[part[0] - 1 :: part[1]]
        self.total = sum(len(drive.order) for drive in self._drives)
        left = count
        for drive in self._drives:
            there = {record["id"] for record in read(output.shard(drive.name))}
            drive.todo = [index for index in drive.todo if self.dataset.entries[index].id not in there][:left]
            left = None if left is None else left - len(drive.todo)

    @property
    def todo(self) -> list[int]:
        """Indices into `dataset`."""
        return [index for drive in self._drives for index in drive.todo]

    def run(self, annotator: Annotator, workers: int) -> Iterator[Outcome]:
        """Annotate in `workers` threads; a drive is written as soon as all its samples are settled, others when the run ends.

        Raises Stop where the annotator says that going on makes no sense.
        """
        jobs = iter([(drive, index) for drive in self._drives for index in drive.todo])
        lock, ending = threading.Lock(), threading.Event()
        results: queue.Queue[tuple[_Drive, int, Any] | None] = queue.Queue()

        def worker() -> None:
            while not ending.is_set():
                with lock:
                    job = next(jobs, None)
                if job is None:
                    break
                drive, index = job
                result = self._one(annotator, index)
                if isinstance(result, Stop):
                    ending.set()
                results.put((drive, index, result))
            results.put(None)

        # threads of a run that is broken off must not keep the process
        threads = [threading.Thread(target=worker, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                got = results.get()
                if got is None:
                    running -= 1
                    continue
                drive, index, result = got
                if isinstance(result, Stop):
                    raise result
                yield self._settle(drive, index, result, annotator)
                if drive.settled:
                    self._write(drive)
        finally:
            ending.set()
            for drive in self._drives:
                if (drive.done or drive.failed) and not drive.settled:
                    self._write(drive)

    def _one(self, annotator: Annotator, index: int) -> Answer | Exception:
        try:
            return annotator.annotate(self.dataset.record(index), self.dataset.jpegs(index))
        except Exception as error:  # one bad sample must not end hours of annotation; it is listed
            return error

    def _settle(self, drive: _Drive, index: int, result: Answer | Exception, annotator: Annotator) -> Outcome:
        name = self.dataset.entries[index].id
        if isinstance(result, Answer):
            drive.done[name] = annotated(self.dataset.record(index), result.annotation, annotator.identity)
            return Outcome(id=name, answer=result)
        reason = str(result) if isinstance(result, SpanVLAError) else f"{type(result).__name__}: {result}"
        drive.failed[name] = reason
        return Outcome(id=name, reason=reason)

    def _write(self, drive: _Drive) -> None:
        self._output.write(drive.name, drive.order, drive.done, drive.failed)
