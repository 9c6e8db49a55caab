from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from synthetic_samples import Dataset  # noqa: E402

from spanvla_ros.contracts import DataError  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402
from spanvla_ros.planning.tokenizer import load  # noqa: E402
from spanvla_ros.training import batches, cache, targets, tokenizer  # noqa: E402
from spanvla_ros.training.batches import JitterConfig  # noqa: E402
from spanvla_ros.training.vlm import SpecConfig  # noqa: E402

READER = "synthetic_samples:Dataset"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    path = root / "tokenizer.json"
    spec = SpecConfig(name="test", max_reasoning_tokens=32).spec("")
    tokenizer.train(Dataset("/x/40"), spec, 900, path)
    return root, path, spec, cache.build(Path("/x/40"), "train", spec, path, root, workers=1, reader=READER)


def test_inputs_are_those_of_the_car(made):
    _, path, spec, data = made
    dataset, ids = Dataset("/x/40"), np.array([7, 3, 39])
    prompts, pixels = batches.prompts(data, ids), batches.pixels(data, ids, spec)
    for row, i in enumerate(ids):
        wanted = preprocess(dataset[i].observation, spec, load(path))
        np.testing.assert_array_equal(pixels[row].numpy(), wanted["patches"])
        width = prompts["ids"].shape[1]
        np.testing.assert_array_equal(prompts["ids"][row], wanted["ids"][0, :width])
        np.testing.assert_array_equal(prompts["slot"][row], wanted["slot"][0, :width])
        np.testing.assert_array_equal(prompts["positions"][:, row], wanted["positions"][:, 0, :width])
        assert prompts["length"][row] == wanted["length"][0]
        np.testing.assert_array_equal(data["ego"][i], wanted["ego"][0])
        np.testing.assert_array_equal(data["base"][i], wanted["base"][0])


def test_answer_reads_back_as_the_text(made):
    _, path, _, data = made
    words = load(path)
    for i in (0, 5, 11):
        said = words.decode(batches.answers(data, np.array([i]))[0].tolist(), skip_special_tokens=False)
        assert said == f" {Dataset('/x/40')[i].reasoning}</think><action_start>"


def test_hash_follows_data_spec_and_tokenizer(made, tmp_path):
    root, path, spec, data = made
    again = cache.build(Path("/x/40"), "train", spec, path, root, workers=1, reader=READER)
    assert again.path == data.path
    other_spec = SpecConfig(name="test", max_reasoning_tokens=33).spec("")
    other_tokenizer = tmp_path / "tokenizer.json"
    tokenizer.train(Dataset("/x/40"), spec, 500, other_tokenizer)
    hashes = {
        cache.cache_hash("a", spec, path),
        cache.cache_hash("b", spec, path),
        cache.cache_hash("a", other_spec, path),
        cache.cache_hash("a", spec, other_tokenizer),
    }
    assert len(hashes) == 4
    # what doesn't shape the arrays doesn't force another pass
    assert cache.cache_hash("a", SpecConfig(name="other", max_reasoning_tokens=32, source_sigma=0.5).spec("x"), path) in hashes


def test_two_workers_and_an_interrupted_pass_give_the_same_arrays(made, tmp_path, monkeypatch):
    _, path, spec, data = made
    monkeypatch.setattr(cache, "CHUNK", 16)
    convert, calls = cache.convert, []

    def dies(*args):
        calls.append(args)
        if len(calls) > 25:
            raise KeyboardInterrupt
        return convert(*args)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(cache, "convert", dies)
        cache.build(Path("/x/40"), "train", spec, path, tmp_path, workers=1, reader=READER)
    said: list[str] = []
    resumed = cache.build(Path("/x/40"), "train", spec, path, tmp_path, workers=1, reader=READER, say=said.append)
    assert "16 done before" in said[0]
    two = cache.build(Path("/x/40"), "train", spec, path, tmp_path / "two", workers=2, reader=READER)
    for name in data.arrays:
        np.testing.assert_array_equal(resumed[name], data[name], err_msg=name)
        np.testing.assert_array_equal(two[name], data[name], err_msg=name)


