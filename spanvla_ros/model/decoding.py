"""Answers of the VLM, token by token: the reasoning, and, for a model that speaks its plan, the action tokens after it.

Greedy as in the car, or sampled with log-probabilities as reinforcement fine-tuning needs it (method section 5.1). The prompt
is encoded once, however many answers are drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spanvla_ros.contracts import ConfigError
from spanvla_ros.model.vlm import KV

if TYPE_CHECKING:
    from spanvla_ros.model.spanvla import Prefilled, SpanVLA


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen: temperature 0 takes the likeliest; top_p 1 and top_k 0 leave the distribution whole.

    For roll-outs temperature 1 (method section 5.1); for sampled inference 0.8, top_p 0.2, top_k 20. seed: of all draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError(f"sampling: temperature {self.temperature} must be >= 0, top_p {self.top_p} in (0, 1], top_k {self.top_k} >= 0")


GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Reasoning. tokens (B, L) int64, padded with -1; kv per layer (B, Hkv, cache_tokens, D); valid (B, cache_tokens)
    bool; next_position (B,); forced (B,) bool: the budget ended before <action_start> came by itself; logits (B, V) of
    what follows <action_start>; log_probs (B, L) of the tokens, see `Chooser`, 0 where forced or padded."""

    tokens: Tensor
    kv: KV
    valid: Tensor
    next_position: Tensor
    forced: Tensor
    logits: Tensor
    log_probs: Tensor


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Action tokens. tokens (B, T) int64 vocabulary ids, up to and with the first that is none, then -1; log_probs (B, T);
    actions (B, T) int64 indices into the codebook, -1 from where the plan broke off."""

    tokens: Tensor
    log_probs: Tensor
    actions: Tensor

    @property
    def complete(self) -> Tensor:
        """(B,) bool: as many action tokens as waypoints."""
        return (self.actions >= 0).all(dim=1)


class Chooser:
    """Draws tokens, reproducibly. The log-probability is that of the model's distribution at the temperature, before top_k and top_p
    cut it; at temperature 0 that of the plain distribution. allowed (V,) bool: what may come, and what the distribution is over."""

    def __init__(self, sampling: Sampling, device: torch.device, allowed: Tensor | None = None):
        self.sampling, self._allowed = sampling, allowed
        self._generator = torch.Generator(device).manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,) and their log-probabilities (B,) from logits (B, V)."""
        sampling = self.sampling
        if self._allowed is not None:
            logits = logits.masked_fill(~self._allowed, -torch.inf)
        scaled = (logits.float() / (sampling.temperature or 1.0)).log_softmax(dim=-1)
        if not sampling.temperature:
            token = logits.argmax(dim=-1)
        elif sampling.top_p == 1 and not sampling.top_k:
            token = self._draw(scaled.exp())
        else:
            chance, order = scaled.exp().sort(dim=-1, descending=True)
            # a token stays while those before it leave room; the first always does
            keep = chance.cumsum(dim=-1) - chance < sampling.top_p
            if sampling.top_k:
                keep[:, sampling.top_k :] = False
            token = order.gather(1, self._draw(chance * keep)[:, None])[:, 0]
        return token, scaled.gather(1, token[:, None])[:, 0]

    def _draw(self, chance: Tensor) -> Tensor:
        """Indices (B,) drawn with chance (B, V), which need not add up to 1: one random number a row, where multinomial takes V of them."""
        below = chance.cumsum(dim=-1, dtype=torch.float64)
        part = torch.rand(len(chance), 1, generator=self._generator, device=chance.device, dtype=torch.float64)
        # the first index at which the sum is beyond the point, so never one without a chance; NaN finds none
        return torch.searchsorted(below, below[:, -1:] * (part * (1 - 1e-12)), right=True)[:, 0].clamp(max=chance.shape[-1] - 1)


def plan_tokens(model: SpanVLA) -> Tensor:
    """Which tokens a plan may consist of, (V,) bool: the actions of its codebook."""
    rows = model.vlm.hf.get_input_embeddings().num_embeddings
    index = torch.arange(rows, device=model.vlm.frequency.device) - model.first_action
    return (index >= 0) & (index < model.spec.action_tokens)


def repeat(prefilled: Prefilled, length: Tensor, group: int) -> tuple[Prefilled, Tensor]:
    """The same prompts for `group` answers each, neighbours in the batch."""
    if group == 1:
        return prefilled, length
    kv = [(key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)) for key, value in prefilled.kv]
    changed = type(prefilled)(logits=prefilled.logits.repeat_interleave(group, 0), kv=kv, start=prefilled.start.repeat_interleave(group, 0))
    return changed, length.repeat_interleave(group, 0)


