"""The four graphs of an engine as modules of plain tensors: names and order here are the contract of every back-end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.model.vlm import KV
from spanvla_ros.planning.motion import AGE_FEATURES


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A module with the names of its inputs and outputs and one set of example inputs; all shapes are static."""

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]


def cache_names(layers: tuple[int, ...] | range) -> tuple[str, ...]:
    """k_00, v_00, k_01, v_01, ...: keys and values of one layer side by side."""
    return tuple(f"{kind}_{layer:02d}" for layer in layers for kind in "kv")


def _flat(kv: KV) -> tuple[Tensor, ...]:
    return tuple(tensor for layer in kv for tensor in layer)


def _paired(tensors: tuple[Tensor, ...]) -> KV:
    return list(zip(tensors[::2], tensors[1::2]))


class VisionGraph(nn.Module):
    """patches (C, N, 1176), one frame pair of every camera -> feat (C * N / merge^2, H)."""

    def __init__(self, model: SpanVLA):
        super().__init__()
        self.model = model

    def forward(self, patches: Tensor) -> Tensor:
        return self.model.vlm.vision(patches).flatten(0, 1)


class PrefillGraph(VisionGraph):
    """ids, slot (1, S), feat (Nv, H), positions (3, 1, S), length (1,) -> logits (1, V), k and v (1, Hkv, S, D) per layer."""

    def forward(self, ids: Tensor, slot: Tensor, feat: Tensor, positions: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        out = self.model.prefill(feat[None], ids, slot, positions, length)
        return (out.logits, *_flat(out.kv))


class StepGraph(VisionGraph):
    """token (1, 1), position (1,), valid (1, K) 1 where the cache is filled, caches k and v (1, Hkv, K, D) ->
    next_token (1, 1), logits (1, V), the new columns of k and v (1, Hkv, 1, D), which the host writes into the cache."""

    def forward(self, token: Tensor, position: Tensor, valid: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        logits, columns = self.model.step(token, position, valid, _paired(cache))
        return (logits.argmax(dim=-1, keepdim=True), logits, *_flat(columns))


class ExpertGraph(VisionGraph):
    """noise (1, T, 3), ego (1, E), base (1, T, 3), position (1,), valid (1, K), tapped caches (1, Hkv, K, D) ->
    waypoints (1, T, 3). All Euler steps are unrolled: one launch per plan."""

    def forward(self, noise: Tensor, ego: Tensor, base: Tensor, position: Tensor, valid: Tensor, *cache: Tensor) -> Tensor:
        return self.model.sample(_paired(cache), valid, position, ego, base, noise)


class AgedExpertGraph(VisionGraph):
    """The same for a spec with kv_age: age (1, 4) follows base."""

    def forward(self, noise: Tensor, ego: Tensor, base: Tensor, age: Tensor, position: Tensor, valid: Tensor, *cache: Tensor) -> Tensor:
        return self.model.sample(_paired(cache), valid, position, ego, base, noise, age=age)


def graphs(model: SpanVLA) -> dict[str, Graph]:
    """The named graphs of a model, for one observation at a time."""
    spec, text = model.spec, model.architecture.text
    prompt, slots = spec.prompt_tokens, spec.cache_tokens
    patches = spec.grid[0] * spec.grid[1] * spec.merge**2
    cache = lambda count: tuple(torch.zeros(1, text.kv_heads, slots, text.head_dim) for _ in range(2 * count))  # noqa: E731
    layers = cache_names(range(text.layers))
    integers = lambda *shape: torch.zeros(*shape, dtype=torch.int64)  # noqa: E731
    # every example is a tensor of its own: the exporter takes one object at two inputs for one input
    points = lambda: torch.zeros(1, spec.waypoints, 3)  # noqa: E731
    return {
        "vision": Graph(
            module=VisionGraph(model),
            inputs=("patches",),
            outputs=("feat",),
            # one frame pair of every camera: older pairs were encoded when they were new
            examples=(torch.zeros(len(spec.cameras), patches, 3 * spec.temporal_patch * spec.patch**2),),
        ),
        "prefill": Graph(
            module=PrefillGraph(model),
            inputs=("ids", "slot", "feat", "positions", "length"),
            outputs=("logits", *layers),
            examples=(integers(1, prompt), integers(1, prompt), torch.zeros(spec.vision_tokens, text.hidden), integers(3, 1, prompt), integers(1)),
        ),
        "step": Graph(
            module=StepGraph(model),
            inputs=("token", "position", "valid", *layers),
            outputs=("next_token", "logits", *column_names(layers)),
            examples=(integers(1, 1), integers(1), torch.zeros(1, slots), *cache(text.layers)),
        ),
        "expert": Graph(
            module=AgedExpertGraph(model) if spec.kv_age else ExpertGraph(model),
            inputs=("noise", "ego", "base", *(("age",) if spec.kv_age else ()), "position", "valid", *cache_names(spec.taps)),
            outputs=("waypoints",),
            examples=(
                points(),
                torch.zeros(1, model.architecture.expert.ego_features),
                points(),
                *((torch.zeros(1, AGE_FEATURES),) if spec.kv_age else ()),
                integers(1),
                torch.zeros(1, slots),
                *cache(len(spec.taps)),
            ),
        ),
    }


def column_names(layers: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the new columns; a graph can't have one name for an input and an output."""
    return tuple(f"{name}_new" for name in layers)
