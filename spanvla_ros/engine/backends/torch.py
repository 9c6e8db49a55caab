"""The checkpoint itself, in torch: the reference that every other back-end is held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spanvla_ros.engine.backends.session import Session
from spanvla_ros.engine.manifest import Manifest
from spanvla_ros.model import checkpoint
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning.tokenizer import ACTION_START


class TorchBackend(Session):
    """A contracts.Backend on the checkpoint in float32: the reference for the other backends."""

    name = "torch"

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Any, threads: int | None = None):
        self._start_on(checkpoint.load(folder), threads)

    @classmethod
    def on(cls, model: SpanVLA, threads: int | None = None) -> TorchBackend:
        """A backend on a model in memory, as a measurement with random weights has it; the model is not copied."""
        backend = cls.__new__(cls)
        backend._start_on(model, threads)
        return backend

    def _start_on(self, model: SpanVLA, threads: int | None) -> None:
        super().__init__(model.spec, model.tokenizer.token_to_id(ACTION_START))
        if threads:
            torch.set_num_threads(threads)
        self._model: SpanVLA | None = model
        text = model.architecture.text
        shape = (1, text.kv_heads, model.spec.cache_tokens, text.head_dim)
        self._cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(text.layers)]

    @torch.no_grad()
    def _encode(self, prompt: Mapping[str, np.ndarray]) -> int:
        arrays = {k: torch.from_numpy(prompt[k]) for k in ("ids", "slot", "positions", "length")}
        pairs = self.seen.features(prompt["patches"], lambda patches: self._model.vlm.vision(torch.from_numpy(patches)))
        # (cameras, tokens, H) of every pair -> camera by camera, as the prompt counts them
        features = torch.stack(pairs, dim=1).flatten(0, 2)[None]
        out = self._model.prefill(features, **arrays)
        for layer, new in zip(self._cache, out.kv):
            for kept, found in zip(layer, new):
                kept[:, :, : self.spec.prompt_tokens] = found
        self.features, self.logits = features[0].numpy(), out.logits.numpy()
        return int(self.logits.argmax())

    @torch.no_grad()
    def _append(self, token: int, position: int, slot: int) -> int:
        valid = torch.from_numpy(self._valid)
        logits, columns = self._model.step(torch.tensor([[token]]), torch.tensor([position]), valid, self._cache)
        for layer, new in zip(self._cache, columns):
            for kept, found in zip(layer, new):
                kept[:, :, slot] = found[:, :, 0]
        return int(logits.argmax())

    @torch.no_grad()
    def _trajectory(self, motion: Mapping[str, np.ndarray], noise: np.ndarray, position: int) -> np.ndarray:
        ego, base, draw = (torch.from_numpy(np.asarray(a, np.float32)) for a in (motion["ego"], motion["base"], noise))
        age = torch.from_numpy(motion["age"]) if self.spec.kv_age else None
        taps = self._model.tapped(self._cache)
        return self._model.sample(taps, torch.from_numpy(self._valid), torch.tensor([position]), ego, base, draw, age=age).numpy()

    def close(self) -> None:
        super().close()
        self._model = None
        self._cache = []
