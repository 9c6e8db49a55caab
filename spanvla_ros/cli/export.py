"""Turn a checkpoint into an engine folder, or make a random tiny one for tests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import ConfigError, EngineError

EXAMPLES = """examples:
  spanvla export --checkpoint RUN/model --out engines/mine
  spanvla export --preset tiny --seed 0 --out tiny
"""
RECORD = "record.json"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "export", help=__doc__, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="model folder, or a run folder of `spanvla train` that holds model/")
    source.add_argument("--preset", choices=["tiny"], help="random weights, no training")
    parser.add_argument("--seed", type=int, default=0, help="seed of --preset (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="ENGINE", help="engine folder to write")
    parser.add_argument(
        "--record", type=Path, action="append", default=[], metavar="FILE", help=f"{RECORD} of an earlier stage, for the manifest; repeatable"
    )


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.engine import manifest as manifests
    from spanvla_ros.engine import parity
    from spanvla_ros.engine.export import export
    from spanvla_ros.model import checkpoint, tiny

    if args.preset:
        model, training = tiny.build(args.seed), {"preset": args.preset, "seed": args.seed}
    else:
        folder = args.checkpoint if (args.checkpoint / checkpoint.DESCRIPTION).is_file() else args.checkpoint / "model"
        if not folder.is_dir():
            raise ConfigError(f"{args.checkpoint} is no model folder: neither {checkpoint.DESCRIPTION} nor model/ is in it")
        model = checkpoint.load(folder)
        own = next((p for p in (folder / RECORD, folder.parent / RECORD) if p.is_file()), None)
        training = {"stages": [_record(path) for path in [*args.record, *([own] if own else [])]]}
    manifest = export(model, args.out, training, log=print)
    found = parity.check(args.out)
    manifests.record_parity(args.out, "onnxruntime", found.to_dict())
    size = sum(entry.bytes for entry in manifest.files.values())
    print(
        f"parity with the checkpoint, largest difference over {found.prompts} prompts: features {found.features:.1e}, "
        f"logits {found.logits:.1e}, waypoints {found.waypoints:.1e}; greedy tokens {'equal' if found.tokens_equal else 'DIFFER'}"
    )
    print(f"{args.out}: {size / 1e6:.1f} MB, engine {manifest.sha256[:16]}")
    if not found.ok:
        raise EngineError(f"{args.out} doesn't reproduce its checkpoint within {parity.TOLERANCE}: {found.to_dict()}")
    return 0


def _record(path: Path) -> dict[str, Any]:
    """What made the weights, without the paths of the machine it ran on."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no training record: {error}") from None
    return _shortened(record)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _shortened(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_shortened(v) for v in value]
    if isinstance(value, str) and "/" in value:
        key, sign, text = value.rpartition("=")
        return f"{key}{sign}{Path(text).name}" if text.startswith(("/", "~")) else value
    return value
