"""LoRA: small trained matrices beside the frozen ones of the decoder (peft), merged into them when training is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from spanvla_ros.contracts import ConfigError
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.model.vlm import VLM


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """rank 0: no adapters, the decoder learns as a whole. Defaults of the others: the predecessor's (method section 5.1)."""

    rank: int = 0
    alpha: int = 8
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self):
        if self.rank < 0 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(f"lora needs rank >= 0, alpha > 0 and dropout in [0, 1), has {self.rank}, {self.alpha} and {self.dropout}")

    def parameters(self, layers: list[tuple[str, int, int]]) -> int:
        """Adapter weights beside `layers`: (name, inputs, outputs) of the linear maps of the decoder."""
        return sum(self.rank * (inputs + outputs) for name, inputs, outputs in layers if name in self.targets)


def behind_taps(model: SpanVLA) -> tuple[str, ...]:
    """Linear maps of the decoder that no key or value which the expert reads depends on: queries, output and MLP of the last tapped
    layer, and all layers after it."""
    last = max(model.spec.taps)
    maps = [name for name, module in model.vlm.decoder.named_modules() if name.startswith("layers.") and isinstance(module, nn.Linear)]
    layer = {name: int(name.split(".")[1]) for name in maps}
    return tuple(name for name in maps if layer[name] > last or (layer[name] == last and not name.endswith(("k_proj", "v_proj"))))


def inject(vlm: VLM, config: LoraConfig) -> None:
    """Put adapters into the decoder, in place, and freeze the rest of it but the embedding, whose new tokens must be learned."""
    import peft

    peft.inject_adapter_in_model(
        peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)), vlm.decoder
    )
    vlm.decoder.embed_tokens.requires_grad_(True)


@contextmanager
def without(vlm: VLM) -> Iterator[None]:
    """The decoder as it was before the adapters: the reference of reinforcement fine-tuning."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in vlm.decoder.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextmanager
def folded(vlm: VLM) -> Iterator[None]:
    """The adapters within the weights they stand beside: the same answers in fewer operations, and no gradients."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in vlm.decoder.modules() if isinstance(module, LoraLayer)]
    kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    for layer in layers:
        layer.merge()
    try:
        yield
    finally:
        for layer, weight in zip(layers, kept):
            layer.unmerge()
            # taking off what was added leaves its rounding behind
            layer.get_base_layer().weight.data.copy_(weight)


def merge(vlm: VLM) -> None:
    """Add the adapters to the weights they stand beside and take them out, so that a trained VLM looks like any other."""
    from peft.tuners.lora import LoraLayer

    for parent in list(vlm.decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())
