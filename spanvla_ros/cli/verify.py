"""Check an engine folder: every hash, every graph, and what comes out of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spanvla_ros.contracts import EngineError

if TYPE_CHECKING:
    from spanvla_ros.engine.manifest import Manifest

EXAMPLES = """examples:
  spanvla verify engines/demo
  spanvla verify engines/mine --seal      after README.md, the model card, was edited
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla verify`."""
    parser = subparsers.add_parser(
        "verify",
        help=__doc__,
        description="Holds every file against its hash and every plan against its key, then runs the folder's goldens on each backend that is here. "
        "The exit code is not 0 when anything is off.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path, metavar="DIR", help="engine folder")
    parser.add_argument(
        "--seal", action="store_true", help="write SHA256SUMS anew first; the files that manifest.json lists must be as it says"
    )


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked here; a line each."""
    from spanvla_ros.engine import manifest as manifests
    from spanvla_ros.engine import seal
    from spanvla_ros.engine.load import BACKENDS, PROBES

    folder: Path = args.engine
    if args.seal:
        manifests.check_files(folder, manifests.read(folder))
        seal.write(folder)
    manifest = manifests.verify(folder)
    count = len(manifest.files)
    print(f"{'files':12} ok   {count} as in manifest.json, these and the rest as in {seal.NAME}; engine {manifest.sha256[:16]}", flush=True)
    print(f"{'plans':12} ok   {_plans(folder, manifest)}", flush=True)
    wrong, ran = [], 0
    for name in BACKENDS:
        reason = PROBES[name](folder) if name in PROBES else None
        if reason:
            print(f"{name:12} --   not here: {reason}", flush=True)
            continue
        try:
            print(f"{name:12} ok   {_backend(folder, manifest, name)}", flush=True)
            ran += 1
        except ImportError as error:
            print(f"{name:12} --   not here: {error}", flush=True)
        except EngineError as error:
            print(f"{name:12} OFF  {error}", flush=True)
            wrong.append(name)
    if wrong or not ran:
        raise EngineError(f"{folder}: {', '.join(wrong)} is off" if wrong else f"{folder}: no backend is here to run it; pip install onnxruntime")
    return 0


def _plans(folder: Path, manifest: Manifest) -> str:
    from spanvla_ros.engine import store

    found = store.verify(folder, manifest)
    machines = sorted({f"{e.key.machine.gpu}, TensorRT {e.key.machine.tensorrt}" for e in found})
    return f"{len(found)} whole and made from these graphs, for {'; '.join(machines)}" if found else "none are stored"


def _backend(folder: Path, manifest: Manifest, name: str) -> str:
    from spanvla_ros.engine import golden, reference
    from spanvla_ros.engine.load import load_backend

    _, _, session = load_backend(folder, name)
    try:
        with reference.goldens(folder) as goldens:
            agreement = golden.check(goldens, session, golden.arithmetic(name, manifest.precision))
    finally:
        session.close()
    if not agreement.ok:
        raise EngineError(f"doesn't reproduce the goldens: {agreement}")
    return str(agreement) if goldens == folder else f"{agreement} (made here by ONNX Runtime; the folder has no {golden.NAME})"
