"""`spanvla data score`: what the labelled futures of samples are worth, or the plans that a model makes for them."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from spanvla_ros.cli import _models
from spanvla_ros.contracts import DataError

EXAMPLE = """examples:
  spanvla data score samples --out scores.json
  spanvla data score samples --split test --engine engines/demo
  spanvla data score samples --split test --spoken rft-seed0

EPDMS is unfiltered and without EC. With a model there are also the tokens of its reasoning, and the same figures for simple and for complex
scenes: those whose labelled text thinks fast, and slow."""
SCORES = ("pdms", "epdms", "nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "comfort")


def add_parser(command: Callable[[str, str, str], argparse.ArgumentParser], positive: Callable[[str], int], splits: Sequence[str]) -> None:
    score = command("score", "PDMS and EPDMS of the labelled futures, or of the plans of a model", EXAMPLE)
    score.add_argument("folder", type=Path)
    score.add_argument("--split", choices=splits, help="only these samples")
    _models.add_arguments(score, "plans for the samples, with all of its text", required=False)
    score.add_argument("--out", type=Path, help="JSON to write, with every sample's sub-scores and what they failed at")
    score.add_argument("--workers", type=positive, default=2, help="processes (%(default)s)")


def score(args: argparse.Namespace, *, progress: Callable[[str, int, int], None], write: Callable[[Path, bytes], None]) -> int:
    from spanvla_ros.data import scoring, statistics
    from spanvla_ros.data.shards import Dataset

    load = _models.loader(args)
    verdicts, began, total = [], time.monotonic(), len(Dataset(args.folder, args.split))
    for verdict in scoring.score_all(args.folder, args.workers, args.split, load):
        verdicts.append(verdict)
        if len(verdicts) % 25 == 0:
            left = (total - len(verdicts)) * (time.monotonic() - began) / len(verdicts)
            progress(f"{len(verdicts)}/{total} samples, {left / 60:.0f} min left", len(verdicts) // 25, -(-total // 25))
    if not verdicts:
        raise DataError(f"no drive of {args.folder} has a map and a route, which the PDM score needs")
    found = statistics.summary(verdicts)
    if args.out:
        rows = [{"id": v.id, "label": v.label, "mode": v.mode, "lapse": v.lapse, **v.values, "failures": v.failures} for v in verdicts]
        write(args.out, json.dumps({**found, "all": rows}, indent=1).encode())
    names = ("n", *SCORES, *(("tokens",) if load else ()))
    print("      " + " ".join(f"{name:>7}" for name in names))
    for kind in ("labels", "modes") if load else ("labels",):
        for label, means in found[kind].items():
            row = (f"{means.get(name, math.nan):>7.3f}" if name != "n" else f"{means[name]:>7}" for name in names)
            print(f"{label:<5} " + " ".join(row))
    if found["pos minus neg"] and not load:
        print(f"pos minus neg: PDMS {found['pos minus neg']['pdms']:.3f}, EPDMS {found['pos minus neg']['epdms']:.3f} (unfiltered, without EC)")
    missing = sum("plan" in v.failures for v in verdicts)
    if missing:
        print(f"no plan, counted as 0: {missing} of {len(verdicts)} samples")
    return 0
