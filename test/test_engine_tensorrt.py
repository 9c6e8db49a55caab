"""The TensorRT back-end on a made-up GPU, under the names of every TensorRT version that it serves."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import sys
import threading
import types

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper  # noqa: E402

from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import arena, build, device, gpu, load, manifest, parity  # noqa: E402
from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from spanvla_ros.engine.backends.tensorrt import GRAPHS, TensorRTBackend  # noqa: E402
from spanvla_ros.engine.features import PairCache  # noqa: E402
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
        values = {"slots": np.arange(slots).reshape(1, 1, slots, 1)}
        values |= {"size": np.array([old.spec.prompt_tokens]), "end": np.array([slots]), "two": np.array([2])}
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
        chip = fake_cuda.FakeGpu(**changes)
        monkeypatch.setattr(gpu, "_library", lambda: fake_cuda.library(chip, code))
        modules = {"pycuda": fake_cuda.pycuda, "cuda-python": fake_cuda.cuda_python}
        for name, make in modules.items():
            for module, value in make(chip).items():
                monkeypatch.setitem(sys.modules, module, value if name == provider else None)
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(version, chip) if version else None)
        return chip

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


def reference_and(folder, machine, version, **changes):
    """ONNX Runtime and TensorRT sessions of the same weights, two prompts, and the GPU."""
    chip = machine(version, **changes)
    session, words = opened(folder)
    return chip, session, prompts(session.spec, words)


# every version with either form of the cache, the providers in turn
CASES = [(v, form, tuple(device.PROVIDERS)[(i + j) % 2]) for i, v in enumerate(VERSIONS) for j, form in enumerate(("columns", "whole"))]


@pytest.mark.parametrize(("version", "form", "provider"), CASES)
def test_plans_as_onnxruntime_does(folders, machine, version, form, provider):
    chip, session, given = reference_and(folders[form], machine, version, provider=provider)
    assert session._device.provider == provider
    assert len(session._pools) == (2 if form == "whole" and version in ("8.6", "10.3", "10.13") else 1)
    started = chip.allocations
    found = parity.compare(session.spec, reference(folders["columns"]), session, given)
    assert found.tokens_equal and max(found.features, found.logits, found.waypoints) < 1e-5
    assert chip.allocations == started, "memory was taken after start-up"
    session.close()
    # what is left belongs to the engines
    assert len(chip.blocks) == len(GRAPHS) and not chip.graphs


@pytest.mark.parametrize(("version", "form"), [("10.15", "columns"), ("10.3", "whole"), ("11.4", "whole")])
def test_every_end_of_the_answer(folders, machine, version, form):
    """All budgets one after the other on the same prompt, as plans before, within and after the text have them."""
    _, session, given = reference_and(folders[form], machine, version)
    sessions = reference(folders["columns"]), session
    noise = np.ones((1, 10, 3), np.float32)
    for prompt in given:
        for each in sessions:
            each.prefill(prompt)
        for budget in (0, 13, 3, 7, 0, 5, 12, 1, 13):
            said, plans = zip(*((list(each.decode(budget)), each.flow(prompt, noise)) for each in sessions))
            assert said[0] == said[1]
            np.testing.assert_allclose(plans[0], plans[1], atol=1e-5)


def test_an_answer_that_is_cut_between_two_tokens(folders, machine):
    _, session, given = reference_and(folders["whole"], machine, "10.13")
    plans = []
    for each in (reference(folders["columns"]), session):
        each.prefill(given[0])
        tokens = each.decode(12)
        said = [next(tokens) for _ in range(7)]
        tokens.close()
        plans.append((said, each.flow(given[0], np.zeros((1, 10, 3), np.float32))))
    assert plans[0][0] == plans[1][0]
    np.testing.assert_allclose(plans[0][1], plans[1][1], atol=1e-5)


def test_text_comes_in_blocks_and_stops_where_nobody_listens(folders, machine):
    chip, session, given = reference_and(folders["columns"], machine, "10.15")
    session._action_start = -7  # never said, so no answer ends by itself
    before = chip.launches
    session.prefill(given[0])
    assert chip.launches - before == 2  # vision, prefill
    assert len(list(session.decode(6))) == 6
    assert chip.launches - before == 5  # two blocks, the closing token
    session.flow(given[0], np.zeros((1, 10, 3), np.float32))
    assert chip.launches - before == 6


def test_another_thread_plans(folders, machine):
    """A node loads in one thread and plans in another."""
    _, session, given = reference_and(folders["columns"], machine, "10.15", provider="pycuda")
    found = []

    def plan():
        session.prefill(given[0])
        found.append(session.flow(given[0], np.zeros((1, 10, 3), np.float32)))

    thread = threading.Thread(target=plan)
    thread.start()
    thread.join()
    assert np.isfinite(found[0]).all()


def test_features_of_several_cameras_lie_as_the_prompt_counts_them(machine):
    """Vision sees one frame pair of all cameras; the prompt wants camera after camera, and an older pair isn't seen again."""
    machine()
    gpu_side = device.open_device()
    backend = TensorRTBackend.__new__(TensorRTBackend)
    small, large = (Port(name="feat", dtype="float32", shape=(rows, 4)) for rows in (3 * 2, 3 * 2 * 2))
    backend._device, backend._cameras, backend._pairs, backend.seen = gpu_side, 3, 2, PairCache(3, 2)
    backend._patches = arena.Arena(gpu_side, [Port(name="patches", dtype="float32", shape=(3, 2, 4))])
    backend._seen_rows = arena.Arena(gpu_side, [small], {"feat": 28}, host=False)
    backend._features = arena.Arena(gpu_side, [large], host=False)
    backend._free_rows = list(range(1, 28))

    def run(stream, addresses):
        gpu_side.copy_rows(addresses["feat"], 96, addresses["patches"], 96, 96, 1)

    backend._plans = {"vision": types.SimpleNamespace(run=run)}
    backend._launch = lambda kind, index: (backend._run_vision(), gpu_side.wait())
    pictures = np.random.default_rng(0).standard_normal((40, 3, 2, 4)).astype(np.float32)  # time, camera, patch
    for older, newer in zip(pictures, pictures[1:]):
        patches = np.stack([older, newer], axis=1).reshape(6, 2, 4)
        for pair, row in enumerate(backend.seen.features(patches, backend._see)):
            backend._place(pair, row)
        assert np.array_equal(backend._features.fetch("feat").reshape(6, 2, 4), patches)
    assert backend.seen.encoded == len(pictures)


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("built", "loaded", "damage", "message"),
    [
        ({"version": "10.3"}, {"version": "10.13"}, None, "10.13.3.9 can't load the plan of vision .*expecting 10.13.3.9 got 10.3.0.*spanvla build"),
        ({"sm": "87"}, {"sm": "90"}, None, "can't load the plan of vision .*expecting compute 90 got 87.*spanvla build"),
        ({}, {}, cut, "can't load the plan of vision .*bytes is corrupt"),
        ({}, {}, lambda data: b"", "can't load the plan of vision .*plan of 0 bytes"),
        ({}, {"memory": 1000}, None, "TensorRT 10.15.1.29 can't start vision: .*out of memory; end other programs"),
        ({}, {"memory": 300_000}, None, "the memory of NVIDIA Fake is full: .* MiB wanted, .* of .* MiB free; end other programs"),
    ],
)
def test_plans_that_do_not_fit(folders, machine, built, loaded, damage, message):
    machine(**built)
    folder = folders["columns"]
    graphs = manifest.read(folder).graphs
    plans = {name: build.build_plan(folder / graphs[name].file, SETTINGS) for name in GRAPHS}
    machine(**loaded)
    with pytest.raises(EngineError, match=message) as caught:
        opened(folder, {name: damage(data) if damage else data for name, data in plans.items()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ports: ports[:-1], "the plan of vision has an unknown input 'patches'"),
        (lambda ports: (*ports, Port(name="mask", dtype="float32", shape=(1,))), "the plan of vision lacks input 'mask'"),
        (lambda ports: (dataclasses.replace(ports[0], dtype="float16"),), r"'patches' of the plan of vision is float32 .*manifest says float16"),
        (lambda ports: (dataclasses.replace(ports[0], shape=(2, 128, 1176)),), r"is float32 \(1, 128, 1176\), the manifest says float32 \(2, 128"),
    ],
)
def test_tensors_that_are_not_those_of_the_manifest(folders, machine, change, message):
    machine()
    folder = folders["columns"]
    found = manifest.read(folder)
    vision = dataclasses.replace(found.graphs["vision"], inputs=change(found.graphs["vision"].inputs))
    plans = {name: build.build_plan(folder / found.graphs[name].file, SETTINGS) for name in GRAPHS}
    words = tokenizers.load(folder / "tokenizer.json")
    with pytest.raises(EngineError, match=message):
        TensorRTBackend(folder, dataclasses.replace(found, graphs={**found.graphs, "vision": vision}), words, plans=plans.__getitem__)


