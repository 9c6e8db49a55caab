import copy
import errno
import json
from importlib import resources

import cv2
import numpy as np
import pytest
from helpers import S, demo_spec, history

from spanvla_ros.contracts import Command, DataError, Image, Observation
from spanvla_ros.data.sample import Sample, to_record
from spanvla_ros.data.shards import Dataset, ShardWriter, finished, write_map
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning.inputs import Grid

RNG = np.random.default_rng(0)
CAMERAS = ("front", "front_left", "front_right")
STAMPS = [10 * S + k * S // 2 for k in range(-3, 2)]
JPEGS = {c: [(t, cv2.imencode(".jpg", RNG.integers(0, 255, (252, 448, 3), np.uint8))[1].tobytes()) for t in STAMPS] for c in CAMERAS}
BLANK = np.zeros((252, 448, 3), np.uint8)


def sample(name="a", label="pos", split="train"):
    dense = constant_turn(8.0, 0.05, 0.1 * np.arange(1, 51))
    return Sample(
        id=name,
        observation=Observation(
            t0_ns=10 * S,
            images={c: tuple(Image(stamp_ns=t, rgb=BLANK) for t in STAMPS[:4]) for c in CAMERAS},
            history=history(),
            pose_odom=np.array([1.0, 2.0, 3.0]),
            command=Command.LEFT,
        ),
        future=dense[4::5],
        dense=dense,
        reasoning="Stop.",
        mode="slow",
        family="red",
        map="town-0",
        label=label,
        fields={"lamp": 1, "curvature_1pm": [0.0] * 5},
        cells=RNG.integers(0, 64, (18, 32), np.uint8),
        instruction="Turn left at the junction.",
        split=split,
        seed=3,
        decision={"longitudinal": "yield", "lateral": "turn"},
        components=({"class": "VRU", "type": "pedestrian", "location": "5 m ahead", "behavior": "crosses"},),
        lights=({"connector": ":J_0_0", "state": "red", "distance_m": 12.0},),
        span=(85, 100, 66),
        provenance={"source": "simulator", "generator": "test", "driver": "expert", "future": "driven", "lapse": None},
    )


def frames(first=0):
    return {camera: entries[first : first + 4] for camera, entries in JPEGS.items()}


def write(folder, drive="red_00003", fail=False, labels=("pos", "neg")):
    made = [sample(f"{drive}{k}", label) for k, label in enumerate(labels)]
    with ShardWriter(folder, drive) as shard:
        shard.truth({"map": "town-0", "frames": []})
        for k, each in enumerate(made):
            if fail and k:
                raise fail
            shard.add(to_record(each), frames(min(k, 1)))
    return made


def test_round_trip(tmp_path):
    made = write(tmp_path)
    dataset = Dataset(tmp_path)
    assert len(dataset) == 2 and dataset.jpegs(1)["front"] == [data for _, data in JPEGS["front"][1:]]
    assert dataset.truth(1)["map"] == "town-0"
    for got, want in zip(dataset, made):
        for name in ("future", "dense", "cells"):
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-5)
        np.testing.assert_allclose(got.observation.history.poses_base, want.observation.history.poses_base, atol=1e-6)
        for name in ("id", "reasoning", "mode", "label", "fields", "instruction", "seed", "split", "components", "lights", "span", "provenance"):
            assert getattr(got, name) == getattr(want, name), name


def test_chosen_by_split_and_label(tmp_path):
    write(tmp_path)
    assert [e.label for e in Dataset(tmp_path, "train", labels=("pos", "rec")).entries] == ["pos"]
    with pytest.raises(DataError, match="no sample of split 'train' with label rec"):
        Dataset(tmp_path, "train", labels=("rec",))
    assert Dataset(tmp_path).sha256 != Dataset(tmp_path, labels=("pos",)).sha256 == Dataset(tmp_path, labels=("pos", "rec")).sha256


def test_a_model_gets_the_frames_history_and_waypoints_it_asks_for(tmp_path):
    write(tmp_path)
    spec = demo_spec()
    got = Dataset(tmp_path, grid=spec)[0]
    assert list(got.observation.images) == ["front"] and [f.stamp_ns for f in got.observation.images["front"]] == STAMPS[2:4]
    np.testing.assert_array_equal(got.waypoints(spec), got.future)
    fine = demo_spec(waypoints=50, waypoint_interval_s=0.1, action_scale=((1.0, 1.0, 1.0),) * 50)
    np.testing.assert_array_equal(got.waypoints(fine), got.dense)
    short = Grid(cameras=("front_left",), frame_offsets_s=(0.0,), history_offsets_s=(-1.0, 0.0))
    past = Dataset(tmp_path, grid=short)[0].observation.history
    assert past.stamps_ns == (9 * S, 10 * S) and past.acceleration_mps2 == pytest.approx(np.diff(past.speeds_mps)[0])
    with pytest.raises(DataError, match="no 12 waypoints every 0.5 s"):
        got.waypoints(demo_spec(waypoints=12, action_scale=((1.0, 1.0, 1.0),) * 12))
    for grid, text in ((Grid(cameras=("rear",), frame_offsets_s=(0.0,), history_offsets_s=(0.0,)), "rear"),
                       (Grid(cameras=("front",), frame_offsets_s=(-2.0, 0.0), history_offsets_s=(0.0,)), "nothing at -2 s")):  # fmt: skip
        with pytest.raises(DataError, match=text):
            Dataset(tmp_path, grid=grid)[0]


