from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from spanvla_ros import config as configs  # noqa: E402
from spanvla_ros.contracts import ConfigError, DataError  # noqa: E402
from spanvla_ros.model import checkpoint  # noqa: E402
from spanvla_ros.training import loop as loops  # noqa: E402
from spanvla_ros.training.expert import ExpertConfig, run_expert  # noqa: E402
from spanvla_ros.training.loop import Diverged, LoopConfig, Task, train  # noqa: E402
from spanvla_ros.training.processes import Processes  # noqa: E402
from spanvla_ros.training.runs import Run  # noqa: E402
from spanvla_ros.training.vlm import VlmConfig, run_vlm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
READER = "reader=synthetic_samples:Dataset"
DATA = Path("/synthetic/48")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder of runs for the module: the data cache is made once."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("runs")
    patch.setenv("SPANVLA_RUNS", str(folder))
    yield folder
    patch.undo()


def silent(text: str) -> None:
    pass


def vlm(name: str, *overrides: str) -> Path:
    path = ROOT / "config/train/tiny_vlm.yaml"
    return run_vlm(Processes(), configs.load(VlmConfig, path, [READER, *overrides]), path, DATA, name, silent)


def expert(name: str, source: str, *overrides: str) -> Path:
    config = configs.load(ExpertConfig, ROOT / "config/train/tiny_expert.yaml", [READER, f"vlm={source}", *overrides])
    return run_expert(Processes(), config, DATA, name, silent)


def stop_after(monkeypatch, steps: int) -> None:
    """The process dies in the middle of training, after a checkpoint."""
    batch = loops.Order.__call__

    def call(self, step):
        if step == steps:
            raise KeyboardInterrupt
        return batch(self, step)

    monkeypatch.setattr(loops.Order, "__call__", call)


def state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(sorted(folder.glob("step-*"))[-1] / "state.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("stage", ["vlm", "expert"])
def test_resumed_run_equals_uninterrupted(runs, monkeypatch, stage):
    often = "loop.save_every_s=0"
    if stage == "vlm":
        make = vlm
    else:
        vlm("source")
        make = lambda name, *overrides: expert(name, "source", *overrides)  # noqa: E731
    whole = make(f"{stage}-whole", often)
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        stop_after(context, 2)
        make(f"{stage}-cut", often)
    cut = runs / f"{stage}-cut"
    assert not (cut / "model").exists()
    make(f"{stage}-cut", often)
    assert_same(state(whole), state(cut))
    assert_same(checkpoint.weights(checkpoint.load(whole / "model")), checkpoint.weights(checkpoint.load(cut / "model")))
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 4
    record = json.loads((cut / "record.json").read_text())
    assert record["data_sha256"] and record["config"]["loop"]["steps"] == 4


def test_expert_starts_at_the_roll_out_and_leaves_the_vlm_alone(runs):
    vlm("frozen")
    expert("frozen-expert", "frozen")
    before, after = (checkpoint.weights(checkpoint.load(runs / name / "model")) for name in ("frozen", "frozen-expert"))
    for name, value in before.items():
        same = torch.equal(value, after[name])
        assert same or name.startswith("expert."), name
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    last = json.loads((runs / "frozen-expert/metrics.jsonl").read_text().splitlines()[-1])
    assert {"ade_5s", "black_ade_5s", "turn_ade_5s", "blind_ade_5s", "oracle_ade_5s"} <= last.keys()


def test_another_configuration_does_not_continue_a_run(runs):
    vlm("settled")
    with pytest.raises(ConfigError, match="loop.*choose another --run"):
        vlm("settled", "loop.steps=6")


def toy(weight_at_step=lambda step: 1.0) -> Task:
    model = torch.nn.Linear(3, 1)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

    def loss(step, fraction, ids):
        return {"loss": (model(inputs[torch.from_numpy(ids)]) * weight_at_step(step)).square().mean()}

    return Task(modules=model, count=20, loss=loss, evaluate=lambda: {"weight": float(model.weight.sum())})


def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    run = Run("toy", {}, "data", tmp_path)
    config = LoopConfig(steps=6, batch=4, save_every_s=0, log_every=1)
    with pytest.raises(Diverged, match=r"not finite at step 3; batch ids \[\d+, \d+, \d+, \d+\]"):
        train(config, run, toy(lambda step: float("nan") if step == 3 else 1.0), silent)
    assert run.latest().name == "step-00000003"
    assert all(torch.isfinite(v).all() for v in run.restore()[0].values())


def test_failed_save_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    run = Run("toy", {}, "data", tmp_path)
    run.save(1, {"a": torch.ones(2)}, {"step": 1})

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("spanvla_ros.training.runs.save_file", full)
    with pytest.raises(DataError, match="no space left.*step-00000001 is kept"):
        run.save(2, {"a": torch.zeros(2)}, {"step": 2})
    tensors, values = run.restore()
    assert values == {"step": 1} and torch.equal(tensors["a"], torch.ones(2))


def test_every_sample_is_seen_once_per_epoch():
    order = loops.Order(10, 4, seed=3)
    seen = np.concatenate([order(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    assert list(loops.Order(10, 4, seed=3)(2)) == list(seen[8:12])


def test_time_budget_ends_a_run_and_its_cosine(tmp_path):
    rates = []
    config = LoopConfig(seconds=0.3, batch=4, warmup_steps=1, log_every=1)
    run = Run("toy", {}, "data", tmp_path)
    train(config, run, toy(), silent)
    rates = [m["learning_rate"] for m in run.metrics() if "learning_rate" in m]
    assert rates[0] == pytest.approx(1e-3, rel=0.2) and rates[-1] < 1e-4


@pytest.mark.parametrize("values", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 1, "batch": 0}, {"steps": 1, "ema": 1.0}])
def test_impossible_loop_is_refused(values):
    with pytest.raises(ConfigError):
        LoopConfig(**values)
