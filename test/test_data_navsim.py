"""Logs of NAVSIM as they lie on disk: into samples, scenes and scores, and back as submissions."""

import dataclasses
import io
import json
import pickle
import sys
import types

import navsim_logs
import numpy as np
import pytest
import shapely

from spanvla_ros.cli.main import main
from spanvla_ros.contracts import Command, ConfigError, DataError
from spanvla_ros.data import check, scoring
from spanvla_ros.data.navsim import geopackage, logs, samples, splits, submission
from spanvla_ros.data.navsim import scene as scenes
from spanvla_ros.data.navsim.agent import SpanVLAAgent
from spanvla_ros.data.navsim.city import read_city
from spanvla_ros.data.navsim.projection import to_utm
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.pdm import scorer
from spanvla_ros.evaluation.pdm.made_up import plans
from spanvla_ros.planning import preprocess
from spanvla_ros.training import lists

TRAIN, HELD_OUT = "train", "validation"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """OPENSCENE_DATA_ROOT with two logs and their map."""
    folder = tmp_path_factory.mktemp("navsim")
    navsim_logs.write_map(folder / "maps")
    for split in (TRAIN, HELD_OUT):
        navsim_logs.write_log(folder, navsim_logs.name_of(split))
    (folder / "navtrain.yaml").write_text("num_history_frames: 4\nnum_future_frames: 10\nframe_interval: 1\nlog_names: null\ntokens: null\n")
    return folder


def arguments(root, split="trainval"):
    return ["--logs", str(root / "navsim_logs" / split), "--sensors", str(root / "sensor_blobs" / split), "--maps", str(root / "maps")]


@pytest.fixture(scope="module")
def folder(root):
    out = root / "samples"
    assert main(["data", "navsim", *arguments(root), "--filter", str(root / "navtrain.yaml"), "--out", str(out), "--workers", "1"]) == 0
    return out


def source(root, **changes):
    values = {"logs": root / "navsim_logs/trainval", "sensors": root / "sensor_blobs/trainval", "maps": root / "maps"}
    return samples.Source(**{**values, "chosen": splits.SceneFilter(name="navtrain", interval=1), **changes})


# --- map


@pytest.mark.parametrize(
    "code, degrees, metres",  # by PROJ
    [
        ("epsg:32648", (103.787, 1.299), (365047.78710169543, 143611.16510754052)),
        ("EPSG:32619", (-71.05, 42.345), (331140.6234864468, 4690117.603798604)),
        ("32611", (-115.17, 36.11), (664712.8241151184, 3997699.687481017)),
        ("epsg:32748", (106.8, -6.2), (699163.3905646855, 9314348.96157999)),
    ],
)
def test_degrees_become_the_metres_of_proj(code, degrees, metres):
    assert np.abs(to_utm(np.array([degrees]), code) - metres).max() < 1e-7


@pytest.mark.parametrize("degrees", [True, False])
def test_city_is_read_from_its_geopackage(tmp_path, degrees):
    city = read_city(navsim_logs.write_map(tmp_path, degrees), navsim_logs.CITY)
    assert list(city.lanes) == ["1", "2", "3", "4", "21", "22"] and list(city.blocks) == ["11", "12", "15"]
    assert city.lanes["1"].outgoing == ("21",) and city.lanes["21"].outgoing == ("3",) and city.lanes["3"].outgoing == ()
    assert city.blocks["15"].connector and (city.blocks["15"].incoming, city.blocks["15"].outgoing) == (("11",), ("12",))
    assert (city.blocks["11"].incoming, city.blocks["11"].outgoing) == ((), ("15",)) and city.blocks["15"].lanes == ("21", "22")
    assert city.lanes["1"].speed_limit_mps == navsim_logs.LIMIT and city.lanes["21"].speed_limit_mps is None and city.lanes["21"].controlled
    assert np.abs(city.lanes["1"].baseline[:3] - [[331000, 4690000, 0], [331001, 4690000, 0], [331002, 4690000, 0]]).max() < 1e-6
    assert [ground.layer for ground in city.grounds] == ["INTERSECTION", "CARPARK_AREA"]
    near = city.areas(331150.0, 4690000.0)
    assert [area.name for area in near] == ["11", "12", "1", "2", "3", "4", "21", "22", "31", "41"]


