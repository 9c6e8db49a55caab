"""Sizes of the network: everything that shapes a weight, and nothing that training or the car may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanvla_ros import config
from spanvla_ros.contracts import ConfigError


@dataclass(frozen=True, kw_only=True)
class VisionArchitecture:
    """Qwen2.5-VL's vision tower; blocks not named in `full_attention` attend within windows of `window_px`."""

    depth: int
    hidden: int
    heads: int
    intermediate: int
    window_px: int
    full_attention: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TextArchitecture:
    """Qwen2.5's decoder with M-RoPE and tied embeddings; head size is hidden / heads.

    vocabulary: rows of the embedding at least (a pretrained one has more rows than its tokenizer has tokens); it grows with
    the tokenizer, and with 0 has just as many rows.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    rope_theta: float = 1e6
    vocabulary: int = 0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def mrope_section(self) -> tuple[int, int, int]:
        """Frequencies of the time, height and width axes, in Qwen2.5-VL's ratio 16 : 24 : 24."""
        half = self.head_dim // 2
        spatial = 3 * half // 8
        return half - 2 * spatial, spatial, spatial


@dataclass(frozen=True, kw_only=True)
class ExpertArchitecture:
    """Action expert: one block per tapped layer; `self_heads` are those of its self-attention."""

    hidden: int
    self_heads: int
    intermediate: int
    ego_features: int = 19


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of vision tower, decoder and expert; the grid and taps from ModelSpec."""

    vision: VisionArchitecture
    text: TextArchitecture
    expert: ExpertArchitecture

    def __post_init__(self):
        for name, part in (("vision", self.vision), ("text", self.text)):
            if part.hidden % part.heads:
                raise ConfigError(f"architecture {name}: hidden {part.hidden} is not a multiple of heads {part.heads}")
        if self.text.heads % self.text.kv_heads:
            raise ConfigError(f"architecture text: heads {self.text.heads} is not a multiple of kv_heads {self.text.kv_heads}")
        if self.vision.hidden // self.vision.heads % 4:
            raise ConfigError(f"architecture vision: head size {self.vision.hidden // self.vision.heads} must be a multiple of 4 (2-D RoPE)")
        if self.expert.hidden % self.expert.self_heads:
            raise ConfigError(f"architecture expert: hidden {self.expert.hidden} is not a multiple of self_heads {self.expert.self_heads}")

    def to_dict(self) -> dict[str, Any]:
        return config.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "architecture") -> Architecture:
        return config.build(cls, data, where)

    @classmethod
    def load(cls, path: Path | str) -> Architecture:
        """Read the sizes from a YAML file such as config/model/demo.yaml."""
        return config.load(cls, path)
