"""Bags become samples: what is in them, and what a bag may not do."""

import errno
import functools
import json
import shutil

import bags
import cv2
import numpy as np
import pytest
from bags import IMAGE, ODOMETRY, START_NS, S, T

pytest.importorskip("jsonschema", reason="needs the extra [data]")
pytest.importorskip("shapely", reason="needs the extra [sim]")

from spanvla_ros.cli.main import main
from spanvla_ros.contracts import NS_PER_S, ConfigError
from spanvla_ros.data import check, ingest, rig, topics
from spanvla_ros.data.annotation.desk import Desk
from spanvla_ros.data.bag import Bag
from spanvla_ros.data.drive import read
from spanvla_ros.data.shards import Dataset, ShardWriter
from spanvla_ros.geometry import to_global
from spanvla_ros.planning.inputs import Grid

INFO = "/cam/front/camera_info"
DEMO = Grid(cameras=("front",), frame_offsets_s=(-0.5, 0.0), history_offsets_s=(-1.5, -1.0, -0.5, 0.0))
TOPICS = f"cameras: {{front: {IMAGE}}}\nodometry: {ODOMETRY}\nengagement: {{topic: /engaged}}\ncommand: /command\n"
HALF = np.sqrt(0.5)


def bend(seconds=9.0, speed=8.0, radius=60.0, image_hz=10, odometry_hz=50, jitter_s=0.0):
    """A drive along a circle, as (topic, stamp, message); camera calibrated and mounted."""
    rng, messages = np.random.default_rng(0), []
    for k in range(round(seconds * odometry_hz) + 1):
        angle = speed / radius * k / odometry_hz
        message = bags.odometry(START_NS + k * S // odometry_hz, radius * np.sin(angle), speed, (0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2)))
        message.pose.pose.position.y = radius * (1 - np.cos(angle))
        message.twist.twist.angular.z = speed / radius
        messages.append((ODOMETRY, START_NS + k * S // odometry_hz, message))
    for k in range(round(seconds * image_hz) + 1):
        stamp = START_NS + k * S // image_hz + round(rng.uniform(-jitter_s, jitter_s) * S) * (k > 0)
        messages.append((IMAGE, stamp, bags.compressed(stamp, textured(k % 40))))
    return [*fixed(), *sorted(messages, key=lambda entry: entry[1])]


def fixed():
    """Calibration and mounting: 1.5 m ahead, 1.6 m up, looking ahead."""
    tf = T["tf2_msgs/msg/TFMessage"](transforms=[bags.transform("base_link", "front_optical", (1.5, 0.0, 1.6), (-0.5, 0.5, -0.5, 0.5))])
    return [("/tf_static", START_NS, tf), (INFO, START_NS, bags.camera_info(START_NS, focal=320.0))]


@functools.cache
def textured(k, blurred=False):
    picture = np.random.default_rng(k).integers(0, 255, (63, 112, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    picture = cv2.GaussianBlur(picture, (0, 0), 12) if blurred else picture
    return cv2.imencode(".jpg", picture)[1].tobytes()


@pytest.fixture
def file(tmp_path):
    (tmp_path / "topics.yaml").write_text(TOPICS)
    return tmp_path / "topics.yaml"


def call(path, out, file, *more):
    paths = path if isinstance(path, list) else [path]
    return main(["data", "bag", *map(str, paths), "--topics", str(file), "--out", str(out), "--workers", "1", *more])


def replaced(messages, topic, stamp, message):
    return [(topic, s, message) if (t, s) == (topic, stamp) else (t, s, m) for t, s, m in messages]


def test_samples_are_on_the_grid_and_agree_with_the_odometry(tmp_path, file, capsys):
    path = bags.write(tmp_path / "drive", bend())
    assert call(path, tmp_path / "D", file, "--licence", "own") == 0
    dataset = Dataset(tmp_path / "D")
    assert [(dataset.record(k)["t0_ns"] - START_NS) / S for k in range(len(dataset))] == [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    with Bag(path) as bag:
        recorded = read(bag, topics.load(file))
    for k in range(len(dataset)):
        record = dataset.record(k)
        t0, pose = record["t0_ns"], np.array(record["pose_odom"])
        for poses, step in ((record["future"], S // 2), (record["future_10hz"], S // 10)):
            driven = recorded.poses_at(t0 + np.arange(1, len(poses) + 1) * step)
            np.testing.assert_allclose(to_global(pose, np.array(poses))[:, :2], driven[:, :2], atol=1e-3)
        past = recorded.poses_at(np.array(record["history"]["stamps_ns"]))
        np.testing.assert_allclose(to_global(pose, np.array(record["history"]["poses_base"]))[:, :2], past[:, :2], atol=1e-3)
    found = check.check(tmp_path / "D")
    assert found.errors == [] and found.samples == 6
    assert record["provenance"] | {"licence": "own", "driver": "unknown", "annotation": "rules"} == record["provenance"]
    card = json.loads((tmp_path / "D/card.json").read_text())
    assert card["samples"] == 6 and card["counts"]["licence"] == {"own": 6} and card["split_by"] == "drive"
    assert card["left out while reading"] == {"HISTORY_SHORT": 3, "FUTURE_SHORT": 10} and "| own | 6 |" in (tmp_path / "D/card.md").read_text()
    assert "13" not in capsys.readouterr().err


def test_the_pictures_are_those_that_were_recorded(tmp_path, file):
    call(bags.write(tmp_path / "drive", bend()), tmp_path / "D", file)
    assert Dataset(tmp_path / "D").jpegs(0)["front"] == [textured(k) for k in (0, 5, 10, 15)]
    assert main(["data", "view", str(tmp_path / "D"), "--out", str(tmp_path / "sheet.png"), "--count", "2"]) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] == 2 * 189
    # the page for people projects the driven path by the car's own lens: from under the car upwards, into the bend
    path = np.array(Desk(tmp_path / "D").show(0)["paths"]["front"])
    assert len(path) > 20 and (np.diff(path[:, 1]) < 0).all() and abs(path[0, 0] - 0.5) < 0.1 < abs(path[-1, 0] - path[0, 0])
    assert main(["data", "score", str(tmp_path / "D"), "--workers", "1"]) == 2  # there is no map to score on


def test_a_camera_without_a_grid_of_its_own_is_read_by_its_stamps(tmp_path, file):
    call(bags.write(tmp_path / "drive", bend(jitter_s=0.03)), tmp_path / "D", file)
    assert check.check(tmp_path / "D").errors == []
    dataset = Dataset(tmp_path / "D", grid=DEMO)
    offsets = np.array([[(f.stamp_ns - s.observation.t0_ns) / S for f in s.observation.images["front"]] for s in dataset])
    assert len(dataset) >= 4 and (offsets[:, 1] == 0).all()
    assert (np.abs(offsets[:, 0] + 0.5) <= 0.06).all() and (offsets[:, 0] != -0.5).any()


def test_a_recording_that_ends_early_gives_shorter_futures_where_asked(tmp_path, file):
    path = bags.write(tmp_path / "drive", bend(seconds=5.0))
    assert call(path, tmp_path / "D", file) == 1
    assert call(path, tmp_path / "D", file, "--future", "3") == 0
    sample = Dataset(tmp_path / "D")[0]
    assert sample.future.shape == (6, 3) and sample.dense.shape == (30, 3) and check.check(tmp_path / "D").errors == []


def test_unreadable_and_blurred_pictures_leave_samples_out(tmp_path, file, capsys):
    messages = bend(seconds=17.0)
    for k, data in ((30, textured(30)[:-200]), (80, textured(80, blurred=True))):
        stamp = START_NS + k * S // 10
        messages = replaced(messages, IMAGE, stamp, bags.compressed(stamp, data))
    call(bags.write(tmp_path / "drive", messages), tmp_path / "D", file)
    # each is the newest frame of one sample and an older one of three more
    assert "4 IMAGE_UNREADABLE" in (said := capsys.readouterr().out) and "4 IMAGE_BLURRED" in said
    times = {(Dataset(tmp_path / "D").record(k)["t0_ns"] - START_NS) / S for k in range(len(Dataset(tmp_path / "D")))}
    assert not times & {3.0, 3.5, 4.0, 4.5, 8.0, 8.5, 9.0, 9.5} and {2.5, 5.0, 7.5, 10.0} <= times


def standing(seconds):
    moving = [entry for entry in bend(seconds, image_hz=2, odometry_hz=10) if entry[0] in (ODOMETRY, IMAGE)]
    return [*fixed(), *((t, s, bags.odometry(s, 0.0, 0.0) if t == ODOMETRY else m) for t, s, m in moving)]


def test_little_is_kept_of_a_standing_car_but_all_around_a_take_over(tmp_path, file):
    engaged = [("/engaged", START_NS + k * S, T["std_msgs/msg/Bool"](data=k < 30)) for k in range(1, 50)]
    for name, more, count in (("a", [], 5), ("b", engaged, 35)):
        messages = sorted([*standing(50.0), *more], key=lambda entry: entry[1])
        assert call(bags.write(tmp_path / name, messages), tmp_path / f"D{name}", file) == 0
        assert len(Dataset(tmp_path / f"D{name}")) == pytest.approx(count, abs=2)
    assert len(json.loads(next((tmp_path / "Db/shards").glob("*.truth.json")).read_text())["engagement"]) == 2


def test_the_same_recording_is_taken_once(tmp_path, file, capsys):
    path = bags.write(tmp_path / "drive", bend())
    assert call(path, tmp_path / "D", file) == 0 and call(path, tmp_path / "D", file) == 0
    assert "0 new samples, 0 failed" in capsys.readouterr().out
    (tmp_path / "copy").mkdir()
    shutil.copy(next(path.glob("*.mcap")), tmp_path / "copy/other.mcap")
    assert call(tmp_path / "copy/other.mcap", tmp_path / "D", file) == 1
    assert "is the same recording as drive-" in capsys.readouterr().err


def test_shares_are_whole_together(tmp_path, file):
    paths = [bags.write(tmp_path / f"d{k}", bend(seconds=7.5 + 0.5 * k)) for k in range(3)]
    for part in ("1/2", "2/2"):
        assert call(paths, tmp_path / part[0], file, "--shard", part) == 0
    names = [sorted(p.name for p in (tmp_path / part / "shards").glob("*.jsonl")) for part in ("1", "2")]
    assert [len(n) for n in names] == [2, 1] and not set(names[0]) & set(names[1])


def jump_back(messages):
    """The second half of a drive is recorded as if it began anew."""
    later = [(t, s + 9 * S, m) for t, s, m in messages if t in (ODOMETRY, IMAGE)]
    return [*messages, *later]


def without(topic):
    return lambda messages: [entry for entry in messages if entry[0] != topic]


BAD = {
    "no pictures": (without(IMAGE), [f"camera 'front': topic {IMAGE} is not in", f"{ODOMETRY} (nav_msgs/msg/Odometry)"]),
    "no odometry": (without(ODOMETRY), [f"odometry: topic {ODOMETRY} is not in"]),
    "no transform": (without("/tf_static"), ["doesn't connect base_link and front_optical", "--rig FILE"]),
    "no calibration": (without(INFO), ["no CameraInfo beside it", "--rig FILE"]),
    "stamps go back": (jump_back, ["go back by 9.0 s", "a bag must hold one drive"]),
    "other pictures": (lambda m: replaced(m, INFO, START_NS, bags.camera_info(START_NS, size=(252, 640))), ["pictures of 448x252", "640x252"]),
    "too short": (lambda m: [e for e in m if e[1] < START_NS + 4 * S], ["gives no sample of 5 s of future", "HISTORY_SHORT"]),
    "no valid odometry": (
        lambda m: [(t, s, bags.odometry(s, float("nan"), 8.0) if t == ODOMETRY else x) for t, s, x in m],
        ["has 0 valid messages"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_bag_is_named_and_doesn_t_end_the_others(tmp_path, file, capsys, name):
    change, words = BAD[name]
    bad = bags.write(tmp_path / "bad", change(bend()))
    good = bags.write(tmp_path / "good", bend())
    assert call([bad, good], tmp_path / "D", file) == 1
    said = capsys.readouterr()
    assert all(word in said.err for word in words) and said.err.count("\n") == 1, said.err
    assert "1 failed" in said.out and len(Dataset(tmp_path / "D")) == 6
    assert not list((tmp_path / "D").glob("**/*.part"))


def test_a_full_disk_ends_the_run_and_leaves_nothing_half(tmp_path, file, capsys, monkeypatch):
    first, second = (bags.write(tmp_path / name, bend(seconds=s)) for name, s in (("a", 9.0), ("b", 8.0)))
    assert call(first, tmp_path / "D", file) == 0

    def add(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", add)
    assert call(second, tmp_path / "D", file) == 2
    assert "the disk is full; finished drives are kept" in capsys.readouterr().err
    assert len(Dataset(tmp_path / "D")) == 6 and not list((tmp_path / "D").glob("**/*.part"))


def test_the_rig_comes_from_the_bag_or_a_file(tmp_path, file):
    names = topics.load(file)
    place = "x_m: 1.5, y_m: 0.2, z_m: 1.6, yaw_deg: 30, pitch_deg: 10"
    (tmp_path / "rig.yaml").write_text(f"cameras: {{front: {{width: 448, height: 252, hfov_deg: 70.0, {place}}}}}")
    with Bag(bags.write(tmp_path / "drive", bend(1.0))) as bag:
        recorded, filed = (rig.view(rig.of_bag(bag, names, where)["front"]) for where in (None, tmp_path / "rig.yaml"))
    assert recorded.matrix[0, 0] == 320 and recorded.size == (252, 448)
    np.testing.assert_allclose(recorded.base_from_optical[:3, 3], [1.5, 0, 1.6])
    # a point 10 m ahead on the ground is below the middle; seen by a camera turned 30 deg to the left it is to the right
    (middle, _), (aside, _) = recorded.project(np.array([[11.5, 0.0, 0.0]])), filed.project(np.array([[11.5, 0.0, 0.0]]))
    np.testing.assert_allclose(middle[0], [224, 126 + 320 * 1.6 / 10], atol=1e-6)
    assert aside[0, 0] > 380
    axis = filed.base_from_optical[:3, 2]
    assert np.degrees(np.arctan2(axis[1], axis[0])) == pytest.approx(30) and np.degrees(np.arcsin(-axis[2])) == pytest.approx(10)


def test_a_simulated_camera_projects_as_the_simulator_s(tmp_path):
    import dataclasses

    from spanvla_ros.sim.pictures.camera import FRONT_LEFT

    camera = dataclasses.replace(FRONT_LEFT, pitch_rad=0.05)
    points = np.random.default_rng(0).uniform((4, 2, 0), (30, 30, 2), (20, 3))
    u, v, depth = camera.project(np.zeros(3), points)
    pixels, ahead = rig.view(dataclasses.asdict(camera)).project(points)
    np.testing.assert_allclose(pixels[ahead], np.column_stack([u, v])[depth > 0.5], atol=1e-6)


def test_who_drives_is_read_as_the_file_says(tmp_path):
    class Status:
        mode = 4

    class Message:
        status = Status()

    engagement = topics.Engagement(topic="/mode", field="status.mode", automatic=(1, 4))
    assert engagement.read(Message()) is True
    with pytest.raises(ConfigError, match="a message of /mode has no 'data'"):
        topics.Engagement(topic="/mode").read(Message())


def test_states_without_a_header_have_the_time_of_the_car_and_not_of_the_recorder(tmp_path, file):
    messages = bend()
    messages.append(("/engaged", START_NS + 2 * S + 1, T["std_msgs/msg/Bool"](data=True)))
    messages.append(("/command", START_NS + 3 * S + 1, T["std_msgs/msg/String"](data="left")))
    messages.append(("/engaged", START_NS + 4 * S + 1, T["std_msgs/msg/Bool"](data=False)))
    messages.sort(key=lambda entry: entry[1])
    late = [(topic, stamp - START_NS + 77 * S, message) for topic, stamp, message in messages]  # the recorder's clock is another one
    with Bag(bags.write(tmp_path / "drive", late)) as bag:
        drive = read(bag, topics.load(file))
    assert [(round((s - START_NS) / S, 2), value) for s, value in drive.automatic] == [(2.0, True), (4.0, False)]
    assert drive.command_at(START_NS + 4 * S).value == "left" and drive.command_at(START_NS + 2 * S).value == "unknown"


def test_wrong_settings_are_refused(tmp_path, file, capsys):
    path = bags.write(tmp_path / "drive", bend(1.0))
    for options, words in (
        (("--every", "0.3"), "every_s must be a multiple of 0.5 s"),
        (("--future", "7"), "future_s must be from 1 to 5 s"),
        (("--cameras", "back"), "camera 'back' has no topic"),
        (("--map", str(tmp_path / "no.json")), "no.json can't be read"),
    ):
        assert call(path, tmp_path / "D", file, *options) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(path, tmp_path / "D", file, "--shard", "3/2")


def test_the_grid_takes_the_nearest_frames():
    stamps = START_NS + np.array([0, 0.26, 0.52, 0.74, 1.03, 1.8, 2.04]) * S
    found = ingest._grid(stamps.astype(np.int64), 0.5, round(0.06 * NS_PER_S))
    assert [round((stamp - START_NS) / S, 2) for stamp in found] == [0.0, 0.52, 1.03, 2.04]
