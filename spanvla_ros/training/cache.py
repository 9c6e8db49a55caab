"""Model-ready arrays of a whole data set on disk: decoded, cut, tokenised once; read by memory map in every epoch."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError, ModelSpec
from spanvla_ros.planning import motion, preprocess, prompt
from spanvla_ros.planning import tokenizer as planning_tokenizer
from spanvla_ros.training import lists, targets
from spanvla_ros.workers import spread

VERSION = 3  # of the layout below; part of the hash
CHUNK = 256  # samples; what an interrupted pass repeats at most, per worker
READER = "spanvla_ros.data.shards:Dataset"
IMITATED = ("pos", "rec")  # labels; negatives are no targets
# of the ModelSpec, what shapes the arrays
RELEVANT = (
    "cameras",
    "frame_offsets_s",
    "history_offsets_s",
    "image_size",
    "waypoints",
    "waypoint_interval_s",
    "prompt_version",
    "prompt_tokens",
    "max_reasoning_tokens",
    "patch",
    "merge",
    "temporal_patch",
)


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Memory-mapped arrays of n samples. S = prompt_tokens, A = max_reasoning_tokens + 1.

    images (n, cameras, F, H, W, 3) uint8; ids (n, S) int32, slot (n, S) int16; positions (n, 3, S) int16; length (n,) int16;
    answer (n, A) int32 and answer_length (n,) int16; ego (n, E), base and future (n, T, 3) float32;
    dense (n, tokens, 7) uint8 in 1/240; regression (n, 11) float32, lamp (n,) int8; group, family (n,) int16 index into
    `maps`, `families`; slow (n,) bool.
    """

    path: Path
    sha256: str
    maps: tuple[str, ...]
    families: tuple[str, ...]
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["length"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


def open_reader(folder: Path, split: str, spec: ModelSpec | None, reader: str = READER) -> Any:
    """The data set class named by `reader` (module:class), opened on one split of `folder`: what is to be imitated, as the model
    sees it (None: all that is stored)."""
    module, _, name = reader.partition(":")
    return lists.check(getattr(importlib.import_module(module), name)(folder, split, spec, IMITATED), folder, split)


def cache_hash(data_sha256: str, spec: ModelSpec, tokenizer_path: Path) -> str:
    relevant = {k: v for k, v in spec.to_dict().items() if k in RELEVANT}
    parts = [VERSION, data_sha256, hashlib.sha256(tokenizer_path.read_bytes()).hexdigest(), relevant]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def build(
    folder: Path,
    split: str,
    spec: ModelSpec,
    tokenizer_path: Path,
    root: Path,
    *,
    workers: int = 2,
    reader: str = READER,
    say: Callable[[str], None] = lambda text: None,
) -> Cache:
    """The cache of one split of a data set below `root`, made where missing and continued where a pass was interrupted."""
    dataset = open_reader(folder, split, spec, reader)
    sha256 = cache_hash(dataset.sha256, spec, tokenizer_path)
    path = root / sha256[:16]
    if not (path / "meta.json").exists():
        _fill(path, dataset, spec, tokenizer_path, workers, (str(folder), split, reader), say)
    meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r" if name == "images" else None) for name in meta["arrays"]}
    return Cache(path=path, sha256=sha256, maps=tuple(meta["maps"]), families=tuple(meta["families"]), arrays=arrays)


def _fill(
    path: Path, dataset: Any, spec: ModelSpec, tokenizer_path: Path, workers: int, source: tuple[str, str, str], say: Callable[[str], None]
) -> None:
    count = len(dataset)
    tokenizer = planning_tokenizer.load(tokenizer_path)
    first = convert(dataset[0], spec, tokenizer, "sample 0")
    path.mkdir(parents=True, exist_ok=True)
    layout = {name: (value.dtype, (count, *value.shape)) for name, value in first.items() if name not in ("map", "family_name")}
    for name, (dtype, shape) in layout.items():
        file = path / f"{name}.npy"
        if not file.exists() or np.load(file, mmap_mode="r").shape != shape:
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape).flush()
    names_path = path / "names.jsonl"
    done: dict[int, list[list[str]]] = {}
    if names_path.exists():
        for line in names_path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            done[entry["start"]] = entry["names"]
    starts = [s for s in range(0, count, CHUNK) if s not in done]
    say(f"preprocessing {count} samples into {path}" + (f" ({len(done) * CHUNK} done before)" if done else ""))
    began = time.monotonic()
    chunks, setup = [(s, min(s + CHUNK, count)) for s in starts], (str(path), source, spec.to_dict(), str(tokenizer_path))
    with open(names_path, "a", encoding="utf-8") as file:
        for k, (start, names) in enumerate(_converted(chunks, workers, setup)):
            done[start] = names
            file.write(json.dumps({"start": start, "names": names}) + "\n")
            file.flush()
            if (k + 1) % 10 == 0:
                rate = (k + 1) * CHUNK / (time.monotonic() - began)
                say(f"  {min(count, (k + 1) * CHUNK)}/{len(starts) * CHUNK} samples  {rate:.0f}/s  ETA {(len(starts) - k - 1) * CHUNK / rate:.0f} s")
    pairs = [pair for start in sorted(done) for pair in done[start]]
    maps, families = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    np.save(path / "group.npy", np.array([maps.index(p[0]) for p in pairs], np.int16))
    np.save(path / "family.npy", np.array([families.index(p[1]) for p in pairs], np.int16))
    meta = {"maps": maps, "families": families, "arrays": [*layout, "group", "family"], "spec": spec.to_dict()}
    temporary = path / "meta.tmp"
    temporary.write_text(json.dumps(meta), encoding="utf-8")
    temporary.replace(path / "meta.json")
    say(f"  done in {time.monotonic() - began:.0f} s")


