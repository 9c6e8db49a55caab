"""Drives scenarios in the embedded simulator and judges the drive."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation.driving import summarize
from spanvla_ros.share import DEMO_ENGINE, share

if TYPE_CHECKING:
    from spanvla_ros.sim.planners import DrivingPlanner

EXAMPLE = """example:
  spanvla sim --planner spanvla --families lane,stopped,red --seeds 6000:6002 --out out
"""
PLANNERS = ("expert", "constant_velocity", "spanvla")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla sim`."""
    parser = subparsers.add_parser("sim", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planner", choices=PLANNERS, default="expert", help="who drives (default: %(default)s)")
    parser.add_argument("--engine", type=Path, help="engine folder of --planner spanvla (default: the demo engine)")
    parser.add_argument("--families", default="lane,stopped,red", help="comma-separated scenario families, or all (default: %(default)s)")
    parser.add_argument(
        "--seeds", default="6000:6002", help="half-open range A:B; 0-4999 train, 5000-5999 validation, 6000-6999 test (default: %(default)s)"
    )
    parser.add_argument("--black", action="store_true", help="the camera pictures are black")
    parser.add_argument("--render", choices=("gl", "none"), default="gl", help="none: no pictures at all, for planners that need none")
    parser.add_argument("--out", type=Path, help="folder for summary.json")


def run(args: argparse.Namespace) -> int:
    """Drive all episodes; prints progress and a table."""
    from spanvla_ros.sim import scenario as scenarios
    from spanvla_ros.sim.drive import drive

    seeds = scenarios.parse_seeds(args.seeds)
    built = [scenarios.build(family, seed) for family in scenarios.parse_families(args.families) for seed in seeds]
    if args.planner == "spanvla" and args.render == "none":
        raise ConfigError("--planner spanvla needs pictures, --render none makes none; use --black for black pictures")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    planner = _planner(args.planner, args.engine)
    episodes = []
    begun = time.perf_counter()
    try:
        for scenario in built:
            started = time.perf_counter()
            episode = drive(scenario, planner, render=args.render == "gl" and planner.needs_pictures, black=args.black)
            episodes.append(episode)
            wall = time.perf_counter() - started
            print(
                f"{episode['family']:8} {episode['seed']}  completion {episode['route_completion']:.2f}  "
                f"score {episode['driving_score_lb21']:5.1f}  {_list(episode['infractions'])}  "
                f"{episode['ended']} after {episode['duration_s']:.1f} s ({wall:.1f} s of wall time)",
                flush=True,
            )
    finally:
        planner.close()
    summary = {
        "planner": args.planner,
        "black": args.black,
        "scenarios": episodes,
        "summary": summarize(episodes),
        "wall_s": round(time.perf_counter() - begun, 2),
    }
    _table(summary["summary"])
    if args.out:
        (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out / 'summary.json'}")
    return 0


def _planner(name: str, engine: Path | None) -> DrivingPlanner:
    from spanvla_ros.sim.planners import SIMPLE_PLANNERS, EnginePlanner

    if name in SIMPLE_PLANNERS:
        return SIMPLE_PLANNERS[name]()
    from spanvla_ros.engine.load import load_planner

    return EnginePlanner(load_planner(engine or share(DEMO_ENGINE)))


def _list(infractions: list[dict]) -> str:
    return ", ".join(f"{entry['type']} at {entry['time_s']:.1f} s" for entry in infractions) or "no infraction"


def _table(summary: dict) -> None:
    print(f"\n{'':10}{'episodes':>9}{'completion':>12}{'DS (LB2.1)':>12}{'DS (LB2.0)':>12}{'infractions':>13}")
    for name, row in [*summary["families"].items(), ("all", summary["all"])]:
        print(
            f"{name:10}{row['episodes']:9d}{row['route_completion']:12.3f}{row['driving_score_lb21']:12.1f}"
            f"{row['driving_score_lb20']:12.1f}{row['infractions']:13d}"
        )
