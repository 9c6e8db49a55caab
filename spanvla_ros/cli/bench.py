"""Measures how fast parts of the stack are on this machine."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

EXAMPLE = """example:
  spanvla bench score --json score.json
"""
GROUPS = (1, 16, 64)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla bench`."""
    parser = subparsers.add_parser("bench", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    about = "PDM score: trajectories per second and core, for groups of 1, 16 and 64"
    score = kinds.add_parser("score", help=about, description=about, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    score.add_argument("--scene", type=Path, metavar="FILE", help="scenes/NAME.json of a fixture folder (default: a made-up crossroads)")
    score.add_argument("--seconds", type=float, default=2.0, help="time per group and version (default: %(default)s)")
    score.add_argument("--json", type=Path, metavar="F", help="write the figures to F")


def run(args: argparse.Namespace) -> int:
    """Measure; prints a table."""
    from spanvla_ros.evaluation.pdm.fixtures import read_scene
    from spanvla_ros.evaluation.pdm.made_up import crossroads, plans
    from spanvla_ros.evaluation.pdm.scorer import score

    scene = read_scene(args.scene) if args.scene else crossroads()
    figures = []
    for version in ("v1", "v2"):
        single_ms = 0.0
        for group in GROUPS:
            batch = plans(group, speed_mps=float(scene.ego[3]))
            score(scene, batch, version)  # prepares geometry and reference, once per scene
            spans, cpu = [], time.process_time()
            while sum(spans) < args.seconds:
                begun = time.perf_counter()
                score(scene, batch, version)
                spans.append(time.perf_counter() - begun)
            cpu = time.process_time() - cpu
            call_ms = 1e3 * float(np.median(spans))
            single_ms = single_ms or call_ms
            rate = group * len(spans) / cpu
            times = call_ms / single_ms
            figures.append({"version": version, "group": group, "call_ms": call_ms, "per_second_and_core": rate, "times_group_of_1": times})
            print(f"{version}  group {group:2}  {call_ms:7.2f} ms per call  {rate:6.0f} trajectories/s and core  {times:5.2f} x a group of 1")
    if args.json:
        args.json.write_text(json.dumps({"scene": scene.name, "figures": figures}, indent=1) + "\n", encoding="utf-8")
    return 0