def convert(sample: Any, spec: ModelSpec, tokenizer, where: str) -> dict[str, np.ndarray]:
    """Arrays of one sample; inputs come from the pieces of `planning.preprocess`, `where` only names it in errors."""
    observation = sample.observation
    text = prompt.tensors(spec, tokenizer, prompt.render(spec, observation.history, observation.command))
    answer_ids = tokenizer.encode(prompt.answer(sample.reasoning), add_special_tokens=False).ids
    limit = spec.max_reasoning_tokens + 1
    if len(answer_ids) > limit:
        raise DataError(f"{where}: the reasoning has {len(answer_ids)} tokens, the model takes {limit}: {sample.reasoning!r}")
    future = np.asarray(sample.waypoints(spec), np.float32)
    if future.shape != (spec.waypoints, 3) or not np.isfinite(future).all():
        raise DataError(f"{where}: future must be {(spec.waypoints, 3)} finite numbers, is {future.shape}")
    answer = np.zeros(limit, np.int32)
    answer[: len(answer_ids)] = answer_ids
    return {
        "images": preprocess.model_frames(observation, spec),
        "ids": text["ids"][0].astype(np.int32),
        "slot": text["slot"][0].astype(np.int16),
        "positions": text["positions"][:, 0].astype(np.int16),
        "length": text["length"][0].astype(np.int16),
        "answer": answer,
        "answer_length": np.int16(len(answer_ids)),
        "ego": motion.features(observation.history, observation.command),
        "base": motion.base(observation.history, spec),
        "future": future,
        "dense": targets.dense(sample.cells, spec),
        "regression": targets.regression(sample.fields),
        "lamp": np.int8(targets.lamp(sample.fields)),
        "slow": np.bool_(sample.reasoning != prompt.FAST_TEXT),
        "map": sample.map,
        "family_name": sample.family,
    }


def _converted(chunks: list[tuple[int, int]], workers: int, setup: tuple[Any, ...]) -> Iterator[tuple[int, list[list[str]]]]:
    if workers <= 1:
        return map(partial(_chunk, state=_open(*setup)), chunks)
    return spread(_chunk, chunks, workers, setup=partial(_start, *setup))


_worker: dict[str, Any] = {}


def _start(*setup: Any) -> None:
    import cv2

    cv2.setNumThreads(1)
    _worker.update(_open(*setup))


def _open(path: str, source: tuple[str, str, str], spec: dict[str, Any], tokenizer_path: str) -> dict[str, Any]:
    folder, split, reader = source
    model_spec = ModelSpec.from_dict(spec)
    return {
        "path": Path(path),
        "dataset": open_reader(Path(folder), split, model_spec, reader),
        "spec": model_spec,
        "tokenizer": planning_tokenizer.load(Path(tokenizer_path)),
    }


def _chunk(span: tuple[int, int], state: dict[str, Any] | None = None) -> tuple[int, list[list[str]]]:
    """Convert and store samples [start, stop); returns start and (map, family) of each."""
    (start, stop), state = span, state or _worker
    dataset, names = state["dataset"], []
    rows: dict[str, list[np.ndarray]] = {}
    for i in range(start, stop):
        converted = convert(dataset[i], state["spec"], state["tokenizer"], f"sample {i}")
        names.append([converted.pop("map"), converted.pop("family_name")])
        for name, value in converted.items():
            rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        array = np.lib.format.open_memmap(state["path"] / f"{name}.npy", mode="r+")
        array[start:stop] = np.stack(values)
        array.flush()
    return start, names

