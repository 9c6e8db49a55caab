"""Show what is in an engine folder: model, cameras, graphs, hashes, plans, parity."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spanvla_ros.contracts import ModelSpec
    from spanvla_ros.engine.manifest import Manifest, Port

EXAMPLE = """example:
  spanvla inspect engines/demo
"""
SHORT = 16  # digits of a hash that are shown


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla inspect`."""
    parser = subparsers.add_parser(
        "inspect",
        help=__doc__,
        description="Shows what the manifests say; `spanvla verify DIR` checks whether it is true.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path, metavar="DIR", help="engine folder")


def run(args: argparse.Namespace) -> int:
    """Print what the manifests of the folder and of its plans say."""
    from spanvla_ros.engine import manifest as manifests

    manifest = manifests.read(args.engine)
    size = sum(p.stat().st_size for p in args.engine.rglob("*") if p.is_file())
    print(f"{args.engine}: {manifest.spec.name}, engine {manifest.sha256[:SHORT]}, {_bytes(size)}")
    for title, lines in (
        ("model", _model(manifest.spec)),
        ("files", _files(manifest)),
        (f"graphs: ONNX opset {manifest.opset}, {manifest.precision}", _graphs(manifest)),
        ("plans", _plans(args.engine)),
        ("parity with the checkpoint", _parity(manifest.parity)),
        ("made with", [", ".join(f"{name} {value}" for name, value in manifest.versions.items())]),
        ("made from", _training(manifest.training)),
    ):
        print(title)
        for line in lines:
            print(f"  {line}")
    return 0


def _model(spec: ModelSpec) -> Iterator[str]:
    offsets = ", ".join(f"{o:g}" for o in spec.frame_offsets_s)
    yield f"{len(spec.cameras)} camera(s): {', '.join(spec.cameras)}; frames at {offsets} s, {spec.image_size[0]} x {spec.image_size[1]} px each"
    yield f"{len(spec.history_offsets_s)} past poses from {spec.history_offsets_s[0]:g} s on; prompt {spec.prompt_version}"
    yield f"{spec.prompt_tokens} prompt tokens at most, {spec.vision_tokens} of them vision; {spec.max_reasoning_tokens} reasoning tokens at most"
    horizon = spec.waypoints * spec.waypoint_interval_s
    taps = ", ".join(str(t + 1) for t in spec.taps)
    yield f"{spec.waypoints} waypoints over {horizon:g} s in {spec.flow_steps} flow steps, from the KV of layers {taps} (counted from 1)"


def _files(manifest: Manifest) -> Iterator[str]:
    for name, entry in manifest.files.items():
        yield f"{name:20} {entry.sha256[:SHORT]}  {_bytes(entry.bytes):>9}"


def _graphs(manifest: Manifest) -> Iterator[str]:
    for name, graph in manifest.graphs.items():
        yield f"{name:12} {_ports(graph.inputs)} -> {_ports(graph.outputs)}"


def _ports(ports: tuple[Port, ...]) -> str:
    caches = [p for p in ports if p.name[:2] in ("k_", "v_")]
    shown = [f"{p.name} {p.dtype} {_shape(p.shape)}" for p in ports if p not in caches]
    if caches:
        names = caches[0].name if len(caches) == 1 else f"{caches[0].name} ... {caches[-1].name}"
        shown.append(f"{names} {caches[0].dtype} {_shape(caches[0].shape)}")
    return ", ".join(shown)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _plans(folder: Path) -> Iterator[str]:
    from spanvla_ros.contracts import EngineError
    from spanvla_ros.engine import store

    root = folder / store.FOLDER
    paths = sorted(root.iterdir()) if root.is_dir() else []
    yield f"on this machine: {store.absent(folder) or 'a GPU with TensorRT'}"
    for path in paths:
        try:
            entry = store.read(path)
        except EngineError as error:
            yield f"damaged: {error}"
            continue
        where = entry.key.machine
        tested = f"waypoints within {entry.parity['waypoints']:.1e} m of the goldens" if entry.parity else "never measured"
        yield (
            f"{entry.key.graph:12} {_bytes(entry.plan.bytes):>9}, {entry.key.precision}, for {where.gpu} (SM {where.sm}), TensorRT {where.tensorrt}, "
            f"CUDA {where.cuda}, {where.system}; built in {entry.build_seconds:.0f} s; {tested}; key {path.name[:SHORT]}"
        )


def _parity(parity: Mapping[str, Any]) -> Iterator[str]:
    if not parity:
        yield "not recorded"
    for backend, report in parity.items():
        yield f"{backend}: {', '.join(f'{name} {_number(value)}' for name, value in report.items())}"


def _number(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def _training(training: Mapping[str, Any]) -> Iterator[str]:
    stages = training.get("stages", [training])
    for stage in stages:
        command = " ".join(map(str, stage["command"])) if "command" in stage else ", ".join(f"{k} {v}" for k, v in stage.items())
        commit = f" (commit {stage['commit']})" if "commit" in stage else ""
        yield f"{command or 'not recorded'}{commit}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
