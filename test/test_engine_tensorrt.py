"""The TensorRT back-end on a made-up GPU, under the names of every TensorRT version that it serves."""

from __future__ import annotations

import dataclasses
import shutil
import sys

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper  # noqa: E402

from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import arena, build, device, manifest, parity  # noqa: E402
from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from spanvla_ros.engine.backends.tensorrt import GRAPHS, TensorRTBackend  # noqa: E402
from spanvla_ros.engine.manifest import Port  # noqa: E402
from spanvla_ros.planning import tokenizer as tokenizers  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402

VERSIONS = tuple(fake_tensorrt.VERSIONS)
SETTINGS = build.BuildSettings(workspace_mib=64)


def whole_caches(folder, target):
    """The engine with prefill and step graphs that return whole caches instead of columns, as in-place ones do."""
    shutil.copytree(folder, target)
    old = manifest.read(target)
    graphs = dict(old.graphs)
    for title in ("prefill", "step"):
        entry = old.graphs[title]
        model = onnx.load(target / entry.file, load_external_data=False)
        graph, caches = model.graph, [port for port in old.graphs["step"].inputs if port.name[:2] in ("k_", "v_")]
        slots = caches[0].shape[2]
        values = {"slots": np.arange(slots).reshape(1, 1, slots, 1), "size": np.array([old.spec.prompt_tokens]), "end": np.array([slots]), "two": np.array([2])}
        graph.initializer.extend(onnx.numpy_helper.from_array(value, f"whole.{name}") for name, value in values.items())
        outputs = [o for o in graph.output if o.name[:2] not in ("k_", "v_")]
        inputs = list(entry.inputs)
        if title == "step":
            graph.input.append(helper.make_tensor_value_info("index", TensorProto.INT64, [1]))
            inputs.insert(2, Port(name="index", dtype="int64", shape=(1,)))
            graph.node.append(helper.make_node("Equal", ["whole.slots", "index"], ["whole.here"]))
        else:
            inputs += caches
        ports = [p for p in entry.outputs if p.name[:2] not in ("k_", "v_")]
        for port in caches:
            name, out = port.name, f"{port.name}_out"
            if title == "step":
                graph.node.append(helper.make_node("Where", ["whole.here", f"{name}_new", name], [out]))
            else:
                columns = f"whole.{name}"
                for node in graph.node:
                    node.output[:] = [columns if o == name else o for o in node.output]
                    node.input[:] = [columns if i == name else i for i in node.input]
                graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, port.shape))
                graph.node.append(helper.make_node("Slice", [name, "whole.size", "whole.end", "whole.two"], [f"{columns}.rest"]))
                graph.node.append(helper.make_node("Concat", [columns, f"{columns}.rest"], [out], axis=2))
            outputs.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, port.shape))
            ports.append(dataclasses.replace(port, name=out))
        del graph.output[:]
        graph.output.extend(outputs)
        onnx.save(model, target / entry.file)
        graphs[title] = dataclasses.replace(entry, inputs=tuple(inputs), outputs=tuple(ports))
    files = {**old.files, **{e.file: manifest.fingerprint(target / e.file) for e in graphs.values()}}
    dataclasses.replace(old, graphs=graphs, files=files).write(target)
    return target


@pytest.fixture(scope="module")
def folders(tiny_engine, tmp_path_factory):
    return {"columns": tiny_engine, "whole": whole_caches(tiny_engine, tmp_path_factory.mktemp("whole") / "engine")}


@pytest.fixture
def machine(monkeypatch):
    """Puts a GPU, one provider and a TensorRT into this process."""

    def install(version="10.15", provider="cuda-python", code=0, **changes):
        gpu = fake_cuda.FakeGpu(**changes)
        monkeypatch.setattr(device, "_library", lambda: fake_cuda.library(gpu, code))
        modules = {"pycuda": fake_cuda.pycuda, "cuda-python": fake_cuda.cuda_python}
        for name, make in modules.items():
            for module, value in make(gpu).items():
                monkeypatch.setitem(sys.modules, module, value if name == provider else None)
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(version, gpu) if version else None)
        return gpu

    return install


def opened(folder, plans=None):
    found = manifest.verify(folder)
    plans = plans or {name: build.build_plan(folder / found.graphs[name].file, SETTINGS) for name in GRAPHS}
    words = tokenizers.load(folder / "tokenizer.json")
    return TensorRTBackend(folder, found, words, plans=plans.__getitem__), words


def reference(folder):
    found = manifest.read(folder)
    return OnnxRuntimeBackend(folder, found, tokenizers.load(folder / "tokenizer.json"), threads=1)


def prompts(spec, words, count=2):
    return [preprocess(o, spec, words) for o in parity.observations(spec, count)]


@pytest.mark.parametrize("provider", ["pycuda", "cuda-python"])
@pytest.mark.parametrize("form", ["columns", "whole"])
@pytest.mark.parametrize("version", VERSIONS)
def test_plans_as_onnxruntime_does(folders, machine, version, form, provider):
    gpu = machine(version, provider)
    session, words = opened(folders[form])
    assert session._device.provider == provider
    assert len(session._pools) == (2 if form == "whole" and version in ("8.6", "10.3", "10.13") else 1)
    started = gpu.allocations
    found = parity.compare(session.spec, reference(folders["columns"]), session, prompts(session.spec, words, 2))
    assert found.tokens_equal and max(found.features, found.logits, found.waypoints) < 1e-5
    assert gpu.allocations == started, "memory was taken after start-up"
    session.close()
    assert not gpu.host or provider == "pycuda"
    assert gpu.recording is None
