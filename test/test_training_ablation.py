from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from synthetic_samples import Dataset  # noqa: E402

from spanvla_ros import config as configs  # noqa: E402
from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.contracts import ConfigError, EgoHistory  # noqa: E402
from spanvla_ros.geometry import to_local  # noqa: E402
from spanvla_ros.model import checkpoint  # noqa: E402
from spanvla_ros.planning import motion  # noqa: E402
from spanvla_ros.training import ablation, bench, cache, horizon, kv, table  # noqa: E402
from spanvla_ros.training.bridge import BridgeConfig  # noqa: E402
from spanvla_ros.training.expert import ExpertConfig, run_expert  # noqa: E402
from spanvla_ros.training.kv import View  # noqa: E402
from spanvla_ros.training.processes import Processes  # noqa: E402
from spanvla_ros.training.vlm import VlmConfig, run_vlm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
READER = "synthetic_samples:Dataset"
DATA = Path("/synthetic/48")
TABLE = ["--config", str(ROOT / "config/train/tiny_ablation.yaml"), "--data", str(DATA), "--run", "table", "--vlm", "one", f"expert.reader={READER}"]


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs with a tiny stage-one model."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("runs")
    patch.setenv("SPANVLA_RUNS", str(folder))
    path = ROOT / "config/train/tiny_vlm.yaml"
    run_vlm(Processes(), configs.load(VlmConfig, path, [f"reader={READER}"]), path, DATA, "one", silent)
    yield folder
    patch.undo()


def expert(name: str, *overrides: str) -> Path:
    config = configs.load(ExpertConfig, ROOT / "config/train/tiny_expert.yaml", [f"reader={READER}", "vlm=one", *overrides])
    return run_expert(Processes(), config, DATA, name, silent)


@pytest.fixture(scope="module")
def made(runs):
    """The table, made once."""
    assert main(["train", "ablation", *TABLE]) == 0
    return runs / "table"


def test_table_has_every_row_and_reference(made):
    found = json.loads((made / "table.json").read_text())
    rows = {(row["name"], row["steps"], row["shown"]) for row in found["rows"]}
    flow_steps = 5
    assert rows == {
        ("history", 1, "validation"), ("history", 2, "validation"), ("history", flow_steps, "validation"),
        ("history", flow_steps, "black"), ("history", flow_steps, "silent"),
        ("gaussian", flow_steps, "validation"), ("last", flow_steps, "validation"), ("L1 head", 1, "validation"),
        ("50 waypoints", flow_steps, "validation"),
        ("constant turn", None, "validation"), ("blind MLP", None, "validation"), ("oracle-state MLP", None, "validation"),
    }  # fmt: skip
    for row in found["rows"]:
        assert row["ade_1s"]["mean"] <= row["ade_5s"]["mean"] and row["ade_1s"]["spread"] is None
        assert (row["time_ms"] is None) == (row["steps"] is None)
    text = (made / "table.md").read_text()
    assert "| history, black images | 5 |" in text and "| 50 waypoints | 5 |" in text


