"""Data card of a data set: what is in it, where it comes from, under which licences. D/card.json for programs, D/card.md for people."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import DataError
from spanvla_ros.data.sample import SCHEMA
from spanvla_ros.data.shards import Dataset, Entry, full

FILE, PAGE = "card.json", "card.md"
# what never lies in two splits, from the safest to the weakest, and the name of a sample's
KEYS: Mapping[str, Callable[[Entry], str]] = {
    "map": lambda entry: entry.map,
    "seed": lambda entry: f"{entry.family} {entry.seed}",
    "drive": lambda entry: entry.shard.name.removesuffix(".jsonl"),
}
_NOT_STATED = "not stated"


def split_by(folder: Path) -> str:
    """What keeps the splits of a data set apart: what its card says, else maps."""
    try:
        card = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "map"
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{folder / FILE} can't be read: {error}") from None
    if card.get("split_by") not in KEYS:
        raise DataError(f"{folder / FILE}: split_by is {card.get('split_by')!r}, known are {', '.join(KEYS)}")
    return card["split_by"]


def write(folder: Path, by: str | None = None) -> dict[str, Any]:
    """Count what is in a data set and write both forms; by: what keeps its splits apart, None as before."""
    card = describe(Dataset(folder), by or split_by(folder))
    try:
        for name, text in ((FILE, json.dumps(card, indent=1) + "\n"), (PAGE, page(card))):
            part = folder / f"{name}.{os.getpid()}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / name)
    except OSError as error:
        raise full(error, folder) from None
    return card


def describe(dataset: Dataset, by: str) -> dict[str, Any]:
    """The card as an object."""
    names = ("split", "label", "family", "source", "generator", "driver", "licence", "annotation", "tag", "camera")
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    skipped: Counter[str] = Counter()
    shards: dict[Path, int] = {}
    for index, entry in enumerate(dataset.entries):
        record = dataset.record(index)
        shards.setdefault(entry.shard, index)
        provenance = record["provenance"]
        for name in ("split", "label", "family"):
            counts[name][record[name]] += 1
        for name in ("source", "generator", "driver"):
            counts[name][provenance[name]] += 1
        for name in ("licence", "annotation"):
            counts[name][provenance.get(name, _NOT_STATED)] += 1
        counts["tag"].update(provenance.get("tags", ()))
        counts["camera"].update(list(record["images"]))
    for index in shards.values():
        skipped.update(dataset.truth(index).get("skipped", {}))
    return {
        "schema": SCHEMA,
        "name": dataset.folder.resolve().name,
        "samples": len(dataset),
        "drives": len(shards),
        "maps": len({entry.map for entry in dataset.entries}),
        "split_by": by,
        "counts": {name: dict(counter.most_common()) for name, counter in counts.items()},
        "left out while reading": dict(skipped.most_common()),
        "sha256": dataset.sha256,
    }


def page(card: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    lines = [
        f"# {card['name']}",
        "",
        f"{card['samples']} samples of {card['drives']} drives on {card['maps']} maps or sites, schema `{card['schema']}`.",
        f"No {card['split_by']} is in two splits. Identity of the records: `{card['sha256']}`.",
    ]
    for title, counter in (*card["counts"].items(), ("left out while reading", card["left out while reading"])):
        if counter:
            lines += ["", f"| {title} | samples |", "|---|---|", *(f"| {name} | {count} |" for name, count in counter.items())]
    return "\n".join(lines) + "\n"
