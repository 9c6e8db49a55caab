"""`spanvla data annotate | review | agreement`: reasons for samples, from rules or a model, seen and mended by people."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from spanvla_ros.contracts import ConfigError, DataError

_CACHE = "replies"


def add_parsers(command: Callable[..., argparse.ArgumentParser], positive: Callable[[str], int]) -> None:
    """command(name, text, epilog) makes the parser of one sub-command."""
    annotate = command(
        "annotate",
        "give samples components, decision and reason: a copy of a data set with new annotations",
        "examples:\n  spanvla data annotate samples --out annotated --backend rules\n"
        "  OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_MODEL=Qwen/Qwen2.5-VL-72B-Instruct \\\n"
        "    spanvla data annotate samples --out annotated --backend endpoint --rate 60 --price 0.8,2.4 --count 20\n\n"
        "The key, where one is needed, is read from OPENAI_API_KEY. The same command again goes on where it stopped.",
    )
    annotate.add_argument("folder", type=Path, help="data set; it stays as it is")
    annotate.add_argument("--out", required=True, type=Path, help="folder of the annotated copy")
    annotate.add_argument("--backend", choices=("rules", "endpoint"), required=True, help="the simulator's labels, or an OpenAI-compatible endpoint")
    annotate.add_argument("--hint", action="store_true", help="tell the model what was decided and driven")
    annotate.add_argument("--count", type=positive, help="only so many samples, for a trial")
    annotate.add_argument("--shard", type=part, default=(1, 1), metavar="I/N", help="only the I-th of N parts of the drives, one per machine (1/1)")
    annotate.add_argument("--workers", type=positive, default=4, help="requests at a time (%(default)s)")
    annotate.add_argument("--rate", type=_number, default=0.0, help="most requests per minute, 0 for as many as come (0)")
    annotate.add_argument("--attempts", type=positive, default=4, help="tries per sample (%(default)s)")
    annotate.add_argument("--timeout", type=_number, default=120.0, help="seconds per request (%(default)s)")
    annotate.add_argument("--price", type=_prices, metavar="IN,OUT", help="of a million prompt and reply tokens, for the estimate of the cost")
    annotate.add_argument("--cache", type=Path, help=f"folder of replies that were paid for; several runs may share one (OUT/{_CACHE})")
    annotate.add_argument("--estimate", action="store_true", help="only say what it will cost")

    review = command(
        "review",
        "look at annotated samples in a browser, accept or edit them; the data set is changed",
        "example: spanvla data review annotated --count 250\n\nOn a far machine: ssh -L 8400:localhost:8400 it, then open http://localhost:8400/",
    )
    review.add_argument("folder", type=Path)
    review.add_argument("--count", type=positive, help="only so many samples, spread over labels and families")
    review.add_argument("--by", default=None, help="name of the reviewer (the user's)")
    review.add_argument("--port", type=int, default=8400, help="on this machine alone; 0 takes any that is free (%(default)s)")

    agreement = command(
        "agreement",
        "who agrees: annotations with each other, texts with the motion, people with the annotator",
        "example: spanvla data agreement annotated samples --out agreement.json",
    )
    agreement.add_argument("folder", type=Path, help="annotated data set")
    agreement.add_argument("others", type=Path, nargs="*", help="what it came from, or the same samples by other annotators")
    agreement.add_argument("--out", type=Path, help="JSON to write")


def part(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"must be like 1/4 ... 4/4, is '{text}'")
    return int(k), int(n)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, is '{text}'")
    return value


def _prices(text: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"must be like 0.8,2.4, is '{text}'")
    return _number(parts[0]), _number(parts[1])


def annotate(args: argparse.Namespace, progress: Callable[[str, int, int], None]) -> int:
    from spanvla_ros.data import card
    from spanvla_ros.data.annotation import estimate
    from spanvla_ros.data.annotation.annotators import Annotator, Rules
    from spanvla_ros.data.annotation.cache import Cache
    from spanvla_ros.data.annotation.client import Settings
    from spanvla_ros.data.annotation.endpoint import Endpoint
    from spanvla_ros.data.annotation.output import Output
    from spanvla_ros.data.annotation.pace import Pace
    from spanvla_ros.data.annotation.work import Work

    cache = Cache(args.cache or args.out / _CACHE)
    asks = args.backend == "endpoint"
    if not asks and (args.hint or args.price or args.estimate or args.cache):
        raise ConfigError("--hint, --price, --estimate and --cache are for --backend endpoint; rules cost nothing")
    if args.timeout <= 0:
        raise ConfigError("--timeout must be more than 0 s")
    annotator: Annotator = (
        Endpoint(Settings.from_environment(args.timeout), cache, Pace(args.rate), args.hint, args.attempts) if asks else Rules()
    )
    work = Work(args.folder, Output(args.folder, args.out, annotator.identity), args.shard, args.count)
    todo = work.todo
    print(f"{work.total} samples in this part, {len(todo)} to annotate now: {args.out}")
    if asks and todo:
        print(estimate.estimate(work.dataset, todo, cache, args.workers, args.rate, args.price, args.hint), flush=True)
    if args.estimate or not todo:
        return 0
    done, failed, paid, start = 0, [], [0, 0], time.monotonic()
    for outcome in work.run(annotator, args.workers):
        if outcome.answer is None:
            failed.append(outcome)
            print(f"\r{outcome.id}: {outcome.reason}", file=sys.stderr)
        elif not outcome.answer.cached:
            paid = [paid[0] + outcome.answer.prompt_tokens, paid[1] + outcome.answer.reply_tokens]
        done += 1
        left = (len(todo) - done) * (time.monotonic() - start) / done
        spent = f", {estimate.cost(args.price, *paid):.2f} spent" if args.price else ""
        progress(f"{done}/{len(todo)} samples, {len(failed)} failed{spent}, {estimate.duration(left)} left", done, len(todo))
    if len(failed) < done:
        card.write(args.out, card.split_by(args.folder))
    if failed:
        raise DataError(f"{len(failed)} of {len(todo)} samples failed; {args.out / 'failed'} lists them, the same command tries them again")
    return 0


def review(args: argparse.Namespace) -> int:
    from spanvla_ros.data.annotation import review as page
    from spanvla_ros.data.annotation.desk import Desk

    desk = Desk(args.folder, args.count)
    if not 0 <= args.port < 65536:
        raise ConfigError(f"--port {args.port} is not one of 0 to 65535")
    with page.server(desk, args.by or getpass.getuser(), args.port) as server:
        print(f"{len(desk)} samples to review: http://{page.HOST}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    reviewed = sum(row["review"] is not None for row in desk.rows())
    print(f"\n{reviewed} of {len(desk)} samples are reviewed")
    return 0


def agreement(args: argparse.Namespace, write: Callable[[Path, bytes], None]) -> int:
    from spanvla_ros.data.annotation import agreement as figures

    mine = figures.records(args.folder)
    found = {
        "samples": len(mine),
        "text and motion": figures.with_motion(mine.values()),
        "review": figures.reviewed(mine.values()),
        "others": {str(folder): figures.between(mine, figures.records(folder)) for folder in args.others},
    }
    for label, counts in found["text and motion"].items():
        print(f"{label}: the text " + ", ".join(f"{name} {count}" for name, count in counts.items()) + " (with the motion)")
    kept = found["review"]
    if kept["samples"]:
        shares = ", ".join(f"{part} {kept[part]:.1%}" for part in figures.PARTS)
        print(f"reviewed: {kept['samples']} samples, {kept['accepted']:.1%} accepted as they were ({shares})")
    for folder, row in found["others"].items():
        kappas = ", ".join(f"{axis} {row[axis]['equal']:.1%} (kappa {_or_dash(row[axis]['kappa'])})" for axis in figures.AXES)
        rest = f"components {row['components']:.2f}, trace {row['trace']:.1%}"
        print(f"{folder}: {row['samples']} samples in common; decision equal {row['decision']:.1%}: {kappas}; {rest}")
    if args.out:
        write(args.out, json.dumps(found, indent=1).encode())
    return 0


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
