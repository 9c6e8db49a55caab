"""Small data sets for tests of annotation: several drives, every sample with a number in its instruction."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from test_data_shards import frames, sample

from spanvla_ros.data.sample import to_record
from spanvla_ros.data.shards import ShardWriter, write_map
from spanvla_ros.planning.prompt import reasoning_text


def build(folder: Path, drives: int = 3, each: int = 4) -> list[str]:
    """Writes `drives` shards of `each` samples; returns the ids in order."""
    names = []
    write_map(folder, "town-0", {"areas": []})
    for drive in range(drives):
        with ShardWriter(folder, f"red_{drive:05d}") as shard:
            shard.truth({"map": "town-0", "frames": []})
            for k in range(each):
                number = drive * each + k
                one = sample(f"red_{drive:05d}_{k:04d}", ("pos", "neg", "rec", "pos")[k % 4])
                text = reasoning_text("pedestrian in 5 m, stop.")
                one = dataclasses.replace(one, instruction=f"Turn left, sample {number}.", reasoning=text)
                shard.add(to_record(one), frames(k % 2))
                names.append(one.id)
    return names
