"""The training loop of both stages: budget, schedule, data order, averaging over processes, exact resume.

All randomness of a step (batch, augmentation, noise) is derived from (seed, step), so a resumed run repeats an
uninterrupted one bit for bit. A budget in seconds counts training time only, without evaluation.
"""

from __future__ import annotations

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
from spanvla_ros.training.runs import Run


class Diverged(SpanVLAError):
    """The loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Budget and optimiser. Exactly one of `seconds` and `steps` is given; batch is per step over all processes."""

    seconds: float | None = None
    steps: int | None = None
    batch: int = 64
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
    seed: int = 0

    def __post_init__(self):
        if (self.seconds is None) == (self.steps is None):
            raise ConfigError("give exactly one of seconds and steps")
        for name in ("batch", "log_every", "learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, is {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1), is {self.ema}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one kind of training brings: `loss(step, fraction, ids)` -> named scalars with `loss` among them, `evaluate()` -> metrics."""

    modules: nn.Module
    count: int
    loss: Callable[[int, float, np.ndarray], dict[str, Tensor]]
    evaluate: Callable[[], dict[str, Any]]
    curves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
    """Train until the budget is spent; returns the final (averaged, where ema > 0) weights by name.

    Under torch.distributed every process works on its share of each batch; only rank 0 has a `run`, evaluates and saves.
    Raises Diverged with step and batch ids when the loss is not finite; the last checkpoint stays.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    parameters = {name: p for name, p in task.modules.named_parameters() if p.requires_grad}
    # biases and gains are not decayed
    groups = [
        {"params": [p for p in parameters.values() if (p.ndim > 1) == decayed], "weight_decay": config.weight_decay if decayed else 0.0}
        for decayed in (True, False)
    ]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas, fused=True)
    average = {name: p.detach().clone() for name, p in parameters.items()} if config.ema else {}
    step, spent = _resume(run, parameters, optimiser, average, rank, world, say)
    order = Order(task.count, config.batch, config.seed)

    def snapshot() -> dict[str, Tensor]:
        return average if config.ema else {name: p.detach() for name, p in parameters.items()}

    def evaluate(at: int) -> None:
        current = {name: p.detach().clone() for name, p in parameters.items()}
        _assign(parameters, snapshot())
        task.modules.eval()
        with torch.no_grad():
            metrics = {"step": at, "seconds": round(spent, 1)} | task.evaluate()
        task.modules.train()
        _assign(parameters, current)
        assert run is not None
        run.log(metrics)
        say("  evaluation " + " ".join(f"{k}={_short(v)}" for k, v in metrics.items() if k not in ("step", "seconds")))
        if task.curves:
            run.plot(task.curves)

    def save(at: int) -> None:
        if run is not None:
            run.save(at, _state(parameters, optimiser, average), {"step": at, "spent_s": spent, "loop": "v1"})

    task.modules.train()
    sums: dict[str, float] = {}
    counted = 0
    last_evaluation = last_save = spent
    report_from = time.monotonic(), step
    while True:
        started = time.monotonic()
        fraction = spent / config.seconds if config.seconds else step / (config.steps or 1)
        if world > 1:
            # every process follows the clock of rank 0
            shared = torch.tensor([fraction], dtype=torch.float64)
            dist.broadcast(shared, 0)
            fraction = float(shared)
        if fraction >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step, fraction)
        torch.manual_seed((config.seed * 1_000_003 + step) * 64 + rank)
        ids = order(step)
        losses = task.loss(step, fraction, ids[rank::world])
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        finite = torch.isfinite(losses["loss"].detach()).double()
        if world > 1:
            finite = _average_gradients(parameters, finite, world)
        if float(finite) < 1:
            raise Diverged(f"loss is not finite at step {step}; batch ids {sorted(int(i) for i in ids)}; the last checkpoint is kept")
        norm = nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        optimiser.step()
        step += 1
        if config.ema:
            # a plain mean in the beginning, so that the random start is forgotten
            decay = min(config.ema, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        for name, value in {**losses, "gradient_norm": norm}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        counted += 1
        spent += time.monotonic() - started
        if run is None:
            continue
        if step % config.log_every == 0:
            rate = (step - report_from[1]) * len(ids) / max(1e-9, time.monotonic() - report_from[0])
            fraction = spent / config.seconds if config.seconds else step / (config.steps or 1)
            left = (config.seconds - spent) if config.seconds else spent * (1 / fraction - 1)
            means = {name: value / counted for name, value in sums.items()}
            rates = {"learning_rate": optimiser.param_groups[0]["lr"], "samples_per_s": round(rate, 1)}
            run.log({"step": step, "seconds": round(spent, 1)} | rates | means)
            text = " ".join(f"{name} {_short(value)}" for name, value in means.items())
            say(f"step {step}  {100 * fraction:.1f} %  {rate:.0f} samples/s  epoch {step * len(ids) / task.count:.2f}  {text}  ETA {_clock(left)}")
            sums, counted, report_from = {}, 0, (time.monotonic(), step)
        if spent - last_evaluation >= config.evaluate_every_s:
            evaluate(step)
            last_evaluation, report_from = spent, (time.monotonic(), step)
        if spent - last_save >= config.save_every_s:
            save(step)
            last_save = spent
    if run is not None:
        save(step)
        evaluate(step)
    return {name: value.clone() for name, value in snapshot().items()}


def _state(parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, average: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {f"weight/{name}": p.detach() for name, p in parameters.items()}
    state |= {f"average/{name}": value for name, value in average.items()}
    for name, p in parameters.items():
        for key, value in optimiser.state.get(p, {}).items():
            state[f"{key}/{name}"] = value
    return state


def _resume(
    run: Run | None,
    parameters: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
    rank: int,
    world: int,
    say: Callable[[str], None],
) -> tuple[int, float]:
    """Load the newest checkpoint on rank 0 and hand it to all others; returns (step, seconds spent)."""
    step, spent = 0, 0.0
    found = run.restore() if run is not None else None
    if found is not None:
        tensors, state = found
        step, spent = state["step"], state["spent_s"]
        _assign(parameters, {n: tensors[f"weight/{n}"] for n in parameters})
        for name in average:
            average[name].copy_(tensors[f"average/{name}"])
        for name, p in parameters.items():
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}/{name}" in tensors]
            optimiser.state[p] = {k: tensors[f"{k}/{name}"].clone() for k in keys}
        run.forget_after(step)
        say(f"resuming {run.path} at step {step} ({spent:.0f} s of training)")
    if world > 1:
        shared = torch.tensor([float(step), spent], dtype=torch.float64)
        dist.broadcast(shared, 0)
        step, spent = int(shared[0]), float(shared[1])
        for name, p in parameters.items():
            state = optimiser.state[p]
            if step and not state:
                state |= {"step": torch.zeros((), dtype=torch.float32), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            for tensor in (p.data, *state.values(), *([average[name]] if average else [])):
                dist.broadcast(tensor, 0)
    return step, spent


def _average_gradients(parameters: dict[str, nn.Parameter], finite: Tensor, world: int) -> Tensor:
    """Mean of all gradients over the processes in one message; returns the share of processes with a finite loss."""
    # a parameter without gradient on one process (a loss that is off in this phase) has none on all
    used = [p for p in parameters.values() if p.grad is not None]
    flat = torch.cat([p.grad.reshape(-1) for p in used] + [finite.reshape(1).float()])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for p in used:
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()
    return flat[-1]


@torch.no_grad()
def _assign(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, p in parameters.items():
        p.copy_(values[name])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    return f"{int(max(0, seconds)) // 60}:{int(max(0, seconds)) % 60:02d}"
