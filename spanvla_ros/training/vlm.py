"""Stage 0 and 1: the vision tower learns to see from simulator labels, then the VLM learns to reason in text."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spanvla_ros import config as configs
from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.model import actions, backbone, checkpoint
from spanvla_ros.model.actions import Codebook
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning import tokenizer as planning_tokenizer
from spanvla_ros.share import runs
from spanvla_ros.training import adapters, answers, batches, cache, sharding, targets, tokenizer
from spanvla_ros.training.adapters import LoraConfig
from spanvla_ros.training.batches import JitterConfig
from spanvla_ros.training.cache import Cache
from spanvla_ros.training.learner import Learner
from spanvla_ros.training.loop import LoopConfig, Task, train
from spanvla_ros.training.processes import Processes
from spanvla_ros.training.runs import Run, resolve


@dataclass(frozen=True, kw_only=True)
class SpecConfig:
    """The part of ModelSpec that a person chooses; tokenizer hash and action scale follow from the data."""

    name: str
    cameras: tuple[str, ...] = ("front",)
    frame_offsets_s: tuple[float, ...] = (-0.5, 0.0)
    history_offsets_s: tuple[float, ...] = (-1.5, -1.0, -0.5, 0.0)
    image_size: tuple[int, int] = (112, 224)
    waypoints: int = 10
    waypoint_interval_s: float = 0.5
    prompt_version: str = "compact/1"
    prompt_tokens: int = 80
    max_reasoning_tokens: int = 40
    taps: tuple[int, ...] = (1, 3)
    flow_steps: int = 5
    source_sigma: float = 0.1
    inference_noise: float = 0.0
    scale_floor: tuple[float, float, float] = (0.05, 0.05, 0.01)  # m, m, rad

    def spec(self, tokenizer_sha256: str, action_scale: Any = None, codebook: Codebook | None = None) -> ModelSpec:
        values = {k: v for k, v in vars(self).items() if k != "scale_floor"}
        if codebook is not None:
            values |= {"action_tokens": len(codebook), "codebook_sha256": codebook.sha256}
        return ModelSpec(**values, tokenizer_sha256=tokenizer_sha256, action_scale=action_scale or ((1.0, 1.0, 1.0),) * self.waypoints)


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """Everything that `spanvla train vlm` may be told. Paths are relative to the configuration file."""

    architecture: Path
    spec: SpecConfig
    loop: LoopConfig
    jitter: JitterConfig = field(default_factory=JitterConfig)
    init: str | None = None  # run whose weights and tokenizer to start from
    codebook: Path | None = None  # of `spanvla train codebook`: the answer ends in action tokens (method section 2.2)
    lambda_a: float = 1.0  # of the loss on action tokens beside that on all output tokens (method section 4)
    cot_weight: float = 40.0  # of a sample that thinks slowly, against 1 (method section 4)
    backbone: Path | None = None  # folder in Hugging Face format whose weights and tokenizer to start from
    train_vision: bool = True  # the paper freezes its pretrained vision tower
    lora: LoraConfig = field(default_factory=LoraConfig)
    gradient_checkpointing: bool = False
    fsdp: bool = False  # spread weights, gradients and optimiser over the processes
    vocabulary: int = 1000
    tokenizer_samples: int = 3000
    seeing_share: float = 0.3  # of the budget: vision and auxiliary losses only (stage 0)
    auxiliary_weight: float = 0.5  # of the auxiliary losses in stage 1
    dense_positive: tuple[float, float, float, float, float, float, float] = (1.0, 1.0, 2.0, 6.0, 6.0, 4.0, 4.0)  # weight of a hit, by class
    regression_weight: float = 1.0
    lamp_weight: float = 0.3
    bf16: bool = True
    threads: int = 1  # per process
    processes: int = 2
    workers: int = 2  # of the preprocessing pass
    validation_samples: int = 512
    greedy_samples: int = 128
    reader: str = cache.READER

    def __post_init__(self):
        for name in ("seeing_share", "auxiliary_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], is {getattr(self, name)}")
        for name in ("lambda_a", "cot_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, is {getattr(self, name)}")
        if self.init and self.backbone:
            raise ConfigError(f"give init ({self.init}) or backbone ({self.backbone}), not both")

    def load_codebook(self, config_path: Path) -> Codebook | None:
        return None if self.codebook is None else actions.load(config_path.parent / self.codebook)

    def assemble(self, architecture: Architecture, spec: ModelSpec, tokenizer_path: Path, codebook: Codebook | None) -> tuple[SpanVLA, Learner]:
        """Model and learner with the weights that training starts from and what of them learns; the same in every process."""
        torch.manual_seed(self.loop.seed)
        words = planning_tokenizer.load(tokenizer_path)
        hf = backbone.load(self.backbone, architecture, spec, words) if self.backbone else None
        model = SpanVLA(architecture, spec, words, codebook, hf)
        learner = Learner(model)
        if self.init:
            learner.initialise(resolve(self.init))
        learner.vlm.tower.requires_grad_(self.train_vision)
        if self.lora.rank:
            adapters.inject(learner.vlm, self.lora)
        learner.vlm.recompute = self.gradient_checkpointing
        return model, learner


def auxiliary_losses(learner: Learner, features: Tensor, labels: dict[str, Tensor], usable: Tensor, config: VlmConfig) -> dict[str, Tensor]:
    """Losses on features (B, Nv, H) against `batches.labels`; rows that are not usable (B,) bool count nothing.

    The dense labels are those of the newest frame, so they meet the last vision tokens of the first camera.
    """
    features = features.float()
    tokens = labels["dense"].shape[1]
    weight = torch.tensor(config.dense_positive, device=features.device)
    known = (labels["dense_known"] & usable[:, None, None]).float()
    dense = F.binary_cross_entropy_with_logits(learner.dense(features[:, :tokens]), labels["dense"].clamp(max=1), pos_weight=weight, reduction="none")
    scene = learner.scene(features).float()
    values = labels["regression"]
    given = (torch.isfinite(values) & usable[:, None]).float()
    off = F.smooth_l1_loss(scene[:, : targets.REGRESSION_SIZE], torch.nan_to_num(values), beta=0.2, reduction="none")
    lamp_known = (labels["lamp"] >= 0) & usable
    lamp = F.cross_entropy(scene[:, targets.REGRESSION_SIZE :], labels["lamp"].clamp(min=0), reduction="none")
    return {
        "dense": (dense * known).sum() / known.sum().clamp(min=1),
        "scene": (off * given).sum() / given.sum().clamp(min=1),
        "lamp": (lamp * lamp_known).sum() / lamp_known.sum().clamp(min=1),
    }


class VlmTask:
    """Loss and evaluation of stages 0 and 1 on cached samples."""

    def __init__(self, model: SpanVLA, learner: Learner, config: VlmConfig, training: Cache, validation: Cache):
        self.model, self.learner, self.config = model, learner, config
        self.training, self.validation = training, validation
        self.plans, self.validation_plans = (answers.action_ids(model, data) for data in (training, validation))
        # spread over all drives
        self.checked = np.unique(np.linspace(0, len(validation) - 1, min(len(validation), config.validation_samples)).astype(int))
        text = f" {config.jitter.unusable_text}{planning_tokenizer.THINK_END}{planning_tokenizer.ACTION_START}"
        self.unusable = np.array(model.tokenizer.encode(text, add_special_tokens=False).ids)

    def loss(self, step: int, fraction: float, ids: np.ndarray) -> dict[str, Tensor]:
        config, spec, data, device = self.config, self.model.spec, self.training, self.model.vlm.frequency.device
        patches = batches.jitter(batches.pixels(data, ids, spec), config.jitter, spec)
        seeing = fraction < config.seeing_share
        spoiled = torch.zeros(len(ids), dtype=torch.bool)
        if config.jitter.unusable and not seeing:
            spoiled = batches.spoil(patches, config.jitter.unusable, spec)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            features = self.model.vision(patches.to(device))
            losses = auxiliary_losses(self.learner, features, batches.placed(batches.labels(data, ids), device), ~spoiled.to(device), config)
            auxiliary = losses["dense"] + config.regression_weight * losses["scene"] + config.lamp_weight * losses["lamp"]
            if seeing:
                return {"loss": auxiliary, **losses}
            # who sees nothing has a text to say, but no plan to learn
            answer = [self.unusable if bad else a for a, bad in zip(self._answers(data, ids, self.plans), spoiled.tolist())]
            sequence = batches.placed(batches.packed(batches.prompts(data, ids), answer), device)
            weight = torch.where(torch.from_numpy(data["slow"][ids]) & ~spoiled, config.cot_weight, 1.0).to(device)
            scores = answers.logits(self.model, features, sequence)
            found = answers.losses(scores, sequence, self.model, weight, config.lambda_a)
        return {"loss": found.pop("answer") + config.auxiliary_weight * auxiliary, **found, **losses}

    @staticmethod
    def _answers(data: Cache, ids: np.ndarray, plans: np.ndarray | None) -> list[np.ndarray]:
        answer = batches.answers(data, ids)
        return answer if plans is None else batches.followed(answer, plans[ids])

    def evaluate(self) -> dict[str, Any]:
        """Validation: text cross-entropy, greedy exact match and mode, dense F1 per class, scene errors in SI units."""
        spec, data, config, device = self.model.spec, self.validation, self.config, self.model.vlm.frequency.device
        sums: dict[str, float] = {}
        hits = np.zeros((3, len(targets.DENSE)))
        errors, lamps, texts = [], [], []
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            for k, ids in enumerate(np.array_split(self.checked, max(1, len(self.checked) // 64))):
                features = self.model.vision(batches.pixels(data, ids, spec).to(device))
                labels = batches.placed(batches.labels(data, ids), device)
                sequence = batches.placed(batches.packed(batches.prompts(data, ids), self._answers(data, ids, self.validation_plans)), device)
                for ending, seen in (("", features), ("_black", self.model.vision(batches.black(len(ids), spec).to(device)))):
                    scores = answers.logits(self.model, seen, sequence)
                    found = answers.losses(scores, sequence, self.model, torch.ones(len(ids), device=device), config.lambda_a)
                    texts.append({f"validation_{k}{ending}": v.item() for k, v in found.items() if k != "answer"})
                everything = torch.ones(len(ids), dtype=torch.bool, device=device)
                for name, value in auxiliary_losses(self.learner, features, labels, everything, config).items():
                    sums[name] = sums.get(name, 0.0) + value.item() * len(ids) / len(self.checked)
                found = self.learner.dense(features)[:, : labels["dense"].shape[1]].float() > 0
                true = (labels["dense"] > 0.5) & labels["dense_known"]
                found &= labels["dense_known"]
                hits += np.stack([x.sum((0, 1)).cpu().numpy() for x in (found & true, found, true)])
                scene = self.learner.scene(features).float()
                errors.append((scene[:, : targets.REGRESSION_SIZE] - labels["regression"]).abs().cpu().numpy())
                lamps.append((scene[:, targets.REGRESSION_SIZE :].argmax(-1) == labels["lamp"])[labels["lamp"] >= 0].cpu().numpy())
            metrics = {f"validation_{k}": v for k, v in sums.items()}
            metrics |= {k: float(np.mean([t[k] for t in texts if k in t])) for t in texts for k in t}
            metrics |= answers.said(self.model, data, self.checked[:: max(1, len(self.checked) // max(1, config.greedy_samples))])
        # without positives a class says nothing
        f1 = np.where(hits[2] > 0, 2 * hits[0] / np.maximum(hits[1] + hits[2], 1), np.nan)
        metrics |= {f"f1_{name}": None if np.isnan(value) else round(float(value), 3) for name, value in zip(targets.DENSE, f1)}
        error, at = np.concatenate(errors), 0
        for name, unit, size in targets.REGRESSION:
            known = error[:, at : at + size][np.isfinite(error[:, at : at + size])]
            metrics[f"mae_{name}"] = round(float(known.mean() * unit), 4) if len(known) else None
            at += size
        metrics["accuracy_lamp"] = round(float(np.concatenate(lamps).mean()), 3) if any(len(x) for x in lamps) else None
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in metrics.items()}


def ensure_tokenizer(config: VlmConfig, codebook: Codebook | None, data: Path, run_path: Path, say: Callable[[str], None]) -> Path:
    """tokenizer.json of a run: what is there, else that of the run to start from, else trained on the data."""
    path = run_path / checkpoint.TOKENIZER
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if config.init:
        shutil.copyfile(resolve(config.init) / checkpoint.TOKENIZER, path)
        return path
    if config.backbone:
        backbone.tokenizer(config.backbone, len(codebook) if codebook else 0).save(str(path))
        return path
    dataset = cache.open_reader(data, "train", config.spec.spec(""), config.reader)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), config.tokenizer_samples)).astype(int))
    size = tokenizer.train((dataset[int(i)] for i in chosen), config.spec.spec("", codebook=codebook), config.vocabulary, path)
    say(f"tokenizer of {size} tokens from {len(chosen)} samples: {path}")
    return path


def run_vlm(processes: Processes, config: VlmConfig, config_path: Path, data: Path, name: str, say: Callable[[str], None]) -> Path:
    """Train stage 0 and 1; returns the run folder, which holds `model/` at the end. Called in every process of the group."""
    config.loop.parts(processes.world)  # now, not when all pictures have been read
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.loop.seed)
    folder = runs() / name
    if processes.rank:
        say = _silent
    codebook = config.load_codebook(config_path)
    with processes.main_first():
        tokenizer_path = ensure_tokenizer(config, codebook, data, folder, say)
        sha256 = hashlib.sha256(tokenizer_path.read_bytes()).hexdigest()
        draft = config.spec.spec(sha256, codebook=codebook)
        common = {"workers": config.workers, "reader": config.reader, "say": say}
        training, validation = (cache.build(data, split, draft, tokenizer_path, runs() / "cache", **common) for split in ("train", "validation"))
    scale = targets.action_scale(training["future"], training["base"], config.spec.scale_floor)
    spec = replace(draft, action_scale=scale)
    architecture = Architecture.load(config_path.parent / config.architecture)
    model, learner = config.assemble(architecture, spec, tokenizer_path, codebook)
    learner.to(processes.device)
    count = sum(p.numel() for p in learner.parameters()) / 1e6
    say(f"{len(training)} training samples of {len(training.maps)} maps, {len(validation)} for validation; {count:.2f} M parameters")
    run = None
    if processes.rank == 0:
        identity = {"backbone_sha256": backbone.sha256(config.backbone)} if config.backbone else {}
        record = configs.to_dict(config) | {"architecture": architecture.to_dict()} | identity
        run = Run(name, record, training.sha256, wandb=config.loop.wandb)
    if config.fsdp and processes.world > 1:
        sharding.shard(learner, learner.vlm.decoder.layers)
    with processes.main_first():
        job = VlmTask(model, learner, config, training, validation)
    curves = {
        "text": ("text", "validation_text", "validation_text_black", "action", "validation_action"),
        "seeing": ("dense", "validation_dense", "scene", "validation_scene"),
        "greedy": ("greedy_exact", "greedy_mode", "accuracy_lamp", "f1_corridor", "f1_vehicle"),
    }
    task = Task(modules=learner, count=len(training), loss=job.loss, evaluate=job.evaluate, curves=curves, metric="validation_text")
    final = train(config.loop, run, task, say)
    if run is not None:
        if sharding.sharded(learner):
            model, learner = config.assemble(architecture, spec, tokenizer_path, codebook)
        with torch.no_grad():
            for parameter_name, parameter in learner.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(final[parameter_name])
        if config.lora.rank:
            adapters.merge(model.vlm)
        checkpoint.save(model, run.path / "model")
        say(f"model: {run.path / 'model'}")
    return folder


def _silent(text: str) -> None:
    """What the processes other than the first have to say."""
