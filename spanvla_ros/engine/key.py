"""What a TensorRT plan depends on: this machine, the graph it is made from, and how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine import seal
from spanvla_ros.engine.manifest import Manifest

WEIGHTS = ".bin"
LIBRARY = "libnvinfer_plugin"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a plan is tied to. cuda: major version that the driver serves; plugins: SHA-256 of TensorRT's plugin library."""

    gpu: str
    sm: str
    tensorrt: str
    cuda: str
    system: str
    plugins: str


@dataclass(frozen=True, kw_only=True)
class PlanKey:
    """All that a plan depends on: machine, graph, hashes of the files it is made from, builder settings, exporter."""

    graph: str
    machine: Machine
    files: Mapping[str, str]
    precision: str
    shapes: Mapping[str, str]
    settings: Mapping[str, int]
    exporter: Mapping[str, str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, here: PlanKey) -> list[str]:
        """`name: mine, here: theirs` for every part that differs; those of the machine first."""
        parts = []
        for mine, theirs in ((self.machine, here.machine), (self, here)):
            for f in dataclasses.fields(mine):
                a, b = getattr(mine, f.name), getattr(theirs, f.name)
                if a == b or f.name == "machine":
                    continue
                if isinstance(a, Mapping):
                    parts += [f"{f.name}.{k} {a.get(k)}, here {b.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
                else:
                    parts.append(f"{f.name} {a!r}, here {b!r}")
        return parts


def machine() -> Machine:
    """The machine that this runs on. Errors: EngineError without driver, GPU or TensorRT."""
    from spanvla_ros.engine.build import tensorrt
    from spanvla_ros.engine.gpu import gpu

    trt, found = tensorrt(), gpu()
    return Machine(
        gpu=found.name,
        sm=found.sm,
        tensorrt=trt.__version__,
        cuda=found.driver.partition(".")[0],
        system=f"{platform.system()} {platform.machine()}",
        plugins=_loaded_library(LIBRARY),
    )


def key(manifest: Manifest, graph: str, here: Machine) -> PlanKey:
    """Key of the plan that this machine would build now."""
    from spanvla_ros.engine.build import BuildSettings

    if graph not in manifest.graphs:
        raise EngineError(f"the engine has no graph {graph!r}, only {', '.join(manifest.graphs)}; export the checkpoint again")
    entry = manifest.graphs[graph]
    sources = [name for name in manifest.files if name == entry.file or name.endswith(WEIGHTS)]
    return PlanKey(
        graph=graph,
        machine=here,
        files={name: manifest.files[name].sha256 for name in sorted(sources)},
        precision=manifest.precision,
        shapes={port.name: f"{port.dtype} {'x'.join(map(str, port.shape))}" for port in entry.inputs},
        # the timing cache changes how long a build takes
        settings={k: v for k, v in dataclasses.asdict(BuildSettings()).items() if k != "timing_cache"},
        exporter=dict(manifest.versions),
    )


def _loaded_library(name: str) -> str:
    """SHA-256 of a shared library of this process, empty where it isn't one."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines() if Path("/proc/self/maps").exists() else []
    paths = sorted({line.split(maxsplit=5)[5] for line in lines if Path(line.split()[-1]).name.startswith(name)})
    return seal.digest(Path(paths[0])) if paths else ""
