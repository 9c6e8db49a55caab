"""`spanvla score scene` and `spanvla bench score`, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from spanvla_ros.cli.main import ERROR, main
from spanvla_ros.evaluation.pdm.fixtures import scene_names

FOLDER = Path(__file__).parent / "golden" / "pdm"
SCENE = FOLDER / "scenes" / f"{scene_names(FOLDER)[0]}.json"


def test_scene_prints_scores_and_draws(tmp_path, capsys):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([[100.0 * (i + 1), 0.0, 0.0] for i in range(8)]))
    assert main(["score", "scene", str(SCENE), "--plan", str(plan), "--explain", str(tmp_path / "out.png")]) == 0
    text = capsys.readouterr().out
    assert "plan 0: EPDMS 0.0000" in text and "dac: step" in text
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("plan", [np.zeros((7, 3)), np.full((8, 3), np.nan)])
def test_a_bad_plan_is_one_line(plan, tmp_path, capsys):
    np.save(tmp_path / "plan.npy", plan)
    assert main(["score", "scene", str(SCENE), "--plan", str(tmp_path / "plan.npy")]) == ERROR
    assert f"scene {SCENE.stem}: plans" in capsys.readouterr().err


def test_a_scene_without_centerline_is_one_line(tmp_path, capsys):
    (tmp_path / "scenes").mkdir()
    copy = tmp_path / "scenes" / SCENE.name
    copy.write_bytes(SCENE.read_bytes())
    assert main(["score", "scene", str(copy), "--plan", str(copy)]) == ERROR
    assert f"scene {SCENE.stem}: centerline is missing" in capsys.readouterr().err


def test_bench_writes_its_figures(tmp_path):
    assert main(["bench", "score", "--seconds", "0.01", "--json", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert [(row["version"], row["group"]) for row in figures] == [(v, g) for v in ("v1", "v2") for g in (1, 16, 64)]
    assert all(row["per_second_and_core"] > 0 for row in figures)
