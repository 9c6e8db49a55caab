"""Stage one on a pretrained backbone: frozen parts, LoRA, recomputation, exact resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from test_model_backbone import folder  # noqa: E402, F401
from test_training_loop import DATA, assert_same, runs, silent, state, stop_after  # noqa: E402, F401

from spanvla_ros import config as configs  # noqa: E402
from spanvla_ros.contracts import ConfigError  # noqa: E402
from spanvla_ros.model import checkpoint  # noqa: E402
from spanvla_ros.training.processes import Processes  # noqa: E402
from spanvla_ros.training.vlm import VlmConfig, run_vlm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
READER = "reader=synthetic_samples:Dataset"
COMMON = (READER, "spec.prompt_tokens=220", "spec.max_reasoning_tokens=80", "loop.steps=2", "seeing_share=0", "bf16=false")


def train(name: str, backbone: Path, *overrides: str) -> Path:
    path = ROOT / "config/train/tiny_vlm.yaml"
    config = configs.load(VlmConfig, path, [*COMMON, f"backbone={backbone}", "train_vision=false", "loop.save_every_s=0", *overrides])
    return run_vlm(Processes(), config, path, DATA, name, silent)


def losses(run: Path) -> list[float]:
    return [m["loss"] for m in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in m]


def untrained(folder: Path) -> dict[str, torch.Tensor]:  # noqa: F811
    from test_model_backbone import load

    return {name: value.bfloat16().float() for name, value in checkpoint.weights(load(folder)).items()}


@pytest.mark.parametrize("lora", [0, 4])
def test_folder_trains_and_resumes_bit_equal(runs, folder, monkeypatch, lora):  # noqa: F811
    """Every trained weight comes back, not only the output layer; what is frozen comes from the folder again."""
    more = (f"lora.rank={lora}", "lora.dropout=0.5")
    whole = train(f"whole-{lora}", folder, *more)
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        stop_after(context, 1)
        train(f"cut-{lora}", folder, *more)
    cut = train(f"cut-{lora}", folder, *more)
    assert_same(state(whole), state(cut))
    assert losses(whole) == losses(cut)
    trained, before = (checkpoint.weights(checkpoint.load(whole / "model")), untrained(folder))
    assert_same(trained, checkpoint.weights(checkpoint.load(cut / "model")))
    moved = {name for name, value in trained.items() if not name.startswith("expert.") and not torch.equal(value, before[name])}
    assert not any(".visual." in name for name in moved) and any("embed_tokens" in name for name in moved)
    layers = {name.partition("layers.")[2] for name in moved if "layers." in name}
    kinds = {name.split(".")[2] for name in layers}
    assert {"q_proj", "o_proj"} <= kinds and ("gate_proj" in kinds) == (lora == 0)
    assert {name[0] for name in layers} == {"0", "1"}
    assert json.loads((whole / "record.json").read_text())["config"]["backbone_sha256"]


def test_recomputation_changes_nothing_but_memory(runs, folder):  # noqa: F811
    plain, again = (train(name, folder, f"gradient_checkpointing={on}") for name, on in (("plain", "false"), ("again", "true")))
    assert_same(state(plain), state(again))


def test_a_trained_run_starts_another(runs, folder):  # noqa: F811
    """Also where part of it was frozen or stood in adapters."""
    train("first", folder, "lora.rank=2")
    path = ROOT / "config/train/tiny_vlm.yaml"
    config = configs.load(VlmConfig, path, [*COMMON, "init=first", "loop.steps=1", "loop.learning_rate=1e-12"])
    second = run_vlm(Processes(), config, path, DATA, "second", silent)
    first = checkpoint.weights(checkpoint.load(runs / "first/model"))
    for name, value in checkpoint.weights(checkpoint.load(second / "model")).items():
        assert name.startswith("expert.") or torch.allclose(value, first[name], atol=1e-3), name


def test_two_origins_are_one_too_many(folder):  # noqa: F811
    with pytest.raises(ConfigError, match="give init .* or backbone .*, not both"):
        configs.load(VlmConfig, ROOT / "config/train/tiny_vlm.yaml", [f"backbone={folder}", "init=first"])
