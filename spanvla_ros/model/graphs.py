"""The graphs of an engine as modules of plain tensors: names and order here are the contract of every back-end.

The cache has k_00, v_00, k_01, v_01 ...: rotated keys, and values, of each decoder layer, (1, Hkv, K, D). Two variants differ in how
it gets new columns. "columns": prefill and step return them alone, and the host writes them. "in_place": prefill and step take the
whole cache and return it with the columns written (TensorScatter); `k_00_out` may be bound to the memory of `k_00`.

    graph        inputs                                                           outputs
    vision       patches (C, N, 1176)                                             feat (Nv / pairs, H)
    prefill      ids (1, S)  slot (1, S)  feat (Nv, H)  positions (3, 1, S)       logits (1, V)  k_00 (1, Hkv, S, D) ...
                 length (1,)
      in place   the same, then  k_00 (1, Hkv, K, D) ...                          logits (1, V)  k_00_out (1, Hkv, K, D) ...
    step         token (1, 1)  position (1,)  valid (1, K)                        next_token (1, 1)  logits (1, V)
                 k_00 (1, Hkv, K, D) ...                                          k_00_new (1, Hkv, 1, D) ...
      in place   token  position  index (1,)  valid  k_00 ...                     next_token  logits  k_00_out (1, Hkv, K, D) ...
    expert       noise (1, T, 3)  ego (1, E)  base (1, T, 3)  [age (1, 4)]        waypoints (1, T, 3)
                 position (1,)  valid (1, K)  k_NN (1, Hkv, K, D) ... of the taps
    expert_step  point (1, T, 3)  tau (1,)  interval (1,), then as expert         point_next (1, T, 3)  waypoints (1, T, 3)

C cameras, each with one frame pair of N patches (older pairs were encoded when they were new), Nv vision tokens of all pairs, S slots
for the prompt, K slots of the cache, T waypoints, E ego features, V words; age only where the spec has kv_age. ids, slot, positions,
length, token, position, index and next_token are int64, all else float32. slot n > 0 takes feature n - 1; valid is 1 where the cache
is filled and does not count the token of this step; index is that token's slot. `expert` makes all Euler steps in one launch;
`expert_step` is one of them, for other step counts: at tau 0 it starts from the source, whatever point holds, and the waypoints of
the last one are the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from spanvla_ros.model.attention import write_columns
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.model.vlm import KV
from spanvla_ros.planning.motion import AGE_FEATURES

CacheForm = Literal["columns", "in_place"]


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


class InPlacePrefillGraph(VisionGraph):
    """The same with the whole caches, in and out."""

    def forward(self, ids: Tensor, slot: Tensor, feat: Tensor, positions: Tensor, length: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        out = self.model.prefill(feat[None], ids, slot, positions, length)
        start = torch.zeros(1, dtype=torch.int64)
        return (out.logits, *(write_columns(kept, new, start) for kept, new in zip(cache, _flat(out.kv))))


class InPlaceStepGraph(VisionGraph):
    """The same with the token's slot, index (1,); returns the whole caches."""

    def forward(self, token: Tensor, position: Tensor, index: Tensor, valid: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        logits, whole = self.model.step(token, position, valid, _paired(cache), index)
        return (logits.argmax(dim=-1, keepdim=True), logits, *_flat(whole))


class ExpertGraph(VisionGraph):
    """noise (1, T, 3), ego (1, E), base (1, T, 3), age (1, 4) for a spec with kv_age, position (1,), valid (1, K), tapped
    caches (1, Hkv, K, D) -> waypoints (1, T, 3). All Euler steps are unrolled: one launch per plan."""

    def forward(self, noise: Tensor, ego: Tensor, base: Tensor, *rest: Tensor) -> Tensor:
        age, position, valid, cache = self._parted(rest)
        return self.model.sample(_paired(cache), valid, position, ego, base, noise, age=age)

    def _parted(self, rest: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor, Tensor, tuple[Tensor, ...]]:
        age, (position, valid, *cache) = (rest[0], rest[1:]) if self.model.spec.kv_age else (None, rest)
        return age, position, valid, tuple(cache)


class ExpertStepGraph(ExpertGraph):
    """point (1, T, 3), tau, interval (1,) and the inputs of the unrolled expert -> point_next, waypoints (1, T, 3)."""

    def forward(
        self, point: Tensor, tau: Tensor, interval: Tensor, noise: Tensor, ego: Tensor, base: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        age, position, valid, cache = self._parted(rest)
        return self.model.euler(_paired(cache), valid, position, ego, base, noise, point, tau, interval, age=age)


def graphs(model: SpanVLA, cache_form: CacheForm = "columns", *, expert_step: bool = False) -> dict[str, Graph]:
    """The named graphs of a model, for one observation at a time; expert_step adds the graph of that name."""
    spec, text = model.spec, model.architecture.text
    prompt, slots = spec.prompt_tokens, spec.cache_tokens
    patches = spec.grid[0] * spec.grid[1] * spec.merge**2
    in_place = cache_form == "in_place"
    layers = cache_names(range(text.layers))
    whole = tuple(f"{name}_out" for name in layers)
    # every example is a tensor of its own: the exporter takes one object at two inputs for one input
    cache = lambda count: tuple(torch.zeros(1, text.kv_heads, slots, text.head_dim) for _ in range(2 * count))  # noqa: E731
    integers = lambda *shape: torch.zeros(*shape, dtype=torch.int64)  # noqa: E731
    points = lambda: torch.zeros(1, spec.waypoints, 3)  # noqa: E731
    scene = lambda: (  # noqa: E731
        points(),
        torch.zeros(1, model.architecture.expert.ego_features),
        points(),
        *((torch.zeros(1, AGE_FEATURES),) if spec.kv_age else ()),
        integers(1),
        torch.zeros(1, slots),
        *cache(len(spec.taps)),
    )
    scene_names = ("noise", "ego", "base", *(("age",) if spec.kv_age else ()), "position", "valid", *cache_names(spec.taps))
    found = {
        "vision": Graph(
            module=VisionGraph(model),
            inputs=("patches",),
            outputs=("feat",),
            # one frame pair of every camera: older pairs were encoded when they were new
            examples=(torch.zeros(len(spec.cameras), patches, 3 * spec.temporal_patch * spec.patch**2),),
        ),
        "prefill": Graph(
            module=InPlacePrefillGraph(model) if in_place else PrefillGraph(model),
            inputs=("ids", "slot", "feat", "positions", "length", *(layers if in_place else ())),
            outputs=("logits", *(whole if in_place else layers)),
            examples=(
                integers(1, prompt),
                integers(1, prompt),
                torch.zeros(spec.vision_tokens, text.hidden),
                integers(3, 1, prompt),
                torch.full((1,), prompt),
                *(cache(text.layers) if in_place else ()),
            ),
        ),
        "step": Graph(
            module=InPlaceStepGraph(model) if in_place else StepGraph(model),
            inputs=("token", "position", *(("index",) if in_place else ()), "valid", *layers),
            outputs=("next_token", "logits", *(whole if in_place else tuple(f"{name}_new" for name in layers))),
            examples=(integers(1, 1), integers(1), *((integers(1),) if in_place else ()), torch.zeros(1, slots), *cache(text.layers)),
        ),
        "expert": Graph(module=ExpertGraph(model), inputs=scene_names, outputs=("waypoints",), examples=scene()),
    }
    if expert_step:
        found["expert_step"] = Graph(
            module=ExpertStepGraph(model),
            inputs=("point", "tau", "interval", *scene_names),
            outputs=("point_next", "waypoints"),
            examples=(points(), torch.zeros(1), torch.ones(1), *scene()),
        )
    return found
