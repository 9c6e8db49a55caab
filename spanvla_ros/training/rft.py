"""Reinforcement fine-tuning (method section 5): the VLM draws groups of answers, and LoRA adapters learn from what they earn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spanvla_ros import config as configs
from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.data import scoring
from spanvla_ros.data.sample import LABELS, Sample
from spanvla_ros.data.shards import Dataset
from spanvla_ros.model import checkpoint
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning.preprocess import preprocess
from spanvla_ros.planning.prompt import FAST_TEXT
from spanvla_ros.share import runs
from spanvla_ros.training import adapters, bench, groups, grpo, lists, rewards, rft_page, rollouts, schedule
from spanvla_ros.training.adapters import LoraConfig
from spanvla_ros.training.groups import Bookkeeper
from spanvla_ros.training.grpo import AdvantageConfig
from spanvla_ros.training.loop import Diverged, LoopConfig, Task, train
from spanvla_ros.training.processes import Processes
from spanvla_ros.training.rewards import RewardConfig
from spanvla_ros.training.rollouts import Kind
from spanvla_ros.training.runs import Run
from spanvla_ros.training.schedule import PUBLISHED, Phase
from spanvla_ros.training.scorers import Case, Scorers, Source

CURVES = {
    "reward": tuple(f"reward_{label}" for label in LABELS),
    "score": tuple(f"score_{label}" for label in LABELS),
    "log of negatives and recoveries": ("negative", "recovery"),
    "reasoning": ("reasoning_pos", "reasoning_neg", "reasoning_rec"),
    "divergence": ("kl",),
    "tokens": ("tokens",),
    "held out": ("held_out", *(f"held_out_{label}" for label in LABELS)),
}
WINDOW = 25  # updates a curve is averaged over


@dataclass(frozen=True, kw_only=True)
class RftConfig:
    """Everything that `spanvla train rft` may be told. loop.batch counts roll-outs: as many groups per update as fit into it;
    loop.micro_batch roll-outs are drawn and learned from at once, on any number of processes."""

    model: str  # run or model folder to start from: of stage 1, or of stage 2 for roll-outs through the expert
    loop: LoopConfig
    group: int = 64
    rollout: Kind = "tokens"
    temperature: float = 1.0
    beta: float = 0.04  # of the divergence from the model it started from
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    phases: tuple[Phase, ...] = PUBLISHED
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=8))
    adapt: Literal["decoder", "words"] = "decoder"  # words: only what the expert sees nothing of but the words, in place of lora.targets
    gradient_checkpointing: bool = False
    bf16: bool = True
    threads: int = 1  # per process
    processes: int = 1
    scorers: int = 2  # processes that score
    page_every: int = 100  # updates between pages of samples
    validation_samples: int = 48  # per label; 0: none

    def __post_init__(self):
        loop = self.loop
        if self.group < 2:
            raise ConfigError(f"group must be at least 2, is {self.group}: roll-outs are compared with each other")
        if not loop.steps:
            raise ConfigError("give loop.steps: a schedule of samples needs a number of updates")
        if loop.batch % self.group or not loop.micro_batch or self.group % loop.micro_batch:
            raise ConfigError(
                f"loop.batch {loop.batch} must be a multiple of group {self.group}, which must be one of loop.micro_batch {loop.micro_batch}"
            )
        if loop.patience and not self.validation_samples:
            raise ConfigError(f"loop.patience {loop.patience} needs validation_samples, is 0")
        if self.lora.rank < 1:
            raise ConfigError(f"lora.rank must be at least 1, is {self.lora.rank}: the model it started from is the one without adapters")
        for name in ("scorers", "page_every", "temperature"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, is {getattr(self, name)}")
        if self.beta < 0 or self.validation_samples < 0 or not self.phases:
            raise ConfigError(f"beta {self.beta} and validation_samples {self.validation_samples} must not be negative, and there must be phases")


class RftTask:
    """Draws, scores and learns from the groups of each update. Only the first process has scorers and a run."""

    def __init__(
        self,
        model: SpanVLA,
        config: RftConfig,
        datasets: dict[str, Dataset],
        plan: np.ndarray,
        processes: Processes,
        scorers: Scorers | None,
        run: Run | None,
    ):
        self.model, self.config, self.datasets, self.plan, self.scorers, self.run = model, config, datasets, plan, scorers, run
        self.allowed = rollouts.vocabulary(model)
        self.per_update, self.per_group = config.loop.batch // config.group, config.group // config.loop.micro_batch
        self.mine = range(processes.rank, self.per_update * self.per_group, processes.world)
        self.bookkeeper = Bookkeeper(model.spec, config.reward, config.advantage, scorers, processes.world)
        self.step, self.pending = -1, iter(())
        self.skipped: list[str] | None = None

    def loss(self, step: int, fraction: float, ids: np.ndarray) -> dict[str, Tensor]:
        """Loss of the next part that this process drew; the first call of a step draws them all. ids mean nothing here."""
        if step != self.step:
            self._draw(step)
            self.step, self.pending = step, iter(self.mine)
        part = next(self.pending)
        group, own = self.groups[part // self.per_group], self.parts.get(part)
        earned = [g.rewards.total for g in self.groups if g.rewards is not None]
        mean = torch.tensor(float(np.mean(earned)) if earned else 0.0)
        if own is None or group.advantages is None:
            # nothing to learn: a loss that touches every weight and moves none
            nothing = sum(p.sum() for p in self.model.vlm.parameters() if p.requires_grad) * 0.0
            return {"loss": nothing, "kl": torch.tensor(0.0), "reward": mean}
        prompt, place = self.prompts[part // self.per_group], part % self.per_group
        size = self.config.loop.micro_batch
        gain = torch.from_numpy(group.advantages[place * size : (place + 1) * size]).float().to(prompt.features.device)
        chosen = torch.from_numpy(own.chosen).to(prompt.features.device)
        with self._precision():
            inputs = (self.model, prompt, own, self.allowed, self.config.temperature)
            with torch.no_grad(), adapters.without(self.model.vlm):
                reference = rollouts.log_probs(*inputs)
            found = grpo.loss(rollouts.log_probs(*inputs), reference, gain, chosen, self.config.beta)
        if not math.isfinite(found["loss"].item()):
            raise Diverged(f"loss is not finite at step {step}, sample {group.sample.id}; the last checkpoint is kept, try a smaller learning rate")
        return {"loss": found["loss"], "kl": found["kl"].cpu(), "reward": mean}

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.model.vlm.frequency.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _cases(self, step: int) -> list[Case]:
        return [Case(split="train", index=int(i)) for i in self.plan[step * self.per_update : (step + 1) * self.per_update]]

    def _draw(self, step: int) -> None:
        """Roll-outs, rewards and advantages of an update, the same however many processes share it."""
        config, cases, began = self.config, self._cases(step), time.monotonic()
        if self.scorers is not None:
            self.scorers.prepare(cases)
        read = [self._read(case) for case in cases]
        samples = [entry if isinstance(entry, str) else entry[0] for entry in read]
        self.model.vlm.eval()
        self.prompts, self.parts, prefilled = {}, {}, {}
        with adapters.folded(self.model.vlm), self._precision():
            for part in self.mine:
                g = part // self.per_group
                if isinstance(read[g], str):
                    continue
                if g not in self.prompts:
                    self.prompts[g] = rollouts.prompted(self.model, read[g][1])
                    prefilled[g] = rollouts.prefill(self.model, self.prompts[g])
                    self._finite(prefilled[g].logits, step, samples[g])
                seed = (config.loop.seed * 1_000_003 + step) * 4096 + part
                drawn = rollouts.draw(
                    self.model, self.prompts[g], prefilled[g], self.allowed,
                    count=config.loop.micro_batch, kind=config.rollout, temperature=config.temperature, seed=seed,
                )  # fmt: skip
                self._finite(torch.from_numpy(drawn.plans), step, samples[g])
                self.parts[part] = drawn
        self.model.vlm.train()
        sample_s = time.monotonic() - began
        self.groups = self.bookkeeper.close(cases, samples, self.parts, self.per_group)
        if self.scorers is not None:
            self.scorers.prepare(self._cases(step + 1))
        if self.run is not None:
            self._note(step, cases, sample_s)

    def _finite(self, values: Tensor, step: int, sample: Sample) -> None:
        if not torch.isfinite(values).all():
            raise Diverged(f"the model's output is not finite at step {step}, sample {sample.id}; the last checkpoint is kept")

    def _read(self, case: Case) -> tuple[Sample, dict[str, np.ndarray]] | str:
        """A sample and the arrays of its prompt, or in words why it can't be shown to the model."""
        try:
            sample = self.datasets[case.split][case.index]
            return sample, preprocess(sample.observation, self.model.spec, self.model.tokenizer)
        except (SpanVLAError, OSError) as error:
            return str(error)

    def _note(self, step: int, cases: list[Case], sample_s: float) -> None:
        """Metrics and, every now and then, a page. Errors: DataError where too many samples had to be skipped."""
        run, values = self.run, groups.summary(self.groups)
        if self.skipped is None:  # of the steps before, also in an earlier process
            self.skipped = [name for line in run.metrics() for name in line.get("skipped", ())]
        failed = [(self.datasets["train"].entries[c.index].id, g.problem) for c, g in zip(cases, self.groups) if g.rewards is None]
        if failed:
            values |= {"skipped": [name for name, _ in failed], "problems": [problem for _, problem in failed]}
            self.skipped += values["skipped"]
        times = {"sample_s": round(sample_s, 3), "score_s": round(self.bookkeeper.score_s, 3)}
        run.log({"step": step + 1} | values | times | {"restarts": self.scorers.restarts})
        groups.check(self.skipped, len(self.plan))
        if (step + 1) % self.config.page_every == 0:
            rft_page.write(run.path / "samples", step + 1, self.groups)

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """Benchmark score of the likeliest answers to held-out samples, per label; tokens they take; share that thinks fast."""
        if self.run is not None:
            self.run.plot(CURVES, WINDOW)
        dataset, count = self.datasets.get("validation"), self.config.validation_samples
        if dataset is None:
            return {}
        of = {label: [k for k, entry in enumerate(dataset.entries) if entry.label == label] for label in LABELS}
        checked = [indices[i] for indices in of.values() for i in np.unique(np.linspace(0, len(indices) - 1, count).astype(int)) if indices]
        cases = [Case(split="validation", index=index, benchmark=True) for index in checked]
        plans, texts, tokens = [], [], []
        with adapters.folded(self.model.vlm), self._precision():
            for case in cases:
                prompt = rollouts.prompted(self.model, preprocess(dataset[case.index].observation, self.model.spec, self.model.tokenizer))
                prefilled = rollouts.prefill(self.model, prompt)
                drawn = rollouts.draw(self.model, prompt, prefilled, self.allowed, count=1, kind=self.config.rollout, temperature=0.0, seed=0)
                plans.append(scoring.half_seconds(drawn.plans, self.model.spec)[:, :8])
                texts += drawn.texts
                tokens.append(int(((drawn.tokens >= 0) & ~drawn.spoken).sum()))
        scores = {}
        for index, values in zip(checked, self.scorers.score(cases, plans)):
            if not isinstance(values, str):
                scores.setdefault(dataset.entries[index].label, []).append(float(rewards.driving(self.config.reward.version, values)[0]))
        found = {f"held_out_{label}": round(float(np.mean(some)), 4) for label, some in scores.items()}
        found["held_out"] = round(float(np.mean([value for some in scores.values() for value in some])), 4)
        return found | {
            "shortfall": round(1 - found["held_out"], 4),
            "held_out_tokens": round(float(np.mean(tokens)), 2),
            "held_out_fast": round(float(np.mean([text == FAST_TEXT for text in texts])), 4),
        }


