"""`spanvla bench node`: its arithmetic, and a short run of the real thing."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from spanvla_ros.cli import _node_bench  # noqa: E402
from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.ros.bench import Heard  # noqa: E402

S = 1_000_000_000
STAGES = {"decode": 30.0, "observe": 2.0, "preprocess": 20.0, "prefill": 0.0, "reasoning": 0.5, "trajectory": 0.5, "check": 1.0, "total": 21.0}


def test_parts_add_up_and_what_is_lost_is_counted():
    """Fifty pictures and the last for the counts; every tenth gets no plan; three of a hundred odometry messages are lost."""
    heard = Heard(sent_s={k * S // 10: k / 10 for k in range(51)}, odometry=100, gap_s=0.12)
    for k in range(51):
        if k % 10 or k == 50:
            info = {"anchor_ns": k * S // 10, "timings_ms": STAGES, "received": {"odometry": 97}}
            heard.plans.append((k / 10 + 0.060, info))
    found = _node_bench.summarize(heard, 5.0, 2.5, 2)
    assert found["plans"] == 18 and found["pictures_without_plan"] == 2  # of the twenty after 3 s
    assert found["odometry"] == {"sent": 100, "lost": 3} and found["node_cpu_share"] == 0.5
    middle = {name: row["p50"] for name, row in found["parts_ms"].items()}
    assert middle == pytest.approx(
        {"decode": 30, "preprocess": 20, "model": 1, "observe": 2, "check": 1, "transport": 6, "overhead": 9, "total": 60}, abs=1e-6
    )
    assert "odometry lost: 3 of 100; pictures without a plan: 2" in _node_bench.table(found)


@pytest.mark.parametrize("words, named", [(["--seconds", "3"], "--seconds is 3"), (["--cores", "0"], "--cores 0")])
def test_bad_input_is_one_line(words, named, capsys):
    assert main(["bench", "node", *words]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


@pytest.mark.slow
def test_the_real_node_answers(tmp_path):
    """How fast is a question of the machine; that plans and counts come is not."""
    assert main(["bench", "node", "--seconds", "12", "--json", str(tmp_path / "node.json")]) == 0
    found = json.loads((tmp_path / "node.json").read_text())
    assert found["schema"] == "spanvla-bench-node/1" and found["plans"] > 0 and found["odometry"]["sent"] == 1200
    assert all(row["p50"] > 0 for row in found["parts_ms"].values())
