import json
import re

import bags
import cv2
import numpy as np
import pytest
from bags import IMAGE, ODOMETRY, START_NS, S
from helpers import demo_spec
from rosbags.rosbag2 import StoragePlugin

from spanvla_ros import geometry
from spanvla_ros.cli.main import main
from spanvla_ros.contracts import Plan
from spanvla_ros.data.bag import Bag
from spanvla_ros.data.film import calibration
from spanvla_ros.engine import load


class Stub:
    """Plans the constant-turn roll-out, shifted to the left, and remembers what it was asked."""

    spec, engine_hash, offset_m = demo_spec(), "0" * 64, 0.0

    def __init__(self):
        self.observations = []

    def plan(self, observation, max_tokens=None):
        self.observations.append(observation)
        offset = self.offset_m
        speed = float(observation.history.speeds_mps[-1])
        return Plan(
            t0_ns=observation.t0_ns,
            waypoints_base=geometry.constant_turn(speed, 0.0, 0.5 * np.arange(1, 11)) + [0.0, offset, 0.0],
            waypoint_interval_s=0.5,
            pose_odom=observation.pose_odom,
            speed_mps=speed,
            reasoning="the road is free.",
            tokens=5,
            seed=observation.t0_ns,
            engine_hash=self.engine_hash,
            timings_ms={"total": 10.0},
        )

    def close(self):
        pass


@pytest.fixture
def planner(monkeypatch):
    stub = Stub()
    monkeypatch.setattr(load, "load_planner", lambda folder, backend="auto": stub)
    return stub