def test_machines_without_what_it_takes(machine, monkeypatch):
    machine(code=100)
    with pytest.raises(EngineError, match=r"no usable GPU: cuInit returned 100 \(CUDA_ERROR_NO_DEVICE\); choose backend onnxruntime"):
        build.tensorrt()
    machine(version=None)
    with pytest.raises(EngineError, match="TensorRT can't be imported .*; install it, or choose backend torch-cuda or onnxruntime"):
        build.tensorrt()
    machine(provider=None)
    with pytest.raises(EngineError, match=r"nothing installed that reaches the GPU: pycuda .*cuda-python .*install spanvla_ros\[tensorrt\]"):
        device.open_device()
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="9.2.0"))
    with pytest.raises(EngineError, match="TensorRT 9.2.0 is installed; served are 8.6, 10.x and 11.x"):
        build.tensorrt()
    monkeypatch.setattr(gpu, "_library", lambda: ctypes.CDLL("libcuda-that-is-not-there.so.1"))
    # the driver is asked first: without one TensorRT ends the process
    with pytest.raises(EngineError, match="no NVIDIA driver .*not-there.*; choose backend onnxruntime"):
        build.tensorrt()


def test_the_name_opens_the_plans_of_the_folder(folders, machine, monkeypatch):
    machine()
    asked = []

    def plans(folder, found):
        asked.append(folder)
        return lambda name: build.build_plan(folder / found.graphs[name].file, SETTINGS)

    # the store looks for plans of this machine; its own tests are beside it
    fake = types.SimpleNamespace(plans=plans, verify=lambda folder, found: [])
    monkeypatch.setattr(load, "store", fake)
    _, _, session = load.load_backend(folders["columns"], "tensorrt")
    assert (session.name, asked) == ("tensorrt", [folders["columns"]])
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="finds no GPU"):
            load.load_backend(folders["columns"], "torch-cuda")