def test_damaged_maps_are_named(tmp_path):
    import sqlite3

    with pytest.raises(DataError, match="nuplan-maps-v1.0.json can't be read"):
        read_city(tmp_path, "us-ma-boston")
    navsim_logs.write_map(tmp_path)
    with pytest.raises(DataError, match="map 'tokyo' is not in .*; there are us-ma-boston"):
        read_city(tmp_path, "tokyo")
    path = tmp_path / "us-ma-boston/9.12.1817/map.gpkg"
    for statement, message in (
        ("UPDATE lanes_polygons SET geom = x'47500001' WHERE fid = 1", "a geometry of layer lanes_polygons is damaged"),
        ("DROP TABLE carpark_areas", "layer carpark_areas has no primary key"),
        ("DELETE FROM baseline_paths", "lane 1 has no baseline"),
        ("UPDATE meta SET value = 'epsg:3857'", "coordinate system 'epsg:3857' is not UTM"),
    ):
        before = path.read_bytes()
        with sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()
        with pytest.raises(DataError, match=message):
            read_city(tmp_path, "us-ma-boston")
        path.write_bytes(before)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="can't be read: file is not a database"):
        geopackage.GeoPackage(path)


# --- logs


def test_log_is_read_as_the_devkit_reads_it(root):
    frames = logs.read_log(next((root / "navsim_logs/trainval").glob("*.pkl")))
    assert len(frames) == 24 and frames[0].command is Command.STRAIGHT and frames[0].red == ("21",)
    assert frames[4].route == ("11", "15", "12") and frames[4].city == navsim_logs.CITY
    boxes = {box.track: box for box in frames[9].boxes}
    assert boxes["aa01"].type == "VEHICLE" and boxes["dd04"].type == "PEDESTRIAN" and boxes["cc03"].type == "TRAFFIC_CONE"
    assert np.allclose((boxes["aa01"].x, boxes["aa01"].y, boxes["aa01"].vx), (331000 + 145 + 27, 4690000, 6.0), atol=1e-4)
    camera = frames[0].cameras["CAM_L0"]
    assert np.allclose(camera.position, [1.7, 0.0, 1.5]) and np.isclose(np.arctan2(camera.rotation[1, 2], camera.rotation[0, 2]), 0.9)


def test_boxes_turn_with_the_ego():
    entry = navsim_logs.frames("a_log", 1)[0]
    entry["ego2global_rotation"] = navsim_logs.quaternion(np.pi / 2)
    frame = logs._frame(entry, "a_log", "here")
    lead = frame.boxes[0]
    assert np.allclose((lead.x, lead.y, lead.heading), (331120.0, 4690025.0, np.pi / 2), atol=1e-4)
    assert np.allclose((lead.vx, lead.vy), (0, 6), atol=1e-5)


def test_heading_is_that_of_pyquaternion():
    # Quaternion(0.9, 0.1, 0.2, 0.3).yaw_pitch_roll[0] of pyquaternion 0.9.9; the usual z-y-x yaw would be 0.6981...
    assert logs.yaw_of([0.9, 0.1, 0.2, 0.3]) == pytest.approx(0.6270706625890183, abs=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda e: e.pop("ego_dynamic_state"), "frame 2 lacks 'ego_dynamic_state'"),
        (lambda e: e.update(ego2global_translation=[1.0, float("nan"), 0.0]), "ego2global_translation is of shape .* or not finite"),
        (lambda e: e["anns"].update(gt_boxes=np.zeros((2, 7))), "gt_boxes is of shape"),
        (lambda e: e["anns"].update(gt_boxes=[[[0.0] * 9] * 9] * 3), "gt_boxes is not of shape"),
        (lambda e: e["anns"].update(gt_names=np.array(["unicorn"] * 3)), "object of type 'unicorn'"),
        (lambda e: e["cams"]["CAM_F0"].update(cam_intrinsic=None), "CAM_F0 cam_intrinsic"),
    ],
)
def test_damaged_frames_are_named(tmp_path, change, message):
    entries = navsim_logs.frames("a_log", 4)
    change(entries[2])
    (tmp_path / "a_log.pkl").write_bytes(pickle.dumps(entries))
    with pytest.raises(DataError, match=message):
        logs.read_log(tmp_path / "a_log.pkl")


