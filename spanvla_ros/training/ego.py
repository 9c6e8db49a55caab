"""The ego MLP: a planner that knows its own motion and the command and sees nothing, as an ONNX graph for the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanvla_ros import config as configs
from spanvla_ros.contracts import Command, EgoHistory
from spanvla_ros.data.shards import Dataset
from spanvla_ros.engine import export
from spanvla_ros.model.graphs import Graph
from spanvla_ros.planning import motion
from spanvla_ros.training import baselines, lists, targets
from spanvla_ros.training.loop import LoopConfig, Task, train
from spanvla_ros.training.runs import Run, write_text

# what to do, from good states and from bad ones; negatives are what not to do
LABELS = ("pos", "rec")
INTERVAL_S = 0.5
FILE = "ego_mlp.onnx"


@dataclass(frozen=True, kw_only=True)
class EgoConfig:
    """Everything that `spanvla train ego_mlp` may be told."""

    loop: LoopConfig
    hidden: int = 256
    dropout: float = 0.1
    threads: int = 1


class EgoMlp(nn.Module):
    """Ego features (B, 19) -> residuals (B, T, 3) in metres and radians to the constant-turn roll-out."""

    def __init__(self, config: EgoConfig, ego: np.ndarray, residuals: np.ndarray):
        super().__init__()
        width, waypoints = ego.shape[1], residuals.shape[1]
        for name, value in (("mean", ego.mean(0)), ("spread", ego.std(0) + 1e-3), ("scale", residuals.std(0) + 1e-2)):
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)))
        self.net = nn.Sequential(
            nn.Linear(width, config.hidden), nn.SiLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, 3 * waypoints), nn.Unflatten(1, (waypoints, 3)),
        )  # fmt: skip

    def forward(self, ego: Tensor) -> Tensor:
        return self.net((ego - self.mean) / self.spread) * self.scale


def run_ego(config: EgoConfig, data: Path, name: str, say: Callable[[str], None]) -> Path:
    """Train on a data set's positive and recovery samples; returns the run folder, which holds the ONNX graph and the record."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.loop.seed)
    sets = {split: lists.check(Dataset(data, split, labels=LABELS), data, split) for split in ("train", "validation")}
    (ego, base, future), held_out = (_table(dataset) for dataset in sets.values())
    say(f"{len(ego)} samples, {len(held_out[0])} for validation")
    residuals = targets.residuals(future, base)
    model = EgoMlp(config, ego, residuals)
    inputs, wanted = torch.from_numpy(ego), torch.from_numpy(residuals)

    def loss(step: int, fraction: float, rows: np.ndarray) -> dict[str, Tensor]:
        return {"loss": F.smooth_l1_loss(model(inputs[rows]) / model.scale, wanted[rows] / model.scale, beta=0.1)}

    def evaluate() -> dict[str, Any]:
        waypoints = held_out[1] + model(torch.from_numpy(held_out[0])).numpy()
        turn = baselines.ade(held_out[1], held_out[2], INTERVAL_S)
        return baselines.ade(waypoints, held_out[2], INTERVAL_S) | {f"turn_{k}": v for k, v in turn.items()}

    run = Run(name, configs.to_dict(config), sets["train"].sha256)
    curves = {"loss": ("loss",), "ADE, m": ("ade_1s", "ade_3s", "ade_5s", "turn_ade_5s")}
    final = train(config.loop, run, Task(modules=model, count=len(ego), loss=loss, evaluate=evaluate, curves=curves, metric="ade_5s"), say)
    with torch.no_grad():
        for parameter, value in final.items():
            model.get_parameter(parameter).copy_(value)
    graph = Graph(module=model.eval(), inputs=("ego",), outputs=("residuals",), examples=(inputs[:1],))
    temporary = run.path / (FILE + ".tmp")
    temporary.write_bytes(export.trace(graph).SerializeToString())
    temporary.replace(run.path / FILE)
    write_text(run.path / "README.md", _card(run))
    say(f"written: {run.path / FILE}")
    return run.path


def _table(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ego (n, 19), constant-turn roll-outs and futures (n, T, 3), float32; the pictures stay on disk."""
    rows = []
    for index in range(len(dataset)):
        record = dataset.record(index)
        history = EgoHistory(
            stamps_ns=tuple(record["history"]["stamps_ns"]),
            acceleration_mps2=record["history"]["acceleration_mps2"],
            **{key: np.array(record["history"][key]) for key in ("poses_base", "speeds_mps", "yaw_rates_rps")},
        )
        future = np.array(record["future"], np.float32)
        rows.append((
            motion.features(history, Command(record["command"])), motion.roll_out(history, INTERVAL_S * np.arange(1, len(future) + 1)), future
        ))  # fmt: skip
    return tuple(np.stack(column) for column in zip(*rows))


def _card(run: Run) -> str:
    last = [entry for entry in run.metrics() if "ade_5s" in entry][-1]
    values = ", ".join(f"{key} {value:g} m" for key, value in last.items() if "ade" in key or key == "fde")
    return (
        "# Ego MLP\n\nA planner that sees nothing: ego history and command in, residuals to the constant-turn roll-out out. What pictures are worth\n"
        "is measured against it (`spanvla sim --planner ego_mlp`). Made by `spanvla train ego_mlp`; configuration, data and commit are in\n"
        f"`record.json`.\n\nValidation: {values}.\n"
    )
