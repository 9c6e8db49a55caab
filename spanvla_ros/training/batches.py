"""Cached arrays -> tensors of one batch: teacher-forced sequences, patches, image jitter, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.planning import images
from spanvla_ros.training import targets
from spanvla_ros.training.cache import Cache


@dataclass(frozen=True, kw_only=True)
class JitterConfig:
    """Changes of the picture that a camera could make: one per sample, the same for all its frames."""

    contrast: float = 0.15  # standard deviation of the factor
    brightness: float = 0.08  # standard deviation of the shift, share of full scale
    colour: float = 0.05  # the same, per channel
    unusable: float = 0.0  # share of black or noise pictures, answered by `unusable_text`
    unusable_text: str = "the image is unusable, slow down"

    def __post_init__(self):
        for name in ("contrast", "brightness", "colour", "unusable"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"jitter.{name} must be in [0, 1], is {getattr(self, name)}")


def pixels(cache: Cache, ids: np.ndarray, spec: ModelSpec) -> Tensor:
    """Normalised patches (B, G, N, 1176) float32 of samples, through the same `planning.images.patchify` as in the car."""
    # sorted reads are faster where the file is not in memory yet
    order = np.argsort(ids)
    rows = np.empty((len(ids), *cache["images"].shape[1:]), np.uint8)
    rows[order] = cache["images"][ids[order]]
    patches = images.patchify(rows, spec)
    return torch.from_numpy(patches.reshape(len(ids), spec.groups, *patches.shape[-2:]))


def jitter(patches: Tensor, config: JitterConfig, spec: ModelSpec) -> Tensor:
    """Contrast, brightness and colour of patches (B, G, N, 3*rest), clipped to what a camera can deliver; in place."""
    batch = len(patches)
    view = patches.view(*patches.shape[:-1], 3, -1)
    mean, std = (torch.tensor(v).view(3, 1) for v in (spec.image_mean, spec.image_std))
    gain = (1 + config.contrast * torch.randn(batch, 1, 1, 1, 1)).clamp(0.4, 1.8)
    shift = config.brightness * torch.randn(batch, 1, 1, 1, 1) + config.colour * torch.randn(batch, 1, 1, 3, 1)
    # on x = (p - mean) / std: contrast around mid grey, then the shift
    offset = (gain * (mean - 0.5) + 0.5 + shift - mean) / std
    view.mul_(gain).add_(offset).clamp_(min=-mean / std, max=(1 - mean) / std)
    return patches


def spoil(patches: Tensor, share: float, spec: ModelSpec) -> Tensor:
    """Replace a share of the samples by black or noise, in place; returns which (B,) bool."""
    chosen = torch.rand(len(patches)) < share
    mean, std = (torch.tensor(v).view(3, 1) for v in (spec.image_mean, spec.image_std))
    for i in chosen.nonzero().flatten().tolist():
        view = patches[i].view(*patches.shape[1:-1], 3, -1)
        black = bool(torch.rand(()) < 0.7)
        view.copy_((torch.zeros_like(view) if black else torch.rand_like(view)).sub(mean).div(std))
    return chosen


def black(batch: int, spec: ModelSpec) -> Tensor:
    """Patches of black pictures (B, G, N, 1176)."""
    frames = np.zeros((len(spec.cameras), len(spec.frame_offsets_s), *spec.image_size, 3), np.uint8)
    patches = torch.from_numpy(images.patchify(frames, spec)).reshape(1, spec.groups, -1, 3 * spec.temporal_patch * spec.patch**2)
    return patches.expand(batch, -1, -1, -1)


def placed(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors where the model is."""
    return {name: value.to(device) for name, value in tensors.items()}


def prompts(cache: Cache, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Prompt tensors of samples, cut to the longest: ids, slot (B, S), positions (3, B, S), length (B,) int64."""
    width = int(cache["length"][ids].max())
    return {
        "ids": cache["ids"][ids, :width].astype(np.int64),
        "slot": cache["slot"][ids, :width].astype(np.int64),
        "positions": cache["positions"][ids][:, :, :width].transpose(1, 0, 2).astype(np.int64),
        "length": cache["length"][ids].astype(np.int64),
    }


def answers(cache: Cache, ids: np.ndarray) -> list[np.ndarray]:
    """Answer token ids per sample, ending in <action_start>."""
    return [row[:size].astype(np.int64) for row, size in zip(cache["answer"][ids], cache["answer_length"][ids])]


def followed(answer: list[np.ndarray], actions: np.ndarray) -> list[np.ndarray]:
    """Answers with their plan (B, T) in vocabulary ids behind <action_start>, as `planning.prompt.answer` has it."""
    return [np.concatenate(pair) for pair in zip(answer, actions)]


def packed(prompt: Mapping[str, np.ndarray], answer: list[np.ndarray]) -> dict[str, Tensor]:
    """Prompt and answer without the padding between them, which attention never sees: fewer tokens, the same result.

    ids, slot (B, W), positions (3, B, W), valid (B, W); predict (B, W) bool: tokens whose successor is an answer token;
    labels (M,): those successors in row-major order; row (M,): the sample of each; next_position (B,): M-RoPE position after
    the last token.
    """
    length, sizes = prompt["length"], np.array([len(a) for a in answer])
    total = length + sizes
    width, batch = int(total.max()), len(length)
    ids, slot = (np.zeros((batch, width), np.int64) for _ in range(2))
    positions = np.zeros((3, batch, width), np.int64)
    count = prompt["ids"].shape[1]
    columns = np.arange(width)
    kept = min(count, width)
    inside = columns[:kept] < length[:, None]
    ids[:, :kept], slot[:, :kept] = np.where(inside, prompt["ids"][:, :kept], 0), np.where(inside, prompt["slot"][:, :kept], 0)
    positions[:, :, :kept] = np.where(inside, prompt["positions"][:, :, :kept], 0)
    start = positions.max(axis=(0, 2)) + 1
    in_answer = (columns >= length[:, None]) & (columns < total[:, None])
    ids[in_answer] = np.concatenate(answer)
    positions[:, in_answer] = (start[:, None] + columns - length[:, None])[in_answer]
    return {
        "ids": torch.from_numpy(ids),
        "slot": torch.from_numpy(slot),
        "positions": torch.from_numpy(positions),
        "valid": torch.from_numpy(columns < total[:, None]),
        "predict": torch.from_numpy((columns >= length[:, None] - 1) & (columns < total[:, None] - 1)),
        "labels": torch.from_numpy(np.concatenate(answer)),
        "row": torch.from_numpy(np.repeat(np.arange(batch), sizes)),
        "next_position": torch.from_numpy(start + sizes),
    }


def labels(cache: Cache, ids: np.ndarray) -> dict[str, Tensor]:
    """Auxiliary labels: dense (B, tokens, 7) in [0, 1], dense_known of the same shape; regression (B, 11) with NaN; lamp (B,)."""
    dense = torch.from_numpy(cache["dense"][ids])
    return {
        "dense": dense.float() / targets.DENSE_STEPS,
        "dense_known": dense != targets.DENSE_UNKNOWN,
        "regression": torch.from_numpy(cache["regression"][ids]),
        "lamp": torch.from_numpy(cache["lamp"][ids].astype(np.int64)),
    }
