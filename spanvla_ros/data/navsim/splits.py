"""Which scenes of which logs: the devkit's scene filters, and what belongs to a test split and may not be trained on."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from spanvla_ros.contracts import ConfigError

HISTORY_FRAMES, FUTURE_FRAMES = 4, 10  # at 2 Hz, t0 is the last of the history
_TEST_NAME = re.compile(r"(?<![a-z])(navtest|navhard|navsafe|test(?!ing)|private|warmup)", re.IGNORECASE)
_NAVSIM_TEST = re.compile(r"(?<![a-z])nav(test|hard)", re.IGNORECASE)
_VALIDATION = 32  # one log in so many


@dataclass(frozen=True, kw_only=True)
class SceneFilter:
    """A scene filter of the devkit (config/common/train_test_split/scene_filter/*.yaml). name: its file's; None: no restriction."""

    name: str
    logs: frozenset[str] | None = None
    tokens: frozenset[str] | None = None
    interval: int = HISTORY_FRAMES + FUTURE_FRAMES  # frames from one scene to the next
    has_route: bool = True

    def __post_init__(self):
        if self.interval < 1:
            raise ConfigError(f"scene filter {self.name}: frame_interval is {self.interval}, must be at least 1")


def read_filter(path: Path) -> SceneFilter:
    """A scene filter from the devkit's YAML. ConfigError where it asks for other windows than 4 + 10 frames or can't be read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # navtrain's has a hundred thousand lines
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # both loaders are the safe ones
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"scene filter {path} can't be read: {error}") from None
    if not isinstance(document, dict) or "tokens" not in document:
        raise ConfigError(f"{path} is no scene filter: it has no key 'tokens'; give e.g. scene_filter/navtrain.yaml of the devkit")
    frames = document.get("num_history_frames", HISTORY_FRAMES), document.get("num_future_frames", FUTURE_FRAMES)
    if frames[0] != HISTORY_FRAMES or frames[1] > FUTURE_FRAMES:
        raise ConfigError(f"scene filter {path} asks for {frames[0]} + {frames[1]} frames, samples have {HISTORY_FRAMES} + {FUTURE_FRAMES}")
    logs, tokens = document.get("log_names"), document["tokens"]
    return SceneFilter(
        name=path.stem,
        logs=None if logs is None else frozenset(map(str, logs)),
        tokens=None if tokens is None else frozenset(map(str, tokens)),
        interval=document.get("frame_interval") or sum(frames),
        has_route=document.get("has_route", True),
    )


def is_test_log(log: str) -> bool:
    """Whether a log is one of nuPlan's test logs, wherever it lies."""
    return hashlib.sha256(log.encode()).hexdigest()[:8] in _test_digests()


def split_of(log: str, *names: str) -> str:
    """train, validation or test; whole logs, decided by their names and those of the folder and the filter they come from."""
    if is_test_log(log) or any(_TEST_NAME.search(name) for name in names):
        return "test"
    return "validation" if int(hashlib.sha256(log.encode()).hexdigest()[8:16], 16) % _VALIDATION == 0 else "train"


def is_navsim_test(name: str) -> bool:
    """Whether a name of a split, sample, shard or folder says that it is of one of NAVSIM's test splits."""
    return _NAVSIM_TEST.search(name) is not None


@functools.cache
def _test_digests() -> frozenset[str]:
    text = resources.files("spanvla_ros.data").joinpath("navsim_test_logs.json").read_text(encoding="utf-8")
    return frozenset(json.loads(text)["digests"])
