"""Plan over a recorded ROS 2 bag: plans, overlay video, errors against the recorded drive."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from spanvla_ros.contracts import Command, InputError, Observation, Plan
from spanvla_ros.share import DEMO_ENGINE, share

if TYPE_CHECKING:
    from spanvla_ros.data.bag import Bag
    from spanvla_ros.evaluation.overlay import Camera

EXAMPLE = """example:
  spanvla bag drive/ --camera front=/sensing/camera/front/image/compressed --odometry /localization/odometry --out out
  spanvla bag drive/ ... --plan-info /spanvla_planner/output/plan_info --out again

OUT/summary.json  plans, average displacement error beside constant velocity, latency, what was skipped and why
OUT/plans.jsonl   one line per plan: raw waypoints in base_link at t0, reasoning, stamps
OUT/overlay.mp4   plan (blue) and recorded drive (orange) in the picture; OUT/strip.png shows six moments of it
"""
STRIP_PICTURES = 6
PICTURE_WIDTH_PX = 960


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "bag", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="bag folder, .mcap or .db3")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME=TOPIC", help="topic of a camera of the model; once per camera")
    parser.add_argument("--odometry", required=True, metavar="TOPIC", help="nav_msgs/Odometry: odom or map -> base_link")
    parser.add_argument(
        "--command", dest="instruction", default=Command.UNKNOWN.value, choices=[c.value for c in Command], help="route instruction for the whole bag"
    )
    parser.add_argument("--engine", type=Path, help="engine folder (default: the demo engine)")
    parser.add_argument(
        "--plan-info", metavar="TOPIC", help="recorded plan_info of the planner: repeat its budgets, and the cuts that its deadline made"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.data.bag import Bag
    from spanvla_ros.data.replay import Replay
    from spanvla_ros.engine.load import load_planner
    from spanvla_ros.evaluation.openloop import ade, percentiles

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    cameras = camera_topics(args.camera)
    with Bag(args.bag) as bag:
        budgets = recorded_budgets(bag, args.plan_info) if args.plan_info else {}
        planner = load_planner(args.engine or share(DEMO_ENGINE))
        try:
            replay = Replay(bag, planner.spec, cameras, args.odometry, Command(args.instruction))
            args.out.mkdir(parents=True, exist_ok=True)
            plans, began = [], time.monotonic()
            with open(args.out / "plans.jsonl", "w", encoding="utf-8") as file:
                for observation in replay.observations():
                    try:
                        plan = planner.plan(observation, max_tokens=budgets.get(observation.t0_ns))
                    except InputError as error:
                        replay.skip("PLAN_INVALID", error)
                        continue
                    plans.append(plan)
                    file.write(json.dumps(record(observation, plan)) + "\n")
                    if len(plans) % 50 == 0:
                        print(f"{len(plans)} plans, {len(plans) / (time.monotonic() - began):.1f} per second", file=sys.stderr)
        finally:
            planner.close()
        if not plans:
            raise InputError(f"bag {args.bag} allows no plan; skipped: {dict(replay.skipped)}; the last reason: {replay.reason}")
        stamps, poses = replay.track()
        pictures = draw(bag, cameras[planner.spec.cameras[0]], plans, stamps, poses, args.out)
    summary = {
        "bag": str(args.bag),
        "images": replay.images,
        "plans": len(plans),
        "plans_with_reasoning": sum(bool(plan.reasoning) for plan in plans),
        "skipped": dict(sorted(replay.skipped.items())),
        "ade_m": ade(plans, stamps, poses),
        "plan_latency_ms": percentiles([plan.timings_ms["total"] for plan in plans]),
        "engine_hash": planner.engine_hash,
        "pictures": pictures,
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(overview(summary, args.out))
    return 0


def camera_topics(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=TOPIC` arguments as a mapping."""
    topics = {}
    for pair in pairs:
        name, sign, topic = pair.partition("=")
        if not (name and sign and topic):
            raise InputError(f"--camera {pair!r} is not of the form NAME=TOPIC")
        topics[name] = topic
    return topics


def recorded_budgets(bag: Bag, topic: str) -> dict[int, int]:
    """t0 in ns -> most tokens of the text, of every plan that a plan_info topic tells of."""
    from spanvla_ros.planning import messages

    bag.require(topic, ("std_msgs/msg/String",), "plan_info")
    return dict(found for _, message in bag.messages([topic]) if (found := messages.recorded_budget(message)))


