"""Stage 2: the action expert learns the flow on cached keys and values of the frozen VLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from spanvla_ros.training import baselines, bench, cache
from spanvla_ros.training.batches import JitterConfig
from spanvla_ros.training.bench import BLACK, SEEN, Bench, Stage
from spanvla_ros.training.bridge import BridgeConfig
from spanvla_ros.training.horizon import Horizon
from spanvla_ros.training.kv import View
from spanvla_ros.training.loop import LoopConfig, Task, train
from spanvla_ros.training.processes import Processes
from spanvla_ros.training.runs import Run, model_folder, write_text

CURVES = {
    "loss": ("loss",),
    "ADE, m": ("ade_1s", "ade_3s", "ade_5s", "blind_ade_1s", "blind_ade_3s", "blind_ade_5s", "oracle_ade_5s", "black_ade_5s"),
}
ROWS = 256  # per forward pass of the evaluation
OPEN_LOOP = {"turn_": "constant turn", "blind_": "blind MLP", "oracle_": "oracle-state MLP", "": "model", "black_": "model, black pictures"}


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Everything that `spanvla train expert` may be told."""

    vlm: str  # run of stage 1, or a model folder
    loop: LoopConfig
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    tau: TauConfig = field(default_factory=TauConfig)
    jitter: JitterConfig = field(default_factory=JitterConfig)
    init: str | None = None  # run or model folder whose expert to start from
    views: int = 1  # jittered versions of each sample in the KV cache
    prompt_only: float = 0.15  # share of samples without text: a plan must also be possible before the text is there
    partial_text: float = 0.0  # share of samples whose text ends at a random point: the plan may be due before the text is
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
        if not 0 <= self.partial_text <= 1 - self.prompt_only:
            raise ConfigError(f"partial_text must be in [0, {1 - self.prompt_only:g}], what prompt_only leaves, is {self.partial_text}")

    def shown(self) -> list[View]:
        """How the training samples are shown to the VLM, once per version."""
        texts = {"prompt_only": self.prompt_only, "partial_text": self.partial_text}
        return [View(jitter=self.jitter, seed=self.loop.seed + v, **texts) for v in range(self.views)]

    def stage(self, folder: Path) -> Stage:
        return Stage(folder=folder, reader=self.reader, workers=self.workers, bf16=self.bf16)


