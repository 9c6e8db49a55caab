"""Plan over a recorded ROS 2 bag and judge the plans: errors, comfort, limits, states, latency; pass or fail; or compare two such results."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanvla_ros.cli import _bag_plans
from spanvla_ros.contracts import NS_PER_S, Command, ConfigError, InputError, Plan
from spanvla_ros.share import DEMO_ENGINE, share

if TYPE_CHECKING:
    from spanvla_ros.cli._bag_plans import Planned
    from spanvla_ros.data.bag import Bag
    from spanvla_ros.evaluation.gate import Check, Gate
    from spanvla_ros.evaluation.supervision import Supervision

EXAMPLE = """examples:
  spanvla bag drive/ --camera front=/sensing/camera/front/image/compressed --odometry /localization/odometry --out out
  spanvla bag drive/ --topics config/topics/drive.yaml --gate config/gates/default.yaml --out out   # exit code 1 where a limit is broken
  spanvla bag drive/ ... --plan-info /spanvla_planner/output/plan_info --out again                  # cuts, states and deadlines of the car
  spanvla bag drive/ ... --play --out played                                                       # by a running planner node, over ROS 2
  spanvla bag --compare out other

OUT/report.html   one file: verdict, figures, timeline, moments worth a look
OUT/summary.json  the figures, the verdict on every limit, a row per plan
OUT/plans.jsonl   one line per plan: raw waypoints in base_link at t0, reasoning, stamps
OUT/overlay.mp4   plan (blue) and recorded drive (orange) in the picture; OUT/strip.png shows six moments of it
"""
PLANS = "plans.jsonl"
DEMO_RIG = "config/rigs/demo.yaml"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("bag", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path, nargs="?", help="bag folder, .mcap or .db3")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME=TOPIC", help="topic of a camera of the model; once per camera")
    parser.add_argument("--odometry", metavar="TOPIC", help="nav_msgs/Odometry: odom or map -> base_link")
    parser.add_argument(
        "--topics",
        type=Path,
        metavar="FILE",
        help="instead of the two above: cameras, odometry, command, and who drives, as in config/topics/drive.yaml",
    )
    parser.add_argument(
        "--command",
        dest="instruction",
        choices=[c.value for c in Command],
        help="route instruction for the whole bag (default: the command topic of --topics, else unknown)",
    )
    parser.add_argument("--engine", type=Path, metavar="DIR", help="engine folder (default: the demo engine)")
    parser.add_argument("--rig", type=Path, metavar="FILE", help="cameras that the model was trained with (default: config/rigs/demo.yaml)")
    parser.add_argument(
        "--plan-info",
        metavar="TOPIC",
        help="recorded plan_info of the planner: repeat its budgets, and the cuts that its deadline made; judge its states and deadlines",
    )
    parser.add_argument("--play", action="store_true", help="play the bag, image by image, to a running planner node with lockstep and use_sim_time")
    parser.add_argument("--rate", type=float, default=0.0, help="with --play: at most so many times as fast as recorded; 0 = as fast as the planner")
    parser.add_argument("--gate", type=Path, metavar="FILE", help="limits as in config/gates/default.yaml; exit code 1 where one is broken")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OUT1", "OUT2"), help="plan nothing, compare two results of one bag")


def run(args: argparse.Namespace) -> int:
    """Plan, judge, write; or compare."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if args.compare:
        from spanvla_ros.cli import _bag_text
        from spanvla_ros.evaluation import comparison

        found = comparison.compare(*(comparison.read(folder) for folder in args.compare))
        print("\n".join(_bag_text.comparison(found, *map(str, args.compare))))
        return 0
    _check(args)
    from spanvla_ros.cli import _bag_text
    from spanvla_ros.data.bag import Bag
    from spanvla_ros.data.replay import recorded_infos
    from spanvla_ros.evaluation import gate as gates

    gate = gates.load(args.gate) if args.gate else gates.Gate()
    with Bag(args.bag) as bag:
        topics = _bag_plans.drive_topics(bag, args.topics, camera_topics(args.camera), args.odometry)
        told, budgets = recorded_infos(bag, args.plan_info, topics.odometry) if args.plan_info else ([], {})
        args.out.mkdir(parents=True, exist_ok=True)
        with open(args.out / PLANS, "w", encoding="utf-8") as file:

            def write(plan: Plan, inputs: Mapping[str, Any]) -> None:
                file.write(json.dumps({"t0_ns": plan.t0_ns, **inputs, **record(plan)}) + "\n")

            if args.play:
                planned = _bag_plans.by_node(bag, topics, args.rate, write)
            else:
                engine = args.engine or share(DEMO_ENGINE)
                command = Command(args.instruction) if args.instruction else None
                rig = args.rig or share(DEMO_RIG)
                planned = _bag_plans.by_engine(bag, topics, engine, rig, command, budgets, write)
        if not planned.plans:
            track = planned.track
            raise InputError(f"bag {args.bag} allows no plan; skipped: {dict(track.skipped)}; the last reason: {track.reason}")
        summary = judge(args, bag, planned, told, gate)
    print(_bag_text.overview(summary, args.out))
    return 1 if summary["gate"] and not summary["gate"]["passed"] else 0


