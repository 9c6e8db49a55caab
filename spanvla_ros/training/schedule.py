"""Which sample every group of reinforcement fine-tuning is of: phases with fixed shares of the labels (method section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import ConfigError, DataError
from spanvla_ros.data.sample import LABELS


@dataclass(frozen=True, kw_only=True)
class Phase:
    """samples: length relative to the other phases; pos, neg, rec: shares relative to each other. In thousands as the paper has them."""

    samples: float
    pos: float = 0.0
    neg: float = 0.0
    rec: float = 0.0

    def __post_init__(self):
        if self.samples <= 0 or min(self.pos, self.neg, self.rec) < 0 or not self.pos + self.neg + self.rec:
            shares = f"pos {self.pos:g}, neg {self.neg:g}, rec {self.rec:g}"
            raise ConfigError(f"a phase needs samples > 0 and shares of labels that are not all 0, has {self.samples:g} with {shares}")


# warm-up on positives, then mixed (the paper's text)
PUBLISHED = (Phase(samples=2, pos=1), Phase(samples=4, pos=3, neg=0.5, rec=0.5))


def schedule(phases: Sequence[Phase], pools: Mapping[str, np.ndarray], total: int, seed: int) -> np.ndarray:
    """Samples (total,) int64 in the order of their groups: shares are met to within one sample, labels mixed within a phase.

    pools: label -> samples. Each label goes through its pool in one random order after the other. Raises DataError where a label
    that is wanted has no samples.
    """
    ends = np.rint(np.cumsum([phase.samples for phase in phases]) / sum(phase.samples for phase in phases) * total).astype(int)
    labels: list[str] = []
    for number, (start, end, phase) in enumerate(zip([0, *ends], ends, phases)):
        labels += _shuffled(apportion(end - start, [getattr(phase, label) for label in LABELS]), seed, number)
    drawn = {label: iter(_endless(pools.get(label, np.zeros(0, np.int64)), label, seed)) for label in LABELS}
    return np.array([next(drawn[label]) for label in labels], np.int64)


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to total and lie within one of their shares (largest remainder)."""
    wanted = np.array(shares, float) / sum(shares) * total
    counts = np.floor(wanted).astype(int)
    for index in np.argsort(counts - wanted, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return counts.tolist()


def _shuffled(counts: Sequence[int], seed: int, number: int) -> list[str]:
    names = np.repeat(LABELS, counts)
    return np.random.default_rng((seed, 29, number)).permutation(names).tolist()


def _endless(pool: np.ndarray, label: str, seed: int):
    if not len(pool):
        raise DataError(f"the schedule wants samples with label '{label}', the data has none; change phases or the data")
    rng = np.random.default_rng((seed, 31, LABELS.index(label)))
    while True:
        yield from rng.permutation(pool)