def test_scenes_are_cut_as_the_filter_says(root):
    frames = logs.read_log(next((root / "navsim_logs/trainval").glob("*.pkl")))
    every = splits.SceneFilter(name="x", interval=1)
    assert list(logs.windows(frames, every)) == list(range(3, 14))
    assert list(logs.windows(frames, splits.SceneFilter(name="x"))) == [3]
    wanted = dataclasses.replace(every, tokens=frozenset({frames[7].token, "elsewhere"}))
    assert list(logs.windows(frames, wanted)) == [7]
    late = [dataclasses.replace(frame, stamp_us=frame.stamp_us + (200_000 if k > 14 else 0)) for k, frame in enumerate(frames)]
    assert list(logs.windows(late, every)) == [3, 4]
    lost = [dataclasses.replace(frame, route=() if k == 5 else frame.route) for k, frame in enumerate(frames)]
    assert 5 not in list(logs.windows(lost, every)) and 5 in list(logs.windows(lost, dataclasses.replace(every, has_route=False)))


def test_filters_of_the_devkit_are_read(tmp_path):
    path = tmp_path / "navtrain.yaml"
    head = "_target_: navsim.common.dataclasses.SceneFilter\n_convert_: 'all'\nframe_interval: 1\nhas_route: true\n"
    path.write_text(head + "log_names:\n  - 'a'\ntokens:\n  - '0b'\n")
    found = splits.read_filter(path)
    assert (found.name, found.logs, found.tokens, found.interval) == ("navtrain", {"a"}, {"0b"}, 1)
    path.write_text("tokens: null\nnum_history_frames: 5\n")
    with pytest.raises(ConfigError, match=r"asks for 5 \+ 10 frames"):
        splits.read_filter(path)
    path.write_text("[1, 2]")
    with pytest.raises(ConfigError, match="is no scene filter"):
        splits.read_filter(path)


# --- samples


def test_samples_pass_the_check_of_the_schema(folder):
    found = check.check(folder)
    assert (found.samples, found.errors, found.shares["pos"]) == (22, [], 1.0)


def test_sample_says_what_was_driven(folder):
    sample = Dataset(folder, "train")[0]
    history = sample.observation.history
    assert np.allclose(history.poses_base[:, 0], [-12, -8, -4, 0], atol=1e-6) and np.allclose(history.speeds_mps, 8.0)
    assert np.allclose(sample.future[:, 0], 4.0 * np.arange(1, 11), atol=1e-4) and np.allclose(sample.dense[:, 0], 0.8 * np.arange(1, 51), atol=1e-4)
    assert sample.observation.images["front"][0].rgb.shape == (navsim_logs.HEIGHT, navsim_logs.WIDTH, 3)
    # the cameras differ in red, the frames in blue
    shades = [[int(image.rgb[2, 2, c]) for image in sample.observation.images[name]] for name, c in (("front", 2), ("front_left", 0))]
    assert np.allclose(shades[0], [120, 123, 126, 129], atol=2) and np.allclose(shades[1], 190, atol=2)
    assert (sample.mode, sample.label, sample.family) == ("fast", "pos", "navtrain") and sample.provenance["licence"]


def test_score_of_a_sample_is_the_score_of_its_log(root, folder):
    dataset, city, charts = Dataset(folder), samples.city_of(root / "maps", navsim_logs.CITY), {}
    frames = {path.stem: logs.read_log(path) for path in (root / "navsim_logs/trainval").glob("*.pkl")}
    tried = plans(12, speed_mps=9.0, seed=3)
    totals = set()
    for index in range(0, len(dataset), 3):
        log = frames[dataset.record(index)["provenance"]["log"]]
        t0 = [frame.token for frame in log].index(dataset.record(index)["provenance"]["token"])
        direct = scenes.scene(log[t0 - 3 : t0 + 11], scenes.view(city, log[t0]))
        kept = scoring.scene_of(dataset, index, charts)
        for version in ("v1", "v2"):
            expected, found = scorer.score(direct, tried, version), scorer.score(kept, tried, version)
            assert np.array_equal(expected.total, found.total)
            assert all(np.array_equal(expected.values[name], found.values[name]) for name in expected.values)
            totals |= set(np.round(found.total, 6))
    assert min(totals) == 0 and max(totals) > 0.8 and len(totals) > 10


