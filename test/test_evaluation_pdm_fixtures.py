"""Our PDM scores against the official devkit's, for a small part of the fixtures."""

import json
from pathlib import Path

import numpy as np
import pytest

from spanvla_ros.cli.main import main
from spanvla_ros.evaluation.pdm.aggregation import Group, stage_weights, two_stage
from spanvla_ros.evaluation.pdm.comparison import compare
from spanvla_ros.evaluation.pdm.fixtures import read_fixture, scene_names

FOLDER = Path(__file__).parent / "golden" / "pdm"


@pytest.fixture(scope="module")
def comparison():
    for result in compare(FOLDER):
        pass
    return result


def test_no_value_differs_from_the_official_one(comparison):
    assert (comparison.scenes, comparison.proposals) == (8, 96)
    assert not [(name, tally.examples) for name, tally in comparison.metrics.items() if tally.mismatches]


def test_states_are_compared_for_real(comparison):
    assert comparison.metrics["simulated states"].compared == 96 * 41 * 11
    assert comparison.metrics["simulated states"].largest < 1e-6


def test_golden_scenes_hold_every_sub_metric_passing_and_failing():
    rows = [row for name in scene_names(FOLDER) for row in read_fixture(FOLDER, name).rows]
    for key in ("nc", "dac", "ddc", "ttc", "comfort"):
        assert {row["v1"][key] for row in rows} >= {0.0, 1.0}, key
    for key in ("nc", "dac", "ddc", "tlc", "ttc", "lk", "hc", "ec"):
        assert {row["v2_log_replay"]["unfiltered"][key] for row in rows} >= {0.0, 1.0}, key


def test_a_wrong_golden_value_is_a_mismatch(tmp_path, capsys):
    name = scene_names(FOLDER)[-1]  # a frame without a previous one
    assert name.endswith("prev")
    for kind, suffix in (("scenes", ".json"), ("arrays", ".npz"), ("results", ".json")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / (name + suffix)).write_bytes((FOLDER / kind / (name + suffix)).read_bytes())
    assert main(["score", "fixtures", str(tmp_path)]) == 0
    path = tmp_path / "results" / f"{name}.json"
    document = json.loads(path.read_text())
    document["proposals"][3]["v1"]["nc"] = 0.5
    path.write_text(json.dumps(document))
    assert main(["score", "fixtures", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 1
    assert f"mismatch in v1 nc: {name} [3]" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["mismatches"] == 1


def groups():
    document = json.loads((FOLDER / "two_stage.json").read_text())
    for entry in document["groups"]:
        def row(pair, side):
            return document["expected_rows"][pair[side]["token"]]

        second = entry["second_stage"]
        yield entry, Group(
            name=str(entry["group"]),
            endpoints=tuple(np.array(entry["first_stage"][side]["endpoint"]) for side in ("now", "prev")),
            starts=tuple(np.array([pair[side]["start_point"] for pair in second]) for side in ("now", "prev")),
            first=tuple({"score": row(entry["first_stage"], side)["score"]} for side in ("now", "prev")),
            second=tuple([{"score": row(pair, side)["score"]} for pair in second] for side in ("now", "prev")),
        )


def test_two_stage_groups_are_the_official_ones():
    for entry, group in groups():
        for stage, values in two_stage([group]).items():
            assert values["score"] == pytest.approx(entry["expected"][stage], abs=1e-9), (group.name, stage)


def test_far_starts_weigh_the_same():
    assert stage_weights(np.zeros(2), np.full((4, 2), 50.0)).tolist() == [0.25] * 4
