import numpy as np
import pytest

from helpers import demo_spec
from spanvla_ros.data import collect
from spanvla_ros.data.shards import Dataset
from spanvla_ros.planning import prompt, tokenizer
from spanvla_ros.planning.preprocess import preprocess

pytest.importorskip("libsumo", reason="needs the extra [sim]")

SHORT = collect.Recipe(limit_s=4.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples")
    assert collect.drive("red", 6001, path, recipe=SHORT) == 6
    return path


def test_samples_are_complete_and_on_the_grid(folder):
    dataset = Dataset(folder)
    sample = dataset[3]
    assert dataset.records[3]["split"] == "test"
    assert [(f.stamp_ns - sample.observation.t0_ns) / 1e9 for f in sample.observation.images["front"]] == [-0.5, 0.0]
    assert sample.future.shape == (10, 3) and np.isfinite(sample.future).all()
    assert sample.cells.shape == (18, 32) and sample.cells.any()
    assert len(sample.fields["curvature_1pm"]) == 5
    assert sample.reasoning.startswith((prompt.FAST_TEXT, prompt.SLOW_LEAD))


def test_pictures_at_rest_and_live_give_the_backend_the_same_tensors(folder, monkeypatch, tmp_path):
    seen = []
    record = collect.to_record
    monkeypatch.setattr(collect, "to_record", lambda sample, **more: seen.append(sample) or record(sample, **more))
    collect.drive("red", 6001, tmp_path, recipe=SHORT)
    spec = demo_spec()
    words = tokenizer.train([prompt.render(spec, s.observation.history, s.observation.command) for s in seen], 500)
    for live, stored in zip(seen, Dataset(folder)):
        ours, theirs = preprocess(live.observation, spec, words), preprocess(stored.observation, spec, words)
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(ours["patches"], theirs["patches"])


def test_a_drive_that_is_there_is_not_driven_again(folder):
    assert collect.drive("red", 6001, folder, recipe=SHORT) == 0


def test_disturbance_is_seeded_bounded_and_leaves_calm_plans_alone():
    straight = np.column_stack([4.0 * np.arange(1, 11), np.zeros(10), np.zeros(10)])
    runs = []
    for _ in range(2):
        disturbance = collect.Disturbance(collect.Recipe(), np.random.default_rng(3))
        runs.append([disturbance.bend(straight, 0.25 * k) for k in range(120)])
    np.testing.assert_array_equal(runs[0], runs[1])
    bent = np.array(runs[0])
    calm = (bent == straight).all(axis=(1, 2))
    assert 0.3 < calm.mean() < 0.95
    assert np.abs(bent[:, :, 1]).max() <= collect.Recipe().offset_m
