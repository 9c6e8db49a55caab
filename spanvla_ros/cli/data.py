"""`spanvla data`: make, check, look at and score training samples."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

from spanvla_ros.cli import _annotation, _drives, _models, _sample_scores
from spanvla_ros.contracts import ConfigError, DataError, SpanVLAError

SPLITS = ("train", "validation", "test")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("data", help="make, check, look at and score training samples", description=__doc__)
    commands = parser.add_subparsers(dest="data_command", required=True)

    sim = _command(
        commands,
        "sim",
        "drive scenarios in the simulator and write samples",
        "example: spanvla data sim --families all --seeds 0:40 --out samples\n\nEven seeds are driven by the expert, odd ones with a lapse: "
        "before it pos, in it neg, after the take-over rec.",
    )
    dagger = _command(
        commands,
        "dagger",
        "let a model drive in the simulator; the expert's plans for where it gets are the labels",
        "example: spanvla data dagger --engine engines/demo --families all --seeds 1:5000:100 --cameras front --out samples",
    )
    sim.add_argument("--unsteady", action="store_true", help="the expert drifts off now and then; its plans for where it gets are the labels")
    _models.add_arguments(dagger, "drives", required=True)
    text = "half-open range A:B or A:B:STEP; 0-4999 are for training, 5000-5999 for validation, those above for tests: no training reads them"
    for command in (sim, dagger):
        command.add_argument("--families", default="all", help="comma-separated scenario families, or 'all' (%(default)s)")
        command.add_argument("--seeds", required=True, help=text)
        command.add_argument("--out", required=True, type=Path, help="folder of the data set; drives that are there already are skipped")
        command.add_argument("--cameras", default="front,front_left,front_right", help="comma-separated, whose pictures are stored (%(default)s)")
        command.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between samples that are to be imitated (%(default)s)")
        command.add_argument("--workers", type=_positive, default=2, help="processes (%(default)s)")

    text = "samples from logs of NAVSIM / OpenScene (docs/navsim.md)"
    navsim = _command(
        commands,
        "navsim",
        text,
        "example: spanvla data navsim --logs navsim_logs/trainval --sensors sensor_blobs/trainval --maps maps "
        "--filter scene_filter/navtrain.yaml --out data/navtrain\n\nWhat comes from a test split is marked so, and training refuses it.",
    )
    navsim.add_argument("--logs", required=True, type=Path, help="folder of pickled logs, navsim_logs/<split>")
    navsim.add_argument("--sensors", required=True, type=Path, help="folder that the pictures' paths start from, sensor_blobs/<split>")
    navsim.add_argument("--maps", required=True, type=Path, help="folder of nuplan-maps-v1.0.json")
    text = "scene filter of the devkit, e.g. navtrain.yaml (default: every scene, without overlap)"
    navsim.add_argument("--filter", type=Path, metavar="YAML", help=text)
    navsim.add_argument("--camera", action="append", default=[], metavar="NAME=CAMERA", help="another camera, e.g. front_left=CAM_L1; repeatable")
    navsim.add_argument("--out", required=True, type=Path, help="folder of the data set; stretches that are there already are skipped")
    text = "only the I-th of N parts of the logs, one per machine (1/1)"
    navsim.add_argument("--shard", type=_annotation.part, default=(1, 1), metavar="I/N", help=text)
    navsim.add_argument("--workers", type=_positive, default=2, help="processes (%(default)s)")

    check = _command(commands, "check", "check a data set: schema, pictures, motion, splits, shares", "example: spanvla data check samples")
    check.add_argument("folder", type=Path)
    check.add_argument("--workers", type=_positive, default=2, help="processes (%(default)s)")

    text = "contact sheet: cameras with the future drawn in, map, decision and text"
    view = _command(commands, "view", text, "example: spanvla data view samples --out sheet.png")
    view.add_argument("folder", type=Path)
    view.add_argument("--out", required=True, type=Path, help="PNG to write")
    view.add_argument("--count", type=_positive, default=18, help="samples (%(default)s), of all labels and as many families as fit")

    stats = _command(commands, "stats", "what is in a data set, as JSON and plots", "example: spanvla data stats samples --out stats")
    stats.add_argument("folder", type=Path)
    stats.add_argument("--out", required=True, type=Path, help="folder for statistics.json and statistics.png")

    _annotation.add_parsers(partial(_command, commands), _positive)
    _drives.add_parsers(partial(_command, commands), _positive)
    _sample_scores.add_parser(partial(_command, commands), _positive, SPLITS)


def _command(commands, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive number, is '{text}'")
    return int(text)


def run(args: argparse.Namespace) -> int:
    known = {"sim": _sim, "dagger": _sim, "navsim": _navsim, "check": _check, "view": _view, "stats": _stats}
    reasons = {
        "annotate": partial(_annotation.annotate, progress=_progress),
        "review": _annotation.review,
        "agreement": partial(_annotation.agreement, write=_write),
    }
    scores = {"score": partial(_sample_scores.score, progress=_progress, write=_write)}
    drives = {"bag": partial(_drives.bag, progress=_progress), "mine": _drives.mine, "merge": _drives.merge, "split": _drives.split}
    return {**known, **reasons, **drives, **scores}[args.data_command](args)


def _sim(args: argparse.Namespace) -> int:
    from spanvla_ros.data import card
    from spanvla_ros.data.collect import Recipe, collect
    from spanvla_ros.sim.scenarios import scenario as scenarios

    families, seeds = scenarios.parse_families(args.families), scenarios.parse_seeds(args.seeds)
    if min(seeds) < 0:
        raise ConfigError(f"--seeds {args.seeds}: a seed must not be negative")
    if args.data_command == "dagger" and scenarios.split(max(seeds)) == "test":
        raise ConfigError(f"--seeds {args.seeds}: what a model is corrected by comes from seeds 0-4999 (training) and 5000-5999 (validation)")
    driver = {"load": _models.loader(args)} if args.data_command == "dagger" else {"unsteady": args.unsteady}
    recipe = Recipe(**driver, cameras=tuple(args.cameras.split(",")), every_s=args.every)
    total, done, samples, errors, start = len(seeds) * len(families), 0, 0, 0, time.monotonic()
    fresh = 0
    for drive, count, error in collect(families, seeds, args.out, args.workers, recipe):
        done, samples, errors, fresh = done + 1, samples + count, errors + (error is not None), fresh + (count > 0)
        if error:
            print(f"\r{drive}: {error}", file=sys.stderr)
        # drives that were there already cost nothing and say nothing about the rest
        left = (total - done) * (time.monotonic() - start) / max(fresh, 1)
        _progress(f"{done}/{total} drives, {samples} new samples, {errors} failed, {left / 60:.0f} min left", done, total)
    if errors > 0.05 * total:
        raise DataError(f"{errors} of {total} drives failed; the first lines above say why")
    card.write(args.out)
    return 0


def _navsim(args: argparse.Namespace) -> int:
    from collections import Counter

    from spanvla_ros.data import card
    from spanvla_ros.data.navsim import samples
    from spanvla_ros.data.navsim.observation import parse_cameras
    from spanvla_ros.data.navsim.splits import SceneFilter, read_filter

    chosen = read_filter(args.filter) if args.filter else SceneFilter(name=args.logs.name)
    source = samples.Source(logs=args.logs, sensors=args.sensors, maps=args.maps, chosen=chosen, cameras=parse_cameras(args.camera))
    part = args.shard[0] - 1, args.shard[1]
    total, done, written, skipped, errors, start = len(source.files()[part[0] :: part[1]]), 0, 0, Counter(), 0, time.monotonic()
    for outcome in samples.convert(source, args.out, args.workers, part):
        done, written, errors = done + 1, written + outcome.samples, errors + (outcome.error is not None)
        skipped.update(outcome.skipped)
        if outcome.error:
            print(f"\r{outcome.error}", file=sys.stderr)
        left = (total - done) * (time.monotonic() - start) / done
        _progress(f"{done}/{total} logs, {written} new samples, {skipped.total()} left out, {errors} failed, {left / 60:.0f} min left", done, total)
    for reason, count in skipped.most_common(20):
        print(f"{count} scenes left out: {reason}", file=sys.stderr)
    if written:
        card.write(args.out, "drive")  # the towns are the same in all splits
    if errors:
        raise DataError(f"{errors} of {total} logs failed; the lines above say why, the others are complete")
    if not written and skipped:
        raise DataError(f"none of {skipped.total()} scenes could be used; the lines above say why")
    return 0


def _progress(text: str, done: int, total: int) -> None:
    """A line that overwrites itself on a terminal, every tenth line elsewhere."""
    if sys.stdout.isatty():
        bar = "#" * (24 * done // total)
        print(f"\r[{bar:<24}] {text}\033[K", end="\n" if done == total else "", flush=True)
    elif done % 10 == 0 or done == total:
        print(text, flush=True)


def _check(args: argparse.Namespace) -> int:
    from spanvla_ros.data.check import check

    found = check(args.folder, args.workers)
    for line in found.errors[:20]:
        print(line, file=sys.stderr)
    if len(found.errors) > 20:
        print(f"and {len(found.errors) - 20} more", file=sys.stderr)
    shares = ", ".join(f"{label} {share:.1%}" for label, share in found.shares.items())
    print(f"{found.samples} samples, {len(found.errors)} errors; {shares}")
    return 1 if found.errors else 0


def _view(args: argparse.Namespace) -> int:
    import cv2

    from spanvla_ros.data import sheet
    from spanvla_ros.data.shards import Dataset

    dataset = Dataset(args.folder)
    picture = sheet.sheet(dataset, sheet.choose(dataset, args.count))
    _write(args.out, cv2.imencode(".png", picture)[1].tobytes())
    print(f"{min(args.count, len(dataset))} samples: {args.out}")
    return 0


def _stats(args: argparse.Namespace) -> int:
    from spanvla_ros.data import statistics
    from spanvla_ros.data.shards import Dataset
    from spanvla_ros.evaluation import panels

    found = statistics.statistics(Dataset(args.folder))
    args.out.mkdir(parents=True, exist_ok=True)
    panels.draw(statistics.panels(found), args.out / "statistics.png")
    _write(args.out / "statistics.json", json.dumps(found, indent=1).encode())
    for label, share in found["shares"].items():
        print(f"{label}: {found['counts']['label'].get(label, 0)} samples, {share:.1%}")
    print(f"{found['samples']} samples, {found['texts']['different']} different texts: {args.out / 'statistics.png'}")
    return 0


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise SpanVLAError(f"{path} can't be written: {error.strerror}") from None