def run_rft(processes: Processes, config: RftConfig, data: Path, name: str, say: Callable[[str], None]) -> Path:
    """Fine-tune; returns the run folder, whose `model/` holds the model with the adapters merged. Called in every process of the group."""
    torch.set_num_threads(config.threads)
    if processes.rank:
        say = _silent
    model, identity = bench.load(config.model)
    rollouts.require(model, config.rollout)
    torch.manual_seed(config.loop.seed)
    model.requires_grad_(False)
    adapters.inject(model.vlm, replace(config.lora, targets=adapters.behind_taps(model)) if config.adapt == "words" else config.lora)
    model.vlm.decoder.embed_tokens.requires_grad_(False)
    model.vlm.recompute = config.gradient_checkpointing
    model.to(processes.device)
    splits = ("train", "validation") if config.validation_samples else ("train",)
    datasets = {split: lists.check(Dataset(data, split, model.spec, LABELS), data, split) for split in splits}
    pools, unusable = groups.pools(datasets["train"])
    if unusable:
        say(f"{len(unusable)} samples lack what their reward needs and are left out: {', '.join(unusable)}")
    plan = schedule.schedule(config.phases, pools, config.loop.steps * (config.loop.batch // config.group), config.loop.seed)
    used = {label: int(np.isin(plan, pool).sum()) for label, pool in pools.items()}
    say(f"{len(plan)} groups of {config.group} roll-outs: " + ", ".join(f"{count} {label} of {len(pools[label])}" for label, count in used.items()))
    run = scorers = None
    try:
        if processes.rank == 0:
            record = configs.to_dict(config) | {"model_sha256": identity}
            run = Run(name, record, datasets["train"].sha256, wandb=config.loop.wandb)
            scorers = Scorers(config.scorers, Source(folder=data, cache=runs() / "cache" / "references", reward=config.reward))
        job = RftTask(model, config, datasets, plan, processes, scorers, run)
        task = Task(modules=model.vlm, count=config.loop.batch, loss=job.loss, evaluate=job.evaluate, metric="shortfall")
        final = train(config.loop, run, task, say)
    finally:
        if scorers is not None:
            scorers.close()
    if run is not None:
        run.plot(CURVES, WINDOW)
        with torch.no_grad():
            for parameter_name, parameter in model.vlm.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(final[parameter_name])
        adapters.merge(model.vlm)
        checkpoint.save(model, run.path / "model")
        say(f"model: {run.path / 'model'}")
    return runs() / name


def _silent(text: str) -> None:
    """What the processes other than the first have to say."""
