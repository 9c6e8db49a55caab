"""`spanvla bench node`: what the planner node costs beside decoding, preprocessing and model, over real DDS."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spanvla_ros.contracts import ConfigError, SpanVLAError

if TYPE_CHECKING:
    from spanvla_ros.ros.bench import Heard

SCHEMA = "spanvla-bench-node/1"
WARM_UP_S = 3.0  # history of 1.5 s, first plans
START_S = 120.0
APART = ("decode", "preprocess", "prefill", "reasoning", "trajectory")
SHOWN = (
    ("decode", "decode (JPEG)"), ("preprocess", "preprocess"), ("model", "model (none)"), ("observe", "frames and history by stamp"),
    ("check", "spline and limits"), ("transport", "DDS, callbacks, messages"), ("overhead", "overhead: the last three"),
    ("total", "first picture sent -> plan here"),
)  # fmt: skip


class NoAnswer(SpanVLAError):
    """The node didn't plan."""


def add_parser(kinds: argparse._SubParsersAction, epilog: str) -> None:
    about = "the planner node beside decode, preprocessing and model: three JPEG cameras 1600x900 at 10 Hz and odometry at 100 Hz over DDS"
    parser = kinds.add_parser("node", help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of sending (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="both processes share so many (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to F")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; returns the JSON. NoAnswer where the node doesn't plan."""
    from spanvla_ros.ros import bench, processes

    if args.seconds <= 2 * WARM_UP_S or args.cores < 1:
        raise ConfigError(f"--seconds is {args.seconds:g} and --cores {args.cores}; they must be above {2 * WARM_UP_S:g} and 0")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[: args.cores])
    try:
        with tempfile.TemporaryDirectory(prefix="spanvla-") as folder:
            env = processes.environment(processes.domain(), Path(folder) / "ros")
            node = processes.start("planner", ("spanvla_ros.ros.bench",), {"rig_check": "'off'"}, {}, env, Path(folder) / "planner.log")
            try:
                with bench.Car(env) as car:
                    if not car.wait(START_S, node.check):
                        raise NoAnswer(f"the planner node is not active after {START_S:g} s; the end of its log: {_tail(node.log)}")
                    cpu_s = _cpu_s(node.process.pid)
                    heard = car.drive(args.seconds, _say)
                    cpu_s = _cpu_s(node.process.pid) - cpu_s
                if not heard.plans:
                    raise NoAnswer(f"the planner node made no plan; the end of its log: {_tail(node.log)}")
            finally:
                node.stop()
    finally:
        os.sched_setaffinity(0, allowed)
    figures = summarize(heard, args.seconds, cpu_s, args.cores)
    for line in table(figures):
        print(line)
    return figures


def summarize(heard: Heard, seconds: float, cpu_s: float, cores: int) -> dict[str, Any]:
    """Percentiles in ms of every part over the plans after the warm-up, and what was lost."""
    *stamps, _ = sorted(heard.sent_s)  # the last ones are there for the counts
    asked = [stamp for stamp in stamps if stamp >= stamps[0] + WARM_UP_S * 1e9]
    parts: dict[str, list[float]] = {name: [] for name, _ in SHOWN}
    for at_s, info in heard.plans:
        if info["anchor_ns"] not in asked:
            continue
        stages = info["timings_ms"]
        total = 1e3 * (at_s - heard.sent_s[info["anchor_ns"]])
        known = {name: stages[name] for name in ("decode", "preprocess", "observe", "check")}
        known["model"] = sum(stages[name] for name in ("prefill", "reasoning", "trajectory"))
        overhead = total - sum(stages[name] for name in APART)
        known |= {"total": total, "overhead": overhead, "transport": overhead - stages["observe"] - stages["check"]}
        for name, value in known.items():
            parts[name].append(value)
    received = heard.plans[-1][1]["received"]
    return {
        "schema": SCHEMA,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cores} used",
        "load_1min": os.getloadavg()[0],
        "seconds": seconds,
        "parts_ms": {name: _percentiles(values) for name, values in parts.items()},
        "plans": len(parts["total"]),
        "pictures_without_plan": len(asked) - len(parts["total"]),
        "odometry": {"sent": heard.odometry, "lost": heard.odometry - received["odometry"]},
        "longest_heartbeat_gap_s": heard.gap_s,
        "node_cpu_share": cpu_s / seconds,
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)}


def table(figures: dict[str, Any]) -> list[str]:
    lines = [f"{figures['machine']}, load {figures['load_1min']:.1f}; {figures['plans']} plans", f"{'ms':34}{'p50':>8}{'p95':>8}{'p99':>8}"]
    for name, text in SHOWN:
        row = figures["parts_ms"][name]
        lines.append(f"{text:34}{row['p50']:8.1f}{row['p95']:8.1f}{row['p99']:8.1f}")
    sent, lost = figures["odometry"]["sent"], figures["odometry"]["lost"]
    lines.append(f"odometry lost: {lost} of {sent}; pictures without a plan: {figures['pictures_without_plan']}")
    lines.append(f"longest heartbeat gap {figures['longest_heartbeat_gap_s']:.3f} s; the node takes {figures['node_cpu_share']:.2f} cores")
    return lines


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