def test_who_the_gpu_is(machine):
    machine(sm="87", name="Orin", memory=64 << 30)
    assert gpu.gpu() == gpu.Gpu(name="Orin", sm="87", driver="13.0", memory_bytes=64 << 30)


def test_builder_refuses_in_its_own_words(folders, machine, tmp_path):
    machine()
    onnx_file = folders["columns"] / "vision.onnx"
    with pytest.raises(EngineError, match="can't build .*vision.onnx: Could not find any implementation"):
        build.build_plan(onnx_file, build.BuildSettings(workspace_mib=1))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="can't read .*broken.onnx: In node -1"):
        build.build_plan(tmp_path / "broken.onnx", SETTINGS)
    with pytest.raises(EngineError, match="absent.onnx does not exist"):
        build.build_plan(tmp_path / "absent.onnx", SETTINGS)
    for changes in ({"workspace_mib": 0}, {"optimization_level": 6}):
        with pytest.raises(EngineError, match=f"{next(iter(changes))} is {next(iter(changes.values()))}"):
            build.BuildSettings(**changes)


def test_timing_cache_of_another_machine_is_replaced(folders, machine, tmp_path):
    path = tmp_path / "timing.cache"
    settings = dataclasses.replace(SETTINGS, timing_cache=path)
    for sm in ("87", "87", "90"):
        machine(sm=sm)
        build.build_plan(folders["columns"] / "vision.onnx", settings)
        assert path.read_bytes() == f"cache of {sm}".encode()


def test_the_fake_has_the_names_of_its_version(machine):
    chip = machine()
    new, middle, old = (fake_tensorrt.module(version, chip) for version in ("11.4", "10.3", "8.6"))
    for missing in (
        lambda: new.BuilderFlag.FP16,
        lambda: new.NetworkDefinitionCreationFlag.EXPLICIT_BATCH,
        lambda: new.Builder(None).platform_has_fast_fp16,
        lambda: setattr(new.Builder(None).create_builder_config(), "int8_calibrator", None),
        lambda: old.NetworkDefinitionCreationFlag.STRONGLY_TYPED,
        lambda: old.DataType.INT64,
        lambda: new.no_such_name,
    ):
        with pytest.raises(AttributeError):
            missing()
    assert "get_aliased_input_tensor" not in fake_tensorrt.names("10.13")["Engine"]
    assert "get_aliased_input_tensor" in fake_tensorrt.names("10.15")["Engine"]
    assert middle.BuilderFlag.FP16 is not None


def test_half_types_cross_the_border_rounded(machine):
    machine()
    ports = [Port(name=name, dtype=name, shape=(3,)) for name in ("bfloat16", "float16", "int32")]
    places = arena.Arena(device.open_device(), ports, {"float16": 2})
    values = np.array([1.0, 1.004, -3.1415927], np.float32)
    for name in ("bfloat16", "float16"):
        places.write(name, values)
    # one ulp of bfloat16 is 1/128 at 1; 1.004 lies just above the middle
    np.testing.assert_array_equal(places.read("bfloat16"), np.array([1.0, 1.0078125, -3.140625], np.float32))
    np.testing.assert_array_equal(places.read("float16"), values.astype(np.float16).astype(np.float32))
    places.write("int32", np.array([1, 2, 3], np.int64))
    assert places.read("int32").tolist() == [1, 2, 3]
    assert all(places.address(port.name, row) % device.ALIGNMENT == 0 for port in ports for row in range(2) if row == 0 or port.name == "float16")
