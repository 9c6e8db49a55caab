"""Which model plans: the flow of an engine, or what the VLM of a run speaks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spanvla_ros.planning.planner import Planner


def add_arguments(parser: argparse.ArgumentParser, what: str, *, required: bool) -> None:
    """--engine DIR or --spoken RUN. what: what the model does."""
    model = parser.add_mutually_exclusive_group(required=required)
    model.add_argument("--engine", type=Path, metavar="DIR", help=f"engine folder that {what}")
    model.add_argument("--spoken", metavar="RUN", help="training run or model folder whose VLM does so in action tokens, without the expert")


def loader(args: argparse.Namespace) -> Callable[[], Planner] | None:
    """Opens that model in whatever process calls it, on one thread; None where none was named. A broken one is an error here, not a pool
    of processes that die."""
    load = partial(_engine, args.engine) if args.engine else partial(_spoken, args.spoken) if args.spoken else None
    if load is not None:
        load().close()
    return load


def _engine(folder: Path) -> Planner:
    from spanvla_ros.engine.load import load_planner

    return load_planner(folder, threads=1)


def _spoken(run: str) -> Planner:
    from spanvla_ros.training.rollouts import speaker

    return speaker(run)
