"""Flow matching from the history (method section 3.3): straight path, time sampling, loss, Euler sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spanvla_ros.contracts import ConfigError

# velocity (B, T, 3) of point (B, T, 3) and tau (B,)
Field = Callable[[Tensor, Tensor], Tensor]


# mean and standard deviation of the two normals where none are given (method section 3.3)
NORMALS = {"logit-normal": (-0.5, 1.0), "truncated-normal": (0.4, 0.3)}


@dataclass(frozen=True, kw_only=True)
class TauConfig:
    """How training draws the flow time: a share of exact zeros, the rest from a distribution shifted towards the source.

    logit-normal: sigmoid of N(mean, std); truncated-normal: N(mean, std) cut to [0, maximum]; beta: maximum * (1 - Beta(alpha, 1)).
    Close to tau = 1 the answer can be read off the point itself; only tau near 0 teaches to look at the picture.
    """

    zero_share: float = 0.5
    distribution: Literal["logit-normal", "truncated-normal", "beta"] = "logit-normal"
    mean: float | None = None  # none: NORMALS
    std: float | None = None
    alpha: float = 1.5
    maximum: float = 0.999

    def __post_init__(self):
        if not 0 <= self.zero_share <= 1:
            raise ConfigError(f"zero_share must lie in 0..1, is {self.zero_share}")
        if not 0 < self.maximum <= 1:
            raise ConfigError(f"maximum must lie in 0..1, is {self.maximum}")
        for name in ("std", "alpha"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, is {getattr(self, name)}")

    @property
    def normal(self) -> tuple[float, float]:
        mean, std = NORMALS[self.distribution]
        return mean if self.mean is None else self.mean, std if self.std is None else self.std


def sample_tau(count: int, config: TauConfig, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """Flow times (count,) in [0, maximum]."""
    if config.distribution == "logit-normal":
        mean, std = config.normal
        tau = torch.sigmoid(mean + std * torch.randn(count, generator=generator, device=device)).clamp(0.0, config.maximum)
    else:
        uniform = torch.rand(count, generator=generator, device=device)
        tau = _quantile(config, uniform).clamp(0.0, config.maximum)
    zero = torch.rand(count, generator=generator, device=device) < config.zero_share
    return torch.where(zero, torch.zeros_like(tau), tau)


def _quantile(config: TauConfig, share: Tensor) -> Tensor:
    """Inverse distribution function of the truncated normal or the beta at share (count,) in [0, 1)."""
    if config.distribution == "beta":
        return config.maximum * (1 - share ** (1 / config.alpha))
    mean, std = config.normal
    low, high = (torch.special.ndtr(torch.tensor((end - mean) / std)).item() for end in (0.0, config.maximum))
    return mean + std * torch.special.ndtri(low + (high - low) * share)


def wrap_yaw(poses: Tensor) -> Tensor:
    """Poses (..., 3) with yaw brought to [-pi, pi]."""
    yaw = poses[..., 2:]
    return torch.cat((poses[..., :2], yaw - 2 * math.pi * torch.round(yaw / (2 * math.pi))), dim=-1)


def to_residual(waypoints: Tensor, base: Tensor, scale: Tensor) -> Tensor:
    """Waypoints (B, T, 3) in metres and radians -> residual to base (B, T, 3), in units of scale (T, 3)."""
    return wrap_yaw(waypoints - base) / scale


def from_residual(residual: Tensor, base: Tensor, scale: Tensor) -> Tensor:
    """Inverse of `to_residual`."""
    return wrap_yaw(base + scale * residual)


def path(source: Tensor, target: Tensor, tau: Tensor) -> Tensor:
    """Point (B, T, 3) on the straight path at tau (B,): source at 0, target at 1."""
    weight = tau[:, None, None]
    return weight * target + (1 - weight) * source


def loss(field: Field, source_mean: Tensor, noise: Tensor, target: Tensor, tau: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, per sample (B,).

    source_mean (B, T, 3) gets its gradient through the point on the path only: in the target it is held, or the source
    would be pulled to the mean of the targets, whatever the field does. noise (B, T, 3) already has the source's sigma;
    weights (T,) or (B, T) per waypoint, mean 1.
    """
    point = path(source_mean + noise, target, tau)
    velocity = target - source_mean.detach() - noise
    error = (field(point, tau) - velocity).square().mean(dim=-1)
    return (error if weights is None else error * weights).mean(dim=-1)


def l1_loss(field: Field, source_mean: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute error of one pass from the source, per sample (B,): the ablation without a flow. Shapes as in `loss`."""
    found = source_mean + field(source_mean, source_mean.new_zeros(source_mean.shape[0]))
    error = (found - target).abs().mean(dim=-1)
    return (error if weights is None else error * weights).mean(dim=-1)


def integrate(field: Field, source: Tensor, steps: int) -> Tensor:
    """Euler from tau = 0 to 1 in `steps` equal steps: (B, T, 3) -> (B, T, 3)."""
    point = source
    for step in range(steps):
        tau = torch.full((source.shape[0],), step / steps, dtype=source.dtype, device=source.device)
        point = point + field(point, tau) / steps
    return point
