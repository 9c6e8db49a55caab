"""What a plan and its words are worth in reinforcement fine-tuning (method section 5.2): pure functions of numbers and text.

r = w_D * score - w_N * closeness to the log (negatives) + w_R * closeness to the log (recoveries) - w_C * r_CoT. Every term
is bounded, so the reward lies in [-w_N - w_C * max(1, penalty), w_D + w_R].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation.pdm import scorer
from spanvla_ros.planning import consistency
from spanvla_ros.planning.consistency import Verdict
from spanvla_ros.planning.prompt import FAST_TEXT


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Constants of the reward; what the paper leaves open has the choice of method section 5.2.

    version: v1 is PDMS, v2 EPDMS without EC. human_filter: sub-scores of v2 in which the log of a positive or recovery sample gets
    0 count as 1. negative_progress: what the progress of a negative is measured by, whose log is no example: "closed", the
    better of PDM-Closed and the plan itself, or "none": EP is left out.
    """

    version: Literal["v1", "v2"] = "v1"
    human_filter: bool = True
    negative_progress: Literal["closed", "none"] = "closed"
    driving_weight: float = 10.0  # of a score in 0..1
    negative_weight: float = 5.0
    recovery_weight: float = 5.0
    negative_threshold_m: float = 1.7
    recovery_threshold_m: float = 1.7
    reasoning_weight: float = 3.0
    length_gamma: float = 2e-3  # per character
    length_tolerance: float = 200.0  # characters
    contradiction_penalty: float = 2.0  # in place of the length penalty where the plan does the opposite of the text

    def __post_init__(self):
        for name in ("driving_weight", "negative_weight", "recovery_weight", "reasoning_weight", "length_gamma", "contradiction_penalty"):
            if getattr(self, name) < 0:
                raise ConfigError(f"reward.{name} must not be negative, is {getattr(self, name)}")
        for name in ("negative_threshold_m", "recovery_threshold_m"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"reward.{name} must be greater than 0, is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """Of G roll-outs, all (G,): total reward, its terms as they enter it with their sign, score in 0..1, and contradicts (bool)."""

    total: np.ndarray
    driving: np.ndarray
    negative: np.ndarray
    recovery: np.ndarray
    reasoning: np.ndarray
    score: np.ndarray
    contradicts: np.ndarray


def driving(version: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Score (K,) in 0..1 of sub-scores (K,): PDMS, or EPDMS without EC. A sub-score that is left out (EP) takes its weight along."""
    return scorer.aggregate(version, {name: value for name, value in values.items() if name != "ec"})


def closeness(plans: np.ndarray, log: np.ndarray, threshold_m: float) -> np.ndarray:
    """1 - ADE / threshold, at least 0, of plans (K, T, 3) to a driven log (T, 3): 1 on it, 0 from the threshold on. Shape (K,)."""
    error = np.hypot(*np.moveaxis(plans[..., :2] - log[..., :2], -1, 0)).mean(axis=-1)
    return np.maximum(0.0, 1.0 - error / threshold_m)


def length_penalty(text: str, gamma: float, tolerance: float) -> float:
    """In 0..1, growing with the characters of the reasoning; 0 for fast thinking."""
    return 0.0 if text == FAST_TEXT else 1.0 / (1.0 + float(np.exp(-gamma * (len(text) - tolerance))))


def reasoning_penalty(text: str, contradicts: bool, config: RewardConfig) -> float:
    """r_CoT: the length penalty, or the fixed one for words that the plan contradicts."""
    return config.contradiction_penalty if contradicts else length_penalty(text, config.length_gamma, config.length_tolerance)


def contradicts(text: str, plan: np.ndarray, interval_s: float, speed_mps: float) -> bool:
    """Whether a plan (T, 3) from speed_mps surely does the opposite of the text."""
    return consistency.compare(text, plan, interval_s, speed_mps).verdict is Verdict.CONTRADICTS


def reward(
    config: RewardConfig,
    label: str,
    *,
    score: np.ndarray,
    whole: np.ndarray,
    plans: np.ndarray,
    log: np.ndarray,
    texts: Sequence[str],
    interval_s: float,
    speed_mps: float,
) -> Rewards:
    """Rewards of G roll-outs of a sample.

    score (G,) in 0..1; whole (G,) bool: False for an answer that came to no end, whose driving, negative and recovery terms are 0;
    plans (G, T, 3) in base_link; log (T, 3): what was driven, at the same times; texts: the reasoning.
    """
    zero = np.zeros(len(plans))
    drive = np.where(whole, config.driving_weight * score, 0.0)
    negative = -config.negative_weight * closeness(plans, log, config.negative_threshold_m) if label == "neg" else zero
    recovery = config.recovery_weight * closeness(plans, log, config.recovery_threshold_m) if label == "rec" else zero
    negative, recovery = np.where(whole, negative, 0.0), np.where(whole, recovery, 0.0)
    against = np.array([bool(ok) and contradicts(t, p, interval_s, speed_mps) for ok, t, p in zip(whole, texts, plans)])
    reasoning = 0.0 - config.reasoning_weight * np.array([reasoning_penalty(text, bad, config) for text, bad in zip(texts, against)])
    return Rewards(
        total=drive + negative + recovery + reasoning,
        driving=drive,
        negative=negative,
        recovery=recovery,
        reasoning=reasoning,
        score=np.where(whole, score, 0.0),
        contradicts=against,
    )
