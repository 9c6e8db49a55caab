"""Samples of NAVSIM go through both stages of training; the recipes are what the paper says."""

import shutil
from pathlib import Path

import navsim_logs
import pytest

from spanvla_ros import config as configs
from spanvla_ros.cli.main import main

CONFIG = Path(__file__).parent.parent / "config" / "train"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set with a training and a validation log."""
    root = tmp_path_factory.mktemp("navsim")
    navsim_logs.write_map(root / "maps")
    for split in ("train", "validation"):
        navsim_logs.write_log(root, navsim_logs.name_of(split), count=30)
    (root / "navtrain.yaml").write_text("frame_interval: 1\ntokens: null\n")
    places = ["--logs", str(root / "navsim_logs/trainval"), "--sensors", str(root / "sensor_blobs/trainval"), "--maps", str(root / "maps")]
    assert main(["data", "navsim", *places, "--filter", str(root / "navtrain.yaml"), "--out", str(root / "data"), "--workers", "1"]) == 0
    return root / "data"


@pytest.mark.slow
def test_two_steps_of_both_stages(folder, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("SPANVLA_RUNS", str(tmp_path))
    few = ["loop.steps=2", "loop.batch=4"]
    assert main(["train", "vlm", "--config", str(CONFIG / "tiny_vlm.yaml"), "--data", str(folder), *few, "seeing_share=0", "auxiliary_weight=0"]) == 0
    assert main(["train", "expert", "--config", str(CONFIG / "tiny_expert.yaml"), "--data", str(folder), *few]) == 0
    assert (tmp_path / "tiny_expert" / "model").is_dir()


def test_renamed_test_split_is_not_trained_on(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setenv("SPANVLA_RUNS", str(tmp_path))
    known = "2021.05.25.12.30.39_veh-25_00005_00215"  # one of nuPlan's test logs
    shutil.copytree(folder, tmp_path / "data")
    for path in sorted((tmp_path / "data/shards").glob("*")):
        log, _, rest = path.name.rpartition("_")
        if log == navsim_logs.name_of("train"):
            path.rename(path.with_name(f"{known}_{rest}"))
    assert main(["train", "vlm", "--config", str(CONFIG / "tiny_vlm.yaml"), "--data", str(tmp_path / "data"), "loop.steps=2"]) == 2
    assert "belongs to NAVSIM's test splits; use navtrain" in capsys.readouterr().err


def test_recipes_say_what_the_paper_says():
    pytest.importorskip("torch")
    from spanvla_ros.training.expert import ExpertConfig
    from spanvla_ros.training.vlm import VlmConfig

    vlm = configs.load(VlmConfig, CONFIG / "navsim_vlm.yaml", [])
    assert (vlm.loop.batch, vlm.train_vision, len(vlm.spec.cameras), len(vlm.spec.taps)) == (32, False, 3, 18)
    assert vlm.spec.frame_offsets_s == (-1.5, -1.0, -0.5, 0.0) and vlm.spec.waypoints * vlm.spec.waypoint_interval_s == 5.0
    assert configs.load(ExpertConfig, CONFIG / "navsim_expert.yaml", []).vlm == "navsim_vlm"


def test_recipe_of_reinforcement_says_what_the_paper_says():
    rft = pytest.importorskip("spanvla_ros.training.rft")
    recipe = configs.load(rft.RftConfig, CONFIG / "navsim_rft.yaml", [])
    assert (recipe.group, recipe.loop.learning_rate, recipe.loop.steps, recipe.rollout) == (64, 3e-5, 6000, "tokens")
