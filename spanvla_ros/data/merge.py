"""Data sets put together, taken apart and rewritten. Pictures and truth are hard-linked where the file system allows it, else copied."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import ConfigError, DataError
from spanvla_ros.data import card
from spanvla_ros.data.check import fingerprint
from spanvla_ros.data.shards import FOLDER, MAPS, Dataset, full

_LINES, _BESIDE = ".jsonl", (".jpegs", ".truth.json")


def merge(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """All drives of `folders` in one new data set; returns its card. DataError for samples that are there twice, under whatever id, for
    drives or maps of one name with different content, and where there is no room."""
    _new(out)
    names: dict[str, Path] = {}
    moments: dict[str, str] = {}
    for folder in folders:
        dataset = Dataset(folder)
        for index, entry in enumerate(dataset.entries):
            moment = fingerprint(dataset.record(index))
            for key in (entry.id, moment):
                if key in moments:
                    raise DataError(f"sample {entry.id} of {folder} is there already: {moments[key]}; leave one of them out")
                moments[key] = f"{entry.id} of {folder}"
        for shard in drives(dataset):
            if shard.name in names:
                raise DataError(f"drive {shard.name.removesuffix(_LINES)} is in {names[shard.name]} and in {folder}; leave one of them out")
            names[shard.name] = folder
    _same_maps(folders)
    for folder in folders:
        dataset = Dataset(folder)
        for shard in drives(dataset):
            copy_drive(shard, out)
        copy_maps(dataset, out)
    # what is weakest anywhere is what the whole can promise
    return card.write(out, max((card.split_by(folder) for folder in folders), key=list(card.KEYS).index))


def split(folder: Path, out: Path, by: str, shares: Mapping[str, float], seed: int = 0) -> dict[str, Any]:
    """The samples of `folder` in a new data set with new splits; returns its card. by: "map", "seed" or "drive", which never lie in two.

    shares: split -> share of the samples, the rest is for training. Who goes where is decided by `seed` and name alone.
    """
    if by not in card.KEYS:
        raise ConfigError(f"data sets are split by {', '.join(card.KEYS)}, not by '{by}'")
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise ConfigError(f"shares must not be negative and leave something for training, they are {dict(shares)}")
    _new(out)
    dataset = Dataset(folder)
    sizes: dict[str, int] = {}
    for entry in dataset.entries:
        sizes[card.KEYS[by](entry)] = sizes.get(card.KEYS[by](entry), 0) + 1
    wanted = {name: share for name, share in shares.items() if share}
    if len(sizes) <= len(wanted):
        raise DataError(f"{folder} has {len(sizes)} different values of {by}, too few for {len(wanted) + 1} splits; split by something finer")
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).hexdigest())
    chosen: dict[str, str] = {}
    for number, (name, share) in enumerate(wanted.items()):
        room = math.ceil(share * len(dataset))
        # one is left for every split to come, and for training
        while room > 0 and len(order) > len(wanted) - number:
            key = order.pop(0)
            chosen[key] = name
            room -= sizes[key]
    rows: dict[Path, list[dict[str, Any]]] = {}
    for index, entry in enumerate(dataset.entries):
        rows.setdefault(entry.shard, []).append({**dataset.record(index), "split": chosen.get(card.KEYS[by](entry), "train")})
    for shard, records in rows.items():
        copy_drive(shard, out, records)
    copy_maps(dataset, out)
    return card.write(out, by)


def drives(dataset: Dataset) -> list[Path]:
    """The shards of a data set, in order."""
    return list(dict.fromkeys(entry.shard for entry in dataset.entries))


def copy_drive(shard: Path, out: Path, records: Iterable[Mapping[str, Any]] | None = None) -> None:
    """A drive into another data set, with other records about the same pictures where they are given. DataError when the disk is full."""
    target = out / FOLDER / shard.name
    stem = shard.name.removesuffix(_LINES)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in _BESIDE:
            if shard.with_name(stem + suffix).exists():
                _link(shard.with_name(stem + suffix), target.with_name(stem + suffix))
        if records is None:
            _link(shard, target)
            return
        part.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records), encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise full(error, target.parent) from None


def copy_maps(dataset: Dataset, out: Path) -> None:
    """The maps of all samples that have one."""
    try:
        for name in sorted({entry.map for entry in dataset.entries if dataset.has_chart(entry.map)}):
            target = out / MAPS / f"{name}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                _link(dataset.folder / MAPS / f"{name}.json", target)
    except OSError as error:
        raise full(error, out) from None


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        part = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(source, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def _same_maps(folders: Sequence[Path]) -> None:
    seen: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        for path in sorted((folder / MAPS).glob("*.json")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if seen.setdefault(path.name, (digest, folder))[0] != digest:
                raise DataError(f"map {path.stem} of {folder} is another one than that of {seen[path.name][1]}; rename one of them")


def _new(out: Path) -> None:
    if (out / FOLDER).exists():
        raise DataError(f"{out} holds a data set already; give a folder that doesn't exist")
