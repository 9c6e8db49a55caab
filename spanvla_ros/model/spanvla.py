"""SpanVLA: the VLM that reasons in text, and the action expert that reads a sparse part of its KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spanvla_ros.contracts import ConfigError, InputError, ModelSpec
from spanvla_ros.model import decoding, flow
from spanvla_ros.model.actions import Codebook
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.attention import additive
from spanvla_ros.model.decoding import Decoded
from spanvla_ros.model.expert import ActionExpert
from spanvla_ros.model.vlm import KV, VLM, causal_mask
from spanvla_ros.planning import prompt
from spanvla_ros.planning.tokenizer import ACTION_START, SPECIAL_TOKENS, first_action


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """logits (B, V) of the first answer token; kv per layer (B, Hkv, S, D); start (B,): M-RoPE position of the first answer token."""

    logits: Tensor
    kv: KV
    start: Tensor


class SpanVLA(nn.Module):
    """Both networks and the ModelSpec that fixes their inputs. `tokenizer` is a tokenizers.Tokenizer; `codebook` is what the
    action tokens of `spec` stand for, None where it has none; hf: pretrained VLM, see `model.backbone`."""

    def __init__(self, architecture: Architecture, spec: ModelSpec, tokenizer, codebook: Codebook | None = None, hf: nn.Module | None = None):
        super().__init__()
        if spec.action_tokens and (codebook is None or codebook.sha256 != spec.codebook_sha256):
            found = "none" if codebook is None else f"{codebook.sha256[:12]} of {len(codebook)} motions"
            raise ConfigError(f"the model speaks {spec.action_tokens} actions of codebook {spec.codebook_sha256[:12]}, the codebook here is {found}")
        if codebook is not None and codebook.interval_s != spec.waypoint_interval_s:
            interval = f"{spec.waypoint_interval_s:g} s"
            raise ConfigError(f"the codebook has motions of {codebook.interval_s:g} s, the waypoints of the model are {interval} apart")
        self.codebook = codebook
        self.first_action = first_action(tokenizer, spec.action_tokens)
        self.architecture, self.spec, self.tokenizer = architecture, spec, tokenizer
        token_ids = {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
        self.action_start = token_ids[ACTION_START]
        self.prefix: KV | None = None
        self.vlm = VLM(architecture, spec, tokenizer.get_vocab_size(), token_ids, hf)
        self.expert = ActionExpert(architecture, spec)
        self.register_buffer("action_scale", torch.tensor(spec.action_scale, dtype=torch.float32), persistent=False)

    def refit(self, spec: ModelSpec) -> None:
        """A fresh expert for another bridge (taps, horizon, source, head ...) on the same VLM, whose inputs the spec must keep."""
        if max(spec.taps) >= self.architecture.text.layers:
            raise ConfigError(f"taps {spec.taps} name a layer beyond the last one, {self.architecture.text.layers - 1}")
        self.reuse(spec, ActionExpert(self.architecture, spec))

    def reuse(self, spec: ModelSpec, expert: ActionExpert) -> None:
        """Take an expert that was made for `spec`."""
        self.spec, self.expert = spec, expert
        self.action_scale = torch.tensor(spec.action_scale, dtype=torch.float32)

    def train_only(self, *, vision: bool = True, text: bool = True, expert: bool = True) -> None:
        """Choose what learns: stage 1 trains the VLM (the paper freezes its pretrained vision), stage 2 the expert."""
        self.vlm.requires_grad_(text)
        self.vlm.tower.requires_grad_(vision)
        self.expert.requires_grad_(expert)

    def vision(self, patches: Tensor) -> Tensor:
        """Features (B, Nv, H) of patches (B, G, N, 1176)."""
        batch = patches.shape[0]
        return self.vlm.vision(patches.flatten(0, 1)).reshape(batch, self.spec.vision_tokens, -1)

    def encode(self, features: Tensor, ids: Tensor, slot: Tensor, positions: Tensor, valid: Tensor) -> tuple[Tensor, KV]:
        """One causal pass over whole sequences: features (B, Nv, H) of `vision`; ids, slot, valid (B, S); positions (3, B, S).

        Returns the decoder's output (B, S, H), for `vlm.logits`, and per layer rotated keys and values (B, Hkv, S, D).
        """
        return self.vlm.decode_layers(self.vlm.embed(ids, slot, features), *self.vlm.rope(positions), causal_mask(valid))

    @torch.no_grad()
    def keep_prefix(self) -> int:
        """Encode the fixed beginning of all prompts once, with the weights of now: `prefill` goes on from there. Returns its tokens.

        Its keys and values are constants of a graph that is exported afterwards. `prefix = None` undoes it.
        """
        found = self.tokenizer.encode(prompt.prefix(self.spec), add_special_tokens=False).ids
        device = self.vlm.frequency.device
        ids = torch.tensor([found], device=device)
        positions = torch.arange(len(found), device=device).expand(3, 1, -1)
        nothing = torch.zeros(1, 1, self.architecture.text.hidden, device=device)
        _, self.prefix = self.encode(nothing, ids, torch.zeros_like(ids), positions, torch.ones_like(ids))
        return len(found)

    def prefill(self, features: Tensor, ids: Tensor, slot: Tensor, positions: Tensor, length: Tensor) -> Prefilled:
        """Encode prompts: ids, slot (B, S), positions (3, B, S), length (B,)."""
        valid = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
        if self.prefix is None:
            known, (hidden, kv) = 0, self.encode(features, ids, slot, positions, valid)
        else:
            known = self.prefix[0][0].shape[2]
            past = [(key.expand(len(ids), -1, -1, -1), value.expand(len(ids), -1, -1, -1)) for key, value in self.prefix]
            rest = self.vlm.embed(ids[:, known:], slot[:, known:], features)
            hidden, new = self.vlm.decode_layers(rest, *self.vlm.rope(positions[:, :, known:]), causal_mask(valid)[:, :, known:], past)
            kv = [(torch.cat((before[0], after[0]), 2), torch.cat((before[1], after[1]), 2)) for before, after in zip(past, new)]
        last = hidden.gather(1, (length - 1 - known)[:, None, None].expand(-1, 1, hidden.shape[-1]))
        start = torch.where(valid, positions.amax(dim=0), -1).amax(dim=1) + 1
        return Prefilled(logits=self.vlm.logits(last)[:, 0], kv=kv, start=start)

    def step(self, token: Tensor, position: Tensor, valid: Tensor, cache: KV, index: Tensor | None = None) -> tuple[Tensor, KV]:
        """One decoding step: token (B, 1) at M-RoPE position (B,), attending to valid (B, K) slots of the cache (B, Hkv, K, D)
        and itself. Returns logits (B, V) and the new columns (B, Hkv, 1, D) per layer, or, for B = 1 with the token's slot
        index (1,), the whole caches."""
        if index is None:
            seen = torch.cat((valid.to(torch.float32), torch.ones_like(token, dtype=torch.float32)), dim=1)
        else:
            seen = (valid > 0) | (torch.arange(valid.shape[1], device=valid.device) == index[:, None])
        rope = self.vlm.rope(position[None, :, None].expand(3, -1, 1))
        hidden, columns = self.vlm.decode_layers(self.vlm.decoder.embed_tokens(token), *rope, additive(seen)[:, None, None], cache, index)
        return self.vlm.logits(hidden)[:, 0], columns

    @torch.no_grad()
    def decode_greedy(self, features: Tensor, ids: Tensor, slot: Tensor, positions: Tensor, length: Tensor, max_tokens: int | None = None) -> Decoded:
        """Prefill and decode a batch as `decoding.reason` does."""
        return decoding.reason(self, self.prefill(features, ids, slot, positions, length), length, max_tokens=max_tokens)

    def tapped(self, kv: KV) -> KV:
        """The layers that the expert reads."""
        return [kv[layer] for layer in self.spec.taps]

    def velocity_field(self, kv_taps: KV, valid: Tensor, next_position: Tensor, ego: Tensor, age: Tensor | None = None, n: int = 1) -> flow.Field:
        """Velocity field of the flow under one KV cache: kv_taps (B, Hkv, K, D), valid (B, K), next_position (B,), ego (B, E),
        age (B, 4) where the spec has kv_age. With n candidates per observation, points are (B*n, T, 3)."""
        mask = additive(valid)[:, None, None]
        rope = self.vlm.rope(next_position[None, :, None].expand(3, -1, 1))
        if (age is None) == self.spec.kv_age:
            raise InputError(f"the model {'needs' if self.spec.kv_age else 'takes no'} age of the KV (kv_age is {self.spec.kv_age})")
        context = self.expert.context(ego, age)
        if n > 1:
            context = context.repeat_interleave(n, dim=0)
        return lambda point, tau: self.expert(point, tau, context, kv_taps, mask, rope)

    def _base(self, base: Tensor) -> Tensor:
        """What waypoints are relative to: the roll-out (B, T, 3), or the car itself."""
        return base if self.spec.rolls_out else torch.zeros_like(base)

    def flow_loss(
        self,
        kv_taps: KV,
        valid: Tensor,
        next_position: Tensor,
        ego: Tensor,
        base: Tensor,
        waypoints: Tensor,
        *,
        age: Tensor | None = None,
        tau: flow.TauConfig = flow.TauConfig(),
        weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Loss of the expert per sample (B,): flow matching, or L1 for that head. base and waypoints (B, T, 3) in base_link; age
        (B, 4) where the spec has kv_age; weights (T,) or (B, T), mean 1. No gradient reaches the VLM."""
        detached = [(key.detach().float(), value.detach().float()) for key, value in kv_taps]
        field = self.velocity_field(detached, valid, next_position, ego, age)
        target = flow.to_residual(waypoints, self._base(base), self.action_scale)
        if self.spec.head == "l1":
            return flow.l1_loss(field, self.expert.source_mean(ego), target, weights)
        noise = torch.randn(target.shape, generator=generator, device=target.device) * self.spec.source_sigma
        times = flow.sample_tau(len(target), tau, generator, target.device)
        return flow.loss(field, self.expert.source_mean(ego), noise, target, times, weights)

    def sample(
        self,
        kv_taps: KV,
        valid: Tensor,
        next_position: Tensor,
        ego: Tensor,
        base: Tensor,
        noise: Tensor | None = None,
        steps: int | None = None,
        *,
        age: Tensor | None = None,
        n: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Waypoints (B, T, 3) in base_link; noise (B, T, 3) in units of the source sigma, none by default.

        n: so many candidates (B, n, T, 3) from one KV cache, which is neither computed nor copied again; their noise
        (B, n, T, 3) is drawn where none is given. The L1 head makes one pass, whatever `steps` says.
        """
        source = self.expert.source_mean(ego)
        if n is not None:
            if noise is None:
                noise = torch.randn(len(source), n, *source.shape[1:], generator=generator, device=source.device)
            source, base, noise = source.repeat_interleave(n, dim=0), base.repeat_interleave(n, dim=0), noise.flatten(0, 1)
        if noise is not None:
            source = source + self.spec.source_sigma * noise
        field = self.velocity_field(kv_taps, valid, next_position, ego, age, n or 1)
        count = 1 if self.spec.head == "l1" else steps or self.spec.flow_steps
        waypoints = flow.from_residual(flow.integrate(field, source, count), self._base(base), self.action_scale)
        return waypoints if n is None else waypoints.unflatten(0, (-1, n))

    def euler(
        self,
        kv_taps: KV,
        valid: Tensor,
        next_position: Tensor,
        ego: Tensor,
        base: Tensor,
        noise: Tensor,
        point: Tensor,
        tau: Tensor,
        interval: Tensor,
        *,
        age: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step of `sample`: from point (B, T, 3) of residual space at tau (B,) to the one at tau + interval (B,), and
        what waypoints (B, T, 3) it stands for. The step at tau 0 starts from the source, whatever point is."""
        source = self.expert.source_mean(ego) + self.spec.source_sigma * noise
        point = torch.where((tau > 0)[:, None, None], point, source)
        point = point + self.velocity_field(kv_taps, valid, next_position, ego, age)(point, tau) * interval[:, None, None]
        return point, flow.from_residual(point, self._base(base), self.action_scale)