def call(path, out, *more, camera=f"front={IMAGE}", topic=ODOMETRY):
    return main(["bag", str(path), "--camera", camera, "--odometry", topic, "--engine", str(out), "--out", str(out), *more])


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_every_image_with_history_gives_a_plan(tmp_path, planner, storage):
    path = bags.write(tmp_path / "bag", bags.drive(seconds=3.0), storage)
    assert call(path, tmp_path / "out", "--command", "left") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out/plans.jsonl").read_text().splitlines()]
    # 31 images, the history of 1.5 s is there from image 15 on
    assert summary["images"] == 31 and summary["plans"] == summary["plans_with_reasoning"] == len(lines) == 16
    assert summary["skipped"] == {"HISTORY_SHORT": 15}
    assert [line["t0_ns"] for line in lines] == [START_NS + k * S // 10 for k in range(15, 31)]
    assert lines[0]["image_stamps_ns"] == {"front": [START_NS + S, START_NS + 3 * S // 2]}
    assert lines[0]["command"] == "left" and lines[0]["reasoning"] == "the road is free."
    assert summary["plan_latency_ms"] == {"p50": 10.0, "p95": 10.0, "p99": 10.0}
    assert summary["ade_m"]["1"]["n"] == 6 and summary["ade_m"]["1"]["model"] == pytest.approx(0, abs=1e-6)
    assert summary["ade_m"]["2"] is None and summary["ade_m"]["3"] is None


def test_pictures_show_the_plan(tmp_path, planner):
    path = bags.write(tmp_path / "bag", bags.drive())
    assert call(path, tmp_path / "out") == 0
    strip = cv2.imread(str(tmp_path / "out/strip.png"))
    # the pictures are grey: colour can only be the plan
    assert (np.ptp(strip.astype(int), axis=2) > 60).sum() > 1000
    if (tmp_path / "out/overlay.mp4").exists():
        assert cv2.VideoCapture(str(tmp_path / "out/overlay.mp4")).read()[0]


def test_truncated_pictures_are_counted_and_skipped(tmp_path, planner, caplog):
    messages = bags.drive()
    index = next(i for i, (topic, stamp, _) in enumerate(messages) if topic == IMAGE and stamp == START_NS + 2 * S)
    messages[index] = (IMAGE, START_NS + 2 * S, bags.compressed(START_NS + 2 * S, bags.jpeg(9)[:-100]))
    path = bags.write(tmp_path / "bag", messages)
    assert call(path, tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    # the frame is missing as the newest one at 2.0 s and as the older one at 2.5 s
    assert summary["skipped"] == {"HISTORY_SHORT": 15, "IMAGE_UNREADABLE": 1, "IMAGE_MISSING": 1}
    assert summary["plans"] == 14 and "truncated" in caplog.text


def test_bad_odometry_is_counted_and_skipped(tmp_path, planner):
    messages = bags.drive()
    nan = bags.odometry(START_NS + 2 * S + 1, float("nan"), 8.0)
    zero = bags.odometry(START_NS + 2 * S + 2, 16.0, 8.0, quaternion=(0.0, 0.0, 0.0, 0.0))
    messages += [(ODOMETRY, START_NS + 2 * S + 1, nan), (ODOMETRY, START_NS + 2 * S + 2, zero)]
    path = bags.write(tmp_path / "bag", sorted(messages, key=lambda entry: entry[1]))
    assert call(path, tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["skipped"]["ODOMETRY_INVALID"] == 2 and summary["plans"] == 16


def test_late_odometry_is_waited_for(tmp_path, planner):
    """Recorded order is the order of arrival: images that come before their odometry still get their plan."""
    messages = sorted(bags.drive(), key=lambda entry: entry[1] - (S // 5 if entry[0] == IMAGE else 0))
    path = bags.write(tmp_path / "bag", messages)
    assert call(path, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["plans"] == 16


def test_raw_images_feed_the_same_way(tmp_path, planner):
    make = bags.T["sensor_msgs/msg/Image"]
    drawn, rgbs = np.random.default_rng(0), {}
    messages = []
    for topic, stamp, m in bags.drive(2.0):
        if topic == IMAGE:
            rgbs[stamp] = drawn.integers(0, 255, (252, 448, 3), dtype=np.uint8)
            shape = {"height": 252, "width": 448, "encoding": "rgb8", "is_bigendian": 0, "step": 448 * 3}
            topic, m = "/raw", make(header=m.header, data=rgbs[stamp].ravel(), **shape)
        messages.append((topic, stamp, m))
    path = bags.write(tmp_path / "bag", messages)
    assert call(path, tmp_path / "out", camera="front=/raw") == 0
    # the first observation is that of the warm-up
    first = planner.observations[1].images["front"][0]
    np.testing.assert_array_equal(first.rgb, rgbs[first.stamp_ns])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(camera=f"left={IMAGE}"), ("camera 'left' is unknown", "front")),
        (dict(camera="front"), ("--camera 'front' is not of the form NAME=TOPIC",)),
        (dict(camera="front=/nope"), ("topic /nope is not in", f"{IMAGE} (sensor_msgs/msg/CompressedImage)", f"{ODOMETRY} (nav_msgs/msg/Odometry)")),
        (dict(topic="/nope"), ("odometry: topic /nope is not in", f"{ODOMETRY} (nav_msgs/msg/Odometry)")),
        (dict(topic=IMAGE), ("has type sensor_msgs/msg/CompressedImage, needed is nav_msgs/msg/Odometry",)),
    ],
)
def test_wrong_arguments_are_explained_in_one_line(tmp_path, planner, capsys, options, words):
    path = bags.write(tmp_path / "bag", bags.drive(0.5))
    assert call(path, tmp_path / "out", **options) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanvla: error: ") and error.count("\n") == 1
    assert all(word in error for word in words)


def test_bags_without_a_plan_are_errors(tmp_path, planner, capsys):
    empty = bags.write(tmp_path / "empty", [], topics=[(IMAGE, "sensor_msgs/msg/CompressedImage")])
    short = bags.write(tmp_path / "short", bags.drive(0.5))
    garbage = tmp_path / "garbage.mcap"
    garbage.write_bytes(b"not a bag")
    (tmp_path / "folder").mkdir()
    for path, word in [
        (tmp_path / "missing", "doesn't exist"),
        (empty, "is empty"),
        (short, "allows no plan"),
        (garbage, "can't be read"),
        (tmp_path / "folder", "no metadata.yaml"),
    ]:
        assert call(path, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert word in error and error.count("spanvla: error") == 1 and "Traceback" not in error


def test_calibration_comes_from_the_bag(tmp_path):
    half = np.sqrt(0.5)
    tf = bags.T["tf2_msgs/msg/TFMessage"](
        transforms=[
            bags.transform("base_link", "mount", (1.0, 0.0, 1.2), (0.0, 0.0, half, half)),
            bags.transform("mount", "front_optical", (0.5, 0.0, 0.3), (0.0, 0.0, 0.0, 1.0)),
        ]
    )
    messages = [("/tf_static", START_NS, tf), ("/cam/front/camera_info", START_NS, bags.camera_info(START_NS, focal=400.0)), *bags.drive(0.2)]
    path = bags.write(tmp_path / "bag", messages)
    with Bag(path) as bag:
        camera = calibration(bag, IMAGE, (252, 448), "front_optical")
        smaller = calibration(bag, IMAGE, (126, 224), "front_optical")
    assert camera.matrix[0, 0] == 400
    # the mount is turned by 90 degrees: its x axis points to the left of the car
    np.testing.assert_allclose(camera.base_from_optical[:3, 3], [1.0, 0.5, 1.5], atol=1e-9)
    np.testing.assert_allclose(camera.base_from_optical[:3, 0], [0, 1, 0], atol=1e-9)
    # a calibration for another picture size is not used
    assert smaller.matrix[0, 2] == 112


def test_pictures_of_another_lens_are_turned_into_those_of_the_training(tmp_path, planner):
    """A camera that sees more than the trained one, as in the node; without the CameraInfo its pictures stay as they are."""
    messages = []
    for topic, stamp, m in bags.drive(2.0):
        if topic == IMAGE:  # white in the middle, where the trained lens looks
            picture = np.full((252, 448, 3), 40, np.uint8)
            picture[60:192, 110:338] = 220 - stamp // (S // 10) % 10
            m = bags.compressed(stamp, cv2.imencode(".jpg", picture)[1].tobytes())
        messages.append((topic, stamp, m))
    seen = {}
    for name, extra in (("with", [("/cam/front/camera_info", START_NS, bags.camera_info(START_NS, focal=160.0))]), ("without", [])):
        path = bags.write(tmp_path / name, [*extra, *messages])
        assert call(path, tmp_path / "out") == 0
        seen[name] = planner.observations[-1].images["front"][-1].rgb.mean()
    assert seen["with"] > 200 and seen["without"] < 120


def test_without_calibration_the_demo_rig_is_assumed(tmp_path):
    with Bag(bags.write(tmp_path / "bag", bags.drive(0.2))) as bag:
        camera = calibration(bag, IMAGE, (252, 448), "front_optical")
    assert camera.matrix[0, 0] == pytest.approx(319.9, abs=0.1)
    np.testing.assert_allclose(camera.base_from_optical[:3, 3], [1.5, 0, 1.55])


GATE = "limits:\n  plans: {min: 5}\n  ade_1s_m: {max: 0.5}\n  ade_5s_m: {max: 5.0, missing: skip}\n  nominal_share: {min: 0.9}\n"


def test_a_gate_decides_the_exit_code(tmp_path, planner, capsys):
    path = bags.write(tmp_path / "bag", bags.drive())
    (tmp_path / "gate.yaml").write_text(GATE)
    assert call(path, tmp_path / "out", "--gate", str(tmp_path / "gate.yaml")) == 0
    assert "the gate passes" in capsys.readouterr().out
    planner.offset_m = 0.8
    assert call(path, tmp_path / "worse", "--gate", str(tmp_path / "gate.yaml")) == 1
    out = capsys.readouterr().out
    assert "the gate fails" in out and "fail    ade_1s_m" in out and "skipped ade_5s_m" in out
    judged = json.loads((tmp_path / "worse/summary.json").read_text())["gate"]
    assert not judged["passed"] and [check["verdict"] for check in judged["checks"]] == ["pass", "fail", "skipped", "pass"]
    page = (tmp_path / "worse/report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:|#)", page), "something is loaded from elsewhere"
    assert "1 of 4 limits are broken" in page and "at most 0.50 m" in page
    # and the two results side by side
    assert main(["bag", "--compare", str(tmp_path / "out"), str(tmp_path / "worse")]) == 0
    out = capsys.readouterr().out
    assert "16 plans in both" in out and "identical plans: 0" in out and "+0.80m" in out and "too short a drive" in out


def test_a_topics_file_brings_the_command_and_who_drove(tmp_path, planner):
    text, flag = bags.T["std_msgs/msg/String"], bags.T["std_msgs/msg/Bool"]
    said = [("/command", START_NS + 2 * S + 1, text(data="left")), ("/engaged", START_NS + 1, flag(data=True))]
    said += [("/engaged", START_NS + 5 * S // 2 + 1, flag(data=False))]
    path = bags.write(tmp_path / "bag", sorted([*bags.drive(5.0), *said], key=lambda entry: entry[1]))
    topics = f"cameras: {{front: {IMAGE}, rear: /none}}\nodometry: {ODOMETRY}\ncommand: /command\nengagement: {{topic: /engaged}}\n"
    (tmp_path / "topics.yaml").write_text(topics)
    words = ["bag", str(path), "--topics", str(tmp_path / "topics.yaml"), "--engine", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/plans.jsonl").read_text().splitlines()]
    assert [line["command"] for line in lines[:7]] == ["unknown"] * 6 + ["left"]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["takeovers"] == 1 and summary["cameras"] == ["front"]
    page = (tmp_path / "out/report.html").read_text()
    assert "take-over at 2.5 s" in page and "a second before a take-over" in page
    assert main([*words, "--camera", f"front={IMAGE}"]) == 2


def test_all_cameras_of_a_rig_feed_the_plan_and_are_shown(tmp_path, planner, monkeypatch):
    monkeypatch.setattr(planner, "spec", demo_spec(cameras=("front", "left")))
    messages = bags.drive()
    # the second camera is 20 ms late and brighter
    stamps = [stamp + S // 50 for topic, stamp, _ in messages if topic == IMAGE]
    messages += [("/left", stamp, bags.compressed(stamp, bags.jpeg(180 + k))) for k, stamp in enumerate(stamps)]
    path = bags.write(tmp_path / "bag", sorted(messages, key=lambda entry: entry[1]))
    assert call(path, tmp_path / "out", "--camera", "left=/left") == 0
    lines = [json.loads(line) for line in (tmp_path / "out/plans.jsonl").read_text().splitlines()]
    assert len(lines) == 16 and {line["skew_s"] for line in lines} == {0.02}
    assert all(line["image_stamps_ns"]["left"][-1] - line["t0_ns"] == S // 50 for line in lines)
    strip = cv2.imread(str(tmp_path / "out/strip.png"))
    assert strip.shape[1] == 960 and (strip.min(axis=2) > 150).mean() > 0.2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "o"], "give a bag and --out"),
        (["b"], "give a bag and --out"),
        (["b", "--out", "o", "--play", "--engine", "e"], "--engine is for an engine in this process"),
        (["b", "--out", "o", "--rate", "2"], "--rate is for --play"),
        (["b", "--out", "o", "--play", "--rate", "-1"], "--rate is -1"),
        (["b", "--out", "o", "--gate", "nowhere.yaml"], "nowhere.yaml: can't be read"),
        (["--compare", "here", "there"], "here/summary.json: No such file"),
    ],
)
def test_options_that_don_t_fit_are_explained_in_one_line(capsys, words, said):
    assert main(["bag", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanvla: error: ") and said in error and error.count("\n") == 1
