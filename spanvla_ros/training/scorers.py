"""Processes that score plans in the truth of their samples, apart from the one that samples: they keep the scenes that come next
ready, and one that dies is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import DataError, SpanVLAError
from spanvla_ros.data import scoring
from spanvla_ros.data.sample import LABELS
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.pdm import closed, scorer
from spanvla_ros.evaluation.pdm.scene import WAYPOINTS, Scene
from spanvla_ros.evaluation.pdm.simulator import interpolate
from spanvla_ros.training.rewards import RewardConfig

KEPT = 4  # scenes a process has ready
TIMEOUT_S = 300.0  # for one group; longer, and the process is taken for dead
ATTEMPTS = 3

Values = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data set, where what is dear to compute is kept, and how plans are judged. References of PDM-Closed lie in `cache`."""

    folder: Path
    cache: Path
    reward: RewardConfig


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sample by its number in a split. benchmark: judged as in the benchmark, against PDM-Closed and without human filter,
    instead of as in the reward."""

    split: str
    index: int
    benchmark: bool = False


class Judge:
    """What a scoring process does. Plans are (K, 8, 3) in base_link, every 0.5 s."""

    def __init__(self, source: Source):
        self._source, self._version = source, source.reward.version
        self._datasets: dict[str, Dataset] = {}
        self._charts: dict = {}
        self._scenes: dict[Case, Scene] = {}

    def prepare(self, case: Case) -> Scene:
        """The scene with all that doesn't depend on the plans. DataError where the sample lacks what it needs."""
        if case not in self._scenes:
            scene = self._scene(case)
            scorer.reference_progress(scene, self._version)
            while len(self._scenes) >= KEPT:
                del self._scenes[next(iter(self._scenes))]
            self._scenes[case] = scene
        return self._scenes[case]

    def score(self, case: Case, plans: np.ndarray) -> Values:
        """Sub-scores, name -> (K,)."""
        scene, reward = self.prepare(case), self._source.reward
        values = dict(scorer.score(scene, plans, self._version).values)
        if case.benchmark:
            return values
        if scene.human is not None and self._version == "v2" and reward.human_filter:
            if "human" not in scene.memory:
                scene.memory["human"] = scorer.human_scores(scene).values
            values = scorer.filtered(values, scene.memory["human"])
        if scene.human is None and reward.negative_progress == "none":
            del values["ep"]
        return values

    def _scene(self, case: Case) -> Scene:
        if case.split not in self._datasets:
            self._datasets[case.split] = Dataset(self._source.folder, case.split, labels=LABELS)
        dataset = self._datasets[case.split]
        record = dataset.record(case.index)
        try:
            scene = scoring.scene_of(dataset, case.index, self._charts)
        except (KeyError, IndexError) as error:
            raise DataError(f"sample {record['id']} has no truth to score plans in ({type(error).__name__} {error})") from None
        log = np.array(record["future"], float)[:WAYPOINTS]
        if not case.benchmark and record["label"] != "neg":
            # the log is an example: progress is measured by it, and the human filter may use it
            return scene.changed(human=log, references={self._version: interpolate(scene, log[None])[0]})
        if not case.benchmark and self._source.reward.negative_progress == "none":
            return scene.changed(references={self._version: interpolate(scene, log[None])[0]})
        return scene.changed(references={self._version: self._closed(scene, dataset, case)})

    def _closed(self, scene: Scene, dataset: Dataset, case: Case) -> np.ndarray:
        """Poses (41, 3) of PDM-Closed, computed once per sample and version."""
        path = self._source.cache / dataset.sha256[:16] / f"{self._version}-{case.index}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.stem}.{os.getpid()}.part.npy")
            np.save(part, closed.choose(scene, self._version))
            part.replace(path)
        return np.load(path)


class Scorers:
    """Scoring processes. restarts: how often one had to be replaced."""

    def __init__(self, count: int, source: Source):
        self._source, self.restarts = source, 0
        self._workers = [self._start() for _ in range(count)]

    def prepare(self, cases: Sequence[Case]) -> None:
        """Let the processes get scenes ready; returns at once."""
        for number, case in enumerate(cases):
            worker = number % len(self._workers)
            try:
                self._workers[worker][1].send(("prepare", case, None))
            except OSError:
                self._replace(worker)

    def score(self, cases: Sequence[Case], plans: Sequence[np.ndarray]) -> list[Values | str]:
        """Per case the sub-scores of its plans (K, 8, 3), or in words why there are none.

        Raises SpanVLAError for a case that ends its process again and again.
        """
        found: list[Values | str] = []
        for start in range(0, len(cases), len(self._workers)):
            round_ = list(zip(cases, plans))[start : start + len(self._workers)]
            sent = [self._send(worker, work) for worker, work in enumerate(round_)]
            found += [self._receive(worker, work, ok) for worker, (work, ok) in enumerate(zip(round_, sent))]
        return found

    def close(self) -> None:
        for process, connection in self._workers:
            connection.close()
            process.join(timeout=5)
            if process.is_alive():
                process.kill()

    def _send(self, worker: int, work: tuple[Case, np.ndarray]) -> bool:
        try:
            self._workers[worker][1].send(("score", *work))
        except OSError:
            return False
        return True

    def _receive(self, worker: int, work: tuple[Case, np.ndarray], sent: bool) -> Values | str:
        for _ in range(ATTEMPTS):
            try:
                if sent and self._workers[worker][1].poll(TIMEOUT_S):
                    return self._workers[worker][1].recv()
            except (EOFError, OSError):
                pass
            self._replace(worker)
            sent = self._send(worker, work)
        raise SpanVLAError(f"scoring sample {work[0].index} of split '{work[0].split}' ended its process {ATTEMPTS} times; see the messages above")

    def _replace(self, worker: int) -> None:
        process, connection = self._workers[worker]
        connection.close()
        process.kill()
        process.join()
        self._workers[worker] = self._start()
        self.restarts += 1

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        # spawned, not forked: the parent runs threads
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._source), daemon=True)
        process.start()
        there.close()
        return process, here


def _serve(connection: Connection, source: Source) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    judge = Judge(source)
    while True:
        try:
            kind, case, plans = connection.recv()
        except EOFError:
            return
        try:
            if kind == "prepare":
                judge.prepare(case)
                continue
            answer: Values | str = judge.score(case, plans)
        except SpanVLAError as error:
            if kind == "prepare":
                continue  # it is said when plans for it come
            answer = str(error)
        connection.send(answer)
