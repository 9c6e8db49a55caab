"""TensorRT plans on one GPU, with names that every TensorRT from 8.6 to 11.x has.

All shapes and addresses are fixed, so everything that runs per plan is recorded once, as CUDA graphs: pictures to the GPU,
vision and prefill; blocks of reasoning steps, each with the token of the one before it; the expert and the way back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine import build, device
from spanvla_ros.engine.arena import Arena, itemsize
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.engine.features import CAPACITY
from spanvla_ros.engine.manifest import Manifest
from spanvla_ros.engine.plan import Plan
from spanvla_ros.planning.tokenizer import ACTION_START

GRAPHS = ("vision", "prefill", "step", "expert")
BLOCK = 5  # steps between two looks at the tokens: more of them waste work after the end, fewer wait more often
PROMPT = ("ids", "slot", "positions", "length")
PER_STEP = ("position", "valid", "index")  # what the host knows about every step before the first
MOTION = ("noise", "ego", "base", "age", "position", "valid")


class Row:
    """Where features lie on the GPU."""

    def __init__(self, index: int):
        self.index = index


class TensorRTBackend(Session):
    """The plans of an engine folder. One KV cache serves prefill, step and expert; no memory is taken after start-up.

    Where a plan writes the cache in place there is one cache; where it returns columns, they are copied into it; where it
    returns whole caches, two take turns. plans: bytes of the plan of a graph. threads has no meaning here.
    """

    name = "tensorrt"

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Any, threads: int | None = None, *, plans: Callable[[str], bytes]):
        super().__init__(manifest.spec, tokenizer.token_to_id(ACTION_START))
        self._slots = self.spec.cache_tokens - self.spec.prompt_tokens
        self._ahead = 0  # answer slots that hold what the model said by itself
        trt = build.tensorrt()
        self._device = device.open_device()
        try:
            words = build.logger(trt)
            self._runtime = trt.Runtime(words)
            self._plans = {name: Plan(trt, self._runtime, words, name, plans(name), manifest.graphs[name]) for name in GRAPHS}
            self._allocate()
            self._record()
        except BaseException:
            self._release()
            raise

    def _allocate(self) -> None:
        gpu = self._device
        vision, prefill, step, expert = (self._plans[name] for name in GRAPHS)
        self._caches = {name: port for name, port in step.ports.items() if f"{name}_new" in step.ports or f"{name}_out" in step.ports}
        self._connect(vision, {"patches"})
        self._connect(prefill, {*PROMPT, "logits"})
        self._connect(step, {"token", "next_token", "logits", *PER_STEP})
        self._connect(expert, {*MOTION, "waypoints"})
        whole = [name for name in self._caches if f"{name}_out" in step.ports]
        turns = 1 if all(step.in_place(f"{name}_out", name) for name in whole) else 2
        self._pools = [Arena(gpu, self._caches.values(), host=False) for _ in range(turns)]
        self._patches = Arena(gpu, vision.pick(("patches",)))
        self._inputs = Arena(gpu, [*prefill.pick(PROMPT), *step.pick(PER_STEP)], {name: self._slots for name in PER_STEP})
        # one row per answer slot, one for what follows the last, and one that holds <action_start>
        self._words = Arena(gpu, step.pick(("token",)), {"token": self._slots + 2})
        self._stop_row = self._slots + 1
        self._words.write("token", self._action_start, self._stop_row)
        self._spare = Arena(gpu, step.pick(("token",)), host=False)
        self._motion = Arena(gpu, expert.pick(MOTION))
        self._results = Arena(gpu, [*prefill.pick(("logits",)), *expert.pick(("waypoints",))])
        # vision takes one frame pair of every camera, in an engine from before that all pairs at once
        self._cameras = len(self.spec.cameras)
        self._pairs = self.spec.groups // vision.ports["patches"].shape[0]
        # features of pairs that were seen, and the row that vision writes
        self._seen_rows = Arena(gpu, vision.pick(("feat",)), {"feat": CAPACITY + self._pairs + 1}, host=False)
        self._free_rows = list(range(1, CAPACITY + self._pairs + 1))
        self._features = Arena(gpu, prefill.pick(("feat",)), host=False)
        columns = [prefill.ports[name] for name, port in self._caches.items() if prefill.ports.get(name, port) != port]
        self._made = {
            "prefill": Arena(gpu, columns, host=False),
            "step": Arena(gpu, step.pick(tuple(f"{name}_new" for name in self._caches)), host=False),
        }
        self._step_logits = Arena(gpu, step.pick(("logits",)), host=False)

    def _connect(self, plan: Plan, known: set[str]) -> None:
        """Every tensor that graphs hand to each other must be of one type on both sides, and every other one known here."""
        again = "export the checkpoint and build again"
        known |= {f"{name}{ending}" for name in self._caches for ending in ("_new", "_out")}
        for name, port in plan.ports.items():
            other = self._caches.get(name) or (self._plans["vision"].ports[name] if name == "feat" else None)
            if other is None and name not in known:
                raise EngineError(f"graph {plan.title} has a tensor {name!r} that this version doesn't know; {again}")
            if other is not None and port.dtype != other.dtype:
                raise EngineError(f"{name!r} of {plan.title} is {port.dtype}, where it comes from it is {other.dtype}; {again}")
        if plan.title == "step" and plan.ports["token"].dtype != plan.ports["next_token"].dtype:
            raise EngineError(f"step takes {plan.ports['token'].dtype} tokens and gives {plan.ports['next_token'].dtype}; {again}")

    def _record(self) -> None:
        gpu = self._device
        works: dict[tuple[str, int], Callable[[], None]] = {("vision", 0): self._run_vision, ("prefill", 0): self._run_prefill}
        works |= {("block", first): lambda first=first: self._run_block(first) for first in range(0, self._slots, BLOCK)}
        works |= {("close", slot): lambda slot=slot: self._run_step(slot, self._stop_row) for slot in range(self._slots)}
        works |= {("expert", turn): lambda turn=turn: self._run_expert(turn) for turn in range(len(self._pools))}
        self._words.upload()
        # the first run of a kernel loads it, which can't be recorded
        for kind in ("vision", "prefill", "block", "close", "expert"):
            works[kind, 0]()
            gpu.wait()
        self._graphs = {key: gpu.capture(work) for key, work in works.items()}

    def _pool(self, count: int) -> Arena:
        """The cache that holds `count` answer tokens."""
        return self._pools[count % len(self._pools)]

    def _cache_addresses(self, plan: Plan, source: Arena, target: Arena) -> dict[str, int]:
        """Whole caches of a plan, in and out."""
        found = {}
        for name, port in self._caches.items():
            if plan.ports.get(name) == port:
                found[name] = source.address(name)
            if f"{name}_out" in plan.ports:
                found[f"{name}_out"] = target.address(name)
        return found

    def _run_vision(self) -> None:
        self._patches.upload()
        features = self._seen_rows.address("feat")
        self._plans["vision"].run(self._device.stream, {"patches": self._patches.address("patches"), "feat": features})

    def _see(self, patches: np.ndarray) -> Row:
        """Features of one frame pair of every camera, in a row of their own that is free again when nobody holds it."""
        self._patches.write("patches", patches)
        self._launch("vision", 0)
        row = Row(self._free_rows.pop())
        weakref.finalize(row, self._free_rows.append, row.index)
        size = self._seen_rows.size("feat")
        self._device.copy_rows(self._seen_rows.address("feat", row.index), size, self._seen_rows.address("feat"), size, size, 1)
        return row

    def _place(self, pair: int, row: Row) -> None:
        """Features of one frame pair of every camera -> their places in the prompt, which goes camera by camera."""
        parts = self._cameras if self._pairs > 1 else 1
        width, source = self._seen_rows.size("feat") // parts, self._seen_rows.address("feat", row.index)
        self._device.copy_rows(self._features.address("feat") + pair * width, self._pairs * width, source, width, width, parts)

    def _run_prefill(self) -> None:
        prefill, first, made = self._plans["prefill"], self._pool(0), self._made["prefill"]
        self._inputs.upload()
        prefill.run(
            self._device.stream,
            {
                "feat": self._features.address("feat"),
                **{name: self._inputs.address(name) for name in PROMPT if name in prefill.ports},
                **{name: made.address(name) for name in self._caches if name in made},
                **self._cache_addresses(prefill, self._pool(1), first),
                "logits": self._results.address("logits"),
            },
        )
        self._copy(prefill, "", 0)
        self._results.download("logits")

    def _copy(self, plan: Plan, ending: str, slot: int) -> None:
        """Columns that a plan has made -> the cache, from a slot on."""
        made = self._made[plan.title]
        for name, port in self._caches.items():
            columns = f"{name}{ending}"
            if columns in made:
                _, heads, slots, size = port.shape
                row = size * itemsize(port)
                width = plan.ports[columns].shape[2] * row
                self._device.copy_rows(self._pools[0].address(name) + slot * row, slots * row, made.address(columns), width, width, heads)

    def _run_step(self, slot: int, row: int, following: int | None = None) -> None:
        """The token of a row goes into an answer slot; what follows it into another row."""
        step, made = self._plans["step"], self._made["step"]
        step.run(
            self._device.stream,
            {
                "token": self._words.address("token", row),
                "next_token": self._spare.address("token") if following is None else self._words.address("token", following),
                **{name: self._inputs.address(name, slot) for name in PER_STEP if name in step.ports},
                **{name: made.address(name) for name in step.ports if name in made},
                **self._cache_addresses(step, self._pool(slot), self._pool(slot + 1)),
                "logits": self._step_logits.address("logits"),
            },
        )
        self._copy(step, "_new", self.spec.prompt_tokens + slot)

    def _run_block(self, first: int) -> None:
        count = min(BLOCK, self._slots - first)
        for slot in range(first, first + count):
            self._run_step(slot, slot, slot + 1)
        self._words.download("token", first + 1, count)

    def _run_expert(self, count: int) -> None:
        expert, cache = self._plans["expert"], self._pool(count)
        self._motion.upload()
        expert.run(
            self._device.stream,
            {
                **{name: self._motion.address(name) for name in expert.ports if name in self._motion},
                **{name: cache.address(name) for name in expert.ports if name in self._caches},
                "waypoints": self._results.address("waypoints"),
            },
        )
        self._results.download("waypoints")

    def _launch(self, kind: str, index: int) -> None:
        self._device.launch(self._graphs[kind, index])
        self._device.wait()

    @property
    def features(self) -> np.ndarray:
        """(Nv, H) of the last prefill; fetched when asked for."""
        self._device.use()
        return self._features.fetch("feat")

    @property
    def logits(self) -> np.ndarray:
        """(1, V) of the last prefill."""
        return self._results.read("logits")

    def _encode(self, prompt: Mapping[str, np.ndarray]) -> int:
        self._device.use()
        patches = prompt["patches"]
        at_once = self._pairs == 1
        for pair, row in enumerate([self._see(patches)] if at_once else self.seen.features(patches, self._see)):
            self._place(pair, row)
        for name in PROMPT:
            self._inputs.write(name, prompt[name])
        length, size = int(prompt["length"][0]), self.spec.prompt_tokens
        start = int(prompt["positions"][:, :, :length].max()) + 1
        filled = np.zeros((1, self.spec.cache_tokens), np.float32)
        filled[:, :length] = 1
        for slot in range(self._slots):
            self._inputs.write("position", start + slot, slot)
            self._inputs.write("valid", filled, slot)
            if "index" in self._inputs:
                self._inputs.write("index", size + slot, slot)
            filled[:, size + slot] = 1
        self._launch("prefill", 0)
        first = int(self.logits.argmax())
        self._words.write("token", first)
        self._words.upload()
        self._ahead = 0
        return first

    def _append(self, token: int, position: int, slot: int) -> int:
        self._device.use()
        index = slot - self.spec.prompt_tokens
        if token != self._said(index):
            # only the closing <action_start> comes from outside
            self._launch("close", index)
            self._ahead = min(self._ahead, index)
            return self._action_start  # nothing follows it
        if index >= self._ahead:
            first = index - index % BLOCK
            self._launch("block", first)
            self._ahead = min(first + BLOCK, self._slots)
        return self._said(index + 1)

    def _said(self, index: int) -> int:
        return int(self._words.read("token", index).item())

    def _trajectory(self, motion: Mapping[str, np.ndarray], noise: np.ndarray, position: int) -> np.ndarray:
        self._device.use()
        for name, value in {**motion, "noise": noise, "position": position, "valid": self._valid}.items():
            if name in self._motion:
                self._motion.write(name, value)
        self._launch("expert", self._count % len(self._pools))
        return self._results.read("waypoints")

    def close(self) -> None:
        super().close()
        self._release()

    def _release(self) -> None:
        self._device.use()
        # contexts before the memory that they point to
        self._plans, self._graphs, self._runtime = {}, {}, None
        self._device.close()
