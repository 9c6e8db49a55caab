import json

import pytest

from spanvla_ros.cli.main import main

pytest.importorskip("libsumo")


def test_expert_drive_writes_a_summary(tmp_path, capsys):
    assert main(["sim", "--families", "lane", "--seeds", "6003:6004", "--render", "none", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    (row,) = summary["scenarios"]
    assert {"family", "seed", "route_completion", "driving_score_lb21", "driving_score_lb20", "infractions"} <= set(row)
    assert row["route_completion"] > 0.95
    assert "lane     6003  completion 1.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--families", "nosuch"], "nosuch is no family"),
        (["--seeds", "a:b"], "seeds 'a:b' are no range"),
        (["--seeds", "6001:6001"], "are empty"),
        (["--seeds", "7500:7501"], "seed 7500 is in no range"),
        (["--planner", "spanvla", "--render", "none"], "needs pictures"),
        (["--planner", "spanvla", "--engine", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(["sim", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
