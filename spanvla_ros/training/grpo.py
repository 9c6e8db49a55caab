"""Group-relative policy optimisation with one update per group (method sections 5.1 and 5.4): advantages, divergence, loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spanvla_ros.contracts import ConfigError

EPSILON = 1e-4  # beside the standard deviation


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """kind "grpo": (r - mean) / std. "nr": r - mean, where the mean of a group in which nobody drives well at all counts one more member
    with the reward of a score of `virtual_score`: everything that was tried is then pushed down a little."""

    kind: Literal["grpo", "nr"] = "grpo"
    virtual_score: float = 1.0

    def __post_init__(self):
        if not 0 < self.virtual_score <= 1:
            raise ConfigError(f"advantage.virtual_score must be in (0, 1], is {self.virtual_score}")


def advantages(rewards: np.ndarray, driving: np.ndarray, config: AdvantageConfig, driving_weight: float) -> np.ndarray:
    """Advantages (G,) of rewards (G,); driving (G,): their driving term, driving_weight: what a score of 1 is worth in it.

    The standard deviation is that of a sample (G - 1). Rewards that are all the same give 0.
    """
    if config.kind == "grpo":
        # rounding of the mean must not become a signal
        return np.zeros(len(rewards)) if equal(rewards) else (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
    if driving.max() <= 0:
        return rewards - (rewards.sum() + driving_weight * config.virtual_score) / (len(rewards) + 1)
    return rewards - rewards.mean()


def equal(rewards: np.ndarray) -> bool:
    """Whether a group teaches nothing because all its rewards are the same."""
    return bool(np.ptp(rewards) < 1e-9)


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Estimate per token of KL(policy, reference), never negative: exp(d) - d - 1 with d = reference - policy."""
    d = reference - log_probs
    return d.exp() - d - 1


def loss(log_probs: Tensor, reference: Tensor, advantage: Tensor, chosen: Tensor, beta: float) -> dict[str, Tensor]:
    """`loss` of roll-outs and their mean `kl`, from log-probabilities (B, W) of policy and reference, advantages (B,) and chosen
    (B, W) bool: tokens that the policy drew itself.

    Every roll-out counts the same, whatever its length. After one update the next group is drawn from the new policy, so the
    ratio of probabilities is 1 and nothing is clipped; it is there for its gradient.
    """
    kl = divergence(log_probs, reference)
    ratio = (log_probs - log_probs.detach()).exp()
    each = beta * kl - ratio * advantage[:, None]
    count = chosen.sum(dim=1).clamp(min=1)
    # what nobody drew may hold anything
    means = [(torch.where(chosen, value, 0.0).sum(dim=1) / count).mean() for value in (each, kl)]
    return {"loss": means[0], "kl": means[1].detach()}
