"""Early stopping, records beside metrics.jsonl, a disk that fills up, and data that must not be trained on."""

from __future__ import annotations

import json
import resource
import sys
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from test_training_loop import silent, toy  # noqa: E402

from spanvla_ros.contracts import ConfigError, DataError  # noqa: E402
from spanvla_ros.model import checkpoint, tiny  # noqa: E402
from spanvla_ros.training import cache, lists, progress  # noqa: E402
from spanvla_ros.training.loop import LoopConfig, Task, train  # noqa: E402
from spanvla_ros.training.runs import Run  # noqa: E402


def watched(values: list[float]) -> Task:
    """The toy, whose validation error is read from a list, one value per evaluation."""
    torch.manual_seed(1)
    task, left = toy(), list(values)
    return Task(modules=task.modules, count=task.count, loss=task.loss, evaluate=lambda: {"error": left.pop(0)}, metric="error")


def test_patience_ends_training_with_the_best_weights(tmp_path):
    config = LoopConfig(steps=9, batch=4, warmup_steps=1, evaluate_every_s=0, save_every_s=0, patience=2, log_every=1)
    run, said = Run("early", {}, "data", tmp_path), []
    final = train(config, run, watched([3.0, 1.0, 2.0, 1.5, 0.1]), said.append)
    assert run.latest().name == "step-00000004"
    assert any("error has not improved for 2 evaluations: stopping with the best, 1" in line for line in said)
    # what was best stood after two steps
    twin = Run("twin", {}, "data", tmp_path)
    assert not torch.equal(train(LoopConfig(steps=9, batch=4, warmup_steps=1), twin, toy(), silent)["weight"], final["weight"])
    assert torch.equal(run.best()["weight"], final["weight"])
    assert not torch.equal(run.restore()[0]["weight/weight"], final["weight"])


def test_patience_survives_an_interruption(tmp_path):
    config = LoopConfig(steps=9, batch=4, warmup_steps=1, evaluate_every_s=0, save_every_s=0, patience=2)
    whole = train(config, Run("whole", {}, "data", tmp_path), watched([3.0, 1.0, 2.0, 1.5]), silent)
    with pytest.raises(IndexError):  # nothing to read for the third evaluation: the process dies there
        train(config, Run("cut", {}, "data", tmp_path), watched([3.0, 1.0]), silent)
    run = Run("cut", {}, "data", tmp_path)
    step = int(run.latest().name[-8:])
    cut = train(config, run, watched([3.0, 1.0, 2.0, 1.5][step:]), silent)
    assert torch.equal(whole["weight"], cut["weight"])


def test_epochs_are_a_budget(tmp_path):
    run = Run("epochs", {}, "data", tmp_path)
    train(LoopConfig(epochs=1.5, batch=8, warmup_steps=1), run, toy(), silent)  # of 20 samples
    assert run.latest().name == "step-00000004"


def test_tensorboard_has_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run("board", {}, "data", tmp_path)
    train(LoopConfig(steps=3, batch=4, log_every=1, warmup_steps=1), run, toy(), silent)
    board = EventAccumulator(str(run.path / "tensorboard"))
    board.Reload()
    wanted = [m["loss"] for m in run.metrics() if "loss" in m]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(wanted) and len(wanted) == 3


def test_wandb_gets_the_numbers_where_it_is_asked_for(tmp_path, monkeypatch):
    seen: list = []
    fake = types.SimpleNamespace(init=lambda **k: seen.append(k) or types.SimpleNamespace(log=lambda values, step: seen.append((step, values))))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    Run("with", {"a": 1}, "data", tmp_path, wandb="cars").log({"step": 3, "loss": 0.5, "note": None})
    assert seen[0]["project"] == "cars" and seen[0]["id"] == "with" and seen[1] == (3, {"loss": 0.5})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        Run("without", {}, "data", tmp_path, wandb="cars")


def test_full_disk_keeps_the_last_good_checkpoint_and_model(tmp_path):
    run, model = Run("full", {}, "data", tmp_path), tiny.build()
    run.save(1, {"a": torch.ones(2)}, {"step": 1})
    checkpoint.save(model, tmp_path / "model")
    before = (tmp_path / "model" / checkpoint.WEIGHTS).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(DataError, match="step-00000001 is kept"):
            run.save(2, {"a": torch.zeros(20_000)}, {"step": 2})
        with pytest.raises(DataError, match="can't be written"):
            checkpoint.save(model, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.restore()[1] == {"step": 1} and not list(run.path.glob("*.tmp"))
    assert (tmp_path / "model" / checkpoint.WEIGHTS).read_bytes() == before and not (tmp_path / "model.tmp").exists()


@pytest.mark.parametrize("name", ["navtest", "warmup_navtest_split", "navhard_two_stage", "NavTest"])
def test_navsim_tests_are_refused(name):
    with pytest.raises(DataError, match=f"'{name}' is of a NAVSIM test split"):
        lists.refuse_tests(["navtrain", name], "training data /somewhere")


def test_training_list_with_a_test_sample_is_refused(tmp_path):
    from spanvla_ros.data.sample import SCHEMA

    (tmp_path / "data/shards").mkdir(parents=True)
    record = {"schema": SCHEMA, "id": "navtest-0a1b", "split": "train", "label": "pos", "family": "log", "map": "sg-one-north"}
    (tmp_path / "data/shards/drive.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "data/shards/drive.jpegs").write_bytes(b"")
    with pytest.raises(DataError, match="'navtest-0a1b' is of a NAVSIM test split, .* use navtrain"):
        cache.open_reader(tmp_path / "data", "train", tiny.tiny_spec())
    with pytest.raises(DataError, match="'navtest' is of a NAVSIM test split"):
        cache.open_reader(Path("/synthetic/48"), "navtest", tiny.tiny_spec(), "synthetic_samples:Dataset")


def test_bar_only_where_somebody_looks(monkeypatch, capsys):
    said: list[str] = []
    shown = progress.Progress(said.append)
    shown.at(0.5, "step 1")
    shown.line("a line")
    shown.close()
    assert said == ["a line"] and capsys.readouterr().err == ""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.Progress(said.append)
    shown.at(0.5, "step 2, loss 0.1")
    shown.line("another")
    assert "50.0%" in capsys.readouterr().err and said[-1] == "another"
    shown.close()
