"""The training loop of both stages: budget, schedule, data order, averaging over processes, exact resume.

All randomness of a step (batch, augmentation, noise) is derived from (seed, step, part of the batch), so a resumed run
repeats an uninterrupted one bit for bit, and with a `micro_batch` the number of processes changes nothing but rounding.
A budget in seconds counts training time only, without evaluation.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from spanvla_ros.contracts import ConfigError, SpanVLAError
from spanvla_ros.training.progress import Progress
from spanvla_ros.training.runs import Run
from spanvla_ros.training.sharding import sharded, whole, within
from spanvla_ros.training.state import State


class Diverged(SpanVLAError):
    """The loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Budget and optimiser. Exactly one of `seconds`, `steps` and `epochs` is given; batch is per step over all processes."""

    seconds: float | None = None
    steps: int | None = None
    epochs: float | None = None
    batch: int = 64
    micro_batch: int | None = None  # samples per forward pass, gradients are accumulated; None: a process's whole share at once
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.02  # share of learning_rate left at the end of the cosine
    warmup_steps: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.0  # decay of the averaged weights; 0 = none
    log_every: int = 50  # steps
    evaluate_every_s: float = 300.0
    save_every_s: float = 300.0
    patience: int = 0  # evaluations without a better validation metric that end the training, whose best weights are kept; 0: never
    wandb: str | None = None  # project at Weights & Biases; TensorBoard always gets the same numbers
    seed: int = 0

    def __post_init__(self):
        if sum(budget is not None for budget in (self.seconds, self.steps, self.epochs)) != 1:
            raise ConfigError("give exactly one of seconds, steps and epochs")
        for name in ("seconds", "steps", "epochs", "batch", "micro_batch", "log_every", "learning_rate", "clip"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, is {getattr(self, name)}")
        if self.patience < 0:
            raise ConfigError(f"patience must be at least 0, is {self.patience}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1), is {self.ema}")

    def parts(self, world: int, count: int | None = None) -> int:
        """Forward passes of a step, over `world` processes; a batch has at most `count` samples. ConfigError where they can't be shared evenly."""
        batch = self.batch if count is None else min(self.batch, count)
        parts = world if self.micro_batch is None else math.ceil(batch / self.micro_batch)
        if parts % world or parts > batch:
            raise ConfigError(
                f"a batch of {batch} makes {parts} parts (micro_batch is {self.micro_batch}), which {world} processes can't share evenly"
            )
        return parts


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one kind of training brings: `loss(step, fraction, ids)` -> named scalars with `loss` among them, `evaluate()` -> metrics,
    of which `metric` (smaller is better) decides about early stopping."""

    modules: nn.Module
    count: int
    loss: Callable[[int, float, np.ndarray], dict[str, Tensor]]
    evaluate: Callable[[], dict[str, Any]]
    curves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metric: str = "loss"


class Order:
    """Sample ids of a step: epochs are independent permutations, a batch may span two of them."""

    def __init__(self, count: int, batch: int, seed: int):
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self.kept: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        first = step * self.batch
        epochs = range(first // self.count, (first + self.batch - 1) // self.count + 1)
        self.kept = {e: self.kept[e] if e in self.kept else np.random.default_rng((self.seed, 17, e)).permutation(self.count) for e in epochs}
        start = first - epochs[0] * self.count
        return np.concatenate([self.kept[e] for e in epochs])[start : start + self.batch]


def learning_rate(config: LoopConfig, step: int, fraction: float) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)


def train(config: LoopConfig, run: Run | None, task: Task, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Train until the budget is spent; returns the final (averaged, where ema > 0; best, where patience > 0) weights by name.

    Under torch.distributed every process works on its parts of each batch; only rank 0 has a `run`, evaluates and saves.
    Weights may be sharded (`training.sharding`); the returned ones are whole, and those of rank 0 count.
    Raises Diverged with step and batch ids when the loss is not finite; the last checkpoint stays.
    """
    return _Training(config, run, task, say).run()


