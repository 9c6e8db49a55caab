"""The groups of one update: who draws which part, what the roll-outs earn, and what is worth remembering of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed as dist

from spanvla_ros.contracts import DataError, ModelSpec, SpanVLAError
from spanvla_ros.data.sample import FUTURE_INTERVAL_S, LABELS, Sample
from spanvla_ros.data.scoring import half_seconds
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.pdm.scene import WAYPOINTS
from spanvla_ros.planning.prompt import FAST_TEXT
from spanvla_ros.training import grpo, rewards
from spanvla_ros.training.grpo import AdvantageConfig
from spanvla_ros.training.rewards import RewardConfig, Rewards
from spanvla_ros.training.rollouts import Rollouts
from spanvla_ros.training.scorers import Case, Scorers

SKIPPED_SHARE = 0.01  # of the samples; more than this, and the data or the model don't fit


@dataclass(frozen=True, kw_only=True)
class Group:
    """G roll-outs of one sample; advantages (G,). problem: why it teaches nothing, empty for one that does."""

    sample: Sample | None
    parts: tuple[Rollouts, ...] = ()
    rewards: Rewards | None = None
    advantages: np.ndarray | None = None
    problem: str = ""


def usable(record: dict[str, Any]) -> bool:
    """Whether a sample has what its reward needs: truth of its drive, and the driven log."""
    log = np.array(record.get("future", ()), float)
    return "truth" in record and log.ndim == 2 and len(log) >= WAYPOINTS and bool(np.isfinite(log).all())


def pools(dataset: Dataset) -> tuple[dict[str, np.ndarray], list[str]]:
    """label -> usable samples, and the ids of those that are not usable. DataError where these are more than 1 %."""
    good: dict[str, list[int]] = {label: [] for label in LABELS}
    bad: list[str] = []
    for index, entry in enumerate(dataset.entries):
        if usable(dataset.record(index)):
            good[entry.label].append(index)
        else:
            bad.append(entry.id)
    check(bad, len(dataset))
    return {label: np.array(indices, np.int64) for label, indices in good.items()}, bad


def check(skipped: Sequence[str], total: int) -> None:
    """DataError where too many samples had to be skipped."""
    if len(skipped) > SKIPPED_SHARE * total:
        named = ", ".join(skipped[:10]) + (", ..." if len(skipped) > 10 else "")
        share = f"{len(skipped)} of {total} samples ({100 * len(skipped) / total:.1f} %)"
        raise DataError(f"{share} lack what their reward needs, more than {100 * SKIPPED_SHARE:g} %: {named}; `spanvla data check` says more")


class Bookkeeper:
    """Gathers the parts of all processes, has them scored by the first, and hands rewards and advantages to all."""

    def __init__(self, spec: ModelSpec, reward: RewardConfig, advantage: AdvantageConfig, scorers: Scorers | None, world: int):
        self._spec, self._reward, self._advantage, self._scorers, self._world = spec, reward, advantage, scorers, world
        self.score_s = 0.0

    def close(self, cases: Sequence[Case], samples: Sequence[Sample | str], mine: dict[int, Rollouts], per_group: int) -> list[Group]:
        """Groups of an update, from the parts (by number) that this process drew; `per_group` parts make a group.

        samples: a sample, or in words why it can't be read. To be called in all processes.
        """
        parts = dict(mine)
        if self._world > 1:
            shared: list[Any] = [None] * self._world
            dist.all_gather_object(shared, mine)
            parts = {number: part for some in shared for number, part in some.items()}
        grouped = [tuple(parts[k] for k in range(g * per_group, (g + 1) * per_group) if k in parts) for g in range(len(cases))]
        found: list[Any] = [None] * len(cases)
        if self._scorers is not None:
            found = self._judge(cases, samples, [own if len(own) == per_group else () for own in grouped])
        if self._world > 1:
            dist.broadcast_object_list(found, 0)
        groups = []
        for sample, own, verdict in zip(samples, grouped, found):
            if isinstance(verdict, str):
                groups.append(Group(sample=None if isinstance(sample, str) else sample, parts=own, problem=verdict))
                continue
            gain = grpo.advantages(verdict.total, verdict.driving, self._advantage, self._reward.driving_weight)
            groups.append(Group(sample=sample, parts=own, rewards=verdict, advantages=gain))
        return groups

    def _judge(self, cases: Sequence[Case], samples: Sequence[Sample | str], grouped: Sequence[tuple[Rollouts, ...]]) -> list[Rewards | str]:
        began = time.monotonic()
        plans = [half_seconds(np.concatenate([part.plans for part in parts]), self._spec) if parts else None for parts in grouped]
        scored = [k for k, plan in enumerate(plans) if plan is not None]
        assert self._scorers is not None
        values = dict(zip(scored, self._scorers.score([cases[k] for k in scored], [plans[k][:, :WAYPOINTS] for k in scored])))
        self.score_s = time.monotonic() - began
        found: list[Rewards | str] = []
        for k, (sample, parts) in enumerate(zip(samples, grouped)):
            if isinstance(sample, str) or not parts:
                found.append(sample if isinstance(sample, str) else "a process couldn't read the sample")
            else:
                found.append(values[k] if isinstance(values[k], str) else self._reward_of(sample, parts, values[k], plans[k]))
        return found

    def _reward_of(self, sample: Sample, parts: Sequence[Rollouts], values: dict[str, np.ndarray], plans: np.ndarray) -> Rewards:
        score = rewards.driving(self._reward.version, values)
        if not np.isfinite(score).all():
            raise SpanVLAError(f"the score of a plan for sample {sample.id} is not a number: { {k: v.tolist() for k, v in values.items()} }")
        size = min(plans.shape[1], len(sample.future))
        return rewards.reward(
            self._reward,
            sample.label,
            score=score,
            whole=np.concatenate([part.ended for part in parts]),
            plans=plans[:, :size],
            log=np.asarray(sample.future)[:size],
            texts=[text for part in parts for text in part.texts],
            interval_s=FUTURE_INTERVAL_S,
            speed_mps=float(sample.observation.history.speeds_mps[-1]),
        )


def summary(groups: Sequence[Group]) -> dict[str, Any]:
    """What an update's groups say: means over all roll-outs and, per label that occurs, of reward, score and terms.

    equal: groups whose rewards are all the same; zero: groups in which no plan scores anything.
    """
    good = [group for group in groups if group.rewards is not None]
    found: dict[str, Any] = {
        "samples": [g.sample.id for g in good],
        "equal": sum(grpo.equal(g.rewards.total) for g in good),
        "zero": sum(bool(g.rewards.driving.max() <= 0) for g in good),
    }
    if not good:
        return found
    for label in LABELS:
        some = [g.rewards for g in good if g.sample.label == label]
        if some:
            found |= {f"{name}_{label}": _mean([getattr(r, name) for r in some]) for name in ("score", "driving", "reasoning")}
            found |= {f"reward_{label}": _mean([r.total for r in some]), f"spread_{label}": _mean([r.total.std() for r in some])}
    for name, label in (("negative", "neg"), ("recovery", "rec")):
        some = [getattr(g.rewards, name) for g in good if g.sample.label == label]
        found |= {name: _mean(some)} if some else {}
    parts = [part for g in good for part in g.parts]
    texts = [text for part in parts for text in part.texts]
    found["tokens"] = _mean([((part.tokens >= 0) & ~part.spoken).sum(axis=1) for part in parts])
    found["fast"] = round(float(np.mean([text == FAST_TEXT for text in texts])), 4)
    found["ended"] = _mean([part.ended for part in parts])
    found["contradicts"] = _mean([g.rewards.contradicts for g in good])
    return found


def _mean(arrays: Sequence[Any]) -> float:
    return round(float(np.mean(np.concatenate([np.atleast_1d(a) for a in arrays]))), 4)
