"""What a graph may be made of: operators, shapes and names, at every opset."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import manifest  # noqa: E402
from spanvla_ros.engine.export import export, trace  # noqa: E402
from spanvla_ros.model import graphs, tiny  # noqa: E402

LAYERS, TAP = 2, 1
CACHE = [f"{kind}_{layer:02d}" for layer in range(LAYERS) for kind in "kv"]
SCENE = ["noise", "ego", "base", "position", "valid", f"k_{TAP:02d}", f"v_{TAP:02d}"]
PLAIN = set(
    "Add And ArgMax Cast Clip Concat Cos Div Equal Erf Expand Gather GatherElements Gelu Gemm Greater GreaterOrEqual LayerNormalization Less "
    "MatMul Max Mul Neg Or Pow Reciprocal ReduceMean Reshape Round Sigmoid Sin Slice Softmax Split Sqrt Sub Transpose Unsqueeze Where".split()
)
ALLOWED = {
    "17": PLAIN | {"ConstantOfShape"},  # of constant shapes: the old exporter's way to expand
    "20": PLAIN,
    "24": PLAIN - {"Softmax"} | {"Attention", "TensorScatter"},
    "int8": PLAIN | {"ConstantOfShape", "DynamicQuantizeLinear", "MatMulInteger"},
}
FORMS = sorted(ALLOWED)


def models(folder):
    entries = manifest.read(folder).graphs
    return {name: onnx.load(folder / entry.file, load_external_data=False) for name, entry in entries.items()}


def count(model, *kinds):
    return sum(node.op_type in kinds for node in model.graph.node)


@pytest.mark.parametrize("form", FORMS)
def test_only_allowed_operators(tiny_engines, form):
    for name, model in models(tiny_engines[form]).items():
        extra = {node.op_type for node in model.graph.node} - ALLOWED[form]
        assert not extra, f"{name} at {form} has {sorted(extra)}"
        assert not any(a.type == onnx.AttributeProto.GRAPH for node in model.graph.node for a in node.attribute)
        assert {(o.domain, o.version) for o in model.opset_import} == {("", 17 if form == "int8" else int(form))}
        assert {node.domain for node in model.graph.node} <= {""} and not model.functions


@pytest.mark.parametrize("form", FORMS)
def test_shapes_are_static_and_the_manifest_says_them(tiny_engines, form):
    entries = manifest.read(tiny_engines[form]).graphs
    for name, model in models(tiny_engines[form]).items():
        for values, ports in ((model.graph.input, entries[name].inputs), (model.graph.output, entries[name].outputs)):
            assert [v.name for v in values] == [p.name for p in ports]
            for value, port in zip(values, ports):
                dims = value.type.tensor_type.shape.dim
                assert tuple(d.dim_value for d in dims) == port.shape and all(d.WhichOneof("value") == "dim_value" for d in dims)
                integer = port.name in ("ids", "slot", "positions", "length", "token", "position", "index", "next_token")
                assert port.dtype == ("int64" if integer else "float32")


@pytest.mark.parametrize("form", FORMS)
def test_names_are_the_documented_ones(tiny_engines, form):
    whole = [f"{name}_out" for name in CACHE]
    prefill, step = ["ids", "slot", "feat", "positions", "length"], ["token", "position"]
    expected = {
        "vision": (["patches"], ["feat"]),
        "prefill": (prefill, ["logits", *CACHE]),
        "step": ([*step, "valid", *CACHE], ["next_token", "logits", *[f"{name}_new" for name in CACHE]]),
        "expert": (SCENE, ["waypoints"]),
    }
    if form == "24":
        expected["prefill"] = ([*prefill, *CACHE], ["logits", *whole])
        expected["step"] = ([*step, "index", "valid", *CACHE], ["next_token", "logits", *whole])
    if form == "17":
        expected["expert_step"] = (["point", "tau", "interval", *SCENE], ["point_next", "waypoints"])
    entries = manifest.read(tiny_engines[form]).graphs
    assert {name: ([p.name for p in e.inputs], [p.name for p in e.outputs]) for name, e in entries.items()} == expected
    words = set(re.findall(r"\w+", graphs.__doc__))
    names = {name for graph, sides in expected.items() for side in sides for name in (graph, *side)}
    assert {re.sub(r"^[kv]_\d\d", "k_00", name) for name in names} <= words


def test_cache_in_place(tiny_engines):
    found = models(tiny_engines["24"])
    for name in ("prefill", "step"):
        graph = found[name].graph
        scatters = [node for node in graph.node if node.op_type == "TensorScatter"]
        # the cache itself goes in and the result itself comes out: nothing between that would need a copy
        assert sorted((node.input[0], node.output[0]) for node in scatters) == sorted((n, f"{n}_out") for n in CACHE)
        assert count(found[name], "Attention") == LAYERS
    step = found["step"].graph
    assert {node.input[1] for node in step.node if node.op_type == "Attention"} <= {f"{n}_out" for n in CACHE}
    assert count(found["expert"], "Attention") == 2 * manifest.read(tiny_engines["24"]).spec.flow_steps
    assert count(found["vision"], "Attention") == 2


def test_opset_17_is_for_a_runtime_without_bfloat16(tiny_engines):
    kinds = {name: {t.data_type for m in models(tiny_engines[name]).values() for t in m.graph.initializer} for name in ("17", "20")}
    assert onnx.TensorProto.BFLOAT16 not in kinds["17"] and onnx.TensorProto.BFLOAT16 in kinds["20"]


def test_int8_weights_are_stored_once(tiny_engines):
    found = models(tiny_engines["int8"])
    stored = {}
    for name in ("vision", "prefill", "step"):
        model = found[name]
        weights = {t.name: t for t in model.graph.initializer}
        products = [weights[node.input[1]] for node in model.graph.node if node.op_type == "MatMulInteger"]
        assert products and all(t.data_type == onnx.TensorProto.INT8 for t in products)
        # what is left multiplies two activations: attention
        assert not any(node.input[1] in weights for node in model.graph.node if node.op_type == "MatMul")
        stored[name] = {e.value for t in products for e in t.external_data if e.key == "offset"}
    assert stored["prefill"] == stored["step"]
    assert not count(found["expert"], "MatMulInteger")
    sizes = {name: manifest.read(tiny_engines[name]).files["weights.bin"].bytes for name in ("17", "int8")}
    assert sizes["int8"] < 0.7 * sizes["17"]


def test_opset_18_of_the_new_exporter():
    graph = graphs.graphs(tiny.build(), expert_step=True)["expert_step"]
    model = trace(graph, 18)
    assert {node.op_type for node in model.graph.node} <= PLAIN and model.opset_import[0].version == 18


@pytest.mark.parametrize(("choice", "message"), [({"opset": 19}, "opset 19"), ({"precision": "fp4"}, "in fp4")])
def test_unknown_forms_are_named(tmp_path, choice, message):
    with pytest.raises(EngineError, match=message):
        export(tiny.build(), tmp_path / "engine", **choice)
    assert not (tmp_path / "engine").exists()
