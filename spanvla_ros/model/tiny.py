"""A random model of the smallest size, for tests and for trying the tools without a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import torch

from spanvla_ros.contracts import ModelSpec
from spanvla_ros.model.actions import Codebook
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning import prompt, tokenizer
from spanvla_ros.share import share

VOCABULARY = 640


def _texts() -> Iterator[str]:
    """Sentences of the kind the prompt and the answer hold, so that a real prompt fits into the tiny model."""
    for number in range(-100, 101):
        for value in (f"{number / 2:.1f}", f"{number / 5:.1f}", f"{number}"):
            yield f" {value.removesuffix('.0')}"
    for words in prompt.INSTRUCTIONS.values():
        yield f" user front {words} ; acceleration 0 ; speed 0 0 0 0 ; path 0 0 0 ; 0 0 0 assistant"
    yield f" {prompt.reasoning_text(None)}"
    yield f" {prompt.reasoning_text('the car ahead brakes, I keep my distance.')}"


def tiny_spec(tokenizer_sha256: str = "") -> ModelSpec:
    """The demo's inputs and horizon with a short answer."""
    return ModelSpec(
        name="tiny",
        cameras=("front",),
        frame_offsets_s=(-0.5, 0.0),
        history_offsets_s=(-1.5, -1.0, -0.5, 0.0),
        image_size=(112, 224),
        waypoints=10,
        waypoint_interval_s=0.5,
        prompt_version="compact/1",
        prompt_tokens=112,
        max_reasoning_tokens=12,
        tokenizer_sha256=tokenizer_sha256,
        taps=(1,),
        flow_steps=3,
        source_sigma=0.5,
        action_scale=tuple((0.5 + 0.5 * k, 0.2 + 0.2 * k, 0.05 + 0.03 * k) for k in range(10)),
    )


def words():
    """The tokenizer of random models, and the hash that its file has."""
    found = tokenizer.train(_texts(), VOCABULARY)
    return found, hashlib.sha256(found.to_str(pretty=True).encode()).hexdigest()


def build(
    seed: int = 0,
    architecture: Architecture | None = None,
    spec: ModelSpec | None = None,
    codebook: Codebook | None = None,
    device: str = "cpu",
) -> SpanVLA:
    """A model with random weights, reproducible by `seed`; sizes of config/model/tiny.yaml by default. With a codebook it speaks its plan.

    They are larger than those that training starts from: there the flow is the constant roll-out, and the decoder, whose
    output is tied to its input, repeats its last token.
    """
    vocabulary, identity = words()
    architecture = architecture or Architecture.load(share("config/model/tiny.yaml"))
    if codebook is not None:
        tokenizer.extend(vocabulary, len(codebook))
        identity = hashlib.sha256(vocabulary.to_str(pretty=True).encode()).hexdigest()
    spec = spec or tiny_spec(identity)
    if codebook is not None:
        spec = dataclasses.replace(spec, action_tokens=len(codebook), codebook_sha256=codebook.sha256)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model = SpanVLA(architecture, spec, vocabulary, codebook)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1 if "embed_tokens" in name else weight[0].numel() ** -0.5)
    return model.eval()
