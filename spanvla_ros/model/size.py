"""What a model weighs: parameters, tokens, KV cache and memory, counted on the meta device without any weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from spanvla_ros.contracts import ModelSpec
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.expert import ActionExpert
from spanvla_ros.model.vlm import huggingface_config
from spanvla_ros.planning.tokenizer import SPECIAL_TOKENS

HALF, FULL = 2, 4  # bytes of bfloat16 and float32
# what a decoder layer keeps for the backward pass under bf16 autocast, bytes per token: measured on `model.vlm` with fused attention
KEPT_HIDDEN, KEPT_INTERMEDIATE, KEPT_KV = 34, 8, 4


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How stage one trains, as far as memory knows it. samples: per forward pass of one process; shards: processes under FSDP, else 1."""

    vision: bool = True
    text: bool = True
    recompute: bool = False
    average: bool = False
    adapters: int = 0  # parameters of LoRA; the decoder's own are frozen then, but for the embedding
    samples: int = 1
    shards: int = 1

    def but(self, **changes: Any) -> Regime:
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Numbers of one architecture under one ModelSpec; parameter counts by part."""

    architecture: Architecture
    spec: ModelSpec
    vision: int
    decoder: int  # layers and the last norm
    embedding: int  # tied: also the output
    expert: int

    @property
    def vlm(self) -> int:
        return self.vision + self.decoder + self.embedding

    @property
    def kv_token(self) -> int:
        """Bytes of keys and values of one token in one layer, bfloat16."""
        text = self.architecture.text
        return 2 * text.kv_heads * text.head_dim * HALF

    @property
    def kv_cache(self) -> int:
        """Bytes of the whole cache of one plan: all layers, all slots."""
        return self.kv_token * self.architecture.text.layers * self.spec.cache_tokens

    @property
    def kv_tapped(self) -> int:
        """Bytes of the part that the expert reads."""
        return self.kv_token * len(self.spec.taps) * self.spec.cache_tokens

    @property
    def inference(self) -> int:
        """Bytes of one planning session in bfloat16: weights, cache, and the widest activations of vision and prefill."""
        text, vision = self.architecture.text, self.architecture.vision
        patches = self.spec.vision_tokens * self.spec.merge**2
        prefill = self.spec.prompt_tokens * (4 * text.hidden + 3 * text.intermediate) * HALF
        tower = patches * (6 * vision.hidden + 3 * vision.intermediate) * HALF
        return (self.vlm + self.expert) * HALF + self.kv_cache + max(prefill, tower)

    def linear_layers(self) -> list[tuple[str, int, int]]:
        """(name, inputs, outputs) of every linear map of the decoder's layers."""
        text = self.architecture.text
        queries, kv = text.heads * text.head_dim, text.kv_heads * text.head_dim
        one = [
            ("q_proj", text.hidden, queries), ("k_proj", text.hidden, kv), ("v_proj", text.hidden, kv), ("o_proj", queries, text.hidden),
            ("gate_proj", text.hidden, text.intermediate), ("up_proj", text.hidden, text.intermediate), ("down_proj", text.intermediate, text.hidden),
        ]  # fmt: skip
        return one * text.layers

    def layer_activations(self) -> int:
        """Bytes that one decoder layer keeps for the backward pass, per token."""
        text = self.architecture.text
        return KEPT_HIDDEN * text.hidden + KEPT_INTERMEDIATE * text.intermediate + KEPT_KV * text.kv_heads * text.head_dim

    def training(self, regime: Regime) -> dict[str, int]:
        """Bytes per process of stage one: weights and Adam in float32, forward pass under bf16 autocast, longest possible sequence."""
        text, vision = self.architecture.text, self.architecture.vision
        whole = self.decoder + self.embedding if regime.text else 0
        trained = (self.embedding + regime.adapters if regime.adapters else whole) + (self.vision if regime.vision else 0)
        tokens = regime.samples * self.spec.cache_tokens
        layer = tokens * self.layer_activations()
        between = tokens * text.hidden * FULL
        activations = text.layers * between + layer if regime.recompute else text.layers * layer
        if regime.vision:
            patches = regime.samples * self.spec.vision_tokens * self.spec.merge**2
            activations += vision.depth * patches * (KEPT_HIDDEN * vision.hidden + KEPT_INTERMEDIATE * vision.intermediate)
        answers = regime.samples * (self.spec.max_reasoning_tokens + 1)
        rows = self.embedding // text.hidden
        return {
            "weights": (self.vlm + regime.adapters) * FULL // regime.shards,
            # outside of its layers FSDP keeps all weights gathered for as long as the pass lasts
            "gathered": (self.vision + self.embedding) * FULL if regime.shards > 1 else 0,
            "gradients": trained * FULL // regime.shards,
            "optimiser": trained * (3 if regime.average else 2) * FULL // regime.shards,
            # autocast keeps the cast of every weight that has a gradient behind it for as long as the pass lasts
            "bf16 weights": (self.decoder + self.embedding + (self.vision if regime.vision else 0)) * HALF,
            "activations": activations + answers * rows * (HALF + 2 * FULL),
        }


def measure(architecture: Architecture, spec: ModelSpec, vocabulary: int) -> Size:
    """Build both networks on the meta device and count; vocabulary: tokens of the tokenizer, which may be fewer than the embedding has rows."""
    rows = max(vocabulary, architecture.text.vocabulary)
    with torch.device("meta"):
        hf = Qwen2_5_VLForConditionalGeneration(huggingface_config(architecture, spec, rows, {name: 0 for name in SPECIAL_TOKENS}))
        expert = ActionExpert(architecture, spec)
    hf.tie_weights()
    embedding = hf.model.language_model.embed_tokens.weight.numel()
    return Size(
        architecture=architecture,
        spec=spec,
        vision=_count(hf.model.visual),
        decoder=_count(hf.model.language_model) - embedding,
        embedding=embedding,
        expert=_count(expert),
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
