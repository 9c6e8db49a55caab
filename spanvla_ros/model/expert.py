"""Action expert: waypoint tokens that read the VLM's KV cache, layer by tapped layer (method section 3.2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.attention import attend, rotate
from spanvla_ros.planning.motion import AGE_FEATURES

TIME_FEATURES = 64
POSE = 3
Interval = Literal[1, 2, 4, "last"]


def tapped_layers(layers: int, interval: Interval, offset: int = 0) -> tuple[int, ...]:
    """0-based layers that the expert reads, shallow to deep: every `interval`-th from `offset`, or the last one alone.

    Interval 2 from 0 is the paper's sparse selection: 18 of 36 layers, 1-based odd as its figure draws them.
    """
    if interval == "last":
        return (layers - 1,)
    if not 0 <= offset < min(interval, layers):
        raise ConfigError(f"tap_offset must lie in 0..{min(interval, layers) - 1} for every {interval}. of {layers} layers, is {offset}")
    return tuple(range(offset, layers, interval))


class ExpertBlock(nn.Module):
    """Pre-norm: cross-attention to one layer's cached keys and values, self-attention over the waypoints, FFN."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        expert, text = architecture.expert, architecture.text
        self.heads, self.head_dim, self.self_heads = text.heads, text.head_dim, expert.self_heads
        self.cross_norm = nn.LayerNorm(expert.hidden)
        # the VLM's own heads: the cache is read as it is, without another key or value projection
        self.cross_query = nn.Linear(expert.hidden, text.heads * text.head_dim)
        self.cross_out = nn.Linear(text.heads * text.head_dim, expert.hidden)
        self.self_norm = nn.LayerNorm(expert.hidden)
        self.self_qkv = nn.Linear(expert.hidden, 3 * expert.hidden)
        self.self_out = nn.Linear(expert.hidden, expert.hidden)
        self.ffn_norm = nn.LayerNorm(expert.hidden)
        self.ffn_in = nn.Linear(expert.hidden, expert.intermediate)
        self.ffn_out = nn.Linear(expert.intermediate, expert.hidden)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, count, hidden = x.shape
        observed = key.shape[0]  # rows of x that read the same cache ask as one, so the cache is never copied
        query = self.cross_query(self.cross_norm(x)).reshape(observed, -1, self.heads, self.head_dim).transpose(1, 2)
        read = attend(rotate(query, cos, sin), key, value, mask)
        x = x + self.cross_out(read.reshape(batch, count, -1))
        shape = (batch, count, self.self_heads, hidden // self.self_heads)
        query, own_key, own_value = (t.reshape(shape).transpose(1, 2) for t in self.self_qkv(self.self_norm(x)).chunk(3, dim=-1))
        x = x + self.self_out(attend(query, own_key, own_value, None))
        return x + self.ffn_out(F.silu(self.ffn_in(self.ffn_norm(x))))


class ActionExpert(nn.Module):
    """Velocity field of the flow, and the history-initialised source it starts from.

    Lives in residual space: r = (waypoints - base) / action_scale, shape (B, T, 3); base is the constant-turn roll-out, or
    zero where the spec doesn't roll out. The L1 head is the same stack without tau: its one pass is r - source.
    """

    def __init__(self, architecture: Architecture, spec: ModelSpec):
        super().__init__()
        hidden, ego = architecture.expert.hidden, architecture.expert.ego_features
        self.waypoints, self.tokens = spec.waypoints, spec.waypoints // spec.waypoints_per_token
        width = POSE * spec.waypoints_per_token
        self.point_in = nn.Linear(width, hidden)
        self.query = nn.Parameter(torch.randn(1, self.tokens, hidden) * 0.02)
        self.tau_in = nn.Sequential(nn.Linear(TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) if spec.head == "flow" else None
        self.ego_in = nn.Sequential(nn.Linear(ego, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.blocks = nn.ModuleList(ExpertBlock(architecture) for _ in spec.taps)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, width)
        learned = "mlp" in spec.source
        self.history = nn.Sequential(nn.Linear(ego, hidden), nn.SiLU(), nn.Linear(hidden, spec.waypoints * POSE)) if learned else None
        self.age_in = nn.Linear(AGE_FEATURES, hidden) if spec.kv_age else None
        # training starts at the base itself: neither the source nor the field adds anything yet, and age means nothing
        for layer in (self.out, self.history[-1] if self.history else None, self.age_in):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        frequency = torch.exp(torch.linspace(0, math.log(1000.0), TIME_FEATURES // 2))
        self.register_buffer("tau_frequency", frequency, persistent=False)

    def source_mean(self, ego: Tensor) -> Tensor:
        """Source of the flow (B, T, 3) without noise, from the ego history (B, E)."""
        if self.history is None:
            return ego.new_zeros(ego.shape[0], self.waypoints, POSE)
        return self.history(ego).reshape(-1, self.waypoints, POSE)

    def context(self, ego: Tensor, age: Tensor | None) -> Tensor:
        """What all queries share at every tau (B, hidden): ego history (B, E), and age (B, 4) of the KV where the spec has it."""
        shared = self.ego_in(ego)
        return shared if self.age_in is None else shared + self.age_in(age)

    def forward(
        self, point: Tensor, tau: Tensor, context: Tensor, kv: list[tuple[Tensor, Tensor]], mask: Tensor, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Velocity (B*n, T, 3) at point (B*n, T, 3) and time tau (B*n,); n candidates of one observation in a row.

        context (B*n, hidden); kv: tapped layers' rotated keys and values (B, Hkv, K, D); mask (B, 1, 1, K) additive; rope: cos
        and sin (B, 1, 1, D) of the position after the last cached token, the same for all waypoints.
        """
        if self.tau_in is not None:
            angle = tau[:, None] * self.tau_frequency
            context = self.tau_in(torch.cat((angle.sin(), angle.cos()), dim=-1)) + context
        x = self.point_in(point.reshape(point.shape[0], self.tokens, -1)) + self.query + context[:, None]
        for block, (key, value) in zip(self.blocks, kv):
            x = block(x, key, value, mask, *rope)
        return self.out(self.norm(x)).reshape(point.shape)