class ExpertTask:
    """Loss and evaluation of stage 2 for the expert that the bench's model has."""

    def __init__(self, stand: Bench, config: ExpertConfig, horizons: dict[str, Horizon]):
        self.bench, self.model, self.config = stand, stand.model, config
        self.training, self.validation = horizons["train"], horizons["validation"]
        weights = torch.linspace(1.0, config.horizon_weight, self.model.spec.waypoints)
        # a waypoint that the data don't hold counts nothing; mean 1 over the others
        self.weights = torch.from_numpy(self.training.known) * weights
        self.weights = self.weights / self.weights.mean(dim=1, keepdim=True)
        self.reference: dict[str, float] = {}

    def loss(self, step: int, fraction: float, rows: np.ndarray) -> dict[str, Tensor]:
        rows = np.sort(rows)  # the order within a batch doesn't matter, that of reading does
        data, stored, spec = self.training, self.bench.kv["train"], self.model.spec
        taps, valid, position = stored.batch(rows, spec.taps)
        samples = stored.sample[rows]
        ages = torch.randint(len(data.known), (len(rows),)).numpy() if spec.kv_age else np.zeros(len(rows), np.int64)
        ego, base, future, age = (torch.from_numpy(array[samples, ages]) for array in (data.ego, data.base, data.future, data.age))
        extra = {"age": age} if spec.kv_age else {}
        weights = self.weights[ages] if spec.kv_age else self.weights[0]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16_expert):
            loss = self.model.flow_loss(taps, valid, position, ego, base, future, tau=self.config.tau, weights=weights, **extra)
        return {"loss": loss.mean()}

    @torch.no_grad()
    def waypoints(self, shown: str = SEEN, *, steps: int | None = None, age: int = 0) -> np.ndarray:
        """Plans (m, T, 3) for the validation samples as `shown`, in the spec's Euler steps or so many, on KV that is 0.1 * age s old."""
        source, data, spec, found = self.bench.kv[shown], self.validation, self.model.spec, []
        # a source that is all noise needs some, as in the car
        generator = torch.Generator().manual_seed(self.config.loop.seed)
        for rows in np.array_split(np.arange(len(source)), max(1, len(source) // ROWS)):
            taps, valid, position = source.batch(rows, spec.taps)
            samples = source.sample[rows]
            ego, base, old = (torch.from_numpy(array[samples, age]) for array in (data.ego, data.base, data.age))
            noise = torch.randn(base.shape, generator=generator) * spec.inference_noise if spec.inference_noise else None
            found.append(self.model.sample(taps, valid, position, ego, base, noise, steps, age=old if spec.kv_age else None).numpy())
        return np.concatenate(found)

    def errors(self, shown: str = SEEN, *, steps: int | None = None, age: int = 0) -> dict[str, float]:
        """ADE of those plans, over the waypoints that the data hold."""
        known = self.validation.known[age]
        future = self.validation.future[self.bench.kv[shown].sample, age]
        return baselines.ade(self.waypoints(shown, steps=steps, age=age)[:, known], future[:, known], self.model.spec.waypoint_interval_s)

    def evaluate(self) -> dict[str, Any]:
        """ADE of the model, with black pictures, on the oldest KV that it is made for, and (once computed) of the baselines."""
        found = self.errors() | {f"black_{k}": v for k, v in self.errors(BLACK).items()}
        if self.model.spec.kv_age:
            found |= {f"aged_{k}": v for k, v in self.errors(age=len(self.validation.known) - 1).items()}
        return found | self.reference

    def compare(self, seconds: float, seed: int) -> None:
        """Fill in the constant-turn roll-out, the blind network, and the one that is told the scene, on the same validation samples."""
        training, validation, samples = *(self.bench.data[split] for split in bench.SPLITS), self.bench.samples
        train_on = {name: getattr(self.training, name)[:, 0] for name in ("ego", "base", "future")}
        ego, base, future = (getattr(self.validation, name)[samples, 0] for name in ("ego", "base", "future"))
        told = baselines.scene(train_on["ego"], training), baselines.scene(self.validation.ego[:, 0], validation)[samples]
        plans = {"turn": base}
        for name, inputs in (("blind", (train_on["ego"], ego)), ("oracle", told)):
            plans[name] = baselines.regress(train_on, *inputs, base, seconds=seconds, seed=seed)
        for name, waypoints in plans.items():
            found = baselines.ade(waypoints, future, self.model.spec.waypoint_interval_s)
            self.reference |= {f"{name}_{k}": v for k, v in found.items()}


def run_expert(processes: Processes, config: ExpertConfig, data: Path, name: str, say: Callable[[str], None]) -> Path:
    """Train stage 2; returns the run folder, whose `model/` holds VLM and expert. Called in every process of the group."""
    config.loop.parts(processes.world)  # now, not after an hour of keys and values
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.loop.seed)
    if processes.rank:
        say = _silent
    folder = runs() / name
    stage_one, _ = bench.load(config.vlm)
    taps = config.bridge.draft(stage_one.spec, stage_one.architecture.text.layers).taps
    stand = bench.setup(
        processes, config.stage(data), config.vlm, taps, config.shown(), folder / "kv",
        validation_samples=config.validation_samples, black_samples=config.black_samples, silent_samples=0, say=say,
    )  # fmt: skip
    model = stand.model
    torch.manual_seed(config.loop.seed)
    job = ExpertTask(stand, config, stand.fit_bridge(processes, config.bridge))
    if config.init:
        _initialise(model, model_folder(config.init))
    run = None
    if processes.rank == 0:
        run = Run(name, configs.to_dict(config) | {"vlm_sha256": stand.identity}, stand.data["train"].sha256, wandb=config.loop.wandb)
        job.compare(config.blind_seconds, config.loop.seed)
        say("baselines " + " ".join(f"{k}={v}" for k, v in job.reference.items()))
    final = fit(config.loop, run, job, say)
    if run is not None:
        with torch.no_grad():
            for parameter_name, parameter in model.expert.named_parameters():
                parameter.copy_(final[parameter_name])
        checkpoint.save(model, run.path / "model")
        table = open_loop(job.evaluate())
        write_text(run.path / "open_loop.md", table)
        say(f"{table}model: {run.path / 'model'}")
    return folder


def open_loop(metrics: Mapping[str, float]) -> str:
    """Evaluation of `ExpertTask` as a Markdown table: mean distance in metres up to 1, 2, 3 and 5 s, of the model and of what it is held against."""
    lines = ["| ADE, m | " + " | ".join(f"{s} s" for s in baselines.HORIZONS_S) + " |", "|---|" + "---|" * len(baselines.HORIZONS_S)]
    for prefix, name in OPEN_LOOP.items():
        lines.append(f"| {name} | " + " | ".join(f"{metrics[f'{prefix}ade_{s}s']:.3f}" for s in baselines.HORIZONS_S) + " |")
    return "\n".join(lines) + "\n"


def _initialise(model: SpanVLA, source: Path) -> None:
    """Start from the expert of another model. One that was never told the age of its KV may be told from now on: it means nothing yet."""
    try:
        found = model.expert.load_state_dict(checkpoint.load(source).expert.state_dict(), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"init: the expert of {source} has another shape: {' '.join(str(error).split())[:200]}") from None
    different = [*found.unexpected_keys, *(key for key in found.missing_keys if not key.startswith("age_in."))]
    if different:
        raise ConfigError(f"init: the expert of {source} is built otherwise: {', '.join(different)[:200]}")


def fit(loop: LoopConfig, run: Run | None, job: ExpertTask, say: Callable[[str], None]) -> dict[str, Tensor]:
    """The training itself; returns the final weights of the expert by name."""
    task = Task(modules=job.model.expert, count=len(job.bench.kv["train"]), loss=job.loss, evaluate=job.evaluate, curves=CURVES, metric="ade_5s")
    return train(loop, run, task, say)


def _silent(text: str) -> None:
    """What the processes other than the first have to say."""