def test_streaming_is_complete_seeded_shuffled_and_shared_out(tmp_path):
    for k in range(6):
        write(tmp_path, f"red_{k:05d}", labels=("pos",) * 4)
    dataset = Dataset(tmp_path, grid=Grid(cameras=("front",), frame_offsets_s=(0.0,), history_offsets_s=(-0.5, 0.0)))
    names = [e.id for e in dataset.entries]
    one, two, other = ([s.id for s in dataset.stream(seed, buffer=6)] for seed in (1, 1, 2))
    assert one == two != other and sorted(one) == sorted(other) == sorted(names) and one != names
    parts = [[s.id for s in dataset.stream(1, worker, 4, buffer=3)] for worker in range(4)]
    assert sorted(sum(parts, [])) == sorted(names) and max(map(len, parts)) == 8
    with pytest.raises(DataError, match="worker 4 of 4"):
        next(dataset.stream(1, 4, 4))


def test_shared_frames_are_stored_once(tmp_path):
    write(tmp_path)
    assert (tmp_path / "shards/red_00003.jpegs").stat().st_size == sum(len(d) for entries in JPEGS.values() for _, d in entries)


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(resources.files("spanvla_ros.data").joinpath("mreasoning_1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_records_fit_the_schema(tmp_path, validator):
    write(tmp_path)
    assert not list(validator.iter_errors(Dataset(tmp_path).record(0)))


@pytest.mark.parametrize(
    "path, value",
    [
        (("decision", "lateral"), "sideways"),
        (("label",), "good"),
        (("future",), [[0.0, 0.0, 0.0]] * 11),
        (("critical_components", 0, "class"), "Ghost"),
        (("images",), {"front": []}),
        (("provenance", "lapse"), {"kind": "sleep"}),
        (("lights", 0, "state"), "blue"),
        (("pose_odom",), [0, 0]),
    ],
)
def test_what_breaks_the_schema_is_found(tmp_path, validator, path, value):
    write(tmp_path)
    record = copy.deepcopy(Dataset(tmp_path).record(0))
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert list(validator.iter_errors(record))
    del place[path[-1]]
    if path[0] in ("label", "future", "images"):
        assert list(validator.iter_errors(record))


def test_an_interrupted_drive_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError):
        write(tmp_path, fail=RuntimeError("power cut"))
    assert not finished(tmp_path, "red_00003") and list((tmp_path / "shards").iterdir()) == []


def test_a_full_disk_is_named_and_what_was_written_stays_valid(tmp_path, monkeypatch):
    write(tmp_path, "red_00001")
    with pytest.raises(DataError, match="disk is full; finished drives are kept"):
        write(tmp_path, "red_00003", fail=OSError(errno.ENOSPC, "No space left on device"))
    assert len(Dataset(tmp_path)) == 2 and len(list((tmp_path / "shards").iterdir())) == 3
    monkeypatch.setattr("pathlib.Path.write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DataError, match="disk is full"):
        write_map(tmp_path, "town-0", {})
    assert not list((tmp_path / "maps").iterdir())


def test_maps_are_written_once(tmp_path):
    write(tmp_path)
    for document in ({"map": "town-0", "areas": []}, {"map": "other"}):
        write_map(tmp_path, "town-0", document)
    assert Dataset(tmp_path).chart("town-0") == {"map": "town-0", "areas": []}
    with pytest.raises(DataError, match="town-9.json"):
        Dataset(tmp_path).chart("town-9")


def test_damage_is_named(tmp_path):
    with pytest.raises(DataError, match="no shards"):
        Dataset(tmp_path)
    write(tmp_path)
    jpegs = tmp_path / "shards/red_00003.jpegs"
    jpegs.write_bytes(jpegs.read_bytes()[:-100])
    with pytest.raises(DataError, match="needs"):
        Dataset(tmp_path)[1]
    with pytest.raises(DataError, match="no sample of split 'test'"):
        Dataset(tmp_path, "test")
    (tmp_path / "shards/red_00003.truth.json").write_text("{")
    with pytest.raises(DataError, match="truth.json"):
        Dataset(tmp_path).truth(0)
    lines = tmp_path / "shards/red_00003.jsonl"
    lines.write_text(lines.read_text().replace("mreasoning/1", "mreasoning/9"))
    with pytest.raises(DataError, match="mreasoning/9"):
        Dataset(tmp_path)
