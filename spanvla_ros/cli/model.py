"""Sizes of a model: parameters, tapped layers, tokens, KV cache and memory, without any weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spanvla_ros.model.size import Regime, Size

EXAMPLES = """examples:
  spanvla model info preset=spanvla-3b
  spanvla model info preset=demo
  spanvla model info preset=spanvla-3b lora.rank=8 loop.micro_batch=2
  spanvla model info preset=engines/demo
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("model", help=__doc__, description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    info = actions.add_parser(
        "info",
        help=__doc__,
        description="preset=NAME reads config/train/NAME_vlm.yaml, preset=PATH such a file or a model folder. Memory is an estimate.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.add_argument("settings", nargs="+", metavar="preset=NAME|PATH [key=value ...]", help="and changes to the configuration of stage one")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.contracts import ConfigError

    presets = [s.partition("=")[2] for s in args.settings if s.startswith("preset=")]
    if len(presets) != 1:
        raise ConfigError("give exactly one preset=NAME or preset=PATH")
    size, regime, processes = _measure(presets[0], [s for s in args.settings if not s.startswith("preset=")])
    for line in _lines(size, regime, processes):
        print(line)
    return 0


def _measure(preset: str, overrides: list[str]) -> tuple[Size, Regime, int]:
    from spanvla_ros import config as configs
    from spanvla_ros.contracts import ConfigError
    from spanvla_ros.model import checkpoint
    from spanvla_ros.model.architecture import Architecture
    from spanvla_ros.model.size import Regime, measure
    from spanvla_ros.planning import tokenizer
    from spanvla_ros.share import share
    from spanvla_ros.training.vlm import VlmConfig

    path = Path(preset)
    if path.is_dir():
        if overrides:
            raise ConfigError(f"{preset} is a model folder, whose sizes can't be changed ({overrides[0]})")
        architecture, spec = checkpoint.describe(path)
        words = tokenizer.load(path / checkpoint.TOKENIZER)
        return measure(architecture, spec, words.get_vocab_size()), Regime(), 1
    if not path.is_file():
        known = {p.name.removesuffix("_vlm.yaml"): p for p in sorted(share("config/train").glob("*_vlm.yaml"))}
        if preset not in known:
            raise ConfigError(f"preset {preset!r} is neither a file, a model folder nor one of {', '.join(known)}")
        path = known[preset]
    config = configs.load(VlmConfig, path, overrides)
    architecture = Architecture.load(path.parent / config.architecture)
    size = measure(architecture, config.spec.spec(""), config.vocabulary if not architecture.text.vocabulary else 0)
    samples = config.loop.micro_batch or max(1, config.loop.batch // config.processes)
    # what torchrun starts is not in the file: the paper's 8 GPUs
    processes = 8 if config.fsdp else config.processes
    regime = Regime(
        vision=config.train_vision,
        recompute=config.gradient_checkpointing,
        average=config.loop.ema > 0,
        adapters=config.lora.parameters(size.linear_layers()) if config.lora.rank else 0,
        samples=samples,
        shards=processes if config.fsdp else 1,
    )
    return size, regime, processes


def _lines(size: Size, regime: Regime, processes: int) -> Iterator[str]:
    spec, text = size.spec, size.architecture.text
    frames = f"{len(spec.frame_offsets_s)} frames of {spec.image_size[0]} x {spec.image_size[1]} px each"
    yield f"{spec.name}: {len(spec.cameras)} camera(s) {', '.join(spec.cameras)}; {frames}"
    yield "parameters"
    for name, count in (
        ("vision tower", size.vision), ("decoder layers", size.decoder), ("embedding (also output)", size.embedding), ("VLM", size.vlm),
        ("action expert", size.expert), ("all", size.vlm + size.expert),
    ):  # fmt: skip
        yield f"  {name:24}{count:>16,}"
    taps = ", ".join(str(t + 1) for t in spec.taps)
    yield f"layers  {text.layers}; {len(spec.taps)} tapped, counted from 1: {taps}"
    yield (
        f"tokens per plan  {spec.vision_tokens} vision, {spec.prompt_tokens - spec.vision_tokens} other prompt at most, "
        f"{spec.max_reasoning_tokens} reasoning at most, {spec.cache_tokens} KV slots, {spec.waypoints} waypoints in {spec.flow_steps} flow steps"
    )
    yield f"KV cache, bf16  {_bytes(size.kv_cache)} per plan ({size.kv_token} bytes per token and layer), {_bytes(size.kv_tapped)} of it tapped"
    yield f"memory to plan, bf16  {_bytes(size.inference)} (estimate)"
    where = f"per process of {processes}" + (", sharded" if regime.shards > 1 else "")
    yield f"memory to train stage one, {regime.samples} sample(s) per forward pass, {where} (estimate)"
    for recompute in (False, True):
        parts = size.training(regime.but(recompute=recompute))
        mark = " <- this configuration" if recompute == regime.recompute else ""
        shown = ", ".join(f"{name} {_bytes(value)}" for name, value in parts.items() if value)
        yield f"  {'with' if recompute else 'without':7} gradient checkpointing  {_bytes(sum(parts.values()))}: {shown}{mark}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
