"""Engines of less precision, made by ModelOpt: the same network, with fewer bits, judged where a CPU can run it."""

from __future__ import annotations

import argparse
import copy
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("modelopt.onnx.autocast", reason="needs the extra modelopt")

from spanvla_ros.cli import export as cli  # noqa: E402
from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import export as exports  # noqa: E402
from spanvla_ros.engine import golden, load, manifest, parity, precision  # noqa: E402
from spanvla_ros.engine.export import export  # noqa: E402
from spanvla_ros.model import tiny  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402

HALF, BRAIN, INT4 = 10, 16, 22  # onnx.TensorProto


def graph(folder, name):
    return onnx.load(folder / f"{name}.onnx", load_external_data=False).graph


def stored(folder, name):
    return {tensor.data_type for tensor in graph(folder, name).initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}


@pytest.fixture(scope="module")
def lowered(tmp_path_factory, tiny_engine):  # which is made before its traces are kept
    """Engine folder of the tiny model by precision; each is made when it is first asked for."""
    made, traced, trace = {}, {}, exports.trace

    def once(graph, opset):  # tracing takes most of the time, and gives the same graphs each time
        key = (graph.inputs, opset)
        traced[key] = traced.get(key) or trace(graph, opset)
        return copy.deepcopy(traced[key])

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("lowered") / name
            export(tiny.build(), made[name], precision=name)
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "trace", once)
        yield get


def agreement(folder):
    _, _, session = load.load_backend(folder, "onnxruntime")
    found = golden.check(folder, session, manifest.read(folder).precision)
    session.close()
    return found


def test_float16_reproduces_the_goldens(lowered):
    found = agreement(lowered("fp16"))
    # rounded, and not by accident float32
    assert found.ok and found.features > 1e-6 and found.waypoints > 1e-6, found


def test_four_bits_are_still_the_same_network(lowered):
    found = agreement(lowered("int4"))
    # random weights of 64 inputs take it badly; another network would be 1.4 apart
    assert found.features < 5e-3 and 1e-3 < found.logits < 0.5, found


def test_float16_keeps_what_it_can_not_hold(tiny_engine):
    def halves(*values):
        given = {"vision": [{"patches": np.full((1, 128, 1176), value, np.float32)} for value in values]}
        found = precision.lower(tiny_engine / "vision.onnx", "vision", "fp16", given).graph
        return {tensor.name for tensor in found.initializer if tensor.data_type == HALF}

    assert halves(1.0, 1e6) < halves(1.0), "products of 1e6 stay float32"


@pytest.mark.parametrize("name", ["bf16", "fp8"])
def test_bfloat16_is_left_to_the_gpu(lowered, name):
    folder = lowered(name)
    assert BRAIN in stored(folder, "step") and BRAIN in stored(folder, "expert")
    assert "bfloat16" in load.PROBES["onnxruntime"](folder)
    assert load.choose("auto", folder) == "torch"


def test_products_are_rounded_where_the_recipe_says(lowered):
    kinds = {name: [node.op_type for node in graph(lowered("fp8"), name).node] for name in ("vision", "prefill", "step", "expert")}
    assert {name for name, found in kinds.items() if "QuantizeLinear" in found} == {"vision", "prefill", "step"}
    four = {name for name in kinds if INT4 in stored(lowered("int4"), name)}
    assert four == {"prefill", "step"}


def test_logits_are_not_rounded(lowered):
    for name in ("prefill", "step"):
        found = graph(lowered("fp8"), name)
        makers = {out: node for node in found.node for out in node.output}
        node = makers["logits"]
        while node.op_type not in ("MatMul", "Gemm"):
            node = makers[node.input[0]]
        before = [makers[i].op_type for i in node.input if i in makers]
        assert "DequantizeLinear" not in before


@pytest.mark.parametrize("name", sorted(precision.RECIPES))
def test_ports_and_manifest_stay(lowered, tiny_engine, name):
    found, plain = manifest.verify(lowered(name)), manifest.read(tiny_engine)
    assert found.precision == name and {k: (g.inputs, g.outputs) for k, g in found.graphs.items()} == {
        k: (g.inputs, g.outputs) for k, g in plain.graphs.items()
    }
    models = [onnx.load(lowered(name) / f"{key}.onnx", load_external_data=False) for key in found.graphs]
    assert found.opset == max(o.version for model in models for o in model.opset_import if not o.domain)


@pytest.mark.parametrize("name, opset", [("bf16", 17), ("fp8", 18), ("int4", 18)])
def test_an_opset_without_the_types_is_refused(tmp_path, name, opset):
    with pytest.raises(EngineError, match=f"{name} needs opset"):
        export(tiny.build(), tmp_path / "engine", precision=name, opset=opset)
    assert not (tmp_path / "engine").exists()


def test_without_modelopt_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    with pytest.raises(EngineError, match=r"spanvla_ros\[modelopt\]"):
        export(tiny.build(), tmp_path / "engine", precision="fp16")
    assert not (tmp_path / "engine").exists()


def test_precisions_are_told_alike():
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    told = {action.dest: action.choices for action in parser._subparsers._group_actions[0].choices["export"]._actions}["precision"]
    assert sorted(told) == sorted(exports.PRECISIONS)
    assert set(load.BFLOAT16) == {name for name, recipe in precision.RECIPES.items() if recipe.rest == "bf16"}


def test_without_samples_there_is_no_range(tiny_engine):
    _, _, session = load.load_backend(tiny_engine, "onnxruntime")
    with pytest.raises(EngineError, match="no sample"):
        precision.feeds(session, [])
    session.close()


def test_feeds_are_what_the_graphs_were_given(tiny_engine):
    spec, tokenizer, session = load.load_backend(tiny_engine, "onnxruntime")
    prompt = preprocess(next(parity.observations(spec, 1)), spec, tokenizer)
    given = precision.feeds(session, [prompt])
    session.close()
    assert np.array_equal(given["prefill"][0]["ids"], prompt["ids"]) and np.array_equal(given["expert"][0]["ego"], prompt["ego"])
    ports = {port.name: port.shape for port in manifest.read(tiny_engine).graphs["step"].inputs}
    assert {name: array.shape for name, array in given["step"][0].items()} == ports