class _Training:
    def __init__(self, config: LoopConfig, run: Run | None, task: Task, say: Callable[[str], None]):
        self.config, self.folder, self.task = config, run, task
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.sharded = sharded(task.modules)
        parameters = {name: p for name, p in task.modules.named_parameters() if p.requires_grad}
        # biases and gains are not decayed
        groups = [
            {"params": [p for p in parameters.values() if (p.ndim > 1) == decayed], "weight_decay": config.weight_decay if decayed else 0.0}
            for decayed in (True, False)
        ]
        optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas, fused=True)
        self.parameters, self.optimiser = parameters, optimiser
        self.state = State(parameters, optimiser, averaged=config.ema > 0)
        self.at = self.state.restore(run, self.world)
        self.progress = Progress(say)
        if self.at.step and run is not None:
            run.forget_after(self.at.step)
            self.progress.line(f"resuming {run.path} at step {self.at.step} ({self.at.spent_s:.0f} s of training)")
        self.order = Order(task.count, config.batch, config.seed)
        self.steps = config.steps or (math.ceil(config.epochs * task.count / self.order.batch) if config.epochs else None)
        self.parts = config.parts(self.world, task.count)
        self.evaluated = self.saved = dataclasses.replace(self.at)

    def run(self) -> dict[str, Tensor]:
        self.task.modules.train()
        sums: dict[str, float] = {}
        counted, since = 0, (time.monotonic(), self.at.step)
        while True:
            started = time.monotonic()
            fraction, evaluating, saving = self._agree()
            if evaluating or saving:
                # in this order: what the evaluation says about stopping belongs into the checkpoint
                if evaluating:
                    self._evaluate()
                if saving:
                    self._save()
                since = time.monotonic(), self.at.step
                continue
            if fraction >= 1:
                break
            values = self._step(fraction)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            counted += 1
            self.at.spent_s += time.monotonic() - started
            self.progress.at(self._fraction(), f"step {self.at.step}, loss {values['loss']:.4g}")
            if self.folder is not None and self.at.step % self.config.log_every == 0:
                self._report({name: value / counted for name, value in sums.items()}, since)
                sums, counted, since = {}, 0, (time.monotonic(), self.at.step)
        if self.at.step > self.saved.step:
            self._save()
        if not self._stopped():
            self._evaluate()
        self.progress.close()
        final = {name: value.clone() for name, value in whole(self.state.weights()).items()}
        best = self.folder.best() if self.config.patience and self.folder is not None else None
        return best or final

    def _fraction(self) -> float:
        return self.at.spent_s / self.config.seconds if self.config.seconds else self.at.step / (self.steps or 1)

    def _stopped(self) -> bool:
        return 0 < self.config.patience <= self.at.waited

    def _agree(self) -> tuple[float, bool, bool]:
        """Share of the budget that is spent, and whether it is time to evaluate and to save: all follow the clock of rank 0."""
        at, config = self.at, self.config
        due = (
            at.step > since.step and at.spent_s - since.spent_s >= every
            for since, every in ((self.evaluated, config.evaluate_every_s), (self.saved, config.save_every_s))
        )
        fraction = 1.0 if self._stopped() else self._fraction()
        values = [fraction, *(float(d and fraction < 1) for d in due)]
        if self.world > 1:
            shared = torch.tensor(values, dtype=torch.float64)
            dist.broadcast(shared, 0)
            values = shared.tolist()
        return values[0], bool(values[1]), bool(values[2])

    def _step(self, fraction: float) -> dict[str, float]:
        """One update; returns the losses, averaged over all parts of the batch, and the norm of the gradient."""
        config, task, step = self.config, self.task, self.at.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step, fraction)
        ids = self.order(step)
        self.optimiser.zero_grad(set_to_none=True)
        mine = range(self.rank, self.parts, self.world)
        sums: dict[str, Tensor] = {}
        for part in mine:
            torch.manual_seed((config.seed * 1_000_003 + step) * 64 + part)
            losses = within(task.modules, task.loss, step, fraction, ids[part :: self.parts])
            (losses["loss"] / len(mine)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(mine)
        means = self._average(sums)
        if not math.isfinite(means["loss"]):
            raise Diverged(f"loss is not finite at step {step}; batch ids {sorted(int(i) for i in ids)}; the last checkpoint is kept")
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), config.clip)
        self.optimiser.step()
        self.at.step += 1
        if self.state.average:
            # a plain mean in the beginning, so that the random start is forgotten
            decay = min(config.ema, self.at.step / (self.at.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.state.average.values()), list(self.parameters.values()), 1 - decay)
        return means | {"gradient_norm": float(whole({"norm": norm})["norm"])}

    def _average(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Mean over the processes of the losses and, unless sharding has done it already, of all gradients, in one message."""
        names = sorted(losses)
        values = torch.stack([losses[name].float() for name in names])
        if self.world > 1:
            # a parameter without gradient on one process (a loss that is off in this phase) has none on all
            used = [] if self.sharded else [p for p in self.parameters.values() if p.grad is not None]
            flat = torch.cat([p.grad.reshape(-1) for p in used] + [values])
            dist.all_reduce(flat)
            flat /= self.world
            offset = 0
            for p in used:
                p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
                offset += p.numel()
            values = flat[offset:]
        return dict(zip(names, values.tolist()))

    def _report(self, means: dict[str, float], since: tuple[float, int]) -> None:
        at, batch = self.at, self.order.batch
        rate = (at.step - since[1]) * batch / max(1e-9, time.monotonic() - since[0])
        fraction = self._fraction()
        left = at.spent_s * (1 / fraction - 1)
        rates = {"learning_rate": self.optimiser.param_groups[0]["lr"], "samples_per_s": round(rate, 1)}
        assert self.folder is not None
        self.folder.log({"step": at.step, "seconds": round(at.spent_s, 1)} | rates | means)
        text = " ".join(f"{name} {_short(value)}" for name, value in means.items())
        self.progress.line(
            f"step {at.step}  {100 * fraction:.1f} %  {rate:.0f} samples/s  epoch {at.step * batch / self.task.count:.2f}  {text}  ETA {_clock(left)}"
        )

    def _evaluate(self) -> None:
        """Metrics of the weights to be used. One process has them all, so only sharded weights need the others for it."""
        self.evaluated = dataclasses.replace(self.at)
        if self.folder is None and not self.sharded:
            return
        task, at = self.task, self.at
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.state.assign(self.state.weights())
        task.modules.eval()
        with torch.no_grad():
            metrics = {"step": at.step, "seconds": round(at.spent_s, 1)} | within(task.modules, task.evaluate)
        task.modules.train()
        self.state.assign(current)
        if self.config.patience:
            value = metrics[task.metric]
            at.best, at.waited = (value, 0) if value < at.best else (at.best, at.waited + 1)
        best = whole(self.state.weights()) if self.config.patience and not at.waited else None
        if self.folder is None:
            return
        if best is not None:
            self.folder.save_best(best)
        self.folder.log(metrics)
        self.progress.line("  evaluation " + " ".join(f"{k}={_short(v)}" for k, v in metrics.items() if k not in ("step", "seconds")))
        if self._stopped():
            self.progress.line(f"  {task.metric} has not improved for {at.waited} evaluations: stopping with the best, {_short(at.best)}")
        if task.curves:
            self.folder.plot(task.curves)

    def _save(self) -> None:
        self.saved = dataclasses.replace(self.at)
        if self.folder is not None or self.sharded:
            tensors = self.state.tensors()
            if self.folder is not None:
                self.folder.save(self.at.step, tensors, vars(self.at))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    return f"{int(max(0, seconds)) // 60}:{int(max(0, seconds)) % 60:02d}"