def record(observation: Observation, plan: Plan) -> dict[str, Any]:
    """One line of plans.jsonl. Floats keep every digit: equal lines are equal plans."""
    return {
        "t0_ns": plan.t0_ns,
        "image_stamps_ns": {camera: [image.stamp_ns for image in images] for camera, images in observation.images.items()},
        "image_ages_s": {camera: list(ages) for camera, ages in observation.image_ages_s.items()},
        "skew_s": observation.skew_s,
        "command": observation.command.value,
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


def overview(summary: dict[str, Any], out: Path) -> str:
    """What a person wants to see first."""
    lines = [f"{summary['plans']} plans from {summary['images']} images, {summary['plans_with_reasoning']} with reasoning"]
    if summary["skipped"]:
        lines.append("skipped: " + ", ".join(f"{count} {code}" for code, count in summary["skipped"].items()))
    for horizon, entry in summary["ade_m"].items():
        text = "beyond the recording"
        if entry is not None:
            text = f"model {entry['model']:.2f} m, constant velocity {entry['constant_velocity']:.2f} m, n = {entry['n']}"
        lines.append(f"ADE at {horizon} s: {text}")
    latency = summary["plan_latency_ms"]
    lines.append(f"plan latency: p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms, p99 {latency['p99']:.0f} ms")
    return "\n".join([*lines, f"results in {out}: summary.json, plans.jsonl, {', '.join(summary['pictures'])}"])


def draw(bag: Bag, topic: str, plans: Sequence[Plan], stamps: np.ndarray, poses: np.ndarray, out: Path) -> list[str]:
    """overlay.mp4 (where this OpenCV can write one) and strip.png; returns the names of the files."""
    wanted = {plans[i].t0_ns for i in np.linspace(0, len(plans) - 1, min(STRIP_PICTURES, len(plans))).round().astype(int)}
    interval_s = float(np.median(np.diff([plan.t0_ns for plan in plans]))) / 1e9 if len(plans) > 1 else 0.1
    strip, video = [], None
    for plan, picture in pictures_of(bag, topic, plans, stamps, poses):
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if video is None:
            size = bgr.shape[1], bgr.shape[0]
            video = cv2.VideoWriter(str(out / "overlay.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 1 / max(interval_s, 1e-2), size)
        if video.isOpened():
            video.write(bgr)
        if plan.t0_ns in wanted:
            strip.append(bgr)
    cv2.imwrite(str(out / "strip.png"), np.concatenate(strip))
    written = video is not None and video.isOpened()
    if video is not None:
        video.release()
    if not written:
        (out / "overlay.mp4").unlink(missing_ok=True)
    return ["overlay.mp4", "strip.png"] if written else ["strip.png"]


def pictures_of(bag: Bag, topic: str, plans: Sequence[Plan], stamps: np.ndarray, poses: np.ndarray) -> Iterator[tuple[Plan, np.ndarray]]:
    """Every plan with its drawn picture (H, W, 3), all of one size; reads the bag a second time instead of keeping pictures."""
    from spanvla_ros.evaluation import overlay
    from spanvla_ros.evaluation.openloop import recorded_future
    from spanvla_ros.planning import messages
    from spanvla_ros.planning.images import decode_jpeg

    by_stamp = {plan.t0_ns: plan for plan in plans}
    camera, rows = None, 0
    for _, message in bag.messages([topic]):
        plan = by_stamp.pop(messages.stamp_ns(message.header.stamp), None)
        if plan is None:
            continue
        payload = messages.image(message)
        rgb = decode_jpeg(payload) if isinstance(payload, bytes) else payload
        if camera is None or camera.size != rgb.shape[:2]:
            camera = calibration(bag, topic, rgb.shape[:2], message.header.frame_id)
        future = recorded_future(plan, stamps, poses)
        rgb = overlay.draw_plan(rgb, camera, plan.waypoints_base)
        rgb = overlay.draw_line(rgb, camera, np.concatenate([np.zeros((1, 3)), future[np.isfinite(future).all(1)]]))
        scaled = cv2.resize(rgb, (PICTURE_WIDTH_PX, round(rgb.shape[0] * PICTURE_WIDTH_PX / rgb.shape[1] / 2) * 2), interpolation=cv2.INTER_AREA)
        # room for three lines of reasoning, so that every picture of the video has one size
        drawn = overlay.caption(scaled, [f"t0 {plan.t0_ns / 1e9:.1f} s   {plan.speed_mps:.1f} m/s", plan.reasoning], min_lines=4)
        rows = rows or drawn.shape[0]
        yield plan, drawn[:rows] if drawn.shape[0] >= rows else np.pad(drawn, ((0, rows - drawn.shape[0]), (0, 0), (0, 0)))


def calibration(bag: Bag, topic: str, size: tuple[int, int], optical_frame: str) -> Camera:
    """The camera by CameraInfo and /tf_static; what the bag lacks is filled with the demo rig's mounting."""
    from spanvla_ros.evaluation.overlay import Camera

    level = Camera.level(size)
    info = bag.camera_info(topic)
    matrix = level.matrix
    if info is not None and info.k[0] > 0 and (info.height, info.width) == size:
        matrix = np.array(info.k, np.float64).reshape(3, 3)
    pose = bag.static_transform("base_link", optical_frame)
    return Camera(matrix=matrix, base_from_optical=level.base_from_optical if pose is None else pose, size=size)
