"""Plan for a split of NAVSIM: a submission file, and PDM scores where the maps are there."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import ConfigError, DataError

EXAMPLE = """example:
  spanvla navsim --engine engines/mine --logs navsim_logs/test --sensors sensor_blobs/test --filter scene_filter/navtest.yaml \\
      --maps maps --about team_name=us --out submission.pkl

The file is for run_pdm_score_from_submission.py of the devkit and for the leaderboard. docs/navsim.md tells where things lie."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla navsim`."""
    parser = subparsers.add_parser("navsim", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="engine folder")
    parser.add_argument("--logs", required=True, type=Path, help="folder of pickled logs, navsim_logs/<split>")
    parser.add_argument("--sensors", required=True, type=Path, help="folder that the pictures' paths start from, sensor_blobs/<split>")
    parser.add_argument("--filter", required=True, type=Path, metavar="YAML", help="scene filter of the devkit, e.g. navtest.yaml")
    parser.add_argument("--maps", type=Path, help="folder of nuplan-maps-v1.0.json: also score, as far as the logs are annotated")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME=CAMERA", help="another camera, e.g. front_left=CAM_L1; repeatable")
    parser.add_argument("--about", action="append", default=[], metavar="KEY=VALUE", help="what the leaderboard asks: team_name, authors, email, ...")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="pickle to write")


def run(args: argparse.Namespace) -> int:
    from spanvla_ros.data.navsim import submission
    from spanvla_ros.data.navsim.observation import parse_cameras
    from spanvla_ros.data.navsim.samples import Source
    from spanvla_ros.data.navsim.splits import read_filter
    from spanvla_ros.engine.load import load_planner
    from spanvla_ros.evaluation.results import write

    about = dict(text.partition("=")[::2] for text in args.about)
    unknown = sorted(set(about) - set(submission.FIELDS))
    if unknown:
        raise ConfigError(f"--about has unknown keys {unknown}; known are {', '.join(submission.FIELDS)}")
    source = Source(logs=args.logs, sensors=args.sensors, maps=args.maps, chosen=read_filter(args.filter), cameras=parse_cameras(args.camera))
    planner = load_planner(args.engine)
    plans, scores = {}, []
    try:
        for done, total, answers in submission.answers(source, planner, score=args.maps is not None):
            plans |= {answer.token: answer.poses for answer in answers}
            scores += [answer.scores for answer in answers if answer.scores]
            print(f"{done}/{total} logs, {len(plans)} plans" + _means(scores), flush=True)
    finally:
        planner.close()
    if not plans:
        raise DataError(f"no log in {args.logs} holds a scene of {args.filter}")
    try:
        write(args.out, submission.encode(plans, about))
    except OSError as error:
        raise DataError(f"{args.out} can't be written: {error.strerror or error}") from None
    print(f"{len(plans)} plans: {args.out}")
    return 0


def _means(scores: list) -> str:
    if not scores:
        return ""
    means = {name: float(np.mean([row[name] for row in scores])) for name in scores[0]}
    return f", PDMS {means['pdms']:.4f}, EPDMS {means['epdms']:.4f} (unfiltered, log replay, without EC)"
