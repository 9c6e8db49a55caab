"""What may not be trained on: the test splits of NAVSIM, by which models are compared with those of others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim import splits


def refuse_tests(names: Iterable[str], where: str) -> None:
    """Raise DataError for the first of `names` (splits, tokens, sample ids, folders) that belongs to a test split."""
    for name in names:
        if splits.is_navsim_test(name):
            raise DataError(f"{where}: '{name}' is of a NAVSIM test split, on which nothing may be trained or chosen; use navtrain")


def check(dataset: Any, folder: Path, split: str) -> Any:
    """`dataset` itself, unless its folder, split, shards or samples are of a test split, or its drives of a test log."""
    where = f"training data {folder}"
    refuse_tests((folder.name, split), where)
    for entry in getattr(dataset, "entries", ()):
        refuse_tests((entry.shard.name, entry.id, entry.split, entry.family, entry.map), where)
        # shards of NAVSIM are called LOG_FRAME
        log = entry.shard.name.split(".jsonl")[0].rpartition("_")[0]
        if splits.is_test_log(log):
            raise DataError(f"{where}: '{entry.id}' is of log {log}, which belongs to NAVSIM's test splits; use navtrain")
    return dataset