def test_scene_holds_what_navsim_puts_into_it(root):
    frames = logs.read_log(next((root / "navsim_logs/trainval").glob("*.pkl")))
    city = samples.city_of(root / "maps", navsim_logs.CITY)
    scene = scenes.scene(frames[0:14], scenes.view(city, frames[3]))
    assert scene.route_lanes == {"1", "2", "3", "4", "21", "22"} and len(scene.centerline) == 201 + 31 + 271
    # red until frame 5: three keyframes of t0 = 3, each for five steps
    assert [bool(step) for step in scene.red_lights] == [True] * 15 + [False] * 26
    # the pedestrian is in one keyframe of the window: a ghost that stands there all the time
    ghost = scene.traffic["v2"].tokens.index("dd04")
    assert np.isfinite(scene.traffic["v2"].frames[ghost]).all() and scene.traffic["v1"].types[ghost] == "PEDESTRIAN"
    assert scene.history.shape == (14, 11) and np.allclose(scene.human[:, 0], 4.0 * np.arange(1, 9))


def test_conversion_goes_on_where_it_stopped_and_divides(root, tmp_path, capsys):
    common = [*arguments(root), "--filter", str(root / "navtrain.yaml"), "--out", str(tmp_path), "--workers", "1"]
    assert main(["data", "navsim", *common, "--shard", "1/2"]) == 0
    assert len(Dataset(tmp_path)) == 11
    assert main(["data", "navsim", *common]) == 0
    assert "2/2 logs, 11 new samples" in capsys.readouterr().out and len(Dataset(tmp_path)) == 22


def test_other_cameras_can_be_asked_for(root, tmp_path):
    assert main(["data", "navsim", *arguments(root), "--out", str(tmp_path), "--workers", "1", "--camera", "front_left=CAM_L1"]) == 0
    sample = Dataset(tmp_path)[0]
    assert np.isclose(int(sample.observation.images["front_left"][0].rgb[2, 2, 0]), 200 - 10 * navsim_logs.SUBSYSTEMS.index("CAM_L1"), atol=2)
    assert main(["data", "navsim", *arguments(root), "--out", str(tmp_path), "--camera", "front=CAM_9"]) == 2


