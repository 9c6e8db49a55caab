"""`spanvla bench plan` on the random tiny model, and what it measures against."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
from helpers import demo_spec  # noqa: E402

from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.engine import bench, load, parity  # noqa: E402
from spanvla_ros.model import floor, tiny  # noqa: E402
from spanvla_ros.model.plain import PlainPlan  # noqa: E402
from spanvla_ros.model.size import measure  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402


@pytest.mark.parametrize("changes", [{}, {"cameras": ("front", "left"), "frame_offsets_s": (-1.5, -1.0, -0.5, 0.0), "prompt_tokens": 240}])
def test_plain_transformers_say_and_plan_what_our_own_forward_does(changes):
    model = tiny.build(spec=dataclasses.replace(tiny.build().spec, **changes))
    prompt = preprocess(next(parity.observations(model.spec, 1, seed=2)), model.spec, model.tokenizer)
    noise = np.zeros((1, model.spec.waypoints, 3), np.float32)
    session = load.on_model(model, "torch", 1)
    session.prefill(prompt)
    said = list(session.decode(7))
    plain = PlainPlan(model)
    assert plain.generate(prompt, 6) == said[:6]
    # the cache of generate ends before its last token: teach ours to end there too
    session._restart()
    for token in said[:5]:
        session._write(token)
    session._closed = True
    np.testing.assert_allclose(plain.flow(prompt, noise), session.flow(prompt, noise), atol=1e-4)


def test_random_weights_in_torch(tmp_path, capsys):
    path = tmp_path / "f.json"
    assert main([*"bench plan --preset tiny --random-weights --backend torch --tokens 3 --repeats 2 --threads 1 --json".split(), str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["backend"] == "torch" and found["tokens"]["text"] == 3 and set(found["trajectory_ms"]) == {"10", "50"}
    stages = found["stages_ms"]
    assert set(stages) == {"encode_prefill", "reasoning", "trajectory", "total", "token"}
    assert stages["total"]["p50"] > max(stages[s]["p50"] for s in bench.STAGES) > 0
    assert found["speedup_vs_generate"] == pytest.approx(found["generate_ms"]["total"]["p50"] / stages["total"]["p50"])
    assert "floor_ms" not in found
    text = capsys.readouterr().out
    assert "50 waypoints" in text and "times as fast as generate()" in text and "max_reasoning_tokens" in text


def test_an_engine_folder_with_its_checkpoint(tmp_path, tiny_engine):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "f.json"
    assert main(["bench", "plan", "--engine", str(tiny_engine), *"--tokens 3 --repeats 2 --threads 1 --json".split(), str(path)]) == 0
    assert json.loads(path.read_text())["backend"] == "onnxruntime"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--preset nothing --random-weights", "'nothing' is not one of demo, navsim, spanvla-3b, tiny"),
        ("--preset tiny", "preset tiny has no engine"),
        ("--preset tiny --random-weights --backend torch --tokens 999", "--tokens is 999"),
        ("--preset tiny --random-weights --repeats 0", "--repeats 0"),
    ],
)
def test_bad_requests_are_named(arguments, named, capsys):
    assert main(["bench", "plan", *arguments.split()]) == 2
    assert named in capsys.readouterr().err


def test_budget_for_a_deadline():
    timings, before = bench.Timings(), bench.Timings()
    before._wall["preprocess"] = [5.0]
    timings._wall.update(encode_prefill=[20.0], trajectory=[15.0], token=[10.0])
    spec = demo_spec()
    assert bench.budget(spec, before, timings, 100.0) == 5  # 40 ms are fixed, 60 hold five tokens and the closing one
    assert bench.budget(spec, before, timings, 50.0) == 0
    assert bench.budget(spec, before, timings, 49.0) is None
    assert bench.budget(spec, before, timings, 1000.0) == spec.max_reasoning_tokens


def test_a_drive_shows_every_pair_twice():
    spec = dataclasses.replace(tiny.build().spec, cameras=("front", "left"), frame_offsets_s=(-1.5, -1.0, -0.5, 0.0), prompt_tokens=240)
    shown = [p["patches"].reshape(2, 2, -1) for p in bench.drive(spec, tiny.build().tokenizer, 3).prompts]
    assert np.array_equal(shown[1][:, 0], shown[0][:, 1]) and not np.array_equal(shown[1][:, 1], shown[0][:, 1])


def test_floor_of_the_papers_size():
    """Against the table of figures by hand: 896 vision tokens, 1000 of prompt, at 790 TFLOP/s and 4.3 TB/s."""
    from spanvla_ros.model.architecture import Architecture
    from spanvla_ros.share import share

    spec = demo_spec(
        cameras=("a", "b", "c", "d"), frame_offsets_s=(-1.5, -1.0, -0.5, 0.0), image_size=(224, 392), taps=tuple(range(0, 36, 2)), prompt_tokens=1000
    )
    size = measure(Architecture.load(share("config/model/spanvla-3b.yaml")), spec, 700)
    found = floor.floor_ms(size, 1000, 14, 790e12, 4.3e12)
    assert found["vision"] == pytest.approx(5.9, rel=0.05) and found["prefill"] == pytest.approx(7.2, rel=0.05)
    assert found["reasoning"] == pytest.approx(21.7, rel=0.02) and found["total"] == pytest.approx(35, abs=1)
