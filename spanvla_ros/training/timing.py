"""How long the expert takes for one plan, by variant, in one run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from spanvla_ros.contracts import ModelSpec
from spanvla_ros.model.spanvla import SpanVLA


@torch.no_grad()
def trajectory_ms(model: SpanVLA, variants: Mapping[str, tuple[ModelSpec, int]], repeats: int) -> dict[str, float]:
    """Milliseconds per plan of variants (spec, Euler steps), one observation at a time, all slots of the KV cache filled.

    The variants take turns, so that a machine that is busy for a while is so for all of them; the fastest of `repeats` counts,
    which is what the work costs without the others' interruptions. The model is left with the expert it had.
    """
    before, expert, text = model.spec, model.expert, model.architecture.text
    generator = torch.Generator().manual_seed(0)
    shape = (1, text.kv_heads, before.cache_tokens, text.head_dim)
    kv = [(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)) for _ in range(text.layers)]
    valid, position = torch.ones(1, before.cache_tokens), torch.tensor([before.cache_tokens])
    ego = torch.zeros(1, model.architecture.expert.ego_features)
    experts = {}
    for name, (spec, _) in variants.items():
        model.refit(spec)
        experts[name] = model.expert.eval()
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(repeats + 1):
        for name, (spec, steps) in variants.items():
            model.reuse(spec, experts[name])
            base, age = torch.zeros(1, spec.waypoints, 3), torch.zeros(1, 4) if spec.kv_age else None
            began = time.perf_counter()
            model.sample(model.tapped(kv), valid, position, ego, base, steps=steps, age=age)
            best[name] = min(best[name], 1e3 * (time.perf_counter() - began))
    model.reuse(before, expert)
    return best


@torch.no_grad()
def tokens_ms(model: SpanVLA, counts: Sequence[int], repeats: int) -> dict[int, float]:
    """Milliseconds that the VLM takes to speak plans of so many action tokens, one observation at a time; fastest of `repeats`."""
    spec, text = model.spec, model.architecture.text
    slots = spec.cache_tokens + max(counts)
    kv = [(torch.randn(1, text.kv_heads, slots, text.head_dim),) * 2 for _ in range(text.layers)]
    token, position = torch.full((1, 1), model.first_action), torch.tensor([spec.cache_tokens])
    best = dict.fromkeys(counts, float("inf"))
    for _ in range(repeats + 1):
        for count in counts:
            valid = torch.zeros(1, slots, dtype=torch.bool)
            valid[:, : spec.cache_tokens] = True
            began = time.perf_counter()
            for index in range(count):
                logits, columns = model.step(token, position + index, valid, kv)
                for layer, new in zip(kv, columns):
                    layer[0][:, :, spec.cache_tokens + index], layer[1][:, :, spec.cache_tokens + index] = new[0][:, :, 0], new[1][:, :, 0]
                valid[:, spec.cache_tokens + index] = True
                logits.argmax(dim=-1)
            best[count] = min(best[count], 1e3 * (time.perf_counter() - began))
    return best
