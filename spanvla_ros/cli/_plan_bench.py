"""`spanvla bench plan`: an engine beside plain transformers, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.contracts import ConfigError
from spanvla_ros.share import share

if TYPE_CHECKING:
    from spanvla_ros.engine.backends.session import Session
    from spanvla_ros.engine.bench import Drive, Timings
    from spanvla_ros.model.spanvla import SpanVLA

SCHEMA = "spanvla-bench-plan/1"
ON_GPU = ("tensorrt", "torch-cuda")
HORIZONS = {10: 0.5, 50: 0.1}  # waypoints and their interval in seconds, of method's Table 4
SHOWN = (
    ("encode_prefill", "encode + prefill"), ("encode_prefill_kept", "encode + prefill, older pairs kept"), ("reasoning", "reasoning"),
    ("token", "  one token of it"), ("trajectory", "trajectory"), ("total", "total"), ("total_kept", "total, older pairs kept"),
)  # fmt: skip


def add_parser(kinds: argparse._SubParsersAction, epilog: str) -> None:
    about = "stages of a plan, beside autoregressive actions and plain transformers generate() with the torch expert in the same run"
    parser = kinds.add_parser("plan", help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--engine", type=Path, metavar="DIR", help="engine folder, with its checkpoint")
    source.add_argument("--preset", help="engines/NAME of this package; with --random-weights config/train/NAME_vlm.yaml")
    parser.add_argument("--random-weights", action="store_true", help="sizes of the preset without a training; also with 50 waypoints")
    parser.add_argument("--backend", default="auto", help="as the parameter of the planner node (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=15, help="of every reasoning (default: %(default)s, the mean of the paper's)")
    parser.add_argument("--repeats", type=int, default=50, help="plans (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of the backend and of torch on a CPU (default: as the backend chooses)")
    parser.add_argument("--deadline", type=float, default=0.5, metavar="S", help="propose max_reasoning_tokens for it (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to F")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; returns the JSON."""
    if args.tokens < 1 or args.repeats < 1:
        raise ConfigError(f"--tokens is {args.tokens} and --repeats {args.repeats}; both must be 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        figures = (_random if args.random_weights else _engine)(args, Path(folder))
    for line in table(figures):
        print(line)
    return figures


def _engine(args: argparse.Namespace, _: Path) -> dict[str, Any]:
    from spanvla_ros.engine.load import load_backend
    from spanvla_ros.model import checkpoint

    folder = args.engine or share("engines") / args.preset
    if args.preset and not folder.is_dir():
        raise ConfigError(f"preset {args.preset} has no engine at {folder}; give --engine DIR, or --random-weights")
    _, _, session = load_backend(folder, args.backend, threads=args.threads)
    return _measure(args, session, checkpoint.load(folder), "cuda" if session.name in ON_GPU else "cpu")


def _random(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from spanvla_ros.engine import bench, load

    if args.engine:
        raise ConfigError("--random-weights goes with --preset: an engine folder has weights")
    backend = load.choose(args.backend, folder)
    device = "cuda" if backend in ON_GPU else "cpu"
    _say(f"{args.preset}: random weights")
    model = _random_model(args.preset, device)
    if args.tokens > model.spec.max_reasoning_tokens:
        raise ConfigError(f"--tokens is {args.tokens}, the preset has room for {model.spec.max_reasoning_tokens}")
    horizons = {}
    figures: dict[str, Any] = {}
    for waypoints, interval_s in HORIZONS.items():
        spec = dataclasses.replace(
            model.spec, waypoints=waypoints, waypoint_interval_s=interval_s, waypoints_per_token=1, action_scale=((1.0, 1.0, 1.0),) * waypoints
        )
        model.refit(spec)
        model.to(device)
        session = _start(model, backend, args.threads, folder / str(waypoints))
        if not figures:
            figures = _measure(args, session, model, device)
            horizons[str(waypoints)] = figures["stages_ms"]["trajectory"]
            continue
        _say(f"trajectory of {waypoints} waypoints")
        timings = bench.Timings()
        for prompt, noise in _runs(bench.drive(spec, model.tokenizer, 4), args.repeats, timings):
            bench.plan(session, prompt, noise, 1, timings)
        session.close()
        horizons[str(waypoints)] = timings.summary()["trajectory"]
    return {**figures, "trajectory_ms": horizons}


def _random_model(preset: str, device: str) -> SpanVLA:
    """The preset's sizes; the prompt has as many tokens as this tokenizer makes of it, in steps of 16."""
    from spanvla_ros import config as configs
    from spanvla_ros.engine import parity
    from spanvla_ros.model import tiny
    from spanvla_ros.model.architecture import Architecture
    from spanvla_ros.planning import prompt
    from spanvla_ros.training.vlm import VlmConfig

    path = share("config/train") / f"{preset}_vlm.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix("_vlm.yaml") for p in path.parent.glob("*_vlm.yaml")))
        raise ConfigError(f"preset {preset!r} is not one of {known}")
    config = configs.load(VlmConfig, path)
    words, identity = tiny.words()
    spec = config.spec.spec(identity)
    lengths = [len(words.encode(prompt.render(spec, o.history, o.command), add_special_tokens=False).ids) for o in parity.observations(spec, 4)]
    spec = dataclasses.replace(spec, prompt_tokens=-(-max(lengths) // 16) * 16)
    return tiny.build(0, Architecture.load(path.parent / config.architecture), spec, device=device).requires_grad_(False)


def _start(model: SpanVLA, backend: str, threads: int | None, folder: Path) -> Session:
    from spanvla_ros.engine import load

    if backend.startswith("torch"):
        return load.on_model(model, backend, threads)
    from spanvla_ros.engine.export import export

    _say(f"export with {model.spec.waypoints} waypoints")
    export(model, folder)
    return load.load_backend(folder, backend, threads=threads)[2]


def _measure(args: argparse.Namespace, session: Session, model: SpanVLA, device: str) -> dict[str, Any]:
    """Engine and plain transformers by turns, so that both see the same machine."""
    from spanvla_ros.engine import bench
    from spanvla_ros.model.plain import PlainPlan

    spec, tokens = session.spec, args.tokens
    if tokens > spec.max_reasoning_tokens:
        raise ConfigError(f"--tokens is {tokens}, the engine has room for {spec.max_reasoning_tokens}")
    own, kept, plain = bench.Timings(), bench.Timings(), bench.Timings()
    drive = bench.drive(spec, model.tokenizer, 8)
    reference = PlainPlan(model, device, args.threads)
    multiple = spec.groups > len(spec.cameras)
    for count, (prompt, noise) in enumerate(_runs(drive, args.repeats, own, kept, plain)):
        session.seen.enabled = False
        bench.plan(session, prompt, noise, tokens, own)
        if multiple:
            session.seen.enabled = True
            bench.plan(session, prompt, noise, tokens, kept)
        with plain.stage("generate"):
            reference.generate(prompt, tokens + 1)  # the closing token too
        with plain.stage("trajectory"):
            reference.flow(prompt, noise)
        if count % 10 == 0:
            _say(f"plan {count} of {args.repeats}")
    bench.total(own, tokens)
    plain.add("total", ("generate", "trajectory"))
    stages = own.summary()
    if multiple:
        bench.total(kept, tokens)
        stages |= {f"{name}_kept": kept.summary()[name] for name in ("encode_prefill", "total")}
    others = plain.summary()
    token_ms = own.wall("token", 50)
    spoken = {str(n): own.wall("encode_prefill", 50) + own.wall("reasoning", 50) + n * token_ms for n in HORIZONS}
    figures = {
        "schema": SCHEMA,
        "model": spec.name,
        "weights": "random" if args.random_weights else "trained",
        "backend": session.name,
        "machine": reference.device_name if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores",
        "load_1min": os.getloadavg()[0],
        "tokens": {"prompt": int(drive.prompts[0]["length"][0]), "prompt_slots": spec.prompt_tokens, "vision": spec.vision_tokens, "text": tokens},
        "waypoints": spec.waypoints,
        "flow_steps": spec.flow_steps,
        "plans": args.repeats,
        "preprocess_ms": drive.preprocess.summary()["preprocess"],
        "stages_ms": stages,
        "generate_ms": others,
        "autoregressive_ms": {"one_action": token_ms, "plan_with_actions": spoken},
        "speedup_vs_generate": others["total"]["p50"] / stages["total"]["p50"],
        "speedup_vs_generate_cpu_time": others["total"]["cpu_p50"] / stages["total"]["cpu_p50"],
        "deadline_s": args.deadline,
        "max_reasoning_tokens": bench.budget(spec, drive.preprocess, own, 1e3 * args.deadline),
    }
    session.close()
    if device == "cuda":
        figures["floor_ms"], figures["peaks"] = _floor(model, figures["tokens"])
    return figures


def _runs(drive: Drive, repeats: int, *timings: Timings) -> Iterator[tuple[Any, Any]]:
    """Prompt and noise per plan; what the first plans took, which start kernels and fill caches, is forgotten."""
    for index in range(3 + repeats):
        if index == 3:
            for one in timings:
                one.clear()
        yield drive.prompts[index % len(drive.prompts)], drive.noise


def _floor(model: SpanVLA, tokens: dict[str, int]) -> tuple[dict[str, float], dict[str, float]]:
    from spanvla_ros.model import floor
    from spanvla_ros.model.size import measure

    operations, bandwidth = floor.peaks()
    size = measure(model.architecture, model.spec, model.tokenizer.get_vocab_size())
    found = floor.floor_ms(size, tokens["prompt"], tokens["text"], operations, bandwidth)
    return found, {"bf16_tflops": operations / 1e12, "copy_gb_per_s": bandwidth / 1e9}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(figures: dict[str, Any]) -> Iterator[str]:
    """What a person wants to see."""
    tokens = figures["tokens"]
    yield (
        f"{figures['model']}, {figures['weights']} weights, backend {figures['backend']}, {figures['machine']}, load {figures['load_1min']:.1f}\n"
        f"prompt {tokens['prompt']} tokens ({tokens['vision']} of vision), text {tokens['text']}, {figures['waypoints']} waypoints in "
        f"{figures['flow_steps']} steps; {figures['plans']} plans; milliseconds"
    )
    row: Callable[[str, dict[str, float]], str] = lambda label, entry: (  # noqa: E731
        f"{label:42}{entry['p50']:9.2f}{entry['p95']:9.2f}{entry['p99']:9.2f}{entry['cpu_p50']:11.2f}"
    )
    yield f"{'':42}{'p50':>9}{'p95':>9}{'p99':>9}{'CPU p50':>11}"
    yield row("pictures and prompt (not in the total)", figures["preprocess_ms"])
    for name, label in SHOWN:
        if name in figures["stages_ms"]:
            yield row(label, figures["stages_ms"][name])
    for waypoints, entry in figures.get("trajectory_ms", {}).items():
        yield row(f"trajectory, {waypoints} waypoints", entry)
    for name, label in (("generate", "transformers generate()"), ("trajectory", "its torch expert"), ("total", "its total")):
        yield row(label, figures["generate_ms"][name])
    for actions, spent in figures["autoregressive_ms"]["plan_with_actions"].items():
        yield f"{f'total with {actions} action tokens instead':42}{spent:9.2f}"
    if "floor_ms" in figures:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in figures["floor_ms"].items())
        peaks = figures["peaks"]
        yield f"floor at {peaks['bf16_tflops']:.0f} TFLOP/s and {peaks['copy_gb_per_s']:.0f} GB/s: {parts}"
    yield (
        f"{figures['speedup_vs_generate']:.2f} times as fast as generate(), {figures['speedup_vs_generate_cpu_time']:.2f} times by CPU time"
    )
    budget = figures["max_reasoning_tokens"]
    told = "not even a plan without text keeps it" if budget is None else f"max_reasoning_tokens {budget}"
    yield f"for a deadline of {figures['deadline_s']:g} s, 99 of 100 plans: {told}"
