"""A bag played over DDS, in lock-step, to the real planner node gives the plans of `spanvla bag`; three cameras, raw commands in between."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
pytest.importorskip("rosbags", reason="rosbags is not installed")

import bags  # noqa: E402
from bags import IMAGE, ODOMETRY, S  # noqa: E402
from ros_peer import NODE, ROOT, environment, process  # noqa: E402

from spanvla_ros.cli import bag  # noqa: E402
from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.data.replay import NODE_LIMITS  # noqa: E402
from spanvla_ros.planning.inputs import InputLimits  # noqa: E402
from spanvla_ros.ros import parameters, rig  # noqa: E402

CAMERAS = {"front": IMAGE, "front_left": "/cam/left/image/compressed", "front_right": "/cam/right/image/compressed"}
COMMAND = "/command"
COMPARED = ("t0_ns", "command", "image_ages_s", "skew_s", "waypoints_base", "reasoning", "pose_odom", "speed_mps", "seed", "tokens", "engine_hash")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The random tiny model with three cameras; its residuals are small, so that its plans are drivable."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from spanvla_ros.engine.export import export
    from spanvla_ros.model import tiny

    torch.set_num_threads(1)
    spec = tiny.build().spec
    more = spec.vision_tokens * (len(CAMERAS) - 1)
    scale = tuple((0.02 * k, 0.01 * k, 0.001) for k in range(1, 11))
    folder = tmp_path_factory.mktemp("engines") / "rig"
    export(
        tiny.build(spec=dataclasses.replace(spec, cameras=tuple(CAMERAS), prompt_tokens=spec.prompt_tokens + more + 16, action_scale=scale)), folder
    )
    return folder


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """Side cameras some milliseconds off, odometry between the pictures and late, a command in between."""
    messages = []
    for topic, stamp, message in bags.drive(2.6, odometry_hz=33):
        # recorded in the order of arrival: the odometry comes 70 ms after its stamp
        messages.append((topic, stamp + (7 * S // 100 if topic == ODOMETRY else 0), message))
        if topic == IMAGE:
            shade = 60 + message.header.stamp.nanosec // 10_000_000
            for k, side in enumerate(("front_left", "front_right")):
                late = stamp + (k + 1) * 4_000_000
                messages.append((CAMERAS[side], late, bags.compressed(late, bags.jpeg(shade + 20 * k))))
    messages.append((COMMAND, bags.START_NS + 2 * S, bags.T["std_msgs/msg/String"](data="left")))
    return bags.write(tmp_path_factory.mktemp("bags") / "drive", sorted(messages, key=lambda entry: entry[1]))


def test_a_bag_is_planned_over_with_the_limits_of_the_node():
    values = {row.name: row.default for row in parameters.PLANNER}
    assert parameters.limits(InputLimits, values) == NODE_LIMITS and bag.DEMO_RIG == rig.DEMO_RIG


def plans(folder):
    return [json.loads(line) for line in (folder / "plans.jsonl").read_text().splitlines()]


def test_a_bag_played_to_the_node_gives_the_plans_of_the_command(tmp_path, engine, drive, monkeypatch):
    topics = {"cameras": CAMERAS, "odometry": ODOMETRY, "command": COMMAND}
    (tmp_path / "topics.yaml").write_text(json.dumps(topics))
    words = ["bag", str(drive), "--topics", str(tmp_path / "topics.yaml")]
    assert main([*words, "--engine", str(engine), "--out", str(tmp_path / "bag")]) == 0
    expected = plans(tmp_path / "bag")
    assert len(expected) >= 10 and {line["command"] for line in expected} == {"unknown", "left"}
    options = ["-p", f"engine_dir:='{engine}'", "-p", "lockstep:=true", "-p", "use_sim_time:=true", "-p", "rig_check:='off'"]
    # the random model's plans need not be drivable, they only need to be the same
    options += [word for row in parameters.PLANNER if row.name.startswith("limits.") for word in ("-p", f"{row.name}:={row.high}")]
    wired = {f"image/{name}": topic for name, topic in CAMERAS.items()} | {"odometry": ODOMETRY, "command": COMMAND}
    options += [word for name, topic in wired.items() for word in ("-r", f"{NODE}/input/{name}:={topic}")]
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds_shm.xml"))
    command = ["-m", "spanvla_ros.ros.main", "planner", "--ros-args", *options]
    with process(command, environment(int(os.environ["ROS_DOMAIN_ID"]), tmp_path), tmp_path / "planner.log"):
        # twice: what was played before must not matter
        for name in ("first", "second"):
            assert main([*words, "--play", "--out", str(tmp_path / name)]) == 0, (tmp_path / "planner.log").read_text()
    for name in ("first", "second"):
        found = plans(tmp_path / name)
        assert [{key: line[key] for key in COMPARED} for line in found] == [{key: line[key] for key in COMPARED} for line in expected]
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["planner"] == f"node {NODE}" and summary["skipped"] == json.loads((tmp_path / "bag/summary.json").read_text())["skipped"]


def test_nobody_who_listens_is_said_in_one_line(tmp_path, drive, monkeypatch, capfd):
    from spanvla_ros.ros import player

    monkeypatch.setattr(player, "PLANNER_TIMEOUT_S", 0.5)
    words = [word for name, topic in CAMERAS.items() for word in ("--camera", f"{name}={topic}")]
    assert main(["bag", str(drive), *words, "--odometry", ODOMETRY, "--play", "--out", str(tmp_path)]) == 2
    assert f"nobody listens to {IMAGE}" in capfd.readouterr().err
