"""What a training must remember to go on as if it had never stopped: weights, their average, the optimiser's moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spanvla_ros.training.runs import Run
from spanvla_ros.training.sharding import like, whole

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(kw_only=True)
class Counters:
    """Where a training stands. best: smallest validation metric so far; waited: evaluations since then."""

    step: int = 0
    spent_s: float = 0.0
    best: float = float("inf")
    waited: int = 0


class State:
    """Trained parameters by name, the optimiser, and the averaged weights (empty without averaging)."""

    def __init__(self, parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, averaged: bool):
        self.parameters, self.optimiser = parameters, optimiser
        self.average = {name: p.detach().clone() for name, p in parameters.items()} if averaged else {}

    def weights(self) -> dict[str, Tensor]:
        """The weights to be used: averaged where there is an average."""
        return self.average or {name: p.detach() for name, p in self.parameters.items()}

    @torch.no_grad()
    def assign(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.parameters.items():
            p.copy_(values[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything, unsharded. To be called in all processes."""
        found = {f"weight/{name}": p.detach() for name, p in self.parameters.items()}
        found |= {f"average/{name}": value for name, value in self.average.items()}
        for name, p in self.parameters.items():
            found |= {f"{key}/{name}": value for key, value in self.optimiser.state.get(p, {}).items()}
        return whole(found)

    @torch.no_grad()
    def restore(self, run: Run | None, world: int) -> Counters:
        """Load the newest checkpoint in the process that has the run, and hand it to all others."""
        stored: dict[str, Tensor] = {}
        counters = Counters()
        found = run.restore() if run is not None else None
        if found is not None:
            stored, values = found
            counters = Counters(**{name: values[name] for name in vars(counters) if name in values})
        if world > 1:
            shared = torch.tensor(list(vars(counters).values()), dtype=torch.float64)
            dist.broadcast(shared, 0)
            step, spent, best, waited = shared.tolist()
            counters = Counters(step=int(step), spent_s=spent, best=best, waited=int(waited))
        if not counters.step:
            return counters
        for name, p in self.parameters.items():
            p.copy_(self._shared(stored.get(f"weight/{name}"), p, world))
            if self.average:
                self.average[name].copy_(self._shared(stored.get(f"average/{name}"), p, world))
            known = torch.tensor([f"step/{name}" in stored], dtype=torch.int64)
            if world > 1:
                dist.broadcast(known, 0)
            # a parameter that no loss has reached yet has no moments
            if known.item():
                like_of = {"step": torch.zeros((), dtype=torch.float32, device=p.device), "exp_avg": p, "exp_avg_sq": p}
                self.optimiser.state[p] = {key: self._shared(stored.get(f"{key}/{name}"), like_of[key], world).clone() for key in MOMENTS}
        return counters

    @staticmethod
    def _shared(value: Tensor | None, target: Tensor, world: int) -> Tensor:
        if world == 1 or hasattr(target, "placements"):
            return like(value, target)
        full = torch.empty_like(target) if value is None else value.to(target.device).clone()
        dist.broadcast(full, 0)
        return full
