"""The sub-commands of `spanvla data` that make samples of recorded drives, mine them, and put data sets together or apart."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from spanvla_ros.cli._annotation import part
from spanvla_ros.contracts import DataError


def add_parsers(command: Callable[..., argparse.ArgumentParser], positive: Callable[[str], int]) -> None:
    """Options of bag, mine, merge and split. command: makes a sub-command; positive: reads a number above 0."""
    bag = command(
        "bag",
        "samples from recorded drives (ROS 2 bags)",
        "example: spanvla data bag drives/* --topics config/topics/drive.yaml --cameras front --out recorded\n\nA bag is a drive; drives that are "
        "there already are skipped. Decision and text are by rules from what was driven next, until somebody annotates them.",
    )
    bag.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="bag folder, .mcap or .db3")
    bag.add_argument("--topics", required=True, type=Path, help="names of the topics, as config/topics/drive.yaml")
    bag.add_argument("--out", required=True, type=Path, help="folder of the data set")
    bag.add_argument("--cameras", help="comma-separated, some of those in the topics file; the first one says when a sample is taken")
    bag.add_argument("--rig", type=Path, help="cameras from a file like config/rigs/minisim.yaml instead of CameraInfo and /tf_static")
    bag.add_argument("--map", type=Path, help="map document whose frame is that of the odometry, for more scenario tags")
    bag.add_argument("--site", default="unmapped", help="name of the place where there is no map (%(default)s)")
    bag.add_argument("--split", choices=("train", "validation", "test"), default="train", help="of these drives (%(default)s)")
    bag.add_argument("--licence", default="", help="under which the recordings may be used; written into every sample")
    bag.add_argument("--every", type=float, default=0.5, metavar="S", help="seconds between samples, a multiple of 0.5 (%(default)s)")
    bag.add_argument("--future", type=float, default=5.0, metavar="S", help="seconds of driven future that a sample needs (%(default)s)")
    bag.add_argument("--standstill", type=float, default=10.0, metavar="S", help="seconds between samples while nothing moves (%(default)s)")
    bag.add_argument("--blur", type=float, default=0.25, help="frames below this share of a camera's usual sharpness are left out (%(default)s)")
    bag.add_argument("--shard", type=part, default=(1, 1), metavar="I/N", help="only the I-th of N parts of the bags, one per machine (1/1)")
    bag.add_argument("--workers", type=positive, default=2, help="processes (%(default)s)")

    mine = command(
        "mine",
        "negatives and recoveries from take-overs, or from an engine's plans",
        "example: spanvla data mine recorded --out mined\nexample: spanvla data mine recorded --engine engines/demo --out harder\n\n"
        "OUT is a whole data set: every pair, and what may still be imitated.",
    )
    mine.add_argument("folder", type=Path)
    mine.add_argument("--out", required=True, type=Path, help="folder of the new data set")
    mine.add_argument("--before", type=float, default=3.0, metavar="S", help="a negative begins so long before the take-over (%(default)s)")
    mine.add_argument("--after", type=float, default=0.5, metavar="S", help="a recovery begins so long after the take-over (%(default)s)")
    mine.add_argument(
        "--correction", type=float, default=1.0, metavar="M", help="taking over without bringing the car so far from its way is routine (%(default)s)"
    )
    mine.add_argument("--engine", type=Path, help="let this engine plan for every sample and keep what goes wrong, instead of take-overs")
    mine.add_argument("--worse", type=float, default=2.0, metavar="M", help="mean distance from what was driven that is wrong where there is no map")
    mine.add_argument("--shard", type=part, default=(1, 1), metavar="I/N", help="only the I-th of N parts of the drives, one per machine (1/1)")

    merge = command("merge", "put data sets together", "example: spanvla data merge simulated mined --out all")
    merge.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    merge.add_argument("--out", required=True, type=Path, help="folder of the new data set")

    text = "divide a data set anew into training, validation and test"
    split = command("split", text, "example: spanvla data split recorded --by drive --validation 0.1 --out divided")
    split.add_argument("folder", type=Path)
    split.add_argument("--out", required=True, type=Path, help="folder of the new data set")
    split.add_argument("--by", required=True, choices=("map", "seed", "drive"), help="what never lies in two splits")
    split.add_argument("--validation", type=float, default=0.1, metavar="SHARE", help="of the samples, at least (%(default)s)")
    split.add_argument("--test", type=float, default=0.0, metavar="SHARE", help="of the samples, at least (%(default)s)")
    split.add_argument("--seed", type=int, default=0, help="another one divides otherwise (%(default)s)")


def bag(args: argparse.Namespace, progress: Callable[[str, int, int], None]) -> int:
    """`spanvla data bag`."""
    from spanvla_ros.data import card, ingest, topics
    from spanvla_ros.data.shards import FOLDER

    names = topics.load(args.topics)
    recipe = ingest.IngestRecipe(
        topics=names.only(args.cameras.split(",")) if args.cameras else names,
        rig=args.rig,
        every_s=args.every,
        future_s=args.future,
        standstill_s=args.standstill,
        blur=args.blur,
        split=args.split,
        licence=args.licence,
        site=args.site,
        chart=_document(args.map) if args.map else None,
    )
    bags = sorted(args.bags)[args.shard[0] - 1 :: args.shard[1]]
    samples, takeovers, failed, skipped, start = 0, 0, 0, Counter(), time.monotonic()
    for done, report in enumerate(ingest.ingest_all(bags, args.out, recipe, min(args.workers, max(len(bags), 1))), 1):
        samples, takeovers, failed = samples + report.samples, takeovers + report.takeovers, failed + bool(report.error)
        skipped.update(report.skipped)
        if report.error:
            print(f"{report.bag}: {report.error}", file=sys.stderr)
        left = (len(bags) - done) * (time.monotonic() - start) / done
        progress(f"{done}/{len(bags)} bags, {samples} new samples, {failed} failed, {left / 60:.0f} min left", done, len(bags))
    if skipped:
        print("left out: " + ", ".join(f"{count} {code}" for code, count in skipped.most_common()))
    if (args.out / FOLDER).exists() and any((args.out / FOLDER).glob("*.jsonl")):
        card.write(args.out, "drive")
    if takeovers:
        print(f"{takeovers} take-overs: make pairs of them with `spanvla data mine {args.out} --out ...` before anything is trained on these drives")
    return 1 if failed else 0


def mine(args: argparse.Namespace) -> int:
    """`spanvla data mine`."""
    from spanvla_ros.data import card

    pairs = _mine_plans(args) if args.engine else _mine_takeovers(args)
    card.write(args.out, card.split_by(args.folder))
    print(f"{pairs} pairs of negative and recovery: {args.out}")
    return 0


def _mine_takeovers(args: argparse.Namespace) -> int:
    from spanvla_ros.data import mining

    window = mining.Window(before_s=args.before, after_s=args.after, correction_m=args.correction)
    reasons: Counter[str] = Counter()
    for found in mining.mine(args.folder, args.out, window, args.shard):
        reasons.update(event.reason or "PAIR" for event in found)
    print(f"{reasons.total()} take-overs: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    return reasons["PAIR"]


def _mine_plans(args: argparse.Namespace) -> int:
    from spanvla_ros.data import critique
    from spanvla_ros.engine.load import load_planner

    planner, plans, bad, start = load_planner(args.engine), 0, 0, time.monotonic()
    try:
        for done, found in enumerate(critique.mine(args.folder, args.out, planner, args.worse, args.shard), 1):
            plans, bad = plans + len(found), bad + sum(bool(one.fault) for one in found)
            if done % 10 == 0:
                print(f"{done} drives, {plans} plans, {bad} wrong, {plans / (time.monotonic() - start):.1f} plans per second", flush=True)
    finally:
        planner.close()
    print(f"{plans} plans, {bad} wrong")
    return bad


def merge(args: argparse.Namespace) -> int:
    """`spanvla data merge`."""
    from spanvla_ros.data import merge as merging

    made = merging.merge(args.folders, args.out)
    print(f"{made['samples']} samples of {made['drives']} drives: {args.out}")
    return 0


def split(args: argparse.Namespace) -> int:
    """`spanvla data split`."""
    from spanvla_ros.data import merge as merging

    made = merging.split(args.folder, args.out, args.by, {"validation": args.validation, "test": args.test}, args.seed)
    print(f"{made['samples']} samples by {args.by}: " + ", ".join(f"{count} {name}" for name, count in made["counts"]["split"].items()))
    return 0


def _document(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"map {path} can't be read: {error}") from None
