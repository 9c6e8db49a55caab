"""One process, two, and two that share the weights: the same training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from torch import nn  # noqa: E402

from spanvla_ros.contracts import SpanVLAError  # noqa: E402
from spanvla_ros.training import loop as loops  # noqa: E402
from spanvla_ros.training.expert import ExpertConfig, run_expert  # noqa: E402
from spanvla_ros.training.loop import LoopConfig, Task, train  # noqa: E402
from spanvla_ros.training.processes import Processes, launch  # noqa: E402
from spanvla_ros.training.runs import Run  # noqa: E402
from spanvla_ros.training.sharding import shard, sharded  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


def silent(text: str) -> None:
    pass


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def run(self, x):
        return x + torch.tanh(self.inner(x))


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.out = nn.Linear(6, 1)


def toy(split: bool) -> Task:
    torch.manual_seed(0)
    model = Toy()
    if split:
        shard(model, model.layers)

    def forward(x):
        for layer in model.layers:
            x = layer.run(x)
        return model.out(x)

    def loss(step, fraction, ids):
        x = INPUTS[torch.from_numpy(ids)]
        return {"loss": (forward(x + 0.1 * torch.randn_like(x)) - x.sum(1, keepdim=True)).square().mean()}

    return Task(modules=model, count=24, loss=loss, evaluate=lambda: {"error": float(forward(INPUTS).square().mean())}, metric="error")


def toys(processes: Processes, folder: Path) -> None:
    """Whole, and interrupted and resumed, with the weights in one piece and shared among the processes."""
    config = LoopConfig(steps=5, batch=8, micro_batch=2, log_every=1, save_every_s=0, evaluate_every_s=0, ema=0.5, warmup_steps=1, learning_rate=0.01)
    call = loops.Order.__call__

    def stops(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return call(self, step)

    for split in (False, True) if processes.world > 1 else (False,):
        for name in ("whole", "cut"):
            open_run = lambda: Run(f"{name}-{processes.world}-{split}", {}, "data", folder) if processes.rank == 0 else None  # noqa: B023, E731
            if name == "cut":
                loops.Order.__call__ = stops
                try:
                    train(config, open_run(), toy(split), silent)
                except KeyboardInterrupt:
                    loops.Order.__call__ = call
            task = toy(split)
            assert sharded(task.modules) == split
            final = train(config, open_run(), task, silent)
            if processes.rank == 0:
                torch.save(final, folder / f"{name}-{processes.world}-{split}.pt")


def metrics(folder: Path, key: str) -> list[float]:
    return [m[key] for m in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if key in m]


def test_sharded_and_shared_work_equal_one_process_and_resume_bit_equal(tmp_path):
    toys(Processes(), tmp_path)
    launch(2, toys, (tmp_path,))
    one = torch.load(tmp_path / "whole-1-False.pt")
    for name in ("1-False", "2-False", "2-True"):
        whole, cut = (torch.load(tmp_path / f"{kind}-{name}.pt") for kind in ("whole", "cut"))
        for key, value in whole.items():
            assert torch.equal(value, cut[key]), (name, key)
            assert torch.allclose(value, one[key], atol=1e-6), (name, key)
        for kind in ("loss", "error"):
            found = metrics(tmp_path / f"whole-{name}", kind)
            assert found == pytest.approx(metrics(tmp_path / "whole-1-False", kind), abs=1e-5) and len(set(found)) == len(found)


def unfair(processes: Processes, folder: Path) -> None:
    train(LoopConfig(steps=1, batch=8, micro_batch=3), None, toy(False), silent)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(SpanVLAError, match=r"batch of 8 makes 3 parts \(micro_batch is 3\), which 2 processes can't share evenly"):
        launch(2, unfair, (tmp_path,))


def test_such_a_batch_is_refused_before_anything_is_read(tmp_path):
    config = ExpertConfig(vlm=str(tmp_path / "none"), loop=LoopConfig(steps=1, batch=8, micro_batch=8))
    with pytest.raises(SpanVLAError, match="a batch of 8 makes 1 parts"):
        run_expert(Processes(rank=0, world=2), config, tmp_path / "none", "unfair", silent)


def vlm(folder: Path, name: str, start: list[str], *extra: str) -> list[float]:
    """`spanvla train vlm` on the tiny model; the losses of its steps."""
    environment = os.environ | {"SPANVLA_RUNS": str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "test")]), "OMP_NUM_THREADS": "1"}
    settings = ["reader=synthetic_samples:Dataset", "loop.micro_batch=4", "loop.steps=3", "bf16=false", "gradient_checkpointing=true"]
    line = ["spanvla_ros.cli.main", "train", "vlm", "--config", str(ROOT / "config/train/tiny_vlm.yaml"), "--data", "/synthetic/48", "--run", name]
    done = subprocess.run([sys.executable, *start, *line, *settings, *extra], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / name / "model/model.safetensors").exists()
    return metrics(folder / name, "loss")


@pytest.mark.timeout(600)
def test_torchrun_with_shared_weights_trains_as_one_process(tmp_path):
    """The real command line: FSDP, gradient checkpointing, two processes over gloo."""
    one = vlm(tmp_path, "one", ["-m"])
    # without the two dashes torchrun takes --run for an abbreviation of an option of its own
    two = vlm(tmp_path, "two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"], "fsdp=true")
    assert len(one) == 3 and two == pytest.approx(one, abs=1e-5)
