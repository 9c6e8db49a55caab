"""Heads that only training has: they make the vision tower see, and are dropped at export."""

from __future__ import annotations

from torch import Tensor, nn


class DenseHead(nn.Module):
    """Binary logits per merged vision token: features (B, Nv, H) -> (B, Nv, classes)."""

    def __init__(self, hidden: int, classes: int):
        super().__init__()
        self.out = nn.Linear(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features)


class SceneHead(nn.Module):
    """Scalar fields of the scene: features (B, Nv, H) -> (B, fields). Tokens are concatenated, not pooled: where a thing
    stands in the picture is most of what a field like the stop-line distance is read from."""

    def __init__(self, hidden: int, tokens: int, fields: int, width: int = 16, intermediate: int = 256):
        super().__init__()
        self.reduce = nn.Linear(hidden, width)
        self.mlp = nn.Sequential(nn.Linear(tokens * width, intermediate), nn.SiLU(), nn.Linear(intermediate, fields))

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(self.reduce(features).flatten(1))
