"""The checkpoint in bfloat16 on a GPU through torch, recorded as CUDA graphs: reference and fall-back where there is no TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.engine.manifest import Manifest
from spanvla_ros.model import checkpoint
from spanvla_ros.model.fused import Fused, masks
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning.tokenizer import ACTION_START

BLOCK = 5  # steps between two looks at the tokens
PROMPT = ("ids", "slot", "positions", "length")
ALIGNMENT = 16  # matrix products over the slots of the cache want such a number
WARM_UPS = 3


class TorchCudaBackend(Session):
    """A contracts.Backend on `model.fused`. Vision, prefill, a block of steps, the closing step and the expert are one CUDA graph each.

    Which slot a step writes stands in GPU memory, so the same graph serves every place of the answer. threads has no meaning here.
    """

    name = "torch-cuda"

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Any, threads: int | None = None):
        device = gpu()
        self._start_on(checkpoint.load(folder), device, torch.bfloat16)

    @classmethod
    def on(cls, model: SpanVLA, threads: int | None = None, *, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> TorchCudaBackend:
        """A backend on a model in memory. device cpu: the same operations without graphs, to check them where there is no GPU."""
        backend = cls.__new__(cls)
        backend._start_on(model, gpu() if device == "cuda" else torch.device(device), dtype)
        return backend

    def _start_on(self, model: SpanVLA, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model.spec, model.tokenizer.token_to_id(ACTION_START))
        spec = self.spec
        answer = spec.cache_tokens - spec.prompt_tokens
        self._rows = -(-answer // BLOCK) * BLOCK  # the last block may run over the end
        slots = -(-(spec.prompt_tokens + self._rows) // ALIGNMENT) * ALIGNMENT
        self._ahead = 0  # answer slots that hold what the model said by itself
        try:
            self._net: Fused | None = Fused(model, device, dtype, slots)
            self._allocate(model)
            self._record()
        except torch.cuda.OutOfMemoryError as error:
            self._net = None
            reason = str(error).splitlines()[0]
            raise EngineError(f"the memory of {torch.cuda.get_device_name()} is full ({reason}); end other programs on it") from None

    def _allocate(self, model: SpanVLA) -> None:
        spec, device = self.spec, self._net.device
        patches = (len(spec.cameras), spec.grid[0] * spec.grid[1] * spec.merge**2, 3 * spec.temporal_patch * spec.patch**2)
        size, points = spec.prompt_tokens, (spec.waypoints, 3)
        shapes = {
            "patches": (patches, torch.float32), "ids": ((size,), torch.int64), "slot": ((size,), torch.int64),
            "positions": ((3, size), torch.int64), "length": ((1,), torch.int64),
            "ego": ((model.architecture.expert.ego_features,), torch.float32), "base": (points, torch.float32), "noise": (points, torch.float32),
            **({"age": ((4,), torch.float32)} if spec.kv_age else {}),
        }  # fmt: skip
        pinned = device.type == "cuda"
        self._host = {name: torch.zeros(shape, dtype=dtype, pin_memory=pinned) for name, (shape, dtype) in shapes.items()}
        self._inputs = {name: tensor.to(device) for name, tensor in self._host.items()}
        # one place for every number: a copy that is still under way must not see the next one
        self._numbers = torch.arange(self._rows + 1).pin_memory() if pinned else torch.arange(self._rows + 1)
        self._answered = torch.zeros(1, dtype=torch.int64, device=device)  # answer tokens in the cache
        # GPU memory that outlives a graph: what one of them leaves for the next
        new = lambda *shape, dtype=self._net.dtype: torch.zeros(*shape, dtype=dtype, device=device)  # noqa: E731
        self._pair = new(len(spec.cameras), spec.vision_tokens // spec.groups, model.architecture.text.hidden)
        self._features = new(spec.vision_tokens, model.architecture.text.hidden)
        self._logits = new(self._net.embedding.shape[0])
        self._said = new(self._rows + 1, dtype=torch.int64)
        self._stop = torch.full((1,), self._action_start, dtype=torch.int64, device=device)
        self._masks = new(self._rows + 1, 1, 1, self._net.slots)
        self._cos, self._sin = new(self._rows + 1, 1, self._net.size), new(self._rows + 1, 1, self._net.size)
        self._waypoints = new(*points, dtype=torch.float32)
        self._said_host = torch.zeros(self._rows + 1, dtype=torch.int64, pin_memory=pinned)
        self._waypoints_host = torch.zeros(points, pin_memory=pinned)

    @torch.no_grad()
    def _record(self) -> None:
        works = {
            "vision": self._run_vision, "prefill": self._run_prefill, "block": self._run_block, "close": self._run_close, "expert": self._run_expert,
        }  # fmt: skip
        # any prompt will do, but its masks must leave something open
        self._host["length"][:] = 1
        self._send("length")
        if self._net.device.type != "cuda":
            self._graphs: dict[str, Callable[[], None]] = works
            return
        stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        with torch.cuda.stream(stream):
            for work in works.values():
                for _ in range(WARM_UPS):  # kernels load and libraries take their workspace
                    self._answered.zero_()
                    work()
        stream.synchronize()
        self._graphs = {}
        for name, work in works.items():
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                work()
            self._graphs[name] = graph.replay
        self._event = torch.cuda.Event(blocking=True)

    def _run_vision(self) -> None:
        self._pair.copy_(self._net.vision(self._inputs["patches"]))

    def _run_prefill(self) -> None:
        arrays = {name: self._inputs[name] for name in PROMPT}
        self._logits.copy_(self._net.prefill(self._features, **arrays))
        self._said[:1] = self._logits.argmax(dim=-1, keepdim=True)
        length, positions = arrays["length"], arrays["positions"]
        inside = torch.arange(positions.shape[1], device=length.device) < length
        start = ((positions.amax(dim=0) + 1) * inside).amax()
        answer = (start + torch.arange(self._rows + 1, device=length.device)).expand(3, -1)
        for kept, made in zip((self._cos, self._sin), self._net.rope(answer)):
            kept.copy_(made)
        self._masks.copy_(masks(length, self.spec.prompt_tokens, self._net.slots, self._rows + 1, self._net.dtype))

    def _run_block(self) -> None:
        for _ in range(BLOCK):
            logits = self._step(self._said.index_select(0, self._answered))
            self._answered.add_(1)
            self._said.index_copy_(0, self._answered, logits.argmax(dim=-1, keepdim=True))

    def _run_close(self) -> None:
        self._step(self._stop)

    def _step(self, token: Tensor) -> Tensor:
        """One token (1,) after the answer so far; returns logits (V,)."""
        count = self._answered
        cos, sin = self._cos.index_select(0, count), self._sin.index_select(0, count)
        mask = self._masks.index_select(0, count + 1)[0]
        return self._net.step(token, cos, sin, mask, count + self.spec.prompt_tokens)

    def _run_expert(self) -> None:
        count, inputs = self._answered, self._inputs
        rope = self._cos.index_select(0, count), self._sin.index_select(0, count)
        mask = self._masks.index_select(0, count)[0]
        self._waypoints.copy_(self._net.sample(*rope, mask, inputs["ego"], inputs["base"], inputs["noise"], inputs.get("age")))

    def _send(self, *names: str) -> None:
        for name in names:
            self._inputs[name].copy_(self._host[name], non_blocking=True)

    def _fetch(self, target: Tensor, source: Tensor) -> None:
        """Copy to the host and sleep until it is there: the cores belong to the rest of the car."""
        target.copy_(source, non_blocking=True)
        if source.device.type == "cuda":
            self._event.record()
            self._event.synchronize()

    @property
    def features(self) -> np.ndarray:
        """(Nv, H) of the last prefill; fetched when asked for."""
        return self._features.float().cpu().numpy().copy()

    @property
    def logits(self) -> np.ndarray:
        """(1, V) of the last prefill."""
        return self._logits.float().cpu().numpy()[None].copy()

    @torch.no_grad()
    def _encode(self, prompt: Mapping[str, np.ndarray]) -> int:
        cameras = len(self.spec.cameras)
        pairs = self.seen.features(prompt["patches"], self._see)
        # (cameras, tokens, H) of every pair -> camera by camera, as the prompt counts them
        places = self._features.view(cameras, len(pairs), -1, self._features.shape[-1])
        for index, pair in enumerate(pairs):
            places[:, index] = pair
        for name in PROMPT:
            self._host[name].numpy()[...] = prompt[name].reshape(self._host[name].shape)
        self._send(*PROMPT)
        self._graphs["prefill"]()
        self._fetch(self._said_host, self._said)
        self._ahead = 0
        return int(self._said_host[0])

    def _see(self, patches: np.ndarray) -> Tensor:
        """Features of one frame pair of every camera, in memory of their own."""
        self._host["patches"].numpy()[...] = patches
        self._send("patches")
        self._graphs["vision"]()
        found = self._pair.clone()
        if found.device.type == "cuda":
            # the next pair's pictures go into the same host memory
            self._event.record()
            self._event.synchronize()
        return found

    @torch.no_grad()
    def _append(self, token: int, position: int, slot: int) -> int:
        index = slot - self.spec.prompt_tokens
        if token != int(self._said_host[index]):
            # only the closing <action_start> comes from outside
            self._at(index)
            self._graphs["close"]()
            self._ahead = min(self._ahead, index)
            return self._action_start  # nothing follows it
        if index >= self._ahead:
            first = index - index % BLOCK
            self._at(first)
            self._graphs["block"]()
            self._fetch(self._said_host, self._said)
            self._ahead = first + BLOCK
        return int(self._said_host[index + 1])

    def _at(self, count: int) -> None:
        """Say where the next graph finds the end of the answer."""
        self._answered.copy_(self._numbers[count : count + 1], non_blocking=True)

    @torch.no_grad()
    def _trajectory(self, motion: Mapping[str, np.ndarray], noise: np.ndarray, position: int) -> np.ndarray:
        values = {**motion, "noise": noise}
        names = [name for name in ("ego", "base", "noise", "age") if name in self._host]
        for name in names:
            self._host[name].numpy()[...] = np.reshape(values[name], self._host[name].shape)
        self._at(self._count)
        self._send(*names)
        self._graphs["expert"]()
        self._fetch(self._waypoints_host, self._waypoints)
        return self._waypoints_host.numpy()[None].copy()

    def close(self) -> None:
        super().close()
        self._graphs, self._net = {}, None


def gpu() -> torch.device:
    """The GPU that torch sees. Errors: EngineError where it sees none."""
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise EngineError(f"torch {torch.__version__}, built {built}, finds no GPU; choose backend onnxruntime")
    return torch.device("cuda")
