"""Everything that stage two works on: the frozen VLM, the data, and keys and values of all that it will be shown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spanvla_ros.contracts import ModelSpec
from spanvla_ros.model import checkpoint
from spanvla_ros.model.expert import ActionExpert
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.share import runs
from spanvla_ros.training import cache, horizon, kv
from spanvla_ros.training.bridge import BridgeConfig
from spanvla_ros.training.cache import Cache
from spanvla_ros.training.horizon import Horizon
from spanvla_ros.training.kv import KvCache, View
from spanvla_ros.training.processes import Processes
from spanvla_ros.training.runs import model_folder

SPLITS = ("train", "validation")
# how the validation samples are shown: as they are, black, and without text
SEEN, BLACK, SILENT = "validation", "black", "silent"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where the samples are and how they are read; part of every stage-two configuration."""

    folder: Path
    reader: str
    workers: int
    bf16: bool


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A stage-one model with its data. data: split -> cache; kv: "train", SEEN, BLACK, SILENT -> cache of keys and values.

    `before` and `expert` are those of stage one; the model's own are of the bridge it got last.
    """

    model: SpanVLA
    before: ModelSpec
    expert: ActionExpert
    identity: str
    stage: Stage
    data: dict[str, Cache]
    kv: dict[str, KvCache]
    say: Callable[[str], None]

    @property
    def samples(self) -> np.ndarray:
        """Rows (m,) of the validation cache that predictions are judged on."""
        return self.kv[SEEN].sample

    def fit_bridge(self, processes: Processes, bridge: BridgeConfig, seed: int | None = None) -> dict[str, Horizon]:
        """Give the model the expert of a bridge; returns its data per split. Where nothing differs from stage one, the expert of
        stage one stays, unless a seed asks for a fresh one."""
        draft = bridge.draft(self.before, self.model.architecture.text.layers)
        with processes.main_first():
            found = {
                split: horizon.build(self.data[split], self.stage.folder, split, draft, reader=self.stage.reader, say=self.say) for split in SPLITS
            }
        spec = bridge.scaled(self.before, draft, found["train"].future[:, 0], found["train"].base[:, 0])
        if seed is not None:
            torch.manual_seed(seed)
        if seed is not None or spec != self.model.spec:
            self.model.refit(spec)
        return found


def load(source: str) -> tuple[SpanVLA, str]:
    """The model of a run or of a model folder with only its expert left to learn, and the hash of its weights."""
    folder = model_folder(source)
    model = checkpoint.load(folder)
    model.train_only(vision=False, text=False)
    return model, hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()


def setup(
    processes: Processes,
    stage: Stage,
    source: str,
    layers: tuple[int, ...],
    views: list[View],
    folder: Path,
    *,
    validation_samples: int,
    black_samples: int,
    silent_samples: int,
    say: Callable[[str], None],
) -> Bench:
    """Load stage one and compute what is missing below `folder`; called in every process of the group."""
    model, identity = load(source)
    with processes.main_first():
        common = {"workers": stage.workers, "reader": stage.reader, "say": say}
        tokenizer = model_folder(source) / checkpoint.TOKENIZER
        data = {split: cache.build(stage.folder, split, model.spec, tokenizer, runs() / "cache", **common) for split in SPLITS}
    shared = {"layers": layers, "identity": identity, "processes": processes, "bf16": stage.bf16, "say": say}
    training, validation = (data[split] for split in SPLITS)
    say(f"keys and values of {len(training)} samples in {len(views)} views, layers {list(layers)}")
    found = {"train": kv.build(model, training, np.arange(len(training)), views, folder, **shared)}
    checked = np.unique(np.linspace(0, len(validation) - 1, min(len(validation), validation_samples)).astype(int))
    shown = {SEEN: (len(checked), View()), BLACK: (black_samples, View(black=True)), SILENT: (silent_samples, View(prompt_only=1.0))}
    for name, (count, view) in shown.items():
        if count:
            found[name] = kv.build(model, validation, checked[:: max(1, len(checked) // count)], [view], folder, **shared)
    return Bench(model=model, before=model.spec, expert=model.expert, identity=identity, stage=stage, data=data, kv=found, say=say)
