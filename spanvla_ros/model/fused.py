"""The forward of a SpanVLA for one observation in a car's GPU: few large kernels, no shape that changes, a cache that stays in place.

The numbers are those of `model.vlm` and `model.expert`. There each operator is written once for training and export; here
projections that read the same input are one product, and every intermediate step that only moves data is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanvla_ros.model import flow
from spanvla_ros.model.attention import additive, rotate
from spanvla_ros.model.spanvla import SpanVLA


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Weight (out, in) and bias (out,) of one linear layer, or of several that read the same input."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def onto(self, total: Tensor, x: Tensor) -> Tensor:
        """total + projection of x, (rows, out), in one kernel where there is no bias."""
        return torch.addmm(total, x, self.weight.T) if self.bias is None else total + self(x)


class Fused:
    """A SpanVLA with its weights as `dtype` on `device`; the residual stream of the expert stays float32.

    slots: K of the cache (1, Hkv, K, D) per layer and kind; at least the spec's, more are never opened. The model itself is not
    kept. All methods work on tensors of that device; none waits for it.
    """

    def __init__(self, model: SpanVLA, device: torch.device, dtype: torch.dtype, slots: int):
        self.spec, self.device, self.dtype, self.slots = model.spec, device, dtype, slots
        vlm, text = model.vlm, model.architecture.text
        self._vision_heads, self._full_attention, self._window_count = vlm.vision_heads, vlm.full_attention, vlm.windows
        self.heads, self.kv_heads, self.size = text.heads, text.kv_heads, text.head_dim
        decoder, tower = vlm.decoder, vlm.tower
        self.embedding = self._held(decoder.embed_tokens.weight)
        self.norm = self._norm(decoder.norm)
        self.layers = [
            (
                self._norm(layer.input_layernorm),
                self._projection(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                self._projection(layer.self_attn.o_proj),
                self._norm(layer.post_attention_layernorm),
                *self._mlp(layer.mlp),
            )
            for layer in decoder.layers
        ]
        kernel = tower.patch_embed.proj.weight
        self.patch_kernel = self._held(kernel.reshape(kernel.shape[0], -1))
        self.vision_blocks = [
            (self._norm(b.norm1), self._projection(b.attn.qkv), self._projection(b.attn.proj), self._norm(b.norm2), *self._mlp(b.mlp))
            for b in tower.blocks
        ]
        self.merger = (self._norm(tower.merger.ln_q), self._projection(tower.merger.mlp[0]), self._projection(tower.merger.mlp[2]))
        self._constants = {
            name: getattr(vlm, name).to(device) for name in ("patch_order", "merged_order", "vision_cos", "vision_sin", "frequency", "frequency_axis")
        }
        mask = vlm.window_mask
        self._window_mask = None if mask is None else mask.to(device, dtype)
        self._hold_expert(model)
        self.cache = torch.zeros(len(self.layers), 2, self.kv_heads, slots, self.size, dtype=dtype, device=device)

    def _held(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return weight.detach().to(self.device, dtype or self.dtype)

    def _projection(self, *layers: nn.Linear) -> Projection:
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return Projection(
            weight=self._held(torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight),
            bias=self._held(torch.cat(biases)) if biases else None,
        )

    def _norm(self, norm: nn.Module) -> tuple[Tensor, float]:
        return self._held(norm.weight), norm.variance_epsilon

    def _mlp(self, mlp: nn.Module) -> tuple[Projection, Projection]:
        return self._projection(mlp.gate_proj, mlp.up_proj), self._projection(mlp.down_proj)

    def _hold_expert(self, model: SpanVLA) -> None:
        expert, spec = model.expert, model.spec
        full = lambda module: None if module is None else [self._held(p, torch.float32) for p in module.parameters()]  # noqa: E731
        self._point_in, self._ego_in, self._age_in = full(expert.point_in), full(expert.ego_in), full(expert.age_in)
        self._history, self._out, self._out_norm = full(expert.history), full(expert.out), full(expert.norm)
        self._query = self._held(expert.query[0], torch.float32)
        self._expert_blocks = [
            (
                full(b.cross_norm), self._projection(b.cross_query), self._projection(b.cross_out),
                full(b.self_norm), self._projection(b.self_qkv), self._projection(b.self_out),
                full(b.ffn_norm), self._projection(b.ffn_in), self._projection(b.ffn_out),
            )
            for b in expert.blocks
        ]  # fmt: skip
        self._self_heads = expert.blocks[0].self_heads
        self.flow_steps = 1 if spec.head == "l1" else spec.flow_steps
        self._action_scale = self._held(model.action_scale, torch.float32)
        # the flow times are fixed, so what the expert makes of them is too
        self._times = None
        if expert.tau_in is not None:
            angle = torch.arange(self.flow_steps, device=self.device)[:, None] / self.flow_steps * self._held(expert.tau_frequency, torch.float32)
            self._times = _perceptron(torch.cat((angle.sin(), angle.cos()), dim=-1), full(expert.tau_in))

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (S, 1, D) of M-RoPE positions (3, S)."""
        angle = positions.float().index_select(0, self._constants["frequency_axis"]).T * self._constants["frequency"]
        angle = torch.cat((angle, angle), dim=-1)[:, None]
        return angle.cos().to(self.dtype), angle.sin().to(self.dtype)

    def vision(self, patches: Tensor) -> Tensor:
        """Features (G, N/merge^2, H) of patches (G, N, 1176)."""
        x = torch.matmul(patches.to(self.dtype).index_select(1, self._constants["patch_order"]), self.patch_kernel.T)
        for index, (norm, qkv, proj, mlp_norm, gate_up, down) in enumerate(self.vision_blocks):
            x = x + proj(self._windows(qkv(_rms(x, norm)), full=index in self._full_attention))
            x = x + down(_gated(gate_up(_rms(x, mlp_norm))))
        norm, first, second = self.merger
        x = _rms(x, norm).reshape(x.shape[0], len(self._constants["merged_order"]), -1)
        return second(F.gelu(first(x))).index_select(1, self._constants["merged_order"])

    def _windows(self, qkv: Tensor, *, full: bool) -> Tensor:
        batch, count, width = qkv.shape
        heads = self._vision_heads
        parts = qkv.reshape(batch, count, 3, heads, width // 3 // heads)
        # in float32, as the original does
        turned = rotate(parts[:, :, :2], self._constants["vision_cos"][:, None, None], self._constants["vision_sin"][:, None, None]).to(self.dtype)
        windows = 1 if full or self._window_mask is not None else self._window_count
        shape = (batch * windows, count // windows, heads, width // 3 // heads)
        query, key, value = (t.reshape(shape).transpose(1, 2) for t in (turned[:, :, 0], turned[:, :, 1], parts[:, :, 2]))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=None if full else self._window_mask)
        return out.transpose(1, 2).reshape(batch, count, width // 3)

    def prefill(self, features: Tensor, ids: Tensor, slot: Tensor, positions: Tensor, length: Tensor) -> Tensor:
        """Write a prompt into the cache: features (Nv, H), ids, slot (S,), positions (3, S), length (1,) -> logits (V,).

        Padding lies behind the prompt, where a causal mask hides it; its own slots hold numbers that nobody may attend to.
        """
        x = torch.where((slot > 0)[:, None], features.index_select(0, (slot - 1).clamp(min=0)), self.embedding.index_select(0, ids))
        cos, sin = self.rope(positions)
        count = len(ids)
        for cache, layer in zip(self.cache, self.layers):
            query, key, value = self._heads(x, layer, cos, sin)
            cache[0, :, :count], cache[1, :, :count] = key, value
            out = F.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True, enable_gqa=self.heads != self.kv_heads)
            x = self._rest(x, layer, out[0].transpose(0, 1).reshape(count, -1))
        return self._logits(x.index_select(0, length - 1))[0]

    def step(self, token: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        """Write one token (1,) into slot index (1,) of the cache -> logits (V,). cos and sin (1, 1, D); mask (1, 1, K) additive,
        open for this token too."""
        x = self.embedding.index_select(0, token)
        for cache, layer in zip(self.cache, self.layers):
            query, key, value = self._heads(x, layer, cos, sin)
            cache[0].index_copy_(1, index, key)
            cache[1].index_copy_(1, index, value)
            out = self._folded(query, cache, mask)
            x = self._rest(x, layer, out.transpose(0, 1).reshape(1, -1))
        return self._logits(x)[0]

    def _heads(self, x: Tensor, layer: tuple, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (H, S, D), rotated keys and values (Hkv, S, D) of x (S, hidden)."""
        norm, qkv, *_ = layer
        parts = qkv(_rms(x, norm)).reshape(len(x), self.heads + 2 * self.kv_heads, self.size)
        turned = rotate(parts[:, : self.heads + self.kv_heads], cos, sin).transpose(0, 1)
        return turned[: self.heads], turned[self.heads :], parts[:, self.heads + self.kv_heads :].transpose(0, 1)

    def _rest(self, x: Tensor, layer: tuple, read: Tensor) -> Tensor:
        _, _, out, norm, gate_up, down = layer
        x = out.onto(x, read)
        return down.onto(x, _gated(gate_up(_rms(x, norm))))

    def _logits(self, x: Tensor) -> Tensor:
        # the head is tied to the embedding (model.checkpoint)
        return F.linear(_rms(x, self.norm), self.embedding)

    def _folded(self, query: Tensor, cache: Tensor, mask: Tensor) -> Tensor:
        """Attention of queries (H, Q, D) to a layer's cache (2, Hkv, K, D), which is not copied: (H, Q, D)."""
        key, value = cache
        folded = query.reshape(self.kv_heads, -1, self.size)
        scores = torch.baddbmm(mask, folded, key.transpose(1, 2), alpha=self.size**-0.5)
        return torch.bmm(torch.softmax(scores, dim=-1), value).reshape(query.shape)

    def sample(self, cos: Tensor, sin: Tensor, mask: Tensor, ego: Tensor, base: Tensor, noise: Tensor, age: Tensor | None) -> Tensor:
        """Waypoints (T, 3) from the cache: cos and sin (1, 1, D) of the position after it, mask (1, 1, K), ego (E,), base and noise
        (T, 3), age (4,) where the spec has kv_age. All float32 but cos, sin and mask."""
        source = self.spec.source_sigma * noise
        if self._history is not None:
            source = source + _perceptron(ego, self._history).reshape(base.shape)
        shared = _perceptron(ego, self._ego_in)
        if self._age_in is not None:
            shared = shared + F.linear(age, *self._age_in)
        point = source
        for step in range(self.flow_steps):
            context = shared if self._times is None else shared + self._times[step]
            point = point + self._velocity(point, context, cos, sin, mask) / self.flow_steps
        return flow.from_residual(point, base if self.spec.rolls_out else torch.zeros_like(base), self._action_scale)

    def _velocity(self, point: Tensor, context: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = F.linear(point.reshape(len(self._query), -1), *self._point_in) + (self._query + context)
        for layer, block in zip(self.spec.taps, self._expert_blocks):
            cross_norm, cross_query, cross_out, self_norm, self_qkv, self_out, ffn_norm, ffn_in, ffn_out = block
            query = cross_query(self._layer_norm(x, cross_norm)).reshape(len(x), self.heads, self.size)
            read = self._folded(rotate(query, cos, sin).transpose(0, 1), self.cache[layer], mask)
            x = x + cross_out(read.transpose(0, 1).reshape(len(x), -1))
            query, key, value = self_qkv(self._layer_norm(x, self_norm)).reshape(len(x), 3, self._self_heads, -1).permute(1, 2, 0, 3)[:, None]
            x = x + self_out(F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).reshape(x.shape))
            x = x + ffn_out(F.silu(ffn_in(self._layer_norm(x, ffn_norm))))
        return F.linear(F.layer_norm(x, x.shape[-1:], *self._out_norm), *self._out).reshape(point.shape)

    def _layer_norm(self, x: Tensor, parameters: list[Tensor]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *parameters).to(self.dtype)


def masks(length: Tensor, prompt: int, slots: int, rows: int, dtype: torch.dtype) -> Tensor:
    """Additive masks (rows, 1, 1, slots): row r opens the first length (1,) of the prompt's slots and the r first after those."""
    slot = torch.arange(slots, device=length.device)
    row = torch.arange(rows, device=length.device)[:, None]
    return additive((slot < length) | ((slot >= prompt) & (slot < prompt + row)))[:, None, None].to(dtype)


def _rms(x: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], *norm)


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _perceptron(x: Tensor, parameters: list[Tensor]) -> Tensor:
    """Linear, SiLU, linear."""
    first, first_bias, second, second_bias = parameters
    return F.linear(F.silu(F.linear(x, first, first_bias)), second, second_bias)
