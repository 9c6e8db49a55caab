"""How long the stages of a plan take: an engine's, and those of anything that plans beside it in the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from spanvla_ros.contracts import ModelSpec
from spanvla_ros.engine import parity
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.planning.preprocess import preprocess

Prompt = Mapping[str, np.ndarray]
STAGES = ("encode_prefill", "reasoning", "trajectory")


class Timings:
    """Wall and CPU milliseconds by stage. CPU time is that of all threads of this process: on a machine with other work to do it
    says more than wall time, which holds the work of the others too."""

    def __init__(self):
        self._wall: dict[str, list[float]] = defaultdict(list)
        self._cpu: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall[name].append(1e3 * (time.perf_counter() - wall))
        self._cpu[name].append(1e3 * (time.process_time() - cpu))

    def clear(self) -> None:
        self._wall.clear()
        self._cpu.clear()

    def add(self, name: str, parts: Sequence[str], share: float = 1.0) -> None:
        """A stage that is the sum of others, run by run, times a factor."""
        for kept in (self._wall, self._cpu):
            kept[name] = [share * sum(values) for values in zip(*(kept[part] for part in parts))]

    def wall(self, name: str, percentile: float) -> float:
        return float(np.percentile(self._wall[name], percentile))

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage -> p50, p95, p99 of wall time and cpu_p50, in milliseconds."""
        return {
            name: {**{f"p{p}": self.wall(name, p) for p in (50, 95, 99)}, "cpu_p50": float(np.percentile(self._cpu[name], 50))}
            for name in self._wall
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drive:
    """Prompts as a car sees them one after the other: the newest frame pair of one is the older pair of the next."""

    prompts: tuple[Prompt, ...]
    noise: np.ndarray
    preprocess: Timings


def drive(spec: ModelSpec, tokenizer, count: int) -> Drive:
    """Made-up pictures and motions of `engine.parity`."""
    timings, made = Timings(), []
    for observation in parity.observations(spec, count):
        with timings.stage("preprocess"):
            made.append(preprocess(observation, spec, tokenizer))
    cameras = len(spec.cameras)
    pairs = spec.groups // cameras
    newest = [prompt["patches"].reshape(cameras, pairs, *prompt["patches"].shape[1:])[:, -1] for prompt in made]
    prompts = []
    for index, prompt in enumerate(made):
        shown = [newest[(index - back) % count] for back in range(pairs - 1, -1, -1)]
        prompts.append({**prompt, "patches": np.ascontiguousarray(np.stack(shown, axis=1)).reshape(prompt["patches"].shape)})
    return Drive(prompts=tuple(prompts), noise=np.zeros((1, spec.waypoints, 3), np.float32), preprocess=timings)


def plan(session: Session, prompt: Prompt, noise: np.ndarray, tokens: int, timings: Timings) -> np.ndarray:
    """One plan with exactly `tokens` of text, stage by stage; returns the waypoints (T, 3)."""
    session.through_stop = True
    try:
        with timings.stage("encode_prefill"):
            session.prefill(prompt)
        with timings.stage("reasoning"):
            for _ in session.decode(tokens):
                pass
        with timings.stage("trajectory"):
            return session.flow(prompt, noise)
    finally:
        session.through_stop = False


def total(timings: Timings, tokens: int) -> None:
    """What follows from the stages: `total`, and `token`, the time of one step of the text."""
    timings.add("total", STAGES)
    timings.add("token", ("reasoning",), 1 / (tokens + 1))


def budget(spec: ModelSpec, preprocessing: Timings, timings: Timings, deadline_ms: float) -> int | None:
    """Most tokens with which 99 of 100 plans keep a deadline, on a machine as busy as this one was; None where even a plan
    without text doesn't."""
    fixed = preprocessing.wall("preprocess", 99) + timings.wall("encode_prefill", 99) + timings.wall("trajectory", 99)
    room = int((deadline_ms - fixed) / timings.wall("token", 99)) - 1  # one step is the closing token's
    return min(room, spec.max_reasoning_tokens) if room >= 0 else None
