"""Build the TensorRT plans of an engine folder for this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """example:
  spanvla build engines/mine
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla build`."""
    parser = subparsers.add_parser(
        "build",
        help=__doc__,
        description="Plans that fit this machine are kept; damaged ones and those of an earlier export are removed. At the end all of them "
        "run on the folder's goldens; only then may a car load them. See engines/README.md.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", type=Path, metavar="DIR", help="engine folder; the plans go to DIR/plans")


def run(args: argparse.Namespace) -> int:
    """Build, measure, record."""
    from spanvla_ros.contracts import EngineError
    from spanvla_ros.engine import golden, reference, store
    from spanvla_ros.engine import manifest as manifests
    from spanvla_ros.engine.backends.tensorrt import TensorRTBackend
    from spanvla_ros.engine.build import BuildSettings, build_plan
    from spanvla_ros.planning import tokenizer as tokenizers

    folder: Path = args.engine
    manifest, here = manifests.verify(folder), store.machine()
    print(f"{folder}: engine {manifest.sha256[:16]}, {manifest.precision}; for {here.gpu} (SM {here.sm}) and TensorRT {here.tensorrt}", flush=True)
    for reason in store.clean(folder, manifest):
        print(f"removed: {reason}")
    found = {}
    for index, graph in enumerate(store.GRAPHS, 1):
        key = store.key(manifest, graph, here)
        kept = store.place(folder, key.sha256).is_dir()
        print(f"[{index}/{len(store.GRAPHS)}] {graph}: {'is there' if kept else 'building, which takes minutes for a large model ...'}", flush=True)
        if kept:
            found[graph] = store.find(folder, manifest, graph, here)
        else:
            onnx = folder / manifest.graphs[graph].file
            found[graph] = store.add(folder, manifest, key, lambda cache, onnx=onnx: build_plan(onnx, BuildSettings(timing_cache=cache)))
        entry = found[graph]
        print(f"      {entry.plan.bytes / 1e6:.1f} MB, built in {entry.build_seconds:.0f} s, key {key.sha256[:16]}", flush=True)
    session = TensorRTBackend(
        folder, manifest, tokenizers.load(folder / "tokenizer.json"), None, plans=store.plans(folder, manifest, proven=False)
    )
    try:
        with reference.goldens(folder) as goldens:
            agreement = golden.check(goldens, session, golden.arithmetic("tensorrt", manifest.precision))
    finally:
        session.close()
    print(f"parity: {agreement}")
    if not agreement.ok:
        raise EngineError(f"the plans of {folder} don't reproduce its goldens ({agreement}); no car will load them. Try another precision")
    report = {**agreement.to_dict(), "plans": {graph: entry.plan.sha256 for graph, entry in found.items()}}
    for entry in found.values():
        store.prove(folder, entry, report)
    return 0
