"""Action expert: waypoint tokens that read the VLM's KV cache, layer by tapped layer (method section 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanvla_ros.contracts import ModelSpec
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.attention import attend, rotate

TIME_FEATURES = 64
POSE = 3


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
        query = self.cross_query(self.cross_norm(x)).reshape(batch, count, self.heads, self.head_dim).transpose(1, 2)
        x = x + self.cross_out(attend(rotate(query, cos, sin), key, value, mask))
        shape = (batch, count, self.self_heads, hidden // self.self_heads)
        query, own_key, own_value = (t.reshape(shape).transpose(1, 2) for t in self.self_qkv(self.self_norm(x)).chunk(3, dim=-1))
        x = x + self.self_out(attend(query, own_key, own_value, None))
        return x + self.ffn_out(F.silu(self.ffn_in(self.ffn_norm(x))))


class ActionExpert(nn.Module):
    """Velocity field of the flow, and the history-initialised source it starts from.

    Lives in residual space: r = (waypoints - constant-turn roll-out) / action_scale, shape (B, T, 3).
    """

    def __init__(self, architecture: Architecture, spec: ModelSpec):
        super().__init__()
        hidden, ego = architecture.expert.hidden, architecture.expert.ego_features
        self.waypoints = spec.waypoints
        self.point_in = nn.Linear(POSE, hidden)
        self.query = nn.Parameter(torch.randn(1, spec.waypoints, hidden) * 0.02)
        self.tau_in = nn.Sequential(nn.Linear(TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.ego_in = nn.Sequential(nn.Linear(ego, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.blocks = nn.ModuleList(ExpertBlock(architecture) for _ in spec.taps)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, POSE)
        self.history = nn.Sequential(nn.Linear(ego, hidden), nn.SiLU(), nn.Linear(hidden, spec.waypoints * POSE))
        # training starts at the roll-out itself: neither the source nor the field adds anything yet
        for layer in (self.out, self.history[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        frequency = torch.exp(torch.linspace(0, math.log(1000.0), TIME_FEATURES // 2))
        self.register_buffer("tau_frequency", frequency, persistent=False)

    def source_mean(self, ego: Tensor) -> Tensor:
        """Source of the flow (B, T, 3) without noise, from the ego history (B, E)."""
        return self.history(ego).reshape(-1, self.waypoints, POSE)

    def forward(self, point: Tensor, tau: Tensor, ego: Tensor, kv: list[tuple[Tensor, Tensor]], mask: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Velocity (B, T, 3) at point (B, T, 3) and time tau (B,).

        ego (B, E); kv: tapped layers' rotated keys and values (B, Hkv, K, D); mask (B, 1, 1, K) additive; rope: cos and
        sin (B, 1, 1, D) of the position after the last cached token, the same for all waypoints.
        """
        angle = tau[:, None] * self.tau_frequency
        context = self.tau_in(torch.cat((angle.sin(), angle.cos()), dim=-1)) + self.ego_in(ego)
        x = self.point_in(point) + self.query + context[:, None]
        for block, (key, value) in zip(self.blocks, kv):
            x = block(x, key, value, mask, *rope)
        return self.out(self.norm(x))
