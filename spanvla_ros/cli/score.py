"""Scores plans as NAVSIM does (PDMS, EPDMS), explains failures, checks fixtures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spanvla_ros.contracts import DataError

if TYPE_CHECKING:
    from spanvla_ros.evaluation.pdm.comparison import Comparison

EXAMPLE = """examples:
  spanvla score fixtures FIXTURES --json out.json
  spanvla score scene FIXTURES/scenes/NAME.json --plan plan.json --explain out.png

PLAN is JSON or .npy: poses (8, 3) or (K, 8, 3) of x, y, heading in the ego frame at 0.5 .. 4.0 s
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `spanvla score`."""
    parser = subparsers.add_parser("score", help=__doc__, description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    shown = {"epilog": EXAMPLE, "formatter_class": argparse.RawDescriptionHelpFormatter}
    fixtures = kinds.add_parser("fixtures", help="compare with the golden results of a folder of fixtures; exit code 1 on any mismatch", **shown)
    fixtures.add_argument("folder", type=Path, metavar="DIR")
    fixtures.add_argument("--json", type=Path, metavar="F", help="write the counts per metric to F")
    scene = kinds.add_parser("scene", help="score plans in one scene and say why they fail", **shown)
    scene.add_argument("scene", type=Path, metavar="FILE", help="scenes/NAME.json of a fixture folder")
    scene.add_argument("--plan", type=Path, required=True, metavar="FILE", help="plans as JSON or .npy; or the scene file itself, for its proposals")
    scene.add_argument("--index", type=int, default=0, help="which plan of the file to draw (default: %(default)s)")
    scene.add_argument("--version", choices=("v1", "v2"), default="v2", help="PDMS or EPDMS (default: %(default)s)")
    scene.add_argument("--previous", type=Path, nargs=2, metavar=("FILE", "PLAN"), help="scene and plans 0.5 s earlier, for extended comfort (v2)")
    scene.add_argument("--explain", type=Path, metavar="PNG", help="draw the scene, the plan and its failures")


def run(args: argparse.Namespace) -> int:
    """Score; prints a table."""
    return _fixtures(args) if args.kind == "fixtures" else _scene(args)


def _fixtures(args: argparse.Namespace) -> int:
    from spanvla_ros.evaluation.pdm.comparison import compare

    result = None
    for result in compare(args.folder):
        pass
    if result is None:
        raise DataError(f"{args.folder} holds no fixtures")
    width = max(map(len, result.metrics))
    print(f"{'metric':{width}}  compared  mismatches  largest difference")
    for name, tally in result.metrics.items():
        print(f"{name:{width}}  {tally.compared:8}  {tally.mismatches:10}  {tally.largest:.3g}")
    for name, tally in result.metrics.items():
        for example in tally.examples:
            print(f"mismatch in {name}: {example}")
    print(
        f"scenes {result.scenes}, proposals {result.proposals}, two-stage groups {result.groups}, "
        f"values compared {result.compared}, mismatches {result.mismatches}"
    )
    if args.json:
        args.json.write_text(json.dumps(_document(result), indent=1) + "\n", encoding="utf-8")
    return 1 if result.mismatches else 0


def _document(result: Comparison) -> dict[str, Any]:
    return {
        "scenes": result.scenes,
        "proposals": result.proposals,
        "groups": result.groups,
        "compared": result.compared,
        "mismatches": result.mismatches,
        "metrics": {name: {"compared": t.compared, "mismatches": t.mismatches, "largest": t.largest} for name, t in result.metrics.items()},
    }


def _scene(args: argparse.Namespace) -> int:
    from spanvla_ros.evaluation.pdm.comfort import extended_comfort
    from spanvla_ros.evaluation.pdm.fixtures import read_scene
    from spanvla_ros.evaluation.pdm.scorer import score, with_extended
    from spanvla_ros.evaluation.pdm.simulator import interpolate, simulate

    scene = read_scene(args.scene)
    plans = _plans(args.plan)
    scores = score(scene, plans, args.version)
    if args.previous:
        if args.version != "v2":
            raise DataError("--previous is for extended comfort, which --version v1 doesn't have")
        before = read_scene(args.previous[0])
        drives = simulate(before.ego, interpolate(before, _plans(args.previous[1])))
        scores = with_extended(scores, extended_comfort(scores.states, drives, (scene.start_us - before.start_us) * 1e-6))
    if not 0 <= args.index < len(plans):
        raise DataError(f"--index is {args.index}, {args.plan} holds {len(plans)} plans")
    for plan, total in enumerate(scores.total):
        values = "  ".join(f"{name} {value[plan]:.3g}" for name, value in scores.values.items())
        print(f"plan {plan}: {'EPDMS' if args.version == 'v2' else 'PDMS'} {total:.4f}  {values}")
        for name, failures in scores.failures.items():
            if failures[plan] is not None:
                print(f"  {name}: step {failures[plan].step} ({failures[plan].step * 0.1:.1f} s), {failures[plan].cause}: {failures[plan].reason}")
    if args.explain:
        from spanvla_ros.evaluation.pdm.explain import draw

        draw(scene, scores, args.index, args.explain)
        print(f"written: {args.explain}")
    return 0


def _plans(path: Path) -> np.ndarray:
    """(K, 8, 3) from JSON (a list, or an object with "proposals" or "plan") or .npy; the scorer checks the shape."""
    try:
        if path.suffix == ".npy":
            plans = np.load(path)
        else:
            document = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(document, dict):
                document = document.get("proposals", document.get("plan"))
            plans = np.array(document, dtype=float)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no plans: {error}") from error
    return plans[None] if plans.ndim == 2 else plans
