"""Qwen2.5-VL with a fast fixed-shape forward.

The weights live in the Hugging Face modules, so checkpoints are interchangeable. Their own forward, however, loops over
ragged windows with data-dependent splits: slow in training, and it can't be exported. Camera grid and prompt length are
fixed by ModelSpec, so here every index is a constant and every attention a dense batch. Tests hold both forwards equal.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.attention import additive, attend, rotate, write_columns
from spanvla_ros.planning.prompt import TOKENS_PER_SECOND
from spanvla_ros.planning.tokenizer import ACTION_START, PAD, VIDEO_PAD, VISION_END, VISION_START

KV = list[tuple[Tensor, Tensor]]


def huggingface_config(architecture: Architecture, spec: ModelSpec, vocabulary: int, token_ids: dict[str, int]) -> Qwen2_5_VLConfig:
    """Hugging Face description of the VLM; `token_ids` maps the special tokens that their own forward looks for."""
    vision, text = architecture.vision, architecture.text
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": text.hidden,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "intermediate_size": text.intermediate,
            "vocab_size": vocabulary,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta, "mrope_section": list(text.mrope_section)},
            "bos_token_id": None,
            "eos_token_id": token_ids[ACTION_START],
            "pad_token_id": token_ids[PAD],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden,
            "num_heads": vision.heads,
            "intermediate_size": vision.intermediate,
            "out_hidden_size": text.hidden,
            "patch_size": spec.patch,
            "spatial_merge_size": spec.merge,
            "temporal_patch_size": spec.temporal_patch,
            "tokens_per_second": TOKENS_PER_SECOND,
            "window_size": vision.window_px,
            "fullatt_block_indexes": list(vision.full_attention),
        },
        video_token_id=token_ids[VIDEO_PAD],
        image_token_id=vocabulary,  # pictures enter as video only
        vision_start_token_id=token_ids[VISION_START],
        vision_end_token_id=token_ids[VISION_END],
        tie_word_embeddings=True,
    )


class VLM(nn.Module):
    """Vision tower and decoder for one camera grid. `hf` holds all weights: random ones, or those of `model.backbone`.

    recompute: layers keep only their input for the backward pass and run again there (gradient checkpointing).
    """

    def __init__(
        self,
        architecture: Architecture,
        spec: ModelSpec,
        vocabulary: int,
        token_ids: dict[str, int],
        hf: Qwen2_5_VLForConditionalGeneration | None = None,
    ):
        super().__init__()
        if max(spec.taps) >= architecture.text.layers:
            raise ConfigError(f"taps {spec.taps} name a layer beyond the last one, {architecture.text.layers - 1}")
        rows = max(vocabulary, architecture.text.vocabulary)
        self.hf = hf or Qwen2_5_VLForConditionalGeneration(huggingface_config(architecture, spec, rows, token_ids))
        self.recompute = False
        for layer in self.decoder.layers:
            # a method of the layer, not of this class: sharding hooks into the modules that own the weights
            layer.run = MethodType(run_layer, layer)
        text = architecture.text
        self.layers, self.heads, self.kv_heads, self.head_dim = text.layers, text.heads, text.kv_heads, text.head_dim
        self.vision_heads, self.full_attention = architecture.vision.heads, frozenset(architecture.vision.full_attention)
        self._register_vision_constants(architecture, spec)
        frequency_axis = torch.repeat_interleave(torch.arange(3), torch.tensor(text.mrope_section))
        self.register_buffer("frequency_axis", frequency_axis, persistent=False)
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        self.register_buffer("frequency", 1.0 / text.rope_theta**exponent, persistent=False)

    def _register_vision_constants(self, architecture: Architecture, spec: ModelSpec) -> None:
        rows, columns = spec.grid
        unit, side = spec.merge**2, architecture.vision.window_px // (spec.patch * spec.merge)
        # patches come grouped by merged token, tokens in raster order; the tower works window by window
        token = torch.arange(rows * columns).reshape(rows, columns)
        windows = [w.reshape(-1) for band in token.split(side, dim=0) for w in band.split(side, dim=1)]
        lengths = torch.tensor([len(w) * unit for w in windows])
        window_index = torch.cat(windows)
        order = (window_index[:, None] * unit + torch.arange(unit)).reshape(-1)
        inner = torch.arange(unit)
        row = (token.reshape(-1, 1) // columns * spec.merge + inner // spec.merge).reshape(-1)
        column = (token.reshape(-1, 1) % columns * spec.merge + inner % spec.merge).reshape(-1)
        size = architecture.vision.hidden // architecture.vision.heads
        frequency = 1.0 / 10000.0 ** (torch.arange(0, size // 2, 2, dtype=torch.float32) / (size // 2))
        angle = (torch.stack([row, column], dim=-1)[..., None].float() * frequency).flatten(1)
        angle = torch.cat((angle, angle), dim=-1)[order]
        ragged = bool((lengths != lengths[0]).any())
        self.windows = len(lengths)
        window_of = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        constants = {
            "patch_order": order,
            "merged_order": torch.argsort(window_index),
            "vision_cos": angle.cos(),
            "vision_sin": angle.sin(),
            # unequal windows (a grid that doesn't divide): dense attention with a block mask instead of reshaping
            "window_mask": additive(window_of[:, None] == window_of[None])[None, None] if ragged else None,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def tower(self) -> nn.Module:
        return self.hf.model.visual

    @property
    def decoder(self) -> nn.Module:
        return self.hf.model.language_model

    def vision(self, patches: Tensor) -> Tensor:
        """Features (G, N/merge^2, H) of patches (G, N, 1176); merged tokens in raster order. G = batch x cameras x frame pairs."""
        tower = self.tower
        kernel = tower.patch_embed.proj.weight
        # Conv3d whose stride equals its kernel is a product with the flattened patches
        x = torch.matmul(patches.index_select(1, self.patch_order), kernel.reshape(kernel.shape[0], -1).T)
        for index, block in enumerate(tower.blocks):
            x = x + self._vision_attention(block.attn, block.norm1(x), full=index in self.full_attention)
            x = x + block.mlp(block.norm2(x))
        x = tower.merger.ln_q(x).reshape(x.shape[0], len(self.merged_order), -1)
        return tower.merger.mlp(x).index_select(1, self.merged_order)

    def _vision_attention(self, attention: nn.Module, x: Tensor, *, full: bool) -> Tensor:
        batch, count, hidden = x.shape
        heads, size = self.vision_heads, hidden // self.vision_heads
        query, key, value = (t.reshape(batch, count, heads, size) for t in attention.qkv(x).chunk(3, dim=-1))
        cos, sin = self.vision_cos[:, None], self.vision_sin[:, None]
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        windows = 1 if full or self.window_mask is not None else self.windows
        query, key, value = (t.reshape(batch * windows, count // windows, heads, size).transpose(1, 2) for t in (query, key, value))
        out = attend(query, key, value, None if full else self.window_mask)
        return attention.proj(out.reshape(batch, count, hidden))

    def embed(self, ids: Tensor, slot: Tensor, features: Tensor) -> Tensor:
        """Input (B, S, H) of the decoder: text of ids (B, S), or vision feature slot-1 of features (B, Nv, H) where slot > 0."""
        text = self.decoder.embed_tokens(ids)
        index = (slot - (slot > 0).to(slot.dtype))[..., None].expand(-1, -1, features.shape[-1])
        return torch.where((slot > 0)[..., None], features.gather(1, index), text)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (B, 1, S, D) of M-RoPE positions (3, B, S)."""
        angle = positions.to(torch.float32).index_select(0, self.frequency_axis).permute(1, 2, 0) * self.frequency
        angle = torch.cat((angle, angle), dim=-1)[:, None]
        return angle.cos(), angle.sin()

    def decode_layers(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: KV | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, KV]:
        """Run all layers on x (B, S, H). Returns the normed output (B, S, H) and, per layer, the rotated keys and values
        (B, Hkv, S, D) of these S tokens only. `past` (B, Hkv, P, D) is attended in front of them; mask covers P + S keys.

        index (1,), for B = 1: they go into slot `index` of past instead; mask covers P keys, and the whole caches are returned.
        """
        kv: KV = []
        again = self.recompute and torch.is_grad_enabled()
        for number, layer in enumerate(self.decoder.layers):
            x, key, value = layer.run(x, cos, sin, mask, None if past is None else past[number], index, again)
            kv.append((key, value))
        return self.decoder.norm(x), kv

    def logits(self, hidden: Tensor) -> Tensor:
        return self.hf.lm_head(hidden)


