"""Drive simulator and planner for a long time with random faults, and hold what was seen against limits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import ConfigError
from spanvla_ros.share import DEMO_ENGINE, share

EXAMPLE = """example:
  spanvla soak --minutes 60 --seed 0 --out out/soak

OUT/summary.json  crashes, gaps between heartbeats, memory, states, every fault with what it led to; `broken` is empty or the exit code is 1
OUT/soak.png      states and faults, heartbeats and memory over time; OUT/log/ what the nodes said
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("soak", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, from the first plan on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides kind, order and length of the faults (default: %(default)s)")
    parser.add_argument("--engine", type=Path, metavar="DIR", help="engine folder (default: the demo engine)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.evaluation import soak as judge
    from spanvla_ros.ros import soak

    if not 0.1 <= args.minutes <= 24 * 60:
        raise ConfigError(f"--minutes is {args.minutes:g}, it must be 0.1 to 1440")
    record = soak.drive(args.minutes, args.seed, args.engine or share(DEMO_ENGINE), args.out, lambda line: print(line, flush=True))
    summary = judge.summarize(record)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (args.out / "soak.png").write_bytes(judge.picture(record))
    print("\n".join(overview(summary)))
    print(f"results in {args.out}: summary.json, soak.png, log/")
    return 0 if summary["passed"] else 1


def overview(summary: dict[str, Any]) -> list[str]:
    """What a person wants to see first."""
    gap, growth, recovery = summary["heartbeat_gap_s"], summary["rss_growth_percent"], summary["recovery_s"]
    lines = [
        f"{summary['faults']} faults, {summary['plans']} plans, {summary['heartbeats']} heartbeats, {summary['crashes']} crashes",
        f"largest gap between heartbeats {gap['largest']} s, {gap['largest_without_waiting_for_a_processor']} s without waiting for a processor",
        f"memory growth {'not measured' if growth is None else f'{growth:+.2f} %'}",
        "states: " + ", ".join(f"{state} {share:.1%}" for state, share in summary["state_share"].items()),
    ]
    if recovery:
        lines.append(f"planning again {recovery['median']:.1f} s after a fault (median), {recovery['largest']:.1f} s at most")
    return [*lines, *(f"broken: {line}" for line in summary["broken"])]