def test_finished_rows_are_kept_and_another_configuration_is_refused(made, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(ablation, "fit", lambda *args: trained.append(args))
    before = (made / "seed-0/history/plans.npz").read_bytes()
    assert main(["train", "ablation", *TABLE]) == 0
    assert not trained and (made / "seed-0/history/plans.npz").read_bytes() == before
    assert main(["train", "ablation", *TABLE, "expert.loop.steps=5"]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_a_row_that_was_interrupted_is_made_again_alone(made):
    path = made / "seed-0/last/result.json"
    before = json.loads(path.read_text())
    path.unlink()
    kept = (made / "seed-0/history/result.json").stat().st_mtime_ns
    assert main(["train", "ablation", *TABLE]) == 0
    assert json.loads(path.read_text()) == before
    assert (made / "seed-0/history/result.json").stat().st_mtime_ns == kept


def test_a_model_that_speaks_its_plan_has_a_row_for_it(runs, tmp_path, capsys):
    recorded = "test_training_codebook:Sampled"
    assert main(["train", "codebook", "--data", str(DATA), "--out", str(tmp_path / "book.safetensors"), "size=64", f"reader={recorded}"]) == 0
    path = ROOT / "config/train/tiny_vlm.yaml"
    config = configs.load(VlmConfig, path, [f"reader={READER}", f"codebook={tmp_path / 'book.safetensors'}", "loop.steps=2"])
    run_vlm(Processes(), config, path, DATA, "speaks", silent)
    rows = "rows={history: {bridge: {tap_interval: 2, tap_offset: 1}}}"
    line = [*TABLE[:5], "spoken", "--vlm", "speaks", f"expert.reader={READER}", "expert.loop.steps=2", rows]
    assert main(["train", "ablation", *line]) == 0
    found = json.loads((runs / "spoken/table.json").read_text())
    row = next(r for r in found["rows"] if r["name"] == ablation.SPOKEN)
    assert row["time_ms"] == found["tokens_ms"]["10"] < found["tokens_ms"]["50"] and row["ade_1s"]["mean"] > 0
    assert "50 action tokens, one by one" in (runs / "spoken/table.md").read_text()


def test_rows_of_seconds_are_refused():
    with pytest.raises(ConfigError, match="loop.steps"):
        configs.load(ablation.AblationConfig, ROOT / "config/train/tiny_ablation.yaml", ["expert.vlm=x", "expert.loop={seconds: 3}"])


def test_mean_and_spread_over_seeds(tmp_path):
    for seed, value in enumerate((1.0, 2.0, 3.0)):
        folder = tmp_path / f"seed-{seed}/row"
        folder.mkdir(parents=True)
        entry = {"steps": 5, "shown": "validation", "time_ms": None, "ade_1s": value}
        (folder / "result.json").write_text(json.dumps({"entries": [entry]}))
        (folder / "pdm.json").write_text(json.dumps([0.5]))
    row = table.collect([tmp_path / f"seed-{k}" for k in range(3)], ["row"], {"row@5": 4.0}, 10)["rows"][0]
    assert row["ade_1s"] == {"mean": 2.0, "spread": 1.0} and row["pdms"] == {"mean": 0.5, "spread": 0.0} and row["time_ms"] == 4.0


@pytest.mark.parametrize(
    "overrides",
    [
        ["bridge.waypoints=50", "bridge.waypoints_per_token=5", "bridge.kv_age=true", "partial_text=0.3"],
        ["bridge.source=mlp", "bridge.normalisation=fixed"],
    ],
)
def test_stage_two_changes_the_bridge_and_the_model_folder_says_so(runs, overrides):
    folder = expert(f"bridge-{len(overrides)}", *overrides)
    model = checkpoint.load(folder / "model")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    if len(overrides) == 4:
        assert model.spec.waypoints == 50 and model.spec.waypoint_interval_s == 0.1 and len(model.spec.action_scale) == 50 and model.spec.kv_age
        assert model.expert.query.shape[1] == 10 and last["aged_ade_1s"] > 0
    else:
        assert model.spec.source == "mlp" and model.spec.action_scale[3] == pytest.approx((50, 20, np.pi))


def test_expert_of_another_shape_is_no_start(runs):
    expert("start")
    with pytest.raises(ConfigError, match="init: the expert of"):
        expert("never", "init=start", "bridge.tap_interval=last")
    # the age of its KV may be told to an expert that never knew it; the other way round it would be lost
    aged = checkpoint.load(expert("aged", "init=start", "bridge.kv_age=true", "loop.learning_rate=1e-9", "loop.final_learning_rate=1e-9") / "model")
    assert aged.spec.kv_age and not aged.expert.age_in.weight.abs().max() > 1e-6
    with pytest.raises(ConfigError, match="built otherwise: age_in"):
        expert("forgetful", "init=aged")


def test_cut_text_ends_anywhere_and_with_the_action_token(runs):
    model, _ = bench.load("one")
    path = runs / "one/model/tokenizer.json"
    data = cache.build(DATA, "train", model.spec, path, runs / "cache", workers=1, reader=READER)
    ids = np.arange(32)
    whole, prompt = (kv.compute(model, data, ids, view, (0, 1), False) for view in (View(), View(prompt_only=1.0)))
    cut = kv.compute(model, data, ids, View(partial_text=1.0), (0, 1), False)
    shorter, longer = cut[1] - prompt[1], whole[1] - cut[1]
    assert (shorter > 0).all() and (longer > 0).all() and len(set(shorter)) > 3
    assert (cut[2] - prompt[2] == shorter).all()
    for row in (0, 7):
        size = int(cut[1][row]) - 1
        # what stands before the cut is that of the whole text; the token that closes it is not
        assert torch.allclose(cut[0][row, ..., :size, :], whole[0][row, ..., :size, :], atol=1e-5)
        assert not torch.allclose(cut[0][row, ..., size, :], whole[0][row, ..., size, :], atol=1e-3)


def turning(shift_s: float):
    """A sample of a car that brakes in a bend, and what an observer `shift_s` later would have seen of it."""
    speed, braking, rate = 9.0, -0.8, 0.1

    def pose(t):
        steps = np.linspace(0, t, 400)
        v = speed + braking * steps
        return np.array([np.trapezoid(v * np.cos(rate * steps), steps), np.trapezoid(v * np.sin(rate * steps), steps), rate * t])

    def history(now):
        at = now + np.array([-1.5, -1.0, -0.5, 0.0])
        poses = to_local(pose(now), np.stack([pose(t) for t in at]))
        poses[-1] = 0
        return EgoHistory(
            stamps_ns=tuple(int((10 + t) * 1e9) for t in at), poses_base=poses, speeds_mps=speed + braking * at, yaw_rates_rps=np.full(4, rate),
            acceleration_mps2=braking,
        )  # fmt: skip

    plain = Dataset("/x/1")[0]
    dense = np.stack([pose(0.1 * k) for k in range(1, 51)])
    sample = dataclasses.replace(
        plain, observation=dataclasses.replace(plain.observation, history=history(0.0)), dense=dense, future=dense[4::5]
    )
    wanted = to_local(pose(shift_s), np.stack([pose(shift_s + 0.5 * k) for k in range(1, 11)]))
    return sample, history(shift_s), wanted, pose(shift_s)


@pytest.mark.parametrize("shift_s", [0.0, 0.1, 0.3, 0.5])
def test_later_present_is_what_the_car_would_see_then(shift_s):
    from helpers import demo_spec

    spec = demo_spec(kv_age=True)
    sample, history, future, moved = turning(shift_s)
    row = horizon.shifted(sample, spec, shift_s)
    known = row["known"]
    assert known.sum() == (10 if shift_s == 0 else 9)
    np.testing.assert_allclose(row["future"][known], future[known], atol=2e-3)
    np.testing.assert_allclose(row["future"][~known], future[~known], atol=0.3)
    np.testing.assert_allclose(row["ego"], motion.features(history, sample.observation.command), atol=5e-3)
    np.testing.assert_allclose(row["base"], motion.base(history, spec), atol=0.05)
    np.testing.assert_allclose(row["age"], motion.age_features(shift_s, moved), atol=1e-3)


def test_bridge_names_what_is_wrong():
    from helpers import demo_spec

    spec = demo_spec(taps=(1, 3))
    assert BridgeConfig().draft(spec, 4) == spec
    assert BridgeConfig(tap_interval=2).draft(spec, 36).taps == tuple(range(0, 36, 2))
    assert BridgeConfig(tap_interval="last").draft(spec, 4).taps == (3,)
    noise = BridgeConfig(source="gaussian").draft(spec, 4)
    assert noise.source_sigma == noise.inference_noise == 1.0 and not noise.rolls_out
    with pytest.raises(ConfigError, match="tap_offset.*is 2"):
        BridgeConfig(tap_interval=2, tap_offset=2).draft(spec, 4)
    with pytest.raises(ConfigError, match="not both"):
        BridgeConfig(tap_interval=2, taps=(1,))
    with pytest.raises(ConfigError, match="10 waypoints don't divide into tokens of 4"):
        BridgeConfig(waypoints_per_token=4).draft(spec, 4)
