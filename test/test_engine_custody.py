"""Nothing of an engine folder may change unnoticed: every file, every plan, every value that a plan depends on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import golden, key, load, manifest, seal, store  # noqa: E402
from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402

DEMO = Path(__file__).parent.parent / "engines" / "demo"
MACHINE = key.Machine(gpu="NVIDIA H200", sm="90", tensorrt="10.13.3.9", cuda="13", system="Linux x86_64", plugins="ab" * 32)
ORIN = dataclasses.replace(MACHINE, gpu="Orin", sm="87", system="Linux aarch64")
CODE = bytes(range(256)) * 8
FILES = sorted(p.name for p in DEMO.iterdir() if p.is_file())


def linked(folder):
    """The demo's files under another path, so that one of them can be replaced."""
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to(DEMO / name)
    return folder


def flip(path, at=None):
    """Change one bit of one byte, in the middle unless told."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.unlink()
    path.write_bytes(data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """As engine.build has it."""

    workspace_mib: int = 4096
    optimization_level: int = 3
    timing_cache: Path | None = None


class Backend(OnnxRuntimeBackend):
    """Runs the graphs in ONNX Runtime, but asks for every plan."""

    error = 0.0

    def __init__(self, folder, manifest, tokenizer, threads=None, *, plans=None):
        super().__init__(folder, manifest, tokenizer, threads)
        self.seen = {graph: plans(graph) for graph in store.GRAPHS}

    def _trajectory(self, *arguments):
        return super()._trajectory(*arguments) + self.error


def equip(monkeypatch):
    """A machine with TensorRT, made up: names of the graphs that are built on it."""
    built = []

    def build_plan(onnx, settings):
        settings.timing_cache.write_bytes((settings.timing_cache.read_bytes() if settings.timing_cache.exists() else b"") + b"kernel ")
        built.append(onnx.stem)
        return CODE + onnx.stem.encode()

    modules = {"build": {"BuildSettings": BuildSettings, "build_plan": build_plan}, "backends.tensorrt": {"TensorRTBackend": Backend}}
    for name, members in modules.items():
        stand_in = types.ModuleType(name)
        vars(stand_in).update(members)
        monkeypatch.setitem(sys.modules, f"spanvla_ros.engine.{name}", stand_in)
    monkeypatch.setattr(store, "machine", lambda: MACHINE)
    return built


@pytest.fixture
def builder(monkeypatch):
    return equip(monkeypatch)


@pytest.fixture(scope="module")
def without_goldens(tmp_path_factory):
    """The demo as an export from before there were goldens."""
    folder = linked(tmp_path_factory.mktemp("bare") / "engine")
    (folder / golden.NAME).unlink()
    (folder / seal.NAME).unlink()
    document = json.loads((folder / "manifest.json").read_text())
    del document["files"][golden.NAME]
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(document))
    seal.write(folder)
    return folder


@pytest.fixture(scope="module")
def with_goldens(tmp_path_factory):
    return linked(tmp_path_factory.mktemp("engine") / "engine")


@pytest.fixture(scope="module")
def with_plans(tmp_path_factory, with_goldens):
    folder = shutil.copytree(with_goldens, tmp_path_factory.mktemp("planned") / "engine", symlinks=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        equip(monkeypatch)
        assert main(["build", str(folder)]) == 0
    return folder


@pytest.fixture
def engine(tmp_path, with_goldens):
    """The demo with goldens."""
    return shutil.copytree(with_goldens, tmp_path / "engine", symlinks=True)


@pytest.fixture
def planned(tmp_path, with_plans, builder):
    """The same with its four plans, on the machine that built them."""
    return shutil.copytree(with_plans, tmp_path / "engine", symlinks=True)


def where(folder, graph="vision"):
    return next(p for p in (folder / "plans").iterdir() if json.loads((p / "manifest.json").read_text())["key"]["graph"] == graph)


def edit(folder, change, graph="vision"):
    """Change the record of a plan, and seal it as if nothing had happened."""
    path = where(folder, graph)
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))
    seal.write(path)
    return path


def refuses(folder, message):
    with pytest.raises(EngineError, match=message) as caught:
        load.load_backend(folder, "onnxruntime")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_of_the_demo(tmp_path, name):
    folder = linked(tmp_path / "demo")
    flip(folder / name)
    assert name in refuses(folder, "SHA-256|damaged|missing")


@pytest.mark.parametrize("name", ["manifest.json", seal.NAME])
def test_any_byte_of_what_holds_the_hashes(tmp_path, name):
    folder = linked(tmp_path / "demo")
    original = (folder / name).read_bytes()
    for at in range(0, len(original), 3 if name == seal.NAME else 997):
        for bit in (1, 32, 128):
            data = bytearray(original)
            data[at] ^= bit
            (folder / name).unlink()
            (folder / name).write_bytes(data)
            with pytest.raises(EngineError):
                sums = seal.read(folder, "")
                seal.check(folder, sums, [manifest.NAME], "")
                known = {**{n: e.sha256 for n, e in manifest.read(folder).files.items()}}
                seal.check(folder, sums, {*sums, *known, "README.md"} - {manifest.NAME}, "", known)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(tmp_path, name):
    folder = linked(tmp_path / "demo")
    (folder / name).unlink()
    assert name in refuses(folder, "is missing|holds no")


def test_the_sums_are_those_of_the_usual_tool():
    assert subprocess.run(["sha256sum", "-c", "--strict", "--quiet", seal.NAME], cwd=DEMO, check=False).returncode == 0


def test_a_change_of_the_card_can_be_sealed_and_one_of_the_model_not(engine, monkeypatch, capsys):
    monkeypatch.setattr(load, "BACKENDS", ("onnxruntime",))
    folder = engine
    flip(folder / "README.md")
    refuses(folder, "README.md.*--seal")
    before = manifest.read(folder).sha256
    flip(folder / "step.onnx")
    assert main(["verify", str(folder), "--seal"]) == 2
    assert "step.onnx was changed" in capsys.readouterr().err
    (folder / "step.onnx").unlink()
    (folder / "step.onnx").symlink_to(DEMO / "step.onnx")
    assert main(["verify", str(folder), "--seal"]) == 0
    assert manifest.verify(folder).sha256 == before


def test_build_stores_every_plan_once_and_proves_it(engine, builder, capsys):
    assert main(["build", str(engine)]) == 0
    assert builder == list(store.GRAPHS)
    assert "NVIDIA H200 (SM 90) and TensorRT 10.13.3.9" in capsys.readouterr().out
    found = store.verify(engine, manifest.verify(engine))
    assert {e.key.graph for e in found} == set(store.GRAPHS) and all(e.parity["waypoints"] < 1e-4 for e in found)
    assert store.plans(engine, manifest.read(engine))("step") == CODE + b"step"
    # kernels that were measured for one graph help the next
    assert max(len(p.read_bytes()) for p in engine.glob("plans/*/timing.cache")) == 4 * len(b"kernel ")
    assert main(["build", str(engine)]) == 0
    assert builder == list(store.GRAPHS) and len(list((engine / "plans").iterdir())) == 4


@pytest.mark.parametrize("name", ["plan", "manifest.json", "SHA256SUMS", "timing.cache"])
@pytest.mark.parametrize("at", [0, None, -1])
def test_a_flipped_bit_in_any_file_of_a_plan(planned, name, at):
    flip(where(planned) / name, at)
    refuses(planned, "plans/[0-9a-f]{64}/.*(SHA-256|damaged|missing)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["key"]["machine"].update(gpu="Orin"), "hash [0-9a-f]{64}, its name says [0-9a-f]{64}"),
        (lambda d: d["key"]["machine"].update(tensorrt="10.3.0"), "hash [0-9a-f]{64}, its name says [0-9a-f]{64}"),
        (lambda d: d["key"].update(precision="fp16"), "hash [0-9a-f]{64}, its name says [0-9a-f]{64}"),
        (lambda d: d.update(key_sha256="0" * 64), "hash [0-9a-f]{64}, its record says 0{64}"),
        (lambda d: d.update(schema="spanvla-plan/9"), "'spanvla-plan/9'.*'spanvla-plan/1'"),
        (lambda d: d["plan"].update(bytes=7), "has 2054 bytes, its record says 7"),
        (lambda d: d["plan"].update(sha256="0" * 64), "has SHA-256 [0-9a-f]{64}, its record says 0{64}"),
        (lambda d: d["ports"]["inputs"].clear(), "input 'patches'.*is missing.*manifest says float32"),
        (lambda d: d["ports"]["outputs"][0].update(dtype="float16"), "output 'feat'.*float16.*manifest says float32"),
        (lambda d: d["ports"]["inputs"][0].update(shape=[1, 64, 1176]), r"\(1, 64, 1176\), the engine's manifest says float32 \(1, 128, 1176\)"),
        (lambda d: d.update(engine="0" * 64), "for engine 0{64}, this is ad04f9e2"),
        (lambda d: d.pop("ports"), "can't be read: 'ports'"),
        (lambda d: d["key"].update(colour="red"), "can't be read: .*colour"),
    ],
)
def test_an_edited_record_even_when_it_is_sealed_again(planned, change, message):
    edit(planned, change)
    refuses(planned, message)


def test_a_plan_of_another_export(planned):
    found = manifest.read(planned)
    other = dataclasses.replace(found, files={**found.files, "vision.onnx": manifest.FileEntry(sha256="1" * 64, bytes=1)})
    # whichever plan is looked at first: that of the graph itself, or another one of the same engine
    refused = f"vision.onnx with SHA-256 {found.files['vision.onnx'].sha256}, the engine has 1{{64}}|was built for engine [0-9a-f]{{64}}, this is"
    with pytest.raises(EngineError, match=refused):
        store.verify(planned, other)
    with pytest.raises(EngineError, match="precision fp32, the engine has fp16"):
        store.verify(planned, dataclasses.replace(found, precision="fp16"))


def test_a_truncated_and_a_missing_plan(planned):
    plan = where(planned) / "plan"
    data = plan.read_bytes()
    plan.unlink()
    refuses(planned, "plan is missing")
    plan.write_bytes(data[:100])
    refuses(planned, "has 100 bytes, its record says 2054")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ORIN, "gpu 'NVIDIA H200', here 'Orin'; sm '90', here '87'; system 'Linux x86_64', here 'Linux aarch64'"),
        (dataclasses.replace(MACHINE, tensorrt="10.15.1.29"), "has tensorrt '10.13.3.9', here '10.15.1.29'; run `spanvla build`"),
        (dataclasses.replace(MACHINE, cuda="12"), "cuda '13', here '12'"),
        (dataclasses.replace(MACHINE, plugins="cd" * 32), f"plugins '{'ab' * 32}', here '{'cd' * 32}'"),
    ],
)
def test_plans_of_another_machine_are_whole_but_not_for_here(planned, monkeypatch, other, message):
    monkeypatch.setattr(store, "machine", lambda: other)
    with pytest.raises(EngineError, match=message):
        store.plans(planned, manifest.read(planned))
    assert len(store.verify(planned, manifest.verify(planned))) == 4


def test_builder_settings_and_exporter_are_part_of_the_key(planned, monkeypatch):
    found = manifest.read(planned)
    monkeypatch.setattr(BuildSettings.__init__, "__kwdefaults__", {**BuildSettings.__init__.__kwdefaults__, "optimization_level": 5})
    with pytest.raises(EngineError, match="settings.optimization_level 3, here 5"):
        store.find(planned, found, "step", MACHINE)
    monkeypatch.undo()


def test_a_folder_serves_several_machines(planned, builder, monkeypatch):
    monkeypatch.setattr(store, "machine", lambda: ORIN)
    assert main(["build", str(planned)]) == 0
    assert len(store.verify(planned, manifest.read(planned))) == 8
    store.plans(planned, manifest.read(planned))
    monkeypatch.setattr(store, "machine", lambda: MACHINE)
    store.plans(planned, manifest.read(planned))


def test_build_repairs_what_load_refuses(planned, builder, capsys):
    flip(where(planned, "step") / "plan")
    flip(where(planned, "expert") / "manifest.json", 0)
    (planned / "plans" / "stray").write_text("?")
    assert main(["build", str(planned)]) == 0
    assert builder == ["step", "expert"]
    assert capsys.readouterr().out.count("removed: ") == 3
    load.load_backend(planned, "onnxruntime")


def test_plans_that_compute_something_else_are_never_proven(engine, builder, monkeypatch, capsys):
    monkeypatch.setattr(Backend, "error", 0.1)
    assert main(["build", str(engine)]) == 2
    assert "don't reproduce its goldens" in capsys.readouterr().err
    with pytest.raises(EngineError, match="not covered by a parity report"):
        store.plans(engine, manifest.read(engine))


def test_a_report_of_other_plans_proves_nothing(planned):
    edit(planned, lambda d: d["parity"]["plans"].update(step="0" * 64), "expert")
    with pytest.raises(EngineError, match="not covered by a parity report.*0{64}"):
        store.plans(planned, manifest.read(planned))


def test_a_crash_in_the_build_leaves_nothing_behind(engine, builder, monkeypatch):
    def crash(onnx, settings):
        raise EngineError("out of memory")

    monkeypatch.setattr(sys.modules["spanvla_ros.engine.build"], "build_plan", crash)
    assert main(["build", str(engine)]) == 2
    assert list((engine / "plans").iterdir()) == []


def test_plans_of_a_made_up_tensorrt_from_build_to_load(engine, monkeypatch, capsys):
    fake_cuda, fake_tensorrt = pytest.importorskip("fake_cuda"), pytest.importorskip("fake_tensorrt")
    from spanvla_ros.engine import gpu

    chip = fake_cuda.FakeGpu()
    monkeypatch.setattr(gpu, "_library", lambda: fake_cuda.library(chip, 0))
    for name, module in {**fake_cuda.cuda_python(chip), "tensorrt": fake_tensorrt.module("10.15", chip)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert main(["build", str(engine)]) == 0
    *_, session = load.load_backend(engine, "tensorrt")
    assert golden.check(engine, session).ok
    session.close()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module("10.13", chip))
    with pytest.raises(EngineError, match="tensorrt '10.15.1.29', here '10.13.3.9'"):
        load.load_backend(engine, "tensorrt")


def test_no_plan_at_all(engine, builder):
    with pytest.raises(EngineError, match="holds no plan of graph vision for NVIDIA H200 and TensorRT 10.13.3.9; run `spanvla build`"):
        store.plans(engine, manifest.read(engine))


def test_inspect_is_for_people(planned, capsys):
    flip(where(planned, "prefill") / "plan")
    assert main(["inspect", str(planned)]) == 0
    out = capsys.readouterr().out
    for text in ("engine ad04f9e261b7ec52", "camera(s): front", "10 waypoints over 5 s", "k_00 ... v_03", "(SM 90), TensorRT 10.13", "damaged: "):
        assert text in out


def test_verify_runs_every_backend_on_the_goldens(engine, capsys, monkeypatch):
    monkeypatch.setattr(load, "BACKENDS", ("onnxruntime",))
    assert main(["verify", str(engine)]) == 0
    assert "2 goldens, fp32: features " in capsys.readouterr().out
    monkeypatch.setattr(OnnxRuntimeBackend, "_trajectory", lambda self, *a: np.full((1, 10, 3), np.nan, np.float32))
    assert main(["verify", str(engine)]) == 2
    captured = capsys.readouterr()
    assert "OFF  doesn't reproduce" in captured.out and "onnxruntime is off" in captured.err
    flip(engine / "weights.bin")
    assert main(["verify", str(engine)]) == 2
    assert "weights.bin was changed" in capsys.readouterr().err


def test_an_exported_engine_is_sealed_and_holds_its_goldens(tiny_engine):
    found = manifest.verify(tiny_engine)
    assert golden.NAME in found.files and set(seal.read(tiny_engine, "")) == {*found.files, manifest.NAME}
    *_, session = load.load_backend(tiny_engine, "onnxruntime")
    agreement = golden.check(tiny_engine, session)
    assert agreement.ok and agreement.prompts == golden.COUNT and agreement.tokens == 1 and agreement.waypoints > 0


def test_equal_goldens_are_equal_bytes_and_damaged_ones_are_named(without_goldens, tmp_path):
    from spanvla_ros.engine import reference

    with reference.goldens(without_goldens) as once:
        made = (once / golden.NAME).read_bytes()
    with reference.goldens(without_goldens) as again:
        assert (again / golden.NAME).read_bytes() == made
    (tmp_path / golden.NAME).write_bytes(made[:1000])
    with pytest.raises(EngineError, match="golden.npz can't be read"):
        golden.read(tmp_path)


@pytest.mark.parametrize(
    ("precision", "changes", "ok"),
    [
        ("fp32", {}, True),
        ("fp32", {"logits": 2e-4}, False),
        ("bf16", {"logits": 1e-2, "waypoints": 0.04}, True),
        ("fp16", {"waypoints": 0.03}, False),
        ("bf16", {"tokens": 0.9}, False),
        ("int8", {"features": 0.05, "waypoints": 0.3, "tokens": 0.5}, True),
        ("int8", {"features": float("nan")}, False),
        ("int8", {"waypoints": float("inf")}, False),
    ],
)
def test_limits_by_precision(precision, changes, ok):
    values = {"prompts": 2, "features": 1e-6, "logits": 1e-6, "waypoints": 1e-5, "tokens": 1.0, "precision": precision}
    assert golden.Agreement(**values | changes).ok is ok


def test_parity_is_recorded_without_another_engine_hash(tmp_path):
    folder = linked(tmp_path / "demo")
    before = manifest.verify(folder)
    after = manifest.record_parity(folder, "onnxruntime", {"waypoints": 1e-6})
    assert manifest.verify(folder) == after and after.parity["onnxruntime"] == {"waypoints": 1e-6}
    assert after.sha256 == before.sha256


def test_the_machine_is_asked_by_driver_and_tensorrt(monkeypatch):
    modules = {
        "build": {"tensorrt": lambda: types.SimpleNamespace(__version__="10.3.0")},
        "gpu": {"gpu": lambda: types.SimpleNamespace(name="Orin", sm="87", driver="12.6")},
    }
    for name, members in modules.items():
        stand_in = types.ModuleType(name)
        vars(stand_in).update(members)
        monkeypatch.setitem(sys.modules, f"spanvla_ros.engine.{name}", stand_in)
    found = key.machine()
    assert (found.gpu, found.sm, found.tensorrt, found.cuda, found.plugins) == ("Orin", "87", "10.3.0", "12", "")
    assert len(key._loaded_library("libc.so") or key._loaded_library("libc-")) == 64
