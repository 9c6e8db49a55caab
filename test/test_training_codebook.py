from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import synthetic_samples  # noqa: E402

from spanvla_ros import config as configs  # noqa: E402
from spanvla_ros.cli import main  # noqa: E402
from spanvla_ros.contracts import ConfigError, DataError  # noqa: E402
from spanvla_ros.geometry import constant_turn, to_global  # noqa: E402
from spanvla_ros.model import actions, checkpoint, decoding  # noqa: E402
from spanvla_ros.planning import prompt  # noqa: E402
from spanvla_ros.training import answers, batches, cache, codebook  # noqa: E402
from spanvla_ros.training.codebook import CodebookConfig, build, motions  # noqa: E402
from spanvla_ros.training.processes import Processes  # noqa: E402
from spanvla_ros.training.vlm import VlmConfig, run_vlm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def drives(count: int, seed: int, interval_s: float = 0.1) -> np.ndarray:
    """Futures (n, T, 3) of cars that change speed and yaw rate smoothly; some stand."""
    rng = np.random.default_rng(seed)
    steps = round(5.0 / interval_s)
    poses = np.zeros((count, steps, 3))
    for row in range(count):
        speed, goal, turn, pose = rng.uniform(0, 12), rng.uniform(0, 12), rng.uniform(-0.3, 0.3), np.zeros(3)
        speed, goal = (0.0, 0.0) if row % 5 == 0 else (speed, goal)
        for k in range(steps):
            speed += np.clip(goal - speed, -2, 2) * interval_s
            pose = to_global(pose, constant_turn(speed, turn * min(speed, 3) / 3, np.array([interval_s]))[0])
            poses[row, k] = pose
    return poses


class Drives:
    """A reader with records only: what a codebook needs."""

    def __init__(self, folder: Path, split: str, grid: object, labels: tuple[str, ...]):
        assert labels == ("pos", "rec")
        if split == "validation" and Path(folder).name == "only_training":
            raise DataError(f"{folder} holds no sample of split 'validation'")
        self.dense = drives(300 if split == "train" else 40, seed=len(split))
        self.sha256 = hashlib.sha256(self.dense.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.dense)

    def record(self, index: int) -> dict:
        dense = self.dense[index]
        return {"id": f"drive-{index}", "future": dense[4::5].tolist(), "future_10hz": dense.tolist()}


class Sampled(synthetic_samples.Dataset):
    """The drawn scenes, with their records."""

    def record(self, index: int) -> dict:
        sample = self[index]
        return {"id": sample.id, "future": sample.future.tolist()}


def test_k_disks_cover_the_motions_and_keep_apart():
    found = motions(drives(300, 0), 5)
    config = CodebookConfig(size=400, radius_m=0.5)
    made = build(found, config, "data")
    assert len(made) == 400 and not made.segments[0].any() and len(np.unique(made.segments, axis=0)) == 400
    assert made.radius_m < 0.5  # that large, they would cover everything before there are 400
    nearest = actions.distance(made.box.corners(found[::7])[:, None], made.box.corners(made.segments)[None]).min(axis=1)
    assert nearest.mean() < made.radius_m and np.quantile(nearest, 0.95) < 2 * made.radius_m
    again = build(found, config, "data")
    assert again.sha256 == made.sha256
    other = build(found, CodebookConfig(size=400, radius_m=0.5, seed=1), "data")
    assert other.sha256 != made.sha256


def test_a_disk_is_all_within_the_radius_of_its_pick():
    """Three motions 0.4 m apart with a radius of 0.45 m: the pick decides who goes with it, and the entry is their mean."""
    line = np.zeros((3, 3))
    line[:, 0] = 5.0, 5.4, 5.8
    second = {round(float(codebook._disks(line, CodebookConfig(size=2), 0.45, np.random.default_rng(seed))[1, 0]), 3) for seed in range(20)}
    assert second == {5.2, 5.4, 5.6}
    # with the middle one everything is gone, so there is no fourth
    assert codebook._disks(line, CodebookConfig(size=4), 0.45, np.random.default_rng(0)) is None


def test_too_little_data_says_how_much_there_is():
    with pytest.raises(DataError, match=r"holds 11 different motions, a codebook of 64 needs more"):
        build(motions(constant_turn(4.0, 0.1, 0.5 * np.arange(1, 12) ** 1.1)[None]), CodebookConfig(size=64), "x")
    with pytest.raises(ConfigError, match="interval_s must be one of"):
        CodebookConfig(interval_s=0.25)