def test_scenes_without_their_pictures_are_left_out(root, tmp_path, capsys):
    log = navsim_logs.name_of(TRAIN, start=200)
    path = navsim_logs.write_log(tmp_path, log, count=16)
    (tmp_path / "sensor_blobs/trainval" / log / "CAM_L0/0002.jpg").unlink()
    broken = tmp_path / "sensor_blobs/trainval" / log / "CAM_R0/0003.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    command = ["data", "navsim", *arguments(tmp_path)[:4], "--maps", str(root / "maps"), "--filter", str(root / "navtrain.yaml")]
    assert main([*command, "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
    said = capsys.readouterr()
    assert "none of 3 scenes could be used" in said.err and "picture missing" in said.err
    path.write_bytes(b"\x80\x04nonsense")
    assert main([*command, "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "1 of 1 logs failed" in capsys.readouterr().err


def test_pictures_stay_below_the_sensor_folder(root, tmp_path):
    log = navsim_logs.name_of(TRAIN, start=300)
    entries = navsim_logs.frames(log, 14)
    for entry in entries:
        for camera in entry["cams"].values():
            camera["data_path"] = "../../../../etc/hostname"
    (tmp_path / f"{log}.pkl").write_bytes(pickle.dumps(entries))
    outcome = next(iter(samples.convert(source(root, logs=tmp_path), tmp_path / "out")))
    assert outcome.samples == 0 and "leads out of the sensor folder" in outcome.error


# --- what may be trained on


def test_test_logs_are_known_by_name_and_marked(root, tmp_path):
    known = "2021.05.25.12.30.39_veh-25_00005_00215"  # one of nuPlan's test logs
    assert splits.is_test_log(known) and not splits.is_test_log(navsim_logs.name_of(TRAIN))
    assert splits.split_of("anything", "navtrain", "test") == "test" and splits.split_of("anything", "navhard_two_stage", "x") == "test"
    assert {splits.split_of(f"log {k}", "navtrain", "trainval") for k in range(200)} == {"train", "validation"}
    navsim_logs.write_log(tmp_path, known, count=14)
    places = {"logs": tmp_path / "navsim_logs/trainval", "sensors": tmp_path / "sensor_blobs/trainval"}
    outcomes = list(samples.convert(source(root, **places), tmp_path / "out"))
    assert outcomes[0].samples == 1
    entry = Dataset(tmp_path / "out").entries[0]
    assert (entry.split, entry.family) == ("test", "navtest") and entry.id.startswith("navtest_")
    with pytest.raises(DataError, match="NAVSIM test split"):
        lists.check(Dataset(tmp_path / "out"), tmp_path / "out", "train")
    # nobody gets it in by renaming what it says of itself
    shard = next((tmp_path / "out/shards").glob("*.jsonl"))
    shard.write_text(shard.read_text().replace("navtest", "navtrain").replace('"split":"test"', '"split":"train"'))
    with pytest.raises(DataError, match=f"is of log {known}, which belongs to NAVSIM's test splits"):
        lists.check(Dataset(tmp_path / "out", "train"), tmp_path / "out", "train")


# --- agent and submission


class Status:
    def __init__(self, pose, velocity, command):
        self.ego_pose, self.ego_velocity, self.driving_command = np.float32(pose), np.float32(velocity), command


def agent_input(sample, engine_frames=(0, 1, 2, 3)):
    """The devkit's AgentInput of a sample, by its attribute names."""
    history = sample.observation.history
    one_hot = np.eye(4, dtype=int)[logs.COMMANDS.index(sample.observation.command)]
    cameras = [
        types.SimpleNamespace(
            cam_f0=types.SimpleNamespace(image=sample.observation.images["front"][k].rgb if k in engine_frames else None),
            cam_l0=types.SimpleNamespace(image=sample.observation.images["front_left"][k].rgb),
            cam_r0=types.SimpleNamespace(image=sample.observation.images["front_right"][k].rgb),
        )
        for k in range(4)
    ]
    statuses = [Status(pose, (speed, 0.0), one_hot) for pose, speed in zip(history.poses_base, history.speeds_mps)]
    return types.SimpleNamespace(ego_statuses=statuses, cameras=cameras)


@pytest.fixture
def devkit(monkeypatch):
    """The three classes of the devkit that an agent meets."""

    @dataclasses.dataclass
    class Trajectory:
        poses: object
        trajectory_sampling: object

    @dataclasses.dataclass(frozen=True)
    class TrajectorySampling:
        num_poses: int = None
        time_horizon: float = None
        interval_length: float = None

        def __post_init__(self):
            if self.num_poses is None:
                object.__setattr__(self, "num_poses", round(self.time_horizon / self.interval_length))

    def sensor_config(**values):
        return types.SimpleNamespace(**values)

    found = {
        "navsim.common.dataclasses": {"Trajectory": Trajectory, "SensorConfig": sensor_config},
        "nuplan.planning.simulation.trajectory.trajectory_sampling": {"TrajectorySampling": TrajectorySampling},
    }
    for name, content in found.items():
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:k]), types.ModuleType(".".join(parts[:k])))
        for key, value in content.items():
            setattr(sys.modules[name], key, value)
            if isinstance(value, type):
                value.__module__, value.__qualname__ = name, key
    return types.SimpleNamespace(Trajectory=Trajectory, TrajectorySampling=TrajectorySampling)


def test_agent_answers_as_the_devkit_asks(folder, tiny_engine, devkit):
    agent, sample = SpanVLAAgent(str(tiny_engine)), Dataset(folder, "train")[0]
    agent.initialize()
    config = agent.get_sensor_config()
    assert config.cam_f0 == [2, 3] and config.cam_l0 is False and config.lidar_pc is False and not agent.requires_scene
    trajectory = agent.compute_trajectory(agent_input(sample))
    assert trajectory.poses.shape == (8, 3) and trajectory.poses.dtype == np.float32 and trajectory.trajectory_sampling.num_poses == 8
    dense = SpanVLAAgent(str(tiny_engine), trajectory_sampling=devkit.TrajectorySampling(num_poses=40, interval_length=0.1))
    assert np.allclose(dense.compute_trajectory(agent_input(sample)).poses[4::5], trajectory.poses, atol=1e-5)


def test_agent_sees_what_training_sees(folder, tiny_engine):
    agent, seen = SpanVLAAgent(str(tiny_engine)), []
    agent.initialize()
    spec, tokenizer = agent._planner.spec, agent._planner.tokenizer
    sample = Dataset(folder, "train", spec)[0]
    whole = Dataset(folder, "train")[0]
    plan = agent._planner.plan
    agent._planner.plan = lambda observation: seen.append(observation) or plan(observation)
    made = agent.plan(agent_input(whole))
    expected, found = (preprocess.preprocess(observation, spec, tokenizer) for observation in (sample.observation, seen[0]))
    assert expected.keys() == found.keys()
    for name in expected:
        # the devkit gives poses as float32, pictures as they are
        same = np.array_equal if found[name].ndim > 3 else np.allclose
        assert same(expected[name], found[name]), name
    assert made.waypoints_base.shape == (10, 3)


def test_agent_names_what_is_missing(folder, tiny_engine):
    agent, sample = SpanVLAAgent(str(tiny_engine)), Dataset(folder, "train")[0]
    with pytest.raises(Exception, match="no picture of CAM_F0 0.5 s before t0"):
        agent.plan(agent_input(sample, engine_frames=(3,)))
    with pytest.raises(ConfigError, match="are not NAVSIM's"):
        SpanVLAAgent(str(tiny_engine), cameras={"front": "CAM_X"})


def test_import_of_the_agent_needs_no_devkit():
    source = open(sys.modules[SpanVLAAgent.__module__].__file__).read()
    assert "import navsim" not in source and not any(line.startswith("from navsim") for line in source.splitlines())


def test_submission_is_read_by_the_devkit(root, tiny_engine, devkit, tmp_path, capsys):
    out = tmp_path / "submission.pkl"
    command = ["navsim", "--engine", str(tiny_engine), *arguments(root), "--filter", str(root / "navtrain.yaml"), "--out", str(out)]
    assert main([*command, "--about", "team_name=us"]) == 0
    said = capsys.readouterr().out
    assert "2/2 logs, 22 plans, PDMS 0." in said and sys.modules["navsim.common.dataclasses"].Trajectory is devkit.Trajectory
    content = pickle.loads(out.read_bytes())
    assert content["team_name"] == "us" and content["second_stage_predictions"] == [{}]
    assert content["predictions"][0].keys() == content["first_stage_predictions"][0].keys()
    trajectory = next(iter(content["predictions"][0].values()))
    assert type(trajectory) is devkit.Trajectory and trajectory.poses.shape == (8, 3) and trajectory.poses.dtype == np.float32
    assert trajectory.trajectory_sampling == devkit.TrajectorySampling(num_poses=8, time_horizon=4.0, interval_length=0.5)
    # the agent in the devkit plans the same
    log = logs.read_log(sorted((root / "navsim_logs/trainval").glob("*.pkl"))[0])
    assert log[3].token in content["predictions"][0]
    # the devkit pins a numpy that knows no numpy._core
    assert b"numpy._core" not in out.read_bytes() and b"numpy.core" not in out.read_bytes()
    assert main([*command, "--about", "colour=red"]) == 2


def test_submission_without_the_devkit_names_its_classes(tmp_path):
    data = submission.encode({"0a": np.zeros((8, 3))}, {})
    names = []

    class Spy(pickle.Unpickler):
        def find_class(self, module, name):
            names.append(f"{module}.{name}")
            return type(name, (), {}) if module != "numpy" and module != "copyreg" and module != "builtins" else super().find_class(module, name)

    Spy(io.BytesIO(data)).load()
    assert {"navsim.common.dataclasses.Trajectory", "nuplan.planning.simulation.trajectory.trajectory_sampling.TrajectorySampling"} <= set(names)
    assert "navsim" not in sys.modules


def test_help_has_an_example(capsys):
    for words in (["data", "navsim"], ["navsim"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        assert "example" in capsys.readouterr().out


def test_map_polygons_may_be_broken_or_in_parts():
    from spanvla_ros.data.navsim.city import valid

    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    assert valid(bow).is_valid and valid(bow).area == pytest.approx(2.0)
    two = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(3, 0, 4, 1)])
    assert valid(two).area == 2.0
    with pytest.raises(DataError, match="has no area"):
        valid(shapely.LineString([(0, 0), (1, 1)]))


def test_maps_are_kept_whole(folder):
    document = json.loads(next((folder / "maps").glob("*.json")).read_text())
    assert document["edges"]["21"] == "15" and document["controlled"] == ["21", "22"]
