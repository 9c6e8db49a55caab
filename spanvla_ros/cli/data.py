"""`spanvla data`: make and check training samples."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import resources
from pathlib import Path

from spanvla_ros.contracts import ConfigError, DataError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("data", help="make and check training samples", description=__doc__)
    commands = parser.add_subparsers(dest="data_command", required=True)

    sim = commands.add_parser(
        "sim",
        help="drive scenarios in the simulator and write samples",
        epilog="example: spanvla data sim --families all --seeds 0:40 --out samples",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sim.add_argument("--families", default="all", help="comma-separated scenario families, or 'all' (%(default)s)")
    sim.add_argument("--seeds", required=True, help="half-open range A:B or A:B:STEP; 0-4999 are for training, 5000-5999 for validation")
    sim.add_argument("--out", required=True, type=Path, help="folder of the data set; drives that are there already are skipped")
    sim.add_argument("--engine", help="let this engine drive while the expert labels (DAgger) instead of the disturbed expert")
    sim.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")

    check = commands.add_parser("check", help="check a data set against the schema", epilog="example: spanvla data check samples")
    check.add_argument("folder", type=Path)


def run(args: argparse.Namespace) -> int:
    return _sim(args) if args.data_command == "sim" else _check(args)


def _sim(args: argparse.Namespace) -> int:
    from spanvla_ros.data.collect import collect
    from spanvla_ros.sim import scenario as scenarios

    families, seeds = scenarios.parse_families(args.families), scenarios.parse_seeds(args.seeds)
    if seeds[0] < 0 or seeds[-1] >= 6000:
        raise ConfigError(f"--seeds {args.seeds}: samples come from seeds 0-4999 (training) and 5000-5999 (validation); others are for tests")
    total, done, samples, errors, start = len(seeds) * len(families), 0, 0, 0, time.monotonic()
    for drive, count, error in collect(families, seeds, args.out, args.workers, args.engine):
        done, samples, errors = done + 1, samples + count, errors + (error is not None)
        if error:
            print(f"{drive}: {error}", file=sys.stderr)
        if done % 10 == 0 or done == total:
            rate = done / (time.monotonic() - start)
            print(f"{done}/{total} drives, {samples} new samples, {errors} failed, {(total - done) / rate:.0f} s left", flush=True)
    if errors > 0.05 * total:
        raise DataError(f"{errors} of {total} drives failed; the first lines above say why")
    return 0


def _check(args: argparse.Namespace) -> int:
    import jsonschema

    from spanvla_ros.data.shards import Dataset

    schema = json.loads(resources.files("spanvla_ros.data").joinpath("mreasoning_1.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    dataset = Dataset(args.folder)
    errors: list[str] = []
    seen: set[str] = set()
    for index, record in enumerate(dataset.records):
        errors += [f"{record.get('id')}: {'/'.join(map(str, e.path))} {e.message[:120]}" for e in validator.iter_errors(record)]
        if record["id"] in seen:
            errors.append(f"{record['id']}: the id is there twice")
        seen.add(record["id"])
        try:
            dataset[index]
        except (DataError, ValueError) as error:
            errors.append(f"{record['id']}: {error}")
    for line in errors[:20]:
        print(line, file=sys.stderr)
    print(f"{len(dataset)} samples, {len(errors)} errors")
    return 1 if errors else 0