def test_command_builds_and_measures(tmp_path, capsys):
    out = tmp_path / "made" / "codebook.safetensors"
    command = ["train", "codebook", "--data", "/drives", "--out", str(out), "reader=test_training_codebook:Drives", "size=1024"]
    assert main.main(command) == 0
    said = capsys.readouterr().out
    assert "1024 motions of 0.5 s from 13800 in 300 samples" in said and "40 held-out samples" in said
    mean = float(said.split("mean ")[1].split(" m")[0])
    assert 0 < mean < 0.1
    made = actions.load(out, 1024)
    assert made.data_sha256 == Drives(Path("/drives"), "train", None, ("pos", "rec")).sha256
    fine = tmp_path / "fine.safetensors"
    assert main.main([*command[:5], str(fine), command[6], "size=256", "interval_s=0.1"]) == 0
    assert "from 15000 in" in capsys.readouterr().out and actions.load(fine).interval_s == 0.1
    assert main.main(["train", "codebook", "--data", "/only_training", "--out", str(out), command[6], "size=64"]) == 0
    assert "no reconstruction error" in capsys.readouterr().out


def test_loss_is_that_of_the_paper(monkeypatch):
    """w (L_LM + lambda_a L_Action), by hand."""

    class Model:
        first_action = 5
        spec = type("Spec", (), {"action_tokens": 3})

    torch.manual_seed(0)
    scores = torch.randn(7, 8)
    sequence = {"labels": torch.tensor([1, 2, 6, 7, 3, 5, 5]), "row": torch.tensor([0, 0, 0, 0, 1, 1, 1])}
    each = torch.nn.functional.cross_entropy(scores, sequence["labels"], reduction="none")
    weight = torch.tensor([40.0, 1.0])
    found = answers.losses(scores, sequence, Model, weight, lambda_a=0.5)
    everything = torch.cat([40 * each[:4], each[4:]])
    torch.testing.assert_close(found["answer"], everything.mean() + 0.5 * everything[[2, 3, 5, 6]].mean())
    torch.testing.assert_close(found["text"], each[[0, 1, 4]].mean())
    torch.testing.assert_close(found["action"], each[[2, 3, 5, 6]].mean())
    # without actions and weights: the mean over all tokens, as ever
    Model.spec.action_tokens = 0
    plain = answers.losses(scores, sequence, Model, torch.ones(2), lambda_a=1.0)
    torch.testing.assert_close(plain["answer"], each.mean())
    assert "action" not in plain


def test_stage_one_learns_to_speak_its_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("SPANVLA_RUNS", str(tmp_path))
    reader, data = "test_training_codebook:Sampled", Path("/synthetic/48")
    out = tmp_path / "codebook.safetensors"
    assert main.main(["train", "codebook", "--data", str(data), "--out", str(out), f"reader={reader}", "size=64"]) == 0
    path = ROOT / "config/train/tiny_vlm.yaml"
    config = configs.load(VlmConfig, path, [f"reader={reader}", f"codebook={out}", "loop.steps=2", "seeing_share=0.0"])
    assert config.lambda_a == 1.0 and config.cot_weight == 40.0
    folder = run_vlm(Processes(), config, path, data, "speaks", lambda text: None)
    model = checkpoint.load(folder / "model")
    assert model.spec.action_tokens == 64 and model.vlm.hf.lm_head.weight.shape[0] == model.tokenizer.get_vocab_size()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(m["action"]) for m in lines if "loss" in m)
    assert {"validation_action", "validation_action_black", "token_broken"} <= lines[-1].keys()
    # what was trained on is what the prompt writes
    stored = cache.build(data, "train", model.spec, folder / "model" / checkpoint.TOKENIZER, tmp_path / "cache", workers=1, reader=reader)
    plans = answers.action_ids(model, stored)
    sample = Sampled(data)[3]
    wanted = prompt.answer(sample.reasoning, model.codebook.tokenise(sample.future))
    ids = batches.followed(batches.answers(stored, np.array([3])), plans[[3]])[0]
    assert model.tokenizer.decode(ids.tolist(), skip_special_tokens=False) == wanted
    # its own words may not be a plan yet; that is told, not hidden
    inputs = {k: torch.from_numpy(v) for k, v in batches.prompts(stored, np.arange(4)).items()}
    reasoned = model.decode_greedy(model.vision(batches.pixels(stored, np.arange(4), model.spec)), **inputs)
    spoken = decoding.speak(model, reasoned)
    assert spoken.complete.tolist() == [bool(((row >= 0) & (row < 64)).all()) for row in spoken.tokens - model.first_action]
    # a codebook of another size: the tokenizer of the run doesn't fit
    other = tmp_path / "other.safetensors"
    assert main.main(["train", "codebook", "--data", str(data), "--out", str(other), f"reader={reader}", "size=32"]) == 0
    changed = configs.load(VlmConfig, path, [f"reader={reader}", f"codebook={other}", "loop.steps=2"])
    with pytest.raises(ConfigError, match="64 action tokens in a row, the codebook has 32"):
        run_vlm(Processes(), changed, path, data, "speaks", lambda text: None)
