"""Stage 2: the action expert learns the flow on cached keys and values of the frozen VLM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spanvla_ros import config as configs
from spanvla_ros.contracts import ConfigError
from spanvla_ros.model import checkpoint
from spanvla_ros.model.flow import TauConfig
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.share import runs
from spanvla_ros.training import baselines, cache, kv
from spanvla_ros.training.batches import JitterConfig
from spanvla_ros.training.cache import Cache
from spanvla_ros.training.kv import KvCache, View
from spanvla_ros.training.loop import LoopConfig, Task, train
from spanvla_ros.training.processes import Processes
from spanvla_ros.training.runs import Run, resolve


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Everything that `spanvla train expert` may be told."""

    vlm: str  # run of stage 1
    loop: LoopConfig
    tau: TauConfig = field(default_factory=TauConfig)
    jitter: JitterConfig = field(default_factory=JitterConfig)
    init: str | None = None  # run whose expert to start from
    views: int = 1  # jittered versions of each sample in the KV cache
    prompt_only: float = 0.15  # share of samples without text: a plan must also be possible before the text is there
    horizon_weight: float = 1.0  # weight of the last waypoint relative to the first
    bf16: bool = True  # of the VLM that fills the cache
    bf16_expert: bool = False  # 1.6 times as many samples per second, slightly worse per sample
    threads: int = 1
    processes: int = 2
    workers: int = 2
    validation_samples: int = 2048
    black_samples: int = 512
    blind_seconds: float = 40.0
    reader: str = cache.READER

    def __post_init__(self):
        if self.views < 1:
            raise ConfigError(f"views must be at least 1, is {self.views}")
        if not 0 <= self.prompt_only <= 1:
            raise ConfigError(f"prompt_only must be in [0, 1], is {self.prompt_only}")


class ExpertTask:
    """Loss and evaluation of stage 2."""

    def __init__(self, model: SpanVLA, config: ExpertConfig, training: tuple[Cache, KvCache], validation: tuple[Cache, KvCache], dark: KvCache):
        self.model, self.config, self.dark = model, config, dark
        (self.data, self.kv), (self.validation, self.validation_kv) = training, validation
        weights = torch.linspace(1.0, config.horizon_weight, model.spec.waypoints)
        self.weights = weights / weights.mean()
        self.reference: dict[str, float] = {}

    def loss(self, step: int, fraction: float, rows: np.ndarray) -> dict[str, Tensor]:
        rows = np.sort(rows)  # the order within a batch doesn't matter, that of reading does
        taps, valid, position = self.kv.batch(rows)
        samples = self.kv.sample[rows]
        ego, base, future = (torch.from_numpy(self.data[name][samples]) for name in ("ego", "base", "future"))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16_expert):
            loss = self.model.flow_loss(taps, valid, position, ego, base, future, tau=self.config.tau, weights=self.weights)
        return {"loss": loss.mean()}

    def waypoints(self, source: KvCache) -> np.ndarray:
        found = []
        for rows in np.array_split(np.arange(len(source)), max(1, len(source) // 256)):
            taps, valid, position = source.batch(rows)
            samples = source.sample[rows]
            ego, base = (torch.from_numpy(self.validation[name][samples]) for name in ("ego", "base"))
            found.append(self.model.sample(taps, valid, position, ego, base).numpy())
        return np.concatenate(found)

    def evaluate(self) -> dict[str, Any]:
        """ADE of the model, with black pictures, and (once computed) of the baselines."""
        interval = self.model.spec.waypoint_interval_s
        seen = baselines.ade(self.waypoints(self.validation_kv), self.validation["future"][self.validation_kv.sample], interval)
        black = baselines.ade(self.waypoints(self.dark), self.validation["future"][self.dark.sample], interval)
        return seen | {f"black_{k}": v for k, v in black.items()} | self.reference

    def compare(self, seconds: float, seed: int) -> None:
        """Fill in the constant-turn roll-out and the blind network on the same validation samples."""
        samples, spec = self.validation_kv.sample, self.model.spec
        ego, base, future = (self.validation[name][samples] for name in ("ego", "base", "future"))
        train_on = {name: self.data[name] for name in ("ego", "base", "future")}
        blind = baselines.blind(train_on, ego, base, np.array(spec.action_scale), seconds=seconds, seed=seed)
        for name, waypoints in (("turn", base), ("blind", blind)):
            self.reference |= {f"{name}_{k}": v for k, v in baselines.ade(waypoints, future, spec.waypoint_interval_s).items()}


def run_expert(processes: Processes, config: ExpertConfig, data: Path, name: str, say: Callable[[str], None]) -> Path:
    """Train stage 2; returns the run folder, whose `model/` holds VLM and expert. Called in every process of the group."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.loop.seed)
    if processes.rank:
        say = _silent
    folder = runs() / name
    source = resolve(config.vlm) / "model"
    model = checkpoint.load(source)
    if config.init:
        model.expert.load_state_dict(checkpoint.load(resolve(config.init) / "model").expert.state_dict())
    model.train_only(vision=False, text=False)
    identity = hashlib.sha256((source / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    with processes.main_first():
        common = {"workers": config.workers, "reader": config.reader, "say": say}
        tokenizer_path = source / checkpoint.TOKENIZER
        training, validation = (cache.build(data, split, model.spec, tokenizer_path, runs() / "cache", **common) for split in ("train", "validation"))
    shared = {"identity": identity, "processes": processes, "bf16": config.bf16, "say": say}
    views = [View(jitter=config.jitter, prompt_only=config.prompt_only, seed=config.loop.seed + v) for v in range(config.views)]
    say(f"keys and values of {len(training)} samples in {config.views} views")
    kv_training = kv.build(model, training, np.arange(len(training)), views, folder / "kv", **shared)
    checked = np.unique(np.linspace(0, len(validation) - 1, min(len(validation), config.validation_samples)).astype(int))
    kv_validation = kv.build(model, validation, checked, [View()], folder / "kv", **shared)
    dark = checked[:: max(1, len(checked) // config.black_samples)]
    kv_dark = kv.build(model, validation, dark, [View(black=True)], folder / "kv", **shared)

    job = ExpertTask(model, config, (training, kv_training), (validation, kv_validation), kv_dark)
    run = None
    if processes.rank == 0:
        run = Run(name, configs.to_dict(config) | {"vlm_sha256": identity}, training.sha256)
        job.compare(config.blind_seconds, config.loop.seed)
        say("baselines " + " ".join(f"{k}={v}" for k, v in job.reference.items()))
    curves = {"loss": ("loss",), "ADE, m": ("ade_1s", "ade_3s", "ade_5s", "blind_ade_1s", "blind_ade_3s", "blind_ade_5s", "black_ade_5s")}
    final = train(config.loop, run, Task(modules=model.expert, count=len(kv_training), loss=job.loss, evaluate=job.evaluate, curves=curves), say)
    if run is not None:
        with torch.no_grad():
            for parameter_name, parameter in model.expert.named_parameters():
                parameter.copy_(final[parameter_name])
        checkpoint.save(model, run.path / "model")
        say(f"model: {run.path / 'model'}")
    return folder


def _silent(text: str) -> None:
    """What the processes other than the first have to say."""
