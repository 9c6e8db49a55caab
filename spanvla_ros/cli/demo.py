"""Drive the simulator with the planner over ROS 2 and write a report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.evaluation.results import EPISODES
from spanvla_ros.share import DEMO_ENGINE, share

if TYPE_CHECKING:
    from spanvla_ros.evaluation.recording import Recording

EXAMPLE = """example:
  spanvla demo --out out

OUT/summary.json  scores per scenario, latency, rate, states
OUT/report.html   one file: pictures with plan and reason, plots from above, speed
OUT/strip.png     one moment of every family; OUT/log/ what the nodes said
"""
MOMENTS = 5
# plans per scenario that are made once more, with black images
BLACK_PLANS = 6


class PlannerSilent(SpanVLAError):
    """A whole demo without a single plan."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("demo", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--engine", type=Path, help="engine folder (default: the demo engine)")
    parser.add_argument("--families", default="lane,stopped,red", help="scenario families (default: %(default)s)")
    parser.add_argument("--seeds", default="6000:6002", help="seeds of each family, FIRST:END with END excluded (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.engine.load import load_planner
    from spanvla_ros.evaluation import report
    from spanvla_ros.sim.scenarios import scenario as scenarios

    families, seeds = scenarios.parse_families(args.families), scenarios.parse_seeds(args.seeds)
    engine = args.engine or share(DEMO_ENGINE)
    # opened before anything starts: a broken engine is one clear line, not the log of a node
    planner = load_planner(engine)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        print(f"driving {', '.join(families)} with seeds {args.seeds}, engine {engine}", flush=True)
        results, recording = drive(engine, families, args.seeds, len(families) * len(seeds), args.out)
        print("planning again with black images ...", flush=True)
        chosen = [info for r in results for info in spread(recording.plans(r["first_stamp_ns"], r["last_stamp_ns"]), BLACK_PLANS)]
        change = recording.black_image_change(planner, chosen)
    finally:
        planner.close()
    summary = summarize(results, recording, change)
    drives = []
    for result in results:
        route = scenarios.build(result["family"], result["seed"]).route
        line = route.path.pose(np.linspace(route.start_s, route.end_s, 200))[:, :2]
        drives.append(recording.drive(result, line, MOMENTS))
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    lead = "The planner gets pictures, odometry and a command; the simulator and the planner are separate processes that talk ROS 2."
    (args.out / "report.html").write_text(report.page("spanvla_ros demo", lead, summary, drives), encoding="utf-8")
    (args.out / "strip.png").write_bytes(report.strip(drives))
    print(overview(summary))
    print(f"results in {args.out}: report.html, summary.json, strip.png")
    if not summary["plans"]:
        raise PlannerSilent(f"the planner made no plan that a car can drive; {args.out / 'log' / 'planner.log'} says why")
    return 0


def drive(engine: Path, families: Sequence[str], seeds: str, count: int, out: Path) -> tuple[list[dict[str, Any]], Recording]:
    """Both nodes from start to end: the judge's results and what was heard meanwhile."""
    from spanvla_ros.ros import processes
    from spanvla_ros.ros.recorder import Recorder

    logs, episodes = out / "log", out / EPISODES
    logs.mkdir(exist_ok=True)
    episodes.unlink(missing_ok=True)
    env = processes.environment(processes.domain(), logs / "ros")
    # listeners, the planner and the recorder: whoever is not matched in time misses the first seconds
    setting = {"listeners": "2", "scenario": f"'{','.join(families)}'", "seed": f"'{seeds}'", "output_dir": f"'{out.resolve()}'"}
    results = []
    with Recorder(env, processes.IMAGE, processes.ODOMETRY, processes.PLAN_INFO) as recorder:
        for result in processes.drives(
            lambda: processes.start_planner(env, logs, engine=engine), lambda: processes.start_simulator(setting, env, logs), episodes
        ):
            results.append(result)
            print(progress(result, len(results), count), flush=True)
    if len(results) != count:
        raise processes.ProcessFailed(f"the simulator drove {len(results)} of {count} episodes; see {logs / 'simulator.log'}")
    return results, recorder.recording


def progress(result: dict[str, Any], index: int, count: int) -> str:
    """One line about an episode."""
    wrongs = ", ".join(entry["type"] for entry in result["infractions"] if entry["type"] != "min_speed") or "no infraction"
    return (
        f"[{index}/{count}] {result['family']} {result['seed']}: route {result['route_completion']:.0%}, "
        f"driving score {result['driving_score_lb21']:.0f}, {wrongs}, {result['wall_s']:.0f} s"
    )


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced, the ends included."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))] if items else []


def summarize(results: Sequence[dict[str, Any]], recording: Recording, change: dict[str, Any]) -> dict[str, Any]:
    """What summary.json holds."""
    from spanvla_ros.evaluation.openloop import percentiles

    plans = [info for r in results for info in recording.plans(r["first_stamp_ns"], r["last_stamp_ns"])]
    wall_s = sum(r["wall_s"] for r in results)
    stages = {name: float(np.median([info["timings_ms"][name] for info in plans])) for name in (plans[0]["timings_ms"] if plans else ())}
    return {
        "scenarios": [{name: value for name, value in row.items() if name != "plan_times_ms"} for row in results],
        "plans": len(plans),
        "plans_with_reasoning": sum(bool(info["reasoning"]) for info in plans),
        "plan_latency_ms": percentiles([info["timings_ms"]["total"] for info in plans]),
        "stage_ms": stages,
        "planning_rate_hz": len(plans) / wall_s if wall_s else 0.0,
        "state_share": recording.state_share(results),
        "real_time_factor": sum(r["driven_s"] for r in results) / wall_s if wall_s else 0.0,
        "black_image_change": change,
        "engine_hash": plans[0]["engine_hash"] if plans else None,
    }


def overview(summary: dict[str, Any]) -> str:
    """What a person wants to see first."""
    scenarios = summary["scenarios"]
    lines = [
        f"mean route completion {np.mean([s['route_completion'] for s in scenarios]):.0%}, "
        f"mean driving score (LB 2.1) {np.mean([s['driving_score_lb21'] for s in scenarios]):.0f}, "
        f"{sum(s['success'] for s in scenarios)} of {len(scenarios)} scenarios without infraction"
    ]
    if summary["plan_latency_ms"]:
        latency = ", ".join(f"{name} {value:.0f} ms" for name, value in summary["plan_latency_ms"].items())
        rates = f"{summary['planning_rate_hz']:.1f} per second, {summary['real_time_factor']:.2f} x real time"
        lines.append(f"{summary['plans']} plans, {rates}, latency {latency}")
    if summary["black_image_change"]["n"]:
        lines.append(f"black images move the plans by {summary['black_image_change']['mean_m']:.2f} m on average")
    return "\n".join(lines)
