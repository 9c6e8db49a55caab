"""A whole engine from random weights: files, signatures, parity with torch."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import load, manifest, parity  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402

CACHE = [f"{kind}_{layer:02d}" for layer in range(2) for kind in "kv"]


@pytest.fixture(scope="module")
def engine(tiny_engine):
    return tiny_engine


def test_onnxruntime_equals_torch(engine):
    found = parity.check(engine, "onnxruntime", count=3)
    assert found.tokens_equal and found.prompts == 3
    assert max(found.features, found.logits, found.waypoints) < 2e-5
    assert found.waypoints > 0


def test_parity_notices_a_difference(engine):
    spec, tokenizer, tested = load.load_backend(engine)
    *_, reference = load.load_backend(engine, "torch")
    prompt = preprocess(next(parity.observations(spec, 1)), spec, tokenizer)
    reference._model.expert.out.bias.data += 1e-2
    assert not parity.compare(spec, reference, tested, [prompt]).ok


def test_graphs_are_the_contract(engine):
    graphs = manifest.read(engine).graphs
    ports = {name: ([p.name for p in g.inputs], [p.name for p in g.outputs]) for name, g in graphs.items()}
    assert ports == {
        "vision": (["patches"], ["feat"]),
        "prefill": (["ids", "slot", "feat", "positions", "length"], ["logits", *CACHE]),
        "step": (["token", "position", "valid", *CACHE], ["next_token", "logits", *[f"{n}_new" for n in CACHE]]),
        "expert": (["noise", "ego", "base", "position", "valid", *CACHE[2:4]], ["waypoints"]),
    }
    spec = manifest.read(engine).spec
    shapes = {p.name: p.shape for g in graphs.values() for p in (*g.inputs, *g.outputs)}
    assert shapes["patches"] == (1, 128, 1176) and shapes["feat"] == (32, 64)
    assert shapes["waypoints"] == (1, spec.waypoints, 3) and shapes["valid"] == (1, spec.cache_tokens)
    assert shapes["k_00"] == (1, 2, spec.cache_tokens, 16)
    assert all(d > 0 for shape in shapes.values() for d in shape)


def test_graphs_hold_only_plain_operators_and_no_traces(engine):
    for path in engine.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"If", "Loop", "Scan", "NonZero", "Unique", "ScatterElements", "SequenceConstruct"}
        assert {(o.domain, o.version) for o in model.opset_import} == {("", 20)}
        assert not re.search(rb"site-packages|\.py\b", path.read_bytes())


def test_weights_are_stored_once_and_as_in_the_checkpoint(engine):
    from safetensors import safe_open

    with safe_open(engine / "model.safetensors", "np") as stored:
        count = sum(int(np.prod(stored.get_slice(name).get_shape())) for name in stored.keys())  # noqa: SIM118
    # two bytes per weight; tied, shared and repeated ones don't count twice, small tables and padding count a little
    assert (engine / "weights.bin").stat().st_size < 2.1 * count
    blob = (engine / "weights.bin").read_bytes()
    model = onnx.load(engine / "prefill.onnx", load_external_data=False)
    entry = next(t for t in model.graph.initializer if list(t.dims) == [640, 64])
    place = {e.key: e.value for e in entry.external_data}
    raw = np.frombuffer(blob, np.uint16, 640 * 64, int(place["offset"]))
    from safetensors.torch import load_file

    embedding = load_file(engine / "model.safetensors")["vlm.model.language_model.embed_tokens.weight"]
    assert np.array_equal((raw.astype(np.uint32) << 16).view(np.float32), embedding.float().numpy().ravel())


def copy(engine, tmp_path):
    return shutil.copytree(engine, tmp_path / "engine")


def test_engine_hash_follows_the_content(engine, tmp_path):
    first = manifest.verify(engine)
    again = manifest.verify(copy(engine, tmp_path))
    assert first.sha256 == again.sha256 and len(first.sha256) == 64


def test_folder_without_manifest(tmp_path):
    with pytest.raises(EngineError, match="holds no manifest.json"):
        manifest.verify(tmp_path)
    with pytest.raises(EngineError, match="does not exist"):
        load.load_backend(tmp_path / "nowhere")


def test_changed_and_missing_files(engine, tmp_path):
    folder = copy(engine, tmp_path)
    before = manifest.read(folder).files["weights.bin"].sha256
    data = bytearray((folder / "weights.bin").read_bytes())
    data[1000] ^= 1
    (folder / "weights.bin").write_bytes(data)
    after = manifest.fingerprint(folder / "weights.bin").sha256
    with pytest.raises(EngineError, match=f"{after}.*{before}"):
        load.load_backend(folder)
    (folder / "weights.bin").unlink()
    with pytest.raises(EngineError, match="weights.bin is missing"):
        load.load_backend(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), "unknown keys .'colour'"),
        (lambda d: d.pop("graphs"), "missing keys .'graphs'"),
        (lambda d: d.update(schema="spanvla-engine/9"), "spanvla-engine/9"),
        (lambda d: d["spec"].update(flow_steps=4), "was edited"),
        (lambda d: d["files"].update(x={"sha256": "", "size": 1}), "size"),
    ],
)
def test_manifest_errors(engine, tmp_path, change, message):
    data = json.loads((engine / "manifest.json").read_text())
    change(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(EngineError, match=message):
        manifest.read(tmp_path)


def test_unknown_backend(engine):
    with pytest.raises(EngineError, match="'cuda'.*onnxruntime"):
        load.load_backend(engine, "cuda")


def test_command_line(tmp_path, capsys):
    from spanvla_ros.cli.main import main
    from spanvla_ros.model import checkpoint, tiny

    run = tmp_path / "run"
    checkpoint.save(tiny.build(seed=3), run / "model")
    (run / "record.json").write_text(json.dumps({"command": ["spanvla", "train", "--data", "/somewhere/else/data", "x=/a/b"], "commit": "abc"}))
    assert main(["export", "--checkpoint", str(run), "--out", str(tmp_path / "engine")]) == 0
    assert "greedy tokens equal" in capsys.readouterr().out
    assert manifest.verify(tmp_path / "engine").training == {"stages": [{"command": ["spanvla", "train", "--data", "data", "x=b"], "commit": "abc"}]}
    assert main(["export", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("changes", [{"kv_age": True}, {"source": "gaussian"}, {"head": "l1", "waypoints_per_token": 5}])
def test_expert_of_other_bridges_exports_with_the_inputs_that_it_needs(changes):
    import dataclasses

    import onnxruntime
    import torch

    from spanvla_ros.engine.export import trace
    from spanvla_ros.model import tiny
    from spanvla_ros.model.graphs import graphs

    graph = graphs(tiny.build(spec=dataclasses.replace(tiny.build().spec, **changes)))["expert"]
    assert graph.inputs == ("noise", "ego", "base", *(["age"] if "kv_age" in changes else []), "position", "valid", *CACHE[2:4])
    session = onnxruntime.InferenceSession(trace(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(e.shape, generator=generator) if e.is_floating_point() else e + 60 for e in graph.examples]
    inputs[graph.inputs.index("valid")] = torch.ones_like(inputs[graph.inputs.index("valid")])
    with torch.no_grad():
        wanted = graph.module(*inputs).numpy()
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(graph.inputs, inputs)})[0]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(wanted).max() > 0.1
