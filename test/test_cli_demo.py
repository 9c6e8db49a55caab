"""`spanvla demo`: its arguments, and the whole thing with real planner and simulator processes over DDS."""

import json
import subprocess
import sys
from collections import Counter

import bags
import numpy as np
import pytest

from spanvla_ros.cli import demo
from spanvla_ros.cli.main import main


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--families", "lane,fly"], "fly is no family; there are all, lane"),
        (["--seeds", "6000"], "seeds '6000' are no range"),
        (["--seeds", "6002:6000"], "are empty"),
        (["--families", ","], "nothing is no family"),
    ],
)
def test_wrong_arguments_are_explained_in_one_line(tmp_path, capsys, options, words):
    pytest.importorskip("libsumo")
    assert main(["demo", "--out", str(tmp_path), "--engine", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("spanvla: error: ") and error.count("\n") == 1


def test_a_broken_engine_is_named_before_anything_starts(tmp_path, capsys):
    pytest.importorskip("libsumo")
    assert main(["demo", "--out", str(tmp_path / "out"), "--engine", str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_progress_is_one_line():
    row = {"family": "lane", "seed": 1, "route_completion": 1.0, "driving_score_lb21": 100.0, "infractions": [], "wall_s": 3.0}
    assert demo.progress(row, 1, 2) == "[1/2] lane 1: route 100%, driving score 100, no infraction, 3 s"


def test_spread():
    assert demo.spread(range(10), 3) == [0, 4, 9] and demo.spread([1, 2], 6) == [1, 2] and demo.spread([], 6) == []


def test_a_node_that_dies_is_an_error_with_the_end_of_its_log(tmp_path):
    pytest.importorskip("rclpy")
    from spanvla_ros.ros.processes import Node, ProcessFailed

    log = tmp_path / "planner.log"
    with log.open("w") as out:
        child = subprocess.Popen([sys.executable, "-c", "print('out of tea'); raise SystemExit(3)"], stdout=out)
    child.wait()
    with pytest.raises(ProcessFailed, match="planner node ended with exit code 3.*out of tea"):
        Node("planner", child, log).check()


@pytest.fixture(scope="module")
def driven(tmp_path_factory, tiny_engine):
    """One short drive of the tiny model."""
    for module in ("rclpy", "libsumo", "moderngl", "matplotlib"):
        pytest.importorskip(module)
    out = tmp_path_factory.mktemp("demo")
    heard = {}
    real = demo.drive

    def remember(*args):
        heard["results"], heard["recording"] = real(*args)
        return heard["results"], heard["recording"]

    demo.drive = remember
    try:
        code = main(["demo", "--out", str(out), "--engine", str(tiny_engine), "--families", "red", "--seeds", "6000:6001"])
    finally:
        demo.drive = real
    assert code == 0
    return out, heard["results"], heard["recording"]


def test_demo_writes_summary_and_report(driven):
    out, _, _ = driven
    summary = json.loads((out / "summary.json").read_text())
    (scenario,) = summary["scenarios"]
    assert (scenario["family"], scenario["seed"]) == ("red", 6000)
    assert 0 <= scenario["route_completion"] <= 1 and 0 <= scenario["driving_score_lb21"] <= 100
    assert isinstance(scenario["infractions"], list)
    assert summary["plans"] > 30 and summary["plans_with_reasoning"] <= summary["plans"]
    assert 0 < summary["plan_latency_ms"]["p50"] <= summary["plan_latency_ms"]["p95"] <= summary["plan_latency_ms"]["p99"]
    assert summary["planning_rate_hz"] > 0 and summary["real_time_factor"] > 0
    # on a busy machine the simulated clock may stall, which is HOLD: how long is no property of the code
    assert sum(summary["state_share"].values()) == pytest.approx(1) and summary["state_share"]["NOMINAL"] > 0
    # the random tiny model sees something, too
    assert summary["black_image_change"]["n"] == demo.BLACK_PLANS and summary["black_image_change"]["mean_m"] > 0
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") == demo.MOMENTS and page.count("data:image/png") == 2
    assert (out / "strip.png").stat().st_size > 1000


def test_node_and_bag_make_identical_plans(driven, tiny_engine, tmp_path):
    """The same messages, once over DDS and once from a bag: equal arrays for equal stamps, to the last digit."""
    _, _, recording = driven
    messages = [(bags.IMAGE, stamp, bags.compressed(stamp, data)) for stamp, data in recording.images.items()]
    for sample in recording.odometry:
        half = sample.pose_odom[2] / 2
        message = bags.odometry(sample.stamp_ns, sample.pose_odom[0], sample.speed_mps, (0.0, 0.0, np.sin(half), np.cos(half)))
        message.pose.pose.position.y = sample.pose_odom[1]
        message.twist.twist.angular.z = sample.yaw_rate_rps
        messages.append((bags.ODOMETRY, sample.stamp_ns, message))
    path = bags.write(tmp_path / "bag", sorted(messages, key=lambda entry: entry[1]))
    # the command changes along the route; the bag knows one
    command = Counter(info["command"] for info in recording.plans()).most_common(1)[0][0]
    heard = {info["t0_ns"]: info for info in recording.plans() if info["command"] == command}
    assert len(heard) > 20
    arguments = ["bag", str(path), "--camera", f"front={bags.IMAGE}", "--odometry", bags.ODOMETRY, "--command", command]
    assert main([*arguments, "--engine", str(tiny_engine), "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/plans.jsonl").read_text().splitlines()]
    assert {line["t0_ns"] for line in lines} >= set(heard)
    for line in lines:
        if line["t0_ns"] in heard:
            info = heard[line["t0_ns"]]
            assert line["waypoints_base"] == info["waypoints_base"] and line["reasoning"] == info["reasoning"]