def test_text_longer_than_the_model_takes_is_named(made, tmp_path):
    _, path, _, _ = made
    spec = SpecConfig(name="test", max_reasoning_tokens=3).spec("")
    with pytest.raises(DataError, match=r"sample 0: the reasoning has \d+ tokens, the model takes 4"):
        cache.build(Path("/x/8"), "train", spec, path, tmp_path, workers=1, reader=READER)


def test_packed_sequence_predicts_exactly_the_answer(made):
    _, _, _, data = made
    ids = np.arange(9)
    answers = batches.answers(data, ids)
    sequence = batches.packed(batches.prompts(data, ids), answers)
    after = torch.roll(sequence["ids"], -1, dims=1)[sequence["predict"]]
    assert torch.equal(after, sequence["labels"]) and len(after) == sum(map(len, answers))
    for row in range(len(ids)):
        size = int(sequence["valid"][row].sum())
        place = sequence["positions"][:, row, size - len(answers[row]) : size]
        # text positions count on, equal on all three axes, and the expert stands right behind them
        assert torch.equal(place[0], place[1]) and torch.equal(place[0].diff(), torch.ones(len(answers[row]) - 1, dtype=torch.int64))
        assert int(place[0, -1]) + 1 == int(sequence["next_position"][row])


def test_dense_labels_are_shares_of_areas_and_presence_of_objects():
    spec = SpecConfig(name="test").spec("")
    cells = np.zeros((18, 32), np.uint8)
    cells[0, 0] = 63  # above the cut
    cells[2:4, 0:4] = 1  # half of the first token is road
    cells[17, 31] = 32  # one cone cell in the last
    dense = targets.dense(cells, spec).astype(float) / targets.DENSE_STEPS
    assert dense.shape == (32, 7) and dense[0].tolist() == [0.5, 0, 0, 0, 0, 0, 0] and dense[31].tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert dense[1:31].sum() == 0
    assert (targets.dense(None, spec) == targets.DENSE_UNKNOWN).all()


def test_unknown_fields_are_not_a_number_and_far_is_far():
    values = targets.regression({"lateral_offset_m": 0.25, "stop_distance_m": None, "lead_gap_m": float("inf"), "curvature_1pm": [0.1] * 5})
    assert values[0] == 0.5 and np.isnan(values[1]) and values[7] == 3.0 and values[8] == 3.0 and np.isnan(values[9])
    assert targets.lamp({}) == -1
    with pytest.raises(DataError, match="lamp"):
        targets.lamp({"lamp": 7})


def test_jitter_stays_a_picture(made):
    _, _, spec, data = made
    torch.manual_seed(0)
    plain = batches.pixels(data, np.arange(8), spec)
    changed = batches.jitter(plain.clone(), JitterConfig(), spec)
    assert not torch.allclose(plain, changed)
    mean, std = np.array(spec.image_mean)[:, None], np.array(spec.image_std)[:, None]
    back = changed.numpy().reshape(*changed.shape[:-1], 3, -1) * std + mean
    assert back.min() > -1e-5 and back.max() < 1 + 1e-5
    untouched = batches.jitter(plain.clone(), JitterConfig(contrast=0, brightness=0, colour=0), spec)
    torch.testing.assert_close(untouched, plain, atol=1e-5, rtol=0)


def test_action_scale_wraps_yaw_and_has_a_floor():
    base = np.zeros((4, 2, 3))
    future = np.tile([[2.0, 0, 0], [2.0, 0, 2 * np.pi + 0.5]], (4, 1, 1))
    assert targets.action_scale(future, base, (0.05, 0.05, 0.01)) == ((2.0, 0.05, 0.01), (2.0, 0.05, 0.5))