def _check(args: argparse.Namespace) -> None:
    """All that can be wrong with the options, before anything is read."""
    if args.bag is None or args.out is None:
        raise ConfigError("give a bag and --out, or --compare with two results")
    if args.play:
        for name, value in (("--engine", args.engine), ("--rig", args.rig), ("--plan-info", args.plan_info), ("--command", args.instruction)):
            if value:
                raise ConfigError(f"{name} is for an engine in this process, with --play the planner node has its own")
    if args.rate and not args.play:
        raise ConfigError("--rate is for --play")
    if not 0 <= args.rate <= 1000:
        raise ConfigError(f"--rate is {args.rate:g}, it must be between 0 and 1000")


def camera_topics(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=TOPIC` arguments as a mapping."""
    topics = {}
    for pair in pairs:
        name, sign, topic = pair.partition("=")
        if not (name and sign and topic):
            raise InputError(f"--camera {pair!r} is not of the form NAME=TOPIC")
        topics[name] = topic
    return topics


def record(plan: Plan) -> dict[str, Any]:
    """What plans.jsonl says about a plan. Floats keep every digit: equal lines are equal plans."""
    return {
        "pose_odom": plan.pose_odom.tolist(),
        "speed_mps": plan.speed_mps,
        "waypoint_interval_s": plan.waypoint_interval_s,
        "waypoints_base": plan.waypoints_base.tolist(),
        "reasoning": plan.reasoning,
        "tokens": plan.tokens,
        "budget_tokens": plan.budget_tokens,
        "cut_tokens": plan.cut_tokens,
        "seed": plan.seed,
        "engine_hash": plan.engine_hash,
        "timings_ms": dict(plan.timings_ms),
    }


def judge(args: argparse.Namespace, bag: Bag, planned: Planned, told: Sequence[tuple[int, Mapping[str, Any]]], gate: Gate) -> dict[str, Any]:
    """Figures, verdicts, pictures and report; returns the summary."""
    from spanvla_ros.data import film
    from spanvla_ros.evaluation import bag_page, judgement, openloop, results, timeline

    plans, track = planned.plans, planned.track
    stamps, poses = track.poses()
    rows = judgement.judge(plans, [openloop.recorded_future(plan, stamps, poses) for plan in plans], gate.validity)
    watched = supervise(planned, rows, told, gate)
    figures = judgement.figures(rows, track.skipped, watched)
    checks = gate.check(figures)
    errors = {kind: openloop.means([row[kind] for row in rows]) for kind in ("ade_m", "fde_m")}
    horizon = max((h for h, entry in errors["ade_m"].items() if entry and float(h) <= 3), default="1")
    engagement = track.engagement
    looks = bag_page.moments(rows, engagement, horizon)
    names, stills = film.write(bag, planned.topics, plans, stamps, poses, args.out, tuple(looks))
    summary = {
        "bag": str(args.bag),
        "planner": planned.planner,
        "engine_hash": plans[0].engine_hash,
        "cameras": list(planned.topics.cameras),
        "start_ns": int(stamps[0]),
        "duration_s": float(stamps[-1] - stamps[0]) / NS_PER_S,
        "images": len(track.images[next(iter(planned.topics.cameras))]),
        "plans": len(plans),
        "plans_with_reasoning": sum(bool(plan.reasoning) for plan in plans),
        "skipped": dict(sorted(track.skipped.items())),
        "figures": figures,
        "horizon": horizon,
        "gate": verdict(args.gate, checks),
        **errors,
        "plan_latency_ms": openloop.percentiles([row["latency_ms"] for row in rows if row["latency_ms"] is not None]),
        "states": {"source": watched.source, "share": watched.shares(), "deadline_misses": watched.deadline_misses, "changes": watched.changes()},
        "takeovers": len(timeline.takeovers(engagement)) if engagement else None,
        "pictures": names,
        "rows": rows,
    }
    speeds = [sample.speed_mps for sample in track.odometry]
    drawing = timeline.draw(rows, watched.changes(), engagement, track.refused, (stamps, speeds), gate.supervisor.deadline_s, horizon)
    results.write(args.out / results.SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())
    results.write(args.out / results.REPORT, bag_page.page(summary, drawing, looks, stills).encode())
    return summary


def supervise(planned: Planned, rows: Sequence[Mapping[str, Any]], told: Sequence[tuple[int, Mapping[str, Any]]], gate: Gate) -> Supervision:
    """As it was recorded, else the supervisor over the drive."""
    from spanvla_ros.evaluation import supervision
    from spanvla_ros.planning.supervisor import Reason

    if told:
        return supervision.recorded(told, gate.supervisor.deadline_s)
    attempts = []
    for plan, row in zip(planned.plans, rows):
        found = {"reason": Reason.PLAN_INVALID.value} if row["broken"] else {"plan": plan}
        attempts.append(supervision.Attempt(anchor_ns=plan.t0_ns, took_ms=row["latency_ms"] or 0.0, **found))
    attempts += [supervision.Attempt(anchor_ns=stamp, reason=code) for stamp, code in planned.track.refused]
    return supervision.simulated(sorted(attempts, key=lambda a: a.anchor_ns), planned.track.images, planned.track.odometry, gate.supervisor)


def verdict(file: Path | None, checks: Sequence[Check]) -> dict[str, Any] | None:
    """What summary.json says about the gate; None where none was asked for."""
    from spanvla_ros.evaluation.gate import FAIL

    if file is None:
        return None
    return {"file": str(file), "passed": all(check.verdict != FAIL for check in checks), "checks": [check.to_dict() for check in checks]}