@torch.no_grad()
def reason(
    model: SpanVLA,
    prefilled: Prefilled,
    length: Tensor,
    *,
    max_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    allowed: Tensor | None = None,
) -> Decoded:
    """Decode the text of prompts with `length` (B,) tokens. Every row ends with <action_start> in the cache, forced after
    `max_tokens` (default: max_reasoning_tokens); a row is decoded to its own end, slots after it stay invalid. allowed: see `Chooser`."""
    spec, stop, choose = model.spec, model.action_start, Chooser(sampling, length.device, allowed)
    batch, prompt = len(length), prefilled.kv[0][0].shape[2]
    budget = spec.max_reasoning_tokens if max_tokens is None else min(max_tokens, spec.max_reasoning_tokens)
    cache = _grown(prefilled.kv, spec.cache_tokens - prompt)
    valid = torch.zeros(batch, spec.cache_tokens, dtype=torch.bool, device=length.device)
    valid[:, :prompt] = torch.arange(prompt, device=length.device) < length[:, None]
    tokens = torch.full((batch, budget + 1), -1, dtype=torch.int64, device=length.device)
    log_probs = torch.zeros(batch, budget + 1, device=length.device)
    running = torch.ones(batch, dtype=torch.bool, device=length.device)
    forced = torch.zeros_like(running)
    logits, count = prefilled.logits, torch.zeros_like(prefilled.start)
    after = torch.zeros_like(logits)
    for index in range(budget + 1):
        token, log_prob = choose(logits)
        if index == budget:
            forced = running & (token != stop)
            token = torch.full_like(token, stop)
        tokens[running, index] = token[running]
        log_probs[:, index] = torch.where(running & ~forced, log_prob, 0.0)
        logits, columns = model.step(token[:, None], prefilled.start + index, valid, cache)
        _store(cache, columns, prompt + index)
        valid[:, prompt + index] = running
        count = count + running
        ended = running & (token == stop)
        after = torch.where(ended[:, None], logits, after)
        running = running & ~ended
        if not running.any():
            break
    return Decoded(
        tokens=tokens[:, : index + 1],
        kv=cache,
        valid=valid,
        next_position=prefilled.start + count,
        forced=forced,
        logits=after,
        log_probs=log_probs[:, : index + 1],
    )


@torch.no_grad()
def speak(model: SpanVLA, reasoned: Decoded, *, sampling: Sampling = GREEDY, allowed: Tensor | None = None) -> Spoken:
    """Decode the plan after the text: one action token per waypoint. Any `allowed` token may come (all by default, see `Chooser`);
    one that is no action ends the plan of its row. Raises ConfigError for a model without action tokens."""
    if not model.spec.action_tokens:
        raise ConfigError(f"the model '{model.spec.name}' speaks no action tokens; train it with a codebook")
    choose, waypoints = Chooser(sampling, reasoned.logits.device, allowed), model.spec.waypoints
    batch, used = reasoned.valid.shape
    cache = _grown(reasoned.kv, waypoints - 1)
    valid = torch.nn.functional.pad(reasoned.valid, (0, waypoints - 1))
    tokens = torch.full((batch, waypoints), -1, dtype=torch.int64, device=valid.device)
    actions, log_probs = tokens.clone(), torch.zeros(batch, waypoints, device=valid.device)
    running, logits = torch.ones(batch, dtype=torch.bool, device=valid.device), reasoned.logits
    for index in range(waypoints):
        token, log_prob = choose(logits)
        action = token - model.first_action
        tokens[running, index] = token[running]
        log_probs[:, index] = torch.where(running, log_prob, 0.0)
        running = running & (action >= 0) & (action < model.spec.action_tokens)
        actions[running, index] = action[running]
        if index == waypoints - 1 or not running.any():
            break
        logits, columns = model.step(token[:, None], reasoned.next_position + index, valid, cache)
        _store(cache, columns, used + index)
        valid[:, used + index] = True
    return Spoken(tokens=tokens, log_probs=log_probs, actions=actions)


def _grown(kv: KV, slots: int) -> KV:
    """The same cache with room for more tokens; a copy."""
    return [tuple(torch.nn.functional.pad(t, (0, 0, 0, slots)) for t in layer) for layer in kv]


def _store(cache: KV, columns: KV, slot: int) -> None:
    for layer, new in zip(cache, columns):
        layer[0][:, :, slot], layer[1][:, :, slot] = new[0][:, :, 0], new[1][:, :, 0]