def run_layer(
    layer: nn.Module,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    past: tuple[Tensor, Tensor] | None,
    index: Tensor | None,
    again: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One decoder layer on x (B, S, H): its output and keys and values as `VLM.decode_layers` returns them.

    again: forget all but x after the forward pass, and run it again in the backward pass.
    """
    if again:
        return checkpoint(_layer, layer, x, cos, sin, mask, past, index, use_reentrant=False)
    return _layer(layer, x, cos, sin, mask, past, index)


def _layer(
    layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None, index: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, count, _ = x.shape
    h = layer.input_layernorm(x)
    query, key, value = (
        projection(h).reshape(batch, count, -1, cos.shape[-1]).transpose(1, 2)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    )
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    if past is None:
        keys, values = key, value
    elif index is None:
        keys, values = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
    else:
        key, value = keys, values = write_columns(past[0], key, index), write_columns(past[1], value, index)
    x = x + layer.self_attn.o_proj(attend(query, keys, values, mask))
    return x + layer.mlp(layer.post_attention_layernorm(x)), key, value


def causal_mask(valid: Tensor) -> Tensor:
    """Additive mask (B, 1, S, S): a token attends to valid (B, S) tokens up to itself."""
    slots = torch.arange(valid.shape[1], device=valid.device)
    causal = slots[:, None] >= slots
    return additive(causal[None] & (valid > 0)[:, None])[:, None]
