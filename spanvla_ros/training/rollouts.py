"""Roll-outs of the policy: many answers to one prompt, drawn and judged under the same mask of tokens.

The prompt is encoded once for all of them, when they are drawn and again when their log-probabilities are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spanvla_ros.contracts import ConfigError
from spanvla_ros.model import checkpoint, decoding
from spanvla_ros.model.attention import additive
from spanvla_ros.model.decoding import Sampling
from spanvla_ros.model.spanvla import Prefilled, SpanVLA
from spanvla_ros.model.token_backend import TokenBackend
from spanvla_ros.model.vlm import causal_mask
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.tokenizer import ACTION_START, THINK_END
from spanvla_ros.training.runs import model_folder

Kind = Literal["tokens", "expert"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One observation: vision features (1, Nv, H), ids and slot (1, P), positions (3, 1, P), length (1,), without padding; motion: what
    the expert gets beside the KV, ego (1, E), base (1, T, 3) and, where the spec has kv_age, age (1, 4)."""

    features: Tensor
    ids: Tensor
    slot: Tensor
    positions: Tensor
    length: Tensor
    motion: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """B answers to one prompt. tokens (B, W) int64 of text and plan, padded with -1; spoken (B, W) bool: tokens of the plan; chosen
    (B, W) bool: drawn by the policy, not forced; log_probs (B, W) when drawn; plans (B, T, 3) in base_link; texts: what stands
    between the think tags; ended (B,) bool: the text came to its end by itself, within the budget of tokens."""

    tokens: np.ndarray
    spoken: np.ndarray
    chosen: np.ndarray
    log_probs: np.ndarray
    plans: np.ndarray
    texts: tuple[str, ...]
    ended: np.ndarray


def vocabulary(model: SpanVLA) -> Tensor:
    """Which tokens may come, (2, V) bool: in the text, words and the two that end it; in the plan, actions."""
    words = model.tokenizer
    allowed = torch.zeros(2, model.vlm.hf.get_input_embeddings().num_embeddings, dtype=torch.bool)
    # rows of the embedding that no token belongs to stay out
    allowed[0, : words.get_vocab_size()] = True
    allowed[0, [index for index, token in words.get_added_tokens_decoder().items() if token.special]] = False
    allowed[0, [words.token_to_id(THINK_END), words.token_to_id(ACTION_START)]] = True
    allowed = allowed.to(model.vlm.frequency.device)
    allowed[1] = decoding.plan_tokens(model)
    allowed[0] &= ~allowed[1]
    return allowed


@torch.no_grad()
def prompted(model: SpanVLA, arrays: Mapping[str, np.ndarray]) -> Prompt:
    """Of the arrays of `planning.preprocess`."""
    device = model.vlm.frequency.device
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).to(device) for name, value in arrays.items()}
    length = int(arrays["length"][0])
    return Prompt(
        features=model.vision(tensors["patches"][None]),
        ids=tensors["ids"][:, :length],
        slot=tensors["slot"][:, :length],
        positions=tensors["positions"][:, :, :length],
        length=tensors["length"],
        motion={name: tensors[name] for name in ("ego", "base", "age") if name in tensors},
    )


@torch.no_grad()
def prefill(model: SpanVLA, prompt: Prompt) -> Prefilled:
    """The prompt in the KV cache."""
    return model.prefill(prompt.features, prompt.ids, prompt.slot, prompt.positions, prompt.length)


