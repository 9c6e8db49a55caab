import json

import cv2
import numpy as np
import pytest

from helpers import S, history
from spanvla_ros.contracts import Command, DataError, Image, Observation
from spanvla_ros.data.sample import Sample, to_record
from spanvla_ros.data.shards import Dataset, ShardWriter, finished

RNG = np.random.default_rng(0)
JPEGS = [(t, cv2.imencode(".jpg", RNG.integers(0, 255, (252, 448, 3), np.uint8))[1].tobytes()) for t in (19 * S // 2, 10 * S, 21 * S // 2)]


def sample(name="a"):
    observation = Observation(
        t0_ns=10 * S,
        images={"front": tuple(Image(stamp_ns=t, rgb=np.zeros((252, 448, 3), np.uint8)) for t, _ in JPEGS[:2])},
        history=history(),
        pose_odom=np.array([1.0, 2.0, 3.0]),
        command=Command.LEFT,
    )
    return Sample(
        id=name,
        observation=observation,
        future=RNG.normal(size=(10, 3)),
        reasoning="Stop.",
        mode="slow",
        family="red",
        map="6000",
        label="pos",
        fields={"lamp": 1, "curvature_1pm": [0.0] * 5},
        cells=RNG.integers(0, 64, (18, 32), np.uint8),
    )


def record(made, split="train"):
    return to_record(made, split=split, seed=3, decision={"longitudinal": "yield", "lateral": "turn"}, components=[], provenance={})


def write(folder, drive="red_00003", fail=False):
    made = [sample("a"), sample("b")]
    with ShardWriter(folder, drive) as shard:
        shard.add(record(made[0]), {"front": JPEGS[:2]})
        if fail:
            raise RuntimeError("power cut")
        shard.add(record(made[1], "validation"), {"front": JPEGS[1:]})
    return made


def test_round_trip(tmp_path):
    made = write(tmp_path)
    dataset = Dataset(tmp_path)
    assert len(dataset) == 2 and dataset.jpegs(1)["front"] == [data for _, data in JPEGS[1:]]
    for got, want in zip(dataset, made):
        np.testing.assert_allclose(got.future, want.future, atol=1e-6)
        np.testing.assert_array_equal(got.cells, want.cells)
        np.testing.assert_allclose(got.observation.history.poses_base, want.observation.history.poses_base, atol=1e-6)
        assert (got.reasoning, got.observation.command, got.fields) == (want.reasoning, Command.LEFT, want.fields)
    assert [r["id"] for r in Dataset(tmp_path, "validation").records] == ["b"]


def test_shared_frames_are_stored_once(tmp_path):
    write(tmp_path)
    assert (tmp_path / "shards/red_00003.jpegs").stat().st_size == sum(len(d) for _, d in JPEGS)


def test_records_fit_the_schema(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    from importlib import resources

    schema = json.loads(resources.files("spanvla_ros.data").joinpath("mreasoning_1.schema.json").read_text())
    write(tmp_path)
    for line in Dataset(tmp_path).records:
        jsonschema.validate(line, schema)
    with pytest.raises(jsonschema.ValidationError, match="sideways"):
        jsonschema.validate({**line, "decision": {"longitudinal": "yield", "lateral": "sideways"}}, schema)


def test_an_interrupted_drive_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError):
        write(tmp_path, fail=True)
    assert not finished(tmp_path, "red_00003") and list((tmp_path / "shards").iterdir()) == []


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
    lines = tmp_path / "shards/red_00003.jsonl"
    lines.write_text(lines.read_text().replace("mreasoning/1", "mreasoning/9"))
    with pytest.raises(DataError, match="mreasoning/9"):
        Dataset(tmp_path)
