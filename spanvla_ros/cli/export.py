"""Turn a checkpoint into an engine folder, or make a random tiny one for tests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.contracts import ConfigError, EngineError

if TYPE_CHECKING:
    from spanvla_ros.engine.parity import OpenLoop

EXAMPLES = """examples:
  spanvla export --checkpoint RUN/model --out engines/mine
  spanvla export --checkpoint RUN/model --opset 17 --out engines/mine-trt8
  spanvla export --engine engines/demo --precision int8 --data data/demo --out engines/demo-int8
  spanvla export --preset tiny --seed 0 --out tiny
"""
RECORD = "record.json"
SAMPLES = 200  # of --data, evenly over the validation split


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "export", help=__doc__, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="model folder, or a run folder of `spanvla train` that holds model/")
    source.add_argument("--engine", type=Path, metavar="DIR", help="engine folder, to export its checkpoint in another way")
    source.add_argument("--preset", choices=["tiny"], help="random weights, no training")
    parser.add_argument("--seed", type=int, default=0, help="seed of --preset (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="ENGINE", help="engine folder to write")
    about = "17 for TensorRT 8.6, 18 for 10.x, 20, or 24 with the cache in place for TensorRT from 10.15 (default: 20)"
    parser.add_argument("--opset", type=int, choices=(17, 18, 20, 24), default=20, help=about)
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="int8: weights for ONNX Runtime on a CPU (default: fp32)")
    parser.add_argument("--expert-step", action="store_true", help="also write a single Euler step of the expert, for other step counts")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"measure the open-loop error of the engine on {SAMPLES} samples of validation")
    parser.add_argument(
        "--record", type=Path, action="append", default=[], metavar="FILE", help=f"{RECORD} of an earlier stage, for the manifest; repeatable"
    )


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.engine import manifest as manifests
    from spanvla_ros.engine import parity
    from spanvla_ros.engine.export import export

    model, training = _source(args)
    manifest = export(model, args.out, training, log=print, opset=args.opset, precision=args.precision, expert_step=args.expert_step)
    found = parity.check(args.out)
    report: dict[str, Any] = found.to_dict()
    size = sum(entry.bytes for entry in manifest.files.values())
    print(
        f"parity with the checkpoint, largest difference over {found.prompts} prompts: features {found.features:.1e}, "
        f"logits {found.logits:.1e}, waypoints {found.waypoints:.1e}; greedy tokens {'equal' if found.tokens_equal else 'DIFFER'}"
    )
    print(f"{args.out}: {size / 1e6:.1f} MB, {args.precision}, engine {manifest.sha256[:16]}")
    ok = found.ok or args.precision != "fp32"
    if args.data:
        judged = _open_loop(args.out, args.data)
        report["open_loop"] = judged.to_dict()
        print(
            f"open loop over {judged.samples} samples: checkpoint {judged.checkpoint_m:.3f} m, engine {judged.engine_m:.3f} m "
            f"({judged.change:+.1%}), plans {judged.between_m:.3f} m apart"
        )
        ok &= judged.ok
    manifests.record_parity(args.out, "onnxruntime", report)
    if not ok:
        limits = f"tensors within {parity.TOLERANCE} in fp32, open-loop error grown by at most {parity.ADE_TOLERANCE:.0%}"
        raise EngineError(f"{args.out} doesn't reproduce its checkpoint ({limits}): {report}")
    return 0


def _source(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The model and what made it."""
    from spanvla_ros.engine import manifest as manifests
    from spanvla_ros.model import checkpoint, tiny

    if args.preset:
        return tiny.build(args.seed), {"preset": args.preset, "seed": args.seed}
    if args.engine:
        training = dict(manifests.verify(args.engine).training)
        return checkpoint.load(args.engine), training
    folder = args.checkpoint if (args.checkpoint / checkpoint.DESCRIPTION).is_file() else args.checkpoint / "model"
    if not folder.is_dir():
        raise ConfigError(f"{args.checkpoint} is no model folder: neither {checkpoint.DESCRIPTION} nor model/ is in it")
    own = next((p for p in (folder / RECORD, folder.parent / RECORD) if p.is_file()), None)
    return checkpoint.load(folder), {"stages": [_record(path) for path in [*args.record, *([own] if own else [])]]}


def _open_loop(engine: Path, data: Path) -> OpenLoop:
    """Open-loop errors of an engine and of its checkpoint, on samples that lie evenly over the validation split of a data set."""
    import numpy as np

    from spanvla_ros.data.shards import Dataset
    from spanvla_ros.engine import load, parity
    from spanvla_ros.planning.preprocess import preprocess

    spec, tokenizer, tested = load.load_backend(engine)
    *_, reference = load.load_backend(engine, "torch")
    samples = Dataset(data, "validation", spec, labels=("pos", "rec"))
    picked = np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))
    print(f"planning on {len(picked)} samples of {data} with the engine and with its checkpoint ...", flush=True)
    pairs = ((preprocess(s.observation, spec, tokenizer), s.waypoints(spec)) for s in (samples[int(i)] for i in picked))
    return parity.open_loop(spec, reference, tested, pairs)


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
