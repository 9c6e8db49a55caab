"""Turn a checkpoint into an engine folder, or make a random tiny one for tests."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.contracts import ConfigError, EngineError, ModelSpec

if TYPE_CHECKING:
    from spanvla_ros.engine.parity import OpenLoop

EXAMPLES = """examples:
  spanvla export --checkpoint RUN/model --out engines/mine
  spanvla export --checkpoint RUN/model --opset 17 --out engines/mine-trt8
  spanvla export --engine engines/demo --precision int8 --data data/demo --out engines/demo-int8
  spanvla export --checkpoint RUN/model --precision bf16 --data data/mine --out engines/mine-bf16
  spanvla export --preset tiny --seed 0 --out tiny
"""
RECORD = "record.json"
SAMPLES = 200  # of the validation split, to judge on
FITTED = 32  # of the training split, to see the range of values


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
    about = "int8 for ONNX Runtime on a CPU; bf16, fp16, fp8 and int4 weights for TensorRT, through NVIDIA's ModelOpt (default: fp32)"
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16", "fp8", "int4", "int8"), default="fp32", help=about)
    parser.add_argument("--expert-step", action="store_true", help="also write a single Euler step of the expert, for other step counts")
    about = f"samples: of training, to fit less precision to; {SAMPLES} of validation, to measure the open-loop error on"
    parser.add_argument("--data", type=Path, metavar="DIR", help=about)
    parser.add_argument(
        "--record", type=Path, action="append", default=[], metavar="FILE", help=f"{RECORD} of an earlier stage, for the manifest; repeatable"
    )


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.engine.export import export
    from spanvla_ros.engine.load import PROBES

    model, training = _source(args)
    form: dict[str, Any] = {"opset": args.opset, "precision": args.precision, "expert_step": args.expert_step}
    if args.data and args.precision not in ("fp32", "int8"):
        form["calibration"] = (prompt for prompt, _ in _samples(args.data, "train", model.spec, model.tokenizer, FITTED))
    manifest = export(model, args.out, training, log=print, **form)
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"{args.out}: {size / 1e6:.1f} MB, opset {manifest.opset}, {args.precision}, engine {manifest.sha256[:16]}")
    absent = PROBES["onnxruntime"](args.out)
    if absent:
        print(f"not held against the checkpoint here: {absent}; `spanvla build` does it where TensorRT runs")
    else:
        _judge(args)
    return 0


def _judge(args: argparse.Namespace) -> None:
    """Hold what was written against its checkpoint; the manifest keeps what was found, whatever it was."""
    from spanvla_ros.engine import manifest as manifests
    from spanvla_ros.engine import parity

    found = parity.check(args.out)
    report: dict[str, Any] = found.to_dict()
    print(
        f"parity with the checkpoint, largest difference over {found.prompts} prompts: features {found.features:.1e}, "
        f"logits {found.logits:.1e}, waypoints {found.waypoints:.1e}; greedy tokens {'equal' if found.tokens_equal else 'DIFFER'}"
    )
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
    """Open-loop errors of an engine and of its checkpoint."""
    from spanvla_ros.engine import load, parity

    spec, tokenizer, tested = load.load_backend(engine)
    *_, reference = load.load_backend(engine, "torch")
    print(f"planning on samples of {data} with the engine and with its checkpoint ...", flush=True)
    return parity.open_loop(spec, reference, tested, _samples(data, "validation", spec, tokenizer, SAMPLES))


def _samples(data: Path, split: str, spec: ModelSpec, tokenizer: Any, count: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Arrays of `planning.preprocess` and driven waypoints, of samples that lie evenly over a split of a data set."""
    import numpy as np

    from spanvla_ros.data.shards import Dataset
    from spanvla_ros.planning.preprocess import preprocess

    samples = Dataset(data, split, spec, labels=("pos", "rec"))
    for index in np.unique(np.linspace(0, len(samples) - 1, count).astype(int)):
        sample = samples[int(index)]
        yield preprocess(sample.observation, spec, tokenizer), sample.waypoints(spec)


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
