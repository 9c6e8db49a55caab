"""A plan the plain way: transformers' own generate(), then the expert in torch. What an engine is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning.tokenizer import VIDEO_PAD

VIDEO = 2  # what transformers calls video tokens in mm_token_type_ids


class PlainPlan:
    """Holds a model as transformers users would: on a CPU in float32, on a GPU in bfloat16 (the expert in float32).

    The model itself is moved and cast. Every method returns when the device has finished.
    """

    def __init__(self, model: SpanVLA, device: str = "cpu", threads: int | None = None):
        if threads:
            torch.set_num_threads(threads)
        self._model, self._device = model.to(device), torch.device(device)
        self._dtype = torch.float32 if self._device.type == "cpu" else torch.bfloat16
        model.vlm.hf.to(self._dtype)
        self._pad = model.tokenizer.token_to_id(VIDEO_PAD)
        self._cache: Any = None
        self._position = 0

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device)

    @torch.no_grad()
    def generate(self, prompt: Mapping[str, np.ndarray], tokens: int) -> list[int]:
        """Exactly so many greedy tokens after a prompt of `planning.preprocess`, <action_start> suppressed."""
        spec = self._model.spec
        length = int(prompt["length"][0])
        ids = self._tensor(prompt["ids"][:, :length])
        rows, columns = (size // spec.patch for size in spec.image_size)
        pairs, cameras = spec.groups // len(spec.cameras), len(spec.cameras)
        interval_s = spec.frame_offsets_s[-1] - spec.frame_offsets_s[-2]
        found = self._model.vlm.hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=self._tensor(prompt["patches"]).flatten(0, 1).to(self._dtype),
            video_grid_thw=torch.tensor([[pairs, rows, columns]] * cameras, device=self._device),
            second_per_grid_ts=torch.full((cameras,), interval_s * spec.temporal_patch, device=self._device),
            mm_token_type_ids=torch.where(ids == self._pad, VIDEO, 0),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
        )
        self._cache = found.past_key_values
        # the last token is said, but not yet in the cache
        self._position = int(prompt["positions"][:, :, :length].max()) + tokens
        self._wait()
        return found.sequences[0, length:].tolist()

    @torch.no_grad()
    def flow(self, motion: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        """Waypoints (T, 3) from the cache of the newest `generate`; motion and noise as contracts.Backend."""
        layers = self._cache.layers
        taps = [(layers[tap].keys.float(), layers[tap].values.float()) for tap in self._model.spec.taps]
        valid = torch.ones(1, taps[0][0].shape[2], device=self._device)
        ego, base, draw = (self._tensor(np.asarray(a, np.float32)) for a in (motion["ego"], motion["base"], noise))
        age = self._tensor(motion["age"]) if self._model.spec.kv_age else None
        position = torch.tensor([self._position], device=self._device)
        return self._model.sample(taps, valid, position, ego, base, draw, age=age)[0].cpu().numpy()

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