@torch.no_grad()
def draw(
    model: SpanVLA, prompt: Prompt, prefilled: Prefilled, allowed: Tensor, *, count: int, kind: Kind, temperature: float, seed: int
) -> Rollouts:
    """`count` answers; the same seed draws the same. kind "tokens": text and action tokens; "expert": the text, and the plan of the
    action expert after it, which is no part of the answer (method section 5.1). Temperature 0 takes the likeliest tokens."""
    repeated, length = decoding.repeat(prefilled, prompt.length, count)
    sampling = Sampling(temperature=temperature, seed=2 * seed)
    found = decoding.reason(model, repeated, length, sampling=sampling, allowed=allowed[0])
    text, said = found.tokens.cpu().numpy(), found.log_probs.float().cpu().numpy()
    forced = found.forced.cpu().numpy()
    sizes = (text >= 0).sum(axis=1)
    if kind == "tokens":
        spoken = decoding.speak(model, found, sampling=Sampling(temperature=temperature, seed=2 * seed + 1), allowed=allowed[1])
        actions, action_log_probs = spoken.tokens.cpu().numpy(), spoken.log_probs.float().cpu().numpy()
        plans = model.codebook.detokenise(spoken.actions.cpu().numpy()).astype(np.float64)
    else:
        actions, action_log_probs = np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
        plans = _expert(model, found, prompt, count, seed)
    width = int(sizes.max()) + actions.shape[1]
    tokens, log_probs = np.full((count, width), -1, np.int64), np.zeros((count, width), np.float32)
    spoken_at, chosen = np.zeros((count, width), bool), np.zeros((count, width), bool)
    for row, size in enumerate(sizes):
        end = size + actions.shape[1]
        tokens[row, :end] = np.concatenate([text[row, :size], actions[row]])
        log_probs[row, :end] = np.concatenate([said[row, :size], action_log_probs[row]])
        spoken_at[row, size:end] = chosen[row, :end] = True
        chosen[row, size - 1] = not forced[row]
    stop = model.action_start
    texts = tuple(model.tokenizer.decode([int(t) for t in row if t >= 0 and t != stop]).strip() for row in text)
    return Rollouts(tokens=tokens, spoken=spoken_at, chosen=chosen, log_probs=log_probs, plans=plans, texts=texts, ended=~forced)


def _expert(model: SpanVLA, found: decoding.Decoded, prompt: Prompt, count: int, seed: int) -> np.ndarray:
    """Plans (B, T, 3) of the frozen expert, with the noise that it gets in the car."""
    spec = model.spec
    motion = {name: value.repeat_interleave(count, 0) for name, value in prompt.motion.items()}
    generator = torch.Generator(found.valid.device).manual_seed(2 * seed + 1)
    noise = None
    if spec.inference_noise:
        noise = spec.inference_noise * torch.randn(motion["base"].shape, generator=generator, device=found.valid.device)
    taps = [(key.float(), value.float()) for key, value in model.tapped(found.kv)]
    age = motion.get("age")
    return model.sample(taps, found.valid, found.next_position, motion["ego"], motion["base"], noise, age=age).double().cpu().numpy()


def log_probs(model: SpanVLA, prompt: Prompt, rollouts: Rollouts, allowed: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (B, W) of the tokens under the model as it is now, with gradients; 0 where nothing was chosen.

    One pass over the prompt and one over the answers, which all attend to the same prompt.
    """
    vlm, device = model.vlm, prompt.features.device
    tokens, chosen, spoken = (torch.from_numpy(array).to(device) for array in (rollouts.tokens, rollouts.chosen, rollouts.spoken))
    batch, width = tokens.shape
    size = prompt.ids.shape[1]
    ones = torch.ones(1, size, device=device)
    hidden, past = vlm.decode_layers(vlm.embed(prompt.ids, prompt.slot, prompt.features), *vlm.rope(prompt.positions), causal_mask(ones))
    states = hidden[:, -1:].expand(batch, -1, -1)
    if width > 1:  # else every answer is the end of the text
        start = prompt.positions.amax() + 1
        # the last token predicts nothing
        before = tokens[:, :-1].clamp(min=0)
        positions = (start + torch.arange(width - 1, device=device)).expand(3, 1, -1)
        mask = additive(torch.ones(width - 1, size + width - 1, device=device).tril(diagonal=size))[None, None]
        shared = [(key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1)) for key, value in past]
        after, _ = vlm.decode_layers(vlm.decoder.embed_tokens(before), *vlm.rope(positions), mask, past=shared)
        states = torch.cat((states, after), dim=1)
    scores = vlm.logits(states[chosen]).float() / temperature
    scores = scores.masked_fill(~allowed[spoken[chosen].long()], -torch.inf).log_softmax(dim=-1)
    values = scores.gather(1, tokens[chosen][:, None])[:, 0]
    return torch.zeros(batch, width, device=device).masked_scatter(chosen, values)


def require(model: SpanVLA, kind: Kind) -> None:
    """ConfigError where the model can't be rolled out like this."""
    if kind == "tokens" and model.codebook is None:
        raise ConfigError(f"rollout tokens needs a model that speaks action tokens; '{model.spec.name}' was trained without a codebook")


def speaker(source: str) -> Planner:
    """What plans with the VLM of a run or of a model folder alone, in action tokens; on one thread. Errors: ConfigError where it speaks none."""
    torch.set_num_threads(1)
    model = checkpoint.load(model_folder(source)).eval()
    require(model, "tokens")
    return Planner(model.spec, model.tokenizer, TokenBackend(model), "spoken")
