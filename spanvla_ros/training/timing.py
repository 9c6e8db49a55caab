"""How long the expert takes for one plan, by variant, in one run."""

from __future__ import annotations

import time
from collections.abc import Mapping

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
