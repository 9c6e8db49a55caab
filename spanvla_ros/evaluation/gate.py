"""Pass or fail: limits on the figures of a recorded drive, from a file like config/gates/default.yaml."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spanvla_ros import config
from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation.judgement import FIGURES, text_of
from spanvla_ros.planning import supervisor, validity

PASS, FAIL, SKIPPED = "pass", "fail", "skipped"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """min and max of one figure, both allowed values themselves; missing: what a drive that can't tell the figure means."""

    min: float | None = None
    max: float | None = None
    missing: Literal["fail", "skip"] = "fail"

    def words(self, name: str) -> str:
        """The limit of a figure in words, with its unit."""
        sides = (("at least", self.min), ("at most", self.max))
        return " and ".join(f"{word} {text_of(name, value)}" for word, value in sides if value is not None)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """limits: name of a figure (`judgement.FIGURES`) -> Limit; supervisor and validity: what deadline, states and broken limits are
    judged by, with the defaults of the planner node."""

    limits: dict[str, Limit] = field(default_factory=dict)
    supervisor: supervisor.Limits = field(default_factory=supervisor.Limits)
    validity: validity.Limits = field(default_factory=validity.Limits)

    def __post_init__(self):
        for name, limit in self.limits.items():
            if name not in FIGURES:
                near = difflib.get_close_matches(str(name), FIGURES, n=1, cutoff=0.5)
                raise ConfigError(f"limits.{name} is no figure; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(FIGURES)}"))
            if limit.min is None and limit.max is None:
                raise ConfigError(f"limits.{name} has neither min nor max")

    def check(self, figures: Mapping[str, float | None]) -> list[Check]:
        """One verdict per limit, in the order of the file."""
        told = [(name, limit, figures[name]) for name, limit in self.limits.items()]
        return [Check(name=name, value=value, limit=limit.words(name), verdict=_verdict(limit, value)) for name, limit, value in told]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A figure beside its limit in words; verdict: "pass", "fail" or "skipped"."""

    name: str
    value: float | None
    limit: str
    verdict: str

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def _verdict(limit: Limit, value: float | None) -> str:
    if value is None:
        return SKIPPED if limit.missing == "skip" else FAIL
    # written this way round, a NaN fails
    inside = (limit.min is None or value >= limit.min) and (limit.max is None or value <= limit.max)
    return PASS if inside else FAIL


def load(path: Path) -> Gate:
    """Read a gate file. ConfigError names file, key and value."""
    gate = config.load(Gate, path)
    if not gate.limits:
        raise ConfigError(f"{path}: limits is empty, such a gate lets everything pass")
    return gate
