"""transformers == our torch == ONNX Runtime, at every opset that is exported; and what int8 costs."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import load, manifest, parity  # noqa: E402
from spanvla_ros.model import checkpoint  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402
from spanvla_ros.planning.tokenizer import VIDEO_PAD  # noqa: E402

TOLERANCE = 1e-4
CUT = 9  # tokens that the second prompt is shorter by


def prompts(spec, tokenizer):
    """Two of different length."""
    first, second = (preprocess(o, spec, tokenizer) for o in parity.observations(spec, 2, seed=4))
    return first, {**second, "length": second["length"] - CUT}


def huggingface(model, prompt):
    """Features, logits after the prompt and greedy answer of transformers' own code."""
    hf, spec, length = model.vlm.hf, model.spec, int(prompt["length"][0])
    ids = torch.from_numpy(prompt["ids"][:, :length])
    pictures = {
        "pixel_values_videos": torch.from_numpy(prompt["patches"]).flatten(0, 1),
        "video_grid_thw": torch.tensor([[1, spec.grid[0] * spec.merge, spec.grid[1] * spec.merge]]),
    }
    kinds = (ids == model.tokenizer.token_to_id(VIDEO_PAD)).int() * 2
    with torch.no_grad():
        features = model.vlm.tower(pictures["pixel_values_videos"], grid_thw=pictures["video_grid_thw"]).pooler_output
        logits = hf(input_ids=ids, mm_token_type_ids=kinds, **pictures).logits[:, -1]
        answer = hf.generate(input_ids=ids, mm_token_type_ids=kinds, **pictures, max_new_tokens=spec.max_reasoning_tokens, do_sample=False)
    return features.numpy(), logits.numpy(), answer[0, length:].tolist()


@pytest.mark.parametrize("form", ["17", "20", "24"])
def test_transformers_torch_and_onnxruntime_agree(tiny_engines, form):
    folder = tiny_engines[form]
    spec, tokenizer, ours = load.load_backend(folder, "torch")
    *_, graphs = load.load_backend(folder, "onnxruntime")
    model = checkpoint.load(folder)
    noise = np.random.default_rng(0).standard_normal((1, spec.waypoints, 3)).astype(np.float32)
    for prompt in prompts(spec, tokenizer):
        features, logits, answer = huggingface(model, prompt)
        plans = []
        for session in (ours, graphs):
            session.prefill(prompt)
            np.testing.assert_allclose(session.features, features, atol=TOLERANCE, rtol=0)
            np.testing.assert_allclose(session.logits, logits, atol=TOLERANCE, rtol=0)
            assert list(session.decode(spec.max_reasoning_tokens)) == answer
            plans.append(session.flow(prompt, noise))
        np.testing.assert_allclose(plans[1], plans[0], atol=TOLERANCE, rtol=0)
        assert len(set(answer)) > 1 and np.ptp(logits) > 1 and np.abs(plans[0]).max() > 0.1


def expert_inputs(model, entry):
    generator = torch.Generator().manual_seed(3)
    arrays = {p.name: torch.randn(p.shape, generator=generator).numpy() for p in entry.inputs if p.dtype == "float32"}
    return {**arrays, "valid": np.ones_like(arrays["valid"]), "position": np.array([60])}


@pytest.mark.parametrize("steps", [3, 7])
def test_single_steps_are_the_unrolled_flow(tiny_engines, steps):
    folder = tiny_engines["17"]
    entries, model = manifest.read(folder).graphs, checkpoint.load(folder)
    unrolled, single = (onnxruntime.InferenceSession(str(folder / entries[n].file)) for n in ("expert", "expert_step"))
    inputs = expert_inputs(model, entries["expert"])
    point = np.full_like(inputs["noise"], 99)  # must not matter
    for step in range(steps):
        tau, interval = (np.array([x], np.float32) for x in (step / steps, 1 / steps))
        point, waypoints = single.run(None, {**inputs, "point": point, "tau": tau, "interval": interval})
    taps = [(torch.from_numpy(inputs[f"k_{n:02d}"]), torch.from_numpy(inputs[f"v_{n:02d}"])) for n in model.spec.taps]
    rest = [torch.from_numpy(inputs[name]) for name in ("valid", "position", "ego", "base", "noise")]
    with torch.no_grad():
        wanted = model.sample(taps, *rest, steps=steps).numpy()
    np.testing.assert_allclose(waypoints, wanted, atol=1e-5, rtol=1e-6)
    same = np.abs(unrolled.run(None, inputs)[0] - waypoints).max() < 1e-5
    assert same == (steps == model.spec.flow_steps)


def test_int8_engine_plans_as_the_checkpoint_does(tiny_engines, capsys):
    folder = tiny_engines["int8"]
    assert manifest.read(folder).precision == "int8" and manifest.read(tiny_engines["17"]).precision == "fp32"
    spec, tokenizer, tested = load.load_backend(folder, "onnxruntime")
    *_, reference = load.load_backend(folder, "torch")
    samples = [(p, np.zeros((spec.waypoints, 3))) for p in prompts(spec, tokenizer)]
    found = parity.open_loop(spec, reference, tested, samples)
    assert found.samples == 2 and 0 < found.between_m < 0.1 * found.checkpoint_m
    assert abs(found.change) < 0.1
    # the weights are rounded, so the tensors can't agree as those of float32 do
    assert not parity.check(folder, "onnxruntime", count=1).ok
    reference._model.expert.out.bias.data += 1.0
    assert not parity.open_loop(spec, tested, reference, [(samples[0][0], tested.flow(samples[0][0], np.zeros_like(samples[0][0]["base"])))]).ok


def test_open_loop_without_samples(tiny_engines):
    spec, _, session = load.load_backend(tiny_engines["17"])
    with pytest.raises(EngineError, match="there are none"):
        parity.open_loop(spec, session, session, [])


def test_command_line_exports_an_engine_again(tiny_engines, tmp_path, capsys):
    from spanvla_ros.cli.main import main

    assert main(["export", "--engine", str(tiny_engines["20"]), "--opset", "17", "--precision", "int8", "--out", str(tmp_path / "int8")]) == 0
    assert "int8" in capsys.readouterr().out
    first, again = (manifest.verify(f) for f in (tiny_engines["20"], tmp_path / "int8"))
    assert again.files["model.safetensors"] == first.files["model.safetensors"] and again.training == first.training
    assert (again.opset, again.precision, again.spec) == (17, "int8", first.spec)
    data = json.loads((tiny_engines["20"] / "manifest.json").read_text())
    assert "precision" not in data
    assert main(["export", "--engine", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
